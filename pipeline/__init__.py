"""How the repository is run: one notebook with typed parameters (`nbrun`), and all of it (`repro`)."""

from pipeline import fastimport  # noqa: F401 - before anything here reads a notebook
