"""Paths against Table 1 of EDM and its Eq. 4, written in sigma(t) and s(t) as in the paper."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sampling import ALL as SAMPLERS
from sampling import RIGHT, by_algebra, never, seeded

from lab.models.mixture import Mixture
from lab.models.sde import from_sde
from zsnr.denoisers import Empirical, Gaussian
from zsnr.grids import karras
from zsnr.path import ANGLE, EDM, FLOW, PATHS, VE, VP, vp
from zsnr.samplers import euler, heun, rk45

G, normal = seeded()
SIGMAS = np.geomspace(0.002, 80, 25).tolist()


def vp_table(beta_d: float, beta_min: float):
    """sigma(t), s(t), their derivatives, f(t) and g(t)."""

    def B(t):
        return beta_d * t**2 / 2 + beta_min * t

    def beta(t):
        return beta_d * t + beta_min

    def sigma(t):
        return math.sqrt(math.expm1(B(t)))

    return (
        sigma,
        lambda t: math.exp(-B(t) / 2),
        lambda t: beta(t) * math.exp(B(t)) / (2 * sigma(t)),
        lambda t: -beta(t) / 2 * math.exp(-B(t) / 2),
        lambda t: -beta(t) / 2,
        lambda t: math.sqrt(beta(t)),
    )


TABLE = {
    "angle": (
        math.tan,
        math.cos,
        lambda t: 1 / math.cos(t) ** 2,
        lambda t: -math.sin(t),
        lambda t: -math.tan(t),
        lambda t: math.sqrt(2 * math.tan(t)),
    ),
    "flow": (
        lambda t: t / (1 - t),
        lambda t: 1 - t,
        lambda t: 1 / (1 - t) ** 2,
        lambda t: -1.0,
        lambda t: -1 / (1 - t),
        lambda t: math.sqrt(2 * t / (1 - t)),
    ),
    "EDM": (lambda t: t, lambda t: 1.0, lambda t: 1.0, lambda t: 0.0, lambda t: 0.0, lambda t: math.sqrt(2 * t)),
    "VE": (math.sqrt, lambda t: 1.0, lambda t: 0.5 / math.sqrt(t), lambda t: 0.0, lambda t: 0.0, lambda t: 1.0),
    "VP": vp_table(19.9, 0.1),
    "VP gentle": vp_table(3.0, 0.5),
    "VP constant": vp_table(0.0, 2.0),
    "VP from rest": vp_table(19.9, 0.0),
}
# the time at which each reaches sigma = 100, by its formula
END = {"angle": math.atan(100), "flow": 100 / 101, "EDM": 100.0, "VE": 1e4, "VP": 0.96, "VP gentle": 2.4}
SDES = {name: from_sde(*TABLE[name][4:], END[name], name) for name in END}
CLOSED = PATHS | {"VP gentle": vp(3.0, 0.5), "VP constant": vp(0.0, 2.0), "VP from rest": vp(19.9, 0.0)}
ALL = [(path, TABLE[name]) for name, path in [*CLOSED.items(), *SDES.items()]]
every_path = pytest.mark.parametrize(("path", "table"), ALL, ids=[*CLOSED, *(f"SDE {name}" for name in SDES)])


@every_path
def test_time_and_angle_are_inverses_and_rise(path, table):
    angles = [math.atan(sigma) for sigma in SIGMAS]
    times = [path.time(phi) for phi in angles]
    assert all(np.diff(times) > 0)
    for phi, t in zip(angles, times, strict=True):
        assert path.angle(t) == pytest.approx(phi, rel=1e-10)
        assert path.time(path.angle(t)) == pytest.approx(t, rel=1e-10)


@every_path
def test_sigma_and_s_are_table_1s(path, table):
    """tan(phi) = sigma, n cos(phi) = s, n = s sqrt(1 + sigma^2)."""
    sigma_of, s_of = table[:2]
    for sigma in SIGMAS:
        phi = math.atan(sigma)
        t, p = path.time(phi), path.at(phi)
        assert (p.t, p.phi) == (t, phi)
        assert sigma_of(t) == pytest.approx(sigma, rel=1e-8 if path in SDES.values() else 1e-11)
        assert p.n * math.cos(phi) == pytest.approx(s_of(t), rel=1e-9)


def slope(function, t: float) -> float:
    """Central differences of fourth order."""
    h = 1e-3 * t
    return (8 * (function(t + h) - function(t - h)) - function(t + 2 * h) + function(t - 2 * h)) / (12 * h)


@every_path
def test_the_derivatives_are_those_of_differences(path, table):
    for sigma in np.geomspace(0.002, 70, 15).tolist():
        phi = math.atan(sigma)
        t, p = path.time(phi), path.at(phi)
        assert p.dphi == pytest.approx(slope(path.angle, t), rel=1e-6)
        dn = slope(lambda t: path.at(path.angle(t)).n, t)
        assert p.dn == pytest.approx(dn, rel=1e-6, abs=1e-8 * p.n / t)


MEAN, ROOT = normal(5), normal(5, 5)
COVARIANCE = ROOT @ ROOT.T
GAUSSIAN, X = Gaussian(MEAN, COVARIANCE), normal(4, 5)
denoised = by_algebra(MEAN, COVARIANCE)


@every_path
def test_the_velocity_is_edms_equation_4(path, table):
    r"""dx/dt = s'/s x - s^2 sigma' sigma score,   score = (D(x / s; sigma) - x / s) / (s sigma^2)."""
    _, s_of, dsigma, ds = table[:4]
    for sigma in np.geomspace(0.002, 80, 9).tolist():
        p = path.at(math.atan(sigma))
        t = path.time(p.phi)
        s, x = s_of(t), p.n * X
        score = (denoised(x / s, sigma) - x / s) / (s * sigma**2)
        expected = ds(t) / s * x - s**2 * dsigma(t) * sigma * score
        found = p.dn * X + p.n * p.dphi * GAUSSIAN(X, p.phi)
        scale = (abs(ds(t) / s) * p.n + p.n * p.dphi) * X.norm().item()  # of the terms, which may cancel
        tolerance = 1e-8 if path in SDES.values() else 1e-9
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)


def algorithm_1(x, times, sigma, s, dsigma, ds, order: int) -> torch.Tensor:
    """EDM's Algorithm 1, line by line, from x at times[0] to the level 0 behind the last of them."""

    def d(x, t):
        return (dsigma(t) / sigma(t) + ds(t) / s(t)) * x - dsigma(t) * s(t) / sigma(t) * denoised(x / s(t), sigma(t))

    for t, t_next in pairwise(times):
        d_i = d(x, t)
        x_next = x + (t_next - t) * d_i
        if order == 2:
            d_next = d(x_next, t_next)
            x_next = x + (t_next - t) * (d_i / 2 + d_next / 2)
        x = x_next
    return denoised(x / s(t_next), sigma(t_next))


