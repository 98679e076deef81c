"""What is said of checks: in sentences, in numbers, and as the table of all claims.

`lab.report.claims` decides; here nothing is decided.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lab.report import claims
from lab.report.claims import BAND, SCOPES, VERDICTS, Check, verdict, verdicts


def power(c: Check) -> str:
    """What sample would decide an inconclusive check of one number, if its value and its spread stayed as they are.

    The side of the interval towards an edge of the band shrinks with the square root of the sample, or faster where the
    sample is a few seeds, and decides once it ends there.
    """
    ((value, band, interval),) = c.elements()
    value, (low, high) = float(value), map(float, interval)
    if not all(map(math.isfinite, (value, low, high))):
        return ""
    sides = [(value - edge, value - low if edge < value else high - value) for edge in band if low <= edge <= high]
    factor = max(((side / distance) ** 2 if distance else math.inf) for distance, side in sides)
    times = f"at most {math.ceil(factor - 1e-9)} times" if factor < 1000 else "more than 1000 times"
    way = "for" if band[0] <= value <= band[1] else "against"
    return f"{times} as many repeats, {way} the claim, if the value stays (of what the interval is over)"


def summary(checks: Sequence[Check]) -> str:
    """What a notebook's checks say: a line for each primary one, and for each that does not hold beside it."""
    lines = []
    for c in sorted(checks, key=lambda c: (c.id, not c.scope)):
        if c.scope:
            word = verdicts([c])[c.scope]
            lines.append(f"{c.id} {word}" + ("" if c.scope in ("row", word) else f" ({c.scope})") + f": {_measured(c)}")
        elif c.outcome != "holds":
            lines.append(f"    beside {c.id}, {c.outcome}: {_measured(c)}")
    return "\n".join(lines)


def text(x: Any, digits: int) -> str:
    """A number, or a list of them, in so many digits; a long list without its middle."""
    if isinstance(x, list):
        parts = [text(e, digits) for e in x]
        return f"({', '.join(parts if len(parts) <= 8 else [*parts[:4], '...', *parts[-2:]])})"
    return ("no", "yes")[x] if isinstance(x, bool) else f"{x:.{digits}g}" if isinstance(x, float) else str(x)


def _value(c: Check) -> str:
    """The value with its interval; of a list all of them, and how many hold where not all do."""
    parts = []
    for v, _, i in c.elements():
        parts.append(f"{text(v, 4)} [{text(i[0], 4)}, {text(i[1], 4)}]" if i else text(v, 6))
    held = c.outcomes().count("holds")
    count = f" ({held} of {len(parts)} hold)" if held < len(parts) > 1 else ""
    return text(parts if isinstance(c.value, list) else parts[0], 6) + count


def _short(c: Check) -> str:
    """The value as one number: of a list, how many of its numbers hold."""
    if isinstance(c.value, list):
        return f"{c.outcomes().count('holds')} of {len(c.value)}"
    interval = f" [{text(c.interval[0], 3)}, {text(c.interval[1], 3)}]" if c.interval else ""
    return text(c.value, 3 if c.interval else 4) + interval


def _measured(c: Check) -> str:
    return f"{c.what} {_value(c)}"


def _band(c: Check) -> str:
    equal, low, high, rel, tol = (c.band[k] for k in BAND)
    width = " or ".join(f"{k} {v:.3g}" for k, v in (("rel", rel), ("abs", tol)) if v) or "exact"
    sides = (("= ", equal, f" ({width})"), (">= ", low, ""), ("<= ", high, ""))
    return " and ".join(sign + text(bound, 10) + end for sign, bound, end in sides if bound is not None)


def _reason(c: Check) -> str:
    """One sentence: what was measured, what it has to be, and whether it is."""
    equal, low, high, rel, tol = (c.band[k] for k in BAND)
    width = " or ".join([f"{100 * rel:.3g} %"] * bool(rel) + [f"{tol:.3g}"] * bool(tol))
    sides = (("", equal, f" to within {width}" * bool(width)), ("at least ", low, ""), ("at most ", high, ""))
    must = " and ".join(words + text(bound, 6) + end for words, bound, end in sides if bound is not None)
    if isinstance(c.value, list):
        failed, n = len(c.value) - c.outcomes().count("holds"), len(c.value)
        found = f"but {failed} of {n} are not" if failed else f"and all {n} are" if n > 2 else "and both are"
    elif c.interval is None:
        found = "and is" if c.outcome == "holds" else "but is not"
    else:
        found = {
            "holds": "and the whole interval is",
            "contradicts": "but the whole interval lies outside",
            "inconclusive": "but the interval crosses that bound",
        }[c.outcome]
    what = c.what[0].upper() + c.what[1:] if re.match(r"[a-z]+[ ,:;]", c.what) else c.what  # u_0 and std(x) stay
    return f"{what}: has to be {must}, {found}."


def _shown(c: Check) -> dict[str, str]:
    """A check as text, and of a primary one what claims.yaml says of it."""
    scope, primary = c.scope, claims.claims()[c.id].get("primary", {}).get(c.scope, {})
    undecided = bool(scope) and c.outcome == "inconclusive" and not isinstance(c.value, list)
    return {
        "scope": scope,
        "what": c.what,
        "value": _value(c),
        "band": _band(c),
        "outcome": c.outcome,
        "verdict": verdicts([c])[scope] if scope else "",
        "short": _short(c) if scope else "",
        "reason": _reason(c) if scope else "",
        "why": primary.get("why", ""),
        "decides": "; or ".join(filter(None, [power(c), primary.get("decides", "")])) if undecided else "",
        "note": c.note,
        "notebook": c.notebook,
    }


def table(check_lists: Iterable[Iterable[Check]]) -> list[dict[str, Any]]:
    """One row per claim, in the order of claims.yaml, from the checks of all notebooks; the primary ones first."""
    found = [c for checks in check_lists for c in checks]
    rows = []
    for id, claim in claims.claims().items():
        checks = sorted((c for c in found if c.id == id), key=lambda c: SCOPES.index(c.scope) if c.scope else 9)
        row = {k: claim.get(k, "") for k in ("id", "name", "paper", "where", "statement", "expected", "figure")}
        measured = [
            f"{c.scope}: " * (len(claim["primary"]) > 1 and not c.what.startswith(c.scope)) + _measured(c)
            for c in checks
            if c.scope
        ]
        row |= {"measured": "; ".join(measured), "verdict": verdict(checks, id)}
        row["notebook"] = ", ".join(sorted({c.notebook for c in checks if c.notebook}))
        pending = [s for s in claim.get("primary", {}) if s not in {c.scope for c in checks}]
        row |= {"out_of_reach": claim.get("out_of_reach", ""), "pending": pending}
        row["checks"] = [_shown(c) for c in checks]
        rows.append(row)
    return rows


def words(row: Mapping[str, Any]) -> list[str]:
    """A row's verdicts, one for each of its scopes."""
    return [part.split(": ")[-1] for part in row["verdict"].split("; ") if part.split(": ")[-1] in VERDICTS]
