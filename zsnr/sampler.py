r"""Samplers: functions of (denoiser, noise, grid), exact from zero SNR (pi/2) to the image (0).

The probability-flow ODE of every model of both papers is dx/dphi = v(x, phi). For a frozen (x0, eps) its solution is
a rotation by h = phi' - phi (negative while denoising):

    x <- cos(h) x + sin(h) v                                                            DDIM, eta = 0

The last step, to phi = 0, is that rotation in every sampler: x <- D, and no network is evaluated without noise.
Euler and the second-order family integrate along any path x = n x_phi; the state is x_phi throughout, and a step is a
combination of it and the evaluations whose coefficients are Python floats, computed before the first one.

Source: Lin et al. 2023, Eqs. 20-22; Karras et al. 2022, Algorithms 1 and 3; Song et al. 2020. More solvers:
`zsnr.stochastic` (Algorithm 2), `zsnr.solvers` (RK45, DPM-Solver++).

All samplers take

    denoiser    (x, phi) -> v, see `zsnr.denoiser`
    noise       (B, ...) what to start from, x_phi at the angle grid[0]; also sets the state's dtype and device
    grid        (N + 1,) falling angles that end in 0, see `zsnr.spacing`
    generators  one torch.Generator for the batch, or a list of one a sample (then a sample does not depend on its
                batch); needed by the stochastic samplers
    callback    called at each step with (i, phi, x, v): its index, the angle and state that it starts from, and the
                denoiser's answer there, so that D = cos(phi) x - sin(phi) v
    progress    show a bar (needs tqdm)

and return the (B, ...) images at phi = 0.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Generator, Tensor

from zsnr.denoiser import Denoiser
from zsnr.path import ANGLE, Path, Point
from zsnr.prediction import cos_sin

Generators = Generator | Sequence[Generator] | None
Callback = Callable[[int, float, Tensor, Tensor], None] | None


def generators(seeds: Iterable[int], device: str | torch.device = "cpu") -> list[Generator]:
    """One generator a sample, each from its own seed."""
    return [Generator(device).manual_seed(int(seed)) for seed in seeds]


def randn(
    shape: Sequence[int], generators: Generators, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Tensor:
    """(B, ...) standard normal noise, drawn by the batch's generator or each sample by its own."""
    if generators is None or isinstance(generators, Generator):
        where = generators.device if generators is not None else device
        return torch.randn(tuple(shape), generator=generators, dtype=dtype, device=where).to(device)
    if len(generators) != shape[0]:
        raise ValueError(f"{len(generators)} generators for a batch of {shape[0]}: give one a sample")
    noise = [torch.randn(tuple(shape[1:]), generator=g, dtype=dtype, device=g.device) for g in generators]
    return torch.stack(noise).to(device)


def ddim(
    denoiser: Denoiser,
    noise: Tensor,
    grid: Tensor,
    *,
    eta: float = 0.0,
    generators: Generators = None,
    callback: Callback = None,
    progress: bool = False,
) -> Tensor:
    """DDIM (Eqs. 21, 22): one evaluation a step; eta = 0 is the exact rotation, eta = 1 DDPM's amount of noise.

    sigma = eta sqrt((1 - alpha_bar_s) / (1 - alpha_bar_t)) sqrt(1 - alpha_bar_t / alpha_bar_s)
    x_s   = sqrt(alpha_bar_s) x0 + sqrt(1 - alpha_bar_s - sigma^2) eps + sigma z
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta = {eta}: DDIM's eta lies in [0, 1]")

    return _linear(partial(ddim_step, eta), denoiser, noise, grid, generators, callback, progress)


def ddim_step(eta: float, phi: float, psi: float) -> tuple[float, float, float]:
    """(a, b, c) of DDIM's step x <- a x + b v + c z from angle phi to psi."""
    if eta == 0:
        return math.cos(psi - phi), math.sin(psi - phi), 0.0
    (c, s), (c2, s2) = cos_sin(phi), cos_sin(psi)
    sigma = eta * s2 / s * math.sqrt(max(1 - (c / c2) ** 2, 0.0))
    k = math.sqrt(max(s2**2 - sigma**2, 0.0))
    return c2 * c + k * s, k * c - c2 * s, sigma


