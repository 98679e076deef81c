"""Finding 5 (Karras et al. 2022, App. D.1, Figure 13): errors of single steps, by the paper's protocol.

For each level and rho: x ~ p(x; sigma_{i-1}), one step to sigma_i by Euler's and by Heun's method, and many Euler
sub-steps for the truth. The denoiser is the exact one of a few pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab import ROOT
from lab.measure.local_error import frozen, local_errors
from lab.measure.metrics import interval
from lab.models import data
from lab.report.tables import Table, table
from lab.studies.rho_levels import BOTTOM, RHOS, before, errors, same_step
from zsnr.denoisers import Denoiser, Empirical
from zsnr.path import Path

SIGMAS = torch.from_numpy(np.geomspace(BOTTOM, 70, 15))
"""The levels at which errors are measured."""
PIXELS = 32 * 32
Errors = Mapping[int, Tensor]
"""By rho: RMSE of one step, (2, levels, samples): by method (Euler, Heun), level and sample."""


@dataclass(frozen=True)
class Protocol:
    """Pictures of garments on backdrops of a random level, noises, and the exact denoiser of the first pictures.

    Those pictures span few of all the dimensions. In coordinates along that span nothing changes but the cost; one more
    coordinate is the length of the noise outside of the span, where every picture is the same.

    Args:
        source: the folder of the data, below the root.
        samples: pictures that the denoiser knows, and noises; ten times as many give the covariance of the data.
        intervals: steps from 80 to 0.02.
        substeps: Euler steps of the truth.
    """

    source: str
    samples: int
    intervals: int
    substeps: int

    @cached_property
    def images(self) -> data.Images:
        return data.load(ROOT / self.source, "train")

    @cached_property
    def pictures(self) -> Tensor:
        """(10 samples, PIXELS), float64."""
        n = 10 * self.samples
        level = 2 * torch.rand(n, generator=torch.Generator().manual_seed(0)) - 1
        return self.images.compose(torch.arange(n), level).double().flatten(1)

    @cached_property
    def label(self) -> Tensor:
        """(10 samples,) classes of the pictures."""
        return self.images.label[: len(self.pictures)]

    @cached_property
    def noise(self) -> Tensor:
        """(samples, PIXELS)."""
        shape = self.samples, PIXELS
        return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    @cached_property
    def reduced(self) -> tuple[Tensor, Tensor]:
        """The pictures less their mean, and the noises, in samples + 1 coordinates."""
        known = self.pictures[: self.samples]
        mean = known.mean(0)
        span, _ = torch.linalg.qr((known - mean).T)

        def coordinates(x: Tensor) -> Tensor:
            inside = x @ span
            return torch.cat([inside, (x - inside @ span.T).norm(dim=1, keepdim=True)], 1)

        points = coordinates(known - mean)
        points[:, -1] = 0.0  # rounding: no picture leaves the span
        return points, coordinates(self.noise)

    def rmse(self, denoiser: Denoiser, y: Tensor, noise: Tensor, sigma_a: float, sigma_b: float, path: Path) -> Tensor:
        """(2, B) RMSE a pixel of Euler's and of Heun's step from y + sigma_a noise to sigma_b."""
        phi, psi = math.atan(sigma_a), math.atan(sigma_b)
        x = (y + sigma_a * noise) * math.cos(phi)
        norms = local_errors(denoiser, x, phi, psi, path=path, substeps=self.substeps)
        return torch.stack(norms) / math.sqrt(PIXELS)

    def sweep(self, rho: float, sigmas: Tensor, path: Path) -> Tensor:
        """(2, levels, samples) RMSE of the step that ends at each of the levels."""
        points, noise = self.reduced
        exact = Empirical(points)
        pairs = zip(before(sigmas, rho, self.intervals).tolist(), sigmas.tolist(), strict=True)
        return torch.stack([self.rmse(exact, points, noise, a, b, path) for a, b in pairs], 1)


def unevenness(mean: Tensor) -> float:
    """The largest of the mean errors over the smallest; 1 where they are level."""
    return (mean.max() / mean.min()).item()


def least_uneven(errors: Errors, means: Errors) -> float:
    """The unevenness of the most level of all curves; `means` are over samples already, (2, levels)."""
    curves = [e.mean(1) for both in errors.values() for e in both] + [e for both in means.values() for e in both]
    return min(map(unevenness, curves))


def over_samples(errors: Tensor) -> dict[str, Any]:
    """The mean of (levels, samples) or (samples,), and its interval over samples, as a check takes them."""
    samples = errors if errors.dim() == 1 else errors.mean(0)
    return {"value": errors.mean().item(), "interval": interval(samples.tolist())}


def most_level(found: Errors, method: int) -> int:
    """The rho whose mean errors are most level over `SIGMAS`."""
    return min(found, key=lambda rho: unevenness(found[rho][method].mean(1)))


def crossings(found: Errors) -> np.ndarray:
    """(2, rhos - 1): by method, the sigma at which the curves of neighbouring rhos cross, between dots."""

    def crossing(k: int, low: int, high: int) -> float:
        gap = (found[low][k].mean(1).log() - found[high][k].mean(1).log()).numpy()
        i = int(np.flatnonzero(np.diff(np.sign(gap)))[-1])
        return math.exp(np.interp(0, -gap[i : i + 2], SIGMAS.log().numpy()[i : i + 2]))

    return np.array([[crossing(k, *pair) for pair in pairwise(RHOS)] for k in (0, 1)])


def against_trend(found: Errors) -> tuple[int, int]:
    """From one rho to the next: mean errors that rise at sigma <= 1, and mean errors that fall at the highest level."""
    change = torch.stack([found[rho].mean(2) for rho in RHOS]).diff(dim=0)
    return int((change[:, :, SIGMAS <= 1] > 0).sum()), int((change[:, :, -1] < 0).sum())


def variation(errors: Tensor) -> tuple[float, float]:
    """std / mean over samples of (levels, samples): where the mean error is largest, and the largest of all levels."""
    share = errors.std(1) / errors.mean(1)
    return share[errors.mean(1).argmax()].item(), share.max().item()


def paper_table(uniform: Tensor, euler: Tensor, heun: Tensor, intervals: int) -> Table:
    """What the paper reports, beside the frozen law and what was measured: three sets of (levels, samples)."""
    low = torch.from_numpy(np.geomspace(BOTTOM, 0.5, 50))
    law = frozen(before(low, 1, intervals), low, 1)
    rows = [
        ("Euler, rho = 1, sigma <= 0.5", "0.56", law, uniform),
        ("Euler, rho = 2, all intervals", "about 0.03", errors(2, intervals, 1), euler),
        ("Heun, rho = 3, all intervals", "0.0030 to 0.0045", errors(3, intervals, 2), heun),
    ]

    def ends(e: Tensor) -> str:
        return f"{e.min():.4f} to {e.max():.4f}"

    columns = {"RMSE of one step": "", "paper": "", "frozen law": "", "measured": "", "mean": ".4f"}
    return table([(name, p, ends(e), ends(m.mean(1)), m.mean().item()) for name, p, e, m in rows], columns)


def crossing_table(found: Errors, intervals: int) -> Table:
    """Where two rhos have the same step, and where their measured curves cross."""
    cross, pairs = crossings(found), pairwise(RHOS)
    rows = [(f"{a} and {b}", same_step(a, b, intervals), *cross[:, i]) for i, (a, b) in enumerate(pairs)]
    return table(rows, {"rhos": "", "sigma of the same step": ".2f", "Euler": ".2f", "Heun": ".2f"})


def slope_table(slope: Mapping[int, list[float]], found: Errors) -> Table:
    """Slopes of the frozen law by rho and method, beside their limit, and how uneven the measured errors are."""
    columns = {"rho": ""}
    for k, name in ((2, "Euler"), (3, "Heun")):
        columns |= {f"{name}: slope": "", f"1 - {k} / rho": "", f"{name}, measured: largest / smallest": ".3g"}
    rows = [
        (rho, *(x for k in (0, 1) for x in _exponents(slope[rho][k], k, rho, found[rho][k].mean(1)))) for rho in RHOS
    ]
    return table(rows, columns)


def _exponents(slope: float, k: int, rho: int, mean: Tensor) -> tuple[str, str, float]:
    """One method's three cells; + 0.0, so that there is no minus zero."""
    return f"{round(slope, 3) + 0.0:.3f}", f"{1 - (k + 2) / rho:.3f}", unevenness(mean)
