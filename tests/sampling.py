"""What tests of the core share."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from zsnr import rows
from zsnr.denoisers import Gaussian
from zsnr.samplers import SAMPLERS, churn, ddim, ddpm, euler_maruyama

RIGHT = math.pi / 2


def with_generators(run):
    """A sampler that takes `generators` and, where it draws no noise, does not pass them on."""
    if getattr(getattr(run, "func", run), "stochastic", False):
        return run
    return lambda *arguments, generators=None, **options: run(*arguments, **options)


STOCHASTIC = {
    "ddpm": ddpm,
    "ddim, eta 1": partial(ddim, eta=1.0),
    "ddim, eta .5": partial(ddim, eta=0.5),
    "churn": partial(churn, S_churn=3.0),
    "churn, Euler": partial(churn, S_churn=3.0, order=1),
    "euler_maruyama": euler_maruyama,
}
DETERMINISTIC = {name: with_generators(SAMPLERS[name]) for name in ("ddim", "euler", "heun", "rk2", "dpmpp_2m", "eab")}
FIXED_STEP = DETERMINISTIC | STOCHASTIC
ALL = FIXED_STEP | {"rk45": with_generators(SAMPLERS["rk45"])}


def seeded():
    """A generator, and a function of a shape that draws float64 normal numbers from it."""
    generator = torch.Generator().manual_seed(0)
    return generator, lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def never(*_):
    """The denoiser of a call that must be refused before any evaluation."""
    pytest.fail("evaluated")


def slope(sizes: list[int], errors) -> float:
    """The order of errors that fall with the number of steps."""
    return -np.polyfit(np.log(sizes), np.log(np.abs(errors)), 1)[0]


def by_algebra(mean: torch.Tensor, covariance: torch.Tensor):
    """D(x; sigma) of Gaussian data, x = x0 + sigma eps, by linear algebra."""

    def denoised(x: torch.Tensor, sigma: float) -> torch.Tensor:
        gain = torch.linalg.solve(covariance + sigma**2 * torch.eye(len(mean), dtype=x.dtype), (x - mean).T)
        return mean + (covariance @ gain).T

    return denoised


def marginal(phi: float, variance):
    """Variance of x_phi."""
    return math.cos(phi) ** 2 * variance + math.sin(phi) ** 2


def variances(run, angles: torch.Tensor, data, monkeypatch, callback=None) -> torch.Tensor:
    """The output's variances for Gaussian data of mean 0 and these (K,) variances, from its marginal, exactly.

    Every sampler is linear then in what it starts from and in the noise it draws, so with entry i of the state as the
    coefficient of noise i, the state's variance is the sum of its squares.
    """
    source, data = iter(range(1, len(angles))), torch.as_tensor(data, dtype=torch.float64)

    def unit(shape, *_):
        z = torch.zeros(*shape, dtype=torch.float64)
        z[..., next(source)] = 1
        return z

    monkeypatch.setattr(rows, "randn", unit)
    noise = torch.zeros(1, len(data), len(angles), dtype=torch.float64)
    noise[0, :, 0] = marginal(float(angles[0]), data).sqrt()
    denoiser = Gaussian(torch.zeros(noise.shape[1:]), data[:, None].expand(noise.shape[1:]))
    run = with_generators(run)
    return run(denoiser, noise, angles, generators=torch.Generator(), callback=callback).square().sum(-1)[0]
