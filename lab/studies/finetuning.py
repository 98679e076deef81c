"""Finding 14: Table 3 of Lin et al. 2023 (Sec. 5), each fix left out, and how long the change takes.

Four models: the flawed base (`official`, for the paper's official model); from it two fine-tunings on the same data,
`all fixes` (zsnr) and `no fixes` (control); and what leaves one fix out. Measures: the Frechet distance and the
Inception score by this data's own classifier, and two of the backdrop's level, which a Frechet distance hardly sees:
its std over the data's, and its Wasserstein-1 distance (W1) from the data's. Without guidance there are several
fine-tunings from one base, and intervals are over their seeds; with guidance there is one model of each kind, and
intervals are over its pictures (jackknife).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.measure import metrics, sweep
from lab.measure.evaluation import REAL, Cell
from lab.measure.store import Row, load
from lab.measure.study import Study, by_cell
from lab.models import data
from zsnr.finetune import loop

W, PHI = 7.5, 0.7
"""The paper's guidance scale and rescaling strength."""
UNKNOWN = (math.nan, math.nan)
"""The interval of what was measured once."""
MEASURES = {
    "FD": ("frechet",),
    "IS": ("inception",),
    "level std / data's": ("level", "std_ratio"),
    "level W1": ("level", "w1"),
}
MORE_IS_BETTER = ("IS", "level std / data's")
SETTINGS = ("unguided", "guided")

Mean = tuple[float, tuple[float, float]]
"""A value and its 95 % interval."""


def signed(value: Mean, sign: float) -> Mean:
    """The value or its negative, with its interval."""
    middle, (low, high) = value
    return (middle, (low, high)) if sign > 0 else (-middle, (-high, -low))


def of_seeds(values: Sequence[float]) -> Mean:
    """Mean over seeds, and its interval where there are several."""
    return float(np.mean(values)), metrics.interval(values) if len(values) > 1 else UNKNOWN


def known(cell: object) -> object:
    """A value alone where its interval is not known; anything else as it is."""
    return cell[0] if isinstance(cell, tuple) and math.isnan(cell[1][0]) else cell


