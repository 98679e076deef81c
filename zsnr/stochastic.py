r"""Stochastic samplers: EDM's Algorithm 2, and Euler-Maruyama as its baseline; exact from zero SNR.

Euler-Maruyama discretises EDM's SDE (Eq. 6), which replaces noise at a rate beta without changing the distribution;
Algorithm 2 adds noise and solves the ODE by turns, and tends to the same:

    dx = ODE dt + beta sigma^2 score |dt| + sqrt(2 beta |dt|) sigma eps

At zero SNR the state is noise alone: replacing it by fresh noise changes nothing in law, so it is left out there.

Source: Karras et al. 2022, Sec. 4, Algorithm 2, App. E. Arguments and result are those of `zsnr.sampler`; sigma is
tan(phi), so for data that was divided by sigma_data give S_tmin and S_tmax divided by it, too.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from zsnr.denoiser import Denoiser
from zsnr.path import ANGLE, Path
from zsnr.prediction import cos_sin
from zsnr.sampler import (
    Callback,
    Generators,
    _linear,
    _steps,
    axpby,
    check_generators,
    check_grid,
    check_noise,
    randn,
    rk2_table,
)

GAMMA_MAX = math.sqrt(2) - 1
"""Then the noise that is added has the variance of the noise that is there."""


def gamma(phi: float, N: int, S_churn: float, S_tmin: float = 0.0, S_tmax: float = math.inf) -> float:
    """By which share a step of N raises sigma = tan(phi): min(S_churn / N, sqrt 2 - 1) within [S_tmin, S_tmax], or 0.

    0 also at zero SNR, where raising is an identity in law.
    """
    return min(S_churn / N, GAMMA_MAX) if _within(phi, S_tmin, S_tmax) else 0.0


def _within(phi: float, S_tmin: float, S_tmax: float) -> bool:
    """Below zero SNR, and in the range; its ends belong to it, though an angle's tangent may miss them by rounding."""
    return phi < math.pi / 2 and S_tmin <= math.tan(phi) * (1 + 1e-9) and math.tan(phi) <= S_tmax * (1 + 1e-9)


def raised(phi: float, gamma: float) -> float:
    """The angle of (1 + gamma) tan(phi)."""
    c, s = cos_sin(phi)
    return math.atan2((1 + gamma) * s, c) if gamma else phi


def raise_step(phi: float, gamma: float, S_noise: float = 1.0) -> tuple[float, float]:
    """(a, c) of x <- a x + c z, which brings x from the angle phi to `raised(phi, gamma)`."""
    if not gamma:
        return 1.0, 0.0
    c = math.cos(raised(phi, gamma))
    return c / math.cos(phi), S_noise * c * math.tan(phi) * math.sqrt(gamma * (2 + gamma))


def churn(
    denoiser: Denoiser,
    noise: Tensor,
    grid: Tensor,
    *,
    S_churn: float,
    S_tmin: float = 0.0,
    S_tmax: float = math.inf,
    S_noise: float = 1.0,
    order: int = 2,
    path: Path = ANGLE,
    generators: Generators = None,
    callback: Callback = None,
    progress: bool = False,
) -> Tensor:
    """EDM's Algorithm 2: each step first raises the noise level, then takes a Heun step from there.

        sigma^ = (1 + gamma) sigma,   x^ = x + sqrt(sigma^^2 - sigma^2) S_noise eps,   gamma as in `gamma`

    The network sees the raised state at the raised level. 2N - 1 evaluations, N of first order.

    Args:
        S_churn: amount of noise replaced over the whole grid; 0 is Heun's method.
        S_tmin, S_tmax: the range of sigma where noise is replaced.
        S_noise: factor on the new noise's std.
        order: 2 for Heun steps, 1 for Euler steps.
    """
    check_churn(S_churn, S_tmin, S_tmax, S_noise)
    if order not in (1, 2):
        raise ValueError(f"order = {order}: 2 for Heun steps, 1 for Euler steps")
    angles = check_grid(grid)
    table = []
    for phi, psi in pairwise(angles):
        g = gamma(phi, len(angles) - 1, S_churn, S_tmin, S_tmax)
        top = raised(phi, g)
        step = rk2_table(path, 1.0, [top, psi, 0.0] if psi else [top, 0.0])[0]
        table.append((top, *raise_step(phi, g, S_noise), *step))
    if any(fresh for _, _, fresh, *_ in table):
        check_generators(generators, len(noise))
    x = check_noise(noise)
    for i, _ in enumerate(_steps(angles, progress)):
        phi, scale, fresh, a, b, second = table[i]
        if fresh or scale != 1:
            x = torch.mul(x, scale)
        if fresh:
            x.add_(randn(x.shape, generators, x.dtype, x.device), alpha=fresh)
        v = denoiser(x, phi).to(x)
        if callback is not None:
            callback(i, phi, x, v)
        predicted = axpby(x, a, v, b)
        if second is None or order == 1:
            x = predicted
        else:
            psi, on_x, on_v, on_both = second
            v2 = denoiser(predicted, psi).to(x)
            x = axpby(x, on_x, v2.add(v, alpha=on_v), on_both)
    return x


def check_churn(S_churn: float, S_tmin: float, S_tmax: float, S_noise: float) -> None:
    """Refuse parameters of churn that mean nothing."""
    if not 0 <= S_churn < math.inf or not 0 <= S_noise < math.inf or not 0 <= S_tmin <= S_tmax:
        raise ValueError(
            f"S_churn = {S_churn}, S_noise = {S_noise}, S_tmin = {S_tmin}, S_tmax = {S_tmax}: give S_churn and S_noise "
            "at least 0, and S_tmin <= S_tmax, in units of sigma"
        )


def euler_maruyama(
    denoiser: Denoiser,
    noise: Tensor,
    grid: Tensor,
    *,
    rate: float = 1.0,
    S_tmin: float = 0.0,
    S_tmax: float = math.inf,
    path: Path = ANGLE,
    generators: Generators = None,
    callback: Callback = None,
    progress: bool = False,
) -> Tensor:
    """Euler-Maruyama on Eq. 6 with beta = rate sigma' / sigma; rate = 1 is the reverse SDE of Song et al.

    The network is evaluated before the noise is added, at the step's own level; in Algorithm 2 it is
    evaluated after it, at the raised one. Which is the better, by length and order: notebook 4.
    """
    if not 0 <= rate < math.inf or not 0 <= S_tmin <= S_tmax:
        raise ValueError(f"rate = {rate}, S_tmin = {S_tmin}, S_tmax = {S_tmax}: give rate >= 0 and S_tmin <= S_tmax")

    def coefficients(phi: float, psi: float) -> tuple[float, float, float]:
        c, s = cos_sin(phi)
        if psi == 0:
            return c, -s, 0.0
        p, q = path.at(phi), path.at(psi)
        h = q.t - p.t
        beta = rate * p.dphi / (s * c) * -h if _within(phi, S_tmin, S_tmax) else 0.0
        on_x, on_v = p.n + h * p.dn - p.n * beta * s * s, p.n * (h * p.dphi - beta * s * c)
        return on_x / q.n, on_v / q.n, p.n * math.sqrt(2 * beta) * s / q.n

    return _linear(coefficients, denoiser, noise, grid, generators, callback, progress)
