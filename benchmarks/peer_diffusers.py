"""diffusers' schedulers, in the loop of its pipelines, with the grids that their arguments offer."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

from torch import Tensor

from benchmarks.method import SCHEDULE, Method, Run, denoised, prior, velocity

Options = list[dict[str, Any]]
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "v_prediction"}
ZERO: Options = [{"rescale_betas_zero_snr": True}, {}]
SPACINGS: Options = [{"timestep_spacing": s} for s in ("trailing", "linspace", "leading")]
SIGMAS: Options = [{}, *({f"use_{k}_sigmas": True} for k in ("karras", "exponential", "beta"))]
SHIFTS: Options = [{"shift": s} for s in (1.0, 0.3, 0.5, 2.0, 3.0, 5.0)]
FLOW: Options = [{"use_flow_sigmas": True, "prediction_type": "flow_prediction"}]
EDM: Options = [{"sigma_data": 1.0, "prediction_type": "v_prediction"}]
RHO: Options = [*({"rho": r} for r in (7.0, 1.0, 2.0, 3.0, 5.0, 10.0)), {"sigma_schedule": "exponential"}]
LOW: Options = [{"sigma_min": s} for s in (0.002, 0.01, 0.03)]
HIGH: Options = [{"sigma_max": s} for s in (80.0, 500.0, 4096.0)]


def every(*parts: Options) -> Options:
    """All combinations of one of each."""
    return [{k: v for part in chosen for k, v in part.items()} for chosen in product(*parts)]


def scheduler(name: str, options: dict[str, Any], N: int) -> Any:
    """One of diffusers' schedulers, with its N steps set."""
    options = dict(options) if "FlowMatch" in name or "EDM" in name else SD | options
    # Heun's has no such argument: give it the betas, and the stand-in that its siblings take
    if stand_in := name.startswith("Heun") and options.pop("rescale_betas_zero_snr", False):
        options["trained_betas"] = SCHEDULE.betas.tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the logarithm of 0 in Heun's constructor, and words on Karras sigmas
        made = getattr(importlib.import_module("diffusers"), name)(**options)
        if stand_in:
            made.alphas_cumprod[-1] = 2**-24
        made.set_timesteps(N)
    if hasattr(made, "set_begin_index"):
        made.set_begin_index(0)
    return made


def grids(name: str, options: Options, N: int) -> Iterator[tuple[str, Any]]:
    """See `Method`."""
    for chosen in options:
        shown = {k: v for k, v in chosen.items() if k not in ("clip_sample", "sigma_data", "prediction_type")}
        words = [k if v is True else v if isinstance(v, str) else f"{k} {v:g}" for k, v in shown.items()]
        yield ", ".join(words) or "default", scheduler(name, chosen, N)


def exact(made: Any, x: Tensor, i: int) -> Tensor:
    """The exact network at step i: v of x_phi, or a flow's eps - x0 of (1 - t) x0 + t eps."""
    if not hasattr(made, "sigmas"):
        alpha_bar = float(made.alphas_cumprod[made.timesteps[i]])
        return velocity(x.double(), math.atan2(math.sqrt(1 - alpha_bar), math.sqrt(alpha_bar)))
    sigma = float(made.sigmas[i])
    if "Flow" in type(made).__name__ or made.config.prediction_type == "flow_prediction":
        return (x.double() - denoised(x, 1 - sigma, sigma)) / sigma
    return velocity(x.double(), math.atan(sigma))


def prepare(step: dict[str, Any], made: Any, noise: Tensor | None, output: Tensor | None) -> Run:
    """See `Method`."""
    scale = getattr(made, "scale_model_input", None)
    start = prior(float(getattr(made, "init_noise_sigma", 1.0))) if noise is None else noise

    def network(x: Tensor, i: int) -> Tensor:
        return exact(made, x, i) if output is None else output

    def run() -> Tensor:
        x = start
        for i, t in enumerate(made.timesteps):
            v = network(x if scale is None else scale(x, t), i)
            x = made.step(v, t, x, return_dict=False, **step)[0]
        return x

    return run


def methods() -> list[Method]:
    """Its DDIM, and all schedulers with an Euler, Heun or DPM-Solver++ step."""

    def method(name: str, label: str, options: Options, step: dict[str, Any] | None = None, second: int = 0) -> Method:
        choices, run = partial(grids, f"{name}Scheduler", options), partial(prepare, step or {})
        drawn = {"draws": step is not None, "scored": step is None}
        return Method("diffusers", label, choices, run, per_step=1 + second, saved=second, **drawn)

    ddim, edm = every([{"clip_sample": False}], ZERO, SPACINGS), every(EDM, RHO, LOW, HIGH)
    euler = every(ZERO, SPACINGS, [*SIGMAS, {"interpolation_type": "log_linear"}]) + every(ZERO, SIGMAS[1:], HIGH)
    dpm = every(ZERO, SPACINGS, [*SIGMAS, {"use_lu_lambdas": True}])
    dpm += every(FLOW, [{"flow_shift": s["shift"]} for s in SHIFTS])
    return [
        method("DDIM", "DDIM", ddim),
        method("EulerDiscrete", "Euler", euler),
        method("EDMEuler", "EDMEuler", edm),
        method("FlowMatchEulerDiscrete", "FlowMatchEuler", every(SHIFTS, SIGMAS)),
        method("DPMSolverMultistep", "DPM-Solver++ 2M", dpm),
        method("HeunDiscrete", "Heun", every(ZERO, SPACINGS, SIGMAS), second=1),
        method("FlowMatchHeunDiscrete", "FlowMatchHeun", SHIFTS, second=1),
        method("DDIM", "DDIM, eta 1", ddim, {"eta": 1.0}),
        method("EDMEuler", "EDMEuler, churn", edm, {"s_churn": 20.0}),
    ]
