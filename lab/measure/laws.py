"""What samples are compared with, beside `zsnr.brightness`: exact answers, and the number of evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zsnr.brightness import predicted
from zsnr.denoisers import Denoiser, Gaussian


def together(alpha_bar_T: float, mean: Tensor, covariance: Tensor, nu: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(mean, covariance) of what is generated from plain noise, all directions together.

    One direction's law (`zsnr.brightness`) holds along the axes that covariance C and noise share. In general, N = nu,

        W = N^-1/2 C N^-1/2,   A = N^1/2 (W (alpha_bar_T W + (1 - alpha_bar_T))^-1)^1/2 N^-1/2
        out = mean + A (x - sqrt(alpha_bar_T) mean)

    Args:
        mean, covariance: (n,), (n, n), of the data.
        nu: (n, n), the training noise's covariance; the identity where left out.
    """
    predicted(alpha_bar_T, 1.0)  # refuses an alpha_bar that is none
    root = unroot = torch.eye(len(mean), dtype=torch.float64)
    if nu is not None:
        values, basis = torch.linalg.eigh(nu.double())
        root, unroot = (basis * values.sqrt()) @ basis.T, (basis / values.sqrt()) @ basis.T
    values, basis = torch.linalg.eigh(unroot @ covariance.double() @ unroot)
    values = values.clamp(min=0)
    scale = (values / (alpha_bar_T * values + 1 - alpha_bar_T)).sqrt()
    A = root @ (basis * scale) @ basis.T @ unroot
    return mean - math.sqrt(alpha_bar_T) * A @ mean.double(), A @ A.T


def sampled(
    sampler: Callable[..., Tensor], grid: Tensor, variance: float, mean: float = 0.0, **options: Any
) -> tuple[float, float]:
    """(mean, std / true std) that a deterministic sampler gives on a grid, exactly: it is affine in its noise."""
    denoiser = Gaussian(torch.tensor([mean], dtype=torch.float64), torch.tensor([variance], dtype=torch.float64))
    zero, one = sampler(denoiser, torch.tensor([[0.0], [1.0]], dtype=torch.float64), grid, **options).flatten().tolist()
    return zero, abs(one - zero) / math.sqrt(variance)


def amplification(scale: float, correlation: float) -> float:
    """std(guided) / std(pos) for branches of equal std: sqrt(w^2 + (1 - w)^2 + 2 w (1 - w) c)."""
    return math.sqrt(scale**2 + (1 - scale) ** 2 + 2 * scale * (1 - scale) * correlation)


def interval_share(lo: float, hi: float, variance: Tensor) -> Tensor:
    """The share of guidance's shift that an interval (lo, hi] of sigma leaves, for Gaussian classes of one covariance.

    From zero SNR, the class's mean moves by (w - 1) share (m_pos - m_neg) along an axis of variance L:

        share = cos(atan(lo / sqrt(L))) - cos(atan(hi / sqrt(L))),   1 where all levels are guided

    Derived for this project, from the ODE's solution in the interval, which is that of a Gaussian at the moved mean.
    """
    std = variance.sqrt()
    return torch.atan(lo / std).cos() - torch.atan(hi / std).cos()


def autoguided(scale: float, k: float) -> float:
    """std / true std of what a Gaussian guided by its own copy of k times the variance gives: k^((1 - w) / 2).

    Derived for this project: v of a Gaussian is d/dphi of log std, times the residual, and guidance is linear in it.
    """
    return k ** ((1 - scale) / 2)


class Counted:
    """A denoiser that counts how often it is evaluated, in `calls`."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.calls = denoiser, 0

    def __call__(self, x: Tensor, phi: float) -> Tensor:
        self.calls += 1
        return self.denoiser(x, phi)
