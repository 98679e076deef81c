"""How the repository is run: one notebook with typed parameters (`nbrun`), and all of it (`repro`)."""
