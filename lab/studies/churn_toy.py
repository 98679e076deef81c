"""Finding 19: churn on data of known law, as stage `churn_toy` measured it; intervals are over training seeds.

A gain is the energy distance without churn less that with it, of one network and from the same starting noises. Energy
distances are in thousandths of the mean distance of two samples of the law.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lab import ROOT
from lab.measure import known_truth as truth
from lab.measure.known_truth import NONE, RANGES, STRONG, TABLE5, VP, Setting
from lab.measure.metrics import interval
from lab.measure.store import Results, load
from lab.models import toy
from lab.report.tables import Table, measured, table
from lab.studies.churn_pictures import Mean
from zsnr.finetune.loop import generator
from zsnr.prediction import cos_sin

Values = NDArray[np.float64]
"""One for each seed."""

DATA = {"ring": "ring, 2 dimensions", "digits": "digits, 64 dimensions"}
TRAININGS = {"original": "trained the original way (VP)", "edm": "trained EDM's way"}
SCALE = {"energy": 1000.0, "detail": 1.0}
OUTSIDE = 1000.0
"""Of a larger energy distance (2a - b - w) / w, in thousandths, a > w: a is the mean distance of a sample from one of
the law, b and w are those within either. So the samples lie farther from the law's than these from one another."""
NAMES = dict(zip(("CIFAR-10 VP", "CIFAR-10 VE", "ImageNet-64, pre-trained", "ImageNet-64, EDM"), TABLE5, strict=True))


def over_seeds(values: Values) -> Mean:
    """The mean, and its 95 % t interval."""
    return float(values.mean()), interval(list(values))


def residual(data: str, sigmas: Values, n: int = 2000) -> Values:
    """(levels,) E|z - D*|^2 a dimension, the noise that the exact denoiser removes."""
    law = toy.LAWS[data]()
    y, _ = law.draw(n, generator(9, 4))
    found = []
    for k, sigma in enumerate(sigmas):
        x, phi = truth.noisy(y, float(sigma), generator(9, 5, k))
        z = x.double() / cos_sin(phi)[0]
        found.append((z - truth.answers(law.exact, x, phi).double()).square().mean().item())
    return np.array(found)


