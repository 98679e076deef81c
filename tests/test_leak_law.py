"""The law of `zsnr.brightness` against the exact solution for Gaussian data, from any start, and the solvers' limit."""

import math

import pytest
import torch

from lab.measure import laws
from zsnr import brightness
from zsnr.denoisers import Gaussian
from zsnr.grids import grid, uniform
from zsnr.prediction import cos_sin
from zsnr.samplers import ddim, heun, rk45
from zsnr.schedule import cosine, linear, rescale_zero_terminal_snr, stable_diffusion

SD = stable_diffusion()
ENDS = {
    "Stable Diffusion": SD,
    "linear": linear(),
    "cosine": cosine(),
    "zero SNR": rescale_zero_terminal_snr(SD),
}
VARIANCES = [0.01, 1.0, 50.0, 1000.0]
MEAN = 1.7


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def solution(phi, variance, mean, nu=1.0):
    """(value at x = 0, slope) of the ODE's exact solution: noise of variance nu is unit noise in units of sqrt(nu)."""
    root = math.sqrt(nu)
    zero, one = root * Gaussian(double(mean / root), double(variance / nu)).solve(double([0.0], [1.0]) / root, phi)
    return zero.item(), (one - zero).item()


def denoiser(variance, mean, nu):
    """E[cos eps - sin x0 | x] along directions of training noise nu, from the two conditional means."""
    variance, mean, nu = double(*variance), double(*mean), double(*nu)

    def v(x, phi):
        c, s = cos_sin(phi)
        residual = (x - c * mean) / (c * c * variance + s * s * nu)
        return c * s * nu * residual - s * (mean + c * variance * residual)

    return v


@pytest.mark.parametrize("schedule", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("nu", [1.0, 11.24])
@pytest.mark.parametrize("start", [(0.0, 1.0, 1.0), (0.0, 0.0, 1.0), (-2.3, 0.7, 1.0), (0.4, 0.0, 11.24)])
def test_any_start_is_the_exact_solution_for_gaussian_data(schedule, variance, nu, start):
    m_mean, m_variance, noise = start
    for step in (schedule.T - 1, schedule.T - 20):  # trailing, and leading with S = 50
        c = schedule.sqrt_alpha_bar[step].item()
        zero, slope = solution(schedule.angle[step].item(), variance, MEAN, nu)
        mean, ratio = brightness.started(c * c, variance, MEAN, m_mean, m_variance, nu, noise)
        assert mean == pytest.approx(zero + slope * c * m_mean, abs=1e-10)
        spread = slope * math.sqrt(c * c * m_variance + (1 - c * c) * noise)
        assert ratio == pytest.approx(spread / math.sqrt(variance), rel=1e-10)
        share, fresh = brightness.kept(c * c, variance, nu, noise)
        assert share == pytest.approx(slope * c, abs=1e-10)
        assert fresh == pytest.approx(slope * math.sqrt((1 - c * c) * noise / variance), rel=1e-10)


@pytest.mark.parametrize("schedule", ENDS.values(), ids=ENDS)
def test_the_law_is_the_limit_of_tight_solvers(schedule):
    """RK45 at a tight tolerance agrees with it to 1e-8, and so does Heun, extrapolated from two step sizes."""
    variance, mean, nu = VARIANCES * 2, [MEAN] * 8, [1.0] * 4 + [1.0 + 0.01 * 784] * 4
    v = denoiser(variance, mean, nu)
    phi = schedule.angle[-1].item()
    c2 = schedule.alpha_bar[-1].item()
    x = double([0.0] * 8, [1.0] * 8)
    zero, one = rk45(v, x, double(phi, 1e-6, 0.0), rtol=1e-11, atol=1e-12)
    law = [brightness.predicted(c2, *each) for each in zip(variance, mean, nu, strict=True)]
    assert torch.allclose(zero, double(*(m for m, _ in law)), rtol=0, atol=1e-8)
    ratio = (one - zero) / double(*variance).sqrt()
    assert torch.allclose(ratio, double(*(r for _, r in law)), rtol=0, atol=1e-8)

    def by_heun(N):
        fine = phi * torch.linspace(1, 0, N + 1, dtype=torch.float64) ** 2  # small steps near the image
        return laws.sampled(heun, fine, 1.5, MEAN)

    coarse, fine = double(by_heun(1000)), double(by_heun(2000))
    assert torch.allclose(fine + (fine - coarse) / 3, double(brightness.predicted(c2, 1.5, MEAN)), rtol=0, atol=1e-8)


@pytest.mark.parametrize("alpha_bar", [0.0, 4e-5, 0.0047, 0.3])
@pytest.mark.parametrize("nu", [1.0, 8.84])
@pytest.mark.parametrize("start", [1.0, 8.84])
def test_pure_noise_is_the_start_that_is_itself_noise(alpha_bar, nu, start):
    plain = brightness.predicted(alpha_bar, 200.0, MEAN, nu, start)
    assert brightness.started(alpha_bar, 200.0, MEAN, 0.0, start, nu, start) == pytest.approx(plain, rel=1e-14)


@pytest.mark.parametrize("nu", [1.0, 8.84])
@pytest.mark.parametrize("alpha_bar", [0.0, 0.0047, 0.5, 0.99])
def test_the_true_marginal_is_carried_to_the_data(alpha_bar, nu):
    mean, ratio = brightness.started(alpha_bar, 200.0, MEAN, MEAN, 200.0, nu, nu)
    assert (mean, ratio) == pytest.approx((MEAN, 1.0), rel=1e-14)
    share, fresh = brightness.kept(alpha_bar, 200.0, nu, nu)
    assert share**2 + fresh**2 == pytest.approx(1.0, rel=1e-14)


def test_zero_snr_is_exact_and_keeps_nothing():
    assert brightness.started(0.0, 200.0, MEAN, 5.0, 3.0) == (MEAN, 1.0)
    assert brightness.kept(0.0, 200.0) == (0.0, 1.0)
    assert brightness.started(0.0, 200.0, MEAN, noise=9.0, nu=4.0) == (MEAN, 1.5)


def test_small_leaks_cost_the_mean_a_root_and_the_std_a_half():
    small = 1e-6
    mean, ratio = brightness.predicted(small, 100.0, MEAN)
    assert 1 - mean / MEAN == pytest.approx(math.sqrt(small * 100), rel=1e-3)
    assert 1 - ratio == pytest.approx(small * 100 / 2, rel=2e-2)


def test_all_directions_together_are_the_solution_with_a_full_covariance():
    g = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=g, dtype=torch.float64)
    covariance, mean = root @ root.T * 20, torch.randn(5, generator=g, dtype=torch.float64)
    c = math.sqrt(0.0047)
    one = Gaussian(mean, covariance)
    x = torch.cat([torch.zeros(1, 5), torch.eye(5)]).double()
    out = one.solve(x, math.acos(c))
    slopes = (out[1:] - out[0]).T
    found = laws.together(c * c, mean, covariance)
    assert torch.allclose(found[0], out[0], atol=1e-10)
    assert torch.allclose(found[1], slopes @ slopes.T, rtol=1e-10)