@dataclass(frozen=True)
class FineTuning:
    """What was drawn from all models, and how.

    Args:
        study: the unguided evaluations of all seeds.
        guided: the guided cells, of one model each.
        reference: (n,) levels of the pictures that every stage measures against.
        short, long: evaluations of the network in the main comparison, and in that of steps.
    """

    study: Study
    guided: Mapping[Cell, Row]
    reference: Tensor
    short: int
    long: int

    @property
    def plain(self) -> dict[str, Cell]:
        """The cells of Table 3 without guidance, each model with the steps of its users."""
        names = {"official": ("base", "leading"), "no fixes": ("control", "leading"), "all fixes": ("zsnr", "trailing")}
        return {name: Cell(*model, nfe=self.short) for name, model in names.items()}

    @property
    def at_75(self) -> dict[str, Cell]:
        """The same with guidance, rescaled with the fixes only."""
        return {name: cell.but(w=W, phi=PHI if name == "all fixes" else 0.0) for name, cell in self.plain.items()}

    @property
    def without(self) -> dict[str, tuple[Cell | None, Cell]]:
        """By the fix that is left out: what is drawn, unguided and guided."""
        no_rescale, x0 = (Cell(name, "trailing", nfe=self.short) for name in ("no-rescale", "x0"))
        leading = Cell("zsnr", "leading", nfe=self.short)
        return {
            "Algorithm 1": (no_rescale, no_rescale.but(w=W, phi=PHI)),
            "$v$ ($x_0$ in its place)": (x0, x0.but(w=W, phi=PHI, space="x0")),
            "trailing steps": (leading, leading.but(w=W, phi=PHI)),
            "guidance rescale": (None, self.plain["all fixes"].but(w=W)),
            "all four": (self.plain["no fixes"], self.at_75["no fixes"]),
        }

    def level(self, name: str, levels: Tensor) -> float:
        """std_ratio or w1 of (n,) levels against the data's."""
        if name == "std_ratio":
            return (levels.std() / self.reference.std()).item()
        return metrics.wasserstein1(levels, self.reference)

    def one(self, cell: Cell, *keys: str, guided: bool = False) -> Mean:
        """A measure of a cell, and its interval."""
        if not guided:
            return self.study.mean(cell, *keys), _interval(self.study, cell, *keys)
        row = self.guided[cell]
        if keys[0] == "level":
            return _dig(row, keys), sweep.jackknife(lambda x: self.level(keys[1], x), row.tensors["level"])
        low, high = row.measures.get(f"{keys[0]}_interval", UNKNOWN)
        return _dig(row, keys), (low, high)

    def recognised(self, cell: Cell, test: data.Images) -> Mean:
        """Share of a guided cell's pictures that the classifier takes for the class that was asked for."""
        seen = self.guided[cell].tensors["class"]
        asked = torch.arange(len(seen)) % len(test.classes)
        if cell == REAL:
            asked = test.draw(len(seen), loop.generator(2, 1))[1][:, 0]
        right = (seen == asked).double().tolist()
        return float(np.mean(right)), metrics.interval(right)

    def table3(self, test: data.Images) -> list[tuple[object, ...]]:
        """The rows of Table 3, guided and not: the model, its measures, and the share that is recognised if guided."""
        rows: list[tuple[object, ...]] = []
        for name in (*self.plain, "real"):
            cell = self.at_75.get(name, REAL)
            measures = (self.one(cell, *keys, guided=True) for keys in MEASURES.values())
            rows.append((f"{name}, guided", *measures, self.recognised(cell, test)))
        for name in (*self.plain, "real"):
            measures = (self.one(self.plain.get(name, REAL), *keys) for keys in MEASURES.values())
            rows.append((f"{name}, not guided", *measures, None))
        return rows

    def difference(self, a: Cell, b: Cell, *keys: str, guided: bool = False) -> Mean:
        """a - b: paired by seed; of guided levels by picture; of two guided distances as if they were independent."""
        if not guided:
            pairs = [(x, y) for x in self.study.of(a) for y in self.study.of(b) if x["replica"] == y["replica"]]
            return of_seeds([_dig(x, keys) - _dig(y, keys) for x, y in pairs])
        if keys[0] == "level":
            n = min(len(self.guided[cell].tensors["level"]) for cell in (a, b))
            both = torch.stack([self.guided[cell].tensors["level"][:n] for cell in (a, b)], 1)

            def less(pair: Tensor) -> float:
                return self.level(keys[1], pair[:, 0]) - self.level(keys[1], pair[:, 1])

            return less(both), sweep.jackknife(less, both)
        (x, of_x), (y, of_y) = self.one(a, *keys, guided=True), self.one(b, *keys, guided=True)
        half = math.hypot(of_x[1] - of_x[0], of_y[1] - of_y[0]) / 2
        return x - y, (x - y - half, x - y + half)

    def gain(self, setting: str, name: str) -> Mean:
        """By all fixes over none; positive is better."""
        cells = self.plain if setting == "unguided" else self.at_75
        found = self.difference(cells["all fixes"], cells["no fixes"], *MEASURES[name], guided=setting == "guided")
        return signed(found, 1 if name in MORE_IS_BETTER else -1)

    def lost(self, fix: str, setting: str, name: str) -> Mean | None:
        """By leaving a fix out; positive is worse. None where it was not drawn."""
        cell = self.without[fix][SETTINGS.index(setting)]
        if cell is None or (setting == "unguided" and cell not in self.study):
            return None
        whole = (self.plain if setting == "unguided" else self.at_75)["all fixes"]
        found = self.difference(cell, whole, *MEASURES[name], guided=setting == "guided")
        return signed(found, -1 if name in MORE_IS_BETTER else 1)

    def against_base(self, differences: Sequence[float]) -> Mean:
        """A mean over seeds that the one base's value enters as well: its bootstrap interval is added in quadrature."""
        low, high = metrics.interval(differences)
        base_low, base_high = self.study.interval(self.plain["official"], "level", "std_ratio")
        half, mean = math.hypot(high - low, base_high - base_low) / 2, float(np.mean(differences))
        return mean, (mean - half, mean + half)

    def added(self) -> tuple[Mean, Mean, Mean]:
        """To the levels' std over the data's: by more training alone, by the fixes, and the first less the second."""
        official, no_fixes, all_fixes = self.plain.values()
        key = ("level", "std_ratio")
        base = self.study.mean(official, *key)
        control, fixed = self.study.values(no_fixes, *key), self.study.values(all_fixes, *key)
        alone = self.against_base([c - base for c in control])
        excess = self.against_base([2 * c - base - f for c, f in zip(control, fixed, strict=True)])
        return alone, self.difference(all_fixes, no_fixes, *key), excess

    def followed(self, model: str, spacing: str, phi: float) -> Tensor:
        """Guided level with white less level with black, by noise."""
        cell = Cell(model, spacing, nfe=self.short, w=W, phi=phi)
        white, black = (self.guided[cell.but(prompt=word)].tensors["level"].double() for word in ("white", "black"))
        return white - black

    @property
    def lengths(self) -> dict[int, Cell]:
        """The fine-tunings with the fixes by how many pictures they saw; the full one comes last, under 0."""
        cells = {cell.images: cell for cell in self.study.rows if cell.images and not cell.loss}
        return dict(sorted(cells.items())) | {0: self.plain["all fixes"]}

    def by_seed(self, cell: Cell, name: str, count: int) -> list[float]:
        """std_ratio or w1 of a cell's first `count` levels, by seed."""
        return [self.level(name, levels[:count]) for levels in self.study.samples(cell, "level")]

    def fewest(self, full: int, count: int) -> float:
        """Pictures of the shortest fine-tuning with the fixes whose levels' W1 is below that of the whole one without.

        Args:
            full: pictures of the whole fine-tuning.
            count: levels that are taken of each seed; W1 is its mean over the seeds.

        Returns:
            NaN where there is none.
        """
        flawed = np.mean(self.by_seed(self.plain["no fixes"], "w1", count))
        found = {images or full: np.mean(self.by_seed(cell, "w1", count)) for images, cell in self.lengths.items()}
        return min((images for images, w1 in found.items() if w1 < flawed), default=math.nan)


