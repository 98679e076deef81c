"""Configurations A to F of EDM's Table 2, at our scale.

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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lab.models import data
from lab.models.edm_training import AugmentedUNet, EDMRecipe, set_dropout

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


def rungs(
    recipe: EDMRecipe, seeds: Sequence[int], width: int, channels: int, classes: int
) -> Iterator[tuple[str, int, bool, EDMRecipe, AugmentedUNet]]:
    """(configuration, seed, always, recipe, network at the start) of every training of the ladder.

    `always` is F once more, with every transform always applied, for what the augmentation leaks.
    """
    runs = [(name, seed, False) for seed in seeds for name in CONFIGS] + [("F", seeds[0], True)]
    for name, seed, always in runs:
        augment = 1.0 if always else recipe.augment
        start = dataclasses.replace(recipe, seed=seed, augment=augment)
        yield name, seed, always, *configuration(name, start, width, channels, classes)


def folder(scratch: Path, name: str, seed: int, always: bool) -> Path:
    """Where the checkpoint of a rung is."""
    return scratch / str(seed) / (f"{name}-always" if always else name)
