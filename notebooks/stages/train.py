# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training the flawed base
#
# What everybody trained before 2023: $\epsilon$-prediction on Stable Diffusion's schedule, whose last step still carries a
# signal, $x_T = 0.068\,x_0 + 0.998\,\epsilon$. The network reads the brightness off it; at sampling time there is none to read.
#
# Here and in all fine-tunings the target is averaged over the backdrop's levels, given $x_t$ and the garment
# (`lab.models.level_mean`): the loss has the same minimum, and a small network comes nearer to it. With photographs that cannot be done.

# %% tags=["parameters"]
source = "data/fashion-mnist"
captioned = 0.1
unconditional = 0.1
width = 16
recipe = {
    "images": 2560,
    "batch": 32,
    "lr": 2e-3,
    "optimizer": "muon",
    "warmup": 256,
    "ema_halflife": 320,
    "precision": "float32",
}
threads = 1
seed = 0
out_dir = ""

# %%
from functools import partial

import matplotlib.pyplot as plt
import torch

import lab
from lab import ROOT
from lab.models import data, network, training
from zsnr.finetune import loop
from zsnr.schedule import stable_diffusion

lab.threads(threads)
out, scratch = lab.folders(out_dir)
pictures = data.load(ROOT / source)

# %%
torch.manual_seed(seed)
start = network.ConditionalUNet(
    channels=pictures.image.shape[1], classes=len(pictures.classes), words=len(data.WORDS), widths=(width, 2 * width)
)
draw = partial(pictures.draw_parted, captioned=captioned, unconditional=unconditional)
print(f"{sum(p.numel() for p in start.parameters()) / 1e6:.2f} million parameters")
trained, history = training.fit(
    start, draw, stable_diffusion(), training.ScheduleRecipe("eps", **recipe, seed=seed), scratch
)

# %% [markdown]
# The loss is the mean squared error of $\epsilon$ over all steps, and 1 for the zero that the network starts from.

# %%
fig, ax = plt.subplots(figsize=(5, 3))
ax.semilogy(*zip(*history, strict=True))
ax.set(xlabel="training pictures", ylabel=r"loss, $\|\epsilon - \hat\epsilon\|^2$ a pixel", title="Base")
plt.show()
print(f"loss {history[0][1]:.3f} -> {history[-1][1]:.3f}")

# %% [markdown]
# The averaged weights are kept in half precision, with a card that says how they came about.

# %%
network.save(out / "weights.safetensors", trained, variant="base", prediction="eps", images=recipe["images"], seed=seed)
training.record(out / "history.json", recipe["precision"], loss=history)
loop.clean(scratch)
