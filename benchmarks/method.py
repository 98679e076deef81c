"""One sampler of one library, and the problem it is scored on.

Data are Gaussian, of zero mean and variances from 1/64 to 64, each a dimension of one tensor; the denoiser is exact.
Samplers are linear here and act element by element: started from one std of their noise, they give the generated std.
The schedule is Stable Diffusion's, rescaled to zero terminal SNR.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import zsnr

Run = Callable[[], Tensor]
LAMBDA = torch.logspace(-6, 6, 61, base=2, dtype=torch.float64)
SCHEDULE = zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion())
STAND_INS = (4096.0, 4518.76)  # what diffusers and ComfyUI take for the infinite sigma of zero SNR
velocity = zsnr.Gaussian(torch.zeros(61), LAMBDA)


@dataclass(frozen=True)
class Method:
    """One sampler of one library.

    Args:
        grids: N -> (name, grid of N steps) for all that the library offers; the first is used for timing.
        prepare: (grid, noise, output) -> a run with a network that returns `output`, or, where noise and output are
            None, with the exact denoiser from one std of the library's own noise. Only the run is timed.
        per_step, saved: N steps take per_step * N - saved evaluations.
        draws: adds fresh noise in each step. Then there is no error to be had.
        timed: whether its overhead is measured.
        scored: whether its error is.
    """

    library: str
    name: str
    grids: Callable[[int], Iterator[tuple[str, Any]]]
    prepare: Callable[[Any, Tensor | None, Tensor | None], Run]
    per_step: int = 1
    saved: int = 0
    draws: bool = False
    timed: bool = True
    scored: bool = True

    @property
    def kind(self) -> str:
        """What it may be compared with in speed."""
        steps = "multistep" if "2M" in self.name else f"{self.per_step} evaluations a step"
        return steps + ", noise" * self.draws


def prior(std: float = 1.0) -> Tensor:
    """One std of the noise that a sampler starts from."""
    return torch.full((1, 61), std, dtype=torch.float64)


def denoised(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """E[x0 | x] for x = alpha x0 + sigma eps."""
    n = math.hypot(alpha, sigma)
    return (alpha * x.double() - sigma * velocity(x.double() / n, math.atan2(sigma, alpha)) * n) / n**2


def ratio(run: Run) -> Tensor:
    """(61,) generated std / true std; infinite where a grid breaks the library's loop."""
    try:
        return torch.nan_to_num(run().flatten().double() / LAMBDA.sqrt(), nan=math.inf, posinf=math.inf)
    except (IndexError, ValueError):
        return torch.full((61,), math.inf)
