r"""Fine-tuning Stable Diffusion to zero terminal SNR, as Lin et al. 2023 did (Sec. 4): one command, or three calls.

    L = E_t E_eps |v - F(x_t, t, caption)|^2,    x_t = cos(phi) x0 + sin(phi) eps,    v = cos(phi) eps - sin(phi) x0

x0 is the VAE's latent; phi = phi_t is that of Algorithm 1 (float64), t uniform in 1 .. T, and phi_T = pi/2. What the
network used to say about eps is simply read as v from the first step on. Captions are dropped with probability 0.1.

    python -m zsnr.text_to_image --model stable-diffusion-v1-5 --folder pictures --out fixed --images 100000
    accelerate launch --num_processes 8 -m zsnr.text_to_image ...      # the same batch, on 8 GPUs

The result is a plain diffusers pipeline: `StableDiffusionPipeline.from_pretrained("fixed")`. A LoRA changes what the
network predicts, so it works with the scheduler that it was trained for only: `fixed/lora` holds both,

    pipe.scheduler = DDIMScheduler.from_pretrained("fixed/lora", subfolder="scheduler")
    pipe.load_lora_weights("fixed/lora")

Runs on accelerate. Noise, step, caption dropout and flip belong to the picture's place in the training, not to a
process: processes and micro-batches change the speed and the memory, not the numbers. A killed run goes on.
Pictures are squares of one size: there are no aspect-ratio buckets.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from accelerate.utils.memory import should_reduce_batch_size
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from zsnr import captions, card, encode, loop, lora, pipelines, training
from zsnr.captions import captioned
from zsnr.prediction import DIFFUSERS, target
from zsnr.schedule import Schedule, from_scheduler

__all__ = ["FineTune", "captioned", "fine_tune", "save"]


@dataclasses.dataclass(frozen=True)
class FineTune:
    """How to fine-tune. The paper: 100 million pictures, batches of 2048, lr 1e-4, EMA 0.9999 a step.

    Args:
        zero_snr: Algorithm 1, v-prediction, trailing steps; otherwise train on as the pipeline is, for a control.
        images: how many pictures are seen, passes over the folder included.
        batch: pictures a step, over all processes.
        accumulate: micro-batches that each process's share of a batch is split into, for memory.
        lr: AdamW's learning rate, reached after `warmup` pictures, falling linearly to 0 at the end.
        warmup: pictures over which lr rises.
        ema_halflife: half-life, in pictures, of the average of the weights that is returned.
        clip: norm that gradients are clipped to; 0 for none.
        unconditional: probability that a caption is dropped, for guidance.
        resolution: of the square pictures, in pixels.
        precision: float32, or bf16 for autocast to bfloat16; trained weights are float32 in both.
        checkpointing: of gradients: a third more time, far less memory.
        lora_rank: of low-rank changes to the UNet; 0 to train all of its weights. Wants a higher lr, about 1e-4.
        lora_layers: all, for every projection and convolution, or attention, for its projections only.
            The latter suits a change of style, but is too little to turn eps into v.
        flip: mirror pictures half of the time.
        seed: of everything that is drawn.
    """

    zero_snr: bool = True
    images: int = 100_000
    batch: int = 64
    accumulate: int = 1
    lr: float = 2e-5
    warmup: int = 5_000
    ema_halflife: int = 10_000
    clip: float = 1.0
    unconditional: float = 0.1
    resolution: int = 512
    precision: str = "float32"
    checkpointing: bool = False
    lora_rank: int = 0
    lora_layers: str = "all"
    flip: bool = False
    seed: int = 0

    def check(self) -> None:
        """Refuse, before any work, a recipe that cannot be trained."""
        for name in ("images", "batch", "accumulate", "lr", "ema_halflife", "resolution"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        for name in ("warmup", "clip", "lora_rank", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must not be negative")
        if not 0 <= self.unconditional <= 1:
            raise ValueError(f"unconditional = {self.unconditional}: a probability lies in [0, 1]")
        if self.precision not in ("float32", "bf16"):
            raise ValueError(f"unknown precision {self.precision!r}; choose float32 or bf16")
        if self.lora_layers not in lora.LAYERS:
            raise ValueError(f"unknown lora_layers {self.lora_layers!r}; choose {' or '.join(lora.LAYERS)}")


def fine_tune(
    pipeline: DiffusionPipeline, folder: str | Path, recipe: FineTune, scratch: str | Path
) -> tuple[DiffusionPipeline, loop.History]:
    """Fine-tune a copy of the pipeline's UNet, or go on with the checkpoint that an interrupted call left in `scratch`.

    Args:
        pipeline: of Stable Diffusion 1, 2 or XL; left as it is.
        folder: of captioned pictures, see `zsnr.captions`.
        scratch: folder for checkpoints, read by all machines; `zsnr.training.clean` removes it once the result is safe.

    Returns:
        A pipeline with the averaged UNet (a LoRA is an adapter on a copy of the old one), the scheduler that goes with
        it, and the other parts of the given pipeline; and (pictures seen, mean loss since the entry before).
    """
    recipe.check()
    pipelines.check(pipeline, recipe.resolution)
    schedule, prediction, scheduler = pipelines.aim(pipeline, recipe.zero_snr)
    accelerator = Accelerator()
    _check_launch(accelerator, recipe)
    pictures = captioned(folder)
    names = _digest([path for path, _ in pictures], accelerator)
    if accelerator.is_main_process:
        encode.warn_of_cuts(pipeline, pictures)

    unet = _network(pipeline.unet, recipe)
    trained = sum(p.numel() for p in unet.parameters() if p.requires_grad)
    frozen = encode.encoder(pipeline, accelerator.device)
    paths, texts = zip(*pictures, strict=True)

    def loss(network: nn.Module, index: Tensor, seed: Tensor, t: Tensor, drop: Tensor, flip: Tensor) -> Tensor:
        files = [paths[i] for i in index.tolist()]
        prompts = ["" if no else texts[i] for i, no in zip(index.tolist(), drop.tolist(), strict=True)]
        with torch.no_grad():
            x0, eps, sizes = encode.latents(frozen, files, seed.tolist(), flip.tolist(), recipe.resolution)
            conditions = encode.conditions(frozen, prompts, sizes)
        return _objective(network, x0, eps, t, conditions, schedule, prediction, recipe.precision)

    steps = -(-recipe.images // recipe.batch)
    decay = 0.5 ** (recipe.batch / recipe.ema_halflife)
    alphas = hashlib.sha256(schedule.sqrt_alpha_bar.numpy().tobytes()).hexdigest()
    code = [Path(file).read_text() for file in (__file__, captions.__file__, encode.__file__)]

    def lr(step: int) -> float:
        return recipe.lr * min(1.0, (step + 1) * recipe.batch / max(recipe.warmup, 1)) * (1 - step / steps)

    with encode.quiet(pipeline), _remedies(recipe, scratch):
        average, history = loop.train(
            unet,
            lambda step: _example(len(pictures), schedule.T, recipe, step),
            loss,
            scratch,
            json.dumps([_result(recipe), alphas, names, texts, encode.digest(pipeline), code], sort_keys=True),
            images=recipe.images,
            batch=recipe.batch,
            lr=lr,
            # a window that grows with the training, so that the average soon forgets its start
            ema=lambda step: min(decay, step / (step + 10)),
            clip=recipe.clip,
            accumulate=recipe.accumulate,
            save_every=20 + 7e-7 * trained,  # ten minutes for Stable Diffusion, whose checkpoints have 14 GB
        )

    result = copy.copy(pipeline)
    result.unet = _tuned(pipeline.unet, average, recipe)
    result.scheduler = scheduler
    result.unet.card = card.Card(prediction, schedule)
    return result, history


def save(pipeline: DiffusionPipeline, out: str | Path, recipe: FineTune) -> None:
    """Write a fine-tuned pipeline to the folder `out`, for `from_pretrained`, in place of an earlier one.

    A LoRA is merged into the UNet, and written by itself, with its scheduler, to `out`/lora. Weights carry a card (see
    `zsnr.card`). All processes may call this; one writes.
    """
    out = Path(out)
    if Accelerator().is_main_process:
        _check_out(out, replace=True)
        partial = out.with_name(f".{out.name}.tmp")
        shutil.rmtree(partial, ignore_errors=True)
        with pipelines.plain():
            if recipe.lora_rank:
                lora.save(pipeline, partial / "lora")
                pipeline = lora.merged(pipeline)
            pipeline.save_pretrained(partial, safe_serialization=True)
        (partial / "fine_tune.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=1) + "\n")
        prediction = DIFFUSERS[pipeline.scheduler.config.prediction_type]
        for folder in ("unet", "lora") if recipe.lora_rank else ("unet",):
            card.write(partial / folder, card.Card(prediction, from_scheduler(pipeline.scheduler)))
        if out.exists():
            shutil.rmtree(out)
        partial.replace(out)
    Accelerator().wait_for_everyone()


def _check_launch(accelerator: Accelerator, recipe: FineTune) -> None:
    if accelerator.mixed_precision not in ("no", recipe.precision):
        raise ValueError(
            f"launched with mixed precision {accelerator.mixed_precision}, but the recipe says {recipe.precision}: "
            "launch with --mixed_precision no; the recipe alone decides"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError("launched with gradient accumulation: leave it to the recipe's `accumulate`")
    parts = accelerator.num_processes * recipe.accumulate
    if recipe.batch % parts:
        raise ValueError(
            f"a batch of {recipe.batch} does not divide over {accelerator.num_processes} processes of "
            f"{recipe.accumulate} micro-batches each: choose a multiple of {parts}"
        )


def _check_out(out: Path, replace: bool) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (replace and (out / "fine_tune.json").is_file())):
        raise FileExistsError(f"{out} is there already{', and no earlier result' * replace}: choose a new folder")


def _digest(paths: list[Path], accelerator: Accelerator) -> list[str]:
    """Each picture's digest, in order; each process reads its own part."""
    found, errors = captions.digests(paths[accelerator.process_index :: accelerator.num_processes])
    captions.refuse(gather_object(errors))
    mine = [(accelerator.process_index + k * accelerator.num_processes, digest) for k, digest in enumerate(found)]
    return [digest for _, digest in sorted(gather_object(mine))]


