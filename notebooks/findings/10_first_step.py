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
# the prompt), whatever the noise; variation begins at the second step. The noise given to it at $T$ is unnecessary.
#
# It would be wrong if an exact denoiser's prediction at zero SNR depended on the noise, or its prediction at the second step did not;
# if a trained network's varied from noise to noise as much at $T$ as at the step after; or if other noise, or none, changed what it predicts.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
label = 9
noises = 32
exact = 300
repeats = 8
out_dir = ""

# %%
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from lab import ROOT
from lab.measure import metrics
from lab.measure.sweep import jackknife
from lab.models import data, network
from lab.models.backdrop import UniformBackdrop
from lab.models.variants import find
from lab.report import claims, figures
from zsnr.denoisers import Empirical, Gaussian, NetworkDenoiser
from zsnr.finetune import loop
from zsnr.grids import grid
from zsnr.noise import generators, randn
from zsnr.prediction import cos_sin
from zsnr.samplers import ddim, ddpm

torch.set_num_threads(1)
figures.style()
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
found = []
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")
label = min(label, len(train.classes) - 1)
has_backdrop = not train.mask.all()
schedules = {"flawed": find("control").schedule, "fixed": find("zsnr").schedule}
grids = {name: grid(schedule, 10, "trailing") for name, schedule in schedules.items()}
T = range(1000, 0, -100)

# %% [markdown]
# ## In closed form: one direction of Gaussian data
#
# Along a direction of variance $L = \lambda^2$ ($L = n\,\mathrm{Var}$ for the mean of $n$ equal pixels), the best prediction from pure noise is spread over
# noises by
#
# $$\mathrm{std}(\hat x_0) = \frac{\sqrt{\bar\alpha_T}\,L}{\bar\alpha_T L + 1 - \bar\alpha_T},$$
#
# which is 0 for any data once $\bar\alpha_T = 0$. At the second step it is not: there the same expression holds with that step's $\bar\alpha$.


# %%
def predicted(denoiser, x, phi):
    """The predicted x0, D = cos(phi) x - sin(phi) v."""
    c, s = cos_sin(phi)
    return c * x - s * denoiser(x, phi)


def state(phi, x0, r):
    """cos(phi) x0 + sin(phi) r."""
    c, s = cos_sin(phi)
    return c * x0 + s * r


def law(alpha_bar, L):
    """Std over noises of the predicted x0 along a direction of variance L."""
    return math.sqrt(alpha_bar) * L / (alpha_bar * L + 1 - alpha_bar)


n, spread_of_mean = 4096, 0.5  # a latent of Stable Diffusion
L = n * spread_of_mean**2
latent = Gaussian(torch.zeros(1), torch.tensor([L]))
unit = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
slopes = {}
print(f"std over noises of the latent's mean mode; the data's is {math.sqrt(L):.1f}")
print(f"{'schedule':10s}{'t':>6s}{'denoiser':>12s}{'closed form':>14s}{'of the true':>14s}")
for name, schedule in schedules.items():
    for t in (1000, 900):
        # the prediction is affine in the noise: its slope is its standard deviation
        slope = predicted(latent, unit, schedule.angle[t - 1].item()).diff(dim=0).item()
        slopes[name, t] = slope
        closed = law(schedule.alpha_bar[t - 1].item(), L)
        print(f"{name:10s}{t:6d}{slope:12.2f}{closed:14.2f}{slope / math.sqrt(L):14.2f}")
found += [
    claims.measure(
        "Z-22",
        "exact, Gaussian, flawed: std over noises of the mean mode at T, n = 4096, over its closed form",
        slopes["flawed", 1000] / law(schedules["flawed"].alpha_bar[-1].item(), L),
        equal=1.0,
        rel=1e-12,
    ),
    claims.measure("Z-22", "exact, Gaussian, zero SNR: the same at T", slopes["fixed", 1000], equal=0.0, abs=1e-12),
    claims.measure(
        "Z-22",
        "and at the second step, t = 900, over its closed form",
        slopes["fixed", 900] / law(schedules["fixed"].alpha_bar[899].item(), L),
        equal=1.0,
        rel=1e-12,
    ),
]

