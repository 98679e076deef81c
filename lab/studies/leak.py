r"""Finding 11, the law of the leak: what a schedule that ends above zero SNR costs, without any network.

One direction u of Gaussian data with variance L, mean mu, noised with noise of variance nu along u. The
probability-flow ODE is linear there and carries each marginal to the next, so from x = sqrt(a) m + sqrt(1 - a) eps',

    mean = mu + sqrt(a L / d) (mean(m) - mu),      std / sqrt(L) = sqrt((a Var(m) + (1 - a) nu') / d)
    d = a L + (1 - a) nu,      a = alpha_bar of the first step          (`zsnr.brightness`)

Pure noise is the start whose m is noise: mean(m) = 0, Var(m) = 1. (Lin et al. 2023, Sec. 3.1, describe the leak; the
law is derived for this project.) `errors_of_the_law` checks it against an adaptive solver; `uniform_level` is the same
for levels that are uniform, in place of Gaussian.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

import zsnr
from lab.studies.progress import bar
from zsnr import brightness
from zsnr.prediction import cos_sin
from zsnr.schedule import Schedule

QUANTILES = ndtri((np.arange(2000) + 0.5) / 2000)
"""They stand for a normal variable."""
STEPS = 50
"""Of the grids whose first step is looked at."""


def schedules() -> dict[str, Schedule]:
    """The four schedules that are compared."""
    sd = zsnr.schedule.stable_diffusion()
    return {
        "Stable Diffusion": sd,
        "DDPM linear": zsnr.schedule.linear(),
        "cosine": zsnr.schedule.cosine(),
        "SD, zero SNR": zsnr.rescale_zero_terminal_snr(sd),
    }


def first_alpha_bar(schedule: Schedule, spacing: str) -> float:
    """alpha_bar of the first of 50 steps; a leading grid starts at t < T, from pure noise all the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "leading spacing")
        return zsnr.grid(schedule, STEPS, spacing)[0].cos().item() ** 2


def gaussian(L: Tensor, mean: float, nu: Tensor) -> Callable[[Tensor, float], Tensor]:
    """(x, phi) -> v = E[cos eps - sin x0 | x] of independent directions, from their two conditional means."""

    def v(x: Tensor, phi: float) -> Tensor:
        c, s = cos_sin(phi)
        residual = (x - c * mean) / (c * c * L + s * s * nu)
        return c * s * nu * residual - s * (mean + c * L * residual)

    return v


def errors_of_the_law() -> dict[str, float]:
    """Largest difference of the law from RK45 at a tolerance of 1e-11, for iid noise and for offset noise.

    Over four schedules, trailing and leading first steps, three starts and six variances. The ODE is affine in its
    start, so two solutions, from 0 and from 1, give the mean and the std ratio of every start.
    """
    variances, mu = torch.tensor([0.01, 1, 30, 200, 1024, 21600], dtype=torch.float64), 1.7
    noises = {"iid": torch.ones_like(variances), "offset": 1 + 0.01 * torch.clamp(4 * variances, min=1)}
    starts = ((0.0, 1.0), (0.6, 0.0), (mu, None))  # mean and variance of m: noise, one picture, the data's own
    errors: dict[str, list[float]] = {kind: [] for kind in noises}
    grids = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "leading spacing")
        for schedule in schedules().values():
            grids += [zsnr.grid(schedule, STEPS, spacing)[0].item() for spacing in ("trailing", "leading")]
    for phi in bar(grids, "solver"):
        c, s = cos_sin(phi)
        for kind, nu in noises.items():
            x = torch.stack([torch.zeros_like(variances), torch.ones_like(variances)])
            grid = torch.tensor([phi, 1e-6, 0.0], dtype=torch.float64)
            zero, one = zsnr.rk45(gaussian(variances, mu, nu), x, grid, rtol=1e-11, atol=1e-12)
            slope = one - zero
            for m_mean, m_var in starts:
                for k, (L, n) in enumerate(zip(variances.tolist(), nu.tolist(), strict=True)):
                    var, noise = (L, n) if m_var is None else (m_var, 1.0)
                    mean, ratio = brightness.started(c * c, L, mu, m_mean, var, n, noise)
                    spread = slope[k].item() * math.sqrt((c * c * var + s * s * noise) / L)
                    found = zero[k].item() + slope[k].item() * c * m_mean
                    errors[kind] += [abs(found - mean), abs(spread - ratio)]
    return {kind: max(values) for kind, values in errors.items()}


def lost(
    alpha_bar: float, n: float, mean_std: float, offset: float = 0.0, own_start: bool = True
) -> tuple[float, float]:
    """(share of the mean that is lost, std of the mean over the data's) of a channel over n positions.

    Args:
        mean_std: std of the channel's mean from picture to picture.
        offset: square of the offset noise's scale in training.
        own_start: sampling starts from that noise, not from plain noise.
    """
    nu = 1 + offset * n
    mean, std = brightness.predicted(alpha_bar, n * mean_std**2, 1.0, nu, nu if own_start else 1.0)
    return 1 - mean, std


