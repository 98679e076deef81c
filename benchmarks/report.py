"""The table, its excerpt for the README, and what they say about who is ahead."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.errors import TARGETS, error
from benchmarks.overhead import RATIO, STEPS

PACKAGES = ("torch", "diffusers", "k-diffusion", "azula", "smalldiffusion")
HEADS = {"gaussian": "Gaussian, %", "seen": "four classes", "held out": "held out", "network": "network"}
SHOWN = (10, 20, 50, 100)
"""Evaluations in docs/samplers.md, for the Gaussian data and the network."""
FIRST_ORDER = ("euler", "ddim", "Euler", "EDMEuler", "FlowMatchEuler", "DDIM", "TCD, eta 0", "Ito")
"""One call and one sum a step; what is of higher order has more to add, and is held against its like."""
Record = dict[str, Any]


def versions() -> dict[str, str]:
    """Of Python and of every library that is compared."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def processor() -> str:
    """What timings belong to."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def printed(test: str, value: float, bold: bool = False) -> str:
    """Three digits, in percent or thousandths."""
    if value >= 10:
        return "-"
    scaled = value * (100 if test == "gaussian" else 1000)
    text = f"{scaled:.0f}" if scaled >= 999.5 else f"{scaled:.3g}".replace("e-0", "e-")
    return f"**{text}**" if bold else text


def _error(row: Record, test: str, budget: str) -> float:
    return error(row["cells"][test][budget])


def _columns(record: Record, wanted: Sequence[tuple[str, str]], rows: Sequence[Record]) -> list[list[str]]:
    least = {at: min(_error(r, *at) for r in record["errors"]) for at in wanted}
    return [[printed(at[0], e := _error(r, *at), e == least[at]) for at in wanted] for r in rows]


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]], words: int = 2) -> str:
    rule = [*["---"] * words, *["---:"] * (len(header) - words)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines)) + "\n"


def _order(row: Record) -> tuple[bool, float]:
    budgets = list(row["cells"]["gaussian"])
    return row["library"] != "zsnr", _error(row, "gaussian", budgets[len(budgets) // 2])


def table(record: Record) -> str:
    """All of it as Markdown."""
    rows = sorted(record["errors"], key=_order)
    tests = list(rows[0]["cells"])
    wanted = [(t, b) for t in tests for b in rows[0]["cells"][t]]
    times = {(r["library"], r["name"]): r for r in record["overhead"]}
    lines = []
    for r, cells in zip(rows, _columns(record, wanted, rows), strict=True):
        time = times[r["library"], r["name"]]
        spent = [f"{c.get('evaluations', b)} of {b}" for b, c in r["cells"]["gaussian"].items()]
        spent = [text for text in spent if text.split()[0] != text.split()[-1]]
        overhead = f"{time['microseconds']:.0f}" + (f" ({time['ratio']:.2f})" if "ratio" in time else "")
        lines.append([r["library"], r["name"], *cells, overhead, ", ".join(spent)])
    header = ["library", "solver", *(f"{HEADS[t]}, {b}" for t, b in wanted), "overhead, us", "spends"]
    said = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    load = f"; load {record['load']:.1f} before the timings" if "load" in record else ""
    return f"""# Solvers at equal evaluations

Written by `python -m benchmarks`; the settings behind each cell are in benchmarks.json. From zero terminal SNR, or from
the largest noise that a library has. Columns: network evaluations that may be used, counted; what a solver really
spends is in the last column where it is less. Ours have one setting, their documented grid; a peer has the best of all
orders, grids and options of its own in each cell. The smallest of each column is bold, whoever's it is.

Gaussian: largest |generated std / true std - 1| over data variances from 1/64 to 64. The others: median RMSE over
latents against the converged solution, in thousandths: a mixture of narrow and wide classes, which eab's constants were
searched on; the geometric mean of four held-out mixtures; and the full profile's fine-tuned network with zero terminal
SNR; an earlier one decided, from other latents, between two sets of eab's constants. On it run, of each peer, the three
solvers closest on Gaussian data and the three on held-out mixtures at that number of evaluations, each with its three
closest settings there ("-": not among them, or it broke).
Overhead: {STEPS} steps at 4x4x64x64 without the network, an evaluation; in brackets, over a bare loop of the same sums.
A solver is held against those of its kind: first order, two calls a step, or higher order with one call counted a step.

{said}; {record["processor"]}{load}

