r"""Finding 12: prompts for dark and bright backdrops, answered by the trained models and by the exact denoiser.

The k-th of five words names the k-th fifth of [-1, 1], in which every level is as likely. The word means the level

    c_k = -1 + (2 k + 1) / 5,      and an answer's shortfall is sign(c_k) (c_k - level),

how far it lies from c_k on the side of medium grey; negative where it lies beyond c_k. Guidance moves even a perfect
model's levels, so the exact denoiser (`lab.models.backdrop`) answers the same prompts, from the same noises, guided
alike. (Lin et al. 2023 show eight prompts in Figs. 1 and 3 and measure no level.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from lab.measure.evaluation import Cell
from lab.measure.metrics import interval
from lab.measure.store import Results, load
from lab.measure.study import by_cell
from lab.models import data
from lab.models.backdrop import UniformBackdrop
from lab.models.variants import VARIANTS
from lab.studies.progress import bar
from zsnr import guidance
from zsnr.denoisers import Denoiser
from zsnr.finetune import loop
from zsnr.noise import generators, randn
from zsnr.samplers import ddim

WIDTH = 2 / len(data.WORDS)
"""Of a word's range of levels."""
EXTREMES = (data.WORDS[0], data.WORDS[-1])
"""Black and white."""
EXACT = {"control": "exact flawed", "zsnr": "exact"}
"""The exact denoiser's name on each model's schedule; control stands for all that are trained on the flawed one."""
NAMES = {
    "base": "flawed base",
    "control": "trained on without fixes (control)",
    "offset": "with offset noise",
    "zsnr": "with the fixes (zsnr)",
    "zsnr_words": "the same, a word for every picture",
    "exact flawed": "exact, flawed schedule",
    "exact": "exact, zero terminal SNR",
}

Mean = tuple[float, tuple[float, float]]
"""A mean and its 95 % interval."""


class Setting(NamedTuple):
    """DDIM steps, guidance scale w and rescaling strength phi."""

    steps: int
    w: float
    phi: float

    @property
    def title(self) -> str:
        """In words, for a figure."""
        if self.w == 1:
            return "not guided ($w = 1$)"
        return f"$w = {self.w:g}$, " + (f"$\\phi = {self.phi:g}$" if self.phi else "not rescaled")


class Prompt(NamedTuple):
    """Who answers, with which steps and which guidance, what word."""

    model: str
    spacing: str
    steps: int
    w: float
    phi: float
    word: str


def bounds(word: str) -> tuple[float, float]:
    """The lowest and the highest level that the word means."""
    low = -1 + WIDTH * data.WORDS.index(word)
    return low, low + WIDTH


def truth(word: str) -> float:
    """The mean level that the word means, c_k."""
    return sum(bounds(word)) / 2


def short_of(word: str, level: Tensor) -> Tensor:
    """Shortfall of each level, sign(c_k) (c_k - level): how far from the word's mean towards grey."""
    return math.copysign(1, truth(word)) * (truth(word) - level.double())


def average(values: Tensor) -> Mean:
    """Mean of one number a picture, and its 95 % interval."""
    return values.double().mean().item(), interval(values.double().tolist())


def lesser(a: Tensor, b: Tensor) -> Mean:
    """The smaller mean of two samples; its interval allows for the choice (Bonferroni: a tail of 0.025 / 2)."""
    value, (low, high) = average(min((a, b), key=lambda d: d.mean().item()))
    n = len(a)
    wider = stats.t.ppf(1 - 0.025 / 2, n - 1) / stats.t.ppf(1 - 0.025, n - 1)
    return value, (value - wider * (value - low), value + wider * (high - value))


