"""Exponential Adams-Bashforth from exactly zero SNR: its order, what it solves exactly, how close its default is."""

import math

import pytest
import torch
from sampling import RIGHT, never, seeded, slope

import zsnr
from lab.models.mixture import Mixture
from zsnr.grids import geometric, karras, power, skewed, uniform
from zsnr.multistep import _table
from zsnr.rows import Row, follow

G, normal = seeded()
VARIANCES = torch.tensor([1 / 64, 1 / 16, 1 / 4, 1, 2, 8, 16, 64], dtype=torch.float64)
GAUSSIAN, NOISE = zsnr.Gaussian(normal(8), VARIANCES), normal(4, 8)
STEPS = [1000, 1400, 2000]  # the start, corrected, is better than its order for long


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize(
    ("make", "phi_max"),
    [
        (lambda N, phi_max: power(N, 2.0, phi_max), RIGHT),
        (lambda N, phi_max: skewed(N, rho_noise=2.0, phi_max=phi_max), RIGHT),
        (lambda N, phi_max: skewed(N, rho_noise=2.0, phi_max=phi_max), 1.4),
    ],
    ids=["power", "skewed", "skewed from a finite level"],
)
def test_order_on_grids_that_are_smooth_in_their_index(order, make, phi_max):
    exact = GAUSSIAN.solve(NOISE, phi_max)
    errors = [(zsnr.eab(GAUSSIAN, NOISE, make(N, phi_max), order=order) - exact).norm().item() for N in STEPS]
    assert slope(STEPS, errors) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("N", "percent"), [(10, 0.55), (20, 0.2), (50, 0.02), (100, 0.002)])
def test_the_default_is_this_close_to_gaussian_data(N, percent):
    """Largest error of the standard deviation over data variances from 1/64 to 64."""
    variances = 2 ** torch.linspace(-6, 6, 37, dtype=torch.float64)
    noise = torch.ones(1, 37, dtype=torch.float64)
    images = zsnr.eab(zsnr.Gaussian(torch.zeros(37), variances), noise, skewed(N))[0]
    assert (images / variances.sqrt() - 1).abs().max() < percent / 100


@pytest.mark.parametrize("N", [10, 20, 50])
def test_on_narrow_and_wide_classes_it_is_ahead_of_heun_and_2m(N):
    """Median error against the converged solution, at equal evaluations, each on its own grid."""
    places = torch.tensor([-2.0, 0.1, 0.5, 2.2])[:, None], torch.tensor([0.1, 0.05, 0.3, 0.6])[:, None] ** 2
    mixture, noise = Mixture([zsnr.Gaussian(*place) for place in zip(*places, strict=True)]), normal(200, 1)
    exact = zsnr.eab(mixture, noise, skewed(1000))
    runs = [(zsnr.eab, skewed(N)), (zsnr.dpmpp_2m, geometric(N)), (zsnr.heun, power((N + 1) // 2))]
    ours, *others = [(run(mixture, noise, grid) - exact).abs().median() for run, grid in runs]
    assert ours < 0.8 * min(others)


GRIDS = [uniform(1), uniform(2), skewed(7), skewed(30), skewed(9, phi_max=1.2), geometric(12), karras(8), power(5)]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_frozen_x0_and_eps_is_solved_exactly(grid, order):
    """On any grid: all weights together are the rotation, not a quadrature's estimate of it."""
    x0, eps = normal(2, 4, 8)

    def frozen(x, phi):
        torch.testing.assert_close(x, math.cos(phi) * x0 + math.sin(phi) * eps, rtol=0, atol=1e-12)
        return math.cos(phi) * eps - math.sin(phi) * x0

    start = math.cos(grid[0]) * x0 + math.sin(grid[0]) * eps
    torch.testing.assert_close(zsnr.eab(frozen, start, grid, order=order), x0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", [skewed(12), uniform(12), geometric(12)], ids=["skewed", "uniform", "geometric"])
def test_noise_of_a_network_is_not_amplified(grid):
    """At most three times what Heun makes of it at equal evaluations."""

    def moved(run, grid):
        noisy = torch.Generator().manual_seed(1)

        def denoiser(x, phi):
            return GAUSSIAN(x, phi) + 0.01 * torch.randn(x.shape, generator=noisy, dtype=x.dtype)

        return (run(denoiser, NOISE, grid) - run(GAUSSIAN, NOISE, grid)).norm()

    assert moved(zsnr.eab, grid) < 3 * moved(zsnr.heun, power(6))


def test_a_row_looks_back_as_far_as_it_has_weights():
    seen = []

    def denoiser(x, phi):
        seen.append((x.clone(), phi * x))
        return phi * x

    table = [Row(1.0 / k, 0.5, 0.1, 0.2, 0.3, earlier=((0.4, 0.5), (0.6, 0.7))[: max(k - 2, 0)]) for k in range(1, 6)]
    last = follow(table, denoiser, NOISE)
    weights = [(0.5, 0.1), (0.2, 0.3), (0.4, 0.5), (0.6, 0.7)]
    want = sum(a * x + b * v for (a, b), (x, v) in zip(weights, reversed(seen), strict=False))
    torch.testing.assert_close(last, want, rtol=1e-13, atol=1e-13)
    longest = max(len(row.earlier) for row in _table(tuple(skewed(50).tolist()), 4))
    assert longest == 3  # five calls: four to look back over, and the corrector's


@pytest.mark.parametrize("order", [0, 5, 2.5])
def test_orders_that_there_are_not(order):
    with pytest.raises(ValueError, match=f"order = {order}: 1, 2, 3 or 4"):
        zsnr.eab(never, NOISE, uniform(3), order=order)
