"""Recipes of trainings: what all have in common, and that of fine-tuning Stable Diffusion."""

from __future__ import annotations

import dataclasses
import numbers
import sys
import warnings
from typing import Any, ClassVar, Self

import torch

from zsnr.finetune import lora

KINDS: dict[type, tuple[type, str]] = {
    bool: (bool, "True or False"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a finite number"),
    str: (str, "a word"),
}


PRECISIONS = (
    "float32, bf16 for autocast to bfloat16, or auto: bf16 where the device has it natively, else float32; trained "
    "weights are float32 in all"
)


def native_bf16(device: str) -> bool:
    """Whether a GPU (device `cuda`), or else the CPU, has instructions for products of bfloat16 matrices."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def chosen_precision(precision: str, device: str = "") -> str:
    """float32 or bf16: for `auto`, bf16 where the device has it natively; any other is as given.

    Args:
        device: its type; a GPU where there is one, if left out.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if precision == "auto":
        return "bf16" if native_bf16(device) else "float32"
    if precision == "bf16" and not native_bf16(device):
        warnings.warn(
            f"precision bf16 on a {device} without native bfloat16, where it can take 20 times as long as float32: "
            "give auto or float32",
            stacklevel=2,
        )
    return precision


def precision_facts(precision: str) -> dict[str, str]:
    """What to record with a result: the precision that this machine chose for `auto`; any other stands elsewhere."""
    return {"precision": chosen_precision(precision)} if precision == "auto" else {}


def option(default: Any, help: str) -> Any:
    """A field of a recipe, with its meaning, which is also what a command line says of it."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every training has: an optimizer, a learning rate that rises and falls, averaged weights.

    What each field means stands beside it.
    """

    images: int = option(120_000, "how many pictures are seen, passes over them included")
    batch: int = option(64, "pictures a step, over all processes")
    lr: float = option(1e-3, "learning rate, reached after `warmup` pictures, falling linearly to 0 at the end")
    optimizer: str = option("adamw", "adamw, or muon: Muon for the matrices and AdamW for the rest")
    warmup: int = option(5_000, "pictures over which lr rises")
    ema_halflife: int = option(5_000, "half-life, in pictures, of the average of the weights that is returned")
    clip: float = option(0.0, "norm that gradients are clipped to; 0 for none")
    precision: str = option("float32", PRECISIONS)
    seed: int = option(0, "of everything that is drawn")

    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("images", "batch", "lr", "ema_halflife")
    NOT_NEGATIVE: ClassVar[tuple[str, ...]] = ("warmup", "clip", "seed")
    SHARES: ClassVar[tuple[str, ...]] = ()
    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "precision": ("auto", "float32", "bf16"),
        "optimizer": ("adamw", "muon"),
    }

    def check(self) -> None:
        """Refuse, before any work, a recipe that cannot be trained."""
        for field in dataclasses.fields(self):
            value, (kind, what) = getattr(self, field.name), KINDS[type(field.default)]
            wrong = not isinstance(value, kind) or (type(value) is bool) != (kind is bool)
            if wrong or (kind is numbers.Real and not abs(value) <= sys.float_info.max):
                raise ValueError(f"{field.name} = {value!r}: must be {what}")
        for name in self.ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        for name in self.NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must not be negative")
        for name in self.SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: a probability lies in [0, 1]")
        for name, choices in self.CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose {' or '.join(choices)}")

    def resolved(self) -> Self:
        """The recipe with the precision that this machine trains in, in place of `auto`."""
        precision = chosen_precision(self.precision)
        return self if precision == self.precision else dataclasses.replace(self, precision=precision)

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTune(Recipe):
    """How to fine-tune. The paper: 100 million pictures, batches of 2048, lr 1e-4, EMA 0.9999 a step.

    What each field means stands beside it, and in `python -m zsnr.finetune --help`.
    """

    images: int = option(100_000, "how many pictures are seen, passes over the folder included")
    lr: float = option(2e-5, "learning rate, reached after `warmup` pictures, falling linearly to 0 at the end")
    ema_halflife: int = option(10_000, "half-life, in pictures, of the average of the weights that is returned")
    clip: float = option(1.0, "norm that gradients are clipped to; 0 for none")
    precision: str = option("auto", PRECISIONS)
    zero_snr: bool = option(True, "Algorithm 1, v-prediction, trailing steps; if not, on as the pipeline is, a control")
    accumulate: int = option(1, "micro-batches that each process's share of a batch is split into, for memory")
    unconditional: float = option(0.1, "probability that a caption is dropped, for guidance")
    resolution: int = option(0, "of the square pictures, in pixels; 0 for the model's own")
    checkpointing: bool = option(False, "of gradients: a third more time, far less memory")
    lora_rank: int = option(0, "of low-rank changes to the UNet, which want a higher lr, about 1e-4; 0 to train it all")
    lora_layers: str = option(
        "all",
        "all, for every projection and convolution, or attention, for its projections only. The latter suits a change "
        "of style, but is too little to turn eps into v",
    )
    flip: bool = option(False, "mirror pictures half of the time")

    ABOVE_ZERO = (*Recipe.ABOVE_ZERO, "accumulate")
    NOT_NEGATIVE = (*Recipe.NOT_NEGATIVE, "lora_rank", "resolution")
    SHARES = ("unconditional",)
    CHOICES = Recipe.CHOICES | {"lora_layers": tuple(lora.LAYERS)}
