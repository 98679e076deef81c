"""zsnr beside its peers, in one run on one machine: error at equal evaluations, and what a step costs.

    python -m benchmarks      # exit status 1 if zsnr misses a target of its own

diffusers comes with the environment. The others are optional, and skipped with a line where missing:

    pip install --no-deps -r benchmarks/requirements.txt

Never without --no-deps: they declare torchvision and more, which nothing here uses. `--target FOLDER` and
PYTHONPATH=FOLDER leave the environment as it is. The trained network is the full profile's: `make repro` restores it;
without it, that test is skipped with a line. Without `--out` it writes benchmarks/results and the excerpt in
docs/samplers.md. Errors are the same everywhere, timings belong to the machine that is named, with the load that it
was under: repeat them alone with `--timings` when it is idle. A run that is stopped goes on where it was, if no code
has changed.

A solver of a peer is one line of its module: name, factory, options.
"""
