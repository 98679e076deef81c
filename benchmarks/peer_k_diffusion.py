"""k-diffusion's samplers, on the sigmas that it makes; the first must be finite."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

from torch import Tensor

import zsnr
from benchmarks.solver import SCHEDULE, STAND_INS, Network, Run, Solver
from benchmarks.stubs import load

ENDS = list(product((0.002, 0.01, 0.03, 0.1), (80.0, 10.0, 25.0, 150.0, 250.0, 500.0, STAND_INS[0])))


def trailing(N: int, first: float) -> Tensor:
    """The schedule's trailing steps, with a finite first sigma."""
    sigmas = zsnr.grid(SCHEDULE, N).tan()
    sigmas[0] = first
    return sigmas


def grids() -> dict[str, Callable[[int], Tensor]]:
    """Rho steps, (poly)exponential, VP, and the schedule's with a stand-in."""
    sampling, external = load("k_diffusion", "sampling", "external")
    table = SCHEDULE.sigma.clone()
    table[-1] = STAND_INS[0]
    found: dict[str, Callable[[int], Tensor]] = {}
    for low, high in ENDS:
        ends = f"{low:g} to {high:.0f}"
        for rho in (7.0, 3.0, 5.0, 10.0):
            found[f"rho {rho:g}, {ends}"] = partial(sampling.get_sigmas_karras, sigma_min=low, sigma_max=high, rho=rho)
        for rho in (0.7, 1.0, 1.5, 2.0):
            found[f"polyexponential {rho:g}, {ends}"] = partial(
                sampling.get_sigmas_polyexponential, sigma_min=low, sigma_max=high, rho=rho
            )
    found["VP"] = sampling.get_sigmas_vp
    found |= {f"trailing, {first:.0f}": partial(trailing, first=first) for first in STAND_INS}
    found["get_sigmas"] = external.DiscreteSchedule(table, quantize=False).get_sigmas
    return found


def silent(sigma: Any, sigma_next: Any) -> float:
    """For samplers that can add noise: with eta 0 its weight is 0, but they ask for it."""
    return 0.0


def solvers() -> list[Solver]:
    """All but dpm_adaptive, which cannot be told how many evaluations to take, and the ancestral ones that repeat one.

    With eta = 0, euler_ancestral is euler, dpm_2_ancestral dpm_2.
    """
    (k,) = load("k_diffusion", "sampling")

    def model(network: Network, x: Tensor, sigma: Tensor) -> Tensor:
        return network.x0(x, 1.0, float(sigma[0])) if network.output is None else network.output

    def solver(name: str, *options: dict[str, Any]) -> Solver:
        def prepare(network: Network, noise: Tensor, setting: Any, N: int) -> Run:
            grid, chosen = setting
            sigmas = grid(N).to(noise.dtype)
            call = partial(getattr(k, f"sample_{name}"), partial(model, network), disable=True, **chosen)
            return partial(call, noise * sigmas[0], sigmas)

        some = {
            ", ".join([*(f"{k} {v}" for k, v in o.items() if k in ("order", "solver_type")), words]): (grid, o)
            for o in options or ({},)
            for words, grid in grids().items()
        }
        return Solver("k-diffusion", name, some, prepare)

    def fast(network: Network, noise: Tensor, setting: tuple[float, float], N: int) -> Run:
        low, high = setting
        call = partial(k.sample_dpm_fast, partial(model, network), noise * high, low, high, N, disable=True)
        return call

    still = {"eta": 0.0, "noise_sampler": silent}
    return [
        solver("euler"),
        solver("heun"),
        solver("dpm_2"),
        solver("lms", *({"order": n} for n in (4, 3))),
        Solver("k-diffusion", "dpm_fast", {f"{low:g} to {high:.0f}": (low, high) for low, high in ENDS}, fast),
        solver("dpmpp_2s_ancestral", still),
        solver("dpmpp_sde", still),
        solver("dpmpp_2m"),
        solver("dpmpp_2m_sde", *({"solver_type": s} | still for s in ("midpoint", "heun"))),
        solver("dpmpp_3m_sde", still),
    ]
