"""What diffusers' schedulers and their configs mean: the schedule of the training, and a grid by their rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsnr import grids
from zsnr import schedule as schedules
from zsnr.schedule import Schedule, from_alpha_bar

PREDICTION_TYPES = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
BETAS: dict[str, Callable[[int, float, float], Schedule]] = {
    "linear": schedules.linear,
    "scaled_linear": schedules.stable_diffusion,
    "squaredcos_cap_v2": lambda T, start, end: schedules.cosine(T),
}
LEVELS = ("karras", "power", "uniform", "geometric")
EPS = (
    "this config predicts epsilon on a schedule with zero terminal SNR: at T the input is eps itself, and says nothing "
    "about x0, so no sampler can start there. If the model was trained on eps, keep its own schedule "
    "(rescale_betas_zero_snr=False) and start from the true terminal marginal (zsnr.brightness.started, finding 11), "
    "which needs no training; or fine-tune it to v-prediction (zsnr.finetune). If it was trained on v, its config is "
    "wrong: pass prediction_type='v_prediction'"
)


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
    alpha_bar = torch.as_tensor(table).to("cpu", torch.float64, copy=True)
    if getattr(getattr(scheduler, "config", None), "rescale_betas_zero_snr", False):
        if alpha_bar[-1] > 2**-24:  # diffusers keeps in the config what a scheduler does not know
            raise ValueError(
                f"{name} ignores rescale_betas_zero_snr: its table ends at alpha_bar = "
                f"{alpha_bar[-1].item():.3g}. Use rescale_zero_terminal_snr(from_alpha_bar(scheduler.alphas_cumprod))"
            )
        alpha_bar[-1] = 0.0
    return from_alpha_bar(alpha_bar)


def check_config(given: Mapping[str, Any]) -> None:
    """Refuse a config without a discrete schedule, and one that asks for what would be done wrong here.

    Raises:
        ValueError: with the remedy.
    """
    if given.get("beta_schedule") is None and given.get("trained_betas") is None:
        raise ValueError(
            f"{given.get('_class_name', 'this')} config has no beta_schedule and no trained_betas, so no discrete "
            "schedule. An EDM network runs by zsnr.edm.EDMDenoiser, or here as a v-model by "
            "zsnr.diffusers.wrap.EDMAsV; a flow-matching model keeps its own scheduler, which starts at zero SNR"
        )
    if given.get("snr_shift_scale", 1.0) != 1.0:
        raise ValueError(
            f"snr_shift_scale = {given['snr_shift_scale']} changes the table, and is not known here: pass "
            "snr_shift_scale=1.0 and trained_betas=zsnr.from_scheduler(theirs).betas.tolist()"
        )
    if str(given.get("variance_type", "")).startswith("learned"):
        raise ValueError(
            f"variance_type = {given['variance_type']!r}: the model gives twice its channels; wrap it, so that it "
            "gives the first half, and pass variance_type='fixed_small'"
        )


def prediction_of(config: Any) -> str:
    """eps, x0 or v: what a config's prediction_type is here; as it stands there where it is none of them."""
    prediction_type = str(config.get("prediction_type", "epsilon"))
    return PREDICTION_TYPES.get(prediction_type, prediction_type)


def config_schedule(config: Any) -> Schedule:
    """The schedule of a config's trained_betas, or beta_schedule, after Algorithm 1 if rescale_betas_zero_snr.

    Raises:
        ValueError: a beta_schedule that is not known.
    """
    if config.trained_betas is not None:
        schedule = schedules.from_betas(config.trained_betas)
    elif make := BETAS.get(config.beta_schedule):
        schedule = make(config.num_train_timesteps, config.beta_start, config.beta_end)
    else:
        name, known = config.beta_schedule, ", ".join(BETAS)
        raise ValueError(f"unknown beta_schedule {name!r}; choose one of {known}, or give trained_betas")
    if config.rescale_betas_zero_snr and not schedule.zero_snr:
        schedule = schedules.rescale_zero_terminal_snr(schedule)
    return schedule


def config_prediction(config: Any, schedule: Schedule) -> str:
    """What a config's model predicts: eps, x0 or v.

    Raises:
        ValueError: a prediction_type that is not known; eps on a schedule with zero terminal SNR.
    """
    if (name := config.prediction_type) not in PREDICTION_TYPES:
        raise ValueError(f"unknown prediction_type {name!r}; choose one of {', '.join(PREDICTION_TYPES)}")
    if name == "epsilon" and schedule.zero_snr:
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
        if not schedule.zero_snr:
            return grids.karras(N, low, high, config.rho)
        return torch.cat([schedule.angle[-1:], grids.karras(N - 1, low, high, config.rho) if N > 1 else torch.zeros(1)])
    if levels == "geometric" and not schedule.zero_snr:
        raise ValueError("geometric levels start at zero SNR, and this schedule ends below: take karras")
    if levels == "geometric":
        return grids.geometric(N)
    return grids.uniform(N, last) if levels == "uniform" else grids.power(N, phi_max=last)
