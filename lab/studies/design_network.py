"""Finding 6, a trained network: Figure 2 of Karras et al. 2022, by the stored sweep, in two measures.

The Fréchet distance is the paper's. The error is of each picture against the network's own converged solution from the
same noise: all samplers solve one ODE, so it is the sampler's alone, and of no network's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import bootstrap, chi2

from lab import ROOT
from lab.measure.store import Results, Row, load
from lab.report.figures import COLOURS
from lab.report.tables import Table, measured, table
from lab.studies.design_exact import HEUN, LOOKS, ORIGINAL, OURS

Curve = tuple[str, str, str, float]
Measured = tuple[float, tuple[float, float]]
HEUN_EDM: Curve = ("heun", "EDM", "rho7", 1.0)
RK45_EDM: Curve = ("rk45", "EDM", "rho7", 1.0)
EULER_EDM: Curve = ("euler", "EDM", "rho7", 1.0)
RK2_EDM: Curve = ("rk2", "EDM", "rho7", 1.1)
Check = tuple[str, str, object, object, dict[str, Any]]
PANELS: dict[str, dict[str, Curve]] = {
    "VP": {ORIGINAL: ("euler", "VP", "vp", 1.0), HEUN: ("heun", "VP", "rho7", 1.0), OURS: HEUN_EDM},
    "VE": {ORIGINAL: ("euler", "VE", "ve", 1.0), HEUN: ("heun", "VE", "rho7", 1.0), OURS: HEUN_EDM},
    "DDIM": {ORIGINAL: ("euler", "EDM", "iddpm", 1.0), OURS: HEUN_EDM},
}


class Network:
    """The sweep over samplers, by (solver, path, steps, alpha).

    `curves` are (N, 4): evaluations, Fréchet distance and its interval; `rows` the cells by their evaluations.

    Args:
        drawn: what stage `sweep` has stored; without it there are no curves.
    """

    def __init__(self, drawn: Results) -> None:
        self.drawn = drawn
        cells: dict[Curve, list[tuple[float, ...]]] = {}
        self.rows: dict[Curve, dict[int, Row]] = {}
        for row in self.drawn.where(study="design"):
            name = (row["solver"], row["path"], row["steps"], row["alpha"])
            cells.setdefault(name, []).append((row["evaluations"], row["frechet"], *row["frechet_interval"]))
            self.rows.setdefault(name, {})[row["evaluations"]] = row
        self.curves = {name: np.array(sorted(points)) for name, points in cells.items()}

    @property
    def real(self) -> Row:
        """Real pictures, as many as in a cell of the curves."""
        return self.drawn.one(study="real", n=self.drawn.one(study="converged")["n"])

    @property
    def repeats(self) -> list[float]:
        """Distances of repeated draws of one sampler; empty where the sweep has none."""
        return list(self.drawn.one(study="repeats")["frechet"] or []) if len(self.drawn) else []

    def whole(self, *names: Curve) -> bool:
        """Whether each of these has at least three cells; of fewer there is no best."""
        return all(len(self.curves.get(name, ())) >= 3 for name in names)

    def nfe(self, name: Curve) -> Measured:
        """Lowest evaluations within 3 % of the curve's best, with a 95 % interval."""
        return nfe(self.curves[name])

    def best(self, name: Curve) -> Measured:
        """The smallest distance of a curve, with its interval."""
        curve = self.curves[name]
        value, low, high = curve[curve[:, 1].argmin(), 1:].tolist()
        return value, (low, high)

    def error(self, name: Curve, evaluations: int) -> np.ndarray | None:
        """(n,) RMSE per pixel to the converged solution from the same noise, if the sweep has it."""
        row = self.rows.get(name, {}).get(evaluations)
        return None if row is None else row.tensors["error"].double().numpy()

    def at(self, name: Curve, evaluations: float) -> Measured | None:
        """The distance of a curve at a number of evaluations, if the sweep has it."""
        found = self.curves.get(name, np.empty((0, 4)))
        found = found[found[:, 0] == evaluations]
        return (found[0, 1], (found[0, 2], found[0, 3])) if len(found) else None

    def gains(self) -> dict[str, Measured]:
        """Evaluations of the original sampler over Heun's on sigma = t, of each family that has been swept."""
        there = {family: list(row.values()) for family, row in PANELS.items() if self.whole(*row.values())}
        return {family: over(self.nfe(names[0]), self.nfe(names[-1])) for family, names in there.items()}


def read(results: str) -> Network:
    """What stage `sweep` left below results/<profile>, if it has run."""
    folder = ROOT / results / "edm/sweep"
    return Network(load(folder) if folder.exists() else Results([]))


