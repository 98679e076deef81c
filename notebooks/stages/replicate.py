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
# One training is one draw. Here the fine-tunings are repeated from another seed and measured in the same cells; weights are
# not kept. The spread over seeds is what the intervals of the study notebooks are made of.

# %% tags=["parameters"]
seed = 1
results = "results/smoke"
source = "data/fashion-mnist"
captioned = 0.1
unconditional = 0.1
batch = 32
images = 1280
lr = 1e-3
warmup = 128
ema_halflife = 160
samples = 64
real = 512
short = 5
long = 10
steps = [5, 10]
precision = "float32"
threads = 1
out_dir = ""

# %%
from functools import partial

import lab
from lab import ROOT
from lab.measure import evaluation, metrics
from lab.models import data, network, training
from lab.models.variants import VARIANTS
from zsnr.finetune import loop

lab.threads(threads)
out, scratch = lab.folders(out_dir)
folder = ROOT / results
train = data.load(ROOT / source)
draw = partial(train.draw, captioned=captioned, unconditional=unconditional)
reference, _ = train.draw(real, loop.generator(2, 0))
judge = evaluation.Judge(metrics.Classifier.load(folder / "classifier/classifier.safetensors"), reference)
base, _ = network.load(folder / "train/weights.safetensors")

# %%
pictures, measures = {}, {}
for variant, kind in VARIANTS.items():
    if variant == "base":
        continue
    recipe = training.ScheduleRecipe(
        prediction=kind.prediction,
        offset_noise=kind.offset_noise,
        images=images,
        batch=batch,
        lr=lr,
        warmup=warmup,
        ema_halflife=ema_halflife,
        precision=precision,
        seed=seed,
    )
    model, history = training.fit(base, draw, kind.schedule, recipe, scratch)
    print(f"{variant}: loss {history[0][1]:.3f} -> {history[-1][1]:.3f}")
    for cell in evaluation.plan(variant, short, long, steps):
        name = f"{variant}/{cell.name}"
        pictures[name] = evaluation.draw(model, variant, cell, samples, precision, first_seed=seed * samples)
        measures[name] = judge(pictures[name])
        print(f"{name:32s} level std / data's {measures[name]['level']['std_ratio']:.2f}", flush=True)

# %%
evaluation.save(out, {**measures, "environment": lab.environment()}, pictures, kept=0)
loop.clean(scratch)
