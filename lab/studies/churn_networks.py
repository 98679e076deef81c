"""Finding 4, trained networks: distances by S_churn, noise that is removed, asymmetry, churn at one level.

All of it was measured by stage `sweep` of EDM's pipeline on three small networks; here it is read and compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lab import ROOT
from lab.measure.store import Results, load
from lab.measure.sweep import jackknife
from lab.report.tables import Table, table
from lab.studies.churn_pictures import FACTORS, Mean, change, contrast, detail, mean_of, saturated
from lab.studies.churn_removed import Removed
from zsnr.samplers import GAMMA_MAX

NETWORKS = {
    "original": "trained the original way (VP)",
    "edm": "trained EDM's way",
    "short": "the same, stopped early",
}
KINDS = {
    "all levels": ("all", 1.0),
    "all levels, S_noise 1.007": ("all", 1.007),
    "within [.05, 1]": ("middle", 1.0),
    "within [.05, 1], S_noise 1.007": ("middle", 1.007),
}
"""Where noise is replaced, and with what S_noise."""


class Distance(NamedTuple):
    """A Frechet distance, half its jackknife interval, and the (n, 64) features of the pictures."""

    value: float
    half: float
    features: Tensor


def frechet(features: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """|m - mean|^2 + tr(C + covariance - 2 (C covariance)^(1/2)) of the features' own m and C."""
    own = features.T.cov()
    root = torch.linalg.eigvals(own @ covariance).sqrt().real.sum()
    return ((features.mean(0) - mean).square().sum() + own.trace() + covariance.trace() - 2 * root).item()


