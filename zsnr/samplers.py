r"""Samplers: functions of (denoiser, noise, grid), exact from zero SNR (pi/2) to the image (0).

The probability-flow ODE of every model of both papers is dx/dphi = v(x, phi), along any path x = n x_phi. A fixed-step
sampler is a table of rows, one for each network call, and one loop runs all of them (`zsnr.rows`). The state is x_phi
throughout. The last step, to phi = 0, is DDIM's rotation in every sampler: x <- D, and no network is evaluated without
noise. To add a solver, write its rows and decorate them.

All samplers take

    denoiser    (x, phi) -> v, see `zsnr.denoisers`
    noise       (B, ...) what to start from, x_phi at the angle grid[0]; also sets the state's dtype and device
    grid        (N + 1,) falling angles that end in 0, see `zsnr.grids`
    callback    called at each step with (i, phi, x, v): its index, the angle and state that it starts from, and the
                denoiser's answer there, so that D = cos(phi) x - sin(phi) v
    progress    show a bar (needs tqdm)
    generators  the stochastic ones: one torch.Generator for the batch, or a list of one a sample (then a sample does
                not depend on its batch)

and options of their own, and return the (B, ...) images at phi = 0.

Source: Lin et al. 2023, Eqs. 20-22; Karras et al. 2022, Algorithms 1 to 3, App. E; Song et al. 2020; Lu et al. 2022.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from zsnr.adaptive import rk45
from zsnr.grids import within
from zsnr.multistep import eab
from zsnr.path import ANGLE, Path, Point
from zsnr.prediction import cos_sin
from zsnr.rows import Row, sampler

# --- one evaluation a step


@sampler(stochastic=True)
def ddim(angles: Sequence[float], eta: float = 0.0) -> Iterator[Row]:
    """DDIM (Lin et al., Eqs. 21, 22): eta = 0 is the exact rotation, eta = 1 DDPM's amount of noise.

    eta = 0:  x <- cos(h) x + sin(h) v,   h = psi - phi, negative while denoising; exact for a frozen (x0, eps)

    sigma = eta sqrt((1 - alpha_bar_s) / (1 - alpha_bar_t)) sqrt(1 - alpha_bar_t / alpha_bar_s)
    x_s   = sqrt(alpha_bar_s) x0 + sqrt(1 - alpha_bar_s - sigma^2) eps + sigma z
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta = {eta}: DDIM's eta lies in [0, 1]")
    for phi, psi in pairwise(angles):
        yield ddim_step(phi, psi, eta)


def ddim_step(phi: float, psi: float, eta: float = 0.0) -> Row:
    """DDIM's step from angle phi to psi."""
    if eta == 0:
        return Row(phi, math.cos(psi - phi), math.sin(psi - phi))
    (c, s), (c2, s2) = cos_sin(phi), cos_sin(psi)
    sigma = eta * s2 / s * math.sqrt(max(1 - (c / c2) ** 2, 0.0))
    k = math.sqrt(max(s2**2 - sigma**2, 0.0))
    return Row(phi, c2 * c + k * s, k * c - c2 * s, e=sigma)


@sampler(stochastic=True)
def ddpm(angles: Sequence[float]) -> Iterator[Row]:
    """Ancestral sampling from DDPM's posterior q(x_s | x_t, x0) in its x0 form (Eqs. 9, 20), finite at zero SNR.

    beta = 1 - alpha_bar_t / alpha_bar_s
    mean = sqrt(alpha_bar_s) beta / (1 - alpha_bar_t) x0
           + sqrt(alpha_bar_t / alpha_bar_s) (1 - alpha_bar_s) / (1 - alpha_bar_t) x_t
    var  = (1 - alpha_bar_s) / (1 - alpha_bar_t) beta
    """
    for phi, psi in pairwise(angles):
        (c, s), (c2, s2) = cos_sin(phi), cos_sin(psi)
        beta = 1 - (c / c2) ** 2
        on_x0, on_x = c2 * beta / s**2, c / c2 * (s2 / s) ** 2
        yield Row(phi, on_x + on_x0 * c, -on_x0 * s, e=s2 / s * math.sqrt(beta))


