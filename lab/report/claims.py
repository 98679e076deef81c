"""The claims table: one row for every claim in claims.yaml, its verdict computed from what was measured.

A notebook records checks with `measure` and writes them with `save`; the last stage reads them with `load`
and builds the `table`. A check holds when its value lies in a closed band, element by element for a list:

    equal:             [e - tol, e + tol],   tol = max(abs, rel |e|)
    at_least, at_most: [at_least, at_most],  an absent side is open

`interval`, a 95 % interval, marks a sampled value. It does not decide whether a check holds, only how a
failed one is read: it contradicts the claim unless its interval reaches the band. No verdict is ever stored.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

VERDICTS = ("reproduced", "direction", "not reproduced", "contradicted", "pending", "out of reach")
Measure = dict[str, Any]


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


def measure(id: str, what: str, value: Any, *, equal: Any = None, rel: float = 0.0, abs: float = 0.0,
            at_most: Any = None, at_least: Any = None, interval: Any = None, direction: bool = False,
            note: str = "") -> Measure:  # fmt: skip
    """One check of one claim, for `save`: a number, or a list (a single bound then serves every element).

    Give equal (with rel, abs), or at_most and/or at_least. interval: the (lo, hi) of a sampled value, for a
    list one pair each. direction: only the direction can be checked at our scale. A NaN value fails.
    """
    if id not in claims():
        raise ValueError(f"id is {id!r}: give one of zsnr/claims.yaml, such as 'Z-01'")
    if (equal is None) == (at_most is None and at_least is None):
        raise ValueError(f"equal is {equal}, at_most {at_most}, at_least {at_least}: give equal or bounds")
    if not (0 <= rel < math.inf and 0 <= abs < math.inf) or (equal is None and (rel or abs)):
        raise ValueError(f"rel is {rel}, abs is {abs}: give finite tolerances >= 0, and only with equal")
    m: Measure = {"id": id, "what": str(what), "value": _numbers("value", value)}
    size = len(m["value"]) if isinstance(m["value"], list) else 0
    for name, bound in (("equal", equal), ("at_least", at_least), ("at_most", at_most)):
        m[name] = None if bound is None else _numbers(name, bound, finite=True)
        if isinstance(m[name], list) and len(m[name]) != size:
            raise ValueError(f"{name} is {m[name]}, value {m['value']}: give one bound, or one per element")
    if interval is not None and size and len(interval) != size:
        raise ValueError(f"interval is {interval}, value {m['value']}: give one (lo, hi) per element")
    pairs = None if interval is None else [_pair(p) for p in (interval if size else [interval])]
    m |= {"rel": float(rel), "abs": float(abs), "interval": pairs if size or not pairs else pairs[0]}
    if any(lo > hi for _, (lo, hi), _ in _elements(m)):
        raise ValueError(f"at_least {at_least} is above at_most {at_most}: no value could pass")
    return m | {"direction": bool(direction), "note": str(note)}


def _pair(x: Any) -> list[Any]:
    pair = _numbers("interval", x)
    if not isinstance(pair, list) or len(pair) != 2 or float(pair[0]) > float(pair[1]):
        raise ValueError(f"interval is {x!r}: give (lo, hi) with lo <= hi")
    return pair


def _elements(m: Measure) -> list[tuple[Any, tuple[float, float], Any]]:
    """(value, band, interval) of each element of a check."""
    many = isinstance(m["value"], list)
    values = m["value"] if many else [m["value"]]
    intervals = m["interval"] if many and m["interval"] else [m["interval"]] * len(values)
    sides = ("equal", "at_least", "at_most")
    columns = [m[k] if isinstance(m[k], list) else [m[k]] * len(values) for k in sides]
    bands = []
    for e, lo, hi in zip(*columns, strict=True):
        tol = max(m["abs"], m["rel"] * math.fabs(e or 0))
        band = (-math.inf if lo is None else lo, math.inf if hi is None else hi)
        bands.append(band if e is None else (e - tol, e + tol))
    return list(zip(values, bands, intervals, strict=True))


def _outcome(value: Any, band: tuple[float, float], interval: Any) -> str:
    if band[0] <= float(value) <= band[1]:
        return "holds"
    away = interval is None or float(interval[1]) < band[0] or float(interval[0]) > band[1]
    return "contradicts" if away else "fails"


def _checked(m: Mapping[str, Any]) -> Measure:
    """m rebuilt by `measure`: nothing typed into a file gets past its checks, least of all a verdict."""
    try:
        m = {"notebook": "", **m}
        return {"notebook": m.pop("notebook"), **measure(**m)}
    except TypeError as error:
        raise ValueError(f"not a measure ({error}): make it with measure(), a verdict is computed") from None


def verdict(measures: Sequence[Mapping[str, Any]], id: str = "") -> str:
    """One of VERDICTS, on the claim that all these measures are of; without any, on the claim `id`."""
    ms = [_checked(m) for m in measures]
    if len(ids := {m["id"] for m in ms} | ({id} - {""})) > 1:
        raise ValueError(f"measures of several claims, {sorted(ids)}: give those of one")
    if not ms:
        return "out of reach" if "out_of_reach" in claims().get(id, {}) else "pending"
    outcomes = {_outcome(*e) for m in ms for e in _elements(m)}
    if outcomes == {"holds"}:
        return "direction" if any(m["direction"] for m in ms) else "reproduced"
    return "contradicted" if "contradicts" in outcomes else "not reproduced"


def save(path: str | Path, measures: Iterable[Mapping[str, Any]], notebook: str) -> None:
    """Write one notebook's measures as JSON; an interrupted write leaves the old file as it was."""
    if not notebook:
        raise ValueError("notebook is empty: give its name, such as '01_terminal_snr'")
    plain = [{k: v for k, v in _checked(m).items() if k != "notebook"} for m in measures]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    tmp = Path(f"{path}.tmp")
    tmp.write_text(to_json({"notebook": notebook, "measures": plain}), encoding="utf-8")
    os.replace(tmp, path)


