"""The physics of the findings, against closed forms."""

import math

import diffusers
import pytest
import torch

import zsnr
from lab.measure.evaluation import Cell
from lab.measure.store import Row
from lab.studies import first_step, guidance, loss_weights, offset_noise, sample_steps, terminal_snr


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
    """The cosine row needs float32; float64 has other digits there."""
    sd, cosine = zsnr.schedule.stable_diffusion(), zsnr.schedule.cosine()
    for name, schedule in (("Stable Diffusion", sd), ("cosine", cosine)):
        printed = terminal_snr.PRINTED[name]
        ours = terminal_snr.terminal_float32(schedule)
        assert tuple(map(terminal_snr.as_printed, ours, printed)) == printed
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


def test_table_2_as_the_paper_prints_it():
    assert {spacing: sample_steps.table2(spacing, 10) for spacing in sample_steps.PAPER} == sample_steps.PAPER
    assert [sample_steps.nearest(a, 2) for a in (1, 3, 5, 4)] == [0, 2, 2, 2]


def test_a_white_picture_is_white_at_zero_snr_and_from_T_only():
    fixed = zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion())
    white = sample_steps.white_picture(fixed)
    assert white["closed form"] == pytest.approx((0.9, 1))
    assert white["trailing"][0] == pytest.approx(0.9)
    assert white["leading"][0] < 0.89


def test_the_posterior_is_the_same_by_both_equations_and_finite_by_one():
    """Drawn from x0 and eps, x_(t-1) has the mean and the variance of the step before."""
    fixed = zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion())
    by_eps, by_x0, variance = sample_steps.posterior(fixed)
    assert (by_eps - by_x0)[:, :-1].abs().max() < 1e-12
    assert by_x0[0, 1:].numpy() == pytest.approx(fixed.sqrt_alpha_bar[:-1].numpy(), abs=1e-12)
    assert not by_eps[:, -1].isfinite().any()
    assert (by_x0[1] ** 2 + variance)[1:].numpy() == pytest.approx((1 - fixed.alpha_bar[:-1]).numpy())


def test_a_step_of_euler_has_an_error_of_order_two():
    assert sample_steps.local_order("euler") == pytest.approx(2, abs=0.1)
    assert sample_steps.single_step_error() < 1e-12


def test_the_weights_that_vanish_at_zero_snr():
    assert set(loss_weights.SOURCES) == set(loss_weights.X0_WEIGHTS)
    assert set(loss_weights.ZERO) == {"eps", "min-snr-5", "soft-min-snr-5", "p2", "debiased", "sigmoid"}


def test_the_objective_of_a_constant_is_a_parabola():
    """On one pixel of x0 = 0.5 with noise 1, v = alpha - 0.5 sigma: curvature 1, and slope -2 v at a = 0."""
    schedule = zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion())
    one = torch.ones(2, 1, 1, 1, dtype=torch.float64)
    objective = loss_weights.Objective(schedule, 0.5 * one, one, torch.zeros(2, 2, dtype=torch.long))
    for t in (1, 500, 1000):
        alpha = schedule.sqrt_alpha_bar[t - 1].item()
        assert objective.curvature("v", t) == pytest.approx(1)
        assert objective.gradient("v", t) == pytest.approx(-2 * (alpha - 0.5 * math.sqrt(1 - alpha**2)), rel=1e-6)
    assert objective.gradient("min-snr-5", 1000) == 0


def test_diffusers_weight_vanishes_with_the_snr():
    settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = diffusers.DDPMScheduler(**settings, rescale_betas_zero_snr=True)
    weight = loss_weights.diffusers_weight(scheduler, "v", torch.tensor([999, 0]))
    assert weight[0] == 0
    assert weight[1] == pytest.approx(5 / (1 + (1 - 0.00085) / 0.00085), rel=5e-4)


def test_a_method_that_is_nearer_to_the_truth_gains():
    """On the spread, whose truth is 1: from .5 and .7 to 1.1 in both repeats."""
    found = {"CFG": {7.5: {"spread": [0.5, 0.7]}}, "APG": {7.5: {"spread": [1.1, 1.1]}}}
    value, (low, high) = guidance.gain(found, "spread", ("CFG", 7.5), ("APG", 7.5))
    assert value == pytest.approx((0.4 + 0.2) / 2)
    assert low < value < high
    assert guidance.gain(found, "spread", ("APG", 7.5), ("CFG", 7.5))[0] == pytest.approx(-value)
    assert guidance.text([1.0, 3.0]).startswith("2.000 [")


def test_levels_of_what_was_asked_for_are_means_by_word():
    cell = Cell("control", "trailing", nfe=25)
    made = {"black": [-0.5, -0.7], "white": [0.2, 0.4]}
    rows = {cell.but(prompt=word): Row({}, {}, {"level": torch.tensor(x)}) for word, x in made.items()}
    assert offset_noise.answered(rows, cell) == pytest.approx([-0.6, 0.3])


@pytest.mark.parametrize(("white", "said"), [(0.3, False), (0.8, True)])
def test_where_guidance_hides_the_flaw_it_is_said(white, said):
    """By the level that is farther from its truth, -0.8 or 0.8."""
    remark = offset_noise.hidden([-0.5, 0.4], [-0.8, white])
    assert bool(remark) is said
    assert not said or f"{white:.2f}" in remark


def test_the_change_at_T_is_over_that_at_the_second_step():
    at_T, second = torch.full((20,), 4.0), torch.full((20,), 16.0)
    value, (low, high) = first_step.over_second([at_T, second, torch.ones(20)])
    assert (value, low, high) == pytest.approx((0.5, 0.5, 0.5))