# %% [markdown]
# ## Four models, the same noises
#
# *Exact* is the best denoiser of some hundred pictures of one class on uniform backdrops, in float64; *trained* are the networks of stages
# `train` and `finetune`, told the class and no word. DDIM in ten trailing steps, which start at $T$ on both schedules: this is
# Figure 5's protocol. All spreads below are relative to the data's own: the pictures of the same class in the training set.

# %%
chosen = (train.label == label).nonzero()[:, 0]


def class_mean(k, level=0.0):
    """E[x0 | class k], on a backdrop of that mean level."""
    index = (train.label == k).nonzero()[:, 0]
    return train.compose(index, torch.full((len(index),), level)).double().mean(0)


def data_spread():
    """Std a pixel (root mean square over pixels) and std of the level, of the class on uniform backdrops."""
    garment = train.compose(chosen, torch.zeros(len(chosen))).double()
    backdrop = (~train.mask[chosen]).double()
    variance = garment.square().mean(0) + backdrop.mean(0) / 3 - garment.mean(0).square()  # Var(c) = 1/3
    level = data.level(garment).var() + data.level(backdrop).square().mean() / 3
    return variance.mean().sqrt().item(), level.sqrt().item()


own = dict(zip(("pixel", "level"), data_spread(), strict=True))
print(
    f"{train.classes[label]}: {len(chosen)} pictures, std a pixel {own['pixel']:.3f}, of the level {own['level']:.3f}"
)

some = chosen[torch.randperm(len(chosen), generator=loop.generator(10, 0))[:exact]]
garments = train.compose(some, torch.zeros(len(some)))
ideal = UniformBackdrop(garments, train.mask[some]) if has_backdrop else Empirical(garments)
shape = garments.shape[1:]
noise = randn((noises, *shape), generators(range(noises)))


def trained(variant, conditions):
    """The variant's network as a denoiser under (B, 2) conditions."""
    path = "zsnr/train" if variant == "base" else f"zsnr/finetune/{variant}"
    model, _ = network.load(ROOT / results / path / "weights.safetensors")
    kind = find(variant)
    return NetworkDenoiser(model.eval(), kind.schedule, kind.prediction, class_labels=conditions)


def predictions(denoiser, x, angles, sampler=ddim, **options):
    """The predicted x0 at each step, (steps, N, C, H, W)."""
    kept = []

    def keep(i, phi, x, v):
        c, s = cos_sin(phi)
        kept.append(c * x - s * v)

    sampler(denoiser, x, angles, callback=keep, **options)
    return torch.stack(kept)


silent = torch.tensor([[label, len(data.WORDS)]]).expand(noises, 2)
models = {
    "exact, flawed": (ideal, "flawed", noise.double()),
    "exact, zero SNR": (ideal, "fixed", noise.double()),
    "base, flawed": (trained("base", silent), "flawed", noise),
    "control, flawed": (trained("control", silent), "flawed", noise),
    "trained, zero SNR": (trained("zsnr", silent), "fixed", noise),
}
paths = {name: predictions(model, x, grids[schedule]) for name, (model, schedule, x) in models.items()}

# %% [markdown]
# **Figure 5**: the predicted $x_0$ at $t = 1000, 900, \dots, 100$ (columns) from four noises (rows).

# %%
shown = {
    "exact, flawed": "exact, flawed schedule",
    "exact, zero SNR": "exact, zero SNR",
    "control, flawed": "trained (control), flawed schedule",
    "trained, zero SNR": "trained, zero SNR",
}
fig, axes = plt.subplots(2, 2, figsize=(7, 3.5))
for ax, (name, title) in zip(axes.flat, shown.items(), strict=True):
    sheet = paths[name][:, :4].transpose(0, 1).flatten(0, 1)  # a row of ten steps for each noise
    figures.pictures(ax, sheet, len(T))
    ax.set_title(title, pad=11)
    for j, t in enumerate(T):
        ax.text((j + 0.5) * (data.SIZE + 1), -3, t, ha="center", va="bottom", fontsize=5.5)
fig.subplots_adjust(wspace=0.04, hspace=0.16)
figures.save(fig, out, "figure5")

# %% [markdown]
# ## How much do the predictions differ from noise to noise?


# %%
def pixel(d):
    """Std over noises, root mean square over pixels, relative to the data's."""
    return d.var(0).mean().sqrt().item() / own["pixel"]


