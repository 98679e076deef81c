"""Finding 3: how dark and bright the pictures of four models are, measured, and by the law of the leak.

Offset noise (Guttenberg 2023) adds to the noise of each picture one number more for all its pixels,

    eps' = eps + 0.1 z,   z ~ N(0, 1),   so   var(sum_i eps'_i / sqrt(n)) = 1 + 0.01 n    over n pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lab import ROOT
from lab.measure import evaluation
from lab.measure.evaluation import REAL, Cell
from lab.measure.metrics import interval
from lab.measure.store import Row, load
from lab.measure.study import Study, by_cell
from lab.models import data, network
from lab.report.figures import COLOURS, pictures
from lab.report.sheets import strip
from lab.report.tables import Table, table
from zsnr import brightness

WORDS = ("black", "white")
BINS = np.linspace(-1.25, 1.25, 26).tolist()
TITLES = {
    "base": "base\n$\\epsilon$, flawed schedule",
    "control": "control\nthe same, trained on",
    "offset": "offset\nwith offset noise 0.1",
    "zsnr": "zsnr\nzero terminal SNR, $v$",
}


def mean_mode_variance(pixels: Sequence[int], strength: float = 0.1, draws: int = 20_000, seed: int = 0) -> list[float]:
    """Variance of sum_i eps'_i / sqrt(n), the mean mode of offset noise, for each n; its law is 1 + strength^2 n."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for n in pixels:
        noise = torch.randn(draws, n, generator=g) + strength * torch.randn(draws, 1, generator=g)
        found.append((noise.sum(1) / math.sqrt(n)).var().item())
    return found


@dataclass(frozen=True)
class Direction:
    """What is measured of a picture, as one direction in the space of its pixels.

    Args:
        pixels: n, of which it is the common value; the backdrop's, or all. Those of a rim count in part.
        mean, std: of the data.
        known: whether the data are known to be uniform on [-1, 1] along it.
        offset: variance along it of one value that is added to every pixel; n where left out.
    """

    pixels: float
    mean: float
    std: float
    known: bool = False
    offset: float = 0.0

    def law(self, alpha_bar_T: float, strength: float = 0.0, offset_start: bool = False) -> tuple[float, float]:
        """(std over the data's, bias) of Gaussian data of this variance, sampled in many steps (`zsnr.brightness`).

        Args:
            alpha_bar_T: of the schedule that was trained on.
            strength: of the offset noise that was trained with.
            offset_start: whether sampling starts from such noise; users start from plain noise.
        """
        root = math.sqrt(self.pixels)
        nu = 1 + strength**2 * (self.offset or self.pixels)
        start = nu if offset_start else 1.0
        mean, std = brightness.predicted(alpha_bar_T, self.pixels * self.std**2, root * self.mean, nu, start)
        return std, (mean - root * self.mean) / root


def read(results: str) -> tuple[Study, dict[Cell, Row]]:
    """What was measured of all models and seeds, and of the pictures that were asked for by a word, by cell."""
    return Study(ROOT / results / "zsnr"), by_cell(load(ROOT / results / "zsnr/guide"))


def directions(source: str) -> dict[str, Direction]:
    """The level of the backdrop, and the mean of the image; where images have no backdrop, the level of 240 pixels."""
    facts = json.loads((ROOT / "results/data/data.json").read_text())
    images = data.load(ROOT / source)
    backdrop = images.pixels()
    return {
        "level": Direction(backdrop or 240, facts["level_mean"], facts["level_std"], backdrop > 0, images.offset()),
        "mean": Direction(images.image[0].numel(), facts["mean"], facts["mean_std"]),
    }


Kind = tuple[Cell, float, float, bool]
"""A cell and its law: alpha_bar_T, strength of the offset noise, whether sampling starts from such noise."""


def law_table(study: Study, directions: Mapping[str, Direction], what: str, kinds: Mapping[str, Kind]) -> Table:
    """Spread and bias of the level or of the mean, measured and by the law, and the distance from the data."""
    rows: list[Sequence[object]] = []
    for name, (cell, alpha_bar_T, strength, offset_start) in kinds.items():
        std, bias = directions[what].law(alpha_bar_T, strength, offset_start)
        ratio, shift, w1 = (study.text(cell, what, key) for key in ("std_ratio", "bias", "w1"))
        rows.append((name, ratio, std, shift, bias, w1))
    ratio, shift, w1 = (study.text(REAL, what, key) for key in ("std_ratio", "bias", "w1"))
    rows.append(("real pictures", ratio, None, shift, None, w1))
    title = {"level": "backdrop level", "mean": "image mean"}[what]
    return table(rows, [title, "std / data's", "law", "bias", "law of the bias", "W1"])


