r"""Finding 17: how exact `zsnr.ZeroSNRScheduler` and diffusers' schedulers are in a pipeline, against a known law.

The latents are Gaussian with independent pixels, channel c of them N(m_c, s_c^2), and the network of a real
`StableDiffusionPipeline` is replaced by their exact denoiser. Then every deterministic scheduler gives a picture that
is an affine function of its noise, x = a + b eps, and the data's law asks for a = m_c and b = s_c.
"""

# ruff: noqa: E402
from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from torch import Tensor

transformers.logging.set_verbosity_error()  # before the pipelines are imported, which warn of what is not installed

from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

import zsnr
from lab.measure.metrics import interval
from lab.models import tiny
from lab.studies.progress import bar
from zsnr.diffusers.wrap import EDMAsV, VModel, schedule_up_to
from zsnr.edm import EDMDenoiser, Preconditioned

STDS = torch.tensor([0.25, 1.0, 3.0, 8.0], dtype=torch.float64)
"""By channel, as directions of real latents may have: brightness is a wide one."""
MEANS = STDS / 4
CONFIG = tiny.STABLE_DIFFUSION_1 | {
    "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"
}  # fmt: skip
DIRECTIONS = {"all": slice(None), "std 8": slice(3, 4), "std 1/4": slice(0, 1)}


def ours(**settings: Any) -> Any:
    """The drop-in for the configuration above."""
    return zsnr.ZeroSNRScheduler.from_config(CONFIG, **settings)


@cache
def law() -> zsnr.Gaussian:
    """The latents' law, (4, 16, 16)."""
    return zsnr.Gaussian(MEANS.view(4, 1, 1).expand(4, 16, 16), (STDS**2).view(4, 1, 1).expand(4, 16, 16))


@cache
def parts() -> dict[str, Any]:
    """The components of a small Stable Diffusion, its network replaced by the exact denoiser."""
    diffusers.utils.logging.set_verbosity_error()
    return tiny.stable_diffusion().components | {"unet": VModel(law(), ours().schedule, channels=4, size=16)}


def built(kind: type, scheduler: Any) -> Any:
    """A pipeline of that kind with the exact network."""
    return tiny.quiet(kind(**parts() | {"scheduler": scheduler}, requires_safety_checker=False))


