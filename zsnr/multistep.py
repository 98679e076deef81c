r"""Solvers that use the answers of several earlier calls: one evaluation a step, of order up to four.

`zsnr.samplers.dpmpp_2m`, which looks one call back, is the other one of this kind.

Source: Lu et al. 2022 (DPM-Solver, Sec. 3: the exponential integrator), Zhao et al. 2023 (UniPC, Sec. 3: a corrector
that costs no evaluation). Prior art: azula's exponential Adams-Bashforth samplers of Rozet, in ln sigma, without a
corrector, from a finite sigma. The frame, the index as variable, the start at zero SNR and all numbers here: derived
and measured for this project.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from zsnr.prediction import cos_sin
from zsnr.rows import Row, sampler

Array = NDArray[np.float64]

POINTS, WEIGHTS = (np.polynomial.legendre.leggauss(16) + np.array([[1.0], [0.0]])) / 2
"""Gauss and Legendre's rule on [0, 1], a step in units of the index."""
FADE = 0.15
"""How the corrector's share falls with the steps that are left: ((N - 1 - i) / N)^FADE."""
MAP = 5
"""So many of the grid's angles say how the angle runs within a step."""


@sampler()
def eab(angles: Sequence[float], order: int = 4) -> Iterator[Row]:
    """Exponential Adams-Bashforth in the angle, with a corrector: one evaluation a step, from exactly zero SNR.

    The state moves with dx/dphi = v = -sin(phi) x0 + cos(phi) eps. Between calls, x0 and eps are polynomials L in the
    grid's index, through their values at the last calls, and the rest is integrated exactly, in a frame n(phi):

        x(psi) = n(psi)/n(phi) x(phi) + int_phi^psi n(psi)/n(t) (-(sin t + l cos t) L[x0] + (cos t - l sin t) L[eps]) dt

        n(t)^2 = (sin^2 t + .36 cos^2 t) (cos^2 t + .25 sin^2 t),   l = n'/n

    A frozen (x0, eps) is solved exactly whatever the frame, so step one is DDIM's and zero SNR is a point like any
    other; the last step is x <- D. The corrector takes the step before once more, through one call more, the newest,
    and moves the state by the difference times the share ((N - 1 - i) / N)^.15: nearly all of it at first, where it
    mends what the low orders of the start have lost, less near the image, where it would oscillate on data narrower
    than the noise.

    Step i of N looks back over min(order, 1 + (i + 1) // 2, 1 + (N - i) // 4) calls. The last steps are short against
    the level (`grids.skewed`), so their lower order costs nothing there; on equal steps of the angle it does. On data
    that is narrower than the last levels, at ten steps or less, `dpmpp_2m` and `heun` are closer.

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
        count = min(order, 1 + (i + 1) // 2, 1 + (N - i) // 4)
        growth, weights = _step(phi, i, count)
        now = weights
        if 0 < i < N - 1:
            back = len(predicted)
            corrected = _step(phi, i - 1, back + 1, ahead=1)[1]
            corrected[:back] -= predicted
            weights = np.zeros((max(count, back + 1), 2))
            weights[-count:] += now
            weights[-back - 1 :] += growth * ((N - 1 - i) / N) ** FADE * corrected
        predicted = now
        pairs = []
        for psi, (on_x0, on_eps) in zip(angles[i::-1], weights[::-1].tolist(), strict=False):
            c, s = cos_sin(psi)
            pairs.append((c * on_x0 + s * on_eps, c * on_eps - s * on_x0))
        (on_x, on_v), (c, d), *earlier = pairs if len(pairs) > 1 else [*pairs, (0.0, 0.0)]
        rows.append(Row(angles[i], growth + on_x, on_v, c, d, earlier=tuple(earlier)))
    return rows


def _step(phi: Array, i: int, count: int, ahead: int = 0) -> tuple[float, Array]:
    """The step from phi[i] to phi[i + 1]: what it multiplies x by, and the (count, 2) weights on the calls' (x0, eps).

    Args:
        count: so many calls, the newest of them at phi[i + ahead].
    """
    known = min(MAP, len(phi))
    first = min(max(i - 1, 0), len(phi) - known)
    values, slopes = _lagrange(first - i, known)
    t, dt = phi[first : first + known] @ values, phi[first : first + known] @ slopes * WEIGHTS
    s, c = np.sin(t), np.cos(t)
    growth, to_end = _frame(phi[i + 1]) / _frame(phi[i]), _frame(phi[i + 1]) / _frame(t) * dt
    rate = s * c * (0.64 / (s * s + 0.36 * c * c) - 0.75 / (c * c + 0.25 * s * s))
    on_x0, on_eps = -to_end * (s + rate * c), to_end * (c - rate * s)
    weights = _lagrange(ahead - count + 1, count)[0] @ np.stack([on_x0, on_eps], 1)
    (c1, s1), (c2, s2) = cos_sin(float(phi[i])), cos_sin(float(phi[i + 1]))
    # all weights together move a frozen (x0, eps) along x = c x0 + s eps: exactly, not by quadrature
    weights[-1] = np.array([c2 - growth * c1, s2 - growth * s1]) - weights[:-1].sum(0)
    return float(growth), weights


def _frame(phi: Array) -> Array:
    """n of `eab`."""
    s2, c2 = np.sin(phi) ** 2, np.cos(phi) ** 2
    return np.sqrt((s2 + 0.36 * c2) * (c2 + 0.25 * s2))


@functools.cache
def _lagrange(first: int, count: int) -> tuple[Array, Array]:
    """(count, 16), at POINTS: polynomials that are 1 at one of count integers from `first` on, else 0; their slopes."""
    k = np.arange(count)[:, None]
    moments = np.arange(first, first + count, dtype=np.float64) ** k  # polynomials L reproduce t^k = sum node^k L
    slopes = k * POINTS ** np.maximum(k - 1, 0)
    return np.linalg.solve(moments, POINTS**k), np.linalg.solve(moments, slopes)