def level(d):
    """Std over noises of the level, relative to the data's."""
    return data.level(d).std().item() / own["level"]


curves = {(name, f.__name__): [f(d) for d in path] for name, path in paths.items() for f in (pixel, level)}
fig, axes = plt.subplots(1, 2, figsize=(6.6, 2.5), sharey=True)
style = {
    "exact, flawed": {"color": figures.COLOURS["control"], "ls": ":", "marker": "o", "mfc": "white"},
    "exact, zero SNR": {"color": figures.COLOURS["zsnr"], "ls": ":", "marker": "o", "mfc": "white"},
    "base, flawed": {"color": figures.COLOURS["base"], "marker": "."},
    "control, flawed": {"color": figures.COLOURS["control"], "marker": "."},
    "trained, zero SNR": {"color": figures.COLOURS["zsnr"], "marker": "."},
}
for ax, what, title in zip(axes, ("pixel", "level"), ("a pixel", "of the level"), strict=True):
    for name in paths:
        ax.plot(T, curves[name, what], label=name, **style[name])
    ax.axhline(1, color=figures.COLOURS["data"], lw=0.8)
    ax.set(title=f"std {title} over noises / data's", xlabel="step $t$", xticks=T[::3])
    ax.set_ylim(bottom=-0.02)
axes[0].invert_xaxis()
axes[1].invert_xaxis()
axes[0].legend(fontsize=6.5)
fig.tight_layout()
figures.save(fig, out, "spread")

print(f"{'std over noises / data':24s}{'':8s}{'t = 1000':>24s}{'t = 900':>10s}{'t = 800':>10s}{'t = 100':>10s}")
for name, path in paths.items():
    for f in (pixel, level):
        first, second, third, *_, last = curves[name, f.__name__]
        low, high = jackknife(f, path[0])
        print(
            f"  {name:22s}{f.__name__:8s}{first:8.3f} [{low:5.3f}, {high:5.3f}]{second:10.3f}{third:10.3f}{last:10.3f}"
        )

# %% [markdown]
# Where the state is a known mean plus plain noise, as in all first steps and the second at zero SNR, the level's spread
# has the closed form above, for Gaussian levels of variance 1/3 on as many pixels as the class's backdrops have on average. Exact levels are
# uniform, and pure noise is not what the flawed model was made for, so the two need not agree to the digit.

# %%
backdrop = (~train.mask[chosen]).sum((1, 2, 3)).double().mean().item()
many = randn((16 * noises, *shape), generators(range(16 * noises))).double()
for name, t in (("flawed", 1000), ("fixed", 1000), ("fixed", 900)) if has_backdrop else ():
    alpha_bar, phi = schedules[name].alpha_bar[t - 1].item(), schedules[name].angle[t - 1].item()
    # the first step's prediction at zero SNR, the mean, is what the second step's state holds beside the noise
    start = many if t == 1000 else state(phi, garments.double().mean(0), many)
    closed = law(alpha_bar, backdrop / 3) / math.sqrt(backdrop / 3)
    print(f"level, {name:6s}, t = {t:4d}: exact {level(predicted(ideal, start, phi)):.3f}, Gaussian law {closed:.3f}")

