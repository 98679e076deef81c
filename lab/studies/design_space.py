"""Finding 6, the mathematics (Karras et al. 2022, Secs. 2 and 3, App. B): one ODE in many times and scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import sympy as sp
import torch
from torch import Tensor

import zsnr
from lab.measure.laws import Counted
from lab.models.mixture import Mixture
from lab.models.sde import from_sde
from zsnr.denoisers import Denoiser
from zsnr.path import EDM, PATHS, VE, VP, Path
from zsnr.samplers import heun, rk45


def vector(*numbers: float) -> Tensor:
    """The numbers as a float64 tensor."""
    return torch.tensor(numbers, dtype=torch.float64)


def falling(*sigmas: float) -> Tensor:
    """The grid of these noise levels, with the image at its end."""
    return vector(*map(math.atan, sigmas), 0.0)


def reached(sampler: Callable[..., Tensor], denoiser: Denoiser, x: Tensor, grid: Tensor, **options: object) -> Tensor:
    """The state at the last level above 0."""
    states: list[Tensor] = []
    sampler(denoiser, x, grid, callback=lambda i, phi, y, v: states.append(y), **options)
    return states[-1]


GAUSS = zsnr.Gaussian(vector(0.3, -1.0, 0.5, 2.0), vector(1 / 64, 1 / 4, 4.0, 64.0))
THREE = Mixture([zsnr.Gaussian(vector(*m), vector(0.09, 0.01)) for m in ((1, 0), (-0.5, 0.8), (-0.5, -0.8))])
NOISE4, NOISE2 = (zsnr.randn((8, k), zsnr.generators(range(8)), torch.float64) for k in (4, 2))


def rewritten() -> sp.Expr:
    """EDM's Eq. 4 less n' x_phi + n phi' v, for any sigma(t) and s(t), simplified.

    Eq. 4: x' = (sigma'/sigma + s'/s) x - (sigma' s / sigma) D(x/s; sigma), with x = n x_phi, n = s sqrt(1 + sigma^2),
    phi = atan(sigma) and D = cos(phi) x_phi - sin(phi) v.
    """
    t, y, v = sp.symbols("t y v", real=True)
    sigma, s = sp.Function("sigma", positive=True)(t), sp.Function("s", positive=True)(t)
    n, phi = s * sp.sqrt(1 + sigma**2), sp.atan(sigma)
    D = (y - sigma * v) / sp.sqrt(1 + sigma**2)
    eq4 = (sigma.diff(t) / sigma + s.diff(t) / s) * n * y - sigma.diff(t) * s / sigma * D
    return sp.simplify(eq4 - (n.diff(t) * y + n * phi.diff(t) * v))


def preconditioning() -> tuple[sp.Expr, sp.Expr]:
    """(c_skip x + c_out F - d (cos(phi) y + sin(phi) F), c_in x - y): both are 0 if F = -v (EDM, Table 1).

    The data, of std d, are divided by it; so phi = atan(sigma / d), and x = d y / cos(phi).
    """
    y, F = sp.symbols("y F", real=True)
    sigma, d = sp.symbols("sigma sigma_data", positive=True)
    x, phi = d * y * sp.sqrt(1 + (sigma / d) ** 2), sp.atan(sigma / d)
    norm = sp.sqrt(sigma**2 + d**2)
    D = d**2 / norm**2 * x + sigma * d / norm * F
    return sp.simplify(D - d * (sp.cos(phi) * y + sp.sin(phi) * F)), sp.simplify(x / norm - y)


def vp_sde() -> list[float]:
    """[s'/s + beta/2, s^2 (sigma^2)' - beta] of VP's s and sigma, symbolically (EDM, App. B.1)."""
    t = sp.symbols("t", real=True)
    beta_d, beta_min = sp.symbols("beta_d beta_min", positive=True)
    B = beta_d * t**2 / 2 + beta_min * t
    s, sigma = sp.exp(-B / 2), sp.sqrt(sp.exp(B) - 1)
    f, g2 = s.diff(t) / s, s**2 * (sigma**2).diff(t)
    return [float(sp.simplify(e)) for e in (sp.simplify(f) + B.diff(t) / 2, sp.simplify(g2) - B.diff(t))]


def beta(t: float) -> float:
    """VP's beta(t), beta_d = 19.9 and beta_min = 0.1."""
    return 19.9 * t + 0.1


def table1(name: str, t: float) -> tuple[float, float, float, float]:
    """(sigma, sigma', s, s') of t, as EDM's Table 1 prints them."""
    if name == "VE":
        return math.sqrt(t), 1 / (2 * math.sqrt(t)), 1.0, 0.0
    if name == "EDM":
        return t, 1.0, 1.0, 0.0
    B = 9.95 * t**2 + 0.1 * t
    sigma, s = math.sqrt(math.expm1(B)), math.exp(-B / 2)
    return sigma, beta(t) * math.exp(B) / (2 * sigma), s, -beta(t) / 2 * s