@dataclass(frozen=True)
class Toys:
    """The results of stage `churn_toy`; `read` makes it."""

    drawn: Results

    @cached_property
    def lengths(self) -> tuple[int, int]:
        """The numbers of steps: the long one, and the short one."""
        counts = self.drawn.where(study="churn").values("N")
        return max(counts), min(counts)

    @cached_property
    def amounts(self) -> list[float]:
        """The values of S_churn that are drawn in both ranges; the last one is at the clamp of gamma."""
        rows = self.drawn.where(study="churn", N=self.lengths[0], training="edm", S_tmin=0.05, S_noise=1.0)
        return sorted(rows.values("S_churn"))

    @property
    def clamp(self) -> Setting:
        """The strongest churn, at all levels."""
        return Setting(self.amounts[-1])

    @cached_property
    def _cells(self) -> dict[tuple[str, str, int, float, Setting], Results]:
        cells: dict[tuple[str, str, int, float, Setting], list[int]] = {}
        rows = self.drawn.where(study="churn").rows
        for i, row in enumerate(rows):
            setting = Setting(*(row[name] for name in Setting._fields))
            cells.setdefault((row["data"], row["training"], row["N"], row["excess"], setting), []).append(i)
        return {key: Results([rows[i] for i in places]) for key, places in cells.items()}

    def at(
        self, data: str, training: str, setting: Setting, measure: str = "energy", N: int = 0, excess: float = 0.0
    ) -> Values:
        """A measure of every seed's samples; at the long number of steps where N is left out."""
        rows = self._cells[data, training, N or self.lengths[0], excess, setting]
        return SCALE[measure] * np.array([row[measure] for row in rows])

    def gain(self, data: str, training: str, setting: Setting, N: int = 0) -> Values:
        """Distance without churn less that with it."""
        return self.at(data, training, NONE, N=N) - self.at(data, training, setting, N=N)

    def cost(self, data: str, training: str, setting: Setting, best: Setting = VP) -> Values:
        """Distance of a setting less that of another."""
        return self.at(data, training, setting) - self.at(data, training, best)

    def noise(self, data: str, training: str) -> dict[float, Values]:
        """Gains of CIFAR-10 VP's setting by S_noise, the least S_noise first."""
        drawn = sorted(s.S_noise for s in self.settings(data, training) if s._replace(S_noise=VP.S_noise) == VP)
        return {S_noise: self.gain(data, training, VP._replace(S_noise=S_noise)) for S_noise in drawn}

    def floor(self, data: str) -> Mean:
        """The distance of samples of the law itself."""
        return over_seeds(1000 * np.array([row["energy"] for row in self.drawn.where(study="floor", data=data)]))

    def settings(self, data: str, training: str) -> list[Setting]:
        """What was drawn from it at the long number of steps."""
        N = self.lengths[0]
        return [key[4] for key in self._cells if key[:4] == (data, training, N, 0.0)]

    def less_the_least(self, data: str, training: str, setting: Setting, among: list[Setting]) -> Values:
        """Distance of a setting less the least of others; which is the least is judged by the other seeds.

        The least of noisy values by their own noise would be too small, and so any setting too far above it.
        """
        grid = np.array([self.at(data, training, other) for other in among])
        judged = [np.delete(grid, seed, 1).mean(1).argmin() for seed in range(grid.shape[1])]
        return self.at(data, training, setting) - grid[judged, np.arange(grid.shape[1])]

    def optimum(self, data: str, training: str) -> tuple[Values, Values]:
        """All levels, S_noise = 1: the distance at the clamp, and without churn, less the least between them."""
        between = [Setting(S) for S in self.amounts[:-1]]
        clamp, none = (self.less_the_least(data, training, end, between) for end in (self.clamp, NONE))
        return clamp, none

    def by_level(self, data: str, training: str, measure: str) -> tuple[Values, Values]:
        """(levels,) sigma, and (seeds, levels) of the network's own measures: error, too_much."""
        rows = self.drawn.where(study="network", data=data, training=training).rows
        return np.array(rows[0]["sigma"]), np.array([row[measure] for row in rows])

    def removed(self, data: str, training: str) -> tuple[Values, Values]:
        r"""(levels,) sigma, and (seeds, levels) q = E<z - D*, z - D> / E|z - D*|^2 - 1, by which too much is removed.

        Along the noise itself: error in other directions, which makes 1/c - 1 larger, does not count. With that t and
        s = E|D - D*|^2 / E|z - D*|^2, which the stage kept, q = (t - s) / (1 - t).
        """
        sigma, t = self.by_level(data, training, "too_much")
        s = self.by_level(data, training, "error")[1] / residual(data, sigma)
        q: Values = (t - s) / (1 - t)
        return sigma, q

    def too_much(self, data: str, training: str) -> tuple[Values, Values]:
        """By seed, means over the levels in [.05, 1] of what is removed too much: q of `removed`, and 1/c - 1."""
        sigma, along = self.removed(data, training)
        middle = (sigma >= 0.05) & (sigma <= 1)
        return along[:, middle].mean(1), self.by_level(data, training, "too_much")[1][:, middle].mean(1)

    def planted(self, data: str, excess: float, restored: bool) -> Values:
        """Log density by an exact denoiser that removes too much, churned, less that by the exact one."""
        S_noise = (1 + excess) ** 0.5 if restored else 1.0
        off = self.at(data, "planted", Setting(*STRONG, S_noise), "detail", excess=excess)
        right = self.at(data, "exact", Setting(*STRONG), "detail")
        difference: Values = off - right
        return difference

    def in_place(self, data: str, training: str, sigma: float, S_noise: float) -> tuple[Values, Values]:
        """Iterations of churn at one level, and (seeds, times) distances from the exact D of exact states."""
        columns = {"data": data, "training": training, "sigma": sigma, "S_noise": S_noise}
        rows = self.drawn.where(study="in_place").where(**columns).rows
        kept = len(rows[0]["energy"])
        return rows[0]["iterations"] // 5 * np.arange(kept), 1000 * np.array([row["energy"] for row in rows])

    def settled(self, data: str, training: str, sigma: float, S_noise: float = 1.0) -> float:
        """Distance after churn at one level, a mean over the kept times but the start."""
        return float(self.in_place(data, training, sigma, S_noise)[1][:, 1:].mean())

    def moved(self, sigma: float) -> float:
        """The largest change of the exact denoiser's own distance in place, of its one run on the ring."""
        energy = self.in_place("ring", "exact", sigma, 1.0)[1][0]
        return float(np.abs(energy - energy[0]).max())

    def turned(self, sigma: float) -> Values:
        """By which a planted turn raises the distance in place beyond its start, at the kept times of one run."""
        bad, right = (self.in_place("ring", training, sigma, 1.0)[1][0] for training in ("turning", "exact"))
        rise: Values = (bad - bad[0])[1:] - (right - right[0])[1:]
        return rise

    def worn(self, data: str, training: str, sigma: float, S_noise: float = 1.0) -> Values:
        """By how much the distance has risen at the end of churn at one level."""
        energy = self.in_place(data, training, sigma, S_noise)[1]
        rise: Values = energy[:, -1] - energy[:, 0]
        return rise

    def gains_table(self) -> Table:
        """Gains of Table 5's settings, and of the strongest churn, by data and training."""
        columns = {**NAMES, "strongest, all levels": self.clamp}
        rows = []
        for data in DATA:
            for training in TRAININGS:
                gains = [over_seeds(self.gain(data, training, setting)) for setting in columns.values()]
                rows.append((data, training, over_seeds(self.at(data, training, NONE)), *gains))
        return table(rows, dict.fromkeys(["data", "training", "no churn", *columns], ".2f"))

    def optimum_table(self) -> Table:
        """The best of all settings by data and training, and what a choice by the other seeds gains."""
        rows = []
        for data in DATA:
            for training in TRAININGS:
                every = self.settings(data, training)
                best = min(every, key=lambda s: self.at(data, training, s).mean())
                levels = next((name for name, r in RANGES.items() if r == best[1:3]), f"[{best[1]:g}, {best[2]:g}]")
                gain = self.less_the_least(data, training, NONE, every)
                row = (data, training, f"{best.S_churn:g}", levels if best.S_churn else "–", f"{best.S_noise:g}")
                rows.append((*row, over_seeds(gain)))
        names = ["data", "training", "S_churn", "levels", "S_noise", "gain of the best, judged by the other seeds"]
        return table(rows, dict.fromkeys(names, ".2f"))


