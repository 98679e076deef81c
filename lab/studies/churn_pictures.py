"""Finding 4 (Karras et al. 2022, Sec. 4 and Figure 14): what churn at one level does to pictures.

Contrast is the root mean square of D, detail that of differences of neighbouring pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lab import ROOT
from lab.measure import sweep
from lab.measure.metrics import interval
from lab.measure.sweep import S_NOISE, contrast, detail
from lab.models import data
from lab.report.tables import Table, table
from lab.studies.progress import bar
from zsnr.denoisers import Denoiser, Empirical
from zsnr.finetune import loop
from zsnr.noise import generators, randn

Mean = tuple[float, tuple[float, float]]
"""A mean and its 95 % interval."""
Measure = Callable[[Tensor], Tensor]
LEVELS = (0.1, 0.5, 2.0, 10.0)


def mean_of(values: Tensor) -> Mean:
    """Mean and interval of independent values."""
    return values.mean().item(), interval(values.tolist())


def of(*means: Mean) -> dict[str, Any]:
    """Value and interval of a check of one mean; lists of them for several."""
    return {"value": means[0][0], "interval": means[0][1]} if len(means) == 1 else of_all(means)


def of_all(means: Sequence[Mean]) -> dict[str, Any]:
    """The same as lists, however many there are."""
    return {"value": [v for v, _ in means], "interval": [i for _, i in means]}


def change(a: Tensor, b: Tensor) -> Mean:
    """Mean of the last states' measure b over the mean of the first's a, less 1, with an interval over pictures."""
    return (b / a.mean()).mean().item() - 1, interval(((b - a) / a.mean()).tolist())


def departure(measure: Measure, first: Tensor, later: Sequence[Tensor], everywhere: Tensor) -> Tensor:
    """(N,) mean of the later states' measure against its mean over `everywhere`, less 1, a value a chain.

    How a chain's start differs from that mean explains some of its later difference (all, where the chain stays on
    its picture): that part is taken off, by a regression.
    """
    truth = measure(everywhere).mean()
    a, b = measure(first) - truth, torch.stack([measure(x) for x in later]).mean(0) - truth
    share = ((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum()
    return (b - share * a) / truth


def residual(x: Tensor, v: Tensor, phi: float) -> Tensor:
    """(N,) |x - D|^2 / d, in units of x = y + sigma eps."""
    return (math.tan(phi) * (math.sin(phi) * x + math.cos(phi) * v)).double().square().flatten(1).mean(1)


class Watched:
    """A denoiser that notes the residual of each chain, at the states that `churn_in_place` keeps."""

    def __init__(self, denoiser: Denoiser, level: float) -> None:
        self.denoiser, self.level, self.before = denoiser, level, level
        self.noted: list[Tensor] = []

    def __call__(self, x: Tensor, phi: float) -> Tensor:
        v = self.denoiser(x, phi)
        # a step back ends with a call at the level; one more there is for a state to keep
        if phi == self.level and self.before == self.level:
            self.noted.append(residual(x, v, phi))
        self.before = phi
        return v


@dataclass(frozen=True)
class Chains:
    """What many iterations of churn did to chains of pictures: one value a chain.

    Args:
        contrast, detail: `departure` of the later half of the states.
        noise: std of x - D over that of fresh noise; S_noise should multiply it and nothing else.
    """

    contrast: Tensor
    detail: Tensor
    noise: Tensor

    @property
    def means(self) -> tuple[Mean, Mean, Mean]:
        """Of the three."""
        return mean_of(self.contrast), mean_of(self.detail), mean_of(self.noise)


def read(source: str, points: int) -> Tensor:
    """(points, C, H, W) training pictures."""
    return data.load(ROOT / source, "train").draw(points, loop.generator(4, 0))[0]


def by_ideal_denoiser(pictures: Tensor, chains: int, iterations: int) -> dict[tuple[float, float], Chains]:
    """Chains by level and S_noise; they share their noises."""
    settings = [(sigma, S_noise) for sigma in LEVELS for S_noise in S_NOISE]
    ideal = Empirical(pictures)
    asked = bar(settings, "churn by the ideal denoiser")
    return {(s, S_noise): ideal_chains(ideal, pictures, s, S_noise, chains, iterations) for s, S_noise in asked}


def mixing(found: Mapping[tuple[float, float], Chains]) -> Mean:
    """Change of the contrast at the two levels where the ideal denoiser mixes pictures, their mean."""
    return mean_of((found[2.0, 1.0].contrast + found[10.0, 1.0].contrast) / 2)


def chains_table(found: Mapping[tuple[float, float], Chains]) -> Table:
    """Means and intervals by level and S_noise."""
    rows = []
    for (sigma, S_noise), chains in found.items():
        *changes, noise = chains.means
        cells = [f"{percent(v)} [{percent(low)}, {percent(high)}]" for v, (low, high) in changes]
        rows.append((f"{sigma:g}", S_noise, *cells, noise))
    columns = ["σ", "S_noise", "change of contrast", "change of detail", "std of x - D / that of fresh noise"]
    return table(rows, columns)


def percent(v: float) -> str:
    """Without the sign of a rounding error."""
    return f"{v if abs(v) >= 5e-5 else 0.0:+.2%}".replace("+0.00%", "0.00%")


def ideal_chains(ideal: Denoiser, pictures: Tensor, sigma: float, S_noise: float, chains: int, n: int) -> Chains:
    """n iterations of churn at sigma by the ideal denoiser of (N, C, H, W) pictures, each chain starting on one."""
    phi, every = math.atan(sigma), pictures.double().repeat(4, 1, 1, 1)
    noisy = math.cos(phi) * every + math.sin(phi) * randn(every.shape, loop.generator(4, 6), torch.float64)
    v = ideal(noisy, phi)
    everywhere, fresh = math.cos(phi) * noisy - math.sin(phi) * v, residual(noisy, v, phi).mean()
    rng = generators(range(chains))
    y = pictures[torch.arange(chains) % len(pictures)].double()
    x = math.cos(phi) * y + math.sin(phi) * randn(y.shape, rng, torch.float64)
    watched = Watched(ideal, phi)
    states = sweep.churn_in_place(watched, x, sigma, n, S_noise, rng, max(1, n // 20))
    if len(watched.noted) != len(states):
        raise RuntimeError(
            f"{len(watched.noted)} residuals for {len(states)} states: churn_in_place calls otherwise now"
        )
    half = len(states) // 2
    contrasts, details = (departure(f, states[0], states[half:], everywhere) for f in (contrast, detail))
    return Chains(contrasts, details, (torch.stack(watched.noted[half:]).mean(0) / fresh).sqrt())