def ratios_table(study: Study, settings: Sequence[tuple[str, str, int]], models: Mapping[str, str]) -> Table:
    """std of the level over the data's, trained and exact, by time steps, solver and evaluations of the network.

    Beside them the trained model's over the exact denoiser's, from the same noises of each seed.
    """
    rows = []
    for setting in settings:
        found: list[object] = []
        for cell in (Cell(model, *setting) for model in models):
            known, learnt = cell.but(exact=True) in study, cell in study
            found += [
                study.text(cell, "level", "std_ratio") if learnt else None,
                exact_ratio(study, cell),
                of_exact(study, cell) if known and learnt else None,
            ]
        rows.append((f"{setting[0]}, {_solver(setting[1])}, {setting[2]}", *found))
    titles = [f"{name}, {kind}" for name in models.values() for kind in ("trained", "exact", "trained / exact")]
    return table(rows, ["level std / data's", *titles])


def of_exact(study: Study, cell: Cell) -> float | tuple[float, tuple[float, float]]:
    """std of a model's levels over that of the exact denoiser's, from the same noises; with its interval over seeds."""
    trained, exact = (study.values(c, "level", "std_ratio") for c in (cell, cell.but(exact=True)))
    ratios = [x / y for x, y in zip(trained, exact, strict=True)]
    mean = float(np.mean(ratios))
    return (mean, interval(ratios)) if len(ratios) > 1 else mean


def nearness(study: Study, settings: Sequence[tuple[str, str, int]], models: Mapping[str, str]) -> str:
    """How far the table's trained models are from the exact denoiser at most."""
    cells = [Cell(model, *setting) for setting in settings for model in models]
    cells = [cell for cell in cells if cell in study and cell.but(exact=True) in study]
    found = [value[0] if isinstance(value := of_exact(study, cell), tuple) else value for cell in cells]
    if not found:
        return "The images have no backdrop that an exact denoiser would know."
    worst = int(np.argmax(np.abs(np.array(found) - 1)))
    return (
        f"Of {len(found)} trained cells the farthest from the exact denoiser's spread is "
        f"{TITLES[cells[worst].model].splitlines()[0]} by {cells[worst].spacing} {_solver(cells[worst].sampler)}: "
        f"**{found[worst]:.3f}** of it."
    )


def spread_and_shift(study: Study, cell: Cell) -> tuple[str, str]:
    """In words, by the intervals: how far the levels spread, against the data's, and whether they are biased."""
    low, high = study.interval(cell, "level", "std_ratio")
    spread = "too grey" if high < 1 else "too bright or too dark" if low > 1 else "spread as the data"
    low, high = study.interval(cell, "level", "bias")
    return spread, "too high" if low > 0 else "too low" if high < 0 else "right"


def of_level(study: Study, cell: Cell, key: str = "std_ratio") -> dict[str, Any]:
    """A measure of the level, its mean and its interval over seeds, as a check takes them."""
    return {"value": study.mean(cell, "level", key), "interval": study.interval(cell, "level", key)}


def asked(results: str, cells: Mapping[str, Cell], n: int = 6) -> dict[str, list[Tensor]]:
    """By name, the first n pictures of a fine-tuned model's cell, asked for black and for white."""
    found = {}
    for name, cell in cells.items():
        model, _ = network.load(ROOT / results / f"zsnr/finetune/{cell.model}/weights.safetensors")
        found[name] = [evaluation.draw_cell(model, cell.but(prompt=word), n, "float32") for word in WORDS]
    return found


def answered(prompted: Mapping[Cell, Row], cell: Cell) -> list[float]:
    """Mean levels of what a model made when it was asked for black and for white; the truth is -0.8 and 0.8."""
    return [prompted[cell.but(prompt=word)].tensors["level"].mean().item() for word in WORDS]


def hidden(plain: Sequence[float], guided: Sequence[float]) -> str:
    """A remark on the levels of the flawed model with guidance, where they are nearer to the truth than without."""
    off, with_guidance = (max(abs(black + 0.8), abs(white - 0.8)) for black, white in (plain, guided))
    found = f"Strong guidance hides the flaw: with it, the flawed model makes {guided[0]:.2f} and {guided[1]:.2f}."
    return found if with_guidance < off else ""


def exact_ratio(study: Study, cell: Cell) -> float:
    """std of the backdrop level over the data's, from the exact denoiser; NaN where the images have no backdrop."""
    cell = cell.but(exact=True)
    return study.mean(cell, "level", "std_ratio") if cell in study else math.nan


def histogram(ax: Axes, study: Study, cell: Cell, what: str, uniform: bool) -> None:
    """Density of a cell's levels (or image means), all seeds together, and the data's as an outline.

    Args:
        uniform: whether the data's level is known to be uniform on [-1, 1]; otherwise real pictures are outlined.
    """
    values = np.concatenate([x.numpy() for x in study.samples(cell, what)])
    ax.hist(values.clip(-1.25, 1.25), BINS, density=True, color=COLOURS[cell.model], alpha=0.75, label="model")
    if what == "level" and uniform:
        ax.plot([-1, -1, 1, 1], [0, 0.5, 0.5, 0], color=COLOURS["data"], lw=1.2, label="data")
    else:
        real = study.samples(REAL, what)[0].numpy()
        ax.hist(real, BINS, density=True, histtype="step", color=COLOURS["data"], lw=1.2, label="data")
    ax.set_yticks([])


