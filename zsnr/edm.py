r"""EDM's Table 1: how four families discretise time, precondition the network, draw noise levels and weigh the loss.

    D(x; sigma) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x; c_noise(sigma))
    L = E_{sigma ~ p_train} E_{y, n} lambda(sigma) |D(y + n; sigma) - y|^2,   n ~ N(0, sigma^2 I)

With s = sigma and d = sigma_data:

            c_skip         c_out              c_in              c_noise         p_train                    lambda
    vp      1              -s                 1/sqrt(s^2 + 1)   (M - 1) t(s)    t ~ U(eps_t, 1)            1/s^2
    ve      1              s                  1                 ln(s / 2)       ln s ~ U(ln min, ln max)   1/s^2
    iddpm   1              -s                 1/sqrt(s^2 + 1)   M - 1 - argmin  u_j, j ~ U{0 .. M - 1}     1/s^2
    edm     d^2/(s^2+d^2)  s d/sqrt(s^2+d^2)  1/sqrt(s^2+d^2)   ln(s) / 4       ln s ~ N(P_mean, P_std^2)  1/c_out^2

For data of unit std EDM's network is v-prediction: F = -v (finding 6). It is one only up to its sigma_max: c_noise is
infinite at zero SNR, and p_train never goes there.

Source: Karras et al. 2022, Table 1, Sec. 5, App. B.6, C.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from zsnr import grids
from zsnr.prediction import answer, check_finite, cos_sin
from zsnr.schedule import exact


@dataclass(frozen=True)
class Column:
    """One column of Table 1. Sigmas are tensors of any shape.

    Args:
        name: vp, ve, iddpm or edm.
        precondition: sigma -> c_skip, c_out, c_in, c_noise.
        p_train: (n, generator) -> (n,) training sigmas, float64.
        weight: sigma -> lambda.
        steps: N -> (N + 1,), or fewer where levels are left out, falling angles atan(sigma_i) with a 0 at the end.
        sigma_max: the largest level at which its networks are asked; edm's is 80, raised by the strongest churn.
    """

    name: str
    precondition: Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
    p_train: Callable[[int, Generator], Tensor]
    weight: Callable[[Tensor], Tensor]
    steps: Callable[[int], Tensor]
    sigma_max: float


def _vp(
    M: int = 1000,
    eps_s: float = 1e-3,
    eps_t: float = 1e-5,
    beta_d: float = 19.9,
    beta_min: float = 0.1,
    t_max: float = 1.0,
) -> Column:
    """Song et al.'s VP (DDPM++): t falls from t_max to eps_s in equal steps, sigma(t) = sqrt(e^B(t) - 1)."""

    def sigma(t: Tensor) -> Tensor:
        return torch.expm1(beta_d * t**2 / 2 + beta_min * t).sqrt()

    def time(sigma: Tensor) -> Tensor:
        B = torch.log1p(sigma**2)
        return 2 * B / (beta_min + (beta_min**2 + 2 * beta_d * B).sqrt())

    return Column(
        "vp",
        lambda s: (torch.ones_like(s), -s, (s**2 + 1).rsqrt(), (M - 1) * time(s)),
        lambda n, g: sigma(eps_t + (1 - eps_t) * torch.rand(n, generator=g, dtype=torch.float64)),
        lambda s: s**-2,
        lambda N: _falling(sigma(t_max + _index(N) * (eps_s - t_max))),
        sigma(torch.ones((), dtype=torch.float64)).item(),
    )


def _ve(sigma_min: float = 0.02, sigma_max: float = 100.0) -> Column:
    """Song et al.'s VE (NCSN++): a geometric sequence of levels."""
    low, high = math.log(sigma_min), math.log(sigma_max)
    return Column(
        "ve",
        lambda s: (torch.ones_like(s), s, torch.ones_like(s), (s / 2).log()),
        lambda n, g: (low + (high - low) * torch.rand(n, generator=g, dtype=torch.float64)).exp(),
        lambda s: s**-2,
        lambda N: _falling((high + _index(N) * (low - high)).exp()),
        sigma_max,
    )


def iddpm_levels(M: int = 1000, C_1: float = 0.001, C_2: float = 0.008) -> Tensor:
    """(M + 1,) noise levels u_0 > ... > u_M = 0 of iDDPM's cosine schedule, float64.

    u_{j-1} = sqrt((u_j^2 + 1) / max(alpha_bar_{j-1} / alpha_bar_j, C_1) - 1)
    alpha_bar_j = sin^2(pi/2 j / (M (C_2 + 1)))
    """
    alpha_bar = torch.sin(math.pi / 2 * torch.arange(M + 1, dtype=torch.float64) / (M * (C_2 + 1))) ** 2
    ratio = (alpha_bar[:-1] / alpha_bar[1:]).clamp(min=C_1)
    log = -ratio.log().flip(0).cumsum(0).flip(0)  # ln(1 + u^2), whose expm1 keeps the digits of small levels
    return torch.cat([torch.expm1(log).sqrt(), torch.zeros(1, dtype=torch.float64)])


