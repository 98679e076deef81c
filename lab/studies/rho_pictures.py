"""Finding 5 (Karras et al. 2022, App. D.1, Figure 13c): errors of finished pictures, by rho.

The data are a Gaussian with the covariance of the pictures, and a mixture of ten Gaussians, one a class. Both have
exact denoisers that are smooth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from lab.measure.local_error import local_errors, step
from lab.models.mixture import Mixture
from lab.report.tables import Table, table
from lab.studies.progress import bar
from lab.studies.rho_levels import BOTTOM, TOP, before
from lab.studies.rho_sweep import Protocol
from zsnr.denoisers import Denoiser, Gaussian
from zsnr.grids import karras
from zsnr.path import EDM, VE, Path
from zsnr.samplers import heun, rk45

SIGMA_MIN = 0.002
"""Where the paper's grid of N = 18 ends."""
MANY = (1, 2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 30)
INVERSION = (1, 2, 3, 4, 5, 7, 10, 20, 30)


@dataclass(frozen=True)
class Smooth:
    """The Gaussian and the mixture, in coordinates along the eigenvectors of the data's covariance.

    Args:
        protocol: whose pictures and noises these are.
    """

    protocol: Protocol

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of the covariance, and its eigenvectors in columns."""
        variance, basis = torch.linalg.eigh(torch.cov(self.protocol.pictures.T))
        return variance.clamp(min=0), basis

    @property
    def variance(self) -> Tensor:
        return self.spectrum[0]

    @cached_property
    def gaussian(self) -> Gaussian:
        return Gaussian(torch.zeros_like(self.variance), self.variance)

    @cached_property
    def mixture(self) -> Mixture:
        """Of ten Gaussians with diagonal covariances, one a class."""
        pictures, label = self.protocol.pictures, self.protocol.label
        x = (pictures - pictures.mean(0)) @ self.spectrum[1]
        parts = [Gaussian(x[label == k].mean(0), x[label == k].var(0)) for k in range(10)]
        return Mixture(parts, [float((label == k).sum()) for k in range(10)])

    @cached_property
    def noise(self) -> Tensor:
        """16 noises, turned with the pictures: so nothing depends on the signs of the eigenvectors."""
        return self.protocol.noise[:16] @ self.spectrum[1]

    @cached_property
    def truth(self) -> Tensor:
        """The mixture's pictures from these noises: RK45 with tolerances of 1e-8."""
        ends = torch.tensor([math.atan(TOP), math.atan(SIGMA_MIN), 0.0], dtype=torch.float64)
        return rk45(self.mixture, math.sin(math.atan(TOP)) * self.noise, ends, rtol=1e-8, atol=1e-8)

    def typical(self, phi: float) -> Tensor:
        """One state with the right square in every direction: the Gaussian's ODE is linear, so its errors are RMS."""
        return (math.cos(phi) ** 2 * self.variance + math.sin(phi) ** 2).sqrt()[None]

    def arrives(self, sigma: float) -> float:
        """RMS share of a white error made at sigma that the Gaussian's ODE leaves: sqrt(mean l / (l + sigma^2))."""
        return (self.variance / (self.variance + sigma**2)).mean().sqrt().item()

    def single(self, rho: float, sigmas: Tensor, path: Path) -> Tensor:
        """(2, levels) RMSE of Euler's and Heun's step to each level, on the Gaussian."""
        found = []
        for a, b in zip(before(sigmas, rho, self.protocol.intervals).tolist(), sigmas.tolist(), strict=True):
            phi, psi = math.atan(a), math.atan(b)
            substeps = self.protocol.substeps
            norms = local_errors(self.gaussian, self.typical(phi), phi, psi, path=path, substeps=substeps)
            found.append(torch.cat(norms) / math.sqrt(len(self.variance)))
        return torch.stack(found, 1)

    def on_gaussian(self, rho: float, N: int, path: Path = EDM, sigma_min: float = SIGMA_MIN) -> float:
        """RMSE of Heun's pictures against the exact solution from the same noise, over all data."""
        grid = karras(N, sigma_min, TOP, rho)
        phi = grid[0].item()
        x = self.typical(phi)
        return (heun(self.gaussian, x, grid, path=path) - self.gaussian.solve(x, phi)).square().mean().sqrt().item()

    def on_mixture(self, rho: float, N: int) -> Tensor:
        """(16,) RMSE of Heun's pictures along sigma(t) = t, by sample."""
        start = math.sin(math.atan(TOP)) * self.noise
        y = heun(self.mixture, start, karras(N, SIGMA_MIN, TOP, rho), path=EDM)
        return (y - self.truth).square().mean(1).sqrt()

    def trips(self, intervals: int) -> dict[str, tuple[Denoiser, Tensor, int, Path]]:
        """Inversions: by name a denoiser, its states at BOTTOM, the number of levels and the path."""
        low = math.atan(BOTTOM)
        gaussian = self.gaussian, self.typical(low)
        mixture = self.mixture, self.truth * math.cos(low) + math.sin(low) * self.noise
        return {
            "Gaussian, t, N = 18": (*gaussian, 18, EDM),
            f"Gaussian, t, N = {intervals}": (*gaussian, intervals, EDM),
            f"Gaussian, sqrt t, N = {intervals}": (*gaussian, intervals, VE),
            f"mixture, t, N = {intervals}": (*mixture, intervals, EDM),
            f"mixture, sqrt t, N = {intervals}": (*mixture, intervals, VE),
        }

    def round_trips(self, intervals: int) -> dict[str, dict[int, Tensor]]:
        """By inversion and rho, (B,) RMSE of the round trip."""
        trips = list(self.trips(intervals).items())
        return {name: {rho: round_trip(*trip, rho) for rho in INVERSION} for name, trip in bar(trips, "inversion")}

    def descents(self, intervals: int) -> dict[str, dict[int, float]]:
        """By inversion of the Gaussian and rho, the error of the way down alone."""
        trips = {name: trip for name, trip in self.trips(intervals).items() if trip[0] is self.gaussian}
        return {name: {rho: self.descent(rho, N, path) for rho in INVERSION} for name, (_, _, N, path) in trips.items()}

    def descent(self, rho: float, N: int, path: Path) -> float:
        """|e_N|: RMSE at BOTTOM of the way down alone, from exact latents of the Gaussian."""
        angles = karras(N, BOTTOM, TOP, rho)[:-1].tolist()
        y = self.typical(angles[0])
        for here, there in pairwise(angles):
            y = step(self.gaussian, y, here, there, path=path)
        low = math.atan(BOTTOM)
        return (y - self.typical(low)).square().mean().sqrt().item() / math.cos(low)


