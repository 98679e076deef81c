"""The three calls of a fine-tuning: see `zsnr.finetune`."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from accelerate.utils.memory import should_reduce_batch_size
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from zsnr.diffusers import card
from zsnr.diffusers.config import from_scheduler, prediction_of
from zsnr.finetune import captions, encode, loop, lora, pipelines
from zsnr.finetune.checkpoint import History, digest, remove, whole
from zsnr.finetune.recipe import FineTune
from zsnr.prediction import target

VERSION = 1
"""Of what is learnt: raised when a training of the same recipe gives other weights than before."""


def fine_tune(
    pipeline: DiffusionPipeline,
    folder: str | Path,
    recipe: FineTune,
    scratch: str | Path,
    *,
    timed: bool = False,
    unfinished: Callable[[], None] = lambda: None,
) -> tuple[DiffusionPipeline, History]:
    """Fine-tune a copy of the pipeline's UNet, or go on with the checkpoint that an interrupted call left in `scratch`.

    Args:
        pipeline: of Stable Diffusion 1, 2 or XL; left as it is.
        folder: of captioned pictures, see `zsnr.finetune.captions`.
        scratch: folder for checkpoints, read by all machines; `loop.clean` removes it once the result is safe.
        timed, unfinished: see `loop.train`.

    Returns:
        A pipeline with the averaged UNet (a LoRA is an adapter on a copy of the old one), the scheduler that goes with
        it, and the other parts of the given pipeline; and (pictures seen, mean loss since the entry before).
    """
    recipe.check()
    recipe = pipelines.fitted(recipe.resolved(), pipeline)
    aim, scheduler = pipelines.training_target(pipeline, recipe.zero_snr)
    accelerator = Accelerator()
    loop.check_launch(accelerator, recipe, recipe.accumulate)
    pictures = captions.captioned(folder)
    unet = _network(pipeline.unet, recipe)
    trained = sum(p.numel() for p in unet.parameters() if p.requires_grad)
    if accelerator.is_main_process:
        what = f"{trained:,} parameters, {f'rank {recipe.lora_rank} of' if recipe.lora_rank else 'all of'} the UNet"
        size = f"{len(pictures)} pictures at {recipe.resolution} x {recipe.resolution}"
        print(f"training {what}, on {size}: {recipe.steps:,} steps of {recipe.batch}", flush=True)
        encode.warn_of_cuts(pipeline, pictures)
    names = _digests(pictures, accelerator)
    frozen = encode.encoder(pipeline, accelerator.device)
    paths, texts = zip(*pictures, strict=True)

    def loss(network: nn.Module, index: Tensor, seed: Tensor, t: Tensor, drop: Tensor, flip: Tensor) -> Tensor:
        files = [paths[i] for i in index.tolist()]
        prompts = ["" if no else texts[i] for i, no in zip(index.tolist(), drop.tolist(), strict=True)]
        with torch.no_grad():
            x0, eps, sizes = encode.latents(frozen, files, seed.tolist(), flip.tolist(), recipe.resolution)
            conditions = encode.conditions(frozen, prompts, sizes)
        return _objective(network, x0, eps, t, conditions, aim, recipe.precision)

    description = {
        "training": "fine-tuning of a pipeline",
        "version": VERSION,
        "recipe": {k: v for k, v in dataclasses.asdict(recipe).items() if k not in ("accumulate", "checkpointing")},
        "schedule": hashlib.sha256(aim.steps.sqrt_alpha_bar.numpy().tobytes()).hexdigest(),
        "pictures": names,
        "captions": texts,
        "scale of latents": [pipeline.vae.config.get(k) for k in ("scaling_factor", "shift_factor")],
        "frozen parts": digest(z for part in encode.frozen(pipeline).values() for z in part.state_dict().values()),
    }
    try:
        with encode.quiet(pipeline):
            average, history = loop.train(
                unet,
                lambda step: _example(len(pictures), aim.steps.T, recipe, step),
                loss,
                recipe,
                scratch,
                description,
                accumulate=recipe.accumulate,
                timed=timed,
                unfinished=unfinished,
                save_every=20 + 7e-7 * trained,  # ten minutes for Stable Diffusion, whose checkpoints have 14 GB
            )
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
            raise
        raise torch.OutOfMemoryError(
            f"{error}\nOut of memory. Try, in this order: checkpointing; more micro-batches (accumulate, here "
            f"{recipe.accumulate}, for a batch of {recipe.batch}), with which it goes on from {scratch}; "
            "precision bf16; lora_rank above 0, such as 8; a smaller resolution"
        ) from error

    result = copy.copy(pipeline)
    result.unet = _tuned(pipeline.unet, average, recipe)
    result.scheduler = scheduler
    result.unet.card = aim
    return result, history


def save(pipeline: DiffusionPipeline, out: str | Path, recipe: FineTune) -> None:
    """Write a fine-tuned pipeline to the folder `out`, for `from_pretrained`, in place of an earlier one.

    A LoRA is merged into the UNet, and written by itself, with its scheduler, to `out`/lora. Weights carry a card (see
    `zsnr.diffusers.card`). All processes may call this; one writes.
    """
    out = Path(out)
    if Accelerator().is_main_process:
        check_out(out, replace=True)
        recipe = pipelines.with_resolution(recipe.resolved(), pipeline)
        if not all(p.isfinite().all() for p in pipeline.unet.parameters()):
            raise FloatingPointError(f"the UNet's weights are not finite in {pipeline.unet.dtype}: nothing is saved")
        remedy = "the result: free some, and start again with the same scratch, which holds the finished training"
        with whole(out, out.with_name(f".{out.name}.tmp"), remedy) as place:
            if recipe.lora_rank:
                lora.save(pipeline, place / "lora")
                pipeline = lora.merged(pipeline)
            pipeline.save_pretrained(place, safe_serialization=True)
            pipelines.keep(pipeline, place)
            (place / "fine_tune.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=1) + "\n")
            aim = card.Card(prediction_of(pipeline.scheduler.config), from_scheduler(pipeline.scheduler))
            for folder in ("unet", "lora") if recipe.lora_rank else ("unet",):
                card.write(place / folder, aim)
    Accelerator().wait_for_everyone()


def check_out(out: Path, replace: bool) -> None:
    """Refuse a folder that holds something else; remove what a killed run has left of a result."""
    remove(out.with_name(f".{out.name}.tmp"))
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (replace and (out / "fine_tune.json").is_file())):
        raise FileExistsError(f"{out} is there already{', and no earlier result' * replace}: choose a new folder")


def _digests(pictures: captions.Captioned, accelerator: Accelerator) -> list[str]:
    """Each picture's digest, in order; each process reads its own part."""
    share = range(accelerator.process_index, len(pictures), accelerator.num_processes)
    found = sorted(gather_object([(i, *captions.digest(pictures[i][0])) for i in share]))
    if errors := [error for *_, error in found if error]:
        raise ValueError(f"{len(errors)} pictures do not open: {captions.first(errors)}; mend or remove them")
    return [digest for _, digest, _ in found]