# %%
still = (paths["exact, zero SNR"][0] - paths["exact, zero SNR"][0][:1]).abs().max().item()
off_mean = (paths["exact, zero SNR"][0] - garments.double().mean(0)).abs().max().item()
print(f"exact at zero SNR: predictions the same to 1e-12: {still <= 1e-12}; equal to the mean: {off_mean <= 1e-12}")
note = "one fine-tuning and one class; the interval is over noises"
zero = paths["trained, zero SNR"]
ratio = {f.__name__: f(zero[0]) / f(zero[1]) for f in (pixel, level)}
found += [
    claims.measure("Z-22", "exact, zero SNR: largest difference of two predictions at T", still),
    claims.measure("Z-22", "its distance from the class's mean", off_mean, at_most=1e-12),
    claims.measure(
        "Z-22",
        "its std a pixel over noises at the second step / data's",
        curves["exact, zero SNR", "pixel"][1],
        interval=jackknife(pixel, paths["exact, zero SNR"][1]),
        at_least=0.1,
    ),
    claims.measure(
        "Z-22",
        "exact, flawed: std a pixel over noises at T / data's",
        curves["exact, flawed", "pixel"][0],
        interval=jackknife(pixel, paths["exact, flawed"][0]),
        at_least=0.1,
    ),
]
ratio_interval = {
    f.__name__: jackknife(lambda d, f=f: f(d[:, 0]) / f(d[:, 1]), zero[:2].transpose(0, 1)) for f in (pixel, level)
}
found += [
    claims.measure(
        "Z-22",
        "trained, zero SNR: std a pixel at T / the same at the second step",
        ratio["pixel"],
        interval=ratio_interval["pixel"],
        note=note,
    ),
    claims.measure(
        "Z-22",
        "trained, zero SNR: std of the level at T / the same at the second step",
        ratio["level"],
        interval=ratio_interval["level"],
        at_most=1.0,
    ),
]
for f, what in ((pixel, "std a pixel"), (level, "std of the level")):
    found += [
        claims.measure(
            "Z-22",
            f"trained, zero SNR: {what} over noises at T / data's",
            f(zero[0]),
            interval=jackknife(f, zero[0]),
            at_most=0.1,
        ),
    ]
print(f"trained, zero SNR: at T over at the second step: a pixel {ratio['pixel']:.3f}, level {ratio['level']:.3f}")

# %% [markdown]
# ## How sharp is the drop at T?
#
# Just before $T$ the signal is tiny but the best prediction already uses it. The network takes the step as an embedding and sees each
# of the last steps once in a thousand training pictures. Below, both are given a state that holds the class's mean and plain noise, at the last
# hundred steps.

# %%
near = [1000, 999, 998, 995, 990, 985, 980, 970, 960, 950, 940, 920, 900]
denoisers = {
    "exact": (ideal, garments.double().mean(0), many),
    "trained": (models["trained, zero SNR"][0], class_mean(label).float(), noise),
}
sharp = {name: [] for name in denoisers}
for t in near:
    phi = schedules["fixed"].angle[t - 1].item()
    for name, (denoiser, mean, r) in denoisers.items():
        d = predicted(denoiser, state(phi, mean, r), phi)
        sharp[name].append((pixel(d), level(d)))
fig, axes = plt.subplots(1, 2, figsize=(6.6, 2.2), sharey=True)
for k, (ax, title) in enumerate(zip(axes, ("a pixel", "of the level"), strict=True)):
    for name, values in sharp.items():
        look = style["exact, zero SNR" if name == "exact" else "trained, zero SNR"]
        ax.plot(near, [v[k] for v in values], label=f"{name}, zero SNR", **look)
    ax.set(title=f"std {title} over noises / data's", xlabel="step $t$")
    ax.invert_xaxis()
axes[0].set_ylim(bottom=-0.02)
axes[1].legend()
fig.tight_layout()
figures.save(fig, out, "near_T")

at_T = sharp["trained"][0][1]
ideal_level = [v[1] for v in sharp["exact"]]
least = near[min(range(len(near)), key=lambda i: sharp["trained"][i][1])]
print(
    f"of these steps the trained level is spread least at t = {least}, not necessarily at T: its error there is its own"
)
if at_T < ideal_level[-1]:
    like = float(np.interp(at_T, ideal_level, near))
    print(f"at T the trained level is spread as the exact one is at t = {like:.0f}, of 1000")
for t, (_, e), (_, d) in zip(near, sharp["exact"], sharp["trained"], strict=True):
    print(f"t = {t:4d}: level over noises / data's, exact {e:.3f}, trained {d:.3f}")

# %% [markdown]
# ## Is it the mean of what was asked for?
#
# Prediction at $T$ for each class without a word, and for one class with each word (whose mean level is the middle of its fifth of $[-1, 1]$), against the means of
# the training pictures. Error: root mean square over pixels of the prediction, averaged over noises, less the mean; relative to the std a
# pixel of the data.

