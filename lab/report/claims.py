"""The claims table: one row for every claim in claims.yaml, its verdicts computed from what was measured.

A notebook writes its checks with `save`; the last stage reads them with `load`. `lab.report.wording` puts them into a
table, and `lab.report.page` writes it for people. A check is read by a closed band,

    equal:             [e - tol, e + tol],   tol = max(abs, rel |e|)
    at_least, at_most: [at_least, at_most],  an absent side is open

A computed value holds inside and contradicts outside. A sampled one comes with a 95 % `interval`: it holds where all of
the interval lies inside, contradicts where all lies outside, and is inconclusive across an edge. Of a list, one element
that does not hold is enough.

One *primary* check for each scope of a claim decides it: claims.yaml names it, with its band and the reason, before
anything is measured, and the notebook gives only value and interval. A sampled primary is one number, so that a
verdict's level is its interval's. All other checks stand beside it and decide nothing. No verdict is ever stored.
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

VERDICTS = ("reproduced", "direction", "arithmetic", "contradicted", "inconclusive", "pending", "out of reach")
SCOPES = ("row", "exact", "trained", "arithmetic")
BAND = ("equal", "at_least", "at_most", "rel", "abs")


@cache
def claims() -> dict[str, dict[str, Any]]:
    """The entries of claims.yaml by id, in order."""
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
    """One check of one claim: a number, or a list (a single bound then serves every element). A NaN never holds.

    Args:
        what: its name; that of a primary check is in claims.yaml, and so is its band.
        equal: with the tolerances rel and abs; or give at_least, at_most or both. None of them for a primary check.
        interval: the 95 % (lo, hi) of a sampled value, for a list one pair each.
        notebook: where it was made; `load` fills it.

    Raises:
        ValueError: an unknown claim, a value or a bound that is no number, bounds that no value could meet, a primary
            check with a band of its own, or with a list of sampled values.
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
    note: str = ""
    notebook: str = ""

    def __post_init__(self) -> None:
        if self.id not in claims():
            raise ValueError(f"id is {self.id!r}: give one of lab/report/claims.yaml, such as 'Z-01'")
        own = [k for k in BAND if self[k] is not None and not (k in ("rel", "abs") and self[k] == 0)]
        if self.scope and own:
            raise ValueError(f"{self.what!r} is the primary check of {self.id}: give no {own[0]}, claims.yaml does")
        band = self.band
        equal, low, high, rel, tol = (band[k] for k in BAND)
        if (equal is None) == (high is None and low is None):
            raise ValueError(
                f"equal is {equal}, at_most {high}, at_least {low}: give equal or bounds, or a primary check's name"
            )
        if not (0 <= rel < math.inf and 0 <= tol < math.inf) or (equal is None and (rel or tol)):
            raise ValueError(f"rel is {rel}, abs is {tol}: give finite tolerances >= 0, and only with equal")
        plain: dict[str, Any] = {"value": _numbers("value", self.value), "rel": float(self.rel), "abs": float(self.abs)}
        plain |= {"what": str(self.what), "note": str(self.note)}
        value = plain["value"]
        size = len(value) if isinstance(value, list) else 0
        for name, bound in (("equal", equal), ("at_least", low), ("at_most", high)):
            bound = None if bound is None else _numbers(name, bound, finite=True)
            if isinstance(bound, list) and len(bound) != size:
                raise ValueError(f"{name} is {bound}, value {value}: give one bound, or one per element")
            plain[name] = None if self.scope else bound
        if self.interval is not None:
            if size and self.scope:
                raise ValueError(f"value is {value}: a primary check of samples is one number, such as their mean")
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

    @property
    def scope(self) -> str:
        """The scope that this check decides, or "" where it stands beside."""
        primary = claims()[self.id].get("primary", {})
        return next((scope for scope, p in primary.items() if p["what"] == self.what), "")

    @property
    def band(self) -> dict[str, Any]:
        """equal, at_least, at_most, rel and abs: its own, or those of claims.yaml."""
        own = {k: self[k] for k in BAND}
        return (
            own | {k: v for k, v in claims()[self.id]["primary"][self.scope].items() if k in BAND}
            if self.scope
            else own
        )

    def elements(self) -> list[tuple[Any, tuple[float, float], Any]]:
        """(value, band, interval) of each element."""
        values = self.value if isinstance(self.value, list) else [self.value]
        intervals = self.interval if values is self.value and self.interval else [self.interval] * len(values)
        equal, low, high, rel, tol = (self.band[k] for k in BAND)
        sides = (x if isinstance(x, list) else [x] * len(values) for x in (equal, low, high))
        bands = []
        for e, lo, hi in zip(*sides, strict=True):
            width = max(tol, rel * math.fabs(e or 0))
            band = (-math.inf if lo is None else lo, math.inf if hi is None else hi)
            bands.append(band if e is None else (e - width, e + width))
        return list(zip(values, bands, intervals, strict=True))

    def outcomes(self) -> list[str]:
        """Of each element: holds, contradicts or inconclusive."""
        found = []
        for value, (lo, hi), interval in self.elements():
            low, high = map(float, interval or (value, value))
            away = high < lo or low > hi or interval is None
            found.append("holds" if lo <= low and high <= hi else "contradicts" if away else "inconclusive")
        return found

    @property
    def outcome(self) -> str:
        """Of the whole check: the worst of its elements."""
        return next(o for o in ("contradicts", "inconclusive", "holds") if o in self.outcomes())


measure = Check  # its name in the findings


def verdicts(checks: Sequence[Check], id: str = "") -> dict[str, str]:
    """By scope, one of VERDICTS, on the claim that all these checks are of; without any, on the claim `id`."""
    if len(ids := {c.id for c in checks} | ({id} - {""})) != 1:
        raise ValueError(f"checks of {sorted(ids)}: give those of one claim, or its id")
    claim, found = claims()[ids.pop()], {}
    if "out_of_reach" in claim:
        return {"row": "out of reach"}
    for scope, primary in claim["primary"].items():
        mine = [c for c in checks if c.scope == scope]
        if len(mine) > 1:
            raise ValueError(f"{primary['what']!r} is measured {len(mine)} times: a primary check is one")
        good = "arithmetic" if scope == "arithmetic" else "direction" if primary.get("direction") else "reproduced"
        words = {"holds": good, "contradicts": "contradicted", "inconclusive": "inconclusive"}
        found[scope] = words[mine[0].outcome] if mine else "pending"
    return found


def verdict(checks: Sequence[Check], id: str = "") -> str:
    """The verdicts as text, such as "exact: reproduced; trained: inconclusive"."""
    named = verdicts(checks, id).items()
    return "; ".join(word if scope == "row" or scope == word else f"{scope}: {word}" for scope, word in named)


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


def to_json(rows: Any) -> str:
    """Deterministic JSON text."""
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
