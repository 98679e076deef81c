r"""Loss weights of the literature as one weight on the squared x0 error, over the angle.

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
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zsnr.prediction import PREDICTIONS, check_prediction
from zsnr.prediction import loss_weight as between_variables

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


def x0_weight(loss: str, alpha: Tensor, sigma: Tensor) -> Tensor:
    """w of the table at alpha = cos(phi), sigma = sin(phi) > 0."""
    check_loss(loss)
    return X0_WEIGHTS[loss]((alpha / sigma) ** 2)


def loss_weight(loss: str, prediction: str, alpha: Tensor, sigma: Tensor) -> Tensor:
    """w with w |prediction error|^2 = the loss: what multiplies the squared error of x0, v or eps.

    Raises:
        ValueError: unknown names, or an eps prediction where alpha is 0: its error says nothing about x0.
    """
    check_prediction(prediction)
    if prediction == "eps" and loss != "eps" and (alpha == 0).any():
        raise ValueError("an eps error at zero SNR has no weight in x0: predict v or x0")
    if loss in PREDICTIONS:
        return between_variables(loss, prediction, alpha, sigma)
    unit = {"x0": torch.ones_like(sigma), "v": sigma, "eps": sigma / alpha}[prediction]
    return x0_weight(loss, alpha, sigma) * unit**2
