"""Finding 2 (Lin et al. 2023, Table 2): the time steps that are sampled, what each choice costs, orders of solvers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import DDIMScheduler
from matplotlib.figure import Figure
from torch import Tensor

import zsnr
from lab.measure.evaluation import REAL, Cell
from lab.measure.laws import sampled
from lab.measure.study import Study
from lab.report.figures import COLOURS
from lab.report.sheets import strip
from lab.report.tables import Table, table
from zsnr import brightness
from zsnr.grids import SPACINGS
from zsnr.schedule import Schedule

PAPER = {
    "leading": [1, 101, 201, 301, 401, 501, 601, 701, 801, 901],
    "linspace": [1, 112, 223, 334, 445, 556, 667, 778, 889, 1000],
    "trailing": [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000],
}
"""Table 2's example, T = 1000 and S = 10."""
GRIDS: dict[str, Callable[[int], Tensor]] = {
    "uniform angle": zsnr.uniform,
    "power 1.5": zsnr.power,
    "trailing": lambda N: steps(zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion()), N, "trailing"),
}
DATA = zsnr.Gaussian(torch.tensor([0.3, -1.0, 0.5, 2.0]), torch.tensor([1 / 64, 1 / 4, 4.0, 64.0]))
"""Exact data for the orders: the variances are those of four directions."""
BACKDROP = 672
"""Pixels of backdrop in a picture, on average: `lab.models.data.Images.pixels`."""


