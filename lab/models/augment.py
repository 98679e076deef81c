r"""EDM's augmentation: training pictures are transformed at random, and the network is told how (Karras et al. 2022).

    x-flip       Scale(1 - 2 a0, 1)                a0 ~ U{0, 1}        always    label a0
    y-flip       Scale(1, 1 - 2 a1)                a1 ~ U{0, 1}        A_prob    a1
    scaling      Scale(A_scale^a2)                 a2 ~ N(0, 1)        A_prob    a2
    rotation     Rotate(-a3)                       a3 ~ U(-pi, pi)     A_prob    cos a3 - 1, sin a3
    anisotropy   Rotate(a4) S Rotate(-a4),         a4 ~ U(-pi, pi),    A_prob    a5 cos a4, a5 sin a4
                 S = Scale(A_aniso^a5, A_aniso^-a5)    a5 ~ N(0, 1)
    translation  by (A_trans a6, A_trans a7)       a6, a7 ~ N(0, 1)    A_prob    a6, a7

Top to bottom (App. F.2, Table 6), from the picture's centre, x to the right and y downwards: a positive a3 turns
anticlockwise to the eye. A translation is in widths and heights. The labels of a transform that is not applied, with
probability 1 - A_prob, are 0. Nine zeros are an untouched picture: with them, sampling asks for no augmentation.
The paper's labels do not tell (a4, a5) from (a4 + pi, -a5), a stretch from a squeeze; they are kept as printed.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Generator, Tensor
from torch.nn.functional import grid_sample

LABELS = 9


def augment(
    x: Tensor,
    generator: Generator,
    probability: float = 0.12,
    *,
    A_scale: float = 2**0.2,
    A_aniso: float = 2**0.2,
    A_trans: float = 1 / 8,
) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) pictures -> the transformed pictures and their (B, 9) conditioning labels.

    Args:
        generator: on the CPU. Every picture takes the same 13 numbers from it, in order, whatever happens to it.
        probability: A_prob; the paper has 0.12 for CIFAR-10, 0.15 for FFHQ and AFHQv2.
        A_scale, A_aniso, A_trans: how strong a scaling, anisotropy and translation of one standard deviation are.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} of shape {tuple(x.shape)}: give floating-point pictures, (B, C, H, W)")
    if not 0 <= probability <= 1:
        raise ValueError(f"probability = {probability}: must be in [0, 1]")
    if not (A_scale > 0 and A_aniso > 0 and math.isfinite(A_scale + A_aniso + A_trans)):
        raise ValueError(f"{A_scale = }, {A_aniso = }, {A_trans = }: must be finite, and the first two above 0")
    # not torch.randn, whose last numbers depend on how many there are; 1 - u is never 0
    u = torch.rand(len(x), 13, dtype=torch.float64, generator=generator)
    a0, a1 = (u[:, :2] < 0.5).unbind(1)
    apply = u[:, 2:7] < probability
    a3, a4 = (math.pi * (2 * u[:, 7:9] - 1)).unbind(1)
    radius, angle = (-2 * torch.log1p(-u[:, 9:11])).sqrt(), 2 * math.pi * u[:, 11:]
    a2, a5, a6, a7 = torch.cat([radius * angle.cos(), radius * angle.sin()], 1).unbind(1)

    a1 = a1 & apply[:, 0]
    a2, a3, a5 = a2 * apply[:, 1], a3 * apply[:, 2], a5 * apply[:, 3]
    a67 = torch.stack([a6, a7], 1) * apply[:, 4:]
    labels = torch.stack([a0, a1, a2, a3.cos() - 1, a3.sin(), a5 * a4.cos(), a5 * a4.sin(), *a67.unbind(1)], 1)

    # flips come first, so that they can be exact; the rest is one resampling, of the pictures that need it
    for a, dim in ((a0, -1), (a1, -2)):
        x = torch.where(a.to(x.device)[:, None, None, None], x.flip(dim), x)
    if (moved := apply[:, 1:].any(1)).any():
        linear = _linear(a2, a3, a4, a5, A_scale, A_aniso)
        shift = A_trans * a67 * torch.tensor([x.shape[3], x.shape[2]])
        x[moved] = warp(x[moved], linear[moved], shift[moved])
    return x, labels.to(x)


def warp(x: Tensor, linear: Tensor, shift: Tensor) -> Tensor:
    """(B, C, H, W) pictures, the content at p moved to linear p + shift, reflected where it ends.

    A picture is read as the cosine series through its pixels, which is reflected about its edges: bilinearly, from a
    grid 6 times as fine, at 2 x 2 points a pixel; of the result, the terms that pixels can hold are kept. The paper,
    too, supersamples by 2, with a wavelet's filter. 6 is an odd multiple of 2, so that quarter turns are exact.

    Args:
        linear, shift: (B, 2, 2) and (B, 2) float64; pixels from the centre, x to the right and y downwards.
    """
    size = torch.tensor([x.shape[3], x.shape[2]], dtype=torch.float64)
    # for each output point, where to read, in grid_sample's units: -1 and 1 are the picture's edges
    inverse = torch.linalg.inv(linear) * size / size[:, None]
    origin = -inverse @ (2 * shift / size)[..., None]
    across, down = (torch.arange(1 - n, n, 2, dtype=torch.float64) / n for n in (2 * size).int().tolist())
    work = x.to(torch.promote_types(x.dtype, torch.float32))
    row = (inverse[:, :, :1] * across).mT.to(work)
    column = (inverse[:, :, 1:] * down + origin).mT.to(work)
    points = row[:, None] + column[:, :, None]  # as affine_grid does, in a third of its time

    fine = _finer(x.shape[2], 6).to(work) @ work @ _finer(x.shape[3], 6).to(work).T
    twice = grid_sample(fine, points, "bilinear", "reflection", align_corners=False)
    return (_finer(x.shape[2], 2).to(work).T @ twice @ _finer(x.shape[3], 2).to(work) / 4).to(x)


def _linear(a2: Tensor, a3: Tensor, a4: Tensor, a5: Tensor, A_scale: float, A_aniso: float) -> Tensor:
    """(B, 2, 2): scaling, rotation and anisotropy, in this order."""
    stretch = torch.diag_embed(torch.stack([A_aniso**a5, A_aniso**-a5], 1))
    return _rotate(a4) @ stretch @ _rotate(-a4) @ _rotate(-a3) * (A_scale**a2)[:, None, None]


def _rotate(a: Tensor) -> Tensor:
    return torch.stack([a.cos(), -a.sin(), a.sin(), a.cos()], 1).view(-1, 2, 2)


@functools.cache
def _finer(n: int, k: int) -> Tensor:
    """(k n, n): from n samples of a cosine series of n terms to k n samples; over k, its transpose is the way back."""
    order = torch.arange(n, dtype=torch.float64)
    terms = [torch.cos(math.pi * (torch.arange(m, dtype=torch.float64) + 0.5)[:, None] * order / m) for m in (k * n, n)]
    return 2 / n * terms[0] @ torch.diag(torch.where(order == 0, 0.5, 1.0).double()) @ terms[1].T
