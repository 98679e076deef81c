"""Recipes of trainings: what all have in common, and that of fine-tuning Stable Diffusion."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from zsnr.finetune import lora

PRECISIONS = ("float32", "bf16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every training has: AdamW, a learning rate that rises and falls, averaged weights.

    Args:
        images: how many training pictures are seen.
        batch: pictures a step, over all processes.
        lr: AdamW's learning rate, reached after `warmup` pictures, falling linearly to 0 at the end.
        ema_halflife: half-life, in pictures, of the average of the weights that is returned.
        clip: norm that gradients are clipped to; 0 for none.
        precision: float32, or bf16 for autocast to bfloat16.
        seed: of everything that is drawn.
    """

    images: int = 120_000
    batch: int = 64
    lr: float = 1e-3
    warmup: int = 5_000
    ema_halflife: int = 5_000
    clip: float = 0.0
    precision: str = "float32"
    seed: int = 0

    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("images", "batch", "lr", "ema_halflife")
    NOT_NEGATIVE: ClassVar[tuple[str, ...]] = ("warmup", "clip", "seed")
    SHARES: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        """Refuse, before any work, a recipe that cannot be trained."""
        for name in self.ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        for name in self.NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must not be negative")
        for name in self.SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: a probability lies in [0, 1]")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; choose {' or '.join(PRECISIONS)}")

    @property
    def steps(self) -> int:
        """How many there are."""
        return -(-self.images // self.batch)

    def ramp(self, step: int) -> float:
        """The share of lr that is reached at a step, from 0."""
        return min(1.0, (step + 1) * self.batch / max(self.warmup, 1))

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        return self.lr * self.ramp(step) * (1 - step / self.steps)

    def decay(self, step: int) -> float:
        """The decay of the averaged weights after so many steps: its window grows, and so soon forgets its start."""
        return min(0.5 ** (self.batch / self.ema_halflife), step / (step + 10))


@dataclasses.dataclass(frozen=True)
class FineTune(Recipe):
    """How to fine-tune. The paper: 100 million pictures, batches of 2048, lr 1e-4, EMA 0.9999 a step.

    Args:
        zero_snr: Algorithm 1, v-prediction, trailing steps; otherwise train on as the pipeline is, for a control.
        images: how many pictures are seen, passes over the folder included.
        batch: pictures a step, over all processes.
        accumulate: micro-batches that each process's share of a batch is split into, for memory.
        lr: AdamW's learning rate, reached after `warmup` pictures, falling linearly to 0 at the end.
        warmup: pictures over which lr rises.
        ema_halflife: half-life, in pictures, of the average of the weights that is returned.
        clip: norm that gradients are clipped to; 0 for none.
        unconditional: probability that a caption is dropped, for guidance.
        resolution: of the square pictures, in pixels.
        precision: float32, or bf16 for autocast to bfloat16; trained weights are float32 in both.
        checkpointing: of gradients: a third more time, far less memory.
        lora_rank: of low-rank changes to the UNet; 0 to train all of its weights. Wants a higher lr, about 1e-4.
        lora_layers: all, for every projection and convolution, or attention, for its projections only.
            The latter suits a change of style, but is too little to turn eps into v.
        flip: mirror pictures half of the time.
        seed: of everything that is drawn.
    """

    zero_snr: bool = True
    images: int = 100_000
    batch: int = 64
    accumulate: int = 1
    lr: float = 2e-5
    warmup: int = 5_000
    ema_halflife: int = 10_000
    clip: float = 1.0
    unconditional: float = 0.1
    resolution: int = 512
    precision: str = "float32"
    checkpointing: bool = False
    lora_rank: int = 0
    lora_layers: str = "all"
    flip: bool = False
    seed: int = 0

    ABOVE_ZERO = (*Recipe.ABOVE_ZERO, "accumulate", "resolution")
    NOT_NEGATIVE = (*Recipe.NOT_NEGATIVE, "lora_rank")
    SHARES = ("unconditional",)

    def check(self) -> None:
        """Refuse, before any work, a recipe that cannot be trained."""
        super().check()
        if self.lora_layers not in lora.LAYERS:
            raise ValueError(f"unknown lora_layers {self.lora_layers!r}; choose {' or '.join(lora.LAYERS)}")
