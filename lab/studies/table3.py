"""Finding 20: Table 3 and Figure 6 of Lin et al. 2023 by a judge that sees brightness, at this data's own guidance.

Stage table3 draws what `lab.studies.table3_judge` says. A gain is what all fixes are better by than none, each at its
own guidance scale, chosen on the other seeds' models. Intervals are over seeds of fine-tuning and of noise at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.measure import metrics, sweep
from lab.measure.evaluation import REAL, Cell
from lab.measure.store import Results, Row, load
from lab.measure.study import cell_of
from lab.studies.table3_judge import ALL_FIXES, NO_FIXES, PAPER, Moments, best, frechet, kinds, without

MEASURES = {
    "Frechet distance, class and level": ("distance",),
    "Frechet distance, class": ("frechet",),
    "level W1": ("level", "w1"),
    "Inception score": ("inception",),
}
SPREAD = ("level", "std_ratio")
"""Of the levels, over the data's: no measure of which more is always better."""
MORE_IS_BETTER = "Inception score"
Mean = tuple[float, tuple[float, float]]
"""A value and its 95 % interval."""


def over(values: Sequence[float]) -> Mean:
    """Mean of independent repeats, and its interval where there are several."""
    return float(np.mean(values)), metrics.interval(values) if len(values) > 1 else (math.nan, math.nan)


def gained(name: str, by: Sequence[float], on: Sequence[float]) -> Mean:
    """Mean gain in a measure, by pairs; positive is better."""
    sign = 1 if name == MORE_IS_BETTER else -1
    return over([sign * (x - y) for x, y in zip(by, on, strict=True)])


def held_out(distances: dict[float, list[float]], seed: int) -> float:
    """The scale that is best on average over the other seeds; distances have a value a seed, by scale.

    Raises:
        ValueError: there is no other seed.
    """
    if len(next(iter(distances.values()))) < 2:
        raise ValueError("one seed leaves no other to choose a scale on: draw from two or more")
    return best({w: float(np.mean([*values[:seed], *values[seed + 1 :]])) for w, values in distances.items()})


def dig(row: Row, keys: Sequence[str]) -> float:
    """One measure of a row."""
    found: Any = row.measures
    for key in keys:
        found = found[key]
    return float(found)


