# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. The design space: one ODE, many samplers, and all of them from zero SNR
#
# **Claim** (Karras et al. 2022, Secs. 2 and 3, Tables 1 and 3, Figures 2 and 3). The samplers of VP, VE and DDIM models solve one
# ODE in different times and scales. Heun's method, $\rho$ steps, $\sigma(t) = t$ and $s(t) = 1$ reach the quality of the original samplers with
# 7.3 (VP), 300 (VE) and 3.2 (DDIM) times fewer evaluations of the network.
#
# It would be wrong if the end points differed between the ODEs, if Euler needed no more evaluations than Heun, or if VE's sampler were not the one that
# gains most. **New here**: the same ODE in the angle, where zero SNR ($\sigma = \infty$) is an ordinary point to start from.
#
# Sections 1 to 4 are the mathematics, 5 and 6 compare samplers on denoisers that are known exactly, 7 on a trained network.

# %% tags=["parameters"]
results = "results/full"
evaluations = 8192
mixtures = 8
tolerance = 1e-8
out_dir = ""

# %%
import functools
import math
import tempfile
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchHeunDiscreteScheduler
from scipy.optimize import brentq
from scipy.stats import chi2
from sklearn.datasets import load_digits

import zsnr
from lab import ROOT
from lab.measure.laws import Counted
from lab.measure.metrics import interval
from lab.measure.store import Results, load
from lab.models.mixture import Mixture
from lab.models.sde import from_sde
from lab.report import claims, figures
from zsnr import edm
from zsnr.path import ANGLE, EDM, FLOW, PATHS, VE, VP
from zsnr.samplers import dpmpp_2m, euler, heun, rk2, rk45

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
figures.style()
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
found = []
ORIGINAL, HEUN, OURS, OTHER, INK = "#d1495b", "#b07a1e", "#1f7a8c", "#8d6cab", "#222222"


def check(*args, **bands):
    found.append(claims.measure(*args, **bands))


def rms(x):
    return x.square().mean().sqrt().item()


def falling(*sigmas):
    """The grid of these noise levels, with the image at its end."""
    return torch.tensor([*map(math.atan, sigmas), 0.0])


def reached(sampler, denoiser, x, grid, **options):
    """The state at the last level above 0."""
    states = []
    sampler(denoiser, x, grid, callback=lambda i, phi, y, v: states.append(y), **options)
    return states[-1]


# %% [markdown]
# ## 1. One ODE
#
# EDM's Eq. 4, for any $\sigma(t)$ and $s(t)$, is $\dot x = (\dot\sigma/\sigma + \dot s/s)\, x - (\dot\sigma s/\sigma)\, D(x/s; \sigma)$. At zero SNR its terms diverge. With
# $n = s\sqrt{1+\sigma^2}$, $\varphi = \arctan\sigma$ and $x = n\, x_\varphi$ it becomes $\dot x = \dot n\, x_\varphi + n\, \dot\varphi\, v$. The proof is four lines of algebra:

# %%
t, y, v, F = sp.symbols("t y v F", real=True)
sigma, s = sp.Function("sigma", positive=True)(t), sp.Function("s", positive=True)(t)
n, phi = s * sp.sqrt(1 + sigma**2), sp.atan(sigma)
cos, sin = 1 / sp.sqrt(1 + sigma**2), sigma / sp.sqrt(1 + sigma**2)
D = cos * y - sin * v  # y is x_phi
eq4 = (sigma.diff(t) / sigma + s.diff(t) / s) * n * y - sigma.diff(t) * s / sigma * D
gap = sp.simplify(eq4 - (n.diff(t) * y + n * phi.diff(t) * v))

# EDM's preconditioning of x = (x0 + sigma eps), data of std d, against v-prediction of the data divided by d
a, d = sp.symbols("sigma sigma_data", positive=True)
x = d * y * sp.sqrt(1 + (a / d) ** 2)  # x / d = y / cos(phi), phi = atan(sigma / d)
c_skip, c_out, c_in = d**2 / (a**2 + d**2), a * d / sp.sqrt(a**2 + d**2), 1 / sp.sqrt(a**2 + d**2)
angle = sp.atan(a / d)
precondition = sp.simplify(c_skip * x + c_out * F - d * (sp.cos(angle) * y + sp.sin(angle) * F)), sp.simplify(c_in * x)

# the SDE that belongs to s and sigma, for VP
beta_d, beta_min = sp.symbols("beta_d beta_min", positive=True)
B = beta_d * t**2 / 2 + beta_min * t
s_vp, sigma_vp = sp.exp(-B / 2), sp.sqrt(sp.exp(B) - 1)
f_vp = sp.simplify(s_vp.diff(t) / s_vp)
g2_vp = sp.simplify(s_vp**2 * (sigma_vp**2).diff(t))
sde = sp.simplify(f_vp + B.diff(t) / 2), sp.simplify(g2_vp - B.diff(t))

# the two terms of Eq. 4 for sigma = tan t, s = cos t, and their sum
first, second = sp.tan(t).diff(t) / sp.tan(t), sp.cos(t).diff(t) / sp.cos(t)
limits = [sp.limit(term, t, sp.pi / 2, "-") for term in (first, second, sp.simplify(first + second))]
print("Eq. 4 less n' x_phi + n phi' v:                  ", gap)
print("c_skip x + c_out F less d (cos x_phi + sin F):   ", precondition[0], "  and c_in x =", precondition[1])
print("VP: f + beta/2 and g^2 - beta, beta = B':        ", *sde)
print("angle at zero SNR: sigma'/sigma, s'/s, their sum:", *limits)
check("E-06", "Eq. 4 less n' x_phi + n phi' v, symbolically, any sigma(t) and s(t)", float(gap), equal=0)
check("E-50", "VP: s'/s + beta/2, s^2 (sigma^2)' - beta, symbolically", [float(e) for e in sde], equal=0)
assert precondition == (0, y), "EDM's preconditioning is v-prediction with F = -v"

# %% [markdown]
# So $F = -v$: **EDM's network is a v-prediction network**, up to the largest $\sigma$ that it was trained for.
#
# Numbers next. Algorithm 1 as printed, in $x$ with Eq. 4 as it stands, against our Heun, which keeps $x_\varphi$; its evaluations (E-08); one Euler step to
# $t = 0$ with $\sigma = t$ (E-12); the end points of adaptive solvers along five paths, from the same $x_\varphi$ at $\sigma = 80$ (E-06).

# %%
gauss = zsnr.Gaussian(torch.tensor([0.3, -1.0, 0.5, 2.0]), torch.tensor([1 / 64, 1 / 4, 4.0, 64.0]))
three = Mixture(
    [zsnr.Gaussian(m, torch.tensor([0.09, 0.01])) for m in torch.tensor([[1, 0], [-0.5, 0.8], [-0.5, -0.8]])]
)
noise4, noise2 = (zsnr.randn((8, k), zsnr.generators(range(8)), torch.float64) for k in (4, 2))
beta = lambda t: 19.9 * t + 0.1  # noqa: E731
TABLE1 = {  # sigma, sigma', s, s' of t
    "VP": (
        lambda t: math.sqrt(math.expm1(9.95 * t**2 + 0.1 * t)),
        lambda t: beta(t) * math.exp(9.95 * t**2 + 0.1 * t) / (2 * math.sqrt(math.expm1(9.95 * t**2 + 0.1 * t))),
        lambda t: math.exp(-(9.95 * t**2 + 0.1 * t) / 2),
        lambda t: -beta(t) / 2 * math.exp(-(9.95 * t**2 + 0.1 * t) / 2),
    ),
    "VE": (math.sqrt, lambda t: 1 / (2 * math.sqrt(t)), lambda t: 1.0, lambda t: 0.0),
    "EDM": (lambda t: t, lambda t: 1.0, lambda t: 1.0, lambda t: 0.0),
}


