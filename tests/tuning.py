"""What tests of fine-tuning share: a short recipe, and a folder of captioned pictures."""

import dataclasses
from pathlib import Path

from PIL import Image

from zsnr.finetune import FineTune

RECIPE = FineTune(images=32, batch=4, lr=3e-3, warmup=8, ema_halflife=16, resolution=8, precision="float32", seed=5)
LORA = dataclasses.replace(RECIPE, lora_rank=2, lora_layers="all")
COLOURS = ["red", "green", "blue", "black", "white"]


def write(folder: Path, size: tuple[int, int] = (12, 10)) -> Path:
    """A folder of five plain pictures with their captions."""
    folder.mkdir(parents=True)
    for name in COLOURS:
        Image.new("RGB", size, name).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"all {name}\n")
    return folder
