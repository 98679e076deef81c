"""Configurations A to F of EDM's Table 2, at our scale: hundreds of epochs on few digits.

Each rung keeps what the one before changed:

    A  VP as it was: its preconditioning, noise levels and weights, and hyperparameters in the ratio of Table 7
    B  hyperparameters: 4 times the batch, 5 times the learning rate, a longer ramp, no clipping, a shorter average, and
       dropout of 13 % in place of 10 %
    C  capacity: no third resolution, the first one wider
    D  EDM's preconditioning
    E  EDM's loss: p_train and lambda
    F  augmentation, with its labels

Of Table 2's other column, VE, there is C: from D on both are the same, and A and B would differ from C as VP's do.
Dataset flips, which Table 7 has in A to E, are left out everywhere: digits are not symmetric.

Source: Karras et al. 2022, Tables 2 and 7 (CIFAR-10).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lab.models import digits
from lab.models.edm_training import AugmentedUNet, EDMRecipe, fit, set_dropout
from zsnr.finetune.checkpoint import History

CONFIGS = ("A", "B", "C", "D", "E", "F")
PARTS = (9, 3)
"""Shorter trainings of D, E and F: parts of the pictures. With a constant rate, each is how a longer one begins."""
GROUP = 4
"""Channels of a group of the first GroupNorm: of one channel it would remove what the noise level's embedding adds."""


@dataclasses.dataclass(frozen=True)
class Rung:
    """One training.

    Args:
        config: A to F.
        column: vp or ve, whose preconditioning (before D) and loss (before E) it has.
        always: F with every transform always applied, for what the augmentation leaks.
        part: 3 for a third of the pictures.
    """

    config: str
    seed: int
    column: str = "vp"
    always: bool = False
    part: int = 1

    @property
    def columns(self) -> dict[str, Any]:
        """Of its row in the results."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return f"{self.config}-{self.column}{'-always' if self.always else ''}-{self.part}"


def rungs(seeds: Sequence[int]) -> list[Rung]:
    """Every training of the ladder."""
    found = []
    for seed in seeds:
        found += [Rung(config, seed) for config in CONFIGS]
        found += [Rung("C", seed, column="ve"), Rung("F", seed, always=True)]
        found += [Rung(config, seed, part=part) for config in "DEF" for part in PARTS]
    return found


def configuration(rung: Rung, recipe: EDMRecipe, width: int) -> tuple[EDMRecipe, AugmentedUNet]:
    """A rung's recipe, and its network at the start.

    Args:
        recipe: that of the last rung, F, with its images, batch, lr, warmup, ema_halflife and augment.
        width: channels at 4x4; twice as many at 2x2. A and B have half, one and two times as many at 4, 2 and 1.
    """
    if rung.config not in CONFIGS:
        raise ValueError(f"unknown configuration {rung.config!r} of EDM's Table 2; choose one of {', '.join(CONFIGS)}")
    level = CONFIGS.index(rung.config)
    changes: dict[str, Any] = {"seed": rung.seed, "images": recipe.images // rung.part}
    if rung.always:
        changes["augment"] = 1.0
    if level < CONFIGS.index("F"):
        changes["augment"] = 0.0
    if level < CONFIGS.index("E"):
        changes["loss"] = rung.column
    if level < CONFIGS.index("D"):
        changes["precondition"] = rung.column
    if level < CONFIGS.index("B"):
        changes |= {
            "batch": recipe.batch // 4,
            "lr": recipe.lr / 5,
            "warmup": round(recipe.warmup * 0.64 / 10),
            "ema_halflife": round(recipe.ema_halflife * 0.89 / 0.5),
            "clip": 1.0,
        }
    widths = (width // 2, width, 2 * width) if level < CONFIGS.index("C") else (width, 2 * width)
    torch.manual_seed(rung.seed)
    network = AugmentedUNet(widths, 1, digits.CLASSES, digits.WORDS, widths[0] // GROUP)
    set_dropout(network, 0.10 if rung.config == "A" else 0.13)
    return dataclasses.replace(recipe, **changes), network


def train(
    rung: Rung, recipe: EDMRecipe, width: int, pictures: digits.Digits, scratch: Path, note: str = ""
) -> tuple[AugmentedUNet, History]:
    """The rung's averaged network, and its history; its checkpoint lies in a folder of its own below scratch."""
    own, start = configuration(rung, recipe, width)
    place = scratch / str(rung.seed) / str(rung)
    trained, history = fit(start, pictures.draw, own, place, note=note, transform=pictures.augment)
    assert isinstance(trained, AugmentedUNet)
    return trained, history
