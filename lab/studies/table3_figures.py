"""The figures of finding 20; what they show is in `lab.studies.table3`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lab.measure.evaluation import REAL
from lab.report import figures
from lab.studies.table3 import MEASURES, SPREAD, Mean, Table3
from lab.studies.table3_judge import ALL_FIXES, NO_FIXES, PAPER, PHI_0, without

INK, FIXED, FLAWED = figures.COLOURS["data"], figures.COLOURS["zsnr"], figures.COLOURS["control"]
LOOKS: dict[str, dict[str, Any]] = {
    NO_FIXES: {"color": FLAWED, "fmt": "o-"},
    ALL_FIXES: {"color": FIXED, "fmt": "o-"},
    PHI_0: {"color": FIXED, "fmt": "o:", "mfc": "white", "alpha": 0.8},
}
DISTANCES = {
    "Frechet distance, class and level": "Fréchet distance, class and level",
    "Frechet distance, class": "the same, class alone",
}


def pictures(study: Table3, real: Tensor) -> Figure:
    """The first seed's pictures from the same noises, and (16, C, H, W) real ones."""
    scales = list(dict.fromkeys([study.w, PAPER]))
    sheets = {f"{kind}, $w = {w:g}$": study.cell(kind, w) for w in scales for kind in (NO_FIXES, ALL_FIXES)}
    fig, axes = plt.subplots(1, 1 + len(sheets), figsize=(1.55 * (1 + len(sheets)), 1.8))
    figures.pictures(axes[0], real, 4, "real")
    for ax, (name, cell) in zip(axes[1:], sheets.items(), strict=True):
        figures.pictures(ax, study.rows[cell][0].tensors["pictures"].float(), 4, name)
    fig.subplots_adjust(wspace=0.06)
    return fig


def guidance(study: Table3) -> Figure:
    """Both judges' distances and the levels' spread by guidance scale."""
    panels = {title: MEASURES[name] for name, title in DISTANCES.items()} | {"level std / data's": SPREAD}
    fig, axes = plt.subplots(1, 3, figsize=(7.2, 2.5))
    place = np.arange(len(study.scales))
    for ax, (title, keys) in zip(axes, panels.items(), strict=True):
        for (kind, look), shift in zip(LOOKS.items(), (-0.06, 0.06, 0.12), strict=True):
            points = [study.mean(study.cell(kind, w), *keys) for w in study.scales]
            _points(ax, place + shift, points, label=kind, **look)
        middle, (low, high) = study.mean(REAL, *keys)
        ax.axhline(middle, color=INK, lw=1, ls="--", label="real pictures, as many")
        ax.axhspan(low, high, color=INK, alpha=0.1, lw=0)
        ax.set_xticks(place, [f"{w:g}" for w in study.scales])
        ax.set(title=title, xlabel="guidance scale $w$", ylim=(0, None))
    return _legend(fig, axes[0], 4)


def ablation(study: Table3) -> Figure:
    """What is lost by leaving out each fix at the shared scale, by three measures."""
    names = [*DISTANCES, "level W1"]
    fixes = list(without(study.w, study.nfe))
    fig, axes = plt.subplots(1, 3, figsize=(7.2, 2.4), sharey=True)
    for ax, name in zip(axes, names, strict=True):
        found = [study.lost(fix, name) for fix in fixes]
        mean, error = _ends(found)
        ax.errorbar(mean, range(len(fixes)), xerr=error, fmt="o", color=FIXED, capsize=2, lw=1)
        ax.axvline(0, color=INK, lw=0.8)
        ax.axhline(len(fixes) - 1.5, color="#bbbbbb", lw=0.6)
        ax.set(title=DISTANCES.get(name, name), xlabel="lost: right of 0 is worse")
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(fixes)), fixes)
    axes[0].set(ylim=(len(fixes) - 0.5, -0.5), ylabel="left out")
    fig.tight_layout(w_pad=0.8)
    return fig


def figure6(study: Table3) -> Figure:
    """Contrast, over-exposure and the levels' spread by the strength of the rescaling, at two guidance scales."""
    titles = {"contrast": "contrast (std within a picture)", "saturated": "over-exposed, % of values"}
    fig, axes = plt.subplots(1, 3, figsize=(7.2, 2.5))
    looks: list[dict[str, Any]] = [{"fmt": "o-"}, {"fmt": "o:", "mfc": "white", "alpha": 0.8}]
    for (w, rows), look in zip(study.strengths.items(), looks, strict=False):
        label = f"all fixes, $w = {w:g}$" + (" (the paper's)" if w == PAPER else "")
        for ax, name in zip(axes, titles, strict=False):
            points = [_times(study.single(row, name), 100 if name == "saturated" else 1) for row in rows.values()]
            _points(ax, list(rows), points, label=label, color=FIXED, **look)
        _points(axes[2], list(rows), [study.spread(row) for row in rows.values()], color=FIXED, **look)
    natural = [study.natural("contrast"), _times(study.natural("saturated"), 100), study.mean(REAL, *SPREAD)]
    for ax, title, (middle, (low, high)) in zip(axes, [*titles.values(), "level std / data's"], natural, strict=True):
        ax.axhline(middle, color=INK, lw=1, ls="--", label="real pictures")
        ax.axhspan(low, high, color=INK, alpha=0.1, lw=0)
        ax.axvspan(0.5, 0.75, color=FIXED, alpha=0.08, lw=0, label="best by the paper")
        ax.set(title=title, xlabel="strength of the rescaling, $\\phi$", ylim=(0, None))
    axes[1].set_ylim(-0.04 * axes[1].get_ylim()[1], None)  # real pictures have none: their line is not the axis
    return _legend(fig, axes[0], 4)


def _times(value: Mean, unit: float) -> Mean:
    middle, (low, high) = value
    return unit * middle, (unit * low, unit * high)


def _ends(points: Sequence[Mean]) -> tuple[np.ndarray, np.ndarray]:
    """Means, and how far their intervals reach; not at all where there is none."""
    mean = np.array([m for m, _ in points])
    return mean, np.nan_to_num(np.abs(np.array([ends for _, ends in points]).T - mean))


def _points(ax: Axes, x: Sequence[float] | np.ndarray, points: Sequence[Mean], **look: Any) -> None:
    """Means with their 95 % intervals."""
    mean, error = _ends(points)
    ax.errorbar(x, mean, yerr=error, capsize=2, lw=1, **look)


def _legend(fig: Figure, ax: Axes, columns: int) -> Figure:
    """Below the panels."""
    fig.tight_layout(w_pad=0.8)
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, 0.02), fontsize=7)
    return fig