def drawn(scheduler: Any, steps: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    """The noise that the pipeline was given, and its latents, (batch, 4, 16, 16) both."""
    pipe = built(StableDiffusionPipeline, scheduler)
    noise = torch.randn(batch, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    x = pipe(["a picture"] * batch, num_inference_steps=steps, guidance_scale=1.0, output_type="latent", latents=noise,
             generator=torch.Generator().manual_seed(1)).images  # fmt: skip
    return noise.double(), x.double()


def errors(noise: Tensor, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """By channel: |a - m| / s of the mean and |b / s - 1| of the std, a and b by a line through x over noise."""
    noise, x = (z.transpose(0, 1).flatten(1) for z in (noise, x))
    away = noise - noise.mean(1, keepdim=True)
    slope = (x * away).sum(1) / away.square().sum(1)
    mean = x.mean(1) - slope * noise.mean(1)
    return ((mean - MEANS) / STDS).abs().numpy(), (slope / STDS - 1).abs().numpy()


@dataclass(frozen=True)
class Method:
    """How to make a scheduler, and the calls of the network that it takes a step (its last step takes one)."""

    make: Callable[[], Any]
    calls: int = 1


def methods() -> dict[str, Method]:
    """The drop-in; diffusers' schedulers with a flag for zero SNR; two without one, given the rescaled betas."""
    schedule = ours().schedule
    table = {**CONFIG, "rescale_betas_zero_snr": False, "trained_betas": schedule.betas.float().numpy()}
    nearly = zsnr.from_alpha_bar(schedule.alpha_bar.clamp(min=2**-24)).betas.numpy()
    dpm = diffusers.DPMSolverMultistepScheduler
    return {
        "zsnr Heun, power": Method(partial(ours, solver="heun", levels="power"), 2),
        "zsnr Heun, trailing": Method(partial(ours, solver="heun"), 2),
        "zsnr DDIM, trailing": Method(ours),
        "DDIM": Method(partial(diffusers.DDIMScheduler.from_config, CONFIG)),
        "Euler": Method(partial(diffusers.EulerDiscreteScheduler.from_config, CONFIG)),
        "DPM++ 2M": Method(partial(dpm.from_config, CONFIG)),
        "UniPC": Method(partial(diffusers.UniPCMultistepScheduler.from_config, CONFIG)),
        "DPM++ 2M, Karras": Method(partial(dpm.from_config, CONFIG, use_karras_sigmas=True)),
        "Heun": Method(partial(diffusers.HeunDiscreteScheduler.from_config, table), 2),
        "Heun, 2^-24 for 0": Method(
            partial(diffusers.HeunDiscreteScheduler.from_config, {**table, "trained_betas": nearly}), 2
        ),
        "KDPM2": Method(partial(diffusers.KDPM2DiscreteScheduler.from_config, table), 2),
    }


def scored(method: Method, n: int) -> tuple[np.ndarray, np.ndarray]:
    """`errors` at n calls; NaN where the scheduler fails, or asks the network at step NaN."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # divisions by zero, told by their result
            return errors(*drawn(method.make(), (n + 1) // 2 if method.calls == 2 else n))
    except (IndexError, ValueError):
        return np.full(4, np.nan), np.full(4, np.nan)


@dataclass(frozen=True)
class Errors:
    """Errors (len(calls), 4) of mean and std by method, in units of the std, at as many calls of the network."""

    calls: Sequence[int]
    mean: dict[str, np.ndarray]
    std: dict[str, np.ndarray]

    def worst(self, direction: str) -> dict[str, np.ndarray]:
        """(len(calls),) the largest error of the std by method, over the channels of a direction."""
        return {name: values[:, DIRECTIONS[direction]].max(1) for name, values in self.std.items()}

    def nearest(self, direction: str, i: int, others: bool = False) -> tuple[float, str]:
        """The least of these errors at calls[i] and whose it is; others: of diffusers' schedulers only."""
        rows = {name: v[i] for name, v in self.worst(direction).items() if not (others and name.startswith("zsnr"))}
        return min((value, name) for name, value in rows.items() if math.isfinite(value))


def measure(calls: Sequence[int]) -> Errors:
    """All methods at these numbers of calls."""
    found = {name: [scored(m, n) for n in calls] for name, m in bar(list(methods().items()), "schedulers")}
    mean, std = ({name: np.array([r[k] for r in rows]) for name, rows in found.items()} for k in (0, 1))
    return Errors(calls, mean, std)


def churn(pictures: int, steps: int = 50, S_churn: float = 20.0) -> dict[str, list[tuple[float, tuple[float, float]]]]:
    """Std over the data's under churn by channel, a mean over pictures with its 95 % interval, of Heun and Euler."""
    euler = diffusers.EulerDiscreteScheduler.from_config(CONFIG)
    euler.step = partial(euler.step, s_churn=S_churn)  # pipelines do not pass s_churn on
    found = {}
    schedulers = {
        "zsnr Heun, power": ours(solver="heun", levels="power", S_churn=S_churn), "diffusers Euler": euler
    }  # fmt: skip
    for name, scheduler in bar(list(schedulers.items()), "churn"):
        _, x = drawn(scheduler, steps, pictures)
        ratios = ((x - MEANS.view(4, 1, 1)).square().mean((2, 3)).sqrt() / STDS).T
        found[name] = [(ratio.mean().item(), interval(ratio.tolist())) for ratio in ratios]
    return found


def image_to_image() -> float:
    """Largest difference between the pipeline's picture, begun in the middle of the grid, and `zsnr.heun`'s."""
    picture = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    pipe = built(StableDiffusionImg2ImgPipeline, ours(solver="heun"))
    x = pipe("a", image=picture, strength=0.6, num_inference_steps=10, guidance_scale=1.0, output_type="latent",
             generator=torch.Generator().manual_seed(1)).images  # fmt: skip
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    grid = zsnr.grid(ours().schedule, 10)[4:]
    want = zsnr.heun(law(), grid[0].cos() * picture + grid[0].sin() * noise, grid)
    return (x - want).abs().max().item()


def edm_both_ways(network: Preconditioned, sigma_max: float = 80.0) -> tuple[Tensor, Tensor]:
    """(10, 1, 32, 32) pictures of an EDM network by EDM's sampler, and from the same noises by diffusers' DDIM."""
    table, noise = schedule_up_to(sigma_max), torch.randn(10, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.stack([torch.arange(10), torch.full((10,), 5)], 1)
    scheduler = diffusers.DDIMScheduler(trained_betas=table.betas.tolist(), prediction_type="v_prediction",
                                        timestep_spacing="trailing", clip_sample=False)  # fmt: skip
    scheduler.set_timesteps(50)
    model, x = EDMAsV(network, table, channels=1), noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, t, class_labels=labels).sample, t, x).prev_sample
        grid = zsnr.karras(25, sigma_max=sigma_max - 1e-6)
        return zsnr.heun(EDMDenoiser(network, class_labels=labels), noise, grid), x
