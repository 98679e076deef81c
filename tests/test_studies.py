"""The physics of the findings, against closed forms."""

import math

import pytest

import zsnr
from lab.studies import offset_noise


def test_offset_noise_has_the_variance_of_its_law_along_the_mean():
    assert offset_noise.mean_mode_variance([64, 256]) == pytest.approx([1.64, 3.56], rel=0.04)
    assert offset_noise.mean_mode_variance([64], strength=0) == pytest.approx([1], rel=0.04)


def test_the_law_of_a_direction():
    """Nothing is lost at zero SNR; a flawed schedule loses spread, and moves a bright mean towards grey."""
    level = offset_noise.Direction(pixels=240, mean=0.2, std=0.5)
    assert level.law(0.0) == pytest.approx((1, 0))
    std, bias = level.law(zsnr.schedule.stable_diffusion().alpha_bar[-1].item())
    assert std < 1
    assert -0.2 < bias < 0
    spread, _ = level.law(0.0047, strength=0.1)
    assert spread < level.law(0.0047, strength=0.1, offset_start=True)[0]
    assert math.isclose(level.law(0.0047, strength=0.0, offset_start=True)[0], level.law(0.0047)[0])
