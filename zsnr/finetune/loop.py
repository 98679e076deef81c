r"""The training loop: one that a kill at any moment does not change.

Each step draws everything from a generator seeded by (seed, step), so that a checkpoint is weights, averages, optimizer
moments and a step count; the step after a restart is the step that would have come. On accelerate: a launcher spreads
the same global batch over devices and machines. What is learnt, and from what, are the caller's functions; parameters
that need no gradient are neither trained, averaged nor kept.
"""

from __future__ import annotations

import copy
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Generator, Tensor, nn
from tqdm import tqdm

from zsnr.finetune.checkpoint import Checkpoint, History, digest
from zsnr.finetune.muon import Muon
from zsnr.finetune.recipe import Recipe


def generator(*seed: int) -> Generator:
    """A CPU generator for a tuple of integers; torch itself would keep only the lowest 32 bits of one."""
    return Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))


def seed_dropout(generator: Generator) -> None:
    """Seed torch itself, for dropout where a network has it, by a number of the step's generator."""
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))


def check_launch(accelerator: Accelerator, recipe: Recipe, accumulate: int) -> None:
    """Refuse a launch that contradicts the recipe, or cannot share out its batches."""
    if accelerator.mixed_precision not in ("no", recipe.precision):
        raise ValueError(
            f"launched with mixed precision {accelerator.mixed_precision}, but the recipe says {recipe.precision}: "
            "launch with --mixed_precision no; the recipe alone decides"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError("launched with gradient accumulation: leave it to the recipe's `accumulate`")
    if (kind := accelerator.distributed_type) in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise ValueError(f"{kind.value} splits the weights, which are averaged whole: launch DDP")
    parts = accelerator.num_processes * accumulate
    if recipe.batch % parts:
        raise ValueError(
            f"a batch of {recipe.batch} does not divide over {accelerator.num_processes} processes of {accumulate} "
            f"micro-batches each: choose a multiple of {parts}"
        )


def clean(scratch: str | Path) -> None:
    """Remove the checkpoints, once the result is safe."""
    shutil.rmtree(scratch, ignore_errors=True)


def train(
    network: nn.Module,
    example: Callable[[int], tuple[Tensor, ...]],
    loss: Callable[..., Tensor],
    recipe: Recipe,
    scratch: str | Path,
    description: Mapping[str, Any],
    *,
    accumulate: int = 1,
    save_every: float = 20.0,
    note: str = "",
    timed: bool = False,
    unfinished: Callable[[], None] = lambda: None,
) -> tuple[nn.Module, History]:
    """Train a copy of `network`, or go on with the checkpoint that an interrupted call left in `scratch`.

    Args:
        network: left as it is.
        example: step -> tensors of the step's whole batch, the same at each call.
        loss: (network, *tensors) -> the loss of these examples, a mean over them; a process passes its share only. All
            are on the network's device but those of float64, which stay on the CPU.
        recipe: pictures in all and in a step over all processes, learning rate, averaging, clipping.
        scratch: folder for the checkpoint of this training.
        description: what else the result depends on, in JSON: the recipe's values, the version of the code that defines
            what is learnt, the data. Another description is another training.
        accumulate: parts that a process's share of a batch is split into, one after the other, to save memory.
        save_every: seconds between checkpoints. One is also left by an error, with the steps done before it.
        note: printed where there is no checkpoint of a finished training, for callers that expect one.
        timed: print, after a few steps, how long one takes.
        unfinished: called before the first step, unless the checkpoint is that of a finished training; may refuse.

    Returns:
        The averaged network, and (pictures seen, mean loss since the entry before) about 50 times.
    """
    accelerator = Accelerator()
    check_launch(accelerator, recipe, accumulate)
    place = Checkpoint(scratch, description, digest(network.state_dict().values()), digest(example(0)))
    network = copy.deepcopy(network).to(accelerator.device).train()
    # what is frozen is shared
    average = copy.deepcopy(network, {id(p): p for p in network.parameters() if not p.requires_grad}).eval()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "muon":
        optimizer = Muon(network, recipe.rate(0))
    else:
        optimizer = torch.optim.AdamW(trained, lr=recipe.rate(0), weight_decay=0.0)
    state = place.restore(network, average, optimizer)
    if accelerator.gather(torch.tensor([state.step], device=accelerator.device)).unique().numel() > 1:
        raise ValueError(f"not all processes see the checkpoint in {scratch}: put it where every machine can read it")
    if not state.finished:
        unfinished()
    if accelerator.is_main_process and not state.finished:
        news = [note] if note else []
        news += [f"going on from {place.folder.name}, step {state.step}"] if state.step else place.others()
        print("".join(f"{line}\n" for line in news), end="", file=sys.stderr)
    network, optimizer = accelerator.prepare(network, optimizer)

    def check() -> None:
        if not all(p.isfinite().all() for p in trained):
            raise FloatingPointError(_diverged("the weights are not finite", recipe, state.step))

    def save() -> None:
        check()
        if accelerator.is_main_process:
            place.save(state, accelerator.unwrap_model(network), average, optimizer)

    steps, batch = recipe.steps, recipe.batch
    share = batch // accelerator.num_processes
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    every, saved, first, started = max(1, steps // 50), time.monotonic(), state.step, 0.0
    shown = accelerator.is_main_process and sys.stderr.isatty()
    bar = tqdm(total=steps, initial=state.step, unit="step", disable=not shown)

    def progress(entry: tuple[int, float]) -> None:
        print(f"{entry[0]:8d} of {steps * batch} pictures, loss {entry[1]:.4f}", flush=True)

    if accelerator.is_main_process and bar.disable and not (state.finished and note):
        for entry in state.history[4::5]:  # what was killed had printed: an executed notebook does not tell of it
            progress(entry)
    while state.step < steps:
        try:
            losses: list[Tensor] = []
            for part in zip(*(z[mine].chunk(accumulate) for z in example(state.step)), strict=True):
                with accelerator.no_sync(network) if len(losses) < accumulate - 1 else nullcontext():
                    value = loss(network, *(_moved(z, accelerator.device) for z in part)) / accumulate
                    accelerator.backward(value)
                    losses.append(value.detach())
        except (Exception, KeyboardInterrupt):
            if state.step > first:
                save()
            raise
        if recipe.clip:
            accelerator.clip_grad_norm_(trained, recipe.clip)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(state.step)
        optimizer.step()
        optimizer.zero_grad()
        state.step += 1
        _average(average, accelerator.unwrap_model(network), recipe.decay(state.step))

        state.total += accelerator.reduce(sum(losses), "mean").item()
        if not np.isfinite(state.total):
            raise FloatingPointError(_diverged(f"the loss is {state.total}", recipe, state.step))
        if state.step % every == 0 or state.step == steps:
            since = state.step - (state.history[-1][0] // batch if state.history else 0)
            state.history.append((state.step * batch, state.total / since))
            state.total = 0.0
            if accelerator.is_main_process and bar.disable and len(state.history) % 5 == 0:
                progress(state.history[-1])
        state.finished, now = state.step == steps, time.monotonic()
        if state.step == first + 1:  # which took longer than others will
            check()
            started = now
        elif timed and accelerator.is_main_process and state.step == min(first + 4, steps - 1):
            pace, left = (now - started) / (state.step - first - 1), steps - state.step
            print(
                f"{pace:.3g} s a step, {timedelta(seconds=round(pace * left))} for the {left} that are left", flush=True
            )
        if now - saved > save_every or state.finished:
            save()
            saved = time.monotonic()
        bar.update()
    bar.close()
    return average.cpu(), state.history


def _moved(z: Tensor, device: torch.device) -> Tensor:
    """On the device; float64 stays on the CPU, as Apple's GPUs have none: what uses it casts it, then moves it."""
    return z if z.dtype == torch.float64 else z.to(device)


def _diverged(what: str, recipe: Recipe, step: int) -> str:
    remedy = f"at lr = {recipe.rate(step - 1):.3g}: lower lr, or train in float32"
    return f"{what} after {step * recipe.batch} pictures, {remedy}"


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, parameter in zip(average.parameters(), network.parameters(), strict=True):
        if parameter.requires_grad:
            mean.lerp_(parameter, 1 - decay)