def ddpm(
    denoiser: Denoiser,
    noise: Tensor,
    grid: Tensor,
    *,
    generators: Generators = None,
    callback: Callback = None,
    progress: bool = False,
) -> Tensor:
    """Ancestral sampling from DDPM's posterior q(x_s | x_t, x0) in its x0 form (Eqs. 9, 20), finite at zero SNR.

    beta = 1 - alpha_bar_t / alpha_bar_s
    mean = sqrt(alpha_bar_s) beta / (1 - alpha_bar_t) x0
           + sqrt(alpha_bar_t / alpha_bar_s) (1 - alpha_bar_s) / (1 - alpha_bar_t) x_t
    var  = (1 - alpha_bar_s) / (1 - alpha_bar_t) beta
    """

    def coefficients(phi: float, psi: float) -> tuple[float, float, float]:
        (c, s), (c2, s2) = cos_sin(phi), cos_sin(psi)
        beta = 1 - (c / c2) ** 2
        on_x0, on_x = c2 * beta / s**2, c / c2 * (s2 / s) ** 2
        return on_x + on_x0 * c, -on_x0 * s, s2 / s * math.sqrt(beta)

    return _linear(coefficients, denoiser, noise, grid, generators, callback, progress)


def euler(
    denoiser: Denoiser,
    noise: Tensor,
    grid: Tensor,
    *,
    path: Path = ANGLE,
    generators: Generators = None,
    callback: Callback = None,
    progress: bool = False,
) -> Tensor:
    """Euler's method along a path: x <- x + h dx/dt, h = t' - t. One evaluation a step, first order.

    On the ANGLE path, x_phi <- x_phi + (phi' - phi) v.
    """

    def coefficients(phi: float, psi: float) -> tuple[float, float, float]:
        if psi == 0:
            return math.cos(phi), -math.sin(phi), 0.0
        p, q = path.at(phi), path.at(psi)
        h = q.t - p.t
        return (p.n + h * p.dn) / q.n, h * p.n * p.dphi / q.n, 0.0

    return _linear(coefficients, denoiser, noise, grid, generators, callback, progress)


def heun(
    denoiser: Denoiser,
    noise: Tensor,
    grid: Tensor,
    *,
    path: Path = ANGLE,
    generators: Generators = None,
    callback: Callback = None,
    progress: bool = False,
) -> Tensor:
    """Heun's method along a path (EDM, Algorithm 1): 2N - 1 evaluations, second order.

    x' = x + h dx/dt;   x <- x + h/2 (dx/dt + dx'/dt')
    """
    return rk2(denoiser, noise, grid, alpha=1.0, path=path, callback=callback, progress=progress)