def algorithm1(denoiser, x, times, name):
    """EDM's Algorithm 1 in the paper's variables; times down to the last above 0, then the step to sigma = 0."""
    sigma, dsigma, s, ds = TABLE1[name]

    def rate(x, t):
        phi = math.atan(sigma(t))
        x_phi = x / s(t) * math.cos(phi)
        D = math.cos(phi) * x_phi - math.sin(phi) * denoiser(x_phi, phi)
        return (dsigma(t) / sigma(t) + ds(t) / s(t)) * x - dsigma(t) * s(t) / sigma(t) * D, D

    for t, u in pairwise(times):
        slope = rate(x, t)[0]
        x = x + (u - t) / 2 * (slope + rate(x + (u - t) * slope, u)[0])
    return rate(x, times[-1])[1]


grid = zsnr.karras(18)
start = math.sin(grid[0]) * noise4
print(f"{'path':6s}{'Algorithm 1 less ours':>23s}{'evaluations, 18 steps':>23s}{'Euler step to 0 less D':>24s}")
literal, calls, single = [], [], []
for path in (VP, VE, EDM):
    times = [path.time(float(p)) for p in grid[:-1]]
    counted = Counted(gauss)
    ours = heun(counted, start, grid, path=path)
    theirs = algorithm1(gauss, start * path.at(float(grid[0])).n, times, path.name)
    literal.append((ours - theirs).abs().max().item())
    calls.append(counted.calls)
    steps = [0.0]
    for p in (0.3, 1.0, 1.5) if path is EDM else ():
        at, v0 = path.at(p), gauss(noise4, p)
        to_zero = at.n * noise4 - path.time(p) * (at.dn * noise4 + at.n * at.dphi * v0)
        steps.append((to_zero - (math.cos(p) * noise4 - math.sin(p) * v0)).abs().max().item())
    single.append(max(steps))
    print(f"{path.name:6s}{literal[-1]:23.0e}{calls[-1]:23d}{f'{single[-1]:.0e}' if path is EDM else '':>24s}")

target = from_sde(lambda t: -beta(t) / 2, lambda t: math.sqrt(beta(t)), name="VP by quadrature")
ends = {
    path.name: rk45(three, math.sin(math.atan(80)) * noise2, falling(80, 1e-3), path=path, rtol=1e-9, atol=1e-9)
    for path in (*PATHS.values(), target)
}
spread = max((a - ends["angle"]).abs().max().item() for a in ends.values())
print(f"end points along {', '.join(ends)}: largest difference below {10 ** math.ceil(math.log10(spread)):.0e}")
recommended = [Counted(gauss) for _ in range(3)]
for counted, steps in zip(recommended, (18, 40, 256), strict=True):
    heun(counted, start, zsnr.karras(steps), path=EDM)
check("E-06", "end points along six paths, RK45: largest difference", spread)
check("E-08", "Algorithm 1 in the paper's variables less ours, on VP, VE, EDM", literal, at_most=1e-9)
check("E-08", "evaluations of 18 steps on VP, VE, EDM", calls)
check("E-12", "Euler step from t to 0 on sigma = t, less D, three levels", single[-1])
check(
    "E-35",
    "evaluations of the recommended 18, 40, 256 steps",
    [counted.calls for counted in recommended],
)

# %% [markdown]
# **From the SDE to the path and back** (E-50). $dx = f x\, dt + g\, dw$ gives $s = e^{\int f}$ and $\sigma^2 = \int g^2/s^2$. From Song's $f$ and $g$, by quadrature: VP's
# column, and VE's with both clocks ($\sigma = \sqrt t$, and the geometric one). And the forward SDE itself, simulated from $x_0 = 1$.

# %%
low, high = 0.02, 100.0
ve_song = from_sde(
    lambda t: 0.0, lambda t: low * (high / low) ** t * math.sqrt(2 * math.log(high / low)), name="VE, Song"
)
ve_root = from_sde(lambda t: 0.0, lambda t: 1.0, 100.0**2, name="VE, sqrt")
checks = {"VP": [], "VE, sigma = sqrt(t)": [], "VE, geometric": []}
for sigma_ in np.geomspace(0.02, 99, 15):
    p = math.atan(sigma_)
    checks["VP"] += [target.time(p) / VP.time(p), *(a / b for a, b in zip(target.at(p)[:3], VP.at(p)[:3], strict=True))]
    checks["VE, sigma = sqrt(t)"] += [ve_root.time(p) / VE.time(p), *np.divide(ve_root.at(p), VE.at(p))]
    checks["VE, geometric"].append(ve_song.time(p) * math.log(high / low) / math.log(math.hypot(sigma_, low) / low))
worst = {name: max(abs(r - 1) for r in ratios) for name, ratios in checks.items()}
print(
    "recovered from f and g, relative error below:",
    ", ".join(f"{k} {10 ** math.ceil(math.log10(e)):.0e}" for k, e in worst.items()),
)

steps, count = 1000, 20000
x = torch.ones(count)
g_ = torch.Generator().manual_seed(0)
marginal = []
print(f"{'t':>5s}{'mean':>9s}{'s':>9s}{'std':>9s}{'s sigma':>9s}   Euler-Maruyama on the forward VP SDE, {count} paths")
for i in range(steps):
    b = beta((i + 0.5) / steps)
    x = x - b / 2 * x / steps + math.sqrt(b / steps) * torch.randn(count, generator=g_)
    if (i + 1) % 200 == 0:
        at = VP.angle((i + 1) / steps)
        print(
            f"{(i + 1) / steps:5.1f}{x.mean().item():9.4f}{math.cos(at):9.4f}{x.std().item():9.4f}{math.sin(at):9.4f}"
        )
        marginal.append((x.mean().item() - math.cos(at), x.std().item() / math.sin(at) - 1))
check("E-50", "columns recovered from f and g: largest relative error", max(worst.values()))
check(
    "E-50",
    "simulated forward VP SDE: mean less s, at t = .2 ... 1",
    [m for m, _ in marginal],
    equal=0,
    abs=6 / math.sqrt(count),
    interval=[(m - 2 / math.sqrt(count), m + 2 / math.sqrt(count)) for m, _ in marginal],
)
check(
    "E-50",
    "simulated forward VP SDE: std over s sigma, less 1",
    [r for _, r in marginal],
    equal=0,
    abs=6 / math.sqrt(2 * count),
    interval=[(r - 2 / math.sqrt(2 * count), r + 2 / math.sqrt(2 * count)) for _, r in marginal],
)

# %% [markdown]
# ## 2. Table 1, live

# %%
# by the column that networks are trained and sampled with: c_noise is 999 t
time = lambda sigma: edm.column("vp").precondition(torch.tensor(sigma))[3].item() / 999  # noqa: E731
ends_vp = [brentq(lambda s, t=t: time(s) - t, 1e-5, 1e4, xtol=1e-12) for t in (1e-5, 1.0)]
levels_vp = edm.column("vp").steps(8)
u = edm.iddpm_levels()
levels = [*u[:10].tolist(), u[-2].item()]
printed = [20291, 642, 321, 214, 160, 128, 106, 92, 80, 71, 0.0064]
print("VP: sigma(1e-5) = {:.5f}, sigma(1) = {:.2f}".format(*ends_vp))
print("iDDPM u_j:", *(f"{x:.4g}" if x < 1 else f"{x:.1f}" for x in levels))
points = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
empirical = zsnr.Empirical(points)
probe = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))


