r"""Training and fine-tuning: the objective, and a loop that a kill at any moment does not change.

    L = E_t E_eps  lambda_t |target - F(x_t, t)|^2,    target = v, eps or x0    (Lin et al. 2023, Eq. 12, lambda = 1)

Offset noise (Sec. 5.1) adds strength * delta to eps, one delta ~ N(0, 1) a picture and channel.

Each step draws everything from a generator seeded by (seed, step), so that a checkpoint is weights, averages, optimizer
moments and a step count; the step after a restart is the step that would have come. On accelerate: a launcher spreads
the same global batch over devices and machines.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from tqdm import tqdm

from zsnr.prediction import check_prediction, loss_weight, target
from zsnr.schedule import Schedule

Draw = Callable[[int, Generator], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        prediction: what the network predicts: eps, x0 or v.
        loss: the variable whose plain squared error is the loss; the prediction's own where empty.
        images: how many training pictures are seen.
        batch: pictures a step, over all processes.
        lr: AdamW's learning rate, reached after `warmup` pictures, falling linearly to 0 at the end.
        ema_halflife: half-life, in pictures, of the average of the weights that is returned.
        offset_noise: strength of the offset noise; 0 for none.
        precision: float32, or bf16 for autocast to bfloat16.
        seed: of everything that is drawn.
    """

    prediction: str = "v"
    loss: str = ""
    images: int = 120_000
    batch: int = 64
    lr: float = 1e-3
    warmup: int = 5_000
    ema_halflife: int = 5_000
    offset_noise: float = 0.0
    precision: str = "float32"
    seed: int = 0

    def check(self, schedule: Schedule) -> None:
        """Refuse, before any work, a recipe that cannot be trained."""
        check_prediction(self.prediction, schedule)
        check_prediction(self.loss or self.prediction)
        for name in ("images", "batch", "lr", "ema_halflife"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        for name in ("offset_noise", "warmup"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must not be negative")
        if self.precision not in ("float32", "bf16"):
            raise ValueError(f"unknown precision {self.precision!r}; choose float32 or bf16")


def generator(*seed: int) -> Generator:
    """A CPU generator for a tuple of integers; torch itself would keep only the lowest 32 bits of one."""
    return Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))


