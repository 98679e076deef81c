# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Heun against churn: when fresh noise helps
#
# **Claim** (Karras et al. 2022, Sec. 4, Algorithm 2, App. E, Figures 4, 5, 14, 15; Tables 4, 5). Replacing noise on the way down keeps
# every marginal and so heals the errors of earlier steps; but each step brings errors of its own. With an exact denoiser churn does no harm,
# with a trained one too much of it loses detail and shifts colours. Networks that were trained the original way gain from it,
# EDM's own on CIFAR-10 lose. A trained denoiser removes slightly too much noise, which $S_\text{noise}$ slightly above 1 makes up for.
#
# It would be wrong if churn changed the statistics of an exact denoiser's pictures, if networks that were trained the original way did not
# gain from it, or if trained networks removed as much variance as an exact denoiser does.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
points = 256
chains = 64
iterations = 300
repeats = 10
out_dir = ""

# %%
import math
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import EDMEulerScheduler, EulerDiscreteScheduler
from matplotlib.ticker import NullLocator
from scipy import stats

import zsnr
from lab import ROOT
from lab.measure import sweep
from lab.measure.metrics import interval
from lab.measure.store import load
from lab.models import data
from lab.models.mixture import Mixture
from lab.report import claims, figures
from zsnr import samplers
from zsnr.finetune import loop
from zsnr.noise import generators, randn
from zsnr.path import ANGLE, EDM, VP
from zsnr.samplers import GAMMA_MAX, gamma, raised

torch.set_num_threads(1)
figures.style()
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
found = []
RIGHT = math.pi / 2

# %% [markdown]
# ## Algorithm 2's amount of noise
#
# A step first raises $\sigma_i$ to $(1 + \gamma_i) \sigma_i$, $\gamma_i = \min(S_\text{churn} / N, \sqrt 2 - 1)$ within $[S_\text{tmin}, S_\text{tmax}]$. At the clamp the added variance,
# $(1 + \gamma)^2 - 1$ of the variance present, is all of it, so half of the noise after it is fresh. $\gamma$ saturates at $S_\text{churn} = N (\sqrt 2 - 1)$.

# %%
amounts = (0, 5, 10, 20, 30, 40, 80, 100)
lengths = (18, 64, 192, 256, 384)
print("gamma".ljust(8) + "".join(f"S_churn {S:<4d}" for S in amounts) + "saturates at")
for N in lengths:
    row = "".join(f"{gamma(1.0, N, S):<12.4f}" for S in amounts)
    print(f"N = {N:<4d}{row}{N * GAMMA_MAX:.2f}")
wrong = sum(gamma(1.0, N, S) != min(S / N, math.sqrt(2) - 1) for N in lengths for S in amounts)
added = max((1 + gamma(1.0, N, S)) ** 2 - 1 for N in lengths for S in amounts)
outside = [gamma(math.atan(sigma), 18, 40, 0.05, 50.0) for sigma in (0.0499, 50.1)]
below, above = (gamma(1.0, 256, 256 * GAMMA_MAX * f) for f in (0.999, 1.001))
print(f"largest added variance over the variance present: {added:.12f}; outside [S_tmin, S_tmax]: {outside}")
found += [
    claims.measure("E-09", "values of gamma that differ from min(S_churn / N, sqrt 2 - 1)", wrong),
    claims.measure("E-09", "gamma outside [S_tmin, S_tmax]", outside, equal=0.0),
    claims.measure("E-09", "largest added variance over the variance present", added, equal=1.0, abs=1e-12),
    claims.measure("E-09", "gamma at 1.001 N (sqrt 2 - 1) over the clamp", above / GAMMA_MAX, equal=1.0, abs=1e-12),
    claims.measure("E-09", "and at .999 of it", below / GAMMA_MAX, equal=0.999, abs=1e-12),
]

# %% [markdown]
# Table 5's settings at $N = 256$, on the levels of each network's range. Noise that is there before a churned step and its way back keeps a
# share $(1 + \gamma)^{-2}$ of the variance; the last column is what survives of the noise that entered the range.

# %%
table5 = {
    "CIFAR-10 VP": (30, 0.01, 1.0, 1.007, 0.002, 80.0),
    "CIFAR-10 VE": (80, 0.05, 1.0, 1.007, 0.02, 80.0),
    "ImageNet-64, pre-trained": (80, 0.05, 50.0, 1.003, 0.0064, 80.0),
    "ImageNet-64, EDM": (40, 0.05, 50.0, 1.003, 0.002, 80.0),
}
print(
    f"{'':26s}{'S_churn':>8s}{'range':>14s}{'S_noise':>9s}{'gamma':>8s}{'steps':>7s}{'added':>8s}{'replaced':>10s}{'of it survives':>16s}"
)
shares = {}
for name, (S, low, high, S_noise, bottom, top) in table5.items():
    gammas = [gamma(phi, 256, S, low, high) for phi in zsnr.karras(256, bottom, top)[:-1].tolist()]
    churned, g = sum(g > 0 for g in gammas), max(gammas)
    shares[name] = 1 - (1 + g) ** -2
    survives = -2 * churned * math.log10(1 + g)
    print(
        f"{name:26s}{S:8d}{f'[{low:g}, {high:g}]':>14s}{S_noise:9.3f}{g:8.4f}{churned:7d}{(1 + g) ** 2 - 1:8.1%}{shares[name]:10.1%}{f'10^{survives:.0f}':>16s}"
    )
print(
    f"the largest S_churn of the paper's grid search, 100, is below {256 * GAMMA_MAX:.1f}: the clamp never acts at N = 256"
)
paper_gamma = sorted(S / 256 for S, *_ in table5.values())

# %% [markdown]
# ## Exact variances instead of samples
#
# For Gaussian data every sampler's step is linear: $x' = a\,x + b\,z$. So the library's own steps are asked for $a$ and $b$, along
# many directions of variance $\lambda$ at once, and the variance $V' = a^2 V + b^2$ is followed without sampling.


# %%
def one(draw, denoiser, x, phi, psi, rng, **options):
    """One step of a sampler of the library, from phi to psi."""
    reached = []
    grid = torch.tensor([phi, psi] if psi == 0 else [phi, psi, 0.0], dtype=torch.float64)
    options |= {"generators": rng} if draw.stochastic else {}
    last = draw(denoiser, x, grid, callback=lambda i, p, y, v: reached.append(y), **options)
    return last if psi == 0 else reached[1]


def algorithm2(g, order=2, path=EDM, S_noise=1.0):
    """A step of Algorithm 2 with gamma = g; S_tmin keeps the step after it, which is not used, from adding noise."""

    def step(denoiser, x, phi, psi, rng):
        options = {"S_churn": g * (1 if psi == 0 else 2), "S_tmin": math.tan(phi) * (1 - 1e-9), "S_noise": S_noise}
        return one(samplers.churn, denoiser, x, phi, psi, rng, order=order, path=path, **options)

    return step


def maruyama(rate, path=EDM):
    return partial(one, samplers.euler_maruyama, rate=rate, path=path)


def affine(step, variance, phi, psi):
    """(a, b) of a step for centred Gaussian data of these variances."""
    exact, size = zsnr.Gaussian(torch.zeros_like(variance), variance), 100.0  # large, so that float32 peers keep digits
    x = torch.stack([torch.zeros_like(variance), size * torch.ones_like(variance)])
    z = randn(x.shape, generators([0, 0]), x.dtype)[0]
    y = step(exact, x, phi, psi, generators([0, 0])).double()
    return (y[1] - y[0]) / size, y[0] / z


def marginal(phi, variance):
    return math.cos(phi) ** 2 * variance + math.sin(phi) ** 2


