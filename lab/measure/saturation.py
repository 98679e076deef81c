"""What guidance does to single pictures: over-exposure, and plainness.

Over-exposure is the share of values beyond the data's range, before they are clamped; plainness is a loss of contrast,
the std of a picture's own values (Lin et al. 2023, Sec. 3.4, names both and measures neither).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lab.measure.metrics import Classifier
from lab.models import data

BEYOND = 1.02
"""|x| above this counts as over-exposed: 2.5 of 255 grey levels outside [-1, 1], so that rounding does not."""


def saturated(x: Tensor) -> Tensor:
    """(B,) share of the values of (B, C, H, W) pictures with |x| > 1.02."""
    return (x.abs() > BEYOND).float().flatten(1).mean(1)


def contrast(x: Tensor) -> Tensor:
    """(B,) std over a picture's own values."""
    return x.flatten(1).std(1)


@torch.no_grad()
def per_picture(x: Tensor, classifier: Classifier) -> dict[str, Tensor]:
    """Level, mean, over-exposure, contrast and the classifier's class of each of (B, C, H, W) pictures."""
    return {
        "level": data.level(x),
        "mean": x.mean((1, 2, 3)),
        "saturated": saturated(x),
        "contrast": contrast(x),
        "class": torch.cat([classifier.head(classifier(batch)).argmax(1) for batch in x.split(500)]),
    }


def save(
    folder: str | Path,
    measures: dict[str, Any],
    pictures: dict[str, Tensor],
    classifier: Classifier,
    kept: int | Mapping[str, int],
    more: dict[str, Tensor] | None = None,
) -> None:
    """As `lab.measure.evaluation.save`, whose `load` reads it, with all that `per_picture` says, and what `more` holds.

    Args:
        kept: pictures of each cell that are kept, or how many of each by its name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.contiguous() for key, value in (more or {}).items()}
    for name, x in pictures.items():
        tensors |= {f"{name}/{key}": value.contiguous() for key, value in per_picture(x, classifier).items()}
        n = kept if isinstance(kept, int) else kept[name]
        tensors[f"{name}/pictures"] = x[:n].half().contiguous()
    save_file(tensors, folder / "samples.safetensors")
    (folder / "measures.json").write_text(json.dumps(measures, indent=1) + "\n")
