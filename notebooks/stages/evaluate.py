# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Evaluation: how bright are the pictures that a model makes?
#
# Every model draws from the same noises, in the cells of the table {spacing} x {sampler} x {evaluations of the network} that
# concern it, and every cell is measured: distribution of the backdrop's level and of the image mean against the data's,
# Fréchet distance, Inception score.
#
# `replica` 0 are the models of stages `train` and `finetune`, with real pictures beside them; 1 and above are the
# fine-tunings of stage `replicate`, found in its `scratch/` folder, or trained again where there is none.

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
samples = 64
real = 512
short = 5
long = 10
steps = [5, 10]
exact = 50
precision = "float32"
threads = 1
out_dir = ""

# %%
from functools import partial

import lab
from lab import ROOT
from lab.measure import evaluation, metrics, store
from lab.models import backdrop, data, network, plans
from lab.models.training import ScheduleRecipe
from zsnr.finetune.loop import generator
from zsnr.finetune.recipe import precision_facts

lab.threads(threads)
out, _ = lab.folders(out_dir)
folder = ROOT / results
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")
reference, _ = train.draw(real, generator(2, 0))
judge = evaluation.Judge(metrics.Classifier.load(folder / "classifier/classifier.safetensors"), reference)
base, _ = network.load(folder / "zsnr/train/weights.safetensors")
rows = []


def measure(cell, x, kept=evaluation.KEPT):
    """A cell's row, measured."""
    rows.append(evaluation.row(cell, x, judge(x), replica=replica, kept=kept))
    print(f"{cell!s:40s} level std / data's {rows[-1]['level']['std_ratio']:.2f}", flush=True)


# %% [markdown]
# ## The trained models

# %%
models = {"base": base} if replica == 0 else {}
if replica == 0:
    for name in ("control", "offset", "zsnr"):
        models[name], card = network.load(folder / "zsnr/finetune" / name / "weights.safetensors")
        if card["variant"] != name:
            raise ValueError(f"finetune/{name} holds the weights of {card['variant']}: train it again")
    # as many real pictures, which no network saw, say what a perfect model would get
    measure(evaluation.REAL, test.draw(samples, generator(2, 1))[0])
else:
    draw = partial(train.draw_parted, captioned=captioned, unconditional=unconditional)
    plan = plans.replicas(ScheduleRecipe(**recipe), replica)
    scratch = lab.scratch(f"{results}/zsnr/replicate/{replica}")
    for name in plan:
        models[name], _ = plans.train(base, draw, plan, name, scratch, note=plans.AGAIN)

# %%
for name, model in models.items():
    for cell in evaluation.plan(name, short, long, steps):
        x = evaluation.draw_cell(model, cell, samples, precision, first_seed=replica * samples)
        measure(cell, x, kept=0 if replica else evaluation.KEPT)

# %% [markdown]
# ## The exact denoiser
#
# Of some hundred garments on uniform backdrops, those of the class that a network is asked for: what schedule, steps and
# solver do when nothing is left to learn. The last row of each schedule is the limit of many steps, where only the leak is left.

# %%
ideal = backdrop.UniformBackdrop.by_class(train, exact, generator(2, 2))
for name in ("control", "zsnr") if ideal else ():
    limit = evaluation.Cell(name, "trailing", "heun", 8 * short - 1)
    for cell in [*evaluation.plan(name, short, long, []), limit]:
        x = evaluation.draw_exact(ideal, cell, samples, reference.shape[1:], first_seed=replica * samples)
        measure(cell.but(exact=True), x, kept=0 if replica else evaluation.KEPT)

# %%
store.save(out, rows, lab.environment() | precision_facts(precision))
