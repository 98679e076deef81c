"""Errors at equal evaluations: every solver at its best setting for each number of them, chosen by the truth itself."""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.problems import Problem
from benchmarks.solver import Network, Solver

BUDGETS = (5, 10, 20, 50, 100)
ON_NETWORK = (10, 20, 50)
TESTS = ("gaussian", "seen", "held out")
TARGETS = {"gaussian": {10: 0.0055, 20: 0.002, 50: 0.0002, 100: 0.00002}}
"""What the first of ours may be wrong by."""
Cell = dict[str, Any]
REFUSED = (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)
"""How libraries say that a combination of their options, or so few steps, is not for them."""


def run(solver: Solver, problem: Problem, setting: str, budget: int, N: int) -> Cell:
    """The errors of one run, and what it really spent; nothing where it broke, or spent too much."""
    network = Network(problem.velocity)
    try:
        with torch.inference_mode():
            found = problem.errors(solver.prepare(network, problem.noise, solver.settings[setting], N)())
    except REFUSED:
        return {}
    return {"evaluations": network.calls, "steps": N, "errors": found} if network.calls <= budget else {}


def best(runs: dict[str, Cell], test: str) -> Cell:
    """The run with the smallest error, its setting, and how many were tried."""
    tried = {s: r for s, r in runs.items() if r and math.isfinite(r["errors"][test])}
    if not tried:
        return {"error": None, "tried": len(runs)}
    order = sorted(tried, key=lambda s: tried[s]["errors"][test])
    chosen = tried[order[0]]
    spent = {k: chosen[k] for k in ("evaluations", "steps")}
    found = {"error": chosen["errors"][test], "setting": order[0], "tried": len(runs)}
    return found | spent | {"next": order[1:3]}


def measure(
    solvers: Sequence[Solver],
    exact: Problem,
    trained: Callable[[], Problem] | None,
    budgets: Sequence[int],
    jobs: int = 1,
    journal: Journal | None = None,
) -> list[Cell]:
    """A row for each solver: test -> budget -> its best cell.

    Args:
        trained: makes the problem of the trained network, when it is needed.
        jobs: processes that share the work; the errors are the same.
        journal: what an earlier run that was stopped has left is not computed again.
    """
    journal = journal or Journal()

    def row(k: int) -> Cell:
        solver = solvers[k]
        steps = {b: solver.steps(b) for b in budgets}
        runs: dict[int, dict[str, Cell]] = {b: {} for b in budgets}
        for setting, (b, N) in product(solver.settings, steps.items()):  # in this order: some take long to construct
            runs[b][setting] = run(solver, exact, setting, b, N) if N else {}
        cells = {test: {str(b): best(runs[b], test) for b in budgets} for test in TESTS}
        print(solver.library, solver.name, [f"{100 * error(c):.3g} %" for c in cells["gaussian"].values()], flush=True)
        return {"library": solver.library, "name": solver.name, "cells": cells}

    rows = _shared(row, {f"{s.library} {s.name}": k for k, s in enumerate(solvers)}, jobs, journal)
    if trained is not None:
        problem = trained()
        asked = {b: shortlist(rows, b) for b in budgets if b in ON_NETWORK}
        tasks = [(k, b, s) for b, chosen in asked.items() for k, settings in chosen.items() for s in sorted(settings)]
        names = {f"network {t[1]} {rows[t[0]]['library']} {rows[t[0]]['name']}: {t[2]}": t for t in tasks}
        found = _shared(
            lambda t: run(solvers[t[0]], problem, t[2], t[1], solvers[t[0]].steps(t[1])), names, jobs, journal
        )
        for k, r in enumerate(rows):
            runs = {b: {t[2]: f for t, f in zip(tasks, found, strict=True) if t[:2] == (k, b)} for b in asked}
            r["cells"]["network"] = {str(b): best(some, "network") for b, some in runs.items()}
    return rows


def shortlist(rows: Sequence[Cell], budget: int) -> dict[int, set[str]]:
    """What runs on the network, which takes long: row -> settings.

    All of ours; of each peer the three solvers that are closest on Gaussian data, and the three on held-out mixtures,
    each with its three closest settings there.
    """
    chosen: dict[int, set[str]] = {}
    for test in ("gaussian", "held out"):
        cells = {k: r["cells"][test][str(budget)] for k, r in enumerate(rows)}
        order = sorted((k for k, c in cells.items() if "setting" in c), key=lambda k: error(cells[k]))
        for library in {r["library"] for r in rows}:
            of = [k for k in order if rows[k]["library"] == library]
            for k in of if library == "zsnr" else of[:3]:
                chosen.setdefault(k, set()).update([cells[k]["setting"], *cells[k].get("next", [])])
    return chosen


class Journal:
    """What is computed, one line a result, so that a run that was stopped goes on where it was.

    Args:
        path: of the lines; none: nothing is kept.
        stamp: of code and versions. Lines of another are left out.
    """

    def __init__(self, path: Path | None = None, stamp: str = "") -> None:
        self.path, self.stamp = path, stamp
        lines = map(json.loads, path.read_text(encoding="utf-8").splitlines()) if path and path.exists() else ()
        self.found: dict[str, Any] = {line["name"]: line["found"] for line in lines if line["stamp"] == stamp}

    def keep(self, name: str, found: Any) -> None:
        """Add a line, at once."""
        self.found[name] = found
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"stamp": self.stamp, "name": name, "found": found}) + "\n")


def _shared(task: Callable[[Any], Cell], items: dict[str, Any], jobs: int, journal: Journal) -> list[Cell]:
    """The task of each item, by forked processes: they find it in a global, as closures cannot be sent to them."""
    global _task
    left = [name for name in items if name not in journal.found]
    _task = lambda k: task(items[left[k]])  # noqa: E731
    with multiprocessing.get_context("fork").Pool(jobs, torch.set_num_threads, (1,)) as pool:
        for name, found in zip(left, pool.imap(_numbered, range(len(left)), chunksize=1), strict=True):
            journal.keep(name, found)
    return [journal.found[name] for name in items]


_task: Callable[[int], Cell]


def _numbered(k: int) -> Cell:
    return _task(k)


def error(cell: Cell) -> float:
    """Of a cell; infinite where nothing came of it."""
    return math.inf if cell["error"] is None else float(cell["error"])
