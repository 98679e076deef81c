r"""Flow-matching networks (Stable Diffusion 3, FLUX, Wan, Qwen-Image) in the angle: each starts at zero SNR.

    x_t = (1 - t) x0 + t eps,   u = eps - x0        (Liu et al. 2022, rectified flow; Lipman et al. 2022)

The same state up to a scale: t = sin / (sin + cos), x_t = x_phi / (sin + cos), sigma = t / (1 - t) = tan(phi). So every
sampler runs on such a network, and t = 1 is the angle pi/2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from zsnr.denoisers import asked, placed
from zsnr.grids import check_grid
from zsnr.prediction import answer, check_finite, cos_sin


class FlowDenoiser:
    """A network that predicts u = eps - x0, as a denoiser: v = (cos - sin) x_t + u / (sin + cos).

    Args:
        network: called as network(x_t, time, **conditions), with time (B,); a diffusers transformer with its first two
            arguments by position, or anything that returns a tensor or has its answer in `.sample`. Runs in its own
            dtype and on its own device.
        scale: of time, at t = 1: 1000 for diffusers' networks but FLUX's, which takes 1.
        conditions: passed on to every call.
    """

    def __init__(self, network: nn.Module, scale: float = 1000.0, **conditions: Any) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"scale = {scale}: what the network takes for t = 1, such as 1000")
        self.network, self.scale, self.conditions = network, scale, conditions
        self.dtype, self.device = placed(network)

    @torch.no_grad()
    def __call__(self, x: Tensor, phi: float) -> Tensor:
        c, s = cos_sin(phi)
        state, time = x / (s + c), self.scale * s / (s + c)
        output = asked(self, state, time)
        u = answer(check_finite(output, f"at angle {phi:.6g} (time {time:.6g})"), x)
        return (c - s) * state + u / (s + c)


def shift(grid: Tensor, k: float) -> Tensor:
    """The grid with every sigma times k: tan(phi) -> k tan(phi); zero SNR and the image stay.

    In t it is k t / (1 + (k - 1) t), the `shift` of flow matching (Esser et al. 2024, Eq. 23; 3 for Stable Diffusion 3,
    exp(mu) for FLUX); for a model on a schedule see `Schedule.shifted`, whose k is the square of this one.
    """
    if not 0 < k < math.inf:
        raise ValueError(f"every sigma is multiplied by k, a finite number above 0; got {k}")
    angles = [math.atan2(k * s, c) for c, s in map(cos_sin, check_grid(grid))]
    return torch.tensor(angles, dtype=torch.float64)
