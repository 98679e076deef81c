r"""What fine-tuning Stable Diffusion needs, made on the spot where nothing can be downloaded: pictures and a VAE.

The pictures are garments on plain backdrops (`lab.models.data`), grey in RGB, and their captions say all that is known
of them: "a bag on black". The VAE is one of diffusers', of any size, trained a little on such pictures,

    L = |D(E(x)) - x|^2 + kl KL(q(z | x) || N(0, 1)),     both a mean over values

just long enough that latents carry the picture. What the leak of a flawed schedule does to the backdrop's level is
then predicted by the law of `zsnr.brightness` along one direction of latents, d = cov(z, level), with the level read
off the projection p = z d / |d| by a straight line. The law is for Gaussian data and many steps; the latents of one
prompt are only roughly Gaussian.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lab.models.data import WORDS, Images, level, word
from zsnr.brightness import predicted
from zsnr.finetune import loop
from zsnr.finetune.checkpoint import History
from zsnr.finetune.loop import generator
from zsnr.finetune.recipe import Recipe

VERSION = 1
"""Of what the VAE learns: raised when a training of the same recipe gives other weights than before."""


def caption(name: str, backdrop: str) -> str:
    """The prompt for one garment on one backdrop: a, class, on, word."""
    return f"a {name} on {backdrop}"


def prompts(classes: Sequence[str], backdrop: str, n: int) -> list[str]:
    """n prompts for one backdrop, the classes in turn."""
    return [caption(classes[i % len(classes)], backdrop) for i in range(n)]


def rgb(x: Tensor) -> Tensor:
    """(B, 3, H, W) from grey (B, 1, H, W); colour as it is."""
    return x.expand(-1, 3, -1, -1)


def export(images: Images, folder: str | Path, n: int, seed: int = 0) -> Path:
    """Write n captioned pictures as users have them: NNNNN.png and metadata.jsonl, lines of file_name and text.

    The same n and seed write the same bytes, and what is already there stays there.
    """
    if n < 1:
        raise ValueError(f"n = {n}: export at least 1 picture")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    x, conditions = images.draw(n, generator(seed, n), captioned=1.0)
    pixels = (rgb(x).permute(0, 2, 3, 1) * 127.5 + 127.5).round().to(torch.uint8).numpy()
    lines = []
    for i, (picture, (label, backdrop)) in enumerate(zip(pixels, conditions.tolist(), strict=True)):
        name = f"{i:05d}.png"
        Image.fromarray(picture).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": caption(images.classes[label], WORDS[backdrop])}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@dataclasses.dataclass(frozen=True)
class AutoencoderRecipe(Recipe):
    """lr rises over a twentieth of the training; the average's half-life is a twentieth of it."""

    def ramp(self, step: int) -> float:
        """The share of lr that is reached at a step, from 0."""
        return min(1.0, (step + 1) / max(1, self.steps // 20))

    def decay(self, step: int) -> float:
        """The decay of the averaged weights after so many steps."""
        return min(0.5 ** (20 / self.steps), step / (step + 10))


class _Coder(nn.Module):
    """(pictures, noise) -> (reconstruction from a drawn latent, KL a value): one forward, as DDP asks for."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        q = self.vae.encode(x).latent_dist
        return self.vae.decode(q.mean + q.std * eps).sample, q.kl().mean() / eps[0].numel()


def autoencoder(
    vae: Any,
    images: Images,
    scratch: str | Path,
    *,
    pictures: int,
    batch: int = 32,
    lr: float = 5e-3,
    kl: float = 1e-5,
    seed: int = 0,
) -> tuple[Any, History]:
    """A trained copy of a VAE, whose scaling_factor gives the latents of pictures unit std, and the loss on the way.

    Args:
        vae: diffusers' AutoencoderKL for RGB pictures of the images' size; left as it is.
        pictures: how many are seen, composed anew for each step.
        kl: weight of the prior's term.
        scratch: folder for checkpoints; an interrupted call goes on.
    """
    recipe = AutoencoderRecipe(images=pictures, batch=batch, lr=lr, seed=seed)
    recipe.check()
    with torch.no_grad():
        shape = latents(vae, rgb(images.compose(torch.tensor([0]), torch.zeros(1)))).shape[1:]

    def example(step: int) -> tuple[Tensor, Tensor]:
        g = generator(seed, step)
        x, _ = images.draw(batch, g)
        return rgb(x), torch.randn(batch, *shape, generator=g)

    def loss(network: nn.Module, x: Tensor, eps: Tensor) -> Tensor:
        reconstruction, divergence = network(x, eps)
        return (reconstruction - x).square().mean() + kl * divergence

    description = {"training": "a VAE", "version": VERSION, "recipe": dataclasses.asdict(recipe), "kl": kl}
    coder, history = loop.train(_Coder(vae), example, loss, recipe, scratch, description)
    trained: Any = coder.vae
    trained.requires_grad_(True)
    x, _ = images.draw(1000, generator(seed, recipe.steps))
    trained.register_to_config(scaling_factor=1.0)
    trained.register_to_config(scaling_factor=1 / latents(trained, rgb(x)).std().item())
    return trained, history


@torch.no_grad()
def latents(vae: Any, x: Tensor) -> Tensor:
    """(B, C, h, w), the latents of (B, 3, H, W) pictures as the UNet sees them: the mode, times scaling_factor."""
    return torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(256)]) * vae.config.scaling_factor


@torch.no_grad()
def decode(vae: Any, z: Tensor) -> Tensor:
    """The (B, 3, H, W) pictures of such latents, not clamped."""
    return torch.cat([vae.decode(part / vae.config.scaling_factor).sample for part in z.split(256)])


@dataclass(frozen=True)
class Direction:
    """The direction of latents along which the backdrop's level moves, and what the data do along it.

    Args:
        variance: Lambda, of all pictures.
        within: of the pictures of one prompt, a mean over prompts, by the index of the word.
        mean: of p over the pictures of each word.
        levels: mean level of the pictures of each word.
        slope: of the line from p to the level.
        correlation: of p and the level.
    """

    variance: float
    within: list[float]
    mean: list[float]
    levels: list[float]
    slope: float
    correlation: float

    def predicted(self, alpha_bar: float) -> list[float]:
        """The mean level of pictures drawn for each word, from pure noise taken for a state at alpha_bar."""
        out = []
        for v, m, c in zip(self.within, self.mean, self.levels, strict=True):
            out.append(c + self.slope * (predicted(alpha_bar, v, m)[0] - m))
        return out


def direction(z: Tensor, x: Tensor, label: Tensor) -> Direction:
    """Measure `Direction` from pictures and their latents.

    Args:
        z: (N, C, h, w) latents.
        x: (N, 3, H, W) pictures.
        label: (N,), their classes; with the word, the prompt.

    Raises:
        ValueError: a word has no pair of pictures with the same prompt, so that nothing is known of its spread.
    """
    c = level(x).double()
    flat = z.flatten(1).double()
    d = (flat - flat.mean(0)).T @ (c - c.mean())
    p = flat @ (d / d.norm())
    backdrop, within = word(c), []
    for k in range(len(WORDS)):
        groups = [p[(backdrop == k) & (label == one)] for one in label.unique()]
        spread = [g.var().item() for g in groups if len(g) > 1]
        if not spread:
            raise ValueError(f"too few of the {len(x)} pictures are on {WORDS[k]} to measure their spread: give more")
        within.append(float(np.mean(spread)))
    mean, levels = ([v[backdrop == k].mean().item() for k in range(len(WORDS))] for v in (p, c))
    return Direction(
        variance=p.var().item(),
        within=within,
        mean=mean,
        levels=levels,
        slope=torch.linalg.lstsq(torch.stack([p, torch.ones_like(p)], 1), c[:, None]).solution[0].item(),
        correlation=torch.corrcoef(torch.stack([p, c]))[0, 1].item(),
    )