def steps(schedule: Schedule, S: int, spacing: str) -> Tensor:
    """`zsnr.grid` without its warning that leading and linspace are flawed: that is what is studied here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(leading|linspace) spacing")
        return zsnr.grid(schedule, S, spacing)


def nearest(a: int, b: int) -> int:
    """a / b to the nearest integer, half to even, as numpy rounds."""
    q, r = divmod(a, b)
    return q + (2 * r > b or (2 * r == b and q % 2))


def table2(spacing: str, S: int, T: int = 1000) -> list[int]:
    """Table 2: arange(1, T + 1, floor(T / S)), round(linspace(1, T, S)), round(flip(arange(T, 0, -T / S)))."""
    if spacing == "leading":
        return [1 + k * (T // S) for k in range(S)]  # the first S of them
    if spacing == "trailing":
        return [nearest(T * S - k * T, S) for k in reversed(range(S))]
    return [nearest(S - 1 + k * (T - 1), S - 1) for k in range(S)] if S > 1 else [T]


def wrong_steps(spacing: str) -> int:
    """How many of zsnr's steps differ from Table 2's formulas, over S = 1 ... 1000."""
    wrong = 0
    for S in range(1, 1001):
        ours = zsnr.timesteps(spacing, S)
        wrong += abs(len(ours) - S) + sum(a != b for a, b in zip(ours, table2(spacing, S), strict=False))
    return wrong


def diffusers_wrong(spacing: str) -> tuple[int, int]:
    """For how many S diffusers' list is wrong, and for how many its DDIM does not step to the next level in the list.

    A list is right if it has S different steps within the schedule. DDIM's step goes from t to t - 1000 // S, whatever
    the next step in the list is.

    Raises:
        RuntimeError: diffusers has changed that: with x0 = 1 and eps = 0 its first step no longer reaches this level.
    """
    scheduler = DDIMScheduler(timestep_spacing=spacing, clip_sample=False)
    levels = torch.cat([scheduler.alphas_cumprod.double(), torch.ones(1)])  # the last is for the step to the image
    lists = targets = 0
    for S in range(1, 1001):
        scheduler.set_timesteps(S)
        grid = scheduler.timesteps.tolist()
        lists += len(grid) != S or len(set(grid)) != S or min(grid) < 0 or max(grid) > 999
        targets += any(t - 1000 // S != after for t, after in pairwise(grid))
        x = levels[grid[0]].sqrt().float().view(1)
        reached = scheduler.step(torch.zeros(1), grid[0], x).prev_sample.item()
        if abs(reached - levels[max(grid[0] - 1000 // S, -1)].sqrt().item()) >= 1e-3:
            raise RuntimeError(f"diffusers' DDIM steps from {grid[0]} to {reached}: it has changed its target")
    return lists, targets


def white_picture(schedule: Schedule, S: int = 50) -> dict[str, tuple[float, float]]:
    """(mean, std over the true one) of Gaussian data of mean 0.9 and spread 0.2 over 4096 pixels that change together.

    A deterministic sampler is affine in its noise, so both are computed, not sampled: by DDIM in S leading or trailing
    steps, in the limit of many steps, and by the closed form of `zsnr.brightness`.
    """
    n, target, spread = 4096, 0.9, 0.2
    L, m = n * spread**2, math.sqrt(n) * target
    dense = schedule.angle[-1] * torch.linspace(1, 0, 4001, dtype=torch.float64)
    found = {spacing: sampled(zsnr.ddim, steps(schedule, S, spacing), L, m) for spacing in ("leading", "trailing")}
    found["many steps"] = sampled(zsnr.heun, dense, L, m)
    found["closed form"] = brightness.predicted(schedule.alpha_bar[-1].item(), L, m)
    return {name: (mean / math.sqrt(n), std) for name, (mean, std) in found.items()}


def spread_kept(schedule: Schedule, spacing: str, S: int) -> float:
    """std of the level of this project's backdrops over the true one, Gaussian data, DDIM in S steps.

    The level is uniform on [-1, 1], so of variance 1/3.
    """
    return sampled(zsnr.ddim, steps(schedule, S, spacing), BACKDROP / 3)[1]


def orders(samplers: Sequence[str], counts: Sequence[int]) -> dict[tuple[str, str], tuple[list[float], float]]:
    """{(sampler, grid): RMS errors by number of steps, and their slope}, from zero SNR, against the exact solution."""
    noise = zsnr.randn((8, 4), zsnr.generators(range(8)), torch.float64)
    exact = DATA.solve(noise, math.pi / 2)
    found = {}
    for name, make in GRIDS.items():
        for sampler in samplers:
            run = zsnr.SAMPLERS[sampler]
            errors = [(run(DATA, noise, make(N)) - exact).square().mean().sqrt().item() for N in counts]
            slope = -np.polyfit(np.log(counts[-5:]), np.log(errors[-5:]), 1)[0]
            found[sampler, name] = (errors, slope)
    return found


def local_order(sampler: str) -> float:
    """Order of the error of one step of length h, from a point of the exact solution."""
    noise = zsnr.randn((8, 4), zsnr.generators(range(8)), torch.float64)
    start, lengths, errors = 1.0, [0.1, 0.05, 0.025, 0.0125], []
    x = DATA.solve(noise, math.pi / 2, start)
    for h in lengths:
        reached: list[Tensor] = []
        grid = torch.tensor([start, start - h, 0.0], dtype=torch.float64)
        zsnr.SAMPLERS[sampler](DATA, x, grid, callback=lambda i, phi, y, v, reached=reached: reached.append(y))
        errors.append((reached[1] - DATA.solve(x, start, start - h)).abs().max().item())
    order: float = np.polyfit(np.log(lengths), np.log(errors), 1)[0]
    return order


def posterior(schedule: Schedule) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients (2, T) of (x0, eps) in the mean of q(x_(t-1) | x_t, x0), by Eq. 18 and by Eq. 20; its variance (T,).

    x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps is put in. Eq. 18 is written with eps, and divides by
    sqrt(1 - beta), which is 0 at zero SNR; Eq. 20 is written with x0.
    """
    alpha_bar, beta = schedule.alpha_bar, schedule.betas
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    a, noise = 1 - beta, (1 - alpha_bar).sqrt()
    by_eps = torch.stack([alpha_bar.sqrt() / a.sqrt(), (noise - beta / noise) / a.sqrt()])
    by_x0 = torch.stack(
        [
            before.sqrt() * beta / (1 - alpha_bar) + a.sqrt() * (1 - before) / (1 - alpha_bar) * alpha_bar.sqrt(),
            a.sqrt() * (1 - before) / (1 - alpha_bar) * noise,
        ]
    )
    return by_eps, by_x0, (1 - before) / (1 - alpha_bar) * beta


def ddpm_less_ddim(schedule: Schedule) -> float:
    """Largest difference of DDPM's pictures and those of DDIM with eta = 1, over all steps, from the same draws."""
    noise, grid = zsnr.randn((4, 4), zsnr.generators(range(4)), torch.float64), zsnr.grid(schedule, schedule.T)
    ddpm = zsnr.ddpm(DATA, noise, grid, generators=zsnr.generators(range(100, 104)))
    ddim = zsnr.ddim(DATA, noise, grid, eta=1.0, generators=zsnr.generators(range(100, 104)))
    return (ddpm - ddim).abs().max().item()


