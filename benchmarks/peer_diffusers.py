"""diffusers' schedulers, in the loop of its pipelines, with the grids that their arguments offer."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from torch import Tensor

import zsnr
from benchmarks.method import Method, Run, heun, one
from benchmarks.problem import SCHEDULE, prior, velocity
from zsnr.prediction import cos_sin

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "v_prediction"}
SIGMAS: tuple[dict[str, Any], ...] = ({}, *({f"use_{k}_sigmas": True} for k in ("karras", "exponential", "beta")))
SPACINGS: tuple[dict[str, Any], ...] = tuple({"timestep_spacing": s} for s in ("trailing", "linspace", "leading"))
ZERO: tuple[dict[str, Any], ...] = ({"rescale_betas_zero_snr": True}, {"rescale_betas_zero_snr": False})
SHIFTS: tuple[dict[str, Any], ...] = tuple({"shift": s} for s in (0.3, 0.5, 1.0, 2.0, 3.0, 5.0))
Options = Iterator[dict[str, Any]]


def _all(*parts: tuple[dict[str, Any], ...]) -> Options:
    for combination in product(*parts):
        yield {k: v for part in combination for k, v in part.items()}


def _ddim() -> Options:
    yield from ({"clip_sample": False, **o} for o in _all(ZERO, SPACINGS))


def _euler() -> Options:
    yield from _all(ZERO, SPACINGS, (*SIGMAS, {"interpolation_type": "log_linear"}))
    yield from _all(ZERO, SIGMAS[1:], tuple({"sigma_max": s} for s in (80.0, 500.0)))


def _heun() -> Options:
    yield from _all(ZERO, SPACINGS, SIGMAS)


def _edm() -> Options:
    for low, high in product((0.002, 0.01, 0.03), (80.0, 500.0, 4096.0)):
        ends = {"sigma_min": low, "sigma_max": high, "sigma_data": 1.0, "prediction_type": "v_prediction"}
        yield {"sigma_schedule": "exponential", **ends}
        yield from ({"rho": rho, **ends} for rho in (1.0, 2.0, 3.0, 5.0, 7.0, 10.0))


def _dpm() -> Options:
    yield from _all(ZERO, SPACINGS, (*SIGMAS, {"use_lu_lambdas": True}))
    for shift in SHIFTS:
        yield {"use_flow_sigmas": True, "flow_shift": shift["shift"], "prediction_type": "flow_prediction"}


def _scheduler(name: str, options: dict[str, Any], N: int) -> Any:
    cls = getattr(importlib.import_module("diffusers"), name)
    betas = SD if "Flow" not in name and "EDM" not in name else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a logarithm of 0 on the way to what is mended below
        if name == "HeunDiscreteScheduler" and options.get("rescale_betas_zero_snr"):
            # it has no such argument: give it the betas, and the stand-in of its siblings
            rest = {k: v for k, v in options.items() if k != "rescale_betas_zero_snr"}
            scheduler = cls(trained_betas=SCHEDULE.betas.tolist(), prediction_type="v_prediction", **rest)
            scheduler.alphas_cumprod[-1] = 2**-24
        else:
            known = {k: v for k, v in options.items() if name != "HeunDiscreteScheduler" or "rescale" not in k}
            scheduler = cls(**{**betas, **known})
        scheduler.set_timesteps(N)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return scheduler


def _loop(scheduler: Any, network: Callable[[Tensor, int], Tensor], x: Tensor, step: dict[str, Any]) -> Tensor:
    scale = getattr(scheduler, "scale_model_input", None)
    for i, t in enumerate(scheduler.timesteps):
        v = network(x if scale is None else scale(x, t), i)
        x = scheduler.step(v, t, x, return_dict=False, **step)[0]
    return x


def _exact(scheduler: Any) -> Callable[[Tensor, int], Tensor]:
    """The exact network for what this scheduler feeds it: x_phi, or the flow's (1 - t) x0 + t eps."""
    if hasattr(scheduler, "sigmas"):
        sigmas = scheduler.sigmas.tolist()
    else:
        sigmas = [math.sqrt(1 / a - 1) if a > 0 else math.inf for a in scheduler.alphas_cumprod[scheduler.timesteps].tolist()]
    if "Flow" in type(scheduler).__name__ or scheduler.config.get("use_flow_sigmas"):

        def flow(x: Tensor, i: int) -> Tensor:
            t = sigmas[i]
            phi, x = math.atan2(t, 1 - t), x.double() / math.hypot(t, 1 - t)
            c, s = cos_sin(phi)
            v = velocity(x, phi)
            return (s * x + c * v) - (c * x - s * v)  # eps - x0

        return flow
    return lambda x, i: velocity(x.double(), math.atan(sigmas[i]))


def _method(name: str, label: str, options: Callable[[], Options], cost: Callable[[int], int] = one, **step: Any) -> Method:
    def timed(noise: Tensor, output: Tensor, N: int) -> Run:
        scheduler = _scheduler(name, next(iter(options())), N)
        return lambda: _loop(scheduler, lambda x, i: output, noise, step)

    def scored(N: int) -> Iterator[tuple[str, Run]]:
        for choice in options():
            scheduler = _scheduler(name, choice, N)
            start = prior(float(getattr(scheduler, "init_noise_sigma", 1.0)))
            yield _name(choice), lambda s=scheduler, x=start: _loop(s, _exact(s), x, {})

    return Method("diffusers", label, cost, timed, None if step else scored, draws=bool(step))


def _name(options: dict[str, Any]) -> str:
    hidden = ("clip_sample", "sigma_data", "prediction_type")
    words = []
    for k, v in options.items():
        if k in hidden or v is False:
            continue
        k = k.removeprefix("use_").removesuffix("_sigmas").replace("rescale_betas_", "")
        words.append(k if v is True else v if isinstance(v, str) else f"{k} {v:g}")
    return ", ".join(words) or "default"


def methods() -> list[Method]:
    """Its DDIM, and all schedulers with an Euler, Heun or DPM-Solver++ step."""
    flow = lambda: _all(SHIFTS, SIGMAS)  # noqa: E731
    return [
        _method("DDIMScheduler", "DDIM", _ddim),
        _method("EulerDiscreteScheduler", "Euler", _euler),
        _method("EDMEulerScheduler", "EDMEuler", _edm),
        _method("FlowMatchEulerDiscreteScheduler", "FlowMatchEuler", flow),
        _method("DPMSolverMultistepScheduler", "DPM-Solver++ 2M", _dpm),
        _method("HeunDiscreteScheduler", "Heun", _heun, heun),
        _method("FlowMatchHeunDiscreteScheduler", "FlowMatchHeun", lambda: _all(SHIFTS), heun),
        _method("DDIMScheduler", "DDIM, eta 1", _ddim, eta=1.0),
        _method("EDMEulerScheduler", "EDMEuler, churn", _edm, s_churn=20.0),
    ]
