r"""What a network predicts: eps, x0 or v, and the way from each to the others, exact at zero SNR.

    x_phi = cos(phi) x0 + sin(phi) eps
    v     = cos(phi) eps - sin(phi) x0 = d x_phi / d phi        (so v = -x0 at phi = pi/2)
    x0    = cos(phi) x_phi - sin(phi) v
    eps   = sin(phi) x_phi + cos(phi) v

Source: Lin et al. 2023, Eqs. 11, 17, 19 (cos(phi) = sqrt(alpha_bar)); Salimans & Ho 2022, App. D.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zsnr.schedule import Schedule

PREDICTIONS = ("eps", "x0", "v")
DIFFUSERS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
"""What diffusers' configs call them."""
EPS_AT_ZERO_SNR = (
    "eps-prediction with zero terminal SNR: at T the input is eps itself and says nothing about x0 (x0 = 0/0). "
    "Use a model that predicts v or x0 (fine-tune it), or a schedule with terminal SNR above 0"
)


def cos_sin(phi: float) -> tuple[float, float]:
    """cos and sin of an angle in [0, pi/2], exactly 0 and 1 at pi/2, where float64's cos is 6e-17."""
    return (0.0, 1.0) if phi == math.pi / 2 else (math.cos(phi), math.sin(phi))


def check_prediction(prediction: str, schedule: Schedule | None = None) -> None:
    """Refuse an unknown prediction type, and eps with a schedule that ends in zero SNR.

    Raises:
        ValueError: with the remedy.
    """
    if prediction not in PREDICTIONS:
        raise ValueError(f"unknown prediction {prediction!r}; choose one of {', '.join(PREDICTIONS)}")
    if prediction == "eps" and schedule is not None and schedule.zero_snr:
        raise ValueError(EPS_AT_ZERO_SNR)


def to_v(output: Tensor, x: Tensor, phi: float, prediction: str) -> Tensor:
    """v from a network's output.

    Args:
        output: what the network predicted, (B, ...).
        x: its input x_phi, (B, ...).
        phi: the angle of x, in radians.
        prediction: eps, x0 or v.

    Raises:
        ValueError: v is not determined: from eps at zero SNR, or from x0 at phi = 0.
    """
    c, s = cos_sin(phi)
    if prediction == "v":
        return output
    if prediction == "eps":
        if c == 0:
            raise ValueError(EPS_AT_ZERO_SNR)
        return (output - s * x) / c
    check_prediction(prediction)
    if s == 0:
        raise ValueError("x0 at phi = 0 leaves eps, and so v, undetermined; end the sampling before, and take x0")
    return (c * x - output) / s


def to_x0(output: Tensor, x: Tensor, phi: float, prediction: str) -> Tensor:
    """x0 from a network's output; the arguments and errors are those of `to_v`."""
    if prediction == "x0":
        return output
    c, s = cos_sin(phi)
    if prediction == "eps" and c > 0:  # shorter than through v, and exact at phi = 0
        return (x - s * output) / c
    return c * x - s * to_v(output, x, phi, prediction)


def to_eps(output: Tensor, x: Tensor, phi: float, prediction: str) -> Tensor:
    """eps from a network's output; the arguments and errors are those of `to_v`."""
    if prediction == "eps":
        return output
    c, s = cos_sin(phi)
    if prediction == "x0" and s > 0:
        return (x - c * output) / s
    return s * x + c * to_v(output, x, phi, prediction)


def target(prediction: str, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What the network should predict, with alpha = cos(phi), sigma = sin(phi) that broadcast to x0's shape."""
    check_prediction(prediction)
    if prediction == "v":
        return alpha * eps - sigma * x0
    return eps if prediction == "eps" else x0


def loss_weight(loss: str, prediction: str, alpha: Tensor, sigma: Tensor) -> Tensor:
    r"""w with w |prediction error|^2 = |error in the loss's own variable|^2, alpha = cos(phi), sigma = sin(phi).

        |x0 error| = sigma |v error| = tan(phi) |eps error|

    So the plain v loss weighs the x0 error by 1 / sigma^2 = SNR + 1 and the plain eps loss weighs it by SNR
    (derived for this project from Eqs. 11 and 19).
    """
    check_prediction(loss)
    check_prediction(prediction)
    if loss == prediction:
        return torch.ones_like(sigma)
    if "x0" not in (loss, prediction):  # without sigma, which may be 0
        return alpha**2 if loss == "eps" else alpha**-2
    unit = {"x0": torch.ones_like(sigma), "v": sigma, "eps": sigma / alpha}  # |x0 error| of a unit error of each
    return (unit[prediction] / unit[loss]) ** 2
