"""azula's samplers, on its schedules in equal steps of their time; none reaches zero SNR."""

from __future__ import annotations

import importlib
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks.solver import Network, Run, Solver


def grids() -> dict[str, Any]:
    """Its schedules, with the ends that their arguments allow."""
    noise = importlib.import_module("azula.noise")
    found = {"VP": noise.VPSchedule()}
    for low, high in product((0.001, 0.003, 0.01, 0.03, 0.1), (10.0, 25.0, 50.0, 80.0, 150.0, 250.0, 500.0, 4096.0)):
        found[f"VE {low:g} to {high:g}"] = noise.VESchedule(low, high)
    for alpha, sigma in product((1e-2, 1e-3, 2**-12), (1e-3, 1e-2)):
        for name in ("VP", "Cosine", "Rectified", "Decay"):
            found[f"{name} {alpha:.2g}, {sigma:g}"] = getattr(noise, f"{name}Schedule")(alpha, sigma)
    return found


def solvers() -> list[Solver]:
    """All but DDPM and PC, which draw noise."""
    denoise, sample = importlib.import_module("azula.denoise"), importlib.import_module("azula.sample")

    class Adapter(denoise.Denoiser):  # type: ignore[name-defined]
        def __init__(self, schedule: Any, network: Network) -> None:
            super().__init__()
            self.schedule, self.network = schedule, network

        def forward(self, x_t: Tensor, t: Tensor) -> Any:
            if self.network.output is not None:
                return denoise.DiracPosterior(mean=self.network.output)
            alpha, sigma = map(float, self.schedule(t))
            return denoise.DiracPosterior(mean=self.network.x0(x_t, alpha, sigma))

    def prepare(name: str, network: Network, noise: Tensor, setting: dict[str, Any], N: int) -> Run:
        kwargs = {k: v for k, v in setting.items() if k != "schedule"}
        loop = getattr(sample, f"{name}Sampler")(
            Adapter(setting["schedule"], network), steps=N, silent=True, dtype=noise.dtype, **kwargs
        )
        alpha, sigma = map(float, setting["schedule"](torch.ones((), dtype=noise.dtype)))
        return partial(loop, noise * (alpha**2 + sigma**2) ** 0.5)  # its `init`, for data of unit variance

    def solver(name: str, options: list[dict[str, Any]] | None = None) -> Solver:
        some = {
            ", ".join([*(f"{k} {v:g}" for k, v in o.items()), words]): {"schedule": schedule, **o}
            for o in options or [{}]
            for words, schedule in grids().items()
        }
        return Solver("azula", name, some, partial(prepare, name))

    def orders(*n: int) -> list[dict[str, Any]]:
        return [{"order": k} for k in n]

    return [
        solver("DDIM"),
        solver("Euler"),
        solver("Heun"),
        solver("Ito", [{"eta": 0.0}]),
        solver("zAB", orders(3, 4)),
        solver("vAB", orders(2, 3, 4)),
        solver("zEAB", orders(3, 4, 5)),
        solver("xEAB", orders(3, 4, 5)),
        solver("REAB", orders(2, 3)),
    ]
