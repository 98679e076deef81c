r"""Training and fine-tuning on a schedule's steps: the recipe and its objective.

    L = E_t E_eps  lambda_t |target - F(x_t, t)|^2,    target = v, eps or x0    (Lin et al. 2023, Eq. 12, lambda = 1)

Offset noise (Sec. 5.1) adds strength * delta to eps, one delta ~ N(0, 1) a picture and channel.

The loop, which a kill at any moment does not change, is `zsnr.finetune.loop`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from zsnr.diffusers.card import Card
from zsnr.finetune import loop
from zsnr.finetune.loop import generator
from zsnr.prediction import check_loss, check_prediction, loss_weight, target
from zsnr.schedule import Schedule

Draw = Callable[[int, Generator], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        prediction: what the network predicts: eps, x0 or v.
        loss: the weight of the squared error, by its name in `zsnr.prediction`; plain error of the prediction if empty.
        images: how many training pictures are seen.
        batch: pictures a step, over all processes.
        lr: AdamW's learning rate, reached after `warmup` pictures, falling linearly to 0 at the end.
        ema_halflife: half-life, in pictures, of the average of the weights that is returned.
        offset_noise: strength of the offset noise; 0 for none.
        precision: float32, or bf16 for autocast to bfloat16.
        seed: of everything that is drawn.
    """

    prediction: str = "v"
    loss: str = ""
    images: int = 120_000
    batch: int = 64
    lr: float = 1e-3
    warmup: int = 5_000
    ema_halflife: int = 5_000
    offset_noise: float = 0.0
    precision: str = "float32"
    seed: int = 0

    def check(self, schedule: Schedule) -> None:
        """Refuse, before any work, a recipe that cannot be trained."""
        check_prediction(self.prediction, schedule)
        check_loss(self.loss or self.prediction)
        for name in ("images", "batch", "lr", "ema_halflife"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        for name in ("offset_noise", "warmup"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must not be negative")
        if self.precision not in ("float32", "bf16"):
            raise ValueError(f"unknown precision {self.precision!r}; choose float32 or bf16")


def objective(
    network: nn.Module, x0: Tensor, eps: Tensor, t: Tensor, conditions: Tensor, schedule: Schedule, recipe: Recipe
) -> Tensor:
    """The loss of a batch: lambda_t |target - F(x_t, t)|^2, averaged over pictures and pixels.

    Args:
        x0, eps: (B, C, H, W), pictures and noise.
        t: (B,), steps from 0.
    """
    alpha = schedule.sqrt_alpha_bar.to(x0)[t].view(-1, 1, 1, 1)
    sigma = (1 - schedule.alpha_bar).sqrt().to(x0)[t].view(-1, 1, 1, 1)
    # not by accelerate, which would fix one precision for the whole process
    with torch.autocast(x0.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        output = network(alpha * x0 + sigma * eps, t, class_labels=conditions)
    error = target(recipe.prediction, x0, eps, alpha, sigma) - output.float()
    return (loss_weight(recipe.loss or recipe.prediction, recipe.prediction, alpha, sigma) * error**2).mean()


def fit(
    network: nn.Module, draw: Draw, schedule: Schedule, recipe: Recipe, scratch: str | Path
) -> tuple[nn.Module, loop.History]:
    """Train a copy of `network`, or go on with the checkpoint that an interrupted call left in `scratch`.

    Args:
        network: called as network(x, step, class_labels); left as it is.
        draw: (n, generator) -> n pictures and their conditions.
        scratch: folder for checkpoints, one subfolder a training; `clean` removes it once the result is safe.

    Returns:
        The averaged network, with its card, and (pictures seen, mean loss since the entry before) about 50 times.
    """
    recipe.check(schedule)
    steps = -(-recipe.images // recipe.batch)
    decay = 0.5 ** (recipe.batch / recipe.ema_halflife)

    def loss(network: nn.Module, x0: Tensor, eps: Tensor, t: Tensor, conditions: Tensor) -> Tensor:
        return objective(network, x0, eps, t, conditions, schedule, recipe)

    alphas = hashlib.sha256(schedule.sqrt_alpha_bar.numpy().tobytes()).hexdigest()
    trained, history = loop.train(
        network,
        lambda step: _example(draw, schedule, recipe, step),
        loss,
        scratch,
        json.dumps([dataclasses.asdict(recipe), alphas, Path(__file__).read_text()], sort_keys=True),
        images=recipe.images,
        batch=recipe.batch,
        lr=lambda step: recipe.lr * min(1.0, (step + 1) * recipe.batch / max(recipe.warmup, 1)) * (1 - step / steps),
        # a window that grows with the training, so that the average soon forgets its start
        ema=lambda step: min(decay, step / (step + 10)),
    )
    trained.card = Card(recipe.prediction, schedule)  # type: ignore[assignment]
    return trained, history


def _example(draw: Draw, schedule: Schedule, recipe: Recipe, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures, noise, steps and conditions of one training step, all drawn from (seed, step); seeds torch, too."""
    g = generator(recipe.seed, step)
    x0, conditions = draw(recipe.batch, g)
    t = torch.randint(schedule.T, (recipe.batch,), generator=g)
    eps = torch.randn(x0.shape, generator=g)
    if recipe.offset_noise:
        eps += recipe.offset_noise * torch.randn(*x0.shape[:2], 1, 1, generator=g)
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=g)))  # dropout, where a network has it
    return x0, eps, t, conditions