def noise_table(gains: Mapping[tuple[str, str], dict[float, Values]]) -> Table:
    """Gain at the least S_noise, and what the others add to it, by data and training: `Toys.noise` of each."""
    rows = []
    for key, by_noise in gains.items():
        plain, *others = by_noise.values()
        rows.append((*key, over_seeds(plain), *(over_seeds(other - plain) for other in others)))
    first, *more = next(iter(gains.values()))
    columns = ["data", "training", f"gain at S_noise = {first:g}", *(f"{S_noise:g} adds" for S_noise in more)]
    return table(rows, dict.fromkeys(columns, ".3f"))


def noise_note(gains: Mapping[tuple[str, str], dict[float, Values]]) -> str:
    """The order of the S_noise by mean gain, and where what Table 5's value adds to S_noise = 1 is clear."""
    orders: dict[str, list[str]] = {}
    sides: dict[str, list[str]] = {"above 0": [], "below 0": [], "undecided": []}
    turns = 0
    for key, by_noise in gains.items():
        order = ", ".join(f"{S:g}" for S in sorted(by_noise, key=lambda S: -by_noise[S].mean()))
        orders.setdefault(order, []).append(" ".join(key))
        sides[_side(over_seeds(by_noise[VP.S_noise] - by_noise[1.0]))].append(" ".join(key))
        turns += len({_side(over_seeds(gain)) for gain in by_noise.values()}) > 1
    told = "; ".join(f"{order} ({', '.join(names)})" for order, names in orders.items())
    clear = "; ".join(f"{side} for {', '.join(names) or 'none'}" for side, names in sides.items())
    return (
        f"From the largest mean gain to the least, the values of $S_\\text{{noise}}$ are {told}. What {VP.S_noise:g} "
        f"adds to 1 is, by its interval, {clear}. Whether the gain itself is above 0, below 0 or undecided changes "
        f"with $S_\\text{{noise}}$ in {_of(turns, len(gains))} cases."
    )


def in_place_note(toys: Toys, data: str, sigma: float) -> str:
    """Which networks churn at one level drives out of the law, how far, and what it does to the exact denoiser."""
    parts = []
    for training, way in TRAININGS.items():
        times, energy = toys.in_place(data, training, sigma, 1.0)
        more = toys.in_place(data, training, sigma, VP.S_noise)[1][:, -1].mean()
        end, mean, n = energy[:, -1], energy[:, -1].mean(), len(energy)
        gone, rising = (end > OUTSIDE).sum(), (np.diff(energy) > 0).all(1).sum()
        part = (
            f"Of the networks {way} **{_of(gone, n)}** {'diverge' if gone else 'leave the law'}: the mean distance "
            f"goes from {energy[:, 0].mean():.2g} to {mean:.3g}, and to {more:.3g} with $S_\\text{{noise}}$ = "
            f"{VP.S_noise:g}"
        )
        if gone:
            far = max(0.0, (mean / 1000 + 1) / 2)
            part += (
                f". By seed it ends at {end.min():.3g} to {end.max():.3g}, and it rises from each kept time to the "
                f"next in {_of(rising, n)}. On average their $D$ end at least about {far:.2g} times as far from the "
                "law's as two of those from each other"
            )
        parts.append(part)
    right = toys.in_place(data, "exact", sigma, 1.0)[1]
    stays = "diverges, too" if right.max() > OUTSIDE else "does not leave it"
    parts.append(f"The exact denoiser {stays}: its distance is between {right.min():.2f} and {right.max():.2f}")
    return f"**{data.capitalize()}, σ = {sigma:g}**, {times[-1]} iterations. " + ". ".join(parts) + "."


