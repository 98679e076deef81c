"""Error by evaluations: the largest |generated std / true std - 1| over the variances of `method.LAMBDA`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.method import STAND_INS, Method, ratio

BUDGETS = (10, 20, 50, 100, 200)
"""Evaluations that may be used: 20 are 20 steps of DDIM, 10 of Heun."""
TARGETS = {20: 0.08, 50: 0.015, 100: 0.004}
"""What zsnr's Heun may be wrong by, on its default grid."""
DIRECTION = {10: 0.08, 50: 0.005}
"""The same for variance 64 alone, by trailing steps."""


@torch.no_grad()
def measure(methods: Sequence[Method], budgets: Sequence[int]) -> list[dict[str, Any]]:
    """For each method and budget the smallest error over the grids on offer, and the grid that has it."""
    scored = [m for m in methods if m.scored]
    cells = [[_cell(m, budget) for budget in budgets] for m in scored]
    ours = next(row for m, row in zip(scored, cells, strict=True) if (m.library, m.name) == ("zsnr", "Heun"))
    for m, row in zip(scored, cells, strict=True):
        for cell, our in zip(row, ours, strict=True):
            cell["closer"] = m.library != "zsnr" and cell["error"] < our["error"]
            cell["misses"] = cell is our and not cell["error"] <= TARGETS.get(cell["budget"], math.inf)
    return [{"library": m.library, "name": m.name, "cells": row} for m, row in zip(scored, cells, strict=True)]


def _cell(m: Method, budget: int) -> dict[str, Any]:
    N = (budget + m.saved) // m.per_step
    tried = [(float((ratio(m.prepare(grid, None, None)) - 1).abs().max()), name) for name, grid in m.grids(N)]
    cell = {"budget": budget, "evaluations": m.per_step * N - m.saved, "steps": N, "tried": len(tried)}
    return cell | dict(zip(("error", "grid"), min(tried), strict=True))


@torch.no_grad()
def direction(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Generated std / true std of Heun for variance 64, by trailing steps: ours, and k-diffusion's with a stand-in."""
    heun = {m.library: m for m in methods if m.name == ("Heun, trailing" if m.library == "zsnr" else "Heun")}
    rows = []
    for N, most in DIRECTION.items():
        row: dict[str, Any] = {"steps": N, "most": most}
        wanted = {"k-diffusion": [f"trailing, {first:.0f}" for first in STAND_INS], "zsnr": ["trailing"]}
        for library in (k for k in wanted if k in heun):
            grids = {k: grid for k, grid in heun[library].grids(N) if k in wanted[library]}
            row[library] = [float(ratio(heun[library].prepare(grid, None, None))[-1]) for grid in grids.values()]
        rows.append(row | {"misses": not abs(row["zsnr"][0] - 1) < most})
    return rows
