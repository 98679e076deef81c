"""Schedules against Table 1 of the paper, against Algorithm 1 as it is printed, and against their own identities."""

import math

import pytest
import torch

import zsnr
from zsnr import Schedule, from_alpha_bar, from_betas, rescale_zero_terminal_snr

# SNR(T) and sqrt(alpha_bar_T), as Table 1 prints them
TABLE_1 = {
    "linear": ("4.035993e-05", "0.006353"),
    "cosine": ("2.428735e-09", "4.928220e-05"),
    "stable_diffusion": ("0.004682", "0.068265"),
}
SCHEDULES = {name: getattr(zsnr.schedule, name)() for name in TABLE_1}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
random_betas = from_betas(torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 3 + 1e-3)


def printed(value: float, like: str) -> str:
    return f"{value:.6e}" if "e" in like else f"{value:.6f}"


def half_a_digit(text: str) -> float:
    mantissa, _, exponent = text.partition("e")
    return 0.5 * 10 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


@pytest.mark.parametrize("name", TABLE_1)
def test_table_1_in_float64(name):
    schedule = SCHEDULES[name]
    for value, text in zip((schedule.terminal_snr, schedule.sqrt_alpha_bar[-1].item()), TABLE_1[name], strict=True):
        assert abs(value - float(text)) <= 2e-5 * float(text) + half_a_digit(text)


@pytest.mark.parametrize("name", TABLE_1)
def test_table_1_to_every_printed_digit_by_the_papers_float32_arithmetic(name):
    alphas = 1 - SCHEDULES[name].betas.float()
    alpha_bar = alphas.double().cumprod(0)[-1].float()
    for value, text in zip((alpha_bar / (1 - alpha_bar), alpha_bar.sqrt()), TABLE_1[name], strict=True):
        assert printed(value.item(), text) == text


def test_equation_10_and_the_first_noise_of_stable_diffusion():
    schedule = SCHEDULES["stable_diffusion"]
    assert f"{schedule.sqrt_alpha_bar[-1]:.6f}, {(1 - schedule.alpha_bar[-1]).sqrt():.6f}" == "0.068265, 0.997667"
    assert f"{(1 - schedule.alpha_bar[0]).sqrt():.4f}" == "0.0292"


def test_linear_and_stable_diffusion_betas_are_the_papers_formulas():
    i = torch.arange(1000, dtype=torch.float64) / 999
    torch.testing.assert_close(SCHEDULES["linear"].betas, 1e-4 * (1 - i) + 0.02 * i, rtol=1e-10, atol=0)
    root = 0.00085**0.5 * (1 - i) + 0.012**0.5 * i
    torch.testing.assert_close(SCHEDULES["stable_diffusion"].betas, root**2, rtol=1e-10, atol=0)


def test_only_the_clip_of_one_beta_keeps_the_cosine_schedule_from_zero_snr():
    clipped, free = zsnr.schedule.cosine(), zsnr.schedule.cosine(max_beta=None)
    assert free.zero_snr
    assert free.terminal_snr == 0.0
    assert free.betas[-1] == 1.0
    changed = (clipped.betas - free.betas).abs() > 1e-9
    assert changed.nonzero().flatten().tolist() == [999]
    assert clipped.betas[-1].item() == pytest.approx(0.999, abs=1e-12)
    assert clipped.betas[-2].item() == pytest.approx(0.75, abs=1e-5)
    assert clipped.alpha_bar[-1].item() == pytest.approx(0.001 * clipped.alpha_bar[-2].item(), rel=1e-12)


