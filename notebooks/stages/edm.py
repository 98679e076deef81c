# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training for EDM's studies
#
# Three small networks of one size, which the study notebooks sample from: *original*, trained as VP models were (configuration C
# of EDM's Table 2); *edm*, EDM's preconditioning and loss (configuration E); and *short*, the same on an eighth of the pictures or
# less, from another seed, for what depends on how good a network is.

# %% tags=["parameters"]
source = "data/fashion-mnist"
captioned = 0.1
unconditional = 0.1
width = 16
short = 128
recipe = {
    "images": 640,
    "batch": 32,
    "lr": 1e-3,
    "optimizer": "muon",
    "warmup": 64,
    "ema_halflife": 160,
    "precision": "float32",
}
threads = 1
seed = 0
out_dir = ""

# %%
import dataclasses
from functools import partial

import matplotlib.pyplot as plt
import torch

import lab
from lab import ROOT
from lab.models import data, network
from lab.models.edm_training import EDMRecipe, fit, set_dropout
from lab.models.training import record
from lab.report import figures
from zsnr.finetune import loop

lab.threads(threads)
figures.style()
out, scratch = lab.folders(out_dir)
pictures = data.load(ROOT / source)
draw = partial(pictures.draw, captioned=captioned, unconditional=unconditional)

# %% [markdown]
# EDM sets $\sigma_\text{data}$ to 0.5 for images in $[-1, 1]$. Here it is measured, so that the network's input and target have
# unit variance: the root mean square of the data, since the mean is not taken off.

# %%
sample, _ = draw(4096, loop.generator(seed, 10**6))
sigma_data = round(sample.square().mean().sqrt().item(), 2)
whole = EDMRecipe(sigma_data=sigma_data, **recipe, seed=seed)
recipes = {
    "original": dataclasses.replace(whole, precondition="vp", loss="vp"),
    "edm": whole,
    "short": dataclasses.replace(whole, images=short, seed=seed + 1),
}
print(f"sigma_data = {sigma_data}")

# %%
histories = {}
for name, r in recipes.items():
    torch.manual_seed(r.seed)
    start = network.ConditionalUNet(
        pictures.image.shape[1], len(pictures.classes), len(data.WORDS), widths=(width, 2 * width)
    )
    set_dropout(start, 0.13)  # Table 7
    if name == "original":
        print(f"{sum(p.numel() for p in start.parameters()) / 1e6:.2f} million parameters")
    trained, histories[name] = fit(start, draw, r, scratch / name)
    card = {
        "precondition": r.precondition,
        "loss": r.loss,
        "sigma_data": sigma_data,
        "images": r.images,
        "seed": r.seed,
    }
    network.save(out / f"{name}.safetensors", trained, **card)
    print(f"{name}: loss {histories[name][0][1]:.3f} -> {histories[name][-1][1]:.3f}", flush=True)

# %% [markdown]
# The loss of a network that starts from 0 starts at 1 with either recipe; after that the two are not comparable.

# %%
fig, ax = plt.subplots(figsize=(5, 3))
for name, history in histories.items():
    ax.semilogy(*zip(*history, strict=True), label=name)
ax.set(xlabel="training pictures", ylabel=r"loss, $\lambda\,\|D - y\|^2$ a pixel")
ax.legend()
plt.show()

# %%
record(out / "training.json", recipe["precision"], sigma_data=sigma_data, loss=histories)
loop.clean(scratch)
