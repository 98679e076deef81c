"""How the repository is run: one notebook with typed parameters (`nbrun`), and all of it (`repro`)."""

import os
import sys

from pipeline import fastimport  # noqa: F401 - before anything here reads a notebook

if sys.argv[0] == "-m":  # a command, whose slow imports are still to come
    from pipeline import stopping

    stopping.catch()
    if "DVC_STAGE" in os.environ:
        stopping.end_with_dvc()