def test_cosine_is_its_formula_with_t_over_T():
    f = [math.cos((t / 50 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(50)]
    expected = torch.tensor([*f[1:], 0.0], dtype=torch.float64) / f[0]
    torch.testing.assert_close(zsnr.schedule.cosine(50, max_beta=None).alpha_bar, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "schedule", [*SCHEDULES.values(), zsnr.schedule.linear(2), random_betas], ids=[*SCHEDULES, "two steps", "random"]
)
def test_algorithm_1(schedule):
    before, rescaled = schedule.sqrt_alpha_bar, rescale_zero_terminal_snr(schedule)
    after = rescaled.sqrt_alpha_bar
    assert rescaled.zero_snr
    assert after[-1].item() == 0.0
    assert after[0].item() == pytest.approx(before[0].item(), rel=1e-15)
    assert rescaled.betas[-1].item() == 1.0
    assert rescaled.T == schedule.T
    slope = before[0] / (before[0] - before[-1])
    torch.testing.assert_close(after, slope * (before - before[-1]), rtol=1e-13, atol=0)


def test_algorithm_1_step_by_step_as_printed():
    betas = SCHEDULES["stable_diffusion"].betas
    alphas_bar_sqrt = (1 - betas).cumprod(0).sqrt()
    first, last = alphas_bar_sqrt[0].clone(), alphas_bar_sqrt[-1].clone()
    alphas_bar_sqrt = (alphas_bar_sqrt - last) * first / (first - last)
    alphas_bar = alphas_bar_sqrt**2
    alphas = torch.cat([alphas_bar[0:1], alphas_bar[1:] / alphas_bar[:-1]])
    rescaled = rescale_zero_terminal_snr(SCHEDULES["stable_diffusion"])
    torch.testing.assert_close(rescaled.betas, 1 - alphas, rtol=0, atol=1e-12)
    assert rescaled.betas[-2].item() == pytest.approx(0.75114, abs=5e-6)


@every_schedule
def test_snr_sigma_and_angle_are_one_quantity(schedule):
    for s in (schedule, rescale_zero_terminal_snr(schedule)):
        inner = s.angle[:-1]
        torch.testing.assert_close(s.sigma[:-1], inner.tan(), rtol=1e-9, atol=0)
        torch.testing.assert_close(s.snr[:-1], s.sigma[:-1] ** -2, rtol=1e-12, atol=0)
        torch.testing.assert_close(s.log_snr[:-1], -2 * s.sigma[:-1].log(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(inner.cos(), s.sqrt_alpha_bar[:-1], rtol=1e-9, atol=0)
        torch.testing.assert_close(from_betas(s.betas).sqrt_alpha_bar, s.sqrt_alpha_bar, rtol=1e-9, atol=0)
        torch.testing.assert_close(from_alpha_bar(s.alpha_bar).sqrt_alpha_bar, s.sqrt_alpha_bar, rtol=1e-15, atol=0)
        assert {t.dtype for t in (s.snr, s.log_snr, s.sigma, s.angle, s.betas, s.alpha_bar)} == {torch.float64}
        assert len(s.sqrt_alpha_bar) == s.T == 1000


def test_a_schedule_keeps_its_values_when_the_array_it_came_from_changes():
    table = torch.tensor([0.9, 0.5], dtype=torch.float64)
    schedule = Schedule(table)
    table[0] = 0.1
    assert schedule.sqrt_alpha_bar.tolist() == [0.9, 0.5]


def test_zero_snr_is_exact_in_every_unit():
    schedule = rescale_zero_terminal_snr(SCHEDULES["linear"])
    last = [getattr(schedule, name)[-1].item() for name in ("angle", "snr", "log_snr", "sigma")]
    assert last == [math.pi / 2, 0.0, -math.inf, math.inf]
    assert not SCHEDULES["linear"].zero_snr


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(torch.tensor(0.5)), "shape"),
        (lambda: Schedule(torch.tensor([])), "shape"),
        (lambda: Schedule(torch.ones(3, 2)), "shape"),
        (lambda: Schedule(torch.tensor([0.9, math.nan, 0.1])), "t = 2 is nan"),
        (lambda: Schedule(torch.tensor([1.5, 0.5])), "1.5"),
        (lambda: Schedule(torch.tensor([0.5, -0.5])), "-0.5"),
        (lambda: Schedule(torch.tensor([0.9, 0.1, 0.5])), "rises at t = 3; is the array reversed"),
        (lambda: Schedule(torch.tensor([0.9, 0.0, 0.0])), "zero SNR at t = 2 < T = 3"),
        (lambda: from_betas([0.1, 1.5]), r"\[0, 1\]; got 1.5"),
        (lambda: zsnr.schedule.stable_diffusion(10, -1.0), r"\[0, 1\]; got -1"),
        (lambda: from_betas([0.1, -0.1]), "-0.1"),
        (lambda: from_betas([0.1, math.nan]), "nan"),
        (lambda: from_alpha_bar([0.5, -0.1]), "-0.1"),
        (lambda: from_alpha_bar([0.5, math.nan]), "nan"),
        (lambda: rescale_zero_terminal_snr(from_betas([0.1])), "noise grows"),
        (lambda: rescale_zero_terminal_snr(from_betas([0.1, 0.0])), "noise grows"),
    ],
)
def test_what_is_not_a_schedule_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("zero", [False, True])
def test_a_step_and_its_angle_say_the_same(zero):
    schedule = zsnr.schedule.stable_diffusion()
    schedule = zsnr.rescale_zero_terminal_snr(schedule) if zero else schedule
    angles = schedule.angle.tolist()
    assert [schedule.step_at(a) for a in angles] == list(range(1000))
    assert [schedule.angle_at(t) for t in range(1000)] == angles
    for step in (-1.0, -0.3, 0.25, 500.5, 998.999):
        assert schedule.step_at(schedule.angle_at(step)) == pytest.approx(step, abs=1e-9)
    assert schedule.angle_at(-1.0) == 0.0, "the image"
    assert schedule.angle_at(10.5) == pytest.approx((angles[10] + angles[11]) / 2)
    for step in (-1.1, 999.5, math.nan):
        with pytest.raises(ValueError, match="counted from 0 to 999"):
            schedule.angle_at(step)
    if not zero:
        with pytest.raises(ValueError, match="above the last trained step's"):
            schedule.step_at(math.pi / 2)


@pytest.mark.parametrize("k", [0.25, 1.0, 3.0, 4.0])
def test_a_shift_divides_the_snr(k):
    original = zsnr.schedule.stable_diffusion()
    for schedule in (original, rescale_zero_terminal_snr(original)):
        shifted = schedule.shifted(k)
        torch.testing.assert_close(shifted.snr, schedule.snr / k, rtol=1e-9, atol=0)
        assert shifted.zero_snr == schedule.zero_snr
    with pytest.raises(ValueError, match="a finite number above 0; got -1"):
        schedule.shifted(-1)
