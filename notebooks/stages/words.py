# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Words: the fixed model, trained on with a word for every picture
#
# In the stages before, a tenth of the pictures carry a word for their backdrop. Whether the fixed model misses a prompt because of its schedule or because it heard
# the words too seldom is told by training it on: `zsnr` of seed 3 goes on, with a word for every picture that has a condition. (What more words could do for the
# flawed schedule is known without training: the exact denoiser, which has nothing to learn, falls short on it.) Guidance multiplies what is left of a network's
# error by $w$, so it is trained for long. Stage `evaluate_words` draws from it; weights stay in `scratch/`.

# %% tags=["parameters"]
results = "results/smoke"
source = "data/fashion-mnist"
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
out_dir = ""

# %%
from functools import partial

import lab
from lab import ROOT
from lab.models import data, network, plans
from lab.models.training import ScheduleRecipe, record

lab.threads(threads)
out, scratch = lab.folders(out_dir)
draw = partial(data.load(ROOT / source).draw_parted, captioned=1.0, unconditional=unconditional)
fixed, _ = network.load(ROOT / results / "zsnr/finetune/zsnr/weights.safetensors")

# %%
plan = plans.words(ScheduleRecipe(**recipe))
_, history = plans.train(fixed, draw, plan, "zsnr", scratch)
print(f"loss {history[0][1]:.3f} -> {history[-1][1]:.3f}")

# %%
record(out / "history.json", recipe["precision"], loss={"zsnr": history})
