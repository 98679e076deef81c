"""The path of any forward SDE: what the closed forms of `zsnr.path` are held against."""

from __future__ import annotations

import math
from collections.abc import Callable

from zsnr.path import Path


def from_sde(f: Callable[[float], float], g: Callable[[float], float], t_max: float = 1.0, name: str = "SDE") -> Path:
    """The path of the forward SDE dx = f(t) x dt + g(t) dw, by quadrature (EDM, App. B.1).

        s(t) = exp(int_0^t f),   sigma(t)^2 = int_0^t g^2 / s^2,   p_0t(x | x0) = N(s x0, s^2 sigma^2)

    Conversely f = s' / s and g = s sqrt(2 sigma' sigma). Needs scipy.

    Args:
        f, g: drift and diffusion as functions of time, on [0, t_max]; g positive.
        t_max: the SDE's end, where the path ends.

    Raises:
        ValueError: the quadrature does not reach t_max, or no noise is added on the way.
    """
    from scipy.integrate import solve_ivp
    from scipy.optimize import brentq

    def rate(t: float, y: list[float]) -> list[float]:
        return [f(t), (g(t) / math.exp(y[0])) ** 2]

    try:
        solution = solve_ivp(rate, (0.0, t_max), [0.0, 0.0], "DOP853", rtol=1e-12, atol=1e-14, dense_output=True)
    except OverflowError as error:
        raise ValueError(f"f and g cannot be integrated to t_max = {t_max}: {error}; end earlier") from error
    if not solution.success:
        raise ValueError(f"f and g cannot be integrated to t_max = {t_max}: {solution.message}")
    if not solution.y[1, -1] > 0:
        raise ValueError(f"g adds no noise up to t_max = {t_max}: give a g above 0, and t_max > 0")

    def s_sigma(t: float) -> tuple[float, float]:
        log_s, variance = solution.sol(t)
        return math.exp(log_s), math.sqrt(max(variance, 0.0))

    sigma_max = s_sigma(t_max)[1]

    def time(phi: float) -> float:
        if math.tan(phi) >= sigma_max:
            return t_max
        return brentq(lambda t: s_sigma(t)[1] - math.tan(phi), 0.0, t_max * (1 + 1e-12), xtol=1e-15, rtol=1e-14)

    def angle(t: float) -> float:
        return math.atan(s_sigma(t)[1])

    def scale(t: float, phi: float) -> tuple[float, float, float]:
        s, sigma = s_sigma(t)[0], math.tan(phi)
        root = math.hypot(1, sigma)
        dsigma = (g(t) / s) ** 2 / (2 * sigma)
        return s * root, dsigma / root**2, s * (f(t) * root + sigma * dsigma / root)

    return Path(name, time, angle, scale, sigma_max)
