"""Measure, write tables and figure, and say whether zsnr keeps its budget and its targets: if not, exit status 1."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from benchmarks import errors, overhead, report
from benchmarks.method import Method

LIBRARIES = ("ours", "peer_diffusers", "peer_k_diffusion", "peer_azula")


def methods() -> list[Method]:
    """Every library's methods; for one that is missing, a line."""
    found = []
    for name in LIBRARIES:
        try:
            found += importlib.import_module(f"benchmarks.{name}").methods()
        except ImportError as error:
            print(f"{name} is skipped ({error}): pip install --no-deps -r benchmarks/requirements.txt")
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--repeats", type=int, default=25, help="turns each sampler is timed for; the fastest counts")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args(arguments)
    everything, where = methods(), report.machine()
    times, found = overhead.measure(everything, options.repeats), errors.measure(everything, errors.BUDGETS)
    one = errors.direction(everything)

    options.out.mkdir(parents=True, exist_ok=True)
    for name, text in (("overhead", report.overhead(times, where)), ("errors", report.errors(found, one))):
        (options.out / f"{name}.md").write_text(text, encoding="utf-8")
        print(text)
    record = json.dumps({"machine": where, "overhead": times, "errors": found, "direction": one}, indent=1)
    (options.out / "benchmarks.json").write_text(record.replace("Infinity", "null") + "\n", encoding="utf-8")
    report.figure(found, times, options.out / "benchmarks.png")

    misses = [f"{r['name']}: {miss}" for r in times for miss in r.get("misses", [])]
    misses += [f"Heun, {c['budget']} evaluations: {c['error']:.2%}" for r in found for c in r["cells"] if c["misses"]]
    misses += [f"Heun, trailing, {d['steps']} steps, variance 64: {d['zsnr'][0]:.4f}" for d in one if d["misses"]]
    print("\n  ".join(["zsnr misses:", *misses]) if misses else "zsnr keeps its budget and its targets")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
