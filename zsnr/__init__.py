"""zsnr: zero terminal SNR and the EDM design space in one coordinate, the angle phi = atan(sigma).

x_phi = cos(phi) x0 + sin(phi) eps runs from the image (phi = 0) to pure noise (phi = pi/2), v = dx/dphi is what a
v-prediction network predicts, and every sampler solves that one equation. Importing this needs torch and numpy only.
"""

from pathlib import Path

from zsnr.denoiser import Empirical, Gaussian, NetworkDenoiser
from zsnr.sampler import SAMPLERS, ddim, ddpm, euler, generators, heun, randn
from zsnr.schedule import (
    Schedule,
    cosine,
    from_alpha_bar,
    from_betas,
    from_scheduler,
    linear,
    rescale_zero_terminal_snr,
    stable_diffusion,
)
from zsnr.spacing import grid, karras, power, timesteps, uniform

ROOT = Path(__file__).resolve().parents[1]
"""The checkout: notebooks run from other folders, and find parameters, data and results here."""

__all__ = [
    "ROOT",
    "SAMPLERS",
    "Empirical",
    "Gaussian",
    "NetworkDenoiser",
    "Schedule",
    "cosine",
    "ddim",
    "ddpm",
    "euler",
    "from_alpha_bar",
    "from_betas",
    "from_scheduler",
    "generators",
    "grid",
    "heun",
    "karras",
    "linear",
    "power",
    "randn",
    "rescale_zero_terminal_snr",
    "stable_diffusion",
    "timesteps",
    "uniform",
]
