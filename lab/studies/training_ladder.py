"""Finding 7: configurations A to F of EDM's Table 2, as they were trained (`lab.models.ladder`), and what F leaks.

All have the same seeds and the same deterministic sampler, and see the same number of training pictures, so that
differences are paired by seed. Beside them are *C, VE*, with VE's preconditioning and loss; *F, always*, with every
transform always applied; and D, E and F after a ninth and a third of the pictures.

The leak: a classifier that was trained to tell augmented pictures from untouched ones takes the share r of a sample for
augmented, and f and t of untouched and of augmented real pictures. Its rate is corrected to (r - f) / (t - f).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from lab import ROOT
from lab.measure.metrics import interval
from lab.measure.store import Results, Row, load
from lab.models import ladder
from lab.studies.ladder_loss import p_train

STEPS = {
    "A": "VP as it was",
    "B": "hyperparameters",
    "C": "capacity",
    "D": "preconditioning",
    "E": "loss",
    "F": "augmentation",
}
PAPER = dict(zip(ladder.CONFIGS, (2.48, 2.18, 2.08, 2.09, 1.88, 1.79), strict=True))
"""FID of CIFAR-10, conditional, VP (Table 2)."""
VE, ALWAYS = "C, VE", "F, always"
FAR = 1.2
"""A pixel is far outside the data's range if it is so many times the largest of real pictures."""
LENGTHS = (*ladder.PARTS, 1)
"""Of the trainings of D, E and F: parts of all pictures, the shortest first."""

Mean = tuple[float, tuple[float, float]]
"""A value and its 95 % interval."""


def of_seeds(values: Sequence[float] | np.ndarray) -> Mean | float:
    """Mean over seeds and its interval; the value alone where there is one seed."""
    values = np.asarray(values, dtype=float)
    return (float(values.mean()), interval(values.tolist())) if len(values) > 1 else float(values[0])


def shorter(name: str, part: int) -> str:
    """The name of a configuration's training on a part of the pictures."""
    return name if part == 1 else f"{name}, 1/{part}"


class Far(NamedTuple):
    """Pictures far outside the data's range.

    Args:
        beyond, kept: how many, of how many.
        largest: |pixel| of all of them.
        squares, without: mean sum of squares of a picture, with those that are far outside, and without them.
    """

    beyond: int
    kept: int
    largest: float
    squares: float
    without: float


@dataclass(frozen=True)
class Ladder:
    """What was measured of every rung.

    Args:
        rows: a row for each seed, by name: A to F, VE, ALWAYS and the shorter ones; all in the same order of seeds.
        real: the same measures of real pictures.
        facts: of the stage.
    """

    rows: Mapping[str, Sequence[Row]]
    real: Row
    facts: Mapping[str, Any]

    @property
    def seeds(self) -> list[int]:
        return [row["seed"] for row in self.rows["F"]]

    def epochs(self, part: int = 1) -> float:
        """Passes over the training pictures."""
        return float(self.rows[shorter("E", part)][0]["loss"][-1][0] / self.facts["trained_on"])

    @property
    def sigmas(self) -> np.ndarray:
        """Noise levels of the curves."""
        return np.array(self.facts["sigmas"])

    def values(self, name: str, key: str) -> np.ndarray:
        """(seeds,) of a measure, such as "frechet"."""
        return np.array([row[key] for row in self.rows[name]], dtype=float)

    def after(self, name: str) -> np.ndarray:
        """(seeds, levels) EDM's loss after training, on held-out pictures."""
        return np.array([row["curve"]["mean"] for row in self.rows[name]])

    def averaged(self, name: str) -> np.ndarray:
        """(seeds,) EDM's loss, averaged over EDM's p_train."""
        weights = p_train(self.sigmas)
        return np.asarray((self.after(name) * weights).sum(1) / weights.sum())

    def gain(self, before: str, after: str, part: int = 1) -> Mean:
        """How much lower the Frechet distance of `after` is, paired by seed."""
        less = self.values(shorter(before, part), "frechet") - self.values(shorter(after, part), "frechet")
        return float(less.mean()), interval(less.tolist())

    @property
    def power(self) -> float:
        """t - f; NaN where the classifier was hardly trained and tells nothing apart."""
        return (self.facts["suspected"]["augmented"] - self.facts["suspected"]["untouched"]) or math.nan

    def corrected(self, name: str) -> np.ndarray:
        """(seeds,) share of the pictures that are taken for augmented, corrected."""
        return np.asarray((self.values(name, "suspected") - self.facts["suspected"]["untouched"]) / self.power)

    def corrected_mean(self, name: str) -> Mean:
        """Mean of `corrected`, its interval from the pictures counted: in the samples, and in both real sets."""
        false, true = (self.facts["suspected"][kind] for kind in ("untouched", "augmented"))
        rate, c = self.values(name, "suspected").mean(), float(self.corrected(name).mean())
        drawn, real = self.facts["samples"] * len(self.rows[name]), self.facts["held_out"]
        terms = [w * p * (1 - p) / n for w, p, n in ((1, rate, drawn), ((1 - c) ** 2, false, real), (c**2, true, real))]
        half = 1.96 * math.sqrt(sum(terms)) / abs(self.power)
        return c, (c - half, c + half)

    def far(self, name: str, limit: float) -> Far:
        """Of the pictures that are kept, which are of the first seed, those with a pixel beyond the limit."""
        x = self.rows[name][0].tensors["pictures"].double().flatten(1)
        largest, squares = x.abs().amax(1), x.square().sum(1)
        near = largest <= limit
        return Far(int((~near).sum()), len(x), largest.max().item(), squares.mean().item(), squares[near].mean().item())

    def uneven(self, name: str, key: str) -> float:
        """Largest over smallest of a measure over seeds, of one that is above 0."""
        values = self.values(name, key)
        return float(values.max() / values.min())

    def leak(self, name: str = "F") -> Mean | float:
        """What F, or F always, has beyond E, which never saw an augmented picture: a bad picture may look augmented."""
        return of_seeds(self.corrected(name) - self.corrected("E"))