def ideal(x, sigma):
    """D(x; sigma) by our denoiser, from x = x0 + sigma eps."""
    phi = math.atan(sigma)
    x_phi = x * math.cos(phi)
    return math.cos(phi) * x_phi - math.sin(phi) * empirical(x_phi, phi)


density = torch.exp(-(probe[:, None] - points).square().sum(-1) / (2 * 0.7**2))
formula = (density[..., None] * points).sum(1) / density.sum(1, keepdim=True)
nearest = points[torch.cdist(probe, points).argmin(1)]
limit = [
    (ideal(probe, 0.7) - formula).abs().max().item(),
    (ideal(probe, 1e6) - points.mean(0)).abs().max().item(),
    (ideal(probe, 0.02) - nearest).abs().max().item(),
]
print(
    "ideal denoiser less: App. B.3's formula {:.0e}, data mean at 1e6 {:.0e}, nearest point at .02 {:.0e}".format(
        *limit
    )
)
check("E-01", "sigma(eps_t), sigma(1) of the column that trains", ends_vp)
check(
    "E-01",
    "its other copies: where its steps begin, sigma_max, and the path's sigma(eps_t), sigma(1), over these",
    [
        math.tan(levels_vp[0]) / ends_vp[1],
        edm.column("vp").sigma_max / ends_vp[1],
        *(math.tan(VP.angle(t)) / s for t, s in zip((1e-5, 1.0), ends_vp, strict=True)),
    ],
    equal=1.0,
    abs=1e-9,
)
check("E-02", "u_0 ... u_9", levels[:10])
check("E-02", "u_999", levels[-1], equal=printed[-1], abs=5e-5)
check("E-07", "formula; mean at sigma = 1e6; nearest point at sigma = .02", limit)

# %% [markdown]
# **The original samplers** (E-03, E-04, E-05). Song's VE update is Euler on $\sigma = \sqrt t$; its last step, to $\sigma = 0$, goes half of the way to $D$. Song's VP
# sampler steps by $1/N$ where its times differ by $(1 - \epsilon_s)/(N - 1)$, so that it ends at $\epsilon_s - 1/N$, before time 0 if $N < 1000$. What it leaves is read off
# data that is one point: everything that is not the point is noise. In grey levels of 255, for data in $[-1, 1]$:

# %%
eps_s = 1e-3


def vp_original(N):
    """Std of the noise left by Song's VP sampler (probability flow, Euler), data a point at 0, one unit of noise."""
    x = 1.0
    for i in range(N):
        t = 1 + i / (N - 1) * (eps_s - 1)
        score = -x / math.sin(VP.angle(t)) ** 2
        x += -1 / N * (-beta(t) / 2 * x - beta(t) / 2 * score)
    return abs(x)


point = zsnr.Gaussian(torch.zeros(1), torch.zeros(1))
print(f"{'':16s}{'noise left by':>15s}{'right multiplier':>22s}")
print(f"{'N':>6s}{'ends at':>10s}{'the original':>15s}{'at eps_s':>12s}{'after D':>10s}")
left = {}
for N in (64, 128, 256, 512, 1000):
    right = point, torch.ones(1, 1), edm.column("vp").steps(N)
    ways = vp_original(N), reached(euler, *right, path=VP), euler(*right, path=VP)
    left[N] = [127.5 * abs(float(x)) for x in ways]
    print(f"{N:6d}{eps_s - 1 / N:10.4f}" + "{:15.2f}{:12.2f}{:10.2f}".format(*left[N]))

spectrum = 0.25 * 2.0 ** -torch.arange(16.0)
wide = zsnr.Gaussian(torch.zeros(16), spectrum)
noise16 = zsnr.randn((64, 16), zsnr.generators(range(64))).double()


def ve_original(N, dtype, network=torch.float32):
    """x at sigma_min by Song's VE update, x <- x + (sigma_i^2 - sigma_{i+1}^2) / 2 score, state and levels in a dtype."""
    levels = torch.tan(edm.column("ve", sigma_min=low, sigma_max=high).steps(N)[:-1]).to(dtype)
    x, L = (noise16 * high).to(dtype), spectrum.to(network)
    for a, b in pairwise(levels):
        y = x.to(network)
        score = (L / (L + a.to(network) ** 2) * y - y) / a.to(network) ** 2
        x = x + (a * a - b * b) / 2 * score.to(dtype)
    return x.double()


top, bottom = math.atan(high), math.atan(low)
truth = wide.solve(math.sin(top) * noise16, top, bottom) / math.cos(bottom)
print(f"\n{'N':>6s}{'Euler error':>14s}{'float32 state less float64':>28s}{'float64, network in float32':>29s}")
roundoff = {}
for N in [n for n in (128, 512, 2048, 8192) if n <= max(evaluations, 512)]:
    double, exact = ve_original(N, torch.float64), ve_original(N, torch.float64, torch.float64)
    roundoff[N] = rms(exact - truth), rms(ve_original(N, torch.float32) - double), rms(double - exact)
    print(f"{N:6d}" + "{:14.1e}{:28.1e}{:29.1e}".format(*roundoff[N]))
most = max(roundoff)
ours = reached(
    euler, wide, math.sin(top) * noise16, edm.column("ve", sigma_min=low, sigma_max=high).steps(128), path=VE
) / math.cos(bottom)
same = (ours - ve_original(128, torch.float64, torch.float64)).abs().max().item()
check("E-03", "Song's VE update less Euler on sigma = sqrt(t), 128 steps", same)
ends_ve = torch.tan(edm.column("ve").steps(8))[[0, -2]]
check("E-03", "first and last level for data in [-1, 1]", ends_ve, equal=[2 * 50.0, 2 * 0.01], abs=1e-9)
check("E-04", "N = 128: the original ends at time", eps_s - 1 / 128, at_most=0.0)
check("E-04", "N = 128: noise it leaves, grey levels of 255", left[128][0])
check("E-04", "N = 128: with the right multiplier, and D at the end", left[128][2], at_most=1.0)
check("E-05", f"round-off at N = {most} over N = 128", roundoff[most][1] / roundoff[128][1], at_least=1.0)
check("E-05", "most steps: float64 over float32 round-off", roundoff[most][2] / roundoff[most][1])
check(
    "E-05",
    f"N = {most}: round-off over Euler's own error",
    roundoff[most][1] / roundoff[most][0],
    at_least=1.0,
    note="on exact data round-off grows with N and float64 removes it, but it is a thousand times below Euler's "
    "error: it cannot be the gap in Fig. 2b, unless the paper's network amplifies it a thousandfold",
)

# %% [markdown]
# ## 3. Figure 3: which path is straight
#
# Data: two points, at $\pm 1$; $D = \tanh(x/\sigma^2)$. Trajectories of the exact ODE in each path's own time and scale, $\sigma$ from 25 to 0.002 (insets: the last part,
# $\sigma \le 1$); the fourth panel starts at exactly zero SNR. Two measures of curvature, both unchanged by rescaling the axes: the largest
# deviation from the chord over a range of $\sigma$, as a share of the way made there (RMS over 400 trajectories), and the share of all turning (total variation of
# $\dot x$) within a range.

# %%
two = zsnr.Empirical(torch.tensor([[-1.0], [1.0]]))
sigmas = np.geomspace(25, 0.002, 1500)
RANGES = {"below": (0.002, 10**-0.5), "middle": (10**-0.5, 10**0.5), "above": (10**0.5, 25)}


def trajectories(z, grid):
    """(N, B) states x_phi of the exact ODE at the grid's levels above 0."""
    states = []
    heun(two, math.sin(grid[0]) * z.view(-1, 1), grid, callback=lambda i, phi, x, v: states.append(x[:, 0]))
    return torch.stack(states).numpy()


