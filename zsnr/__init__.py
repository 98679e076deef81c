"""zsnr: zero terminal SNR and the EDM design space, both by the angle phi = atan(sigma).

x_phi = cos(phi) x0 + sin(phi) eps runs from the image (phi = 0) to pure noise (phi = pi/2), v = dx/dphi is what a
v-prediction network predicts, and every sampler solves that one equation. Importing this needs torch and numpy only.
The schedules of the literature are in `zsnr.schedule`, the columns of EDM's Table 1 in `zsnr.edm`.
"""

from typing import Any

from zsnr.adaptive import rk45
from zsnr.denoisers import Empirical, Gaussian, NetworkDenoiser
from zsnr.grids import geometric, grid, karras, power, skewed, timesteps, uniform
from zsnr.guidance import guided
from zsnr.multistep import eab
from zsnr.noise import generators, randn
from zsnr.path import ANGLE, EDM, FLOW, VE, VP, Path
from zsnr.samplers import SAMPLERS, churn, ddim, ddpm, dpmpp_2m, euler, euler_maruyama, heun, rk2
from zsnr.schedule import Schedule, from_alpha_bar, from_betas, rescale_zero_terminal_snr


def __getattr__(name: str) -> Any:
    """What belongs to `zsnr.diffusers`, imported when it is asked for: the core's one way up.

    SchedulerMixin is asked for by diffusers, when it loads a pipeline that was saved with a `zsnr.ZeroSNRScheduler`.
    """
    if name in ("ZeroSNRScheduler", "from_scheduler", "SchedulerMixin"):
        import zsnr.diffusers

        return getattr(zsnr.diffusers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
