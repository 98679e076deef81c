r"""Two more deterministic solvers, from zero SNR: black-box RK45, and DPM-Solver++ 2M for those who count evaluations.

Source: Dormand & Prince 1980 as scipy has it (the baseline of Karras et al. 2022, Table 3); Lu et al. 2022,
DPM-Solver++, Algorithm 2. Arguments and result are those of `zsnr.sampler`.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from zsnr.denoiser import Denoiser
from zsnr.path import ANGLE, Path
from zsnr.prediction import cos_sin
from zsnr.sampler import Callback, Generators, _steps, check_grid, check_noise


class Counted:
    """A denoiser that counts how often it is evaluated, in `calls`."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.calls = denoiser, 0

    def __call__(self, x: Tensor, phi: float) -> Tensor:
        self.calls += 1
        return self.denoiser(x, phi)


def rk45(
    denoiser: Denoiser,
    noise: Tensor,
    grid: Tensor,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    path: Path = ANGLE,
    generators: Generators = None,
    callback: Callback = None,
    progress: bool = False,
) -> Tensor:
    """scipy's adaptive RK45 along a path, from the grid's first level to its last above 0, then the rotation.

    The levels between are the solver's choice, one for the whole batch; it works in float64 on the CPU. The callback
    is called at each evaluation; `Counted` counts them, the rotation's among them. No progress is shown, as nobody
    knows how far there is to go. Needs scipy.

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


def dpmpp_2m(
    denoiser: Denoiser,
    noise: Tensor,
    grid: Tensor,
    *,
    generators: Generators = None,
    callback: Callback = None,
    progress: bool = False,
) -> Tensor:
    """DPM-Solver++ 2M, multistep in data prediction: one evaluation a step, second order.

        x <- sin(psi)/sin(phi) x + (cos(psi) - sin(psi) cot(phi)) D,   D = D_i + (D_i - D_{i-1}) h / (2 h_last)

    with h the step of lambda = -ln tan(phi). From zero SNR, where lambda is infinite, the first step is DDIM, and so
    is the second, whose h_last is infinite; so is the last. On a grid whose ends are finer than its middle, such as
    `spacing.geometric` or `spacing.power`, that does not cost the order; on equal steps of the angle it does.
    """
    angles = check_grid(grid)
    table, h_last, s_last = [], 0.0, 0.0
    for phi, psi in pairwise(angles):
        (c, s), (c2, s2) = cos_sin(phi), cos_sin(psi)
        h = math.log(s * c2 / (s2 * c)) if c > 0 and psi > 0 else math.inf
        ahead = h / (2 * h_last) if 0 < h_last < math.inf and h < math.inf else 0.0
        on_d = c2 - s2 * c / s
        table.append((c / s, s2 / s, -on_d * (1 + ahead) * s, on_d * ahead * s_last))
        h_last, s_last = h, s
    x, before = check_noise(noise), noise
    for i, (phi, _) in enumerate(_steps(angles, progress)):
        cot, on_x, on_w, on_before = table[i]
        v = denoiser(x, phi).to(x)
        if callback is not None:
            callback(i, phi, x, v)
        w = v.sub(x, alpha=cot)  # -D / sin(phi)
        x = torch.mul(x, on_x).add_(w, alpha=on_w)
        if on_before:
            x.add_(before, alpha=on_before)
        before = w
    return x