def uniform_level(x: np.ndarray, alpha_bar: float, n: float) -> np.ndarray:
    """Where the ODE's limit carries x along a backdrop of n pixels, for levels uniform on [-1, 1].

    In one dimension the ODE is a monotone map from marginal to marginal, so for any data x0 = Q(F_T(x)), with F_T the
    distribution function of x_T and Q the data's quantile function. With a = sqrt(alpha_bar n), s = sqrt(1 - alpha_bar)
    and G(z) = z Phi(z) + Phi'(z):  level = s / a (G((x + a) / s) - G((x - a) / s)) - 1.
    """
    a, s = math.sqrt(alpha_bar * n), math.sqrt(1 - alpha_bar)

    def G(z: np.ndarray) -> np.ndarray:
        return z * ndtr(z) + np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)

    return s / a * (G((x + a) / s) - G((x - a) / s)) - 1


def uniform_from(levels: np.ndarray, alpha_bar: float, n: float) -> np.ndarray:
    """(len(levels), 2000) levels that come out from sqrt(alpha_bar) m + sqrt(1 - alpha_bar) eps, m plain pictures."""
    x = math.sqrt(alpha_bar * n) * np.reshape(levels, (-1, 1)) + math.sqrt(1 - alpha_bar) * QUANTILES
    return uniform_level(x, alpha_bar, n)


def slope(x: np.ndarray | Tensor, y: np.ndarray | Tensor) -> float:
    """Of the regression of y on x."""
    a, b = torch.as_tensor(x, dtype=torch.float64), torch.as_tensor(y, dtype=torch.float64)
    return (((a - a.mean()) * (b - b.mean())).mean() / (a - a.mean()).square().mean()).item()


def shipped() -> Iterator[tuple[list[str], float, float | None]]:
    """(schedulers of diffusers, alpha_bar_T, alpha_bar at the first of 50 steps) by default, grouped where both agree.

    Those with a table of betas; then those from sigma_max, alpha_bar = 1 / (1 + (sigma_max / sigma_data)^2), and flow
    matching from sigma = 1, with 0. Inverse schedulers run the other way, and are left out.
    """
    tables: dict[tuple[float, float], list[str]] = {}
    others: dict[float, list[str]] = {}
    for name, scheduler in _schedulers():
        sigmas = getattr(scheduler, "sigmas", None)
        if getattr(scheduler, "alphas_cumprod", None) is not None:
            schedule = zsnr.from_scheduler(scheduler)
            scheduler.set_timesteps(STEPS)
            first = schedule.alpha_bar[round(float(scheduler.timesteps[0]))].item()
            tables.setdefault((_rounded(schedule.alpha_bar[-1]), _rounded(first)), []).append(name)
        elif sigmas is not None and "sigma_data" in scheduler.config:
            end = 1 / (1 + (float(sigmas[0]) / scheduler.config.sigma_data) ** 2)
            others.setdefault(_rounded(end), []).append(name)
        elif sigmas is not None and "Flow" in name and float(sigmas[0]) == 1:
            others.setdefault(0.0, []).append(name)
    yield from ((names, end, first) for (end, first), names in sorted(tables.items()))
    yield from ((names, end, None) for end, names in sorted(others.items(), reverse=True))


def ends() -> Iterator[tuple[str, float, float | None, float, bool]]:
    """Who is compared: name, alpha_bar_T, alpha_bar at the first of 50 steps, and offset and own_start of `lost`.

    The package's schedules, Stable Diffusion's with offset noise 0.1, and diffusers' schedulers.
    """
    kinds = schedules()
    yield from ((f"{name} (zsnr)", kind.alpha_bar[-1].item(), None, 0.0, True) for name, kind in kinds.items())
    sd = kinds["Stable Diffusion"].alpha_bar[-1].item()
    yield "SD, offset noise 0.1, started from it", sd, None, 0.01, True
    yield "the same, plain start", sd, None, 0.01, False
    yield from ((", ".join(names), end, first, 0.0, True) for names, end, first in shipped())


def _rounded(x: float | Tensor) -> float:
    return float(f"{float(x):.3g}")


def _schedulers() -> Iterator[tuple[str, Any]]:
    """Every scheduler of diffusers that can be made without arguments, and runs from noise to pictures."""
    diffusers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sorted(dir(diffusers)):
            if name.endswith("Scheduler") and "Flax" not in name and "Inverse" not in name:
                try:
                    scheduler = getattr(diffusers, name)()
                except (TypeError, ImportError):
                    continue  # a scheduler of tokens, or one whose library is not installed
                yield name.removesuffix("Scheduler"), scheduler
