"""The second-order family, RK45 and DPM-Solver++ 2M: orders, the papers' formulas, and their promises about state."""

import functools
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sampling import RIGHT, by_algebra, seeded, slope
from scipy.integrate import solve_ivp

from lab.measure.laws import Counted
from lab.models.mixture import Mixture
from zsnr import edm
from zsnr.denoisers import Gaussian
from zsnr.grids import karras, power, uniform
from zsnr.path import ANGLE, EDM, FLOW, PATHS, VE, VP
from zsnr.samplers import ddim, dpmpp_2m, euler, heun, rk2, rk45

G, normal = seeded()

# orders
#
# The last step, to the image, is a rotation whatever the grid, and of first order only. So all grids here end at one
# fixed level before it, LAST: the error is that of the steps before, which the same last map then carries to the image.

LAST = math.atan(0.3)
ROTATION = torch.linalg.qr(normal(4, 4))[0]
VARIANCES = torch.tensor([1 / 16, 1 / 4, 2, 8], dtype=torch.float64)
GAUSSIAN = Gaussian(normal(4), ROTATION @ VARIANCES.diag() @ ROTATION.T)
MIXTURE = Mixture(
    [
        Gaussian(torch.tensor([1.0, 0.5]), torch.tensor([0.5, 2.0])),
        Gaussian(torch.tensor([-0.5, -1.0]), torch.tensor([1.0, 0.25])),
    ],
    [0.4, 0.6],
)
DATA = {"Gaussian": (GAUSSIAN, normal(3, 4)), "mixture": (MIXTURE, normal(6, 2))}
# From sigma = 80 the mixture's errors need 1000 steps to show their order on EDM and VE (alpha = 1/2: 1.74 at 64 steps,
# 1.97 at 1024), so it starts lower.
TOP = {"Gaussian": math.atan(80), "mixture": math.atan(4)}
STEPS = [64, 128, 256]
RUNS = {"euler": euler, "heun": heun} | {
    f"rk2 {a:.3g}": functools.partial(rk2, alpha=a) for a in (1 / 2, 2 / 3, 1, 1.1)
}


def to_image(angles: list[float]) -> torch.Tensor:
    return torch.tensor([*angles, 0.0], dtype=torch.float64)


def rho_steps(N: int, top: float) -> torch.Tensor:
    """EDM's steps from top to LAST, and the last to the image: smooth in their index, and so on every path."""
    return to_image(karras(N + 1, 0.3, math.tan(top)).tolist()[:-1])


def time_steps(N: int, path) -> torch.Tensor:
    """Equal steps in the path's own time, from zero SNR to LAST."""
    times = np.linspace(path.time(RIGHT), path.time(LAST), N + 1)
    return to_image([RIGHT, *(path.angle(t) for t in times[1:-1]), LAST])


def power_steps(N: int, exponent: float = 1.5) -> torch.Tensor:
    """`power` from zero SNR to LAST."""
    u = np.linspace(1, 1 / (1 + math.tan(LAST) ** (-1 / exponent)), N + 1)
    return to_image([RIGHT, *np.arctan2(u[1:-1] ** exponent, (1 - u[1:-1]) ** exponent), LAST])


@functools.cache
def reference(data: str, top: float) -> torch.Tensor:
    denoiser, noise = DATA[data]
    if data == "mixture":
        return rk45(denoiser, noise, to_image([top, LAST]), rtol=1e-11, atol=1e-11)
    x = denoiser.solve(noise, top, LAST)
    return math.cos(LAST) * x - math.sin(LAST) * denoiser(x, LAST)


def errors(run, data: str, grids: list[torch.Tensor]) -> np.ndarray:
    denoiser, noise = DATA[data]
    exact = reference(data, grids[0][0].item())
    return np.array([(run(denoiser, noise, grid) - exact).norm().item() for grid in grids])


def order(run, data: str, grids: list[torch.Tensor]) -> float:
    return slope(STEPS, errors(run, data, grids))


def check_order(found: float, name: str, path, data: str) -> None:
    """First order for Euler, second for all others, but third for the midpoint rule in this case:

    For Gaussian data, x = sqrt(d(t)) along each eigenvector, with d = n^2 (cos^2 L + sin^2) a polynomial of second
    degree in t on EDM, VE and FLOW. The rule's error is h^3 (x'''/24 + a x''/8) for dx/dt = a x, and the third
    derivative of x^2 = d is x x''' + 3 x' x'' = 0, so that x''' = -3 a x'' and the error is 0.
    """
    if name == "rk2 0.5" and data == "Gaussian" and path in (EDM, VE, FLOW):
        assert found == pytest.approx(3, abs=0.1)
    else:
        assert found == pytest.approx(1 if name == "euler" else 2, abs=0.1)


