r"""Finding 14, how the change is made: what a training is shown, and what it learns at zero SNR.

At t = T of a zero-SNR schedule the input says nothing, so the best x0 is the mean of the class, and the error of the
best answer is the variance within the class: the floor. A network that predicted eps before is read there as one that
predicts v = -x0, the other thing altogether; how far its error is above the floor says how far it has unlearnt that.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Generator, Tensor

from lab.models import data, network, plans, training
from lab.models.variants import find
from zsnr.denoisers import NetworkDenoiser
from zsnr.finetune import loop
from zsnr.prediction import cos_sin


def cards(folder: Path) -> dict[str, dict]:
    """What the weights of base, control and zsnr say about their training; folder is results/<profile>/zsnr."""
    paths = {"base": "train", "control": "finetune/control", "zsnr": "finetune/zsnr"}
    return {name: network.load(folder / path / "weights.safetensors")[1] for name, path in paths.items()}


@torch.no_grad()
def error_at_T(weights: Path, test: data.Images, held_out: int) -> float:
    """Mean squared error of x0 at zero SNR on the same pictures, the network being read as one that predicts v."""
    model = network.load(weights)[0].eval()
    model.card = None  # which may say that it predicts eps: it is read as v on purpose, as fine-tuning starts from it
    schedule = find("zsnr").schedule
    y, conditions = test.draw(held_out, loop.generator(2, 7))
    eps = torch.randn(y.shape, generator=loop.generator(2, 8))
    phi = schedule.angle[-1].item()
    c, s = cos_sin(phi)
    x = c * y + s * eps
    d = c * x - s * NetworkDenoiser(model, schedule, "v", class_labels=conditions)(x, phi)
    return (d - y).square().mean().item()


def shown(train: data.Images, variant: str, seed: int, images: int = 96, batch: int = 32) -> tuple[Tensor, ...]:
    """What a training of the variant is shown: pictures, conditions, steps and noises, by a network that listens."""
    kind = find(variant)
    seen: list[list[Tensor]] = []  # a batch each; training also draws the first to name its checkpoint: it is not shown

    class Listener(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
            seen[-1] += [class_labels.cpu(), t.cpu(), x.detach().cpu()]
            return self.weight * x

    def draw(n: int, generator: Generator) -> tuple[Tensor, ...]:
        drawn = train.draw_parted(n, generator, 0.1, 0.1)
        seen.append([drawn[0]])
        return drawn

    recipe = plans.of(kind, training.ScheduleRecipe(images=images, batch=batch, warmup=0, seed=seed, shift=3.0))
    with tempfile.TemporaryDirectory() as scratch:
        training.fit(Listener(), draw, kind.schedule, recipe, scratch)
    x0, conditions, t, x = (torch.cat(z) for z in zip(*(batch for batch in seen if len(batch) == 4), strict=True))
    alpha = kind.schedule.sqrt_alpha_bar[t].view(-1, 1, 1, 1)
    return x0, conditions, t, (x - alpha * x0) / (1 - alpha**2).sqrt()


def same_shown(train: data.Images, cards: dict[str, dict]) -> list[bool]:
    """Whether control and zsnr are shown the same pictures, conditions, steps and noises, each with its card's seed."""
    control, fixed = (shown(train, name, cards[name]["seed"]) for name in ("control", "zsnr"))
    return [torch.allclose(a, b, atol=1e-4) for a, b in zip(control, fixed, strict=True)]
