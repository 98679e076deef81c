r"""Starts in place of pure noise: x_T = cos(phi) m + sin(phi) eps, m the data's mean, a plain level or a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from lab.measure.draw import Start
from lab.models.data import Images
from zsnr.finetune.loop import generator
from zsnr.prediction import cos_sin


def picture_of(images: Images, seeds: Sequence[int], classes: Sequence[int]) -> Tensor:
    """(B, C, H, W): a picture for each seed, of the class that is asked for, on a backdrop of any level."""
    chosen = []
    for seed, label in zip(seeds, classes, strict=True):
        g = generator(6, seed)
        index = (images.label == label).nonzero()[:, 0]
        one = index[torch.randint(len(index), (1,), generator=g)]
        chosen.append(images.compose(one, 2 * torch.rand(1, generator=g) - 1))
    return torch.cat(chosen)


def start_at(kind: str, images: Images, mean: Tensor, low: float = -1.0, high: float = 1.0) -> Start:
    """The noised start of a kind.

    Args:
        kind: mean, of the data; level, a plain one between low and high; image, of the class that is asked for; edit,
            of the next class.
        mean: (C, H, W), of the data.
    """

    def start(noise: Tensor, seeds: range, generators: list[Generator], phi: float) -> Tensor:
        classes = [seed % len(images.classes) for seed in seeds]
        if kind == "mean":
            m = mean.float().view(1, *noise.shape[1:])
        elif kind == "level":
            shares = [torch.rand(1, generator=generator(6, seed)).item() for seed in seeds]
            m = (low + (high - low) * torch.tensor(shares)).view(-1, 1, 1, 1).expand(noise.shape)
        else:
            shift = 1 if kind == "edit" else 0
            m = picture_of(images, seeds, [(k + shift) % len(images.classes) for k in classes])
        c, s = cos_sin(phi)
        return c * m.to(noise) + s * noise

    return start
