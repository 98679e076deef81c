"""Pictures like those of the data, few and small."""

import torch

from lab.models import data


def garments(n=40):
    """Squares of two sizes, the two classes, that leave a frame."""
    image, mask = torch.zeros(n, 1, 32, 32, dtype=torch.uint8), torch.zeros(n, 1, 32, 32, dtype=torch.bool)
    label = torch.arange(n) % 2
    for i, k in enumerate(label.tolist()):
        mask[i, :, 8 : 16 + 8 * k, 8:16] = True
        image[i] = mask[i] * (100 + 100 * k + i % 5)
    return data.Images(image, mask, label, ("small", "large"))
