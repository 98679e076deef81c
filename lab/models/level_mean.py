r"""What training aims at in place of x0: its mean over the backdrop's level, of which x_phi says how likely each is.

    x0 = a + c b,    c ~ U[low, high],    x_phi = cos(phi) x0 + sin(phi) eps
    c | x_phi, a, b  ~  N(c + tan(phi) b.eps / |b|^2, tan(phi)^2 / |b|^2), cut off at low and high
    E[x0 | x_phi, a, b] = x0 + (E[c | x_phi, a, b] - c) b

A network learns E[x0 | x_phi], the mean of E[x0 | x_phi, a, b] as it is of x0: the loss has the same minimum. But where
the noise hides the level, a single x0 says little of where that minimum is, and its mean says much. It is the reference
batch of Xu, Tong, Jaakkola 2023 (Stable Target Field), with the integral over all levels as the batch.
"""

from __future__ import annotations

from torch import Tensor

from lab.models import data
from lab.models.backdrop import truncated_normal


def level_mean(
    x0: Tensor, eps: Tensor, alpha: Tensor, backdrop: Tensor, word: Tensor, offset_noise: float = 0.0
) -> Tensor:
    """E[x0 | x_phi, a, b] of every picture, in float32; x0 itself where no backdrop shows.

    Args:
        x0, eps: (B, C, H, W), pictures and noise.
        alpha: (B,), cos(phi); 0 is zero SNR.
        backdrop: (B, 1, H, W), b, the share that the backdrop has in each pixel.
        word: (B,), the caption word for the level, an index of `data.WORDS`; the one after the last leaves all levels.
        offset_noise: strength of the one value that eps has in all pixels of a channel, beside iid noise.
    """
    low, high = (bound.double() for bound in data.bounds(word))
    middle, half = (low + high) / 2, (high - low) / 2
    b, noise, c = backdrop.double().expand_as(x0), eps.double(), data.level(x0).double()
    # by the noise's inverse covariance, (I + strength^2 1 1^T)^-1
    known = offset_noise**2 / (1 + offset_noise**2 * x0[0, 0].numel())
    whitened = b - known * b.sum((2, 3), keepdim=True)
    n = (whitened * b).sum((1, 2, 3))
    alpha, n = alpha.double().clamp(min=1e-12), n.where(n > 0, 1)  # no backdrop, no level: all that follows is times 0
    tan = (1 - alpha**2).sqrt() / alpha
    mu = c + tan * (whitened * noise).sum((1, 2, 3)) / n
    unit, _ = truncated_normal((mu - middle) / half, tan * n.rsqrt() / half)
    mean = (middle + half * unit).where(tan < 1e5, middle)
    return (x0 + (mean - c).view(-1, 1, 1, 1) * b).float()
