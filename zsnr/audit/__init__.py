r"""Is this schedule, scheduler or saved pipeline flawed? What each finding costs, and its remedy.

    python -m zsnr.audit PATH [--json] [--shape 4,64,64] [--exhaustive] [--step eta=1]

ends with 0 (sound), 1 (flawed) or 2 (cannot be read). Three severities: a *bug* is the scheduler's; a *flaw* is in how
it, or the model's training, is set; a *note* is no reason to act. What is checked, for every count of steps: the grid
(length, order, repeats, range, whether it starts at T) and the levels that the steps land on (`zsnr.audit.probe`).

Source: Lin et al. 2023, Secs. 3.1 to 3.3; the leak is `zsnr.brightness.predicted`, for pictures whose channels' means
vary with a standard deviation of 0.5 of the data's.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zsnr.audit import checks
from zsnr.audit.noise_levels import Unknown
from zsnr.audit.probe import Probe
from zsnr.audit.read import AuditError, known, load
from zsnr.audit.report import SEVERITIES, Report
from zsnr.diffusers import card
from zsnr.schedule import Schedule

__all__ = ["AuditError", "Report", "audit", "known"]


def audit(
    subject: Any,
    shape: Sequence[int] | None = None,
    exhaustive: bool = False,
    counts: Iterable[int] | None = None,
    **step: Any,
) -> Report:
    """Audit a schedule, a scheduler, a pipeline, a config, or a path to one of the last three.

    Args:
        subject: a `Schedule`; a diffusers scheduler or pipeline; its config; a pipeline's or scheduler's folder; a
            JSON file.
        shape: (channels, height, width) of what is denoised: the pipeline's own, else (4, 64, 64).
        exhaustive: probe every step of every count, not the first two, the last, the longest and the shortest.
        counts: of steps to try; all, 1 .. T, where left out.
        step: further arguments of the scheduler's `step`, such as eta=1.0 or s_churn=10.0.

    Raises:
        AuditError: it cannot be read.
    """
    if isinstance(subject, Schedule):
        report = Report("schedule")
        checks.schedule(report, subject.alpha_bar[-1].item(), shape or (4, 64, 64), subject.T)
        return report
    if shape is not None and (len(shape) != 3 or min(shape) < 1):
        raise AuditError(f"shape = {tuple(shape)}: give (channels, height, width), such as 4, 64, 64")
    scheduler, own_shape = load(subject)
    shape = tuple(shape or own_shape or (4, 64, 64))
    try:
        probe = Probe(scheduler, step, **_shift(scheduler.config, shape))
        levels, report = probe.levels, Report(type(scheduler).__name__)
        chosen = list(range(1, levels.T + 1) if counts is None else counts)
        if bad := [n for n in chosen if not 1 <= n <= levels.T] or ([] if chosen else [0]):
            raise AuditError(f"{bad[0]} steps of a schedule of T = {levels.T}: choose 1 to {levels.T}")
        report.facts |= {"prediction": levels.prediction, "steps in training": levels.T}
        checks.schedule(report, checks.table(report, scheduler, levels), shape, levels.T, levels.prediction)
        checks.steps(report, probe, shape, chosen, exhaustive)
    except Unknown as error:
        raise AuditError(f"{error}. It cannot be judged: give a scheduler of images and Gaussian noise") from error
    _card(report, subject, scheduler)
    if "sigmas" in inspect.signature(scheduler.set_timesteps).parameters and hasattr(scheduler, "sigmas"):
        checks.custom_sigmas(report, probe)
    report.findings.sort(key=lambda one: SEVERITIES.index(one.severity))
    return report


def _card(report: Report, subject: Any, scheduler: Any) -> None:
    """Is the scheduler the one that the weights beside it say they were trained for?"""
    try:
        if isinstance(subject, str | Path):
            found = card.read(Path(subject).parent if Path(subject).is_file() else subject)
        else:
            found = card.of(getattr(subject, "unet", None))
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


def _shift(config: Any, shape: Sequence[int]) -> dict[str, float]:
    """mu of a flow whose shift depends on the picture's size: linear in the number of 2x2 patches."""
    if not config.get("use_dynamic_shifting"):
        return {}
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    slope = (config.get("max_shift", 1.15) - config.get("base_shift", 0.5)) / (high - low)
    return {"mu": config.get("base_shift", 0.5) + slope * (math.prod(shape[1:]) / 4 - low)}
