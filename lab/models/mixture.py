"""Data whose best denoiser is smooth, known exactly at every level, and not linear: a mixture of Gaussians."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from zsnr.denoisers import Gaussian
from zsnr.prediction import cos_sin
from zsnr.schedule import exact


class Mixture:
    """The exact denoiser of a mixture of Gaussians. Finite at zero SNR, where r = w and v = -mean.

        v = sum_k r_k v_k,   r = softmax_k(log w_k + log N(x_phi; cos(phi) mean_k, cos(phi)^2 cov_k + sin(phi)^2 I))

    Args:
        components: each with its mean and covariance, of one shape.
        weights: their probabilities up to a factor; equal where left out.
    """

    def __init__(self, components: Sequence[Gaussian], weights: Tensor | Sequence[float] | None = None) -> None:
        self.components = list(components)
        equal = torch.ones(len(self.components))
        self.weights = exact(equal if weights is None else weights)
        if len({c.mean.shape for c in self.components}) != 1:
            raise ValueError(f"components of shapes {[tuple(c.mean.shape) for c in self.components]}: give one shape")
        if len(self.weights) != len(self.components) or not ((self.weights > 0) & self.weights.isfinite()).all():
            raise ValueError(
                f"weights {self.weights.tolist()} for {len(self.components)} components: one each, above 0"
            )
        self.weights = self.weights / self.weights.sum()

    def responsibilities(self, x: Tensor, phi: float) -> Tensor:
        """(B, K) posterior probabilities of the components, float64 on the CPU."""
        c, s = cos_sin(phi)
        logs = []
        for component, weight in zip(self.components, self.weights, strict=True):
            residual = (x - c * component.mean.to(x)).flatten(1).cpu().double()
            if component.basis is not None:
                residual = residual @ component.basis
            variance = (c * c * component.variance + s * s).flatten()
            logs.append(weight.log() - (residual**2 / variance + variance.log()).sum(1) / 2)
        return torch.stack(logs, 1).softmax(1)

    def __call__(self, x: Tensor, phi: float) -> Tensor:
        r = self.responsibilities(x, phi).to(x)
        v = torch.stack([component(x, phi) for component in self.components], 1)
        return (r.view(*r.shape, *[1] * (x.dim() - 1)) * v).sum(1)

    def sample(self, noise: Tensor, generator: Generator | None = None) -> Tensor:
        """Data: a component drawn for each (B, ...) standard normal noise, which it colours."""
        which = torch.multinomial(self.weights, len(noise), replacement=True, generator=generator)
        drawn = torch.stack([component.sample(noise) for component in self.components], 1)
        return drawn[torch.arange(len(noise), device=noise.device), which.to(noise.device)]