def family_checks(network: Network) -> Iterator[Check]:
    """(claim, check, value, interval, band) of the gains of each family, as far as the sweep has them."""
    gains = network.gains()
    for family in gains:
        names = list(PANELS[family].values())
        steps = [over(network.nfe(a), network.nfe(b)) for a, b in pairwise(names)]
        values, pairs = [value for value, _ in steps], [pair for _, pair in steps]
        yield "E-25", f"{family}: evaluations of each row over the next's", values, pairs, {"at_least": 1.0}
        best = over(network.best(names[-1]), network.best(names[0]))
        yield "E-25", f"{family}: best distance of the last row over the original's", *best, {"at_most": 1.03}
    if "VP" in gains:
        what = "network, VP: evaluations of the original sampler over ours, by distance"
        yield "E-25", what, *gains["VP"], {"at_least": 1.0}
    if len(gains) == 3:
        first = over(gains["VE"], max((gains["VP"], gains["DDIM"]), key=lambda g: g[0]))
        yield "E-29", "network: VE's gain over the larger of VP's and DDIM's", *first, {"at_least": 1.0}


def pair_checks(network: Network) -> Iterator[tuple[str, str, Measured, dict[str, Any]]]:
    """(claim, check, ratio, band) of pairs of samplers by distance, as far as the sweep has them."""
    costs = {"E-28": (RK45_EDM, "RK45"), "E-29": (EULER_EDM, "Euler")}
    for id, (other, name) in costs.items():
        if network.whole(other, HEUN_EDM):
            what = f"network: evaluations of {name} over Heun's on sigma = t"
            beside = id != "E-28"
            band = {"at_least": 1.0} if beside else {}
            yield id, what + ", by distance" * beside, over(network.nfe(other), network.nfe(HEUN_EDM)), band
    at_35 = network.at(HEUN_EDM, 35)
    others = {
        ("E-10", "network: distance at alpha = 1.1 over alpha = 1"): (network.at(RK2_EDM, 35), at_35),
        ("E-35", "network: distance at 35 evaluations over the curve's best"): (
            at_35,
            network.best(HEUN_EDM) if at_35 else None,
        ),
    }
    for (id, what), (a, b) in others.items():
        if a and b:
            yield id, what, over(a, b), {"at_most": 1.03 if id == "E-35" else 1.0}


def error_checks(network: Network) -> Iterator[tuple[str, str, Measured, dict[str, Any]]]:
    """(claim, check, ratio, band) of the errors to the converged solution, as far as the sweep has them."""
    ours = (HEUN_EDM, 35)
    compared: dict[tuple[str, str], tuple[tuple[Curve, int], tuple[Curve, int]]] = {
        ("E-10", "network: error at alpha = 1.1 over alpha = 1, 35 evaluations"): ((RK2_EDM, 35), ours),
        ("E-29", "network: error of Heun at 35 evaluations over Euler's at 64, sigma = t"): (ours, (EULER_EDM, 64)),
        ("E-30", "network: error at 35 over 13 evaluations"): (ours, (HEUN_EDM, 13)),
    }
    primary = {"E-10", "E-29"}
    for family, names in PANELS.items():
        what = f"network, {family}: error of ours at 35 evaluations over the original sampler's at 64"
        compared["E-25", what] = (ours, (names[ORIGINAL], 64))
    for (id, what), (a, b) in compared.items():
        top, bottom = network.error(*a), network.error(*b)
        if top is not None and bottom is not None:
            decides = id in primary or what.startswith("network, VP")
            yield id, what, error_ratio(top, bottom), {} if decides else {"at_most": 1.0}


def enough_checks(network: Network) -> Iterator[tuple[str, str, Measured, dict[str, Any]]]:
    """(claim, check, ratio, band) of distances of many pictures from the same noises, as far as the sweep has them."""
    compared = {
        "13": ("E-30", "network: distance at 35 over 13 evaluations"),
        "converged": ("E-35", "network: Frechet distance at 35 evaluations over the converged solution's"),
    }
    for row in network.drawn.where(study="enough"):
        yield *compared[row["over"]], (row["ratio"], tuple(row["interval"])), {"note": _enough_note(network, row)}


def _enough_note(network: Network, row: Row) -> str:
    a, b = row["frechet"]
    real = network.drawn.one(study="real", n=row["n"])["frechet"]
    return f"{row['n']} pictures, distances {a:.2f} and {b:.2f}; of as many real ones {real:.2f}"


def checks(network: Network) -> Iterator[Check]:
    """(claim, check, value, interval, band) of all that the sweep decides."""
    yield from family_checks(network)
    for id, what, (value, pair), band in (*pair_checks(network), *error_checks(network), *enough_checks(network)):
        yield id, what, value, pair, band
    if repeats := network.repeats:
        note = "fewer pictures and other features than FID's 50000; the interval is that of a normal spread"
        what = f"half the range of {len(repeats)} distances over their mean"
        yield "E-31", what, *half_range(repeats), {"equal": 0.02, "abs": 0.01, "note": note}


