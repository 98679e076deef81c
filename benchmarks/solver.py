"""What the harness asks of a solver, and the network it hands to it, which counts its calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import zsnr

Run = Callable[[], Tensor]
SCHEDULE = zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion())
STAND_INS = (4096.0, 4518.76)  # what diffusers and ComfyUI take for the infinite sigma of zero SNR


class Network:
    """One network, asked in the terms of each library; every answer is one evaluation.

    Args:
        velocity: (x_phi, phi) -> v.
        output: for timing, what adapters answer at once: what is left is the solver's own time.
    """

    def __init__(self, velocity: Callable[[Tensor, float], Tensor], output: Tensor | None = None) -> None:
        self.velocity, self.output, self.calls = velocity, output, 0

    def v(self, x: Tensor, phi: float) -> Tensor:
        """V of x = cos(phi) x0 + sin(phi) eps."""
        self.calls += 1
        return self.velocity(x, phi)

    def x0(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[x0 | x] for x = alpha x0 + sigma eps."""
        n = math.hypot(alpha, sigma)
        return (alpha * x - sigma * self.v(x / n, math.atan2(sigma, alpha)) * n) / n**2

    def flow(self, x: Tensor, t: float) -> Tensor:
        """E[eps - x0 | x] for x = (1 - t) x0 + t eps."""
        return (x - self.x0(x, 1 - t, t)) / t


@dataclass(frozen=True)
class Solver:
    """One deterministic solver of one library.

    Args:
        settings: words -> setting, for all that the library offers; the first is its default, and is timed.
        prepare: (network, standard normal noise, setting, steps) -> a run. What it makes beforehand is not timed.
    """

    library: str
    name: str
    settings: dict[str, Any]
    prepare: Callable[[Network, Tensor, Any, int], Run]

    def steps(self, budget: int) -> int:
        """The most steps that spend at most so many evaluations; 0 where one step is too much.

        From the counts of 8 and 16 steps: beyond its start, every solver spends the same on each step.
        """
        first, second = (self.count(N) for N in (8, 16))
        each = (second - first) // 8
        return max((budget - first) // each + 8, 0)

    def count(self, N: int) -> int:
        """Evaluations of N steps, counted."""
        network = Network(lambda x, phi: torch.zeros_like(x))
        self.prepare(network, torch.ones(1, 1, dtype=torch.float64), next(iter(self.settings.values())), N)()
        return network.calls
