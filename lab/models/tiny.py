"""Pipelines of diffusers' own classes, small enough to build, train and sample in seconds, and with no download.

Everything that is done to Stable Diffusion here can be tried on them first: they have the same parts (UNet, VAE, CLIP
text encoder and tokenizer), the same configuration files and the same calling conventions. Weights are random.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DDPMPipeline,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

STABLE_DIFFUSION_1 = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""The scheduler's configuration as Stable Diffusion 1.5 ships it: eps-prediction, leading steps, the flaw."""


def tokenizer(words: Sequence[str] = (), length: int = 77) -> CLIPTokenizer:
    """CLIP's byte-level tokenizer, in which each of these lower-case words is one token, and all else is spelt out."""
    # the visible stand-ins of the 256 bytes that GPT-2's and CLIP's vocabularies start with
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    symbols = [chr(b) for b in visible] + [chr(256 + i) for i in range(len(hidden))]
    tokens, merges = [*symbols, *(s + "</w>" for s in symbols)], []
    for word in words:
        for end in range(2, len(word) + 1):
            last = "</w>" if end == len(word) else ""
            pair = word[: end - 1], word[end - 1] + last
            if (merged := "".join(pair)) not in tokens:
                tokens.append(merged)
                merges.append(pair)
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:  # files: transformers 4 takes nothing else
        vocabulary, pairs = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
        pairs.write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=length)


def _text(tokenizer: CLIPTokenizer, width: int, projection: bool = False) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def _vae(widths: Sequence[int], channels: int = 4) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=tuple(widths),
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=min(widths) // 2,
        sample_size=32,
    ).eval()


def _unet(widths: Sequence[int], cross: int, **options: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=tuple(widths),
        down_block_types=("DownBlock2D",) * (len(widths) - 1) + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (len(widths) - 1),
        layers_per_block=1,
        cross_attention_dim=cross,
        attention_head_dim=2,
        norm_num_groups=min(widths) // 2,
        **options,
    ).eval()


def stable_diffusion(
    words: Sequence[str] = (), widths: Sequence[int] = (8, 16), text: int = 16, seed: int = 0, **scheduler: Any
) -> StableDiffusionPipeline:
    """A Stable Diffusion of 32x32 pictures and 4x16x16 latents.

    Args:
        words: those that the tokenizer knows as one token.
        widths: channels of the UNet at 16x16, 8x8, ...; the VAE has (8, 16).
        text: width of the text encoder.
        scheduler: changes to `STABLE_DIFFUSION_1`, such as prediction_type="v_prediction".
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        known = tokenizer(words)
        return StableDiffusionPipeline(
            vae=_vae((8, 16)),
            text_encoder=_text(known, text),
            tokenizer=known,
            unet=_unet(widths, text),
            scheduler=DDIMScheduler.from_config(STABLE_DIFFUSION_1 | scheduler),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def stable_diffusion_xl(widths: Sequence[int] = (8, 16), text: int = 16, seed: int = 0) -> StableDiffusionXLPipeline:
    """The same with XL's two text encoders and its size conditioning."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        known = tokenizer()
        unet = _unet(
            widths,
            2 * text,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=text + 6 * 4,
            transformer_layers_per_block=1,
        )
        return StableDiffusionXLPipeline(
            vae=_vae((8, 16)),
            text_encoder=_text(known, text),
            text_encoder_2=_text(known, text, projection=True),
            tokenizer=known,
            tokenizer_2=known,
            unet=unet,
            scheduler=DDIMScheduler.from_config(STABLE_DIFFUSION_1),
            add_watermarker=False,
        )


def control_net(pipeline: StableDiffusionPipeline) -> ControlNetModel:
    """A ControlNet for `stable_diffusion`'s UNet; conditioned on 32x32 pictures."""
    return ControlNetModel.from_unet(
        pipeline.unet, conditioning_embedding_out_channels=(4, 8), conditioning_channels=3
    ).eval()


def unconditional(widths: Sequence[int] = (8, 16), seed: int = 0, **scheduler: Any) -> DDPMPipeline:
    """Pictures of 3x16x16 from a UNet alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DModel(
            sample_size=16,
            block_out_channels=tuple(widths),
            down_block_types=("DownBlock2D",) * len(widths),
            up_block_types=("UpBlock2D",) * len(widths),
            layers_per_block=1,
            norm_num_groups=min(widths) // 2,
            add_attention=False,
        ).eval()
        return DDPMPipeline(unet=unet, scheduler=DDIMScheduler.from_config(STABLE_DIFFUSION_1 | scheduler))


def quiet(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """The pipeline, without its progress bar."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
