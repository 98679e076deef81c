"""Finding 4, trained networks: distances by S_churn, noise that is removed, asymmetry, churn at one level.

All of it was measured by stage `sweep` of EDM's pipeline on three small networks; here it is read and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lab import ROOT
from lab.measure.known_truth import NONE, TABLE5, VE, VP, Setting
from lab.measure.store import Results, Row, load
from lab.measure.sweep import S_NOISE, TABLE5_RANGES, at_steps, jackknife
from lab.report.tables import Table, table
from lab.studies.churn_pictures import Mean, change, mean_of
from lab.studies.churn_removed import Removed
from zsnr.samplers import GAMMA_MAX

NETWORKS = {
    "original": "trained the original way (VP)",
    "edm": "trained EDM's way",
    "short": "the same, stopped early",
}


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
    def cells(self) -> dict[tuple[str, Setting], Distance]:
        """Frechet distances by network and churn."""
        found = {}
        for m in self.drawn.where(study="churn"):
            low, high = m["frechet_interval"]
            cell = Distance(m["frechet"], (high - low) / 2, m.tensors["features"].double())
            found[m["model"], Setting(*(m[name] for name in Setting._fields))] = cell
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
        """The values of S_churn above 0 that were tried at all levels, with S_noise = 1."""
        return sorted({setting.S_churn for _, setting in self.cells if setting[1:] == NONE[1:]} - {0.0})

    @cached_property
    def table5(self) -> dict[Setting, Setting]:
        """The settings of Table 5 with the same gamma at this N."""
        return dict(zip(TABLE5, at_steps(self.N), strict=True))

    @property
    def strong(self) -> float:
        """The S_churn of CIFAR-10 VE, at which every range was tried."""
        return self.table5[VE].S_churn

    def gamma(self, S: float) -> float:
        """min(S_churn / N, sqrt 2 - 1)."""
        return min(S / self.N, GAMMA_MAX)

    def gain(self, name: str, setting: Setting) -> Mean:
        """Of a setting over no churn."""
        return self.less(self.cells[name, NONE], self.cells[name, setting])

    def vp_gain(self, name: str) -> Mean:
        """Of CIFAR-10 VP's setting of Table 5 over no churn."""
        return self.gain(name, self.table5[VP])

    def gains(self, name: str) -> list[Mean]:
        """Of each of Table 5's settings over no churn."""
        return [self.gain(name, setting) for setting in self.table5.values()]

    def harm(self, name: str, S: float) -> Mean:
        """Of churn at all levels with S_noise = 1."""
        return self.less(self.cells[name, Setting(S)], self.cells[name, NONE])

    def most_gain(self, name: str) -> Mean:
        """Of the largest S_churn, at all levels with S_noise = 1, over no churn."""
        return self.gain(name, Setting(self.amounts[-1]))

    def costs(self, S: float) -> list[Mean]:
        """Of S_noise = 1, of all levels, of both, on the original network against both corrections of CIFAR-10 VE."""
        best = Setting(S, *VE[1:])
        kinds = (best._replace(S_noise=1.0), Setting(S, S_noise=VE.S_noise), Setting(S))
        return [self.less(self.cells["original", kind], self.cells["original", best]) for kind in kinds]

    def around_the_least(self) -> tuple[Mean, Mean]:
        """Original network, all levels: the largest S_churn, and no churn, less the least between them.

        The least is chosen anew in each replicate of the jackknife, so that the choice widens the interval.
        """
        between = [self.cells["original", Setting(S)] for S in self.amounts[:-1]]
        last, none = (
            self.jackknife(lambda a, *others: a - min(others), self.cells["original", Setting(S)], *between)
            for S in (self.amounts[-1], 0.0)
        )
        return last, none

    def optimum_checks(self) -> Iterator[tuple[str, str, Mean]]:
        """(claim, check, difference) of distances on both sides of the least; none where there is no curve."""
        if len(self.amounts) > 1:
            last, none = self.around_the_least()
            yield "E-40", "original, all levels: distance at the largest S_churn less the least before it", last
            yield "E-40", "original, all levels: distance at S_churn 0 less the least between", none

    def table(self) -> Table:
        """Distances with intervals: rows are network, range and S_noise; columns S_churn."""
        columns = sorted({setting.S_churn for _, setting in self.cells})
        kinds = [(label, S_noise) for S_noise in sorted({s.S_noise for _, s in self.cells}) for label in TABLE5_RANGES]
        rows = []
        for name in NETWORKS:
            for label, S_noise in kinds:
                settings = [Setting(S, *TABLE5_RANGES[label], S_noise) if S else NONE for S in columns]
                cells = [self.cells.get((name, setting)) for setting in settings]
                if any(cells[1:]):
                    rows.append((name, label, S_noise, *(c and f"{c.value:.2f} ± {c.half:.2f}" for c in cells)))
        head = [f"S_churn = {S:g} (γ = {self.gamma(S):.3f})" for S in columns]
        return table(rows, ["network", "noise replaced at", "S_noise", *head])

    def optimum(self) -> Mean:
        """Original network, all levels: the gamma of the least distance, and the range of all not surely worse."""
        curve = {self.gamma(S): self.cells["original", Setting(S)] for S in (0.0, *self.amounts)}
        least = min(curve, key=lambda g: curve[g].value)
        near = [g for g, cell in curve.items() if self.less(cell, curve[least])[1][0] <= 0]
        return least, (min(near), max(near))

    def removed(self) -> dict[str, Removed]:
        """By network, on held-out pictures."""
        found = {}
        for name in NETWORKS:
            m = self.drawn.one(study="network", model=name)
            sigma, r, e = (np.array(m[key]) for key in ("sigma", "residual", "error"))
            found[name] = Removed(sigma, r, e, m["values"])
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
        n: int = self.in_place("original", 0.1, 1.0)["iterations"]
        return n

    @property
    def kept(self) -> int:
        """Pictures that are churned at one level."""
        return self.in_place("original", 0.1, 1.0).tensors["contrast"].shape[1]

    def in_place(self, name: str, sigma: float, S_noise: float) -> Row:
        """What churn at one level did to D of held-out pictures.

        Its tensors contrast, detail and saturated are (times, pictures); pictures is (times, 2, C, H, W).
        """
        return self.drawn.where(study="in_place").one(model=name, sigma=sigma, S_noise=S_noise)


def contrasts(networks: Networks) -> tuple[list[Mean], list[Mean]]:
    """Original network at sigma = 2 and 10: change of the contrast, and what S_noise = 1.007 adds to the last one."""
    found = [[networks.in_place("original", sigma, S).tensors["contrast"] for S in S_NOISE] for sigma in (2.0, 10.0)]
    changes = [change(plain[0], plain[-1]) for plain, _ in found]
    return changes, [mean_of(more[-1] - plain[-1]) for plain, more in found]


def saturation(networks: Networks) -> tuple[Mean, Mean]:
    """Original network at sigma = .1: rise of the share of saturated pixels, and what S_noise = 1.007 adds to it."""
    plain, more = (networks.in_place("original", 0.1, S).tensors["saturated"] for S in S_NOISE)
    return mean_of(plain[-1] - plain[0]), mean_of(more[-1] - plain[-1])


def lost_detail(networks: Networks, name: str) -> Mean:
    """Change of the detail at sigma = .1 by a network."""
    details = networks.in_place(name, 0.1, 1.0).tensors["detail"]
    return change(details[0], details[-1])


def read(results: str) -> Networks:
    """What stage `sweep` left below results/<profile>."""
    return Networks(load(ROOT / results / "edm/sweep"))