@sampler()
def euler(angles: Sequence[float], path: Path = ANGLE) -> Iterator[Row]:
    """Euler's method along a path: x <- x + h dx/dt, h = t' - t. First order.

    On the ANGLE path, x_phi <- x_phi + (psi - phi) v.
    """
    for p, q in pairwise(points(path, angles)):
        yield euler_step(p, q)
    yield rotation(angles[-2])


def euler_step(p: Point, q: Point) -> Row:
    """Euler's step from one point of a path to another: n x_phi + h (n' x_phi + n phi' v), divided by n at its end."""
    h = q.t - p.t
    return Row(p.phi, (p.n + h * p.dn) / q.n, h * p.n * p.dphi / q.n)


def rotation(phi: float) -> Row:
    """The last step, from angle phi to the image: x <- D."""
    return Row(phi, math.cos(phi), -math.sin(phi))


def points(path: Path, angles: Sequence[float]) -> list[Point]:
    """A path at all angles above 0; none where there is but the last step, a rotation whatever the path."""
    return [path.at(phi) for phi in angles[:-1]] if len(angles) > 2 else []


@sampler(stochastic=True)
def euler_maruyama(
    angles: Sequence[float], rate: float = 1.0, S_tmin: float = 0.0, S_tmax: float = math.inf, path: Path = ANGLE
) -> Iterator[Row]:
    """Euler-Maruyama on EDM's SDE (Eq. 6), beta = rate sigma' / sigma; rate = 1 is the reverse SDE of Song et al.

        dx = ODE dt + beta sigma^2 score |dt| + sqrt(2 beta |dt|) sigma eps

    The network is evaluated before the noise is added, at the step's own level; in Algorithm 2 (`churn`) it is
    evaluated after it, at the raised one. Which is the better, by length and order: finding 4. At zero SNR the state is
    noise alone: replacing it by fresh noise changes nothing in law, so it is left out there.

    A step adds noise of std sqrt(2 rate d) sigma, d = |dt| sigma' / sigma, and of earlier noise leaves 1 - (1 + rate) d
    at the least, in data of one point: so keep d <= 1 / (1 + rate). Where noise of std above 5 is left, it is refused.
    """
    if not 0 <= rate < math.inf or not 0 <= S_tmin <= S_tmax:
        raise ValueError(f"rate = {rate}, S_tmin = {S_tmin}, S_tmax = {S_tmax}: give rate >= 0 and S_tmin <= S_tmax")
    left = 0.0  # std of all fresh noise, for data of one point: there v = x / tan(phi)
    for p, q in pairwise(points(path, angles)):
        c, s = cos_sin(p.phi)
        h = q.t - p.t
        beta = rate * p.dphi / (s * c) * -h if p.phi < math.pi / 2 and within(p.phi, S_tmin, S_tmax) else 0.0
        on_x, on_v = p.n + h * p.dn - p.n * beta * s * s, p.n * (h * p.dphi - beta * s * c)
        a, b, e = on_x / q.n, on_v / q.n, p.n * math.sqrt(2 * beta) * s / q.n
        left = math.hypot((a + b * c / s) * left, e)
        yield Row(p.phi, a, b, e=e)
    if left > 5:
        raise ValueError(
            f"noise of std {left:.3g} would be left: at rate = {rate}, a step may take 1 / (1 + rate) = "
            f"{1 / (1 + rate):.3g} of sigma; take more steps than {len(angles) - 1}, start lower, or use `churn`"
        )
    yield rotation(angles[-2])


@sampler()
def dpmpp_2m(angles: Sequence[float]) -> Iterator[Row]:
    """DPM-Solver++ 2M (Lu et al. 2022, Algorithm 2), multistep in data prediction: second order.

        x <- sin(psi)/sin(phi) x + (cos(psi) - sin(psi) cot(phi)) D,   D = D_i + (D_i - D_{i-1}) h / (2 h_last)

    with h the step of lambda = -ln tan(phi). From zero SNR, where lambda is infinite, the first step is DDIM, and so
    is the second, whose h_last is infinite; so is the last. On a grid whose ends are finer than its middle, such as
    `grids.geometric` or `grids.power`, that does not cost the order; on equal steps of the angle it does.
    """
    h_last, c_last, s_last = 0.0, 0.0, 0.0
    for phi, psi in pairwise(angles):
        (c, s), (c2, s2) = cos_sin(phi), cos_sin(psi)
        h = math.log(s * c2 / (s2 * c)) if c > 0 and psi > 0 else math.inf
        r = h / (2 * h_last) if 0 < h_last < math.inf and h < math.inf else 0.0
        g = c2 - s2 * c / s  # on D, which is c x - s v
        yield Row(phi, s2 / s + g * (1 + r) * c, -g * (1 + r) * s, -g * r * c_last, g * r * s_last)
        h_last, c_last, s_last = h, c, s


