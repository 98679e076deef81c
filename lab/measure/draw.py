"""Draw pictures, all in one way: a denoiser for each batch of seeds, one sampler, one grid, one noise a seed.

draw(conditional(network, "zsnr"), SAMPLERS["ddim"], grid, range(64), (1, 32, 32))
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from lab.models.variants import find
from zsnr.denoisers import Denoiser, NetworkDenoiser
from zsnr.edm import EDMDenoiser, Preconditioned
from zsnr.finetune.recipe import chosen_precision
from zsnr.guidance import guided
from zsnr.noise import generators, randn

MakeDenoiser = Callable[[range, str], Denoiser]
"""(seeds of a batch, device) -> the denoiser of that batch, with the conditions of its seeds."""
Start = Callable[[Tensor, range, list[Generator], float], Tensor]
"""(noise, seeds, their generators, first angle) -> the state to start from, where that is not the noise itself."""


def draw(
    make_denoiser: MakeDenoiser,
    sampler: Callable[..., Tensor],
    grid: Tensor,
    seeds: range,
    shape: Sequence[int],
    *,
    precision: str = "float32",
    dtype: torch.dtype = torch.float32,
    batch: int | None = None,
    device: str | None = None,
    start: Start | None = None,
    title: str = "",
    **options: Any,
) -> Tensor:
    """(len(seeds), *shape) float32 pictures on the CPU, each from the noise of its own seed.

    Args:
        shape: (C, H, W) of a picture.
        precision: float32, bf16 for autocast to bfloat16, or auto; see `zsnr.finetune.recipe.chosen_precision`.
        dtype: of the state; noise is drawn in float32 whatever it is.
        batch: pictures at a time; 64 on a CPU (larger batches leave its cache, and are slower), 1000 on a GPU.
        device: the GPU where there is one.
        options: of the sampler, such as path or S_churn; generators are given to samplers that draw noise.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    lower = chosen_precision(precision, device) == "bf16"
    size = batch or (1000 if device == "cuda" else 64)
    batches = [seeds[k : k + size] for k in range(0, len(seeds), size)]
    stochastic = getattr(getattr(sampler, "func", sampler), "stochastic", False)  # of a partial's sampler, too
    pictures = []
    for part in tqdm(batches, title, file=sys.stderr, disable=not sys.stderr.isatty()):
        own = generators(part)
        x = randn((len(part), *shape), own, device=device).to(dtype)
        if start:
            x = start(x, part, own, float(grid[0]))
        fresh = {"generators": own} if stochastic else {}
        with torch.autocast(device, torch.bfloat16, enabled=lower):
            pictures.append(sampler(make_denoiser(part, device), x, grid, **fresh, **options).float().cpu())
    return torch.cat(pictures)


def conditional(
    network: Any, variant: str, *, word: int | None = None, w: float = 1.0, phi: float = 0.0, space: str = "v"
) -> MakeDenoiser:
    """Denoisers of a ConditionalUNet of `lab.models.variants`, the classes in turn.

    Args:
        word: the caption word beside the class, an index of `data.WORDS`; none where left out.
        w, phi, space: guidance against no condition, and its rescaling, as in `zsnr.guided`; none where w is 1.
    """
    kind = find(variant)
    classes, words = network.config["classes"], network.config["words"]

    def make(seeds: range, device: str) -> Denoiser:
        model = network.to(device).eval()
        labels = torch.tensor([[seed % classes, words if word is None else word] for seed in seeds], device=device)
        positive = NetworkDenoiser(model, kind.schedule, kind.prediction, class_labels=labels)
        if w == 1:
            return positive
        nothing = torch.tensor([[classes, words]], device=device).expand(len(seeds), 2)
        negative = NetworkDenoiser(model, kind.schedule, kind.prediction, class_labels=nothing)
        return guided(positive, negative, w, phi, space)

    return make


def preconditioned(network: Preconditioned) -> MakeDenoiser:
    """Denoisers of an EDM-preconditioned ConditionalUNet, the classes in turn, without a caption word."""
    config: Any = network.network.config
    classes, words = config["classes"], config["words"]

    def make(seeds: range, device: str) -> Denoiser:
        labels = torch.tensor([[seed % classes, words] for seed in seeds], device=device)
        return EDMDenoiser(network.to(device).eval(), class_labels=labels)

    return make


def exact(denoiser: Denoiser) -> MakeDenoiser:
    """The same denoiser for every batch."""
    return lambda seeds, device: denoiser


def exact_by_class(denoisers: Sequence[Denoiser]) -> MakeDenoiser:
    """Denoisers of each class's pictures alone, the classes in turn: what `conditional` is to a network."""

    def make(seeds: range, device: str) -> Denoiser:
        def denoise(x: Tensor, phi: float) -> Tensor:
            v = torch.empty_like(x)
            for k, denoiser in enumerate(denoisers):
                mine = torch.tensor([seed % len(denoisers) == k for seed in seeds])
                if mine.any():
                    v[mine] = denoiser(x[mine], phi)
            return v

        return denoise

    return make