@dataclass(frozen=True)
class Table3:
    """What stage table3 kept."""

    results: Results

    @classmethod
    def load(cls, folder: Path) -> Table3:
        """What the stage kept in results/<profile>/zsnr/table3."""
        return cls(load(folder))

    @cached_property
    def rows(self) -> dict[Cell, list[Row]]:
        """By cell, in the order of the seeds."""
        found: dict[Cell, list[Row]] = {}
        for row in self.results:
            found.setdefault(cell_of(row), []).append(row)
        return found

    @property
    def nfe(self) -> int:
        """Steps of DDIM in all cells."""
        return next(cell.nfe for cell in self.rows if cell.model != "real")

    @property
    def seeds(self) -> int:
        """Fine-tunings of each kind."""
        return len(self.rows[REAL])

    @property
    def w(self) -> float:
        """The shared scale, at which each fix is left out."""
        return float(self.results.facts["w"])

    @property
    def scales(self) -> list[float]:
        """The guidance scales at which no fixes and all fixes were drawn."""
        return sorted({cell.w for cell in self.rows if cell.model == "control"})

    @property
    def real(self) -> Moments:
        """Of the real pictures' features that see class and level."""
        tensors = self.rows[REAL.but(part="reference")][0].tensors
        return tensors["mean"], tensors["covariance"]

    def cell(self, kind: str, w: float) -> Cell:
        """The cell of a kind of model at a scale."""
        return kinds(w, self.nfe)[kind]

    def values(self, cell: Cell, *keys: str) -> list[float]:
        """A measure of a cell, by seed."""
        return [dig(row, keys) for row in self.rows[cell]]

    def mean(self, cell: Cell, *keys: str) -> Mean:
        """A measure's mean over seeds, and its interval."""
        return over(self.values(cell, *keys))

    def chosen(self, kind: str) -> list[float]:
        """By seed, the scale of a kind that is best on the other seeds, by the distance that sees class and level."""
        distances = {w: self.values(self.cell(kind, w), "distance") for w in self.scales}
        return [held_out(distances, seed) for seed in range(self.seeds)]

    def own(self, kind: str, *keys: str) -> list[float]:
        """A measure of a kind, each seed at the scale chosen on the others."""
        return [self.values(self.cell(kind, w), *keys)[seed] for seed, w in enumerate(self.chosen(kind))]

    def gain(self, name: str, w: float | None = None) -> Mean:
        """By all fixes over none, paired by seed, at one scale or each at its own; positive is better."""
        fixed, plain = (
            self.own(kind, *MEASURES[name]) if w is None else self.values(self.cell(kind, w), *MEASURES[name])
            for kind in (ALL_FIXES, NO_FIXES)
        )
        return gained(name, fixed, plain)

    def lost(self, fix: str, name: str) -> Mean:
        """By leaving a fix out, at the shared scale, paired by seed; positive is worse."""
        whole = self.values(self.cell(ALL_FIXES, self.w), *MEASURES[name])
        left = self.values(without(self.w, self.nfe)[fix], *MEASURES[name])
        return gained(name, whole, left)

    def over_pictures(self) -> Mean:
        """The first seed's gain in the distance that sees class and level, with a jackknife's interval."""
        cells = [self.cell(kind, self.chosen(kind)[0]) for kind in (NO_FIXES, ALL_FIXES)]
        pairs = torch.stack([self.rows[cell][0].tensors["features"].double() for cell in cells], 1)

        def less(pair: Tensor) -> float:
            return frechet(pair[:, 0], self.real) - frechet(pair[:, 1], self.real)

        return less(pairs), sweep.jackknife(less, pairs)

    @property
    def strengths(self) -> dict[float, dict[float, Row]]:
        """Figure 6: by guidance scale and strength of its rescaling, the row of the first seed."""
        found: dict[float, dict[float, Row]] = {}
        for cell, (row, *_) in self.rows.items():
            if cell.part == "figure6":
                found.setdefault(cell.w, {})[cell.phi] = row
        return found

    def single(self, row: Row, name: str) -> Mean:
        """Mean of contrast or saturated over a row's pictures, and its interval."""
        return over(row.tensors[name].double().tolist())

    def natural(self, name: str) -> Mean:
        """The same of all real pictures."""
        return over(torch.cat([row.tensors[name].double() for row in self.rows[REAL]]).tolist())

    def spread(self, row: Row) -> Mean:
        """Std of a row's levels over the data's, its interval over pictures (jackknife)."""
        truth = self.rows[REAL.but(part="reference")][0].tensors["level"].double().std()

        def ratio(levels: Tensor) -> float:
            return (levels.std() / truth).item()

        return ratio(row.tensors["level"].double()), sweep.jackknife(ratio, row.tensors["level"].double())

    def excess(self, name: str, phi: float, w: float = PAPER) -> Mean:
        """Mean of contrast or saturated at one strength less real pictures', with its interval (Welch)."""
        (a, ends), (b, real_ends) = self.single(self.strengths[w][phi], name), self.natural(name)
        half = math.hypot(ends[1] - ends[0], real_ends[1] - real_ends[0]) / 2
        return a - b, (a - b - half, a - b + half)

    def by_guidance(self, name: str, phi: float, w: float = PAPER) -> Mean:
        """Contrast or saturated at one strength less the same without guidance, paired by noise."""
        guided = self.strengths[w][phi].tensors[name].double()
        plain = self.rows[self.cell(ALL_FIXES, 1.0)][0].tensors[name].double()[: len(guided)]
        return over((guided - plain).tolist())

    def nearest(self, name: str, w: float = PAPER) -> float:
        """The strength whose contrast (or over-exposure) is nearest to real pictures'; of `distance` the least."""
        real = 0.0 if name == "distance" else self.natural(name)[0]
        return best({phi: abs(dig(row, (name,)) - real) for phi, row in self.strengths[w].items()})
