"""One thread for every test: bits depend on the thread count, and small tensors gain nothing from more."""

import itertools
import os

import pytest
import torch

# for what the tests start, and for this process, which has loaded torch before this line
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture
def saving_always(monkeypatch):
    """A clock by which every step takes long enough for a checkpoint."""
    clock = itertools.count(0, 100)
    monkeypatch.setattr("zsnr.finetune.loop.time.monotonic", lambda: float(next(clock)))
