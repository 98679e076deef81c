"""The claims table: one row for every claim in claims.yaml, its verdict computed from what was measured.

A notebook writes its checks with `save`; the last stage reads them with `load` and builds the `table`. A check holds
when its value lies in a closed band, element by element for a list:

    equal:             [e - tol, e + tol],   tol = max(abs, rel |e|)
    at_least, at_most: [at_least, at_most],  an absent side is open

`interval`, a 95 % interval, marks a sampled value. It does not decide whether a check holds, only how a
failed one is read: it contradicts the claim unless its interval reaches the band. No verdict is ever stored.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

VERDICTS = ("reproduced", "direction", "not reproduced", "contradicted", "pending", "out of reach")


@cache
def claims() -> dict[str, dict[str, str]]:
    """The entries of claims.yaml by id, in order: id, paper, where, statement, expected[, out_of_reach]."""
    from ruamel.yaml import YAML

    return {c["id"]: c for c in YAML(typ="safe").load(Path(__file__).with_name("claims.yaml"))}


def _numbers(name: str, x: Any, finite: bool = False, nested: bool = False) -> Any:
    """x for strict JSON, which has no NaN and no infinity: those become the strings that float() reads."""
    x = x.tolist() if hasattr(x, "tolist") else x
    if isinstance(x, list | tuple) and x and not nested:
        return [_numbers(name, e, finite, nested=True) for e in x]
    try:
        if math.isfinite(float(x)):
            return x if isinstance(x, bool | int) else float(x)
        if not finite:
            return repr(float(x))
    except (TypeError, ValueError):
        pass
    kind = "finite number" if finite else "number"
    raise ValueError(f"{name} is {x!r}: give a {kind}, or a flat list of at least one") from None


def _pair(x: Any) -> list[Any]:
    pair = _numbers("interval", x)
    if not isinstance(pair, list) or len(pair) != 2 or float(pair[0]) > float(pair[1]):
        raise ValueError(f"interval is {x!r}: give (lo, hi) with lo <= hi")
    return pair


@dataclass(frozen=True)
class Check:
    """One check of one claim: a number, or a list (a single bound then serves every element). A NaN value fails.

    Args:
        equal: with the tolerances rel and abs; or give at_least, at_most or both.
        interval: the (lo, hi) of a sampled value, for a list one pair each.
        direction: only the direction can be checked at our scale.
        notebook: where it was made; `load` fills it.

    Raises:
        ValueError: an unknown claim, a value or a bound that is no number, or bounds that no value could meet.
    """

    id: str
    what: str
    value: Any
    _: KW_ONLY
    equal: Any = None
    at_least: Any = None
    at_most: Any = None
    rel: float = 0.0
    abs: float = 0.0
    interval: Any = None
    direction: bool = False
    note: str = ""
    notebook: str = ""

    def __post_init__(self) -> None:
        if self.id not in claims():
            raise ValueError(f"id is {self.id!r}: give one of lab/report/claims.yaml, such as 'Z-01'")
        equal, low, high, rel, tol = self.equal, self.at_least, self.at_most, self.rel, self.abs
        if (equal is None) == (high is None and low is None):
            raise ValueError(f"equal is {equal}, at_most {high}, at_least {low}: give equal or bounds")
        if not (0 <= rel < math.inf and 0 <= tol < math.inf) or (equal is None and (rel or tol)):
            raise ValueError(f"rel is {rel}, abs is {tol}: give finite tolerances >= 0, and only with equal")
        plain: dict[str, Any] = {"value": _numbers("value", self.value), "rel": float(rel), "abs": float(tol)}
        plain |= {"what": str(self.what), "note": str(self.note), "direction": bool(self.direction)}
        value = plain["value"]
        size = len(value) if isinstance(value, list) else 0
        for name, bound in (("equal", equal), ("at_least", low), ("at_most", high)):
            plain[name] = None if bound is None else _numbers(name, bound, finite=True)
            if isinstance(plain[name], list) and len(plain[name]) != size:
                raise ValueError(f"{name} is {bound}, value {value}: give one bound, or one per element")
        if self.interval is not None:
            if size and len(self.interval) != size:
                raise ValueError(f"interval is {self.interval}, value {value}: give one (lo, hi) per element")
            plain["interval"] = [_pair(p) for p in self.interval] if size else _pair(self.interval)
        for name, x in plain.items():
            object.__setattr__(self, name, x)
        if any(lo > hi for _, (lo, hi), _ in self.elements()):
            raise ValueError(f"at_least {low} is above at_most {high}: no value could pass")

    def __getitem__(self, name: str) -> Any:
        """A field by its name, as in the JSON."""
        return getattr(self, name)

    def elements(self) -> list[tuple[Any, tuple[float, float], Any]]:
        """(value, band, interval) of each element."""
        values = self.value if isinstance(self.value, list) else [self.value]
        intervals = self.interval if values is self.value and self.interval else [self.interval] * len(values)
        sides = (x if isinstance(x, list) else [x] * len(values) for x in (self.equal, self.at_least, self.at_most))
        bands = []
        for e, lo, hi in zip(*sides, strict=True):
            tol = max(self.abs, self.rel * math.fabs(e or 0))
            band = (-math.inf if lo is None else lo, math.inf if hi is None else hi)
            bands.append(band if e is None else (e - tol, e + tol))
        return list(zip(values, bands, intervals, strict=True))

    def outcomes(self) -> list[str]:
        """Of each element: holds, fails or contradicts."""
        found = []
        for value, (lo, hi), interval in self.elements():
            away = interval is None or float(interval[1]) < lo or float(interval[0]) > hi
            found.append("holds" if lo <= float(value) <= hi else "contradicts" if away else "fails")
        return found


measure = Check  # its name in the findings


def verdict(checks: Sequence[Check], id: str = "") -> str:
    """One of VERDICTS, on the claim that all these checks are of; without any, on the claim `id`."""
    if len(ids := {c.id for c in checks} | ({id} - {""})) > 1:
        raise ValueError(f"checks of several claims, {sorted(ids)}: give those of one")
    if not checks:
        return "out of reach" if "out_of_reach" in claims().get(id, {}) else "pending"
    outcomes = {outcome for c in checks for outcome in c.outcomes()}
    if outcomes == {"holds"}:
        return "direction" if any(c.direction for c in checks) else "reproduced"
    return "contradicted" if "contradicts" in outcomes else "not reproduced"


def save(path: str | Path, checks: Iterable[Check], notebook: str) -> None:
    """Write one notebook's checks as JSON; an interrupted write leaves the old file as it was."""
    if not notebook:
        raise ValueError("notebook is empty: give its name, such as '01_terminal_snr'")
    plain = [{k: v for k, v in asdict(c).items() if k != "notebook"} for c in checks]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    tmp = Path(f"{path}.tmp")
    tmp.write_text(to_json({"notebook": notebook, "measures": plain}), encoding="utf-8")
    os.replace(tmp, path)


