"""Finding 10 (Lin et al. 2023, Sec. 5.2): what denoisers predict from pure noise, and whether the noise is needed.

The state at an angle phi is cos(phi) x0 + sin(phi) r, and the prediction from it is D = cos(phi) x - sin(phi) v.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lab import ROOT
from lab.measure.sweep import jackknife
from lab.models import data, network
from lab.models.backdrop import UniformBackdrop
from lab.models.variants import find
from zsnr.denoisers import Denoiser, Empirical, Gaussian, NetworkDenoiser
from zsnr.finetune import loop
from zsnr.grids import grid
from zsnr.noise import generators, randn
from zsnr.prediction import cos_sin
from zsnr.samplers import ddim, ddpm

SCHEDULES = {"flawed": find("control").schedule, "fixed": find("zsnr").schedule}
GRIDS = {name: grid(schedule, 10, "trailing") for name, schedule in SCHEDULES.items()}
"""Figure 5's protocol: ten trailing steps, which start at T on both schedules."""
STEPS = range(1000, 0, -100)

Mean = tuple[float, tuple[float, float]]
"""A value and its 95 % interval."""


def predicted(denoiser: Denoiser, x: Tensor, phi: float) -> Tensor:
    """The predicted x0, D = cos(phi) x - sin(phi) v."""
    c, s = cos_sin(phi)
    return c * x - s * denoiser(x, phi)


def state(phi: float, x0: Tensor, r: Tensor) -> Tensor:
    """cos(phi) x0 + sin(phi) r."""
    c, s = cos_sin(phi)
    return c * x0 + s * r


def law(alpha_bar: float, L: float) -> float:
    """Std over noises of D along a direction of Gaussian data of variance L, from a known mean and pure noise.

    sqrt(alpha_bar) L / (alpha_bar L + 1 - alpha_bar)
    """
    return math.sqrt(alpha_bar) * L / (alpha_bar * L + 1 - alpha_bar)


def slope(schedule: str, t: int, L: float) -> float:
    """The same from the exact denoiser: D is affine in the noise, so its slope is its standard deviation."""
    unit = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    denoiser = Gaussian(torch.zeros(1), torch.tensor([L]))
    return predicted(denoiser, unit, SCHEDULES[schedule].angle[t - 1].item()).diff(dim=0).item()


def predictions(denoiser: Denoiser, x: Tensor, angles: Tensor) -> Tensor:
    """D at each step of DDIM, (steps, N, C, H, W)."""
    kept = []

    def keep(i: int, phi: float, x: Tensor, v: Tensor) -> None:
        c, s = cos_sin(phi)
        kept.append(c * x - s * v)

    ddim(denoiser, x, angles, callback=keep)
    return torch.stack(kept)


def rms(squares: Tensor) -> float:
    """Root of the mean."""
    return float(squares.mean()) ** 0.5


def T_over_second(spread: Callable[[Tensor], float], path: Tensor) -> Mean:
    """A spread of predictions (steps, N, ...) at T over that at the second step; the interval is over noises."""

    def ratio(d: Tensor) -> float:
        return spread(d[:, 0]) / spread(d[:, 1])

    pairs = path[:2].transpose(0, 1)
    return ratio(pairs), jackknife(ratio, pairs)


def over_second(changes: list[Tensor]) -> Mean:
    """The change at T over that at the second step, from the squared changes (N,) of each."""
    return T_over_second(rms, torch.stack(changes[:2]))


