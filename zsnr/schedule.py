r"""Noise schedules as data: sqrt(alpha_bar_t) for t = 1 .. T, float64, exactly 0 where the SNR is zero.

    x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps
    SNR_t = alpha_bar_t / (1 - alpha_bar_t),  sigma_t = SNR_t^-1/2,  phi_t = atan(sigma_t) in [0, pi/2]

Everything else is derived from that one array; the angle phi, in which zero SNR is the ordinary point pi/2, is
what the rest of the package works in.

Source: Lin et al. 2023 (arXiv 2305.08891), Table 1 and Algorithm 1; Nichol & Dhariwal 2021 for the cosine schedule.
"""

from __future__ import annotations

import bisect
import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Schedule:
    """A discrete noise schedule.

    Args:
        sqrt_alpha_bar: (T,), the signal's coefficient at step t = 1 .. T (index t - 1), non-increasing, in [0, 1].
            Only the last entry may be 0.

    Raises:
        ValueError: the array is not such a schedule.
    """

    sqrt_alpha_bar: Tensor

    def __post_init__(self) -> None:
        a = exact(self.sqrt_alpha_bar).clone()
        object.__setattr__(self, "sqrt_alpha_bar", a)
        if a.ndim != 1 or len(a) < 1:
            raise ValueError(f"a schedule is one value a step; got an array of shape {tuple(a.shape)}")
        if not (inside := (a >= 0) & (a <= 1)).all():  # NaN is not
            t = int((~inside).nonzero()[0]) + 1
            raise ValueError(f"sqrt(alpha_bar) at t = {t} is {a[t - 1].item()}, not in [0, 1]: check its betas")
        if (a.diff() > 0).any():
            t = int((a.diff() > 0).nonzero()[0]) + 2
            raise ValueError(f"the noise must not shrink: sqrt(alpha_bar) rises at t = {t}; is the array reversed?")
        if (a[:-1] == 0).any():
            t = int((a == 0).nonzero()[0]) + 1
            raise ValueError(f"zero SNR at t = {t} < T = {len(a)}: only the last step may carry no signal")

    @property
    def T(self) -> int:
        """Number of steps."""
        return len(self.sqrt_alpha_bar)

    @property
    def alpha_bar(self) -> Tensor:
        """(T,), variance of the signal's coefficient."""
        return self.sqrt_alpha_bar**2

    @property
    def snr(self) -> Tensor:
        """(T,), alpha_bar / (1 - alpha_bar); 0 at zero terminal SNR."""
        return self.alpha_bar / (1 - self.alpha_bar)

    @property
    def log_snr(self) -> Tensor:
        """(T,), natural logarithm of the SNR; -inf at zero terminal SNR."""
        return self.snr.log()

    @property
    def sigma(self) -> Tensor:
        """(T,), EDM's noise level sqrt(1 - alpha_bar) / sqrt(alpha_bar); inf at zero terminal SNR."""
        return (1 - self.alpha_bar).sqrt() / self.sqrt_alpha_bar

    @property
    def angle(self) -> Tensor:
        """(T,), phi = atan(sigma) in [0, pi/2]; exactly pi/2 at zero terminal SNR."""
        return torch.atan2((1 - self.alpha_bar).sqrt(), self.sqrt_alpha_bar)

    @property
    def betas(self) -> Tensor:
        """(T,), beta_t = 1 - alpha_bar_t / alpha_bar_{t-1} with alpha_bar_0 = 1; 1 at zero terminal SNR."""
        previous = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar[:-1]])
        return 1 - self.alpha_bar / previous

    @property
    def terminal_snr(self) -> float:
        """SNR(T): 0 for a schedule without the flaw."""
        return self.snr[-1].item()

    @property
    def zero_snr(self) -> bool:
        """Does the last step carry no signal at all?"""
        return self.sqrt_alpha_bar[-1].item() == 0.0

    def shifted(self, k: float) -> Schedule:
        """The same steps with the SNR divided by k, so sigma times sqrt(k): alpha_bar / (k + (1 - k) alpha_bar).

        For pictures of more pixels, in which the same noise hides less: k = 4 for twice the width and height (Hoogeboom
        et al. 2023, simple diffusion); diffusers' snr_shift_scale (Yang et al. 2024, CogVideoX). Zero SNR stays zero.
        """
        if not 0 < k < math.inf:
            raise ValueError(f"the SNR is divided by k, a finite number above 0; got {k}")
        return Schedule(self.sqrt_alpha_bar / (k + (1 - k) * self.alpha_bar).sqrt())  # whose square may underflow

    def step_at(self, phi: float) -> float:
        """The step, counted from 0, at an angle: a fraction between two steps, linear in the angle.

        Below the first step, where the angle falls to the image's 0, it falls to -1.

        Raises:
            ValueError: an angle above the last step's.
        """
        angles = self._angles
        if not phi <= angles[-1]:
            raise ValueError(
                f"angle {phi:.6g} (sigma = {math.tan(phi):.6g}) is above the last trained step's {angles[-1]:.6g} "
                f"(sigma = {math.tan(angles[-1]):.6g}): start the grid at or below it"
            )
        k = bisect.bisect_left(angles, phi)
        if angles[k] == phi:
            return float(k)
        low = angles[k - 1] if k else 0.0
        return k - (angles[k] - phi) / (angles[k] - low)

    def angle_at(self, step: float) -> float:
        """The angle at a step, counted from 0, or at a fraction between two: the inverse of `step_at`."""
        if not -1 <= step <= self.T - 1:
            raise ValueError(f"step {step} of a schedule with T = {self.T}: steps are counted from 0 to {self.T - 1}")
        k = math.ceil(step)
        high, low = self._angles[k] if k >= 0 else 0.0, self._angles[k - 1] if k > 0 else 0.0
        return high - (k - step) * (high - low)

    @functools.cached_property
    def _angles(self) -> list[float]:
        return list(self.angle.tolist())


