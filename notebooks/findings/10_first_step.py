# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10. The first step: what is there to predict from pure noise?
#
# **Claim** (Lin et al. 2023, Sec. 5.2, Figure 5). At $t = T$ of a zero-SNR schedule the ideal model outputs the mean of the data (given
# the prompt), whatever the noise. Variation begins at the second step. The noise that is given to the model at $T$ is unnecessary.
#
# **What would refute it.** The claim is wrong if the prediction of an exact denoiser at zero SNR depends on the noise, or if its prediction at the
# second step does not. It is wrong for trained networks if their predictions vary from noise to noise as much at $T$ as at the step after, or if other
# noise changes them as much.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
label = 9
noises = 32
exact = 300
repeats = 8
out_dir = ""

# %%
import numpy as np
import torch

from lab.measure import metrics
from lab.measure.sweep import jackknife
from lab.models import data
from lab.report import figures
from lab.report.finding import say, start
from lab.report.tables import table
from lab.studies import first_step
from lab.studies import first_step_figures as draw

out, claim = start("10_first_step", out_dir)
case = first_step.Case(results, source, label, noises, exact)
spreads = case.spreads()

# %% [markdown]
# ## The answer

# %%
paths = case.paths()
curves = {(name, what): [f(d) for d in path] for name, path in paths.items() for what, f in spreads.items()}
ideal, trained = (curves[name, "pixel"] for name in ("exact, zero SNR", "trained, zero SNR"))
say(
    f"At zero SNR the exact denoiser's predictions spread over noises by **{ideal[0]:.3f}** of the data's standard deviation at $T$, and by "
    f"{ideal[1]:.3f} at the second step. Those of the trained network spread by **{trained[0]:.3f}** at $T$ and by {trained[1]:.3f} at the second "
    f"step; on the flawed schedule it is {curves['control, flawed', 'pixel'][0]:.3f} at $T$."
)
figures.save(draw.figure5(paths), out, "figure5")

# %% [markdown]
# *Figure 5 of the paper: the predicted $x_0$ at the steps $t = 1000, 900, \dots, 100$ (columns) from four noises (rows). At zero SNR the first column is
# the same picture for all noises, for the network nearly. On the flawed schedule it is not.*
#
# *Exact* is the best denoiser of some hundred pictures of one class on uniform backdrops, in float64. *Trained* are the networks of the stages
# `train` and `finetune`, which are told the class and no word. The sampler is DDIM in ten trailing steps, which start at $T$ on both schedules.
#
# ## In closed form: one direction of Gaussian data
#
# Along a direction of variance $L$ ($L = n\,\mathrm{Var}$ for the mean of $n$ equal pixels), the best prediction from pure noise is spread over
# noises by
#
# $$\mathrm{std}(\hat x_0) = \frac{\sqrt{\bar\alpha_T}\,L}{\bar\alpha_T L + 1 - \bar\alpha_T}.$$
#
# It is 0 for any data once $\bar\alpha_T = 0$. At the second step it is not: there the same expression holds with the $\bar\alpha$ of that step. The
# example is a latent of Stable Diffusion, 4096 pixels whose mean has a standard deviation of 0.5.

# %%
L = 4096 * 0.5**2
pairs = [(name, t) for name in first_step.SCHEDULES for t in (1000, 900)]
slope = {(name, t): first_step.slope(name, t, L) for name, t in pairs}
law = {(name, t): first_step.law(first_step.SCHEDULES[name].alpha_bar[t - 1].item(), L) for name, t in pairs}
ratio = {pair: slope[pair] / law[pair] for pair in pairs if law[pair]}
what = "exact, Gaussian, flawed: std over noises of the mean mode at T, n = 4096, over its closed form"
claim("Z-22", what, ratio["flawed", 1000], equal=1.0, rel=1e-12)
claim("Z-22", "exact, Gaussian, zero SNR: the same at T", slope["fixed", 1000], equal=0.0, abs=1e-12)
claim("Z-22", "and at the second step, t = 900, over its closed form", ratio["fixed", 900], equal=1.0, rel=1e-12)
rows = [(*pair, slope[pair], law[pair], slope[pair] / L**0.5) for pair in pairs]
table(rows, {"schedule": "", "t": "", "std, denoiser": ".2f", "std, closed form": ".2f", "std / the data's": ".2f"})

# %% [markdown]
# ## How much do the predictions differ from noise to noise?
#
# All spreads are relative to those of the data: the pictures of the same class in the training set.

