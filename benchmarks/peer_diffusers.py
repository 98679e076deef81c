"""diffusers' schedulers, in the loop of its pipelines, with the orders and grids that their arguments offer.

Left out, because they draw noise whatever they are told: DDPM, the ancestral ones, LCM, DPMSolverSDE, CosineDPMSolver,
ConsistencyModels, SCM. DDIMParallel and CogVideoXDDIM take DDIM's step.
"""

from __future__ import annotations

import copy
import importlib
import math
import warnings
from functools import lru_cache, partial
from itertools import product
from typing import Any

from torch import Tensor

import zsnr
from benchmarks.solver import SCHEDULE, STAND_INS, Network, Run, Solver

Options = list[dict[str, Any]]
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "v_prediction"}
ZERO: Options = [{"rescale_betas_zero_snr": True}, {}]
STAND_IN: Options = [{"stand_in": True}, {}]
"""For those without that flag: the rescaled betas, and the last alpha_bar that its siblings take for 0."""
SPACINGS: Options = [{"timestep_spacing": s} for s in ("trailing", "linspace", "leading")]
SIGMAS: Options = [{}, *({f"use_{k}_sigmas": True} for k in ("karras", "exponential", "beta"))]
LOW: Options = [{"sigma_min": s} for s in (0.002, 0.01, 0.03, 0.1)]
HIGH: Options = [{"sigma_max": s} for s in (80.0, 10.0, 25.0, 150.0, 250.0, 500.0, STAND_INS[0])]
SHIFTS: Options = [{"shift": s} for s in (1.0, 0.3, 0.5, 2.0, 3.0, 5.0)]
EDM: Options = [{"sigma_data": 1.0, "prediction_type": "v_prediction"}]
RHO: Options = [*({"rho": r} for r in (7.0, 3.0, 10.0)), {"sigma_schedule": "exponential"}]
TO_4: Options = [{"solver_order": k} for k in (2, 3, 4)]  # order 1 is Euler's or DDIM's, which have lines of their own
TO_3 = TO_4[:2]
KINDS: Options = [*TO_3, {"solver_order": 2, "solver_type": "heun"}]
CLOSING: Options = [{}, {"lower_order_final": False}, {"euler_at_final": True}]
HIDDEN = ("clip_sample", "sigma_data", "prediction_type", "trained_betas", "tau_func")


def every(*parts: Options) -> Options:
    """All combinations of one of each."""
    return [{k: v for part in chosen for k, v in part.items()} for chosen in product(*parts)]


RANGES = every(SIGMAS[1:3], LOW, HIGH)
"""Taken from a config by all that have Karras or exponential sigmas, though only two have the argument."""
FLOW = [{"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": s["shift"]} for s in SHIFTS]


@lru_cache(8)
def constructed(name: str, config: tuple[tuple[str, Any], ...]) -> Any:
    """A scheduler before its steps are set: some take half a second."""
    kind = getattr(importlib.import_module("diffusers"), f"{name}Scheduler")
    options = dict(config)
    if stand_in := options.pop("stand_in", False):
        options["trained_betas"] = SCHEDULE.betas.tolist()
    made = kind.from_config(options) if "sigma_min" in options else kind(**options)
    if stand_in:
        made.alphas_cumprod[-1] = 2**-24
    return made


def scheduler(name: str, options: dict[str, Any], N: int) -> Any:
    """One of diffusers' schedulers, with its N steps set."""
    own = {k: v for k, v in options.items() if k not in ("order", "original_inference_steps", "angles")}
    if "angles" in options:
        own["trained_betas"] = tuple(options["angles"](N).sin().tolist())
    config = own if name.startswith(("FlowMatch", "EDM", "IPNDM")) else SD | own
    steps = {"original_inference_steps": options["original_inference_steps"] or N} if name == "TCD" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the logarithm of 0 in constructors, and words on Karras sigmas
        made = copy.deepcopy(constructed(name, tuple(config.items())))
        made.set_timesteps(N, **steps)
    if hasattr(made, "set_begin_index"):
        made.set_begin_index(0)
    return made


def ask(network: Network, made: Any, x: Tensor, i: int) -> Tensor:
    """The answer at step i in the scheduler's terms: v of x_phi, or a flow's eps - x0 of (1 - t) x0 + t eps."""
    if network.output is not None:
        return network.output
    if "IPNDM" in type(made).__name__:
        return network.v(x, float(made.timesteps[i]) * math.pi / 2)
    if not hasattr(made, "sigmas"):
        alpha_bar = float(made.alphas_cumprod[made.timesteps[i]])
        return network.v(x, math.atan2(math.sqrt(1 - alpha_bar), math.sqrt(alpha_bar)))
    between = hasattr(made, "sigmas_interpol") and not made.state_in_first_order
    sigma = float((made.sigmas_interpol if between else made.sigmas)[i])
    if "Flow" in type(made).__name__ or made.config.prediction_type == "flow_prediction":
        return network.flow(x, sigma)
    return network.v(x, math.atan(sigma))


