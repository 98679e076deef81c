"""Measure, write table and figure, and say where a peer is ahead; exit status 1 if zsnr misses a target of its own."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import errors, figure, overhead, problems, report
from benchmarks.solver import Solver
from lab import ROOT

RESULTS, PAGE, README = Path(__file__).parent / "results", ROOT / "docs/samplers.md", ROOT / "README.md"
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


def stamp(*facts: Any) -> str:
    """What results of a run that was stopped belong to: the code of solvers and benchmark, and these facts."""
    code = sorted(path for folder in ("zsnr", "benchmarks") for path in (ROOT / folder).glob("*.py"))
    told = [path.read_bytes() for path in code] + [repr(facts).encode()]
    return hashlib.sha256(b"".join(told)).hexdigest()[:16]


def quote(page: Path, text: str) -> None:
    """Write the text between the marks of a page."""
    before, rest = page.read_text(encoding="utf-8").split(MARKS[0])
    page.write_text(before + MARKS[0] + text + MARKS[1] + rest.split(MARKS[1])[1], encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--repeats", type=int, default=25, help="turns each solver is timed for; the fastest counts")
    parser.add_argument("--jobs", type=int, default=1, help="processes for the errors; timings are alone")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--timings", action="store_true", help="time again, and leave the recorded errors as they are")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    path, journal = options.out / "benchmarks.json", options.out / "unfinished.jsonl"
    facts: report.Record = {"versions": report.versions(), "processor": report.processor()}
    record = json.loads(path.read_text(encoding="utf-8")) if options.timings else dict(facts)
    if record["versions"] != facts["versions"]:
        raise SystemExit(f"{path} was measured with {record['versions']}: measure its errors again, without --timings")
    logging.disable(logging.WARNING)  # what libraries say of settings that they change
    try:
        everything = solvers()
        if not options.timings:
            weights = ROOT / problems.WEIGHTS
            if not weights.exists():
                print(f"the trained network is skipped ({weights} is missing): `make repro` restores it")
            trained = partial(problems.trained, weights) if weights.exists() else None
            record["weights"] = hashlib.md5(weights.read_bytes()).hexdigest() if trained else ""
            kept = errors.Journal(journal, stamp(facts, record["weights"]))
            record["errors"] = errors.measure(everything, problems.exact(), trained, errors.BUDGETS, options.jobs, kept)
        record |= facts | {"load": os.getloadavg()[0], "overhead": overhead.measure(everything, options.repeats)}
    finally:
        logging.disable(logging.NOTSET)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    journal.unlink(missing_ok=True)
    (options.out / "benchmarks.md").write_text(report.table(record), encoding="utf-8")
    if options.out == RESULTS:
        quote(PAGE, f"\n{report.excerpt(record)}")
        if "network" in record["errors"][0]["cells"]:
            quote(README, report.sentence(record))
    figure.draw(record, options.out / "benchmarks.png")
    print(report.table(record), *report.behind(record), sep="\n")
    misses = report.misses(record)
    print("\n  ".join(["zsnr misses:", *misses]) if misses else "zsnr keeps its targets")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
