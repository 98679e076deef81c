"""The problem all are scored on: Gaussian data of zero mean and variances from 1/64 to 64, with the exact denoiser.

The schedule is Stable Diffusion's, rescaled to zero terminal SNR. Each variance is a dimension of one tensor, as samplers
act element by element; they are linear here, so that starting from one prior std gives the generated std, exactly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

import zsnr

LAMBDA = torch.logspace(-6, 6, 61, base=2, dtype=torch.float64)
SCHEDULE = zsnr.rescale_zero_terminal_snr(zsnr.stable_diffusion())
STAND_INS = (2**24 - 1) ** 0.5, 4518.76
"""Sigmas that diffusers and ComfyUI put for the infinite one."""

velocity = zsnr.Gaussian(torch.zeros(len(LAMBDA)), LAMBDA)


def prior(std: float = 1.0) -> Tensor:
    """One std of the noise that a sampler starts from."""
    return torch.full((1, len(LAMBDA)), std, dtype=torch.float64)


def denoised(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """E[x0 | x] for x = alpha x0 + sigma eps."""
    n, phi = math.hypot(alpha, sigma), math.atan2(sigma, alpha)
    x = x.double() / n
    return (alpha * x - sigma * velocity(x, phi)) / n


def ratio(generated: Tensor) -> Tensor:
    """(61,) generated std / true std; infinite where it is not a number."""
    return torch.nan_to_num(generated.flatten().double() / LAMBDA.sqrt(), nan=math.inf)
