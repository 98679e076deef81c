r"""Small networks on data whose exact denoiser is known: a two-dimensional mixture of Gaussians, and one of digits.

    p(y) = sum_k w_k N(y; m_k, C_k),   D(x; sigma) = E[y | x] in closed form: `lab.models.mixture.Mixture`

Both laws have mean 0 and a mean square of sigma_data^2. As samples are drawn from the law itself, there is no training
set to remember, and every distance is one to the law that was learnt. Samples are shaped as pictures are, so that
`lab.models.edm_training` trains on them.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from lab.models.edm_training import EDMRecipe
from lab.models.mixture import Mixture
from zsnr.denoisers import Gaussian
from zsnr.prediction import cos_sin

SIGMA_DATA = 0.5
TRAININGS = {"original": "vp", "edm": "edm"}
"""How a network is trained: the column of EDM's Table 1 for its preconditioning, noise levels and loss weights."""


def log_density(mixture: Mixture, x: Tensor, phi: float = 0.0) -> Tensor:
    """(B,) log p(x_phi), float64; D = (x_phi + sin(phi)^2 grad log p) / cos(phi)."""
    c, s = cos_sin(phi)
    logs = []
    for component, weight in zip(mixture.components, mixture.weights, strict=True):
        residual = (x - c * component.mean.to(x)).flatten(1).double()
        residual = residual if component.basis is None else residual @ component.basis
        variance = (c * c * component.variance + s * s).flatten()
        logs.append(weight.log() - (residual**2 / variance + (2 * math.pi * variance).log()).sum(1) / 2)
    return torch.stack(logs, 1).logsumexp(1)


@dataclass(frozen=True)
class Law:
    """A data set of known law.

    Args:
        exact: its denoiser.
        shape: of a sample, (1, height, width).
    """

    exact: Mixture
    shape: tuple[int, int, int]

    def draw(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """n samples, float32, and the conditions that `lab.models.edm_training` expects: all 0, there are none."""
        which = torch.multinomial(self.exact.weights, n, replacement=True, generator=generator)
        y = torch.randn(n, *self.shape, generator=generator)
        for k, component in enumerate(self.exact.components):  # each noise is coloured once, by its own component
            y[which == k] = component.sample(y[which == k])
        return y, torch.zeros(n, dtype=torch.long)


def law(weights: Tensor, means: Tensor, covariances: Tensor, shape: tuple[int, int, int]) -> Law:
    """The mixture of these (K, d) means and (K, d, d) covariances, with its mean moved to 0 and scaled."""
    weights, means, covariances = weights.double(), means.double(), covariances.double()
    centred = means - weights @ means
    square = weights @ (centred.square().sum(1) + covariances.diagonal(dim1=1, dim2=2).sum(1)) / means.shape[1]
    scale = SIGMA_DATA / square.sqrt()
    parts = [Gaussian(scale * m.view(shape), scale**2 * C) for m, C in zip(centred, covariances, strict=True)]
    return Law(Mixture(parts, weights), shape)


def ring(components: int = 8, along: float = 0.2, across: float = 0.06) -> Law:
    """Two dimensions: Gaussians along an ellipse of axes 2 : 1, the last one three times as likely as the first."""
    angle = 2 * math.pi * torch.arange(components, dtype=torch.float64) / components
    means = torch.stack([angle.cos(), angle.sin() / 2], 1)
    tangent = nn.functional.normalize(torch.stack([-angle.sin(), angle.cos() / 2], 1))
    outer = tangent[:, :, None] * tangent[:, None]
    covariances = across**2 * torch.eye(2) + (along**2 - across**2) * outer
    weights = torch.linspace(1, 3, components, dtype=torch.float64)
    return law(weights / weights.sum(), means, covariances, (1, 1, 2))


def digits(components: int = 20) -> Law:
    """64 dimensions: a mixture of full covariance, fitted to scikit-learn's 1797 digits of 8x8 pixels."""
    from sklearn.datasets import load_digits  # a second, and most of who import this draw no digits
    from sklearn.mixture import GaussianMixture

    pixels = load_digits().data / 8 - 1
    fitted = GaussianMixture(components, reg_covar=0.01, random_state=0).fit(pixels)
    w, m, C = (torch.from_numpy(a) for a in (fitted.weights_, fitted.means_, fitted.covariances_))
    return law(w, m, (C + C.mT) / 2, (1, 8, 8))


LAWS = {"ring": ring, "digits": digits}


class MLP(nn.Module):
    """F of `zsnr.edm.Preconditioned`: three hidden layers of SiLU; c_noise by DDPM's sines and cosines."""

    def __init__(self, shape: tuple[int, int, int], width: int = 128, frequencies: int = 32) -> None:
        super().__init__()
        size = math.prod(shape)
        self.frequencies = nn.Buffer(10_000.0 ** -(torch.arange(frequencies) / frequencies), persistent=False)
        self.embed = nn.Linear(2 * frequencies, width)
        self.first = nn.Linear(size, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.last = nn.Linear(width, size)
        nn.init.zeros_(self.last.weight), nn.init.zeros_(self.last.bias)  # starts as D = c_skip x, as EDM's networks

    def forward(self, x: Tensor, c_noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """(B, ...) -> the same shape; there are no classes."""
        angle = c_noise.to(x)[:, None] * self.frequencies
        h = nn.functional.silu(self.first(x.flatten(1)) + self.embed(torch.cat([angle.sin(), angle.cos()], 1)))
        for layer in self.hidden:
            h = nn.functional.silu(layer(h))
        out: Tensor = self.last(h)
        return out.view_as(x)


def start(name: str, recipe: EDMRecipe, shape: tuple[int, int, int], width: int) -> tuple[EDMRecipe, MLP]:
    """The recipe of a training by its name in TRAININGS, and its network at the start, the same for both."""
    torch.manual_seed(recipe.seed)
    column = TRAININGS[name]
    return dataclasses.replace(recipe, precondition=column, loss=column, sigma_data=SIGMA_DATA), MLP(shape, width)
