r"""Truncation error of one step, against many Euler sub-steps: the protocol of EDM, App. D.1.

    tau = n(psi) (x_phi after `substeps` Euler steps, equal in the path's time - x_phi after the one step)

in the paper's own coordinate x = n x_phi; its RMSE is |tau| / sqrt(dim). With a denoiser frozen at D = y, sigma(t) = t
has straight solutions and no error. sigma(t) = sqrt t (VE) has -tau, for a step from sigma_a to sigma_b = sigma_a / r:

    Euler  (sigma_a - sigma_b)^2 / (2 sigma_a)          ~  h^2 / (2 sigma)      in units of |x - y| / sigma,
    Heun   -sigma_b (r - 1)^3 (r + 3) / (8 r)           ~ -h^3 / (2 sigma^2)    h = sigma_a - sigma_b

Steps of `spacing.karras` are h ~ rho A sigma^(1 - 1/rho), so these are level in sigma at rho = 2 and rho = 3.

Source: Karras et al. 2022, App. D.1, Fig. 13; the frozen forms are derived for this project.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from zsnr.denoisers import Denoiser
from zsnr.path import VE, Path
from zsnr.rows import follow
from zsnr.samplers import rk2_step


def step(denoiser: Denoiser, x: Tensor, phi: float, psi: float, *, path: Path = VE, order: int = 2) -> Tensor:
    """One step of Heun's method (order 2) or Euler's (1) along a path, towards the image or, for inversion, from it."""
    if not (phi > 0 and psi > 0):
        raise ValueError(f"a step from the angle {phi:.6g} to {psi:.6g}: both ends must lie above 0, the image")
    return follow(rk2_step(phi, psi, path=path)[:order], denoiser, x)


def local_errors(
    denoiser: Denoiser, x: Tensor, phi: float, psi: float, *, path: Path = VE, substeps: int = 200
) -> tuple[Tensor, Tensor]:
    """(B,) norms |tau| of Euler's and of Heun's step from phi to psi, both from the same (B, ...) x_phi."""
    start, end = path.time(phi), path.time(psi)
    angles = [phi, *(path.angle(start + (end - start) * k / substeps) for k in range(1, substeps)), psi]
    truth = x
    for here, there in pairwise(angles):
        truth = step(denoiser, truth, here, there, path=path, order=1)
    n = path.at(psi).n
    euler, heun = (step(denoiser, x, phi, psi, path=path, order=order) for order in (1, 2))
    return n * (truth - euler).flatten(1).norm(dim=1), n * (truth - heun).flatten(1).norm(dim=1)


def frozen(sigma_a: Tensor, sigma_b: Tensor, order: int) -> Tensor:
    """|tau| of a step on the VE path with the denoiser frozen, in units of |x - y| / sigma; order 1 Euler, 2 Heun."""
    if order == 1:
        return (sigma_a - sigma_b) ** 2 / (2 * sigma_a)
    r = sigma_a / sigma_b
    return sigma_b * (r - 1).abs() ** 3 * (r + 3) / (8 * r)
