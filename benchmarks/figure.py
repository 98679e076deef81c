"""Error against evaluations: each library's closest solvers, and ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from benchmarks.report import Record
from lab.report import figures

COLOURS = {"zsnr": "#1f7a8c", "diffusers": "#d1495b", "k-diffusion": "#b07a1e", "azula": "#8d6cab"}
COLOURS["smalldiffusion"] = "#6b7a53"
TITLES = {
    "gaussian": "Gaussian data, largest error of the std, %",
    "seen": "Four classes, median RMSE",
    "held out": "Four held-out mixtures, median RMSE",
    "network": "Trained network, median RMSE",
}
OURS = {"eab": "o", "dpmpp_2m": "^", "heun": "s"}


def draw(record: Record, path: Path) -> None:
    """One panel a test: ours by solver, of each peer the envelope (its best solver in each column), others faint."""
    figures.style()
    tests = [t for t in TITLES if t in record["errors"][0]["cells"]]
    fig = Figure(figsize=(7.2, 3.1 * ((len(tests) + 1) // 2) + 0.5), layout="constrained")
    axes = fig.subplots(-(-len(tests) // 2), 2, squeeze=False).flat
    for ax, test in zip(axes, tests, strict=False):
        scale = 100 if test == "gaussian" else 1
        budgets = [int(b) for b in record["errors"][0]["cells"][test]]
        curves: dict[str, list[tuple[str, list[Any]]]] = {}
        for row in record["errors"]:
            y = [c["error"] for c in row["cells"][test].values()]
            y = [scale * e if e is not None and e < 3 else None for e in y]
            curves.setdefault(row["library"], []).append((row["name"], y))
        for library in [k for k in COLOURS if k in curves and k != "zsnr"]:
            look: dict[str, Any] = {"color": COLOURS[library], "zorder": 2}
            for _, y in curves[library]:
                ax.plot(budgets, y, lw=0.5, alpha=0.25, **look)
            columns = zip(*(y for _, y in curves[library]), strict=True)
            least = [min((e for e in column if e is not None), default=None) for column in columns]
            ax.plot(budgets, least, "D-", ms=3, lw=1.1, label=f"{library}, best of {len(curves[library])}", **look)
        for name, y in curves["zsnr"]:
            if name in OURS:
                thick = 2.0 if name == "eab" else 1.2
                shade = {"color": COLOURS["zsnr"], "alpha": 1.0 if name == "eab" else 0.65, "zorder": 3}
                ax.plot(budgets, y, f"{OURS[name]}-", ms=4, lw=thick, label=f"zsnr, {name}", **shade)
        ax.set(xscale="log", yscale="log", title=TITLES[test], xlabel="network evaluations")
        ax.set_xticks(budgets, map(str, budgets))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_minor_formatter(NullFormatter())
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7.5, frameon=False)
    fig.savefig(path, dpi=200, metadata={"Software": None})