def follow(steps, grid, variance, trace=None):
    """Std of the pictures over the data's. steps(phi, psi) is the step to take; the start is exact."""
    V = marginal(grid[0].item(), variance)
    for phi, psi in pairwise(grid.tolist()):
        a, b = affine(steps(phi, psi), variance, phi, psi)
        V = a * a * V + b * b
        if trace is not None and psi > 0:
            trace.append((math.tan(psi), (V / marginal(psi, variance) - 1).abs().max().item()))
    return (V / variance).sqrt()


# one path by these coefficients, and by the library: the same noises in the same order
direction = torch.tensor([0.0625, 0.5, 1.0, 4.0], dtype=torch.float64)
grid18, rng = zsnr.karras(18), generators([3])
start = randn((1, 4), generators([4]), torch.float64)
whole = samplers.churn(
    zsnr.Gaussian(torch.zeros(4), direction), start, grid18, S_churn=4.0, path=EDM, generators=generators([3])
)
x = start[0]
for phi, psi in pairwise(grid18.tolist()):
    a, b = affine(algorithm2(4 / 18), direction, phi, psi)
    x = a * x + b * randn((1, 4), rng, torch.float64)[0]
gap = (x - whole[0]).abs().max().item()
print(f"a path by the coefficients is the library's to 1e-9: {gap < 1e-9}")

# %% [markdown]
# ## E-32: noise may be replaced at any rate
#
# EDM's Eq. 6 on data of variance $\lambda$ has $dV = -2 \beta \sigma^2 dt + 2 \beta \sigma^2 dt$ beyond the ODE's at $V = \lambda + \sigma^2$: the rate cancels. In finite
# steps what is left is of first order, and goes as the steps do; extrapolated to steps of 0, nothing is left. Song's reverse SDEs, stepped as
# he writes them, are the library's `euler_maruyama` with $\beta = \sigma' / \sigma$.

# %%
variances = torch.tensor([1 / 16, 1 / 4, 1.0, 4.0], dtype=torch.float64)
sizes = (100, 200, 400)
print("largest relative error of the variance at levels from .1 to 10")
print(f"{'beta, in units of sigma_dot / sigma':36s}" + "".join(f"N = {N:<8d}" for N in sizes) + "order   extrapolated")
orders, left = [], []
for rate in (0.0, 0.5, 2.0):
    worst = []
    for N in sizes:
        trace = []
        follow(lambda phi, psi, rate=rate: maruyama(rate), zsnr.karras(N, 0.02), variances, trace)
        worst.append(max(error for sigma, error in trace if 0.1 <= sigma <= 10))
    orders.append(math.log2(worst[1] / worst[2]))
    # two steps of Richardson's, for errors in h and h^2
    first, second = 2 * worst[1] - worst[0], 2 * worst[2] - worst[1]
    left.append(abs(4 * second - first) / 3)
    print(f"{rate:<36g}" + "".join(f"{w:<12.5f}" for w in worst) + f"{orders[-1]:5.2f}{left[-1]:15.5f}")
song = 0.0
for phi, psi in pairwise(zsnr.karras(40, 0.02)[:-1].tolist()):
    s, h = math.tan(phi), math.tan(phi) - math.tan(psi)
    a, b = affine(maruyama(1.0), variances, phi, psi)
    scale = math.cos(psi) / math.cos(phi)
    # VE: dx = 2 sigma sigma' score |dt| + sqrt(2 sigma sigma' |dt|) z
    song = max(song, (a - scale * (1 - 2 * s * h / (variances + s * s))).abs().max().item())
    song = max(song, (b - math.cos(psi) * math.sqrt(2 * s * h)).abs().max().item())
    # VP: dx = (beta x / 2 + beta score) |dt| + sqrt(beta |dt|) z
    t, h = VP.time(phi), VP.time(phi) - VP.time(psi)
    beta = 19.9 * t + 0.1
    a, b = affine(maruyama(1.0, VP), variances, phi, psi)
    song = max(song, (a - (1 + beta * h / 2 - beta * h / marginal(phi, variances))).abs().max().item())
    song = max(song, (b - math.sqrt(beta * h)).abs().max().item())
print(f"Song's VE and VP steps against rate 1: coefficients agree to 1e-9: {song < 1e-9}")
found += [
    claims.measure("E-32", "order of the variance's error in the steps, rates 0 to 2", orders, equal=1, abs=0.1),
    claims.measure("E-32", "error of the variance extrapolated to steps of 0, rates 0 to 2", left),
    claims.measure("E-32", "Song's VE and VP steps against beta = sigma' / sigma", song, at_most=1e-9),
]

# %% [markdown]
# ## E-37: churn with an exact denoiser
#
# *At one level*, again and again: raise $\sigma$ by $1 + \gamma$, come back along the ODE. The variance that this settles at has a closed form:
# with an exact way back its std is the data's times exactly $S_\text{noise}$; one Heun step per iteration leaves a little more, where the signal's
# variance is near the noise's.


# %%
def settled(back, variance, phi, g, S_noise=1.0):
    """Std over the right one of the fixed point V = back^2 (scale^2 V + fresh^2) at the level phi."""
    top = raised(phi, g)
    scale = math.cos(top) / math.cos(phi)
    fresh = S_noise * math.cos(top) * math.tan(phi) * math.sqrt(g * (2 + g))
    a = back(variance, top, phi)
    return (a * a * fresh**2 / (1 - a * a * scale**2) / marginal(phi, variance)).sqrt()


def exactly(variance, phi, psi):
    exact = zsnr.Gaussian(torch.zeros_like(variance), variance)
    return exact.solve(torch.ones(1, len(variance), dtype=torch.float64), phi, psi)[0]


def by_heun(variance, phi, psi):
    return affine(partial(one, samplers.heun, path=EDM), variance, phi, psi)[0]


level, signal = RIGHT / 2, torch.logspace(-8, 8, 161, base=2, dtype=torch.float64)  # sigma = 1
inflation = {g: settled(by_heun, signal, level, g) - 1 for g in (GAMMA_MAX, 0.3125, 0.1172)}
three = settled(by_heun, torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64), level, GAMMA_MAX) - 1
print("std that too much, one Heun step per iteration, gamma = sqrt 2 - 1:")
print(
    f"  lambda / sigma^2 = 1/4: {three[0]:.3%}, 1: {three[1]:.3%}, 4: {three[2]:.3%}; largest {inflation[GAMMA_MAX].max():.3%}"
)
offsets = []
for S_noise in (1.0, 1.003, 1.007):
    by_exact = settled(exactly, signal, level, GAMMA_MAX, S_noise)
    offsets.append((by_exact / S_noise - 1).abs().max().item())
    print(f"  exact way back, S_noise = {S_noise}: std ratio {by_exact.min():.6f} to {by_exact.max():.6f}")
found += [
    claims.measure("E-37", "exact denoiser and way back: std over S_noise, less 1", max(offsets), at_most=1e-9),
    claims.measure(
        "E-37",
        "exact denoiser, one level, one Heun step an iteration: std that is too much at lambda / sigma^2 = 1/4, 1, 4",
        three,
        equal=[0.0058, 0.0094, 0.0062],
        abs=5e-5,
        note="bands are this project's closed form",
    ),
]

# %% [markdown]
# *Over the whole grid*, saturated: $N = 256$, every step churned. Beside it, first-order steps, exactly zero SNR as the start (where other
# libraries have infinities), and diffusers' two Euler schedulers, asked for their coefficients in the same way. These add
# the noise after the network saw the state without it.

# %%
grid256, stds = zsnr.karras(256), torch.tensor([0.25, 0.5, 1.0, 2.0], dtype=torch.float64)


