"""What a library offers: its samplers, each able to be timed with a stand-in network and to be scored on the problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Method:
    """One sampler of one library.

    Args:
        library, name: for the tables.
        cost: how many evaluations N steps take.
        timed: (noise, output, N) -> a run of N steps whose network answers `output`; making it is not timed.
        scored: N -> (grid, run) for every grid on offer, a run returning the generated stds over `problem.LAMBDA`.
        draws: adds fresh noise at each step.
    """

    library: str
    name: str
    cost: Callable[[int], int]
    timed: Callable[[Tensor, Tensor, int], Run] | None
    scored: Callable[[int], Iterator[tuple[str, Run]]] | None = None
    draws: bool = False

    def steps(self, budget: int) -> int:
        """The most steps that a budget of evaluations allows."""
        return max(N for N in range(1, budget + 1) if self.cost(N) <= budget)


def one(N: int) -> int:
    """One evaluation a step."""
    return N


def heun(N: int) -> int:
    """Two, but one in the last step."""
    return 2 * N - 1


def two(N: int) -> int:
    """Two, in the last step as well."""
    return 2 * N
