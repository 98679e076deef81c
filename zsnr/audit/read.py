"""A scheduler, or what a single-file checkpoint says, out of whatever an audit is given."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import zsnr
from zsnr.audit.errors import AuditError, check_counts, positive, theirs, training_steps
from zsnr.diffusers import card
from zsnr.prediction import PREDICTIONS

EDM, UNET, XL = "edm_vpred.sigma_max", "model.diffusion_model.input_blocks.", "conditioner.embedders.1."
KEYS = {EDM: "v", "v_pred": "v", "edm_mean": "eps"}
SPECS = ("modelspec.prediction_type", "modelspec.predict_key")
SAID = {"epsilon": "eps", "v": "v", "v_prediction": "v"}


def load(subject: Any) -> tuple[Any, tuple[int, ...] | None]:
    """(scheduler, shape of what its pipeline denoises, if known) of anything that `audit` takes but a Schedule.

    Raises:
        AuditError: with what to give instead.
    """
    import diffusers

    where, shape = "the config", None
    if isinstance(subject, type):
        raise AuditError(f"{subject.__name__} is a class: give an object, such as {subject.__name__}()")
    if hasattr(subject, "scheduler"):  # a pipeline
        model = getattr(subject, "unet", None) or getattr(subject, "transformer", None)
        shape, subject = _shape(getattr(model, "config", {})), subject.scheduler
    if all(hasattr(subject, name) for name in ("set_timesteps", "step", "config")):
        return subject, shape
    if isinstance(subject, str | Path):
        file, shape = _file(Path(subject))
        where, subject = str(file), _json(file)
    if not isinstance(subject, Mapping):
        what = type(subject).__name__
        raise AuditError(f"cannot audit a {what}: give a Schedule, scheduler, pipeline, config or path")
    name = str(subject.get("_class_name") or _class_of(subject))
    if name == "None":
        raise AuditError(f'{where} has no "_class_name": add the scheduler\'s, such as "DDIMScheduler"')
    kind: Any = getattr(zsnr if name == "ZeroSNRScheduler" else diffusers, name, None)
    with theirs(name):  # without what it needs, a class raises whatever it is asked
        is_scheduler = hasattr(kind, "set_timesteps")
    if not is_scheduler:
        what = f"{where}: diffusers {diffusers.__version__} has no scheduler {name!r}"
        raise AuditError(f"{what}; give the scheduler's own config, upgrade diffusers, or pass the live object")
    training_steps(subject)
    check_counts(subject)
    takes_betas = "beta_start" in inspect.signature(kind).parameters
    if takes_betas and not {"beta_start", "trained_betas", "beta_schedule"} & set(subject):
        what = f"{where} has no betas, and {name} would take its own defaults"
        raise AuditError(f"{what}: add beta_start, beta_end and beta_schedule, or trained_betas")
    with theirs(f"making {name} from {where}"):
        return kind.from_config(dict(subject)), shape


def checkpoint(file: Path) -> tuple[dict[str, Any], float, str, tuple[int, ...], str]:
    """(facts, alpha_bar at T, prediction, shape, contradictions) of a single-file checkpoint of Stable Diffusion or XL.

    A card of ours in its metadata is all that is needed. Without one, the keys are read that ComfyUI reads:
    `edm_vpred.sigma_max` (v, sigma_data 1); `v_pred` and `ztsnr`; `edm_mean` with `edm_std` (eps, sigma_data 0.5,
    sigma_max 80); then the metadata `modelspec.prediction_type` (kohya) or `modelspec.predict_key` (ComfyUI). The first
    is followed, and what the others say against it is named. No such file holds its betas: those of Stable Diffusion
    are assumed.

    Raises:
        AuditError: it is no checkpoint, not of Stable Diffusion, or says what cannot be.
    """
    from safetensors import SafetensorError, safe_open

    try:
        found = card.read(file)
        with safe_open(file, "pt") as opened:
            keys, said = set(opened.keys()), opened.metadata() or {}
            told = {EDM: opened.get_tensor(EDM).item() if EDM in keys else 80.0}
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise AuditError(f"{file} cannot be read ({error}): give a checkpoint in .safetensors") from error
    shape = (4, 128, 128) if any(key.startswith(XL) for key in keys) else (4, 64, 64)
    if found and found.schedule is None:
        raise AuditError(f"{file} cannot be judged: EDM's preconditioning wraps it, says its card; give its scheduler")
    if not found and not any(key.startswith(UNET) for key in keys):
        what = f"no tensor {UNET}*, so it is no whole checkpoint of Stable Diffusion, and its schedule is not known"
        raise AuditError(f"{file} cannot be judged: {what}; give its pipeline's folder, or a scheduler_config.json")
    sigmas = {EDM: positive(told, EDM), "edm_mean": 80 / 0.5}  # of data of unit std
    levels = {key: 1 / (1 + sigma**2) for key, sigma in sigmas.items()} | {"ztsnr": 0.0}
    predictions = {f"key {key}": what for key, what in KEYS.items() if key in keys}
    predictions |= {f"metadata {name}": SAID.get(said[name], repr(said[name])) for name in SPECS if name in said}
    ends = {f"key {key}": end for key, end in levels.items() if key in keys}
    if found:
        predictions = {"card": found.prediction} | predictions
        ends = {"card": found.steps.alpha_bar[-1].item()} | ends
    by, prediction = next(iter(predictions.items()), ("nothing: assumed", "eps"))
    if prediction not in PREDICTIONS:
        raise AuditError(f"{file} cannot be judged: its {by} is {prediction}; those known are {', '.join(SAID)}")
    facts = {"prediction by": by}
    facts |= {} if found or keys & {*sigmas} else {"assumed": "Stable Diffusion's betas, T = 1000"}
    end = next(iter(ends.values()), zsnr.schedule.stable_diffusion().alpha_bar[-1].item())
    disputes = [", ".join(f"{who} ({what})" for who, what in predictions.items())] * (len({*predictions.values()}) > 1)
    disputes += [", ".join(f"{who} (alpha_bar = {at:.2g})" for who, at in ends.items())] * (len({*ends.values()}) > 1)
    return facts, end, prediction, shape, "; ".join(disputes)


def _class_of(config: Mapping[str, Any]) -> str | None:
    """The class whose arguments are all in a live scheduler's config, which does not name it; None if not one alone."""
    import diffusers

    if "_use_default_values" not in config:
        return None
    kinds = {name: getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Scheduler")}
    kinds["ZeroSNRScheduler"] = zsnr.ZeroSNRScheduler
    known = {name: set(inspect.signature(kind).parameters) for name, kind in kinds.items() if "Parallel" not in name}
    fitting = sorted((len(known[name]), name) for name in known if known[name] <= set(config))
    return fitting[-1][1] if fitting and [size for size, _ in fitting].count(fitting[-1][0]) == 1 else None


def known() -> dict[str, dict[str, Any]]:
    """The configurations of `known.yaml` whose `needs` is installed, by name: source, `seen`, shape, config."""
    from ruamel.yaml import YAML

    entries = YAML(typ="safe").load(Path(__file__).with_name("known.yaml"))
    return {name: one for name, one in entries.items() if not (needs := one.get("needs")) or find_spec(needs)}


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
        out = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        what = "give a scheduler_config.json, or a checkpoint in .safetensors"
        raise AuditError(f"{file} is not readable JSON ({error}): {what}") from error
    if not isinstance(out, dict):
        raise AuditError(f"{file} holds a {type(out).__name__}, not a config: give a scheduler_config.json")
    return out


def _shape(config: Any) -> tuple[int, ...] | None:
    channels, size = config.get("in_channels"), config.get("sample_size")
    right = all(isinstance(number, int) and number > 0 for number in (channels, size))
    return (channels, size, size) if right else None
