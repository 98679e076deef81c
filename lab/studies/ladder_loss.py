"""Finding 7: EDM's loss by noise level, at the start and after training (Karras et al. 2022, Sec. 5, Figure 5a).

A network whose output layer starts from 0 gives F = 0 and D = c_skip x. Its expected loss is

    lambda [(1 - c_skip)^2 E y^2 + c_skip^2 sigma^2],

which is 1 at every sigma with EDM's weight (configuration E), and sigma_data^2 / (sigma^2 + sigma_data^2) with EDM's
preconditioning and lambda = 1/sigma^2 (D). What training can reach is compared with the best linear denoiser.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from lab.models import digits, ladder
from lab.models.augment import LABELS
from lab.models.edm_training import AugmentedUNet, EDMRecipe, loss_curve, objective
from zsnr import edm
from zsnr.finetune.loop import generator

SEED = 7
FALL = 0.1
"""The paper prints no number: a tenth below 1 stands for "dropped"."""


class Zero(nn.Module):
    """What a network with an output layer of zeros computes."""

    def forward(self, x: Tensor, c_noise: Tensor, class_labels: Tensor) -> Tensor:
        return torch.zeros_like(x)


def configured(name: str) -> tuple[EDMRecipe, AugmentedUNet]:
    """Recipe and network of a configuration, small and untrained."""
    return ladder.configuration(ladder.Rung(name, 0), EDMRecipe(sigma_data=digits.SIGMA_DATA), 16)


@torch.no_grad()
def largest_output(name: str, pictures: digits.Digits, sigmas: np.ndarray) -> float:
    """Largest |F| of the untrained network of a configuration, over pictures and noise levels."""
    y, labels = pictures.draw(8, generator(SEED, 0))
    recipe, network = configured(name)
    c_in, c_noise = recipe.column("edm").precondition(torch.tensor(sigmas))[2:]
    network.eval()
    answers = [network(i.float() * y, c.float().expand(len(y)), labels) for i, c in zip(c_in, c_noise, strict=True)]
    return max(f.abs().max().item() for f in answers)


def at_start(pictures: digits.Digits, n: int, sigmas: np.ndarray) -> tuple[Tensor, dict[str, list[float]]]:
    """Losses of F = 0 on n pictures: E's (levels, n) by `loss_curve`, and the objectives of D and E, averaged."""
    y, conditions = pictures.draw(n, generator(SEED, 1))
    eps = torch.randn(y.shape, generator=generator(SEED, 2))
    recipes = {name: configured(name)[0] for name in ("D", "E")}
    zero = edm.Preconditioned(Zero(), recipes["E"].column("edm"))
    curve = loss_curve(zero, y, eps, sigmas.tolist(), digits.SIGMA_DATA, class_labels=conditions)
    none, levels = torch.zeros(n, LABELS), [torch.full((n,), sigma, dtype=torch.float64) for sigma in sigmas]
    means = {
        name: [objective(Zero(), y, level, eps, conditions, none, recipe).item() for level in levels]
        for name, recipe in recipes.items()
    }
    return curve, means


def intervals(curve: Tensor) -> list[tuple[float, float]]:
    """95 % interval of the mean of a (levels, n) loss, at each level."""
    mean, error = curve.mean(1), curve.std(1) / math.sqrt(curve.shape[1])
    return [(m - 1.96 * e, m + 1.96 * e) for m, e in zip(mean.tolist(), error.tolist(), strict=True)]


def farthest(curve: Tensor) -> tuple[float, tuple[float, float]]:
    """The mean that is farthest from 1 of a (levels, n) loss; its interval allows for the choice (Bonferroni)."""
    level = int((curve.mean(1) - 1).abs().argmax())
    mean, error = curve[level].mean().item(), curve[level].std().item() / math.sqrt(curve.shape[1])
    half = float(stats.norm.ppf(1 - 0.025 / len(curve))) * error
    return mean, (mean - half, mean + half)


def p_train(sigma: np.ndarray, mean: float = -1.2, std: float = 1.2) -> np.ndarray:
    """Density of ln sigma in EDM's training, a normal distribution (Table 1)."""
    return stats.norm.pdf(np.log(sigma), mean, std)


def linear_loss(spectrum: np.ndarray, sigma: np.ndarray, sigma_data: float) -> np.ndarray:
    r"""EDM's loss of the best linear denoiser, for data of variances lambda_k about a known mean.

    L(sigma) = mean_k [lambda_k sigma^2 / (lambda_k + sigma^2)] (sigma^2 + sigma_data^2) / (sigma sigma_data)^2
    """
    square = np.asarray(sigma)[:, None] ** 2
    best = spectrum * square / (spectrum + square)
    return best.mean(1) * ((square + sigma_data**2) / (square * sigma_data**2))[:, 0]


def power_law(sigma_data: float, size: int = 32) -> np.ndarray:
    """(size^2,) variances that fall with the frequency f as 1/f^2, as in photographs, of mean sigma_data^2."""
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(size, 1 / size)] * 2))
    law = 1 / np.maximum(frequency, 1).ravel() ** 2
    return law * sigma_data**2 / law.mean()


@dataclass(frozen=True)
class Data:
    """What is known of the pictures.

    Args:
        spectrum: (64,) variances lambda_k of the training pictures, about their mean, which is 0.
        limit: loss of the average training picture on held-out ones: the best answer where the noise hides all else.
    """

    spectrum: np.ndarray
    limit: float


def describe(train: digits.Digits, test: digits.Digits) -> Data:
    """The held-out pictures are those of the stage's curves."""
    flat = train.all(generator(SEED, 3))[0].flatten(1).double()
    spectrum = torch.linalg.eigvalsh(flat.T.cov()).numpy()
    limit = test.all(generator(2, 3))[0].square().mean().item() / digits.SIGMA_DATA**2
    return Data(spectrum, limit)


def dropped(sigmas: np.ndarray, loss: np.ndarray) -> tuple[float, float, float]:
    """Lowest and highest sigma where the loss is below 1 by `FALL`, and the share of p_train that lies there."""
    fine = np.geomspace(sigmas[0], sigmas[-1], 200)
    inside = np.interp(np.log(fine), np.log(sigmas), loss) < 1 - FALL
    share = float(np.trapezoid(np.where(inside, p_train(fine), 0), np.log(fine)))
    return (fine[inside][0], fine[inside][-1], share) if inside.any() else (math.nan, math.nan, share)
