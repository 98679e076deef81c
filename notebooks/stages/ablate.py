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
# | variant | schedule | prediction | loss | pictures |
# |---|---|---|---|---|
# | `no-rescale` | Stable Diffusion | $v$ | its own | all |
# | `x0` | rescaled by Algorithm 1 | $x_0$ | its own | all |
# | `loss-...` | rescaled | $v$ | one weight of `zsnr.prediction` | few |
# | `length-...` | rescaled | $v$ | its own | fewer |
#
# Everything is drawn and measured here; weights are not kept.

# %% tags=["parameters"]
replica = 0
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
losses = ["x0", "min-snr-5"]
few = 256
lengths = [128]
few_samples = 32
guided_samples = 64
levels = 5
precision = "float32"
threads = 1
out_dir = ""

# %%
import dataclasses
from functools import partial

import numpy as np
import torch

import lab
from lab import ROOT
from lab.measure import evaluation, metrics, saturation, sweep
from lab.models import data, network, training
from lab.models.variants import ABLATIONS, find
from zsnr.denoisers import NetworkDenoiser
from zsnr.finetune import loop
from zsnr.prediction import cos_sin

lab.threads(threads)
out, scratch = lab.folders(out_dir)
folder = ROOT / results
seed = replica or 3  # the first fine-tunings are of seed 3, those of the replicate stages of seeds 1 and 2
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")
draw = partial(train.draw, captioned=captioned, unconditional=unconditional)
reference, _ = train.draw(real, loop.generator(2, 0))
judge = evaluation.Judge(metrics.Classifier.load(folder / "classifier/classifier.safetensors"), reference)
base, _ = network.load(folder / "train/weights.safetensors")
zsnr = find("zsnr")
recipe = training.ScheduleRecipe(
    images=images,
    batch=batch,
    lr=lr,
    warmup=warmup,
    ema_halflife=ema_halflife,
    precision=precision,
    seed=seed,
)


def shorter(n, **changes):
    """The recipe for n pictures, with its ramp and its average in proportion."""
    share = n / images
    scaled = {key: max(1, round(getattr(recipe, key) * share)) for key in ("warmup", "ema_halflife")}
    return dataclasses.replace(recipe, images=n, **scaled, **changes)


# %% [markdown]
# Error of each model by level, on held-out pictures with their class: $\|x_0 - D\|^2$ a pixel. At zero SNR nothing can be better than the
# mean of each class, whose error is that class's variance.

# %%
y, conditions = test.draw(min(guided_samples, 256), loop.generator(2, 7))
eps = torch.randn(y.shape, generator=loop.generator(2, 8))
steps = np.unique(np.linspace(0, zsnr.schedule.T - 1, levels).round().astype(int)).tolist()


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
pictures, measures = {}, {}
inception = partial(metrics.inception_score, judge.classifier)
cell = evaluation.Cell("trailing", "ddim", short)


def judged(key, model, variant, cell, n, **options):
    """Draw n pictures of a cell, and measure them."""
    pictures[key] = evaluation.draw(model, variant, cell, n, precision, **options)
    measures[key] = judge(pictures[key])
    print(f"{key:46s} level std / data's {measures[key]['level']['std_ratio']:.2f}", flush=True)


def study(name, variant, r, n):
    """Fine-tune from the base, draw and measure."""
    model, history = training.fit(base, draw, find(variant).schedule, r, scratch)
    key = f"{name}/{cell.name}"
    judged(key, model, variant, cell, n, first_seed=replica * n)
    measures[key] |= {"errors": errors(model, find(variant)), "loss": history, "images": r.images}
    return model


for variant, kind in ABLATIONS.items():
    model = study(variant, variant, dataclasses.replace(recipe, prediction=kind.prediction), samples)
    if not kind.zero_snr:  # v alone: no other fix
        leading = evaluation.Cell("leading", "ddim", short)
        judged(f"{variant}/{leading.name}", model, variant, leading, samples, first_seed=replica * samples)
    if replica == 0:
        # the guided cell of Table 3; what is rescaled is what the network predicts
        key = f"{variant}/{cell.name}-w7.5-phi0.7"
        guidance = {"scale": 7.5, "rescale": 0.7, "space": kind.prediction}
        judged(key, model, variant, cell, guided_samples, guidance=guidance)
        measures[key] |= {
            "frechet_interval": sweep.jackknife(judge.frechet, pictures[key]),
            "inception_interval": sweep.jackknife(inception, pictures[key]),
        }

# %%
for n in [*lengths, few]:
    study(f"length-{n}", "zsnr", shorter(n), few_samples)
for loss in losses:
    study(f"loss-{loss}", "zsnr", shorter(few, loss=loss), few_samples)

# %%
measures |= {"steps": steps, "environment": lab.environment()}
saturation.save(out, measures, pictures, judge.classifier, kept=16 if replica == 0 else 0)
loop.clean(scratch)
