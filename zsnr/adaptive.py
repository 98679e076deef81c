r"""Black-box RK45 from zero SNR: a solver that chooses its own levels, so no table of rows (`zsnr.samplers`).

Source: Dormand & Prince 1980 as scipy has it, the baseline of Karras et al. 2022, Table 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from zsnr.denoisers import Denoiser
from zsnr.grids import check_grid
from zsnr.noise import check_noise
from zsnr.path import ANGLE, Path

Callback = Callable[[int, float, Tensor, Tensor], None] | None


def rk45(
    denoiser: Denoiser,
    noise: Tensor,
    grid: Tensor,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    path: Path = ANGLE,
    callback: Callback = None,
) -> Tensor:
    """scipy's adaptive RK45 along a path, from the grid's first level to its last above 0, then the rotation.

    The levels between are the solver's choice, one for the whole batch; it works in float64 on the CPU. The callback
    is called at each evaluation, the rotation's among them. Needs scipy. The other arguments are
    those of `zsnr.samplers`.

    Raises:
        ValueError: the solver gave up (its message says why), or tolerances are not above 0.
    """
    from scipy.integrate import solve_ivp

    if not rtol > 0 or not atol > 0:
        raise ValueError(f"rtol = {rtol}, atol = {atol}: must be above 0")
    angles = check_grid(grid)
    shape, last, count = check_noise(noise).shape, angles[-2], 0

    def rate(t: float, y):  # type: ignore[no-untyped-def]
        nonlocal count
        p = first if t == first.t else path.at(path.angle(t))  # exactly pi/2 at zero SNR
        x = torch.from_numpy(y).view(shape).to(noise.device) / p.n
        v = denoiser(x.to(noise), p.phi).to(x)
        if callback is not None:
            callback(count, p.phi, x, v)
        count += 1
        return (p.dn * x + p.n * p.dphi * v).flatten().cpu().numpy()

    x = noise
    if len(angles) > 2:
        first, final = path.at(angles[0]), path.at(last)
        start = (noise.double() * first.n).flatten().cpu().numpy()
        result = solve_ivp(rate, (first.t, final.t), start, "RK45", t_eval=[final.t], rtol=rtol, atol=atol)
        if not result.success:
            raise ValueError(f"RK45 gave up ({result.message}): loosen rtol = {rtol} and atol = {atol}")
        x = (torch.from_numpy(result.y[:, -1]).view(shape) / final.n).to(noise)
    v = denoiser(x, last).to(x)
    if callback is not None:
        callback(count, last, x, v)
    return torch.mul(x, math.cos(last)).sub_(v, alpha=math.sin(last))
