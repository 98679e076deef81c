"""The figures of finding 11; what they show is in `lab.studies.leak` and `lab.studies.leak_models`."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lab.measure.evaluation import Cell
from lab.report import figures
from lab.studies.leak import first_alpha_bar, lost, schedules, uniform_from
from lab.studies.leak_models import SPACINGS, STARTS, Base, Directions, Mean

INK, COLOURS = figures.COLOURS["data"], figures.COLOURS
MODELS = {
    "base": "base",
    "control": "control",
    "offset": "offset noise",
    "zsnr": "zero SNR",
    "exact": "exact denoiser, flawed schedule",
}


def shapes(named: Sequence[tuple[str, int]], mean_std: float) -> Figure:
    """What the law says a schedule costs, by the number of positions that share a mean.

    Args:
        named: (name, positions) of the shapes that are marked.
        mean_std: std of the mean from picture to picture.
    """
    kinds = schedules()
    sd, linear, cosine = (kinds[n].alpha_bar[-1].item() for n in ("Stable Diffusion", "DDPM linear", "cosine"))
    late = first_alpha_bar(kinds["cosine"], "leading")
    lines: dict[str, tuple[float, float, dict]] = {
        "zero terminal SNR": (0.0, 0.0, {"color": COLOURS["zsnr"], "lw": 5, "alpha": 0.3}),
        "cosine, from T": (cosine, 0.0, {"color": "#777777"}),
        "cosine, from the first of 50 leading steps": (late, 0.0, {"color": "#777777", "ls": ":"}),
        "DDPM linear": (linear, 0.0, {"color": COLOURS["base"]}),
        "Stable Diffusion": (sd, 0.0, {"color": COLOURS["control"]}),
        "the same, offset noise 0.1, started from it": (sd, 0.01, {"color": COLOURS["offset"]}),
    }
    fig, panels = plt.subplots(1, 2, figsize=(7, 2.8))
    positions = np.geomspace(64, 4e5, 200)
    for name, (end, offset, look) in lines.items():
        laws = np.array([lost(end, n, mean_std, offset) for n in positions])
        for ax, values in zip(panels, laws.T, strict=True):
            ax.semilogx(positions, values, label=name, **look)
    for ax in panels:
        ax.set(ylim=(-0.03, 1.05), xlabel="positions that share a mean, $n$")
        for name, n in named:
            ax.axvline(n, color=INK, lw=0.5, ls=":", zorder=0)
            ax.annotate(name, (n, 1.03), xycoords=("data", "axes fraction"), rotation=30, fontsize=6.5, va="bottom")
    panels[0].set_ylabel("share of the mean that is lost")
    panels[1].set_ylabel("std of the mean / data's")
    return _legend(fig, panels[0].get_legend_handles_labels()[0], 3)


def along(directions: Directions) -> Figure:
    """Measured std along each axis against the law's; squares are the constant image."""
    fig, ax = plt.subplots(figsize=(5.2, 3.3))
    for k, name in enumerate(directions.measured):
        x = directions.law[name].numpy() + 0.004 * (k - 2)  # side by side where they would hide each other
        points, colour = directions.ratios(name), COLOURS.get(name, INK)
        for part, mark, size in ((slice(0, 1), "s", 6.5), (slice(1, None), "o", 3.5)):
            fill = "white" if name == "exact" else colour
            _points(ax, x[part], points[part], fmt=mark, ms=size, color=colour, mfc=fill, alpha=0.85)
    ax.set_xlim(ax.get_xlim())
    ax.axline((1, 1), slope=1, color=INK, lw=0.8, zorder=0)
    ax.axhline(1, color=INK, lw=0.8, ls="--", zorder=0)
    ax.set(xlabel="std / data's, by the law", ylabel="std / data's, measured")
    handles = [
        Line2D([], [], ls="", marker="o", ms=4, color=COLOURS.get(name, INK), label=MODELS[name],
               mfc="white" if name == "exact" else COLOURS.get(name, INK))
        for name in directions.measured
    ]  # fmt: skip
    handles += [
        Line2D([], [], ls="", marker="s", ms=6, color="0.5", label="square: the constant image"),
        Line2D([], [], color=INK, lw=0.8, label="the law"),
        Line2D([], [], color=INK, lw=0.8, ls="--", label="no leak"),
    ]
    fig.legend(handles=handles, loc="center left", bbox_to_anchor=(0.92, 0.5), fontsize=7)
    return fig