points_at = torch.tensor([[-2.0], [0.1], [3.0]])
for p in (0.3, 1.0, 1.5):
    D_two = math.cos(p) ** 2 * points_at - math.sin(p) * two(math.cos(p) * points_at, p)
    assert torch.allclose(D_two, torch.tanh(points_at / math.tan(p) ** 2), atol=1e-12)
many = trajectories(torch.randn(400, generator=torch.Generator().manual_seed(0)), falling(*sigmas))
bend, turning = {}, {}
print(f"{'':7s}{'deviation from the chord, sigma in':>40s}{'share of the turning, sigma in':>40s}")
print(f"{'path':7s}" + 2 * "".join(f"{f'{a:.3g} - {b:.3g}':>14s}" for a, b in RANGES.values()))
for path in (VP, VE, EDM, FLOW, ANGLE):
    times = np.array([path.time(math.atan(q)) for q in sigmas])
    x = many * np.array([path.at(math.atan(q)).n for q in sigmas])[:, None]
    turn = np.abs(np.diff(np.diff(x, axis=0) / np.diff(times)[:, None], axis=0)).sum(1)
    for name, (a, b) in RANGES.items():
        inside = (sigmas >= a) & (sigmas <= b)
        tt, xx = times[inside], x[inside]
        chord = xx[0] + (xx[-1] - xx[0]) * ((tt - tt[0]) / (tt[-1] - tt[0]))[:, None]
        way = np.sqrt(np.mean((xx[-1] - xx[0]) ** 2))
        bend[path.name, name] = np.sqrt(np.mean((xx - chord) ** 2, 1)).max() / way
        turning[path.name, name] = turn[inside[1:-1]].sum() / turn.sum()
    print(f"{path.name:7s}" + "".join(f"{m[path.name, r]:14.4f}" for m in (bend, turning) for r in RANGES))
check(
    "E-24",
    "deviation from the chord, EDM over VP and VE, sigma below and above the middle",
    [bend["EDM", name] / bend[other, name] for name in ("below", "above") for other in ("VP", "VE")],
)
check(
    "E-24",
    "share of EDM's turning within .316 <= sigma <= 3.16, of .002 to 25",
    turning["EDM", "middle"],
    at_least=0.5,
    note="two points at +-1, as in Fig. 3; 'narrow middle range' is read as: most of the turning within one decade",
)

# %%
quantiles = torch.special.ndtri((torch.arange(15) + 0.5) / 15)
fan = trajectories(quantiles, falling(*sigmas))
zero_grid = zsnr.power(1500)
fan_zero = trajectories(quantiles, zero_grid)
fig, axes = plt.subplots(1, 4, figsize=(6.9, 2.1))
for ax, path in zip(axes, (VP, VE, EDM, ANGLE), strict=True):
    angles = zero_grid[:-1].numpy() if path is ANGLE else np.arctan(sigmas)
    times = np.array([path.time(p) for p in angles])
    x = (fan_zero if path is ANGLE else fan) * np.array([path.at(p).n for p in angles])[:, None]
    height = 4.6 if path in (VP, ANGLE) else 62
    inset = ax.inset_axes([0.17, 0.72, 0.45, 0.28])
    for a, end, top_ in ((ax, times[0], height), (inset, path.time(math.atan(1.0)), 2.6)):
        grid_t, grid_x = np.linspace(end * 1e-3, end, 120), np.linspace(-top_, top_, 160)
        shade = []
        for q in grid_t:
            p = (
                path.at(path.angle(q))
                if q < path.time(math.pi / 2 - 1e-9) or path is not ANGLE
                else path.at(math.pi / 2)
            )
            c, w = p.n * math.cos(p.phi), p.n * math.sin(p.phi)
            column = np.exp(-((grid_x - c) ** 2) / (2 * w**2)) + np.exp(-((grid_x + c) ** 2) / (2 * w**2))
            shade.append(column / column.max())
        a.pcolormesh(grid_t, grid_x, np.array(shade).T, cmap="Greys", vmax=3, rasterized=True, shading="nearest")
        a.plot(times, x, color=OURS if path is ANGLE else INK, lw=0.6)
        a.set(xlim=(0, end), ylim=(-top_, top_))
        a.grid(False)
    inset.set(xticks=[], yticks=[-1, 1], facecolor="white")
    inset.tick_params(labelsize=5, length=2, pad=1)
    for side in inset.spines.values():
        side.set(visible=True, linewidth=0.5)
    ax.set(xlabel="$t$", title=path.name)
axes[0].set_ylabel("$x$")
axes[3].set(title="angle, from zero SNR", xticks=[0, math.pi / 4, math.pi / 2], xticklabels=["0", "π/4", "π/2"])
fig.tight_layout(w_pad=0.4)
figures.save(fig, out, "figure3")

# %% [markdown]
# ## 4. Orders
#
# The error of one step of length $h$, and the error at the end, against the exact solution: a Gaussian with variances from 1/64 to 64, and a
# mixture of three Gaussians in the plane. Each path on its own steps, which are smooth in their index: the angle and the flow from exactly zero SNR. Exact here means:
# down to the grid's last level above 0, then the step to $D$ that all samplers end with.

