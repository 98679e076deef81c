"""Algorithm 2 and Euler-Maruyama: the paper's formulas, and exact variances for Gaussian data instead of samples."""

import functools
import math
import re

import pytest
import torch
from sampling import RIGHT, by_algebra, marginal, never, seeded, slope, variances

from zsnr.denoisers import Gaussian
from zsnr.grids import karras, power, uniform
from zsnr.noise import generators, randn
from zsnr.path import ANGLE, EDM, FLOW, PATHS
from zsnr.samplers import GAMMA_MAX, churn, euler, euler_maruyama, gamma, heun, raised

G, normal = seeded()
ALWAYS = 1e9  # S_churn that saturates gamma at every step

ROOT = normal(4, 4)
COVARIANCE = ROOT @ ROOT.T
GAUSSIAN = Gaussian(normal(4), COVARIANCE)
denoised = by_algebra(GAUSSIAN.mean, COVARIANCE)
NOISE = normal(3, 4)
SEEDS = [5, 6, 7]


# Algorithm 2


def algorithm_2(x, t, gens, S_churn, S_tmin, S_tmax, S_noise, order) -> torch.Tensor:
    """EDM's Algorithm 2, line by line; order 1 leaves out its second-order correction."""
    N = len(t) - 1
    for i in range(N):
        g = min(S_churn / N, math.sqrt(2) - 1) if S_tmin <= t[i] <= S_tmax else 0.0
        t_hat, x_hat = t[i], x
        if g > 0:
            eps = S_noise * randn(x.shape, gens, torch.float64)
            t_hat = t[i] + g * t[i]
            x_hat = x + math.sqrt(t_hat**2 - t[i] ** 2) * eps
        d = (x_hat - denoised(x_hat, t_hat)) / t_hat
        x = x_hat + (t[i + 1] - t_hat) * d
        if t[i + 1] != 0 and order == 2:
            d_prime = (x - denoised(x, t[i + 1])) / t[i + 1]
            x = x_hat + (t[i + 1] - t_hat) * (d / 2 + d_prime / 2)
    return x


PARAMETERS = {
    "some": {"S_churn": 4.0},
    "saturated": {"S_churn": ALWAYS},
    "CIFAR-10 VP": {"S_churn": 30.0, "S_tmin": 0.01, "S_tmax": 1.0, "S_noise": 1.007},
    "ImageNet": {"S_churn": 40.0, "S_tmin": 0.05, "S_tmax": 50.0, "S_noise": 1.003},
    "without noise": {"S_churn": 5.0, "S_noise": 0.0},
    "none": {"S_churn": 0.0},
}
every_parameters = pytest.mark.parametrize("parameters", PARAMETERS.values(), ids=PARAMETERS)


