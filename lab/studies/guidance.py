"""Finding 18: how far guided pictures are from the truth, by `lab.measure.guiding.measures`, repeat by repeat."""

from __future__ import annotations

import numpy as np

from lab.measure.guiding import TEXTURE
from lab.measure.metrics import interval

TRUTH = {"shift": 0.0, "spread": 1.0, "off": TEXTURE}
"""Of real pictures: where a measure should be."""

Measures = dict[str, list[float]]
"""By measure, one value a repeat."""
Found = dict[str, dict[float, Measures]]
"""By method and w, of one model."""


def gain(
    found: Found, what: str, than: tuple[str, float], cell: tuple[str, float]
) -> tuple[float, tuple[float, float]]:
    """By how much less a (method, w) is off than another, and the 95 % interval over repeats, of the same noises."""
    far, near = (np.abs(np.array(found[m][w][what]) - TRUTH[what]) for m, w in (than, cell))
    return float((far - near).mean()), interval(list(far - near))


def text(values: list[float]) -> str:
    """The mean over repeats, with its 95 % interval."""
    low, high = interval(values)
    return f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"
