r"""Finding 4 (Karras et al. 2022, Sec. 4, Algorithm 2): churn on Gaussian data, by variances instead of samples.

For centred Gaussian data of variance lambda every step of a sampler is linear, and so the variance V of its states
is followed exactly, without drawing any:

    x' = a x + b z,   z ~ N(0, 1),   V' = a^2 V + b^2

The library's own steps are asked for a and b. Tensors of variances hold many independent directions at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lab.report.tables import Table, table
from zsnr import Gaussian, karras, power, samplers
from zsnr.denoisers import Denoiser
from zsnr.noise import generators, randn
from zsnr.path import ANGLE, EDM, VP, Path
from zsnr.samplers import GAMMA_MAX, gamma, raised

Step = Callable[[Any, Tensor, float, float, Any], Tensor]
"""(denoiser, x, phi, psi, generators) -> x at psi."""
Steps = Callable[[float, float], Step]
"""The step to take from phi to psi."""

TABLE5 = {
    "CIFAR-10 VP": (30, 0.01, 1.0, 1.007),
    "CIFAR-10 VE": (80, 0.05, 1.0, 1.007),
    "ImageNet-64, pre-trained": (80, 0.05, 50.0, 1.003),
    "ImageNet-64, EDM": (40, 0.05, 50.0, 1.003),
}
"""The paper's tuned settings at N = 256: S_churn, S_tmin, S_tmax, S_noise."""
PAPER_GAMMA = sorted(S / 256 for S, *_ in TABLE5.values())
LENGTHS, AMOUNTS = (18, 64, 192, 256, 384), (0, 5, 10, 20, 30, 40, 80, 100)
VARIANCES = torch.tensor([1 / 16, 1 / 4, 1.0, 4.0], dtype=torch.float64)
STDS = torch.tensor([0.25, 0.5, 1.0, 2.0], dtype=torch.float64)
SIGNAL = torch.logspace(-8, 8, 161, base=2, dtype=torch.float64)
"""lambda / sigma^2."""
LEVEL = math.pi / 4
"""The angle of sigma = 1, where churn in place is settled in closed form."""


def clamp() -> tuple[int, list[float], float, list[float]]:
    """Algorithm 2's gamma, asked of the library.

    Returns: how many values differ from min(S_churn / N, sqrt 2 - 1); gamma just outside [S_tmin, S_tmax]; the largest
    added variance over the variance present; gamma over the clamp, at .999 and 1.001 of the S_churn that reaches it.
    """
    inside = {(N, S): gamma(1.0, N, S) for N in LENGTHS for S in AMOUNTS}
    wrong = sum(g != min(S / N, math.sqrt(2) - 1) for (N, S), g in inside.items())
    outside = [gamma(math.atan(sigma), 18, 40, 0.05, 50.0) for sigma in (0.0499, 50.1)]
    added = max((1 + g) ** 2 - 1 for g in inside.values())
    return wrong, outside, added, [gamma(1.0, 256, 256 * GAMMA_MAX * f) / GAMMA_MAX for f in (0.999, 1.001)]


def table5() -> Table:
    """Table 5 with gamma and the share of the variance that a churned step replaces.

    Noise that is there before the step keeps a share (1 + gamma)^-2 of the variance.
    """
    rows = [
        (name, S, f"[{low:g}, {high:g}]", S_noise, S / 256, f"{1 - (1 + S / 256) ** -2:.1%}")
        for name, (S, low, high, S_noise) in TABLE5.items()
    ]
    columns = ["Table 5", "S_churn", "range", "S_noise", "γ", "variance replaced"]
    return table(rows, dict(zip(columns, ["", "", "", ".3f", ".4f", ""], strict=True)))


def one(draw: Any, denoiser: Any, x: Tensor, phi: float, psi: float, rng: Any, **options: Any) -> Tensor:
    """One step of a sampler of the library, from phi to psi."""
    reached: list[Tensor] = []
    grid = torch.tensor([phi, psi] if psi == 0 else [phi, psi, 0.0], dtype=torch.float64)
    options |= {"generators": rng} if draw.stochastic else {}
    last: Tensor = draw(denoiser, x, grid, callback=lambda i, p, y, v: reached.append(y), **options)
    return last if psi == 0 else reached[1]


def algorithm2(g: float, order: int = 2, path: Path = EDM) -> Step:
    """A step of Algorithm 2 with gamma = g; S_tmin keeps the step after it, which is not used, from adding noise."""

    def step(denoiser: Any, x: Tensor, phi: float, psi: float, rng: Any) -> Tensor:
        options = {"S_churn": g * (1 if psi == 0 else 2), "S_tmin": math.tan(phi) * (1 - 1e-9)}
        return one(samplers.churn, denoiser, x, phi, psi, rng, order=order, path=path, **options)

    return step


