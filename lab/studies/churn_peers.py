"""Finding 4: churn in diffusers' Euler schedulers, asked for their coefficients as the library's steps are.

Both add the noise after the network saw the state without it; Algorithm 2 adds it before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers import EDMEulerScheduler, EulerDiscreteScheduler
from torch import Tensor

from lab.studies.churn import Step, Steps, follow
from zsnr import karras

Answer = Callable[[Tensor, float, Tensor], Tensor]
"""(x, sigma, variance) -> the exact answer of a network, in the scheduler's convention."""


def eps(x: Tensor, sigma: float, variance: Tensor) -> Tensor:
    """The noise, of std 1."""
    return sigma / (sigma**2 + variance) * x


def raw(x: Tensor, sigma: float, variance: Tensor, d: float = 0.5) -> Tensor:
    """F with c_skip x + c_out F = D, sigma_data = d."""
    return (variance / (variance + sigma**2) - d * d / (sigma**2 + d * d)) * x / (sigma * d / math.hypot(sigma, d))


def saturated(scheduler: Any, answer: Answer, grid: Tensor) -> Steps:
    """The scheduler's steps on the grid, with so much churn that gamma is at its clamp."""
    N = len(grid) - 1
    scheduler.set_timesteps(N)
    scheduler.sigmas = torch.tensor([*grid.tan().tolist()[:-1], 0.0])
    position = iter(range(N))

    def steps(phi: float, psi: float) -> Step:
        def step(exact: Any, x: Tensor, phi: float, psi: float, rng: Any) -> Tensor:
            i = next(position)
            scheduler._step_index, scheduler.is_scale_input_called = i, True
            state = x / math.cos(phi)
            output = answer(state, math.tan(phi), exact.variance).float()
            moved = scheduler.step(output, scheduler.timesteps[i], state.float(), s_churn=1e9, generator=rng)
            reached: Tensor = math.cos(psi) * moved.prev_sample
            return reached

        return step

    return steps


def whole_grid(stds: Tensor, N: int = 256) -> dict[str, Tensor]:
    """Std of the pictures over the data's, gamma = sqrt 2 - 1 at every step."""
    grid = karras(N)
    peers: dict[str, tuple[Any, Answer]] = {
        "diffusers, Euler, eps": (EulerDiscreteScheduler(), eps),
        "diffusers, EDMEuler": (EDMEulerScheduler(sigma_data=0.5), raw),
    }
    return {
        name: follow(saturated(scheduler, answer, grid), grid, stds**2, noise=torch.float32)
        for name, (scheduler, answer) in peers.items()
    }


def note(grid: dict[str, Tensor]) -> str:
    """Both at data std 1, the third of `churn.STDS`."""
    euler, edm_euler = (grid[f"diffusers, {name}"][2] for name in ("Euler, eps", "EDMEuler"))
    return f"diffusers at data std 1: EulerDiscrete {euler:.3f}, EDMEuler {edm_euler:.3f}"
