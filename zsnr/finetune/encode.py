"""What a Stable Diffusion's UNet is trained on, by the pipeline's frozen parts: latents, noise, captions' embeddings.

Everything drawn for a picture comes from a generator of its own, so that it does not depend on batch or process.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zsnr.finetune import captions, loop


def shared(module: nn.Module) -> Any:
    """A copy with the same weights in the same memory, that need no gradient."""
    return copy.deepcopy(module, {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()})


def frozen(pipeline: Any) -> dict[str, Any]:
    """The parts whose weights decide what a UNet learns, and are not trained, by name."""
    parts = {name: getattr(pipeline, name, None) for name in ("vae", "text_encoder", "text_encoder_2")}
    return {name: part for name, part in parts.items() if part is not None}


def encoder(pipeline: Any, device: torch.device) -> Any:
    """The pipeline with its frozen parts on the device, in float32: some VAEs overflow in float16."""
    result = copy.copy(pipeline)
    for name, part in frozen(pipeline).items():
        setattr(result, name, shared(part).to(device).float().eval())
    return result


def latents(
    encoder: Any, files: list[Path], seeds: list[int], flips: list[bool], resolution: int
) -> tuple[Tensor, Tensor, Tensor]:
    """x0 drawn from the VAE's posterior, and eps, both by each picture's own generator; and the pictures' sizes."""
    with ThreadPoolExecutor(8) as threads:
        read = threads.map(captions.picture, files, [resolution] * len(files), flips)
    pixels, sizes = (torch.stack(z) for z in zip(*read, strict=True))
    vae = encoder.vae
    posterior = vae.encode(pixels.to(vae.device)).latent_dist
    noise = [torch.randn(2, *posterior.mean.shape[1:], generator=loop.generator(seed)) for seed in seeds]
    draw, eps = torch.stack(noise, 1).to(vae.device)
    x0 = posterior.mean + posterior.std * draw
    return (x0 - (vae.config.shift_factor or 0)) * vae.config.scaling_factor, eps, sizes.to(vae.device)


def conditions(encoder: Any, prompts: list[str], sizes: Tensor) -> dict[str, Any]:
    """What the UNet is told: the captions' embeddings, and for XL the sizes, as its pipeline has it."""
    embeds, _, *pooled = encoder.encode_prompt(
        prompts, device=encoder.vae.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    if not pooled:
        return {"encoder_hidden_states": embeds}
    if encoder.config.force_zeros_for_empty_prompt:  # what guidance gets for no prompt, in place of its embedding
        empty = torch.tensor([not prompt for prompt in prompts], device=embeds.device)
        embeds = embeds.masked_fill(empty[:, None, None], 0)
        pooled[0] = pooled[0].masked_fill(empty[:, None], 0)
    added = {"text_embeds": pooled[0], "time_ids": sizes.to(embeds)}
    return {"encoder_hidden_states": embeds, "added_cond_kwargs": added}


def warn_of_cuts(pipeline: Any, pictures: captions.Captioned) -> None:
    """Say which captions are too long for the text encoder."""
    tokens = pipeline.tokenizer([text for _, text in pictures], verbose=False)["input_ids"]
    most = pipeline.tokenizer.model_max_length
    if long := [path.name for (path, _), ids in zip(pictures, tokens, strict=True) if len(ids) > most]:
        warnings.warn(
            f"{len(long)} captions have more than {most} tokens, and are cut: {captions.first(long)}", stacklevel=3
        )


@contextmanager
def quiet(pipeline: Any) -> Iterator[None]:
    """Without the pipeline's own warning of long captions, which would come at every step."""

    logger = logging.getLogger(type(pipeline).__module__)
    logger.addFilter(wanted := lambda record: "truncated because CLIP" not in record.getMessage())
    try:
        yield
    finally:
        logger.removeFilter(wanted)