def test_all_directions_together_with_offset_noise_are_the_limit_of_a_solver():
    """Covariance and noise share no axes here: the denoiser is written with their full matrices."""
    g = torch.Generator().manual_seed(1)
    root = torch.randn(3, 3, generator=g, dtype=torch.float64)
    C, N = root @ root.T * 5, torch.eye(3).double() + 0.8 * torch.ones(3, 3)
    mean = torch.randn(3, generator=g, dtype=torch.float64)

    def v(x, phi):
        c, s = cos_sin(phi)
        residual = torch.linalg.solve(c * c * C + s * s * N, (x - c * mean).T)
        return (c * s * (N - C) @ residual).T - s * mean

    x = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    out = rk45(v, x, double(math.acos(math.sqrt(0.05)), 1e-6, 0.0), rtol=1e-11, atol=1e-12)
    slopes = (out[1:] - out[0]).T
    found = laws.together(0.05, mean, C, N)
    assert torch.allclose(found[0], out[0], atol=1e-8)
    assert torch.allclose(found[1], slopes @ slopes.T, atol=1e-8)


def test_all_directions_together_is_one_directions_law_along_shared_axes():
    variance, nu, mean = double(200.0, 3.0), double(11.24, 1.0), double(MEAN, -1.0)
    out = laws.together(0.0047, mean, variance.diag(), nu.diag())
    for k in range(2):
        law = brightness.predicted(0.0047, variance[k].item(), mean[k].item(), nu[k].item())
        assert out[0][k].item() == pytest.approx(law[0], rel=1e-12)
        assert math.sqrt(out[1][k, k] / variance[k]) == pytest.approx(law[1], rel=1e-12)


def test_a_few_steps_of_ddim_are_not_the_limit():
    """So that agreement above is of solvers, not of a test that could not fail."""
    few = laws.sampled(ddim, grid(SD, 50), 200.0, MEAN)
    assert abs(few[1] - brightness.predicted(SD.alpha_bar[-1].item(), 200.0, MEAN)[1]) > 1e-3
    assert abs(laws.sampled(heun, uniform(50), 200.0)[1] - 1) > 1e-4


@pytest.mark.parametrize("bad", [(1.0, 1.0), (-0.1, 1.0), (0.5, -1.0), (math.nan, 1.0)])
def test_no_leak(bad):
    for law in (brightness.started, brightness.kept, brightness.predicted):
        with pytest.raises(ValueError, match="not a leak"):
            law(*bad)
    with pytest.raises(ValueError, match="not a leak"):
        brightness.started(0.1, 1.0, start_variance=-1.0)
    with pytest.raises(ValueError, match="not a leak"):
        brightness.kept(0.1, 1.0, noise=-1.0)
    with pytest.raises(ValueError, match="not a leak"):
        laws.together(1.0, torch.zeros(1), torch.eye(1))
