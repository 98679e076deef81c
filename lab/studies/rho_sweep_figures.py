"""The figures of finding 5."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator
from torch import Tensor

from lab.measure.local_error import frozen
from lab.measure.metrics import bootstrap
from lab.report.figures import COLOURS
from lab.studies.rho_levels import BOTTOM, RHOS, before
from lab.studies.rho_sweep import SIGMAS, Errors
from lab.studies.rho_trained import Trained

METHODS = ("Euler", "Heun")
COLOUR = dict(zip(RHOS, plt.get_cmap("viridis")(np.linspace(0, 0.88, len(RHOS))), strict=True))
PAPER: dict[str, Any] = {"color": COLOURS["control"], "alpha": 0.35}
SMALL = 6.5


def _legend(fig: Figure, extra: Sequence[Line2D | Patch]) -> None:
    """One legend above both axes: the colours of the rhos, then what else there is to explain."""
    rhos = [Line2D([], [], color=COLOUR[rho], lw=2, label=rf"$\rho = {rho}$") for rho in RHOS]
    fig.legend(handles=[*rhos, *extra], loc="outside upper center", ncols=8, fontsize=SMALL, handlelength=1.6)


def figure13ab(errors: Errors, intervals: int) -> Figure:
    """Measured errors of single steps along sqrt t, their frozen law, and what the paper reports."""
    fig, axes = plt.subplots(1, 2, figsize=(7, 2.9), sharey=True, layout="constrained")
    dense = torch.from_numpy(np.geomspace(BOTTOM, 70, 300))
    for k, (ax, name) in enumerate(zip(axes, METHODS, strict=True)):
        for rho in RHOS:
            ax.loglog(dense, frozen(before(dense, rho, intervals), dense, k + 1), color=COLOUR[rho], lw=0.9)
            ax.plot(SIGMAS, errors[rho][k].mean(1), "o", color=COLOUR[rho], ms=3)
        ax.set(title=f"{name}, $\\sigma(t) = \\sqrt{{t}}$", xlabel=r"$\sigma_i$", ylim=(1e-4, 2))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_minor_locator(NullLocator())
    axes[0].hlines([0.56], BOTTOM, 0.5, lw=5, **PAPER)
    axes[0].hlines([0.03], BOTTOM, 70, lw=5, **PAPER)
    axes[1].fill_between([BOTTOM, 70], 0.0030, 0.0045, lw=0, **PAPER)
    axes[0].set_ylabel("RMSE of one step")
    dots = Line2D([], [], color="k", marker="o", ls="", ms=3, label="measured")
    _legend(fig, [dots, Line2D([], [], color="k", lw=0.9, label="frozen law"), Patch(label="paper", **PAPER)])
    return fig


def straight_figure(errors: Errors, gaussian: Mapping[int, Tensor]) -> Figure:
    """The same along sigma(t) = t: of the pictures' denoiser (by sample) and of the Gaussian's (over all data)."""
    fig, axes = plt.subplots(1, 2, figsize=(7, 2.9), sharey=True, layout="constrained")
    for k, (ax, name) in enumerate(zip(axes, METHODS, strict=True)):
        for rho, e in gaussian.items():
            ax.loglog(SIGMAS, e[k], "--", color=COLOUR[rho], lw=0.9)
        for rho, e in errors.items():
            mean = e[k].mean(1)
            ax.plot(SIGMAS, mean.where(mean > 1e-9, math.nan), "o-", color=COLOUR[rho], ms=3, lw=0.9)
        ax.set(title=f"{name}, $\\sigma(t) = t$", xlabel=r"$\sigma_i$", ylim=(1e-7, 1), xlim=(0.016, 90))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_minor_locator(NullLocator())
    axes[0].set_ylabel("RMSE of one step")
    dots = Line2D([], [], color="k", marker="o", ms=3, lw=0.9, label="pictures")
    _legend(fig, [dots, Line2D([], [], color="k", ls="--", lw=0.9, label="Gaussian")])
    return fig


def _rho_axis(ax: Axes, ticks: Sequence[int]) -> None:
    ax.set(xscale="log", xlabel=r"$\rho$", xticks=ticks, xticklabels=list(map(str, ticks)))
    ax.xaxis.set_minor_locator(NullLocator())


def _over_least(e: Mapping[int, float]) -> list[float]:
    return [value / min(e.values()) for value in e.values()]


def global_figure(
    finished: Mapping[str, Mapping[int, float]], trips: Mapping[str, Mapping[int, float]], sums: Mapping[int, float]
) -> Figure:
    """Errors of finished pictures and of inversions by rho, each over the smallest of its own curve."""
    fig, axes = plt.subplots(1, 3, figsize=(7, 2.8), sharey=True, layout="constrained")
    looks: dict[str, dict[str, Any]] = {
        "Gaussian": {"color": COLOURS["trailing"], "marker": "o", "ms": 3},
        "mixture": {"color": COLOURS["leading"], "marker": "s", "ms": 5, "mfc": "none", "ls": "--"},
    }
    for name, e in finished.items():
        axes[0].plot(list(e), _over_least(e), label=f"{name}, $N = 18$", **looks[name])
    for name, e in trips.items():
        kind, path, levels = name.split(", ")
        ax = axes[1] if path == "t" else axes[2]
        first = {"color": COLOURS["linspace"], "marker": "^", "ls": ":"} if levels == "N = 18" else {}
        ax.plot(list(e), _over_least(e), label=f"{kind}, ${levels}$", **looks[kind] | first)
    axes[2].plot(list(sums), _over_least(sums), ":", color="grey", label="sum of single errors")
    titles = ("picture, $\\sigma(t) = t$", "round trip, $\\sigma(t) = t$", "round trip, $\\sigma(t) = \\sqrt{t}$")
    for ax, title, (low, high) in zip(axes, titles, ((5, 10), (2.9, 3.1), (2.9, 3.1)), strict=True):
        ax.axvspan(low, high, color=COLOURS["data"], alpha=0.12, lw=0, label="best in the paper")
        _rho_axis(ax, [2, 3, 5, 7, 10, 20, 30])
        ax.set(title=title, xlim=(1.85, 33), yscale="log", ylim=(0.95, 6))
        ax.set(yticks=[1, 1.5, 2, 3, 5], yticklabels=["1", "1.5", "2", "3", "5"])
        ax.yaxis.set_minor_locator(NullLocator())
        ax.legend(fontsize=SMALL, loc="upper right", handlelength=2.2)
    axes[0].set_ylabel("RMSE / smallest RMSE")
    return fig


def figure13c(trained: Trained, error: Mapping[int, Tensor]) -> Figure:
    """The trained network by rho, with 95 % intervals: Fréchet distance, all and from rho = 2 on, and the
    median error to its own solution from rho = 3 on.
    """
    distance, bounds = trained.distance, trained.bounds
    fig, axes = plt.subplots(1, 3, figsize=(7, 2.3), layout="constrained")
    for ax, rhos in zip(axes[:2], (list(distance), [rho for rho in distance if rho >= 2]), strict=True):
        middle, ends = np.array([distance[rho] for rho in rhos]), np.array([bounds[rho] for rho in rhos]).T
        look = {"color": COLOURS["zsnr"], "capsize": 2, "label": "trained network"}
        ax.errorbar(rhos, middle, np.abs(ends - middle), fmt="o-", **look)
        ax.axvspan(5, 10, color=COLOURS["data"], alpha=0.08, lw=0, label="best in the paper")
        _rho_axis(ax, rhos)
    axes[0].set(yscale="log", ylabel="Fréchet distance", title=f"Heun, $N = {trained.steps}$")
    axes[0].set(yticks=[5, 10, 20, 50], yticklabels=["5", "10", "20", "50"])
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[1].set(title=r"the same from $\rho = 2$ on")
    axes[1].legend(fontsize=SMALL)
    rhos = [rho for rho in error if rho >= 3]
    middle = np.array([error[rho].median().item() for rho in rhos])
    ends = np.array([bootstrap(error[rho], np.median) for rho in rhos]).T
    axes[2].errorbar(rhos, middle, np.abs(ends - middle), fmt="o-", color=COLOURS["zsnr"], capsize=2)
    axes[2].axvspan(5, 10, color=COLOURS["data"], alpha=0.08, lw=0)
    _rho_axis(axes[2], rhos)
    axes[2].set(ylim=(0, None), ylabel="RMSE", title="from its own solution")
    return fig
