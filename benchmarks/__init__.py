"""zsnr beside its peers, in one run on one machine: the cost of a solver without its network, and error by evaluations.

    python -m benchmarks             # about two minutes; exit status 1 if zsnr misses its budget or a target

diffusers comes with the environment. k-diffusion and azula are optional, and skipped with a line where they are missing:

    pip install --no-deps -r benchmarks/requirements.txt

Never without --no-deps: they declare torchvision and more, which nothing here uses. To leave the environment as it is,
add `--target FOLDER` and set PYTHONPATH=FOLDER. The results are kept in benchmarks/results as a record: errors are the
same everywhere, timings belong to the machine that the tables name.

`method` is what a library offers here, `problem` the data; `ours`, `peer_*` are the libraries; `overhead`, `errors`
measure; `report` writes tables and the figure.
"""
