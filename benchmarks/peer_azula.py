"""azula's samplers, on its schedules; none reaches zero SNR, so alpha_min and sigma_max are small and large."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks.method import Method, Run, denoised, prior


def grids(N: int) -> Iterator[tuple[str, tuple[Any, int]]]:
    """Its schedules, in equal steps of their time."""
    noise = importlib.import_module("azula.noise")
    for alpha, sigma in product((1e-3, 1e-2, 2**-12), (1e-3, 1e-2)):
        for name in ("VP", "Cosine", "Rectified"):
            yield f"{name} {alpha:.2g}, {sigma:g}", (getattr(noise, f"{name}Schedule")(alpha, sigma), N)
        for gamma in (0.01, 0.1, 0.3):
            yield f"Decay {gamma} {alpha:.2g}, {sigma:g}", (noise.DecaySchedule(alpha, sigma, gamma), N)
    for low, high in product((1e-3, 1e-2), (80.0, 500.0, 4096.0)):
        yield f"VE {low:g} to {high:.0f}", (noise.VESchedule(low, high), N)


def methods() -> list[Method]:
    """DDIM, Euler and Heun, which takes two evaluations in the last step as well."""
    denoise, sample = importlib.import_module("azula.denoise"), importlib.import_module("azula.sample")

    class Network(denoise.Denoiser):  # type: ignore[name-defined]
        def __init__(self, schedule: Any, output: Tensor | None) -> None:
            super().__init__()
            self.schedule, self.output = schedule, output

        def forward(self, x_t: Tensor, t: Tensor) -> Any:
            if self.output is not None:
                return denoise.DiracPosterior(mean=self.output)
            alpha, sigma = map(float, self.schedule(t))
            return denoise.DiracPosterior(mean=denoised(x_t, alpha, sigma))

    def prepare(sampler: Any, grid: tuple[Any, int], noise: Tensor | None, output: Tensor | None) -> Run:
        dtype = torch.float64 if noise is None else None
        loop = sampler(Network(grid[0], output), steps=grid[1], silent=True, dtype=dtype)
        alpha, sigma = map(float, grid[0](torch.ones(())))  # its `init`, for data of unit variance
        return partial(loop, prior((alpha**2 + sigma**2) ** 0.5) if noise is None else noise)

    samplers = {"DDIM": sample.DDIMSampler, "Euler": sample.EulerSampler, "Heun": sample.HeunSampler}
    return [Method("azula", k, grids, partial(prepare, s), per_step=1 + (k == "Heun")) for k, s in samplers.items()]