def turned_note(toys: Toys, sigma: float) -> str:
    """What a planted turn adds to the distance in place, against the exact denoiser's own changes."""
    times, rise, moved = toys.in_place("ring", "turning", sigma, 1.0)[0][1:], toys.turned(sigma), toys.moved(sigma)
    n, clear = len(rise), int((rise > moved).sum())
    said = {
        n: "the planted turn raises the distance",
        0: "the planted turn adds no more than the exact denoiser changes",
    }
    return (
        f"**σ = {sigma:g}: {said.get(clear, 'the planted turn raises the distance at some times only')}.** After "
        f"{', '.join(map(str, times))} iterations it has added {', '.join(f'{r:.2f}' for r in rise)}. That is above 0 "
        f"at {_of((rise > 0).sum(), n)} times, and above {moved:.2f}, the largest change of the exact denoiser's own "
        f"distance, at {_of(clear, n)}. From one time to the next it grows in {_of((np.diff(rise) > 0).sum(), n - 1)}."
    )


def limit_note(toys: Toys, pictures: Mapping[str, Mean], verdicts: Mapping[str, str]) -> str:
    """What the verdicts on trained networks of E-37 and E-38 rest on.

    Args:
        toys: the results.
        pictures: 1/c - 1 of image networks, by training.
        verdicts: on trained networks, by claim.
    """
    q, other = ({t: over_seeds(100 * toys.too_much("digits", t)[k]) for t in TRAININGS} for k in (0, 1))
    there = {t: (100 * value, (100 * low, 100 * high)) for t, (value, (low, high)) in pictures.items()}
    side = _side(q["original"])
    errs = {"below 0": "too little", "above 0": "too much"}.get(side, "neither clearly too much nor clearly too little")
    left = over_seeds(toys.at("digits", "original", NONE, "detail"))
    far = all(abs(other[t][0]) > abs(there[t][0]) for t in TRAININGS)
    nearer = f"{'' if far else 'not '}both farther from 0 than theirs"
    named = " and ".join(f"{id} ({word})" for id, word in verdicts.items())
    ends = {
        "below 0": "So these verdicts are about MLPs that leave noise. About a network that removes slightly too much "
        "they say nothing; only the planted errors above stand for one.",
        "above 0": "So the premise of both claims is met here.",
        "undecided": "So it is open whether the premise of both claims is met here.",
    }
    return (
        f"**A limit of {named} on trained networks.** Both are decided by small MLPs on the digits that were trained "
        f"the original way. They remove **{errs}** noise: their $q$, a mean over [.05, 1], is "
        f"{measured(*q['original'], '.1f')} %, and that of EDM's {measured(*q['edm'], '.1f')} %, where the paper "
        f"suspects slightly above 0. Without churn, the log density of their samples less the law's is "
        f"{measured(*left, '.1f')} a dimension. Of the image U-Nets of finding 4 only $1/c - 1$ is known, which $q$ "
        f"never exceeds: {_percents(there)}. Of the MLPs it is {_percents(other)}, {nearer}. {ends[side]}"
    )


def _percents(found: Mapping[str, Mean]) -> str:
    """Per cents with their intervals, by training."""
    return ", ".join(f"{measured(*found[t], '.2f')} % ({t})" for t in TRAININGS)


def _side(found: Mean) -> str:
    """On which side of 0 an interval lies."""
    low, high = found[1]
    return "above 0" if low > 0 else "below 0" if high < 0 else "undecided"


def _of(k: int, n: int) -> str:
    """k of n in words."""
    return f"all {n}" if k == n else f"{k or 'none'} of {n}"


def read(results: str) -> Toys:
    """What stage `churn_toy` left below results/<profile>."""
    return Toys(load(*(ROOT / results / "edm/churn_toy" / data for data in DATA)))
