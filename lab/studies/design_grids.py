"""Finding 6, steps: the orders of Euler's and Heun's method on all paths, and starts from exactly zero SNR."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import FlowMatchHeunDiscreteScheduler
from matplotlib.figure import Figure
from torch import Tensor

import zsnr
from lab.report.figures import COLOURS
from lab.report.tables import Table, table
from lab.studies.design_space import GAUSS, NOISE2, NOISE4, THREE, reached, vector
from lab.studies.progress import bar
from zsnr import edm
from zsnr.denoisers import Denoiser
from zsnr.path import ANGLE, EDM, FLOW, VE, VP, Path
from zsnr.samplers import euler, heun, rk45

GRIDS: dict[Path, tuple[Callable[[int], Tensor], str]] = {
    ANGLE: (zsnr.power, "power 1.5"),
    FLOW: (zsnr.power, "power 1.5"),
    EDM: (zsnr.karras, "ρ = 7"),
    VE: (edm.column("ve").steps, "geometric"),
    VP: (edm.column("vp").steps, "uniform in t"),
}
"""Each path's own steps; those of the angle and the flow start at zero SNR."""
DATA: dict[str, tuple[Denoiser, Tensor]] = {"Gaussian": (GAUSS, NOISE4), "mixture": (THREE, NOISE2)}
SOLVERS: dict[str, tuple[Callable[..., Tensor], int]] = {"euler": (euler, 1), "heun": (heun, 2)}
"""With the order of the error at the end."""
Key = tuple[str, str, str]


@functools.cache
def solved(data: str, phi: float, psi: float) -> Tensor:
    """The exact solution from one angle to another."""
    denoiser, x = DATA[data]
    if denoiser is GAUSS:
        return GAUSS.solve(x, phi, psi)
    return reached(rk45, denoiser, x, vector(phi, psi, 0.0), rtol=1e-10, atol=1e-11)


def end_errors(counts: Sequence[int]) -> dict[Key, list[float]]:
    """{(data, path, solver): RMS errors at the end by number of steps}.

    The truth is the exact solution down to the last level above 0, then the step to D that all samplers end with.
    """
    found: dict[Key, list[float]] = {}
    for data, (denoiser, z) in DATA.items():
        for path, (make, _) in bar(list(GRIDS.items()), f"orders, {data}"):
            for N in counts:
                grid = make(N)
                last = float(grid[-2])
                x = solved(data, float(grid[0]), last)
                truth = math.cos(last) * x - math.sin(last) * denoiser(x, last)
                for name, (solver, _) in SOLVERS.items():
                    error = (solver(denoiser, z, grid, path=path) - truth).square().mean().sqrt().item()
                    found.setdefault((data, path.name, name), []).append(error)
    return found


def slope(counts: Sequence[int], errors: Sequence[float]) -> float:
    """Order of the error at the end, from all numbers of steps but the smallest."""
    return float(-np.polyfit(np.log(counts[1:]), np.log(errors[1:]), 1)[0])


def local_order(data: str, path: Path, solver: str) -> float:
    """Order of the error of one step of length h from the angle 1."""
    denoiser, z = DATA[data]
    lengths, errors = [0.04, 0.02, 0.01, 0.005], []
    for h in lengths:
        step = reached(SOLVERS[solver][0], denoiser, z, vector(1.0, 1.0 - h, 0.0), path=path)
        errors.append((step - solved(data, 1.0, 1.0 - h)).abs().max().item())
    return float(np.polyfit(np.log(lengths), np.log(errors), 1)[0])


def local_orders() -> dict[Key, float]:
    """{(data, path, solver): order of one step's error}."""
    keys = [(data, path, solver) for data in DATA for path in GRIDS for solver in SOLVERS]
    return {(data, path.name, solver): local_order(data, path, solver) for data, path, solver in keys}


def order_checks(
    counts: Sequence[int], errors: dict[Key, list[float]], local: dict[Key, float]
) -> Iterator[tuple[str, list[float], int]]:
    """(what, orders on all paths, expected order) of one step and at the end, for each data set and solver."""
    at_end = {key: slope(counts, values) for key, values in errors.items()}
    for data in DATA:
        for solver, (_, order) in SOLVERS.items():
            for what, found, expected in (("one step", local, order + 1), ("at the end", at_end, order)):
                yield f"{solver}, {what}, {data}", [found[data, path.name, solver] for path in GRIDS], expected


def mean_orders(local: dict[Key, float]) -> list[float]:
    """Order of one step's error by solver, mean over paths and data."""
    return [float(np.mean([v for key, v in local.items() if key[2] == solver])) for solver in SOLVERS]


