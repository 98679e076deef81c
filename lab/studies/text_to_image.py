"""Finding 16: how dark and how bright a small Stable Diffusion draws, before and after fine-tuning, word by word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lab.measure import metrics, store
from lab.report import figures
from zsnr import brightness

Measured = tuple[float, tuple[float, float]]
COLOURS = {"flawed": figures.COLOURS["base"], "control": figures.COLOURS["control"], "lora": "#5a8f3c",
           "zsnr": figures.COLOURS["zsnr"]}  # fmt: skip
MARKERS = {"flawed": "^", "control": "o", "lora": "D", "zsnr": "s"}


@dataclass(frozen=True)
class Drawn:
    """What stage `evaluate_text_to_image` drew and measured.

    Args:
        facts: what it knows of the VAE, the law, the guidance and the audit.
        levels, pictures: by (model, setting, word), (n,) levels of the backdrops and some uint8 pictures.
    """

    facts: Mapping[str, Any]
    words: list[str]
    models: list[str]
    settings: list[str]
    levels: dict[tuple[str, str, str], np.ndarray]
    pictures: dict[tuple[str, str, str], Tensor]

    @property
    def titles(self) -> dict[str, str]:
        """The name of each setting."""
        w, phi = self.facts["guidance"]
        return {"plain": "w = 1, not guided", "guided": f"w = {w:g}, φ = {phi:g}"}

    @property
    def floor(self) -> np.ndarray:
        """(words,) levels of the data after the VAE, which no model can better."""
        return np.array([self.facts["vae"]["level"][word] for word in self.words])

    @property
    def law(self) -> np.ndarray:
        """(words,) levels of a flawed model that knows each word's pictures exactly, by `zsnr.brightness`."""
        return np.array([self.facts["law"]["predicted"][word] for word in self.words])

    def level(self, model: str, setting: str, word: str) -> Measured:
        """The mean level, and its 95 % interval over pictures."""
        return mean(self.levels[model, setting, word])

    def distance(self, model: str, setting: str) -> Measured:
        """White less black, from the same noises and of the same garments."""
        white, black = (self.levels[model, setting, self.words[k]] for k in (-1, 0))
        return mean(white - black)

    def spread(self, model: str, setting: str) -> Measured:
        """Std of the level over the pictures of all words, with its interval by bootstrap."""
        everything = np.concatenate([self.levels[model, setting, word] for word in self.words])
        return float(everything.std()), metrics.bootstrap(torch.tensor(everything), np.std)

    def unheard(self) -> float:
        """The std that the law gives a flawed model which does not hear the words."""
        law, std = self.facts["law"], self.facts["vae"]["level_std"]
        return brightness.predicted(law["alpha_bar"], law["variance"])[1] * std


def load(folder: Path) -> Drawn:
    """Read the stage's measures."""
    found = store.load(folder)
    words, models, settings = (list(found.values(column)) for column in ("prompt", "model", "setting"))
    cells = {(r["model"], r["setting"], r["prompt"]): r.tensors for r in found}
    levels = {cell: tensors["level"].double().numpy() for cell, tensors in cells.items()}
    return Drawn(found.facts, words, models, settings, levels, {c: t["pictures"] for c, t in cells.items()})


def mean(values: np.ndarray) -> Measured:
    """Mean over pictures, and its 95 % interval."""
    return float(np.mean(values)), metrics.interval(values.tolist())


def checks(drawn: Drawn, setting: str) -> list[tuple[str, bool, bool]]:
    """(what, whether it decides the claim, whether it holds), by intervals over pictures of one training each."""
    found = {name: drawn.distance(name, setting) for name in drawn.models}
    low, high = ({name: interval[end] for name, (_, interval) in found.items()} for end in (0, 1))
    truth, allowed = drawn.floor[-1] - drawn.floor[0], drawn.law[-1] - drawn.law[0]
    flawed, plain = max(high["flawed"], high["control"]), setting == "plain"
    rows = [
        ("black and white of both flawed models are closer than the data's", True, flawed < truth),
        ("all weights fixed: farther apart than flawed and control", True, low["zsnr"] > flawed),
    ]
    if plain:
        rows += [
            ("all weights fixed: farther apart than the law allows any flawed model", True, low["zsnr"] > allowed),
            ("the law's limit holds for flawed and control", False, max(low["flawed"], low["control"]) < allowed),
            ("control reaches that limit", False, low["control"] <= allowed <= high["control"]),
        ]
    rows.append(("LoRA: farther apart than flawed and control", False, low["lora"] > flawed))
    if plain:
        rows.append(("LoRA: farther apart than the law allows any flawed model", False, low["lora"] > allowed))
    rows.append(("all weights fixed: at least 90 % of the data's distance", False, found["zsnr"][0] > 0.9 * truth))
    return [(what, decides, bool(holds)) for what, decides, holds in rows]


def pictures_figure(drawn: Drawn, columns: int = 6) -> Figure:
    """Black, grey and white (rows of a sheet), each from the same noises (its columns), by model and guidance."""
    rows = [drawn.words[0], drawn.words[len(drawn.words) // 2], drawn.words[-1]]
    fig, axes = plt.subplots(len(drawn.settings), len(drawn.models), figsize=(7.4, 2.2), squeeze=False)
    for line, setting in zip(axes, drawn.settings, strict=True):
        for ax, name in zip(line, drawn.models, strict=True):
            sheet = torch.cat([drawn.pictures[name, setting, word][:columns] for word in rows])
            figures.pictures(ax, sheet, columns, name if ax in axes[0] else "")
        height = line[0].get_ylim()[0]
        for k, word in enumerate(rows):
            line[0].text(-4, height * (k + 0.5) / len(rows), word, ha="right", va="center", fontsize=6.5)
        line[0].text(-0.22, 0.5, drawn.titles[setting].replace(", ", ",\n"), va="center", ha="right",
                     transform=line[0].transAxes, fontsize=7)  # fmt: skip
    fig.subplots_adjust(wspace=0.04, hspace=0.06)
    return fig


def levels_figure(drawn: Drawn) -> Figure:
    """The level obtained by the level asked for, with 95 % intervals over pictures."""
    fig, axes = plt.subplots(1, len(drawn.settings), figsize=(7, 2.9), sharey=True, squeeze=False, layout="constrained")
    for ax, setting in zip(axes[0], drawn.settings, strict=True):
        ax.plot(
            drawn.floor, drawn.floor, "_", color=figures.COLOURS["data"], ms=16, mew=1.2, label="data, after the VAE"
        )
        if setting == "plain":
            ax.plot(drawn.floor, drawn.law, ":", color=figures.COLOURS["data"], lw=1, label="law, flawed schedule")
        for i, name in enumerate(drawn.models):
            values = [drawn.level(name, setting, word) for word in drawn.words]
            y = np.array([v for v, _ in values])
            error = np.abs(np.array([b for _, b in values]).T - y)
            ax.errorbar(drawn.floor + 0.04 * (i - 1.5), y, error, fmt=f"{MARKERS[name]}-", ms=3.5, lw=1, capsize=1.5,
                        color=COLOURS[name], label=name)  # fmt: skip
        ax.set(xticks=drawn.floor, xlabel="level asked for", title=drawn.titles[setting])
        ax.set_xticklabels([f"{word}\n{v:+.2f}" for word, v in zip(drawn.words, drawn.floor, strict=True)])
    axes[0, 0].set_ylabel("level obtained")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), ncols=6, fontsize=7, loc="outside upper center")
    return fig
