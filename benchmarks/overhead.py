"""What a solver costs without its network, for which a function stands that returns a constant tensor."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import ours
from benchmarks.solver import Network, Run, Solver

SHAPE, STEPS, RATIO = (4, 4, 64, 64), 50, 1.3
"""Ours may take so many times what the bare loop of the same arithmetic does."""


def never(x: Tensor, phi: float) -> Tensor:
    """The network that is not asked."""
    raise AssertionError("timed with its network")


def measure(solvers: Sequence[Solver], repeats: int) -> list[dict[str, Any]]:
    """Microseconds an evaluation, the fastest of all repeats on one thread; for ours, of its bare loop, too.

    Solvers take turns within each repeat, so that what disturbs the machine meets all alike. Grids, schedulers and what
    a solver keeps from one call to the next (the weights of `eab`) are made beforehand, for all.
    """
    noise, output = torch.ones(SHAPE), torch.zeros(SHAPE)
    rows: list[dict[str, Any]] = []
    timed: list[tuple[dict[str, Any], str, Callable[[], Run]]] = []
    for s in solvers:
        rows.append({"library": s.library, "name": s.name, "evaluations": s.count(STEPS)})
        first = next(iter(s.settings.values()))
        timed.append((rows[-1], "seconds", partial(s.prepare, Network(never, output), noise, first, STEPS)))
        if s.library == "zsnr":
            timed.append((rows[-1], "bare", partial(ours.bare, s.name, noise, output, STEPS)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.disable()
    with torch.inference_mode():
        for _ in range(repeats):
            for row, key, make in timed:
                runs = [make(), make()]
                runs[0]()
                start = time.perf_counter()
                runs[1]()
                row[key] = min(row.get(key, math.inf), time.perf_counter() - start)
            gc.collect()
    gc.enable()
    torch.set_num_threads(threads)
    for row in rows:
        row["microseconds"] = 1e6 * row.pop("seconds") / row["evaluations"]
        if "bare" in row:
            row["ratio"] = row["microseconds"] / (1e6 * row.pop("bare") / row["evaluations"])
    return rows