def load_finetuning(folder: Path, train: data.Images, real: int) -> FineTuning:
    """What the stages evaluate, evaluate_ablations and guide kept.

    Args:
        folder: results/<profile>/zsnr.
        real: how many pictures of `train` the stages measured levels against.

    Raises:
        ValueError: that is another number than the stages'.
    """
    study = Study(folder)
    guided = by_cell(load(folder / "guide")) | {cell: rows[0] for cell, rows in study.rows.items() if cell.w == W}

    def evaluations(model: str) -> list[int]:
        return [cell.nfe for cell in study.cells(model=model, spacing="leading", sampler="ddim", w=1.0)]

    reference = data.level(train.draw(real, loop.generator(2, 0))[0])
    short, long = min(evaluations("base")), max(evaluations("control"))
    check = guided[Cell("control", "leading", nfe=short, w=W)]
    stored, again = check["level"]["w1"], metrics.wasserstein1(check.tensors["level"], reference)
    if abs(stored - again) > 1e-4:
        raise ValueError(f"W1 is {again:.5f} here and {stored:.5f} in the stage: real = {real} is not the stage's")
    return FineTuning(study, guided, reference, short, long)


def _dig(row: Row, keys: Sequence[str]) -> float:
    found: Any = row.measures
    for key in keys:
        found = found[key]
    return float(found)


def _interval(study: Study, cell: Cell, *keys: str) -> tuple[float, float]:
    """Over seeds; of one set of pictures over these, where that can be had."""
    if len(study.values(cell, *keys)) < 2 and keys[-1] not in ("std_ratio", "bias"):
        return UNKNOWN
    return study.interval(cell, *keys)
