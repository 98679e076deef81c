"""zsnr's samplers, and the lean loop: the least that a sampler has to compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Generator, Tensor

import zsnr
from benchmarks.method import SCHEDULE, Method, Run, prior, velocity
from zsnr.path import FLOW
from zsnr.samplers import churn, dpmpp_2m, euler_maruyama, rk2


def lean(N: int, noise: Tensor | None, output: Tensor | None, draw: bool = False) -> Run:
    """x = a[i] * x + b[i] * v with Python floats: two products and a sum. With draw, + c[i] * fresh noise."""
    a, b, c = [0.9] * N, [0.1] * N, [0.1] * N

    def network(x: Tensor | None, phi: float) -> Any:
        return output

    def run() -> Tensor:
        x: Any = noise
        for i in range(N):
            v = network(x, a[i])
            x = a[i] * x + b[i] * v
            if draw:
                x = x + c[i] * torch.randn_like(x)
        return x

    return run


def all_grids(N: int) -> Iterator[tuple[str, Tensor]]:
    """Every grid of ours, as the peers have theirs searched; a large rho is exponential."""
    yield "trailing", zsnr.grid(SCHEDULE, N)
    yield from ((f"geometric {c:g}", zsnr.geometric(N, c)) for c in (1.5, 2.0, 2.5, 3.0, 4.0))
    yield from ((f"power {e:g}", zsnr.power(N, e)) for e in (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0))
    for low, high, rho in product((0.002, 0.01, 0.03), (80.0, 500.0, 4096.0), (2.0, 3.0, 5.0, 7.0, 10.0, 1000.0)):
        yield f"rho {rho:g}, {low:g} to {high:g}", zsnr.karras(N, low, high, rho)


def ours(name: str, sampler: Callable[..., Tensor], **options: Any) -> Method:
    """On the default grid, `power` or `geometric` for 2M, unless the name says otherwise.

    Checks and coefficients are timed: they are in the call.
    """

    def grids(N: int) -> Iterator[tuple[str, Tensor]]:
        if name.endswith("best grid"):
            yield from all_grids(N)
        else:
            default = "geometric" if sampler is dpmpp_2m else "power"
            kind = "trailing" if name.endswith("trailing") else default
            yield kind, zsnr.grid(SCHEDULE, N) if kind == "trailing" else getattr(zsnr, kind)(N)

    def prepare(grid: Tensor, noise: Tensor | None, output: Tensor | None) -> Run:
        network = velocity if output is None else lambda x, phi: output
        return partial(sampler, network, prior() if noise is None else noise, grid)

    return Method("zsnr", name, grids, prepare, timed=not name.endswith(("trailing", "best grid")), **options)


def methods() -> list[Method]:
    """The yardstick and ours; peers are compared with "Heun"."""
    generator = Generator().manual_seed(0)
    second: dict[str, Any] = {"per_step": 2, "saved": 1}
    plain: dict[str, Any] = {"draws": True, "scored": False}
    loops = [("lean loop", False), ("lean loop with noise", True)]
    return [
        *(
            Method("yardstick", k, lambda N: iter([("", N)]), partial(lean, draw=d), draws=d, scored=False)
            for k, d in loops
        ),
        ours("DDIM", zsnr.ddim),
        ours("Euler", zsnr.euler),
        ours("DPM-Solver++ 2M", dpmpp_2m),
        ours("Heun", zsnr.heun, **second),
        ours("Heun, flow path", partial(zsnr.heun, path=FLOW), **second),
        ours("RK2, midpoint", partial(rk2, alpha=0.5), **second),
        ours("DDIM, trailing", zsnr.ddim),
        ours("Heun, trailing", zsnr.heun, **second),
        ours("DPM-Solver++ 2M, best grid", dpmpp_2m),
        ours("Heun, best grid", zsnr.heun, **second),
        ours("RK2, midpoint, best grid", partial(rk2, alpha=0.5), **second),
        ours("Heun, churn", partial(churn, S_churn=20.0, generators=generator), **second, **plain),
        ours("Euler-Maruyama", partial(euler_maruyama, generators=generator), **plain),
    ]
