"""Pipelines of diffusers before and after fine-tuning: what can be trained, on which schedule, and how it is loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import nn

from zsnr.diffusers.card import Card
from zsnr.diffusers.config import from_scheduler, prediction_of
from zsnr.schedule import rescale_zero_terminal_snr


def check(pipeline: Any, resolution: int) -> None:
    """Refuse, with the remedy, a pipeline whose UNet cannot be fine-tuned on pictures of this size."""
    if not isinstance(pipeline, (StableDiffusionPipeline, StableDiffusionXLPipeline)):
        raise ValueError(
            f"{type(pipeline).__name__} cannot be fine-tuned here: load the model as a StableDiffusionPipeline or a "
            "StableDiffusionXLPipeline (text to image)"
        )
    if pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels:
        raise ValueError(
            f"the UNet takes {pipeline.unet.config.in_channels} channels, and the VAE has "
            f"{pipeline.vae.config.latent_channels}: a model for inpainting or depth is not trained here"
        )
    if getattr(pipeline.unet, "peft_config", None):
        raise ValueError("the UNet has an adapter: fuse it (pipeline.fuse_lora) and unload it, or unload it, first")
    if any(hasattr(part, "_hf_hook") for part in pipeline.components.values()):
        raise ValueError("the pipeline is offloaded: call pipeline.remove_all_hooks() first")
    least = pipeline.vae_scale_factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)
    if resolution % least:
        raise ValueError(f"resolution = {resolution}: this model's must be a multiple of {least}")


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
    if Path(model).exists() and not (Path(model) / "model_index.json").is_file():
        raise FileNotFoundError(f"{model} holds no diffusers pipeline: its model_index.json is missing")
    with Accelerator().main_process_first():
        try:
            pipeline = DiffusionPipeline.from_pretrained(model, use_safetensors=True)
        except (OSError, ValueError) as error:
            none = "" if Path(model).exists() else f"no folder {model}, and none to be had on the hub"
            raise FileNotFoundError(f"{none or f'{model} cannot be loaded'}: {error}") from error
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.float()
    return pipeline
