"""The figures of finding 14; what they show is in `lab.studies.finetuning`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lab.measure import metrics
from lab.measure.evaluation import REAL, Cell
from lab.report import figures
from lab.studies.finetuning import SETTINGS, FineTuning, Mean, of_seeds

INK, FIXED, FLAWED = figures.COLOURS["data"], figures.COLOURS["zsnr"], figures.COLOURS["control"]
NAMES = {
    "control": "trained on without fixes (control: $\\epsilon$, flawed schedule)",
    "zsnr": "with the fixes (zsnr: $v$, Algorithm 1)",
}


def pictures(tuned: FineTuning) -> Figure:
    """Guided pictures of all models, from the same noises, and real ones."""
    sheets = {"real": REAL, "all fixes": tuned.at_75["all fixes"], "no fixes": tuned.at_75["no fixes"]}
    sheets["official (base)"] = tuned.at_75["official"]
    sheets |= {
        f"without\n{name.split(' ($')[0]}": cell for name, (_, cell) in tuned.without.items() if name != "all four"
    }
    fig, axes = plt.subplots(2, 4, figsize=(6.4, 3.7))
    for ax, (name, cell) in zip(axes.flat, sheets.items(), strict=True):
        figures.pictures(ax, tuned.guided[cell].tensors["pictures"][:16].float(), 4, name)
    fig.subplots_adjust(wspace=0.06, hspace=0.28)
    return fig


def ablation(tuned: FineTuning) -> Figure:
    """What is lost by leaving each fix out, by four measures; the scales of FD and IS are linear up to 1 only."""
    names = ["level std / data's", "level W1", "FD", "IS"]
    titles = ["level std / data's", "level W1", "Fréchet distance", "Inception score"]
    fixes = list(tuned.without)
    fig, axes = plt.subplots(1, 4, figsize=(7.4, 2.6), sharey=True)
    for ax, name, title in zip(axes, names, titles, strict=True):
        for setting, shift in zip(SETTINGS, (-0.14, 0.14), strict=True):
            found = {i: tuned.lost(fix, setting, name) for i, fix in enumerate(fixes)}
            there = {i + shift: value for i, value in found.items() if value is not None}
            guided = setting == "guided"
            label = "guided, $w = 7.5$ (interval over pictures)" if guided else "not guided (interval over seeds)"
            colour = FIXED if guided else INK
            _points(ax, list(there), list(there.values()), along="x", color=colour, label=label,
                    fmt="o", ms=4, mfc=colour if guided else "white")  # fmt: skip
        if name in ("FD", "IS"):
            ax.set_xscale("symlog", linthresh=1, linscale=1.2)
            ax.set_xticks([-1, 0, 1, 10], ["-1", "0", "1", "10"])
        ax.axvline(0, color=INK, lw=0.8)
        ax.axhline(len(fixes) - 1.5, color="#bbbbbb", lw=0.6)
        ax.set_xlabel("lost: right of 0 is worse", fontsize=7)
        ax.set_title(title)
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(fixes)), fixes)
    axes[0].set(ylim=(len(fixes) - 0.5, -0.5), ylabel="left out")
    return _legend(fig, axes[0], 2)


def alone(tuned: FineTuning, followed: Mapping[str, Mapping[tuple[str, float], Tensor]]) -> Figure:
    """Trailing steps and guidance rescale without and with the fine-tuning; spread of the level, and what words do.

    Args:
        followed: by model, and by spacing and phi, guided level with white less level with black.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(7, 2.5), width_ratios=(1, 1.7))
    for model, shift in (("control", -0.1), ("zsnr", 0.1)):
        look = {"color": figures.COLOURS[model], "fmt": "o", "label": NAMES[model]}
        cells = [Cell(model, spacing, nfe=tuned.long) for spacing in ("leading", "trailing")]
        _points(left, [shift, 1 + shift], [tuned.one(cell, "level", "std_ratio") for cell in cells], **look)
        points = [(x.mean().item(), metrics.interval(x.tolist())) for x in followed[model].values()]
        _points(right, [i + shift for i in range(4)], points, **look)
    left.axhline(1, color=INK, lw=0.8, ls="--", label="data")
    left.set_xticks(range(2), ["leading", "trailing"])
    left.set(xlim=(-0.5, 1.5), ylim=(0, None), ylabel="level std / data's", title=f"not guided, DDIM {tuned.long}")
    right.axhline(1.6, color=INK, lw=0.8, ls="--")
    right.set_xticks(range(4), [f"{spacing}\n$\\phi = {phi:g}$" for spacing, phi in followed["zsnr"]])
    right.set(xlim=(-0.5, 3.5), ylim=(0, None), ylabel="level: white less black")
    right.set_title(f"guided, $w = 7.5$, DDIM {tuned.short}")
    return _legend(fig, left, 3)


def length(tuned: FineTuning, full: int, at_T: Mapping[int, Sequence[float]], floor: float, count: int) -> Figure:
    """Spread, W1 and the error at T by the number of pictures of fine-tuning.

    Args:
        full: pictures of the whole fine-tuning.
        at_T: the error at T by that number, a value a seed.
        floor: of that error.
        count: levels that are taken of each cell.
    """
    cells = {images or full: cell for images, cell in tuned.lengths.items()}
    fig, axes = plt.subplots(1, 3, figsize=(7.2, 2.5))
    for ax, name, title in zip(axes, ("std_ratio", "w1"), ("level std / data's", "level W1"), strict=False):
        points = [of_seeds(tuned.by_seed(cell, name, count)) for cell in cells.values()]
        _points(ax, list(cells), points, fmt="o-", color=FIXED, label="with the fixes (zsnr)")
        middle, (low, high) = of_seeds(tuned.by_seed(tuned.plain["no fixes"], name, count))
        label = f"without fixes (control), {full:,} pictures"
        ax.axhline(middle, color=FLAWED, lw=1, label=label)
        ax.axhspan(low, high, color=FLAWED, alpha=0.12, lw=0)
        real = tuned.by_seed(REAL, name, count)[0]
        ax.axhline(real, color=INK, lw=1, ls="--", label="real pictures, or the floor")
        ax.set(title=title, ylim=(0, None))
    points = [of_seeds([100 * (e / floor - 1) for e in at_T[n]]) for n in cells]
    _points(axes[2], list(cells), points, fmt="o-", color=FIXED)
    axes[2].axhline(0, color=INK, lw=1, ls="--")
    axes[2].set_title("error of $x_0$ at $T$ above the floor, %")
    for ax in axes:
        ax.set(xscale="log", xlabel="pictures of fine-tuning")
        ax.set_xticks(list(cells), [f"{n:,}" for n in cells])
        ax.minorticks_off()
    return _legend(fig, axes[0], 3)


def _points(ax: Axes, x: Sequence[float], points: Sequence[Mean], along: str = "y", **look: object) -> None:
    """Means with their 95 % intervals, where there are any."""
    mean = np.array([m for m, _ in points])
    error = np.nan_to_num(np.abs(np.array([b for _, b in points]).T - mean))
    place = {"x": mean, "y": x, "xerr": error} if along == "x" else {"x": x, "y": mean, "yerr": error}
    ax.errorbar(**place, capsize=2, lw=1, **look)  # type: ignore[arg-type]


def _legend(fig: Figure, ax: Axes, columns: int) -> Figure:
    """Below the panels."""
    fig.tight_layout(w_pad=0.8)
    fig.legend(
        *ax.get_legend_handles_labels(), ncols=columns, loc="upper center", bbox_to_anchor=(0.5, 0.02), fontsize=7
    )
    return fig
