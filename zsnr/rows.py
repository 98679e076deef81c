r"""What a fixed-step sampler is: a table, one row for each network call, and the one loop that runs every table.

    x <- a x + b v + c x' + d v' + e z      v = denoiser(x, phi);  (x', v') the state and answer of the call before;
                                            z fresh noise;  `earlier`: weights on the calls before that one

Coefficients are Python floats, computed before the first call. A solver is a function of a grid's falling angles that
yields rows, and the decorator makes it a sampler; this is Euler's method in the angle, with the rotation to the image:

    @sampler()
    def euler(angles):
        for phi, psi in pairwise(angles):
            yield Row(phi, 1.0, psi - phi) if psi else Row(phi, math.cos(phi), -math.sin(phi))

Source: derived for this project.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from zsnr.adaptive import Callback
from zsnr.denoisers import Denoiser
from zsnr.grids import check_grid
from zsnr.noise import Generators, check_generators, check_noise, randn
from zsnr.prediction import answer, check_finite


class Row(NamedTuple):
    """What is done with the network's answer v at angle phi: x <- a x + b v + c x' + d v' + e z."""

    phi: float
    a: float
    b: float
    c: float = 0.0  # on the state at the call before
    d: float = 0.0  # on the answer to the call before
    e: float = 0.0  # on fresh noise
    stage: int = 0  # 0 begins a step, 1 is its second call; -1 comes before the first and calls nothing
    earlier: tuple[tuple[float, float], ...] = ()  # on state and answer of each call before that one, newest first

    @property
    def lookback(self) -> int:
        """Over so many earlier calls."""
        return 1 + len(self.earlier) if self.c or self.d or self.earlier else 0


class Sampler(Protocol):
    """A function of (denoiser, noise, grid) that the decorator `sampler` made of rows."""

    __name__: str
    rows: Callable[..., Iterable[Row]]
    stochastic: bool

    def __call__(self, denoiser: Denoiser, noise: Tensor, grid: Tensor, **options: Any) -> Tensor:
        """The (B, ...) images."""


def sampler(stochastic: bool = False) -> Callable[[Callable[..., Iterable[Row]]], Sampler]:
    """Decorate rows: they become a sampler of the same name and documentation, see `zsnr.samplers`.

    The rows are a function of (angles, **options): the falling angles of a checked grid, the last one 0. What it does
    not take, its sampler does not take either.

    Args:
        stochastic: rows may have e above 0, so the sampler takes `generators`.
    """

    def decorate(rows: Callable[..., Iterable[Row]]) -> Sampler:
        @functools.wraps(rows, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
        def run(
            denoiser: Denoiser,
            noise: Tensor,
            grid: Tensor,
            *,
            callback: Callback = None,
            progress: bool = False,
            **options: Any,
        ) -> Tensor:
            generators = options.pop("generators", None) if stochastic else None
            table = list(rows(check_grid(grid), **options))
            return check_finite(follow(table, denoiser, noise, generators, callback, progress), f"from {rows.__name__}")

        vars(run).update(rows=rows, stochastic=stochastic, __signature__=_signature(run, rows, stochastic))
        return cast("Sampler", run)

    return decorate


def follow(
    rows: Sequence[Row],
    denoiser: Denoiser,
    noise: Tensor,
    generators: Generators = None,
    callback: Callback = None,
    progress: bool = False,
) -> Tensor:
    """The (B, ...) state after all rows of a table; no tensor that was passed in is changed."""
    x, step = check_noise(noise), 0
    if any(row.e for row in rows):
        check_generators(generators, len(noise))
    past: deque[tuple[Tensor, Tensor]] = deque(maxlen=max((row.lookback for row in rows), default=0))
    shape, dtype, device = x.shape, x.dtype, x.device
    for row in _bar(rows) if progress else rows:
        if row.stage < 0:
            x = torch.mul(x, row.a)
        else:
            v = denoiser(x, row.phi)
            if v.shape != shape or v.dtype != dtype or v.device != device:  # quicker than a call that has nothing to do
                v = answer(v, x)
            if callback is not None and row.stage == 0:
                callback(step, row.phi, x, v)
                step += 1
            asked, x = x, advance(row, x, v, past)
            past.appendleft((asked, v))
        if row.e:
            x.add_(randn(shape, generators, dtype, device), alpha=row.e)
    return x


def advance(row: Row, x: Tensor, v: Tensor, past: Sequence[tuple[Tensor, Tensor]] = ()) -> Tensor:
    """a x + b v + c x' + d v' + ... as a new tensor; a state with weight 1 saves an operation.

    Args:
        past: states and answers of the calls before, newest first, as many as the row looks back over. None of them:
            the call is the first, and a and b are all.
    """
    _, a, b, c, d, _, _, earlier = row
    if not past or not (c or d or earlier):
        return torch.add(x, v, alpha=b) if a == 1 else torch.mul(x, a).add_(v, alpha=b)
    last_x, last_v = past[0]
    if a == 0:  # start from x'
        x, a, c = last_x, c, 0.0
    out = torch.add(x, v, alpha=b) if a == 1 else torch.mul(x, a).add_(v, alpha=b)
    if c:
        out.add_(last_x, alpha=c)
    if d:
        out.add_(last_v, alpha=d)
    for k, (on_x, on_v) in enumerate(earlier, 1):
        old_x, old_v = past[k]
        out.add_(old_x, alpha=on_x).add_(old_v, alpha=on_v)
    return out


def _signature(run: Callable[..., Tensor], rows: Callable[..., Iterable[Row]], stochastic: bool) -> inspect.Signature:
    """(denoiser, noise, grid, *, the rows' own options, generators where it takes them, callback, progress)."""
    *first, callback, progress, _ = inspect.signature(run, follow_wrapped=False).parameters.values()
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(rows).parameters.values()][1:]
    drawn = [callback.replace(name="generators", annotation="Generators")] if stochastic else []
    return inspect.Signature([*first, *own, *drawn, callback, progress], return_annotation="Tensor")


def _bar(rows: Sequence[Row]) -> Iterable[Row]:
    """The rows, and a bar that counts steps."""
    from tqdm import tqdm

    with tqdm(total=sum(row.stage == 0 for row in rows), unit="step", file=sys.stderr) as bar:
        for row in rows:
            yield row
            bar.update(row.stage == 0)
