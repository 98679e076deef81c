"""Finding 1 (Lin et al. 2023): terminal SNR of the usual schedules, Algorithm 1, what may be predicted at zero SNR."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

import zsnr
from lab.report.figures import COLOURS
from lab.report.tables import Table, table
from zsnr import prediction
from zsnr.schedule import Schedule

PRINTED = {
    "linear": ("4.035993e-05", "0.006353"),
    "cosine": ("2.428735e-09", "4.928220e-05"),
    "Stable Diffusion": ("0.004682", "0.068265"),
}
"""Table 1: SNR(T) and sqrt(alpha_bar_T), as the paper prints them."""
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "Stable Diffusion": STABLE_DIFFUSION,
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "Stable Diffusion, zero SNR": STABLE_DIFFUSION | {"rescale_betas_zero_snr": True},
}


def terminal(schedule: Schedule) -> tuple[float, float]:
    """(SNR, sqrt alpha_bar) at T, in float64."""
    return schedule.terminal_snr, schedule.sqrt_alpha_bar[-1].item()


def terminal_float32(schedule: Schedule) -> tuple[float, float]:
    """The same by the paper's arithmetic: betas, 1 - beta and the result in float32, the product in double."""
    alpha = np.float32(1) - schedule.betas.numpy().astype(np.float32)
    alpha_bar = np.float32(np.cumprod(alpha.astype(np.float64))[-1])
    return float(alpha_bar / (np.float32(1) - alpha_bar)), float(np.sqrt(alpha_bar))


def as_printed(value: float, text: str) -> str:
    """The value, with as many digits as the paper's text has."""
    digits = len(text.split("e")[0].split(".")[1])
    return f"{value:.{digits}{'e' if 'e' in text else 'f'}}"


def rounding_excess(schedules: Mapping[str, Schedule]) -> float:
    """Largest |float64 - printed| over the sum of a relative 2e-5, for float32, and half a unit of the last decimal."""
    worst = 0.0
    for name, schedule in schedules.items():
        for value, text in zip(terminal(schedule), PRINTED[name], strict=True):
            paper = float(text)
            allowed = 2e-5 * paper if "e" in text else 2e-5 * paper + 0.5e-6
            worst = max(worst, abs(value - paper) / allowed)
    return worst


def table1(schedules: Mapping[str, Schedule]) -> Table:
    """Table 1, printed and computed."""
    rows = []
    for name, schedule in schedules.items():
        ours = [as_printed(v, p) for v, p in zip(terminal_float32(schedule), PRINTED[name], strict=True)]
        snr, root = terminal(schedule)
        rows.append((name, PRINTED[name][0], ours[0], snr, PRINTED[name][1], ours[1], root))
    kinds = ("paper", "float32", "float64")
    titles = ["schedule", *(f"{what}, {kind}" for what in ("SNR(T)", "√ᾱ(T)") for kind in kinds)]
    return table(rows, dict.fromkeys(titles, ".6e"))


def scaled_in_snr(schedule: Schedule) -> Schedule:
    """The schedule with its SNR, in place of sqrt(alpha_bar), shifted to end at 0 and scaled to begin as before."""
    snr = schedule.snr
    shifted = (snr - snr[-1]) * snr[0] / (snr[0] - snr[-1])
    return zsnr.from_alpha_bar(shifted / (1 + shifted))


def slope_change(schedule: Schedule, original: Schedule) -> float:
    """Largest relative change of the slope of sqrt(alpha_bar)."""
    return (schedule.sqrt_alpha_bar.diff() / original.sqrt_alpha_bar.diff() - 1).abs().max().item()


def distance(schedule: Schedule, original: Schedule) -> float:
    """Root mean square difference of sqrt(alpha_bar)."""
    return (schedule.sqrt_alpha_bar - original.sqrt_alpha_bar).square().mean().sqrt().item()


def off_line(schedule: Schedule, original: Schedule) -> float:
    """Largest distance of the map sqrt(alpha_bar) -> sqrt(alpha_bar) from a straight line."""
    x, y = original.sqrt_alpha_bar.numpy(), schedule.sqrt_alpha_bar.numpy()
    return float(np.abs(y - np.polyval(np.polyfit(x, y, 1), x)).max())


