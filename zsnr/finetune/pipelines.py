"""Pipelines of diffusers before and after fine-tuning: what can be trained, on which schedule, and how it is loaded."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import nn

from zsnr.diffusers.card import Card
from zsnr.diffusers.card import of as card_of
from zsnr.diffusers.config import from_scheduler, prediction_of
from zsnr.finetune import captions, encode
from zsnr.finetune.recipe import FineTune
from zsnr.schedule import rescale_zero_terminal_snr

NOT_KEPT = ("*.bin", "*.msgpack", "*.h5", "*.onnx*", "*.fp16.*")
"""Files beside a part's safetensors that say the same again."""


def fitted(recipe: FineTune, pipeline: Any) -> FineTune:
    """The recipe for a pipeline, with its resolution; refuses, with the remedy, what cannot be fine-tuned so."""
    for fault in _faults(recipe, pipeline):
        raise ValueError(fault)
    if (found := card_of(pipeline.unet)) is not None:
        found.check_scheduler(pipeline.scheduler)
    recipe = with_resolution(recipe, pipeline)
    least = pipeline.vae_scale_factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)
    if recipe.resolution % least:
        raise ValueError(f"resolution = {recipe.resolution}: this model's must be a multiple of {least}")
    return recipe


def _faults(recipe: FineTune, pipeline: Any) -> Iterator[str]:
    """Why a pipeline cannot be fine-tuned, one after the other: some can be looked for only where others are not."""
    if not isinstance(pipeline, (StableDiffusionPipeline, StableDiffusionXLPipeline)):
        kinds = "a StableDiffusionPipeline or a StableDiffusionXLPipeline (text to image)"
        yield f"{type(pipeline).__name__} cannot be fine-tuned here: load the model as {kinds}"
    unet, vae = pipeline.unet, pipeline.vae.config
    if unet.config.in_channels != vae.latent_channels:
        channels = f"the UNet takes {unet.config.in_channels} channels, and the VAE has {vae.latent_channels}"
        yield f"{channels}: a model for inpainting or depth is not trained here"
    if getattr(unet, "peft_config", None):
        yield "the UNet has an adapter: fuse it (pipeline.fuse_lora) and unload it, or unload it, first"
    if any(hasattr(part, "_hf_hook") for part in pipeline.components.values()):
        yield "the pipeline is offloaded: call pipeline.remove_all_hooks() first"
    for name, part in {"unet": unet, **encode.frozen(pipeline)}.items():
        if lost := _missing(part):
            remedy = "download the model again, or load it with the version of transformers that saved it"
            yield f"the {name}'s weights lack {captions.first(lost)}, and would be drawn at random: {remedy}"
    scale, shift = vae.get("scaling_factor"), vae.get("shift_factor") or 0
    if not (scale and all(isinstance(z, (int, float)) and math.isfinite(z) for z in (scale, shift))):
        yield f"the VAE's scaling_factor is {scale}, its shift_factor {shift}: mend its config.json"
    for which in ("", "_2"):
        if (part := getattr(pipeline, f"text_encoder{which}", None)) is not None:
            words, known = part.config.vocab_size, len(getattr(pipeline, f"tokenizer{which}", None) or "")
            if not words / 2 < known <= words:  # transformers makes a tokenizer of no files, too
                yield f"text_encoder{which} has {words} tokens, tokenizer{which} {known}: download the model again"
    ranks = [min(m.weight.flatten(1).shape) for m in unet.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    if recipe.lora_rank > max(ranks):
        yield f"lora_rank = {recipe.lora_rank}: this UNet's layers have at most {max(ranks)}; 0 trains all weights"


def with_resolution(recipe: FineTune, pipeline: Any) -> FineTune:
    """The recipe with the resolution that the pipeline's UNet was made for, where it names none."""
    sides = pipeline.unet.config.sample_size
    if not (recipe.resolution or sides):
        raise ValueError("resolution = 0, and the UNet's config has no sample_size: give the pictures' resolution")
    own = (min(sides) if isinstance(sides, (list, tuple)) else sides or 0) * pipeline.vae_scale_factor
    return dataclasses.replace(recipe, resolution=recipe.resolution or own)


def _source(part: Any) -> Path | None:
    """The folder that a part of a pipeline was loaded from, if it is there."""
    name = getattr(part, "name_or_path", None) or getattr(getattr(part, "config", None), "_name_or_path", None)
    return Path(name) if name and Path(name).is_dir() else None


def _missing(part: Any) -> list[str]:
    """The parameters that were not in the files a part was loaded from: diffusers leaves them empty, or draws them."""
    lost = [name for name, weight in part.state_dict().items() if weight.is_meta]
    if not lost and isinstance(part, transformers.PreTrainedModel) and (folder := _source(part)):
        lost = sorted(type(part).from_pretrained(folder, output_loading_info=True)[1]["missing_keys"])
    return lost


def keep(pipeline: Any, out: Path) -> None:
    """Give parts that are as they were loaded the files they came from: other versions of libraries can read those."""
    for name, part in pipeline.components.items():
        folder = _source(part)
        if name not in ("unet", "scheduler") and folder and _unchanged(part, folder):
            shutil.rmtree(out / name)
            shutil.copytree(folder, out / name, ignore=shutil.ignore_patterns(*NOT_KEPT))


def _unchanged(part: Any, folder: Path) -> bool:
    """Is a part what its folder says, but for a cast?"""
    try:
        if not hasattr(part, "state_dict"):
            return str(type(part).from_pretrained(folder)) == str(part)
        ours, fresh = part.state_dict(), type(part).from_pretrained(folder, use_safetensors=True).state_dict()
        return all(torch.equal(ours[name], weight.to(ours[name])) for name, weight in fresh.items())
    except (OSError, ValueError, KeyError):
        return False


def training_target(pipeline: Any, zero_snr: bool) -> tuple[Card, Any]:
    """What is to be predicted, on which schedule, and the scheduler that samples it.

    Args:
        zero_snr: as the paper's authors released theirs; otherwise the pipeline's own.
    """
    config = pipeline.scheduler.config
    schedule = from_scheduler(pipeline.scheduler)
    if not zero_snr:
        return Card(prediction_of(config), schedule), copy.deepcopy(pipeline.scheduler)
    schedule = rescale_zero_terminal_snr(schedule)
    kept = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    scheduler = DDIMScheduler(
        **{name: config.get(name) for name in kept},
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,  # the last step goes to the clean latent
        steps_offset=1,  # trailing steps ignore it, but Stable Diffusion's pipelines warn of any other
    )
    if not torch.allclose(from_scheduler(scheduler).sqrt_alpha_bar, schedule.sqrt_alpha_bar, rtol=0, atol=1e-4):
        raise ValueError(
            f"{type(pipeline.scheduler).__name__}'s betas are not those of its config, so no config could describe the "
            "result: give the pipeline a scheduler with trained_betas"
        )
    return Card("v", schedule), scheduler


def load(model: str) -> Any:
    """A pipeline from a folder or the hub, in float32, from safetensors only."""
    if (path := Path(model)).exists():
        _check_index(path)
    with Accelerator().main_process_first():
        try:
            pipeline = DiffusionPipeline.from_pretrained(model, use_safetensors=True)
        except Exception as error:  # the libraries' are of all kinds
            none = "" if path.exists() else f"no folder {model}, and none to be had on the hub"
            raise FileNotFoundError(f"{none or f'{model} cannot be loaded'}: {error}") from error
    return pipeline.to(torch.float32)


def _check_index(path: Path) -> None:
    """Refuse a folder without the parts that its index names: a tokenizer would be made of nothing."""
    if path.is_file():
        raise FileNotFoundError(
            f"{path} is one file: save DiffusionPipeline.from_single_file(it) to a folder, and give that"
        )
    if not (index := path / "model_index.json").is_file():
        raise FileNotFoundError(f"{path} holds no diffusers pipeline: its model_index.json is missing")
    try:
        parts = {k: v for k, v in json.loads(index.read_text()).items() if isinstance(v, list) and any(v)}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{index} is not a pipeline's index ({error}): download the model again") from error
    if absent := [name for name in parts if not (path / name).is_dir()]:
        raise FileNotFoundError(f"{path} lacks {', '.join(absent)}, of its model_index.json: download the model again")
