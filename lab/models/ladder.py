"""Configurations A to F of EDM's Table 2, at our scale, and the pictures that a preconditioned network draws.

Each rung keeps what the one before changed:

    A  VP as it was: its preconditioning, noise levels and weights, and hyperparameters in the ratio of Table 7
    B  hyperparameters: 4 times the batch, 5 times the learning rate, a longer ramp, no clipping, a shorter average, and
       dropout of 13 % in place of 10 %
    C  capacity: no third resolution, the first one wider
    D  EDM's preconditioning
    E  EDM's loss: p_train and lambda
    F  augmentation, with its labels

Dataset flips, which Table 7 has in A to E, are left out everywhere: Fashion-MNIST is not symmetric.

Source: Karras et al. 2022, Tables 2 and 7 (CIFAR-10).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lab.models import data
from lab.models.edm_training import AugmentedUNet, EDMRecipe, set_dropout
from zsnr import edm
from zsnr.noise import generators, randn

CONFIGS = ("A", "B", "C", "D", "E", "F")


def configuration(
    name: str, recipe: EDMRecipe, width: int, channels: int, classes: int
) -> tuple[EDMRecipe, AugmentedUNet]:
    """One rung: its recipe, and its network at the start.

    Args:
        name: A to F.
        recipe: that of the last rung, F, with its batch, lr, warmup, ema_halflife and augment.
        width: channels at 16x16; twice as many at 8x8. A and B have half, one and two times as many at 16, 8 and 4.
    """
    if name not in CONFIGS:
        raise ValueError(f"unknown configuration {name!r} of EDM's Table 2; choose one of {', '.join(CONFIGS)}")
    level = CONFIGS.index(name)
    changes: dict[str, Any] = {}
    if level < CONFIGS.index("F"):
        changes["augment"] = 0.0
    if level < CONFIGS.index("E"):
        changes["loss"] = "vp"
    if level < CONFIGS.index("D"):
        changes["precondition"] = "vp"
    if level < CONFIGS.index("B"):
        changes |= {
            "batch": recipe.batch // 4,
            "lr": recipe.lr / 5,
            "warmup": round(recipe.warmup * 0.64 / 10),
            "ema_halflife": round(recipe.ema_halflife * 0.89 / 0.5),
            "clip": 1.0,
        }
    widths = (width // 2, width, 2 * width) if level < CONFIGS.index("C") else (width, 2 * width)
    torch.manual_seed(recipe.seed)
    network = AugmentedUNet(widths, channels, classes, len(data.WORDS))
    set_dropout(network, 0.10 if name == "A" else 0.13)
    return dataclasses.replace(recipe, **changes), network


def draw(
    network: edm.Preconditioned,
    sampler: Callable[..., Tensor],
    grid: Tensor,
    n: int,
    precision: str,
    first_seed: int = 0,
    title: str = "",
    **options: Any,
) -> Tensor:
    """n pictures, (n, C, 32, 32), from the noises of seeds first_seed, first_seed + 1, ...; the classes in turn.

    Args:
        network: is moved to the device and left there.
        sampler: one of the samplers, which gets `options` as well, and a generator a sample.
        precision: float32, or bf16 for autocast to bfloat16. The GPU is used where there is one.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device).eval()
    config: dict[str, int] = network.network.config  # type: ignore[assignment]
    classes, words, channels = (config[k] for k in ("classes", "words", "channels"))
    size = 1000 if device == "cuda" else 64  # larger batches leave a CPU's cache, and are slower
    pictures = []
    batches = [range(k, min(k + size, first_seed + n)) for k in range(first_seed, first_seed + n, size)]
    for seeds in tqdm(batches, title, file=sys.stderr, disable=not sys.stderr.isatty()):
        conditions = torch.tensor([[seed % classes, words] for seed in seeds], device=device)
        denoiser = edm.EDMDenoiser(network, class_labels=conditions)
        own = generators(seeds)
        noise = randn((len(seeds), channels, data.SIZE, data.SIZE), own, device=device)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            fresh = {"generators": own} if getattr(getattr(sampler, "func", sampler), "stochastic", False) else {}
            pictures.append(sampler(denoiser, noise, grid, **fresh, **options).float().cpu())
    return torch.cat(pictures)