@every_path
@pytest.mark.parametrize("run", [euler, heun], ids=["euler", "heun"])
def test_heun_is_algorithm_1_and_euler_its_first_half(run, path, table):
    """E-08. Its last Euler step, to t = 0, is to D on the paths with s = 1, sigma = t; so it is here on all of them."""
    sigma, s, dsigma, ds = table[:4]
    grid = karras(12, 0.002, 80)
    times = [path.time(phi) for phi in grid.tolist()[:-1]]
    x = s(times[0]) * math.hypot(1, sigma(times[0])) * X
    expected = algorithm_1(x, times, sigma, s, dsigma, ds, 1 if run is euler else 2)
    scale = expected.norm().item()  # VE's 12 steps are too few, and leave states of 1e5
    torch.testing.assert_close(run(GAUSSIAN, X, grid, path=path), expected, rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("name", TABLE)
def test_the_sde_of_a_path(name):
    """E-50: f = s' / s and g = s sqrt(2 sigma' sigma), which is Song et al.'s beta for VP and 1 for VE."""
    sigma, s, dsigma, ds, f, g = TABLE[name]
    for level in SIGMAS:
        t = CLOSED[name].time(math.atan(level))
        assert f(t) == pytest.approx(ds(t) / s(t), rel=1e-9)
        assert g(t) == pytest.approx(s(t) * math.sqrt(2 * dsigma(t) * sigma(t)), rel=1e-9)


@pytest.mark.parametrize("name", SDES)
def test_the_path_of_an_sde(name):
    """E-50: by quadrature the drift and diffusion give the path back."""
    path, expected = SDES[name], CLOSED[name]
    assert path.sigma_max == pytest.approx(TABLE[name][0](END[name]), rel=1e-9)
    for sigma in SIGMAS:
        phi = math.atan(sigma)
        assert path.time(phi) == pytest.approx(expected.time(phi), rel=1e-8)
        for found, value in zip(path.at(phi), expected.at(phi), strict=True):
            assert found == pytest.approx(value, rel=1e-7, abs=1e-9)


def test_zero_snr_is_an_ordinary_point_of_the_angle_and_the_flow():
    assert tuple(ANGLE.at(RIGHT)) == (RIGHT, RIGHT, 1.0, 1.0, 0.0)
    assert tuple(FLOW.at(RIGHT)) == (1.0, RIGHT, 1.0, 1.0, 1.0)
    for path in (ANGLE, FLOW):
        assert path.angle(path.time(RIGHT)) == RIGHT
        before = path.at(RIGHT - 1e-9)
        assert np.allclose(before, path.at(RIGHT), atol=1e-8), "and is where the limit is"


@pytest.mark.parametrize("path", [EDM, VE, VP, vp(3.0, 0.5), SDES["VP"]], ids=lambda path: path.name)
def test_zero_snr_is_refused_elsewhere_with_a_remedy(path):
    with pytest.raises(ValueError, match=f"the {path.name} path does not reach(.|\n)*integrate along ANGLE or FLOW"):
        path.at(RIGHT)


SHORT = from_sde(*vp_table(19.9, 0.1)[4:], t_max=0.5)


def test_the_end_of_a_path_is_its_last_point():
    sigma_max = vp_table(19.9, 0.1)[0](0.5)
    assert SHORT.sigma_max == pytest.approx(sigma_max, rel=1e-9)
    assert SHORT.time(math.atan(SHORT.sigma_max)) == pytest.approx(0.5, rel=1e-9)
    assert SHORT.at(math.atan(SHORT.sigma_max)).n == pytest.approx(1.0, rel=1e-9)
    with pytest.raises(ValueError, match=rf"ends at sigma = {SHORT.sigma_max:.6g}(.|\n)*or start lower"):
        SHORT.at(math.atan(sigma_max * 1.001))


@pytest.mark.parametrize(
    ("path", "grid", "message"),
    [(path, [RIGHT, 1.0, 0.0], "integrate along ANGLE or FLOW") for path in (EDM, VE, VP)]
    + [(SHORT, karras(5), "ends at sigma")],
    ids=["EDM", "VE", "VP", "its end"],
)
@pytest.mark.parametrize("run", ["euler", "heun", "rk2", "rk45", "churn", "euler_maruyama"])
def test_samplers_refuse_to_start_where_a_path_does_not_reach(run, path, grid, message):
    with pytest.raises(ValueError, match=message):
        SAMPLERS[run](never, X, grid, path=path, generators=G)


@pytest.mark.parametrize(
    ("beta_d", "beta_min"), [(0.0, 0.0), (19.9, -1.0), (-1.0, 1.0), (math.nan, 0.1), (math.inf, 0.1)]
)
def test_betas_for_which_noise_does_not_rise_are_refused(beta_d, beta_min):
    with pytest.raises(ValueError, match=f"got {beta_min} and {beta_d}"):
        vp(beta_d, beta_min)


@pytest.mark.parametrize(("f", "g"), [(math.nan, 1.0), (0.0, math.nan)])
def test_an_sde_that_cannot_be_integrated_is_refused(f, g):
    with pytest.raises(ValueError, match=r"f and g cannot be integrated to t_max = 2\.0"):
        from_sde(lambda t: f, lambda t: g, t_max=2.0)


# E-06: "every realisation of the ODE is a reparameterisation of the same canonical ODE"

START = normal(3, 4)
ROOTS = normal(3, 4, 4)
COMPONENTS = [Gaussian(2 * normal(4), root @ root.T / 4) for root in ROOTS]
DENOISERS = {
    "Gaussian": COMPONENTS[0],
    "mixture": Mixture(COMPONENTS, [0.2, 0.3, 0.5]),
    "empirical": Empirical(normal(5, 4)),
}


@pytest.mark.parametrize("name", DENOISERS)
def test_all_paths_end_in_the_same_image(name):
    denoiser, grid = DENOISERS[name], [math.atan(40.0), math.atan(0.02), 0.0]
    images = {
        path.name: rk45(denoiser, START, grid, path=path, rtol=1e-9, atol=1e-9)
        for path in [*PATHS.values(), SDES["VP"]]
    }
    for image in images.values():
        torch.testing.assert_close(image, images["angle"], rtol=0, atol=1e-6)
    if name == "Gaussian":
        last = denoiser.solve(START, grid[0], grid[1])
        exact = math.cos(grid[1]) * last - math.sin(grid[1]) * denoiser(last, grid[1])
        torch.testing.assert_close(images["angle"], exact, rtol=0, atol=1e-7)
