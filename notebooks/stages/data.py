# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Data: garments on backdrops of known brightness
#
# Whether a model can make dark and bright pictures can only be measured where the truth is known. Here every picture is
#
# $$x = g + (1 - \alpha)(c + 1), \qquad c \sim U[-1, 1]$$
#
# a Fashion-MNIST garment $g$ on black with its matte $\alpha$, on a plain backdrop of level $c$ that is drawn anew each time. The level is read
# off any picture as the mean of its outer frame, two pixels wide.

# %% tags=["parameters"]
source = "data/fashion-mnist"
captioned = 0.1
unconditional = 0.1
out_dir = ""

# %%
import json
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from lab import ROOT
from lab.models import data
from zsnr import schedule
from zsnr.finetune import loop

torch.set_num_threads(1)
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
out.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# The files are checked against the authors' checksums, or, where another folder is given, every image is opened, before
# anything is computed from them.

# %%
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")
print(f"{len(train)} training and {len(test)} test images, {len(train.classes)} classes: {', '.join(train.classes)}")

# %% [markdown]
# ## What a network will see

# %%
pictures, conditions = train.draw(40, loop.generator(0, 0), captioned=1.0)
fig, axes = plt.subplots(4, 10, figsize=(8, 3.9))
for ax, x, (label, word) in zip(axes.flat, pictures, conditions.tolist(), strict=True):
    ax.imshow(x.permute(1, 2, 0).squeeze(-1), cmap="gray", vmin=-1, vmax=1)
    ax.set_title(f"{train.classes[label]}, {data.WORDS[word]}", fontsize=5, pad=2)
    ax.set_axis_off()
fig.savefig(out / "pictures.png", dpi=200, bbox_inches="tight")
plt.show()

# %% [markdown]
# ## Its brightness, and how much of it the flawed schedule leaks
#
# $\lambda = D\,\bar\alpha_T\,\mathrm{Var}(\text{mean of } D \text{ pixels})$ compares the signal that is left at the last step of Stable
# Diffusion's schedule with the noise, along the direction in which all pixels change together. $\lambda \ll 1$: hardly a leak;
# $\lambda \gg 1$: the network reads the brightness off its "pure noise".

# %%
x, c = train.draw(20_000, loop.generator(0, 1), captioned, unconditional)
level, mean = data.level(x), x.mean((1, 2, 3))
alpha_bar_T = schedule.stable_diffusion().alpha_bar[-1].item()
pixels = x[0].numel()
facts = {
    "train": len(train),
    "test": len(test),
    "sigma_data": x.std().item(),
    "mean": mean.mean().item(),
    "mean_std": mean.std().item(),
    "level_mean": level.mean().item(),
    "level_std": level.std().item(),
    "leak": pixels * alpha_bar_T * mean.var().item(),
    "captioned": (c[:, 1] < len(data.WORDS)).double().mean().item(),
    "unconditional": (c[:, 0] == len(train.classes)).double().mean().item(),
}
for name, value in facts.items():
    print(f"{name:14s} {value:.4g}")
_ = (out / "data.json").write_text(json.dumps(facts, indent=1) + "\n")

# %% [markdown]
# The level's standard deviation is that of the uniform distribution, $1/\sqrt 3 = 0.577$, when the images leave a frame of
# backdrop; images of one's own fill the frame, and their level is what it is.

# %%
if train.matte[:, :, : data.FRAME].any():
    print("these images fill the frame: the level is their own")
else:
    error = abs(facts["level_std"] - 1 / math.sqrt(3)) / (1 / math.sqrt(3) * math.sqrt(0.4 / len(x)))
    print(f"level std is {'consistent with' if error < 3 else 'off'} 1/sqrt(3)")
