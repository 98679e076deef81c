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

# %% tags=["parameters"]
results = "results/smoke"
source = "data/fashion-mnist"
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
import tempfile
from pathlib import Path

import torch

import lab
from lab import ROOT
from lab.measure import evaluation, metrics
from lab.models import backdrop, data, network
from lab.models.variants import VARIANTS
from zsnr.finetune import loop

lab.threads(threads)
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
folder = ROOT / results
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")
reference, _ = train.draw(real, loop.generator(2, 0))
judge = evaluation.Judge(metrics.Classifier.load(folder / "classifier/classifier.safetensors"), reference)

# %% [markdown]
# The same number of real pictures, which the network never saw, says what a perfect model would get.

# %%
pictures = {"real": test.draw(samples, loop.generator(2, 1))[0]}
measures = {"real": judge(pictures["real"])}

# %% [markdown]
# ## The trained models
#
# The fine-tunings of seed 3; those of other seeds are trained and measured by the `replicate` stage.

# %%
for variant in VARIANTS:
    path = "train" if variant == "base" else f"finetune/{variant}"
    model, card = network.load(folder / path / "weights.safetensors")
    if card["variant"] != variant:
        raise ValueError(f"{path} holds the weights of {card['variant']}, not of {variant}: train it again")
    for cell in evaluation.plan(variant, short, long, steps):
        name = f"{variant}/{cell.name}"
        pictures[name] = evaluation.draw(model, variant, cell, samples, precision)
        measures[name] = judge(pictures[name])
        print(f"{name:32s} level std / data's {measures[name]['level']['std_ratio']:.2f}", flush=True)

# %% [markdown]
# ## The exact denoiser
#
# Of some hundred garments on uniform backdrops: what schedule, steps and solver do when nothing is left to learn. The
# last row of each schedule is the limit of many steps, where only the leak is left.

# %%
keep = torch.randperm(len(train), generator=loop.generator(2, 2))[:exact]
keep = keep[~train.mask[keep].flatten(1).all(1)]
if len(keep):
    ideal = backdrop.UniformBackdrop(train.compose(keep, torch.zeros(len(keep))), train.mask[keep])
    for variant in ("control", "zsnr"):
        limit = evaluation.Cell("trailing", "heun", 8 * short - 1)
        for cell in [*evaluation.plan(variant, short, long, []), limit]:
            name = f"exact-{variant}/{cell.name}"
            pictures[name] = evaluation.draw_exact(ideal, variant, cell, samples, reference.shape[1:])
            measures[name] = judge(pictures[name])
            print(f"{name:32s} level std / data's {measures[name]['level']['std_ratio']:.2f}", flush=True)

# %%
evaluation.save(out, {**measures, "environment": lab.environment()}, pictures)