def main_figure(
    study: Study, rows: Mapping[str, Cell], prompted: Mapping[str, Sequence[Tensor]], uniform: bool
) -> Figure:
    """The finding in one figure: pictures asked for black and white, pictures of the same noises, and their levels.

    Args:
        rows: a name for each row of pictures and its cell; columns are ordered by the level that the last cell gives.
        prompted: by the name of the row, the pictures asked for black and for white.
    """
    fig = plt.figure(figsize=(7, 5))
    top, middle, bottom = fig.subfigures(3, 1, height_ratios=(1.4, 1.6, 1.8), squeeze=False)[:, 0]
    axes = top.subplots(len(prompted), 2, gridspec_kw={"wspace": 0.03, "hspace": 0.05, "top": 0.86, "bottom": 0})
    for line, (label, words) in zip(axes, prompted.items(), strict=True):
        for ax, x, name in zip(line, words, (label, ""), strict=True):
            strip(ax, x, name)
    for ax, word in zip(axes[0], WORDS, strict=True):
        ax.set_title(f"asked for a {word} backdrop")
    last = list(rows.values())[-1]
    order = study.samples(last, "level")[0][: len(study.pictures(last))].argsort()
    order = order[torch.linspace(0, len(order) - 1, min(16, len(order))).round().long()]
    axes = middle.subplots(len(rows), 1, gridspec_kw={"hspace": 0.05, "top": 0.84, "bottom": 0})
    for ax, (label, cell) in zip(axes, rows.items(), strict=True):
        strip(ax, study.pictures(cell)[order], label)
    axes[0].set_title(f"not asked for anything: {len(order)} noises, one a column")
    axes = bottom.subplots(1, len(rows), sharey=True, gridspec_kw={"wspace": 0.06, "top": 0.76, "bottom": 0.2})
    for ax, (label, cell) in zip(axes, rows.items(), strict=True):
        histogram(ax, study, cell, "level", uniform)
        ratio = study.mean(cell, "level", "std_ratio")
        name = label.replace("\n", " ")
        ax.set(title=f"{name}:\nstd {ratio:.2f} of the data's", xlabel="level of the backdrop")
    axes[0].set_ylabel("density")
    axes[0].legend(loc="upper left", fontsize=6.5)
    return fig


def pictures_figure(study: Study, cells: Mapping[str, Cell]) -> Figure:
    """Pictures of each model from the same noises."""
    fig, axes = plt.subplots(1, len(cells), figsize=(7, 1.75), layout="constrained")
    for ax, (model, cell) in zip(axes, cells.items(), strict=True):
        pictures(ax, study.pictures(cell)[:24], 6, TITLES[model])
    return fig


def levels_figure(study: Study, cells: Mapping[str, Cell], uniform: bool) -> Figure:
    """The distribution of the backdrop's level (above) and of the image mean (below), by model."""
    fig, axes = plt.subplots(2, len(cells), figsize=(7, 3.2), sharex=True, sharey="row", layout="constrained")
    for column, (model, cell) in zip(axes.T, cells.items(), strict=True):
        for ax, what, name in zip(column, ("level", "mean"), ("backdrop level", "image mean"), strict=True):
            histogram(ax, study, cell, what, uniform)
            ax.set_xlabel(name)
        column[0].set_title(TITLES[model])
    for ax in axes[:, 0]:
        ax.set_ylabel("density")
    axes[1, 0].legend(loc="upper left", fontsize=6.5)
    return fig


def ratios_figure(study: Study, settings: Sequence[tuple[str, str, int]], models: Mapping[str, str]) -> Figure:
    """std of the level over the data's: trained models as bars with intervals, exact denoisers as diamonds."""
    fig, ax = plt.subplots(figsize=(5.6, 2.9), layout="constrained")
    for shift, (model, label) in enumerate(models.items()):
        cells = [Cell(model, *setting) for setting in settings]
        middle = np.array([study.mean(cell, "level", "std_ratio") for cell in cells])
        bounds = np.array([study.interval(cell, "level", "std_ratio") for cell in cells])
        x = np.arange(len(settings)) + (shift - 0.5) * 0.36
        style = {"color": COLOURS[model], "alpha": 0.85, "capsize": 2, "error_kw": {"lw": 0.8}}
        ax.bar(x, middle, 0.34, yerr=np.abs(bounds.T - middle), label=f"{label}, trained", **style)  # type: ignore[arg-type]
        ideal = [exact_ratio(study, cell) for cell in cells]
        name = "exact denoiser, same schedule" if shift else None
        ax.plot(x, ideal, "D", color="white", mec=COLOURS["data"], ms=4.5, label=name)
    ax.axhline(1, color=COLOURS["data"], lw=0.8)
    ax.set_xticks(range(len(settings)), [f"{s}\n{_solver(k)}, {n} evaluations" for s, k, n in settings], fontsize=7)
    ax.set(ylabel="std of the backdrop level / data's", ylim=(0, max(1.3, ax.get_ylim()[1])))
    ax.legend(ncols=3, loc="upper center", fontsize=6.5)
    return fig


def _solver(name: str) -> str:
    return {"ddim": "DDIM", "heun": "Heun"}.get(name, name)
