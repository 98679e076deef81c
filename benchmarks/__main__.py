"""Measure, write table and figure, and say where a peer is ahead; exit status 1 if zsnr misses a target of its own."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import re
import sys
from pathlib import Path

from benchmarks import errors, figure, overhead, problems, report
from benchmarks.solver import Solver
from lab import ROOT

RESULTS, PAGE = Path(__file__).parent / "results", ROOT / "docs/samplers.md"
MARKS = "<!-- benchmarks -->", "<!-- /benchmarks -->"
LIBRARIES = ("ours", "peer_diffusers", "peer_k_diffusion", "peer_azula", "peer_smalldiffusion")


def solvers() -> list[Solver]:
    """Every library's solvers; for one that is missing, a line."""
    found = []
    for name in LIBRARIES:
        try:
            found += importlib.import_module(f"benchmarks.{name}").solvers()
        except ImportError as error:
            print(f"{name} is skipped ({error}): pip install --no-deps -r benchmarks/requirements.txt")
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--repeats", type=int, default=25, help="turns each solver is timed for; the fastest counts")
    parser.add_argument("--jobs", type=int, default=2, help="processes for the errors; timings are alone")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    try:
        trained = problems.trained(ROOT / problems.WEIGHTS)
    except FileNotFoundError as error:
        trained = None
        print(f"the trained network is skipped ({error}; or `make repro`)")
    record: report.Record = {"versions": report.versions(), "processor": report.processor()}
    logging.disable(logging.WARNING)  # what libraries say of settings that they change
    try:
        everything = solvers()
        record["overhead"] = overhead.measure(everything, options.repeats)
        record["errors"] = errors.measure(everything, problems.exact(), trained, errors.BUDGETS, options.jobs)
    finally:
        logging.disable(logging.NOTSET)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "benchmarks.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (options.out / "benchmarks.md").write_text(report.table(record), encoding="utf-8")
    if options.out == RESULTS:
        text = PAGE.read_text(encoding="utf-8")
        (quoted,) = re.findall(f"{MARKS[0]}(.*){MARKS[1]}", text, re.S)
        PAGE.write_text(text.replace(MARKS[0] + quoted, f"{MARKS[0]}\n{report.excerpt(record)}"), encoding="utf-8")
    figure.draw(record, options.out / "benchmarks.png")
    print(report.table(record), *report.behind(record), sep="\n")
    misses = report.misses(record)
    print("\n  ".join(["zsnr misses:", *misses]) if misses else "zsnr keeps its targets")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
