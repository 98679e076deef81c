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
# sampler. The Fréchet distance is of the 64 pixels, to all real digits.

# %% tags=["parameters"]
results = "results/smoke"
width = 8
batch_size = 32
recipe = {
    "images": 144,
    "lr": 2e-3,
    "warmup": 32,
    "ema_halflife": 80,
    "augment": 0.12,
}
seeds = [0, 1]
samples = 100
steps = 3
probe = 640
levels = 5
out_dir = ""

# %%
import numpy as np
import torch
from torch.nn.functional import cross_entropy

import lab
from lab.measure import store
from lab.measure.draw import draw, preconditioned
from lab.measure.metrics import Classifier, Frechet
from lab.measure.store import Row
from lab.models import digits, ladder, plans
from lab.models.edm_training import EDMRecipe, loss_curve
from zsnr import edm
from zsnr.finetune.loop import generator
from zsnr.grids import karras
from zsnr.path import EDM
from zsnr.samplers import heun

lab.threads(1)  # on pictures of 8x8 more are slower
out, _ = lab.folders(out_dir)
train, test = digits.load()
real = digits.both(train, test)
distance = Frechet(digits.Pixels(), real.all(generator(2, 0))[0])
scratch = lab.scratch(f"{results}/edm/ladder")

# %% [markdown]
# A Fréchet distance of pixels sees means and covariances alone. The energy distance (finding 19) sees the whole law; its estimate has no bias.

# %%
pictures = real.all(generator(2, 0))[0].flatten(1)
spread = torch.pdist(pictures).double().mean()


def energy(x):
    """(2 E|X - Y| - E|X - X'| - E|Y - Y'|) / E|Y - Y'|, X drawn and Y real."""
    x = x.flatten(1)
    between, within = torch.cdist(x, pictures).double().mean(), torch.pdist(x).double().mean()
    return ((2 * between - within - spread) / spread).item()


# %% [markdown]
# ## A judge of leakage
#
# A classifier learns to tell augmented pictures from untouched ones. What it says of generated pictures, against what it says of
# held-out ones, is the share that the augmentation leaked.

# %%
torch.manual_seed(0)
detector = Classifier(1, 2)
optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
for step in range(probe // 128):
    g = generator(3, step)
    y = train.draw(128, g)[0]
    moved = torch.cat([y[:64], train.augment(y[64:], g, 1.0)[0]])
    loss = cross_entropy(detector.head(detector(moved)), torch.arange(128) // 64)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def suspected(x):
    """The share of the pictures that the detector takes for augmented ones."""
    return detector.head(detector(x)).argmax(1).double().mean().item()


y, conditions = test.all(generator(2, 3))
rates = {
    "untouched": suspected(y),
    "augmented": suspected(test.augment(test.all(generator(3, 10**6))[0], generator(3, 10**6 + 1), 1.0)[0]),
    "as trained": suspected(
        test.augment(test.all(generator(3, 10**6))[0], generator(3, 10**6 + 2), recipe["augment"])[0]
    ),
}
print(
    f"taken for augmented: {rates['augmented']:.3f} of augmented pictures, {rates['as trained']:.3f} of pictures as F saw "
    f"them, {rates['untouched']:.3f} of untouched ones"
)

# %% [markdown]
# ## The rungs
#
# Beside the measures of pictures, EDM's loss at each noise level on held-out pictures, before and after training (Figure 5a).

# %%
sigmas = np.geomspace(0.002, 80, levels).tolist()
eps = torch.randn(y.shape, generator=generator(2, 4))


def curve(network, column):
    denoiser = edm.Preconditioned(network, column).eval()
    losses = loss_curve(denoiser, y, eps, sigmas, digits.SIGMA_DATA, class_labels=conditions)
    return {"mean": losses.mean(1).tolist(), "std": losses.std(1).tolist()}


# %% tags=["nbval-ignore-output"]
whole = EDMRecipe(sigma_data=digits.SIGMA_DATA, batch=batch_size, **recipe)
rungs = ladder.rungs(seeds)
fits = [ladder.train(rung, whole, width, train, scratch, plans.AGAIN) for rung in rungs]

# %%
rows = []
for rung, (trained, history) in zip(rungs, fits, strict=True):
    own, start = ladder.configuration(rung, whole, width)
    column = own.column(own.precondition)
    x = draw(
        preconditioned(edm.Preconditioned(trained, column)),
        heun,
        karras(steps),
        range(rung.seed * samples, (rung.seed + 1) * samples),
        tuple(y.shape[1:]),
        batch=250,
        title=str(rung),
        path=EDM,
    )
    measures = {"loss": history, "frechet": distance(x), "energy": energy(x), "suspected": suspected(x)}
    measures["curve"] = curve(trained, column)
    if first := rung.seed == seeds[0]:
        measures["curve at the start"] = curve(start, column)
    rows.append(Row({"study": "ladder", **rung.columns}, measures, {"pictures": x[:40].half()} if first else {}))
    print(f"{rung} seed {rung.seed}: Frechet distance {measures['frechet']:.3f}", flush=True)

# %%
x = real.draw(samples, generator(2, 1))[0]
rows.append(Row({"study": "real"}, {"frechet": distance(x), "energy": energy(x)}))
facts = {
    "sigmas": sigmas,
    "sigma_data": digits.SIGMA_DATA,
    "suspected": rates,
    "parameters": sum(p.numel() for p in trained.parameters()),
    "evaluations": 2 * steps - 1,
    "samples": samples,
    "trained_on": len(train),
    "held_out": len(y),
    **lab.environment(),
}
store.save(out, rows, facts)
