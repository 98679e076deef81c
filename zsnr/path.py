r"""Paths: along which curve the probability-flow ODE is integrated, and in which time.

EDM's ODE (Eq. 4) for any sigma(t) and s(t) has terms that diverge at zero SNR. With

    n(t) = s(t) sqrt(1 + sigma(t)^2),   phi(t) = atan sigma(t),   x(t) = n(t) x_phi

the same ODE is

    dx/dt = n'(t) x_phi + n(t) phi'(t) v(x_phi, phi)

and regular there wherever n and phi' are bounded. A path is n, phi and their derivatives:

    ANGLE  sigma = tan t,  s = cos t            n = 1, phi = t                                  t = pi/2 is zero SNR
    FLOW   sigma = t / (1 - t),  s = 1 - t      n = sqrt(t^2 + (1 - t)^2), phi' = 1 / n^2       t = 1 is zero SNR
    EDM    sigma = t,  s = 1                    n = sqrt(1 + t^2), phi' = 1 / n^2               never reaches it
    VE     sigma = sqrt t,  s = 1               n = sqrt(1 + t), phi' = 1 / (2 sigma n^2)       never reaches it
    VP     sigma = sqrt(e^B - 1),  s = e^(-B/2) n = 1, phi' = B' / (2 sigma)                    never reaches it
           B(t) = beta_d t^2 / 2 + beta_min t

All run from the image, t = 0, to noise. Solvers ask for a path at the angles of a grid, so a grid is a set of noise
levels whatever the path, and stop at the last level above 0, where they rotate: at t = 0 itself VE's and VP's phi' is
infinite.

Source: Karras et al. 2022, Eq. 4, Table 1, App. B; the regular form is derived for this project (finding 6).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from zsnr.prediction import cos_sin


class Point(NamedTuple):
    """A path at one time t: the angle, the scale n, and their derivatives by t."""

    t: float
    phi: float
    n: float
    dphi: float
    dn: float


@dataclass(frozen=True)
class Path:
    """A curve x(t) = n(t) x_phi(t) to integrate the ODE along.

    Args:
        name: for messages and figures.
        time: angle -> t, rising.
        angle: t -> angle, its inverse.
        scale: (t, phi) -> (n, phi', n').
        sigma_max: the path ends at atan(sigma_max); infinite where zero SNR is a point of it.
    """

    name: str
    time: Callable[[float], float]
    angle: Callable[[float], float]
    scale: Callable[[float, float], tuple[float, float, float]]
    sigma_max: float = math.inf
    zero_snr: bool = False

    def __repr__(self) -> str:
        return f"<{self.name} path>"

    def at(self, phi: float) -> Point:
        """The path at a noise level above 0: at the image itself phi' is infinite on VE and VP.

        Raises:
            ValueError: zero SNR, on a path that never reaches it, or a level beyond the path's end.
        """
        if not self.zero_snr and (phi == math.pi / 2 or math.tan(phi) > self.sigma_max * (1 + 1e-9)):
            raise ValueError(
                f"the {self.name} path does not reach the angle {phi:.6g}"
                + (f" (it ends at sigma = {self.sigma_max:.6g})" if self.sigma_max < math.inf else "")
                + ": integrate along ANGLE or FLOW, where zero SNR is an ordinary point, or start lower"
            )
        t = self.time(phi)
        return Point(t, phi, *self.scale(t, phi))


def _edm(t: float, phi: float) -> tuple[float, float, float]:
    n = math.hypot(1, t)
    return n, 1 / n**2, t / n


def _ve(t: float, phi: float) -> tuple[float, float, float]:
    n = math.sqrt(1 + t)
    return n, 1 / (2 * math.sqrt(t) * (1 + t)), 1 / (2 * n)


def _flow(t: float, phi: float) -> tuple[float, float, float]:
    n = math.sqrt(t * t + (1 - t) * (1 - t))
    return n, 1 / (n * n), (2 * t - 1) / n


def _flow_time(phi: float) -> float:
    c, s = cos_sin(phi)
    return s / (c + s)


ANGLE = Path("angle", lambda phi: phi, lambda t: t, lambda t, phi: (1.0, 1.0, 0.0), zero_snr=True)
FLOW = Path("flow", _flow_time, lambda t: math.atan2(t, 1 - t), _flow, zero_snr=True)
EDM = Path("EDM", math.tan, math.atan, _edm)
VE = Path("VE", lambda phi: math.tan(phi) ** 2, lambda t: math.atan(math.sqrt(t)), _ve)


def vp(beta_d: float = 19.9, beta_min: float = 0.1) -> Path:
    """Song et al.'s variance-preserving path, beta(t) = beta_d t + beta_min; t = 1 is the end of their training.

    Raises:
        ValueError: betas for which noise does not rise; beta_min = 0 is EDM's and rises from a slope of 0.
    """
    if not 0 < beta_min + beta_d < math.inf or min(beta_min, beta_d) < 0:
        raise ValueError(f"VP needs betas at or above 0, not both 0, so that noise rises; got {beta_min} and {beta_d}")

    def time(phi: float) -> float:
        # the root of B(t) = ln(1 + sigma^2), written without a difference of near numbers
        B = math.log1p(math.tan(phi) ** 2)
        return 2 * B / (beta_min + math.sqrt(beta_min**2 + 2 * beta_d * B))

    def angle(t: float) -> float:
        return math.atan(math.sqrt(math.expm1(beta_d * t**2 / 2 + beta_min * t)))

    def scale(t: float, phi: float) -> tuple[float, float, float]:
        return 1.0, (beta_d * t + beta_min) / (2 * math.tan(phi)), 0.0

    return Path("VP", time, angle, scale)


VP = vp()
PATHS = {path.name: path for path in (ANGLE, FLOW, EDM, VE, VP)}
