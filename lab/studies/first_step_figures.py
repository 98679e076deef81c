"""The figures of finding 10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lab.measure.sweep import jackknife
from lab.models.data import SIZE
from lab.report.figures import COLOURS, pictures
from lab.studies.first_step import STEPS, rms

LOOKS: dict[str, dict[str, Any]] = {
    "exact, flawed": {"color": COLOURS["control"], "ls": ":", "marker": "o", "mfc": "white"},
    "exact, zero SNR": {"color": COLOURS["zsnr"], "ls": ":", "marker": "s", "mfc": "white"},
    "base, flawed": {"color": COLOURS["base"], "marker": "^"},
    "control, flawed": {"color": COLOURS["control"], "marker": "o"},
    "trained, zero SNR": {"color": COLOURS["zsnr"], "marker": "s"},
}
TITLES = {
    "exact, flawed": "exact denoiser, flawed schedule",
    "exact, zero SNR": "exact denoiser, zero SNR",
    "control, flawed": "trained (control), flawed schedule",
    "trained, zero SNR": "trained, zero SNR",
}
SPREADS = ("std a pixel over noises / data's", "std of the level over noises / data's")


def figure5(paths: Mapping[str, Tensor]) -> Figure:
    """The predicted x0 at each step (columns) from four noises (rows), by model."""
    fig, axes = plt.subplots(2, 2, figsize=(7, 3.6))
    for ax, (name, title) in zip(axes.flat, TITLES.items(), strict=True):
        pictures(ax, paths[name][:, :4].transpose(0, 1).flatten(0, 1), len(STEPS))
        ax.set_title(title, pad=11)
        for j, t in enumerate(STEPS):
            ax.text((j + 0.5) * (SIZE + 1), -3, f"{t}", ha="center", va="bottom", fontsize=6)
    fig.subplots_adjust(wspace=0.04, hspace=0.16)
    return fig


def spread_figure(curves: Mapping[tuple[str, str], Sequence[float]]) -> Figure:
    """Spread of the predictions over noises, by step."""
    fig, axes = plt.subplots(1, 2, figsize=(7, 2.7), sharey=True, layout="constrained")
    for ax, what, title in zip(axes, ("pixel", "level"), SPREADS, strict=True):
        for name, look in LOOKS.items():
            ax.plot(STEPS, curves[name, what], label=name, **look)
        ax.axhline(1, color=COLOURS["data"], lw=0.8)
        ax.set(title=title, xlabel="step $t$", xticks=STEPS[::3])
        ax.set_ylim(bottom=-0.02)
        ax.invert_xaxis()
    axes[1].legend(fontsize=6.5, loc="lower right")
    return fig


def near_T_figure(near: Sequence[int], sharp: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """The same at the last hundred steps, at zero SNR."""
    fig, axes = plt.subplots(1, 2, figsize=(7, 2.5), sharey=True, layout="constrained")
    for k, (ax, title) in enumerate(zip(axes, SPREADS, strict=True)):
        for name, values in sharp.items():
            ax.plot(near, [v[k] for v in values], label=name, **LOOKS[f"{name}, zero SNR"])
        ax.set(title=title, xlabel="step $t$")
        ax.invert_xaxis()
    axes[0].set_ylim(bottom=-0.02)
    axes[1].legend()
    return fig


def first_figure(rows: Mapping[str, Tensor], names: Sequence[str]) -> Figure:
    """Predictions at T for each condition (columns), beside the mean of the data."""
    fig, ax = plt.subplots(figsize=(7, 2.6))
    pictures(ax, torch.cat(list(rows.values())), len(names))
    for j, name in enumerate(names):
        ax.text((j + 0.3) * (SIZE + 1), -3, name, ha="left", va="bottom", fontsize=6, rotation=35)
    for i, name in enumerate(rows):
        ax.text(-5, (i + 0.5) * (SIZE + 1), name, ha="right", va="center", fontsize=6.5)
    return fig


def replaced_figure(table: Mapping[str, Sequence[Tensor]], throughout: Tensor) -> Figure:
    """Change of the trained model's predictions and of its pictures where something else takes the noise's place."""
    fig, ax = plt.subplots(figsize=(6, 2.7), layout="constrained")
    parts = {
        "prediction at $T$": "zsnr",
        "prediction at the second step": "control",
        "finished picture, replaced at $T$ only": "base",
    }
    for k, (what, colour) in enumerate(parts.items()):
        middle = np.array([rms(v[k]) for v in table.values()])
        bounds = np.array([jackknife(rms, v[k]) for v in table.values()])
        style: dict[str, Any] = {"color": COLOURS[colour], "capsize": 2, "label": what, "error_kw": {"lw": 0.8}}
        ax.bar(np.arange(len(table)) + (k - 1) * 0.27, middle, 0.25, yerr=np.abs(bounds.T - middle), **style)
    label = "finished picture, other noise at every step"
    ax.axhline(rms(throughout), color=COLOURS["data"], lw=0.8, ls="--", label=label)
    ax.set_xticks(range(len(table)), list(table), fontsize=7)
    ax.set(ylabel="rms change / data's std")
    ax.set_ylim(top=1.45 * ax.get_ylim()[1])
    ax.legend(ncols=2, fontsize=6.5, loc="upper left")
    return fig
