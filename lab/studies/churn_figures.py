"""The figures of finding 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from lab.measure.known_truth import NONE, Setting
from lab.measure.metrics import interval
from lab.measure.sweep import S_NOISE, TABLE5_RANGES
from lab.report.figures import COLOURS, pictures
from lab.studies.churn import SIGNAL, STDS, by_heun, settled
from lab.studies.churn_maruyama import COUNTS
from lab.studies.churn_networks import NETWORKS, Networks
from lab.studies.churn_pictures import LEVELS
from zsnr.samplers import GAMMA_MAX

TINT = {"original": COLOURS["control"], "edm": COLOURS["zsnr"], "short": COLOURS["base"]}
INK, GREY = COLOURS["data"], "#777777"


LOOKS = {
    "all levels": ("o", COLOURS["control"]),
    "[.01, 1]": ("^", COLOURS["offset"]),
    "[.05, 1]": ("s", COLOURS["zsnr"]),
    "[.05, 50]": ("v", COLOURS["base"]),
}
"""Marks of the ranges in which noise is replaced."""


def frechet(networks: Networks) -> Figure:
    """Frechet distance by S_churn, a panel a network; a mark and colour a range, hollow marks have S_noise = 1.007."""
    fig, axes = plt.subplots(1, 3, figsize=(7.2, 3.3), sharey=True, layout="constrained")
    for ax, (name, title) in zip(axes, NETWORKS.items(), strict=True):
        _bars(ax, [0], [networks.cells[name, NONE][:2]], "k", color=INK, fmt="D", label="no churn")
        kinds = {(label, S_noise): (*TABLE5_RANGES[label], S_noise) for label in LOOKS for S_noise in S_NOISE}
        known = [[k for k, v in kinds.items() if (name, Setting(S, *v)) in networks.cells] for S in networks.amounts]
        for (label, S_noise), values in kinds.items():
            here = [(i, there) for i, there in enumerate(known) if (label, S_noise) in there]
            places = [i + 1 + 0.12 * (there.index((label, S_noise)) - (len(there) - 1) / 2) for i, there in here]
            found = [networks.cells[name, Setting(networks.amounts[i], *values)][:2] for i, _ in here]
            mark, colour = LOOKS[label]
            fill, more = (colour, "") if S_noise == 1 else ("white", r", $S_\mathrm{noise} = 1.007$")
            _bars(ax, places, found, fill, fmt=mark, color=colour, label=label + more)
        ax.axhline(networks.real, color=INK, lw=0.8, ls=":", label="real pictures")
        ticks = [0.0, *networks.amounts]
        ax.set(
            title=f"{name}:\n{title}",
            xlabel=r"$S_\mathrm{churn}$, and $\gamma$ below",
            xlim=(-0.4, len(ticks) - 0.4),
            yscale="log",
        )
        ax.set_xticks(range(len(ticks)), [f"{S:g}\n{networks.gamma(S):.2f}" for S in ticks], fontsize=7)
    bottom, top = axes[0].get_ylim()
    marks = [v for v in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if bottom <= v <= top]
    axes[0].set_yticks(marks, [f"{v:g}" for v in marks])
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[0].set_ylabel("Fréchet distance")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    return fig


def _bars(ax: Axes, x: Sequence[float], found: Sequence[tuple[float, float]], fill: str, **look: Any) -> None:
    """Values with half intervals."""
    middle, half = [c[0] for c in found], [c[1] for c in found]
    ax.errorbar(x, middle, half, mfc=fill, capsize=2, elinewidth=0.8, ms=4.5, lw=1, **look)


def exact(grid: Mapping[str, Tensor], errors: Mapping[str, np.ndarray]) -> Figure:
    """Gaussian data: churn at one level, churn at every step, and the error of the std by the number of steps.

    Args:
        grid: by sampler, the std over the data's for each of STDS.
        errors: by sampler, the error of the std at each of COUNTS.
    """
    inflation = {g: settled(by_heun, SIGNAL, g) - 1 for g in (GAMMA_MAX, 0.3125, 0.1172)}
    fig, axes = plt.subplots(1, 3, figsize=(7.2, 3.5), layout="constrained")
    shades = plt.get_cmap("viridis")(np.linspace(0.05, 0.8, len(inflation)))
    for (g, rise), shade in zip(inflation.items(), shades, strict=True):
        axes[0].semilogx(SIGNAL, 100 * rise, color=shade, label=rf"Heun, $\gamma = {g:.3f}$")
    axes[0].axhline(0, color=INK, lw=0.8, ls=":", label="exact way back")
    axes[0].set(
        xlabel=r"variance of data / noise, $\lambda / \sigma^2$",
        ylabel="excess of the std / %",
        title="churn at one level",
    )
    axes[0].set(xticks=[0.01, 0.1, 1, 10, 100])
    axes[0].xaxis.set_minor_locator(NullLocator())
    looks = {
        "zsnr, Heun": ("zsnr", "o-", 3.5),
        "zsnr, Heun, from zero SNR": ("data", "s:", 8.0),
        "zsnr, Euler": ("offset", "x-", 5.0),
        "diffusers, Euler, eps": ("base", "^-", 5.0),
        "diffusers, EDMEuler": ("control", "v-", 5.0),
    }
    for name, (colour, mark, ms) in looks.items():
        label = name.replace("eps", r"$\epsilon$")
        axes[1].semilogx(STDS, grid[name], mark, color=COLOURS[colour], ms=ms, mfc="none", label=label)
    axes[1].set(xlabel="std of the data", ylabel="std of the pictures / data's", title="churn at every step, $N = 256$")
    axes[1].set_xticks(STDS.tolist(), [f"{s:g}" for s in STDS.tolist()])
    axes[1].xaxis.set_minor_locator(NullLocator())
    for (name, error), colour, mark in zip(errors.items(), ("control", "base", "zsnr"), "v^o", strict=True):
        axes[2].loglog(COUNTS, error, f"{mark}-", color=COLOURS[colour], label=name)
    axes[2].set(xlabel="steps $N$", ylabel="rms error of the std", title="the same noise at every step")
    axes[2].set_xticks([8, 16, 32, 64, 128, 256], ["8", "16", "32", "64", "128", "256"])
    axes[2].xaxis.set_minor_locator(NullLocator())
    for ax in axes:
        ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return fig


def network(networks: Networks) -> Figure:
    """What the networks remove, how much of it is noise, and how far their Jacobians are from symmetric; by level."""
    fig, axes = plt.subplots(1, 3, figsize=(7.2, 2.9), layout="constrained")
    removed, asymmetry = networks.removed(), networks.asymmetry()
    for (name, found), mark in zip(removed.items(), "os^", strict=True):
        look = {"color": TINT[name], "label": name, "ms": 3.5, "lw": 1, "capsize": 2, "fmt": f"{mark}-"}
        axes[0].errorbar(found.sigma, found.r, **look)
        axes[0].plot(found.sigma, np.where(found.calibrated > 0, found.calibrated, np.nan), "--", lw=1, c=TINT[name])
        axes[1].errorbar(found.sigma, 1 / found.c, found.half / found.c**2, **look)
        axes[2].errorbar(found.sigma, *asymmetry[name], **look)
    axes[0].plot([], [], "--", color=GREY, lw=1, label="posterior mean with that error")
    axes[1].axhline(1, color=INK, lw=0.8, ls=":")
    axes[2].axhline(0, color=INK, lw=0.8, ls=":", label="exact denoiser")
    axes[1].axvspan(0.05, 1, color=GREY, alpha=0.15, lw=0, label="levels within [.05, 1]")
    axes[0].set(yscale="log", title=r"removed, $r = E|x - D|^2 / (\sigma^2 d)$")
    axes[1].set(yscale="log", title="removed / noise in it, $1/c$")
    low, high = axes[1].get_ylim()
    marks = [v for v in (0.2, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50) if low <= v <= high]
    axes[1].set_yticks(marks, [f"{v:g}" for v in marks])
    axes[1].yaxis.set_minor_locator(NullLocator())
    axes[2].set_title(r"asymmetry, $\|J - J^\top\| / \|J\|$")
    for ax in axes:
        ax.set(xlabel=r"$\sigma$", xscale="log")
        ax.set_xticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
        ax.xaxis.set_minor_locator(NullLocator())
    named = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(named.values(), named.keys(), loc="outside lower center", ncols=6, fontsize=7)
    return fig


def figure14(networks: Networks) -> Figure:
    """D of two held-out pictures (rows) after more and more iterations (columns), by network, S_noise and level."""
    panels = [(name, S_noise) for name in ("original", "edm") for S_noise in S_NOISE]
    fig, axes = plt.subplots(len(LEVELS), len(panels), figsize=(7.2, 2.95))
    for row, sigma in zip(axes, LEVELS, strict=True):
        for ax, (name, S_noise) in zip(row, panels, strict=True):
            states = networks.in_place(name, sigma, S_noise).tensors["pictures"]
            times, size = len(states), states.shape[-1] + 1
            pictures(ax, states.transpose(0, 1).flatten(0, 1), times)
            if sigma == LEVELS[0]:
                ax.set_title(rf"{name}, $S_\mathrm{{noise}} = {S_noise:g}$", pad=13)
                for i, n in enumerate(np.linspace(0, networks.iterations, times)):
                    ax.text((i + 0.5) * size, -3, f"{n:.0f}", ha="center", va="bottom", fontsize=6)
        for i in range(2):
            row[0].text(-3, (i + 0.5) * size, f"picture {i + 1}", ha="right", va="center", fontsize=6)
        row[0].text(-2.6 * size, size, rf"$\sigma = {sigma:g}$", ha="center", va="center", rotation=90)
    axes[0, 0].text(-3, -3, "iterations", ha="right", va="bottom", fontsize=6)
    fig.subplots_adjust(wspace=0.04, hspace=0.06)
    return fig


TITLES = {
    "contrast": "contrast / first",
    "detail": "detail / first",
    "saturated": "pixels beyond the range / %",
}


def in_place(networks: Networks, name: str = "original") -> Figure:
    """By iterations and level: three measures of a network's D (above), and what S_noise = 1.007 adds (below)."""
    fig, axes = plt.subplots(2, 3, figsize=(7.2, 4.2), sharex=True, layout="constrained")
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(LEVELS)))
    for column, (measure, title) in zip(axes.T, TITLES.items(), strict=True):
        for sigma, shade, mark in zip(LEVELS, shades, "os^D", strict=True):
            values, raised = (networks.in_place(name, sigma, S).tensors[measure].numpy() for S in S_NOISE)
            scale = values[0].mean() if "first" in title else 0.01
            when = np.linspace(0, networks.iterations, len(values))
            look = {"color": shade, "marker": mark, "ms": 3.5, "lw": 1.2, "label": rf"$\sigma = {sigma:g}$"}
            column[0].plot(when, values.mean(1) / scale, **look)
            added = (raised - values) / scale
            half = [np.ptp(interval(d.tolist())) / 2 for d in added]
            column[1].errorbar(when, added.mean(1), half, capsize=2, elinewidth=0.7, **look)
        column[0].set_title(title)
        column[1].set(xlabel="iterations")
        column[1].axhline(0, color=INK, lw=0.8, ls=":")
        if "first" in title:
            column[0].axhline(1, color=INK, lw=0.8, ls=":")
    axes[0, 0].set_ylabel(r"with $S_\mathrm{noise} = 1$")
    axes[1, 0].set_ylabel(r"change by $S_\mathrm{noise} = 1.007$")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    return fig
