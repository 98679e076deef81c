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

from zsnr.audit.errors import AuditError, positive, training_steps
from zsnr.diffusers.config import PREDICTION_TYPES
from zsnr.prediction import cos_sin

NAMES = PREDICTION_TYPES | {"flow_prediction": "flow", "trigflow": "v"}
ANGLES = {"IPNDMScheduler": math.pi / 2, "SCMScheduler": 1.0}
"""Schedulers whose time steps are angles, in this unit; they predict v."""


class Levels:
    """A convention: time step -> angle -> position, the states at a level, and what a perfect model predicts for them.

    A state is a vector of coefficients: of the picture, then of each noise. What stands here is right for
    x = cos(phi) x0 + sin(phi) eps, told by its angle.
    """

    step, sigma_data = 1.0, 1.0
    p, scale, unit = 2, 1.0, 1.0  # a state's norm is the p-norm, and scale; the data's std in it is unit
    last_angle = math.pi / 2  # the noisiest level of the training
    first_step, last_step = -math.inf, math.inf  # the range of the time steps
    falls = 1  # -1 where time steps rise from noise to image
    final_angles: tuple[float, ...] = (0.0,)  # where sampling may end
    scales_input = True  # scale_model_input makes the model's input of a state
    scales_start = True  # init_noise_sigma is the size of the first state

    def __init__(self, config: Any, prediction: str) -> None:
        self.prediction, self.T = prediction, training_steps(config)

    def angle_of(self, step: float) -> float:
        """Angle of the level that the network is told by a time step; nan where there is none."""
        return step * self.step

    def position(self, phi: float) -> float:
        """The level in training steps."""
        return self.T * phi / (math.pi / 2)

    def sigma(self, phi: float) -> float:
        """The noise's std where the picture's is sigma_data; inf at zero SNR."""
        return math.inf if phi >= math.pi / 2 else math.tan(phi) * self.sigma_data

    def state(self, phi: float) -> tuple[float, float]:
        """(signal, noise) of the model's input at a level."""
        c, s = cos_sin(phi)
        norm = math.hypot(c, s) if self.p == 2 else c + s
        return c * self.scale / norm / self.unit, s * self.scale / norm

    def measure(self, x: Tensor) -> tuple[float, float]:
        """(angle, size) of a model's input; the size is 1 on the curve."""
        signal, noise = x[0].item() * self.unit, x[1:].norm().item()
        if not math.isfinite(signal + noise):
            return math.nan, math.nan
        return math.atan2(noise, signal), (math.hypot(signal, noise) if self.p == 2 else signal + noise) / self.scale

    def output(self, x: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        """What a perfect model predicts for a state of this picture and this noise, of norm 1."""
        if self.prediction != "v":
            return eps if self.prediction == "eps" else x0
        phi, _ = self.measure(x)
        return self.scale * (math.cos(phi) * eps - math.sin(phi) * x0)


class Table(Levels):
    """Steps 0 .. T - 1 of a table of alpha_bar, which must be numbers in [0, 1] with only the last of them 0."""

    first_step = 0

    def __init__(self, scheduler: Any, prediction: str) -> None:
        super().__init__(scheduler.config, prediction)
        for name, pure in (("betas", 1), ("alphas_cumprod", 0)):
            values = torch.as_tensor(getattr(scheduler, name, ())).detach().cpu().double()
            values = values if values.ndim == 1 else values.reshape(-1)[:0]
            wrong = ~((values >= 0) & (values <= 1))
            wrong[:-1] |= values[:-1] == pure
            if wrong.any():
                k = int(wrong.nonzero()[0])
                must = f"must be a number in [0, 1], and only the last may be {pure}"
                raise AuditError(f"an impossible table: {name}[{k}] = {values[k]:g}, but it {must}; correct the betas")
        a = values
        self.angle_at = getattr(scheduler, "angle_at", None)  # a scheduler that says what its fractions mean
        if len(a) != self.T and not self.angle_at:
            what = f"the table has {len(a)} entries, but num_train_timesteps = {self.T}"
            raise AuditError(f"cannot be judged: {what}; make them equal")
        if a[-1] == 1:
            raise AuditError("an impossible table: all of its betas are 0, so there is no noise; correct the betas")
        self.angle = torch.atan2((1 - a).sqrt(), a.sqrt()).numpy()
        self.log_sigma = (((1 - a) / a).log() / 2).clamp(-100, 100).numpy()
        self.T, self.last_step, self.last_angle = len(a), len(a) - 1, float(self.angle[-1])
        self.final_angles = (0.0, float(self.angle[0]))  # it may end on the clean image, or on the first level
        self.steps = np.arange(self.T)

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
            return phi / float(self.angle[0]) - 1 if self.angle[0] else phi - 1
        return float(np.interp(min(math.log(self.sigma(phi)), 100.0), self.log_sigma, self.steps))


class Flow(Levels):
    """Flow matching's straight path, x = (1 - t) x0 + t eps at time step T t; the velocity eps - x0 is predicted.

    Under `invert_sigmas`, as in Mochi, time runs from 0, noise, to 1, the image, and the velocity is x0 - eps.
    """

    p, scales_input = 1, False

    def __init__(self, config: Any, prediction: str) -> None:
        super().__init__(config, prediction)
        self.falls = -1 if config.get("invert_sigmas") else 1

    def angle_of(self, step: float) -> float:
        t = step / self.T if self.falls > 0 else 1 - step / self.T
        return math.atan2(t, 1 - t)

    def position(self, phi: float) -> float:
        sigma = self.sigma(phi)
        return self.T / (1 + 1 / sigma) if sigma else 0.0

    def output(self, x: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        return self.falls * (eps - x0)


class LogSigma(Levels):
    """ln(sigma) / 4, as EDM's networks are told; their input has unit variance where x0 has sigma_data.

    Those of Stable Audio are told 2 atan(sigma) / pi instead (`cosine`).
    """

    def __init__(self, config: Any, prediction: str, cosine: bool = False) -> None:
        super().__init__(config, prediction)
        self.cosine = cosine
        self.sigma_min, sigma_max = positive(config, "sigma_min"), positive(config, "sigma_max")
        self.sigma_data = self.unit = positive(config, "sigma_data", 1.0)
        self.last_angle = math.atan(sigma_max / self.sigma_data)
        if config.get("final_sigmas_type") == "sigma_min":
            self.final_angles = (math.atan(self.sigma_min / self.sigma_data),)

    def angle_of(self, step: float) -> float:
        return math.atan2(math.tan(step * math.pi / 2) if self.cosine else math.exp(4 * step), self.sigma_data)

    def position(self, phi: float) -> float:
        return 250 * math.log1p(self.sigma(phi) / self.sigma_min)

    def output(self, x: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
        """F of D = c_skip x + c_out F."""
        sigma, data = x[1:].norm().item() / x[0].item(), self.sigma_data
        c_skip, c_out = data**2 / (sigma**2 + data**2), sigma * data / math.hypot(sigma, data)
        return (x0 - c_skip * x / x[0]) / (c_out if self.prediction == "eps" else -c_out)


class Angle(Levels):
    """Time steps that are angles in a unit; v is predicted, and the noise has sigma_data, as x0 has."""

    scales_start = False

    def __init__(self, config: Any, step: float) -> None:
        super().__init__(config, "v")
        self.step = step
        self.scale = self.sigma_data = positive(config, "sigma_data", 1.0)


def levels(scheduler: Any) -> Levels:
    """The convention of a diffusers scheduler.

    Raises:
        AuditError: it is none of the four, or says what cannot be.
    """
    config, name = scheduler.config, type(scheduler).__name__
    prediction = NAMES.get(str(config.get("prediction_type", "epsilon")), "")
    table = getattr(scheduler, "alphas_cumprod", None)
    if prediction == "flow" or (table is None and re.search("FlowMa|EulerAncestralRF", name)):
        return Flow(config, "flow")
    if hasattr(scheduler, "precondition_outputs") or config.get("timestep_type") == "continuous":
        return LogSigma(config, prediction, "Cosine" in name)
    if name in ANGLES:
        return Angle(config, ANGLES[name])
    if table is None or not prediction:
        what = "is no scheduler of images and Gaussian noise whose levels are known here"
        raise AuditError(
            f"{name} cannot be judged: it {what}, with prediction_type = {config.get('prediction_type')!r}"
        )
    return Table(scheduler, prediction)
