"""Finding 7: configurations A to F of EDM's Table 2, as they were trained (`lab.models.ladder`), and what F leaks.

All have the same seeds, the same number of training pictures, and the same deterministic sampler, so that differences
are paired by seed. F was trained once more, with every transform always applied: *F, always*.

The leak: a classifier that was trained to tell augmented pictures from untouched ones takes the share r of a sample for
augmented, and f and t of untouched and of augmented real pictures. Its rate is corrected to (r - f) / (t - f).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

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
ALWAYS = "F, always"

Mean = tuple[float, tuple[float, float]]
"""A value and its 95 % interval."""


def of_seeds(values: Sequence[float] | np.ndarray) -> Mean | float:
    """Mean over seeds and its interval; the value alone where there is one seed."""
    values = np.asarray(values, dtype=float)
    return (float(values.mean()), interval(values.tolist())) if len(values) > 1 else float(values[0])


@dataclass(frozen=True)
class Ladder:
    """What was measured of every rung.

    Args:
        rows: a row for each seed, by configuration, in the same order of seeds.
        real: the same measures of real pictures.
        facts: of the stage.
        samples: pictures that were drawn from each network.
    """

    rows: Mapping[str, Sequence[Row]]
    real: Row
    facts: Mapping[str, Any]
    samples: int

    @property
    def seeds(self) -> list[int]:
        return [row["seed"] for row in self.rows["F"]]

    @property
    def trained_on(self) -> int:
        """Pictures of one training."""
        return int(self.rows["A"][0]["loss"][-1][0])

    @property
    def sigmas(self) -> np.ndarray:
        """Noise levels of the curves."""
        return np.array(self.facts["sigmas"])

    def values(self, name: str, *keys: str) -> np.ndarray:
        """(seeds,) of a measure, such as "level", "w1"."""
        picked: list[Any] = list(self.rows[name])
        for key in keys:
            picked = [row[key] for row in picked]
        return np.array(picked, dtype=float)

    def after(self, name: str) -> np.ndarray:
        """(seeds, levels) EDM's loss after training, on held-out pictures."""
        return np.array([row["curve"]["mean"] for row in self.rows[name]])

    def averaged(self, name: str) -> np.ndarray:
        """(seeds,) EDM's loss, averaged over EDM's p_train."""
        weights = p_train(self.sigmas)
        return np.asarray((self.after(name) * weights).sum(1) / weights.sum())

    def gain(self, before: str, after: str) -> Mean:
        """How much lower the Frechet distance of `after` is, paired by seed."""
        less = self.values(before, "frechet") - self.values(after, "frechet")
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
        counted = ((1, rate, self.samples * len(self.rows[name])), ((1 - c) ** 2, false, self.samples))
        terms = [weight * p * (1 - p) / n for weight, p, n in (*counted, (c**2, true, self.samples))]
        half = 1.96 * math.sqrt(sum(terms)) / abs(self.power)
        return c, (c - half, c + half)

    @property
    def leak(self) -> float:
        """What F has beyond E, which never saw an augmented picture: a bad picture may look augmented, too."""
        return float((self.corrected("F") - self.corrected("E")).mean())

    @property
    def leak_always(self) -> float:
        """The same of F with every transform always applied, for the first seed."""
        return float(self.corrected(ALWAYS)[0] - self.corrected("E")[0])


def read(results: str) -> Ladder:
    """The ladder as the stage evaluate_ladder left it.

    Raises:
        ValueError: rungs of other seeds than F's, or shares that are of no one number of pictures.
    """
    stage: Results = load(ROOT / results / "edm/evaluate_ladder")
    rungs = stage.where(study="ladder")
    rows = {name: rungs.where(config=name, always=False).rows for name in ladder.CONFIGS}
    seeds = {name: [row["seed"] for row in found] for name, found in rows.items()}
    if other := {name: found for name, found in seeds.items() if found != seeds["F"]}:
        raise ValueError(f"the rungs are paired by seed, and F has {seeds['F']}: train these with the same, {other}")
    shares = [row["suspected"] for row in rungs] + list(stage.facts["suspected"].values())
    rows[ALWAYS] = rungs.where(always=True).rows
    return Ladder(rows, stage.one(study="real"), stage.facts, counted(shares))


def counted(shares: Sequence[float]) -> int:
    """The number of pictures: a share of n pictures is a whole number of n-ths, so the least n that fits all shares."""
    n = math.lcm(*(Fraction(share).limit_denominator(10_000).denominator for share in shares))
    if n >= 10_000:
        raise ValueError(f"{shares} are not shares of one number of pictures below 10,000: run the stage again")
    return n


def note(rungs: Ladder, gains: Mapping[tuple[str, str], Mean]) -> str:
    """What stands beside the Frechet distances: their scale, losses, levels, the leak, and gains that are none."""
    losses = ", ".join(f"{name} {rungs.averaged(name).mean():.3f}" for name in "CDEF")
    spread = {name: [rungs.values(name, "level", key).mean() for key in ("std_ratio", "w1")] for name in "CDEF"}
    levels = ", ".join(f"{name} {ratio:.2f} and {w1:.3f}" for name, (ratio, w1) in spread.items())
    parts = [
        f"{len(rungs.seeds)} seeds of {rungs.trained_on} pictures each",
        "a classifier's features",
        f"EDM's loss over its p_train: {losses}",
        f"level std over the data's and W1: {levels}",
        f"corrected share taken for augmented, F less E: {rungs.leak:.3f}, always applied: {rungs.leak_always:.3f}",
    ]
    unclear = [" to ".join(pair) for pair, (_, (low, high)) in gains.items() if low < 0 < high]
    worse = [" to ".join(pair) for pair, (_, (low, high)) in gains.items() if high < 0]
    parts += [f"smaller than the seeds' spread: {', '.join(unclear)}"] if unclear else []
    return "; ".join(parts + ([f"the other way: {', '.join(worse)}"] if worse else []))
