r"""Training and fine-tuning on a schedule's steps: the recipe and its objective.

    L = E_t E_eps  lambda_t |target - F(x_t, t)|^2,    target = v, eps or x0    (Lin et al. 2023, Eq. 12, lambda = 1)

Offset noise (Sec. 5.1) adds strength * delta to eps, one delta ~ N(0, 1) a picture and channel. Where the draw tells
the backdrop, the target is that of x0's mean over the backdrop's levels (`lab.models.level_mean`): the same minimum,
with less noise.

The loop, which a kill at any moment does not change, is `zsnr.finetune.loop`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

import lab
from lab.models.level_mean import level_mean
from zsnr.diffusers.card import Card
from zsnr.finetune import loop
from zsnr.finetune.checkpoint import History
from zsnr.finetune.loop import generator, seed_dropout
from zsnr.finetune.recipe import Recipe, precision_facts
from zsnr.prediction import check_loss, check_prediction, loss_weight, target
from zsnr.schedule import Schedule

Draw = Callable[[int, Generator], tuple[Tensor, ...]]


VERSION = 1
"""Of what is learnt: raised when a training of the same recipe gives other weights than before."""


@dataclasses.dataclass(frozen=True)
class ScheduleRecipe(Recipe):
    """How to train on a schedule's steps; see `zsnr.finetune.recipe.Recipe` for the rest.

    Args:
        prediction: what the network predicts: eps, x0 or v.
        loss: the weight of the squared error, by its name in `zsnr.prediction`; plain error of the prediction if empty.
        offset_noise: strength of the offset noise; 0 for none.
        shift: steps are drawn as t / T = shift u / (1 + (shift - 1) u) of uniform u: above 1 more often where noise is
            (Esser et al. 2024, Sec. 5.3.2).
    """

    prediction: str = "v"
    loss: str = ""
    offset_noise: float = 0.0
    shift: float = 1.0

    ABOVE_ZERO = (*Recipe.ABOVE_ZERO, "shift")
    NOT_NEGATIVE = (*Recipe.NOT_NEGATIVE, "offset_noise")

    def check(self) -> None:
        """Refuse, before any work, a recipe that cannot be trained."""
        super().check()
        check_loss(self.loss or self.prediction)


def objective(
    network: nn.Module,
    x0: Tensor,
    eps: Tensor,
    t: Tensor,
    conditions: Tensor,
    schedule: Schedule,
    recipe: ScheduleRecipe,
    mean: Tensor | None = None,
) -> Tensor:
    """The loss of a batch: lambda_t |target - F(x_t, t)|^2, averaged over pictures and pixels.

    Args:
        x0, eps: (B, C, H, W), pictures and noise.
        t: (B,), steps from 0.
        mean: in place of x0 in the target, with the noise that leads from it to the same x_t.
    """
    alpha = schedule.sqrt_alpha_bar.to(x0)[t].view(-1, 1, 1, 1)
    sigma = (1 - schedule.alpha_bar).sqrt().to(x0)[t].view(-1, 1, 1, 1)
    # not by accelerate, which would fix one precision for the whole process
    with torch.autocast(x0.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        output = network(alpha * x0 + sigma * eps, t, class_labels=conditions)
    if mean is not None:
        x0, eps = mean, eps + alpha / sigma * (x0 - mean)
    error = target(recipe.prediction, x0, eps, alpha, sigma) - output.float()
    return (loss_weight(recipe.loss or recipe.prediction, recipe.prediction, alpha, sigma) * error**2).mean()


def fit(
    network: nn.Module, draw: Draw, schedule: Schedule, recipe: ScheduleRecipe, scratch: str | Path, *, note: str = ""
) -> tuple[nn.Module, History]:
    """Train a copy of `network`, or go on with the checkpoint that an interrupted call left in `scratch`.

    Args:
        network: called as network(x, step, class_labels); left as it is.
        draw: (n, generator) -> n pictures, their conditions and, if the target is to be averaged over the backdrop's
            levels, the share of the backdrop in each pixel.
        scratch: folder for this training's checkpoint; `loop.clean` removes it. That of a finished training gives the
            same weights at once.
        note: printed where there is no such finished training.

    Returns:
        The averaged network, with its card, and (pictures seen, mean loss since the entry before) about 50 times.
    """
    check_prediction(recipe.prediction, schedule)
    recipe.check()
    recipe = recipe.resolved()

    def loss(network: nn.Module, x0: Tensor, eps: Tensor, t: Tensor, conditions: Tensor, *mean: Tensor) -> Tensor:
        return objective(network, x0, eps, t, conditions, schedule, recipe, *mean)

    description = {
        "training": "on a schedule's steps",
        "version": VERSION,
        "recipe": dataclasses.asdict(recipe),
        "schedule": hashlib.sha256(schedule.sqrt_alpha_bar.numpy().tobytes()).hexdigest(),
    }
    trained, history = loop.train(
        network, lambda step: _example(draw, schedule, recipe, step), loss, recipe, scratch, description, note=note
    )
    trained.card = Card(recipe.prediction, schedule)  # type: ignore[assignment]
    return trained, history


def record(path: Path, precision: str, **facts: Any) -> None:
    """Write a training's facts as JSON, with where it was computed, and the precision that was chosen for `auto`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, **lab.environment(), **precision_facts(precision)}) + "\n")


def _example(draw: Draw, schedule: Schedule, recipe: ScheduleRecipe, step: int) -> tuple[Tensor, ...]:
    """What `objective` takes, of one training step, all drawn from (seed, step); seeds torch, too."""
    g = generator(recipe.seed, step)
    x0, conditions, *backdrop = draw(recipe.batch, g)
    t = torch.randint(schedule.T, (recipe.batch,), generator=g)
    eps = torch.randn(x0.shape, generator=g)
    if recipe.offset_noise:
        eps += recipe.offset_noise * torch.randn(*x0.shape[:2], 1, 1, generator=g)
    seed_dropout(g)
    if recipe.shift != 1:
        u = (t + torch.rand(recipe.batch, generator=g)) / schedule.T
        t = (schedule.T * recipe.shift * u / (1 + (recipe.shift - 1) * u)).long().clamp(max=schedule.T - 1)
    alpha = schedule.sqrt_alpha_bar[t]
    mean = [level_mean(x0, eps, alpha, share, conditions[:, 1], recipe.offset_noise) for share in backdrop]
    return x0, eps, t, conditions, *mean
