r"""Fine-tuning Stable Diffusion to zero terminal SNR, as Lin et al. 2023 did (Sec. 4): one command, or three calls.

    L = E_t E_eps |v - F(x_t, t, caption)|^2,    x_t = cos(phi) x0 + sin(phi) eps,    v = cos(phi) eps - sin(phi) x0

x0 is the VAE's latent; phi = phi_t is that of Algorithm 1 (float64), t uniform in 1 .. T, and phi_T = pi/2. What the
network used to say about eps is simply read as v from the first step on. Captions are dropped with probability 0.1.

    python -m zsnr.finetune --model stable-diffusion-v1-5 --folder pictures --out fixed --images 100000
    accelerate launch --num_processes 8 -m zsnr.finetune ...      # the same batch, on 8 GPUs

The result is a plain diffusers pipeline: `StableDiffusionPipeline.from_pretrained("fixed")`. A LoRA changes what the
network predicts, so it works with the scheduler that it was trained for only: `fixed/lora` holds both,

    pipe.scheduler = DDIMScheduler.from_pretrained("fixed/lora", subfolder="scheduler")
    pipe.load_lora_weights("fixed/lora")

Runs on accelerate. Noise, step, caption dropout and flip belong to the picture's place in the training, not to a
process: processes and micro-batches change the speed and the memory, not the numbers. A killed run goes on.
Pictures are squares of one size: there are no aspect-ratio buckets.
"""

import importlib
from typing import Any

HOMES = {"FineTune": "recipe", "captioned": "captions", "fine_tune": "tune", "save": "tune"}

__all__ = ["FineTune", "captioned", "fine_tune", "save"]


def __getattr__(name: str) -> Any:
    """Imported when asked for: `zsnr.finetune.loop` alone needs neither transformers nor peft."""
    if name in HOMES:
        return getattr(importlib.import_module(f"zsnr.finetune.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