def peer(scheduler, network):
    """A diffusers scheduler as steps(phi, psi); network(x, sigma, variance) is the exact answer in its convention."""
    scheduler.set_timesteps(256)
    scheduler.sigmas = torch.tensor([*grid256.tan().tolist()[:-1], 0.0])
    position = iter(range(256))

    def steps(phi, psi):
        def step(exact, x, phi, psi, rng):
            i = next(position)
            scheduler._step_index, sigma = i, math.tan(phi)
            scheduler.is_scale_input_called = True
            state = x / math.cos(phi)
            answer = network(state, sigma, exact.variance)
            reached = scheduler.step(
                answer.float(), scheduler.timesteps[i], state.float(), s_churn=1e9, generator=rng
            ).prev_sample
            return math.cos(psi) * reached

        return step

    return steps


def eps_of(x, sigma, variance):
    return sigma / (sigma**2 + variance) * x


def raw_of(x, sigma, variance, d=0.5):
    """F with c_skip x + c_out F = D, sigma_data = .5."""
    return (variance / (variance + sigma**2) - d * d / (sigma**2 + d * d)) * x / (sigma * d / math.hypot(sigma, d))


over = {
    "zsnr, Heun": follow(lambda p, q: algorithm2(GAMMA_MAX), grid256, stds**2),
    "zsnr, Heun, from zero SNR": follow(
        lambda p, q: algorithm2(GAMMA_MAX * (p < RIGHT), path=ANGLE), zsnr.power(256), stds**2
    ),
    "zsnr, Euler": follow(lambda p, q: algorithm2(GAMMA_MAX, order=1), grid256, stds**2),
}


def with_float32_noise(steps):
    """(a, b) of a peer draw float32 noise from the same seeds: the ratio of variances needs its own z."""
    V = marginal(grid256[0].item(), stds**2)
    exact = zsnr.Gaussian(torch.zeros(4), stds**2)
    z = randn((2, 4), generators([0, 0]))[0].double()
    for phi, psi in pairwise(grid256.tolist()):
        x = torch.stack([torch.zeros(4), torch.full((4,), 100.0)]).double()
        y = steps(phi, psi)(exact, x, phi, psi, generators([0, 0])).double()
        V = ((y[1] - y[0]) / 100) ** 2 * V + (y[0] / z) ** 2
    return (V / stds**2).sqrt()


over["diffusers, Euler, eps"] = with_float32_noise(peer(EulerDiscreteScheduler(), eps_of))
over["diffusers, EDMEuler"] = with_float32_noise(peer(EDMEulerScheduler(sigma_data=0.5), raw_of))
print("std of the pictures over the data's, N = 256, gamma = sqrt 2 - 1 throughout")
print(f"{'data std':28s}" + "".join(f"{std:<10g}" for std in stds.tolist()))
for name, ratio in over.items():
    print(f"{name:28s}" + "".join(f"{r:<10.4f}" for r in ratio.tolist()))
found += [
    claims.measure("E-37", "exact denoiser, whole grid, Heun, N = 256: std ratio at data std .25 to 2",
                   over["zsnr, Heun"], equal=1.0, abs=0.01,
                   note=f"diffusers at data std 1: EulerDiscrete {over['diffusers, Euler, eps'][2]:.3f}, EDMEuler {over['diffusers, EDMEuler'][2]:.3f}"),
    claims.measure("E-37", "the same from exactly zero SNR", over["zsnr, Heun, from zero SNR"], equal=1.0, abs=0.01),
]  # fmt: skip

# %% [markdown]
# *On real pictures*: the ideal denoiser of a few hundred of the data's, churned at one level as the networks are in Figure 14 below. Contrast is
# the root mean square of $D$, detail that of differences of neighbouring pixels. Later states are held against the mean over all pictures at that level,
# each chain's start being a control variate; intervals are over chains. At low levels such a denoiser returns one of its pictures whatever
# happens, so the noise around it is watched as well: std of $x - D$ over that of fresh noise, which $S_\text{noise}$ should multiply and nothing else.


# %%
def contrast(x):
    return x.double().square().flatten(1).mean(1).sqrt()


def detail(x):
    x = x.double()
    across, down = x.diff(dim=-1).square().flatten(1).mean(1), x.diff(dim=-2).square().flatten(1).mean(1)
    return (across + down).sqrt()


def percent(v, digits=2):
    """Without the sign of a rounding error."""
    return f"{0.0 if abs(v) < 0.5 * 10.0 ** (-digits - 2) else v:+.{digits}%}"


def change(measure, first, later):
    """Mean of the later states' measure over the mean of the first's, less 1, with a t interval over chains."""
    a, b = measure(first), torch.stack([measure(x) for x in later]).mean(0)
    ratio = (b / a.mean()).mean().item() - 1
    return ratio, interval(((b - a) / a.mean()).tolist())


