"""The physics of finding 8, against closed forms."""

import math

import numpy as np
import pytest
import torch

from lab.measure import choose
from lab.studies import noise_levels


def proposal(mean, std):
    return choose.Proposal(0.5, mean, std, 0.002, 80.0, {})


def test_draws_of_a_log_normal_meet_its_closed_forms():
    sigma = np.exp(-1.2 + 1.2 * np.random.default_rng(0).standard_normal(100_000))
    for name, (value, exact, se) in noise_levels.lognormal(sigma).items():
        assert abs(value - exact) < 5 * se, name
    shifted = noise_levels.lognormal(1.1 * sigma)
    assert all(
        abs(v - e) > 5 * se for name, (v, e, se) in shifted.items() if name not in ("std of ln sigma", "P(sigma > 10)")
    )


def test_the_fields_have_the_variances_that_are_said_to_be_exact():
    fields, variances = noise_levels.natural_fields(64)
    assert variances.mean().item() == pytest.approx(0.25)
    assert fields.var().item() == pytest.approx(0.25, rel=0.1)
    constant = fields.mean((1, 2, 3)) * math.sqrt(3 * 32 * 32)  # (1, ..., 1) / sqrt D is the largest direction
    assert constant.var().item() == pytest.approx(variances[0].item(), rel=0.5)


def test_the_ideal_denoiser_of_two_points_weighs_them_by_their_distance():
    points = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
    x, sigma = torch.tensor([0.3]).view(1, 1, 1, 1).double(), torch.tensor([0.7]).double()
    assert noise_levels.ideal_denoiser(points)(x, sigma).item() == pytest.approx(math.tanh(0.3 / 0.7**2))


def test_the_blind_denoiser_is_the_best_of_a_gaussian():
    y, eps = torch.randn(2, 4000, 1, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    D = noise_levels.blind_denoiser(torch.tensor(0.2), 0.5)
    x = 0.2 + 0.5 * y + 2 * eps
    error = (D(x, torch.full((4000,), 2.0)) - 0.2 - 0.5 * y).square().mean().item()
    assert error == pytest.approx(0.25 * 4 / 4.25, rel=0.1)


def test_what_two_densities_share():
    assert noise_levels.overlap(proposal(-1.2, 1.2)) == pytest.approx(1)
    assert noise_levels.overlap(proposal(0, 1), 2, 1) == pytest.approx(math.erfc(1 / math.sqrt(2)), rel=1e-4)


def test_the_ratio_of_two_errors():
    a = torch.rand(3, 40, generator=torch.Generator().manual_seed(0)).double()
    for value, (low, high) in noise_levels.error_ratios({"original": 4 * a, "edm": a}):
        assert (value, low, high) == pytest.approx((2, 2, 2))
