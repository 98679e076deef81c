"""The physics of finding 6, against closed forms."""

import math

import numpy as np
import pytest
import torch

import zsnr
from lab.studies import design_curvature, design_exact, design_grids, design_network, design_originals, design_space


def test_the_ode_in_the_angle_is_eq_4():
    assert design_space.rewritten() == 0
    assert design_space.vp_sde() == [0, 0]


def test_edms_network_is_a_v_prediction_network():
    assert design_space.preconditioning() == (0, 0)


@pytest.mark.parametrize("path", [design_space.VP, design_space.VE, design_space.EDM], ids=lambda path: path.name)
def test_table_1_has_the_derivatives_of_its_columns(path):
    h, t = 1e-6, 0.4
    _, dsigma, _, ds = design_space.table1(path.name, t)
    (a, _, s, _), (b, _, r, _) = (design_space.table1(path.name, t + k * h) for k in (-1, 1))
    assert ((b - a) / (2 * h), (r - s) / (2 * h)) == pytest.approx((dsigma, ds), abs=1e-6)
    assert design_space.literal(path) == (pytest.approx(0, abs=1e-12), 35)


def test_songs_vp_sampler_ends_before_time_0_and_leaves_noise():
    song, right, after = design_originals.left_by_vp(64)
    assert after < 1e-9 < right < song


def test_the_denoiser_of_two_points_is_a_tanh():
    x = torch.tensor([[-2.0], [0.1], [3.0]], dtype=torch.float64)
    for p in (0.3, 1.0, 1.5):
        D = math.cos(p) ** 2 * x - math.sin(p) * design_curvature.TWO(math.cos(p) * x, p)
        assert torch.allclose(D, torch.tanh(x / math.tan(p) ** 2), atol=1e-12)


def test_a_line_does_not_deviate_and_a_parabola_by_a_quarter():
    t = np.linspace(0, 1, 101)
    assert design_curvature.deviation(t, 3 * t[:, None] + 1) == pytest.approx(0, abs=1e-12)
    assert design_curvature.deviation(t, t[:, None] ** 2) == pytest.approx(0.25)


def test_evaluations_are_interpolated_in_the_logarithms_and_the_last_crossing_counts():
    curve = np.array([[10, 1.0], [100, 0.01], [1000, 1.0], [10000, 0.01]])
    assert design_exact.needed(curve, 0.1) == pytest.approx(10**3.5)
    assert math.isnan(design_exact.needed(curve, 0.001))


def test_a_curve_without_error_has_no_interval_and_none_above_where_it_still_falls():
    flat = np.array([[8, 2, 2, 2], [16, 1.02, 1.02, 1.02], [32, 1, 1, 1]])
    assert design_network.nfe(flat) == (16, (16, 16))
    assert design_network.nfe(flat[:2]) == (16, (16, math.inf))
    assert design_network.over((6, (4, 8)), (2, (1, 4))) == (3, (1, 8))


def test_from_zero_snr_power_steps_err_least_and_the_stand_in_fails_on_sigma():
    """The bounds are what this project asks of itself."""
    worst = {N: np.abs(design_grids.std_error(zsnr.power(N))).max() for N in (10, 25, 50)}
    assert worst[10] < 0.08
    assert worst[25] < 0.015
    assert worst[50] < 0.004
    trailing = design_grids.trailing
    assert abs(design_grids.std_error(trailing(10))[-1]) < 0.08
    assert design_grids.std_error(trailing(10, 4096.0), design_space.EDM)[-1] > 10
