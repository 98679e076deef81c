r"""What a sampler calls: (x_phi, phi) -> v, for a network or for data whose best denoiser is known exactly.

    v = E[cos(phi) eps - sin(phi) x0 | x_phi],   D = E[x0 | x_phi] = cos(phi) x_phi - sin(phi) v

v is finite from the data (phi = 0) to zero SNR (phi = pi/2), where v = -E[x0].

Source: Lin et al. 2023, Sec. 3.2 (network); Karras et al. 2022, App. B.3 (finite set); Gaussians are linear algebra.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zsnr.prediction import check_finite, check_prediction, cos_sin, to_v
from zsnr.schedule import Schedule, exact

Denoiser = Callable[[Tensor, float], Tensor]


class NetworkDenoiser:
    """A network trained on the steps of a schedule, as a denoiser over the continuous angle.

    An angle between two trained steps becomes a fractional step, interpolated linearly in the angle; below the
    first trained step it is step 0 (counted from 0, as diffusers does).

    Args:
        network: called as network(x, step, **conditions); a diffusers UNet or anything that returns a tensor or
            has its answer in `.sample`. Runs in its own dtype and on its own device.
        schedule: the schedule it was trained with.
        prediction: what it predicts: eps, x0 or v.
        whole_steps: take the nearest step, for networks that look their steps up in a table.
        conditions: passed on to every call, such as class_labels or encoder_hidden_states.

    Raises:
        ValueError: eps with a zero-SNR schedule, or a network whose `card` (`zsnr.diffusers.card`) says otherwise (at
            construction); an angle above the schedule's last (at the call): it never saw so much noise.
    """

    def __init__(
        self, network: nn.Module, schedule: Schedule, prediction: str, *, whole_steps: bool = False, **conditions: Any
    ) -> None:
        check_prediction(prediction, schedule)
        if (card := getattr(network, "card", None)) is not None:
            card.check(prediction, schedule)
        self.whole_steps = whole_steps
        self.network, self.schedule, self.prediction, self.conditions = network, schedule, prediction, conditions
        self.dtype, self.device = placed(network)

    def step(self, phi: float) -> float:
        """The (fractional) trained step, 0 .. T - 1, at an angle."""
        step = max(self.schedule.step_at(phi), 0.0)
        return float(round(step)) if self.whole_steps else step

    @torch.no_grad()
    def __call__(self, x: Tensor, phi: float) -> Tensor:
        at = self.step(phi)
        output = asked(self, x, int(at) if self.whole_steps else at)
        return to_v(check_finite(output, f"at angle {phi:.6g} (step {at:.6g})"), x, phi, self.prediction)


def placed(network: nn.Module) -> tuple[torch.dtype, torch.device]:
    """The dtype and device of a network's parameters; float32 on the CPU where it has none."""
    parameter = next(network.parameters(), torch.zeros(()))
    return parameter.dtype, parameter.device


def asked(denoiser: Any, x: Tensor, time: float) -> Tensor:
    """What the network of a denoiser answers to x at one time, its step or t, in the network's own dtype and device."""
    at = torch.full((len(x),), time, device=denoiser.device)
    output = denoiser.network(x.to(denoiser.device, denoiser.dtype), at, **denoiser.conditions)
    return output[0] if isinstance(output, tuple) else getattr(output, "sample", output)


class Gaussian:
    """The exact denoiser of data ~ N(mean, covariance), and the exact solution of its probability-flow ODE.

    With x_phi - cos(phi) mean split along the covariance's eigenvectors, of variances L:

        v        = -sin(phi) mean + cos(phi) sin(phi) (1 - L) / d(phi) * residual,   d = cos(phi)^2 L + sin(phi)^2
        solution = cos(psi) mean + sqrt(d(psi) / d(phi)) * residual

    Args:
        mean: (...), the shape of one sample; float64 is kept.
        covariance: (n, n) for n = mean.numel(), or the variances alone, in mean's shape, where it is diagonal.
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean, covariance = exact(mean), exact(covariance)
        n = self.mean.numel()
        self.basis: Tensor | None = None
        if covariance.shape == self.mean.shape:
            self.variance = covariance
        elif covariance.shape == (n, n):
            if not torch.allclose(covariance, covariance.T):
                raise ValueError("the covariance is not symmetric")
            self.variance, self.basis = torch.linalg.eigh(covariance)
        else:
            wrong, right = tuple(covariance.shape), tuple(self.mean.shape)
            raise ValueError(f"covariance of shape {wrong}: give variances of shape {right} or a ({n}, {n}) matrix")
        if self.variance.min() < -1e-12 * self.variance.max() or not torch.isfinite(self.variance).all():
            raise ValueError(f"not a covariance: its smallest eigenvalue is {self.variance.min().item()}")
        self.variance = self.variance.clamp(min=0)

    def _scale(self, residual: Tensor, factor: Tensor) -> Tensor:
        if self.basis is None:
            return residual * factor.to(residual)
        basis = self.basis.to(residual)
        return ((residual.flatten(1) @ basis * factor.to(residual)) @ basis.T).view_as(residual)

    def __call__(self, x: Tensor, phi: float) -> Tensor:
        c, s = cos_sin(phi)
        mean = self.mean.to(x)
        return self._scale(x - c * mean, c * s * (1 - self.variance) / (c * c * self.variance + s * s)) - s * mean

    def solve(self, x: Tensor, phi: float, psi: float = 0.0) -> Tensor:
        """Carry x from angle phi to angle psi along the probability-flow ODE, exactly."""
        (c, s), (c2, s2) = cos_sin(phi), cos_sin(psi)
        mean = self.mean.to(x)
        factor = ((c2 * c2 * self.variance + s2 * s2) / (c * c * self.variance + s * s)).sqrt()
        return c2 * mean + self._scale(x - c * mean, factor)

    def sample(self, noise: Tensor) -> Tensor:
        """Data drawn by colouring (B, ...) standard normal noise."""
        return self.mean.to(noise) + self._scale(noise, self.variance.sqrt())


class Empirical:
    """The ideal denoiser of a finite, optionally weighted, set: a softmax-weighted mean (EDM, App. B.3).

        D = sum_i w_i y_i,   w = softmax(log p_i - |x_phi - cos(phi) y_i|^2 / (2 sin(phi)^2))

    Args:
        points: (M, ...), the data.
        weights: (M,), their probabilities up to a factor; equal where left out.
    """

    def __init__(self, points: Tensor, weights: Tensor | None = None) -> None:
        self.points = exact(points)
        weights = exact(torch.ones(len(self.points)) if weights is None else weights)
        if weights.shape != self.points.shape[:1] or (weights < 0).any() or not 0 < weights.sum() < math.inf:
            raise ValueError(f"weights of sum {weights.sum():g}: give {len(points)}, one a point, finite and >= 0")
        self.log_weight = weights.log()

    def __call__(self, x: Tensor, phi: float) -> Tensor:
        c, s = cos_sin(phi)
        y, state = self.points.flatten(1), x.cpu()
        # the terms of the square that do not depend on i cancel in the softmax
        logits = (c * state.double().flatten(1) @ y.T - c * c / 2 * y.square().sum(1)) / s**2 + self.log_weight
        mean = (logits.softmax(1) @ y).view(x.shape)
        return ((c * state - mean) / s).to(x)
