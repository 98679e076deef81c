"""Finding 5 (Karras et al. 2022, Eq. 5, App. D.1): the noise levels of a rho, and their errors with a frozen denoiser.

    sigma_i = (TOP^(1/rho) + i / intervals (BOTTOM^(1/rho) - TOP^(1/rho)))^rho,   i = 0 ... intervals

The paper's N counts levels in Eq. 5, and intervals in App. D.1; here it is always said which.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from lab.measure.local_error import frozen
from zsnr import edm
from zsnr.grids import karras

TOP, BOTTOM = 80.0, 0.02
RHOS = (1, 2, 3, 5, 7)


def levels(rho: float, intervals: int) -> Tensor:
    """sigma_0 ... sigma_intervals, (intervals + 1,)."""
    return torch.tan(karras(intervals + 1, BOTTOM, TOP, rho))[:-1]


def before(sigma: Tensor, rho: float, intervals: int) -> Tensor:
    """The level that a step down to sigma starts from."""
    return (sigma ** (1 / rho) + (TOP ** (1 / rho) - BOTTOM ** (1 / rho)) / intervals) ** rho


def errors(rho: float, intervals: int, order: int) -> Tensor:
    """(intervals,) errors of single steps with the denoiser frozen, along sigma(t) = sqrt t; order 1 Euler, 2 Heun."""
    sigma = levels(rho, intervals)
    return frozen(sigma[:-1], sigma[1:], order)


def slope(rho: float, order: int, intervals: int = 4096) -> float:
    """d ln error / d ln sigma above sigma = 0.5, over steps that are small; in the limit 1 - (order + 1) / rho."""
    sigma = levels(rho, intervals)
    above = sigma[1:] > 0.5
    error = frozen(sigma[:-1][above], sigma[1:][above], order)
    return float(np.polyfit(sigma[1:][above].log(), error.log(), 1)[0])


def equal_error(order: int, intervals: int) -> float:
    """The error of every step where all are equal, frozen.

    No schedule of as many steps has a smaller largest error.
    """

    def last(error: float) -> float:
        """How far above BOTTOM steps of this error end."""
        sigma = TOP
        for _ in range(intervals):
            start = torch.tensor(sigma)
            if frozen(start, torch.tensor(1e-6), order) < error:
                return -BOTTOM
            sigma = brentq(lambda s, a=start: frozen(a, torch.tensor(s), order).item() - error, 1e-6, sigma, xtol=1e-13)
        return sigma - BOTTOM

    return float(brentq(last, 1e-4, 0.1 * (64 / intervals) ** 3, xtol=1e-12))


def same_step(low: float, high: float, intervals: int) -> float:
    """The sigma at which the steps of two rhos have the same length."""
    return float(brentq(lambda s: before(s, low, intervals) - before(s, high, intervals), 0.5, 70))


def unevenness() -> float:
    """rho = 1: the largest difference between neighbouring steps of 64 levels; 0 up to rounding."""
    return levels(1.0, 63).diff().diff().abs().max().item()


def above_geometric(rho: float) -> float:
    """How far 64 levels lie above the geometric ones of VE, the limit of a large rho; in ln sigma, the largest."""
    geometric = torch.tan(edm.column("ve", sigma_min=BOTTOM, sigma_max=TOP).steps(64))[:-1]
    return (levels(rho, 63).log() - geometric.log()).max().item()


def expansion(rho: float) -> float:
    """The same to first order in 1 / rho: ln(TOP / BOTTOM)^2 / (8 rho)."""
    return math.log(TOP / BOTTOM) ** 2 / 8 / rho


def longer_steps(sigma_min: float = 0.002) -> int:
    """Steps that are longer than the one before, in sigma and in VE's time sigma^2; over rhos from 1 to 30."""
    count = 0
    for rho in (1, 1.5, 2, 3, 5, 7, 10, 30):
        for N in (8, 18, 64, 256):
            sigma = torch.tan(karras(N, sigma_min, TOP, rho))
            for t in (sigma, sigma**2):
                h = -t[:-1].diff()
                count += int((h[1:] > h[:-1] * (1 + 1e-9)).sum())
    return count
