"""Finding 6, Figure 3 (Karras et al. 2022): in which time and scale the ODE's trajectories are straight."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

import zsnr
from lab.report.figures import COLOURS
from lab.report.tables import Table, table
from lab.studies.design_space import falling
from zsnr.path import ANGLE, EDM, FLOW, VE, VP, Path
from zsnr.samplers import heun

TWO = zsnr.Empirical(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
"""Two points at -1 and 1, as in the paper's figure; D = tanh(x / sigma^2)."""
SIGMAS = np.geomspace(25, 0.002, 1500)
RANGES = {"below": (0.002, 10**-0.5), "middle": (10**-0.5, 10**0.5), "above": (10**0.5, 25)}
"""Of sigma: the middle is one decade around 1."""
STRAIGHT = (VP, VE, EDM, FLOW, ANGLE)


def trajectories(z: Tensor, grid: Tensor) -> np.ndarray:
    """(N, B) states x_phi of the exact ODE at the grid's levels above 0, from (B,) noise."""
    states: list[Tensor] = []
    heun(TWO, math.sin(grid[0]) * z.view(-1, 1), grid, callback=lambda i, phi, x, v: states.append(x[:, 0]))
    return torch.stack(states).numpy()


def curvature() -> dict[str, dict[str, tuple[float, float]]]:
    """{path: {range of sigma: (deviation from the chord, share of the turning)}}, over 400 trajectories.

    The deviation is the largest one (RMS over trajectories) as a share of the way made in that range. Turning is the
    total variation of dx/dt. Neither changes if an axis is rescaled.
    """
    z = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    many = trajectories(z, falling(*SIGMAS))
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for path in STRAIGHT:
        times = np.array([path.time(math.atan(q)) for q in SIGMAS])
        x = many * np.array([path.at(math.atan(q)).n for q in SIGMAS])[:, None]
        turn = np.abs(np.diff(np.diff(x, axis=0) / np.diff(times)[:, None], axis=0)).sum(1)
        found[path.name] = {}
        for name, (a, b) in RANGES.items():
            inside = np.clip(SIGMAS, a, b) == SIGMAS
            share = turn[inside[1:-1]].sum() / turn.sum()
            found[path.name][name] = deviation(times[inside], x[inside]), float(share)
    return found


def deviation(t: np.ndarray, x: np.ndarray) -> float:
    """Largest RMS distance of (N, B) trajectories from their chords, over the RMS way that they make."""
    chord = x[0] + (x[-1] - x[0]) * ((t - t[0]) / (t[-1] - t[0]))[:, None]
    way = np.sqrt(np.mean((x[-1] - x[0]) ** 2))
    return float(np.sqrt(np.mean((x - chord) ** 2, 1)).max() / way)


def curvature_table(found: dict[str, dict[str, tuple[float, float]]]) -> Table:
    """Both measures of each path, in three ranges of sigma."""
    ranges = [f"σ {a:.3g} – {b:.3g}" for a, b in RANGES.values()]
    columns = [f"{what}, {r}" for what in ("deviation", "turning") for r in ranges]
    rows = [(path, *(found[path][r][k] for k in (0, 1) for r in RANGES)) for path in found]
    return table(rows, {"path": "", **dict.fromkeys(columns, ".4f")})


def _density(path: Path, t: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(X, T) density of the noisy data at each time, over its largest value at that time."""
    columns = []
    for q in t:
        zero_snr = path is ANGLE and q >= path.time(math.pi / 2 - 1e-9)
        at = path.at(math.pi / 2 if zero_snr else path.angle(q))
        c, w = at.n * math.cos(at.phi), at.n * math.sin(at.phi)
        column = np.exp(-((x - c) ** 2) / (2 * w**2)) + np.exp(-((x + c) ** 2) / (2 * w**2))
        columns.append(column / column.max())
    return np.array(columns).T


def _panel(ax: Axes, path: Path, lines: tuple[np.ndarray, np.ndarray], colour: str, end: float, height: float) -> None:
    t, x = np.linspace(end * 1e-3, end, 120), np.linspace(-height, height, 160)
    shade = _density(path, t, x)
    ax.pcolormesh(t, x, shade, cmap="Greys", vmax=3, rasterized=True, shading="nearest")
    ax.plot(*lines, color=colour, lw=0.6)
    ax.set(xlim=(0, end), ylim=(-height, height))
    ax.grid(False)


def figure3() -> Figure:
    """Trajectories along VP, VE, EDM, and the angle from zero SNR; below each the last part, sigma <= 1."""
    z = torch.special.ndtri((torch.arange(15, dtype=torch.float64) + 0.5) / 15)
    zero = zsnr.power(1500)
    fans = {True: trajectories(z, zero), False: trajectories(z, falling(*SIGMAS))}
    fig, axes = plt.subplots(2, 4, figsize=(7, 3.9))
    for (whole, last), path in zip(axes.T, (VP, VE, EDM, ANGLE), strict=True):
        ours = path is ANGLE
        angles = zero[:-1].numpy() if ours else np.arctan(SIGMAS)
        times = np.array([path.time(p) for p in angles])
        x = fans[ours] * np.array([path.at(p).n for p in angles])[:, None]
        colour = COLOURS["zsnr"] if ours else COLOURS["data"]
        _panel(whole, path, (times, x), colour, times[0], 3 if path in (VP, ANGLE) else 55)
        _panel(last, path, (times, x), colour, path.time(math.atan(1.0)), 2.6)
        last.set(xlabel="time $t$", yticks=[-1, 0, 1])
        whole.set_title(f"{path.name}, from $\\sigma = 25$")
    axes[0, 3].set(title="angle, from zero SNR", xticks=[0, math.pi / 4, math.pi / 2], xticklabels=["0", "π/4", "π/2"])
    axes[1, 3].set(xticks=[0, math.pi / 8, math.pi / 4], xticklabels=["0", "π/8", "π/4"])
    axes[0, 0].set_ylabel("all levels\nstate $x$")
    axes[1, 0].set_ylabel("the last part, $\\sigma \\leq 1$\nstate $x$")
    fig.tight_layout(w_pad=0.4, rect=(0, 0.05, 1, 1))
    line = Line2D(
        [], [], color=COLOURS["data"], lw=0.8, label="trajectories of the ODE, from 15 quantiles of the noise"
    )
    shade = Patch(color="#bbbbbb", label="density of the noisy data at that time")
    fig.legend(handles=[line, shade], loc="lower center", ncols=2, fontsize=7)
    return fig
