"""k-diffusion's samplers, on any sigmas. They need a finite first one: 4096 or 4518.76 stand for infinity."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import zsnr
from benchmarks.method import Method, Run, heun, one
from benchmarks.problem import SCHEDULE, STAND_INS, denoised, prior


def load() -> tuple[Any, Any]:
    """k_diffusion.sampling and .external, without its __init__, which imports torchvision, CLIP and more.

    Raises:
        ImportError: not installed.
    """
    if (spec := importlib.util.find_spec("k_diffusion")) is None:
        raise ImportError("k-diffusion is not installed")
    package = ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations or [])
    sys.modules["k_diffusion"] = package
    stubs = {name: ModuleType(name) for name in ("torchvision", "torchvision.transforms")}
    stubs["torchvision.transforms"].functional = None  # type: ignore[attr-defined]
    stubs = {name: stub for name, stub in stubs.items() if name not in sys.modules}
    sys.modules.update(stubs)
    try:
        modules = [importlib.import_module(f"k_diffusion.{name}") for name in ("sampling", "external")]
    finally:
        for name in stubs:  # others ask whether torchvision is there
            del sys.modules[name]
    return modules[0], modules[1]


def stand_in_sigmas(N: int, first: float) -> Tensor:
    """Trailing steps of the zero-SNR schedule, with a finite first sigma."""
    sigmas = zsnr.grid(SCHEDULE, N).tan()
    sigmas[0] = first
    return sigmas


def grids(sampling: Any, external: Any, N: int) -> Iterator[tuple[str, Tensor]]:
    """All that it offers: rho steps, exponential, polynomial, VP, and the schedule's own with a stand-in."""
    ends = list(product((0.002, 0.01, 0.03), (80.0, 500.0, *STAND_INS)))
    for low, high in ends:
        for rho in (1, 2, 3, 4, 5, 7, 10):
            yield f"rho {rho}, {low:g} to {high:.0f}", sampling.get_sigmas_karras(N, low, high, float(rho))
        yield f"exponential, {low:g} to {high:.0f}", sampling.get_sigmas_exponential(N, low, high)
        for rho in (0.7, 1.5):
            sigmas = sampling.get_sigmas_polyexponential(N, low, high, rho)
            yield f"polyexponential {rho}, {low:g} to {high:.0f}", sigmas
    yield "VP", sampling.get_sigmas_vp(N)
    for first in STAND_INS:
        yield f"trailing, {first:.0f}", stand_in_sigmas(N, first)
        table = SCHEDULE.sigma.clone()
        table[-1] = first
        yield f"get_sigmas, {first:.0f}", external.DiscreteSchedule(table, quantize=False).get_sigmas(N)


def methods() -> list[Method]:
    """Its Algorithm 2 with and without churn, and DPM-Solver++ 2M."""
    sampling, external = load()

    def exact(x: Tensor, sigma: Tensor) -> Tensor:
        return denoised(x, 1.0, float(sigma[0]))

    def timed(sampler: Callable[..., Tensor]) -> Callable[[Tensor, Tensor, int], Run]:
        def prepare(noise: Tensor, output: Tensor, N: int) -> Run:
            sigmas = sampling.get_sigmas_karras(N, 0.002, 80.0)
            return partial(sampler, lambda x, sigma: output, noise, sigmas, disable=True)

        return prepare

    def scored(sampler: Callable[..., Tensor]) -> Callable[[int], Iterator[tuple[str, Run]]]:
        def runs(N: int) -> Iterator[tuple[str, Run]]:
            for name, sigmas in grids(sampling, external, N):
                if math.isfinite(float(sigmas.sum())):
                    sigmas = sigmas.to(torch.float64)
                    yield name, partial(sampler, exact, prior(float(sigmas[0])), sigmas, disable=True)

        return runs

    table = {
        "Euler": (sampling.sample_euler, one),
        "DPM-Solver++ 2M": (sampling.sample_dpmpp_2m, one),
        "Heun": (sampling.sample_heun, heun),
    }
    churned = {k: (partial(table[k][0], s_churn=20.0), table[k][1]) for k in ("Euler", "Heun")}
    return [
        *(Method("k-diffusion", k, cost, timed(f), scored(f)) for k, (f, cost) in table.items()),
        *(Method("k-diffusion", f"{k}, churn", cost, timed(f), draws=True) for k, (f, cost) in churned.items()),
    ]
