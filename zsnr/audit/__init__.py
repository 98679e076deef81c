r"""Is this schedule, scheduler, saved pipeline or checkpoint flawed? What each finding costs, and its remedy.

    python -m zsnr.audit PATH [--steps 10 50] [--json] [--shape 4,64,64] [--exhaustive] [--step eta=1]

ends with 0 (sound), 1 (flawed, or with a bug at the steps asked for) or 2 (cannot be read or judged). Three severities:
a *bug* is the scheduler's; a *flaw* is in how it, or the model's training, is set; a *note* is no reason to act. Every
count of steps is checked: its grid (length, order, repeats, range, whether it starts at T) and the levels that the
steps land on (`zsnr.audit.probe`).

Source: Lin et al. 2023, Secs. 3.1 to 3.3; the leak is `zsnr.brightness.predicted`, for pictures whose channels' means
vary with a standard deviation of 0.5 of the data's.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zsnr.audit import checks
from zsnr.audit.errors import AuditError
from zsnr.audit.probe import Probe
from zsnr.audit.read import checkpoint, known, load
from zsnr.audit.report import SEVERITIES, Report
from zsnr.diffusers import card
from zsnr.schedule import Schedule

__all__ = ["STEPS", "AuditError", "Report", "audit", "known"]

STEPS = (10, 20, 25, 28, 30, 50)
"""Counts that people use."""


def audit(
    subject: Any,
    shape: Sequence[int] | None = None,
    exhaustive: bool = False,
    counts: Iterable[int] | None = None,
    asked: Iterable[int] | None = None,
    **step: Any,
) -> Report:
    """Audit a schedule, a scheduler, a pipeline, a config, or a path to one of the last three.

    Args:
        subject: a `Schedule`; a diffusers scheduler or pipeline; its config; a pipeline's or scheduler's folder; a
            JSON file; a checkpoint of Stable Diffusion in one .safetensors file.
        shape: (channels, height, width) of what is denoised: the pipeline's own, else (4, 64, 64).
        exhaustive: probe every step of every count, not the first two, the last, the longest and the shortest.
        counts: of steps to try; where left out, all, 1 .. T, or a ladder of them where T > 1000.
        asked: counts at which a bug of the scheduler counts against the model: `counts`, else `STEPS`.
        step: further arguments of the scheduler's `step`, such as eta=1.0 or s_churn=10.0.

    Raises:
        AuditError: it cannot be read or judged.
    """
    if shape is not None and (len(shape) != 3 or min(shape) < 1):
        raise AuditError(f"shape = {tuple(shape)}: give (channels, height, width), such as 4, 64, 64")
    if isinstance(subject, Schedule):
        report = Report("schedule")
        checks.schedule(report, subject.alpha_bar[-1].item(), shape or (4, 64, 64), subject.T)
        return report
    if isinstance(subject, str | Path) and Path(subject).suffix == ".safetensors" and Path(subject).is_file():
        facts, end, prediction, size, disputed = checkpoint(Path(subject))
        report = Report(Path(subject).name, {"prediction": prediction} | facts)
        if disputed:
            what = f"the file contradicts itself, and programs read it in different ways: {disputed}"
            report.add("flaw", "contradiction", what, "find out what it was trained for, and correct the others")
        checks.schedule(report, end, shape or size, 1000, prediction)
        return report
    scheduler, own_shape = load(subject)
    shape = shape or own_shape or (4, 64, 64)
    probe = Probe(scheduler, step, **_shift(scheduler.config, shape))
    levels, report = probe.levels, Report(type(scheduler).__name__)
    tried = _ladder(levels.T) if counts is None else list(counts)
    usual = [n for n in STEPS if n <= levels.T] or [levels.T]
    report.asked = sorted({*(asked or (usual if counts is None else tried))})
    tried = sorted({*tried, *report.asked}) or [0]
    if bad := [n for n in tried if not 1 <= n <= levels.T]:
        raise AuditError(f"{bad[0]} steps of a schedule of T = {levels.T}: choose 1 to {levels.T}")
    report.facts |= {"prediction": levels.prediction, "steps in training": levels.T}
    if isinstance(subject, Mapping) and "_class_name" not in subject:
        report.facts["class"] = "not named; the one whose arguments the config holds"
    checks.schedule(report, checks.table(report, scheduler, levels), shape, levels.T, levels.prediction)
    checks.steps(report, probe, shape, tried, exhaustive)
    _card(report, subject, scheduler)
    if "sigmas" in inspect.signature(scheduler.set_timesteps).parameters and hasattr(scheduler, "sigmas"):
        checks.custom_sigmas(report, probe)
    report.findings.sort(key=lambda one: SEVERITIES.index(one.severity))
    return report


def _card(report: Report, subject: Any, scheduler: Any) -> None:
    """Is the scheduler the one that the weights beside it say they were trained for?"""
    path = Path(subject) if isinstance(subject, str | Path) else None
    network = getattr(subject, "unet", None)
    try:
        found = card.read(path.parent if path.is_file() else path) if path else card.of(network)
    except FileNotFoundError:
        return  # a scheduler without weights
    except ValueError as error:
        raise AuditError(str(error)) from error
    if found is None:
        return
    report.facts["card"] = str(found)
    try:
        found.check_scheduler(scheduler)
    except ValueError as error:
        report.add("flaw", "card", str(error), "give the pipeline the scheduler that its weights were trained for")


def _ladder(T: int) -> list[int]:
    """All counts of steps up to T; of a long table, where a count can take a second, some up to 1000."""
    return [*range(1, T + 1)] if T <= 1000 else [*range(1, 65), *np.geomspace(65, 1000, 36).astype(int).tolist()]


def _shift(config: Any, shape: Sequence[int]) -> dict[str, float]:
    """mu of a flow whose shift depends on the picture's size: linear in the number of 2x2 patches."""
    if not config.get("use_dynamic_shifting"):
        return {}
    defaults = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
    low, high, least, most = (config.get(name, default) for name, default in defaults.items())
    try:
        return {"mu": least + (most - least) / (high - low) * (math.prod(shape[1:]) / 4 - low)}
    except (TypeError, ZeroDivisionError) as error:
        what = ", ".join(f"{name} = {config.get(name)!r}" for name in defaults)
        raise AuditError(f"cannot be judged: no shift for a picture's size follows from {what} ({error})") from error
