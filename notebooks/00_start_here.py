# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Start here: why the pictures come out grey, and how to mend it
#
# Many diffusion models cannot make a very dark or a very bright picture. The paper *Common Diffusion Noise Schedules and Sample Steps are Flawed*
# (Lin et al. 2023) found the reason, which is one number, and the remedy, which is three changes. This notebook shows both in pictures. Nothing is
# trained here, and it runs in less than a minute.
#
# The pictures are simple on purpose: a garment on a plain backdrop, and **every brightness of the backdrop is as likely**, from black ($-1$) to
# white ($+1$). So the truth is known, and grey pictures cannot be an accident of the data.

# %% tags=["parameters"]
source = "data/fashion-mnist"
results = "results/full"

# %%
import torch
from IPython.display import Markdown, display

import zsnr
from lab import ROOT
from lab.models import data
from lab.report import figures
from lab.studies import start

torch.set_num_threads(1)
figures.style()
images = start.garments(ROOT / source)
noise = start.noise(256)

# %% [markdown]
# ## The flaw: the last step of training is not noise
#
# A diffusion model is trained on mixtures $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$ of a picture and noise. At the last step, $t = T$,
# the picture should be gone. In Stable Diffusion's schedule it is not. A little of it is left, and a little of the *same* value in hundreds of pixels is
# easy to see: take the mean of the backdrop. In training, black and white pictures stay apart at step $T$ (black and grey lines below). Sampling, however,
# starts from pure noise, whose mean lies in the middle. The model has learnt what that means: a backdrop of medium grey.
#
# Algorithm 1 of the paper shifts and scales the schedule so that the last signal is exactly zero. Then the three lines are one.

# %%
flawed = zsnr.schedule.stable_diffusion()
fixed = zsnr.rescale_zero_terminal_snr(flawed)  # Algorithm 1
start.last_step({"flawed": (flawed, "control"), "fixed": (fixed, "zsnr")}, images)
display(
    Markdown(
        f"At step T the flawed schedule keeps **{flawed.sqrt_alpha_bar[-1]:.3f}** of the picture (SNR {flawed.terminal_snr:.4f}), "
        f"the fixed one {fixed.sqrt_alpha_bar[-1]:.0f} (SNR {fixed.terminal_snr:.0f})."
    )
)

# %% [markdown]
# ## Even a perfect network loses brightness
#
# For these pictures the best possible denoiser is known in closed form (`lab/models/backdrop.py`). It has nothing to learn and makes no error. Sample with it
# from the same noises, once by the flawed schedule as its users do, and once by the fixed one. What differs between the two sheets is the schedule, and
# nothing else.

# %%
exact = start.exact_denoiser(images)
grey = zsnr.ddim(exact, noise, zsnr.grid(flawed, 25, "leading"))
better = zsnr.ddim(exact, noise, zsnr.grid(fixed, 25, "trailing"))
best = zsnr.heun(exact, noise, zsnr.power(13))  # from exactly zero SNR
shown = {
    ("flawed, leading,\nDDIM", "control"): grey,
    ("fixed, trailing,\nDDIM", "zsnr"): better,
    ("from zero SNR,\nHeun", "zsnr"): best,
}
start.compare({look: (x, data.level(x)) for look, x in shown.items()})
spread = [data.level(x).std().item() / 3**-0.5 for x in shown.values()]
told = f"Spread of the levels over the data's: **{spread[0]:.2f}**, {spread[1]:.2f} and **{spread[2]:.2f}**"
display(Markdown(f"{told}, each by 25 evaluations."))

# %% [markdown]
# ## The fix, in three parts
#
# 1. **Rescale the schedule** to zero terminal SNR (Algorithm 1).
# 2. **Predict $v$**, not $\epsilon$. At zero SNR the input *is* $\epsilon$, so predicting it says nothing about the picture. The library refuses it.
# 3. **Start sampling at the last step**: the paper's *trailing* steps. *Leading* ones, which are a common default, never visit $T$.
#
# With $\varphi = \arctan\sigma$, where $\sigma$ is the ratio of noise to signal, every mixture is a point on a quarter circle, $x_\varphi = \cos\varphi\,x_0 + \sin\varphi\,\epsilon$. Zero SNR is its
# end, $\varphi = \pi/2$, where $\sigma$ is infinite but nothing else is. And $v = dx_\varphi/d\varphi$ is a velocity, so that any solver of differential equations,
# such as Heun's above, starts at exactly zero SNR.

# %%
leading, trailing = (zsnr.timesteps(spacing, 25)[-1] for spacing in ("leading", "trailing"))
display(Markdown(f"The first of 25 steps is {leading} of {fixed.T} by leading steps, and {trailing} by trailing ones."))
try:
    zsnr.NetworkDenoiser(torch.nn.Identity(), fixed, "eps")
except ValueError as refusal:
    display(Markdown(f"> {refusal}"))

# %% [markdown]
# ## Asked for black, asked for white
#
# Now each picture is asked for with a word, *black* or *white*, which means the darkest or the brightest fifth of the backdrops. Exact denoisers that were told
# the word still start from noise that looks medium grey to them. Below them are two small networks that were trained in this repository: the flawed one
# predicts $\epsilon$ on Stable Diffusion's schedule, and the fixed one was fine-tuned from such a model with all three changes.

# %%
told = [start.exact_denoiser(images, word) for word in start.ASKED]
sheets = {"exact, flawed schedule": [zsnr.ddim(one, noise[:6], zsnr.grid(flawed, 25, "leading")) for one in told]}
sheets["exact, from zero SNR"] = [zsnr.heun(one, noise[:6], zsnr.power(13)) for one in told]
start.asked(sheets)
try:
    plain, by_word = start.stored(ROOT / results)
    start.asked({f"network, {name}": pictures for name, pictures in by_word.items()})
    start.compare({("network, flawed", "control"): plain["flawed"], ("network, fixed", "zsnr"): plain["fixed"]}, 8)
except FileNotFoundError as missing:
    display(Markdown(f"The networks' half is left out: {missing}"))

# %% [markdown]
# ## Your own model
#
# Ten lines take a network that predicts $v$, and sample from exactly zero SNR. `unet` stands for yours: anything that is called as
# `unet(x, step, **conditions)`, such as a diffusers UNet. If your model still predicts $\epsilon$, `python -m zsnr.finetune` turns it into one that predicts $v$ on the
# fixed schedule, and `python -m zsnr.audit` says whether it needs that.

# %%
unet = torch.nn.Module()  # yours
unet.forward = lambda x, step: -x  # a stand-in
denoiser = zsnr.NetworkDenoiser(unet, fixed, "v")
x = zsnr.randn((4, 3, 32, 32), zsnr.generators(range(4)))  # one seed a picture
pictures = zsnr.heun(denoiser, x, zsnr.power(10))  # 19 evaluations, from phi = pi/2 to 0
pictures.shape

# %% [markdown]
# ## Where to go next
#
# - [explorer](explorer.ipynb): change schedule, steps, solver and guidance, and watch the pictures.
# - [findings/03](findings/03_offset_noise.ipynb): the same with intervals, and against offset noise; [findings/12](findings/12_prompts.ipynb): prompts and guidance.
# - [findings/11](findings/11_leak.ipynb): how grey *your* model's pictures are, from its schedule and its resolution; and what helps without fine-tuning.
