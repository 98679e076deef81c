"""What every finding opens with, says, checks and ends with.

out, claim = start("03_offset_noise", out_dir)
say(f"The spread of the levels is {ratio:.2f} of the data's.")
claim("Z-06", "its bias", bias, interval=..., at_least=-0.03, at_most=0.03)
claim.verdict()
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from IPython.display import Markdown, display

from lab import ROOT
from lab.report import claims, figures
from lab.report.tables import Table, measured, number, table


class Claims:
    """The checks of one finding, in the order in which they are made.

    Args:
        name: the notebook's name, such as 03_offset_noise.
        out: the folder of its results.
    """

    def __init__(self, name: str, out: Path) -> None:
        self.name, self.out = name, out
        self.found: list[claims.Check] = []

    def __call__(self, id: str, what: str, value: Any, **band: Any) -> None:
        """Add one check: its claim, its name, its value; interval, note and band as in `lab.report.claims.Check`."""
        self.found.append(claims.measure(id, what, value, **band))

    def positive(self, id: str, what: str, found: tuple[float, tuple[float, float]], **more: Any) -> None:
        """A check that a value with an interval is above 0; of a primary one claims.yaml says it."""
        primary = [p["what"] for p in claims.claims()[id].get("primary", {}).values()]
        self(id, what, found[0], interval=found[1], **({} if what in primary else {"at_least": 0.0}), **more)

    def verdict(self) -> Table:
        """Write claims.json, and show what was decided; the checks beside decide nothing, and say whether they hold."""
        claims.save(self.out / "claims.json", self.found, self.name)
        rows = [
            (check.id, _decided(check), check.what, text(check))
            for check in sorted(self.found, key=lambda check: (check.id, not check.scope))
        ]
        return table(rows, ["claim", "verdict", "check", "measured"])


def _decided(check: claims.Check) -> str:
    """A primary check's verdict, with its scope where a claim has two; of any other whether it holds."""
    if not check.scope:
        return f"beside: {check.outcome}"
    verdict = claims.verdicts([check])[check.scope]
    return verdict if check.scope in ("row", verdict) else f"{check.scope}: {verdict}"


def text(check: claims.Check) -> str:
    """What a check measured, with its intervals; of a long list the first and last elements."""
    parts = []
    for value, _, interval in check.elements():
        plain = number(float(value) if not isinstance(value, bool | int) else value, "#.4g")
        parts.append(measured(value, interval, "#.3g") if interval else plain)
    return ", ".join(parts if len(parts) <= 8 else [*parts[:3], "...", *parts[-2:]])


def start(name: str, out_dir: str = "") -> tuple[Path, Claims]:
    """Open a finding: one thread, the look of the figures, the folder of its results, and its checks.

    Args:
        name: the notebook's name, such as 03_offset_noise.
        out_dir: below the root; without it, a new folder that the system will delete.
    """
    torch.set_num_threads(1)
    figures.style()
    out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
    return out, Claims(name, out)


def say(text: str) -> None:
    """Show a sentence of Markdown, so that its numbers are computed and not typed."""
    display(Markdown(text))
