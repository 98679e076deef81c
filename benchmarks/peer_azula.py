"""azula's samplers, on its schedules; none of them reaches zero SNR, so alpha_min and sigma_max stay finite."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks.method import Method, Run, one, two
from benchmarks.problem import denoised, prior


def schedules(noise: Any) -> Iterator[tuple[str, Any]]:
    """All that it offers, with some choices of their parameters."""
    for alpha, sigma in product((1e-2, 1e-3, 2**-12), (1e-2, 1e-3)):
        tail = f"{alpha:.2g}, {sigma:g}"
        for name in ("Rectified", "Cosine", "VP"):
            yield f"{name} {tail}", getattr(noise, f"{name}Schedule")(alpha, sigma)
        for g in (1e-2, 0.1, 0.3):
            yield f"Decay {g} {tail}", noise.DecaySchedule(alpha, sigma, g)
    for low, high in product((1e-2, 1e-3), (80.0, 500.0, 2.0**12)):
        yield f"VE {low:g} to {high:.0f}", noise.VESchedule(low, high)


def methods() -> list[Method]:
    """DDIM, Euler and Heun.

    Raises:
        ImportError: azula, or the einops that it needs, is not installed.
    """
    denoise, noise, sample = (importlib.import_module(f"azula.{name}") for name in ("denoise", "noise", "sample"))

    class StandIn(denoise.Denoiser):  # type: ignore[name-defined, misc]
        def __init__(self, schedule: Any, mean: Tensor | None) -> None:
            super().__init__()
            self.schedule, self.mean = schedule, mean

        def forward(self, x_t: Tensor, t: Tensor) -> Any:
            if self.mean is not None:
                return denoise.DiracPosterior(mean=self.mean)
            alpha, sigma = self.schedule(t)
            return denoise.DiracPosterior(mean=denoised(x_t, float(alpha), float(sigma)))

    def timed(sampler: Any) -> Callable[[Tensor, Tensor, int], Run]:
        def prepare(x: Tensor, output: Tensor, N: int) -> Run:
            loop = sampler(StandIn(noise.VPSchedule(), output), steps=N, silent=True)
            return lambda: loop(x)

        return prepare

    def scored(sampler: Any) -> Callable[[int], Iterator[tuple[str, Run]]]:
        def runs(N: int) -> Iterator[tuple[str, Run]]:
            for name, schedule in schedules(noise):
                loop = sampler(StandIn(schedule, None), steps=N, silent=True, dtype=torch.float64)
                alpha, sigma = schedule(torch.ones((), dtype=torch.float64))
                start = prior(float(alpha**2 + sigma**2) ** 0.5)  # its `init`, for data of unit variance
                yield name, lambda loop=loop, start=start: loop(start)

        return runs

    table = {"DDIM": (sample.DDIMSampler, one), "Euler": (sample.EulerSampler, one), "Heun": (sample.HeunSampler, two)}
    return [Method("azula", k, cost, timed(f), scored(f)) for k, (f, cost) in table.items()]