@dataclass(frozen=True)
class Networks:
    """The results of stage `sweep`; `read` makes it."""

    drawn: Results

    @cached_property
    def cells(self) -> dict[tuple[str, float, str, float], Distance]:
        """Frechet distances by network, S_churn, range of levels and S_noise."""
        found = {}
        for m in self.drawn.where(study="churn"):
            low, high = m["frechet_interval"]
            cell = Distance(m["frechet"], (high - low) / 2, m.tensors["features"].double())
            found[m["model"], float(m["S_churn"]), m["range"], m["S_noise"]] = cell
        return found

    def less(self, a: Distance, b: Distance) -> Mean:
        """a - b and its interval."""
        return self.jackknife(lambda a, b: a - b, a, b)

    def jackknife(self, statistic: Callable[..., float], *cells: Distance) -> Mean:
        """Of distances, over tuples of pictures: one of each cell, with the same starting noise and class."""
        real = self.drawn.one(study="reference").tensors

        def of(tuples: Tensor) -> float:
            return statistic(*(frechet(side, real["mean"], real["covariance"]) for side in tuples.unbind(1)))

        tuples = torch.stack([cell.features for cell in cells], 1)
        return of(tuples), jackknife(of, tuples)

    @cached_property
    def N(self) -> int:
        """Steps."""
        calls: int = self.drawn.where(study="churn").rows[-1]["evaluations"]
        return (calls + 1) // 2

    @property
    def pictures(self) -> int:
        """Of each churned cell."""
        return len(next(iter(self.cells.values())).features)

    @property
    def real(self) -> float:
        """The distance of as many real pictures."""
        return float(self.drawn.one(study="real", n=self.pictures)["frechet"])

    @cached_property
    def amounts(self) -> list[float]:
        """The values of S_churn above 0."""
        return sorted({S for _, S, _, _ in self.cells if S > 0})

    def gamma(self, S: float) -> float:
        """min(S_churn / N, sqrt 2 - 1)."""
        return min(S / self.N, GAMMA_MAX)

    @cached_property
    def named(self) -> float:
        """The S_churn, named beforehand, whose gamma is nearest to that of CIFAR-10 VP in Table 5."""
        full = [S for S in self.amounts if ("original", S, "middle", 1.007) in self.cells]
        return min(full, key=lambda S: abs(math.log(self.gamma(S) / (30 / 256))))

    def at(self, name: str, S: float, where: str = "all", S_noise: float = 1.0) -> Distance:
        """The distance of a network with this churn; without churn there is one cell only."""
        return self.cells[(name, 0.0, "all", 1.0) if S == 0 else (name, S, where, S_noise)]

    def gain(self, name: str) -> Mean:
        """Of the named setting over no churn."""
        return self.less(self.at(name, 0), self.at(name, self.named, "middle", 1.007))

    def harm(self, name: str, S: float) -> Mean:
        """Of churn at all levels with S_noise = 1."""
        return self.less(self.at(name, S), self.at(name, 0))

    def most_gain(self, name: str) -> Mean:
        """Of the largest S_churn, at all levels with S_noise = 1, over no churn."""
        return self.less(self.at(name, 0), self.at(name, self.amounts[-1]))

    def costs(self, S: float) -> list[Mean]:
        """Of S_noise = 1, of all levels, of both, on the original network against both corrections."""
        kinds = (("middle", 1.0), ("all", 1.007), ("all", 1.0))
        best = self.at("original", S, "middle", 1.007)
        return [self.less(self.at("original", S, *kind), best) for kind in kinds]

    def around_the_least(self) -> tuple[Mean, Mean]:
        """Original network, all levels: the largest S_churn, and no churn, less the least between them.

        The least is chosen anew in each replicate of the jackknife, so that the choice widens the interval.
        """
        between = [self.at("original", S) for S in self.amounts[:-1]]
        last, none = (
            self.jackknife(lambda a, *others: a - min(others), self.at("original", S), *between)
            for S in (self.amounts[-1], 0)
        )
        return last, none

    def table(self) -> Table:
        """Distances by network and kind of churn (rows) and S_churn (columns)."""
        rows = []
        for name in NETWORKS:
            for label, kind in KINDS.items():
                cells = [self.cells.get((name, S, *kind)) for S in self.amounts]
                rows.append((name, label, *(c and f"{c[0]:.2f} ± {c[1]:.2f}" for c in (self.at(name, 0), *cells))))
        head = [f"{S:g} (γ = {self.gamma(S):.3f})" for S in self.amounts]
        return table(rows, ["network", "noise replaced at", "S_churn = 0", *head])

    def optimum(self) -> Mean:
        """Original network: the gamma of the least distance, and the range of all that are not surely worse."""
        best: dict[float, Distance] = {}
        for (name, S, *_), cell in self.cells.items():
            if name == "original":
                g = self.gamma(S)
                best[g] = min(best.get(g, cell), cell, key=lambda c: c[0])
        least = min(best, key=lambda g: best[g][0])
        near = [g for g, c in best.items() if self.less(c, best[least])[1][0] <= 0]
        return least, (min(near), max(near))

    def removed(self) -> dict[str, Removed]:
        """By network, on held-out pictures."""
        shape = self.drawn.where(study="real").rows[0].tensors["pictures"].shape[1:]
        held_out = max(self.drawn.where(study="real").values("n")) // 2
        values = held_out * math.prod(shape)
        found = {}
        for name in NETWORKS:
            m = self.drawn.one(study="network", model=name)
            sigma, r, e = (np.array(m[key]) for key in ("sigma", "residual", "error"))
            found[name] = Removed(sigma, r, e, values)
        return found

    def asymmetry(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """||J - J^T|| / ||J|| by level and half its interval, by network."""
        tables = {name: self.drawn.one(study="network", model=name) for name in NETWORKS}
        return {n: (np.array(m["asymmetry"]), 1.96 * np.array(m["asymmetry_se"])) for n, m in tables.items()}

    def least_asymmetry(self, name: str) -> Mean:
        """At the level where the lower end of its interval is least."""
        value, half = self.asymmetry()[name]
        k = int((value - half).argmin())
        return float(value[k]), (float(value[k] - half[k]), float(value[k] + half[k]))

    @cached_property
    def iterations(self) -> int:
        """Of churn at one level."""
        n: int = self.drawn.where(study="in_place").one(model="original", sigma=0.1, S_noise=1.0)["iterations"]
        return n

    @property
    def kept(self) -> int:
        """Pictures that are churned at one level."""
        return self.states("original", 0.1, 1.0).shape[1]

    def states(self, name: str, sigma: float, S_noise: float) -> Tensor:
        """(times, pictures, C, H, W) D of held-out pictures that are churned at one level."""
        m = self.drawn.where(study="in_place").one(model=name, sigma=sigma, S_noise=S_noise)
        return m.tensors["pictures"].float().unflatten(0, (len(m["std"]), -1))


def contrasts(networks: Networks) -> tuple[list[Mean], list[Mean]]:
    """Original network at sigma = 2 and 10: change of the contrast, and what S_noise = 1.007 adds to the last one."""
    states = [[networks.states("original", sigma, S) for S in FACTORS] for sigma in (2.0, 10.0)]
    changes = [change(contrast, plain[0], plain[-1]) for plain, _ in states]
    return changes, [mean_of(contrast(more[-1]) - contrast(plain[-1])) for plain, more in states]


def saturation(networks: Networks) -> tuple[Mean, Mean]:
    """Original network at sigma = .1: rise of the share of saturated pixels, and what S_noise = 1.007 adds to it."""
    plain, more = (networks.states("original", 0.1, S) for S in FACTORS)
    last = saturated(plain[-1])
    return mean_of(last - saturated(plain[0])), mean_of(saturated(more[-1]) - last)


def lost_detail(networks: Networks, name: str) -> Mean:
    """Change of the detail at sigma = .1 by a network."""
    states = networks.states(name, 0.1, 1.0)
    return change(detail, states[0], states[-1])


def read(results: str) -> Networks:
    """What stage `sweep` left below results/<profile>."""
    return Networks(load(ROOT / results / "edm/sweep"))
