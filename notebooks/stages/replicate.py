# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Replication: the same fine-tuning from another seed
#
# One training is one draw. Here the fine-tunings are repeated from another seed; stage `evaluate` measures them in the same cells. The spread
# over seeds is what the intervals of the findings are made of. Weights are not kept in the results: they stay in `scratch/`.

# %% tags=["parameters"]
replica = 1
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
plan = plans.replicas(ScheduleRecipe(**recipe), replica)
history = {}
for name in plan:
    _, history[name] = plans.train(base, draw, plan, name, scratch)
    print(f"{name}: loss {history[name][0][1]:.3f} -> {history[name][-1][1]:.3f}", flush=True)

# %%
record(out / "history.json", recipe["precision"], loss=history)
