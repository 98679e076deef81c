"""Pipelines of diffusers before and after fine-tuning: what can be trained, on which schedule, and how it is loaded."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import Accelerator
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import nn

from zsnr.diffusers.config import from_scheduler, prediction_of
from zsnr.prediction import check_prediction
from zsnr.schedule import Schedule, rescale_zero_terminal_snr


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


def training_target(pipeline: Any, zero_snr: bool) -> tuple[Schedule, str, Any]:
    """The schedule to train on, what is to be predicted, and the scheduler that samples it.

    Args:
        zero_snr: as the paper's authors released theirs; otherwise the pipeline's own.
    """
    config = pipeline.scheduler.config
    schedule = from_scheduler(pipeline.scheduler)
    if not zero_snr:
        prediction = prediction_of(config)
        check_prediction(prediction, schedule)
        return schedule, prediction, copy.deepcopy(pipeline.scheduler)
    schedule = rescale_zero_terminal_snr(schedule)
    scheduler = DDIMScheduler(
        **{
            k: config.get(k)
            for k in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
        },
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
    return schedule, "v", scheduler


def load(model: str) -> Any:
    """A pipeline from a folder or the hub, in float32, from safetensors only."""
    if Path(model).exists() and not (Path(model) / "model_index.json").is_file():
        raise FileNotFoundError(f"{model} holds no diffusers pipeline: its model_index.json is missing")
    with Accelerator().main_process_first(), plain():
        try:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(model, use_safetensors=True)
        except (OSError, ValueError) as error:
            what = (
                f"{model} cannot be loaded"
                if Path(model).exists()
                else f"no folder {model}, and none to be had on the hub"
            )
            raise FileNotFoundError(f"{what}: {error}") from error
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.float()
    return pipeline


@contextmanager
def plain() -> Iterator[None]:
    """No progress bars of diffusers and transformers where there is no terminal."""
    bars = [library.utils.logging for library in (diffusers, transformers)]
    shown = [bar.is_progress_bar_enabled() for bar in bars]
    if not sys.stderr.isatty():
        for bar in bars:
            bar.disable_progress_bar()
    try:
        yield
    finally:
        for bar, was in zip(bars, shown, strict=True):
            if was:
                bar.enable_progress_bar()