@contextmanager
def _remedies(recipe: FineTune, scratch: str | Path) -> Iterator[None]:
    """Say what to do where memory is short."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error):
            raise torch.OutOfMemoryError(
                f"{error}\nOut of memory. Try, in this order: checkpointing; more micro-batches (accumulate, here "
                f"{recipe.accumulate}, for a batch of {recipe.batch}), with which it goes on from {scratch}; "
                "precision bf16; lora_rank above 0, such as 8; a smaller resolution"
            ) from error
        raise


def _result(recipe: FineTune) -> dict[str, Any]:
    """What the result depends on; the others save memory, and may change when a run goes on."""
    fields = dataclasses.asdict(recipe)
    return {k: v for k, v in fields.items() if k not in ("accumulate", "checkpointing")}


def _network(unet: Any, recipe: FineTune) -> Any:
    """What is trained: in float32; what is frozen beside a LoRA, in the recipe's precision."""
    unet = encode.shared(unet)
    if recipe.lora_rank:
        unet = unet.bfloat16() if recipe.precision == "bf16" else unet.float()
        unet = lora.adapted(unet, recipe.lora_rank, recipe.lora_layers, recipe.seed)
        for parameter in unet.parameters():
            if parameter.requires_grad:
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
    network: nn.Module,
    x0: Tensor,
    eps: Tensor,
    t: Tensor,
    conditions: dict[str, Any],
    schedule: Schedule,
    prediction: str,
    precision: str,
) -> Tensor:
    """|target - F(x_t, t, conditions)|^2, averaged over latents; t from 0."""
    alpha = schedule.sqrt_alpha_bar.to(x0.device)[t].to(x0.dtype).view(-1, 1, 1, 1)
    sigma = (1 - schedule.alpha_bar).sqrt().to(x0.device)[t].to(x0.dtype).view(-1, 1, 1, 1)
    with torch.autocast(x0.device.type, torch.bfloat16, enabled=precision == "bf16"):
        output = network(alpha * x0 + sigma * eps, t, return_dict=False, **conditions)[0]
    return (target(prediction, x0, eps, alpha, sigma) - output.float()).square().mean()