def load(path: str | Path) -> list[Check]:
    """The checks in a file that `save` wrote, each with its notebook's name; a verdict in it is refused."""
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(data, dict) or set(data) != {"notebook", "measures"}:
        raise ValueError(f"{path} holds more or less than notebook and measures: write it with save()")
    try:
        return [Check(**m, notebook=data["notebook"]) for m in data["measures"]]
    except TypeError as error:
        raise ValueError(f"{path}: not a check ({error}): make it with Check(), a verdict is computed") from None


def _text(x: Any, digits: int) -> str:
    if isinstance(x, list):
        parts = [_text(e, digits) for e in x]
        return f"({', '.join(parts if len(parts) <= 8 else [*parts[:4], '...', *parts[-2:]])})"
    return ("no", "yes")[x] if isinstance(x, bool) else f"{x:.{digits}g}" if isinstance(x, float) else str(x)


def _measured(c: Check) -> str:
    parts = []
    for v, _, i in c.elements():
        parts.append(f"{_text(v, 4)} [{_text(i[0], 4)}, {_text(i[1], 4)}]" if i else _text(v, 6))
    failed = sum(outcome != "holds" for outcome in c.outcomes())
    count = f" ({failed} of {len(parts)} fail)" if failed and len(parts) > 1 else ""
    return f"{c.what} {_text(parts if isinstance(c.value, list) else parts[0], 6)}{count}"


def _tolerance(c: Check) -> str:
    tol = " or ".join(f"{k} {c[k]:.3g}" for k in ("rel", "abs") if c[k]) or "exact"
    sides = (("= ", c.equal, f" ({tol})"), (">= ", c.at_least, ""), ("<= ", c.at_most, ""))
    text = " and ".join(sign + _text(bound, 10) + end for sign, bound, end in sides if bound is not None)
    return text + (", direction only" if c.direction else "")


def table(check_lists: Iterable[Iterable[Check]]) -> list[dict[str, str]]:
    """One row of text per claim, in the order of claims.yaml, from the checks of all notebooks."""
    found = [c for checks in check_lists for c in checks]
    rows = []
    for id, claim in claims().items():
        checks = [c for c in found if c.id == id]
        row = {k: claim[k] for k in ("id", "paper", "where", "statement", "expected")}
        notes = [c.note for c in checks] or [claim.get("out_of_reach", "")]
        row |= {"measured": "; ".join(map(_measured, checks)), "tolerance": "; ".join(map(_tolerance, checks))}
        row |= {"verdict": verdict(checks, id), "note": "; ".join(dict.fromkeys(filter(None, notes)))}
        row["notebook"] = ", ".join(dict.fromkeys(c.notebook for c in checks if c.notebook))
        rows.append(row)
    return rows


def _cell(text: str) -> str:
    """text for a table cell: a bar would end it, and Markdown reads ~, * and < as more than themselves."""
    return " ".join("".join("\\" + c if c in "\\|*~<" else c for c in text).split())


def to_markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """The rows as a Markdown document: the counts per verdict, then one table per paper."""
    counts = {v: sum(row["verdict"] == v for row in rows) for v in VERDICTS}
    lines = [f"# {len(rows)} claims: " + ", ".join(f"{n} {v}" for v, n in counts.items() if n)]
    columns = ("id", "where", "statement", "expected", "measured", "tolerance", "verdict", "note", "notebook")
    for paper in dict.fromkeys(row["paper"] for row in rows):
        lines += ["", f"## {paper}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        cells = [[_cell(row[k]) for k in columns] for row in rows if row["paper"] == paper]
        lines += [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join(lines) + "\n"


def to_json(rows: Any) -> str:
    """Deterministic JSON text."""
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
