r"""Which noise levels a sampler visits: the three selections of time steps, and grids that need no steps.

A *grid* is a (N + 1,) float64 tensor of angles phi = atan(sigma), falling from the start to exactly 0.

Source: Lin et al. 2023, Table 2; Karras et al. 2022, Eq. 5. Steps are the paper's, t = 1 .. T (diffusers counts
from 0). All arithmetic on steps is in rationals: in floats, arange(T, 0, -T/S) yields a step too many for some S.
"""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor

from zsnr.prediction import cos_sin
from zsnr.schedule import Schedule, exact

SPACINGS = ("leading", "linspace", "trailing")


def timesteps(spacing: str, S: int, T: int = 1000) -> list[int]:
    """S of the steps 1 .. T, ascending as in Table 2; ties round to even, as numpy rounds.

        leading    1 + k floor(T/S)             k = 0 .. S-1  (never T, unless S = T: the flaw)
        linspace   round(1 + k (T-1)/(S-1))     k = 0 .. S-1  (S = 1: T)
        trailing   round(T - k T/S)             k = S-1 .. 0

    Raises:
        ValueError: unknown spacing, or S outside 1 .. T.
    """
    if spacing not in SPACINGS:
        raise ValueError(f"unknown spacing {spacing!r}; choose one of {', '.join(SPACINGS)}")
    if not 1 <= S <= T:
        raise ValueError(f"{S} sampling steps from a schedule of T = {T}: choose 1 to {T}")
    if spacing == "leading":
        return [1 + k * (T // S) for k in range(S)]
    if spacing == "linspace":
        return [round(1 + Fraction(k * (T - 1), S - 1)) for k in range(S)] if S > 1 else [T]
    return [round(Fraction(T * (k + 1), S)) for k in range(S)]


def grid(schedule: Schedule, S: int, spacing: str = "trailing") -> Tensor:
    """(S + 1,) angles of the S selected steps, falling, with the clean image's 0 at the end.

    Warns where the schedule has zero terminal SNR but the first step is not T: the model was trained for pure
    noise at T and would be given it at t < T, where it expects a signal (Lin et al., Sec. 3.3).
    """
    steps = timesteps(spacing, S, schedule.T)
    if schedule.zero_snr and steps[-1] != schedule.T:
        warnings.warn(
            f"{spacing} spacing with {S} steps starts at t = {steps[-1]}, not at T = {schedule.T}, where this "
            "zero-SNR schedule has its pure noise; use spacing='trailing'",
            stacklevel=2,
        )
    return torch.cat([schedule.angle[torch.tensor(steps) - 1].flip(0), torch.zeros(1, dtype=torch.float64)])


def uniform(N: int, phi_max: float = math.pi / 2) -> Tensor:
    """(N + 1,) angles falling from phi_max to 0 in equal steps."""
    return _checked(N, phi_max) * torch.linspace(1, 0, N + 1, dtype=torch.float64)


def power(N: int, exponent: float = 1.5, phi_max: float = math.pi / 2) -> Tensor:
    """(N + 1,) angles with tan(phi) = (u / (1 - u))^exponent, u falling from 1 (or phi_max's u) to 0 in equal steps.

    Smooth at both ends: steps shrink towards the data, and towards zero SNR. Derived for this project.
    """
    if not 0 < exponent < math.inf:
        raise ValueError(f"the exponent must be above 0 and finite; got {exponent}")
    try:
        u_max = 1.0 if _checked(N, phi_max) == math.pi / 2 else 1 / (1 + math.tan(phi_max) ** (-1 / exponent))
    except OverflowError:
        raise ValueError(f"exponent = {exponent} is too small to reach phi_max = {phi_max}; 1.5 is usual") from None
    u = u_max * torch.linspace(1, 0, N + 1, dtype=torch.float64)
    phi = torch.atan2(u**exponent, (1 - u) ** exponent)
    phi[0] = phi_max
    return phi


def skewed(N: int, rho_clean: float = 2.25, rho_noise: float = 1.46, phi_max: float = math.pi / 2) -> Tensor:
    """(N + 1,) angles: tan(phi) = u^rho_clean / (1 - u)^rho_noise, u from 1 to 0 in equal steps, shrunk to phi_max.

    The grid of `zsnr.eab`, for data of about unit std. Near the image sigma goes as u^rho_clean, EDM's rule with its
    own rho; near zero SNR the angle goes as (1 - u)^rho_noise, so that in the limit the order is min(order, 2
    rho_noise): 2 keeps all four. Derived for this project: the exponents, the same for all N, and the constants of
    `zsnr.eab` were searched together, on Gaussian data of variances 1/64 to 64 and on mixtures, at 8 to 100 steps;
    a trained network, from other latents than benchmarks score, decided between rho_clean near 2.2 and near 2.5.
    """
    if not 0 < rho_clean < math.inf or not 0 < rho_noise < math.inf:
        raise ValueError(f"the exponents must be above 0 and finite; got {rho_clean} and {rho_noise}")
    share = _checked(N, phi_max) / (math.pi / 2)
    u = torch.linspace(1, 0, N + 1, dtype=torch.float64)
    phi = share * torch.atan2(u**rho_clean, (1 - u) ** rho_noise)
    phi[0] = phi_max
    return phi


def geometric(N: int, c: float = 2.5) -> Tensor:
    """(N + 1,) angles from zero SNR: pi/2, then N - 1 sigmas in equal ratios from c N to 1 / (c N), then 0.

    For multistep solvers, which extrapolate in ln sigma (`zsnr.samplers.dpmpp_2m`); for Heun, take `power`. Derived for
    this project: the range grows with N, so that neither end limits the order; c = 2.5 suits data of about unit std.
    """
    if N < 1 or not 0 < c < math.inf or (N > 2 and c * N <= 1):
        raise ValueError(f"geometric steps need N >= 1 and c N above 1 and finite; got N = {N}, c = {c}")
    exponent = torch.linspace(1, -1, N - 1, dtype=torch.float64) if N > 2 else torch.zeros(N - 1, dtype=torch.float64)
    return torch.tensor([math.pi / 2, *torch.atan((c * N) ** exponent).tolist(), 0.0], dtype=torch.float64)


def karras(
    N: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, sigma_data: float = 1.0
) -> Tensor:
    """(N + 1,) angles atan(sigma / sigma_data) of EDM's steps (Eq. 5), with sigma_N = 0.

    sigma_i = (sigma_max^(1/rho) + i/(N-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho,   i < N
    """
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"rho steps need 0 < sigma_min < sigma_max < inf; got {sigma_min}, {sigma_max}. From zero SNR, use `power`"
        )
    if N < 1 or not rho > 0 or not sigma_data > 0:
        raise ValueError(f"rho steps need N >= 1 and rho > 0, sigma_data > 0; got N = {N}, rho = {rho}, {sigma_data}")
    u = torch.linspace(0, 1, N, dtype=torch.float64)
    try:
        top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    except OverflowError:
        raise ValueError(f"rho = {rho} is too small: sigma_max^(1/rho) is no number; 7 is EDM's") from None
    sigma = (top + u * (bottom - top)) ** rho
    return torch.cat([torch.atan(sigma / sigma_data), torch.zeros(1, dtype=torch.float64)])


def check_grid(grid: Tensor) -> list[float]:
    """The grid's angles as floats.

    Raises:
        ValueError: not a falling sequence within [0, pi/2] that ends in 0.
    """
    angles: list[float] = exact(grid).tolist()
    if len(angles) < 2:
        raise ValueError(f"a grid needs at least one step, so two angles; got {len(angles)}")
    if not all(phi > psi for phi, psi in pairwise(angles)):  # also catches NaN
        k = next(k for k, (phi, psi) in enumerate(pairwise(angles)) if not phi > psi)
        raise ValueError(f"a grid's angles must fall; got {angles[k]} then {angles[k + 1]} at step {k}")
    if (above := angles[0] - math.pi / 2) > 0:
        why = "by rounding: make it float64" if above < 1e-6 else "are these sigmas? take their atan"
        raise ValueError(f"a grid starts at pi/2 (zero SNR) at most; got {angles[0]}; {why}")
    if angles[-1] != 0:
        raise ValueError(f"a grid ends at the image, angle 0; got {angles[-1]}; append a 0")
    return angles


def within(phi: float, lo: float, hi: float, lowest: bool = True) -> bool:
    """Whether sigma = tan(phi), infinite at zero SNR, lies in [lo, hi], or in (lo, hi] without the `lowest`.

    An end that the tangent misses by rounding counts as met. With lo = 0 there is no lower bound.
    """
    c, s = cos_sin(phi)
    sigma = s / c if c else math.inf
    above = lo <= sigma * (1 + 1e-9) if lowest else lo == 0 or sigma > lo * (1 + 1e-9)
    return above and sigma <= hi * (1 + 1e-9)


def _checked(N: int, phi_max: float) -> float:
    if N < 1:
        raise ValueError(f"a grid needs at least one step; got N = {N}")
    if not 0 < phi_max <= math.pi / 2:
        raise ValueError(f"phi_max must lie in (0, pi/2]; got {phi_max}")
    return phi_max
