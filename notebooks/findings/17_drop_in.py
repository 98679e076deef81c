# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 17. The drop-in: a diffusers pipeline that is exact from zero SNR
#
# **New here.** One line gives a pipeline of diffusers the solvers of this package, from exactly zero terminal SNR:
# `pipe.scheduler = zsnr.ZeroSNRScheduler.from_config(pipe.scheduler.config, solver="heun", levels="power")`.
#
# Whether it is worth the line is put to a test whose answer is known. The network of a real `StableDiffusionPipeline` is replaced by the exact
# denoiser of Gaussian latents, so that whatever error is left is the scheduler's. Then the pictures' mean and standard deviation must be the data's.
# It would be wrong if a scheduler of diffusers were as near to them, everywhere, at as many calls of the network.

# %% tags=["parameters"]
results = "results/full"
calls = [9, 19, 49, 61, 99]  # of the network, in all schedulers
churned = 64  # pictures for the standard deviation under churn
out_dir = ""

# %%
import math
import tempfile
import warnings
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import transformers

transformers.logging.set_verbosity_error()

import diffusers
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

import zsnr
from lab import ROOT
from lab.measure import sweep
from lab.measure.metrics import interval
from lab.models import tiny
from lab.report import figures
from zsnr.diffusers.wrap import EDMAsV, VModel, schedule_up_to
from zsnr.edm import EDMDenoiser

torch.set_num_threads(1)
diffusers.utils.logging.set_verbosity_error()
figures.style()
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
CONFIG = tiny.STABLE_DIFFUSION_1 | {
    "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"
}  # fmt: skip
print("diffusers", diffusers.__version__)

# %% [markdown]
# ## The line, and what the pipeline then does
#
# Timesteps are trained steps, counted from 0; fractions lie between them. Heun asks twice at each level but the first. Churn raises the level of the next
# step at the end of this one, so that each call has a timestep of its own.

# %%
for change in (
    {"solver": "ddim"},
    {"solver": "heun"},
    {"solver": "rk2", "alpha": 0.5},
    {"solver": "heun", "S_churn": 2.0},
    {"solver": "heun", "levels": "power"},
):
    ours = zsnr.ZeroSNRScheduler.from_config(CONFIG, **change)
    ours.set_timesteps(4)
    settings = ", ".join(f"{k}={v!r}" for k, v in change.items())
    print(f"{settings:30s}", "  ".join(f"{t:6.1f}" for t in ours.timesteps.tolist()))

# %% [markdown]
# ## Latents whose law is known
#
# The four channels have standard deviations from 1/4 to 8, as a direction of real latents may (brightness is a wide one), and a mean of a quarter of each.
# The picture is then an affine function of its noise, and a line through the two is the mean and the standard deviation that a scheduler gives, without sampling error.

# %%
STDS = torch.tensor([0.25, 1.0, 3.0, 8.0], dtype=torch.float64)
MEANS = STDS / 4
exact = zsnr.Gaussian(MEANS.view(4, 1, 1).expand(4, 16, 16), (STDS**2).view(4, 1, 1).expand(4, 16, 16))
parts = tiny.stable_diffusion().components
schedule = zsnr.ZeroSNRScheduler.from_config(CONFIG).schedule
network = VModel(exact, schedule, channels=4, size=16)


def built(kind, scheduler):
    """A pipeline of that kind with the exact network."""
    return tiny.quiet(kind(**parts | {"unet": network, "scheduler": scheduler}, requires_safety_checker=False))