# %%
GRIDS = {
    ANGLE: (zsnr.power, "power 1.5"),
    FLOW: (zsnr.power, "power 1.5"),
    EDM: (zsnr.karras, "rho 7"),
    VE: (edm.column("ve").steps, "geometric"),
    VP: (edm.column("vp").steps, "uniform t"),
}
DATA = {"Gaussian": (gauss, noise4), "mixture": (three, noise2)}
counts = [min(evaluations, 512) // k for k in (8, 4, 2, 1)]


@functools.cache
def solved(data, phi, psi):
    """The exact solution from one angle to another."""
    denoiser, x = DATA[data]
    if denoiser is gauss:
        return gauss.solve(x, phi, psi)
    return reached(rk45, denoiser, x, torch.tensor([phi, psi, 0.0]), rtol=1e-10, atol=1e-11)


errors, slopes, local, truths = {}, {}, {}, {}
for data, (denoiser, z) in DATA.items():
    for path, (make, _) in GRIDS.items():
        for N in counts:
            first, last = float(make(N)[0]), float(make(N)[-2])
            x = solved(data, first, last)
            truths[N] = math.cos(last) * x - math.sin(last) * denoiser(x, last)
        for solver in (euler, heun):
            key = data, path.name, solver.__name__
            errors[key] = [rms(solver(denoiser, z, make(N), path=path) - truths[N]) for N in counts]
            slopes[key] = -np.polyfit(np.log(counts[1:]), np.log(errors[key][1:]), 1)[0]
            lengths, one = [0.04, 0.02, 0.01, 0.005], []
            for h in lengths:
                step = reached(solver, denoiser, z, torch.tensor([1.0, 1.0 - h, 0.0]), path=path)
                one.append((step - solved(data, 1.0, 1.0 - h)).abs().max().item())
            local[key] = np.polyfit(np.log(lengths), np.log(one), 1)[0]
print(f"{'':28s}{'one step':^16s}{'at the end':^16s}")
print(f"{'data':10s}{'path':7s}{'steps':11s}" + 2 * f"{'Euler':>8s}{'Heun':>8s}")
for data in DATA:
    for path, (_, name) in GRIDS.items():
        row = [m[data, path.name, s] for m in (local, slopes) for s in ("euler", "heun")]
        print(f"{data:10s}{path.name:7s}{name:11s}" + "".join(f"{x:8.2f}" for x in row))
    for solver, order in (("euler", 1), ("heun", 2)):
        for what, table, expected in (("one step", local, order + 1), ("at the end", slopes, order)):
            values = [table[data, path.name, solver] for path in GRIDS]
            check("E-11", f"{solver}, {what}, {data}, on {len(values)} paths", values, equal=expected, abs=0.1)
mean_order = [np.mean([v for (_, _, s), v in local.items() if s == solver]) for solver in ("euler", "heun")]
check("E-11", "order of one step's error, Euler and Heun, mean over paths and data", mean_order)

fig, axes = plt.subplots(1, 2, figsize=(6.5, 2.4))
for ax, data in zip(axes, DATA, strict=True):
    for path, colour in zip(GRIDS, (OURS, OTHER, INK, ORIGINAL, HEUN), strict=True):
        for solver, mark in (("euler", "o:"), ("heun", "o-")):
            label = path.name if solver == "heun" else None
            ax.loglog(counts, errors[data, path.name, solver], mark, color=colour, label=label)
    ax.set(title=f"{data}: Euler dotted, Heun solid", xlabel="steps $N$", xticks=counts)
    ax.set_xticklabels(counts)
    ax.minorticks_off()
axes[0].set_ylabel("RMS error at the end")
axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
fig.tight_layout()
figures.save(fig, out, "orders")

# %% [markdown]
# ## 5. Figure 2 and Table 3, on a denoiser that is known exactly
#
# Data: ten Gaussians, each with the mean and the covariance of one class of scikit-learn's digits (8x8 pixels, centred, scaled to the std .5 that EDM
# takes for images, plus the variance of rounding to a grey level). Smooth, so that an error is an error and not a jump to another picture. 32 latents; the error is
# the RMSE per pixel to the exact ODE's end point from the same latent at the same $\sigma_{max}$, median over latents.

# %%
digits = load_digits()
pixels = torch.tensor(digits.data)
levels_std = pixels.std()
pixels = (pixels - pixels.mean()) / levels_std * 0.5
rounding = (0.5 / levels_std) ** 2 / 12 * torch.eye(64)
by_class = [pixels[torch.tensor(digits.target == k)] for k in range(10)]
images = Mixture([zsnr.Gaussian(z.mean(0), z.T.cov() + rounding) for z in by_class])
latents = zsnr.randn((32, 64), zsnr.generators(range(32)), torch.float64)


def legend(label):
    """A label of the tables, set for a figure."""
    return label.replace("rho 7", r"$\rho = 7$").replace("sigma = t", r"$\sigma = t$")


def ends_exactly(denoiser, z, phi, cache):
    """The exact ODE's end points: RK45 to sigma = 1e-4, where the rest is below 1e-6."""
    if phi not in cache:
        grid = torch.tensor([phi, math.atan(1e-4), 0.0])
        cache[phi] = rk45(denoiser, math.sin(phi) * z, grid, rtol=tolerance, atol=tolerance / 10)
    return cache[phi]


def sampled(sampler, grid, denoiser=images, z=latents, cache={}, **options):  # noqa: B006, the cache is meant to stay
    """Evaluations, and quartiles over latents of the RMSE to the exact end point."""
    phi, counted = float(grid[0]), Counted(denoiser)
    x = sampler(counted, math.sin(phi) * z, grid, **options)
    error = (x - ends_exactly(denoiser, z, phi, cache)).square().mean(1).sqrt()
    return counted.calls, *error.quantile(torch.tensor([0.5, 0.25, 0.75])).tolist()


POWERS = [2**k for k in range(4, 11) if 2**k <= evaluations]
LONG = [n for n in (2048, 4096, 8192) if n <= evaluations]
FEW = [n for n in (4, 6, 9, 12, 18, 28, 40, 64, 128) if 2 * n - 1 <= evaluations]
rho7, rho7_ve = zsnr.karras, lambda N: zsnr.karras(N, sigma_min=low)
rho7_ddim = lambda N: zsnr.karras(N, sigma_min=0.0064)  # noqa: E731
LABELS = ("original: Euler, its own steps", "Heun, rho 7 steps", "Heun, rho 7 steps, sigma = t")
FAMILIES = {
    "VP": ((euler, VP, edm.column("vp").steps, POWERS), (heun, VP, rho7, FEW), (heun, EDM, rho7, FEW)),
    "VE": (
        (euler, VE, edm.column("ve").steps, [*POWERS, *LONG]),
        (heun, VE, rho7_ve, FEW),
        (heun, EDM, rho7_ve, FEW),
    ),
    "DDIM": ((euler, EDM, edm.column("iddpm").steps, POWERS[:-1]), (heun, EDM, rho7_ddim, FEW)),
}
curves = {
    (family, label): np.array([sampled(solver, make(N), path=path) for N in counts_])
    for family, rows in FAMILIES.items()
    for label, (solver, path, make, counts_) in zip(LABELS, rows, strict=False)
}
curves["zero SNR"] = np.array([sampled(heun, zsnr.power(N)) for N in FEW])
curves["angle, rho"] = np.array([sampled(heun, rho7(N)) for N in FEW])
curves["EDM, power"] = np.array([sampled(heun, zsnr.power(N, phi_max=math.atan(80)), path=EDM) for N in FEW])
curves["Euler"] = np.array([sampled(euler, rho7(N), path=EDM) for N in POWERS])
curves["RK45"] = []
for tol in np.logspace(-1, -5, 13):
    curves["RK45"].append(sampled(rk45, rho7(18), path=EDM, rtol=tol, atol=tol))
    if curves["RK45"][-1][0] > evaluations:
        break
curves["RK45"] = np.array(curves["RK45"])


def needed(curve, level):
    """Evaluations for an error, interpolated in the logarithms; the last crossing counts."""
    n, error = np.log(curve[:, 0]), np.log(curve[:, 1] / level)
    above = np.flatnonzero(error > 0)
    if len(above) == 0 or above[-1] == len(n) - 1:
        return math.nan
    k = above[-1]
    return math.exp(n[k] + (n[k + 1] - n[k]) * error[k] / (error[k] - error[k + 1]))


LEVELS = (0.02, 0.01, 0.005)
print(f"{'evaluations for a median error of':38s}" + "".join(f"{e:10g}" for e in LEVELS) + f"{'error at 35':>14s}")
ROWS = {
    "zero SNR": "      Heun, power 1.5, angle, zero SNR",
    "angle, rho": "      Heun, rho 7, angle, from 80",
    "EDM, power": "      Heun, power 1.5, sigma = t, from 80",
    "Euler": "      Euler, rho 7, sigma = t, from 80",
}
speed = {}
for key, curve in curves.items():
    name = ROWS.get(key, "{:5s} {}".format(*key))
    if key == "RK45":
        continue
    at35 = f"{curve[curve[:, 0] == 35][0, 1]:14.4f}" if 35 in curve[:, 0] else ""
    print(f"{name:38s}" + "".join(f"{needed(curve, e):10.0f}" for e in LEVELS) + at35)
for family, rows in FAMILIES.items():
    first, last_ = (curves[family, LABELS[k]] for k in (0, len(rows) - 1))
    speed[family] = [needed(first, e) / needed(last_, e) for e in LEVELS]
    print(f"{family + ': original over the last line':38s}" + "".join(f"{x:10.1f}" for x in speed[family]))
heun_gain = needed(curves["Euler"], 0.01) / needed(curves["VP", LABELS[2]], 0.01)
ratio = {"VP": 256 / 35, "VE": 8192 / 27, "DDIM": 250 / 79}
print("the paper's gains:", ", ".join(f"{k} {x:.2f}" for k, x in ratio.items()))
others = max(speed["VP"][1], speed["DDIM"][1])
check("E-26", "256/35 (VP), 8192/27 (VE), 250/79 (DDIM)", list(ratio.values()))
check(
    "E-29",
    "exact denoiser, evaluations for an error of .01, Euler over Heun on the same steps and path",
    heun_gain,
)
check(
    "E-29",
    "exact denoiser, gain over the original sampler at an error of .01: VE's over the larger of VP's and DDIM's",
    speed["VE"][1] / others,
    at_least=1.0,
    note="on the exact denoiser the gains at an error of .01 are "
    + ", ".join(f"{k} {x[1]:.1f}" for k, x in speed.items())
    + "; they grow with the accuracy asked for, and VP's own path is better than sigma = t there",
)

# %%
fig, axes = plt.subplots(1, 3, figsize=(6.9, 2.5), sharey=True)
for ax, (family, rows) in zip(axes, FAMILIES.items(), strict=True):
    for label, colour in zip(LABELS[: len(rows)], (ORIGINAL, HEUN, OURS), strict=False):
        colour = OURS if family == "DDIM" and label == LABELS[1] else colour
        n, middle, lower, upper = curves[family, label].T
        ax.fill_between(n, lower, upper, color=colour, alpha=0.15, lw=0)
        ax.loglog(n, middle, "o-", color=colour, ms=2.5, label=legend(LABELS[2] if colour == OURS else label))
    ax.loglog(*curves["zero SNR"][:, :2].T, ".--", color=INK, ms=3, lw=0.9, label="Heun in the angle, from zero SNR")
    if family != "VE":
        ax.loglog(*curves["RK45"][:, :2].T, "x", color=OTHER, ms=3.5, label=legend("RK45, sigma = t"))
    ax.axhline(0.01, color=INK, lw=0.5, ls=":")
    ax.set(title=family, xlabel="evaluations", ylim=(1e-4, 2), xlim=(5, 1e4 if family == "VE" else 1500))
axes[0].set_ylabel("RMSE to the exact end point")
fig.tight_layout(rect=(0, 0.13, 1, 1))
fig.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=3, fontsize=7)
figures.save(fig, out, "figure2_exact")

