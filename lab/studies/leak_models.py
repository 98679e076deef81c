"""Finding 11, the law of the leak put to trained models: direction by direction, from other starts, and for edits.

Levels are those of the backdrop, whose n pixels share one value: along it the data's variance is L = n std(level)^2.
All intervals are 95 % bootstraps over pictures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import zsnr
from lab.measure import metrics
from lab.measure.evaluation import Cell
from lab.measure.laws import sampled, together
from lab.measure.store import Results, Row, load
from lab.measure.study import by_cell
from lab.models import data
from lab.models.backdrop import UniformBackdrop
from lab.models.variants import VARIANTS
from lab.studies.leak import QUANTILES, slope, uniform_from, uniform_level
from lab.studies.progress import bar
from zsnr import brightness
from zsnr.finetune import loop
from zsnr.prediction import cos_sin

SPACINGS = ("leading", "trailing")
STARTS = {"": "pure noise", "mean": "mean picture", "level": "plain level", "image": "picture"}
"""What sampling starts from, noised to the first step's level."""

Mean = tuple[float, tuple[float, float]]
"""A value and its 95 % interval."""


def bootstrap(f: Callable[[Tensor], float], n: int) -> tuple[float, float]:
    """95 % interval of f(chosen pictures), n of them."""
    return metrics.bootstrap(torch.arange(n), lambda rows: f(torch.from_numpy(rows.astype(np.int64))), 500)


@dataclass(frozen=True)
class Base:
    """What stage guide drew from the flawed base, and what is known of the data.

    Args:
        rows: by cell.
        results: of the stage, with its facts.
        facts: of the data: mean and std of the level.
        backdrop: pixels of backdrop, on average; those of the frame where images fill it.
        classes: how many.
    """

    rows: Mapping[Cell, Row]
    results: Results
    facts: Mapping[str, float]
    backdrop: float
    classes: int

    @property
    def L(self) -> float:
        """The data's variance along the backdrop."""
        return self.backdrop * self.facts["level_std"] ** 2

    @property
    def steps(self) -> int:
        """Of DDIM, of all that is drawn from another start."""
        return self.results.facts["long"]

    @property
    def strengths(self) -> list[float]:
        """Shares of the steps that the edits took."""
        return self.results.facts["strengths"]

    def level(self, spacing: str, start: str = "") -> Tensor:
        """Levels of the base's pictures, unguided."""
        return self.rows[Cell("base", spacing, nfe=self.steps, start=start)].tensors["level"]

    def spread(self, x: Tensor) -> Mean:
        """Std of levels over the data's."""
        std = self.facts["level_std"]
        return (x.std() / std).item(), metrics.bootstrap(x, lambda v: v.std(ddof=1) / std, 500)

    def law(self, spacing: str, start: str) -> tuple[float, float]:
        """The law's std ratio for that start: of Gaussian levels in the grid's DDIM steps; of uniform ones in many."""
        grid = Cell("base", spacing, nfe=self.steps).grid()
        c, s = cos_sin(grid[0].item())
        variance = {"": 1.0, "mean": 0.0}.get(start, self.L)
        own = sampled(zsnr.ddim, grid, self.L)[1] * math.sqrt(c * c * variance + s * s)
        end = grid[0].cos().item() ** 2
        levels = np.array([self.facts["level_mean"]]) if start == "mean" else np.linspace(-1, 1, 401)
        uniform = uniform_from(levels, end, self.backdrop) if start else uniform_level(QUANTILES, end, self.backdrop)
        return own, float(uniform.std() * math.sqrt(3))

    def gain(self, spacing: str, start: str) -> Mean:
        """Std ratio from a start less from pure noise: same model, seeds and steps."""
        plain, x = self.level(spacing), self.level(spacing, start)

        def gain(rows: Tensor) -> float:
            return ((x[rows].std() - plain[rows].std()) / self.facts["level_std"]).item()

        return gain(torch.arange(len(x))), bootstrap(gain, len(x))

    def prompted(self) -> dict[Cell, tuple[Tensor, Tensor]]:
        """By cell with a word and a start of suitable level: levels from pure noise, and from that start."""
        cells = [cell for cell in self.rows if cell.start == "level" and cell.prompt]
        pairs = {c: (self.rows[c.but(start="")].tensors["level"], self.rows[c].tensors["level"]) for c in cells}
        return {cell: (plain[: len(x)], x[: len(plain)]) for cell, (plain, x) in pairs.items()}

    @property
    def inputs(self) -> Tensor:
        """Levels of the pictures that were edited, each of the class before the one asked for."""
        return self.results.one(model="data").tensors["edited level"]

    def edit(self, spacing: str, strength: float) -> tuple[Tensor, Tensor]:
        """(levels, whether the classifier still takes the picture for the input's class)."""
        row = self.rows[Cell("base", spacing, nfe=self.steps, start="edit", strength=strength)]
        level, kind = row.tensors["level"], row.tensors["class"]
        return level, (kind == (torch.arange(len(level)) % self.classes + 1) % self.classes).double()

    def edited(self, spacing: str, strength: float) -> tuple[Mean, float, Mean]:
        """Slope of output on input level; share that keeps the input's class; the one less the other."""
        x, same = self.edit(spacing, strength)

        def slopes(rows: Tensor) -> float:
            return slope(self.inputs[rows], x[rows])

        def beyond(rows: Tensor) -> float:
            return slope(self.inputs[rows], x[rows]) - same[rows].mean().item()

        value, share = slopes(torch.arange(len(x))), same.mean().item()
        return (value, bootstrap(slopes, len(x))), share, (value - share, bootstrap(beyond, len(x)))

    def survives(self, spacing: str, strength: float) -> float:
        """The law: the share of a level's distance from the mean that survives an edit."""
        grid = Cell("base", spacing, nfe=self.steps).grid()
        end = grid[self.steps - round(strength * self.steps)].cos().item() ** 2
        return brightness.kept(end, self.L)[0]


