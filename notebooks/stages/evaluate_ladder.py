# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The training ladder: configurations A to F, sampled and measured
#
# The networks of stage `ladder`, found in its `scratch/` folder, or trained again where there is none, sampled by EDM's deterministic
# sampler.

# %% tags=["parameters"]
results = "results/smoke"
source = "data/fashion-mnist"
captioned = 0.1
unconditional = 0.1
width = 16
recipe = {
    "images": 64,
    "batch": 32,
    "lr": 1e-3,
    "optimizer": "muon",
    "warmup": 32,
    "ema_halflife": 80,
    "augment": 0.12,
    "precision": "float32",
}
seeds = [0, 1]
samples = 16
real = 256
steps = 3
probe = 256
levels = 5
precision = "float32"
threads = 1
out_dir = ""

# %%
from functools import partial

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate

import lab
from lab import ROOT
from lab.measure import evaluation, metrics, store
from lab.measure.draw import draw, preconditioned
from lab.measure.store import Row
from lab.models import data, ladder, plans
from lab.models.augment import augment as transformed
from lab.models.edm_training import EDMRecipe, fit, loss_curve
from zsnr import edm
from zsnr.finetune.loop import generator
from zsnr.finetune.recipe import precision_facts
from zsnr.grids import karras
from zsnr.path import EDM
from zsnr.samplers import heun

lab.threads(threads)
out, _ = lab.folders(out_dir)
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")
pictures = partial(train.draw, captioned=captioned, unconditional=unconditional)
reference, _ = train.draw(real, generator(2, 0))
judge = evaluation.Judge(metrics.Classifier.load(ROOT / results / "classifier/classifier.safetensors"), reference)
sigma_data = round(pictures(4096, generator(0, 10**6))[0].square().mean().sqrt().item(), 2)
scratch = lab.scratch(f"{results}/edm/ladder")

# %% [markdown]
# ## A judge of leakage
#
# A classifier learns to tell augmented pictures from untouched ones. What it says of generated pictures, against what it says of
# real ones, is the share that the augmentation leaked. It sees pictures at 8x8, where the position of things is left and the
# texture, which resampling changes and small networks get wrong, is not.


# %%
def coarse(x):
    """Means of 4x4 pixels, at the picture's own size."""
    return interpolate(avg_pool2d(x, 4), scale_factor=4)


torch.manual_seed(0)
detector = metrics.Classifier(reference.shape[1], 2)
optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
for step in range(probe // 128):
    g = generator(3, step)
    y = train.draw(128, g)[0]
    moved = torch.cat([y[:64], transformed(y[64:], g, 1.0)[0]])
    answer = torch.arange(128) // 64
    loss = cross_entropy(detector.head(detector(coarse(moved))), answer)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def suspected(x):
    """(n,) whether the detector takes each picture for an augmented one."""
    return torch.cat([detector.head(detector(coarse(batch))).argmax(1) for batch in x.split(500)]).bool()


held_out = test.draw(2 * samples, generator(3, 10**6))[0]
rates = {
    "untouched": suspected(held_out[:samples]).double().mean().item(),
    "augmented": suspected(transformed(held_out[samples:], generator(3, 10**6 + 1), 1.0)[0]).double().mean().item(),
}
print(
    f"taken for augmented: {rates['augmented']:.3f} of augmented pictures, {rates['untouched']:.3f} of untouched ones"
)

# %% [markdown]
# ## The rungs
#
# Beside the measures of pictures, EDM's loss at each noise level on held-out pictures, before and after training (Figure 5a).

# %%
sigmas = np.geomspace(0.002, 80, levels).tolist()
y, conditions = test.draw(min(samples, 256), generator(2, 3))
eps = torch.randn(y.shape, generator=generator(2, 4))


def curve(denoiser):
    losses = loss_curve(denoiser.eval(), y, eps, sigmas, sigma_data, class_labels=conditions)
    return {"mean": losses.mean(1).tolist(), "std": losses.std(1).tolist()}


# %% tags=["nbval-ignore-output"]
whole = EDMRecipe(sigma_data=sigma_data, **recipe)
rungs = list(ladder.rungs(whole, seeds, width, reference.shape[1], len(train.classes)))
fits = [
    fit(start, pictures, r, ladder.folder(scratch, name, seed, always), note=plans.AGAIN)
    for name, seed, always, r, start in rungs
]

# %%
rows = []
for (name, seed, always, r, start), (trained, history) in zip(rungs, fits, strict=True):
    first = seed == seeds[0]
    column = r.column(r.precondition)
    before = curve(edm.Preconditioned(start, column)) if first and not always else None
    denoiser = edm.Preconditioned(trained, column)
    measures = {"evaluations": 2 * steps - 1, "loss": history}
    if not always:
        measures |= {"curve": curve(denoiser), **({"curve at the start": before} if before else {})}
    x = draw(
        preconditioned(denoiser),
        heun,
        karras(steps),
        range(seed * samples, (seed + 1) * samples),
        reference.shape[1:],
        precision=precision,
        title=f"{name} {seed}",
        path=EDM,
    )
    measures |= {**judge(x), "suspected": suspected(x).double().mean().item()}
    columns = {"study": "ladder", "config": name, "seed": seed, "always": always}
    rows.append(Row(columns, measures, {"pictures": x[:32].half()} if first else {}))
    print(f"{name} seed {seed}: Frechet distance {measures['frechet']:.2f}", flush=True)

# %%
rows.append(Row({"study": "real"}, judge(test.draw(samples, generator(2, 1))[0])))
facts = {
    "sigmas": sigmas,
    "sigma_data": sigma_data,
    "suspected": rates,
    "parameters": sum(p.numel() for p in trained.parameters()),
    "samples": samples,
    "held_out": len(y),
    **lab.environment(),
    **precision_facts(precision),
}
store.save(out, rows, facts)
