# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fine-tuning: the same, offset noise, or zero terminal SNR
#
# From the flawed base, the same number of pictures from the same seeds:
#
# | variant | schedule | prediction | noise |
# |---|---|---|---|
# | `control` | Stable Diffusion | $\epsilon$ | iid |
# | `offset` | Stable Diffusion | $\epsilon$ | iid + 0.1 of one value a picture and channel (Sec. 5.1) |
# | `zsnr` | rescaled by Algorithm 1 | $v$ | iid |
#
# All three weigh the squared error as $v$'s loss does, $(SNR + 1) |x_0 - \hat x_0|^2$, and draw noisy steps more often (`shift`), so that
# what they differ in is neither; the base was trained on $\epsilon$'s own loss and uniform steps, as everybody's. Targets are averaged over the
# backdrop's levels, as the base's were.
#
# The base was trained from seed 0; here and in the `replicate` stages the seeds are others, so that fine-tuning sees new
# pictures and noises. `control` tells what more training alone does. The `zsnr` run starts from a network that predicts the wrong thing, and has
# to unlearn it.

# %% tags=["parameters"]
variant = "zsnr"
results = "results/smoke"
source = "data/fashion-mnist"
captioned = 0.1
unconditional = 0.1
recipe = {
    "images": 1280,
    "batch": 32,
    "lr": 1e-3,
    "optimizer": "muon",
    "warmup": 128,
    "ema_halflife": 160,
    "precision": "float32",
    "shift": 3.0,
}
threads = 1
seed = 3
out_dir = ""

# %%
from functools import partial

import matplotlib.pyplot as plt

import lab
from lab import ROOT
from lab.models import data, network, plans, training
from lab.models.variants import find
from zsnr.finetune import loop

lab.threads(threads)
out, scratch = lab.folders(out_dir)
kind = find(variant)
r = plans.of(kind, training.ScheduleRecipe(**recipe, seed=seed))
pictures = data.load(ROOT / source)
start, _ = network.load(ROOT / results / "zsnr/train/weights.safetensors")

# %%
draw = partial(pictures.draw_parted, captioned=captioned, unconditional=unconditional)
trained, history = training.fit(start, draw, kind.schedule, r, scratch)

# %%
fig, ax = plt.subplots(figsize=(5, 3))
ax.semilogy(*zip(*history, strict=True))
ax.set(xlabel="fine-tuning pictures", ylabel=f"loss, squared error of {kind.prediction} a pixel", title=variant)
plt.show()
print(f"{variant}: loss {history[0][1]:.3f} -> {history[-1][1]:.3f}")

# %%
network.save(
    out / "weights.safetensors", trained, variant=variant, prediction=kind.prediction, images=r.images, seed=seed
)
training.record(out / "history.json", recipe["precision"], loss=history)
loop.clean(scratch)