@dataclass(frozen=True)
class Case:
    """One class of the data, its exact denoiser, the trained networks, and the noises that all of them see.

    Args:
        results, source: folders below the root.
        label: the class; the last one where there are fewer.
        noises: how many.
        exact: how many pictures of the class the exact denoiser knows.
    """

    results: str
    source: str
    label: int
    noises: int
    exact: int

    @cached_property
    def train(self) -> data.Images:
        return data.load(ROOT / self.source, "train")

    @cached_property
    def test(self) -> data.Images:
        return data.load(ROOT / self.source, "test")

    @cached_property
    def k(self) -> int:
        return min(self.label, len(self.train.classes) - 1)

    @cached_property
    def chosen(self) -> Tensor:
        """The training pictures of the class, by index."""
        return (self.train.label == self.k).nonzero()[:, 0]

    @property
    def has_backdrop(self) -> bool:
        return not bool(self.train.fills.all())

    @cached_property
    def known(self) -> Tensor:
        """The pictures of the class that the exact denoiser knows, by index."""
        return self.chosen[torch.randperm(len(self.chosen), generator=loop.generator(10, 0))[: self.exact]]

    @cached_property
    def garments(self) -> Tensor:
        """The same pictures, on a backdrop of level 0."""
        return self.train.compose(self.known, torch.zeros(len(self.known)))

    @cached_property
    def ideal(self) -> Denoiser:
        """The best denoiser of these pictures, on uniform backdrops where they have one."""
        if self.has_backdrop:
            return UniformBackdrop.of(self.train, self.known)
        return Empirical(self.garments)

    @cached_property
    def own(self) -> dict[str, float]:
        """The class's std a pixel (root mean square over pixels) and std of the level, on uniform backdrops."""
        garment = self.train.compose(self.chosen, torch.zeros(len(self.chosen))).double()
        backdrop = self.train.backdrop(self.chosen).double()
        variance = garment.var(0, correction=0) + backdrop.square().mean(0) / 3  # Var(level) = 1/3
        level = data.level(garment).var() + data.level(backdrop).square().mean() / 3
        return {"pixel": variance.mean().sqrt().item(), "level": level.sqrt().item()}

    @property
    def backdrop(self) -> float:
        """Pixels of backdrop a picture of the class, on average."""
        return self.train.pixels(self.chosen)

    def noise(self, n: int | None = None, first: int = 0) -> Tensor:
        """The noises of n seeds from `first` on."""
        n = n or self.noises
        return randn((n, *self.garments.shape[1:]), generators(range(first, first + n)))

    def class_mean(self, k: int, level: float = 0.0) -> Tensor:
        """E[x0 | class k], on a backdrop of that mean level."""
        index = (self.train.label == k).nonzero()[:, 0]
        return self.train.compose(index, torch.full((len(index),), level)).double().mean(0)

    def trained(self, variant: str, conditions: Tensor | None = None) -> NetworkDenoiser:
        """The variant's network under (B, 2) conditions; without them, told the class and no word."""
        if conditions is None:
            conditions = torch.tensor([[self.k, len(data.WORDS)]]).expand(self.noises, 2)
        path = "zsnr/train" if variant == "base" else f"zsnr/finetune/{variant}"
        model, _ = network.load(ROOT / self.results / path / "weights.safetensors")
        kind = find(variant)
        return NetworkDenoiser(model.eval(), kind.schedule, kind.prediction, class_labels=conditions)

    def paths(self) -> dict[str, Tensor]:
        """D at each of the ten steps, by model, from the same noises."""
        noise = self.noise()
        models: dict[str, tuple[Denoiser, str, Tensor]] = {
            "exact, flawed": (self.ideal, "flawed", noise.double()),
            "exact, zero SNR": (self.ideal, "fixed", noise.double()),
            "base, flawed": (self.trained("base"), "flawed", noise),
            "control, flawed": (self.trained("control"), "flawed", noise),
            "trained, zero SNR": (self.trained("zsnr"), "fixed", noise),
        }
        return {name: predictions(model, x, GRIDS[schedule]) for name, (model, schedule, x) in models.items()}

    def pixel(self, d: Tensor) -> float:
        """Std of predictions over noises, root mean square over pixels, relative to the data's."""
        return d.var(0).mean().sqrt().item() / self.own["pixel"]

    def level(self, d: Tensor) -> float:
        """Std of their level over noises, relative to the data's."""
        return data.level(d).std().item() / self.own["level"]

    def spreads(self) -> dict[str, Callable[[Tensor], float]]:
        """Both."""
        return {"pixel": self.pixel, "level": self.level}

    def asked(self) -> tuple[list[tuple[int, int]], list[str], Tensor]:
        """Conditions: each class without a word, and the one class with each word; their names, their true means."""
        silent = len(data.WORDS)
        pairs = [(k, silent) for k in range(len(self.train.classes))]
        pairs += [(self.k, w) for w in range(silent)] if self.has_backdrop else []
        names = [self.train.classes[k] if w == silent else data.WORDS[w] for k, w in pairs]
        return pairs, names, torch.stack([self.class_mean(k, (w - 2) * 0.4 if w < silent else 0.0) for k, w in pairs])

    def first(self, variant: str, repeats: int) -> Tensor:
        """D at T for each condition from the same noises, (conditions, repeats, C, H, W)."""
        pairs, _, _ = self.asked()
        noise = self.noise(repeats)
        phi = find(variant).schedule.angle[-1].item()
        denoiser = self.trained(variant, torch.tensor(pairs).repeat_interleave(repeats, 0))
        d = predicted(denoiser, noise.repeat(len(pairs), 1, 1, 1), phi)
        return d.double().view(len(pairs), repeats, *noise.shape[1:])

    def replacements(self) -> dict[str, Tensor]:
        """What takes the noise's place at one evaluation."""
        noise, another = self.noise(), self.noise(first=self.noises)
        uniform = 2 * torch.rand(noise.shape, generator=loop.generator(10, 1)) - 1
        return {
            "zeros": torch.zeros_like(noise),
            "other noise": another,
            "uniform noise": math.sqrt(3) * uniform,  # of variance 1
            "noise of std 2": 2 * another,
            "a real picture": self.test.draw(self.noises, loop.generator(10, 2))[0],
        }

    def change(self, a: Tensor, b: Tensor) -> Tensor:
        """(N,) mean squared change of each picture, relative to the data's variance a pixel."""
        return (a - b).double().square().flatten(1).mean(1) / self.own["pixel"] ** 2

    def changes(self, denoiser: Denoiser, dtype: torch.dtype) -> tuple[Mapping[str, list[Tensor]], Tensor]:
        """By replacement: the change of D at T, of D at the second step, and of the picture; and under other noise.

        The picture is that of DDIM where only the first evaluation saw the replacement.
        """
        angles, noise = GRIDS["fixed"], self.noise().to(dtype)
        T, second = angles[:2].tolist()
        x0 = predicted(denoiser, noise, T)
        then = predicted(denoiser, state(second, x0, noise), second)
        picture = ddim(denoiser, noise, angles)
        found: dict[str, list[Tensor]] = {}
        for name, r in self.replacements().items():
            own_x0 = predicted(denoiser, r.to(dtype), T)
            later = predicted(denoiser, state(second, x0, r.to(dtype)), second)
            final = ddim(denoiser, state(second, own_x0, noise), angles[1:])
            found[name] = [self.change(own_x0, x0), self.change(later, then), self.change(final, picture)]
        other = ddim(denoiser, self.replacements()["other noise"].to(dtype), angles)
        return found, self.change(other, picture)

    def unused(self) -> float:
        """Largest change of a pixel of the exact denoiser's DDPM for another x_T, all later noises being the same."""
        seeds = range(1000, 1000 + self.noises)
        starts = self.noise().double(), (3 * self.noise(first=self.noises)).double()
        one, other = (ddpm(self.ideal, x, GRIDS["fixed"], generators=generators(seeds)) for x in starts)
        return (one - other).abs().max().item()