def load(path: str | Path) -> list[Measure]:
    """The measures in a file that `save` wrote, each with its notebook's name; a verdict in it is refused."""
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(data, dict) or set(data) != {"notebook", "measures"}:
        raise ValueError(f"{path} holds more or less than notebook and measures: write it with save()")
    return [_checked(m | {"notebook": data["notebook"]}) for m in data["measures"]]


def _text(x: Any, digits: int) -> str:
    if isinstance(x, list):
        parts = [_text(e, digits) for e in x]
        return f"({', '.join(parts if len(parts) <= 8 else [*parts[:4], '...', *parts[-2:]])})"
    return ("no", "yes")[x] if isinstance(x, bool) else f"{x:.{digits}g}" if isinstance(x, float) else str(x)


def _measured(m: Measure) -> str:
    parts = []
    for v, _, i in _elements(m):
        parts.append(f"{_text(v, 4)} [{_text(i[0], 4)}, {_text(i[1], 4)}]" if i else _text(v, 6))
    failed = sum(_outcome(*e) != "holds" for e in _elements(m))
    count = f" ({failed} of {len(parts)} fail)" if failed and len(parts) > 1 else ""
    return f"{m['what']} {_text(parts if isinstance(m['value'], list) else parts[0], 6)}{count}"


def _tolerance(m: Measure) -> str:
    tol = " or ".join(f"{k} {m[k]:.3g}" for k in ("rel", "abs") if m[k]) or "exact"
    sides = (("= ", "equal", f" ({tol})"), (">= ", "at_least", ""), ("<= ", "at_most", ""))
    text = " and ".join(sign + _text(m[k], 10) + end for sign, k, end in sides if m[k] is not None)
    return text + (", direction only" if m["direction"] else "")


def table(measure_lists: Iterable[Iterable[Mapping[str, Any]]]) -> list[dict[str, str]]:
    """One row of text per claim, in the order of claims.yaml, from the measures of all notebooks."""
    found: dict[str, list[Measure]] = {id: [] for id in claims()}
    for m in (_checked(m) for measures in measure_lists for m in measures):
        found[m["id"]].append(m)
    rows = []
    for id, ms in found.items():
        row = {k: claims()[id][k] for k in ("id", "paper", "where", "statement", "expected")}
        notes = [m["note"] for m in ms] or [claims()[id].get("out_of_reach", "")]
        row |= {"measured": "; ".join(map(_measured, ms)), "tolerance": "; ".join(map(_tolerance, ms))}
        row |= {"verdict": verdict(ms, id), "note": "; ".join(dict.fromkeys(filter(None, notes)))}
        row["notebook"] = ", ".join(dict.fromkeys(m["notebook"] for m in ms if m["notebook"]))
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
