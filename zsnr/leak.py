r"""The law behind medium brightness: what sampling from pure noise does to one direction of Gaussian data.

Along a direction of variance L (n Var(mean) for the mean of n equal pixels), a model trained on a schedule that ends
at alpha_bar_T, with noise of variance nu along that direction (1 for iid noise, 1 + 0.01 n for the mean under offset
noise of strength 0.1), and sampled from noise of variance `start`, gives in the limit of many steps

    std / true std = sqrt(start / nu) / sqrt(alpha_bar_T L / nu + 1 - alpha_bar_T)
    mean           = true mean (1 - sqrt(alpha_bar_T L / (alpha_bar_T L + (1 - alpha_bar_T) nu)))

Both are 1 and exact at alpha_bar_T = 0 where start = nu. Derived for this project from the probability-flow ODE's exact
solution for Gaussian data (`zsnr.denoiser.Gaussian`); it is in neither paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zsnr.denoiser import Gaussian


def predicted(
    alpha_bar_T: float, variance: float, mean: float = 0.0, nu: float = 1.0, start: float = 1.0
) -> tuple[float, float]:
    """(mean, std / true std) of what is generated along a direction, in the limit of many steps.

    Args:
        variance, mean: of the data along the direction.
        nu: variance of the training noise there.
        start: variance of the noise that sampling starts from.
    """
    if not 0 <= alpha_bar_T < 1 or variance < 0 or nu <= 0 or start < 0:
        raise ValueError(f"not a leak: alpha_bar_T = {alpha_bar_T}, variance = {variance}, nu = {nu}, start = {start}")
    total = alpha_bar_T * variance + (1 - alpha_bar_T) * nu
    return mean * (1 - math.sqrt(alpha_bar_T * variance / total)), math.sqrt(start / total)


def sampled(
    sampler: Callable[..., Tensor], grid: Tensor, variance: float, mean: float = 0.0, **options: Any
) -> tuple[float, float]:
    """(mean, std / true std) that a deterministic sampler gives on a grid, exactly: it is affine in its noise."""
    denoiser = Gaussian(torch.tensor([mean], dtype=torch.float64), torch.tensor([variance], dtype=torch.float64))
    zero, one = sampler(denoiser, torch.tensor([[0.0], [1.0]], dtype=torch.float64), grid, **options).flatten().tolist()
    return zero, abs(one - zero) / math.sqrt(variance)