def read(results: str) -> Ladder:
    """The ladder as the stage evaluate_ladder left it.

    Raises:
        ValueError: rungs of other seeds than F's.
    """
    stage: Results = load(ROOT / results / "edm/evaluate_ladder")
    rungs = stage.where(study="ladder")
    whole = rungs.where(always=False, part=1)
    rows = {name: whole.where(config=name, column="vp").rows for name in ladder.CONFIGS}
    rows |= {VE: whole.where(config="C", column="ve").rows, ALWAYS: rungs.where(always=True).rows}
    rows |= {shorter(name, part): rungs.where(config=name, part=part).rows for name in "DEF" for part in ladder.PARTS}
    seeds = {name: [row["seed"] for row in found] for name, found in rows.items()}
    if other := {name: found for name, found in seeds.items() if found != seeds["F"]}:
        raise ValueError(f"the rungs are paired by seed, and F has {seeds['F']}: train these with the same, {other}")
    return Ladder(rows, stage.one(study="real"), stage.facts)


def why_uneven(rungs: Ladder, real: Tensor) -> str:
    """Why the distances of A, B and VE differ so from seed to seed, beside what real pictures have.

    Args:
        real: every real picture once.
    """
    top, squares = real.abs().max().item(), real.double().flatten(1).square().sum(1).mean().item()
    names, ve = ("A", "B", VE), rungs.far(VE, FAR * top)
    spread = {key: [rungs.uneven(name, key) for name in names] for key in ("frechet", "energy")}
    ratios = {key: "{:.0f}, {:.0f} and {:.0f}".format(*values) for key, values in spread.items()}
    worst = ", ".join(str(rungs.seeds[int(rungs.values(name, "frechet").argmax())]) for name in names)
    far = [rungs.far(name, FAR * top).beyond for name in names]
    return (
        f"**Why A, B and VE are so uncertain.** From seed to seed their Fréchet distances differ by factors of up to "
        f"{ratios['frechet']}, those of C to F by {max(rungs.uneven(name, 'frechet') for name in 'CDEF'):.1f} at most. "
        f"Single pictures end far outside the data's range. Of the {ve.kept} that are kept of seed {rungs.seeds[0]}, "
        f"{far[0]} of A's, {far[1]} of B's and {far[2]} of VE's have a pixel more than {FAR - 1:.0%} beyond the "
        f"largest of real pictures; VE's go up to {ve.largest:.1f}, where these end at {top:.1f}. The Fréchet distance "
        f"is made of means and covariances, second moments, which such pictures decide: the sum of squares of VE's is "
        f"{ve.squares:.1f} on average, without these {ve.beyond} it is {ve.without:.1f}, and real pictures have "
        f"{squares:.1f}. Pictures are kept of no other seed; the largest distances are those of seeds {worst}. In the "
        f"energy distance a picture counts by how far off it is, and not by the square of that: from seed to seed it "
        f"differs by factors of up to {ratios['energy']}."
    )


def note(rungs: Ladder, gains: Mapping[tuple[str, str], Mean]) -> str:
    """What stands beside the Frechet distances: scale, losses, gains by length, and gains that are none."""
    losses = ", ".join(f"{name} {rungs.averaged(name).mean():.3f}" for name in "CDEF")
    lengths = ", ".join(f"{rungs.gain('D', 'E', part)[0]:+.3f} at {rungs.epochs(part):.0f}" for part in LENGTHS)
    parts = [
        f"{len(rungs.seeds)} seeds of {rungs.epochs():.0f} epochs each",
        "of pixels",
        f"EDM's loss over its p_train: {losses}",
        f"D less E by epochs: {lengths}",
    ]
    unclear = [" to ".join(pair) for pair, (_, (low, high)) in gains.items() if low < 0 < high]
    worse = [" to ".join(pair) for pair, (_, (low, high)) in gains.items() if high < 0]
    parts += [f"smaller than the seeds' spread: {', '.join(unclear)}"] if unclear else []
    return "; ".join(parts + ([f"the other way: {', '.join(worse)}"] if worse else []))
