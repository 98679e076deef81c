r"""Low-rank changes to a UNet by peft: W <- W + B A, rank r, B = 0 at the start (Hu et al. 2021, alpha = r)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

ATTENTION = r"(to_[qkv]|to_out\.0)"
REST = r"(proj_in|proj_out|net\.0\.proj|net\.2|time_emb_proj|linear_\d|conv(\d|_in|_out|_shortcut)?)"
LAYERS = {"attention": rf".*\.{ATTENTION}", "all": rf"(.*\.)?({ATTENTION}|{REST})"}
"""Names of the layers that are changed: the attention's projections, or all projections and convolutions."""


def adapted(unet: Any, rank: int, layers: str, seed: int) -> Any:
    """The UNet itself, frozen, with a LoRA that changes nothing yet."""
    from peft import LoraConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=LAYERS[layers])
        unet.requires_grad_(False).add_adapter(config)
    return unet


def merged(pipeline: Any) -> Any:
    """The pipeline with its UNet's LoRA merged into the weights."""
    result = copy.copy(pipeline)
    result.unet = copy.deepcopy(pipeline.unet)
    result.unet.fuse_lora()
    result.unet.unload_lora()
    return result


def save(pipeline: Any, folder: Path) -> None:
    """Write the LoRA by itself, for `load_lora_weights`, with the scheduler that it needs."""
    from peft import get_peft_model_state_dict

    pipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(pipeline.unet))
    pipeline.scheduler.save_pretrained(folder / "scheduler")