# --- two evaluations a step


@sampler()
def heun(angles: Sequence[float], path: Path = ANGLE) -> Iterable[Row]:
    """Heun's method along a path (EDM, Algorithm 1): 2N - 1 evaluations, second order.

    x' = x + h dx/dt;   x <- x + h/2 (dx/dt + dx'/dt')
    """
    return rk2.rows(angles, path=path)


@sampler()
def rk2(angles: Sequence[float], alpha: float = 1.0, path: Path = ANGLE) -> Iterator[Row]:
    """The second-order family (EDM, Algorithm 3): alpha = 1 is Heun, 1/2 the midpoint rule, 2/3 Ralston's.

        x' = x + alpha h dx/dt;   x <- x + h ((1 - 1/(2 alpha)) dx/dt + 1/(2 alpha) dx'/dt'),   t' = t + alpha h

    2N - 1 evaluations; a step whose t' would fall to 0 or below (alpha > 1) is Euler's, as in the paper.
    """
    for p, q in pairwise(points(path, angles)):
        yield from rk2_rows(p, q, path, alpha)
    yield rotation(angles[-2])


def rk2_step(phi: float, psi: float, alpha: float = 1.0, path: Path = ANGLE) -> list[Row]:
    """The rows of a step of `rk2` from angle phi to psi, both above 0."""
    return rk2_rows(path.at(phi), path.at(psi), path, alpha)


def rk2_rows(p: Point, q: Point, path: Path, alpha: float = 1.0) -> list[Row]:
    """The two rows of a step of `rk2` between two points of a path; Euler's where t' would fall to 0 or below.

    With dx/dt = n' x_phi + n phi' v (see `zsnr.path`), h2 = h / (2 alpha), h1 = h - h2, each divided by n at its end,

        x' = x + alpha h (n' x + n phi' v)
        x <- x + h1 (n' x + n phi' v) + h2 (n'_m x' + n_m phi'_m v')
    """
    check_alpha(alpha)
    h = q.t - p.t
    if p.t + alpha * h <= 0:
        return [euler_step(p, q)]
    m = q if alpha == 1 else path.at(path.angle(p.t + alpha * h))
    a, b = (p.n + alpha * h * p.dn) / m.n, alpha * h * p.n * p.dphi / m.n
    h2 = h / (2 * alpha)
    h1 = h - h2
    on_x = p.n + h1 * p.dn + h2 * m.dn * a
    on_v = h1 * p.n * p.dphi + h2 * m.dn * b
    on_v2 = h2 * m.n * m.dphi
    # by position: a keyword costs as much as the arithmetic
    return [Row(p.phi, a, b), Row(m.phi, 0.0, on_v2 / q.n, on_x / q.n, on_v / q.n, 0.0, 1)]


def check_alpha(alpha: float) -> None:
    """Refuse an alpha of `rk2` that is no share of a step, or leaves no digits."""
    if not 1e-3 <= alpha < math.inf:  # the rounding of the answers is multiplied by 1 / (2 alpha)
        raise ValueError(f"alpha = {alpha}: must be above 0, and .001 at least, to keep digits; 1 is Heun's method")


# --- stochastic churn

GAMMA_MAX = math.sqrt(2) - 1
"""Then the noise that is added has the variance of the noise that is there."""


def gamma(phi: float, N: int, S_churn: float, S_tmin: float = 0.0, S_tmax: float = math.inf) -> float:
    """By which share a step of N raises sigma = tan(phi): min(S_churn / N, sqrt 2 - 1) within [S_tmin, S_tmax], or 0.

    0 also at zero SNR, where raising is an identity in law.
    """
    return min(S_churn / N, GAMMA_MAX) if phi < math.pi / 2 and within(phi, S_tmin, S_tmax) else 0.0