def load_base(folder: Path, facts: Path, train: data.Images) -> Base:
    """From results/<profile>/zsnr and the data stage's data.json."""
    results = load(folder / "guide")
    backdrop = train.pixels() or 240.0
    return Base(by_cell(results), results, json.loads(facts.read_text()), backdrop, len(train.classes))


@dataclass(frozen=True)
class Directions:
    """Std along the constant image and the data's leading principal components, over the data's.

    Args:
        measured: by model, (pictures, axes) projections of what it draws with many steps; `exact` is the exact
            denoiser of each class on the flawed schedule.
        law: by model, the law's std ratio along each axis.
        true: the data's std along each axis.
        flawed: the models of the flawed schedule, as `on_flawed` has them.
    """

    measured: Mapping[str, Tensor]
    law: Mapping[str, Tensor]
    true: Tensor
    flawed: tuple[str, ...]

    def ratios(self, name: str) -> list[Mean]:
        """Measured std ratio along each axis."""

        def bounds(z: Tensor, true: float) -> tuple[float, float]:
            return metrics.bootstrap(z, lambda v: v.std(ddof=1) / true, 500)

        intervals = [bounds(z, t) for z, t in zip(self.measured[name].T, self.true.tolist(), strict=True)]
        return list(zip((self.measured[name].std(0) / self.true).tolist(), intervals, strict=True))

    def rms(self, rows: Tensor, names: tuple[str, ...], leak: bool = True, axes: slice = slice(None)) -> float:
        """Root mean square error over these axes of the law, or of its rival, that there is no leak."""
        errors = [self.measured[n][rows].std(0) / self.true - (self.law[n] if leak else 1.0) for n in names]
        return torch.stack(errors)[:, axes].square().mean().sqrt().item()

    def errors(self, *names: str, axes: slice = slice(None)) -> tuple[float, float]:
        """Of all pictures: root mean square error of the law, and of its rival; slice(1) is the constant image."""
        rows = torch.arange(len(self.measured[names[0]]))
        return self.rms(rows, names, True, axes), self.rms(rows, names, False, axes)

    @cached_property
    def over_rival(self) -> Mean:
        """Error of the law over that of its rival, flawed models."""
        count = len(self.measured[self.flawed[0]])

        def ratio(rows: Tensor) -> float:
            return self.rms(rows, self.flawed) / self.rms(rows, self.flawed, leak=False)

        return ratio(torch.arange(count)), bootstrap(ratio, count)