def round_trip(denoiser: Denoiser, x: Tensor, N: int, path: Path, rho: float) -> Tensor:
    """(B,) RMSE at BOTTOM of Heun's steps over N levels up to TOP, and down again."""
    angles = karras(N, BOTTOM, TOP, rho)[:-1].tolist()
    y = x
    for here, there in [*pairwise(angles[::-1]), *pairwise(angles)]:
        y = step(denoiser, y, here, there, path=path)
    return (y - x).square().mean(1).sqrt() / math.cos(angles[-1])


def by_variance(N: int, variances: Sequence[float] = (0.25, 1.0, 4.0, 16.0)) -> dict[float, int]:
    """The rho of the smallest round trip along sigma(t) = t, by the variance of Gaussian data in one dimension."""
    low, best = math.atan(BOTTOM), {}
    for variance in variances:
        spread = torch.tensor([variance], dtype=torch.float64)
        gaussian = Gaussian(torch.zeros_like(spread), spread)
        x = (math.cos(low) ** 2 * spread + math.sin(low) ** 2).sqrt()[None]
        trip = {rho: round_trip(gaussian, x, N, EDM, rho).item() for rho in INVERSION}
        best[variance] = min(trip, key=lambda rho: trip[rho])
    return best


def inversion_table(trip: Mapping[str, Mapping[int, float]], down: Mapping[str, Mapping[int, float]]) -> Table:
    """Errors of the round trip and of the way down, by rho."""
    rows = {f"round trip: {name}": e for name, e in trip.items()} | {f"way down: {name}": e for name, e in down.items()}
    rhos = (2, 3, 5, 7, 10, 20)
    columns = {"RMSE": ""} | {f"rho = {rho}": ".2e" for rho in rhos} | {"best rho": ""}
    return table([(name, *(e[rho] for rho in rhos), min(e, key=lambda r: e[r])) for name, e in rows.items()], columns)


def inversion_note(
    trip: Mapping[str, Mapping[int, float]], best_down: list[int], by_variance: Mapping[float, int]
) -> str:
    """What the check of rho = 3 says beside its number."""
    worse = [e[3] / min(e.values()) for e in trip.values()]
    spectrum = ", ".join(f"{rho} at {variance:g}" for variance, rho in by_variance.items())
    return (
        "rho = 3 minimises the sum of single errors, a bound that ignores how they are contracted on the way; the "
        f"round trip is better by a factor of {min(worse):.1f} to {max(worse):.1f} at its own best rho, and the way "
        f"down alone is best at {best_down}. The data decide: in one dimension the best rho is, by the variance, "
        f"{spectrum}. Exact denoisers: a trained network's inversion was not measured"
    )


def rms(errors: np.ndarray) -> np.ndarray:
    """Over samples, of (rhos, samples)."""
    return np.asarray(np.sqrt(np.mean(errors**2, axis=1)))


def median(errors: np.ndarray) -> np.ndarray:
    """The same with a median."""
    return np.asarray(np.median(errors, axis=1))


def over_samples(by_rho: Mapping[int, Tensor], reduce: Callable[[np.ndarray], np.ndarray] = rms) -> dict[int, float]:
    """One error for each rho."""
    return {rho: float(reduce(np.asarray(e)[None])[0]) for rho, e in by_rho.items()}


def best_rho(
    by_rho: Mapping[int, Tensor | float], reduce: Callable[[np.ndarray], np.ndarray] = rms
) -> tuple[int, list[int]]:
    """The rho of the smallest error over samples, and its 95 % bootstrap interval over them."""
    rhos, errors = np.array(list(by_rho)), np.stack([np.atleast_1d(e) for e in by_rho.values()])
    draws = np.random.default_rng(0).integers(0, errors.shape[1], (1000, errors.shape[1]))
    picked = rhos[[reduce(errors[:, draw]).argmin() for draw in draws]]
    return int(rhos[reduce(errors).argmin()]), np.percentile(picked, (2.5, 97.5), method="nearest").tolist()


def at(x: float, xs: list[float], ys: list[float]) -> float:
    """y at x, by interpolation of falling values in both logarithms."""
    return math.exp(np.interp(math.log(x), np.log(xs[::-1]), np.log(ys[::-1])))
