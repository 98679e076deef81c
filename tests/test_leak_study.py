"""What finding 11 computes, on cases whose answer is known; the law itself is in test_leak_law."""

import math

import numpy as np
import pytest
import torch

import zsnr
from lab.studies import leak, leak_models


def test_the_denoiser_of_the_law_is_the_gaussians():
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    theirs = zsnr.Gaussian(torch.tensor([0.3], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64))
    one = torch.ones(1, dtype=torch.float64)
    assert torch.allclose(leak.gaussian(2 * one, 0.3, one)(x, 0.7), theirs(x, 0.7), atol=1e-12)


def test_nothing_is_lost_at_zero_snr():
    assert leak.lost(0.0, 4096, 0.5) == (0, 1)
    share, left = leak.lost(zsnr.schedule.stable_diffusion().alpha_bar[-1].item(), 4096, 0.5)
    assert share == pytest.approx(0.909, abs=2e-3)
    assert left == pytest.approx(0.417, abs=2e-3)


def test_uniform_levels_come_back_uniform_from_their_own_marginal():
    """From the terminal marginal of training; from pure noise they are narrower, and less so than Gaussian ones."""
    alpha_bar, n = 0.0047, 240
    back = leak.uniform_from(np.linspace(-1, 1, 401), alpha_bar, n)
    assert back.mean() == pytest.approx(0, abs=1e-9)
    assert back.std() * math.sqrt(3) == pytest.approx(1, abs=0.01)
    narrow = leak.uniform_level(leak.QUANTILES, alpha_bar, n).std() * math.sqrt(3)
    gaussian = zsnr.brightness.predicted(alpha_bar, n / 3)[1]
    assert gaussian < narrow < 1


def test_the_slope_of_a_line():
    x = np.array([0.0, 1.0, 4.0])
    assert leak.slope(x, 3 - 2 * x) == pytest.approx(-2)


def test_the_flawed_models_are_those_that_the_law_of_iid_noise_is_for():
    assert leak_models.on_flawed(["base", "control", "offset", "zsnr"]) == ("base", "control")


def test_the_errors_of_the_law_and_of_its_rival_along_all_axes_and_along_the_constant_image():
    z = torch.tensor([[-1.0, -3.0], [1.0, 3.0]], dtype=torch.float64) / math.sqrt(2)  # stds of 1 and 3
    laws = {"base": torch.tensor([0.6, 1.5], dtype=torch.float64)}
    found = leak_models.Directions({"base": z}, laws, torch.tensor([1.25, 2.0], dtype=torch.float64), ("base",))
    assert found.errors("base", axes=slice(1)) == pytest.approx((0.2, 0.2))  # 0.8 against 0.6 and 1
    assert found.errors("base") == pytest.approx((math.sqrt(0.02), math.sqrt((0.04 + 0.25) / 2)))