def objective(
    network: nn.Module, x0: Tensor, eps: Tensor, t: Tensor, conditions: Tensor, schedule: Schedule, recipe: Recipe
) -> Tensor:
    """The loss of a batch: lambda_t |target - F(x_t, t)|^2, averaged over pictures and pixels.

    Args:
        x0, eps: (B, C, H, W), pictures and noise.
        t: (B,), steps from 0.
    """
    alpha = schedule.sqrt_alpha_bar.to(x0)[t].view(-1, 1, 1, 1)
    sigma = (1 - schedule.alpha_bar).sqrt().to(x0)[t].view(-1, 1, 1, 1)
    # not by accelerate, which would fix one precision for the whole process
    with torch.autocast(x0.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        output = network(alpha * x0 + sigma * eps, t, class_labels=conditions)
    error = target(recipe.prediction, x0, eps, alpha, sigma) - output.float()
    return (loss_weight(recipe.loss or recipe.prediction, recipe.prediction, alpha, sigma) * error**2).mean()


def fit(
    network: nn.Module, draw: Draw, schedule: Schedule, recipe: Recipe, scratch: str | Path
) -> tuple[nn.Module, list[tuple[int, float]]]:
    """Train a copy of `network`, or go on with the checkpoint that an interrupted call left in `scratch`.

    Args:
        network: called as network(x, step, class_labels); left as it is.
        draw: (n, generator) -> n pictures and their conditions.
        scratch: folder for checkpoints, one subfolder a training; `clean` removes it once the result is safe.

    Returns:
        The averaged network, and (pictures seen, mean loss since the entry before) about 50 times.
    """
    recipe.check(schedule)
    accelerator = Accelerator()
    if recipe.batch % accelerator.num_processes:
        raise ValueError(f"a batch of {recipe.batch} does not divide over {accelerator.num_processes} processes")
    folder = _folder(scratch, network, draw, schedule, recipe)
    network = copy.deepcopy(network).to(accelerator.device).train()
    average = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=0.0)
    step, history = _restore(folder, network, average, optimizer)
    network, optimizer = accelerator.prepare(network, optimizer)

    steps = -(-recipe.images // recipe.batch)
    share = recipe.batch // accelerator.num_processes
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    decay = 0.5 ** (recipe.batch / recipe.ema_halflife)
    every, total, saved = max(1, steps // 50), 0.0, time.monotonic()
    bar = tqdm(
        total=steps, initial=step, unit="step", disable=not (accelerator.is_main_process and sys.stderr.isatty())
    )
    while step < steps:
        example = _example(draw, schedule, recipe, step)
        x0, eps, t, conditions = (z[mine].to(accelerator.device) for z in example)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) * recipe.batch / max(recipe.warmup, 1)) * (1 - step / steps)
        loss = objective(network, x0, eps, t, conditions, schedule, recipe)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        # a window that grows with the training, as in EDM's code, so that the average soon forgets its start
        _average(average, accelerator.unwrap_model(network), min(decay, step / (step + 10)))

        total += accelerator.reduce(loss.detach(), "mean").item()
        if not np.isfinite(total):
            raise FloatingPointError(
                f"the loss is {total} after {step * recipe.batch} pictures: lower lr = {recipe.lr}, or train in float32"
            )
        if step % every == 0 or step == steps:
            since = step - (history[-1][0] // recipe.batch if history else 0)
            history.append((step * recipe.batch, total / since))
            total = 0.0
            if accelerator.is_main_process and bar.disable and len(history) % 5 == 0:
                print(f"{history[-1][0]:8d} of {steps * recipe.batch} pictures, loss {history[-1][1]:.4f}", flush=True)
            if accelerator.is_main_process and (time.monotonic() - saved > 20 or step == steps):
                _save(folder, step, history, accelerator.unwrap_model(network), average, optimizer)
                saved = time.monotonic()
        bar.update()
    bar.close()
    return average.cpu(), history


def threads(n: int) -> None:
    """Use n threads, for results that are the same to the bit; 0 leaves the choice to torch."""
    if n < 0:
        raise ValueError(f"threads = {n}: give a number of threads, or 0 for torch's own choice")
    if n:
        torch.set_num_threads(n)


def clean(scratch: str | Path) -> None:
    """Remove the checkpoints, once the result is safe."""
    shutil.rmtree(scratch, ignore_errors=True)


def environment() -> dict[str, Any]:
    """Where a result was computed; no times, so that the same run gives the same bytes."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__.partition("+")[0]}


def _example(draw: Draw, schedule: Schedule, recipe: Recipe, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures, noise, steps and conditions of one training step, all drawn from (seed, step); seeds torch, too."""
    g = generator(recipe.seed, step)
    x0, conditions = draw(recipe.batch, g)
    t = torch.randint(schedule.T, (recipe.batch,), generator=g)
    eps = torch.randn(x0.shape, generator=g)
    if recipe.offset_noise:
        eps += recipe.offset_noise * torch.randn(*x0.shape[:2], 1, 1, generator=g)
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=g)))  # dropout, where a network has it
    return x0, eps, t, conditions


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, parameter in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(parameter, 1 - decay)


def _folder(scratch: str | Path, network: nn.Module, draw: Draw, schedule: Schedule, recipe: Recipe) -> Path:
    """A checkpoint is found again by what it was made from: recipe, schedule, weights, first pictures, this code."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(recipe), sort_keys=True).encode())
    digest.update(Path(__file__).read_bytes())
    for tensor in (schedule.sqrt_alpha_bar, *network.state_dict().values(), *_example(draw, schedule, recipe, 0)):
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return Path(scratch) / digest.hexdigest()[:16]


def _save(
    folder: Path, step: int, history: list, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
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
) -> tuple[int, list[tuple[int, float]]]:
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
