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
from zsnr.prediction import answer, check_finite

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
    is called at each evaluation, with that state, and for the rotation. Needs scipy. The other arguments are those of
    `zsnr.samplers`.

    Raises:
        ValueError: the solver gave up (its message says why), or tolerances are not above 0.
    """
    from scipy.integrate import solve_ivp

    if not rtol > 0 or not atol > 0:
        raise ValueError(f"rtol = {rtol}, atol = {atol}: must be above 0")
    angles = check_grid(grid)
    shape, last, count = check_noise(noise).shape, angles[-2], 0

    def ask(x: Tensor, phi: float) -> Tensor:
        nonlocal count
        v = check_finite(answer(denoiser(x.to(noise), phi), x), f"in rk45 at angle {phi:.6g}")
        if callback is not None:
            callback(count, phi, x, v)
        count += 1
        return v

    def rate(t: float, y):  # type: ignore[no-untyped-def]
        p = first if t == first.t else path.at(path.angle(t))  # exactly pi/2 at zero SNR
        x = torch.from_numpy(y).view(shape) / p.n
        return (p.dn * x + p.n * p.dphi * ask(x, p.phi)).flatten().numpy()

    x = noise
    if len(angles) > 2:
        first, final = path.at(angles[0]), path.at(last)
        start = (noise.cpu().double() * first.n).flatten().numpy()
        result = solve_ivp(rate, (first.t, final.t), start, "RK45", t_eval=[final.t], rtol=rtol, atol=atol)
        if not result.success:
            raise ValueError(f"RK45 gave up ({result.message}): loosen rtol = {rtol} and atol = {atol}")
        x = (torch.from_numpy(result.y[:, -1]).view(shape) / final.n).to(noise)
    return torch.mul(x, math.cos(last)).sub_(ask(x, last), alpha=math.sin(last))