def algorithm1(denoiser: Denoiser, x: Tensor, times: Sequence[float], name: str) -> Tensor:
    """EDM's Algorithm 1 in the paper's variables; times down to the last above 0, then the step to sigma = 0."""

    def rate(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        sigma, dsigma, s, ds = table1(name, t)
        phi = math.atan(sigma)
        x_phi = x / s * math.cos(phi)
        D = math.cos(phi) * x_phi - math.sin(phi) * denoiser(x_phi, phi)
        return (dsigma / sigma + ds / s) * x - dsigma * s / sigma * D, D

    for t, u in pairwise(times):
        slope = rate(x, t)[0]
        x = x + (u - t) / 2 * (slope + rate(x + (u - t) * slope, u)[0])
    return rate(x, times[-1])[1]


def literal(path: Path) -> tuple[float, int]:
    """(largest |Algorithm 1 as printed less zsnr's Heun|, evaluations of the latter), 18 rho steps on Gaussian data."""
    grid, counted = zsnr.karras(18), Counted(GAUSS)
    start = math.sin(grid[0]) * NOISE4
    ours = heun(counted, start, grid, path=path)
    times = [path.time(float(p)) for p in grid[:-1]]
    theirs = algorithm1(GAUSS, start * path.at(float(grid[0])).n, times, path.name)
    return (ours - theirs).abs().max().item(), counted.calls


def single_step() -> float:
    """Largest |Euler's step from t to 0, less D|, with sigma = t and s = 1, from three levels (EDM, Sec. 3)."""
    worst = 0.0
    for p in (0.3, 1.0, 1.5):
        at, v = EDM.at(p), GAUSS(NOISE4, p)
        to_zero = at.n * NOISE4 - EDM.time(p) * (at.dn * NOISE4 + at.n * at.dphi * v)
        worst = max(worst, (to_zero - (math.cos(p) * NOISE4 - math.sin(p) * v)).abs().max().item())
    return worst


def vp_by_quadrature() -> Path:
    """VP's path from its f and g."""
    return from_sde(lambda t: -beta(t) / 2, lambda t: math.sqrt(beta(t)), name="VP by quadrature")


def ends_apart() -> float:
    """Largest difference of the ODE's end points along six paths, by RK45, from the same x_phi at sigma = 80."""
    start, grid = math.sin(math.atan(80)) * NOISE2, falling(80, 1e-3)
    paths = (*PATHS.values(), vp_by_quadrature())
    ends = {path.name: rk45(THREE, start, grid, path=path, rtol=1e-9, atol=1e-9) for path in paths}
    return max((end - ends["angle"]).abs().max().item() for end in ends.values())


def evaluations(counts: Sequence[int]) -> list[int]:
    """Evaluations of the denoiser by Heun's method on sigma = t, for numbers of steps."""
    counted = [Counted(GAUSS) for _ in counts]
    for denoiser, steps in zip(counted, counts, strict=True):
        heun(denoiser, math.sin(zsnr.karras(18)[0]) * NOISE4, zsnr.karras(steps), path=EDM)
    return [denoiser.calls for denoiser in counted]


def recovered() -> dict[str, float]:
    """Largest relative errors of times and scales that are recovered from f and g by quadrature (EDM, App. B.1).

    VE has two clocks: sigma = sqrt(t), and Song's geometric one from 0.02 to 100.
    """
    low, high = 0.02, 100.0
    target = vp_by_quadrature()
    song = from_sde(lambda t: 0.0, lambda t: low * (high / low) ** t * math.sqrt(2 * math.log(high / low)), name="Song")
    root = from_sde(lambda t: 0.0, lambda t: 1.0, 100.0**2, name="VE, sqrt")
    ratios: dict[str, list[float]] = {"VP": [], "VE, square root": [], "VE, geometric": []}
    for sigma in np.geomspace(0.02, 99, 15):
        p = math.atan(sigma)
        ratios["VP"] += [target.time(p) / VP.time(p), *np.divide(target.at(p)[:3], VP.at(p)[:3])]
        ratios["VE, square root"] += [root.time(p) / VE.time(p), *np.divide(root.at(p), VE.at(p))]
        ratios["VE, geometric"].append(song.time(p) * math.log(high / low) / math.log(math.hypot(sigma, low) / low))
    return {name: float(max(abs(r - 1) for r in values)) for name, values in ratios.items()}


def simulated(paths: int) -> Iterator[tuple[str, list[float], list[tuple[float, float]], float]]:
    """(what, values, their intervals of two standard errors, a band of six) of the two columns of `forward_vp`."""
    names = {"mean less s, at t = .2 ... 1": paths, "std over s sigma, less 1": 2 * paths}
    for (what, n), column in zip(names.items(), zip(*forward_vp(paths), strict=True), strict=True):
        error = 2 / math.sqrt(n)
        yield what, list(column), [(x - error, x + error) for x in column], 3 * error


def forward_vp(count: int = 20000, steps: int = 1000) -> list[tuple[float, float]]:
    """(mean less s, std / (s sigma) less 1) of the forward VP SDE from x0 = 1, by Euler-Maruyama, t = 0.2 ... 1."""
    x, found = torch.ones(count, dtype=torch.float64), []
    generator = torch.Generator().manual_seed(0)
    for i in range(steps):
        b = beta((i + 0.5) / steps)
        noise = torch.randn(count, generator=generator, dtype=torch.float64)
        x = x - b / 2 * x / steps + math.sqrt(b / steps) * noise
        if (i + 1) % 200 == 0:
            phi = VP.angle((i + 1) / steps)
            found.append((x.mean().item() - math.cos(phi), x.std().item() / math.sin(phi) - 1))
    return found
