"""Checkpoints of a training: one folder for each, named by what its result depends on, and written whole or not at all.

A checkpoint holds weights, averages, optimizer moments and a step count; that of a finished training the averages and
the history only. It is found by a description (the recipe's values, the VERSION of the code that defines what is
learnt, the data), the starting weights and the first example: not by the text of that code.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

VERSION = 1
"""Of the loop and of this format: raised when either changes what a training gives."""
History = list[tuple[int, float]]


@dataclass
class State:
    """How far a training has come; `total` is the sum of the losses since the history's last entry."""

    step: int = 0
    history: History = field(default_factory=list)
    total: float = 0.0
    finished: bool = False


def digest(tensors: Iterable[Tensor]) -> str:
    """Of the tensors' bytes."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)  # bfloat16, too
    return found.hexdigest()[:16]


@contextmanager
def whole(path: Path, partial: Path, remedy: str) -> Iterator[Path]:
    """Write a file or a folder beside its place, which it takes, from what was there, once it is all written.

    Raises:
        OSError: what failed; the disk is full: with the remedy. Nothing half written stays, and what was there does.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
    except (OSError, SafetensorError) as error:
        remove(partial)
        if getattr(error, "errno", 0) == errno.ENOSPC or "No space left" in str(error):  # the latter is Rust's
            raise OSError(errno.ENOSPC, f"no space is left in {path.parent} for {remedy}") from error
        raise
    if path.is_dir():
        shutil.rmtree(path)
    partial.replace(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path, ignore_errors=True)


class Checkpoint:
    """The place of one training's checkpoint.

    Args:
        scratch: of one training, or of several with different descriptions.
        description: what the result depends on, in JSON; `version` among it.
        weights, example: digests of the network at the start, and of the first example.
    """

    def __init__(self, scratch: str | Path, description: Mapping[str, Any], weights: str, example: str) -> None:
        facts = {"loop": VERSION, **description, "starting weights": weights, "first example": example}
        self.facts: dict[str, Any] = json.loads(json.dumps(facts))  # as it will be read
        name = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = Path(scratch) / name
        self.path = self.folder / "checkpoint.safetensors"

    def others(self) -> list[str]:
        """A line on each checkpoint beside this one's place that is not used, with the reason."""
        lines = []
        for path in sorted(self.folder.parent.glob("*/checkpoint.safetensors")):
            if path == self.path:
                continue
            try:
                with safe_open(path, "pt") as file:
                    theirs = json.loads((file.metadata() or {}).get("facts", "{}"))
                reason = "; ".join(_differences(theirs, self.facts)) or "it says nothing of its training"
            except (SafetensorError, ValueError, OSError) as error:
                reason = f"it cannot be read: {error}"
            lines.append(f"the checkpoint {path.parent.name} is not used: {reason}")
        return lines

    def restore(self, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> State:
        """Put what was saved into its places; a new State where nothing was, or cannot be read, which is said."""
        for orphan in self.folder.glob("checkpoint.*.tmp"):  # of a run that was killed while it wrote
            orphan.unlink(missing_ok=True)
        if not self.path.exists():
            return State()
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata()
            tensors = load_file(self.path)
        except SafetensorError as error:
            print(f"the checkpoint {self.folder.name} is not used: it cannot be read: {error}", file=sys.stderr)
            return State()
        history = [tuple(entry) for entry in json.loads(metadata["history"])]
        state = State(int(metadata["step"]), history, float(metadata["total"]), metadata["finished"] == "True")
        average.load_state_dict(_part(tensors, "average."), strict=False)  # frozen parameters are not in it
        if not state.finished:
            network.load_state_dict(_part(tensors, "network."), strict=False)
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in _part(tensors, "optimizer.").items():
                i, _, name = key.partition(".")
                moments.setdefault(int(i), {})[name] = value
            optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
        return state

    def save(self, state: State, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write it, in place of the one before; of a finished training the averages only."""
        frozen = {k for k, p in network.named_parameters() if not p.requires_grad}
        tensors = {f"average.{k}": v for k, v in average.state_dict().items() if k not in frozen}
        if not state.finished:
            tensors |= {f"network.{k}": v for k, v in network.state_dict().items() if k not in frozen}
            for i, moments in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
        metadata = {"step": str(state.step), "history": json.dumps(state.history), "total": repr(state.total)}
        metadata |= {"finished": str(state.finished), "facts": json.dumps(self.facts)}
        remedy = f"the checkpoint of step {state.step}: free some, or give another scratch. The one before is kept"
        with whole(self.path, self.folder / f"checkpoint.{os.getpid()}.tmp", remedy) as partial:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial, metadata)


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two descriptions, by name; long values are not spelt out."""
    found = []
    for key in sorted({*theirs, *ours}):
        a, b = theirs.get(key), ours.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            short = len(f"{a}{b}") < 60 and not isinstance(a, list)
            found.append(f"{prefix}{key} was {a}, is {b}" if short else f"another {prefix}{key}")
    return found


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