@every_parameters
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("N", [1, 2, 18])
def test_churn_along_edms_path_is_algorithm_2(N, order, parameters):
    grid = karras(N)
    t = [(80 ** (1 / 7) + i / max(N - 1, 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(N)]
    found = churn(GAUSSIAN, NOISE, grid, path=EDM, order=order, generators=generators(SEEDS), **parameters)
    arguments = {"S_tmin": 0.0, "S_tmax": math.inf, "S_noise": 1.0} | parameters
    expected = algorithm_2(math.hypot(1, 80) * NOISE, [*t, 0.0], generators(SEEDS), order=order, **arguments)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("N", [1, 9])
def test_churn_of_nothing_is_heun_bit_for_bit(N, path):
    grids = [karras(N)] + ([uniform(N)] if path.zero_snr else [])
    for grid in grids:
        other = heun(GAUSSIAN, NOISE, grid, path=path)
        assert torch.equal(churn(GAUSSIAN, NOISE, grid, S_churn=0.0, path=path), other)
        nowhere = churn(GAUSSIAN, NOISE, grid, S_churn=ALWAYS, S_tmin=81.0, path=path)
        assert torch.equal(nowhere, other), "and needs no generators where no level is in the range"
        first_order = churn(GAUSSIAN, NOISE, grid, S_churn=0.0, order=1, path=path)
        assert torch.equal(first_order, euler(GAUSSIAN, NOISE, grid, path=path))


def test_gamma_and_the_raised_angle():
    """E-09: gamma saturates where the added variance is the variance present."""
    for N in (1, 5, 18, 256):
        for S_churn in (0.0, 0.1, 3.0, N * GAMMA_MAX, 80.0):
            g = gamma(1.0, N, S_churn)
            assert g == min(S_churn / N, math.sqrt(2) - 1)
            assert (1 + g) ** 2 - 1 <= 1 + 1e-15
            for phi in (1e-3, 0.5, 1.5, 1.5707):
                assert math.tan(raised(phi, g)) == pytest.approx((1 + g) * math.tan(phi), rel=1e-10)
    most = GAMMA_MAX * (2 + GAMMA_MAX)
    assert most == pytest.approx(1, abs=1e-15)
    assert raised(0.3, 0.0) == 0.3
    assert gamma(math.atan(2.0), 10, 5.0, 1.9, 2.1) == GAMMA_MAX
    assert gamma(math.atan(2.0), 10, 1.0, 1.9, 2.1) == 0.1
    assert gamma(math.atan(2.0), 10, 1.0, 2.1, 3.0) == gamma(math.atan(2.0), 10, 1.0, 1.0, 1.9) == 0.0
    assert gamma(RIGHT, 10, 5.0) == 0.0, "at zero SNR raising is nothing in law"


def test_the_range_of_churn_includes_its_ends():
    """t_i in [S_tmin, S_tmax] is closed in Algorithm 2, and a grid's own levels are what one writes there."""
    for sigma in (0.002, 0.05, 0.5, 1.0, 10.0, 50.0, 80.0):
        assert gamma(math.atan(sigma), 10, 1.0, S_tmin=sigma, S_tmax=sigma) == 0.1


def test_churn_saturates():
    grid = karras(18)
    runs = [
        churn(GAUSSIAN, NOISE, grid, S_churn=S_churn, generators=generators(SEEDS))
        for S_churn in (18 * (math.sqrt(2) - 1), 8.0, ALWAYS, 18 * (math.sqrt(2) - 1) * 0.99)
    ]
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=1e-12)
    assert torch.equal(runs[1], runs[2])
    assert (runs[0] - runs[3]).abs().max() > 1e-3


def test_the_callback_sees_the_raised_level():
    grid, seen = power(9), []
    arguments = {"S_churn": 1.8, "S_tmin": 0.1, "S_tmax": 5.0}
    last = churn(
        GAUSSIAN, NOISE, grid, **arguments, generators=generators(SEEDS), callback=lambda *step: seen.append(step)
    )
    assert [i for i, *_ in seen] == list(range(9))
    for (_, phi, x, v), level in zip(seen, grid.tolist(), strict=False):
        inside = 0.1 <= math.tan(level) <= 5
        assert math.tan(phi) == pytest.approx(math.tan(level) * (1.2 if inside else 1), rel=1e-12)
        assert torch.equal(v, GAUSSIAN(x, phi)), "what the network was asked for"
    assert 0 < sum(0.1 <= math.tan(level) <= 5 for level in grid.tolist()) < 9
    assert torch.equal(seen[0][2], NOISE)
    torch.testing.assert_close(last, math.cos(phi) * x - math.sin(phi) * v, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("grid", "arguments", "draws"),
    [
        (karras(9), {}, 9),
        (karras(9), {"S_tmax": 50.0}, 8),
        (karras(9), {"S_tmin": 0.01, "S_tmax": 50.0}, 7),
        (karras(9), {"S_tmin": 100.0}, 0),
        (karras(9), {"S_noise": 0.0}, 0),
        (uniform(9), {}, 8),  # not at zero SNR
        (uniform(1), {}, 0),
    ],
)
def test_noise_is_drawn_only_where_gamma_is_above_0(grid, arguments, draws):
    used, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    churn(GAUSSIAN, NOISE, grid, S_churn=3.0, generators=used, **arguments)
    for _ in range(draws):
        randn(NOISE.shape, other, NOISE.dtype)
    assert torch.equal(used.get_state(), other.get_state())


def after_last_step(grid: torch.Tensor, std: float) -> float:
    """Variance of D(x; sigma) for x of the marginal at the grid's last level above 0."""
    sigma = math.tan(grid[-2].item())
    return std**4 / (std**2 + sigma**2)


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("start", ["EDM", "zero SNR", "zero SNR, flow"])
def test_churn_at_every_step_keeps_the_datas_std(start, std, monkeypatch):
    """Where several libraries do not, see below."""
    path = {"EDM": EDM, "zero SNR": ANGLE, "zero SNR, flow": FLOW}[start]
    run = functools.partial(churn, S_churn=ALWAYS, path=path)
    grid = karras(256) if start == "EDM" else power(256)
    assert math.sqrt(variances(run, grid, [std**2], monkeypatch).item()) / std == pytest.approx(1, abs=0.01)


def test_churn_with_euler_steps_loses_some(monkeypatch):
    """peers: correct implementations show .911 to .918 here."""
    run = functools.partial(churn, S_churn=ALWAYS, order=1, path=EDM)
    assert math.sqrt(variances(run, karras(256), [1.0], monkeypatch).item()) == pytest.approx(0.915, abs=0.01)


@pytest.mark.parametrize("S_noise", [1.0, 1.05])
def test_each_step_of_churn_adds_at_most_the_variance_present(S_noise, monkeypatch):
    """Data of one point: all variance is noise's, the steps are exact, and each callback shows what its own added."""
    for grid, path in ((karras(12), EDM), (power(12), FLOW)):
        added = []

        def look(i, phi, x, v, added=added):
            new = x[0, 0].nonzero().flatten()[1:]
            if len(new) > len(added):
                last = x[0, 0, new[-1]] ** 2
                added.append((last / (x.square().sum() - last)).item())

        run = functools.partial(churn, S_churn=ALWAYS, S_noise=S_noise, path=path)
        variances(run, grid, [0.0], monkeypatch, look)
        assert len(added) == (12 if path is EDM else 11)
        assert added[0] == pytest.approx(S_noise**2, abs=1e-12)
        assert max(added) <= S_noise**2 + 1e-12


SIZES = [160, 320, 640]


@pytest.mark.parametrize("std", [0.5, 2.0])
@pytest.mark.parametrize("start", ["EDM", "angle"])
@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
def test_euler_maruyama_converges_at_first_order_in_the_variance(rate, start, std, monkeypatch):
    run = functools.partial(euler_maruyama, rate=rate, path=PATHS[start])
    errors = []
    for N in SIZES:
        grid = karras(N, 0.02) if start == "EDM" else power(N)
        errors.append(variances(run, grid, [std**2], monkeypatch).item() / after_last_step(grid, std) - 1)
    assert slope(SIZES, errors) == pytest.approx(1, abs=0.1)
    assert abs(errors[-1]) < 0.2


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
def test_euler_maruyama_converges_along_the_flow(rate, std, monkeypatch):
    """Its error's first-order term is small there, and 0 for rate 1 and std 1, so that no slope is fitted."""
    run, errors = functools.partial(euler_maruyama, rate=rate, path=FLOW), []
    for N in SIZES:
        errors.append(abs(variances(run, power(N), [std**2], monkeypatch).item() / after_last_step(power(N), std) - 1))
    assert errors[0] > 1.7 * errors[1] > 1.7**2 * errors[2]
    assert errors[2] < 0.003


@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("start", ["EDM", "angle"])
def test_the_marginals_are_stationary_under_the_sde_at_any_rate(start, rate, monkeypatch):
    """E-32: replacing noise leaves the distribution at every level as it was, here between sigma = .1 and 5."""
    run = functools.partial(euler_maruyama, rate=rate, path=PATHS[start])
    worst = []
    for N in SIZES:
        off = []

        def look(i, phi, x, v, off=off):
            if 0.1 < math.tan(phi) < 5:
                off.append(abs(x.square().sum().item() / marginal(phi, 0.25) - 1))

        variances(run, karras(N, 0.02) if start == "EDM" else power(N), [0.25], monkeypatch, look)
        worst.append(max(off))
    assert slope(SIZES, worst) == pytest.approx(1, abs=0.15)
    assert worst[-1] < 0.06


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_euler_maruyama_without_noise_is_euler(path):
    for grid in [karras(9)] + ([uniform(9)] if path.zero_snr else []):
        found = euler_maruyama(GAUSSIAN, NOISE, grid, rate=0.0, path=path)
        expected = euler(GAUSSIAN, NOISE, grid, path=path)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
        outside = euler_maruyama(GAUSSIAN, NOISE, grid, S_tmin=81.0, path=path)
        torch.testing.assert_close(outside, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_euler_maruyama_along_edms_path_is_equation_6(rate):
    """dx = -sigma' sigma score dt + beta sigma^2 score |dt| + sqrt(2 beta |dt|) sigma eps, beta = rate / sigma.

    Rate 1 is the reverse SDE of Song et al.'s VE: dx = 2 sigma score |dsigma| + sqrt(2 sigma |dsigma|) eps.
    """
    grid, states = karras(9, 0.1, 20), []
    euler_maruyama(
        GAUSSIAN, NOISE, grid, rate=rate, path=EDM, generators=generators(SEEDS),
        callback=lambda i, phi, x, v: states.append(x / math.cos(phi)),
    )  # fmt: skip
    t, gens, x = grid.tan().tolist(), generators(SEEDS), math.hypot(1, 20) * NOISE
    for i in range(8):
        torch.testing.assert_close(states[i], x, rtol=1e-10, atol=1e-10)
        score, dt, beta = (denoised(x, t[i]) - x) / t[i] ** 2, t[i] - t[i + 1], rate / t[i]
        x = x + (t[i] + beta * t[i] ** 2) * score * dt
        x = x + math.sqrt(2 * beta * dt) * t[i] * randn(x.shape, gens, torch.float64)


@pytest.mark.parametrize("kept", [1.0, 0.3], ids=["stable", "beyond"])
@pytest.mark.parametrize("rate", [0.25, 0.5, 1.0, 2.0])
def test_euler_maruyama_beyond_its_stable_step_is_refused(rate, kept):
    """From any sigma: steps that take 1 / (1 + rate) of it are taken; larger ones leave the noise named."""
    sigma, left = [1e6], 0.0
    while sigma[-1] > 0.01:
        a, b = sigma[-1], sigma[-1] * kept * rate / (1 + rate)
        sigma.append(b)
        left = math.hypot((1 - (1 + rate) * (a - b) / a) * left, math.sqrt(2 * rate * (a - b) / a) * a)
    left /= math.hypot(1, b)
    grid = [*map(math.atan, sigma), 0.0]
    run = functools.partial(euler_maruyama, rate=rate, path=EDM, generators=G)
    if kept == 1:
        assert left < 5
        assert run(GAUSSIAN, NOISE, grid).std() < 10
    else:
        message = f"noise of std {left:.3g} would be left: at rate = {rate}, a step may take 1 / (1 + rate) = "
        with pytest.raises(ValueError, match=re.escape(message + f"{1 / (1 + rate):.3g} of sigma")):
            run(never, NOISE, grid)


def test_few_steps_of_euler_maruyama_from_a_high_level_are_refused():
    with pytest.raises(ValueError, match=r"noise of std 5\.14e\+03 would be left"):
        euler_maruyama(never, NOISE, karras(5, sigma_max=1e4), generators=G)


# where peers are wrong


def peers_std(module, scheduler, network, monkeypatch) -> float:
    """The std of a diffusers scheduler's output for data N(0, 1), by the same recursion: its steps are linear, too."""
    N = 256
    sigmas = [*karras(N).tan().tolist()[:-1], 0.0]
    scheduler.set_timesteps(N)
    scheduler.sigmas = torch.tensor(sigmas)
    source = iter(range(1, N + 1))

    def unit(shape, *_, dtype, **__):
        return torch.zeros(shape, dtype=dtype).index_fill_(-1, torch.tensor([next(source)]), 1)

    monkeypatch.setattr(module, "randn_tensor", unit)
    x = torch.zeros(1, N + 1)
    x[:, 0] = math.hypot(1, 80)
    for i, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)  # without which it warns
        x = scheduler.step(network(x, sigmas[i]), t, x, s_churn=ALWAYS).prev_sample
    return x.double().square().sum().sqrt().item()


def says_eps(x, sigma):
    """(x - D) / sigma for data of std 1."""
    return sigma / (sigma**2 + 1) * x


def says_F(x, sigma):
    """F with c_skip x + c_out F = D at sigma_data = .5, for data of std 1."""
    c_skip, c_out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / math.sqrt(sigma**2 + 0.25)
    return (x / (sigma**2 + 1) - c_skip * x) / c_out


@pytest.mark.parametrize(
    ("module", "name", "arguments", "network", "expected"),
    [
        ("euler_discrete", "EulerDiscreteScheduler", {}, says_eps, 1.10),  # too much
        ("edm_euler", "EDMEulerScheduler", {"sigma_data": 0.5}, says_F, 0.71),  # too little
    ],
)
def test_diffusers_with_churn_makes_the_wrong_variance(module, name, arguments, network, expected, monkeypatch):
    """They add the noise after the network saw the state without it, and step as if the network had seen it.

    EDMEuler's answer is weighed by c_skip and c_out of the level that the network was not asked at, too.
    """
    module = pytest.importorskip(f"diffusers.schedulers.scheduling_{module}")
    std = peers_std(module, getattr(module, name)(**arguments), network, monkeypatch)
    assert std == pytest.approx(expected, abs=0.02)


def test_noise_without_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"is one number: give \(B, ...\)"):
        churn(never, torch.tensor(1.0), uniform(2), S_churn=1.0, generators=torch.Generator())
