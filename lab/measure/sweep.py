"""What trained networks are asked, besides pictures: intervals of a Frechet distance, churn at one level, Jacobians."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Generator, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lab.models.network import load
from zsnr import edm
from zsnr.denoisers import Denoiser
from zsnr.noise import randn
from zsnr.path import EDM
from zsnr.rows import follow
from zsnr.samplers import raised, rk2_step


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
