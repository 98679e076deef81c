"""zsnr: zero terminal SNR and the EDM design space in one coordinate, the angle phi = atan(sigma).

x_phi = cos(phi) x0 + sin(phi) eps runs from the image (phi = 0) to pure noise (phi = pi/2), v = dx/dphi is what a
v-prediction network predicts, and every sampler solves that one equation. Importing this needs torch and numpy only.
"""

from typing import Any

from zsnr.adaptive import rk45
from zsnr.denoisers import Empirical, Gaussian, Mixture, NetworkDenoiser
from zsnr.grids import geometric, grid, karras, power, timesteps, uniform
from zsnr.guidance import guided
from zsnr.noise import generators, randn
from zsnr.path import ANGLE, EDM, FLOW, VE, VP, Path, from_sde
from zsnr.samplers import SAMPLERS, churn, ddim, ddpm, dpmpp_2m, euler, euler_maruyama, heun, rk2
from zsnr.schedule import (
    Schedule,
    cosine,
    from_alpha_bar,
    from_betas,
    linear,
    rescale_zero_terminal_snr,
    stable_diffusion,
)


def __getattr__(name: str) -> Any:
    """What belongs to `zsnr.diffusers`, imported when it is asked for."""
    if name in ("ZeroSNRScheduler", "from_scheduler"):
        import zsnr.diffusers

        return getattr(zsnr.diffusers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ANGLE",
    "EDM",
    "FLOW",
    "SAMPLERS",
    "VE",
    "VP",
    "Empirical",
    "Gaussian",
    "Mixture",
    "NetworkDenoiser",
    "Path",
    "Schedule",
    "ZeroSNRScheduler",
    "churn",
    "cosine",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "euler",
    "euler_maruyama",
    "from_alpha_bar",
    "from_betas",
    "from_scheduler",
    "from_sde",
    "generators",
    "geometric",
    "grid",
    "guided",
    "heun",
    "karras",
    "linear",
    "power",
    "randn",
    "rescale_zero_terminal_snr",
    "rk2",
    "rk45",
    "stable_diffusion",
    "timesteps",
    "uniform",
]
