"""What trained networks are asked, besides pictures: amounts of churn, churn at one level, intervals, Jacobians."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Generator, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lab.measure.known_truth import NONE, TABLE5, VE, Setting
from lab.measure.saturation import BEYOND
from lab.models.network import load
from zsnr import edm
from zsnr.denoisers import Denoiser
from zsnr.noise import randn
from zsnr.path import EDM
from zsnr.rows import follow
from zsnr.samplers import raised, rk2_step

TABLE5_RANGES = {
    "all levels": (0.0, 1000.0),
    "[.01, 1]": (0.01, 1.0),
    "[.05, 1]": (0.05, 1.0),
    "[.05, 50]": (0.05, 50.0),
}
"""[S_tmin, S_tmax]: all there is, and the three of EDM's Table 5."""
S_NOISE = (1.0, 1.007)
"""Without, and with more fresh noise than was removed: CIFAR-10's value in Table 5."""


def churns(amounts: Sequence[float], steps: int) -> list[Setting]:
    """No churn; the amounts at all levels; the largest and CIFAR-10 VE's in every range; all four of Table 5.

    Of Table 5's settings, which are for 256 steps, the gamma is kept: S_churn / N.
    """
    table5 = at_steps(steps)
    crossed = (table5[TABLE5.index(VE)].S_churn, max(amounts))
    ranges = [Setting(S, *levels, S_noise) for S in crossed for levels in TABLE5_RANGES.values() for S_noise in S_NOISE]
    return list(dict.fromkeys([NONE, *map(Setting, amounts), *ranges, *table5]))


def at_steps(N: int) -> list[Setting]:
    """Table 5's settings with the same gamma = S_churn / N at another number of steps."""
    return [setting._replace(S_churn=setting.S_churn * N / 256) for setting in TABLE5]


def model(path: str | Path) -> edm.Preconditioned:
    """The preconditioned network at `path`, written by the `edm` stage.

    Raises:
        ValueError: its card does not say how it is preconditioned.
    """
    network, card = load(path)
    if "precondition" not in card:
        raise ValueError(f"{path} is no preconditioned network: its card has {', '.join(card)}")
    parameters = {"sigma_data": card["sigma_data"]} if card["precondition"] == "edm" else {}
    return edm.Preconditioned(network, edm.column(card["precondition"], **parameters)).eval()


def jackknife(statistic: Callable[[Tensor], float], sample: Tensor, groups: int = 10) -> tuple[float, float]:
    """95 % interval of a statistic of (n, ...) samples, from leaving out each tenth of them in turn.

    Groups are runs of neighbours, since classes come in turn: every tenth sample would be one class.
    """
    value = statistic(sample)
    member = torch.arange(len(sample)) * groups // len(sample)
    without = [statistic(sample[member != g]) for g in range(groups)]
    error = math.sqrt((groups - 1) * np.var(without))
    half = float(stats.t.ppf(0.975, groups - 1)) * error
    return value - half, value + half


def contrast(x: Tensor) -> Tensor:
    """(N,) root mean square of each picture."""
    return x.double().square().flatten(1).mean(1).sqrt()


def detail(x: Tensor) -> Tensor:
    """(N,) root mean square of the differences of neighbouring pixels, across and down."""
    x = x.double()
    across, down = x.diff(dim=-1).square().flatten(1).mean(1), x.diff(dim=-2).square().flatten(1).mean(1)
    return (across + down).sqrt()


def saturated(x: Tensor) -> Tensor:
    """(N,) share of the pixels beyond the data's range, as `lab.measure.saturation` counts them."""
    return (x.abs() > BEYOND).double().flatten(1).mean(1)


MEASURES = (contrast, detail, saturated)
"""What is kept of D where pictures are churned at one level."""


@torch.no_grad()
def churn_in_place(
    denoiser: Denoiser,
    x: Tensor,
    sigma: float,
    iterations: int,
    S_noise: float,
    generators: list[Generator],
    every: int,
) -> list[Tensor]:
    """D of states that are churned at one level, gamma = sqrt 2 - 1, again and again (EDM, Figure 14).

    Each iteration raises sigma by sqrt 2 with S_noise times fresh noise and takes one Heun step back to it.

    Args:
        x: (B, ...) states x_phi at atan(sigma).
        every: D is kept at the start and after each so many iterations.
    """
    phi = math.atan(sigma)
    top = raised(phi, math.sqrt(2) - 1)
    scale, fresh = math.cos(top) / math.cos(phi), S_noise * math.cos(top) * sigma
    rows = rk2_step(top, phi, path=EDM)
    kept = []
    for i in range(iterations + 1):
        if i % every == 0:
            kept.append(math.cos(phi) * x - math.sin(phi) * denoiser(x, phi))
        x = scale * x + fresh * randn(x.shape, generators, x.dtype, x.device)
        x = follow(rows, denoiser, x)
    return kept


def asymmetry(D: Callable[[Tensor], Tensor], x: Tensor, probes: int, generator: Generator) -> tuple[float, float]:
    """||J - J^T|| / ||J|| of D's Jacobian (Frobenius) over (B, ...) points by random probes, and its standard error.

    0 for a conservative field, as D = x + sigma^2 grad log p is; sqrt 2 for a matrix of independent entries. With
    u ~ N(0, I), E|Ju - J^T u|^2 = ||J - J^T||^2 and E|Ju|^2 = ||J||^2; Ju by two vjps, J^T u by one. The error is over
    points: probes of one point share its Jacobian.
    """
    numerator, denominator = [], []
    for _ in range(probes):
        u = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        with sdpa_kernel(SDPBackend.MATH):  # the one attention that can be differentiated twice
            forward = torch.autograd.functional.jvp(D, x, u)[1]
        backward = torch.func.vjp(D, x)[1](u)[0]
        numerator.append((forward - backward).square().flatten(1).sum(1))
        denominator.append(forward.square().flatten(1).sum(1))
    top, bottom = torch.stack(numerator).double().mean(0), torch.stack(denominator).double().mean(0)
    ratio = (top.mean() / bottom.mean()).sqrt().item()
    # the delta method, for a square root of a ratio of means
    influence = (top / top.mean() - bottom / bottom.mean()) / 2
    return ratio, ratio * (influence.std() / math.sqrt(len(top))).item()
