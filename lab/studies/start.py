"""The pictures and the plots of `notebooks/00_start_here.py`: each function draws one figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import zsnr
from lab.measure.evaluation import Cell
from lab.measure.store import load
from lab.measure.study import Study, by_cell
from lab.models import data
from lab.models.backdrop import UniformBackdrop
from lab.report import figures

LEVELS = np.linspace(-1.25, 1.25, 26)
ASKED = ("black", "white")
Look = tuple[str, str]
"""The title and the colour, a key of `figures.COLOURS`, of what is shown."""


def garments(source: str | Path) -> data.Images:
    """One garment of each class."""
    images = data.load(source, "test")
    first = torch.tensor([int((images.label == k).nonzero()[0]) for k in range(len(images.classes))])
    return data.Images(images.image[first], images.matte[first], images.label[first], images.classes)


def exact_denoiser(images: data.Images, word: str = "") -> UniformBackdrop:
    """The best denoiser there can be of these garments, on backdrops of every level, or of those that a word means."""
    k, width = (data.WORDS.index(word), 0.4) if word else (0, 2.0)
    return UniformBackdrop.of(images, torch.arange(len(images)), -1 + 0.4 * k, -1 + 0.4 * k + width)


def noise(n: int) -> Tensor:
    """(n, 1, 32, 32) float64 noise, one seed a picture."""
    return zsnr.randn((n, 1, data.SIZE, data.SIZE), zsnr.generators(range(n))).double()


def last_step(tables: Mapping[str, tuple[zsnr.Schedule, str]], images: data.Images, n: int = 2000) -> Figure:
    """The schedules, and for each what its last step shows of the backdrop: the mean of its pixels of x_T.

    Black and white are training's x_T, of pictures on a black and on a white backdrop; noise is sampling's.
    """
    g = torch.Generator().manual_seed(0)
    index, eps = torch.arange(n) % len(images), torch.randn(n, 1, data.SIZE, data.SIZE, generator=g)
    plain = images.matte[index] == 0
    fig, (left, *rest) = plt.subplots(1, 1 + len(tables), figsize=(7, 2.2), width_ratios=(1.2, *[1] * len(tables)))
    for ax, (name, (schedule, colour)) in zip(rest, tables.items(), strict=True):
        a = schedule.sqrt_alpha_bar[-1].item()
        left.plot(range(1, schedule.T + 1), schedule.sqrt_alpha_bar, color=figures.COLOURS[colour], label=name)
        for what, level, style in (("black", -1, "black"), ("white", 1, "0.72"), ("noise", 0, figures.COLOURS[colour])):
            x0 = images.compose(index, torch.full((n,), float(level)))
            x = a * x0 + math.sqrt(1 - a * a) * eps if what != "noise" else eps
            mean = (x * plain).sum((1, 2, 3)) / plain.sum((1, 2, 3))
            ax.hist(
                mean.numpy(), np.linspace(-0.3, 0.3, 61), density=True, histtype="step", color=style, lw=1.6, label=what
            )
        ax.set(xlabel="mean of the backdrop in $x_T$", yticks=[], title=name)
    left.set(xlabel="step t", ylabel=r"signal, $\sqrt{\bar\alpha_t}$", ylim=(0, 1.02))
    left.legend(fontsize=7)
    rest[0].legend(fontsize=7, loc="upper left", handlelength=1.2)
    fig.tight_layout(w_pad=0.6)
    return fig


def compare(drawn: Mapping[Look, tuple[Tensor, Tensor]], columns: int = 6) -> Figure:
    """A sheet of pictures for each way to draw, and below it how bright the backdrops are.

    Args:
        drawn: by title and colour, some pictures (n, 1, H, W) and the levels (m,) of as many as there are.
    """
    fig, axes = plt.subplots(2, len(drawn), figsize=(7, 3.3), height_ratios=(1.7, 1), sharey="row", squeeze=False)
    for (top, below), ((title, colour), (pictures, level)) in zip(axes.T, drawn.items(), strict=True):
        figures.pictures(top, pictures[: 3 * columns], columns, title)
        below.hist(level.float().numpy().clip(LEVELS[0], LEVELS[-1]), LEVELS, density=True,
                   color=figures.COLOURS[colour], alpha=0.8)  # fmt: skip
        below.plot([-1, -1, 1, 1], [0, 0.5, 0.5, 0], color=figures.COLOURS["data"], lw=1.2, label="data")
        below.set(xlabel="level of the backdrop", yticks=[])
    axes[1, 0].set_ylabel("density")
    axes[1, -1].legend(fontsize=7)
    fig.tight_layout(h_pad=0.4)
    return fig


def asked(drawn: Mapping[str, Sequence[Tensor]], columns: int = 6) -> Figure:
    """Pictures by title: those asked for with a black backdrop above those with a white one, from the same noises."""
    fig, axes = plt.subplots(1, len(drawn), figsize=(7, 1.2 + 0.2), squeeze=False)
    for ax, (title, rows) in zip(axes[0], drawn.items(), strict=True):
        figures.pictures(ax, torch.cat([row[:columns].float() for row in rows]), columns, title)
    height = axes[0, 0].get_ylim()[0]
    for k, word in enumerate(ASKED):
        axes[0, 0].text(-4, height * (0.25 + 0.5 * k), word, ha="right", va="center")
    fig.tight_layout(w_pad=0.5)
    return fig


def stored(results: Path) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, list[Tensor]]]:
    """What the networks of the full profile drew: (pictures, levels) asked for nothing, and pictures by word.

    Each by the steps of its users: the flawed one by leading, the fixed one by trailing, 25 evaluations, no guidance.

    Raises:
        FileNotFoundError: the results are not restored; it says how to.
    """
    cells = {"flawed": Cell("control", "leading", nfe=25), "fixed": Cell("zsnr", "trailing", nfe=25)}
    guide = by_cell(load(results / "zsnr/guide"))
    study = Study(results / "zsnr")
    plain = {name: (study.pictures(cell), torch.cat(study.samples(cell, "level"))) for name, cell in cells.items()}
    words = {"flawed": cells["flawed"].but(model="base"), "fixed": cells["fixed"]}
    by_word = {
        name: [guide[cell.but(prompt=word)].tensors["pictures"] for word in ASKED] for name, cell in words.items()
    }
    return plain, by_word