{_markdown(header, lines)}"""


def closest(rows: Sequence[Record], test: str, budget: str) -> Record:
    """The row with the smallest error."""
    return min(rows, key=lambda r: _error(r, test, budget))


def shown(record: Record, wanted: Sequence[tuple[str, str]]) -> list[Record]:
    """Three of ours, and the best two of each other library: by the geometric mean of their errors in these columns.

    A column in which a solver was not run counts as the largest error of all in it.
    """
    largest = {at: max(e for r in record["errors"] if (e := _error(r, *at)) < math.inf) for at in wanted}

    def mean(row: Record) -> float:
        return sum(math.log(min(_error(row, *at), largest[at])) for at in wanted)

    of: dict[str, list[Record]] = {}
    for row in sorted(record["errors"], key=mean):
        of.setdefault(row["library"], []).append(row)
    ours = [row for row in of.pop("zsnr") if row["name"] in ("eab", "dpmpp_2m", "heun")]
    return sorted([*ours, *(row for some in of.values() for row in some[:2])], key=_order)


def excerpt(record: Record) -> str:
    """That of docs/samplers.md: the rows that are `shown`, and where peers are ahead."""
    cells = record["errors"][0]["cells"]
    wanted = [(t, b) for t in ("gaussian", "network") if t in cells for b in map(str, SHOWN) if b in cells[t]]
    rows = shown(record, wanted)
    lines = zip(rows, _columns(record, wanted, rows), strict=True)
    header = ["", *(f"{HEADS[t]}, {b}" for t, b in wanted)]
    text = _markdown(header, [[f"{r['library']}, {r['name']}", *some] for r, some in lines], words=1)
    return text + "\nPeers are ahead of all of ours: " + ("; ".join(behind(record)) or "nowhere") + ".\n"


def sentence(record: Record) -> str:
    """The README's: the smallest errors on the trained network, of `eab` and of all other libraries."""
    eab = next(r for r in record["errors"] if (r["library"], r["name"]) == ("zsnr", "eab"))
    peers = [r for r in record["errors"] if r["library"] != "zsnr"]
    budgets = list(eab["cells"]["network"])
    ours = [_error(eab, "network", b) for b in budgets]
    theirs = [_error(closest(peers, "network", b), "network", b) for b in budgets]
    mine, best = (_listed([printed("network", e) for e in errors]) for errors in (ours, theirs))
    exact = {t: some for t, some in eab["cells"].items() if t != "network"}
    own = [r for r in record["errors"] if r["library"] == "zsnr"]
    lost = {b for t, some in exact.items() for b in some if _least(peers, t, b) < _least(own, t, b)}
    return (
        f"With {_listed(budgets)} calls of the fixed network, the pictures of our solver `eab` are {mine} thousandths "
        f"(median RMSE) from the exact solution; those of the best of {len({r['library'] for r in peers})} other "
        f"libraries, {best}. On exact data others are nearer with {_listed(sorted(lost, key=int))} calls."
    )


def _least(rows: Sequence[Record], test: str, budget: str) -> float:
    return min(_error(r, test, budget) for r in rows)


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def behind(record: Record) -> list[str]:
    """Where a peer is closer than all of ours, a line a test with its setting, and where one of its kind is as fast."""
    found, sides = [], [[r for r in record["errors"] if (r["library"] == "zsnr") is own] for own in (True, False)]
    for test, cells in record["errors"][0]["cells"].items():
        said = []
        for budget in cells:
            our, peer = (closest(side, test, budget) for side in sides)
            if (e := _error(peer, test, budget)) < (a := _error(our, test, budget)):
                how = ", ".join(
                    filter(None, (f"{peer['library']} {peer['name']}", peer["cells"][test][budget].get("setting")))
                )
                said.append(f"{budget} ({how}: {printed(test, e)}, ours {printed(test, a)})")
        found += [f"{HEADS[test]}, at {', '.join(said)}"] if said else []
    for r in (r for r in record["overhead"] if r["library"] == "zsnr"):
        peers = [p for p in record["overhead"] if p["library"] != "zsnr" and _kind(p) == _kind(r)]
        faster = [p for p in peers if p["microseconds"] <= r["microseconds"]]
        least = min(faster, key=lambda p: p["microseconds"], default=None)
        found += [f"overhead of {r['name']} ({least['library']} {least['name']} takes less)"] if least else []
    return found


def _kind(row: Record) -> str:
    if row["evaluations"] > 1.5 * STEPS:
        return "two calls a step"
    return "one call" if row["name"] in FIRST_ORDER else "higher order"


def misses(record: Record) -> list[str]:
    """The targets that `eab` misses, and those of ours that take too many of their bare loops."""
    eab = next(r for r in record["errors"] if (r["library"], r["name"]) == ("zsnr", "eab"))
    limits = [(t, str(b), m) for t, some in TARGETS.items() for b, m in some.items() if str(b) in eab["cells"][t]]
    found = [f"{t}, {b} evaluations: {_error(eab, t, b):.3g} > {m:g}" for t, b, m in limits if _error(eab, t, b) > m]
    slow = [r for r in record["overhead"] if r.get("ratio", 0) > RATIO]
    return found + [f"{r['name']}: {r['ratio']:.2f} bare loops" for r in slow]
