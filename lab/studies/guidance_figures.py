"""The figures of finding 18."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from lab.measure.guiding import METHODS
from lab.measure.metrics import interval
from lab.report import figures
from lab.studies.guidance import Found, Measures

STYLES = dict(zip(METHODS, ("control", "base", "offset", "zsnr", "data"), strict=True))
TITLES = {
    "shift": "mean level $-$ truth",
    "spread": "std of levels / truth",
    "saturated": "share of $|x| > 1.02$",
    "off": "rms distance to asked",
}


def measures(found: Mapping[str, Found], real: Measures) -> Figure:
    """Each measure (columns) by w and method, for the exact and the flawed model (rows); dashed, real pictures."""
    fig, axes = plt.subplots(2, 4, figsize=(7.2, 3.5), sharex=True, sharey="col")
    for row, (model, methods) in zip(axes, found.items(), strict=True):
        for ax, what in zip(row, TITLES, strict=True):
            ax.axhline(np.mean(real[what]), color="0.5", lw=1, ls="--", label="real")
            for method, points in methods.items():
                values = np.array([points[w][what] for w in points])
                low, high = np.array([interval(list(v)) for v in values]).T
                colour = figures.COLOURS[STYLES[method]]
                ax.plot(list(points), values.mean(1), "o-", ms=2.5, color=colour, label=method)
                ax.fill_between(list(points), low, high, color=colour, alpha=0.2, lw=0)
            ax.set_xticks([1, 3, 5, 7])
        row[0].set_ylabel(f"{model} model")
    for top, bottom, title in zip(*axes, TITLES.values(), strict=True):
        top.set_title(title)
        bottom.set_xlabel("$w$")
    fig.tight_layout(w_pad=0.6)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), ncols=6, loc="upper center", bbox_to_anchor=(0.5, 0.01),
               fontsize=7)  # fmt: skip
    return fig


def sheets(rows: Mapping[str, Tensor], title: str) -> Figure:
    """Sixteen pictures of each row, of levels from -1.2 (black) to -0.4 (white)."""
    fig, axes = plt.subplots(len(rows), 1, figsize=(5.6, 2.9))
    for ax, (name, pictures) in zip(axes, rows.items(), strict=True):
        figures.pictures(ax, (pictures[:16] + 0.8) / 0.4, 16)
        ax.text(-4, 9, name, ha="right", va="center", fontsize=7)
    axes[0].set_title(title)
    fig.subplots_adjust(hspace=0.05)
    return fig
