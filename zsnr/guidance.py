r"""Classifier-free guidance and its rescaling, in v, x0 or eps space: one denoiser, which every sampler takes.

    guided  = neg + w (pos - neg)                                                                       (Eq. 13)
    rescale = guided (phi std(pos) / std(guided) + 1 - phi),    std over a sample's own values    (Eqs. 14 to 16)

w is the guidance scale (1: none), phi the strength of the rescaling (0: none), positive and negative the denoisers with
and without the condition. Guidance itself is the same in every space, as x0 and eps are affine in v; its rescaling is
not. At zero SNR v = -x0, so both do the same there, and eps is the input itself, whose std does not change: rescaled in
eps space, v moves only by a multiple of the noise,

    v = guided + q eps,    q = (k - 1) / cos(phi),    k the factor above,

which `guided` computes without the division, finite at zero SNR (derived for this project).

Source: Lin et al. 2023, Sec. 3.4, Algorithm 2, which rescales what the network predicts; Ho & Salimans 2022.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zsnr.denoisers import Denoiser
from zsnr.prediction import check_prediction, cos_sin


def guided(
    positive: Denoiser, negative: Denoiser, scale: float = 7.5, rescale: float = 0.7, space: str = "v"
) -> Denoiser:
    """The guided denoiser (x, phi) -> v: two evaluations, or one where scale is 1.

    Args:
        positive, negative: denoisers with the condition, and with none (or with a negative prompt).
        scale: w.
        rescale: the strength phi of the rescaling, 0 to 1; the paper's choice is 0.7 at w = 7.5.
        space: what is rescaled: v, x0 or eps. The paper's is what the network predicts, v.
    """
    check_prediction(space)
    if not math.isfinite(scale):
        raise ValueError(f"scale = {scale}: give a finite guidance scale, such as 7.5, or 1 for no guidance")
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale = {rescale}: its strength lies in [0, 1]; 0 is none, 0.7 the paper's")
    if scale == 1:
        return positive

    def denoiser(x: Tensor, phi: float) -> Tensor:
        pos, neg = positive(x, phi), negative(x, phi)
        v = neg + scale * (pos - neg)
        if not rescale:
            return v
        c, s = cos_sin(phi)
        if space == "v":
            return v * factor(pos, v, rescale)
        if space == "x0":
            x0 = c * x - s * v
            return v - (factor(c * x - s * pos, x0, rescale, x) - 1) / s * x0
        return v + _eps_shift(x, pos, v, c, s, rescale) * (s * x + c * v)  # eps

    return denoiser


def rescaled(guided: Tensor, positive: Tensor, strength: float = 0.7) -> Tensor:
    """Algorithm 2 on tensors of any kind of prediction, (B, ...): as `guided` does it in its space."""
    return guided * factor(positive, guided, strength)


def factor(positive: Tensor, guided: Tensor, strength: float, x: Tensor | None = None) -> Tensor:
    """phi std(pos) / std(guided) + 1 - phi, of shape (B, 1, ...).

    1 where the guided prediction is constant up to rounding: it has no contrast that could be taken back. What was
    computed from x has the rounding of x.
    """
    top, bottom = std(positive), std(guided)
    size = _rms(guided) + _rms(positive) + (0.0 if x is None else _rms(x))
    flat = bottom <= 8 * torch.finfo(guided.dtype).eps * size
    return strength * torch.where(flat, 1.0, top / bottom.where(~flat, 1.0)) + 1 - strength


def std(x: Tensor) -> Tensor:
    """Standard deviation over all but the first dimension, (B, 1, ...)."""
    return _rms(x - _over_values(x))


def _over_values(x: Tensor) -> Tensor:
    return x.mean(dim=tuple(range(1, x.dim())), keepdim=True)


def _rms(x: Tensor) -> Tensor:
    return _over_values(x.square()).sqrt()


def _eps_shift(x: Tensor, pos: Tensor, v: Tensor, c: float, s: float, strength: float) -> Tensor:
    """(k - 1) / c for eps = s x + c v, from std(pos)^2 - std(v)^2, which has a factor c."""
    top, bottom = std(s * x + c * pos), std(s * x + c * v)
    covariance = _over_values((x - _over_values(x)) * (pos - v))
    difference = 2 * s * covariance + c * (std(pos) ** 2 - std(v) ** 2)
    whole = (top + bottom) * bottom
    flat = whole <= 64 * torch.finfo(x.dtype).eps * _over_values(x.square())
    return strength * torch.where(flat, 0.0, difference / whole.where(~flat, 1.0))
