r"""What guidance does to a known truth: small shapes on a backdrop of uniform level, asked for as "a black disc".

The data are discs, squares and crosses (`shapes`) on backdrops of level U[-1, 1], with a texture, noise of std 0.05;
the condition is the shape and the word "black", U[-1, -0.6]. All denoisers are exact (`lab.models.backdrop`), and
so are those of models with a known flaw, for which the word is vaguer and the texture coarser (`Model`). Data with
noise of std tau at sigma are the data at hypot(sigma, tau), and both have one score, (D - x) / sigma^2:

    E[x0 + tau n | x] = (tau^2 x + sigma^2 D(x; hypot(sigma, tau))) / (sigma^2 + tau^2),   x = x0 + tau n + sigma eps

Derived for this project.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.measure import saturation
from lab.models import data
from lab.models.backdrop import UniformBackdrop
from zsnr.denoisers import Denoiser
from zsnr.guidance import guided
from zsnr.prediction import cos_sin, to_x0
from zsnr.samplers import heun

SIZE = 16
SHAPES = ("disc", "square", "cross")
BLACK = (-1.0, -0.6)
"""Levels of the word: the lowest fifth of [-1, 1]."""
TEXTURE = 0.05


def shapes() -> tuple[Tensor, Tensor, Tensor]:
    """(27, 1, 16, 16) foregrounds of value 0.5 on backdrops of 0, their masks, and the kinds: 9 places of each."""
    places = [(x, y) for x in (6.5, 7.5, 8.5) for y in (6.5, 7.5, 8.5)]
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    masks = []
    for kind in SHAPES:
        for x, y in places:
            dx, dy = (column - x).abs(), (row - y).abs()
            cross = torch.minimum(dx, dy) < 1
            inside = {"disc": dx**2 + dy**2 < 14, "square": torch.maximum(dx, dy) < 3, "cross": cross}
            masks.append(inside[kind] & (torch.maximum(dx, dy) < 4))
    mask = torch.stack(masks)[:, None]
    return 0.5 * mask.double(), mask, torch.arange(len(SHAPES)).repeat_interleave(len(places))


def noisy(denoiser: Denoiser, tau: float) -> Denoiser:
    """The denoiser of the same data with Gaussian noise of std tau on them."""

    def with_noise(x: Tensor, phi: float) -> Tensor:
        c, s = cos_sin(phi)
        psi, state = math.atan2(math.hypot(s, c * tau), c), x / math.hypot(1, c * tau)
        x0 = (c * tau**2 * x + s**2 * to_x0(denoiser(state, psi), state, psi, "v")) / (s**2 + c**2 * tau**2)
        return (c * x - x0) / s

    return with_noise


@dataclass(frozen=True)
class Model:
    """A model of the shapes with a flaw: 0 is exact, 1 takes levels for 0.2 wider at each end, and texture for 0.2."""

    flaw: float = 0.0

    def denoiser(self, kind: int | None = None, low: float = -1.0, high: float = 1.0) -> Denoiser:
        """Of a kind of shape (None: of all) on backdrops from low to high."""
        foreground, mask, label = shapes()
        mine = torch.ones_like(label, dtype=torch.bool) if kind is None else label == kind
        wider, tau = 0.2 * self.flaw, TEXTURE + 0.15 * self.flaw
        return noisy(UniformBackdrop(foreground[mine], ~mask[mine], low - wider, high + wider), tau)


Method = Callable[[Denoiser, Denoiser, Denoiser, float], Denoiser]
METHODS: dict[str, Method] = {
    "CFG": lambda given, without, worse, w: guided(given, without, w, 0.0),
    "rescaled CFG, 0.7": lambda given, without, worse, w: guided(given, without, w, 0.7),
    "CFG in (0.3, 3]": lambda given, without, worse, w: guided(given, without, w, 0.0, interval=(0.3, 3.0)),
    "APG": lambda given, without, worse, w: guided(given, without, w, 0.0, eta=0.0, r=2.5),
    "autoguidance": lambda given, without, worse, w: guided(given, worse, w, 0.0),
}
"""By name: a function of (denoiser with the condition, without it, of a worse model with it, w)."""


def asked(flaw: float, worse: float, method: str, w: float, kind: int = 0) -> Denoiser:
    """The denoiser of a method at w, asked for a black shape.

    Args:
        flaw, worse: of the model, with and without the condition, and of the worse one, which only autoguidance asks.
    """
    model = Model(flaw)
    return METHODS[method](model.denoiser(kind, *BLACK), model.denoiser(), Model(worse).denoiser(kind, *BLACK), w)


def noises(repeats: int, each: int, generator: torch.Generator) -> Tensor:
    """(repeats * each, 1, 16, 16) normal noise, whose means within a repeat are the normal law's quantiles.

    The backdrop's level follows the noise's mean, so its law is seen in a few pictures.
    """
    x = torch.randn(repeats, each, 1, SIZE, SIZE, generator=generator, dtype=torch.float64)
    quantiles = torch.special.ndtri((torch.arange(each, dtype=torch.float64) + 0.5) / each) / SIZE
    return (x - x.mean((2, 3, 4), keepdim=True) + quantiles.view(-1, 1, 1, 1)).flatten(0, 1)


def drawn(x: Tensor, kind: int = 0) -> Tensor:
    """As many real black pictures of the kind as there are noises, from the noises' means and values."""
    foreground, mask, label = shapes()
    place = torch.arange(len(x)) % int((label == kind).sum())
    level = BLACK[0] + (BLACK[1] - BLACK[0]) * torch.special.ndtr(x.mean((1, 2, 3), keepdim=True) * SIZE)
    picture = foreground[label == kind][place] + level * ~mask[label == kind][place]
    return picture + TEXTURE * (x - x.mean((1, 2, 3), keepdim=True))


def off(x: Tensor, kind: int) -> Tensor:
    """(B,) rms distance to the nearest picture that was asked for: any place, any level of the word."""
    foreground, mask, label = shapes()
    away = []
    for picture, m in zip(foreground[label == kind], mask[label == kind], strict=True):
        backdrop = (~m).to(x)
        level = ((x * backdrop).sum((1, 2, 3)) / backdrop.sum()).clamp(*BLACK)
        away.append((x - picture.to(x) - level.view(-1, 1, 1, 1) * backdrop).square().mean((1, 2, 3)))
    return torch.stack(away).min(0).values.sqrt()


def measures(x: Tensor, repeats: int, kind: int = 0) -> dict[str, list[float]]:
    """By repeat: shift of the level's mean, its std over the word's, share of values out of range, mean of `off`."""
    middle, std = sum(BLACK) / 2, (BLACK[1] - BLACK[0]) / math.sqrt(12)
    level = data.level(x).view(repeats, -1)
    return {
        "shift": (level.mean(1) - middle).tolist(),
        "spread": (level.std(1, unbiased=False) / std).tolist(),
        "saturated": saturation.saturated(x).view(repeats, -1).mean(1).tolist(),
        "off": off(x, kind).view(repeats, -1).mean(1).tolist(),
    }


def sweep(
    flaw: float, worse: float, scales: Sequence[float], x: Tensor, grid: Tensor, repeats: int
) -> dict[str, dict[float, dict[str, list[float]]]]:
    """{method: {w: `measures` of Heun's pictures from the noises x}}; w = 1, which is no guidance, is among them."""
    alone = measures(heun(asked(flaw, worse, "CFG", 1.0), x, grid), repeats)
    return {
        method: {1.0: alone}
        | {w: measures(heun(asked(flaw, worse, method, w), x, grid), repeats) for w in scales if w != 1}
        for method in METHODS
    }
