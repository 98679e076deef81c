"""zsnr's solvers, each on the one grid that its documentation names, and the least that each has to compute."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

import zsnr
from benchmarks.solver import Network, Run, Solver

SOLVERS: dict[str, tuple[Any, Any]] = {
    "eab": (zsnr.eab, zsnr.skewed),
    "dpmpp_2m": (zsnr.dpmpp_2m, zsnr.geometric),
    "heun": (zsnr.heun, zsnr.power),
    "rk2, midpoint": (partial(zsnr.rk2, alpha=0.5), zsnr.power),
    "euler": (zsnr.euler, zsnr.power),
    "ddim": (zsnr.ddim, zsnr.power),
}


def solvers() -> list[Solver]:
    """All with their defaults, from exactly zero SNR."""

    def prepare(sampler: Any, network: Network, noise: Tensor, grid: Any, N: int) -> Run:
        ask = network.v if network.output is None else lambda x, phi: network.output
        return partial(sampler, ask, noise, grid(N))

    return [Solver("zsnr", name, {grid.__name__: grid}, partial(prepare, s)) for name, (s, grid) in SOLVERS.items()]


def bare(name: str, noise: Tensor, output: Tensor, N: int) -> Run:
    """The loop that does the same sums as one of ours, and nothing else: its rows as plain lists, made beforehand."""
    sampler, grid = SOLVERS[name]
    rows = list(getattr(sampler, "func", sampler).rows(grid(N).tolist(), **getattr(sampler, "keywords", {})))
    weights = [[(r.a, r.b), *([(r.c, r.d)] if r.c or r.d or r.earlier else []), *r.earlier] for r in rows]
    longest = max(map(len, weights))

    def run() -> Tensor:
        x = noise
        calls: list[tuple[Tensor, Tensor]] = []
        for (a, b), *earlier in weights:
            v = output
            new = torch.mul(x, a).add_(v, alpha=b)
            for (c, d), (old_x, old_v) in zip(earlier, calls, strict=False):
                if c:
                    new.add_(old_x, alpha=c)
                if d:
                    new.add_(old_v, alpha=d)
            calls = [(x, v), *calls[: longest - 2]] if longest > 1 else calls
            x = new
        return x

    return run
