# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Sample steps: start at T, and spend the steps where they count
#
# **Claim** (Lin et al. 2023, Sec. 3.3, Table 2, Figure 4). Sampling must start at the last training step; *leading* steps never
# visit it. *Trailing* steps do, and use few steps better than *linspace*, which wastes one on $t = 1$, where hardly any noise is
# left.
#
# It would be wrong if leading steps gave the true mean on a zero-SNR schedule, or if linspace matched trailing at five steps.

# %% tags=["parameters"]
results = "results/full"
out_dir = ""

# %%
import math
import tempfile
import warnings
from functools import partial
from itertools import pairwise
from pathlib import Path

import diffusers
import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import DDIMScheduler

import zsnr
from lab import ROOT
from lab.measure.evaluation import REAL, Cell
from lab.measure.laws import sampled
from lab.measure.metrics import interval
from lab.measure.study import Study
from lab.report import claims, figures
from zsnr import brightness
from zsnr.grids import SPACINGS

torch.set_num_threads(1)
figures.style()
warnings.filterwarnings("ignore", "(leading|linspace) spacing")  # the flaw is what is studied here
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
found = []
sd = zsnr.schedule.stable_diffusion()
fixed = zsnr.rescale_zero_terminal_snr(sd)

# %% [markdown]
# ## Table 2

# %%
paper = {
    "leading": "1 101 201 301 401 501 601 701 801 901",
    "linspace": "1 112 223 334 445 556 667 778 889 1000",
    "trailing": "100 200 300 400 500 600 700 800 900 1000",
}
for spacing in SPACINGS:
    steps = zsnr.timesteps(spacing, 10)
    print(f"{spacing:9s}", *steps)
    found.append(claims.measure("Z-10", f"{spacing}, S = 10", steps, equal=[int(t) for t in paper[spacing].split()]))

# %% [markdown]
# Ten steps divide a thousand. What about the others? For every S from 1 to 1000: how many of the selection's steps differ from Table 2's
# formulas, in integers and with ties to even, as numpy rounds? And in diffusers: does it have S different steps within the schedule, and does
# DDIM step to the level of the next step in the list?


# %%
def nearest(a, b):
    """a / b to the nearest integer, half to even."""
    q, r = divmod(a, b)
    return q + (2 * r > b or (2 * r == b and q % 2))


