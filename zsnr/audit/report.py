"""How an audit says what it found."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SEVERITIES = ("bug", "flaw", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing."""

    severity: str
    name: str
    what: str
    remedy: str
    counts: list[int] = field(default_factory=list)  # of steps, that it concerns; empty: all, or none in particular


@dataclass
class Report:
    """What was found; `str` is a table. A scheduler's bug counts against a model at the counts asked for alone."""

    subject: str
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    errors: dict[int, float] = field(default_factory=dict)
    """Count of steps: largest miss of a probed step, in training steps; nan: no number; inf: refused."""
    asked: list[int] = field(default_factory=list)

    def add(self, severity: str, name: str, what: str, remedy: str, counts: Iterable[int] = ()) -> None:
        self.findings.append(Finding(severity, name, what, remedy, list(counts)))

    def hit(self, one: Finding) -> list[int]:
        """The counts asked for that a finding concerns."""
        return [n for n in self.asked if n in one.counts or not one.counts]

    @property
    def ok(self) -> bool:
        """No flaw, and no bug that concerns a count asked for."""
        return not any(one.severity == "flaw" or (one.severity == "bug" and self.hit(one)) for one in self.findings)

    @property
    def verdict(self) -> str:
        """The model's schedule, and its scheduler's bugs, apart."""
        number = Counter(one.severity for one in self.findings)
        listed = ", ".join(f"{number[s]} {s}{'s' * (number[s] > 1)}" for s in SEVERITIES if number[s])
        head = "flawed" if number["flaw"] else "sound"
        if number["bug"]:
            hit = sorted({n for one in self.findings if one.severity == "bug" for n in self.hit(one)})
            where = f"wrong at {ranges(hit)} steps" if hit else f"right at {ranges(self.asked)} steps, wrong elsewhere"
            head = f"schedule {head}, scheduler {where}"
        return f"{head} ({listed})" if listed else head

    def json(self) -> str:
        """All of it but the errors by count; strict JSON: what is not finite is null."""
        head = {name: getattr(self, name) for name in ("subject", "ok", "verdict", "asked")}
        facts = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in self.facts.items()}
        return json.dumps(head | {"facts": facts, "findings": [asdict(one) for one in self.findings]}, indent=1)

    def __str__(self) -> str:
        lines = [f"{self.subject}: {self.verdict}"]
        lines += [f"  {k:<26}{v:.4g}" if isinstance(v, float) else f"  {k:<26}{v}" for k, v in self.facts.items()]
        for one in self.findings:
            where = f" [{len(one.counts)} counts: {ranges(one.counts)}]" if one.counts else ""
            lines += [f"{one.severity.upper():<6}{one.name}: {one.what}{where}", f"      remedy: {one.remedy}"]
        return "\n".join(lines)


def ranges(counts: Sequence[int], most: int = 6) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    runs: list[list[int]] = []
    for n in sorted(counts):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    texts = [f"{a}" if a == b else f"{a}-{b}" for a, b in runs]
    return ", ".join(texts[:most]) + (", ..." if len(texts) > most else "")
