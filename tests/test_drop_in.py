"""The physics of finding 17, on schedulers whose answer is known."""

import math

import numpy as np
import pytest
import torch

from lab.studies import drop_in


def test_errors_are_those_of_an_affine_picture():
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    means, stds = (x.view(4, 1, 1) for x in (drop_in.MEANS, drop_in.STDS))
    mean, std = drop_in.errors(noise, means + stds * noise)
    assert mean == pytest.approx(np.zeros(4), abs=1e-12)
    assert std == pytest.approx(np.zeros(4), abs=1e-12)
    mean, std = drop_in.errors(noise, means + 0.2 * stds + 1.1 * stds * noise)
    assert mean == pytest.approx(np.full(4, 0.2))
    assert std == pytest.approx(np.full(4, 0.1))


def test_the_drop_in_makes_the_mean_of_the_law():
    mean, std = drop_in.scored(drop_in.methods()["zsnr Heun, power"], 19)
    assert mean.max() < 0.03
    assert std.max() < 0.1


def test_a_scheduler_that_fails_is_nan_and_never_the_nearest():
    method = drop_in.Method(lambda: drop_in.ours(solver="none such"))
    assert np.isnan(drop_in.scored(method, 9)).all()
    std = {"zsnr a": [[0.2, 0.1, 0.1, 0.3]], "b": [[0.1, 0.1, 0.1, 0.4]], "c": [[math.nan] * 4]}
    found = drop_in.Errors([9], {}, {name: np.array(rows) for name, rows in std.items()})
    assert found.nearest("all", 0) == (0.3, "zsnr a")
    assert found.nearest("all", 0, others=True) == (0.4, "b")
    assert found.nearest("std 1/4", 0) == (0.1, "b")
