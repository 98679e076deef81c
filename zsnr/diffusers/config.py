"""What diffusers' schedulers and their configs mean: the schedule of the training, and a grid by their rule."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import reprlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsnr import grids
from zsnr import schedule as schedules
from zsnr.schedule import Schedule, exact, from_alpha_bar

logger = logging.getLogger(__name__)
say_once = functools.cache(logger.warning)

PREDICTION_TYPES = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
BETAS: dict[str, Callable[[int, float, float], Schedule]] = {
    "linear": schedules.linear,
    "scaled_linear": schedules.stable_diffusion,
    "squaredcos_cap_v2": lambda T, start, end: schedules.cosine(T),
    "exp": lambda T, start, end: from_alpha_bar([math.exp(-12 * t / T) for t in range(1, T + 1)]),  # Shap-E's
}
DROPPED = (
    "a timestep_spacing at its default becomes trailing, which starts at T, and steps_offset, set_alpha_to_one and "
    "final_sigmas_type are not taken over: the last step ends at the image. Pass timestep_spacing to choose another"
)
FROM_LAST: dict[str, Callable[..., Tensor]] = {"power": grids.power, "skewed": grids.skewed, "uniform": grids.uniform}
"""Grids that start at a schedule's last level, whatever it is."""
LEVELS = ("karras", *FROM_LAST, "geometric")
COUNTS, OPEN = ("num_train_timesteps",), ("sigma_min", "sigma_max", "S_tmax")
NUMBERS = (
    *COUNTS, *OPEN, "beta_start", "beta_end", "snr_shift_scale", "alpha", "rho", "S_churn", "S_tmin", "S_noise",
    "clip_sample_range",
)  # fmt: skip
FLAGS = ("rescale_betas_zero_snr", "use_karras_sigmas", "clip_sample")
EPS = (
    "this config predicts epsilon on a schedule with zero terminal SNR: at T the input is eps itself, and says nothing "
    "about x0, so no sampler can start there. If the model was trained on eps, keep its own schedule "
    "(rescale_betas_zero_snr=False) and start from the true terminal marginal (zsnr.brightness.started, finding 11), "
    "which needs no training; or fine-tune it to v-prediction (zsnr.finetune). If it was trained on v, its config is "
    "wrong: pass prediction_type='v_prediction'"
)
EDM = (
    "An EDM network runs by zsnr.edm.EDMDenoiser, or in a pipeline as a v-model by zsnr.diffusers.wrap.EDMAsV, with "
    "the trained_betas of wrap.schedule_up_to, prediction_type='v_prediction' and timestep_type='discrete'"
)
FLOW = (
    "this is flow matching, x_t = (1 - t) x0 + t eps with eps - x0 predicted, whose levels start at zero SNR as they "
    "are: keep its own scheduler (FlowMatchEulerDiscreteScheduler, or UniPC or DPM-Solver++ with use_flow_sigmas=True)"
)
KEPT = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
    "rescale_betas_zero_snr", "snr_shift_scale", "use_karras_sigmas", "sigma_min", "sigma_max", "rho",
    "clip_sample_range",
)  # fmt: skip
"""What a config says is kept of these where it is its class's default, too."""


def from_scheduler(scheduler: Any) -> Schedule:
    """Schedule of any diffusers scheduler that has a table of `alphas_cumprod`.

    Some schedulers hold 2**-24 where Algorithm 1 gives 0, because their own arithmetic cannot take a zero: under
    `config.rescale_betas_zero_snr` that is read as the 0 it stands for.

    Raises:
        ValueError: there is no table, or it is not rescaled although the config asks for it.
    """
    name, table = type(scheduler).__name__, getattr(scheduler, "alphas_cumprod", None)
    if table is None:
        raise ValueError(f"{name} has no table of alphas_cumprod, so no discrete schedule; use its sigmas as a grid")
    alpha_bar = exact(table).clone()
    if getattr(getattr(scheduler, "config", None), "rescale_betas_zero_snr", False):
        if alpha_bar[-1] > 2**-24:  # diffusers keeps in the config what a scheduler does not know
            raise ValueError(
                f"{name} ignores rescale_betas_zero_snr: its table ends at alpha_bar = "
                f"{alpha_bar[-1].item():.3g}. Use rescale_zero_terminal_snr(from_alpha_bar(scheduler.alphas_cumprod))"
            )
        alpha_bar[-1] = 0.0
    return from_alpha_bar(alpha_bar)