# %% [markdown]
# VE's sampler gains most, by far. The other gains are smaller than the paper's: on a smooth distribution that is known exactly, the original VP and
# DDIM samplers are already good at 100 evaluations, and the factors grow with the accuracy that is asked for. $\sigma = t$ does not beat VP's own path here,
# once both use Heun and $\rho$ steps: the third row of Table 3 does not follow from the ODE alone. VE's curves end at the $\sigma_{min} = .02$ that the paper keeps
# for it. From exactly zero SNR, with Heun in the angle on `power` steps, the same accuracy costs the fewest evaluations of all; both the steps and the path have
# a part in it.
#
# **RK45** (E-28), **the start of iDDPM's grid** (E-02) and **$\alpha$** (E-10), the last on the digits and on eight random mixtures in eight dimensions.

# %%
print(f"{'error of Heun':>14s}{'Heun':>8s}{'RK45':>8s}   (evaluations, sigma = t, rho 7 steps)")
black_box = {}
for steps in [n for n in FEW if n in (12, 18, 28, 64, 128)]:
    n, error = curves["VP", LABELS[2]][FEW.index(steps)][:2]
    black_box[steps] = min((r[0] for r in curves["RK45"] if r[1] <= error), default=math.nan) / n
    print(f"{error:14.4f}{n:8.0f}{black_box[steps] * n:8.0f}")
starts = [n for n in (16, 64, 256) if n <= evaluations]
start_at = {j: [sampled(euler, edm.column("iddpm", j_0=j).steps(N), path=EDM)[1] for N in starts] for j in (0, 8)}
print(
    f"iDDPM steps, median error at {', '.join(map(str, starts))}: "
    + "; ".join(f"j_0 = {j} " + " ".join(f"{e:.4f}" for e in es) for j, es in start_at.items())
)

ALPHAS = [0.5, 0.6, 2 / 3, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5]


def random_mixture(seed):
    """Six equal Gaussians in 8 dimensions, variances falling by halves, scaled to a std of .5."""
    g = torch.Generator().manual_seed(seed)
    means, variances = torch.randn(6, 8, generator=g), 0.1 * 2.0 ** -torch.arange(8.0)
    means = means - means.mean(0)
    scale = 0.5 / math.sqrt(means.square().mean() + variances.mean())
    return Mixture([zsnr.Gaussian(m * scale, variances * scale**2) for m in means])


noise8 = zsnr.randn((64, 8), zsnr.generators(range(64)), torch.float64)
sweeps = []
sets = [{"denoiser": random_mixture(seed), "z": noise8, "cache": {}} for seed in range(mixtures)]
for options in [*sets, {}]:  # last, the digits
    row = [sampled(rk2, rho7(18), path=EDM, alpha=alpha, **options)[1] for alpha in ALPHAS]
    sweeps.append(np.divide(row, row[ALPHAS.index(1.0)]))
sweeps = np.array(sweeps)
spread_ = [interval(sweeps[:-1, k]) if ALPHAS[k] != 1 else (1.0, 1.0) for k in range(len(ALPHAS))]
print(f"{'alpha':>8s}{'error over that of alpha = 1, mixtures':>44s}{'digits':>10s}   (18 steps, 35 evaluations)")
for k, alpha in enumerate(ALPHAS):
    print(
        f"{alpha:8.2f}{sweeps[:-1, k].mean():22.3f}   [{spread_[k][0]:.3f}, {spread_[k][1]:.3f}]{sweeps[-1, k]:13.3f}"
    )
k = ALPHAS.index(1.1)
check(
    "E-28",
    "the paper's RK45 over its own evaluations (VP, VE, DDIM)",
    [115 / 35, 93 / 27, 131 / 79],
    equal=[3.3, 3.4, 1.7],
    abs=0.05,
)
check(
    "E-28",
    "exact denoiser: RK45's evaluations over Heun's 35, at the error of Heun's 18 steps",
    black_box[18],
    note=f"at the error of {FEW[-1]} Heun steps RK45 needs {black_box[FEW[-1]]:.2f} times Heun's evaluations: the exact denoiser "
    "is smooth enough for its order",
)
check(
    "E-02",
    f"exact denoiser, Euler: error from j_0 = 0 over that from j_0 = 8, {', '.join(map(str, starts))} steps",
    np.divide(start_at[0], start_at[8]),
    at_least=1.0,
    note="error instead of FID",
)
check(
    "E-10",
    "exact denoisers: error at alpha = 1.1 over alpha = 1",
    sweeps[:-1, k].mean(),
    interval=spread_[k],
    note=f"{mixtures} mixtures, on the paper's grid and path; smaller alphas are better there",
)

fig, ax = plt.subplots(figsize=(3.4, 2.3))
ax.plot(ALPHAS, sweeps[:-1].T, color=OURS, lw=0.5, alpha=0.5)
ax.errorbar(
    ALPHAS,
    sweeps[:-1].mean(0),
    np.abs(np.transpose(spread_) - sweeps[:-1].mean(0)),
    fmt="o-",
    color=OURS,
    capsize=2,
    label=f"{mixtures} mixtures, 95 %",
)
ax.plot(ALPHAS, sweeps[-1], "s--", color=HEUN, ms=3, label="digits")
ax.axvline(1.1, color=INK, lw=0.6, ls=":")
ax.text(1.11, 0.03, "the paper's best", transform=ax.get_xaxis_transform(), fontsize=7)
ax.set(xlabel=r"$\alpha$ (1 is Heun, 1/2 midpoint)", ylabel=r"error over that of $\alpha = 1$", yscale="log")
ax.set_yticks([0.2, 0.5, 1, 2, 4], ["0.2", "0.5", "1", "2", "4"])
ax.minorticks_off()
ax.legend(loc="upper left")
figures.save(fig, out, "alpha")

