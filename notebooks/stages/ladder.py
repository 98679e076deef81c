# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The training ladder: configurations A to F, trained
#
# Each rung of EDM's Table 2 is trained from several seeds; stage `evaluate_ladder` samples and measures. F is trained once more with
# every transform always applied, for what the augmentation leaks. Weights are not kept in the results: they stay in `scratch/`.

# %% tags=["parameters"]
source = "data/fashion-mnist"
captioned = 0.1
unconditional = 0.1
width = 16
recipe = {
    "images": 64,
    "batch": 32,
    "lr": 1e-3,
    "optimizer": "muon",
    "warmup": 32,
    "ema_halflife": 80,
    "augment": 0.12,
    "precision": "float32",
}
seeds = [0, 1]
threads = 1
out_dir = ""

# %%
from functools import partial

import lab
from lab import ROOT
from lab.models import data, ladder
from lab.models.edm_training import EDMRecipe, fit
from lab.models.training import record
from zsnr.finetune.loop import generator

lab.threads(threads)
out, scratch = lab.folders(out_dir)
train = data.load(ROOT / source)
draw = partial(train.draw, captioned=captioned, unconditional=unconditional)
sigma_data = round(draw(4096, generator(0, 10**6))[0].square().mean().sqrt().item(), 2)

# %%
rows = []
whole = EDMRecipe(sigma_data=sigma_data, **recipe)
for name, seed, always, r, start in ladder.rungs(whole, seeds, width, train.image.shape[1], len(train.classes)):
    _, history = fit(start, draw, r, ladder.folder(scratch, name, seed, always))
    rows.append({"config": name, "seed": seed, "always": always, "loss": history})
    print(f"{name} seed {seed}: loss {history[0][1]:.3f} -> {history[-1][1]:.3f}", flush=True)

# %%
record(out / "history.json", recipe["precision"], rows=rows, sigma_data=sigma_data)
