"""The physics of finding 6, against closed forms."""

import math

import numpy as np
import pytest
import torch

import zsnr
from lab.measure.store import Results, Row
from lab.report.claims import claims
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


def swept(error):
    """A sweep of every sampler at 13, 35 and 64 evaluations, whose errors are error(solver, evaluations)."""
    rows = [Row({"study": "real", "n": n}, {"frechet": 1.0, "frechet_interval": (0.9, 1.1)}) for n in (4, 8)]
    for solver, path, steps, alpha in dict.fromkeys(
        [name for panel in design_network.PANELS.values() for name in panel.values()]
        + [design_network.EULER_EDM, design_network.RK2_EDM, design_network.RK45_EDM]
    ):
        for n in (13, 35, 64):
            columns = {"study": "design", "solver": solver, "path": path, "steps": steps, "alpha": alpha, "nfe": n}
            measures = {"evaluations": n, "frechet": 2.0, "frechet_interval": (1.9, 2.1)}
            rows.append(Row(columns, measures, {"error": error(solver, n) * torch.arange(1.0, 5.0)}))
    rows.append(Row({"study": "converged", "n": 4}, {"frechet": 2.0}))
    rows.append(Row({"study": "repeats"}, {"frechet": [2.0, 2.1, 1.9]}))
    for name in ("13", "converged"):
        rows.append(
            Row(
                {"study": "enough", "over": name, "n": 8},
                {"ratio": 1.01, "interval": [1.0, 1.02], "frechet": [2.02, 2.0]},
            )
        )
    return design_network.Network(Results(rows))


def test_a_network_that_follows_the_paper_has_every_error_check_hold():
    network = swept(lambda solver, n: {"heun": 1 / n**2, "rk2": 0.9 / n**2}.get(solver, 1 / n))
    found = {(id, what): (value, band) for id, what, (value, _), band in design_network.error_checks(network)}
    assert {id for id, _ in found} == {"E-10", "E-25", "E-29", "E-30"}
    primary = {(id, c["what"]) for id in ("E-10", "E-25", "E-29") for c in claims()[id]["primary"].values()}
    assert {key for key, (_, band) in found.items() if not band} == set(found) & primary
    assert len(set(found) & primary) == 3
    assert found["E-29", "network: error of Heun at 35 evaluations over Euler's at 64, sigma = t"][0] == pytest.approx(
        64 / 35**2
    )
    assert found["E-10", "network: error at alpha = 1.1 over alpha = 1, 35 evaluations"][0] == pytest.approx(0.9)
    assert design_network.less(network).startswith("0.05")
    assert len(design_network.figure2(network).axes) == 6


def test_whether_the_recommended_steps_are_enough_is_decided_by_the_larger_sets_alone():
    network = swept(lambda solver, n: 1 / n)
    primary = {id: claims()[id]["primary"]["trained"]["what"] for id in ("E-30", "E-35")}
    found = {(id, what): (*value, band) for id, what, value, band in design_network.enough_checks(network)}
    assert found == {
        key: (1.01, (1.0, 1.02), {"note": "8 pictures, distances 2.02 and 2.00; of as many real ones 1.00"})
        for key in primary.items()
    }
    everything = [(id, what) for id, what, *_ in design_network.checks(network)]
    assert all(everything.count(key) == 1 for key in primary.items())


def test_errors_are_compared_latent_by_latent():
    """Paired, a common factor of each latent's error does not widen the interval."""
    a = np.random.default_rng(0).lognormal(sigma=2.0, size=200)
    assert design_network.error_ratio(0.5 * a, a) == (0.5, pytest.approx((0.5, 0.5)))
    value, (low, high) = design_network.error_ratio(a, a[::-1].copy())
    assert value == pytest.approx(1)
    assert low < 0.8 < 1.2 < high