def starts(base: Base) -> Figure:
    """Spread of the level by what sampling starts from, beside the law's."""
    fig, ax = plt.subplots(figsize=(6, 2.7))
    for shift, spacing in zip((-0.18, 0.18), SPACINGS, strict=True):
        x = np.arange(len(STARTS)) + shift
        points = [base.spread(base.level(spacing, start)) for start in STARTS]
        _points(ax, x - 0.07, points, fmt="o", ms=5, color=COLOURS[spacing], label=f"measured, {spacing} steps")
        gaussian, uniform = np.array([base.law(spacing, start) for start in STARTS]).T
        names = ("the law, Gaussian levels", "the law, uniform levels") if spacing == "trailing" else (None, None)
        ax.plot(x + 0.07, gaussian, "D", color=INK, mfc="white", ms=4.5, label=names[0])
        ax.plot(x + 0.07, uniform, "x", color=INK, ms=5, mew=1.3, label=names[1])
    ax.axhline(1, color=INK, lw=0.8, ls="--", label="data")
    ax.set_xticks(range(len(STARTS)), list(STARTS.values()))
    ax.set(ylabel="std of the level / data's", xlabel="sampling starts from", ylim=(0.5, None))
    ax.grid(axis="x", visible=False)
    return _legend(fig, ax.get_legend_handles_labels()[0], 3)


def edits(base: Base) -> Figure:
    """Image-to-image: level of the output against that of the input; and what survives, by strength."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8))
    strongest, shown = max(base.strengths), np.linspace(-1, 1, 81)
    grid = Cell("base", "trailing", nfe=base.steps).grid()
    end = grid[base.steps - round(strongest * base.steps)].cos().item() ** 2
    level, _ = base.edit("trailing", strongest)
    left.plot([-1, 1], [-1, 1], color=INK, lw=0.8, ls=":", label="unchanged")
    left.plot(shown, uniform_from(shown, end, base.backdrop).mean(1), color=INK, label="the law, mean")
    left.plot(base.inputs, level, ".", color=COLOURS["trailing"], ms=4, alpha=0.6, label="one picture")
    left.set(xlabel="level of the input", ylabel="level of the output", title=f"strength {strongest:g}, trailing steps")
    left.legend(fontsize=7, loc="upper left")
    taken = np.arange(1, base.steps + 1) / base.steps
    right.plot(taken, [base.survives("trailing", s) for s in taken], color=INK, label="level, the law")
    for spacing, fill, shift in zip(SPACINGS, ("white", COLOURS["trailing"]), (-0.012, 0.012), strict=True):
        found = [base.edited(spacing, s) for s in base.strengths]
        x, colour = np.array(base.strengths) + shift, COLOURS["trailing"]
        _points(right, x, [f[0] for f in found], fmt="o", ms=4.5, color=colour, mfc=fill, label=f"level, {spacing}")
        right.plot(x, [f[1] for f in found], "s", color=COLOURS["base"], ms=4.5,
                   mfc=COLOURS["base"] if spacing == "trailing" else "white", label=f"class, {spacing}")  # fmt: skip
    right.set(xlabel="strength: share of the steps that are taken", ylabel="share that survives")
    right.set(ylim=(-0.04, 1.08), xlim=(0, 1.03), title="what survives of the input")
    right.legend(fontsize=7, loc="lower left")
    fig.tight_layout(w_pad=1)
    return fig


def _points(ax: Axes, x: np.ndarray, points: Sequence[Mean], **look: object) -> None:
    """Means with their 95 % intervals."""
    mean = np.array([m for m, _ in points])
    error = np.abs(np.array([b for _, b in points]).T - mean)
    ax.errorbar(x, mean, error, capsize=2, lw=0.9, **look)  # type: ignore[arg-type]


def _legend(fig: Figure, handles: Sequence, columns: int) -> Figure:
    """Below the panels."""
    fig.tight_layout(w_pad=0.8)
    fig.legend(handles=handles, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, 0.02), fontsize=7)
    return fig
