r"""What a network predicts: eps, x0 or v, and the way from each to the others, exact at zero SNR.

    x_phi = cos(phi) x0 + sin(phi) eps
    v     = cos(phi) eps - sin(phi) x0 = d x_phi / d phi        (so v = -x0 at phi = pi/2)
    x0    = cos(phi) x_phi - sin(phi) v
    eps   = sin(phi) x_phi + cos(phi) v

Loss weights of the literature as one weight on the squared x0 error, over the angle.

    L = w(phi) |x0 - D|^2,    SNR = cot(phi)^2,    |x0 - D| = sin(phi) |v error| = tan(phi) |eps error|

| name           | w                            | at zero SNR | source                                         |
|----------------|------------------------------|-------------|------------------------------------------------|
| x0             | 1                            | 1           | plain x0 loss                                  |
| eps            | SNR                          | 0           | plain eps loss, Ho et al. 2020                 |
| v              | SNR + 1                      | 1           | plain v loss, Lin et al. 2023, lambda = 1      |
| F              | SNR + 1                      | 1           | Karras et al. 2022, lambda, at sigma_data = 1  |
| flow           | (sqrt(SNR) + 1)^2            | 1           | plain velocity loss on the straight path       |
| truncated      | max(SNR, 1)                  | 1           | Salimans & Ho 2022                             |
| min-snr-5      | min(SNR, 5)                  | 0           | Hang et al. 2023                               |
| soft-min-snr-5 | 5 SNR / (SNR + 5)            | 0           | Crowson et al. 2024                            |
| p2             | SNR / (SNR + 1)              | 0           | Choi et al. 2022, k = gamma = 1                |
| debiased       | sqrt(SNR)                    | 0           | Yu et al. 2024                                 |
| sigmoid        | SNR / (1 + exp(-2) SNR)      | 0           | Kingma & Gao 2023, bias 2                      |

Those that are 0 at zero SNR train every step but the one that zero SNR is about: the mean of the data, from which all
brightness comes. What the table leaves out is how often each level is drawn; EDM's p_train, for one, never goes there.

Source: Lin et al. 2023, Eqs. 11, 17, 19 (cos(phi) = sqrt(alpha_bar)); Salimans & Ho 2022, App. D.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from zsnr.schedule import Schedule

PREDICTIONS = ("eps", "x0", "v")
EPS_AT_ZERO_SNR = (
    "eps-prediction with zero terminal SNR: at T the input is eps itself and says nothing about x0 (x0 = 0/0). "
    "Use a model that predicts v or x0 (fine-tune it), or a schedule with terminal SNR above 0"
)


def cos_sin(phi: float) -> tuple[float, float]:
    """cos and sin of an angle in [0, pi/2], exactly 0 and 1 at pi/2, where float64's cos is 6e-17."""
    return (0.0, 1.0) if phi == math.pi / 2 else (math.cos(phi), math.sin(phi))


def check_prediction(prediction: str, schedule: Schedule | None = None) -> None:
    """Refuse, by a ValueError with the remedy, an unknown prediction type, and eps with a schedule of zero SNR at T."""
    if prediction not in PREDICTIONS:
        raise ValueError(f"unknown prediction {prediction!r}; choose one of {', '.join(PREDICTIONS)}")
    if prediction == "eps" and schedule is not None and schedule.zero_snr:
        raise ValueError(EPS_AT_ZERO_SNR)


def answer(output: Tensor, x: Tensor) -> Tensor:
    """An answer to x, in its dtype and on its device; float64 stays on the CPU. Another shape would be broadcast."""
    if output.shape != x.shape:
        raise ValueError(
            f"an answer of shape {tuple(output.shape)} to a state of shape {tuple(x.shape)}: give one of the state's "
            "shape (of channels that predict a variance, too, the first half)"
        )
    return (output.cpu() if x.is_cpu else output).to(x)


def check_finite(output: Tensor, where: str) -> Tensor:
    """What a network answered, or led to; NaN or inf in it is refused by a FloatingPointError."""
    if not math.isfinite(output.sum().item()) and not torch.isfinite(output).all():  # a sum is quick, but may overflow
        raise FloatingPointError(f"NaN or inf {where}: check weights and dtype (float16 ends at 65504: try bfloat16)")
    return output


def to_v(output: Tensor, x: Tensor, phi: float, prediction: str) -> Tensor:
    """v from a network's output.

    Args:
        output: what the network predicted, (B, ...).
        x: its input x_phi, (B, ...).
        phi: the angle of x, in radians.
        prediction: eps, x0 or v.

    Raises:
        ValueError: v is not determined: from eps at zero SNR, or from x0 at phi = 0; an output of another shape.
    """
    output = answer(output, x)
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
        return answer(output, x)
    c, s = cos_sin(phi)
    if prediction == "eps" and c > 0:  # shorter than through v, and exact at phi = 0
        return (x - s * answer(output, x)) / c
    return c * x - s * to_v(output, x, phi, prediction)


def to_eps(output: Tensor, x: Tensor, phi: float, prediction: str) -> Tensor:
    """eps from a network's output; the arguments and errors are those of `to_v`."""
    if prediction == "eps":
        return answer(output, x)
    c, s = cos_sin(phi)
    if prediction == "x0" and s > 0:
        return (x - c * answer(output, x)) / s
    return s * x + c * to_v(output, x, phi, prediction)


def target(prediction: str, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What the network should predict, with alpha = cos(phi), sigma = sin(phi) that broadcast to x0's shape."""
    check_prediction(prediction)
    if prediction == "v":
        return alpha * eps - sigma * x0
    return eps if prediction == "eps" else x0


X0_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "x0": torch.ones_like,
    "eps": lambda snr: snr,
    "v": lambda snr: snr + 1,
    "F": lambda snr: snr + 1,
    "flow": lambda snr: (snr.sqrt() + 1) ** 2,
    "truncated": lambda snr: snr.clamp(min=1),
    "min-snr-5": lambda snr: snr.clamp(max=5),
    "soft-min-snr-5": lambda snr: 5 * snr / (snr + 5),
    "p2": lambda snr: snr / (snr + 1),
    "debiased": torch.sqrt,
    "sigmoid": lambda snr: snr / (1 + snr / torch.e**2),
}


def check_loss(loss: str) -> None:
    """Refuse an unknown weight, with those there are."""
    if loss not in X0_WEIGHTS:
        raise ValueError(f"unknown loss {loss!r}; choose one of {', '.join(X0_WEIGHTS)}")


def loss_weight(loss: str, prediction: str, alpha: Tensor, sigma: Tensor) -> Tensor:
    """w with w |prediction error|^2 = the loss, at alpha = cos(phi), sigma = sin(phi).

    Raises:
        ValueError: unknown names, or an eps prediction where alpha is 0: its error says nothing about x0.
    """
    check_prediction(prediction)
    check_loss(loss)
    if loss == prediction:
        return torch.ones_like(sigma)
    if prediction == "eps" and (alpha == 0).any():
        raise ValueError("an eps error at zero SNR has no weight in x0: predict v or x0")
    if {loss, prediction} == {"v", "eps"}:  # without sigma, which may be 0
        return alpha**2 if loss == "eps" else alpha**-2
    unit = {"x0": torch.ones_like(sigma), "v": sigma, "eps": sigma / alpha}  # |x0 error| of a unit error of each
    if loss in unit:
        return (unit[prediction] / unit[loss]) ** 2
    return X0_WEIGHTS[loss]((alpha / sigma) ** 2) * unit[prediction] ** 2