# %% [markdown]
# ## 6. From exactly zero SNR
#
# Stable Diffusion's schedule, rescaled to end at zero SNR, and data along directions of variance $\Lambda$ from 1/64 to 64: a deterministic sampler is affine in its
# noise, so one run gives the generated std over the true one for all $\Lambda$. Usual samplers cannot start at $\sigma = \infty$ and replace it by 4096. In the angle
# nothing is replaced. Steps: *trailing* steps of the schedule; equal steps of the angle; $\rho$ steps from 80 and from 4096; `zsnr.power`, $\tan\varphi = (u/(1-u))^{1.5}$.

# %%
fixed = zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion())
variances = torch.logspace(math.log10(1 / 64), math.log10(64), 61)
line = zsnr.Gaussian(torch.zeros(61), variances)


def std_error(sampler, grid, **options):
    """Generated std over the true one, less 1, for each variance."""
    return (sampler(line, torch.ones(1, 61), grid, **options)[0] / variances.sqrt() - 1).numpy()


def stand_in(grid):
    """The grid with its zero SNR replaced by sigma = 4096."""
    return torch.cat([torch.tensor([math.atan(4096.0)]), grid[1:]])


def flow_heun(N):
    """diffusers' Heun for flow matching, which starts at zero SNR too: 2N - 1 evaluations, in float32."""
    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(N)
    x = torch.ones(1, 61, dtype=torch.float32)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        at = FLOW.at(math.pi / 2 if sigma == 1 else FLOW.angle(sigma.item()))
        x_phi = x.double() / at.n
        D = math.cos(at.phi) * x_phi - math.sin(at.phi) * line(x_phi, at.phi)
        x = scheduler.step(((x.double() - D) / sigma).float(), t, x, return_dict=False)[0]
    return (x[0].double() / variances.sqrt() - 1).numpy()


def multistep(N):
    """diffusers' DPM-Solver++ 2M on the rescaled schedule, trailing: as many evaluations as N Heun steps, in float32."""
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    scheduler.set_timesteps(2 * N - 1)
    x = torch.ones(1, 61, dtype=torch.float32)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        x = scheduler.step(line(x.double(), math.atan(sigma)).float(), t, x, return_dict=False)[0]
    return (x[0].double() / variances.sqrt() - 1).numpy()


trailing = lambda N: zsnr.grid(fixed, N)  # noqa: E731
fake = lambda N: zsnr.karras(N, sigma_max=4096)  # noqa: E731
WAYS = {
    "trailing": (lambda N: std_error(heun, trailing(N)), trailing),
    "uniform angle": (lambda N: std_error(heun, zsnr.uniform(N)), zsnr.uniform),
    "rho 7 from 80, sigma = t": (lambda N: std_error(heun, rho7(N), path=EDM), rho7),
    "rho 7 from 4096, sigma = t": (lambda N: std_error(heun, fake(N), path=EDM), fake),
    "power 1.5": (lambda N: std_error(heun, zsnr.power(N)), zsnr.power),
    "power 1.5, flow": (lambda N: std_error(heun, zsnr.power(N), path=FLOW), zsnr.power),
    "trailing, 4096, sigma = t": (lambda N: std_error(heun, stand_in(trailing(N)), path=EDM), None),
    "trailing, 4096, angle": (lambda N: std_error(heun, stand_in(trailing(N))), None),
    "DPM-Solver++ 2M, power 1.5": (lambda N: std_error(dpmpp_2m, zsnr.power(2 * N - 1)), None),
    "diffusers Heun, flow": (flow_heun, None),
    "diffusers DPM-Solver++ 2M": (multistep, None),
}
TENS = (10, 25, 50)
gaps = {(name, N): way(N) for name, (way, _) in WAYS.items() for N in TENS}
print(f"{'std error in %, Heun steps':28s}" + "".join(f"{f'N = {N}':>22s}" for N in TENS) + f"{'share of steps':>18s}")
print(f"{'':28s}" + 3 * f"{'largest':>11s}{'var 64':>11s}" + f"{'above sigma 80':>18s}")
for name, (_, make) in WAYS.items():
    share = (torch.tan(make(50)[:-1]) > 80.001).double().mean().item() if make else math.nan
    cells = "".join(f"{100 * np.abs(gaps[name, N]).max():11.2f}{100 * gaps[name, N][-1]:11.2f}" for N in TENS)
    print(f"{name:28s}{cells}" + (f"{share:18.0%}" if make else ""))

# what this project asks of itself
assert abs(gaps["trailing", 10][-1]) < 0.08
assert abs(gaps["trailing", 50][-1]) < 0.005
assert gaps["trailing, 4096, sigma = t", 10][-1] > 10
assert all(np.abs(gaps["power 1.5", N]).max() <= bound for N, bound in zip(TENS, (0.08, 0.015, 0.004), strict=True))

# %%
fig, axes = plt.subplots(1, 3, figsize=(6.9, 2.4), sharey=True)
SHOWN = {
    "trailing": HEUN,
    "uniform angle": OTHER,
    "rho 7 from 80, sigma = t": INK,
    "rho 7 from 4096, sigma = t": ORIGINAL,
    "power 1.5": OURS,
}
for ax, N in zip(axes, TENS, strict=True):
    for name, colour in SHOWN.items():
        ax.loglog(
            variances, 100 * np.abs(gaps[name, N]), color=colour, label=legend(name), lw=1.1 + 0.7 * (colour == OURS)
        )
    ax.loglog(
        variances,
        100 * np.abs(gaps["diffusers Heun, flow", N]),
        ":",
        color="#777777",
        lw=1.2,
        label="diffusers Heun, flow",
    )
    ax.set(title=f"{N} Heun steps", xlabel=r"variance $\Lambda$ of the data", ylim=(1e-3, 300))
    ax.set_xticks([1 / 64, 1, 64], ["1/64", "1", "64"])
    ax.minorticks_off()
axes[0].set_ylabel("|error of the std|, %")
fig.tight_layout(rect=(0, 0.14, 1, 1))
fig.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=3, fontsize=7)
figures.save(fig, out, "zero_snr")

# %% [markdown]
# What fails at 4096 is not the number but the path: in $\sigma$ the first step is a hundred times the last thousand, and Heun averages two slopes over it.
# The same start in the angle is harmless, and needless.

# %% [markdown]
# ## 7. A trained network
#
# Figure 2 with its own y axis, a Fréchet distance, on one network of this project, EDM's (configuration E). All samplers start at
# $\sigma = 80$, up to which it is trained: VP's own steps would start at 152, VE's at 100. As in the paper, a curve's number of evaluations is the lowest
# whose distance is within 3 % of that curve's best.

# %%
folder = ROOT / results / "edm/sweep"
drawn = load(folder) if folder.exists() else Results([])
network = {}
for row in drawn.where(study="design"):
    curve = row["solver"], row["path"], row["steps"], row["alpha"]
    network.setdefault(curve, []).append((row["evaluations"], row["frechet"], *row["frechet_interval"]))