def best_losses(schedule: Schedule) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least squared errors of eps and of v for x0 ~ N(0, 1), one pixel: sin(phi)^2 SNR, and sin(phi)^2 (1 + SNR)."""
    posterior = np.sin(schedule.angle.numpy()) ** 2  # variance of x0 given x
    snr = schedule.snr.numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        return posterior * snr, posterior * (1 + snr)


def diffusers_x0_from_eps() -> Tensor:
    """What diffusers' DDIM makes of eps = x at zero SNR: x0 = (x - eps) / 0."""
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False}
    scheduler = diffusers.DDIMScheduler(**STABLE_DIFFUSION, **options)
    scheduler.set_timesteps(10)
    x = torch.ones(1, 1, 2, 2)
    found: Tensor = scheduler.step(x, 999, x).pred_original_sample
    return found


def round_trip(schedule: Schedule) -> tuple[float, Tensor, Tensor]:
    """Largest error of x0 and eps from v over all steps, on 1000 numbers; with their x0, and their v at T."""
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 1000, generator=g, dtype=torch.float64)
    worst, v = 0.0, x0
    for phi in schedule.angle.tolist():
        c, s = prediction.cos_sin(phi)
        x, v = c * x0 + s * eps, c * eps - s * x0
        errors = prediction.to_x0(v, x, phi, "v") - x0, prediction.to_eps(v, x, phi, "v") - eps
        worst = max(worst, *(error.abs().max().item() for error in errors))
    return worst, x0, v


def weight_error(schedule: Schedule) -> float:
    """Relative error of the plain v loss's weights: SNR + 1 on the squared x0 error, 1 / alpha_bar on that of eps."""
    alpha, sigma = schedule.sqrt_alpha_bar, (1 - schedule.alpha_bar).sqrt()
    on_x0 = prediction.loss_weight("v", "x0", alpha, sigma)
    on_eps = prediction.loss_weight("v", "eps", alpha[:-1], sigma[:-1])
    return max(
        (on_x0 - (1 + schedule.snr)).abs().max().item() / (1 + schedule.snr).max().item(),
        (on_eps * schedule.alpha_bar[:-1] - 1).abs().max().item(),
    )


def shipped() -> dict[tuple[str, str], list[str]]:
    """{(schedule, alpha_bar_T): the schedulers of diffusers that hold it}, of all that have a table of alpha_bar."""
    rows: dict[tuple[str, str], list[str]] = {}
    for name in sorted(dir(diffusers)):
        kind = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
        if kind is None or "Flax" in name or "FlowMatch" in name:
            continue
        if "Dummy" in str(type(kind)) or not hasattr(kind, "config_name"):
            continue
        for label, config in CONFIGS.items():
            if not set(config) <= set(inspect.signature(kind.__init__).parameters):
                continue
            try:
                alpha_bar = float(torch.as_tensor(kind(**config).alphas_cumprod)[-1])
            except (AttributeError, ImportError, NotImplementedError, ValueError, TypeError):
                continue
            rows.setdefault((label, f"{alpha_bar:.3g}"), []).append(name.removesuffix("Scheduler"))
    return dict(sorted(rows.items()))


def figure2(original: Schedule, rescaled: Schedule) -> Figure:
    """Figure 2: log SNR and sqrt(alpha_bar) over the steps, before and after Algorithm 1."""
    t = np.arange(1, original.T + 1)
    fig, (left, right) = plt.subplots(1, 2, figsize=(7, 2.7), layout="constrained")
    looks = (
        (original, {"color": COLOURS["control"], "label": "Stable Diffusion"}),
        (rescaled, {"color": COLOURS["zsnr"], "label": "rescaled by Algorithm 1", "ls": (0, (4, 1.5))}),
    )
    inset = right.inset_axes((0.62, 0.5, 0.36, 0.4))
    for schedule, look in looks:
        finite = schedule.alpha_bar > 0
        left.plot(t[finite], schedule.log_snr[finite], **look)
        right.plot(t, schedule.sqrt_alpha_bar, **look)
        inset.plot(t[-120:], schedule.sqrt_alpha_bar[-120:], **look)
    left.annotate(r"$-\infty$ at $t = T$", (1000, -14.6), (590, -11.2), arrowprops={"arrowstyle": "->", "lw": 0.6})
    left.set(xlabel="step $t$", ylabel=r"$\log\,\mathrm{SNR}$", ylim=(-15.5, 8))
    right.set(xlabel="step $t$", ylabel=r"$\sqrt{\bar\alpha_t}$", ylim=(0, 1.02))
    inset.set_title("the last 120 steps", fontsize=7, pad=2)
    inset.set(xticks=[900, 950, 1000], yticks=[0, 0.05, 0.1])
    inset.tick_params(labelsize=6)
    left.legend(loc="lower left")
    return fig