def _network(unet: Any, recipe: FineTune) -> Any:
    """What is trained: in float32; what is frozen beside a LoRA, in the recipe's precision."""
    unet = encode.shared(unet)
    if recipe.lora_rank:
        unet = unet.bfloat16() if recipe.precision == "bf16" else unet.float()
        unet = lora.adapted(unet, recipe.lora_rank, recipe.lora_layers, recipe.seed)
        for parameter in filter(lambda p: p.requires_grad, unet.parameters()):
            parameter.data = parameter.data.float()
    else:
        unet = unet.float().requires_grad_(True)
    if recipe.checkpointing:
        unet.enable_gradient_checkpointing()
    return unet


def _tuned(unet: Any, average: Any, recipe: FineTune) -> Any:
    """The averaged weights where the UNet was, in its precision."""
    if recipe.lora_rank:
        tuned = lora.adapted(copy.deepcopy(unet), recipe.lora_rank, recipe.lora_layers, recipe.seed)
        tuned.load_state_dict({k: v for k, v in average.state_dict().items() if "lora_" in k}, strict=False)
        return tuned.eval()
    if recipe.checkpointing:
        average.disable_gradient_checkpointing()
    return average.to(unet.device).type(unet.dtype).eval()


def _objective(
    network: nn.Module, x0: Tensor, eps: Tensor, t: Tensor, conditions: dict[str, Any], aim: card.Card, precision: str
) -> Tensor:
    """|target - F(x_t, t, conditions)|^2, averaged over latents; t from 0."""
    tables = aim.steps.sqrt_alpha_bar, (1 - aim.steps.alpha_bar).sqrt()
    # cast, then moved: there are devices without float64
    alpha, sigma = (table.to(x0.dtype).to(x0.device)[t].view(-1, 1, 1, 1) for table in tables)
    with torch.autocast(x0.device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
        output = network(alpha * x0 + sigma * eps, t, return_dict=False, **conditions)[0]
    return (target(aim.prediction, x0, eps, alpha, sigma) - output.float()).square().mean()


def _example(n: int, T: int, recipe: FineTune, step: int) -> tuple[Tensor, ...]:
    """Pictures, seeds, steps from 0, dropped captions and flips of a batch, from (seed, step); seeds torch, too.

    Each pass over the n pictures is in an order of its own.
    """
    places = range(step * recipe.batch, (step + 1) * recipe.batch)
    index = torch.stack([_order(n, recipe.seed, place // n)[place % n] for place in places])
    g = loop.generator(recipe.seed, step)
    seeds = torch.randint(2**63 - 1, (recipe.batch,), generator=g)
    t = torch.randint(T, (recipe.batch,), generator=g)
    drop = torch.rand(recipe.batch, generator=g) < recipe.unconditional
    flip = (torch.rand(recipe.batch, generator=g) < 0.5) & recipe.flip
    loop.seed_dropout(g)
    return index, seeds, t, drop, flip


@functools.lru_cache(2)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=loop.generator(seed, epoch, 1))
