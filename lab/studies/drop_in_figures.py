"""The figures of finding 17."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from lab.report.figures import COLOURS
from lab.report.sheets import strip
from lab.studies.drop_in import Errors

REFERENCE, TWO = "zsnr Heun, power", "two calls a step"
OURS: dict[str, Any] = {"color": COLOURS["zsnr"], "marker": "o", "ms": 4}
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "one call a step": {
        "zsnr DDIM, trailing": {
            "color": COLOURS["zsnr"],
            "ls": ":",
            "lw": 2.4,
            "marker": "s",
            "ms": 6.5,
            "mfc": "white",
        },
        "Euler": {"color": COLOURS["base"], "lw": 1, "marker": "x"},
        "DDIM": {"color": COLOURS["control"], "marker": "^"},
        "DPM++ 2M": {"color": COLOURS["offset"], "lw": 3, "alpha": 0.6, "marker": "D", "ms": 6},
        "UniPC": {"color": COLOURS["data"], "lw": 1, "ls": "-.", "marker": "+", "ms": 7},
        "DPM++ 2M, Karras": {"color": "#5a8f3c", "ls": "--", "marker": "v"},
    },
    TWO: {
        "zsnr Heun, trailing": {"color": COLOURS["zsnr"], "ls": "--", "lw": 1, "marker": "s", "ms": 6, "mfc": "white"},
        "Heun, 2^-24 for 0": {"color": COLOURS["base"], "ls": ":", "marker": "x"},
    },
}


def errors(found: Errors) -> Figure:
    """Error of the std by calls: a wide and a narrow direction (columns), one and two calls a step (rows)."""
    fig, axes = plt.subplots(2, 2, figsize=(7, 4.6), sharex=True, sharey=True, layout="constrained")
    titles = {3: "std 8: wide, as brightness is", 0: "std 1/4: fine detail"}
    for line, (row, looks) in zip(axes, ROWS.items(), strict=True):
        for ax, (k, title) in zip(line, titles.items(), strict=True):
            for name, look in {REFERENCE: OURS, **looks}.items():
                stds = found.std[name][:, k]
                if np.isfinite(stds).any():
                    who = name if name.startswith("zsnr") else f"diffusers {name}".replace("2^-24", "$2^{-24}$")
                    who += " (two calls)" if name == REFERENCE and row != TWO else ""
                    ax.loglog(found.calls, 100 * stds, label=who, **look)
            ax.set_title(title if ax in axes[0] else "")
            ax.set_xticks(found.calls, found.calls)
            ax.minorticks_off()
        line[0].set_ylabel("error of the std, %")
        line[1].legend(*line[0].get_legend_handles_labels(), title=row, title_fontsize=7, fontsize=6.5, handlelength=4,
                       loc="center left", bbox_to_anchor=(1.0, 0.5), alignment="left")  # fmt: skip
    for ax in axes[1]:
        ax.set_xlabel("calls of the network")
    return fig


def both_ways(edm: Tensor, diffusers: Tensor) -> Figure:
    """Ten pictures of one network from the same noises, by EDM's sampler and in diffusers."""
    fig, axes = plt.subplots(2, 1, figsize=(7, 1.35), layout="constrained")
    strip(axes[0], edm, "EDM's sampler:\nHeun, 49 calls")
    strip(axes[1], diffusers, "in diffusers:\nDDIM, 50 calls")
    return fig
