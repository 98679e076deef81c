"""Finding 6, the original samplers (Karras et al. 2022, Table 1 and App. B, C): their levels, and what they leave."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from scipy.optimize import brentq
from torch import Tensor

import zsnr
from lab.report.tables import Table, table
from lab.studies.design_space import beta, reached
from zsnr import edm
from zsnr.path import VE, VP
from zsnr.samplers import euler

EPS_S = 1e-3
"""Song's last time of VP's sampler."""
LOW, HIGH = 0.02, 100.0
"""VE's sigma_min and sigma_max."""
PRINTED = (20291, 642, 321, 214, 160, 128, 106, 92, 80, 71, 0.0064)
"""u_0 ... u_9 and u_999 of iDDPM, as the paper prints them."""


def vp_ends() -> list[float]:
    """sigma(1e-5) and sigma(1) of VP, by the column that networks are trained with, whose c_noise is 999 t."""
    column = edm.column("vp")

    def time(sigma: float) -> float:
        return column.precondition(torch.tensor(sigma, dtype=torch.float64))[3].item() / 999

    return [brentq(lambda s, t=t: time(s) - t, 1e-5, 1e4, xtol=1e-12) for t in (1e-5, 1.0)]


def vp_copies(ends: list[float]) -> list[float]:
    """The same two numbers elsewhere in zsnr (steps, sigma_max, path), over these: all 1."""
    column, (_, top) = edm.column("vp"), ends
    path = [math.tan(VP.angle(t)) / s for t, s in zip((1e-5, 1.0), ends, strict=True)]
    return [math.tan(column.steps(8)[0]) / top, column.sigma_max / top, *path]


def iddpm_levels() -> list[float]:
    """u_0 ... u_9 and u_999."""
    u = edm.iddpm_levels()
    return [*u[:10].tolist(), u[-2].item()]


def ideal_limits() -> list[float]:
    """Largest errors of the ideal denoiser of 20 points.

    Against App. B.3's formula at sigma = 0.7, the mean of the data at 1e6, and the nearest point at 0.02.
    """
    points, probe = (
        torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for n, seed in ((20, 1), (6, 2))
    )
    empirical = zsnr.Empirical(points)

    def D(sigma: float) -> Tensor:
        phi = math.atan(sigma)
        x = probe * math.cos(phi)
        return math.cos(phi) * x - math.sin(phi) * empirical(x, phi)

    density = torch.exp(-(probe[:, None] - points).square().sum(-1) / (2 * 0.7**2))
    formula = (density[..., None] * points).sum(1) / density.sum(1, keepdim=True)
    nearest = points[torch.cdist(probe, points).argmin(1)]
    pairs = ((D(0.7), formula), (D(1e6), points.mean(0)), (D(0.02), nearest))
    return [(a - b).abs().max().item() for a, b in pairs]


def vp_original(N: int) -> float:
    """Std of the noise that Song's VP sampler (probability flow, Euler) leaves of 1, where the data are one point at 0.

    It steps by 1 / N, where its times differ by (1 - eps_s) / (N - 1); so it ends at eps_s - 1 / N.
    """
    x = 1.0
    for i in range(N):
        t = 1 + i / (N - 1) * (EPS_S - 1)
        score = -x / math.sin(VP.angle(t)) ** 2
        x += -1 / N * (-beta(t) / 2 * x - beta(t) / 2 * score)
    return abs(x)


def left_table(left: Mapping[int, Sequence[float]]) -> Table:
    """What `left_by_vp` found, by the number of steps N."""
    columns = ("N", "Song's VP sampler", "right step, at eps_s", "right step, after D")
    return table([(N, *x) for N, x in left.items()], dict.fromkeys(columns, ".2f"), "Noise left, grey levels of 255")


def left_by_vp(N: int) -> list[float]:
    """Noise left in grey levels of 255: by Song's sampler; with the right step, before and after the last step to D."""
    point = zsnr.Gaussian(torch.zeros(1), torch.zeros(1))
    right = point, torch.ones(1, 1, dtype=torch.float64), edm.column("vp").steps(N)
    ways = vp_original(N), reached(euler, *right, path=VP), euler(*right, path=VP)
    return [127.5 * abs(float(x)) for x in ways]


SPECTRUM = 0.25 * 2.0 ** -torch.arange(16, dtype=torch.float64)
WIDE = zsnr.Gaussian(torch.zeros(16, dtype=torch.float64), SPECTRUM)


def _noise() -> Tensor:
    return zsnr.randn((64, 16), zsnr.generators(range(64))).double()


def ve_original(N: int, dtype: torch.dtype, network: torch.dtype = torch.float32) -> Tensor:
    """x at sigma_min by Song's VE update: x <- x + (sigma_i^2 - sigma_{i+1}^2) / 2 score.

    Args:
        N: steps.
        dtype: of the state and the levels.
        network: dtype in which the score is computed.
    """
    levels = torch.tan(edm.column("ve", sigma_min=LOW, sigma_max=HIGH).steps(N)[:-1]).to(dtype)
    x, L = (_noise() * HIGH).to(dtype), SPECTRUM.to(network)
    for a, b in pairwise(levels):
        y = x.to(network)
        score = (L / (L + a.to(network) ** 2) * y - y) / a.to(network) ** 2
        x = x + (a * a - b * b) / 2 * score.to(dtype)
    return x.double()


def ve_ends() -> Tensor:
    """First and last level of VE's steps, as EDM takes them for data in [-1, 1]."""
    return torch.tan(edm.column("ve").steps(8))[[0, -2]]


def ve_is_euler() -> float:
    """Largest |Song's VE update less Euler's method on sigma = sqrt(t)|, 128 steps."""
    grid = edm.column("ve", sigma_min=LOW, sigma_max=HIGH).steps(128)
    ours = reached(euler, WIDE, math.sin(math.atan(HIGH)) * _noise(), grid, path=VE) / math.cos(math.atan(LOW))
    return (ours - ve_original(128, torch.float64, torch.float64)).abs().max().item()


def round_off_steps(evaluations: int) -> list[int]:
    """Numbers of steps for `round_off`, as many as are allowed."""
    return [n for n in (128, 512, 2048, 8192) if n <= max(evaluations, 512)]


def round_off(N: int) -> tuple[float, float, float]:
    """RMS of (Euler's error, round-off of a float32 state, of a float64 one), the network in float32."""
    top, bottom = math.atan(HIGH), math.atan(LOW)
    truth = WIDE.solve(math.sin(top) * _noise(), top, bottom) / math.cos(bottom)
    double, exact = ve_original(N, torch.float64), ve_original(N, torch.float64, torch.float64)
    differences = (exact - truth, ve_original(N, torch.float32) - double, double - exact)
    euler_error, single, rest = (x.square().mean().sqrt().item() for x in differences)
    return euler_error, single, rest


def round_off_note(single: float, error: float) -> str:
    """What the round-off of a float32 state, beside Euler's error, says of Fig. 2b."""
    return (
        "on exact data round-off grows with N and float64 removes it, but Euler's error is "
        f"{error / single:.0f} times as large: it is the gap in Fig. 2b only if the paper's network amplifies it so"
    )


def round_off_table(found: Mapping[int, Sequence[float]]) -> Table:
    """What `round_off` found, by the number of steps N."""
    columns = ("N", "Euler's error", "round-off, float32 state", "round-off, float64 state")
    return table([(N, *x) for N, x in found.items()], dict.fromkeys(columns, ".1e"), "Song's VE sampler, RMS")
