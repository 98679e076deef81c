"""What tests of training share: pictures, and an interruption at a given step."""

import itertools

import torch
from torch import Tensor, nn


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def draw(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 1, 8, 8, generator=g) / 2, torch.zeros(n, 2, dtype=torch.long)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class Interrupted(Exception):
    pass


def interrupted_after(steps: int, draw=draw):
    """`draw`, that raises at the step after so many (a draw before the first step names the checkpoint)."""
    left = itertools.count(-1)

    def some(*arguments, **options):
        if next(left) == steps:
            raise Interrupted
        return draw(*arguments, **options)

    return some
