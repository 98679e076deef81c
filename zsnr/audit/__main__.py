"""`python -m zsnr.audit`, or `zsnr-audit`: ends with 0 (sound), 1 (flawed, or buggy as asked) or 2 (not judged)."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import zsnr.audit
from zsnr.audit import STEPS, AuditError, audit

ORDER = "flaw", "bug", "note"
LEGEND = """\
FLAW: what keeps the model from dark and bright pictures; a terminal SNR above 0 needs fine-tuning. BUG: what its
scheduler gets wrong at these numbers of steps. docs/guide.md has what helps, with and without training."""


def _numbers(option: str, example: str, texts: Sequence[str], kind: type) -> list[Any]:
    try:
        return [kind(text) for text in texts]
    except ValueError:
        raise AuditError(f"{option} {','.join(texts)} is not what was expected: write {option} {example}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 sound, 1 flawed or with a bug at the steps asked for, 2 cannot be read or judged."""
    parser = argparse.ArgumentParser("python -m zsnr.audit", description=(zsnr.audit.__doc__ or "").split("\n")[0])
    parser.add_argument("path", help="a pipeline's folder, a scheduler's, its .json, or a .safetensors checkpoint")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--shape", help="of what is denoised, such as 4,64,64")
    parser.add_argument("--steps", type=int, nargs="+", metavar="N", help=f"to judge the scheduler at, not {STEPS}")
    parser.add_argument("--exhaustive", action="store_true", help="probe every step of every count")
    what = "argument of step, such as eta=1"
    parser.add_argument("--step", action="append", default=[], metavar="NAME=NUMBER", help=what)
    options = parser.parse_args(arguments)
    try:
        shape = _numbers("--shape", "4,64,64", options.shape.split(","), int) if options.shape else None
        pairs = (item.partition("=") for item in options.step)
        step = {name: _numbers("--step", "eta=1", [value], float)[0] for name, _, value in pairs}
        report = audit(options.path, shape, options.exhaustive, asked=options.steps, **step)
        report.findings.sort(key=lambda one: ORDER.index(one.severity))
        text = report.json() if options.json else str(report) + f"\n\n{LEGEND}" * bool(report.findings)
    except (AuditError, ImportError) as error:  # ImportError: no diffusers here
        print(error, file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        print("this is an error of the audit itself, and says nothing of the model: please report it", file=sys.stderr)
        return 2
    try:
        print(text, flush=True)
    except BrokenPipeError:  # head has read enough: what is left must not be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
