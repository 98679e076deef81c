"""A scheduler, and the shape of what it denoises, out of whatever an audit is given."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import zsnr


class AuditError(ValueError):
    """What was given cannot be read; the message says what to give instead."""


def load(subject: Any) -> tuple[Any, tuple[int, ...] | None]:
    """(scheduler, shape of what its pipeline denoises, if known) of anything that `audit` takes but a Schedule.

    Raises:
        AuditError: with what to give instead.
    """
    import diffusers
    from diffusers.configuration_utils import FrozenDict

    where, shape = "the config", None
    if isinstance(subject, type):
        raise AuditError(f"{subject.__name__} is a class: give an object, such as {subject.__name__}()")
    if hasattr(subject, "scheduler"):  # a pipeline
        model = getattr(subject, "unet", None) or getattr(subject, "transformer", None)
        shape, subject = _shape(getattr(model, "config", {})), subject.scheduler
    if hasattr(subject, "set_timesteps"):
        return subject, shape
    if isinstance(subject, str | Path):
        file, shape = _file(Path(subject))
        where, subject = str(file), _json(file)
    if not isinstance(subject, dict | FrozenDict):
        kind = type(subject).__name__
        raise AuditError(f"cannot audit a {kind}: give a Schedule, scheduler, pipeline, config or path")
    name = subject.get("_class_name")
    if name is None:
        raise AuditError(f'{where} has no "_class_name": add the scheduler\'s, such as "DDIMScheduler"')
    scheduler_class: Any = getattr(zsnr if name == "ZeroSNRScheduler" else diffusers, str(name), None)
    if not hasattr(scheduler_class, "set_timesteps"):
        raise AuditError(
            f"{where}: diffusers {diffusers.__version__} has no scheduler {name!r}; give the scheduler's own config, "
            "upgrade diffusers, or pass the live object"
        )
    known = inspect.signature(scheduler_class).parameters
    if "beta_start" in known and not {"beta_start", "trained_betas", "beta_schedule"} & set(subject):
        raise AuditError(f"{where} has no betas, and {name} would take its own defaults: add beta_start, beta_end and "
                         "beta_schedule, or trained_betas")  # fmt: skip
    try:
        return scheduler_class.from_config(dict(subject)), shape
    except Exception as error:  # whatever a config holds
        raise AuditError(f"{name} cannot be made from {where}: {error}") from error


def known() -> dict[str, dict[str, Any]]:
    """The configurations of `known.yaml`, by name: source, how it was seen, shape, config."""
    from ruamel.yaml import YAML

    return dict(YAML(typ="safe").load(Path(__file__).with_name("known.yaml")))


def _file(path: Path) -> tuple[Path, tuple[int, ...] | None]:
    """The scheduler's config file in a pipeline's folder, in its own, or itself; and the pipeline's shape."""
    if not path.exists():
        raise AuditError(f"{path} does not exist: give a pipeline's folder, a scheduler's, or a scheduler_config.json")
    if path.is_file() and path.name != "model_index.json":
        return path, None
    folder = path if path.is_dir() else path.parent
    index = folder / "model_index.json"
    pipeline = index.is_file()
    if pipeline and "scheduler" not in _json(index):
        raise AuditError(f"the pipeline in {folder} names no scheduler: give the folder of the one to audit")
    file = folder / ("scheduler" if pipeline else "") / "scheduler_config.json"
    if not file.is_file():
        what = "give the folder that holds model_index.json, or the file itself"
        raise AuditError(f"no {file.name} in {file.parent}: {what}")
    configs = [folder / part / "config.json" for part in ("unet", "transformer")]
    return file, next((_shape(_json(config)) for config in configs if config.is_file()), None)


def _json(file: Path) -> dict[str, Any]:
    try:
        out = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AuditError(f"{file} is not readable JSON ({error}): give a scheduler_config.json") from error
    if not isinstance(out, dict):
        raise AuditError(f"{file} holds a {type(out).__name__}, not a config: give a scheduler_config.json")
    return out


def _shape(config: Any) -> tuple[int, ...] | None:
    channels, size = config.get("in_channels"), config.get("sample_size")
    return (channels, size, size) if isinstance(channels, int) and isinstance(size, int) else None
