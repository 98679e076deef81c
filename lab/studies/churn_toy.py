"""Finding 19: churn on data of known law, as stage `churn_toy` measured it; intervals are over training seeds.

A gain is the energy distance without churn less that with it, of one network and from the same starting noises. Energy
distances are in thousandths of the mean distance of two samples of the law.
"""

from __future__ import annotations

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
from lab.report.tables import Table, table
from lab.studies.churn_pictures import Mean
from zsnr.finetune.loop import generator
from zsnr.prediction import cos_sin

Values = NDArray[np.float64]
"""One for each seed."""

DATA = {"ring": "ring, 2 dimensions", "digits": "digits, 64 dimensions"}
TRAININGS = {"original": "trained the original way (VP)", "edm": "trained EDM's way"}
SCALE = {"energy": 1000.0, "detail": 1.0}
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


def read(results: str) -> Toys:
    """What stage `churn_toy` left below results/<profile>."""
    return Toys(load(ROOT / results / "edm/churn_toy"))
