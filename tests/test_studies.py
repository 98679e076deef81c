"""The physics of the findings, against closed forms."""

import math

import pytest

import zsnr
from lab.studies import offset_noise, terminal_snr


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


def test_the_papers_arithmetic_prints_its_table():
    sd = zsnr.schedule.stable_diffusion()
    printed = terminal_snr.PRINTED["Stable Diffusion"]
    ours = [terminal_snr.as_printed(v, p) for v, p in zip(terminal_snr.terminal_float32(sd), printed, strict=True)]
    assert tuple(ours) == printed
    assert terminal_snr.rounding_excess({"Stable Diffusion": sd}) < 1
    assert terminal_snr.rounding_excess({"Stable Diffusion": zsnr.schedule.linear()}) > 1


def test_algorithm_1_is_a_line_and_scaling_the_snr_is_none():
    sd = zsnr.schedule.stable_diffusion()
    fixed, other = zsnr.rescale_zero_terminal_snr(sd), terminal_snr.scaled_in_snr(sd)
    assert other.terminal_snr == 0
    assert other.sqrt_alpha_bar[0].item() == pytest.approx(sd.sqrt_alpha_bar[0].item())
    assert terminal_snr.off_line(fixed, sd) < 1e-12 < terminal_snr.off_line(other, sd)
    assert terminal_snr.slope_change(fixed, sd) < 0.1 < terminal_snr.slope_change(other, sd)


def test_the_least_losses_are_those_of_the_exact_denoiser():
    """Of N(0, 1), v is 0 whatever x is; so the error of v is its variance, 1, and that of eps is alpha_bar's share."""
    fixed = zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion())
    eps, v = terminal_snr.best_losses(fixed)
    assert v == pytest.approx(1)
    assert eps == pytest.approx(fixed.alpha_bar.numpy())
