"""The physics of finding 4: variances of Gaussian data instead of samples, and what is measured of networks."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import zsnr
from lab.measure import known_truth, metrics, sweep
from lab.measure.store import Results, Row
from lab.studies import churn, churn_figures, churn_maruyama, churn_networks, churn_peers, churn_pictures, churn_removed
from zsnr.noise import generators, randn
from zsnr.path import EDM
from zsnr.samplers import GAMMA_MAX


def test_a_path_by_the_coefficients_is_the_librarys():
    """The same noises in the same order."""
    variance, grid, rng = churn.VARIANCES, zsnr.karras(18), generators([3])
    start = randn((1, 4), generators([4]), torch.float64)
    exact = zsnr.Gaussian(torch.zeros(4), variance)
    whole = zsnr.samplers.churn(exact, start, grid, S_churn=4.0, path=EDM, generators=generators([3]))
    x = start[0]
    for phi, psi in pairwise(grid.tolist()):
        a, b = churn.affine(churn.algorithm2(4 / 18), variance, phi, psi)
        x = a * x + b * randn((1, 4), rng, torch.float64)[0]
    assert (x - whole[0]).abs().max() < 1e-9


def test_churn_settles_at_s_noise_with_an_exact_way_back_and_above_it_with_heun():
    signal = torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64)
    assert churn.settled(churn.exactly, signal, GAMMA_MAX, 1.007).numpy() == pytest.approx(1.007, abs=1e-9)
    assert (churn.settled(churn.by_heun, signal, GAMMA_MAX) > 1.005).all()


def test_diffusers_answers_are_those_of_the_exact_denoiser():
    """D = x - sigma eps = c_skip x + c_out F = lambda / (lambda + sigma^2) x."""
    x, variance, sigma, d = torch.ones(1, dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64), 3.0, 0.5
    right = variance / (variance + sigma**2) * x
    c_skip, c_out = d * d / (sigma**2 + d * d), sigma * d / math.hypot(sigma, d)
    assert (x - sigma * churn_peers.eps(x, sigma, variance)).item() == pytest.approx(right.item())
    assert (c_skip * x + c_out * churn_peers.raw(x, sigma, variance)).item() == pytest.approx(right.item())


def test_both_ways_of_asking_add_the_same_noise_to_one_point():
    """Data of variance 0 keep nothing of the network's answer but the noise: b is sigma's share that is fresh."""
    phi, psi = zsnr.karras(8)[2:4].tolist()
    variance = torch.tensor([1e6], dtype=torch.float64)  # the denoiser leaves such data as they are
    noises = [
        churn.affine(churn_maruyama.SAME_NOISE[name](phi, psi), variance, phi, psi)[1].abs().item()
        for name in ("Euler-Maruyama", "Algorithm 2, order 1")
    ]
    assert noises[0] == pytest.approx(noises[1], rel=1e-3)


def test_contrast_detail_and_saturation_of_a_board():
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).expand(1, 1, 2, 2)
    assert sweep.contrast(board).item() == 1
    assert sweep.detail(board).item() == pytest.approx(math.sqrt(8))
    assert sweep.detail(torch.ones(1, 1, 2, 2)).item() == 0
    assert sweep.saturated(torch.tensor([[[[1.03, 1.0], [-1.1, 0.0]]]])).item() == 0.5


def test_a_chain_that_stays_on_its_picture_departs_from_nothing():
    first = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    off = churn_pictures.departure(sweep.contrast, first, [first, first], first)
    assert off.abs().max() < 1e-12
    more = churn_pictures.departure(sweep.contrast, first, [1.1 * first], first)
    assert more.mean().item() == pytest.approx(0.1)


def test_a_network_that_removes_too_much_is_measured_so():
    """On Gaussian data, x - D = 1.02 times the exact one."""
    sigma, excess = np.array([0.1, 0.5, 2.0]), 0.02
    k = 1 - (1 + excess) * sigma**2 / (1 + sigma**2)
    r = (1 - k) ** 2 * (1 + sigma**2) / sigma**2
    network = churn_removed.Removed(sigma, r, (1 - k) ** 2 + k**2 * sigma**2, values=10_000)
    assert network.too_much[0] == pytest.approx(excess)
    assert network.too_much[1][0] < excess < network.too_much[1][1]
    value, ends = churn_removed.restoring((0.21, (0.0, 0.44)))
    assert (value, *ends) == pytest.approx((1.1, 1.0, 1.2))


def test_a_distance_of_features_is_torchmetrics():
    """Whose covariance and root are its own; one classifier is the features' identity."""
    g = torch.Generator().manual_seed(0)
    real, drawn = torch.randn(300, 64, generator=g), 1.3 * torch.randn(200, 64, generator=g) + 0.1
    identity = torch.nn.Identity()
    identity.num_features = 64
    expected = metrics.Frechet(identity, real)(drawn)
    real = real.double()
    assert churn_networks.frechet(drawn.double(), real.mean(0), real.T.cov()) == pytest.approx(expected, rel=1e-4)