def maruyama(rate: float, path: Path = EDM) -> Step:
    """A step of Euler-Maruyama with beta = rate sigma' / sigma."""
    return partial(one, samplers.euler_maruyama, rate=rate, path=path)


def affine(
    step: Step, variance: Tensor, phi: float, psi: float, noise: torch.dtype | None = None
) -> tuple[Tensor, ...]:
    """(a, b) of a step for centred Gaussian data of these variances.

    Args:
        noise: the dtype in which the step draws its noise; by default that of the state.
    """
    exact, size = Gaussian(torch.zeros_like(variance), variance), 100.0  # large, so that float32 peers keep digits
    x = torch.stack([torch.zeros_like(variance), size * torch.ones_like(variance)])
    z = randn(x.shape, generators([0, 0]), noise or x.dtype)[0].double()
    y = step(exact, x, phi, psi, generators([0, 0])).double()
    return (y[1] - y[0]) / size, y[0] / z


def marginal(phi: float, variance: Tensor) -> Tensor:
    """cos(phi)^2 lambda + sin(phi)^2, the variance of x_phi."""
    return math.cos(phi) ** 2 * variance + math.sin(phi) ** 2


def follow(
    steps: Steps,
    grid: Tensor,
    variance: Tensor,
    trace: list[tuple[float, float]] | None = None,
    noise: torch.dtype | None = None,
) -> Tensor:
    """Std of the pictures over the data's, from an exact start.

    Args:
        trace: is given (sigma, largest relative error of the variance) after each step but the last.
        noise: as in `affine`.
    """
    V = marginal(grid[0].item(), variance)
    for phi, psi in pairwise(grid.tolist()):
        a, b = affine(steps(phi, psi), variance, phi, psi, noise)
        V = a * a * V + b * b
        if trace is not None and psi > 0:
            trace.append((math.tan(psi), (V / marginal(psi, variance) - 1).abs().max().item()))
    return (V / variance).sqrt()


def rates(values: Sequence[float] = (0.0, 0.5, 2.0)) -> tuple[list[float], list[float]]:
    """At any rate, the order of the variance's error in the steps, and what is left of it at steps of 0."""
    worst = [errors_of_rate(rate) for rate in values]
    return [math.log2(w[1] / w[2]) for w in worst], [extrapolated(w) for w in worst]


def errors_of_rate(rate: float, lengths: Sequence[int] = (100, 200, 400)) -> list[float]:
    """Largest relative error of the variance at levels from .1 to 10, Euler-Maruyama on the SDE of Eq. 6."""
    worst = []
    for N in lengths:
        trace: list[tuple[float, float]] = []
        follow(lambda phi, psi: maruyama(rate), karras(N, 0.02), VARIANCES, trace)
        worst.append(max(error for sigma, error in trace if 0.1 <= sigma <= 10))
    return worst


def extrapolated(worst: Sequence[float]) -> float:
    """To steps of 0: two steps of Richardson's, for errors in h and h^2 at three lengths that double."""
    first, second = 2 * worst[1] - worst[0], 2 * worst[2] - worst[1]
    return abs(4 * second - first) / 3


def song_gap() -> float:
    """Largest difference between `euler_maruyama` at rate 1 and Song's reverse SDEs, stepped as he writes them.

    VE: dx = 2 sigma sigma' score |dt| + sqrt(2 sigma sigma' |dt|) z
    VP: dx = (beta x / 2 + beta score) |dt| + sqrt(beta |dt|) z
    """
    gaps = []
    for phi, psi in pairwise(karras(40, 0.02)[:-1].tolist()):
        s, h = math.tan(phi), math.tan(phi) - math.tan(psi)
        a, b = affine(maruyama(1.0), VARIANCES, phi, psi)
        scale = math.cos(psi) / math.cos(phi)
        gaps += [a - scale * (1 - 2 * s * h / (VARIANCES + s * s)), b - math.cos(psi) * math.sqrt(2 * s * h)]
        t, h = VP.time(phi), VP.time(phi) - VP.time(psi)
        beta = 19.9 * t + 0.1
        a, b = affine(maruyama(1.0, VP), VARIANCES, phi, psi)
        gaps += [a - (1 + beta * h / 2 - beta * h / marginal(phi, VARIANCES)), b - math.sqrt(beta * h)]
    return torch.stack(gaps).abs().max().item()


