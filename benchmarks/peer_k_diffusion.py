"""k-diffusion's samplers, on any sigmas; the first must be finite."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product
from types import ModuleType
from typing import Any

from torch import Tensor

import zsnr
from benchmarks.method import SCHEDULE, STAND_INS, Method, Run, denoised, prior


@cache
def load() -> tuple[Any, Any]:
    """k_diffusion.sampling and .external, past the package's __init__, which imports torchvision, CLIP and more."""
    if (spec := importlib.util.find_spec("k_diffusion")) is None:
        raise ImportError("k-diffusion is not installed")
    package, vision, transforms = map(ModuleType, ("k_diffusion", "torchvision", "torchvision.transforms"))
    package.__path__ = list(spec.submodule_search_locations or [])
    transforms.functional = None  # type: ignore[attr-defined]
    stubs = {m.__name__: m for m in (vision, transforms) if m.__name__ not in sys.modules}
    sys.modules.update(stubs, k_diffusion=package)
    try:
        return importlib.import_module("k_diffusion.sampling"), importlib.import_module("k_diffusion.external")
    finally:
        for name in stubs:  # others look whether torchvision is there
            del sys.modules[name]


def trailing(N: int, first: float) -> Tensor:
    """The schedule's trailing steps, with a finite first sigma."""
    sigmas = zsnr.grid(SCHEDULE, N).tan()
    sigmas[0] = first
    return sigmas


def grids(N: int) -> Iterator[tuple[str, Tensor]]:
    """Rho steps, (poly)exponential, VP, and the schedule's with a stand-in."""
    sampling, external = load()
    for low, high in product((0.002, 0.01, 0.03), (80.0, 500.0, *STAND_INS)):
        ends = f"{low:g} to {high:.0f}"
        for rho in (7.0, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0):
            yield f"rho {rho:g}, {ends}", sampling.get_sigmas_karras(N, low, high, rho)
        for power in (0.7, 1.0, 1.5):
            yield f"polyexponential {power}, {ends}", sampling.get_sigmas_polyexponential(N, low, high, power)
    yield "VP", sampling.get_sigmas_vp(N)
    for first in STAND_INS:
        yield f"trailing, {first:.0f}", trailing(N, first)
        table = SCHEDULE.sigma.clone()
        table[-1] = first
        yield f"get_sigmas, {first:.0f}", external.DiscreteSchedule(table, quantize=False).get_sigmas(N)


def prepare(sampler: Callable[..., Tensor], sigmas: Tensor, noise: Tensor | None, output: Tensor | None) -> Run:
    """See `Method`."""
    if noise is not None:
        return partial(sampler, lambda x, sigma: output, noise, sigmas, disable=True)
    start = prior(float(sigmas[0]))
    return partial(sampler, lambda x, sigma: denoised(x, 1.0, float(sigma[0])), start, sigmas.double(), disable=True)


def methods() -> list[Method]:
    """Its Algorithm 2 with and without churn, and DPM-Solver++ 2M."""
    k, heun = load()[0], {"per_step": 2, "saved": 1}

    def method(name: str, sampler: Callable[..., Tensor], **options: Any) -> Method:
        return Method("k-diffusion", name, grids, partial(prepare, sampler), **options)

    return [
        method("Euler", k.sample_euler),
        method("DPM-Solver++ 2M", k.sample_dpmpp_2m),
        method("Heun", k.sample_heun, **heun),
        method("Euler, churn", partial(k.sample_euler, s_churn=20.0), draws=True, scored=False),
        method("Heun, churn", partial(k.sample_heun, s_churn=20.0), draws=True, scored=False, **heun),
    ]
