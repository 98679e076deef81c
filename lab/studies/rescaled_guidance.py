r"""Finding 9, without a network: what guidance does to two exact predictions, and what rescaling restores.

    x_cfg = x_neg + w (x_pos - x_neg),    x_final = (phi std(x_pos) / std(x_cfg) + 1 - phi) x_cfg

(Lin et al. 2023, Eqs. 13 to 16, Algorithm 2.) Branches of equal std and correlation c give

    std(x_cfg) / std(x_pos) = sqrt(w^2 + (1 - w)^2 + 2 w (1 - w) c),

the amplification. How much the branches agree is the data's and the schedule's doing, so both are computed here by
exact denoisers (`lab.models.backdrop`): without a condition, and given a class, or a class and a word for the level.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy import stats
from torch import Generator, Tensor

from lab.measure import saturation
from lab.models import data
from lab.models.backdrop import UniformBackdrop
from lab.studies.progress import bar
from zsnr.denoisers import Denoiser, Empirical
from zsnr.guidance import guided, std
from zsnr.prediction import PREDICTIONS, cos_sin
from zsnr.schedule import stable_diffusion

W, PHI = 7.5, 0.7
"""The paper's guidance scale and rescaling strength."""
COS_T = stable_diffusion().sqrt_alpha_bar[-1].item()
"""cos(phi) at t = T of Stable Diffusion's schedule."""
SHARES = (1, 0.75, 0.5, 0.25, 0)
"""Of its alpha_bar_T, from the flawed schedule to zero SNR."""
NEIGHBOURS = tuple(pairwise(SHARES))
"""From each end to the next."""

Mean = tuple[float, tuple[float, float]]
"""A mean and its 95 % interval."""
At = dict[tuple[str, str], dict[str, Tensor]]
"""By condition and predicted quantity: one number a state of amplification, rescaled and saturated."""


def algorithm2(pos: Tensor, neg: Tensor, w: float, phi: float) -> Tensor:
    """Algorithm 2 as the paper prints it, line by line, of (B, C, H, W) predictions."""
    cfg = neg + w * (pos - neg)
    std_pos = pos.std([1, 2, 3], keepdim=True)
    std_cfg = cfg.std([1, 2, 3], keepdim=True)
    factor = phi * (std_pos / std_cfg) + (1 - phi)
    return cfg * factor


