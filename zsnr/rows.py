r"""What a fixed-step sampler is: a table, one row for each network call, and the one loop that runs every table.

    x <- a x + b v + c x' + d v' + e z      v = denoiser(x, phi);  (x', v') the state and answer of the call before;
                                            z fresh noise

Coefficients are Python floats, computed before the first call. Source: derived for this project.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from zsnr.adaptive import Callback
from zsnr.denoisers import Denoiser
from zsnr.grids import check_grid
from zsnr.noise import Generators, check_generators, check_noise, randn


class Row(NamedTuple):
    """What is done with the network's answer v at angle phi: x <- a x + b v + c x' + d v' + e z."""

    phi: float
    a: float
    b: float
    c: float = 0.0  # on the state at the call before
    d: float = 0.0  # on the answer to the call before
    e: float = 0.0  # on fresh noise
    stage: int = 0  # 0 begins a step, 1 is its second call; -1 comes before the first and calls nothing


class Sampler:
    """A table of rows as a function of (denoiser, noise, grid).

    Args:
        rows: (angles, **options) -> rows, for the falling angles of a grid, the last one 0.
        stochastic: may draw fresh noise, so takes `generators`.
    """

    __name__: str

    def __init__(self, rows: Callable[..., Iterable[Row]], stochastic: bool = False) -> None:
        self.rows, self.stochastic = rows, stochastic
        functools.update_wrapper(self, rows)
        own = list(inspect.signature(rows).parameters.values())[1:]
        common = [p for p in inspect.signature(self._run).parameters.values() if p.name != "options"]
        if not stochastic:
            common = [p for p in common if p.name != "generators"]
        self.__signature__ = inspect.Signature(
            [*common[:3], *(p.replace(kind=p.KEYWORD_ONLY) for p in own), *common[3:]], return_annotation=Tensor
        )

    def __call__(self, denoiser: Denoiser, noise: Tensor, grid: Tensor, **options: object) -> Tensor:
        """The (B, ...) images."""
        if "generators" in options and not self.stochastic:
            raise TypeError(f"{self.__name__} draws no noise, so it takes no generators")
        return self._run(denoiser, noise, grid, **options)  # type: ignore[arg-type]

    def _run(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        grid: Tensor,
        *,
        generators: Generators = None,
        callback: Callback = None,
        progress: bool = False,
        **options: object,
    ) -> Tensor:
        rows = list(self.rows(check_grid(grid), **options))
        if any(row.e for row in rows):
            check_generators(generators, len(noise))
        x, before, i = check_noise(noise), None, 0
        for row in _bar(rows) if progress else rows:
            if row.stage < 0:
                x = torch.mul(x, row.a)
            else:
                v = denoiser(x, row.phi).to(x)
                if callback is not None and row.stage == 0:
                    callback(i, row.phi, x, v)
                    i += 1
                x, before = advance(row, x, v, before), (x, v)
            if row.e:
                x.add_(randn(x.shape, generators, x.dtype, x.device), alpha=row.e)
        return x


def advance(row: Row, x: Tensor, v: Tensor, before: tuple[Tensor, Tensor] | None) -> Tensor:
    """a x + b v + c x' + d v', starting from the state whose coefficient is 1, which saves an operation."""
    _, a, b, c, d, _, _ = row
    if a:
        out = torch.add(x, v, alpha=b) if a == 1 else torch.mul(x, a).add_(v, alpha=b)
        if c and before:
            out.add_(before[0], alpha=c)
    elif c and before:
        out = torch.add(before[0], v, alpha=b) if c == 1 else torch.mul(before[0], c).add_(v, alpha=b)
    else:
        out = torch.mul(v, b)
    if d and before:
        out.add_(before[1], alpha=d)
    return out


def sampler(stochastic: bool = False) -> Callable[[Callable[..., Iterable[Row]]], Sampler]:
    """Decorate rows: they become a sampler, and keep their docstring."""
    return functools.partial(Sampler, stochastic=stochastic)


def _bar(rows: list[Row]) -> Iterable[Row]:
    """The rows, and a bar that counts steps."""
    from tqdm import tqdm

    with tqdm(total=sum(row.stage == 0 for row in rows), unit="step", file=sys.stderr) as bar:
        for row in rows:
            yield row
            bar.update(row.stage == 0)