def nfe(curve: np.ndarray) -> Measured:
    """Lowest evaluations within 3 % of a curve's best, and their 95 % interval from the distances' intervals.

    The interval has no upper end where the curve still falls by more at its last cell.
    """
    n, middle, lower, upper = curve.T

    def lowest(values: np.ndarray) -> float:
        return float(n[values <= 1.03 * values.min()].min())

    error = (upper - lower) / 3.92 / middle
    drawn = middle * np.exp(error * np.random.default_rng(0).standard_normal((1000, len(n))))
    low, high = np.quantile([lowest(values) for values in drawn], [0.025, 0.975])
    return lowest(middle), (low, math.inf if lowest(middle) == n[-1] else high)


def over(a: Measured, b: Measured) -> Measured:
    """a / b, with the interval from the worst cases of both."""
    low, high = sorted((a[1][0] / b[1][1], a[1][1] / b[1][0]))
    return a[0] / b[0], (low, high)


def less(network: Network) -> str:
    """What of the original VP sampler's error is left by Heun's method in about half of its evaluations, as text."""
    found = {what: ratio for _, what, ratio, _ in error_checks(network) if what.startswith("network, VP")}
    return measured(*next(iter(found.values())), ".2f") if found else "an unmeasured number of"


def error_ratio(a: np.ndarray, b: np.ndarray) -> Measured:
    """Ratio of two mean errors from the same latents, with a 95 % bootstrap interval over these."""

    def ratio(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return a.mean(axis) / b.mean(axis)

    found = bootstrap(
        (a, b), ratio, paired=True, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(a.mean() / b.mean()), (float(found.low), float(found.high))


def half_range(values: Sequence[float]) -> Measured:
    """Half the range of repeats over their mean, and the 95 % interval of a normal spread."""
    half = float((max(values) - min(values)) / 2 / np.mean(values))
    degrees = len(values) - 1
    low, high = (half * math.sqrt(degrees / chi2.ppf(p, degrees)) for p in (0.975, 0.025))
    return half, (low, high)


def best_table(network: Network) -> Table:
    """The best distance of each curve of the figure, and the evaluations that it takes."""
    rows: list[tuple[object, ...]] = [
        (family, label, network.best(name), f"{network.nfe(name)[0]:.0f}")
        for family, names in PANELS.items()
        for label, name in names.items()
        if name in network.curves
    ]
    rows.append(("–", "real pictures", (network.real["frechet"], network.real["frechet_interval"]), None))
    return table(rows, ["model", "sampler", "best Fréchet distance", "evaluations within 3 % of it"])


def figure2(network: Network) -> Figure:
    """VP, VE and DDIM samplers on one network by evaluations: Fréchet distance, and error to the converged solution."""
    fig, axes = plt.subplots(2, 3, figsize=(7, 4.6), sharey="row", sharex=True)
    for (above, below), (family, names) in zip(axes.T, PANELS.items(), strict=True):
        looks = {label: (name, *LOOKS[label]) for label, name in names.items()}
        looks["RK45, σ = t"] = (RK45_EDM, COLOURS["offset"], "x")
        for label, (name, colour, style) in looks.items():
            if name in network.curves:
                n, middle, lower, upper = network.curves[name].T
                error = [middle - lower, upper - middle]
                above.errorbar(n, middle, error, fmt=style, color=colour, ms=3.5, lw=1, capsize=1.5, label=label)
                first = network.nfe(name)[0]
                above.plot(first, middle[n == first], "o", color=colour, ms=8, mfc="none", mew=0.9)
                errors = {n: row.tensors["error"].mean().item() for n, row in sorted(network.rows[name].items())}
                below.plot(list(errors), list(errors.values()), style, color=colour, ms=3.5, lw=1)
        above.plot([], [], "o", color="#777777", ms=8, mfc="none", label="fewest evaluations within 3 % of the best")
        above.axhline(network.real["frechet"], color=COLOURS["data"], lw=0.8, ls=":", label="real pictures")
        above.set(title=family, yscale="log")
        below.set(xlabel="evaluations of the network", xscale="log", yscale="log")
        below.set_xticks([8, 16, 32, 64, 128], ["8", "16", "32", "64", "128"])
        below.minorticks_off()
    axes[0, 0].set_ylabel("Fréchet distance")
    axes[1, 0].set_ylabel("error, RMSE per pixel")
    fig.tight_layout(rect=(0, 0.09, 1, 1))
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", ncols=3, fontsize=7)
    return fig