def prepare(name: str, network: Network, noise: Tensor, options: dict[str, Any], N: int) -> Run:
    """See `Solver`."""
    made, step = scheduler(name, options, N), {k: options[k] for k in ("order",) if k in options}
    if name == "TCD":
        step["eta"] = 0.0
    scale, start = getattr(made, "scale_model_input", None), noise * float(getattr(made, "init_noise_sigma", 1.0))

    def run() -> Tensor:
        x = start
        for i, t in enumerate(made.timesteps):
            v = ask(network, made, x if scale is None else scale(x, t), i)
            x = made.step(v, t, x, return_dict=False, **step)[0]
        return x

    return run


def words(options: dict[str, Any]) -> str:
    """The options as a table names them."""
    shown = {k: v for k, v in options.items() if k not in HIDDEN}
    said = [k if v is True else _name(v) if callable(v) else f"{k} {v}" for k, v in shown.items()]
    return ", ".join(said) or "default"


def solvers() -> list[Solver]:
    """One line each: name, scheduler, options."""

    def solver(name: str, kind: str, options: Options) -> Solver:
        return Solver("diffusers", name, {words(o): o for o in options}, partial(prepare, kind))

    zero = every(ZERO, SPACINGS, SIGMAS) + RANGES
    stand_in, fixed = every(STAND_IN, SPACINGS, SIGMAS) + RANGES, every(STAND_IN, SIGMAS) + RANGES
    lu = zero + every(ZERO, SPACINGS, [{"use_lu_lambdas": True}])
    lines = every(ZERO, SPACINGS, [{"interpolation_type": "log_linear"}])
    edm, last = every(EDM, RHO, LOW, HIGH), [{}, {"lower_order_final": False}]
    eps: Options = [{"final_sigmas_type": "sigma_min", "algorithm_type": "dpmsolver"}]
    sa = [{"predictor_order": p, "corrector_order": c, "tau_func": _none} for p, c in ((2, 2), (3, 3), (4, 4), (3, 2))]
    grids = [zsnr.uniform, zsnr.geometric, *(partial(zsnr.power, exponent=e) for e in (1.25, 1.5, 1.75, 2.0, 2.5, 3.0))]
    shorter: Options = [{"final_sigmas_type": "sigma_min"}]
    angles = [{"angles": f} for f in grids]
    ones: Options = [{"set_alpha_to_one": True}, {}]
    return [
        solver("DDIM", "DDIM", every([{"clip_sample": False}], ZERO, SPACINGS)),
        solver("TCD, eta 0", "TCD", every(ZERO, [{"original_inference_steps": n} for n in (0, 1000)])),
        solver("Euler", "EulerDiscrete", zero + lines),
        solver("EDMEuler", "EDMEuler", edm),
        solver("FlowMatchEuler", "FlowMatchEulerDiscrete", every(SHIFTS, SIGMAS)),
        solver("Heun", "HeunDiscrete", stand_in),
        solver("FlowMatchHeun", "FlowMatchHeunDiscrete", SHIFTS),
        solver("KDPM2", "KDPM2Discrete", stand_in),
        solver("LMS", "LMSDiscrete", every([{"order": 4}], fixed)),
        solver("PNDM", "PNDM", every(STAND_IN, SPACINGS, ones)),
        solver("PLMS", "PNDM", every([{"skip_prk_steps": True}], STAND_IN, SPACINGS, ones)),
        solver("IPNDM", "IPNDM", [{}, *angles]),
        solver("DPM-Solver M", "DPMSolverMultistep", every(eps, KINDS, lu)),
        solver("DPM-Solver S", "DPMSolverSinglestep", every(eps, TO_3, fixed)),
        solver("DPM-Solver++ M", "DPMSolverMultistep", every(KINDS, CLOSING, lu + FLOW)),
        solver("DPM-Solver++ S", "DPMSolverSinglestep", every(KINDS, fixed + FLOW)),
        solver("EDM-DPM-Solver++ M", "EDMDPMSolverMultistep", every(KINDS, CLOSING, edm)),
        solver("UniPC, bh2", "UniPCMultistep", every(TO_4, last, zero + FLOW)),
        solver("UniPC, bh1", "UniPCMultistep", every(shorter, [{"solver_type": "bh1"}], TO_3, zero + FLOW)),
        solver("UniPC, eps", "UniPCMultistep", every(shorter, [{"predict_x0": False}], TO_3, zero + FLOW)),
        solver("DEIS", "DEISMultistep", every(TO_3, stand_in + FLOW)),
        solver("SASolver, tau 0", "SASolver", every(sa, stand_in + FLOW)),
    ]


def _none(t: Any) -> int:
    """SASolver's share of noise."""
    return 0


def _name(grid: Any) -> str:
    return getattr(grid, "__name__", None) or f"{grid.func.__name__} {grid.keywords['exponent']:g}"
