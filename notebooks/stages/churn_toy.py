# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Churn where the truth is known
#
# Small networks, trained the original way (VP) and EDM's way on data whose law is known (`data`: `ring` or `digits`), are sampled with EDM's
# Algorithm 2 and measured against the law; so are its exact denoiser, and exact denoisers with a planted error. Weights are not kept in the
# results: they stay in `scratch/`.

# %% tags=["parameters"]
data = "ring"
recipe = {"images": 4096, "batch": 512, "lr": 2e-3, "warmup": 512, "ema_halflife": 1024}
width = 32
seeds = [0, 1]
samples = 64
reference = 256
steps = 8
short = 4
S_churn = [10.0, 106.0]
chains = 16
iterations = 5
long = 10
held_out = 128
levels = 13
out_dir = ""

# %%
import numpy as np

import lab
from lab.measure import known_truth as truth
from lab.measure import store, sweep
from lab.measure.store import Row
from lab.models import toy
from lab.models.edm_training import EDMRecipe, fit
from zsnr import edm
from zsnr.finetune.loop import generator

lab.threads(1)  # so small are the networks
out, scratch = lab.folders(out_dir)
law = toy.LAWS[data]()
judge = truth.Judge(law, reference)
sigmas = np.geomspace(0.01, 40, levels).tolist()
rows = []

# %% [markdown]
# ## The networks

# %% tags=["nbval-ignore-output"]
denoisers = {}
for training in toy.TRAININGS:
    for seed in seeds:
        r, start = toy.start(training, EDMRecipe(seed=seed, **recipe), law.shape, width)
        trained, history = fit(start, law.draw, r, scratch / training / str(seed))
        denoiser = edm.EDMDenoiser(edm.Preconditioned(trained, r.column(r.precondition)))
        denoisers[training, seed] = denoiser
        columns = {"study": "network", "data": data, "training": training, "seed": seed}
        rows.append(Row(columns, truth.network(denoiser, law, sigmas, held_out) | {"loss": history}))

# %% [markdown]
# ## Samples
#
# Of one network all settings start from the same noises. The exact denoiser draws as many samples in all as one network; its seeds are parts of them.


# %%
def measure(denoiser, training, seed, setting, N, n, excess=0.0):
    """The row of n samples."""
    x = truth.draw(denoiser, law.shape, setting, N, n, seed)
    columns = {"study": "churn", "data": data, "training": training, "seed": seed, "N": N, "excess": excess}
    rows.append(Row(columns | setting._asdict(), judge(x)))


strongest = truth.Setting(S_churn[-1])
for (training, seed), denoiser in denoisers.items():
    for setting in truth.settings(S_churn):
        measure(denoiser, training, seed, setting, steps, samples)
    for setting in (truth.NONE, truth.VP, strongest):
        measure(denoiser, training, seed, setting, short, samples)
    print(f"{data}, {training}, seed {seed}: drawn", flush=True)

# %% [markdown]
# ## Exact denoisers, and exact denoisers with a planted error
#
# The planted ones remove 0.7 and 1.4 % too much noise at the levels in [.05, 1], where the churn is, too.

# %%
few = samples // len(seeds)
for seed in seeds:
    real, _ = law.draw(few, generator(10, seed))
    rows.append(Row({"study": "floor", "data": data, "seed": seed}, judge(real)))
    for setting in (truth.NONE, truth.Setting(*truth.STRONG), strongest):
        measure(law.exact, "exact", seed, setting, steps, few)
    for excess in (0.007, 0.014):
        planted = truth.removing(law.exact, excess)
        for S_noise in (1.0, (1 + excess) ** 0.5):
            measure(planted, "planted", seed, truth.Setting(*truth.STRONG, S_noise), steps, few, excess)

# %% [markdown]
# ## Churn at one level, again and again
#
# States with noise of one level are churned at it (EDM, Figure 14); what is measured is $D$ of them, against the exact $D$ of exact states.


# %%
def in_place(denoiser, training, seed, sigma, S_noise, n):
    """The row of chains that start from the exact law."""
    x, _ = truth.noisy(law.draw(chains, generator(11, seed))[0], sigma, generator(12, seed))
    kept = sweep.churn_in_place(denoiser, x, sigma, n, S_noise, generator(13, seed), n // 5)
    columns = {"study": "in_place", "data": data, "training": training, "seed": seed, "sigma": sigma}
    found = [level_judges[sigma].energy(D) for D in kept]
    rows.append(Row(columns | {"S_noise": S_noise}, {"energy": found, "iterations": n}))


level_judges = {s: truth.Judge(law, reference, s) for s in (0.1, 2.0)}
planted = {"turning": truth.turning(law.exact, 0.05), "planted": truth.removing(law.exact, 0.014, 0.0, 1000.0)}
for sigma in level_judges:
    for (training, seed), denoiser in denoisers.items():
        for S_noise in (1.0, 1.007):
            in_place(denoiser, training, seed, sigma, S_noise, iterations)
    if data == "ring":  # small enough for five times as many iterations
        for name, denoiser in {"exact": law.exact, **planted}.items():
            for S_noise in (1.0, 1.007):
                in_place(denoiser, name, seeds[0], sigma, S_noise, long)
    else:
        in_place(law.exact, "exact", seeds[0], sigma, 1.0, iterations)

# %%
store.save(out, rows, lab.environment() | {"samples": samples})
