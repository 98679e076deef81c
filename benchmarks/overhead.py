"""What a solver costs without its network, for which a function stands that returns a constant tensor."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.method import Method

SHAPES, STEPS = ((1, 1, 8, 8), (4, 4, 64, 64)), 50
MICROSECONDS, RATIO = 10.0, 1.5
"""The budget: for a step at the first shape, and in lean loops, by evaluation, at the second."""


@torch.no_grad()
def measure(methods: Sequence[Method], repeats: int) -> list[dict[str, Any]]:
    """Microseconds a step and an evaluation at both shapes, the fastest of all repeats on one thread.

    Methods take turns within each repeat, so that what disturbs the machine meets all alike, and run once before.
    """
    rows: list[dict[str, Any]] = [{"method": m, "best": [float("inf")] * 2} for m in methods if m.timed]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.disable()
    for k, shape in enumerate(SHAPES):
        noise, output = torch.ones(shape), torch.zeros(shape)
        for _ in range(repeats):
            for row in rows:
                m = row["method"]
                runs = [m.prepare(next(m.grids(STEPS))[1], noise, output) for _ in range(2)]
                runs[0]()
                start = time.perf_counter()
                runs[1]()
                row["best"][k] = min(row["best"][k], time.perf_counter() - start)
            gc.collect()
    gc.enable()
    torch.set_num_threads(threads)
    for row in rows:
        m, best = row.pop("method"), row.pop("best")
        row |= {"library": m.library, "name": m.name, "draws": m.draws, "kind": m.kind}
        row["per_step"] = m.per_step - m.saved / STEPS
        row["step"] = [1e6 * t / STEPS for t in best]
        row["evaluation"] = [t / row["per_step"] for t in row["step"]]
    return judge(rows)


def judge(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row its ratio to the lean loop, and to ours what it misses.

    Each is compared with peers of its kind. One that draws noise may spend on it, once a step, what the lean loop does.
    """
    lean, noisy = (r["step"] for r in rows if r["library"] == "yardstick")
    for row in rows:
        draw = [(n - x) * row["draws"] for n, x in zip(noisy, lean, strict=True)]
        row["ratio"] = row["evaluation"][1] / (lean[1] + draw[1] / row["per_step"])
        if row["library"] != "zsnr":
            continue
        row["misses"] = [f"{row['step'][0]:.1f} us a step"] if row["step"][0] > MICROSECONDS + draw[0] else []
        row["misses"] += [f"{row['ratio']:.2f} lean loops"] if row["ratio"] > RATIO else []
        peers = [r for r in rows if r["library"] not in ("zsnr", "yardstick") and r["kind"] == row["kind"]]
        faster = [p for p in peers if any(p["evaluation"][k] <= row["evaluation"][k] for k in (0, 1))]
        row["misses"] += [f"behind {p['library']} {p['name']}" for p in faster]
    return rows