def orders_figure(errors: dict[Key, list[float]], counts: Sequence[int]) -> Figure:
    """RMS error at the end by number of steps; a column for each data set, a row for each solver."""
    looks = {"VE": "D", "VP": "^", "EDM": "x", "flow": "s", "angle": "o"}
    sizes = {"VE": 4, "VP": 4, "EDM": 4, "flow": 5.5, "angle": 8}  # nested where the lines coincide
    colours = dict(zip(looks, ("#d1495b", "#b07a1e", "#222222", "#8d6cab", "#1f7a8c"), strict=True))
    steps = {path.name: title for path, (_, title) in GRIDS.items()}
    fig, axes = plt.subplots(1, 4, figsize=(7.4, 2.6))
    panels = [(solver, data) for solver in SOLVERS for data in DATA]
    for ax, (solver, data) in zip(axes, panels, strict=True):
        for name, mark in looks.items():
            style = {"marker": mark, "ms": sizes[name], "mfc": "none", "lw": 0.9, "color": colours[name]}
            ax.loglog(counts, errors[data, name, solver], label=f"{name}, {steps[name]}", **style)
        ax.set(title=f"{solver.title()}, {data} data", xlabel="steps $N$")
        ax.set_xticks(counts, [str(n) for n in counts])
        ax.minorticks_off()
    axes[0].set_ylabel("RMS error at the end")
    fig.tight_layout(w_pad=0.6, rect=(0, 0.08, 1, 1))
    fig.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=5, fontsize=7, title="path, steps")
    return fig


VARIANCES = torch.logspace(math.log10(1 / 64), math.log10(64), 61, dtype=torch.float64)
LINE = zsnr.Gaussian(torch.zeros(61, dtype=torch.float64), VARIANCES)


def std_error(grid: Tensor, path: Path = ANGLE) -> np.ndarray:
    """Heun's generated std over the true one, less 1, for each variance; exact, as samplers are affine in the noise."""
    drawn = heun(LINE, torch.ones(1, 61, dtype=torch.float64), grid, path=path)[0]
    return (drawn / VARIANCES.sqrt() - 1).numpy()


def flow_heun(N: int) -> np.ndarray:
    """The same of diffusers' Heun for flow matching, which starts at zero SNR too: 2N - 1 evaluations, in float32."""
    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(N)
    x = torch.ones(1, 61, dtype=torch.float32)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        at = FLOW.at(math.pi / 2 if sigma == 1 else FLOW.angle(sigma.item()))
        x_phi = x.double() / at.n
        D = math.cos(at.phi) * x_phi - math.sin(at.phi) * LINE(x_phi, at.phi)
        x = scheduler.step(((x.double() - D) / sigma).float(), t, x, return_dict=False)[0]
    return (x[0].double() / VARIANCES.sqrt() - 1).numpy()


def trailing(N: int, stand_in: float = math.inf) -> Tensor:
    """Trailing steps of Stable Diffusion's rescaled schedule; a finite stand-in replaces sigma = infinity."""
    grid = zsnr.grid(zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion()), N)
    return grid if stand_in == math.inf else torch.cat([vector(math.atan(stand_in)), grid[1:]])


STARTS: dict[str, Callable[[int], np.ndarray]] = {
    "zero SNR: power 1.5, angle": lambda N: std_error(zsnr.power(N)),
    "zero SNR: uniform angle": lambda N: std_error(zsnr.uniform(N)),
    "zero SNR: trailing, angle": lambda N: std_error(trailing(N)),
    "zero SNR: diffusers' Heun, flow": flow_heun,
    "σ = 80: ρ = 7, σ = t": lambda N: std_error(zsnr.karras(N), EDM),
    "σ = 4096: ρ = 7, σ = t": lambda N: std_error(zsnr.karras(N, sigma_max=4096), EDM),
    "σ = 4096: trailing, angle": lambda N: std_error(trailing(N, 4096.0)),
    "σ = 4096: trailing, σ = t": lambda N: std_error(trailing(N, 4096.0), EDM),
}
"""Where a sampler starts, its steps and its path."""


def starts(counts: Sequence[int]) -> dict[tuple[str, int], np.ndarray]:
    """{(start, Heun steps): error of the std for each of VARIANCES}."""
    return {(name, N): way(N) for name, way in STARTS.items() for N in counts}


def starts_table(found: dict[tuple[str, int], np.ndarray], counts: Sequence[int]) -> Table:
    """The largest error over all variances, in percent."""
    rows = [(name, *(100 * np.abs(found[name, N]).max() for N in counts)) for name in STARTS]
    columns = {"start: steps, path": "", **{f"{N} Heun steps": ".2f" for N in counts}}
    return table(rows, columns, "Largest error of the standard deviation, in %, over variances from 1/64 to 64")


def zero_snr_figure(found: dict[tuple[str, int], np.ndarray], counts: Sequence[int]) -> Figure:
    """|error of the std| by the variance of the data, for six of the starts."""
    colours = (COLOURS["zsnr"], COLOURS["offset"], COLOURS["base"], "#777777", COLOURS["data"], COLOURS["control"])
    fig, axes = plt.subplots(1, len(counts), figsize=(7, 2.8), sharey=True)
    for ax, N in zip(axes, counts, strict=True):
        for name, style, colour in zip(STARTS, ("-", "--", "-.", ":", "-", "--"), colours, strict=False):
            ax.loglog(VARIANCES, 100 * np.abs(found[name, N]), style, color=colour, label=name)
        ax.set(title=f"{N} Heun steps", xlabel=r"variance $\Lambda$ of the data", ylim=(1e-3, 300))
        ax.set_xticks([1 / 64, 1, 64], ["1/64", "1", "64"])
        ax.minorticks_off()
    axes[0].set_ylabel("|error of the std|, %")
    fig.tight_layout(rect=(0, 0.13, 1, 1))
    fig.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=3, fontsize=7)
    return fig
