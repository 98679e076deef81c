"""Finding 5 (Karras et al. 2022, Figure 13c): a trained network's pictures by rho, judged by their Fréchet distance to
the data, and by their distance to what the same network makes of the same noises in many steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lab import ROOT
from lab.measure import sweep
from lab.measure.draw import draw, preconditioned
from lab.measure.store import load
from lab.models import data
from lab.studies.progress import bar
from lab.studies.rho_levels import TOP
from lab.studies.rho_pictures import SIGMA_MIN
from zsnr.grids import karras
from zsnr.path import EDM
from zsnr.samplers import heun

ALIKE = 1.02
"""The paper's random variation of a FID is about 2 %."""


@dataclass(frozen=True)
class Trained:
    """What Heun's method along sigma(t) = t draws with EDM's network.

    Args:
        distance: by rho, the Fréchet distance to the data.
        bounds: its 95 % interval over pictures.
        steps: N of the grid.
        real: the distance of as many real pictures.
    """

    distance: Mapping[int, float]
    bounds: Mapping[int, Sequence[float]]
    steps: int
    real: float

    @property
    def best(self) -> int:
        """The rho of the smallest distance."""
        return min(self.distance, key=lambda rho: self.distance[rho])

    @property
    def alike(self) -> list[int]:
        """The rhos within the paper's random variation of the best."""
        return [rho for rho, d in self.distance.items() if d <= ALIKE * self.distance[self.best]]

    @property
    def middle(self) -> dict[int, float]:
        """At rho from 5 to 10, the distance over the smallest of all."""
        return {rho: d / self.distance[self.best] for rho, d in self.distance.items() if 5 <= rho <= 10}

    @property
    def note(self) -> str:
        """What the check of these says beside its numbers."""
        return (
            "Frechet distance in this project's classifier, not FID, from the same noises at every rho; 1.02 is the "
            f"paper's random variation of a FID (E-31). The smallest is at {self.best}; within it are "
            f"rho = {', '.join(map(str, self.alike))}: "
            + ("the distance does not rise again above 10" if max(self.alike) > 10 else "none above 10")
        )

    def gap(self) -> tuple[float, tuple[float, float]]:
        """The smallest distance at rho <= 2 less the largest at rho = 5 to 10, and its interval."""
        low = min((rho for rho in self.distance if rho <= 2), key=lambda rho: self.distance[rho])
        worst = max(self.middle, key=lambda rho: self.distance[rho])
        gap = self.distance[low] - self.distance[worst]
        half = math.hypot(*((self.bounds[rho][1] - self.bounds[rho][0]) / 2 for rho in (low, worst)))
        return gap, (gap - half, gap + half)


def read(results: str) -> Trained:
    """What was measured, from the results below the root."""
    drawn = load(ROOT / results / "edm/sweep")
    rows = sorted(drawn.where(study="rho"), key=lambda row: row["rho"])
    return Trained(
        {row["rho"]: row["frechet"] for row in rows},
        {row["rho"]: row["frechet_interval"] for row in rows},
        (rows[0]["evaluations"] + 1) // 2,
        drawn.one(study="real", n=2 * drawn.one(study="converged")["n"])[
            "frechet"
        ],  # the sets by rho are twice as large
    )


def errors(results: str, rhos: Sequence[int], steps: int, n: int, converged: int) -> dict[int, Tensor]:
    """By rho, (n,) RMSE a pixel of N-step pictures to the network's own solution from the same noise, in float32.

    Args:
        steps: N of Heun's method along sigma(t) = t.
        converged: as many steps, at rho = 7, are taken for the solution.
    """
    network = sweep.model(ROOT / results / "edm/networks/edm.safetensors")
    config: Any = network.network.config
    shape = (config["channels"], data.SIZE, data.SIZE)

    def pictures(N: int, rho: float) -> Tensor:
        grid = karras(N, SIGMA_MIN, TOP, rho)
        return draw(preconditioned(network), heun, grid, range(n), shape, path=EDM)

    truth = pictures(converged, 7)
    return {rho: (pictures(steps, rho) - truth).square().mean((1, 2, 3)).sqrt() for rho in bar(rhos, "rho")}
