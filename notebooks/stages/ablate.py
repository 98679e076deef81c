# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Ablation: each fix left out, other loss weights, and shorter fine-tunings
#
# From the flawed base, as in stage `finetune`, and from the same seeds as it and the `replicate` stages:
#
# | name | schedule | prediction | loss | pictures |
# |---|---|---|---|---|
# | `no-rescale` | Stable Diffusion | $v$ | its own | all |
# | `x0` | rescaled by Algorithm 1 | $x_0$ | its own | all |
# | `length-...` | rescaled | $v$ | its own | fewer |
# | `loss-...` | rescaled | $v$ | one weight of `zsnr.prediction` | few |
#
# Stage `evaluate_ablations` draws from them and measures. Weights are not kept in the results: they stay in `scratch/`.

# %% tags=["parameters"]
replica = 0
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
losses = ["x0", "min-snr-5"]
few = 256
lengths = [128]
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
draw = partial(data.load(ROOT / source).draw_parted, captioned=captioned, unconditional=unconditional)
base, _ = network.load(ROOT / results / "zsnr/train/weights.safetensors")

# %%
plan = plans.ablations(ScheduleRecipe(**recipe), replica, losses, few, lengths)
history = {}
for name in plan:
    _, history[name] = plans.train(base, draw, plan, name, scratch)
    print(f"{name}: loss {history[name][0][1]:.3f} -> {history[name][-1][1]:.3f}", flush=True)

# %%
record(out / "history.json", recipe["precision"], loss=history)
