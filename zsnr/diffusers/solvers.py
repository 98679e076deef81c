"""What the drop-in scheduler's solvers do: the rows of a grid, and of a step beside one, by its config."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from zsnr.diffusers.config import say_once
from zsnr.multistep import eab
from zsnr.path import PATHS
from zsnr.rows import Row
from zsnr.samplers import check_alpha, check_churn, churned, ddim_step, rk2_step

SOLVERS = ("ddim", "euler", "heun", "rk2", "eab")
TRAINED_STEPS = (
    "eab on the trained steps of timestep_spacing is hardly closer than ddim, as their last ones are too long for it: "
    "pass levels='skewed'"
)


def calls(config: Any) -> int:
    """Calls of a step, but for the last."""
    return 2 if config.solver in ("heun", "rk2") else 1


def check_solver(config: Any) -> None:
    """Refuse options that mean nothing, alone or together, by a ValueError with the remedy."""
    check_alpha(config.alpha)
    check_churn(*_churn(config))
    if config.solver == "eab" and config.S_churn:
        raise ValueError(f"S_churn = {config.S_churn}: eab looks back over calls that fresh noise would part it from; "
                         "take heun, or S_churn=0")  # fmt: skip
    if config.solver == "eab" and not (config.levels or config.use_karras_sigmas):
        say_once(TRAINED_STEPS)


def table(config: Any, angles: Sequence[float]) -> list[Row]:
    """The rows of a grid's falling angles, the last one 0; with churn at the first level, one more before them."""
    if config.solver == "eab":
        return list(eab.rows(angles))
    return list(churned(angles, functools.partial(step_rows, config), *_churn(config)))


def step_rows(config: Any, phi: float, psi: float) -> list[Row]:
    """The rows of the step from angle phi to psi, above 0, of a solver that knows no other step."""
    if config.solver == "ddim":
        return [ddim_step(phi, psi)]
    count = calls(config)
    rows = rk2_step(phi, psi, config.alpha if config.solver == "rk2" else 1.0, PATHS[config.path])[:count]
    # alpha > 1 beyond the image: Euler's step, and a call that changes nothing, so that step k starts at call 2 k,
    # where pipelines that begin in the middle look for it
    return rows + [Row(psi, 1.0, 0.0, stage=1)] * (count - len(rows))


def _churn(config: Any) -> tuple[float, float, float, float]:
    return config.S_churn, config.S_tmin, math.inf if config.S_tmax is None else config.S_tmax, config.S_noise