def rk2(
    denoiser: Denoiser,
    noise: Tensor,
    grid: Tensor,
    *,
    alpha: float = 1.0,
    path: Path = ANGLE,
    generators: Generators = None,
    callback: Callback = None,
    progress: bool = False,
) -> Tensor:
    """The second-order family (EDM, Algorithm 3): alpha = 1 is Heun, 1/2 the midpoint rule, 2/3 Ralston's.

        x' = x + alpha h dx/dt;   x <- x + h ((1 - 1/(2 alpha)) dx/dt + 1/(2 alpha) dx'/dt'),   t' = t + alpha h

    2N - 1 evaluations; a step whose t' would fall to 0 or below (alpha > 1) is Euler's, as in the paper.
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha = {alpha}: must be above 0; 1 is Heun's method")
    angles = check_grid(grid)
    table = rk2_table(path, alpha, angles)
    x = check_noise(noise)
    for i, (phi, _) in enumerate(_steps(angles, progress)):
        a, b, second = table[i]
        v = denoiser(x, phi).to(x)
        if callback is not None:
            callback(i, phi, x, v)
        predicted = axpby(x, a, v, b)
        if second is None:
            x = predicted
        else:
            middle, on_x, on_v, on_both = second
            v2 = denoiser(predicted, middle).to(x)
            x = axpby(x, on_x, v2.add(v, alpha=on_v), on_both)
    return x


Second = tuple[float, float, float, float] | None


def rk2_table(path: Path, alpha: float, angles: Sequence[float]) -> list[tuple[float, float, Second]]:
    """The coefficients of each step of a falling list of angles that ends in 0; see `rk2_step`."""
    points = [path.at(phi) for phi in angles[:-1]] if len(angles) > 2 else []  # one step is a rotation on any path
    steps = [rk2_step(path, alpha, p, q) for p, q in pairwise(points)]
    return [*steps, (math.cos(angles[-2]), -math.sin(angles[-2]), None)]


def rk2_step(path: Path, alpha: float, p: Point, q: Point) -> tuple[float, float, Second]:
    """x_phi' = a x_phi + b v, and (phi', A, B, C) with x_phi <- A x_phi + C (v' + B v); None for a first-order step."""
    h = q.t - p.t
    if p.t + alpha * h <= 0:
        return (p.n + h * p.dn) / q.n, h * p.n * p.dphi / q.n, None
    m = q if alpha == 1 else path.at(path.angle(p.t + alpha * h))
    a, b, w = (p.n + alpha * h * p.dn) / m.n, alpha * h * p.n * p.dphi / m.n, 1 / (2 * alpha)
    on_x = p.n + h * ((1 - w) * p.dn + w * m.dn * a)
    on_v = h * ((1 - w) * p.n * p.dphi + w * m.dn * b)
    on_v2 = h * w * m.n * m.dphi
    return a, b, (m.phi, on_x / q.n, on_v / on_v2, on_v2 / q.n)


def axpby(x: Tensor, a: float, y: Tensor, b: float) -> Tensor:
    """a x + b y, in one operation where a = 1, as on the ANGLE path."""
    return torch.add(x, y, alpha=b) if a == 1 else torch.mul(x, a).add_(y, alpha=b)


def check_grid(grid: Tensor) -> list[float]:
    """The grid's angles as floats.

    Raises:
        ValueError: not a falling sequence within [0, pi/2] that ends in 0.
    """
    angles: list[float] = torch.as_tensor(grid, dtype=torch.float64).tolist()
    if len(angles) < 2:
        raise ValueError(f"a grid needs at least one step, so two angles; got {len(angles)}")
    if not all(phi > psi for phi, psi in pairwise(angles)):  # also catches NaN
        k = next(k for k, (phi, psi) in enumerate(pairwise(angles)) if not phi > psi)
        raise ValueError(f"a grid's angles must fall; got {angles[k]} then {angles[k + 1]} at step {k}")
    if math.pi / 2 < angles[0] < math.pi / 2 + 1e-6:
        raise ValueError("the grid starts above pi/2 by rounding: make it float64, where pi/2 is exact")
    if angles[0] > math.pi / 2:
        raise ValueError(
            f"a grid starts at pi/2 (zero SNR) at most; got {angles[0]}; are these sigmas? take their atan"
        )
    if angles[-1] != 0:
        raise ValueError(f"a grid ends at the image, angle 0; got {angles[-1]}; append a 0")
    return angles


def check_noise(noise: Tensor) -> Tensor:
    """The noise, refused where it holds NaN or inf: every later step would."""
    if not torch.isfinite(noise).all():
        raise ValueError("the noise to start from holds NaN or inf: check how it was drawn, and its dtype")
    return noise


def check_generators(generators: Generators, batch: int) -> None:
    """Refuse a stochastic sampler without generators, or with a list of the wrong length."""
    if generators is None:
        raise ValueError("a stochastic sampler needs `generators`: one torch.Generator, or a list of one a sample")
    if not isinstance(generators, Generator) and len(generators) != batch:
        raise ValueError(f"{len(generators)} generators for a batch of {batch}: give one a sample")


def _linear(
    coefficients: Callable[[float, float], tuple[float, float, float]],
    denoiser: Denoiser,
    noise: Tensor,
    grid: Tensor,
    generators: Generators,
    callback: Callback,
    progress: bool,
) -> Tensor:
    """x <- a x + b v + c z along the grid, its coefficients computed beforehand as Python floats."""
    angles = check_grid(grid)
    table = [coefficients(phi, psi) for phi, psi in pairwise(angles)]
    if any(c != 0 for _, _, c in table):
        check_generators(generators, len(noise))
    x = check_noise(noise)
    for i, (phi, _) in enumerate(_steps(angles, progress)):
        a, b, c = table[i]
        v = denoiser(x, phi).to(x)
        if callback is not None:
            callback(i, phi, x, v)
        x = axpby(x, a, v, b)
        if c != 0:
            x.add_(randn(x.shape, generators, x.dtype, x.device), alpha=c)
    return x


def _steps(angles: list[float], progress: bool) -> Iterable[tuple[float, float]]:
    steps = list(pairwise(angles))
    if not progress:
        return steps
    from tqdm import tqdm

    return tqdm(steps, unit="step", file=sys.stderr)


SAMPLERS: dict[str, Callable[..., Tensor]] = {"ddim": ddim, "ddpm": ddpm, "euler": euler, "heun": heun}