def _iddpm(M: int = 1000, j_0: int = 8, sigma_min: float = 0.0, sigma_max: float = math.inf) -> Column:
    """Improved DDPM (ADM): discrete levels u_j, of which steps and training take some.

    Args:
        j_0: the first level that steps use.
        sigma_min, sigma_max: levels outside are not used by steps either.
    """
    u = iddpm_levels(M)

    def steps(N: int) -> Tensor:
        j = torch.floor(j_0 + (M - 1 - j_0) * _index(N) + 0.5).long()
        return _falling(u[j][(u[j] >= sigma_min) & (u[j] <= sigma_max)])

    def c_noise(s: Tensor) -> Tensor:
        return (M - 1 - (u[:M].to(s) - s.unsqueeze(-1)).abs().argmin(-1)).to(s)

    return Column(
        "iddpm",
        lambda s: (torch.ones_like(s), -s, (s**2 + 1).rsqrt(), c_noise(s)),
        lambda n, g: u[torch.randint(M, (n,), generator=g)],
        lambda s: s**-2,
        steps,
        u[0].item(),
    )


def _edm(
    sigma_data: float = 0.5,
    P_mean: float = -1.2,
    P_std: float = 1.2,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Column:
    """EDM's own design: unit variance of F's input and target at every sigma, and of the loss at the start."""
    d = sigma_data
    return Column(
        "edm",
        lambda s: (d**2 / (s**2 + d**2), s * d * (s**2 + d**2).rsqrt(), (s**2 + d**2).rsqrt(), s.log() / 4),
        lambda n, g: (P_mean + P_std * torch.randn(n, generator=g, dtype=torch.float64)).exp(),
        lambda s: (s**2 + d**2) / (s * d) ** 2,
        lambda N: grids.karras(N, sigma_min, sigma_max, rho),
        sigma_max * math.sqrt(2),
    )


COLUMNS: dict[str, Callable[..., Column]] = {"vp": _vp, "ve": _ve, "iddpm": _iddpm, "edm": _edm}


def column(name: str, **parameters: float) -> Column:
    """The column of that name, with its parameters (`_vp`, ...); ValueError with the names, if there is none."""
    if name not in COLUMNS:
        raise ValueError(f"unknown column {name!r} of EDM's Table 1; choose one of {', '.join(COLUMNS)}")
    return COLUMNS[name](**parameters)


class Preconditioned(nn.Module):
    """D(x; sigma) = c_skip x + c_out F(c_in x; c_noise): a raw network as a denoiser in EDM's sense.

    Args:
        network: F, called as network(x, c_noise, **conditions), returning a tensor or something with `.sample`.
        column: whose preconditioning.
    """

    def __init__(self, network: nn.Module, column: Column) -> None:
        super().__init__()
        self.network, self.column = network, column

    def forward(self, x: Tensor, sigma: Tensor, **conditions: Any) -> Tensor:
        """x (B, ...) with noise of std sigma (B,), best left on the CPU -> D (B, ...), in x's dtype, at least float32.

        Only F runs in the network's own dtype: D's rounding in half precision would be all there is at small sigma.
        """
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        c_skip, c_out, c_in, c_noise = (
            c.to(x).view(-1, *[1] * (x.dim() - 1)) for c in self.column.precondition(exact(sigma))
        )
        dtype = next((p.dtype for p in self.network.parameters()), x.dtype)
        output = self.network((c_in * x).to(dtype), c_noise.flatten(), **conditions)
        return c_skip * x + c_out * answer(getattr(output, "sample", output), x)


class EDMDenoiser:
    """A preconditioned network as a denoiser over the angle, (x_phi, phi) -> v, with sigma = tan(phi).

    Args:
        network: as `Preconditioned`; its column says up to which sigma_max.
        conditions: passed on to every call.

    Raises:
        ValueError: at the call, above sigma_max: there the network is an extrapolation.
    """

    def __init__(self, network: Preconditioned, **conditions: Any) -> None:
        self.network, self.sigma_max, self.conditions = network, network.column.sigma_max, conditions
        self.device = next(network.parameters(), torch.zeros(())).device

    @torch.no_grad()
    def __call__(self, x: Tensor, phi: float) -> Tensor:
        c, s = cos_sin(phi)
        if c == 0 or s / c > self.sigma_max * (1 + 1e-9):
            raise ValueError(
                f"angle {phi:.6g} (sigma = {math.tan(phi):.6g}) is above what an EDM network is trained for, sigma_max "
                f"= {self.sigma_max:.6g}: start the grid at or below it (grids.karras); with churn, set S_tmax below "
                "sigma_max / sqrt 2; or use a zero-SNR v-model"
            )
        sigma = torch.full((len(x),), s / c, dtype=torch.float64)
        dtype = x.dtype if x.device == self.device else torch.float32  # float64 stays on the CPU
        d = answer(self.network((x / c).to(self.device, dtype), sigma, **self.conditions), x)
        return (c * x - check_finite(d, f"at sigma = {s / c:.6g}")) / s


def _index(N: int) -> Tensor:
    """i / (N - 1) for i = 0 .. N - 1."""
    if N < 1:
        raise ValueError(f"a grid needs at least one step; got N = {N}")
    return torch.arange(N, dtype=torch.float64) / max(N - 1, 1)


def _falling(sigma: Tensor) -> Tensor:
    return torch.cat([torch.atan(sigma), torch.zeros(1, dtype=torch.float64)])
