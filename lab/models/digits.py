r"""Scikit-learn's digits, 8x8, for trainings of hundreds of epochs in a minute.

    y = (k + u - m) s,    k in {0 .. 16},    u ~ U[-1/2, 1/2] anew each time a picture is drawn

k is a digit's grey levels, m the mean picture and s the scale that makes the std 0.5, both of the training pictures and
u. So the mean is 0 in every pixel and sigma_data^2 = E y^2 is a variance. Rounding is undone by u: without it some
pixels are 0 in all pictures, and noise there could be told from the picture at any level.

Conditions are (B, 2) zeros: the network is told no class and no word. So EDM's loss of the best denoiser is 1 where the
noise hides all (D = 0), and goes to 1 where it is far below u.

Source: Alpaydin, Kaynak 1998 (UCI's Optical Recognition of Handwritten Digits, CC BY 4.0), the test set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Generator, Tensor, nn

from lab.models import augment
from zsnr.finetune.loop import generator

SIZE = 8
CLASSES, WORDS = 1, 0
"""Of the networks: one class, which is everyone's, and no word."""
TRAINED = 1_000
"""The first of a fixed permutation, as the set is sorted by writer; the other 797 are held out."""
SIGMA_DATA = 0.5


@dataclass(frozen=True)
class Digits:
    """A set of digits to draw from.

    Args:
        level: (N, 1, 8, 8) float32, grey levels 0 .. 16, from black.
        mean: (1, 8, 8), the picture that is subtracted.
        scale: of a grey level in y.
    """

    level: Tensor
    mean: Tensor
    scale: float

    def __len__(self) -> int:
        return len(self.level)

    def draw(self, n: int, g: Generator) -> tuple[Tensor, Tensor]:
        """n pictures with replacement, (n, 1, 8, 8), and their conditions, (n, 2) zeros."""
        return self._compose(self.level[torch.randint(len(self), (n,), generator=g)], g)

    def all(self, g: Generator) -> tuple[Tensor, Tensor]:
        """Every picture once, as `draw` gives them."""
        return self._compose(self.level, g)

    def augment(self, y: Tensor, g: Generator, probability: float) -> tuple[Tensor, Tensor]:
        """EDM's augmentation of the digits themselves, not of what is left when their mean is subtracted."""
        moved, labels = augment.augment(y / self.scale + self.mean, g, probability)
        return (moved - self.mean) * self.scale, labels

    def shown(self, y: Tensor) -> Tensor:
        """As pictures in [-1, 1], for figures."""
        return (y / self.scale + self.mean) / 8 - 1

    def _compose(self, level: Tensor, g: Generator) -> tuple[Tensor, Tensor]:
        u = torch.rand(level.shape, generator=g) - 0.5
        return (level + u - self.mean) * self.scale, torch.zeros(len(level), 2, dtype=torch.long)


class Pixels(nn.Flatten):
    """Features for a Frechet distance: the pixels themselves, whose covariance has full rank."""

    num_features = SIZE**2


def load() -> tuple[Digits, Digits]:
    """The digits to train on, and those held out."""
    level = torch.tensor(load_digits().images, dtype=torch.float32)[:, None]
    train, test = level[torch.randperm(len(level), generator=generator(8))].split([TRAINED, len(level) - TRAINED])
    mean = train.mean(0)
    scale = SIGMA_DATA / ((train - mean).square().mean().item() + 1 / 12) ** 0.5
    return Digits(train, mean, scale), Digits(test, mean, scale)


def both(train: Digits, test: Digits) -> Digits:
    """All pictures, for measures of what a sample lacks."""
    return Digits(torch.cat([train.level, test.level]), train.mean, train.scale)
