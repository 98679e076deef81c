"""Pictures like those of the data, few and small."""

import torch

from lab.models import data


def garments(n=40):
    """Squares of two sizes, the two classes, that leave a frame."""
    image, matte = torch.zeros(2, n, 1, 32, 32, dtype=torch.uint8)
    label = torch.arange(n) % 2
    for i, k in enumerate(label.tolist()):
        matte[i, :, 8 : 16 + 8 * k, 8:16] = 255
        image[i] = matte[i] // 255 * (100 + 100 * k + i % 5)
    return data.Images(image, matte, label, ("small", "large"))
