"""What guidance does to single pictures: over-exposure, and plainness.

Over-exposure is the share of values beyond the data's range, before they are clamped; plainness is a loss of contrast,
the std of a picture's own values (Lin et al. 2023, Sec. 3.4, names both and measures neither).
"""

from __future__ import annotations

import torch
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