def on_flawed(names: Iterable[str]) -> tuple[str, ...]:
    """Those trained on the flawed schedule with iid noise, which the law is for; offset noise has a law of its own."""
    kinds = {name: VARIANTS[name] for name in names}
    return tuple(name for name, kind in kinds.items() if not kind.zero_snr and not kind.offset_noise)


def directions(base: Base, train: data.Images, pictures: int, modes: int, exact: int, foregrounds: int) -> Directions:
    """What stage guide projected, and the law of all directions together, class by class.

    The models are told the class, so each class is a Gaussian of its own, and no axis is an axis of all of them:
    `lab.measure.laws.together` for each class, then the variance of the mixture.

    Args:
        pictures: of the data, for the means and covariances.
        modes: principal components that the covariances are taken in; the rest hardly varies.
        exact, foregrounds: pictures of each class that the exact denoiser draws, and that it knows.
    """
    axes = base.results.one(model="data").tensors["axes"].double()
    y, conditions = train.draw(pictures, loop.generator(2, 0))
    y, label = y.flatten(1).double(), conditions[:, 0]
    area = data.SIZE**2
    channel = torch.kron(torch.eye(y.shape[1] // area), torch.ones(1, area) / math.sqrt(area)).double()
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.cat([axes.T, torch.pca_lowrank(y, modes)[2]], 1))[0]
    by_class = [y[label == k] @ basis for k in label.unique()]

    def std(end: float, offset: float = 0.0) -> Tensor:
        """Along each axis, of a mixture of the classes, each a Gaussian with its full covariance."""
        shift, a = channel @ basis, axes @ basis
        nu = torch.eye(basis.shape[1]).double() + offset**2 * area * shift.T @ shift
        moments = [together(end, z.mean(0), torch.cov(z.T), nu) for z in by_class]
        means = [a @ mean for mean, _ in moments]
        variances = [((a @ covariance) * a).sum(1) for _, covariance in moments]
        return (torch.stack(variances).mean(0) + torch.stack(means).var(0, correction=0)).sqrt()

    true = std(0.0)  # the data's own: nothing is lost, and the classes are as frequent as in what is generated
    rows = {cell.model: row for cell, row in base.rows.items() if "projections" in row.tensors}
    measured = {name: rows[name].tensors["projections"].double() for name in sorted(rows)}
    ends = {name: (VARIANTS[name].schedule.alpha_bar[-1].item(), VARIANTS[name].offset_noise) for name in measured}
    law = {name: std(*end) / true for name, end in ends.items()}
    flawed = on_flawed(measured)
    if not train.fills.all():  # there is no exact denoiser of images that fill the frame
        measured["exact"], law["exact"] = exact_projections(train, axes, exact, foregrounds), law["base"]
    return Directions(measured, law, true, flawed)


def exact_projections(train: data.Images, axes: Tensor, exact: int, foregrounds: int) -> Tensor:
    """The exact denoiser of each class on the flawed schedule, by Heun in 20 steps: projections on the axes."""
    grid = zsnr.power(20, phi_max=zsnr.schedule.stable_diffusion().angle[-1].item())
    visible, classes, drawn = ~train.fills, len(train.classes), []
    for k in bar(range(classes), "exact denoiser"):
        keep = ((train.label == k) & visible).nonzero()[:foregrounds, 0]
        denoiser = UniformBackdrop.of(train, keep)
        seeds = range(k, exact * classes, classes)
        noise = zsnr.randn((exact, *train.image.shape[1:]), zsnr.generators(seeds)).double()
        drawn.append(zsnr.heun(denoiser, noise, grid).flatten(1) @ axes.T)
    return torch.cat(drawn)
