# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What the ablations draw
#
# The fine-tunings of stage `ablate`, found in its `scratch/` folder, or trained again where there is none.

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
samples = 64
real = 512
short = 5
few_samples = 32
guided_samples = 64
levels = 5
precision = "float32"
threads = 1
out_dir = ""

# %%
from functools import partial

import numpy as np
import torch

import lab
from lab import ROOT
from lab.measure import evaluation, metrics, store, sweep
from lab.measure.evaluation import Cell
from lab.models import data, network, plans
from lab.models.training import ScheduleRecipe
from lab.models.variants import find
from zsnr.denoisers import NetworkDenoiser
from zsnr.finetune.loop import generator
from zsnr.finetune.recipe import precision_facts
from zsnr.prediction import cos_sin

lab.threads(threads)
out, _ = lab.folders(out_dir)
folder = ROOT / results
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")
draw = partial(train.draw_parted, captioned=captioned, unconditional=unconditional)
reference, _ = train.draw(real, generator(2, 0))
judge = evaluation.Judge(metrics.Classifier.load(folder / "classifier/classifier.safetensors"), reference)
base, _ = network.load(folder / "zsnr/train/weights.safetensors")
plan = plans.ablations(ScheduleRecipe(**recipe), replica, losses, few, lengths)
scratch = lab.scratch(f"{results}/zsnr/ablate/{replica}")

# %% [markdown]
# Error of each model by level, on held-out pictures with their class: $\|x_0 - D\|^2$ a pixel. At zero SNR nothing can be better than the
# mean of each class, whose error is that class's variance.

# %%
y, conditions = test.draw(min(guided_samples, 256), generator(2, 7))
eps = torch.randn(y.shape, generator=generator(2, 8))
steps = np.unique(np.linspace(0, find("zsnr").schedule.T - 1, levels).round().astype(int)).tolist()


@torch.no_grad()
def errors(model, kind):
    """Mean squared error of the predicted x0 at each of the steps."""
    denoiser = NetworkDenoiser(model.to("cpu").eval(), kind.schedule, kind.prediction, class_labels=conditions)
    found = []
    for step in steps:
        phi = kind.schedule.angle[step].item()
        c, s = cos_sin(phi)
        x = c * y + s * eps
        d = c * x - s * denoiser(x, phi)
        found.append((d - y).square().flatten(1).mean(1).double().mean().item())
    return found


# %%
rows = []
inception = partial(metrics.inception_score, judge.classifier)
kept = 16 if replica == 0 else 0


def measure(model, cell, n, first_seed=0, **measures):
    """Draw n pictures of a cell, and measure them."""
    x = evaluation.draw_cell(model, cell, n, precision, first_seed)
    if cell.w != 1:
        measures |= {
            "frechet_interval": sweep.jackknife(judge.frechet, x),
            "inception_interval": sweep.jackknife(inception, x),
        }
    found = {**judge(x), **measures}
    rows.append(evaluation.row(cell, x, found, replica=replica, kept=kept, classifier=judge.classifier))
    print(f"{cell!s:46s} level std / data's {found['level']['std_ratio']:.2f}", flush=True)


# %% tags=["nbval-ignore-output"]
trained = {name: plans.train(base, draw, plan, name, scratch, note=plans.AGAIN) for name in plan}

# %%
for name, (variant, r) in plan.items():
    model, history = trained[name]
    whole = r.images == recipe["images"]
    n = samples if whole else few_samples
    cell = Cell(variant, "trailing", "ddim", short, images=0 if whole else r.images, loss=r.loss)
    about = {"errors": errors(model, find(variant)), "loss": history, "images": r.images}
    measure(model, cell, n, replica * n, **about)
    if whole and not find(variant).zero_snr:  # v alone: no other fix
        measure(model, cell.but(spacing="leading"), samples, replica * samples)
    if whole and replica == 0:  # the guided cell of Table 3; what is rescaled is what the network predicts
        measure(model, cell.but(w=7.5, phi=0.7, space=find(variant).prediction), guided_samples)

# %%
store.save(out, rows, {"steps": steps, **lab.environment(), **precision_facts(precision)})
