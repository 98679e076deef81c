"""The figures of finding 12; what they show is in `lab.studies.prompts`."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lab.models import data
from lab.report import figures
from lab.studies.prompts import EXACT, EXTREMES, NAMES, WIDTH, Answers, Mean, Setting, average, bounds, truth

INK = figures.COLOURS["data"]
BAND = Patch(color=INK, alpha=0.13, lw=0, label="levels that the word means")
MIDDLES = np.array([truth(word) for word in data.WORDS])
SHEETS = {"base": "flawed base", "zsnr": "trained on with the fixes", "exact": "exact, zero terminal SNR"}
SPACINGS = ("leading", "linspace", "trailing")


def pictures(answers: Answers, columns: int = 6) -> Figure:
    """Black above white, from the same noises: a column of sheets for each who answers, a row for each setting."""
    who = ["base", "zsnr", *(["exact"] if answers.exact else [])]
    columns = min(columns, answers.seeds)
    rows = len(answers.settings)
    fig, axes = plt.subplots(rows, len(who), figsize=(7, 0.7 * rows + 0.2), squeeze=False)
    for line, setting in zip(axes, answers.settings, strict=True):
        for ax, name in zip(line, who, strict=True):
            sheet = [answers.of(name, setting, word)["pictures"][:columns] for word in EXTREMES]
            figures.pictures(ax, torch.cat(sheet), columns, SHEETS[name] if ax in axes[0] else "")
        for y, word in ((0.75, "black"), (0.25, "white")):
            line[0].text(-0.03, y, word, va="center", ha="right", transform=line[0].transAxes, size=6.5)
        label = setting.title.replace(", ", ",\n").replace(" (", "\n(")
        line[0].text(-0.24, 0.5, label, va="center", ha="right", transform=line[0].transAxes, size=7)
    fig.subplots_adjust(wspace=0.05, hspace=0.08)
    return fig


def every_word(answers: Answers) -> Figure:
    """Mean level by word, not guided and guided as in the paper; each who answers beside the others."""
    plain, _, guided = answers.settings
    who = ["base", "control", "offset", "zsnr", *(EXACT.values() if answers.exact else [])]
    fig, axes = plt.subplots(1, 2, figsize=(7, 3.3), sharey=True)
    for ax, setting in zip(axes, (plain, guided), strict=True):
        _fifths(ax)
        for i, name in enumerate(who):
            points = [average(answers.level(name, setting, word)) for word in data.WORDS]
            _points(ax, MIDDLES + 0.055 * (i - (len(who) - 1) / 2), points, **_look(name))
        _word_axis(ax, setting)
    axes[0].set_ylabel("mean level of the backdrop")
    _legend(fig, [BAND, *axes[0].get_legend_handles_labels()[0]], 4)
    return fig


def heard(answers: Answers) -> Figure:
    """Level less the exact denoiser's from the same noise, by word: the network's own error, before and after."""
    plain, _, guided = answers.settings
    fig, axes = plt.subplots(1, 2, figsize=(7, 2.6), sharey=True)
    for ax, setting in zip(axes, (plain, guided), strict=True):
        for i, name in enumerate(("zsnr", "zsnr_words")):
            pairs = [[answers.paired(one, setting, word) for one in (name, "exact")] for word in data.WORDS]
            points = [average(model.double() - ideal.double()) for model, ideal in pairs]
            _points(ax, MIDDLES + 0.07 * (2 * i - 1), points, **_look(name))
        ax.axhline(0, color=INK, lw=0.8)
        ax.axhspan(-0.05, 0.05, color=INK, alpha=0.1, lw=0)
        _word_axis(ax, setting)
    axes[0].set_ylabel("level less the exact denoiser's")
    same = Patch(color=INK, alpha=0.1, lw=0, label="counts as the same")
    _legend(fig, [*axes[0].get_legend_handles_labels()[0], same], 3)
    return fig


def black_and_white(answers: Answers) -> Figure:
    """Mean level under black and under white, of every model with every choice of time steps."""
    models = ("base", "control", "offset", "zsnr")
    fig, axes = plt.subplots(3, 1, figsize=(7, 5), sharex=True, sharey=True)
    for ax, setting in zip(axes, answers.settings, strict=True):
        for word in EXTREMES:
            ax.axhspan(*bounds(word), color=INK, alpha=0.13, lw=0)
            for i, (model, spacing) in enumerate((m, s) for m in models for s in SPACINGS):
                fill = {"mfc": "black" if word == EXTREMES[0] else "white", "ms": 5.5, "mew": 1.4}
                point = average(answers.level(model, setting, word, spacing))
                _points(ax, np.array([i]), [point], color=figures.COLOURS[model], fmt="o", **fill)
                shown = answers.exact and model in EXACT and spacing == ("leading", "trailing")[model == "zsnr"]
                if shown:
                    ideal = answers.level(EXACT[model], setting, word).mean()
                    ax.plot(i + 0.3, ideal, "D", ms=4, color="none", mec=INK, mew=0.9)
        ax.set(ylabel="mean level", yticks=[-1.6, -0.8, 0, 0.8, 1.6], ylim=(-2.2, 2.2))
        ax.set_title(setting.title, loc="left", pad=3)
        ax.grid(axis="x", visible=False)
        for i in range(1, len(models)):
            ax.axvline(3 * i - 0.5, color="0.8", lw=0.6)
    for i, model in enumerate(models):
        axes[0].text(3 * i + 1, 3.1, model, ha="center", color=figures.COLOURS[model], weight="bold")
    axes[-1].set_xticks(range(12), SPACINGS * 4, rotation=30, ha="right")
    axes[-1].set_xlabel("time steps that sampling takes")
    marks = [
        Line2D([], [], ls="", marker="o", color="0.4", mfc=fill, ms=5.5, mew=1.4, label=f"asked for {fill}")
        for fill in ("black", "white")
    ]
    diamond = Line2D([], [], ls="", marker="D", mfc="none", color=INK, ms=4, label="exact denoiser, the same schedule")
    _legend(fig, [*marks, diamond, BAND], 4)
    return fig


def _look(name: str) -> dict[str, object]:
    """Colour, mark and name of one who answers."""
    if name in EXACT.values():
        return {"color": INK, "fmt": "D", "mfc": INK if name == "exact" else "white", "ms": 3.5, "label": NAMES[name]}
    fill = {"mfc": "white"} if name == "zsnr" else {}
    return {"color": figures.COLOURS[name.split("_")[0]], "fmt": "o", "ms": 4, "label": NAMES[name], **fill}


def _points(ax: Axes, x: np.ndarray, points: list[Mean], **look: object) -> None:
    """Means with their 95 % intervals."""
    mean = np.array([m for m, _ in points])
    error = np.abs(np.array([b for _, b in points]).T - mean)
    ax.errorbar(x, mean, error, capsize=1.5, lw=0.9, **look)  # type: ignore[arg-type]


def _fifths(ax: Axes) -> None:
    """Each word's range of levels, above the word, and its mean."""
    for word in data.WORDS:
        low, high = bounds(word)
        ax.fill_between([low + 0.01, high - 0.01], low, high, color=INK, alpha=0.13, lw=0)
        ax.plot([low + 0.01, high - 0.01], [truth(word)] * 2, color=INK, lw=0.7)


def _word_axis(ax: Axes, setting: Setting) -> None:
    ax.set_xticks(MIDDLES, data.WORDS)
    ax.set(xlabel="word asked for", xlim=(-1 - WIDTH / 8, 1 + WIDTH / 8), title=setting.title)
    ax.grid(axis="x", visible=False)


def _legend(fig: Figure, handles: list, columns: int) -> None:
    """Below the panels."""
    fig.tight_layout(w_pad=0.6)
    fig.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=columns, fontsize=7)