def correlated(correlations: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Two (K, 1, 32, 32) predictions of equal std whose K pictures have exactly these (K,) correlations."""
    raw = torch.randn(2, 1024, generator=generator, dtype=torch.float64)
    u, z = torch.linalg.qr((raw - raw.mean(1, keepdim=True)).T)[0].T  # orthonormal, of mean zero
    column = correlations[:, None]
    neg = column * u + (1 - column**2).sqrt() * z
    return u.repeat(len(column), 1).view(-1, 1, 32, 32), neg.view(-1, 1, 32, 32)


def finite_on_constants() -> float:
    """Share of cases with a finite guided prediction when both branches are constant, of std 0, which Algorithm 2
    as printed divides by."""
    one = torch.ones(2, 1, 8, 8, dtype=torch.float64)

    def branch(scale: float) -> Denoiser:
        return lambda x, phi: scale * torch.ones_like(x)

    cases = [
        guided(branch(a), branch(b), W, phi, space)(x, angle)
        for a, b in ((0.3, -0.1), (0.0, 0.0))
        for phi in (PHI, 1.0)
        for space in PREDICTIONS
        for x in (one, 0 * one)
        for angle in (0.5, math.pi / 2)
    ]
    return sum(x.isfinite().all().item() for x in cases) / len(cases)


def thresholded(x: Tensor, percentile: float = 0.995) -> Tensor:
    """Imagen's dynamic thresholding of x0 (Saharia et al. 2022, Sec. 2.3): clip to [-s, s], divide by s.

    s is that percentile of a picture's |x|, where it is above 1.
    """
    s = x.abs().flatten(1).quantile(percentile, dim=1).clamp(min=1).view(-1, 1, 1, 1)
    return x.clamp(-s, s) / s


def moved(x: Tensor) -> Tensor:
    """rms change of each picture by thresholding, over the picture's own rms."""
    return _rms(thresholded(x) - x) / _rms(x)


def rotated(x: Tensor, generator: Generator) -> Tensor:
    """The pictures in a random rotation of their pixels, scaled to std 1: a stand-in for a latent space."""
    n = x[0, 0].numel()
    rotation = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    latent = (x.flatten(2) @ rotation).view(x.shape)
    return latent / latent.std()


def _rms(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(1).sqrt()


def _in_space(v: Tensor, x: Tensor, phi: float, space: str) -> Tensor:
    """v as a prediction of another kind."""
    c, s = cos_sin(phi)
    return {"v": v, "x0": c * x - s * v, "eps": s * x + c * v}[space]


@dataclass(frozen=True)
class Branches:
    """Noised pictures of known class and word, and the exact denoisers of both branches.

    Args:
        without: the denoiser without a condition.
        given: by condition, one denoiser for each class and word.
        x0, eps: (2 n, C, H, W), the n pictures twice, and their noises with either sign, so that what is linear in the
            noise cancels.
        cell: (2 n,), the index of each picture's class and word.
        states: pictures of each class and word.
    """

    without: Denoiser
    given: dict[str, list[Denoiser]]
    x0: Tensor
    eps: Tensor
    cell: Tensor
    states: int

    @property
    def conditions(self) -> tuple[str, ...]:
        """class and, where a word means something, class and word."""
        return tuple(self.given)

    def predict(self, x: Tensor, phi: float) -> tuple[Tensor, dict[str, Tensor]]:
        """v without a condition, and v with each of the conditions."""
        answers = {name: torch.empty_like(x) for name in self.given}
        for name, denoisers in self.given.items():
            share = len(self.cell.unique()) // len(denoisers)  # a class's denoiser serves all its words
            for k, denoiser in enumerate(denoisers):
                mine = self.cell // share == k
                answers[name][mine] = denoiser(x[mine], phi)
        return self.without(x, phi), answers

    def at(self, cos_phi: float, noise_only: bool = False) -> At:
        """At an angle, of w = 7.5, a number a state (averaged over the noise's two signs):

        amplification: std(cfg) / std(pos) of that quantity;
        rescaled: std(guided x0) / std(pos x0), rescaled with phi = 1 in that quantity;
        saturated: share of the guided x0's values beyond the data's range.
        """
        phi = math.acos(cos_phi) if cos_phi else math.pi / 2
        c, s = cos_sin(phi)
        x = self.eps if noise_only else c * self.x0 + s * self.eps
        without, given = self.predict(x, phi)
        result: At = {}
        for condition, v in given.items():
            over = saturation.saturated(_in_space(without + W * (v - without), x, phi, "x0"))
            unit = std(_in_space(v, x, phi, "x0"))
            for space in PREDICTIONS:
                a, b = (_in_space(t, x, phi, space) for t in (v, without))
                turned = guided(_fixed(v), _fixed(without), W, 1.0, space)(x, phi)
                result[condition, space] = {
                    "amplification": _per_state((std(b + W * (a - b)) / std(a)).flatten()),
                    "rescaled": _per_state((std(_in_space(turned, x, phi, "x0")) / unit).flatten()),
                    "saturated": _per_state(over),
                }
        return result

    def along(self, cosines: Iterable[float]) -> list[At]:
        """The same at many angles."""
        return [self.at(c) for c in bar(list(cosines), "angles")]

    def curve(self, angles: int) -> tuple[np.ndarray, list[At]]:
        """The same along the way from image to noise: angles in units of pi, most of them at the noisy end."""
        grid = 0.5 - 0.48 * np.linspace(1, 0, angles) ** 2
        return grid, self.along(math.cos(a * math.pi) if a < 0.5 else 0.0 for a in grid)

    def terminal(self) -> dict[float, At]:
        """The same at t = T, of schedules that end at these SHARES of Stable Diffusion's alpha_bar_T."""
        return dict(zip(SHARES, self.along(math.sqrt(share) * COS_T for share in SHARES), strict=True))

    def guided_x0(self, condition: str) -> Tensor:
        """x0 predicted from plain noise at zero SNR, guided with w = 7.5."""
        without, given = self.predict(self.eps, math.pi / 2)
        return -(without + W * (given[condition] - without))

    def mean(self, values: Tensor) -> Mean:
        """Mean of one number a state, with its 95 % interval over pictures and noises.

        Classes and words are not drawn: all are there, and each has as many states.
        """
        groups = values.view(-1, self.states)
        error = math.sqrt(groups.var(1).mean().item() / values.numel())
        half = float(stats.t.ppf(0.975, len(groups) * (self.states - 1))) * error
        return values.mean().item(), (values.mean().item() - half, values.mean().item() + half)


def _fixed(v: Tensor) -> Denoiser:
    """The denoiser that answers v, whatever it is asked."""
    return lambda x, phi: v


def _per_state(values: Tensor) -> Tensor:
    """One number a picture, averaged over its noise and the noise's negative."""
    return values.view(2, -1).mean(0)


def branches(train: data.Images, foregrounds: int, states: int, generator: Generator) -> Branches:
    """Exact denoisers of `foregrounds` pictures of each class, and `states` noised pictures of each class and word.

    Images that fill the frame have no backdrop, so no word: their denoisers are those of the pictures themselves.
    """
    K, words = len(train.classes), len(data.WORDS)
    backdrops = not train.fills.all()

    def ideal(index: Tensor, low: float = -1.0, high: float = 1.0) -> Denoiser:
        if backdrops:
            return UniformBackdrop.of(train, index, low, high)
        return Empirical(train.compose(index, torch.zeros(len(index))))

    def some(label: int) -> Tensor:
        index = (train.label == label).nonzero()[:, 0]
        return index[torch.randperm(len(index), generator=generator)[:foregrounds]]

    own = [some(k) for k in range(K)]
    given = {"class": [ideal(index) for index in own]}
    if backdrops:
        fifths = [(-1 + 2 * i / words, -1 + 2 * (i + 1) / words) for i in range(words)]
        given["class and word"] = [ideal(index, *fifth) for index in own for fifth in fifths]
    kind = torch.arange(K).repeat_interleave(words * states)
    fifth = torch.arange(words).repeat_interleave(states).repeat(K)
    level = (2 * (fifth + torch.rand(len(kind), generator=generator)) / words - 1).float()
    picked = torch.stack([own[k][torch.randint(len(own[k]), (1,), generator=generator)[0]] for k in kind.tolist()])
    x0 = train.compose(picked, level).double()
    eps = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    cell = (kind * words + fifth).repeat(2)
    return Branches(ideal(torch.cat(own)), given, torch.cat([x0, x0]), torch.cat([eps, -eps]), cell, states)