def drawn(scheduler, steps, batch=1):
    """Latents from the pipeline, and the noise it was given."""
    pipe = built(StableDiffusionPipeline, scheduler)
    noise = torch.randn(batch, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    x = pipe(["a picture"] * batch, num_inference_steps=steps, guidance_scale=1.0, output_type="latent", latents=noise,
             generator=torch.Generator().manual_seed(1)).images  # fmt: skip
    return noise.double(), x.double()


def errors(noise, x):
    """Per channel, in units of the std: error of the mean, and of the std."""
    noise, x = (z.transpose(0, 1).flatten(1) for z in (noise, x))
    away = noise - noise.mean(1, keepdim=True)
    slope = (x * away).sum(1) / away.square().sum(1)
    mean = x.mean(1) - slope * noise.mean(1)
    return ((mean - MEANS) / STDS).abs().numpy(), (slope / STDS - 1).abs().numpy()


# %% [markdown]
# Schedulers of diffusers that take a zero-SNR schedule by their own flag, and two that have no flag, given the rescaled betas. Steps are as many as make the
# same number of calls; second-order schedulers take two a step, but for the last.

# %%
TABLE = {**CONFIG, "rescale_betas_zero_snr": False, "trained_betas": schedule.betas.float().numpy()}
NEARLY = {**TABLE, "trained_betas": zsnr.from_alpha_bar(schedule.alpha_bar.clamp(min=2**-24)).betas.numpy()}
OURS = zsnr.ZeroSNRScheduler.from_config
METHODS = {
    "zsnr Heun, power": (lambda: OURS(CONFIG, solver="heun", levels="power"), 2, "zsnr", "-"),
    "zsnr Heun, trailing": (lambda: OURS(CONFIG, solver="heun"), 2, "zsnr", "--"),
    "zsnr DDIM, trailing": (lambda: OURS(CONFIG), 1, "zsnr", ":"),
    "DDIM": (lambda: diffusers.DDIMScheduler.from_config(CONFIG), 1, "control", "-"),
    "Euler": (lambda: diffusers.EulerDiscreteScheduler.from_config(CONFIG), 1, "base", "-"),
    "DPM++ 2M": (lambda: diffusers.DPMSolverMultistepScheduler.from_config(CONFIG), 1, "offset", "-"),
    "UniPC": (lambda: diffusers.UniPCMultistepScheduler.from_config(CONFIG), 1, "linspace", "-."),
    "DPM++ 2M, Karras": (
        lambda: diffusers.DPMSolverMultistepScheduler.from_config(CONFIG, use_karras_sigmas=True),
        1,
        "offset",
        "--",
    ),
    "Heun": (lambda: diffusers.HeunDiscreteScheduler.from_config(TABLE), 2, "base", "--"),
    "Heun, 2^-24 for 0": (lambda: diffusers.HeunDiscreteScheduler.from_config(NEARLY), 2, "base", ":"),
    "KDPM2": (lambda: diffusers.KDPM2DiscreteScheduler.from_config(TABLE), 2, "control", "--"),
}


def scored(make, order, n):
    """`errors` at n calls; NaN where the scheduler fails, or asks the network at step NaN."""
    try:
        return errors(*drawn(make(), (n + 1) // 2 if order == 2 else n))
    except (IndexError, ValueError):
        return np.full(4, np.nan), np.full(4, np.nan)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # divisions by zero, told by their result
    error = {name: [scored(make, order, n) for n in calls] for name, (make, order, _, _) in METHODS.items()}
DIRECTIONS = {"all": slice(None), "std 8": slice(3, 4), "std 1/4": slice(0, 1)}
worst = {w: {name: [s[k].max() for _, s in rows] for name, rows in error.items()} for w, k in DIRECTIONS.items()}
for which, rows in worst.items():
    title = "largest error of the std, %" if which == "all" else f"error at {which}, %"
    print(f"{title:32s}" + "".join(f"{n:>11d}" for n in calls))
    for name, values in rows.items():
        print(f"  {name:30s}" + "".join(f"{100 * v:11.3f}" if math.isfinite(v) else f"{'NaN':>11s}" for v in values))
means = [m.max() for name, rows in error.items() if "zsnr" in name for m, _ in rows]
print(f"largest error of the drop-in's mean: {max(means):.4f} of the std")

# %%
fig, axes = plt.subplots(1, 2, figsize=(6.9, 2.6), sharey=True)
for ax, k, title in zip(axes, (-1, 0), ("std 8: brightness is such a direction", "std 1/4: fine detail"), strict=True):
    for name, (_, _, colour, dash) in METHODS.items():
        stds = np.array([s[k] for _, s in error[name]])
        if np.isfinite(stds).any():
            who = name if name.startswith("zsnr") else f"diffusers {name}".replace("2^-24", "$2^{-24}$")
            ax.loglog(calls, 100 * stds, dash, marker="o", ms=3, color=figures.COLOURS[colour], label=who)
    ax.set(xlabel="calls of the network", title=title)
    ax.set_xticks(calls, calls)
    ax.minorticks_off()
axes[0].set(ylabel="error of the std, %", ylim=(1e-3, 3e4))
fig.tight_layout()
fig.legend(
    *axes[0].get_legend_handles_labels(), fontsize=6.5, handlelength=3, loc="center left", bbox_to_anchor=(1.0, 0.55)
)
figures.save(fig, out, "errors")

# %% [markdown]
# *Not drawn, as they are NaN from the first step on: diffusers' Heun and KDPM2, given the table; DPM++ 2M with Karras' sigmas ends in an IndexError where two levels
# round to the same step. At 61 calls, diffusers' DDIM with trailing steps asks for step $-1$.*
#
# Trailing steps are coarse near the picture, and what they do there to fine detail hides what the solver does: from zero SNR, Heun wants a grid that is fine at both ends
# (`levels="power"`). With the stand-in $2^{-24}$ for zero, Heun's first step is wrong by orders of magnitude where the data are wide.
# UniPC's higher order serves it there better than Heun's; near the picture it shares the grid's fate.
#
# ## Churn, and a start in the middle
#
# Standard deviation over the data's with $S_\text{churn} = 20$, from many pictures (95 % intervals over pictures), in the pipeline, against diffusers' Euler, which adds the noise after the network was asked.

# %%
off = {}
for name, make, order in (
    ("zsnr Heun, power", lambda: OURS(CONFIG, solver="heun", levels="power", S_churn=20.0), 2),
    ("diffusers Euler", lambda: diffusers.EulerDiscreteScheduler.from_config(CONFIG), 1),
):
    steps = 50
    scheduler = make()
    if order == 1:  # pipelines do not pass s_churn on
        scheduler.step = partial(scheduler.step, s_churn=20.0)
    _, x = drawn(scheduler, steps, churned)
    ratios = ((x - MEANS.view(4, 1, 1)).square().mean((2, 3)).sqrt() / STDS).T
    line = f"{name:18s}"
    for ratio in ratios:
        mean, (low, high) = ratio.mean().item(), interval(ratio.tolist())
        line += f"  {mean:6.3f} [{low:6.3f}, {high:6.3f}]"
        off[name] = max(off.get(name, 0.0), abs(mean - 1))
    print(line)

# %% [markdown]
# Image-to-image begins in the middle of the grid; the state must be at the level of the call that comes next. The pipeline against the package's own Heun, from the same noise:

# %%
picture = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
pipe = built(StableDiffusionImg2ImgPipeline, OURS(CONFIG, solver="heun"))
x = pipe("a", image=picture, strength=0.6, num_inference_steps=10, guidance_scale=1.0, output_type="latent",
         generator=torch.Generator().manual_seed(1)).images  # fmt: skip
noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
grid = zsnr.grid(schedule, 10)[4:]
want = zsnr.heun(exact, grid[0].cos() * picture + grid[0].sin() * noise, grid)
middle = (x - want).abs().max().item()
print(f"differs by less than 1e-5: {middle < 1e-5}")

# %% [markdown]
# ## EDM's networks in diffusers, and the other way round
#
# A trained EDM network (notebook 6's) as the UNet of a diffusers scheduler, up to its $\sigma_\text{max}$, beside EDM's own sampler. And Heun on $\rho$ steps for a model of
# Stable Diffusion's schedule, which it was not trained for: `zsnr.NetworkDenoiser` takes any angle.

# %%
path = ROOT / results / "edm/networks/edm.safetensors"
edm_network = sweep.model(path)
sigma_max = 80.0
table = schedule_up_to(sigma_max)
labels = torch.stack([torch.arange(10), torch.full((10,), 5)], 1)
noise = torch.randn(10, 1, 32, 32, generator=torch.Generator().manual_seed(0))
scheduler = diffusers.DDIMScheduler(
    trained_betas=table.betas.tolist(), prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False
)
scheduler.set_timesteps(50)
model, x = EDMAsV(edm_network, table, channels=1), noise
with torch.no_grad():
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t, class_labels=labels).sample, t, x).prev_sample
    edm_pictures = zsnr.heun(
        EDMDenoiser(edm_network, class_labels=labels), noise, zsnr.karras(25, sigma_max=sigma_max - 1e-6)
    )
fig, axes = plt.subplots(2, 1, figsize=(5.2, 1.6))
figures.pictures(axes[0], edm_pictures, 10, "EDM's own sampler: Heun, 49 calls")
figures.pictures(axes[1], x, 10, "the same network and noises in diffusers: DDIM, 50 calls")
fig.tight_layout(h_pad=0.8)
figures.save(fig, out, "edm_in_diffusers")
correlation = torch.corrcoef(torch.stack([edm_pictures.flatten(), x.flatten()]))[0, 1].item()
print(f"correlation of the two: {correlation:.2f}")

# %% [markdown]
# ## What is refused
#
# A model that predicts $\epsilon$ has no answer at zero SNR. The scheduler says so before anything is drawn, and what helps instead.

# %%
try:
    OURS({**CONFIG, "prediction_type": "epsilon"})
except ValueError as error_:
    print(error_)

# %% [markdown]
# ## Verdict

# %%
for which, rows in worst.items():
    for i, n in enumerate(calls):
        value, name = min((v[i], name) for name, v in rows.items() if math.isfinite(v[i]))
        print(f"{which:8s}{n:4d} calls: nearest is {name} ({100 * value:.3f} %)")
print(
    "largest deviation of the std under churn:", ", ".join(f"{name} {100 * value:.1f} %" for name, value in off.items())
)
