"""Finding 4: how much of what a network removes is noise, and whether its field is conservative."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lab.measure import sweep
from lab.measure.metrics import interval
from lab.models.mixture import Mixture
from lab.studies.churn import calibration
from lab.studies.churn_pictures import Mean
from zsnr import Gaussian
from zsnr.finetune import loop
from zsnr.noise import generators, randn


@dataclass(frozen=True)
class Removed:
    """How much noise a network removes, by level.

    Args:
        sigma: the levels.
        r, e: of `lab.studies.churn.calibration`.
        values: pixels that they are means of.
    """

    sigma: np.ndarray
    r: np.ndarray
    e: np.ndarray
    values: int

    @property
    def calibrated(self) -> np.ndarray:
        """The residual variance of a posterior mean with this error, 1 - e / sigma^2."""
        return 1 - self.e / self.sigma**2

    @property
    def c(self) -> np.ndarray:
        """The share of what is removed that is noise."""
        return np.asarray(calibration(self.r, self.e, self.sigma))

    @property
    def half(self) -> np.ndarray:
        """Half the 95 % interval of c over noises.

        Their own mean square enters c as (1 - it) / 2r, the product of error and residual by its size.
        """
        error = np.sqrt(2 / self.values) / 2 + np.sqrt(self.e / self.sigma**2 * self.r / self.values)
        return np.asarray(1.96 * error / self.r)

    @property
    def too_much(self) -> Mean:
        """1/c - 1, mean over the levels within [.05, 1], and its interval."""
        inside = (self.sigma >= 0.05) & (self.sigma <= 1)
        value = (1 / self.c[inside]).mean() - 1
        error = (self.half[inside] / self.c[inside] ** 2).mean()
        return float(value), (float(value - error), float(value + error))


def exact_asymmetry(pictures: Tensor, sigmas: Sequence[float]) -> list[float]:
    """||J - J^T|| / ||J|| of an exact denoiser, of a mixture of ten smooth Gaussians, by level."""
    y = pictures[:8]
    centres = torch.stack([pictures[k::10].mean(0) for k in range(10)])
    smooth = Mixture([Gaussian(m, torch.full(m.shape, 0.1)) for m in centres])
    found = []
    for s in sigmas:
        phi = math.atan(s)

        def D(x: Tensor, phi: float = phi) -> Tensor:
            return math.cos(phi) ** 2 * x - math.sin(phi) * smooth(math.cos(phi) * x, phi)

        x = y.double() + s * randn(y.shape, generators(range(8)), torch.float64)
        found.append(sweep.asymmetry(D, x, 1, loop.generator(4, 5))[0])
    return found


def average(removed: Mapping[str, Removed]) -> tuple[Mean, str]:
    """What is removed too much within [.05, 1], mean and interval over networks; and each network's."""
    each = {name: network.too_much[0] for name, network in removed.items()}
    values = list(each.values())
    return (float(np.mean(values)), interval(values)), ", ".join(f"{name} {v:+.2%}" for name, v in each.items())


def restoring(excess: Mean) -> Mean:
    """S_noise = c^(-1/2) = sqrt(1 + excess), and its interval."""
    value, low, high = (math.sqrt(max(1 + x, 0)) for x in (excess[0], *excess[1]))
    return value, (low, high)