# %%
figures.save(draw.spread_figure(curves), out, "spread")
bounds = {(name, what): jackknife(f, path[0]) for name, path in paths.items() for what, f in spreads.items()}
rows = [(*key, (c[0], bounds[key]), c[1], c[2], c[-1]) for key, c in curves.items()]
table(rows, ["std over noises / data's", "of", "t = 1000", "t = 900", "t = 800", "t = 100"])

# %% [markdown]
# *Left: standard deviation of a pixel of the prediction over noises. Right: that of the level of its backdrop. The line at 1 is the data.*
#
# Where the state is a known mean plus plain noise, the spread of the level has the closed form above. That is so at all first steps, and at the second step
# at zero SNR. The law is for Gaussian levels; the exact ones are uniform, so the two need not agree to the digit.

# %%
many, middle = case.noise(16 * noises).double(), case.garments.double().mean(0)
rows = []
for name, t in (("flawed", 1000), ("fixed", 1000), ("fixed", 900)) if case.has_backdrop else ():
    alpha_bar, phi = (getattr(first_step.SCHEDULES[name], x)[t - 1].item() for x in ("alpha_bar", "angle"))
    # the first step's prediction at zero SNR, the mean, is what the second step's state holds beside the noise
    x = many if t == 1000 else first_step.state(phi, middle, many)
    variance = case.backdrop / 3
    law_of = first_step.law(alpha_bar, variance) / variance**0.5
    rows.append((name, t, case.level(first_step.predicted(case.ideal, x, phi)), law_of))
table(rows, ["schedule", "t", "std of the level / data's, exact", "Gaussian law"])

# %%
zero, known = paths["trained, zero SNR"], paths["exact, zero SNR"]
still, off_mean = (known[0] - known[0][:1]).abs().max().item(), (known[0] - middle).abs().max().item()
claim("Z-22", "exact, zero SNR: largest difference of two predictions at T", still)
claim("Z-22", "its distance from the class's mean", off_mean, at_most=1e-12)
what, pair = "its std a pixel over noises at the second step / data's", jackknife(case.pixel, known[1])
claim("Z-22", what, ideal[1], interval=pair, at_least=0.1)
what, flawed = "exact, flawed: std a pixel over noises at T / data's", curves["exact, flawed", "pixel"][0]
claim("Z-22", what, flawed, interval=bounds["exact, flawed", "pixel"], at_least=0.1)

# %%
(pixel, pixel_span), (level, level_span) = (first_step.T_over_second(f, zero) for f in spreads.values())
note = "one fine-tuning and one class; the interval is over noises"
what = "trained, zero SNR: std a pixel at T / the same at the second step"
claim("Z-22", what, pixel, interval=pixel_span, note=note)
what = "trained, zero SNR: std of the level at T / the same at the second step"
claim("Z-22", what, level, interval=level_span, at_most=1.0)
for what, name in (("pixel", "std a pixel"), ("level", "std of the level")):
    at_T = {"value": spreads[what](zero[0]), "interval": bounds["trained, zero SNR", what]}
    claim("Z-22", f"trained, zero SNR: {name} over noises at T / data's", **at_T, at_most=0.1)

# %% [markdown]
# ## How sharp is the drop at T?
#
# Just before $T$ the signal is tiny, but the best prediction already uses it. The network takes the step as an embedding, and fine-tuning
# shows it each of the last steps in a few of a thousand pictures only. Below, both get a state that holds the mean of the class and plain noise.

# %%
near = [1000, 999, 998, 995, 990, 985, 980, 970, 960, 950, 940, 920, 900]
denoisers = {
    "exact": (case.ideal, middle, many),
    "trained": (case.trained("zsnr"), case.class_mean(case.k).float(), case.noise()),
}
sharp = {name: [] for name in denoisers}
for phi in (first_step.SCHEDULES["fixed"].angle[t - 1].item() for t in near):
    for name, (denoiser, mean, r) in denoisers.items():
        d = first_step.predicted(denoiser, first_step.state(phi, mean, r), phi)
        sharp[name].append((case.pixel(d), case.level(d)))
figures.save(draw.near_T_figure(near, sharp), out, "near_T")
levels = {name: [v[1] for v in values] for name, values in sharp.items()}
least = near[int(np.argmin(levels["trained"]))]
like = float(np.interp(levels["trained"][0], levels["exact"], near))
say(f"The trained level is spread least at t = {least}. At T it is spread as the exact one is at t = {like:.0f}.")

