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
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import zsnr
from zsnr.audit import checks
from zsnr.audit.noise_levels import Table, Unknown
from zsnr.audit.probe import Probe
from zsnr.audit.report import SEVERITIES, Report
from zsnr.diffusers import card
from zsnr.schedule import Schedule

FAKE_ZERO = 2**-24 * 1.001
"""Schedulers that cannot take a zero hold 2**-24 in its place."""
KNOW_ZERO_SNR = ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")


class AuditError(ValueError):
    """What was given cannot be read; the message says what to give instead."""


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
    name, config, shape = type(scheduler).__name__, scheduler.config, tuple(shape or own_shape or (4, 64, 64))
    try:
        probe = Probe(scheduler, step, **_shift(config, shape))
        levels, report = probe.levels, Report(name)
        chosen = list(range(1, levels.T + 1) if counts is None else counts)
        if bad := [n for n in chosen if not 1 <= n <= levels.T] or ([] if chosen else [0]):
            raise AuditError(f"{bad[0]} steps of a schedule of T = {levels.T}: choose 1 to {levels.T}")
        report.facts |= {"prediction": levels.prediction, "steps in training": levels.T}
        end = checks.alpha_bar(levels.last_angle)
        if isinstance(levels, Table):
            asked = bool(config.get("rescale_betas_zero_snr"))
            if asked and end > FAKE_ZERO:
                what = f"{name} does not know rescale_betas_zero_snr, but keeps it; its alpha_bar ends at {end:.3g}"
                report.add("bug", "zero SNR ignored", what, f"use {', '.join(KNOW_ZERO_SNR)}, which know it")
            elif asked:
                end = 0.0
            checks.floats(report, scheduler)
        checks.schedule(report, end, shape, levels.T, levels.prediction)
        refused = end == 0 and levels.prediction == "eps" and isinstance(levels, Table)
        checks.steps(report, probe, shape, end, chosen, exhaustive, not refused)
    except Unknown as error:
        raise AuditError(f"{error}. It cannot be judged: give a scheduler of images and Gaussian noise") from error
    _card(report, subject, scheduler)
    if "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
        checks.custom_sigmas(report, probe)
    report.findings.sort(key=lambda one: SEVERITIES.index(one.severity))
    return report


def load(subject: Any) -> tuple[Any, tuple[int, ...] | None]:
    """(scheduler, shape of what its pipeline denoises, if known) of anything that `audit` takes but a Schedule.

    Raises:
        AuditError: with what to give instead.
    """
    import diffusers
    from diffusers.configuration_utils import FrozenDict

    shape = None
    if isinstance(subject, type):
        raise AuditError(f"{subject.__name__} is a class: give an object, such as {subject.__name__}()")
    if hasattr(subject, "scheduler"):  # a pipeline
        model = getattr(subject, "unet", None) or getattr(subject, "transformer", None)
        shape, subject = _shape(getattr(model, "config", {})), subject.scheduler
    if hasattr(subject, "set_timesteps"):
        return subject, shape
    where = "the config"
    if isinstance(subject, str | Path):
        file, shape = _file(Path(subject))
        where, subject = str(file), _json(file)
    if not isinstance(subject, dict | FrozenDict):
        raise AuditError(
            f"cannot audit a {type(subject).__name__}: give a Schedule, scheduler, pipeline, config or path"
        )
    name = subject.get("_class_name")
    if name is None:
        raise AuditError(f'{where} has no "_class_name": add the scheduler\'s, such as "DDIMScheduler"')
    scheduler_class = getattr(zsnr if name == "ZeroSNRScheduler" else diffusers, str(name), None)
    if scheduler_class is None or not hasattr(scheduler_class, "set_timesteps"):
        raise AuditError(
            f"{where}: diffusers {diffusers.__version__} has no scheduler {name!r}; give the scheduler's own config, "
            "upgrade diffusers, or pass the live object"
        )
    known = inspect.signature(scheduler_class.__init__).parameters
    if "beta_start" in known and not {"beta_start", "trained_betas", "beta_schedule"} & set(subject):
        raise AuditError(f"{where} has no betas, and {name} would take its own defaults: add beta_start, beta_end and "
                         "beta_schedule, or trained_betas")  # fmt: skip
    try:
        return scheduler_class.from_config(dict(subject)), shape
    except Exception as error:  # whatever a config holds
        raise AuditError(f"{name} cannot be made from {where}: {error}") from error


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


def known() -> dict[str, dict[str, Any]]:
    """The configurations of `known.yaml`, by name: source, how it was seen, shape, config."""
    from ruamel.yaml import YAML

    return dict(YAML(typ="safe").load(Path(__file__).with_name("known.yaml")))


def _json(file: Path) -> dict[str, Any]:
    try:
        out = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AuditError(f"{file} is not readable JSON ({error}): give a scheduler_config.json") from error
    if not isinstance(out, dict):
        raise AuditError(f"{file} holds a {type(out).__name__}, not a config: give a scheduler_config.json")
    return out


def _file(path: Path) -> tuple[Path, tuple[int, ...] | None]:
    """The scheduler's config file in a pipeline's folder, in its own, or itself; and the pipeline's shape."""
    if not path.exists():
        raise AuditError(f"{path} does not exist: give a pipeline's folder, a scheduler's, or a scheduler_config.json")
    if path.is_file() and path.name != "model_index.json":
        return path, None
    folder = path.parent if path.is_file() else path
    if (folder / "model_index.json").is_file():
        if "scheduler" not in _json(folder / "model_index.json"):
            raise AuditError(f"the pipeline in {folder} names no scheduler: give the folder of the one to audit")
        shapes = [
            _shape(_json(f)) for part in ("unet", "transformer") if (f := folder / part / "config.json").is_file()
        ]
        file, shape = folder / "scheduler" / "scheduler_config.json", (shapes or [None])[0]
    else:
        file, shape = folder / "scheduler_config.json", None
    if not file.is_file():
        raise AuditError(
            f"no {file.name} in {file.parent}: give the folder that holds model_index.json, or the file itself"
        )
    return file, shape


def _shape(config: Any) -> tuple[int, ...] | None:
    channels, size = config.get("in_channels"), config.get("sample_size")
    return (channels, size, size) if isinstance(channels, int) and isinstance(size, int) else None


def _shift(config: Any, shape: Sequence[int]) -> dict[str, float]:
    """mu of a flow whose shift depends on the picture's size: linear in the number of 2x2 patches."""
    if not config.get("use_dynamic_shifting"):
        return {}
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    slope = (config.get("max_shift", 1.15) - config.get("base_shift", 0.5)) / (high - low)
    return {"mu": config.get("base_shift", 0.5) + slope * (math.prod(shape[1:]) / 4 - low)}