def single_step_error() -> float:
    """Largest |one step to the image - D|, D = cos(phi) x - sin(phi) v, of four samplers from four levels."""
    noise = zsnr.randn((8, 4), zsnr.generators(range(8)), torch.float64)
    worst = 0.0
    for run in (zsnr.ddim, partial(zsnr.ddpm, generators=zsnr.generators(range(8))), zsnr.euler, zsnr.heun):
        for phi in (0.3, 1.0, 1.5, math.pi / 2):
            image = run(DATA, noise, torch.tensor([phi, 0.0], dtype=torch.float64))
            D = math.cos(phi) * noise - math.sin(phi) * DATA(noise, phi)
            worst = max(worst, (image - D).abs().max().item())
    return worst


def trained_table(study: Study, counts: Sequence[int]) -> Table:
    """The zero-SNR model by DDIM in S steps of each selection, beside real pictures."""
    keys = (("level", "std_ratio"), ("level", "w1"), ("frechet",))
    cells = {(S, spacing): Cell("zsnr", spacing, nfe=S) for S in counts for spacing in SPACINGS}
    rows = [(*name, *(study.text(cell, *key) for key in keys)) for name, cell in cells.items()]
    rows.append((None, "real pictures", *(study.text(REAL, *key) for key in keys)))
    return table(rows, ["S", "time steps", "level std / data's", "W1 of the level", "Fréchet distance"])


def figure4(study: Study, counts: Sequence[int]) -> Figure:
    """Pictures of the zero-SNR model from the same noises, by number of steps and selection."""
    last = Cell("zsnr", "trailing", nfe=max(counts))
    order = study.samples(last, "level")[0][: len(study.pictures(last))].argsort()
    order = order[torch.linspace(0, len(order) - 1, min(16, len(order))).round().long()]
    fig = plt.figure(figsize=(7, 1.65 * len(counts)))
    for part, S in zip(fig.subfigures(len(counts), 1, squeeze=False)[:, 0], counts, strict=True):
        axes = part.subplots(len(SPACINGS), 1, gridspec_kw={"hspace": 0.05, "top": 0.86, "bottom": 0})
        for ax, spacing in zip(axes, SPACINGS, strict=True):
            strip(ax, study.pictures(Cell("zsnr", spacing, nfe=S))[order], spacing)
        axes[0].set_title(f"{S} steps of DDIM")
    return fig


def spacing_figure(study: Study, counts: Sequence[int]) -> Figure:
    """Spread of the level and Fréchet distance by the number of steps, with 95 % intervals over seeds."""
    fig, axes = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
    names = {("level", "std_ratio"): "std of the backdrop level / data's", ("frechet",): "Fréchet distance"}
    for ax, (keys, title) in zip(axes, names.items(), strict=True):
        for shift, (spacing, marker) in enumerate(zip(SPACINGS, "os^", strict=True)):
            cells = [Cell("zsnr", spacing, nfe=S) for S in counts]
            middle = np.array([study.mean(c, *keys) for c in cells])
            bounds = np.array([study.interval(c, *keys) for c in cells])
            x = np.array(counts) * 1.06 ** (shift - 1)
            style = {"fmt": f"{marker}-", "color": COLOURS[spacing], "label": spacing, "capsize": 2}
            ax.errorbar(x, middle, np.abs(bounds.T - middle), **style)
        ax.axhline(study.mean(REAL, *keys), color=COLOURS["data"], lw=0.8, ls=":", label="real pictures")
        ax.set(xscale="log", xticks=counts, xlabel="DDIM steps $S$", ylabel=title)
        ax.set_xticklabels(counts)
        ax.minorticks_off()
    axes[1].set_ylim(bottom=0)
    axes[0].legend()
    return fig


def orders_figure(found: dict[tuple[str, str], tuple[list[float], float]], counts: Sequence[int]) -> Figure:
    """RMS error of three solvers against the number of steps, on three grids."""
    fig, axes = plt.subplots(1, len(GRIDS), figsize=(7, 2.6), sharey=True, layout="constrained")
    looks = {
        "ddim": ("DDIM", "leading", "s-"),
        "euler": ("Euler", "linspace", "^-"),
        "heun": ("Heun", "trailing", "o-"),
    }
    for ax, grid in zip(axes, GRIDS, strict=True):
        for sampler, (name, colour, style) in looks.items():
            errors, slope = found[sampler, grid]
            ax.loglog(counts, errors, style, color=COLOURS[colour], label=f"{name}, slope {slope:.2f}")
        ax.set(title=f"{grid} grid", xlabel="steps $N$", xticks=[20, 50, 100, 200, 500])
        ax.set_xticklabels([20, 50, 100, 200, 500])
        ax.minorticks_off()
        ax.legend(loc="lower left", fontsize=6.5)
    axes[0].set_ylabel("RMS error")
    return fig