# %% [markdown]
# *Spread of the predictions over noises at the last hundred steps of the zero-SNR schedule.*
#
# ## Is it the mean of what was asked for?
#
# The prediction at $T$ for each class without a word, and for one class with each word, is compared with the mean of the training pictures. The mean level of a
# word is the middle of its fifth of $[-1, 1]$.

# %%
pairs, names, truth = case.asked()
first = {variant: case.first(variant, repeats) for variant in ("base", "control", "zsnr")}
rows = {"mean of the data": truth}
rows |= {f"zero SNR, noise {i + 1}": first["zsnr"][:, i] for i in range(2)}
rows |= {f"control, noise {i + 1}": first["control"][:, i] for i in range(2)}
figures.save(draw.first_figure(rows, names), out, "first")

# %% [markdown]
# *Predictions at $T$, from two noises for each model.*

# %%
error = {v: (d.mean(1) - truth).flatten(1).square().mean(1).sqrt() / case.own["pixel"] for v, d in first.items()}
classes = error["zsnr"][: len(case.train.classes)]
what = "trained, zero SNR: distance of the prediction at T from the class's mean, average of the classes / data's std"
span = metrics.interval(classes.tolist()) if len(pairs) > 1 else None
note = "one fine-tuning; the interval is over classes"
claim("Z-22", what, classes.mean().item(), interval=span, at_most=0.1, note=note)
level = [
    [data.level(x[j : j + 1].flatten(0, -4)).mean().item() for j in range(len(names))] for x in (first["zsnr"], truth)
]
table(
    zip(names, *(e.tolist() for e in error.values()), *level, strict=True),
    ["asked for", *error, "level, zsnr", "its truth"],
)

# %% [markdown]
# *The columns of the table named by a model are the error of its prediction: root mean square over
# pixels of the prediction, averaged over noises, less the mean of the data; over the data's standard deviation a pixel.*
#
# ## Is the noise necessary?
#
# With the zero-SNR model, something else takes the place of the noise at one evaluation only. At an angle $\varphi$ the network sees
# $\cos\varphi\,\hat x_0(T) + \sin\varphi\,r$. This is DDIM's own state if $r$ is the noise; at $T$ it is $r$ alone. *Finished picture* is the change of the
# result where only the first evaluation saw $r$, and the state after it was built from the true noise.

# %%
replaced = {
    "exact": case.changes(case.ideal, torch.float64),
    "trained": case.changes(case.trained("zsnr"), torch.float32),
}
found, throughout = replaced["trained"]
figures.save(draw.replaced_figure(found, throughout), out, "replaced")
rows = []
for kind, (changes, other) in replaced.items():
    for name, (at_T, second, final) in changes.items():
        pair = None if kind == "exact" else jackknife(first_step.rms, at_T)
        rows.append((kind, name, (first_step.rms(at_T), pair), first_step.rms(second), first_step.rms(final)))
    rows.append((kind, "other noise at every step", None, None, first_step.rms(other)))
table(rows, ["change / data's std", "in place of the noise", "at T", "at the second step", "finished picture"])

# %% [markdown]
# *Change of the trained model's predictions and pictures, with 95 % intervals over noises.* With DDPM the state after $T$ is built from the prediction and
# fresh noise, so at zero SNR the first noise is not used at all.
#
# ## Verdict
#
# *Direction* means that only the sign can be checked at this scale, and that it is as claimed. A check *beside* decides nothing.

# %%
largest = max(first_step.rms(at_T) for at_T, _, _ in replaced["exact"][0].values())
claim("Z-23", "exact: largest change of the prediction at T, under any replacement", largest)
claim("Z-23", "exact, DDPM: largest change of a pixel for another x_T", case.unused(), at_most=1e-12)
note = "one fine-tuning and one class; the interval is over noises. Inputs unlike any noise seen in training are printed only"
for name, what, band in (
    ("other noise", "trained: change under other noise at T / at the second step", {"note": note}),
    ("zeros", "trained: change under zeros at T / at the second step", {"at_most": 1.0}),
):
    value, span = first_step.over_second(found[name])
    claim("Z-23", what, value, interval=span, **band)
for name in ("other noise", "zeros"):
    what, at_T = f"trained: change of the prediction at T under {name} / data's std", found[name][0]
    claim("Z-23", what, first_step.rms(at_T), interval=jackknife(first_step.rms, at_T), at_most=0.1)
claim.verdict()