def _finite(value: Any) -> bool:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return bool(number and abs(value) <= sys.float_info.max)


def check_types(given: Mapping[str, Any]) -> None:
    """Refuse, by a ValueError, values of a config that are no numbers, words or flags, where it needs them."""
    for name in {*NUMBERS} & {*given}:
        value, what = given[name], "a whole number from 1 to a million" if name in COUNTS else "a number"
        right = _finite(value)
        right = right and (name not in COUNTS or (value == int(value) and 1 <= value <= 10**6))
        if not right and not (name in OPEN and (value is None or value == math.inf)):
            raise ValueError(f"{name} = {reprlib.repr(value)}: give {what}")
    for name in ("beta_schedule", "prediction_type"):
        if not isinstance(given.get(name), str | None):
            raise ValueError(f"{name} = {reprlib.repr(given[name])}: give a name")
    for name in FLAGS:
        if not isinstance(given.get(name), bool | np.bool_ | None):
            raise ValueError(f"{name} = {reprlib.repr(given[name])}: give true or false")
    if (betas := given.get("trained_betas")) is not None:
        try:
            right = exact(betas).ndim == 1 and len(betas) > 0
        except (TypeError, ValueError, RuntimeError, OverflowError):
            right = False
        if not right:
            raise ValueError(f"trained_betas = {reprlib.repr(betas)}: give a list of numbers, one a step")


def check_config(given: Mapping[str, Any]) -> None:
    """Refuse a config whose network takes another input, or gives another output, than those of a discrete schedule.

    Raises:
        ValueError: with the remedy.
    """
    check_types(given)
    if given.get("use_flow_sigmas"):
        raise ValueError(f"use_flow_sigmas: {FLOW}")
    if given.get("timestep_type") == "continuous":
        raise ValueError(f"timestep_type 'continuous': the network takes ln(sigma) / 4 in place of steps. {EDM}")
    if given.get("sigma_data") and given.get("prediction_type") != "v_prediction":
        raise ValueError(f"sigma_data = {given['sigma_data']}: the network is preconditioned. {EDM}")
    if str(given.get("variance_type", "")).startswith("learned"):
        raise ValueError(
            f"variance_type = {given['variance_type']!r}: the model gives twice its channels; wrap it, so that it "
            "gives the first half, and pass variance_type='fixed_small'"
        )


