"""What the stages train whose weights are not kept: shared by the stage that trains and the stage that measures.

Each plan is {name: (variant, recipe)}; the checkpoint of a name lies in a folder of that name, in the training stage's
scratch folder, so that the same call of `fit` trains in the one and finds what was trained in the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from lab.models.training import Draw, ScheduleRecipe, fit
from lab.models.variants import ABLATIONS, VARIANTS, Variant, find
from zsnr.finetune.checkpoint import History

AGAIN = "no finished training in scratch/: this machine trains it again"
"""The note of a stage that only measures."""
Plan = dict[str, tuple[str, ScheduleRecipe]]
SEEDS = (3, 1, 2)
"""Of the fine-tunings: of stage `finetune`, and of the first and second replica."""


def replicas(recipe: ScheduleRecipe, replica: int) -> Plan:
    """The fine-tunings again, from another seed."""
    recipe = dataclasses.replace(recipe, seed=SEEDS[replica])
    return {name: (name, of(kind, recipe)) for name, kind in VARIANTS.items() if name != "base"}


def of(kind: Variant, recipe: ScheduleRecipe) -> ScheduleRecipe:
    """The recipe for a variant."""
    own = {"prediction": kind.prediction, "loss": kind.loss, "offset_noise": kind.offset_noise}
    return dataclasses.replace(recipe, **own)  # type: ignore[arg-type]


def ablations(recipe: ScheduleRecipe, replica: int, losses: Sequence[str], few: int, lengths: Sequence[int]) -> Plan:
    """Each fix left out, shorter fine-tunings, and other loss weights on a few pictures.

    Args:
        few: pictures of the fine-tunings that compare losses.
        lengths: of the shorter ones.
    """
    recipe = dataclasses.replace(recipe, seed=SEEDS[replica])

    def shorter(n: int, loss: str = "") -> ScheduleRecipe:
        """The recipe for n pictures, with its ramp and its average in proportion."""
        scaled = {key: max(1, round(getattr(recipe, key) * (n / recipe.images))) for key in ("warmup", "ema_halflife")}
        return dataclasses.replace(recipe, images=n, loss=loss, **scaled)

    plan = {name: (name, of(kind, recipe)) for name, kind in ABLATIONS.items()}
    plan |= {f"length-{n}": ("zsnr", shorter(n)) for n in [*lengths, few]}
    return plan | {f"loss-{loss}": ("zsnr", shorter(few, loss)) for loss in losses}


def words(recipe: ScheduleRecipe) -> Plan:
    """The fixed model, trained on; its draw has a word for every picture."""
    return {"zsnr": ("zsnr", dataclasses.replace(of(find("zsnr"), recipe), seed=4))}


def train(
    start: nn.Module, draw: Draw, plan: Plan, name: str, scratch: Path, *, note: str = ""
) -> tuple[nn.Module, History]:
    """Train one of a plan, or load it where it was trained; `note` is printed where it was not."""
    variant, recipe = plan[name]
    return fit(start, draw, find(variant).schedule, recipe, scratch / name, note=note)