def exact(values: Any) -> Tensor:
    """Values as float64 on the CPU, wherever they come from: Apple's GPUs have no float64."""
    return torch.as_tensor(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=torch.float64)


def from_betas(betas: Any) -> Schedule:
    """Schedule of the forward process x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps, with (T,) betas in [0, 1]."""
    betas = exact(betas)
    outside = betas[~((betas >= 0) & (betas <= 1))]
    if len(outside):
        raise ValueError(f"betas must lie in [0, 1]; got {outside[0].item()}")
    return from_alpha_bar((1 - betas).cumprod(0))


def from_alpha_bar(alpha_bar: Any) -> Schedule:
    """Schedule with the given (T,) table of alpha_bar_t, t = 1 .. T, non-increasing in [0, 1]."""
    alpha_bar = exact(alpha_bar)
    if (alpha_bar < 0).any():
        raise ValueError(f"alpha_bar must lie in [0, 1]; got {alpha_bar.min().item()}")
    return Schedule(alpha_bar.sqrt())


def linear(T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """DDPM's schedule (Ho et al. 2020): beta_t linear in t (Table 1, first row)."""
    return from_betas(torch.linspace(beta_start, beta_end, T, dtype=torch.float64))


def stable_diffusion(T: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> Schedule:
    """Stable Diffusion's schedule: sqrt(beta_t) linear in t (Table 1, third row)."""
    if min(beta_start, beta_end) < 0:  # its root is complex
        raise ValueError(f"betas must lie in [0, 1]; got {min(beta_start, beta_end)}")
    return from_betas(torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float64) ** 2)


def cosine(T: int = 1000, s: float = 0.008, max_beta: float | None = 0.999) -> Schedule:
    """iDDPM's schedule: alpha_bar_t = f(t) / f(0), f(t) = cos((t/T + s) / (1 + s) pi/2)^2 (Table 1, second row).

    Args:
        max_beta: upper limit of beta_t. It touches beta_T only, and is all that keeps this schedule from zero
            terminal SNR; None removes it.

    Table 1 prints i = (t - 1) / (T - 1) for t / T, but its number comes out with t / T.
    """
    f = torch.cos((torch.arange(T + 1, dtype=torch.float64) / T + s) / (1 + s) * (math.pi / 2)) ** 2
    f[-1] = 0.0  # cos(pi/2)^2, which float64 gives as 4e-33
    if max_beta is None:
        return from_alpha_bar(f[1:] / f[0])
    return from_betas((1 - f[1:] / f[:-1]).clamp(max=max_beta))


def rescale_zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Algorithm 1: shift and scale sqrt(alpha_bar) so that it ends at exactly 0 and starts where it did.

        sqrt_alpha_bar_t <- (sqrt_alpha_bar_t - sqrt_alpha_bar_T) sqrt_alpha_bar_1
                            / (sqrt_alpha_bar_1 - sqrt_alpha_bar_T)

    The model must then predict v or x0: from pure noise, eps says nothing about x0 (Sec. 3.1).
    """
    a = schedule.sqrt_alpha_bar
    if len(a) < 2 or a[0] == a[-1]:
        raise ValueError(f"Algorithm 1 needs a schedule whose noise grows; sqrt(alpha_bar) goes from {a[0]} to {a[-1]}")
    return Schedule((a - a[-1]) * (a[0] / (a[0] - a[-1])))