def raised(phi: float, gamma: float) -> float:
    """The angle of (1 + gamma) tan(phi)."""
    c, s = cos_sin(phi)
    return math.atan2((1 + gamma) * s, c) if gamma else phi


def raise_step(phi: float, gamma: float, S_noise: float = 1.0) -> tuple[float, float]:
    """(a, e) of x <- a x + e z, which brings x from the angle phi to `raised(phi, gamma)`."""
    if not gamma:
        return 1.0, 0.0
    c = math.cos(raised(phi, gamma))
    return c / math.cos(phi), S_noise * c * math.tan(phi) * math.sqrt(gamma * (2 + gamma))


def churned(
    angles: Sequence[float],
    step: Callable[[float, float], list[Row]],
    S_churn: float,
    S_tmin: float = 0.0,
    S_tmax: float = math.inf,
    S_noise: float = 1.0,
) -> Iterator[Row]:
    """The rows of a one-step solver under EDM's Algorithm 2; see `churn`.

    Algorithm 2 raises the state at the start of a step; here the last row of the step before does, and a row that calls
    nothing raises the initial noise.

    Args:
        step: (phi, psi) -> the rows of one step, for psi above 0; the last of them draws no noise of its own.
    """
    check_churn(S_churn, S_tmin, S_tmax, S_noise)
    gammas = [gamma(phi, len(angles) - 1, S_churn, S_tmin, S_tmax) for phi in angles[:-1]]
    (scale, fresh), *raises = [raise_step(phi, g, S_noise) for phi, g in zip(angles, gammas, strict=False)]
    starts = [raised(phi, g) for phi, g in zip(angles, gammas, strict=False)]
    if fresh or scale != 1:
        yield Row(angles[0], scale, 0.0, e=fresh, stage=-1)
    for phi, psi, (scale, fresh) in zip(starts, angles[1:], raises, strict=False):
        *first, (middle, a, b, c, d, _, stage, _) = step(phi, psi)
        yield from first
        yield Row(middle, scale * a, scale * b, scale * c, scale * d, fresh, stage)
    yield rotation(starts[-1])


@sampler(stochastic=True)
def churn(
    angles: Sequence[float],
    S_churn: float,
    S_tmin: float = 0.0,
    S_tmax: float = math.inf,
    S_noise: float = 1.0,
    order: int = 2,
    path: Path = ANGLE,
) -> Iterator[Row]:
    """EDM's Algorithm 2: each step first raises the noise level, then takes a Heun step from there.

        sigma^ = (1 + gamma) sigma,   x^ = x + sqrt(sigma^^2 - sigma^2) S_noise eps,   gamma as in `gamma`

    The network sees the raised state at the raised level. 2N - 1 evaluations, N of first order. sigma is tan(phi): for
    data that was divided by sigma_data give S_tmin and S_tmax divided by it, too.

    Args:
        S_churn: amount of noise replaced over the whole grid; 0 is Heun's method.
        S_tmin, S_tmax: the range of sigma where noise is replaced.
        S_noise: factor on the new noise's std.
        order: 2 for Heun steps, 1 for Euler steps.
    """
    if order not in (1, 2):
        raise ValueError(f"order = {order}: 2 for Heun steps, 1 for Euler steps")
    yield from churned(angles, lambda p, q: rk2_step(p, q, path=path)[:order], S_churn, S_tmin, S_tmax, S_noise)


def check_churn(S_churn: float, S_tmin: float, S_tmax: float, S_noise: float) -> None:
    """Refuse parameters of churn that mean nothing."""
    if not 0 <= S_churn < math.inf or not 0 <= S_noise <= 1000 or not 0 <= S_tmin <= S_tmax:
        raise ValueError(
            f"S_churn = {S_churn}, S_noise = {S_noise}, S_tmin = {S_tmin}, S_tmax = {S_tmax}: give S_churn of at least "
            "0, S_noise from 0 to 1000 (the paper has 1 to 1.007), and S_tmin <= S_tmax, in units of sigma"
        )


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    run.__name__: run for run in (ddim, ddpm, euler, heun, rk2, dpmpp_2m, eab, churn, euler_maruyama, rk45)
}
"""All of them, by name."""
