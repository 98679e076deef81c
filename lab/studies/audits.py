"""Finding 15: every scheduler of diffusers under the audit, with two configurations each, and published models."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import diffusers
import matplotlib.pyplot as plt
import numpy as np
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lab.studies.progress import bar
from zsnr.audit import AuditError, Report, audit, known

OFTEN = ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")
"""Used most: every count is tried."""
SLOW = ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "LMSDiscreteScheduler")
"""They compute their grids or coefficients in Python loops: few counts are tried."""
STATES = {
    "refused, with a reason": "#d0d0d0",
    "every step on target": "#cfe3e6",
    "a step misses by 0.5 to 10 training steps": "#e3c27f",
    "a step misses by more than 10": "#b07a1e",
    "not a number": "#8d6cab",
    "a step outside the table": "#d1495b",
}

Reports = dict[tuple[str, str], Report]
"""By scheduler and configuration."""


def configurations() -> dict[str, dict[str, Any]]:
    """Stable Diffusion 1.5's, and the remedy of Lin et al. 2023: zero terminal SNR, v-prediction, trailing steps."""
    sd = known()["Stable Diffusion 1.5"]["config"]
    sd = {k: v for k, v in sd.items() if k != "_class_name"} | {"clip_sample": False}
    zero = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    return {"SD 1.5": sd, "zero SNR": sd | zero | {"set_alpha_to_one": True}}


def tried(name: str, counts: int, slow_counts: int) -> Sequence[int]:
    """The counts of steps that a scheduler is tried with, up to `counts` and at most 1000."""
    T = min(counts, 1000)
    if name in OFTEN:
        return range(1, T + 1)
    if name in SLOW:
        return sorted({round(x) for x in np.geomspace(1, T, slow_counts)} | ({61} if T >= 61 else set()))
    return [n for n in range(1, T + 1) if n <= 125 or n % 25 == 0]


def _kinds() -> Iterator[tuple[str, Any]]:
    for name in sorted(dir(diffusers.schedulers)):
        kind = getattr(diffusers.schedulers, name)
        if inspect.isclass(kind) and issubclass(kind, SchedulerMixin) and kind is not SchedulerMixin:
            yield name, kind


def schedulers(counts: int, slow_counts: int) -> tuple[Reports, list[str]]:
    """The report of each scheduler that can be judged, and the names of the others.

    Schedulers with a table of betas are judged in both configurations, the others in their own default one.
    """
    reports: Reports = {}
    unjudged: list[str] = []
    diffusers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, kind in bar(list(_kinds()), "schedulers"):
            table = "beta_start" in inspect.signature(kind.__init__).parameters
            for label, config in (configurations() if table else {"default": {}}).items():
                try:
                    report = audit(kind.from_config(config), counts=tried(name, counts, slow_counts))
                    reports[name.removesuffix("Scheduler"), label] = report
                except (AuditError, TypeError):  # TypeError: it must be told what its tokens are
                    unjudged.append(name.removesuffix("Scheduler"))
    return reports, list(dict.fromkeys(unjudged))


def published(counts: int) -> dict[str, Report]:
    """The reports of published models, by the configurations that the audit knows."""
    T = min(counts, 1000)
    probed = [n for n in (*range(1, 31), 50, 61, 100, 250, 333, 500, 1000) if n <= T]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {n: audit(entry["config"], shape=entry["shape"], counts=probed) for n, entry in known().items()}


def with_options(counts: int) -> list[tuple[str, str, Report]]:
    """(scheduler, option of its step, report) of those whose options are wrong."""
    config = configurations()
    probed = [n for n in (10, 25, 50, 100) if n <= min(counts, 1000)]
    cases: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
        (diffusers.DDIMScheduler, config["zero SNR"], {"eta": 1.0}),
        (diffusers.EulerDiscreteScheduler, config["SD 1.5"], {"s_churn": 4.0}),
        (diffusers.EDMEulerScheduler, {}, {"s_churn": 4.0}),
    ]
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, settings, option in cases:
            report = audit(kind.from_config(settings), counts=probed, **option)
            text = ", ".join(f"{k} = {v:g}" for k, v in option.items())
            found.append((kind.__name__.removesuffix("Scheduler"), text, report))
    return found


def by_bug(reports: Reports) -> list[tuple[str, int, str]]:
    """(bug, how many schedulers have it, which), the most frequent first."""
    found: dict[str, dict[str, None]] = {}
    for (name, _), report in reports.items():
        for bug in (f for f in report.findings if f.severity == "bug"):
            found.setdefault(bug.name, {})[name] = None
    return sorted(((bug, len(names), ", ".join(names)) for bug, names in found.items()), key=lambda row: -row[1])


def strip(report: Report, T: int) -> np.ndarray:
    """(T,) the state of each count, an index of STATES; between counts that were tried, the next one's."""
    outside = {n for b in report.findings if b.name == "step outside the table" for n in b.counts}
    tested = sorted(report.errors)
    found = np.empty(T)
    for n in range(1, T + 1):
        error = report.errors[tested[min(int(np.searchsorted(tested, n)), len(tested) - 1)]]
        if n in outside:
            found[n - 1] = 5
        elif math.isinf(error):
            found[n - 1] = 0
        else:
            found[n - 1] = 4 if math.isnan(error) else 1 if error < 0.5 else 2 if error < 10 else 3
    return found


def figure(reports: Mapping[tuple[str, str], Report], T: int) -> Figure:
    """Each scheduler's worst step by the count of steps, with the remedy's configuration where it takes one.

    Those with a bug come first, by how many counts are wrong.
    """
    shown = {key: strip(r, T) for key, r in reports.items() if key[1] != "SD 1.5"}
    wrong = {key: int((row > 1).sum()) for key, row in shown.items()}
    order = sorted(shown, key=lambda key: (-wrong[key], key))
    grid = np.array([shown[key] for key in order])
    fig, ax = plt.subplots(figsize=(7, 0.165 * len(order) + 0.8))
    colours, norm = ListedColormap(list(STATES.values())), BoundaryNorm(np.arange(7) - 0.5, 6)
    edges = np.arange(T + 1) + 0.5
    ax.pcolormesh(edges, np.arange(len(order) + 1), grid, cmap=colours, norm=norm, rasterized=True)
    ax.hlines(np.arange(1, len(order)), 0.5, T + 0.5, color="white", lw=1.2)
    if len(first := [key for key in order if wrong[key]]) < len(order):
        ax.axhline(len(first), color="black", lw=0.8)
    names = []
    for name, label in order:
        ignored = "zero SNR ignored" in {f.name for f in reports[name, label].findings}
        names.append(name + (" (default)" if label == "default" else "") + ("*" if ignored else ""))
    ax.set(xscale="log", xlim=(0.9, T + 0.5), xlabel="sampling steps", yticks=np.arange(len(order)) + 0.5)
    ticks = [n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if n <= T]
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.minorticks_off()
    ax.set_yticklabels(names, fontsize=6.5)
    ax.invert_yaxis()
    ax.grid(False)
    ax.tick_params(axis="y", length=0)
    present = [Patch(color=c, label=t) for k, (t, c) in enumerate(STATES.items()) if (grid == k).any()]
    fig.legend(handles=present, loc="lower center", bbox_to_anchor=(0.45, 0.9), ncols=3, fontsize=7, handlelength=1)
    return fig
