r"""The exact denoiser of pictures on a backdrop whose level is uniform: x0 = a_k + c b_k, c ~ U[low, high].

a_k is the foreground on a backdrop of level 0, b_k = 1 - alpha_k the share of the backdrop in each pixel. Given k, the
density of x_phi in c is a Gaussian cut off at low and high, so both the evidence for k and E[c | x_phi, k] are closed
forms in the normal distribution (derived for this project):

    log p(x_phi | c, k) = cos/sin^2 x.a - cos^2/(2 sin^2) |a|^2 + B c - A c^2 / 2 + const
    A = (cos/sin)^2 |b|^2,   B = cos/sin^2 x.b - (cos/sin)^2 a.b

With it, the leak of the schedule, the choice of steps and the solver's error can be told apart from what a network
learned.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from lab.models.data import Images
from zsnr.prediction import cos_sin
from zsnr.schedule import exact


class UniformBackdrop:
    """Denoiser (x, phi) -> v of K foregrounds, each as likely, on backdrops of uniform level; in float64, on the CPU.

    Exact to 1e-5 up to sigma = 1e5 and at zero SNR itself; in between, the two tails' difference loses its digits.

    Args:
        foreground: (K, C, H, W), the pictures on a backdrop of level 0.
        backdrop: (K, 1, H, W), the share 1 - alpha in [0, 1] of the backdrop in each pixel; above 0 somewhere in each.
        low, high: the levels' bounds; a fifth of [-1, 1] is what a caption word says.
    """

    def __init__(self, foreground: Tensor, backdrop: Tensor, low: float = -1.0, high: float = 1.0) -> None:
        if not low < high:
            raise ValueError(f"levels from {low} to {high}: low must be below high")
        self.middle, self.half = (low + high) / 2, (high - low) / 2
        self.a = exact(foreground).flatten(1)
        self.b = exact(backdrop).expand_as(foreground).flatten(1)
        self.n, self.ab, self.energy = self.b.square().sum(1), (self.a * self.b).sum(1), self.a.square().sum(1)
        if self.n.min() == 0:
            raise ValueError(f"foreground {int(self.n.argmin())} leaves no backdrop: its level would be unknown")

    @classmethod
    def of(cls, images: Images, index: Tensor, low: float = -1.0, high: float = 1.0) -> UniformBackdrop:
        """That of the indexed images."""
        return cls(images.compose(index, torch.zeros(len(index))), images.backdrop(index), low, high)

    @classmethod
    def by_class(cls, images: Images, n: int, generator: Generator) -> list[UniformBackdrop]:
        """One of each class, of n random images in all; empty where a class has none whose backdrop can be seen."""
        order = torch.randperm(len(images), generator=generator)
        order = order[~images.fills[order]]
        kept = [order[images.label[order] == k][: n // len(images.classes)] for k in range(len(images.classes))]
        return [cls.of(images, index) for index in kept] if all(map(len, kept)) else []

    def __call__(self, x: Tensor, phi: float) -> Tensor:
        c, s = cos_sin(phi)
        a, b, n, state = self.a, self.b, self.n, x.cpu()
        flat = state.double().flatten(1)
        if c == 0:
            mean = (a + self.middle * b).mean(0).expand_as(flat)
        else:
            on_a, on_b = flat @ a.T, flat @ b.T - c * self.ab
            precision = (c / s) ** 2 * n
            unit, log_mass = truncated_normal((on_b / (c * n) - self.middle) / self.half, precision.rsqrt() / self.half)
            level = self.middle + self.half * unit
            # what the integral over c leaves beside the truncated mass: exp(B^2 / 2A) sqrt(2 pi / A)
            evidence = c / s**2 * on_a - (c / s) ** 2 / 2 * self.energy
            evidence = evidence + (on_b / s) ** 2 / (2 * n) - precision.log() / 2 + log_mass
            weight = evidence.softmax(1)
            mean = weight @ a + (weight * level) @ b
        return ((c * state - mean.view(x.shape)) / s).to(x)


def truncated_normal(mu: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and logarithm of the mass, of N(mu, tau^2) cut off at -1 and 1, also far out in a tail."""
    sign = torch.where(mu < 0, -1.0, 1.0)  # by symmetry the interval lies at or below the mean
    low, high = (-1 - mu.abs()) / tau, (1 - mu.abs()) / tau
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    log_mass = log_high + torch.log1p(-(log_low - log_high).exp())
    norm = math.log(2 * math.pi) / 2
    mean = mu.abs() + tau * ((-low.square() / 2 - norm - log_mass).exp() - (-high.square() / 2 - norm - log_mass).exp())
    return sign * mean.clamp(-1, 1), log_mass