def _example(n: int, T: int, recipe: FineTune, step: int) -> tuple[Tensor, ...]:
    """Pictures, seeds, steps from 0, dropped captions and flips of a batch, from (seed, step); seeds torch, too.

    Each pass over the n pictures is in an order of its own.
    """
    places = range(step * recipe.batch, (step + 1) * recipe.batch)
    index = torch.stack([_order(n, recipe.seed, place // n)[place % n] for place in places])
    g = training.generator(recipe.seed, step)
    seeds = torch.randint(2**63 - 1, (recipe.batch,), generator=g)
    t = torch.randint(T, (recipe.batch,), generator=g)
    drop = torch.rand(recipe.batch, generator=g) < recipe.unconditional
    flip = (torch.rand(recipe.batch, generator=g) < 0.5) & recipe.flip
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=g)))  # dropout, where a UNet has it
    return index, seeds, t, drop, flip


@functools.lru_cache(2)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=training.generator(seed, epoch, 1))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: every field of `FineTune` is an option."""
    parser = argparse.ArgumentParser(prog="python -m zsnr.text_to_image", description=(__doc__ or "").split("\n")[0])
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--model", required=True, help="folder of a diffusers pipeline, or its name on the hub")
    parser.add_argument("--folder", required=True, help="of captioned pictures")
    parser.add_argument("--out", required=True, help="new folder, for the result")
    parser.add_argument(
        "--scratch",
        help="where a folder for checkpoints is made, and removed at the end; beside OUT by default",
    )
    explained = dict(re.findall(r"^ {8}(\w+): (.*)$", FineTune.__doc__ or "", re.MULTILINE))
    for field in dataclasses.fields(FineTune):
        kind: dict[str, Any] = {"type": type(field.default)}
        if isinstance(field.default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        parser.add_argument(
            "--" + field.name.replace("_", "-"), default=field.default, help=explained[field.name], **kind
        )
    options = vars(parser.parse_args(arguments))
    model, folder, out = options.pop("model"), options.pop("folder"), Path(options.pop("out")).absolute()
    scratch = Path(options.pop("scratch") or out.parent) / (out.name + "-scratch")  # nothing else of the user's in it
    recipe = FineTune(**options)
    try:
        recipe.check()
        _check_out(out, replace=False)
        captioned(folder)
        pipeline = pipelines.load(model)
        tuned, _ = fine_tune(pipeline, folder, recipe, scratch)
        save(tuned, out, recipe)
    except (ValueError, OSError, FloatingPointError, torch.OutOfMemoryError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
    if Accelerator().is_main_process:
        training.clean(scratch)
        print(f"saved {out}")
    Accelerator().end_training()


if __name__ == "__main__":
    main()
