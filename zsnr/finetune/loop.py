r"""The training loop: one that a kill at any moment does not change.

Each step draws everything from a generator seeded by (seed, step), so that a checkpoint is weights, averages, optimizer
moments and a step count; the step after a restart is the step that would have come. On accelerate: a launcher spreads
the same global batch over devices and machines. What is learnt, and from what, are the caller's functions; parameters
that need no gradient are neither trained, averaged nor kept.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from tqdm import tqdm

History = list[tuple[int, float]]


def generator(*seed: int) -> Generator:
    """A CPU generator for a tuple of integers; torch itself would keep only the lowest 32 bits of one."""
    return Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))


def clean(scratch: str | Path) -> None:
    """Remove the checkpoints, once the result is safe."""
    shutil.rmtree(scratch, ignore_errors=True)


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
    accumulate: int = 1,
    save_every: float = 20.0,
) -> tuple[nn.Module, History]:
    """Train a copy of `network` by AdamW, or go on with the checkpoint that an interrupted call left in `scratch`.

    Args:
        network: left as it is.
        example: step -> tensors of the step's whole batch, the same at each call.
        loss: (network, *tensors) -> the loss of these examples, a mean over them; a process passes its share only.
        scratch: folder for checkpoints, one subfolder a training.
        key: what else the result depends on, such as the recipe; another key is another training.
        images, batch: pictures in all, and in a step over all processes.
        lr: step, from 0 -> learning rate.
        ema: steps done -> decay of the averaged weights.
        clip: norm that gradients are clipped to; 0 for none.
        accumulate: parts that a process's share of a batch is split into, one after the other, to save memory.
        save_every: seconds between checkpoints. One is also left by an error, with the steps done before it.

    Returns:
        The averaged network, and (pictures seen, mean loss since the entry before) about 50 times.
    """
    accelerator = Accelerator()
    processes = accelerator.num_processes
    if accelerator.distributed_type in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise ValueError(
            f"{accelerator.distributed_type.value} splits the weights, which are averaged whole: launch DDP"
        )
    if batch % (processes * accumulate):
        parts = f" of {accumulate} micro-batches each" if accumulate > 1 else ""
        raise ValueError(f"a batch of {batch} does not divide over {processes} processes{parts}")
    folder = _folder(scratch, key, network, example(0))
    network = copy.deepcopy(network).to(accelerator.device).train()
    frozen = {id(p): p for p in network.parameters() if not p.requires_grad}
    average = copy.deepcopy(network, {**frozen}).eval().requires_grad_(False)  # shares what is frozen
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr(0), weight_decay=0.0)
    step, history, total = _restore(folder, network, average, optimizer)
    if accelerator.gather(torch.tensor([step], device=accelerator.device)).unique().numel() > 1:
        raise ValueError(f"not all processes see the checkpoint in {folder}: put it where every machine can read it")
    if step and accelerator.is_main_process:
        print(f"going on from {folder.name}, step {step}", file=sys.stderr)
    network, optimizer = accelerator.prepare(network, optimizer)

    def save() -> None:
        if accelerator.is_main_process:
            _save(folder, step, history, total, accelerator.unwrap_model(network), average, optimizer)

    steps = -(-images // batch)
    share, micro = batch // processes, batch // (processes * accumulate)
    every, saved, first = max(1, steps // 50), time.monotonic(), step
    bar = tqdm(
        total=steps, initial=step, unit="step", disable=not (accelerator.is_main_process and sys.stderr.isatty())
    )
    while step < steps:
        try:
            tensors = [z[accelerator.process_index * share :][:share] for z in example(step)]
            losses = []
            for k in range(accumulate):
                with accelerator.no_sync(network) if k < accumulate - 1 else nullcontext():
                    part = [z[k * micro : (k + 1) * micro].to(accelerator.device) for z in tensors]
                    losses.append(loss(network, *part) / accumulate)
                    accelerator.backward(losses[-1])
                    losses[-1] = losses[-1].detach()
        except (Exception, KeyboardInterrupt):
            if step > first:
                save()
            raise
        if clip:
            accelerator.clip_grad_norm_(trained, clip)
        for group in optimizer.param_groups:
            group["lr"] = lr(step)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        _average(average, accelerator.unwrap_model(network), ema(step))

        total += accelerator.reduce(sum(losses), "mean").item()
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
        if time.monotonic() - saved > save_every or step == steps:
            save()
            saved = time.monotonic()
        bar.update()
    bar.close()
    for mean, parameter in zip(average.parameters(), accelerator.unwrap_model(network).parameters(), strict=True):
        mean.requires_grad_(parameter.requires_grad)  # it can be trained on
    return average.cpu(), history


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, parameter in zip(average.parameters(), network.parameters(), strict=True):
        if parameter.requires_grad:
            mean.lerp_(parameter, 1 - decay)


def _folder(scratch: str | Path, key: str, network: nn.Module, example: tuple[Tensor, ...]) -> Path:
    """A checkpoint is found again by what it was made from: the key, the weights, the first pictures, this code."""
    digest = hashlib.sha256(key.encode())
    digest.update(Path(__file__).read_bytes())
    for tensor in (*network.state_dict().values(), *example):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())  # bfloat16, too
    return Path(scratch) / digest.hexdigest()[:16]


def _save(
    folder: Path,
    step: int,
    history: History,
    total: float,
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    frozen = {k for k, p in network.named_parameters() if not p.requires_grad}
    tensors = {f"network.{k}": v for k, v in network.state_dict().items() if k not in frozen}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items() if k not in frozen}
    for i, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"checkpoint.{os.getpid()}.tmp"
    metadata = {"step": str(step), "history": json.dumps(history), "total": repr(total)}
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial, metadata)
    partial.replace(folder / "checkpoint.safetensors")


def _restore(
    folder: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, History, float]:
    """Steps done, the history, and the sum of the losses since its last entry."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0, [], 0.0
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    network.load_state_dict(_part(tensors, "network."), strict=False)  # frozen parameters are not in it
    average.load_state_dict(_part(tensors, "average."), strict=False)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _part(tensors, "optimizer.").items():
        i, _, name = key.partition(".")
        state.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    history = [tuple(entry) for entry in json.loads(metadata["history"])]
    return int(metadata["step"]), history, float(metadata["total"])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
