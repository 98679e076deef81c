r"""The training loop: one that a kill at any moment does not change.

Each step draws everything from a generator seeded by (seed, step), so that a checkpoint is weights, averages, optimizer
moments and a step count; the step after a restart is the step that would have come. On accelerate: a launcher spreads
the same global batch over devices and machines. What is learnt, and from what, are the caller's functions.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

History = list[tuple[int, float]]


def train(
    network: nn.Module,
    example: Callable[[int], tuple[Tensor, ...]],
    loss: Callable[..., Tensor],
    scratch: str | Path,
    key: str,
    *,
    images: int,
    batch: int,
    lr: Callable[[int], float],
    ema: Callable[[int], float],
    clip: float = 0.0,
) -> tuple[nn.Module, History]:
    """Train a copy of `network` by AdamW, or go on with the checkpoint that an interrupted call left in `scratch`.

    Args:
        network: left as it is.
        example: step -> tensors of the step's whole batch, the same at each call.
        loss: (network, *tensors) -> the loss of these examples, a mean over them.
        scratch: folder for checkpoints, one subfolder a training.
        key: what else the result depends on, such as the recipe; another key is another training.
        images, batch: pictures in all, and in a step over all processes.
        lr: step, from 0 -> learning rate.
        ema: steps done -> decay of the averaged weights.
        clip: norm that gradients are clipped to; 0 for none.

    Returns:
        The averaged network, and (pictures seen, mean loss since the entry before) about 50 times.
    """
    accelerator = Accelerator()
    if batch % accelerator.num_processes:
        raise ValueError(f"a batch of {batch} does not divide over {accelerator.num_processes} processes")
    folder = _folder(scratch, key, network, example(0))
    network = copy.deepcopy(network).to(accelerator.device).train()
    average = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr(0), weight_decay=0.0)
    step, history = _restore(folder, network, average, optimizer)
    network, optimizer = accelerator.prepare(network, optimizer)

    steps = -(-images // batch)
    share = batch // accelerator.num_processes
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    every, total, saved = max(1, steps // 50), 0.0, time.monotonic()
    bar = tqdm(
        total=steps, initial=step, unit="step", disable=not (accelerator.is_main_process and sys.stderr.isatty())
    )
    while step < steps:
        tensors = [z[mine].to(accelerator.device) for z in example(step)]
        for group in optimizer.param_groups:
            group["lr"] = lr(step)
        value = loss(network, *tensors)
        accelerator.backward(value)
        if clip:
            accelerator.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        _average(average, accelerator.unwrap_model(network), ema(step))

        total += accelerator.reduce(value.detach(), "mean").item()
        if not np.isfinite(total):
            raise FloatingPointError(
                f"the loss is {total} after {step * batch} pictures, at lr = {lr(step - 1):.3g}: lower lr, or train in "
                "float32"
            )
        if step % every == 0 or step == steps:
            since = step - (history[-1][0] // batch if history else 0)
            history.append((step * batch, total / since))
            total = 0.0
            if accelerator.is_main_process and bar.disable and len(history) % 5 == 0:
                print(f"{history[-1][0]:8d} of {steps * batch} pictures, loss {history[-1][1]:.4f}", flush=True)
            if accelerator.is_main_process and (time.monotonic() - saved > 20 or step == steps):
                _save(folder, step, history, accelerator.unwrap_model(network), average, optimizer)
                saved = time.monotonic()
        bar.update()
    bar.close()
    return average.cpu(), history


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, parameter in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(parameter, 1 - decay)


def _folder(scratch: str | Path, key: str, network: nn.Module, example: tuple[Tensor, ...]) -> Path:
    """A checkpoint is found again by what it was made from: the key, the weights, the first pictures, this code."""
    digest = hashlib.sha256(key.encode())
    digest.update(Path(__file__).read_bytes())
    for tensor in (*network.state_dict().values(), *example):
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return Path(scratch) / digest.hexdigest()[:16]


def _save(
    folder: Path, step: int, history: History, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for i, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"checkpoint.{os.getpid()}.tmp"
    metadata = {"step": str(step), "history": json.dumps(history)}
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial, metadata)
    partial.replace(folder / "checkpoint.safetensors")


def _restore(
    folder: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, History]:
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0, []
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    network.load_state_dict(_part(tensors, "network."))
    average.load_state_dict(_part(tensors, "average."))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _part(tensors, "optimizer.").items():
        i, _, name = key.partition(".")
        state.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    print(f"going on from {path.parent.name}, step {metadata['step']}", file=sys.stderr)
    return int(metadata["step"]), [tuple(entry) for entry in json.loads(metadata["history"])]


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
