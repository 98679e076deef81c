"""What cannot be judged, and the one place that catches whatever diffusers' own code raises."""

from __future__ import annotations

import contextlib
import re
import reprlib
import sys
from collections.abc import Iterator
from typing import Any

MOST_STEPS = 10_000
"""Longest table that is judged: none is published that is longer than 4,000, and some schedulers take minutes."""

COUNTS = re.compile("steps|order|stages|grid|length")


class AuditError(ValueError):
    """What was given cannot be read or judged; the message says why, and what to give instead."""


class Failed(AuditError):
    """The scheduler's own code raised an error, which is this one's cause."""


@contextlib.contextmanager
def theirs(what: str) -> Iterator[None]:
    """Around calls of the scheduler's own code alone: an error of ours must stay one."""
    try:
        yield
    except Exception as error:
        why = " ".join(str(error).split())
        raise Failed(f"cannot be judged: {what} ends in {type(error).__name__}: {why}") from error


def positive(config: Any, name: str, default: float | None = None) -> float:
    """A number of a config, or its default; refused unless finite and above 0."""
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise AuditError(f"cannot be judged: {name} = {reprlib.repr(value)}; give a number above 0")
    return float(value)


def check_counts(config: Any) -> None:
    """Refuse a config that counts to more than MOST_STEPS, whatever it counts: a scheduler may make a list of it."""
    for name, value in config.items():
        if COUNTS.search(str(name)) and isinstance(value, int | float) and not abs(value) <= MOST_STEPS:
            raise AuditError(f"cannot be judged: {name} = {reprlib.repr(value)}; give a number up to {MOST_STEPS}")


def training_steps(config: Any) -> int:
    """T of a config, before anything of that size is made."""
    T = positive(config, "num_train_timesteps", 1000)
    if int(T) != T or T > MOST_STEPS:
        raise AuditError(f"cannot be judged: num_train_timesteps = {T:.10g}; give a whole number up to {MOST_STEPS}")
    return int(T)
