"""The physics of finding 5, on closed forms and on a few small pictures."""

import math

import pytest
import torch

import zsnr
from lab.measure.local_error import frozen, local_errors
from lab.studies import rho_levels, rho_pictures, rho_sweep
from lab.studies.rho_trained import Trained
from zsnr.path import VE


def small_protocol(samples=4):
    """The protocol on random pictures in place of the data."""
    protocol = rho_sweep.Protocol("no data", samples=samples, intervals=16, substeps=20)
    generator = torch.Generator().manual_seed(3)
    pictures = torch.rand(10 * samples, rho_sweep.PIXELS, generator=generator, dtype=torch.float64) * 2 - 1
    protocol.__dict__["pictures"] = pictures  # as cached_property keeps it
    return protocol


def test_the_levels_of_a_rho():
    assert rho_levels.levels(1, 4).numpy() == pytest.approx([80, 60.005, 40.01, 20.015, 0.02])
    for rho in (2, 7):
        sigma = rho_levels.levels(rho, 16)
        assert rho_levels.before(sigma[1:], rho, 16).numpy() == pytest.approx(sigma[:-1].numpy())
    assert rho_levels.above_geometric(10000) == pytest.approx(rho_levels.expansion(10000), rel=1e-2)
    assert rho_levels.unevenness() < 1e-11
    assert rho_levels.longer_steps() == 0


@pytest.mark.parametrize("order", [1, 2])
def test_the_error_of_a_small_step_is_level_at_rho_2_for_euler_and_3_for_heun(order):
    for rho in (1, 2, 3, 7):
        assert rho_levels.slope(rho, order) == pytest.approx(1 - (order + 1) / rho, abs=5e-3)


@pytest.mark.parametrize("order", [1, 2])
def test_no_rho_has_a_smaller_largest_error_than_equal_errors(order):
    least = rho_levels.equal_error(order, 16)
    largest = [rho_levels.errors(rho, 16, order).max().item() for rho in (1, 2, 3, 5, 7)]
    assert least < min(largest) < 3 * least


def test_a_few_coordinates_have_the_errors_of_all_pixels():
    protocol = small_protocol()
    points, noise = protocol.reduced
    known = protocol.pictures[:4]
    few = protocol.rmse(zsnr.Empirical(points), points, noise, 8.0, 6.0, VE)
    full = protocol.rmse(zsnr.Empirical(known), known, protocol.noise, 8.0, 6.0, VE)
    assert points.shape == (4, 5)
    assert few.numpy() == pytest.approx(full.numpy(), rel=1e-9)


def test_curves_cross_where_two_rhos_have_the_same_step():
    """With errors of the frozen law in place of measured ones."""
    found = {
        rho: torch.stack(
            [frozen(rho_levels.before(rho_sweep.SIGMAS, rho, 64), rho_sweep.SIGMAS, order)[:, None] for order in (1, 2)]
        )
        for rho in rho_levels.RHOS
    }
    expected = [rho_levels.same_step(a, b, 64) for a, b in zip((1, 2, 3, 5), (2, 3, 5, 7), strict=True)]
    for measured in rho_sweep.crossings(found):
        assert measured == pytest.approx(expected, rel=0.02)
    assert rho_sweep.against_trend(found) == (0, 0)
    assert [rho_sweep.most_level(found, k) for k in (0, 1)] == [2, 3]


def test_one_state_of_a_gaussian_stands_for_all_data():
    """Its error is the root mean square of those of many samples."""
    smooth = rho_pictures.Smooth(small_protocol())
    phi, psi = math.atan(2.0), math.atan(1.5)
    noise = torch.randn(2000, rho_sweep.PIXELS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    many = local_errors(smooth.gaussian, noise * smooth.typical(phi), phi, psi, substeps=20)
    one = local_errors(smooth.gaussian, smooth.typical(phi), phi, psi, substeps=20)
    for a, b in zip(many, one, strict=True):
        assert a.square().mean().sqrt().item() == pytest.approx(b.item(), rel=0.02)


def test_errors_of_finished_pictures_fall_with_the_steps_and_high_levels_hardly_arrive():
    smooth = rho_pictures.Smooth(small_protocol())
    assert smooth.on_gaussian(7, 64) < smooth.on_gaussian(7, 16) / 4
    assert smooth.descent(7, 64, VE) < smooth.descent(7, 16, VE) / 4
    assert smooth.arrives(10) < smooth.arrives(0.002)


def test_the_best_rho_and_its_interval():
    errors = {3: torch.tensor([2.0, 2.0, 2.0]), 7: torch.tensor([1.0, 1.0, 1.0]), 10: torch.tensor([5.0, 0.5, 0.5])}
    assert rho_pictures.best_rho(errors, rho_pictures.median)[0] == 10
    assert rho_pictures.best_rho(errors) == (7, [7, 10])
    assert rho_pictures.at(0.01, [1.0, 0.1, 0.001], [10.0, 1.0, 0.1]) == pytest.approx(10**-0.5)


def test_the_best_rho_for_inversion_falls_with_the_variance_of_the_data():
    """Large variances are decided at high levels, where a small rho has its short steps."""
    found = list(rho_pictures.by_variance(18, (0.25, 1.0, 16.0)).values())
    assert found == sorted(found, reverse=True)
    assert found[0] > 3 > found[-1]


def test_what_is_compared_of_the_trained_network():
    trained = Trained(
        {1: 9.0, 2: 7.0, 5: 5.05, 10: 5.2, 20: 5.0},
        {rho: (d - 0.3, d + 0.3) for rho, d in {1: 9.0, 2: 7.0, 5: 5.05, 10: 5.2, 20: 5.0}.items()},
        steps=18,
        real=0.4,
    )
    assert trained.best == 20
    assert trained.alike == [5, 20]
    assert trained.middle == pytest.approx({5: 1.01, 10: 1.04})
    gap, interval = trained.gap()
    assert gap == pytest.approx(1.8)
    assert interval == pytest.approx((1.8 - 0.3 * math.sqrt(2), 1.8 + 0.3 * math.sqrt(2)))
