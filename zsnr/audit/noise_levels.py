r"""What the time steps of a scheduler mean: noise levels, as angles phi = atan2(noise, signal), and as positions.

A *position* is a level in training steps: 0 .. T - 1 in the table of alpha_bar (between two, linear in ln sigma; -1 is
the clean image), T t on flow matching's straight path, and 250 ln(1 + sigma / sigma_min) for EDM's networks, which are
told ln(sigma) / 4. Errors are compared in positions.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsnr.diffusers.config import PREDICTION_TYPES

NAMES = PREDICTION_TYPES | {"flow_prediction": "flow", "trigflow": "v"}
ANGLES = {"IPNDMScheduler": math.pi / 2, "SCMScheduler": 1.0}
"""Schedulers whose time steps are angles, in this unit; they predict v."""


class Unknown(ValueError):
    """A scheduler whose states are not x0 and Gaussian noise, or whose convention is not known here."""


class Levels:
    """What the time steps of a scheduler mean: t -> angle, angle -> position, and what the model predicts there."""

    def __init__(self, scheduler: Any) -> None:
        config, name = scheduler.config, type(scheduler).__name__
        self.unit = ANGLES.get(name, 1.0)
        self.prediction = NAMES.get(config.get("prediction_type", "epsilon"), "")
        self.T = int(config.get("num_train_timesteps", 1000))
        self.sigma_data, self.kind = float(config.get("sigma_data", 1.0)), "table"
        table = getattr(scheduler, "alphas_cumprod", None)
        if self.prediction == "flow" or (table is None and re.search("FlowMa|EulerAncestralRF", name)):
            self.kind, self.prediction = "flow", "flow"
        elif hasattr(scheduler, "precondition_outputs") or config.get("timestep_type") == "continuous":
            self.kind, self.sigma_min = "edm", float(config.sigma_min)
        elif name in ANGLES:
            self.kind, self.T, self.prediction = "angle", 1000, "v"
        elif table is None or not self.prediction:
            raise Unknown(f"{name} has no levels that are known here")
        if self.kind == "table":
            a = torch.as_tensor(table).detach().cpu().double()
            self.angle = torch.atan2((1 - a).clamp(min=0).sqrt(), a.clamp(min=0).sqrt()).numpy()
            self.angle[a.numpy() == 0] = math.pi / 2
            with np.errstate(divide="ignore"):
                self.log_sigma = np.log(np.sqrt(1 - a.numpy()) / np.sqrt(a.numpy())).clip(-100, 100)
            self.T = len(self.angle)
            self.own = getattr(scheduler, "angle_at", None)  # a scheduler that says what its fractions mean

    def told(self, t: float) -> float:
        """Angle of the level that the network is told by t."""
        if self.kind == "flow":
            return math.atan2(t / self.T, 1 - t / self.T)
        if self.kind == "edm":
            return math.atan2(math.exp(4 * t), self.sigma_data)
        if self.kind == "angle":
            return t * self.unit
        if not 0 <= t <= self.T - 1:
            return math.nan  # the table has no such step
        if self.own:
            return float(self.own(t))
        k = int(t)
        if k == t:
            return float(self.angle[k])
        return math.atan(math.exp(self.log_sigma[k] + (t - k) * (self.log_sigma[k + 1] - self.log_sigma[k])))

    def position(self, phi: float) -> float:
        """The level in training steps."""
        if math.isnan(phi):
            return math.nan
        sigma = math.tan(phi) if phi < math.pi / 2 else math.inf
        if self.kind == "flow":
            return self.T / (1 + 1 / sigma) if sigma else 0.0
        if self.kind == "edm":
            return 250 * math.log1p(sigma * self.sigma_data / self.sigma_min)
        if self.kind == "angle":
            return self.T * phi / (math.pi / 2)
        if phi <= self.angle[0]:
            return phi / float(self.angle[0]) - 1
        return float(np.interp(min(math.log(sigma), 100.0), self.log_sigma, np.arange(self.T)))

    def sigma(self, position: float) -> float:
        """The way back, for the clean image and the grid's low end."""
        if self.kind == "edm":
            return self.sigma_min * math.expm1(position / 250)
        if self.kind == "flow":
            return position / (self.T - position)
        if self.kind == "angle":
            return math.tan(position / self.T * math.pi / 2)
        if position < 0:
            return math.tan((position + 1) * float(self.angle[0]))
        return math.exp(float(np.interp(position, np.arange(self.T), self.log_sigma)))

    def rounded(self, top: float, at: float, want: float) -> bool:
        """Is a miss no more than float32, in which schedulers compute, makes of 80 - (80 - 0.0002)?

        Args:
            top: the largest sigma so far.
        """
        if self.kind == "flow" or not math.isfinite(at + want) or not top < 1e4:
            return False
        return abs(self.sigma(at) - self.sigma(want)) < 1e-6 * top

    def state(self, phi: float, factor: float) -> Tensor:
        """Coefficients (signal, noise) at a level, of the state that `factor` turns into the model's input."""
        c, s = (0.0, 1.0) if phi == math.pi / 2 else (math.cos(phi), math.sin(phi))
        if self.kind == "flow":
            c, s = c / (c + s), s / (c + s)
        elif self.kind == "edm":
            c = c / self.sigma_data  # the model's input has unit variance where x0 has sigma_data
        elif self.kind == "angle":
            c, s = c * self.sigma_data, s * self.sigma_data  # and here the noise has it too
        return torch.tensor([c, s], dtype=torch.float64) / factor

    def parts(self, x: Tensor) -> tuple[float, float]:
        """(signal, noise) of a state, in units of the data's std and of all noise together."""
        return x[0].item() * (self.sigma_data if self.kind == "edm" else 1.0), x[1:].norm().item()

    def measure(self, x: Tensor) -> tuple[float, float]:
        """(angle, size) of a model's input; size is 1 on the curve: a flow's signal + noise, else the norm."""
        signal, noise = self.parts(x)
        if not math.isfinite(signal + noise):
            return math.nan, math.nan
        if self.kind == "flow":
            return math.atan2(noise, signal), signal + noise
        return math.atan2(noise, signal), math.hypot(signal, noise) / (self.sigma_data if self.kind == "angle" else 1.0)

    def answer(self, x: Tensor) -> Tensor:
        """What a perfect model says of a state with these coefficients."""
        signal, noise = self.parts(x)
        x0, eps = torch.zeros_like(x), x / noise if noise else torch.zeros_like(x)
        x0[0], eps[0] = 1.0, 0.0
        if self.kind == "flow":
            return eps - x0
        if self.kind == "edm":  # F of D = c_skip x + c_out F
            sigma, data = noise / x[0].item(), self.sigma_data
            c_skip, c_out = data**2 / (sigma**2 + data**2), sigma * data / math.hypot(sigma, data)
            return (x0 - c_skip * x / x[0]) / (c_out if self.prediction == "eps" else -c_out)
        if self.prediction == "v":
            phi = math.atan2(noise, signal)
            size = self.sigma_data if self.kind == "angle" else 1.0
            return size * (math.cos(phi) * eps - math.sin(phi) * x0)
        return eps if self.prediction == "eps" else x0