def read_config(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Another scheduler's config, with changes, as `ZeroSNRScheduler` takes it.

    By diffusers' rule a value that is its class's default gives way to the new class's. Of a table of betas, or of what
    was written over a live config, that makes another model in silence, so the rule is left to timestep_spacing and
    clip_sample. A zero-SNR schedule whose config says leading steps, which never visit T, gets trailing ones.

    Raises:
        ValueError: the config has no betas (EDM's and flow matching's have not), or is refused by `check_config`.
    """
    import diffusers

    given, ours = {**config, **changes}, "solver" in config
    if given.get("beta_schedule") is None and given.get("trained_betas") is None:
        name = given.get("_class_name", "this")
        raise ValueError(f"{name} config has no beta_schedule and no trained_betas, so no discrete schedule. {EDM}; a "
                         "flow-matching model keeps its own scheduler, which starts at zero SNR")  # fmt: skip
    check_config(given)
    asked = ("thresholding", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
    if undone := [name for name in asked if given.get(name)]:
        logger.warning(f"the config asks for {', '.join(undone)}, which this scheduler does not do")
    if theirs := getattr(diffusers, str(config.get("_class_name")), None):
        signature = inspect.signature(theirs).parameters
        given = {name: signature[name].default for name in KEPT if name in signature} | given
    if ours or "timestep_spacing" in changes:
        given["_use_default_values"] = []
        return given
    dropped = set(given.get("_use_default_values", ())) - {*KEPT, *changes}
    betas = given.get("trained_betas")
    zero = given.get("rescale_betas_zero_snr") or (betas is not None and betas[-1] == 1)
    if zero and given.get("timestep_spacing") == "leading":
        logger.warning("leading steps never visit T, where a zero-SNR schedule has its pure noise: taking trailing")
        given["timestep_spacing"] = "trailing"
    elif "timestep_spacing" in dropped or given.get("timestep_spacing", "leading") == "leading":
        say_once(DROPPED)
    given["_use_default_values"] = list(dropped)
    return given


def prediction_of(config: Any) -> str:
    """eps, x0 or v: what a config's prediction_type is here; as it stands there where it is none of them."""
    prediction_type = str(config.get("prediction_type", "epsilon"))
    return PREDICTION_TYPES.get(prediction_type, prediction_type)


def config_schedule(config: Any) -> Schedule:
    """The schedule of a config's trained_betas, or beta_schedule, shifted by snr_shift_scale, then after Algorithm 1.

    Raises:
        ValueError: a beta_schedule that is not known; steps that have the noise of the step before.
    """
    if config.trained_betas is not None:
        schedule = schedules.from_betas(config.trained_betas)
    elif make := BETAS.get(config.beta_schedule):
        schedule = make(config.num_train_timesteps, config.beta_start, config.beta_end)
    else:
        name, known = config.beta_schedule, ", ".join(BETAS)
        raise ValueError(f"unknown beta_schedule {name!r}; choose one of {known}, or give trained_betas")
    if config.snr_shift_scale != 1:
        schedule = schedule.shifted(config.snr_shift_scale)
    if config.rescale_betas_zero_snr and not schedule.zero_snr:
        schedule = schedules.rescale_zero_terminal_snr(schedule)
    rises = schedule.angle.diff(prepend=torch.zeros(1)) > 0
    if not rises.all():
        t = int(rises.int().argmin())
        raise ValueError(
            f"step {t}, counted from 0, has no more noise than the step before (alpha_bar = "
            f"{schedule.alpha_bar[t].item():.3g}): its beta is 0, or alpha_bar underflows: give betas of another size"
        )
    return schedule


def config_prediction(config: Any, schedule: Schedule) -> str:
    """What a config's model predicts: eps, x0 or v.

    Raises:
        ValueError: a prediction_type that is not known; eps on a schedule with zero terminal SNR.
    """
    if str(name := config.prediction_type).startswith("flow"):
        raise ValueError(f"unknown prediction_type {name!r}: {FLOW}")
    if name not in PREDICTION_TYPES:
        raise ValueError(f"unknown prediction_type {name!r}; choose one of {', '.join(PREDICTION_TYPES)}")
    if name == "epsilon" and schedule.angle[-1].item() == math.pi / 2:
        raise ValueError(EPS)
    return PREDICTION_TYPES[name]


def config_grid(config: Any, schedule: Schedule, N: int | None) -> Tensor:
    """(N + 1,) angles by the rule of a `ZeroSNRScheduler`'s config."""
    if not isinstance(N, int | np.integer) or N < 1:
        raise ValueError(f"num_inference_steps = {N}: give a whole number of at least 1")
    first, last = schedule.angle[0].item(), schedule.angle[-1].item()
    levels = config.levels or ("karras" if config.use_karras_sigmas else None)
    if levels is None:
        return grids.grid(schedule, int(N), config.timestep_spacing)
    if levels == "karras":
        low = math.tan(first) if config.sigma_min is None else config.sigma_min
        high = config.sigma_max if config.sigma_max is not None else 80.0 if schedule.zero_snr else math.tan(last)
        if high > math.tan(last) * (1 + 1e-7):
            raise ValueError(f"sigma_max = {high:g} is above the last trained level, {math.tan(last):.6g}: pass None")
        if not schedule.zero_snr:
            return grids.karras(N, low, high, config.rho)
        return torch.cat([schedule.angle[-1:], grids.karras(N - 1, low, high, config.rho) if N > 1 else torch.zeros(1)])
    if levels == "geometric" and not schedule.zero_snr:
        raise ValueError("geometric levels start at zero SNR, and this schedule ends below: take karras")
    if levels == "geometric":
        return grids.geometric(N)
    return FROM_LAST[levels](N, phi_max=last)
