"""A sampler as a table of network calls: what `zsnr.ZeroSNRScheduler` does with each answer, computed beforehand.

Which call a step ends with, and where churn raises the state, is said in `zsnr.scheduler`.

Source: Karras et al. 2022, Algorithms 1 to 3; as a table, derived for this project.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from zsnr.path import Path
from zsnr.sampler import ddim_step, rk2_table
from zsnr.stochastic import gamma, raise_step, raised

SOLVERS = ("ddim", "euler", "heun", "rk2")


class Call(NamedTuple):
    """What is done with one answer of the network: x <- on_x x + on_v v, from there or from the step's start."""

    phi: float
    on_x: float
    on_v: float
    kind: str = "whole"  # a whole step, or the first or second half of one
    on_first: float = 0.0  # second half: v + on_first v_1 in place of v
    scale: float = 1.0  # and then the churn of the next step:
    fresh: float = 0.0  # x <- scale x + fresh z


def order(solver: str) -> int:
    """Calls of a step, but for the last."""
    return 2 if solver in ("heun", "rk2") else 1


def table(
    angles: Sequence[float],
    solver: str,
    path: Path,
    alpha: float = 1.0,
    S_churn: float = 0.0,
    S_tmin: float = 0.0,
    S_tmax: float = math.inf,
    S_noise: float = 1.0,
) -> tuple[list[Call], tuple[float, float]]:
    """The calls of a grid, and the (scale, fresh) by which churn raises the initial noise.

    Args:
        angles: falling, in radians, the last one 0.
        solver: one of SOLVERS.
        path: of euler, heun and rk2.
        alpha: of rk2.
        S_churn, S_tmin, S_tmax, S_noise: see `zsnr.churn`.
    """
    alpha = alpha if solver == "rk2" else 1.0
    churns = [gamma(phi, len(angles) - 1, S_churn, S_tmin, S_tmax) if S_churn else 0.0 for phi in angles[:-1]]
    raises = [raise_step(phi, g, S_noise) for phi, g in zip(angles, churns, strict=False)] + [(1.0, 0.0)]
    calls = []
    for (phi, psi), g, (scale, fresh) in zip(pairwise(angles), churns, raises[1:], strict=True):
        top = raised(phi, g)
        if solver == "ddim":
            calls.append(Call(top, *ddim_step(0.0, top, psi)[:2], scale=scale, fresh=fresh))
            continue
        on_x, on_v, second = rk2_table(path, alpha, [top, psi, 0.0] if psi else [top, 0.0])[0]
        if psi == 0 or order(solver) == 1:  # of Heun's step, the first half is Euler's
            calls.append(Call(top, on_x, on_v, scale=scale, fresh=fresh))
        elif second is None:  # alpha > 1 beyond the image: Euler's step, and a call that changes nothing, so that step
            # k starts at call 2 k, where pipelines that begin in the middle look for it
            calls += [Call(top, on_x, on_v, "first"), Call(psi, on_x, 0.0, "euler", on_v, scale, fresh)]
        else:
            middle, from_x, on_first, from_v = second
            calls += [Call(top, on_x, on_v, "first"), Call(middle, from_x, from_v, "second", on_first, scale, fresh)]
    return calls, raises[0]
