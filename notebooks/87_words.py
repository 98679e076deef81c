# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Words: the flawed and the fixed model, trained on with a word for every picture
#
# In the stages before, a tenth of the pictures carry a word for their backdrop. Whether a model that misses a prompt was kept from following it by its schedule
# or by having heard the words too seldom is told by training both on: `control` and `zsnr` of seed 3 go on, each on its own schedule, with a word for every
# picture that has a condition. `control` sees as many pictures again: what it could reach at best is known, the exact denoiser's answer on its schedule. `zsnr` sees
# a multiple of that, as guidance multiplies what is left of its error. Drawn as the prompts of stage `guide` are, from the same noises; weights are not kept.

# %% tags=["parameters"]
results = "results/smoke"
source = "data/fashion-mnist"
unconditional = 0.1
batch = 32
images = 1280
times = 1  # as many for zsnr
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

from zsnr import ROOT, data, evaluation, exposure, metrics, network, training
from zsnr.variants import find

training.threads(threads)
out, scratch = training.folders(out_dir)
folder = ROOT / results
train = data.load(ROOT / source)
classifier = metrics.Classifier.load(folder / "classifier/classifier.safetensors")
draw = partial(train.draw, captioned=1.0, unconditional=unconditional)

# %%
pictures, measures = {}, {}
for variant in ("control", "zsnr"):
    kind = find(variant)
    recipe = training.Recipe(
        prediction=kind.prediction,
        images=images * (times if variant == "zsnr" else 1),
        batch=batch,
        lr=lr,
        warmup=warmup,
        ema_halflife=ema_halflife,
        precision=precision,
        seed=4,
    )
    start, _ = network.load(folder / f"finetune/{variant}/weights.safetensors")
    model, history = training.fit(start, draw, kind.schedule, recipe, scratch)
    measures[f"{variant}_words"] = {"loss": history, "images": recipe.images}
    cell = evaluation.Cell(kind.spacing, "ddim", short)
    for word in range(len(data.WORDS)):
        for guidance in (None, {"scale": 7.5, "rescale": 0.0}, {"scale": 7.5, "rescale": 0.7}):
            said = f"-w{guidance['scale']:g}-phi{guidance['rescale']:g}" if guidance else ""
            key = f"{variant}_words/{cell.name}{said}-{data.WORDS[word]}"
            x = evaluation.draw(model, variant, cell, prompt_samples, precision, word=word, guidance=guidance)
            pictures[key] = x
            print(f"{key:46s} level {data.level(x).mean():+.2f}", flush=True)

# %%
measures |= {"environment": training.environment()}
exposure.save(out, measures, pictures, classifier, kept=16)
training.clean(scratch)
