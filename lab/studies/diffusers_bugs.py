"""Finding 15's bugs in plain diffusers: nothing here knows the audit.

Each function returns rows (where, what is seen, what it should be). A state is a pair: its share of the picture and its
share of the noise, so a perfect model's answer is known: eps = (0, 1), x0 = (1, 0), v = alpha eps - sigma x0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import diffusers
import torch

SD: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO: dict[str, Any] = SD | {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}
X0, EPS = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])

Rows = list[tuple[str, str, str]]


def counted(scheduler: Any) -> Iterator[tuple[int, list[int]]]:
    """Every count of steps from 1 to 1000, and the time steps that the scheduler takes."""
    for n in range(1, 1001):
        scheduler.set_timesteps(n)
        yield n, scheduler.timesteps.tolist()


def ddim_target() -> Rows:
    """DDIM steps to t - 1000 // n, wherever the next time step is. Remedy: the next of self.timesteps."""
    rows = []
    for spacing in ("trailing", "linspace"):
        scheduler = diffusers.DDIMScheduler(**ZERO | {"timestep_spacing": spacing})
        wrong = sum(any(a - 1000 // n != b for a, b in itertools.pairwise(t)) for n, t in counted(scheduler))
        rows.append((f"DDIM, {spacing}: counts with a wrong target", f"{wrong} of 1000", "0"))
    scheduler.set_timesteps(7)
    told = scheduler.timesteps.tolist()
    rows.append(("its 7 linspace steps go to", str([max(t - 1000 // 7, -1) for t in told]), f"{[*told[1:], -1]}"))
    bar = scheduler.alphas_cumprod
    a, s = bar[832].sqrt(), (1 - bar[832]).sqrt()
    after = scheduler.step(a * EPS - s * X0, 832, a * X0 + s * EPS).prev_sample
    rows.append(("signal after the step from t = 832", f"{after[0]:.4f}", f"{bar[666].sqrt():.4f}"))
    return rows


def ignored_flag() -> Rows:
    """Schedulers that keep rescale_betas_zero_snr in their config, and do not obey it."""
    source = diffusers.DDIMScheduler(**ZERO)
    names = ["DEISMultistep", "DPMSolverSinglestep", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete"]
    names += ["LMSDiscrete", "PNDM", "SASolver"]
    made = {name: getattr(diffusers, f"{name}Scheduler").from_config(source.config) for name in names}
    kept = all(s.config.rescale_betas_zero_snr for s in made.values())
    ends = {f"{s.alphas_cumprod[-1]:.5f}" for s in made.values()}
    return [(f"alpha_bar_T of {', '.join(names)} (the flag is kept: {kept})", ", ".join(sorted(ends)), "0")]


def zero_betas() -> Rows:
    """Zero terminal SNR by its betas, in schedulers that do not take the flag: sigma is infinite, and the step NaN."""
    betas = diffusers.DDIMScheduler(**ZERO).betas.tolist()
    names = ("DEISMultistep", "DPMSolverSinglestep", "HeunDiscrete", "KDPM2Discrete", "LMSDiscrete", "SASolver")
    broken = []
    for name in (*names, "EulerDiscrete"):
        scheduler = getattr(diffusers, f"{name}Scheduler")(trained_betas=betas, prediction_type="v_prediction")
        scheduler.set_timesteps(10)
        x = torch.ones(1, 1, 1, 1)
        after = scheduler.step(x, scheduler.timesteps[0], x * scheduler.init_noise_sigma).prev_sample
        broken += [] if after.isfinite().all() else [name]
    return [("betas of zero SNR: no number after the first step", ", ".join(broken), "none")]


def stochastic() -> Rows:
    """DDIM with eta = 1 from zero SNR; and churn, whose noise is added after the network was asked."""
    scheduler, x = diffusers.DDIMScheduler(**ZERO), torch.ones(1, 1, 1, 1)
    broken = []
    for n in (n for n in range(1, 1001) if 1000 % n == 0):
        scheduler.set_timesteps(n)
        if not scheduler.step(x, scheduler.timesteps[0], x, eta=1.0).prev_sample.isfinite().all():
            broken.append(n)
    rows = [("DDIM, eta = 1, counts that divide 1000: not a number at", str(broken), "none")]
    euler = diffusers.EulerDiscreteScheduler(**SD)
    euler.set_timesteps(10)
    eps = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    t, sigma = euler.timesteps[0], euler.sigmas
    euler.scale_model_input(eps, t)
    churned = torch.Generator().manual_seed(1)
    after = euler.step(eps, t, sigma[0] * eps, s_churn=4.0, generator=churned).prev_sample
    return [*rows, ("EulerDiscrete, s_churn = 4: noise after the first step", f"{after.std():.2f}", f"{sigma[1]:.2f}")]


def custom_sigmas() -> Rows:
    """EDMEuler takes custom sigmas for the ramp from 0 to 1; one step to sigma_min repeats the last sigma."""
    scheduler = diffusers.EDMEulerScheduler()
    asked = [80.0, 10.0, 1.0, 0.1]
    try:
        scheduler.set_timesteps(sigmas=asked)
        seen = str(scheduler.sigmas.tolist())
    except AttributeError as error:
        seen = f"AttributeError: {error}"
    rows = [("EDMEuler, sigmas as a list", seen, str([*asked, 0.0]))]
    scheduler.set_timesteps(sigmas=torch.tensor(asked))
    got = ", ".join(f"{v:.3g}" for v in scheduler.sigmas.tolist())
    rows.append(("EDMEuler, sigmas as a tensor", f"[{got}]", str([*asked, 0.0])))
    one = diffusers.EDMEulerScheduler(final_sigmas_type="sigma_min")
    one.set_timesteps(1)
    return [*rows, ("EDMEuler, one step to sigma_min: sigmas", str(one.sigmas.tolist()), "[80.0, 0.002]")]


def multistep() -> Rows:
    """PNDM extrapolates v over levels, as if it were eps; IPNDM multiplies the first answer by cos phi = 0."""
    pndm = diffusers.PNDMScheduler(**SD, skip_prk_steps=True, prediction_type="v_prediction")
    pndm.set_timesteps(10)
    a, s = pndm.alphas_cumprod.sqrt(), (1 - pndm.alphas_cumprod).sqrt()
    x = a[900] * X0 + s[900] * EPS
    for t in pndm.timesteps[:4].tolist():
        x = pndm.step((x[0] * EPS - x[1] * X0) / x.norm(), t, x).prev_sample
    rows = [("PNDM, v of a perfect model, 4 calls: signal", f"{x[0]:.4f}", f"{a[600]:.4f}")]
    ipndm = diffusers.IPNDMScheduler()
    ipndm.set_timesteps(10)
    x = ipndm.step(-X0, ipndm.timesteps[0], EPS).prev_sample  # at t = 1 the state is eps, and v = -x0
    phi = float(ipndm.timesteps[1]) * math.pi / 2
    return [*rows, ("IPNDM, first step: signal", f"{x[0]:.4f}", f"{math.cos(phi):.4f}")]


def ends() -> Rows:
    """steps_offset = 1 with all 1000 steps, and UnCLIP in one step."""
    rows = []
    ddpm = diffusers.DDPMScheduler(steps_offset=1)
    ddpm.set_timesteps(1000)
    zero = torch.zeros(1, 1, 1, 1)
    try:
        seen = str(ddpm.step(zero, ddpm.timesteps[0], zero).prev_sample.flatten().tolist())
    except IndexError as error:
        seen = f"IndexError: {error}"
    rows.append(("DDPM, leading, steps_offset = 1, 1000 steps", seen, "a step"))
    try:
        diffusers.UnCLIPScheduler().set_timesteps(1)
        seen = "a step"
    except ZeroDivisionError as error:
        seen = f"ZeroDivisionError: {error}"
    return [*rows, ("UnCLIP, 1 step", seen, "a step")]