# every cell of this section has half as many pictures as the sweep's largest
real = drawn.one(study="real", n=max(drawn.where(study="real").values("n")) // 2) if len(drawn) else None
network = {name: np.array(sorted(points_)) for name, points_ in network.items()}
HEUN_EDM, RK45_EDM = ("heun", "EDM", "rho7", 1.0), ("rk45", "EDM", "rho7", 1.0)
PANELS = {
    "VP": (("euler", "VP", "vp", 1.0), ("heun", "VP", "rho7", 1.0), HEUN_EDM),
    "VE": (("euler", "VE", "ve", 1.0), ("heun", "VE", "rho7", 1.0), HEUN_EDM),
    "DDIM": (("euler", "EDM", "iddpm", 1.0), HEUN_EDM),
}


def nfe(curve):
    """(lowest evaluations within 3 % of the curve's best, and their 95 % interval from the distances' intervals).

    The interval has no upper end where the curve still falls by more at its last cell.
    """
    n, middle, lower, upper = curve.T

    def lowest(values):
        return n[values <= 1.03 * values.min()].min()

    error = (upper - lower) / 3.92 / middle
    drawn = middle * np.exp(error * np.random.default_rng(0).standard_normal((1000, len(n))))
    low_, high_ = np.quantile([lowest(values) for values in drawn], [0.025, 0.975])
    return lowest(middle), low_, math.inf if lowest(middle) == n[-1] else high_


def over(a, b):
    """a / b of (value, low, high), with its interval."""
    return a[0] / b[0], sorted((a[1] / b[2], a[2] / b[1]))


def at(name, evaluations):
    """(Frechet distance, low, high) of a curve at a number of evaluations, or None."""
    rows = network.get(name, np.empty((0, 4)))
    rows = rows[rows[:, 0] == evaluations]
    return rows[0, 1:] if len(rows) else None


if not network:
    print(f"no sweep in {results}: this section is empty")
else:
    print(f"{'solver-path-steps':20s}{'best distance':>24s}{'evaluations':>13s}")
    for name, curve in network.items():
        best = curve[curve[:, 1].argmin()]
        last_ = ", the curve's last" if nfe(curve)[0] == curve[-1, 0] and len(curve) > 1 else ""
        title = "-".join([name[0] + (f"_{name[3]:g}" if name[0] == "rk2" else ""), *name[1:3]])
        print(f"{title:20s}{f'{best[1]:.3f} [{best[2]:.3f}, {best[3]:.3f}]':>24s}{nfe(curve)[0]:13.0f}{last_}")
    low_, high_ = real["frechet_interval"]
    print(f"{'real pictures':20s}{'{:.3f} [{:.3f}, {:.3f}]'.format(real['frechet'], low_, high_):>24s}")

# %%
if network:
    fig, axes = plt.subplots(1, 3, figsize=(6.9, 2.5), sharey=True)
    for ax, (family, names) in zip(axes, PANELS.items(), strict=True):
        colours = (ORIGINAL, HEUN, OURS) if len(names) == 3 else (ORIGINAL, OURS)
        labels = LABELS if len(names) == 3 else (LABELS[0], LABELS[2])
        shown = [*zip(names, labels, colours, strict=True), (RK45_EDM, "RK45, sigma = t", OTHER)]
        for name, label, colour in shown:
            if name in network:
                n, middle, lower, upper = network[name].T
                ax.errorbar(
                    n,
                    middle,
                    [middle - lower, upper - middle],
                    fmt="o-" if colour != OTHER else "x",
                    color=colour,
                    ms=3,
                    capsize=1.5,
                    label=legend(label),
                )
                ax.plot(nfe(network[name])[0], at(name, nfe(network[name])[0])[0], "o", color=colour, ms=7, mfc="none")
        ax.axhline(real["frechet"], color=INK, lw=0.8, ls=":", label="real pictures")
        ax.set(title=family, xlabel="evaluations", xscale="log", yscale="log")
    axes[0].set_ylabel("Fréchet distance")
    fig.tight_layout(rect=(0, 0.13, 1, 1))
    fig.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=3, fontsize=7)
    figures.save(fig, out, "figure2")

# %%
HERE = {"note": "one network, EDM's, under all samplers, from sigma = 80; the paper has a network for each family"}
gains = {}
for family, names in PANELS.items():
    if not all(len(network.get(name, ())) >= 3 for name in names):
        continue  # too few cells to have a best
    chain = [nfe(network[name]) for name in names]
    gains[family] = over(chain[0], chain[-1])
    steps = [over(a, b) for a, b in pairwise(chain)]
    best = [curve[curve[:, 1].argmin(), 1:] for curve in (network[names[-1]], network[names[0]])]
    quality = over(*best)
    check(
        "E-25",
        f"{family}: evaluations of each row over the next's",
        [value for value, _ in steps],
        interval=[pair for _, pair in steps],
        at_least=1.0,
        **HERE,
    )
    check(
        "E-25",
        f"{family}: best distance of the last row over the original's",
        quality[0],
        interval=quality[1],
        at_most=1.03,
        **HERE,
    )
if "VP" in gains:
    value, pair_ = gains["VP"]
    check("E-25", "network, VP: evaluations of the original sampler over ours", value, interval=pair_, **HERE)
print("gains:", ", ".join(f"{k} {x:.1f} [{lo:.1f}, {hi:.1f}]" for k, (x, (lo, hi)) in gains.items()) or "none to show")
if len(gains) == 3:
    rest = max((gains["VP"], gains["DDIM"]), key=lambda g: g[0])
    first_ = over((gains["VE"][0], *gains["VE"][1]), (rest[0], *rest[1]))
    check(
        "E-29",
        "network: VE's gain over the larger of VP's and DDIM's",
        first_[0],
        interval=first_[1],
        at_least=1.0,
        **HERE,
    )
COSTS = (
    ("E-28", "rk45", "network: evaluations of RK45 over Heun's on sigma = t"),
    ("E-29", "euler", "network: evaluations of Euler over Heun's on sigma = t"),
)
for id, other, what in COSTS:
    pair_ = [network.get((name, "EDM", "rho7", 1.0), ()) for name in (other, "heun")]
    if all(len(curve) >= 3 for curve in pair_):
        cost = over(*map(nfe, pair_))
        print(f"evaluations of {other} over Heun's, same path: {cost[0]:.1f} [{cost[1][0]:.1f}, {cost[1][1]:.1f}]")
        check(id, what, cost[0], interval=cost[1], **HERE)
PAIRS = (
    ("E-10", "network: distance at alpha = 1.1 over alpha = 1", (("rk2", "EDM", "rho7", 1.1), 35), (HEUN_EDM, 35)),
    ("E-30", "network: distance at 35 over 13 evaluations", (HEUN_EDM, 35), (HEUN_EDM, 13)),
)
for id, what, a, b in PAIRS:
    if at(*a) is not None and at(*b) is not None:
        value, pair = over(at(*a), at(*b))
        print(f"{what}: {value:.3f} [{pair[0]:.3f}, {pair[1]:.3f}]")
        check(id, what, value, interval=pair, **HERE)
if at(HEUN_EDM, 35) is not None:
    curve = network[HEUN_EDM]
    best = curve[curve[:, 1].argmin(), 1:]
    value, pair = over(at(HEUN_EDM, 35), best)
    check("E-35", "network: distance at 35 evaluations over the curve's best", value, interval=pair, **HERE)
repeats = drawn.one(study="repeats")["frechet"] if len(drawn) else None
if repeats:
    half = (max(repeats) - min(repeats)) / 2 / np.mean(repeats)
    degrees = len(repeats) - 1
    pair = [half * math.sqrt(degrees / chi2.ppf(p, degrees)) for p in (0.975, 0.025)]
    print(f"half the range of {len(repeats)} distances over their mean: {half:.3f} [{pair[0]:.3f}, {pair[1]:.3f}]")
    check(
        "E-31",
        f"half the range of {len(repeats)} distances over their mean",
        half,
        interval=pair,
        equal=0.02,
        abs=0.01,
        note="fewer pictures and other features than FID's 50000; the interval is that of a normal spread",
    )

# %% [markdown]
# ## Verdict

# %%
claims.save(out / "claims.json", found, "06_design_space")
print(claims.summary(found))