# %%
silent_word = len(data.WORDS)
asked = [(k, silent_word) for k in range(len(train.classes))]
asked += [(label, w) for w in range(silent_word)] if has_backdrop else []
truth = torch.stack([class_mean(k, (w - 2) * 0.4 if w < silent_word else 0.0) for k, w in asked])
conditions = torch.tensor(asked).repeat_interleave(repeats, 0)
again = randn((repeats, *shape), generators(range(repeats))).repeat(len(asked), 1, 1, 1)
first = {}
for variant in ("base", "control", "zsnr"):
    phi = find(variant).schedule.angle[-1].item()
    first[variant] = predicted(trained(variant, conditions), again, phi).double().view(len(asked), repeats, *shape)
names = [train.classes[k] if w == silent_word else data.WORDS[w] for k, w in asked]
rows = {"mean of the data": truth}
rows |= {f"zero SNR, noise {i + 1}": first["zsnr"][:, i] for i in range(2)}
rows |= {f"control, noise {i + 1}": first["control"][:, i] for i in range(2)}
fig, ax = plt.subplots(figsize=(7, 2.6))
figures.pictures(ax, torch.cat(list(rows.values())), len(asked))
for j, name in enumerate(names):
    ax.text((j + 0.5) * (data.SIZE + 1), -3, name, ha="center", va="bottom", fontsize=5.5)
for i, name in enumerate(rows):
    ax.text(-5, (i + 0.5) * (data.SIZE + 1), name, ha="right", va="center", fontsize=6.5)
figures.save(fig, out, "first")

# %%
error = {v: (d.mean(1) - truth).flatten(1).square().mean(1).sqrt() / own["pixel"] for v, d in first.items()}
print(f"{'asked for':14s}" + "".join(f"{v:>10s}" for v in error) + f"{'level at T:':>14s} zero SNR, its truth")
for j, name in enumerate(names):
    said = f"{round(data.level(first['zsnr'][j]).mean().item(), 2) + 0.0:22.2f}{round(data.level(truth[j : j + 1]).item(), 1) + 0.0:11.1f}"
    print(f"  {name:12s}" + "".join(f"{e[j].item():10.3f}" for e in error.values()) + said)
classes = {v: e[: len(train.classes)] for v, e in error.items()}
print(f"  {'classes, mean':12s}" + "".join(f"{e.mean().item():9.3f} " for e in classes.values()))
found.append(
    claims.measure(
        "Z-22",
        "trained, zero SNR: distance of the prediction at T from the class's mean, average of the classes / data's std",
        classes["zsnr"].mean().item(),
        interval=metrics.interval(classes["zsnr"].tolist()) if len(asked) > 1 else None,
        at_most=0.1,
        note="one fine-tuning; the interval is over classes",
    )
)

# %% [markdown]
# ## Is the noise necessary?
#
# With the zero-SNR model, something else takes the noise's place at one evaluation only. At an angle $\varphi$ the network sees
# $x_\varphi(r) = \cos\varphi\,\hat x_0(T) + \sin\varphi\,r$, which is DDIM's own state where $r$ is the noise; at $T$ it is $r$ alone. The change
# of the predicted $x_0$ (root mean square) is relative to the data's std a pixel. *Final* is the change of the finished picture where
# only the first evaluation saw $r$, and the state after it was built from the true noise.

# %%
another = randn((noises, *shape), generators(range(noises, 2 * noises)))
uniform = 2 * torch.rand((noises, *shape), generator=loop.generator(10, 1)) - 1
instead = {
    "zeros": torch.zeros_like(noise),
    "other noise": another,
    "uniform noise": math.sqrt(3) * uniform,  # of variance 1
    "noise of std 2": 2 * another,
    "a real picture": test.draw(noises, loop.generator(10, 2))[0],
}
angles = grids["fixed"]


def change(a, b):
    """(N,) mean squared change of each picture, relative to the data's variance a pixel."""
    return (a - b).double().square().flatten(1).mean(1) / own["pixel"] ** 2


def changes(denoiser, noise, instead):
    """By replacement: the change of the predicted x0 at T, of that at the second step, and of the finished picture."""
    T, second = angles[:2].tolist()
    x0 = predicted(denoiser, noise, T)
    then = predicted(denoiser, state(second, x0, noise), second)
    picture = ddim(denoiser, noise, angles)
    found = {}
    for name, r in instead.items():
        own_x0 = predicted(denoiser, r, T)
        later = predicted(denoiser, state(second, x0, r), second)
        found[name] = [
            change(own_x0, x0),
            change(later, then),
            change(ddim(denoiser, state(second, own_x0, noise), angles[1:]), picture),
        ]
    return found, change(ddim(denoiser, another.to(noise), angles), picture)


