"""Tables and the figure."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.overhead import MICROSECONDS, RATIO, SHAPES, STEPS
from lab.report import figures

COLOURS = {
    "zsnr": "#1f7a8c",
    "diffusers": "#d1495b",
    "k-diffusion": "#b07a1e",
    "azula": "#8d6cab",
    "yardstick": "#222222",
}
SMALL, LARGE = ("x".join(map(str, shape)) for shape in SHAPES)
Rows = Sequence[dict[str, Any]]


def machine() -> str:
    """The processor and versions that timings belong to."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    found = [cpu, f"python {platform.python_version()}"]
    for name in ("torch", "diffusers", "k-diffusion", "azula"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} missing")
    return ", ".join(found)


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", "---", *["---:"] * (len(header) - 2)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines)) + "\n"


def overhead(rows: Rows, where: str) -> str:
    """The overhead of all as Markdown."""
    units = [f"us {kind}, {shape}" for shape in (SMALL, LARGE) for kind in ("a step", "an evaluation")]
    lines = []
    for r in sorted(rows, key=lambda r: (r["draws"], r["library"] != "yardstick", r["evaluation"][1])):
        times = [f"{r[kind][k]:.1f}" for k in (0, 1) for kind in ("step", "evaluation")]
        verdict = "; ".join(r["misses"]) or "yes" if "misses" in r else ""
        lines.append([r["library"], r["name"], *times, f"{r['ratio']:.2f}", verdict])
    return f"""# Overhead: samplers without their network

{STEPS} steps, one thread, float32, the fastest of many turns; the network is a function that returns a constant tensor.
The lean loop is `v = network(x, a[i]); x = a[i] * x + b[i] * v` with Python floats: two products and a sum. Our budget:
at most {MICROSECONDS:g} us a step at {SMALL}, at most {RATIO} lean loops by evaluation at {LARGE}, and at both less by
evaluation than every peer of the same kind (one evaluation a step, two, multistep; with noise or without). Those that
draw noise, at the end, may spend on it what the lean loop does. Peers' grids are made beforehand; our checks and
coefficients are timed.

{where}

{_table(["library", "sampler", *units, "lean loops", "ours: in the budget, ahead of its peers"], lines)}"""


def _percent(x: float) -> str:
    return "-" if math.isinf(x) else f"{100 * x:.3g} %" if x < 9.995 else f"{1 + x:.3g} times"


def errors(rows: Rows, direction: Rows) -> str:
    """Errors of all as Markdown, and the grids that have them."""
    header = ["library", "sampler", *(str(cell["budget"]) for cell in rows[0]["cells"])]
    rows = sorted(rows, key=lambda r: (r["library"] != "zsnr", r["cells"][len(r["cells"]) // 2]["error"]))
    cells = [
        [f"**{_percent(c['error'])}, closer**" if c["closer"] else _percent(c["error"]) for c in r["cells"]]
        for r in rows
    ]
    grids = [
        [*("-" if math.isinf(c["error"]) else c["grid"] for c in r["cells"]), str(r["cells"][0]["tried"])] for r in rows
    ]
    names = [[r["library"], r["name"]] for r in rows]
    one = [[str(d["steps"]), *(f"{x:.4g}" for x in d["zsnr"] + d.get("k-diffusion", []))] for d in direction]
    stand_ins = ["k-diffusion, sigma 4096", "k-diffusion, sigma 4518.76"][: len(one[0]) - 2]
    return f"""# Error by evaluations

Gaussian data with variances from 1/64 to 64, the exact denoiser, from zero terminal SNR: the largest
|generated std / true std - 1| over the variances, exact, without sampling. Columns: evaluations that may be used (20
are 20 steps of DDIM, 10 of Heun). Ours is on its default, `zsnr.power(N)`
or `zsnr.geometric(N)` for 2M, unless its name says otherwise; a peer on the best of all its grids in each column, with
its stand-in for the infinite sigma where it needs one. "closer": than zsnr's Heun on its default.

{_table(header, [n + c for n, c in zip(names, cells, strict=True)])}
## Variance 64 alone, trailing steps, Heun: generated std / true std

{_table(["steps", "zsnr, from zero SNR", *stand_ins], one)}
## The best of how many grids

{_table([*header, "tried"], [n + g for n, g in zip(names, grids, strict=True)])}"""


def figure(error_rows: Rows, overhead_rows: Rows, path: Path) -> None:
    """Error by evaluations, and overhead, side by side."""
    figures.style()
    fig = Figure(figsize=(10, 5.8), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=(1.15, 1))
    for r in (r for r in error_rows if not r["name"].endswith(("trailing", "best grid"))):
        ours, cells = r["library"] == "zsnr", [c for c in r["cells"] if c["error"] < 10]
        kind = next((k for k in ("Heun", "2M", "midpoint") if k in r["name"]), "")
        look: dict[str, Any] = {
            "marker": {"Heun": "s", "2M": "^", "midpoint": "D"}.get(kind, "o"),
            "color": COLOURS[r["library"]],
        }
        look |= {"ls": "--" if "flow" in r["name"].lower() else "-", "lw": 1.7 if ours else 0.9, "ms": 4 if ours else 3}
        x, y = [c["evaluations"] for c in cells], [100 * c["error"] for c in cells]
        left.plot(x, y, label=f"{r['library']} {r['name']}", alpha=1 if ours else 0.55, zorder=3 if ours else 2, **look)
    left.set(xscale="log", yscale="log", xlabel="network evaluations", ylabel="largest error of the std, %")
    budgets = [cell["budget"] for cell in error_rows[0]["cells"]]
    left.set_xticks(budgets, map(str, budgets))
    left.minorticks_off()
    left.set_title("Error: ours on its default grid, peers on their best")
    left.legend(fontsize=6, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    rows = sorted((r for r in overhead_rows if not r["draws"]), key=lambda r: -r["evaluation"][0])
    for k, shape in enumerate((SMALL, LARGE)):
        bar: dict[str, Any] = {"height": 0.38, "alpha": (1, 0.4)[k], "color": [COLOURS[r["library"]] for r in rows]}
        bars = right.barh([i + 0.2 - 0.4 * k for i in range(len(rows))], [r["evaluation"][k] for r in rows], **bar)
        right.bar_label(bars, [f"{r['evaluation'][k]:.0f}" for r in rows], padding=2, fontsize=5.5)
        right.barh([0], [0], color="0.2", alpha=(1, 0.4)[k], label=shape)
    right.set_yticks(range(len(rows)), [f"{r['library']} {r['name']}" for r in rows], fontsize=6.5)
    right.set(xscale="log", xlabel="microseconds an evaluation", xlim=(1, 600), ylim=(-0.6, len(rows) - 0.4))
    right.grid(axis="y", visible=False)
    right.legend(loc="upper right", fontsize=6.5)
    right.set_title("Overhead: deterministic samplers without their network")
    fig.savefig(path, metadata={"Software": None})
