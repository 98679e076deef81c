"""The recipe of a fine-tuning."""

from __future__ import annotations

import dataclasses

from zsnr.finetune import lora


@dataclasses.dataclass(frozen=True)
class FineTune:
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

    def check(self) -> None:
        """Refuse, before any work, a recipe that cannot be trained."""
        for name in ("images", "batch", "accumulate", "lr", "ema_halflife", "resolution"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        for name in ("warmup", "clip", "lora_rank", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must not be negative")
        if not 0 <= self.unconditional <= 1:
            raise ValueError(f"unconditional = {self.unconditional}: a probability lies in [0, 1]")
        if self.precision not in ("float32", "bf16"):
            raise ValueError(f"unknown precision {self.precision!r}; choose float32 or bf16")
        if self.lora_layers not in lora.LAYERS:
            raise ValueError(f"unknown lora_layers {self.lora_layers!r}; choose {' or '.join(lora.LAYERS)}")