def test_a_sweep_has_the_settings_of_table_5_at_its_own_number_of_steps():
    """Their gamma = S_churn / N is that of 256 steps; each range is there with and without S_noise."""
    settings = sweep.churns([7.5, 10.0, 20.0, 26.5], steps=64)
    assert len(settings) == len(set(settings)) == 22
    assert {(s.S_churn / 64, *s[1:]) for s in settings} >= {(s.S_churn / 256, *s[1:]) for s in known_truth.TABLE5}
    crossed = {s[1:] for s in settings if s.S_churn == 20}
    assert crossed >= {(*levels, S_noise) for levels in sweep.TABLE5_RANGES.values() for S_noise in (1.0, 1.007)}


def worth(setting):
    """A distance that tells all settings apart."""
    return setting.S_churn + 100 * setting.S_tmin + 7 * (setting.S_tmax > 50) + 1000 * (setting.S_noise - 1)


@pytest.fixture(scope="module")
def networks():
    """Networks whose distances are `worth`, more by a constant; and what churn in place did to two pictures."""
    base = torch.randn(40, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    base -= base.mean(0)
    known = {"mean": torch.zeros(4, dtype=torch.float64), "covariance": torch.eye(4, dtype=torch.float64)}
    rows = [Row({"study": "reference"}, {}, known), Row({"study": "real", "n": 40}, {"frechet": 1.0})]
    for name in churn_networks.NETWORKS:
        for setting in sweep.churns([7.5, 10.0, 20.0, 26.5], steps=64):
            value = worth(setting)
            measures = {"frechet": value, "frechet_interval": (value - 1, value + 1), "evaluations": 127}
            features = base + torch.tensor([math.sqrt(value), 0, 0, 0])
            rows.append(Row({"study": "churn", "model": name, **setting._asdict()}, measures, {"features": features}))
    for sigma in churn_pictures.LEVELS:
        for S_noise, last in ((1.0, 0.5), (1.007, 0.75)):
            tensors = {
                name: torch.tensor([[1.0, 2.0], [last, 2 * last]]) for name in ("contrast", "detail", "saturated")
            }
            columns = {"study": "in_place", "model": "original", "sigma": sigma, "S_noise": S_noise}
            rows.append(Row(columns, {"iterations": 5}, tensors))
    return churn_networks.Networks(Results(rows))


def test_networks_find_their_settings(networks):
    assert networks.amounts == [7.5, 10.0, 20.0, 26.5]
    assert networks.strong == 20
    assert [s.S_churn for s in networks.table5.values()] == [7.5, 20.0, 20.0, 10.0]
    assert networks.optimum()[0] == 0
    assert [claimed for claimed, *_ in networks.optimum_checks()] == ["E-40", "E-40"]
    assert networks.table()._repr_html_().count("<tr") == 1 + 3 * 9  # ranges by S_noise, and Table 5's third S_noise
    assert len(churn_figures.frechet(networks).axes) == 3


def test_gains_and_costs_are_of_their_settings(networks):
    """No churn is worth 7; VP's setting 15.5; VE's 32, with S_noise = 1 25, at all levels 34 and 27."""
    assert networks.vp_gain("edm")[0] == pytest.approx(7 - 15.5)
    assert [value for value, _ in networks.gains("edm")] == pytest.approx([7 - 15.5, 7 - 32, 7 - 28, 7 - 18])
    assert [value for value, _ in networks.costs(20.0)] == pytest.approx([25 - 32, 34 - 32, 27 - 32])
    assert networks.harm("edm", 10.0)[0] == pytest.approx(10)
    assert networks.most_gain("edm")[0] == pytest.approx(-26.5)


def test_churn_in_place_is_read_picture_by_picture(networks):
    """Halved at S_noise = 1; 1.007 gives a quarter back, of the first 1 and the second 2."""
    changes, added = churn_networks.contrasts(networks)
    assert [value for value, _ in changes] == pytest.approx([-0.5, -0.5])
    assert [value for value, _ in added] == pytest.approx([0.375, 0.375])
    (rise, _), (more, _) = churn_networks.saturation(networks)
    assert (rise, more) == pytest.approx((-0.75, 0.375))
    assert churn_networks.lost_detail(networks, "original")[0] == pytest.approx(-0.5)
    assert (networks.kept, networks.iterations) == (2, 5)


def test_a_difference_of_distances_is_taken_picture_by_picture():
    """Of a set and itself the difference is 0, surely; of a shifted one, the square of the shift."""
    g = torch.Generator().manual_seed(0)
    features = torch.randn(100, 4, generator=g, dtype=torch.float64)
    reference = {"mean": torch.zeros(4, dtype=torch.float64), "covariance": torch.eye(4, dtype=torch.float64)}
    networks = churn_networks.Networks(Results([Row({"study": "reference"}, {}, reference)]))
    near, far = (churn_networks.Distance(0.0, 0.0, features - features.mean(0) + shift) for shift in (0.0, 1.0))
    value, (low, high) = networks.less(far, near)
    assert value == pytest.approx(4)
    assert 3 < low < 4 < high < 5
    assert networks.less(near, near) == (0, (0, 0))