def rms(squares):
    return float(squares.mean()) ** 0.5


replaced = {
    "exact": changes(ideal, noise.double(), {name: r.double() for name, r in instead.items()}),
    "trained": changes(models["trained, zero SNR"][0], noise, instead),
}
print(f"{'change / data':26s}{'at T':>10s}{'':17s}{'at t = 900':>12s}{'final':>10s}")
for kind, (table, throughout) in replaced.items():
    for name, (at_T, at_second, final) in table.items():
        between = "" if kind == "exact" else "[{:.3f}, {:.3f}]".format(*jackknife(rms, at_T))
        print(f"  {kind:8s} {name:15s}{rms(at_T):10.3f} {between:16s}{rms(at_second):12.3f}{rms(final):10.3f}")
    print(f"  {kind:8s} {'other noise at every step':53s}{rms(throughout):10.3f}")

# %%
fig, ax = plt.subplots(figsize=(5.2, 2.4))
x = torch.arange(len(instead)).double()
table, throughout = replaced["trained"]
parts = (
    ("at $T$", 0, "zsnr"),
    ("at the second step", 1, "control"),
    ("finished picture, replaced at $T$ only", 2, "base"),
)
for shift, (what, k, colour) in enumerate(parts):
    middle = torch.tensor([rms(v[k]) for v in table.values()])
    bounds = torch.tensor([jackknife(rms, v[k]) for v in table.values()])
    yerr = (bounds.T - middle).abs()
    place = x + (shift - 1) * 0.27
    ax.bar(place, middle, 0.25, yerr=yerr, color=figures.COLOURS[colour], capsize=2, label=what, error_kw={"lw": 0.8})
ax.axhline(rms(throughout), color=figures.COLOURS["data"], lw=0.8, ls="--", label="other noise at every step")
ax.set_xticks(range(len(instead)), list(instead), fontsize=7)
ax.set(ylabel="rms change / data's std")
ax.set_ylim(top=1.45 * ax.get_ylim()[1])
ax.legend(ncols=2, fontsize=6.5, loc="upper left")
figures.save(fig, out, "replaced")

# %% [markdown]
# With DDPM the state after $T$ is built from the prediction and fresh noise: at zero SNR the first noise is not used at all.

# %%
both = [
    ddpm(ideal, x.double(), angles, generators=generators(range(1000, 1000 + noises))) for x in (noise, 3 * another)
]
unused = (both[0] - both[1]).abs().max().item()
print(f"exact, DDPM: pictures from two different x_T and the same later noises agree to 1e-12: {unused <= 1e-12}")
exact_change = max(rms(at_T) for at_T, _, _ in replaced["exact"][0].values())
found += [
    claims.measure("Z-23", "exact: largest change of the prediction at T, under any replacement", exact_change),
    claims.measure("Z-23", "exact, DDPM: largest change of a pixel for another x_T", unused, at_most=1e-12),
]
note = "one fine-tuning and one class; the interval is over noises. Inputs unlike any noise seen in training are printed only"


def over_second(name):
    """The change at T over that at the second step, and its interval."""
    pairs = torch.stack(table[name][:2], 1)
    return {
        "value": rms(pairs[:, 0]) / rms(pairs[:, 1]),
        "interval": jackknife(lambda p: rms(p[:, 0]) / rms(p[:, 1]), pairs),
    }


found += [
    claims.measure(
        "Z-23", "trained: change under other noise at T / at the second step", **over_second("other noise"), note=note
    ),
    claims.measure(
        "Z-23", "trained: change under zeros at T / at the second step", **over_second("zeros"), at_most=1.0
    ),
]
for name in ("other noise", "zeros"):
    at_T = table[name][0]
    found += [
        claims.measure(
            "Z-23",
            f"trained: change of the prediction at T under {name} / data's std",
            rms(at_T),
            interval=jackknife(rms, at_T),
            at_most=0.1,
        ),
    ]

# %% [markdown]
# ## Verdict

# %%
claims.save(out / "claims.json", found, "10_first_step")
print(claims.summary(found))
