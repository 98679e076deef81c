r"""A solver that uses the answers of several earlier calls: one evaluation a step, of order up to four.

Why x0 and eps, both: the state moves with dx/dphi = -sin(phi) x0 + cos(phi) eps, whose factors are at most 1 from zero
SNR to the image. x0 alone (DPM-Solver++) has the factor 1 / sin(phi), eps alone (DPM-Solver) 1 / cos(phi), infinite at
zero SNR; v alone is bounded, but misses what needs no solver, a frozen (x0, eps).

Source: Lu et al. 2022 (DPM-Solver, Sec. 3: the exponential integrator), Zhao et al. 2023 (UniPC, Sec. 3: a corrector
that costs no evaluation). Prior art: azula's exponential Adams-Bashforth samplers of Rozet, in ln sigma, without a
corrector, from a finite sigma. The form, the index as variable, the start at zero SNR and all numbers here: derived and
measured for this project.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.polynomial import Polynomial
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray

from zsnr.prediction import cos_sin
from zsnr.rows import Row, sampler

Array = NDArray[np.float64]

POINTS, WEIGHTS = (leggauss(16) + np.array([[1.0], [0.0]])) / 2
"""Gauss and Legendre's rule on [0, 1], a step in units of the index."""


@sampler()
def eab(angles: Sequence[float], order: int = 4) -> Iterator[Row]:
    """Exponential Adams-Bashforth in the angle, with a corrector: one evaluation a step, from exactly zero SNR.

        x(psi) = x(phi) + int_phi^psi (-sin(t) L[x0] + cos(t) L[eps]) dt

    L are polynomials in the grid's index, through the values at the last calls. A frozen (x0, eps) is solved exactly,
    so step one is DDIM's, and the last is x <- D. The corrector takes the step before once more, through one call more,
    the newest, and moves the state by the difference times 1 - (i - 1) / (6 N): it mends what the low orders of the
    start have lost, and is damped towards the image, where it would oscillate on data narrower than the noise.

    Step i of N looks back over min(order, 1 + (i + 1) // 2, 1 + (N - i) // 3) calls. The last steps are short against
    the level (`grids.skewed`), so their lower order costs nothing there; on equal steps of the angle it does.

    Args:
        order: 1 to 4.

    Raises:
        ValueError: another order.

    Take `grids.skewed`, made for it. Source: see `zsnr.multistep`.
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"order = {order}: 1, 2, 3 or 4 calls to look back over")
    yield from _table(tuple(angles), int(order))


@functools.lru_cache(maxsize=32)
def _table(angles: tuple[float, ...], order: int) -> list[Row]:
    """The rows of `eab`. Its weights are on (x0, eps) = (c x - s v, s x + c v), a row's are on (x, v)."""
    phi, N, rows, predicted = np.array(angles), len(angles) - 1, [], np.zeros((0, 2))
    for i in range(N):
        count, last = min(order, 1 + (i + 1) // 2, 1 + (N - i) // 3), len(predicted)
        weights = np.zeros((max(count, last + 1), 2))
        weights[-count:] = now = _weights(phi, i, count)
        if 0 < i < N - 1:
            corrected = _weights(phi, i - 1, last + 1, ahead=1)
            corrected[:-1] -= predicted
            weights[-last - 1 :] += (1 - (i - 1) / (6 * N)) * corrected
        predicted, pairs = now, []
        for psi, (on_x0, on_eps) in zip(angles[i::-1], weights[::-1].tolist(), strict=False):
            c, s = cos_sin(psi)
            pairs.append((c * on_x0 + s * on_eps, c * on_eps - s * on_x0))
        (on_x, on_v), (c, d), *earlier = [*pairs, (0.0, 0.0)][: max(len(pairs), 2)]
        rows.append(Row(angles[i], 1 + on_x, on_v, c, d, earlier=tuple(earlier)))
    return rows


def _weights(phi: Array, i: int, count: int, ahead: int = 0) -> Array:
    """(count, 2) weights of the step from phi[i] to phi[i + 1], on the calls' (x0, eps), the newest at i + ahead."""
    near = np.arange(len(phi))[max(min(i - 1, len(phi) - 5), 0) :][:5]
    # how the angle runs within the step, by the grid around it
    way = Polynomial(np.linalg.solve(np.vander(near - i, increasing=True), phi[near] - phi[i]))
    t, dt = phi[i] + way(POINTS), way.deriv()(POINTS) * WEIGHTS
    return _lagrange(ahead - count + 1, count) @ np.stack([-np.sin(t) * dt, np.cos(t) * dt], 1)


@functools.cache
def _lagrange(first: int, count: int) -> Array:
    """(count, 16), at POINTS: the polynomials that are 1 at one of `count` integers from `first` on, else 0."""
    k = np.arange(count)[:, None]
    # they reproduce the powers: sum node^k L(t) = t^k
    return np.linalg.solve(np.arange(first, first + count, dtype=np.float64) ** k, POINTS**k)
