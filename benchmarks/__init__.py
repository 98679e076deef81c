"""zsnr beside its peers, in one run on one machine: what a solver costs without its network, and error by evaluations.

    python -m benchmarks      # one minute; exit status 1 if zsnr misses its budget or a target of accuracy

diffusers comes with the environment. k-diffusion and azula are optional, and skipped with a line where missing:

    pip install --no-deps -r benchmarks/requirements.txt

Never without --no-deps: they declare torchvision and more, which nothing here uses. `--target FOLDER` and
PYTHONPATH=FOLDER leave the environment as it is. benchmarks/results is a record: its errors are the same everywhere,
its timings belong to the machine that it names.
"""
