r"""What is asked of samplers and networks on data of known law: `lab.models.toy`.

    energy distance   (2 E|X - Y| - E|X - X'| - E|Y - Y'|) / E|Y - Y'|,   X drawn, Y of the law (Szekely & Rizzo 2013)

It is chosen over a sliced Wasserstein distance since its U-statistic is unbiased at any number of samples, so that its
floor is 0, and since it needs no projections. It is quadratic in small errors. The log density under the law is linear
in them: it rises where detail is lost, and falls where noise is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from lab.models import toy
from zsnr.denoisers import Denoiser
from zsnr.finetune.loop import generator
from zsnr.grids import karras
from zsnr.path import EDM
from zsnr.prediction import cos_sin
from zsnr.samplers import churn


class Setting(NamedTuple):
    """S_churn, S_tmin, S_tmax and S_noise of EDM's Algorithm 2."""

    S_churn: float
    S_tmin: float = 0.0
    S_tmax: float = 1000.0  # above every level there is
    S_noise: float = 1.0


NONE = Setting(0.0)
VP, VE, PRETRAINED, OURS = TABLE5 = (
    Setting(30.0, 0.01, 1.0, 1.007),
    Setting(80.0, 0.05, 1.0, 1.007),
    Setting(80.0, 0.05, 50.0, 1.003),
    Setting(40.0, 0.05, 50.0, 1.003),
)
"""EDM's Table 5: CIFAR-10 VP and VE, ImageNet-64 pre-trained and EDM's own."""
RANGES = {"all levels": (0.0, 1000.0), "[.05, 1]": (0.05, 1.0)}
STRONG = (80.0, 0.05, 1.0)
"""The churn, within the range of the planted error, that a larger S_noise is to mend."""


def settings(amounts: Sequence[float]) -> list[Setting]:
    """None; amounts in both ranges, with and without S_noise; Table 5's; and the first of these, changed."""
    swept = [Setting(S, *levels, S_noise) for S in amounts for levels in RANGES.values() for S_noise in (1.0, 1.007)]
    changed = [VP._replace(S_noise=S_noise) for S_noise in (1.0, 1.003, 1.01)]
    everywhere = Setting(VP.S_churn, S_noise=VP.S_noise)
    return list(dict.fromkeys([NONE, *swept, *TABLE5, *changed, everywhere]))


class Judge:
    """Measures of samples against fresh ones of the law.

    Args:
        law: what they are samples of.
        n: how many fresh samples.
        sigma: samples are D of states at this level; 0 for the samples themselves.
    """

    def __init__(self, law: toy.Law, n: int, sigma: float = 0.0) -> None:
        y, _ = law.draw(n, generator(9, 0))
        self.law, self.sigma = law, sigma
        if sigma:
            y = answers(law.exact, *noisy(y, sigma, generator(9, 1)))
        self.real = y.flatten(1)
        self.within = _within(self.real)
        self.density = self._density(y)

    def energy(self, x: Tensor) -> float:
        """The energy distance of (n, ...) samples; around 0, on both sides of it, for samples of the law."""
        x = x.flatten(1)
        return (
            (2 * torch.cdist(x, self.real).mean(dtype=torch.float64) - _within(x) - self.within) / self.within
        ).item()

    def detail(self, x: Tensor) -> float:
        """Mean log density less that of the law's samples, per dimension: above 0 where detail is lost."""
        return (self._density(x) - self.density) / x[0].numel()

    def _density(self, x: Tensor) -> float:
        """Of the likelier 95 %: a few outliers of a network would be all there is in the mean."""
        return toy.log_density(self.law.exact, x).sort().values[len(x) // 20 :].mean().item()

    def __call__(self, x: Tensor) -> dict[str, float]:
        return {"energy": self.energy(x), "detail": self.detail(x)}


def _within(x: Tensor) -> Tensor:
    """Mean distance of two different samples."""
    distances = torch.cdist(x, x)
    others = distances.sum(dtype=torch.float64) - distances.diagonal().sum(dtype=torch.float64)
    return others / (len(x) * (len(x) - 1))


def noisy(y: Tensor, sigma: float, g: Generator) -> tuple[Tensor, float]:
    """The state x_phi of these samples at a level, and phi."""
    phi = math.atan(sigma)
    c, s = cos_sin(phi)
    return c * y + s * torch.randn(y.shape, generator=g), phi


def answers(denoiser: Denoiser, x: Tensor, phi: float) -> Tensor:
    """D of the state x_phi."""
    c, s = cos_sin(phi)
    return c * x - s * denoiser(x, phi)


def draw(
    denoiser: Denoiser, shape: Sequence[int], setting: Setting, steps: int, n: int, seed: int, batch: int = 1000
) -> Tensor:
    """n samples by Algorithm 2 on EDM's levels; their starting and fresh noises depend on the seed alone."""
    sample = partial(churn, denoiser, grid=karras(steps), path=EDM, **setting._asdict())
    start, fresh = generator(7, seed), generator(8, seed)  # one for a batch: one a sample would cost more than the MLP
    sizes = [min(batch, n - k) for k in range(0, n, batch)]
    return torch.cat([sample(noise=torch.randn(size, *shape, generator=start), generators=fresh) for size in sizes])


@torch.no_grad()
def network(denoiser: Denoiser, law: toy.Law, sigmas: Sequence[float], n: int) -> dict[str, Any]:
    """By level: the error E|D - D*|^2 / d, and by which share more noise is removed than should be.

    1/c - 1 = E|x - D|^2 / E<x - y, x - D> - 1, as in `lab.studies.churn.calibration`; y may be D* there, which is its
    mean given x: then the value of the exact denoiser is 0 at any number of samples.
    """
    y, _ = law.draw(n, generator(9, 2))
    found: dict[str, Any] = {"sigma": list(sigmas), "error": [], "too_much": []}
    for k, sigma in enumerate(sigmas):
        x, phi = noisy(y, sigma, generator(9, 3, k))
        D, best = (answers(d, x, phi).double() for d in (denoiser, law.exact))
        z = x.double() / cos_sin(phi)[0]  # in EDM's units, D + noise
        found["error"].append((D - best).square().mean().item())
        found["too_much"].append(((z - D).square().mean() / ((z - best) * (z - D)).mean() - 1).item())
    return found


def removing(exact: Denoiser, excess: float, low: float = 0.05, high: float = 1.0) -> Denoiser:
    """A planted error: at sigma in [low, high], x - D is (1 + excess) times the exact one.

    With eps = sin(phi) x_phi + cos(phi) v, sigma eps is x - D, and so v' = v + excess eps / cos(phi).
    """

    def denoiser(x: Tensor, phi: float) -> Tensor:
        v, (c, s) = exact(x, phi), cos_sin(phi)
        return v + excess * (v + s / c * x) if low * c <= s <= high * c else v

    return denoiser


def turning(exact: Denoiser, turn: float) -> Denoiser:
    """A planted error in two dimensions: D + turn R D, R a right angle, which is the gradient of nothing.

    Not turn R (x - D): that is along the level lines of p, whose law such a flow leaves as it is.
    """

    def denoiser(x: Tensor, phi: float) -> Tensor:
        v, (c, s) = exact(x, phi), cos_sin(phi)
        D = c * x - s * v
        return v - turn / s * torch.stack([-D[..., 1], D[..., 0]], -1)

    return denoiser
