# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What the model that heard more words draws
#
# The model of stage `words`, found in its `scratch/` folder, or trained again where there is none; drawn as the prompts of stage
# `guide` are, from the same noises.

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
short = 5
prompt_samples = 4
precision = "float32"
threads = 1
out_dir = ""

# %%
from functools import partial

import lab
from lab import ROOT
from lab.measure import evaluation, metrics, store
from lab.measure.evaluation import Cell
from lab.models import data, network, plans
from lab.models.training import ScheduleRecipe
from zsnr.finetune.recipe import precision_facts

lab.threads(threads)
out, _ = lab.folders(out_dir)
folder = ROOT / results
draw = partial(data.load(ROOT / source).draw_parted, captioned=1.0, unconditional=unconditional)
classifier = metrics.Classifier.load(folder / "classifier/classifier.safetensors")
fixed, _ = network.load(folder / "zsnr/finetune/zsnr/weights.safetensors")
plan = plans.words(ScheduleRecipe(**recipe))

# %% tags=["nbval-ignore-output"]
scratch = lab.scratch(f"{results}/zsnr/words")
model, history = plans.train(fixed, draw, plan, "zsnr", scratch, note=plans.AGAIN)

# %%
rows = []
for word in data.WORDS:
    for w, phi in ((1.0, 0.0), (7.5, 0.7)):
        cell = Cell("zsnr", "trailing", "ddim", short, w=w, phi=phi, prompt=word)
        x = evaluation.draw_cell(model, cell, prompt_samples, precision)
        rows.append(evaluation.row(cell, x, kept=0, classifier=classifier))
        print(f"{cell!s:46s} level {data.level(x).mean():+.2f}", flush=True)

# %%
store.save(out, rows, {"loss": history, "images": recipe["images"], **lab.environment(), **precision_facts(precision)})
