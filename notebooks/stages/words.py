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
# error by $w$: the full profile takes three times as many pictures as the fine-tuning before. Drawn as the prompts of stage `guide` are, from the same noises;
# weights are not kept.

# %% tags=["parameters"]
results = "results/smoke"
source = "data/fashion-mnist"
unconditional = 0.1
batch = 32
images = 1280
lr = 1e-3
warmup = 128
ema_halflife = 160
short = 5
prompt_samples = 4
precision = "float32"
threads = 1
out_dir = ""

# %%
from functools import partial

import lab
from lab import ROOT
from lab.measure import evaluation, metrics, saturation
from lab.models import data, network, training
from lab.models.variants import find
from zsnr.finetune import loop

lab.threads(threads)
out, scratch = lab.folders(out_dir)
folder = ROOT / results
train = data.load(ROOT / source)
classifier = metrics.Classifier.load(folder / "classifier/classifier.safetensors")
draw = partial(train.draw, captioned=1.0, unconditional=unconditional)

# %%
kind = find("zsnr")
recipe = training.ScheduleRecipe(
    prediction=kind.prediction,
    images=images,
    batch=batch,
    lr=lr,
    warmup=warmup,
    ema_halflife=ema_halflife,
    precision=precision,
    seed=4,
)
start, _ = network.load(folder / "finetune/zsnr/weights.safetensors")
model, history = training.fit(start, draw, kind.schedule, recipe, scratch)

# %%
cell = evaluation.Cell(kind.spacing, "ddim", short)
pictures = {}
for word, name in enumerate(data.WORDS):
    for said, guidance in (("", None), ("-w7.5-phi0.7", {"scale": 7.5, "rescale": 0.7})):
        key = f"zsnr_words/{cell.name}{said}-{name}"
        pictures[key] = evaluation.draw(model, "zsnr", cell, prompt_samples, precision, word=word, guidance=guidance)
        print(f"{key:46s} level {data.level(pictures[key]).mean():+.2f}", flush=True)

# %%
measures = {"zsnr_words": {"loss": history, "images": images}, "environment": lab.environment()}
saturation.save(out, measures, pictures, classifier, kept=0)
loop.clean(scratch)