@dataclass(frozen=True)
class Answers:
    """What everybody answered.

    Args:
        cells: by prompt, the level of each picture and the first pictures.
        seeds: the exact denoiser started from the first so many of the models' noises.
        short: DDIM steps of the main comparison.
        w, phi: the paper's guidance scale and rescaling strength.
        exact: whether there is an exact denoiser; there is none for images that fill the frame.
    """

    cells: dict[Prompt, dict[str, Tensor]]
    seeds: int
    short: int
    w: float
    phi: float
    exact: bool

    @property
    def settings(self) -> tuple[Setting, Setting, Setting]:
        """Not guided, guided, and guided with rescaling."""
        return Setting(self.short, 1.0, 0.0), Setting(self.short, self.w, 0.0), Setting(self.short, self.w, self.phi)

    def of(self, who: str, setting: Setting, word: str, spacing: str = "") -> dict[str, Tensor]:
        """One cell; with the time steps that the model's users take, unless others are named."""
        flawed = who in ("exact flawed", "base", "control", "offset")
        return self.cells[Prompt(who, spacing or ("leading" if flawed else "trailing"), *setting, word)]

    def level(self, who: str, setting: Setting, word: str, spacing: str = "") -> Tensor:
        """The levels of all its pictures."""
        return self.of(who, setting, word, spacing)["level"]

    def paired(self, who: str, setting: Setting, word: str) -> Tensor:
        """The levels of the noises that the exact denoiser started from as well."""
        return self.level(who, setting, word)[: self.seeds]

    def shortfall(self, who: str, setting: Setting, word: str) -> Tensor:
        """Of each of these noises' levels."""
        return short_of(word, self.paired(who, setting, word))

    def shortfalls(self, who: str, setting: Setting) -> list[float]:
        """The mean over all its pictures, under black and under white."""
        return [short_of(word, self.level(who, setting, word)).mean().item() for word in EXTREMES]

    def beside(self, who: str, other: str, setting: Setting, word: str) -> Tensor:
        """Shortfall less that of another one, by noise."""
        return self.shortfall(who, setting, word) - self.shortfall(other, setting, word)

    def mean(self, who: str, setting: Setting, word: str) -> Mean:
        """The mean of all its pictures' levels."""
        return average(self.level(who, setting, word))

    def parts(self, who: str, setting: Setting) -> tuple[Mean, float, float, Mean]:
        """Shortfall of a model, both words together, and its three parts, which add up to it.

        What guidance and finitely many steps do to the exact denoiser at zero terminal SNR; what the model's own
        schedule and steps add to that; and what the network adds to the exact denoiser of its schedule.
        """
        ideal = "exact" if who.startswith("zsnr") else "exact flawed"
        mine, own, best = (
            torch.stack([self.shortfall(one, setting, word) for word in EXTREMES]).mean(0)
            for one in (who, ideal, "exact")
        )
        return average(mine), best.mean().item(), (own - best).mean().item(), average(mine - own)

    def reach(self, who: str, setting: Setting) -> Tensor:
        """Level with white less level with black, by noise, over the data's whole range of 2."""
        black, white = (self.level(who, setting, word).double() for word in EXTREMES)
        return (white - black) / 2


def read(results: Results, model: str = "") -> dict[Prompt, dict[str, Tensor]]:
    """All cells that were asked for a word, from noise; under another name for the model, if one is given."""
    return {
        Prompt(model or cell.model, cell.spacing, cell.nfe, cell.w, cell.phi, cell.prompt): {
            what: value.float() for what, value in row.tensors.items()
        }
        for cell, row in by_cell(results).items()
        if cell.prompt and not cell.start
    }


def load_answers(folder: Path, train: data.Images, exact: int, seeds: int) -> Answers:
    """What the stages guide and words kept, and the exact denoiser's answers from the same noises.

    Args:
        folder: results/<profile>/zsnr.
        train: the pictures that the models learnt from; the exact denoiser knows `exact` garments of them.
        seeds: how many noises the exact denoiser starts from.
    """
    cells = read(load(folder / "guide"))
    seeds = min(seeds, *(len(cell["level"]) for cell in cells.values()))
    short, w = max(p.steps for p in cells if p.w == 1), max(p.w for p in cells)
    answered = exact_answers([p for p in cells if p.steps == short], train, exact, seeds)
    cells |= answered | read(load(folder / "evaluate_words"), "zsnr_words")
    return Answers(cells, seeds, short, w, max(p.phi for p in cells), bool(answered))


def exact_answers(
    prompts: Sequence[Prompt], train: data.Images, exact: int, seeds: int
) -> dict[Prompt, dict[str, Tensor]]:
    """The exact denoiser's answers to the prompts of control and zsnr, from the noises of the seeds 0, 1, 2, ...

    Positive is the exact denoiser of garments of the class asked for, on backdrops of the word's fifth; negative that
    of all garments, on backdrops of any level. `zsnr.guidance` combines them as it combines a network's two answers.
    """
    order = torch.randperm(len(train), generator=loop.generator(2, 2))
    order = order[~train.fills[order]]  # images that fill the frame have no such denoiser
    classes = range(len(train.classes))
    own = [order[train.label[order] == k][: max(exact // len(classes), 1)] for k in classes]
    if not all(map(len, own)):
        return {}

    def ideal(index: Tensor, low: float = -1.0, high: float = 1.0) -> UniformBackdrop:
        return UniformBackdrop.of(train, index, low, high)

    negative = ideal(torch.cat(own))
    positive = {word: by_class([ideal(index, *bounds(word)) for index in own]) for word in data.WORDS}
    noise = randn((seeds, *train.image.shape[1:]), generators(range(seeds))).double()  # as the models' cells have it
    answers = {}
    for p in bar([p for p in prompts if p.model in EXACT and p.spacing == VARIANTS[p.model].spacing], "exact"):
        grid = Cell(p.model, p.spacing, nfe=p.steps).grid()
        x = ddim(guidance.guided(positive[p.word], negative, p.w, p.phi), noise, grid).float()
        answers[p._replace(model=EXACT[p.model])] = {"level": data.level(x), "pictures": x[:16]}
    return answers


def by_class(denoisers: Sequence[Denoiser]) -> Denoiser:
    """One denoiser for a batch of seeds 0, 1, 2, ..., that asks each picture's own class, seed % classes."""

    def denoiser(x: Tensor, phi: float) -> Tensor:
        v = torch.empty_like(x)
        for k, one in enumerate(denoisers[: len(x)]):
            v[k :: len(denoisers)] = one(x[k :: len(denoisers)], phi)
        return v

    return denoiser