def departure(measure, first, later, everywhere):
    """As `change`, against the mean over `everywhere`. How a chain's start differs from it explains some of a chain's
    later difference (all, where it stays on its picture), by a regression."""
    truth = measure(everywhere).mean()
    a, b = measure(first) - truth, torch.stack([measure(x) for x in later]).mean(0) - truth
    share = ((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum()
    return (b - share * a) / truth


def mean_of(chains_):
    """Mean over chains and its interval."""
    return chains_.mean().item(), interval(chains_.tolist())


class Watched:
    """A denoiser that notes |x - D|^2 / d of each chain, at the states that `churn_in_place` keeps."""

    def __init__(self, denoiser, level):
        self.denoiser, self.level, self.before, self.noted = denoiser, level, level, []

    def __call__(self, x, phi):
        v = self.denoiser(x, phi)
        # a step back ends with a call at the level; one more there is for a state to keep
        if phi == self.level and self.before == self.level:
            self.noted.append(residual(x, v, phi))
        self.before = phi
        return v


def residual(x, v, phi):
    """|x - D|^2 / d of each sample."""
    return (math.tan(phi) * (math.sin(phi) * x + math.cos(phi) * v)).double().square().flatten(1).mean(1)


pictures = data.load(ROOT / source, "train").draw(points, loop.generator(4, 0))[0]
ideal = zsnr.Empirical(pictures)
print(
    f"{points} pictures, {chains} chains of {iterations} iterations at gamma = sqrt 2 - 1, later half against the mean"
)
print(
    f"{'sigma':>6s}{'S_noise':>9s}{'contrast':>28s}{'detail':>28s}{'std of x - D, ratio':>26s}{'|D| > 1.02':>13s}{'own picture stays':>19s}"
)
exact_change, noise_std, by_chain = {}, {}, {}
for sigma in (0.1, 0.5, 2.0, 10.0):
    phi, every = math.atan(sigma), pictures.double().repeat(4, 1, 1, 1)
    noisy = math.cos(phi) * every + math.sin(phi) * randn(every.shape, loop.generator(4, 6), torch.float64)
    v = ideal(noisy, phi)
    everywhere, fresh = math.cos(phi) * noisy - math.sin(phi) * v, residual(noisy, v, phi).mean()
    for S_noise in (1.0, 1.007):
        rng = generators(range(chains))
        y = pictures[torch.arange(chains) % points].double()
        x = math.cos(phi) * y + math.sin(phi) * randn(y.shape, rng, torch.float64)
        watched = Watched(ideal, phi)
        states = sweep.churn_in_place(watched, x, sigma, iterations, S_noise, rng, max(1, iterations // 20))
        assert len(watched.noted) == len(states)
        noise_ratio = (torch.stack(watched.noted[len(states) // 2 :]).mean(0) / fresh).sqrt()
        noise_std[sigma, S_noise] = noise_ratio.mean().item(), interval(noise_ratio.tolist())
        later = states[len(states) // 2 :]
        by_chain[sigma, S_noise] = [departure(f, states[0], later, everywhere) for f in (contrast, detail)]
        exact_change[sigma, S_noise] = [mean_of(off) for off in by_chain[sigma, S_noise]]
        saturated = (states[-1].abs() > 1.02).double().mean().item()
        stays = ((states[-1] - y).flatten(1).square().mean(1) < 1e-3).double().mean().item()
        cells = "".join(
            f"{f'{percent(v)} [{percent(lo)}, {percent(hi)}]':>28s}" for v, (lo, hi) in exact_change[sigma, S_noise]
        )
        std, (lo, hi) = noise_std[sigma, S_noise]
        print(f"{sigma:6g}{S_noise:9.3f}{cells}{f'{std:.4f} [{lo:.4f}, {hi:.4f}]':>26s}{saturated:13.1%}{stays:19.0%}")
mixing = mean_of((by_chain[2.0, 1.0][0] + by_chain[10.0, 1.0][0]) / 2)  # chains share their noises
found.append(
    claims.measure(
        "E-37",
        "ideal denoiser of pictures, sigma 2 and 10: change of the contrast",
        mixing[0],
        interval=mixing[1],
        note=f"{points} pictures, {chains} chains of {iterations} iterations; below, a chain stays on its own picture",
    )
)
for k, name in enumerate(("contrast", "detail")):
    rows = [exact_change[sigma, 1.0][k] for sigma in (0.1, 0.5, 2.0, 10.0)]
    found.append(
        claims.measure(
            "E-37",
            f"ideal denoiser of {points} pictures, {iterations} iterations: change of the {name}, sigma .1, .5, 2, 10",
            [v for v, _ in rows],
            interval=[i for _, i in rows],
            equal=0.0,
            abs=0.02,
        )
    )
found += [
    claims.measure(
        "E-37",
        f"the same, S_noise = {S_noise}: std of x - D over that of fresh noise",
        [noise_std[sigma, S_noise][0] for sigma in (0.1, 0.5, 2.0, 10.0)],
        interval=[noise_std[sigma, S_noise][1] for sigma in (0.1, 0.5, 2.0, 10.0)],
        equal=S_noise,
        abs=5e-3,
        note="the band tells S_noise 1 from 1.007 and allows for a Heun step's own error",
    )
    for S_noise in (1.0, 1.007)
]

# %% [markdown]
# ## E-42: Euler-Maruyama against Algorithm 2
#
# Euler-Maruyama asks the denoiser before it adds the noise, Algorithm 2 after, at the raised level. Here both add the same noise at every step:
# $\beta = \sigma' / 2\sigma$ is $\gamma = \sqrt{1 + h / \sigma} - 1$, which never reaches the clamp. Error of the std, root mean square over $\lambda$ from 1/64 to 64.


# %%
def matched(order):
    """Algorithm 2 with the noise of Euler-Maruyama at rate 1/2."""

    def steps(phi, psi):
        return algorithm2(math.sqrt(2 - math.tan(psi) / math.tan(phi)) - 1 if psi else 0.0, order)

    return steps


kinds = {
    "Euler-Maruyama": lambda phi, psi: maruyama(0.5 if psi else 0.0),
    "Algorithm 2, order 1": matched(1),
    "Algorithm 2, order 2": matched(2),
}
spread = torch.logspace(-6, 6, 25, base=2, dtype=torch.float64)
counts = (8, 12, 16, 24, 32, 64, 128, 256)
ratios = {name: [follow(steps, zsnr.karras(N), spread) for N in counts] for name, steps in kinds.items()}
size = {name: [(r - 1).square().mean().sqrt().item() for r in rows] for name, rows in ratios.items()}
print(f"{'N':24s}" + "".join(f"{N:<9d}" for N in counts) + "order")
slope = {}
for name, errors in size.items():
    slope[name] = -np.polyfit(np.log(counts[-3:]), np.log(errors[-3:]), 1)[0]
    print(f"{name:24s}" + "".join(f"{e:<9.4f}" for e in errors) + f"{slope[name]:.2f}")
em, first, second = (np.array(size[name]) for name in kinds)
apart = np.array(
    [
        (a - b).square().mean().sqrt().item()
        for a, b in zip(ratios["Euler-Maruyama"], ratios["Algorithm 2, order 1"], strict=True)
    ]
)
print(f"{'EM and order 1 apart':24s}" + "".join(f"{d:<9.4f}" for d in apart))
low = [counts.index(N) for N in (8, 16, 32)]
better = [N for N, a, b in zip(counts, em, first, strict=True) if a < b]
equal_cost = {N: em[counts.index(2 * N)] / second[counts.index(N)] for N in (8, 16, 32, 64)}
print(
    f"of the two first-order methods, Euler-Maruyama is the more exact at {len(better)} of {len(counts)} lengths"
    + (f", from N = {min(better)}" if better else "")
)
print("its error over order 2's at about equal evaluations: ", end="")
print(", ".join(f"{2 * N}: {v:.2f}" for N, v in equal_cost.items()))
print(
    "error before over after the noise, order 1, gamma in every step but the last, Euler-Maruyama with the same noise:"
)


def same_noise(g):
    """(Algorithm 2 of order 1, Euler-Maruyama) adding sigma^2 gamma (2 + gamma) in each step but the last."""

    def rate(phi, psi):
        return g * (2 + g) / 2 / (1 - math.tan(psi) / math.tan(phi)) if psi else 0.0

    return (lambda phi, psi: algorithm2(g if psi else 0.0, 1)), (lambda phi, psi: maruyama(rate(phi, psi)))


for g in (GAMMA_MAX, paper_gamma[0]):
    both = [
        [(follow(f, zsnr.karras(N), spread) - 1).square().mean().item() for f in same_noise(g)] for N in (8, 16, 32)
    ]
    print(
        f"  gamma = {g:.3f}: "
        + ", ".join(f"N = {N}: {math.sqrt(b / a):.2f}" for N, (a, b) in zip((8, 16, 32), both, strict=True))
    )
found += [
    claims.measure("E-42", "std ratios by asking before and after the noise, apart at N = 8", apart[0],
                   note="Gaussian data; on other data, too, which of the two is better depends on the data"),
    claims.measure("E-42", "order in N at which they meet", -np.polyfit(np.log(counts[-3:]), np.log(apart[-3:]), 1)[0],
                   equal=1, abs=0.1),
    claims.measure("E-42", "Euler-Maruyama's error of the std over Algorithm 2's, N = 8, 16, 32", em[low] / second[low],
                   at_least=1.0),
    claims.measure("E-42", "the same over Algorithm 2's with first-order steps, which isolates the order of asking",
                   em[low] / first[low], at_least=1.0,
                   note="on Gaussian data asking after the noise is, between first-order steps, the "
                   f"less exact at {len(better)} of {len(counts)} lengths"
                   + (f", from N = {min(better)}" if better else "")),
]  # fmt: skip

# %% [markdown]
# On data that is not Gaussian, by sampling: two narrow modes of unequal weight, Wasserstein-1 distance to the exact quantiles.

# %%
modes = Mixture(
    [zsnr.Gaussian(torch.tensor([m]), torch.tensor([v])) for m, v in ((-1.0, 0.04), (1.0, 0.01))], [0.7, 0.3]
)
draws, steps_of = 1000, (8, 16, 32)
axis = np.linspace(-3, 3, 20001)
mass = 0.7 * stats.norm.cdf(axis, -1, 0.2) + 0.3 * stats.norm.cdf(axis, 1, 0.1)
quantiles = np.interp((np.arange(draws) + 0.5) / draws, mass, axis)


def w1(x):
    """One distance for each repeat."""
    return np.abs(np.sort(x.view(repeats, draws).double().numpy(), 1) - quantiles).mean(1)


floor = w1(modes.sample(randn((repeats * draws, 1), loop.generator(4, 1)), loop.generator(4, 2)))
distances = {}
for N in steps_of:
    for name, steps in kinds.items():
        rng = loop.generator(4, 3)
        x = randn((repeats * draws, 1), rng)
        for phi, psi in pairwise(zsnr.karras(N).tolist()):
            x = steps(phi, psi)(modes, x, phi, psi, rng)
        distances[name, N] = w1(x)
print(f"{'W1, ' + str(repeats) + ' times ' + str(draws):24s}" + "".join(f"{f'N = {N}':26s}" for N in steps_of))
for name in kinds:
    cells = [(d.mean(), *interval(d)) for d in (distances[name, N] for N in steps_of)]
    print(f"{name:24s}" + "".join(f"{f'{m:.4f} [{lo:.4f}, {hi:.4f}]':26s}" for m, lo, hi in cells))
print(f"{'exact samples':24s}{floor.mean():.4f} [{interval(floor)[0]:.4f}, {interval(floor)[1]:.4f}]")
for order in (1, 2):
    gain = [distances["Euler-Maruyama", N] - distances[f"Algorithm 2, order {order}", N] for N in steps_of]
    found.append(
        claims.measure(
            "E-42",
            f"two modes: W1 of Euler-Maruyama less Algorithm 2's, order {order}, N = 8, 16, 32",
            [g.mean() for g in gain],
            interval=[interval(g) for g in gain],
            at_least=0.0,
        )
    )

# %%
fig, axes = plt.subplots(1, 3, figsize=(6.9, 2.5))
shades = dict(zip(inflation, plt.cm.viridis(np.linspace(0.05, 0.8, 3)), strict=True))
for g, rise in inflation.items():
    axes[0].semilogx(signal, 100 * rise, color=shades[g], label=rf"$\gamma = {g:.3f}$")
axes[0].axhline(0, color=figures.COLOURS["data"], lw=0.8, ls=":", label="exact way back")
axes[0].set(xlabel=r"$\lambda / \sigma^2$", ylabel="std too much / %", title="churn at one level, one Heun step")
axes[0].set(xticks=[0.01, 0.1, 1, 10, 100], ylim=(-0.05, 1.45))
axes[0].xaxis.set_minor_locator(NullLocator())
axes[0].legend(fontsize=6, loc="upper left")
looks = {
    "zsnr, Heun": ("zsnr", "o-"),
    "zsnr, Heun, from zero SNR": ("zsnr", "s--"),
    "zsnr, Euler": ("offset", "o-"),
    "diffusers, Euler, eps": ("base", "^-"),
    "diffusers, EDMEuler": ("control", "v-"),
}
for name, (colour, mark) in looks.items():
    axes[1].semilogx(stds, over[name], mark, color=figures.COLOURS[colour], label=name)
axes[1].set(xlabel="data std", ylabel="std ratio", title="churn at every step, $N = 256$", ylim=(0.3, 1.9))
axes[1].set(xticks=stds.tolist(), xticklabels=[f"{s:g}" for s in stds.tolist()])
axes[1].xaxis.set_minor_locator(NullLocator())
axes[1].legend(fontsize=6, loc="upper right")
for (name, errors), colour in zip(size.items(), ("control", "base", "zsnr"), strict=True):
    axes[2].loglog(counts, errors, "o-", color=figures.COLOURS[colour], label=f"{name}")
axes[2].set(xlabel="steps $N$", ylabel="rms error of the std", title="the same noise at every step")
axes[2].set(xticks=[8, 16, 32, 64, 128, 256], xticklabels=[8, 16, 32, 64, 128, 256])
axes[2].xaxis.set_minor_locator(NullLocator())
axes[2].legend(fontsize=6, loc="lower left")
fig.tight_layout()
figures.save(fig, out, "exact")

# %% [markdown]
# ## Trained networks: is churn of use?
#
# Three small networks of the `edm` stage: *original*, trained as VP was; *edm*, trained as EDM is; *short*, the same but stopped early. Fréchet
# distance against $S_\text{churn}$, over all levels or within $[0.05, 1]$, with $S_\text{noise}$ 1 or 1.007. Intervals are jackknife; differences take both as
# independent, which is cautious, since all cells draw from the same noises.

# %%
drawn = load(ROOT / results / "edm/sweep")
NETWORKS = ("original", "edm", "short")
cell = {}
for m in drawn.where(study="churn"):
    half = (m["frechet_interval"][1] - m["frechet_interval"][0]) / 2
    cell[m["model"], float(m["S_churn"]), m["range"], m["S_noise"]] = m["frechet"], half
    N = (m["evaluations"] + 1) // 2
sizes_of = sorted(drawn.where(study="real").values("n"))
n_churned = sizes_of[0]  # the churned cells have the fewest pictures
amounts = sorted({S for _, S, _, _ in cell if S > 0})
share_of = {S: min(S / N, GAMMA_MAX) for S in amounts}
corrections = {
    "all levels": ("all", 1.0),
    "all levels, S_noise": ("all", 1.007),
    "[.05, 1]": ("middle", 1.0),
    "[.05, 1], S_noise": ("middle", 1.007),
}


def at(name, S, where="all", S_noise=1.0):
    return cell[(name, 0.0, "all", 1.0) if S == 0 else (name, S, where, S_noise)]


def less(a, b):
    """a - b of two Frechet distances with their half intervals: value, (low, high)."""
    half = math.hypot(a[1], b[1])
    return a[0] - b[0], (a[0] - b[0] - half, a[0] - b[0] + half)


real = drawn.one(study="real", n=n_churned)["frechet"]
print(f"N = {N} steps, {n_churned} pictures each; as many real ones: {real:.2f}")
head = [f"{S:g} ({share_of[S]:.3f})" for S in amounts]
print(f"{'S_churn (gamma)':30s}{'0':>16s}" + "".join(f"{h:>16s}" for h in head))
for name in NETWORKS:
    for label, (where, S_noise) in corrections.items():
        cells = [cell.get((name, S, where, S_noise)) for S in amounts]
        text = "".join(f"{f'{c[0]:.2f} ± {c[1]:.2f}' if c else '':>16s}" for c in (at(name, 0), *cells))
        print(f"{name + ', ' + label:30s}{text}")

# %% [markdown]
# One setting is named beforehand, not picked from the table: $\gamma$ nearest to that of CIFAR-10 VP in Table 5, 0.117, within $[0.05, 1]$, $S_\text{noise} = 1.007$.

# %%
full_kind = [S for S in amounts if ("original", S, "middle", 1.007) in cell]
tuned = min(full_kind, key=lambda S: abs(math.log(share_of[S] / (30 / 256))))
most = amounts[-1]
found_gain = {name: less(at(name, 0), at(name, tuned, "middle", 1.007)) for name in NETWORKS}
scale_note = f"{n_churned} pictures, N = {N}, networks of this project's size"


def sentence(value, bounds, noun):
    sure = bounds[0] > 0 or bounds[1] < 0
    return f"{noun} {'gains' if value > 0 else 'loses'} {abs(value):.2f}{'' if sure else ', within the interval'}"


print(f"named setting, S_churn = {tuned:g}: gain over no churn")
for name, (value, bounds) in found_gain.items():
    print(f"  {sentence(value, bounds, name)} [{bounds[0]:.2f}, {bounds[1]:.2f}]")
without = {
    "S_noise = 1": less(at("original", tuned, "middle", 1.0), at("original", tuned, "middle", 1.007)),
    "all levels": less(at("original", tuned, "all", 1.007), at("original", tuned, "middle", 1.007)),
    "both": less(at("original", tuned, "all", 1.0), at("original", tuned, "middle", 1.007)),
}
print("original, what taking a correction away costs: " + ", ".join(f"{k} {v:+.3f}" for k, (v, _) in without.items()))
strongest = {
    label: less(at("original", most, *kind), at("original", most, "middle", 1.007))
    for label, kind in list(corrections.items())[:3]
}
harm = {name: [less(at(name, S), at(name, 0)) for S in amounts] for name in NETWORKS}
found += [
    claims.measure("E-33", "original: gain of churn at Table 5's gamma, [.05, 1], S_noise 1.007",
                   found_gain["original"][0], interval=found_gain["original"][1],
                   note=f"gamma = {share_of[tuned]:.3f}, {scale_note}"),
    claims.measure("E-33", f"original: gain of churn at S_churn = {most:g}, all levels", -harm["original"][-1][0],
                   interval=[-b for b in harm["original"][-1][1][::-1]], at_least=0.0,
                   note="not named beforehand: the best of the table"),
    claims.measure("E-33", "original: cost of S_noise = 1, of all levels, of both", [v for v, _ in without.values()],
                   interval=[i for _, i in without.values()], at_least=0.0),
    claims.measure("E-40", f"original, S_churn = {most:g}: cost of all levels, with S_noise, of S_noise = 1 in [.05, 1]",
                   [v for v, _ in strongest.values()], interval=[i for _, i in strongest.values()], at_least=0.0, note=scale_note + "; the figure's curves cannot be read as numbers"),
    claims.measure("E-41", "edm: harm of the largest S_churn, all levels", harm["edm"][-1][0],
                   interval=harm["edm"][-1][1], note=f"S_churn = {most:g}, {scale_note}"),
    claims.measure("E-41", f"edm: harm of S_churn = {', '.join(f'{S:g}' for S in amounts)}, all levels",
                   [v for v, _ in harm["edm"]], interval=[i for _, i in harm["edm"]], at_least=0.0),
    claims.measure("E-41", "original: gain of churn at the setting of Table 5", found_gain["original"][0],
                   interval=found_gain["original"][1], at_least=0.0),
]  # fmt: skip
if len(amounts) > 1:  # an optimum needs a curve
    inner = min((at("original", S) for S in amounts[:-1]), key=lambda c: c[0])
    rise, fall = (less(at("original", S), inner) for S in (most, 0))
    found += [
        claims.measure("E-40", "original, all levels: distance at the largest S_churn less the least before it",
                       rise[0], interval=rise[1], note=scale_note),
        claims.measure("E-40", "original, all levels: distance at S_churn 0 less the least between", fall[0],
                       interval=fall[1], at_least=0.0),
    ]  # fmt: skip

# %% [markdown]
# Table 5's optima lie at $\gamma$ from 0.117 to 0.3125. Where is ours, on the network that was trained the original way, over all settings? Its interval
# holds the amounts whose best distance is not surely above the least.

# %%
best = {
    share_of.get(S, 0.0): min((cell[k] for k in cell if k[0] == "original" and k[1] == S), key=lambda c: c[0])
    for S in (0.0, *amounts)
}
optimum = min(best, key=lambda g: best[g][0])
near = [g for g, c in best.items() if less(c, best[optimum])[1][0] <= 0]
print("original, best of each gamma: " + ", ".join(f"{g:.3f}: {c[0]:.2f}" for g, c in best.items()))
print(f"least at gamma = {optimum:.3f}; not surely worse: {', '.join(f'{g:.3f}' for g in near)}")
found.append(
    claims.measure("E-34", "original: gamma of the best stochastic setting, and of all not told apart", optimum,
                   interval=(min(near), max(near)),
                   at_least=paper_gamma[0], at_most=paper_gamma[-1],
                   note="the paper's optima at N = 256 have gamma .117, .156 and .3125; its networks and data sets are not run here")
)  # fmt: skip

# %%
fig, axes = plt.subplots(1, 3, figsize=(6.9, 2.4), sharey=True)
looks = {
    "all levels": ("control", "o-"),
    "all levels, S_noise": ("base", "s--"),
    "[.05, 1]": ("offset", "^-"),
    "[.05, 1], S_noise": ("zsnr", "D--"),
}
for ax, name in zip(axes, NETWORKS, strict=True):
    for k, (label, kind) in enumerate(corrections.items()):
        xs = [0.0] + [S for S in amounts if (name, S, *kind) in cell]
        cs = [at(name, S, *kind) for S in xs]
        ax.errorbar(
            np.array(xs) + (k - 1.5) * 0.012 * most,
            [c[0] for c in cs],
            [c[1] for c in cs],
            fmt=looks[label][1],
            color=figures.COLOURS[looks[label][0]],
            capsize=2,
            lw=1,
            elinewidth=0.7,
            ms=3,
            label=label.replace("S_noise", r"$S_\mathrm{noise} = 1.007$"),
        )
    ax.axhline(real, color=figures.COLOURS["data"], lw=0.8, ls=":", label="real pictures")
    ax.set(title=name, xlabel=r"$S_\mathrm{churn}$", xticks=[0, *amounts])
    ax.set_xticklabels([f"{S:g}" for S in (0, *amounts)])
axes[0].set_ylabel("Fréchet distance")
handles, labels = axes[0].get_legend_handles_labels()
fig.legend(handles, labels, loc="lower center", ncol=5, fontsize=6.5, bbox_to_anchor=(0.5, -0.07))
fig.tight_layout()
figures.save(fig, out, "frechet")

# %% [markdown]
# ## E-38: how much variance does a network really remove?
#
# For any denoiser, $E|x - D|^2 = \sigma^2 d - E|D - y|^2 + 2 E\langle x - D, y - D\rangle$. For a posterior mean the last term is 0, since its error is orthogonal to
# every function of $x$: so the calibrated residual follows from the measured error, without knowing the data. Per pixel, $r = E|x - D|^2 / \sigma^2 d$ and
# $e = E|D - y|^2 / d$:
#
# $$c = \frac{E\langle x - y, x - D\rangle}{E|x - D|^2} = \frac{r + 1 - e / \sigma^2}{2 r}$$
#
# is the share of what the network removes that really is noise (the slope of a regression). It is 1 for every posterior mean; at $c < 1$ the
# network removes $1/c$ times too much. In Langevin's limit at one level, a denoiser that is off by that factor needs
# $S_\text{noise} = c^{-1/2}$. Both are checked on a Gaussian: off by 1.4 %, at one level, by the fixed points of above.


# %%
def calibration(r, e, sigma):
    return (r + 1 - e / sigma**2) / (2 * r)


excess, ratios_of = 0.014, torch.tensor([1 / 16, 1.0, 16.0], dtype=torch.float64)
k = 1 - (1 + excess) / (1 + ratios_of)  # D = k x, at sigma = 1
r, e = (1 - k) ** 2 * (1 + ratios_of), (1 - k) ** 2 * ratios_of + k**2
slope_gap = (calibration(r, e, 1.0) * (1 + excess) - 1).abs().max().item()
k = 1 - 1 / (1 + ratios_of)
exact_gap = (calibration((1 - k) ** 2 * (1 + ratios_of), (1 - k) ** 2 * ratios_of + k**2, 1.0) - 1).abs().max().item()
print(f"c is 1 / 1.014 for this denoiser and 1 for the exact one, to 1e-12: {max(slope_gap, exact_gap) < 1e-12}")


def too_much(variance, phi, psi):
    """Gain of one Heun step with x - D = (1 + excess) times the exact one: v = (1 + excess) v* + excess tan x."""

    def step(exact, x, phi, psi, rng):
        return one(
            samplers.heun,
            lambda x, p: (1 + excess) * exact(x, p) + excess * math.tan(p) * x,
            x,
            phi,
            psi,
            rng,
            path=EDM,
        )

    return affine(step, variance, phi, psi)[0]


restoring = math.sqrt(1 + excess)
print(f"{'std ratio at lambda / sigma^2':32s}" + "".join(f"{v:<10g}" for v in ratios_of.tolist()))
restored = []
for g in (0.01, GAMMA_MAX):
    for S_noise in (1.0, restoring):
        ratio = settled(too_much, ratios_of, level, g, S_noise) / settled(by_heun, ratios_of, level, g)
        print(f"gamma {g:.3f}, S_noise {S_noise:.4f}".ljust(32) + "".join(f"{v:<10.4f}" for v in ratio.tolist()))
        if S_noise > 1:
            restored.append((ratio - 1).abs().max().item())
found += [
    claims.measure("E-38", "Gaussian: c of an exact denoiser, and of one that is 1.4 % off, times 1.014; less 1",
                   max(slope_gap, exact_gap), at_most=1e-12),
    claims.measure("E-38", "Gaussian, gamma = .01: std ratio restored by S_noise = c^(-1/2), less 1", restored[0]),
]  # fmt: skip

# %% [markdown]
# Trained networks, on held-out pictures. Errors of the network that have nothing to do with the noise lower $c$ as well, so $c^{-1/2}$ is what $S_\text{noise}$
# would have to be if all of it were a factor. Intervals allow for the finite number of noises, at 95 %.

# %%
held_out = sizes_of[-1] // 2
values = held_out * math.prod(drawn.where(study="real").rows[0].tensors["pictures"].shape[1:])
removed = {}
for name in NETWORKS:
    table = drawn.one(study="network", model=name)
    sigma, r, e = (np.array(table[k]) for k in ("sigma", "residual", "error"))
    c = calibration(r, e, sigma)
    # the noises' own mean square enters c as (1 - it) / 2r, the product of error and residual by its size
    half = 1.96 * (np.sqrt(2 / values) / 2 + np.sqrt(e / sigma**2 * r / values)) / r
    removed[name] = sigma, c, half, r, 1 - e / sigma**2
print(f"{'sigma':>22s}" + "".join(f"{s:9.3g}" for s in sigma))
for name, (_, c, _, r, calibrated) in removed.items():
    print(f"{name + ', residual':>22s}" + "".join(f"{v:9.4f}" for v in r))
    print(f"{'calibrated':>22s}" + "".join(f"{v:9.4f}" for v in calibrated))
    print(f"{'1/c':>22s}" + "".join(f"{v:9.4f}" for v in 1 / c))
inside = (sigma >= 0.05) & (sigma <= 1)
print("within [.05, 1], on average over the levels:")
needed = {}
for name, (_, c, half, *_) in removed.items():
    value, error = (1 / c[inside]).mean(), (half[inside] / c[inside] ** 2).mean()
    needed[name] = value - 1, (value - 1 - error, value - 1 + error)
    root = [math.sqrt(max(1 + v, 0)) for v in (value - 1, *needed[name][1])]
    print(
        f"  {name:9s} removes {abs(value - 1):.2%} too {'much' if value > 1 else 'little'} [{value - 1 - error:+.2%}, {value - 1 + error:+.2%}]: "
        f"S_noise = {root[0]:.4f} [{root[1]:.4f}, {root[2]:.4f}]"
    )
helps = {}
for name in NETWORKS:
    for where in ("all", "middle"):
        helps[name, where] = less(at(name, tuned, where, 1.0), at(name, tuned, where, 1.007))
sure = [k for k, (_, b) in helps.items() if b[0] > 0 or b[1] < 0]
print(
    f"S_noise = 1.007 lowers the Frechet distance in {sum(v > 0 for v, _ in helps.values())} of {len(helps)} cases; ",
    end="",
)
print(f"beyond its interval, up or down, in {len(sure)}")
for (name, where), (v, b) in helps.items():
    print(f"  {name:9s}{where:7s} gain {v:+.3f} [{b[0]:+.2f}, {b[1]:+.2f}]")
root = [math.sqrt(max(1 + v, 0)) for v in (needed["original"][0], *needed["original"][1])]
excesses = [value for value, _ in needed.values()]
found += [
    claims.measure("E-38", "noise removed too much, mean over levels in [.05, 1], of three networks", np.mean(excesses),
                   interval=interval(excesses), note=", ".join(f"{k} {v:+.2%}" for k, (v, _) in needed.items())),
    claims.measure("E-38", "original: noise removed too much, mean over levels in [.05, 1]; interval over noises",
                   needed["original"][0], interval=needed["original"][1], at_least=0.0),
    claims.measure("E-38", "original: the S_noise that would restore it", root[0], interval=root[1:], at_least=1.0,
                   at_most=1.01, note="the band is the range of Table 5's grid search"),
    claims.measure("E-38", "original: gain of S_noise = 1.007 within [.05, 1]", helps["original", "middle"][0],
                   interval=helps["original", "middle"][1], at_least=0.0, note=scale_note),
]  # fmt: skip

# %% [markdown]
# ## Is the field conservative?
#
# An exact $D = x + \sigma^2 \nabla \log p$ has a symmetric Jacobian $J$. The paper suspects that trained ones do not, and that this is why churn
# corrupts. $\|J - J^\top\| / \|J\|$ by random probes, 0 for an exact denoiser, $\sqrt 2$ for a matrix of independent entries.

# %%
y = pictures[:8]
centres = torch.stack([pictures[k::10].mean(0) for k in range(10)])
smooth = Mixture([zsnr.Gaussian(m, torch.full(m.shape, 0.1)) for m in centres])
exact_asymmetry = []
for s in sigma:
    phi = math.atan(s)

    def D(x, phi=phi):
        return math.cos(phi) ** 2 * x - math.sin(phi) * smooth(math.cos(phi) * x, phi)

    x = y.double() + s * randn(y.shape, generators(range(8)), torch.float64)
    exact_asymmetry.append(sweep.asymmetry(D, x, 1, loop.generator(4, 5))[0])
print(f"{'sigma':>12s}" + "".join(f"{s:9.3g}" for s in sigma))
print(f"{'exact':>12s}" + "".join(f"{'< 1e-6' if v < 1e-6 else f'{v:.1e}':>9s}" for v in exact_asymmetry))
asymmetry = {}
for name in NETWORKS:
    table = drawn.one(study="network", model=name)
    value, half = np.array(table["asymmetry"]), 1.96 * np.array(table["asymmetry_se"])
    asymmetry[name] = value, half
    print(f"{name:>12s}" + "".join(f"{v:9.3f}" for v in value))
    print(f"{'+-':>12s}" + "".join(f"{v:9.3f}" for v in half))
found.append(claims.measure("E-37", "asymmetry of the Jacobian, exact, largest", max(exact_asymmetry), at_most=1e-6))
for name in ("original", "edm"):
    value, half = asymmetry[name]
    k = int((value - half).argmin())
    found.append(
        claims.measure(
            "E-37",
            f"asymmetry of the Jacobian, {name}, smallest over the levels",
            value[k],
            interval=(value[k] - half[k], value[k] + half[k]),
            at_least=1e-4,
            note="the band excludes float32's rounding; the field of a trained network is measured; that it is the cause of the damage remains a suspicion",
        )
    )

# %%
fig, axes = plt.subplots(1, 3, figsize=(6.9, 2.4))
tint = {"original": "control", "edm": "zsnr", "short": "base"}
for name, (s, c, half, r, calibrated) in removed.items():
    colour = figures.COLOURS[tint[name]]
    axes[0].loglog(s, r, "o-", ms=3, color=colour, label=name)
    axes[0].loglog(s, np.where(calibrated > 0, calibrated, np.nan), "--", lw=0.9, color=colour)
    axes[1].errorbar(s, 1 / c, half / c**2, fmt="o-", ms=3, lw=1, capsize=2, color=colour, label=name)
    axes[2].errorbar(s, *asymmetry[name], fmt="o-", ms=3, lw=1, capsize=2, color=colour, label=name)
axes[0].plot([], [], "--", lw=0.9, color="#777777", label="calibrated, by its error")
axes[0].set(ylabel=r"$r = E|x - D|^2 / \sigma^2 d$", title="residual variance")
axes[1].axhline(1, color=figures.COLOURS["data"], lw=0.8, ls=":")
axes[1].axvspan(0.05, 1, color="#777777", alpha=0.12, lw=0)
axes[1].set(xscale="log", yscale="log", ylabel="$1/c$", title="removed over what is noise")
slopes = np.concatenate([1 / c for _, c, *_ in removed.values()])
low, high = min(slopes.min(), 1.0), max(slopes.max(), 1.0)
margin = (high / low) ** 0.08
axes[1].set(ylim=(low / margin, high * margin))
marks = np.array([0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98, 0.99, 1, 1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50])
marks = marks[(marks >= low / margin) & (marks <= high * margin)]
# those that leave room for their labels
room, chosen = math.log(high / low * margin**2) / 9, [1.0]
for m in sorted(marks, key=lambda m: abs(math.log(m))):
    if min(abs(math.log(m / other)) for other in chosen) > room:
        chosen.append(m)
axes[1].set(yticks=sorted(chosen), yticklabels=[f"{m:g}" for m in sorted(chosen)])
axes[1].yaxis.set_minor_locator(NullLocator())
axes[2].axhline(0, color=figures.COLOURS["data"], lw=0.8, ls=":", label="exact")
axes[2].set(xscale="log", ylabel=r"$\|J - J^\top\| / \|J\|$", title="asymmetry of the Jacobian")
for ax in axes:
    ax.set(xlabel=r"$\sigma$", xticks=[0.01, 0.1, 1, 10])
axes[0].legend(fontsize=6, loc="best")
axes[1].legend(fontsize=6, loc="best")
axes[2].legend(fontsize=6, loc="best")
fig.tight_layout()
figures.save(fig, out, "network")

# %% [markdown]
# ## Figure 14: churn at one level
#
# Held-out pictures with noise of one level, churned at it with a trained network, seen through $D$; each row goes on in time, from left to right.
# Contrast and detail of the last state against the first, over pictures.

# %%
levels, factors = (0.1, 0.5, 2.0, 10.0), (1.0, 1.007)
trained_change, strips = {}, {}
in_place = drawn.where(study="in_place")
total = in_place.one(model="original", sigma=0.1, S_noise=1.0)["iterations"]
print(f"after {total} iterations (the paper's figure goes to 10000)")
print(f"{'':10s}{'sigma':>6s}{'S_noise':>9s}{'contrast':>28s}{'detail':>28s}{'std, all':>18s}{'|D| > 1.02, all':>20s}")
for name in ("original", "edm"):
    for sigma in levels:
        for S_noise in factors:
            m = in_place.one(model=name, sigma=sigma, S_noise=S_noise)
            states = m.tensors["pictures"].float().unflatten(0, (len(m["std"]), -1))
            strips[name, sigma, S_noise] = states
            changes = [change(f, states[0], states[-1:]) for f in (contrast, detail)]
            over_picture = [(s.abs() > 1.02).double().flatten(1).mean(1) for s in (states[0], states[-1])]
            trained_change[name, sigma, S_noise] = [*changes, m["saturated"][-1] - m["saturated"][0], over_picture]
            cells = "".join(f"{f'{v:+.1%} [{lo:+.1%}, {hi:+.1%}]':>28s}" for v, (lo, hi) in changes)
            ends = f"{m['std'][0]:.3f} -> {m['std'][-1]:.3f}"
            bright = f"{m['saturated'][0]:.1%} -> {m['saturated'][-1]:.1%}"
            print(f"{name:10s}{sigma:6g}{S_noise:9.3f}{cells}{ends:>18s}{bright:>20s}")

# %%
fig, axes = plt.subplots(4, 4, figsize=(6.9, 2.75))
for row, sigma in zip(axes, levels, strict=True):
    for ax, (name, S_noise) in zip(row, [(n, S) for n in ("original", "edm") for S in factors], strict=True):
        states = strips[name, sigma, S_noise]
        two = states[:, :2].transpose(0, 1).flatten(0, 1)
        figures.pictures(ax, two, len(states), rf"{name}, $S_\mathrm{{noise}} = {S_noise:g}$" if sigma == 0.1 else "")
    row[0].text(-0.04, 0.5, rf"$\sigma = {sigma:g}$", transform=row[0].transAxes, ha="right", va="center")
fig.subplots_adjust(wspace=0.05, hspace=0.06)
figures.save(fig, out, "figure14")

# %%
fig, axes = plt.subplots(1, 2, figsize=(6.5, 2.4))
shade = dict(zip(levels, plt.cm.viridis(np.linspace(0, 0.85, 4)), strict=True))
for sigma in levels:
    for S_noise, line in zip(factors, ("-", "--"), strict=True):
        m = in_place.one(model="original", sigma=sigma, S_noise=S_noise)
        when = np.linspace(0, total, len(m["std"]))
        label = rf"$\sigma = {sigma:g}$" if S_noise == 1.0 else None
        axes[0].plot(when, np.array(m["std"]) / m["std"][0], line, color=shade[sigma], label=label)
        axes[1].plot(when, 100 * np.array(m["saturated"]), line, color=shade[sigma])
axes[0].plot([], [], "--", color="#777777", label=r"$S_\mathrm{noise} = 1.007$")
axes[0].axhline(1, color=figures.COLOURS["data"], lw=0.8, ls=":", label="exact denoiser")
axes[0].set(xlabel="iterations", ylabel="std of $D$ over its first", title="original: contrast")
axes[1].set(xlabel="iterations", ylabel="pixels with $|D| > 1.02$ / %", title="original: saturation")
axes[0].legend(fontsize=6)
fig.tight_layout()
figures.save(fig, out, "in_place")

# %%
high = [trained_change["original", s, 1.0][0] for s in (2.0, 10.0)]
raised_by = [contrast(strips["original", s, 1.007][-1]) - contrast(strips["original", s, 1.0][-1]) for s in (2.0, 10.0)]
first_seen, last_seen = trained_change["original", 0.1, 1.0][3]
low_gain = last_seen - first_seen
not_helped = trained_change["original", 0.1, 1.007][3][1] - last_seen
lost = {n: trained_change[n, 0.1, 1.0][1] for n in ("original", "edm")}
where_from = f"{total} iterations instead of 10000; intervals from {states.shape[1]} pictures"
found += [
    claims.measure("E-39", "original, sigma 2 and 10, S_noise 1: change of the contrast", [v for v, _ in high],
                   interval=[i for _, i in high], at_most=0.0, note=where_from),
    claims.measure("E-39", "original, sigma 2 and 10: last contrast at S_noise 1.007 less that at 1",
                   [d.mean().item() for d in raised_by], interval=[interval(d.tolist()) for d in raised_by],
                   at_least=0.0),
    claims.measure("E-39", "original, sigma .1: rise of the share of saturated pixels", low_gain.mean().item(),
                   interval=interval(low_gain.tolist()), at_least=0.0),
    claims.measure("E-39", "original, sigma .1: S_noise 1.007 adds to that share", not_helped.mean().item(),
                   interval=interval(not_helped.tolist()), at_least=0.0),
    claims.measure("E-37", "original, sigma .1: change of the detail", lost["original"][0],
                   interval=lost["original"][1], note=where_from),
    claims.measure("E-37", "edm, sigma .1: change of the detail", lost["edm"][0], interval=lost["edm"][1], at_most=0.0),
]  # fmt: skip

# %% [markdown]
# ## Verdict

# %%
claims.save(out / "claims.json", found, "04_heun_churn")
print(claims.summary(found))