Back = Callable[[Tensor, float, float], Tensor]
"""(variance, phi, psi) -> the gain a of a way back from the raised level phi to psi."""


def settled(back: Back, variance: Tensor, g: float, S_noise: float = 1.0) -> Tensor:
    """Std over the right one of the fixed point V = back^2 (scale^2 V + fresh^2) of churn at sigma = 1."""
    top = raised(LEVEL, g)
    scale = math.cos(top) / math.cos(LEVEL)
    fresh = S_noise * math.cos(top) * math.tan(LEVEL) * math.sqrt(g * (2 + g))
    a = back(variance, top, LEVEL)
    return (a * a * fresh**2 / (1 - a * a * scale**2) / marginal(LEVEL, variance)).sqrt()


def exactly(variance: Tensor, phi: float, psi: float) -> Tensor:
    """Gain of the exact solution of the ODE."""
    exact = Gaussian(torch.zeros_like(variance), variance)
    return exact.solve(torch.ones(1, len(variance), dtype=torch.float64), phi, psi)[0]


def by_heun(variance: Tensor, phi: float, psi: float) -> Tensor:
    """Gain of one Heun step."""
    return affine(partial(one, samplers.heun, path=EDM), variance, phi, psi)[0]


def settles() -> tuple[float, Tensor]:
    """Churn at the clamp: how far the std is off S_noise with an exact way back; with Heun, at lambda = 1/4, 1, 4."""
    off = [settled(exactly, SIGNAL, GAMMA_MAX, S_noise) / S_noise - 1 for S_noise in (1.0, 1.003, 1.007)]
    three = torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64)
    return max(x.abs().max().item() for x in off), settled(by_heun, three, GAMMA_MAX) - 1


def by_heun_with_excess(excess: float) -> Back:
    """Gain of a Heun step whose x - D is (1 + excess) times the exact one: v = (1 + excess) v* + excess tan(phi) x."""

    def step(exact: Denoiser, x: Tensor, phi: float, psi: float, rng: Any) -> Tensor:
        def v(x: Tensor, p: float) -> Tensor:
            return (1 + excess) * exact(x, p) + excess * math.tan(p) * x

        return one(samplers.heun, v, x, phi, psi, rng, path=EDM)

    return lambda variance, phi, psi: affine(step, variance, phi, psi)[0]


def calibration(r: Any, e: Any, sigma: Any) -> Any:
    r"""c = E<x - y, x - D> / E|x - D|^2 = (r + 1 - e / sigma^2) / (2 r); 1 for every posterior mean.

    Args:
        r: E|x - D|^2 / (sigma^2 d).
        e: E|D - y|^2 / d.
    """
    return (r + 1 - e / sigma**2) / (2 * r)


def gaussian_calibration(excess: float, variance: Tensor) -> Tensor:
    """c (1 + excess) of a denoiser of Gaussian data that removes (1 + excess) times too much, at sigma = 1: it is 1."""
    k = 1 - (1 + excess) / (1 + variance)  # D = k x
    r, e = (1 - k) ** 2 * (1 + variance), (1 - k) ** 2 * variance + k**2
    off: Tensor = calibration(r, e, 1.0) * (1 + excess)
    return off


def restored(excess: float = 0.014, g: float = 0.01) -> tuple[float, float]:
    """What is left of the excess of such a denoiser: in c, and in the std of churn with S_noise = sqrt(1 + excess)."""
    variance = torch.tensor([1 / 16, 1.0, 16.0], dtype=torch.float64)
    gap = max((gaussian_calibration(x, variance) - 1).abs().max().item() for x in (excess, 0.0))
    remedied = settled(by_heun_with_excess(excess), variance, g, math.sqrt(1 + excess))
    return gap, (remedied / settled(by_heun, variance, g) - 1).abs().max().item()


def whole_grid(stds: Tensor, N: int = 256) -> dict[str, Tensor]:
    """Std of the pictures over the data's, gamma = sqrt 2 - 1 at every step; from zero SNR the first step has none."""
    right = math.pi / 2
    return {
        "zsnr, Heun": follow(lambda p, q: algorithm2(GAMMA_MAX), karras(N), stds**2),
        "zsnr, Heun, from zero SNR": follow(
            lambda p, q: algorithm2(GAMMA_MAX * (p < right), path=ANGLE), power(N), stds**2
        ),
        "zsnr, Euler": follow(lambda p, q: algorithm2(GAMMA_MAX, order=1), karras(N), stds**2),
    }
