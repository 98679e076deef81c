"""Noise that does not depend on the batch: a generator for each sample, or one for all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Generator, Tensor

Generators = Generator | Sequence[Generator] | None


def generators(seeds: Iterable[int], device: str | torch.device = "cpu") -> list[Generator]:
    """One generator a sample, each from its own seed."""
    return [Generator(device).manual_seed(int(seed)) for seed in seeds]


def randn(
    shape: Sequence[int], generators: Generators, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Tensor:
    """(B, ...) standard normal noise, drawn by the batch's generator or each sample by its own."""
    if generators is None or isinstance(generators, Generator):
        where = generators.device if generators is not None else device
        return torch.randn(tuple(shape), generator=generators, dtype=dtype, device=where).to(device)
    check_generators(generators, shape[0])
    noise = [torch.randn(tuple(shape[1:]), generator=g, dtype=dtype, device=g.device) for g in generators]
    return torch.stack(noise).to(device)


def check_noise(noise: Tensor) -> Tensor:
    """The noise, refused where it holds NaN or inf, as every later step would, and where steps would be rounded."""
    if noise.dim() == 0:
        raise ValueError("the noise to start from is one number: give (B, ...), a batch, such as noise[None]")
    if not noise.is_floating_point():
        raise ValueError(f"the noise to start from is {noise.dtype}, which cannot hold a step: give noise.float()")
    if not math.isfinite(noise.sum().item()) and not torch.isfinite(noise).all():  # a sum is quick, but may overflow
        raise ValueError("the noise to start from holds NaN or inf: check how it was drawn, and its dtype")
    return noise


def check_generators(generators: Generators, batch: int) -> None:
    """Refuse a stochastic sampler without generators, or with a list of the wrong length."""
    if generators is None:
        raise ValueError("a stochastic sampler needs `generators`: one torch.Generator, or a list of one a sample")
    if not isinstance(generators, Generator) and len(generators) != batch:
        raise ValueError(f"{len(generators)} generators for a batch of {batch}: give one a sample")