def table2(spacing, S, T=1000):
    """Table 2 as printed: arange(1, T + 1, floor(T / S)), round(linspace(1, T, S)), round(flip(arange(T, 0, -T / S)))."""
    if spacing == "leading":
        return [1 + k * (T // S) for k in range(S)]  # the first S of them
    if spacing == "trailing":
        return [nearest(T * S - k * T, S) for k in reversed(range(S))]
    return [nearest(S - 1 + k * (T - 1), S - 1) for k in range(S)] if S > 1 else [T]


def broken(steps, S):
    return len(steps) != S or len(set(steps)) != S or min(steps) < 0 or max(steps) > 999


print(
    f"{'':10s}{'zsnr, wrong steps':>18s}{'diffusers, wrong grids':>24s}{'diffusers DDIM, steps to another level':>40s}"
)
wrong = {}
for spacing in SPACINGS:
    ours = theirs = targets = 0
    scheduler = DDIMScheduler(timestep_spacing=spacing, clip_sample=False)
    levels = torch.cat([scheduler.alphas_cumprod.double(), torch.ones(1)])  # the last is for the step to the image
    for S in range(1, 1001):
        steps = zsnr.timesteps(spacing, S)
        ours += abs(len(steps) - S) + sum(a != b for a, b in zip(steps, table2(spacing, S), strict=False))
        scheduler.set_timesteps(S)
        grid = scheduler.timesteps.tolist()
        theirs += broken(grid, S)
        # DDIM's step goes from t to t - 1000 // S, whatever the next one in the list is ...
        targets += any(t - 1000 // S != next_t for t, next_t in pairwise(grid))
        # ... as its first step says: with x0 = 1 and eps = 0 it returns sqrt(alpha_bar) of the level it reaches
        reached = scheduler.step(torch.zeros(1), grid[0], levels[grid[0]].sqrt().float().view(1)).prev_sample.item()
        assert abs(reached - levels[max(grid[0] - 1000 // S, -1)].sqrt().item()) < 1e-3, (
            "diffusers has changed its target"
        )
    wrong[spacing] = ours, theirs, targets
    print(f"{spacing:10s}{ours:18d}{theirs:24d}{targets:40d}")
found.append(
    claims.measure(
        "Z-10",
        "steps that differ from Table 2's formulas, S = 1 ... 1000, three spacings",
        sum(w[0] for w in wrong.values()),
        note=f"diffusers {diffusers.__version__}: trailing wrong for {wrong['trailing'][1]} of 1000, "
        f"DDIM's target for {wrong['trailing'][2]}",
    )
)

# %% [markdown]
# ## Where sampling must start: a white picture
#
# The prompt asks for white: data whose mean is 0.90 with a spread of 0.2, over 4096 pixels that change together. For Gaussian data
# a deterministic sampler is affine in its noise, so its mean and std are computed, not sampled. DDIM, S = 50; beside it the limit
# of many steps from the closed form of `zsnr.brightness`.

# %%
n, target, spread = 4096, 0.9, 0.2
L, m = n * spread**2, math.sqrt(n) * target
print(
    f"{'schedule':18s}{'spacing':10s}{'mean':>8s}{'many steps':>12s}{'closed form':>13s}{'std ratio':>12s}{'many steps':>12s}{'closed form':>13s}"
)
means, limits = {}, {}
for name, schedule in {"Stable Diffusion": sd, "linear": zsnr.schedule.linear(), "SD, zero SNR": fixed}.items():
    law_mean, law_std = brightness.predicted(schedule.alpha_bar[-1].item(), L, m)
    dense = schedule.angle[-1] * torch.linspace(1, 0, 4001, dtype=torch.float64)
    limit_mean, limit_std = sampled(zsnr.heun, dense, L, m)
    for spacing in ("leading", "trailing"):
        mean, std = sampled(zsnr.ddim, zsnr.grid(schedule, 50, spacing), L, m)
        means[name, spacing] = mean / math.sqrt(n)
        print(
            f"{name:18s}{spacing:10s}{mean / math.sqrt(n):8.4f}{limit_mean / math.sqrt(n):12.4f}{law_mean / math.sqrt(n):13.4f}{std:12.4f}{limit_std:12.4f}{law_std:13.4f}"
        )
    limits[name] = limit_mean / math.sqrt(n)
    if schedule is not sd:
        what = f"{name}: many steps against the closed form, mean"
        found.append(claims.measure("Z-06", what, limits[name], equal=law_mean / math.sqrt(n), abs=1e-5))
    found.append(claims.measure("Z-06", f"{name}: std ratio, many steps", limit_std, equal=law_std, rel=1e-4))
best = means.pop(("SD, zero SNR", "trailing"))
found += [
    claims.measure("Z-06", "Gaussian data, Stable Diffusion, many steps: mean, truth 0.9", limits["Stable Diffusion"]),
    claims.measure("Z-06", "mean, zero SNR and trailing, 50 steps, truth 0.9", best, equal=target, abs=1e-6),
    claims.measure("Z-06", "largest mean of the other five", max(means.values()), at_most=target - 1e-3),
    claims.measure(
        "Z-13",
        "zero-SNR schedule started at t < T (leading): mean, truth 0.9",
        means["SD, zero SNR", "leading"],
    ),
    claims.measure("Z-13", "started at T (trailing)", best, equal=target, abs=1e-6),
]

# %% [markdown]
# ## Few steps: the useless one, and what it costs
#
# The step to $t = 1$ changes next to nothing: at $t = 1$ only $\sqrt{1 - \bar\alpha_1} = 0.029$ of noise is left. Standard deviation of the mean
# over its true value, on the rescaled schedule, by DDIM:

# %%
leftover = (1 - sd.alpha_bar[0]).sqrt().item()
print(f"beta_1 = {sd.betas[0]:.5f}, sqrt(1 - alpha_bar_1) = {leftover:.4f}")
counts = [5, 10, 25, 50]
L_level = 635 / 3  # the backdrop of this project's pictures: 635 pixels on average, level uniform in [-1, 1]
ratio = {
    (spacing, S): sampled(zsnr.ddim, zsnr.grid(fixed, S, spacing), L_level)[1] for spacing in SPACINGS for S in counts
}
print(f"{'S':>10s}" + "".join(f"{S:9d}" for S in counts))
for spacing in SPACINGS:
    print(f"{spacing:>10s}" + "".join(f"{ratio[spacing, S]:9.4f}" for S in counts))
gain = [ratio["trailing", S] - ratio["linspace", S] for S in counts]
found += [
    claims.measure("Z-11", "beta_1", sd.betas[0].item(), equal=0.00085, abs=1e-12),
    claims.measure("Z-11", "sqrt(1 - alpha_bar_1)", leftover, equal=0.0292, abs=5e-5),
    claims.measure("Z-11", "std ratio, trailing less linspace, S = 5, 10, 25, 50", gain),
]

# %% [markdown]
# ## Orders, from exactly zero SNR
#
# Gaussian data with variances from 1/64 to 64 along different directions, started at $\varphi = \pi/2$, against the exact solution. On grids that
# are smooth in their index the orders are 1 and 2. Trailing steps of Stable Diffusion's schedule are not smooth where they end
# ($\varphi \sim \sqrt t$): Heun loses its order there, and should be given a better grid.

# %%
data = zsnr.Gaussian(torch.tensor([0.3, -1.0, 0.5, 2.0]), torch.tensor([1 / 64, 1 / 4, 4.0, 64.0]))
noise = zsnr.randn((8, 4), zsnr.generators(range(8)), torch.float64)
exact = data.solve(noise, math.pi / 2)
grids = {
    "uniform angle": zsnr.uniform,
    "power 1.5": zsnr.power,
    "trailing": lambda N: zsnr.grid(fixed, N, "trailing"),
}
N = np.array([20, 40, 50, 100, 125, 200, 250, 500])
fig, axes = plt.subplots(1, 3, figsize=(6.5, 2.4), sharey=True)
slopes = {}
for ax, (name, make) in zip(axes, grids.items(), strict=True):
    for sampler, colour in (("ddim", "leading"), ("euler", "linspace"), ("heun", "trailing")):
        errors = [(zsnr.SAMPLERS[sampler](data, noise, make(int(k))) - exact).square().mean().sqrt().item() for k in N]
        slopes[sampler, name] = -np.polyfit(np.log(N[-5:]), np.log(errors[-5:]), 1)[0]
        ax.loglog(N, errors, "o-", color=figures.COLOURS[colour], label=f"{sampler}, slope {slopes[sampler, name]:.2f}")
    ax.set(title=name, xlabel="steps $N$", xticks=[20, 50, 100, 200, 500])
    ax.set_xticklabels([20, 50, 100, 200, 500])
    ax.minorticks_off()
    ax.legend(loc="lower left", fontsize=6)
axes[0].set_ylabel("RMS error")
fig.tight_layout()
figures.save(fig, out, "orders")
for sampler in ("ddim", "euler", "heun"):
    print(f"{sampler:6s}", "  ".join(f"{name} {slopes[sampler, name]:5.2f}" for name in grids))


def local_order(sampler):
    """Order of the error of one step of length h, from a point of the exact solution."""
    start, lengths, errors = 1.0, [0.1, 0.05, 0.025, 0.0125], []
    x = data.solve(noise, math.pi / 2, start)
    for h in lengths:
        reached = []
        grid = torch.tensor([start, start - h, 0.0], dtype=torch.float64)
        zsnr.SAMPLERS[sampler](data, x, grid, callback=lambda i, phi, y, v, reached=reached: reached.append(y))
        errors.append((reached[1] - data.solve(x, start, start - h)).abs().max().item())
    return np.polyfit(np.log(lengths), np.log(errors), 1)[0]


local = {sampler: local_order(sampler) for sampler in ("euler", "heun")}
print("local order: euler {euler:.2f}, heun {heun:.2f}".format(**local))
found += [
    claims.measure("E-11", f"{sampler}: local order", local[sampler], equal=order, abs=0.1)
    for sampler, order in (("euler", 2), ("heun", 3))
]
found += [
    claims.measure(
        "E-11", f"{sampler}: slope on the {name} grid, from zero SNR", slopes[sampler, name], equal=order, abs=0.1
    )
    for sampler, order in (("euler", 1), ("heun", 2))
    for name in ("uniform angle", "power 1.5")
]

# %% [markdown]
# ## DDPM, DDIM and the last step at zero SNR
#
# The posterior's $\epsilon$ form (Eq. 18) divides by $\alpha_T = 0$; its $x_0$ form (Eq. 20) does not. With $\eta = 1$ DDIM draws the same (Eqs. 21, 22).
# And one step from any level to 0 is the denoiser (EDM, Sec. 3).

# %%
ab, beta = fixed.alpha_bar, fixed.betas
before = torch.cat([torch.ones(1, dtype=torch.float64), ab[:-1]])
a, eps_t = 1 - beta, (1 - ab).sqrt()
# coefficients of (x0, eps) in the posterior mean, x_t = sqrt(ab) x0 + sqrt(1 - ab) eps put in
with np.errstate(divide="ignore", invalid="ignore"):
    eq18 = torch.stack([ab.sqrt() / a.sqrt(), (eps_t - beta / eps_t) / a.sqrt()])
eq20 = torch.stack(
    [
        before.sqrt() * beta / (1 - ab) + a.sqrt() * (1 - before) / (1 - ab) * ab.sqrt(),
        a.sqrt() * (1 - before) / (1 - ab) * eps_t,
    ]
)
gap = (eq18 - eq20)[:, :-1].abs().max().item()
variance_T = ((1 - before) / (1 - ab) * beta)[-1].item()
print(f"Eq. 18 against Eq. 20 for t < T: {gap:.1e}; at T: Eq. 18 {eq18[:, -1].tolist()}, Eq. 20 {eq20[:, -1].tolist()}")

consecutive = zsnr.grid(fixed, 1000)
one_noise = zsnr.randn((4, 4), zsnr.generators(range(4)), torch.float64)
ddpm = zsnr.ddpm(data, one_noise, consecutive, generators=zsnr.generators(range(100, 104)))
ddim1 = zsnr.ddim(data, one_noise, consecutive, eta=1.0, generators=zsnr.generators(range(100, 104)))
print(f"DDPM against DDIM with eta = 1 over 1000 steps from zero SNR: {(ddpm - ddim1).abs().max().item():.1e}")
single = max(
    (
        sampler(data, noise, torch.tensor([phi, 0.0], dtype=torch.float64))
        - (math.cos(phi) * noise - math.sin(phi) * data(noise, phi))
    )
    .abs()
    .max()
    .item()
    for sampler in (zsnr.ddim, partial(zsnr.ddpm, generators=zsnr.generators(range(8))), zsnr.euler, zsnr.heun)
    for phi in (0.3, 1.0, 1.5, math.pi / 2)
)
print(f"one step to 0 against the denoiser: {single:.1e}")
found += [
    claims.measure(
        "Z-14",
        "Eq. 18 less Eq. 20 for t < T; at T, coefficient of x0 and variance over their limits",
        [gap, (eq20[0, -1] / before[-1].sqrt()).item(), variance_T / (1 - before[-1]).item()],
    ),
    claims.measure("Z-15", "DDIM, eta = 1, against DDPM, 1000 steps from zero SNR", (ddpm - ddim1).abs().max().item()),
    claims.measure("E-12", "one step to 0 against D, four samplers, four levels", single, at_most=1e-12),
]

# %% [markdown]
# ## Figure 4's question, on the trained model
#
# The zero-SNR model, DDIM, the same noises, three selections of steps. The level's std over the data's, its Wasserstein-1
# distance, and the Fréchet distance, with 95 % intervals over fine-tuning seeds; below, the same values for real pictures. The
# Fréchet distance hardly sees brightness, so the two need not agree.

# %%
study = Study(ROOT / results / "zsnr")
trained = sorted({cell.nfe for cell in study.cells(model="zsnr", spacing="linspace", sampler="ddim")})
print(f"{'S':>4s} {'spacing':10s}{'level std / data':>24s}{'W1 of the level':>24s}{'Frechet distance':>26s}")
for S in trained:
    for spacing in SPACINGS:
        cell = Cell("zsnr", spacing, nfe=S)
        print(
            f"{S:4d} {spacing:10s}{study.text(cell, 'level', 'std_ratio'):>24s}{study.text(cell, 'level', 'w1'):>24s}{study.text(cell, 'frechet'):>26s}"
        )
print(
    f"{'':4s} {'real':10s}{study.text(REAL, 'level', 'std_ratio'):>24s}{study.text(REAL, 'level', 'w1'):>24s}{study.text(REAL, 'frechet'):>26s}"
)

# %%
fig, axes = plt.subplots(len(trained), 3, figsize=(6.5, 0.62 * len(trained) + 0.25))
for row, S in zip(axes, trained, strict=True):
    for ax, spacing in zip(row, SPACINGS, strict=True):
        figures.pictures(ax, study.pictures(Cell("zsnr", spacing, nfe=S))[:16], 8, spacing if trained[0] == S else "")
    row[0].text(-0.03, 0.5, f"S = {S}", transform=row[0].transAxes, ha="right", va="center")
fig.subplots_adjust(wspace=0.03, hspace=0.06)
figures.save(fig, out, "figure4")

# %%
fig, axes = plt.subplots(1, 2, figsize=(6.5, 2.3))
for ax, keys, title in zip(
    axes, (("level", "std_ratio"), ("frechet",)), ("level std / data's", "Fréchet distance"), strict=True
):
    for spacing in SPACINGS:
        cells = [Cell("zsnr", spacing, nfe=S) for S in trained]
        middle = np.array([study.mean(c, *keys) for c in cells])
        bounds = np.array([study.interval(c, *keys) for c in cells])
        ax.errorbar(
            trained,
            middle,
            np.abs(bounds.T - middle),
            fmt="o-",
            color=figures.COLOURS[spacing],
            label=spacing,
            capsize=2,
        )
    ax.axhline(study.mean(REAL, *keys), color=figures.COLOURS["data"], lw=0.8, ls=":", label="real pictures")
    ax.set(xscale="log", xticks=trained, xlabel="DDIM steps $S$", title=title)
    ax.set_xticklabels(trained)
    ax.minorticks_off()
axes[1].set(yscale="log", yticks=[0.3, 1, 3], yticklabels=["0.3", "1", "3"])
axes[1].minorticks_off()
axes[0].legend()
fig.tight_layout()
figures.save(fig, out, "spacing")

# %%
few, many = trained[0], 25 if 25 in trained else trained[-1]
by_seed = {
    S: np.subtract(
        study.values(Cell("zsnr", "linspace", nfe=S), "frechet"),
        study.values(Cell("zsnr", "trailing", nfe=S), "frechet"),
    )
    for S in (few, many)
}
by_level = {
    S: study.difference(Cell("zsnr", "linspace", nfe=S), Cell("zsnr", "trailing", nfe=S), "level", "w1")
    for S in (few, many)
}
apart = by_seed[few] - 2 * np.abs(by_seed[many])
print(
    f"linspace less trailing, Frechet distance, by seed: S = {few}: {by_seed[few].round(3)}, S = {many}: {by_seed[many].round(3)}"
)
found += [
    claims.measure(
        "Z-12",
        "Frechet distance of linspace less trailing's: S = 5, less twice its size at S = 25",
        apart.mean(),
        interval=interval(apart),
    ),
    *(
        claims.measure(
            "Z-12",
            f"Frechet distance of linspace less trailing's, S = {S}",
            by_seed[S].mean(),
            interval=interval(by_seed[S]),
            at_least=0.0,
        )
        for S in by_seed
    ),
    *(
        claims.measure(
            "Z-12", f"W1 of the level, linspace less trailing's, S = {S}", value, interval=bounds, at_least=0.0
        )
        for S, (value, bounds) in by_level.items()
    ),
]

# %% [markdown]
# ## Verdict

# %%
claims.save(out / "claims.json", found, "02_sample_steps")
print(claims.summary(found))