every_run = pytest.mark.parametrize("name", RUNS)
every_data = pytest.mark.parametrize("data", DATA)


@every_data
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@every_run
def test_orders_on_every_path(name, path, data):
    run = functools.partial(RUNS[name], path=path)
    check_order(order(run, data, [rho_steps(N, TOP[data]) for N in STEPS]), name, path, data)


@every_data
@pytest.mark.parametrize("path", [ANGLE, FLOW], ids=["angle", "flow"])
@every_run
def test_orders_from_zero_snr(name, path, data):
    run = functools.partial(RUNS[name], path=path)
    check_order(order(run, data, [time_steps(N, path) for N in STEPS]), name, path, data)


@every_data
@pytest.mark.parametrize("top", ["finite", "zero SNR"])
def test_order_of_dpmpp_2m(top, data):
    grids = [power_steps(N) if top == "zero SNR" else rho_steps(N, TOP[data]) for N in STEPS]
    assert order(dpmpp_2m, data, grids) == pytest.approx(2, abs=0.1)


@every_data
@pytest.mark.parametrize("path", [ANGLE, FLOW], ids=["angle", "flow"])
def test_equal_steps_from_zero_snr_cost_dpmpp_2m_a_logarithm(path, data):
    """Its step is one in ln cot(phi), which grows like ln i there: N^2 error = A + B ln N, not A."""
    steps = [128, 512, 2048]
    first, second, third = errors(dpmpp_2m, data, [time_steps(N, path) for N in steps]) * np.square(steps)
    assert second / first > 1.15
    assert third - second == pytest.approx(second - first, rel=0.1)


@pytest.mark.parametrize("run", [heun, dpmpp_2m], ids=["heun", "dpmpp_2m"])
def test_whole_trajectories_from_zero_snr_to_the_image(run):
    """With the last step, too, on grids whose last level falls with N."""
    denoiser, noise = DATA["Gaussian"]
    exact = denoiser.solve(noise, RIGHT)
    sizes = [40, 80, 160]
    found = [(run(denoiser, noise, power(N)) - exact).norm().item() for N in sizes]
    assert slope(sizes, found) > 1.9
    assert found[-1] < 0.01 * exact.norm()


# the papers' formulas

X = normal(4, 4)
denoised = by_algebra(GAUSSIAN.mean, ROTATION @ VARIANCES.diag() @ ROTATION.T)


def algorithm_3(x: torch.Tensor, t: list[float], alpha: float) -> torch.Tensor:
    """EDM's Algorithm 3, line by line, sigma = t; Algorithm 1 for alpha = 1."""
    for t_i, t_next in pairwise(t):
        h = t_next - t_i
        d = (x - denoised(x, t_i)) / t_i
        x_prime, t_prime = x + alpha * h * d, t_i + alpha * h
        if t_prime > 0 and t_next > 0:
            d_prime = (x_prime - denoised(x_prime, t_prime)) / t_prime
            x = x + h * ((1 - 1 / (2 * alpha)) * d + 1 / (2 * alpha) * d_prime)
        else:
            x = x + h * d
    return x


@pytest.mark.parametrize("rho", [7.0, 2.0])
@pytest.mark.parametrize("alpha", [0.3, 0.5, 2 / 3, 1.0, 1.1, 2.0, 5.0])
def test_rk2_along_edms_path_is_algorithm_3(alpha, rho):
    """Above 1, t' may fall below 0: then the step is Euler's."""
    grid = karras(9, 0.02, 20, rho)
    t = [20 ** (1 / rho) + i / 8 * (0.02 ** (1 / rho) - 20 ** (1 / rho)) for i in range(9)]
    t = [*(u**rho for u in t), 0.0]
    if alpha == 5:
        assert min(a + alpha * (b - a) for a, b in pairwise(t[:-1])) < 0
    found = rk2(GAUSSIAN, X, grid, alpha=alpha, path=EDM)
    expected = algorithm_3(math.hypot(1, 20) * X, t, alpha)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_heun_is_rk2_with_alpha_1():
    for path in PATHS.values():
        assert torch.equal(heun(GAUSSIAN, X, karras(9), path=path), rk2(GAUSSIAN, X, karras(9), alpha=1.0, path=path))


