# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The training ladder: configurations A to F, trained and measured
#
# Each rung of EDM's Table 2 is trained from several seeds and sampled by EDM's deterministic sampler; statistics are kept,
# weights are not. F is trained once more with every transform always applied, for what the augmentation leaks.

# %% tags=["parameters"]
results = "results/smoke"
source = "data/fashion-mnist"
captioned = 0.1
unconditional = 0.1
width = 16
batch = 32
images = 256
lr = 1e-3
warmup = 32
ema_halflife = 80
augment = 0.12
seeds = [0, 1]
samples = 64
real = 512
steps = 4
probe = 512
levels = 5
precision = "float32"
threads = 1
out_dir = ""

# %%
import dataclasses
import json
from functools import partial

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate

import lab
from lab import ROOT
from lab.measure import evaluation, metrics
from lab.models import data, ladder
from lab.models.augment import augment as transformed
from lab.models.edm_training import EDMRecipe, fit, loss_curve
from zsnr import edm, samplers
from zsnr.finetune import loop
from zsnr.grids import karras
from zsnr.path import EDM

lab.threads(threads)
out, scratch = lab.folders(out_dir)
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")
draw = partial(train.draw, captioned=captioned, unconditional=unconditional)
reference, _ = train.draw(real, loop.generator(2, 0))
judge = evaluation.Judge(metrics.Classifier.load(ROOT / results / "classifier/classifier.safetensors"), reference)
sigma_data = round(draw(4096, loop.generator(0, 10**6))[0].square().mean().sqrt().item(), 2)
recipe = EDMRecipe(
    sigma_data=sigma_data,
    images=images,
    batch=batch,
    lr=lr,
    warmup=warmup,
    ema_halflife=ema_halflife,
    augment=augment,
    precision=precision,
)

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
    g = loop.generator(3, step)
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


held_out = test.draw(2 * samples, loop.generator(3, 10**6))[0]
rates = {
    "untouched": suspected(held_out[:samples]).double().mean().item(),
    "augmented": suspected(transformed(held_out[samples:], loop.generator(3, 10**6 + 1), 1.0)[0])
    .double()
    .mean()
    .item(),
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
y, conditions = test.draw(min(samples, 256), loop.generator(2, 3))
eps = torch.randn(y.shape, generator=loop.generator(2, 4))
rows, curves, kept = [], {}, {}


def curve(network, seeds_recipe):
    denoiser = edm.Preconditioned(network, seeds_recipe.column(seeds_recipe.precondition)).eval()
    losses = loss_curve(denoiser, y, eps, sigmas, sigma_data, class_labels=conditions)
    return {"mean": losses.mean(1).tolist(), "std": losses.std(1).tolist()}


runs = [(name, seed, name) for seed in seeds for name in ladder.CONFIGS] + [("F", seeds[0], "F, always")]
for name, seed, title in runs:
    always = title != name
    start_recipe = dataclasses.replace(recipe, seed=seed, augment=1.0 if always else augment)
    r, start = ladder.configuration(name, start_recipe, width, reference.shape[1], len(train.classes))
    if seed == seeds[0] and not always:
        curves[f"{name}/start"] = curve(start, r)
    trained, history = fit(start, draw, r, scratch)
    if not always:
        curves[f"{name}/{seed}"] = curve(trained, r)
    denoiser = edm.Preconditioned(trained, r.column(r.precondition))
    x = ladder.draw(denoiser, samplers.heun, karras(steps), samples, precision, seed * samples, title, path=EDM)
    row = {"config": title, "seed": seed, "evaluations": 2 * steps - 1, **judge(x)}
    row |= {"suspected": suspected(x).double().mean().item(), "loss": history}
    rows.append(row)
    if seed == seeds[0]:
        kept[f"{title}/pictures"] = x[:32].half()
    print(f"{title:10s} seed {seed}: Frechet distance {row['frechet']:.2f}", flush=True)

# %%
real_rows = {"real": judge(test.draw(samples, loop.generator(2, 1))[0])}
parameters = sum(p.numel() for p in trained.parameters())
out.mkdir(parents=True, exist_ok=True)
save_file(kept, out / "samples.safetensors")
(out / "ladder.json").write_text(
    json.dumps(
        {
            "rows": rows,
            "real": real_rows["real"],
            "curves": curves,
            "sigmas": sigmas,
            "sigma_data": sigma_data,
            "suspected": rates,
            "parameters": parameters,
            "samples": samples,
            "held_out": len(y),
            **lab.environment(),
        },
        indent=1,
    )
    + "\n"
)
loop.clean(scratch)
