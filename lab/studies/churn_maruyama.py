"""Finding 4 (EDM, Sec. 4): asking the denoiser before the noise (Euler-Maruyama) or after it (Algorithm 2).

Both add the same noise at every step: beta = sigma' / 2 sigma is gamma = sqrt(1 + h / sigma) - 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from scipy import stats
from torch import Generator, Tensor

from lab.measure.metrics import interval
from lab.models.mixture import Mixture
from lab.studies.churn import Step, Steps, algorithm2, follow, maruyama
from lab.studies.churn_pictures import Mean
from lab.studies.progress import bar
from zsnr import Gaussian, karras
from zsnr.finetune import loop
from zsnr.noise import randn


def matched(order: int) -> Steps:
    """Algorithm 2 with the noise of Euler-Maruyama at rate 1/2: gamma = sqrt(1 + h / sigma) - 1."""

    def steps(phi: float, psi: float) -> Step:
        return algorithm2(math.sqrt(2 - math.tan(psi) / math.tan(phi)) - 1 if psi else 0.0, order)

    return steps


SAME_NOISE: dict[str, Steps] = {
    "Euler-Maruyama": lambda phi, psi: maruyama(0.5 if psi else 0.0),
    "Algorithm 2, order 1": matched(1),
    "Algorithm 2, order 2": matched(2),
}
COUNTS = (8, 12, 16, 24, 32, 64, 128, 256)
SHORT = (8, 16, 32)
SPREAD = torch.logspace(-6, 6, 25, base=2, dtype=torch.float64)
"""The variances over which errors of the std are averaged."""


def order_in_N(errors: Sequence[float]) -> float:
    """Minus the slope of the error over N, in logarithms, at the three greatest of COUNTS."""
    return float(-np.polyfit(np.log(COUNTS[-3:]), np.log(errors[-3:]), 1)[0])


def rms(x: Tensor) -> float:
    """Root mean square."""
    return x.square().mean().sqrt().item()


@dataclass(frozen=True)
class Compared:
    """The std of the pictures over the data's by sampler, for each of COUNTS; `compare` makes it."""

    ratios: Mapping[str, list[Tensor]]

    @cached_property
    def errors(self) -> dict[str, np.ndarray]:
        """Rms error of the std over SPREAD."""
        return {name: np.array([rms(r - 1) for r in rows]) for name, rows in self.ratios.items()}

    @cached_property
    def apart(self) -> list[float]:
        """How far apart Euler-Maruyama and Algorithm 2 with first-order steps are."""
        first, second, _ = self.ratios.values()
        return [rms(a - b) for a, b in zip(first, second, strict=True)]

    def over(self, order: int) -> np.ndarray:
        """Euler-Maruyama's error over Algorithm 2's, at N = 8, 16, 32."""
        short = [COUNTS.index(N) for N in SHORT]
        return np.asarray((self.errors["Euler-Maruyama"] / self.errors[f"Algorithm 2, order {order}"])[short])

    def note(self) -> str:
        """At how many lengths asking after the noise is the less exact, between first-order steps."""
        first, second, _ = self.errors.values()
        better = [N for N, a, b in zip(COUNTS, first, second, strict=True) if a < b]
        return (
            "on Gaussian data asking after the noise is, between first-order steps, the less exact "
            f"at {len(better)} of {len(COUNTS)} lengths" + (f", from N = {min(better)}" if better else "")
        )


def compare() -> Compared:
    """The three samplers on Gaussian data."""
    return Compared({name: [follow(steps, karras(N), SPREAD) for N in COUNTS] for name, steps in SAME_NOISE.items()})


def two_modes(steps: Steps, N: int, repeats: int, draws: int = 1000) -> np.ndarray:
    """(repeats,) Wasserstein-1 distances to .7 N(-1, .2^2) + .3 N(1, .1^2)."""
    means = ((-1.0, 0.04), (1.0, 0.01))
    modes = Mixture([Gaussian(torch.tensor([m]), torch.tensor([v])) for m, v in means], [0.7, 0.3])
    axis = np.linspace(-3, 3, 20001)
    mass = 0.7 * stats.norm.cdf(axis, -1, 0.2) + 0.3 * stats.norm.cdf(axis, 1, 0.1)
    quantiles = np.interp((np.arange(draws) + 0.5) / draws, mass, axis)
    rng: Generator = loop.generator(4, 3)
    x = randn((repeats * draws, 1), rng)
    for phi, psi in pairwise(karras(N).tolist()):
        x = steps(phi, psi)(modes, x, phi, psi, rng)
    found: np.ndarray = np.abs(np.sort(x.view(repeats, draws).double().numpy(), 1) - quantiles).mean(1)
    return found


W1 = Mapping[tuple[str, int], np.ndarray]
"""Distances by sampler and N, one a repeat."""


def modes(repeats: int) -> W1:
    """`two_modes` by each sampler at each N."""
    asked = bar([(name, N) for name in SAME_NOISE for N in SHORT], "two modes")
    return {(name, N): two_modes(SAME_NOISE[name], N, repeats) for name, N in asked}


def gains(w1: W1, order: int) -> list[Mean]:
    """W1 of Euler-Maruyama less Algorithm 2's, at each N."""
    apart = [w1["Euler-Maruyama", N] - w1[f"Algorithm 2, order {order}", N] for N in SHORT]
    return [(float(x.mean()), interval(x.tolist())) for x in apart]
