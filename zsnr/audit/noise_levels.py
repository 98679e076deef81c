r"""What the time steps of a scheduler mean: noise levels, as angles phi = atan2(noise, signal), and as positions.

A *position* is a level in training steps: 0 .. T - 1 in the table of alpha_bar (between two, linear in ln sigma; -1 is
the clean image), T t on flow matching's straight path, and 250 ln(1 + sigma / sigma_min) for EDM's networks, which are
told ln(sigma) / 4. Errors are compared in positions.

`levels` finds which of four conventions a scheduler follows: `Table`, `Flow`, `LogSigma` or `Angle`.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsnr.diffusers.config import PREDICTION_TYPES
from zsnr.prediction import cos_sin

NAMES = PREDICTION_TYPES | {"flow_prediction": "flow", "trigflow": "v"}
ANGLES = {"IPNDMScheduler": math.pi / 2, "SCMScheduler": 1.0}
"""Schedulers whose time steps are angles, in this unit; they predict v."""


class Unknown(ValueError):
    """A scheduler whose states are not x0 and Gaussian noise, or whose convention is not known here."""


class Levels:
    """A convention: time step -> angle -> position, the states at a level, and what a perfect model predicts for them.

    A state is a vector of coefficients: of the picture, then of each noise. What stands here is right for
    x = cos(phi) x0 + sin(phi) eps.
    """

    scale = 1.0  # the norm of a state
    last_angle = math.pi / 2  # the noisiest level of the training
    first_step, last_step = -math.inf, math.inf  # the range of the time steps
    final_positions: tuple[float, ...] = (0.0,)  # where sampling may end
    scales_input = True  # scale_model_input makes the model's input of a state
    scales_start = True  # init_noise_sigma is the size of the first state

    def __init__(self, config: Any, prediction: str) -> None:
        self.prediction, self.T = prediction, int(config.get("num_train_timesteps", 1000))
        self.sigma_data = float(config.get("sigma_data", 1.0))

    def angle_of(self, step: float) -> float:
        """Angle of the level that the network is told by a time step; nan where there is none."""
        raise NotImplementedError

    def position(self, phi: float) -> float:
        """The level in training steps."""
        raise NotImplementedError

    def sigma(self, position: float) -> float:
        """The way back, for the clean image and the grid's low end."""
        raise NotImplementedError

    def state(self, phi: float) -> tuple[float, float]:
        """(signal, noise) of the model's input at a level."""
        c, s = cos_sin(phi)
        return c * self.scale, s * self.scale

    def parts(self, x: Tensor) -> tuple[float, float]:
        """(signal, noise) of a state, in units of the data's std and of all noise together."""
        return x[0].item(), x[1:].norm().item()

    def size(self, signal: float, noise: float) -> float:
        """1 on the curve."""
        return math.hypot(signal, noise) / self.scale

    def output(self, x: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        """What a perfect model predicts for a state of this picture and this noise, of norm 1."""
        if self.prediction != "v":
            return eps if self.prediction == "eps" else x0
        signal, noise = self.parts(x)
        phi = math.atan2(noise, signal)
        return self.scale * (math.cos(phi) * eps - math.sin(phi) * x0)

    def within_rounding(self, reached: float, expected: float, largest_sigma: float) -> bool:
        """Is a position missed by no more than float32, in which schedulers compute, makes of 80 - (80 - 0.0002)?"""
        if not math.isfinite(reached + expected) or not largest_sigma < 1e4:
            return False
        return abs(self.sigma(reached) - self.sigma(expected)) < 1e-6 * largest_sigma


class Table(Levels):
    """Steps 0 .. T - 1 of a table of alpha_bar."""

    first_step, final_positions = 0, (-1.0, 0.0)  # it may end on the clean image, or on the table's first level

    def __init__(self, config: Any, prediction: str, scheduler: Any) -> None:
        super().__init__(config, prediction)
        a = torch.as_tensor(scheduler.alphas_cumprod).detach().cpu().double()
        self.angle = torch.atan2((1 - a).clamp(min=0).sqrt(), a.clamp(min=0).sqrt()).numpy()
        self.angle[a.numpy() == 0] = math.pi / 2
        with np.errstate(divide="ignore"):
            self.log_sigma = np.log(np.sqrt(1 - a.numpy()) / np.sqrt(a.numpy())).clip(-100, 100)
        self.T, self.last_step, self.last_angle = len(a), len(a) - 1, float(self.angle[-1])
        self.angle_at = getattr(scheduler, "angle_at", None)  # a scheduler that says what its fractions mean

    def angle_of(self, step: float) -> float:
        if not 0 <= step <= self.last_step:
            return math.nan
        if self.angle_at:
            return float(self.angle_at(step))
        k = int(step)
        if k == step:
            return float(self.angle[k])
        return math.atan(math.exp(self.log_sigma[k] + (step - k) * (self.log_sigma[k + 1] - self.log_sigma[k])))

    def position(self, phi: float) -> float:
        if not phi > self.angle[0]:
            return phi / float(self.angle[0]) - 1
        return float(np.interp(min(math.log(_sigma(phi)), 100.0), self.log_sigma, np.arange(self.T)))

    def sigma(self, position: float) -> float:
        if position < 0:
            return math.tan((position + 1) * float(self.angle[0]))
        return math.exp(float(np.interp(position, np.arange(self.T), self.log_sigma)))


class Flow(Levels):
    """Flow matching's straight path, x = (1 - t) x0 + t eps at time step T t; the velocity eps - x0 is predicted."""

    scales_input = False

    def angle_of(self, step: float) -> float:
        return math.atan2(step / self.T, 1 - step / self.T)

    def position(self, phi: float) -> float:
        sigma = _sigma(phi)
        return self.T / (1 + 1 / sigma) if sigma else 0.0

    def sigma(self, position: float) -> float:
        return position / (self.T - position)

    def state(self, phi: float) -> tuple[float, float]:
        c, s = cos_sin(phi)
        return c / (c + s), s / (c + s)

    def size(self, signal: float, noise: float) -> float:
        return signal + noise

    def output(self, x: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        return eps - x0

    def within_rounding(self, reached: float, expected: float, largest_sigma: float) -> bool:
        return False


class LogSigma(Levels):
    """ln(sigma) / 4, as EDM's networks are told; their input has unit variance where x0 has sigma_data."""

    def __init__(self, config: Any, prediction: str) -> None:
        super().__init__(config, prediction)
        self.sigma_min, self.last_angle = float(config.sigma_min), math.atan(config.sigma_max / self.sigma_data)
        if config.get("final_sigmas_type") == "sigma_min":
            self.final_positions = (250 * math.log(2),)

    def angle_of(self, step: float) -> float:
        return math.atan2(math.exp(4 * step), self.sigma_data)

    def position(self, phi: float) -> float:
        return 250 * math.log1p(_sigma(phi) * self.sigma_data / self.sigma_min)

    def sigma(self, position: float) -> float:
        return self.sigma_min * math.expm1(position / 250)

    def state(self, phi: float) -> tuple[float, float]:
        c, s = cos_sin(phi)
        return c / self.sigma_data, s

    def parts(self, x: Tensor) -> tuple[float, float]:
        return x[0].item() * self.sigma_data, x[1:].norm().item()

    def output(self, x: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        """F of D = c_skip x + c_out F."""
        sigma, data = x[1:].norm().item() / x[0].item(), self.sigma_data
        c_skip, c_out = data**2 / (sigma**2 + data**2), sigma * data / math.hypot(sigma, data)
        return (x0 - c_skip * x / x[0]) / (c_out if self.prediction == "eps" else -c_out)


class Angle(Levels):
    """Time steps that are angles in a unit; v is predicted, and the noise has sigma_data, as x0 has."""

    scales_start = False

    def __init__(self, config: Any, unit: float) -> None:
        super().__init__(config, "v")
        self.T, self.unit, self.scale = 1000, unit, self.sigma_data

    def angle_of(self, step: float) -> float:
        return step * self.unit

    def position(self, phi: float) -> float:
        return self.T * phi / (math.pi / 2)

    def sigma(self, position: float) -> float:
        return math.tan(position / self.T * math.pi / 2)


def levels(scheduler: Any) -> Levels:
    """The convention of a diffusers scheduler.

    Raises:
        Unknown: it is none of the four.
    """
    config, name = scheduler.config, type(scheduler).__name__
    prediction = NAMES.get(config.get("prediction_type", "epsilon"), "")
    table = getattr(scheduler, "alphas_cumprod", None)
    if prediction == "flow" or (table is None and re.search("FlowMa|EulerAncestralRF", name)):
        return Flow(config, "flow")
    if hasattr(scheduler, "precondition_outputs") or config.get("timestep_type") == "continuous":
        return LogSigma(config, prediction)
    if name in ANGLES:
        return Angle(config, ANGLES[name])
    if table is None or not prediction:
        raise Unknown(f"{name} has no levels that are known here")
    return Table(config, prediction, scheduler)


def _sigma(phi: float) -> float:
    return math.inf if phi >= math.pi / 2 else math.tan(phi)
