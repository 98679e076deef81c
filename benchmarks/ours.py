"""zsnr's samplers, and the lean loop: the least that any sampler has to compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Generator, Tensor

import zsnr
from benchmarks.method import Method, Run, heun, one
from benchmarks.problem import SCHEDULE, prior, velocity
from zsnr.path import FLOW
from zsnr.sampler import rk2
from zsnr.solvers import dpmpp_2m
from zsnr.stochastic import churn, euler_maruyama

DEFAULT, TRAILING = "Heun", "Heun, trailing"


def lean(noise: Tensor, output: Tensor, N: int, draw: bool = False) -> Run:
    """x = a[i] * x + b[i] * v with Python floats, two products and a sum; with draw, + c[i] * fresh noise."""
    network, (a, b, c) = stand_in(output), ([0.9] * N, [0.1] * N, [0.1] * N)

    def run() -> Tensor:
        x = noise
        for i in range(N):
            v = network(x, a[i])
            x = a[i] * x + b[i] * v
            if draw:
                x = x + c[i] * torch.randn_like(x)
        return x

    return run


def stand_in(output: Tensor) -> Callable[[Tensor, float], Tensor]:
    """A network that costs nothing."""
    return lambda x, phi: output


def _timed(sampler: Callable[..., Tensor]) -> Callable[[Tensor, Tensor, int], Run]:
    # checks and coefficients are part of the call, so they are timed
    return lambda noise, output, N: partial(sampler, stand_in(output), noise, zsnr.power(N))


def _scored(sampler: Callable[..., Tensor], trailing: bool) -> Callable[[int], Iterator[tuple[str, Run]]]:
    def scored(N: int) -> Iterator[tuple[str, Run]]:
        grid = zsnr.grid(SCHEDULE, N) if trailing else zsnr.power(N)
        yield "trailing" if trailing else "power", partial(sampler, velocity, prior(), grid)

    return scored


def methods() -> list[Method]:
    """The yardstick, and ours; `DEFAULT` is the one that peers are compared with."""
    generator = Generator().manual_seed(0)
    exact = {
        "DDIM": (zsnr.ddim, one),
        "Euler": (zsnr.euler, one),
        "DPM-Solver++ 2M": (dpmpp_2m, one),
        DEFAULT: (zsnr.heun, heun),
        "Heun, flow path": (partial(zsnr.heun, path=FLOW), heun),
        "RK2, midpoint": (partial(rk2, alpha=0.5), heun),
    }
    stochastic = {
        "Heun, churn": (partial(churn, S_churn=20.0, generators=generator), heun),
        "Euler-Maruyama": (partial(euler_maruyama, generators=generator), one),
    }
    trailing = {"DDIM, trailing": (zsnr.ddim, one), TRAILING: (zsnr.heun, heun)}
    return [
        Method("yardstick", "lean loop", one, lean),
        Method("yardstick", "lean loop + noise", one, partial(lean, draw=True), draws=True),
        *(Method("zsnr", k, cost, _timed(f), _scored(f, False)) for k, (f, cost) in exact.items()),
        *(Method("zsnr", k, cost, _timed(f), draws=True) for k, (f, cost) in stochastic.items()),
        *(Method("zsnr", k, cost, None, _scored(f, True)) for k, (f, cost) in trailing.items()),
    ]