@pytest.mark.parametrize("sigma", [0.01, 1.0, 80.0])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_single_step_to_the_image_is_the_denoised_image(path, sigma):
    """E-12. On EDM's path, t = sigma and s = 1, that is Euler's step; on the others a choice."""
    expected = denoised(X * math.hypot(1, sigma), sigma)
    for run in (euler, heun, rk45, dpmpp_2m, *RUNS.values()):
        arguments = {} if run is dpmpp_2m else {"path": path}
        asked = Counted(GAUSSIAN)
        found = run(asked, X, [math.atan(sigma), 0.0], **arguments)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * (1 + sigma))
        assert asked.calls == 1
    step = EDM.at(math.atan(sigma))
    x, dx = step.n * X, step.dn * X + step.n * step.dphi * GAUSSIAN(X, step.phi)
    torch.testing.assert_close(x - sigma * dx, expected, rtol=0, atol=1e-12 * (1 + sigma))


def test_euler_along_ves_path_is_song_et_als_sampler():
    """E-03, at every level; but the paper's step from the last level to 0 goes half the way, ours to D."""
    grid = edm.column("ve").steps(30)
    sigma = [100 * (0.02 / 100) ** (i / 29) for i in range(30)]
    states = []
    euler(GAUSSIAN, X, grid, path=VE, callback=lambda i, phi, x, v: states.append(x / math.cos(phi)))
    x = math.hypot(1, 100) * X
    for i in range(30):
        torch.testing.assert_close(states[i], x, rtol=1e-10, atol=1e-10)
        score = (denoised(x, sigma[i]) - x) / sigma[i] ** 2
        x = x + (sigma[i] ** 2 - (sigma[i + 1] if i < 29 else 0) ** 2) / 2 * score


@pytest.mark.parametrize("N", [10, 100])
def test_euler_along_edms_path_at_iddpms_levels_is_ddim(N):
    """Euler's method in t = sigma with s = 1, which is Table 1's column for iDDPM."""
    for grid in (edm.column("iddpm").steps(N), edm.column("iddpm", j_0=0).steps(N), karras(N)):
        torch.testing.assert_close(euler(GAUSSIAN, X, grid, path=EDM), ddim(GAUSSIAN, X, grid), rtol=0, atol=1e-11)


def dpm_solver_pp_2m(x: torch.Tensor, sigma: list[float]) -> torch.Tensor:
    """Lu et al. 2022, Algorithm 2, line by line, from x at sigma[0] to the last sigma, with alpha^2 + sigma^2 = 1."""
    alpha_t = [1 / math.hypot(1, s) for s in sigma]
    sigma_t = [s / math.hypot(1, s) for s in sigma]
    lam = [math.log(a / s) for a, s in zip(alpha_t, sigma_t, strict=True)]
    Q = denoised(x / alpha_t[0], sigma[0])
    h = lam[1] - lam[0]
    x = sigma_t[1] / sigma_t[0] * x - alpha_t[1] * math.expm1(-h) * Q
    for i in range(2, len(sigma)):
        h, h_last = lam[i] - lam[i - 1], h
        r = h_last / h
        Q, Q_last = denoised(x / alpha_t[i - 1], sigma[i - 1]), Q
        D = (1 + 1 / (2 * r)) * Q - 1 / (2 * r) * Q_last
        x = sigma_t[i] / sigma_t[i - 1] * x - alpha_t[i] * math.expm1(-h) * D
    return x


@pytest.mark.parametrize("N", [2, 3, 12])
def test_dpmpp_2m_is_its_papers_algorithm_2(N):
    grid, states = karras(N, 0.05, 30), []
    last = dpmpp_2m(GAUSSIAN, X, grid, callback=lambda i, phi, x, v: states.append(x))
    expected = dpm_solver_pp_2m(X, grid.tan().tolist()[:-1])
    torch.testing.assert_close(states[-1], expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(last, denoised(expected * math.hypot(1, 0.05), 0.05), rtol=0, atol=1e-11)


def test_dpmpp_2ms_first_two_steps_from_zero_snr_are_ddims():
    grid, states, other = uniform(6), [], []
    dpmpp_2m(GAUSSIAN, X, grid, callback=lambda i, phi, x, v: states.append(x))
    ddim(GAUSSIAN, X, grid, callback=lambda i, phi, x, v: other.append(x))
    for i in (1, 2):
        torch.testing.assert_close(states[i], other[i], rtol=0, atol=1e-14)
    assert (states[3] - other[3]).abs().max() > 1e-3


@every_run
@pytest.mark.parametrize("N", [1, 2, 10])
def test_evaluations_of_the_second_order_family(N, name):
    for grid, path in ((uniform(N), ANGLE), (power(N), FLOW), (karras(N, 1.0, 3.0), VE)):
        asked = Counted(GAUSSIAN)
        RUNS[name](asked, X, grid, path=path)
        assert asked.calls == (N if name == "euler" else 2 * N - 1)


def test_a_step_of_alpha_above_1_that_would_leave_the_path_is_eulers():
    asked = Counted(GAUSSIAN)
    found = rk2(asked, X, karras(2), alpha=1.1, path=EDM)
    assert asked.calls == 2
    torch.testing.assert_close(found, euler(GAUSSIAN, X, karras(2), path=EDM), rtol=0, atol=1e-12)


# RK45


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_rk45_counts_its_evaluations(path):
    asked, seen = Counted(MIXTURE), []
    rk45(asked, normal(6, 2), karras(18), path=path, callback=lambda *step: seen.append(step))
    assert asked.calls == len(seen) > 30
    assert [i for i, *_ in seen] == list(range(len(seen)))
    assert (seen[0][1], seen[-1][1]) == (karras(18)[0].item(), karras(18)[-2].item())
    inside = [min(max(phi, seen[-1][1]), seen[0][1]) for _, phi, *_ in seen]
    assert [phi for _, phi, *_ in seen] == pytest.approx(inside, rel=1e-9)  # scipy adds up its steps with rounding


@pytest.mark.parametrize("start", [math.atan(80), RIGHT])
@pytest.mark.parametrize("path", [ANGLE, FLOW, EDM, VP], ids=lambda path: path.name)
def test_rk45s_error_falls_with_its_tolerance(path, start):
    if start == RIGHT and not path.zero_snr:
        return
    denoiser, noise = DATA["Gaussian"]
    exact, grid = denoiser.solve(noise, start, 1e-3), [start, 1e-3, 0.0]
    exact = math.cos(1e-3) * exact - math.sin(1e-3) * denoiser(exact, 1e-3)
    found = []
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        x = rk45(denoiser, noise, grid, rtol=tolerance, atol=tolerance, path=path)
        found.append((x - exact).abs().max().item())
        assert found[-1] < 30 * tolerance
    assert all(a > 3 * b for a, b in pairwise(found))


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_rk45_is_scipys_on_the_papers_equation(tolerance):
    """dx/dt = (x - D(x; t)) / t, from t = 80 to .01, then D."""
    calls = []

    def rate(t, y):
        x = torch.from_numpy(y).view_as(X)
        calls.append(t)
        return ((x - denoised(x, t)) / t).flatten().numpy()

    start = (math.hypot(1, 80) * X).flatten().numpy()
    end = solve_ivp(rate, (80.0, 0.01), start, "RK45", rtol=tolerance, atol=tolerance).y[:, -1]
    asked = Counted(GAUSSIAN)
    grid = [math.atan(80), math.atan(0.01), 0.0]
    found = rk45(asked, X, grid, path=EDM, rtol=tolerance, atol=tolerance)
    expected = denoised(torch.from_numpy(end).view_as(X), 0.01)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert asked.calls == len(calls) + 1


def test_rk45_takes_only_the_ends_of_a_grid():
    ends = rk45(GAUSSIAN, X, [RIGHT, 0.1, 0.0])
    assert torch.equal(rk45(GAUSSIAN, X, [RIGHT, 1.0, 0.5, 0.1, 0.0]), ends)


def test_rk45_says_when_it_gives_up():
    def burst(x, phi):
        return 1 / (phi - 0.7) ** 2 * torch.ones_like(x)

    with pytest.raises(ValueError, match=r"RK45 gave up \(.*step size.*\): loosen rtol = 1e-05"):
        rk45(burst, X, [1.0, 0.5, 0.0])


def test_rk45_shows_each_evaluation():
    seen = []
    final = rk45(GAUSSIAN, X, uniform(5), callback=lambda *step: seen.append(step))
    for _, phi, x, v in seen:
        assert torch.equal(v, GAUSSIAN(x, phi))
    torch.testing.assert_close(seen[0][2], X, rtol=0, atol=1e-15)
    torch.testing.assert_close(final, math.cos(phi) * x - math.sin(phi) * v, rtol=0, atol=1e-14)
