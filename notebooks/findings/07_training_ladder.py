# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. The training ladder: preconditioning, loss and augmentation, one at a time
#
# **Claim** (Karras et al. 2022, Sec. 5, App. B.6, Table 2, Figure 5a). Three requirements determine the preconditioning and the
# weight of the loss: unit variance of the network's input and target, and the least amplification of its errors. A network that starts from 0 then has a loss of 1
# at every noise level; training lowers it at intermediate levels only, and there the training noise is put. From one
# configuration to the next, preconditioning leaves FID about where it was, the loss gives the large gain, non-leaky augmentation a
# consistent one.
#
# It would be wrong if other coefficients met the requirements, if the loss at the start depended on $\sigma$, if training lowered it
# at either end, if E were no better than C and D by more than the seeds differ, or if generated pictures were augmented ones.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
images = 10_000
out_dir = ""

# %%
import math
import tempfile
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch
from scipy import stats
from torch import nn

from lab import ROOT
from lab.measure.metrics import interval
from lab.measure.store import load
from lab.models import data, ladder
from lab.models.augment import augment, warp
from lab.models.edm_training import EDMRecipe, loss_curve, objective
from lab.report import claims, figures
from zsnr import edm
from zsnr.finetune import loop

torch.set_num_threads(1)
figures.style()
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
found = []
trained = load(ROOT / results / "edm/evaluate_ladder")
study = trained.facts
sigma_data, sigmas = study["sigma_data"], np.array(study["sigmas"])
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")
COLOURS = dict(zip("ABCDEF", ("#c9b18b", "#b07a1e", "#d1495b", "#8d6cab", "#1f7a8c", "#222222"), strict=True))
rungs = trained.where(study="ladder")
rows = {name: rungs.where(config=name, always=False).rows for name in ladder.CONFIGS}
rows["F, always"] = rungs.where(always=True).rows
seeds = [row["seed"] for row in rows["F"]]
assert all([row["seed"] for row in rows[name]] == seeds for name in ladder.CONFIGS), "the rungs are paired by seed"
# a share of n pictures is a whole number of n-ths: the least n that fits all shares of the stage
shares = [row["suspected"] for row in rungs] + list(study["suspected"].values())
samples = math.lcm(*(Fraction(share).limit_denominator(10_000).denominator for share in shares))
assert samples < 10_000, "these are no shares of one number of pictures"


def check(*args, **bands):
    found.append(claims.measure(*args, **bands))


print(
    f"{len(seeds)} seeds, {rungs.rows[0]['loss'][-1][0]} training pictures, {study['parameters'] / 1e6:.2f} million parameters, "
    f"{samples} generated pictures by {rungs.rows[0]['evaluations']} evaluations each, sigma_data = {sigma_data}"
)

# %% [markdown]
# ## What the three requirements determine
#
# $D = c_\text{skip}\, x + c_\text{out} F(c_\text{in}\, x)$ with $x = y + n$ asks of $F$ the target $(y - c_\text{skip}(y+n))/c_\text{out}$. For data of variance $\sigma_\text{data}^2$:

# %%
s, d = sp.symbols("sigma sigma_data", positive=True)
k, a = sp.symbols("c_skip", real=True), sp.symbols("a", positive=True)
derived = {"c_in": sp.solve(a**2 * (d**2 + s**2) - 1, a)[0]}  # Var[c_in (y + n)] = 1
c_out2 = (1 - k) ** 2 * d**2 + k**2 * s**2  # Var[target] = 1
derived["c_skip"] = sp.solve(c_out2.diff(k), k)[0]  # the least c_out
derived["c_out"] = sp.sqrt(sp.factor(c_out2.subs(k, derived["c_skip"])))
derived["lambda"] = 1 / derived["c_out"] ** 2  # lambda c_out^2 = 1
table1 = {
    "c_in": 1 / sp.sqrt(s**2 + d**2),
    "c_skip": d**2 / (s**2 + d**2),
    "c_out": s * d / sp.sqrt(s**2 + d**2),
    "lambda": (s**2 + d**2) / (s * d) ** 2,
}
gaps = {name: sp.simplify(derived[name] - table1[name]) for name in table1}
curvature = sp.simplify(c_out2.diff(k, 2) / (s**2 + d**2))  # above 0: a minimum
for name, value in derived.items():
    print(f"{name:7s}= {sp.simplify(value)!s:46s} less Table 1's: {gaps[name]}")
print(f"second derivative of c_out^2 by c_skip: {curvature} (sigma^2 + sigma_data^2)")


# %% [markdown]
# The same from the code: all four columns of Table 1 as they are computed here.


# %%
def column(name):
    return edm.column(name, **({"sigma_data": 0.5} if name == "edm" else {}))


def report(name, sigma, d=0.5):
    """Coefficients of a column, the variances of its input and target, and its weight lambda c_out^2."""
    c_skip, c_out, c_in, _ = column(name).precondition(sigma)
    return {
        "c_skip": c_skip,
        "c_out": c_out.abs(),
        "c_in": c_in,
        "input": c_in**2 * (sigma**2 + d**2),
        "target": ((1 - c_skip) ** 2 * d**2 + c_skip**2 * sigma**2) / c_out**2,
        "weight": column(name).weight(sigma) * c_out**2,
    }


print(f"{'EDM, sigma':>12s}{'c_skip':>12s}{'c_out':>12s}{'c_in':>12s}{'lambda':>12s}{'lambda c_out^2':>16s}")
for level in (0.002, 0.1, 0.5, 1.0, 80.0):
    r = report("edm", torch.tensor(level, dtype=torch.float64))
    print(
        f"{level:12g}{r['c_skip']:12.4g}{r['c_out']:12.4g}{r['c_in']:12.4g}{r['weight'] / r['c_out'] ** 2:12.4g}{r['weight']:16.4f}"
    )
levels = torch.logspace(math.log10(0.002), math.log10(80), 400, dtype=torch.float64)
reports = {name: report(name, levels) for name in edm.COLUMNS}
ours = reports["edm"]
theirs = {name: sp.lambdify((s, d), e)(levels.numpy(), 0.5) for name, e in derived.items()}
off = max(
    np.abs(ours[name].numpy() / theirs[name] - 1).max().item() for name in ("c_in", "c_skip", "c_out")
)  # lambda is in the check on lambda c_out^2
unit = max((ours[name] - 1).abs().max().item() for name in ("input", "target"))
check(
    "E-43", "derived c_in, c_skip, c_out, lambda that are Table 1's, of 4", sum(g == 0 for g in gaps.values()), equal=4
)
check(
    "E-43",
    "second derivative of c_out^2 over sigma^2 + sigma_data^2",
    float(curvature.subs({s: 1, d: 0.5})),
    at_least=1e-9,
)
balance = (ours["weight"] - 1).abs().max().item()
check(
    "E-43", "code less derived, unit variances, lambda c_out^2: largest deviation, 400 levels", max(off, unit, balance)
)

# %%
fig, axes = plt.subplots(2, 3, figsize=(6.5, 3.7), sharex=True)
titles = {
    "c_skip": r"$c_\mathrm{skip}$",
    "c_out": r"$|c_\mathrm{out}|$",
    "c_in": r"$c_\mathrm{in}$",
    "input": "variance of the input",
    "target": "variance of the target",
    "weight": r"weight $\lambda\,c_\mathrm{out}^2$",
}
looks = {"vp": ("#d1495b", "-"), "ve": ("#b07a1e", "-"), "iddpm": ("#8d6cab", "--"), "edm": ("#1f7a8c", "-")}
for ax, (key, title) in zip(axes.flat, titles.items(), strict=True):
    for name, (colour, line) in looks.items():
        ax.plot(levels, reports[name][key], line, color=colour, label={"iddpm": "iDDPM"}.get(name, name.upper()))
    ax.set(xscale="log", title=title, xticks=[0.01, 1, 100])
    if key in ("c_out", "c_in", "input"):
        ax.set_yscale("log")
    else:
        ax.set_ylim(-0.05, 1.15)
mixed = column("vp").weight(levels) * reports["edm"]["c_out"] ** 2
dotted = axes[1, 2].plot(levels, mixed, ":", color="#222222", label="EDM's with\n$\\lambda = 1/\\sigma^2$")
axes[1, 2].legend(handles=dotted, loc="lower left", handlelength=1.2)
for ax in axes[1]:
    ax.set_xlabel(r"$\sigma$")
axes[0, 0].legend(loc="lower left")
fig.tight_layout()
figures.save(fig, out, "coefficients")

# %% [markdown]
# Where $\sigma \gg \sigma_\text{data}$, an error of VP's, VE's and iDDPM's networks is multiplied by $\sigma$, EDM's by $\sigma_\text{data}$. VE's input is as large as the noise.
# The target has unit variance in all columns; with $1/\sigma^2$ and $c_\text{out} = \pm\sigma$ the weight is 1 there, too. It is the mixture, D, that gives
# large $\sigma$ almost no weight: $\lambda c_\text{out}^2 = \sigma_\text{data}^2/(\sigma^2 + \sigma_\text{data}^2)$.
#
# ## The loss at the start
#
# The output layer starts from 0, so $F = 0$ and $D = c_\text{skip}\, x$. Its expected loss is $\lambda[(1-c_\text{skip})^2\, E y^2 + c_\text{skip}^2 \sigma^2]$: 1 at every $\sigma$ with
# EDM's weight (E), and $\sigma_\text{data}^2/(\sigma^2 + \sigma_\text{data}^2)$ with EDM's preconditioning and $\lambda = 1/\sigma^2$ (D), where $\sigma_\text{data}^2 = E y^2$, the mean included.

# %%
start = c_out2.subs(k, table1["c_skip"])
symbolic = [sp.simplify(table1["lambda"] * start - 1), sp.simplify(start / s**2 - d**2 / (s**2 + d**2))]
print("expected loss at the start less the closed form, symbolically: E", symbolic[0], " D", symbolic[1])
check(
    "E-44",
    "expected losses at the start that are the closed forms of E and D, of 2",
    sum(e == 0 for e in symbolic),
    equal=2,
)


class Zero(nn.Module):
    """What a network with a zero-initialised output layer computes."""

    def forward(self, x, c_noise, class_labels):
        return torch.zeros_like(x)


channels, classes = train.image.shape[1], len(train.classes)
y, labels = test.draw(8, loop.generator(7, 0))
largest, recipes = 0.0, {}
for name in ("D", "E"):
    recipes[name], network = ladder.configuration(name, EDMRecipe(sigma_data=sigma_data), 16, channels, classes)
    c_in, c_noise = recipes[name].column("edm").precondition(torch.tensor(sigmas))[2:]
    with torch.no_grad():
        answers = [
            network.eval()(i.float() * y, c.float().expand(len(y)), labels) for i, c in zip(c_in, c_noise, strict=True)
        ]
    largest = max(largest, *(f.abs().max().item() for f in answers))
print(f"largest output of the networks at the start, {len(sigmas)} levels: {largest}")
check("E-44", f"largest |F| of the networks at the start, {len(sigmas)} levels", largest, equal=0)

# %% [markdown]
# So their losses on 2000 held-out pictures need no network. The band: $\sigma_\text{data}$ is rounded to two digits, which alone may move the
# loss by $2 \cdot 0.005/\sigma_\text{data}$, and three standard errors of the mean over pictures.

# %%
y, conditions = test.draw(images // 5, loop.generator(7, 1))
eps = torch.randn(y.shape, generator=loop.generator(7, 2))
zero = edm.Preconditioned(Zero(), recipes["E"].column("edm"))
first = loss_curve(zero, y, eps, sigmas.tolist(), sigma_data, class_labels=conditions)
error = first.std(1) / math.sqrt(len(y))
band = 2 * 0.005 / sigma_data + 3 * error.max().item()
none = torch.zeros(len(y), 9)
trained_loss = {
    name: np.array(
        [
            objective(
                Zero(), y, torch.full((len(y),), level, dtype=torch.float64), eps, conditions, none, recipe
            ).item()
            for level in sigmas
        ]
    )
    for name, recipe in recipes.items()
}
closed = sigma_data**2 / (sigmas**2 + sigma_data**2)
ratio = trained_loss["D"] / closed
print(f"{'sigma':>8s}{'E':>8s}{'error':>8s}{'spread':>8s}{'D':>12s}{'closed form':>13s}")
for i, level in enumerate(sigmas):
    print(
        f"{level:8.3g}{first[i].mean():8.3f}{error[i]:8.3f}{first[i].std():8.3f}{trained_loss['D'][i]:12.3g}{closed[i]:13.3g}"
    )
print(f"mean square of these pictures over sigma_data^2: {y.square().mean().item() / sigma_data**2:.3f}")
pairs = [(m - 1.96 * e, m + 1.96 * e) for m, e in zip(first.mean(1).tolist(), error.tolist(), strict=True)]
far = int((first.mean(1) - 1).abs().argmax())
half = stats.norm.ppf(1 - 0.025 / len(sigmas)) * error[far].item()  # of the worst of so many levels
farthest = first[far].mean().item()
check("E-44", "E's loss at the start, the level farthest from 1", farthest, interval=(farthest - half, farthest + half))
check("E-44", f"E, {len(sigmas)} levels", first.mean(1), equal=1.0, abs=band, interval=pairs)
check("E-44", "E, by the objective of training", trained_loss["E"], equal=1.0, abs=band, interval=pairs)
check("E-44", f"D over its closed form, {len(sigmas)} levels", ratio, equal=1.0, abs=band, interval=pairs)

# %% [markdown]
# And the networks that were trained, as the stage measured them at the start, on fewer pictures, in standard errors:

# %%
kept_pictures = min(samples, 256)
stored = rows["E"][0]["curve at the start"]
z = (np.array(stored["mean"]) - 1) / (np.array(stored["std"]) / math.sqrt(kept_pictures))
print(
    f"E at the start on {kept_pictures} pictures: {min(stored['mean']):.3f} to {max(stored['mean']):.3f}, off 1 by up to {np.abs(z).max():.1f} standard errors"
)
check(
    "E-44",
    f"E as trained, at the start, less 1, in standard errors, {len(sigmas)} levels",
    np.abs(z).max(),
    at_most=3.0,
)

# %% [markdown]
# ## Figure 5a: the loss after training
#
# Held-out pictures, EDM's weight for all. Two closed forms stand beside the networks: the best linear denoiser's loss, for data of variances $\lambda_k$ about
# a known mean,
#
# $$L(\sigma) = \frac1K\sum_k \frac{\lambda_k \sigma^2}{\lambda_k + \sigma^2} \cdot \frac{\sigma^2 + \sigma_\text{data}^2}{(\sigma\,\sigma_\text{data})^2},$$
#
# for a power law, $\lambda \sim 1/f^2$ as in photographs, and for the measured spectrum of our pictures about the mean of their class, which the network is told.
# The first goes to 1 at both ends. The second cannot: the frame of a picture is one level, so that many $\lambda_k$ are 0 and their noise can be told at any
# $\sigma$; and at large $\sigma$ the answer is the class's average picture, whose loss is below 1 by the share of $\sigma_\text{data}^2$ that the means hold.

# %%
real, class_of = train.draw(images, loop.generator(7, 3))
flat, class_of = real.flatten(1).double(), class_of[:, 0]
means = torch.stack([flat[class_of == c].mean(0) for c in range(classes)])
residual = (flat - means[class_of]).float()
measured = torch.linalg.eigvalsh((residual.T @ residual).double() / (len(flat) - classes)).clamp(min=0).numpy()
frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(data.SIZE, 1 / data.SIZE)] * 2))
law = 1 / np.maximum(frequency, 1).ravel() ** 2
law *= sigma_data**2 / law.mean()


def linear_loss(spectrum, sigma):
    sigma = np.asarray(sigma)[:, None]
    best = spectrum * sigma**2 / (spectrum + sigma**2)
    return best.mean(1) * ((sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2)[:, 0]


held, held_conditions = test.draw(kept_pictures, loop.generator(2, 3))  # the pictures of the stage's curves
average = means.float()[held_conditions[:, 0]].view_as(held)
limit = (held - average).square().mean().item() / sigma_data**2
null = int((~train.mask.any(0)).sum()) - 1  # pixels that are backdrop in all pictures differ in nothing
print(
    f"directions without variance: {null} of {len(measured)}, so the linear loss goes to {1 - null / len(measured):.3f}"
)
print(
    f"loss of the class's average picture, on the pictures of the curves: {limit:.3f} ({1 / sigma_data**2 * held.square().mean().item():.3f} for 0)"
)


def after(name):
    """(seeds, levels) mean losses after training."""
    return np.array([row["curve"]["mean"] for row in rows[name]])


def p_train(sigma, mean=-1.2, std=1.2):
    """Density of ln sigma."""
    return stats.norm.pdf(np.log(sigma), mean, std)


exact = {"power law": linear_loss(law, sigmas), "measured": linear_loss(measured, sigmas)}
E = after("E")
print(f"{'sigma':>8s}{'E':>8s}{'95 % interval':>18s}{'linear':>9s}{'power law':>11s}{'density of p_train':>20s}")
for i, level in enumerate(sigmas):
    low, high = interval(E[:, i])
    print(
        f"{level:8.3g}{E[:, i].mean():8.3f}{low:10.3f}{high:8.3f}{exact['measured'][i]:9.3f}{exact['power law'][i]:11.3f}{p_train(level):20.4f}"
    )

# %%
fig, axes = plt.subplots(2, 2, figsize=(6.5, 3.8), sharex=True, height_ratios=[3, 1])
fine = np.geomspace(sigmas[0], sigmas[-1], 200)
for name in "DEF":
    curve = after(name).mean(0)
    axes[0, 0].plot(sigmas, curve, "o-", ms=2.5, color=COLOURS[name], label=name)
spread = np.mean([row["curve"]["std"] for row in rows["E"]], 0)
axes[0, 0].fill_between(sigmas, E.mean(0) - spread, E.mean(0) + spread, color=COLOURS["E"], alpha=0.15, lw=0)
axes[0, 0].plot(sigmas, stored["mean"], "--", color=COLOURS["E"], lw=1, label="E, start")
axes[0, 0].plot(fine, linear_loss(measured, fine), ":", color="#666666", label="linear, our spectrum")
axes[0, 0].plot(fine, linear_loss(law, fine), "-.", color="#666666", lw=0.9, label=r"linear, $1/f^2$")
axes[0, 0].set(ylabel="loss, EDM's weight", ylim=(0, 1.6), title="after training; shaded: std over pictures")
axes[0, 0].legend(fontsize=6, ncols=3, loc="upper center")
for name in ladder.CONFIGS:
    axes[0, 1].loglog(sigmas, after(name).mean(0), "o-", ms=2.5, color=COLOURS[name], label=name)
axes[0, 1].loglog(fine, linear_loss(measured, fine), ":", color="#666666")
axes[0, 1].set(title="all configurations")
axes[0, 1].legend(fontsize=6, ncols=2, loc="upper left")
vp_levels = edm.column("vp").p_train(50_000, loop.generator(7, 4)).log().numpy()
for ax in axes[1]:
    ax.fill_between(fine, p_train(fine), color=COLOURS["E"], alpha=0.3, lw=0, label="E, F")
    counts, edges = np.histogram(vp_levels, bins=40, range=(math.log(sigmas[0]), math.log(sigmas[-1])))
    ax.stairs(counts / counts.sum() / np.diff(edges), np.exp(edges), color=COLOURS["C"], lw=1, label="A to D")
    ax.set(xscale="log", xlabel=r"$\sigma$", xticks=[0.01, 0.1, 1, 10])
axes[1, 0].set_ylabel("density of\n" + r"$\ln\sigma$ in training")
axes[1, 0].legend(fontsize=6, loc="upper right")
fig.tight_layout()
figures.save(fig, out, "figure5a")

# %% [markdown]
# The paper prints no number here, so a tenth stands for "dropped", half for "where p_train puts its samples": at the ends
# the loss has to be within 0.1 of where the statement has it, in the dip more than 0.1 below 1, and most of $p_\text{train}$ has to be where it is. At the lower
# end the statement's value is 1; at the upper end too, where the average picture's loss is the best there is: 1 for data without a mean.

# %%
fall = 0.1
fine_loss = np.interp(np.log(fine), np.log(sigmas), E.mean(0))
inside = fine_loss < 1 - fall
density = p_train(fine)
mass = np.trapezoid(np.where(inside, density, 0), np.log(fine))
width = inside.mean()
dip = 1 + int(E.mean(0)[1:-1].argmin())  # between the ends
where = f"sigma = {fine[inside][0]:.3g} to {fine[inside][-1]:.3g}" if inside.any() else "nowhere"
print(
    f"loss below {1 - fall}: {where}, {width:.2f} of ln sigma's range and {mass:.2f} of p_train; least at {sigmas[dip]:.3g}"
)
print(f"lower end: {E[:, 0].mean():.3f}, expected 1; the best linear denoiser's is {exact['measured'][0]:.3f}")
print(f"upper end: {E[:, -1].mean():.3f}, expected {limit:.3f}, that of the average picture of the class")
law_ends = [exact["power law"][0], exact["power law"][-1]]
note = (
    f"{null} of {len(measured)} directions of these pictures have no variance, so that a perfect linear denoiser reaches "
    f"{exact['measured'][0]:.2f} at the lower end; the average picture of a class has loss {limit:.2f}, and E {E[:, -1].mean():.2f} at the upper"
)
check("E-45", "closed form, 1/f^2 spectrum, both ends", law_ends, equal=1.0, abs=fall)
check("E-45", "closed form, 1/f^2 spectrum, least", exact["power law"].min(), at_most=1 - fall)
check("E-45", "E's loss at sigma = 0.002", E[:, 0].mean(), equal=1.0, abs=fall, interval=interval(E[:, 0]), note=note)
check("E-45", "E's loss at sigma = 80", E[:, -1].mean(), interval=interval(E[:, -1]))
check("E-45", "E's loss at sigma = 80 over the average picture's", E[:, -1].mean() / limit, equal=1.0, abs=fall,
      interval=interval(E[:, -1] / limit))  # fmt: skip
check(
    "E-45",
    f"E's loss at sigma = {sigmas[dip]:.3g}, its least between the ends",
    E[:, dip].mean(),
    at_most=1 - fall,
    interval=interval(E[:, dip]),
)
check("E-45", "share of p_train where E's loss dropped", mass, at_least=0.5)

# %% [markdown]
# ## Table 2 at our scale
#
# A: VP as it was. B: hyperparameters. C: capacity. D: EDM's preconditioning. E: EDM's loss. F: augmentation. The same seeds, the same number of training pictures,
# the same deterministic sampler. Fréchet distances are in the features of a classifier of these pictures, so only their order compares with the paper's FID (CIFAR-10, conditional, VP).
# They hardly see brightness: the spread of the backdrop's level over the data's, and the Wasserstein-1 distance of levels, stand beside them. Last, EDM's loss, averaged over its $p_\text{train}$.
#
# From B to C more than capacity changes here: the first resolution of A and B has 16 channels, each its own group of the GroupNorm, which removes what the
# embedding of the noise level adds to a channel. Only their coarser resolutions know the noise level.

# %%
paper = dict(zip(ladder.CONFIGS, (2.48, 2.18, 2.08, 2.09, 1.88, 1.79), strict=True))


def values(name, *keys):
    picked = rows[name]
    for key in keys:
        picked = [row[key] for row in picked]
    return np.array(picked, dtype=float)


def text(x):
    return f"{np.mean(x):.3f}" + (" [{:.3f}, {:.3f}]".format(*interval(x)) if len(x) > 1 else "")


def averaged(name):
    """(seeds,) EDM's loss over p_train."""
    weights = p_train(sigmas)
    return (after(name) * weights).sum(1) / weights.sum()


fd = {name: values(name, "frechet") for name in rows}
print(f"{'':10s}{'paper':>6s}{'Frechet distance':>26s}{'level std / data':>24s}{'W1 of the level':>24s}{'loss':>24s}")
for name in rows:
    print(
        f"{name:10s}{paper.get(name, ''):>6}{text(fd[name]):>26s}{text(values(name, 'level', 'std_ratio')):>24s}{text(values(name, 'level', 'w1')):>24s}"
        + (f"{text(averaged(name)):>24s}" if name in paper else "")
    )
truth = trained.one(study="real").measures
print(f"{'real':10s}{'':6s}{truth['frechet']:26.3f}{truth['level']['std_ratio']:24.3f}{truth['level']['w1']:24.3f}")
print("\nDifferences of Frechet distance, paired by seed")
steps = [*pairwise(ladder.CONFIGS), ("C", "E")]
for a_, b_ in steps:
    print(
        f"{b_} - {a_}: {text(fd[b_] - fd[a_]):>26s}   paper {paper[b_] - paper[a_]:+.2f}, {paper[b_] / paper[a_] - 1:+.1%}; here {fd[b_].mean() / fd[a_].mean() - 1:+.1%}"
    )

# %%
fig, axes = plt.subplots(1, 3, figsize=(6.5, 2.2))
panels = {
    "Fréchet distance": (lambda name: fd[name], truth["frechet"]),
    "level std / data's": (lambda name: values(name, "level", "std_ratio"), truth["level"]["std_ratio"]),
    "EDM's loss over its $p_\\mathrm{train}$": (averaged, None),
}
for ax, (title, (of, real_value)) in zip(axes, panels.items(), strict=True):
    for i, name in enumerate(ladder.CONFIGS):
        x = of(name)
        low, high = interval(x)
        ax.plot([i] * len(x), x, "o", ms=3, color=COLOURS[name], alpha=0.6, mew=0)
        ax.errorbar(i, x.mean(), [[x.mean() - low], [high - x.mean()]], fmt="_", color=COLOURS[name], capsize=3, ms=9)
    if real_value is not None:
        ax.axhline(real_value, color=figures.COLOURS["data"], lw=0.8, ls=":", label="real pictures")
        ax.legend(loc="upper right", fontsize=6)
    # an interval over few seeds may be wider than what it is about
    everything = np.concatenate([of(name) for name in ladder.CONFIGS] + ([] if real_value is None else [[real_value]]))
    if everything.min() > 0 and everything.max() > 5 * everything.min():
        ax.set_yscale("log")
        ax.set_ylim(everything.min() / 1.6, everything.max() * 3)
    else:
        margin = 0.35 * np.ptp(everything)
        ax.set_ylim(everything.min() - margin, everything.max() + 1.5 * margin)
    ax.set(title=title, xticks=range(6), xticklabels=ladder.CONFIGS)
fig.tight_layout()
figures.save(fig, out, "ladder")

# %%
order = torch.arange(20) % classes
index = [torch.nonzero(test.label == c)[j].item() for j, c in zip(torch.arange(20) // classes, order, strict=True)]
level = 2 * torch.rand(20, generator=loop.generator(7, 5)) - 1
panels = {name: of_rung[0].tensors["pictures"].float()[:20] for name, of_rung in rows.items()}
panels["real"] = test.compose(torch.tensor(index), level)
fig, axes = plt.subplots(4, 2, figsize=(6.5, 3.0))
for ax, (name, x) in zip(axes.flat, panels.items(), strict=True):
    figures.pictures(ax, x, 10)
    ax.text(-0.015, 0.5, name.replace(", ", ",\n"), transform=ax.transAxes, ha="right", va="center")
fig.subplots_adjust(wspace=0.16, hspace=0.08)
figures.save(fig, out, "pictures")

# %% [markdown]
# ## Does the augmentation leak?
#
# Table 6, one picture under each transform at one standard deviation (a rotation by 60 degrees), and, below, training pictures as F and *F, always* see them:

# %%
one = train.compose(torch.tensor([int(torch.nonzero(train.label == 9)[3])]), torch.tensor([0.3]))


def turn(angle):
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)


def moved(linear=None, shift=(0.0, 0.0)):
    linear = torch.eye(2, dtype=torch.float64) if linear is None else linear
    return warp(one, linear[None], data.SIZE * torch.tensor([shift], dtype=torch.float64))


def stretched(angle, a5=1.0):
    return turn(angle) @ torch.diag(torch.tensor([2 ** (0.2 * a5), 2 ** (-0.2 * a5)]).double()) @ turn(-angle)


transforms = {
    "untouched": one,
    "x-flip\n$a_0=1$": one.flip(-1),
    "y-flip\n$a_1=1$": one.flip(-2),
    "scaling\n$a_2=1$": moved(2**0.2 * torch.eye(2, dtype=torch.float64)),
    "rotation\n$a_3=\\pi/3$": moved(turn(-math.pi / 3)),
    "anisotropy\n$a_4=\\pi/4,a_5=1$": moved(stretched(math.pi / 4)),
    "translation\n$a_6=1,a_7=1$": moved(shift=(1 / 8, 1 / 8)),
}
seen = train.draw(images // 10, loop.generator(7, 6))[0]
by_probability = {p: augment(seen[:n].clone(), loop.generator(7, 7), p) for p, n in ((0.12, len(seen)), (1.0, 20))}
fig = plt.figure(figsize=(6.5, 2.2))
tops = fig.subfigures(2, 1, height_ratios=[1.3, 1])
for ax, (title, x) in zip(tops[0].subplots(1, len(transforms)), transforms.items(), strict=True):
    figures.pictures(ax, x, 1)
    ax.set_title(title, fontsize=6.5)
for ax, (p, (x, _)) in zip(tops[1].subplots(1, 2), by_probability.items(), strict=True):
    figures.pictures(ax, x[:20], 10, f"$A_\\mathrm{{prob}}$ = {p:.0%}")
figures.save(fig, out, "table6")
untouched = (by_probability[0.12][1][:, 1:] == 0).all(1).double().mean().item()
print(
    f"at 12 %, {1 - untouched:.3f} of the training pictures are transformed by more than an x-flip; expected {1 - 0.94 * 0.88**4:.3f}"
)

# %% [markdown]
# Sampling gives nine zeros, and pictures should come out untouched. A classifier that was trained to tell augmented pictures (all transforms applied) from untouched ones says
# how many it takes for augmented. Its rate $r$ is corrected by its rates on real pictures: (r - false positives)/(true positives - false positives). A picture that is merely
# bad may look augmented, too, so the leak is what F has beyond E, which never saw an augmented picture.

# %%
false, true = study["suspected"]["untouched"], study["suspected"]["augmented"]
power = (true - false) or math.nan  # a classifier that was hardly trained may tell nothing apart


def corrected(rate):
    return (np.asarray(rate) - false) / power


def binomial(rate, n):
    """Corrected rate's 95 % interval from the pictures counted: in the sample, and in both real sets."""
    c = corrected(rate)
    variances = [
        v * p * (1 - p) / m for v, p, m in ((1, rate, n), ((1 - c) ** 2, false, samples), (c**2, true, samples))
    ]
    half = 1.96 * math.sqrt(sum(variances)) / abs(power)
    return c - half, c + half


print(f"taken for augmented: {true:.3f} of augmented, {false:.3f} of untouched real pictures, of {samples} each")
print(f"{'':10s}{'runs':>6s}{'rate':>8s}{'corrected':>11s}{'interval, pictures':>22s}{'interval, seeds':>22s}")
for name in ("E", "F", "F, always"):
    rates = values(name, "suspected")
    over_seeds = "[{:.3f}, {:.3f}]".format(*interval(corrected(rates))) if len(rates) > 1 else ""
    pictures_ = "[{:.3f}, {:.3f}]".format(*binomial(rates.mean(), samples * len(rates)))
    print(
        f"{name:10s}{len(rates):6d}{rates.mean():8.3f}{corrected(rates.mean()):11.3f}{pictures_:>22s}{over_seeds:>22s}"
    )
leak = corrected(values("F", "suspected")) - corrected(values("E", "suspected"))
rates = [values(name, "suspected")[0] for name in ("F, always", "E")]
always = corrected(rates[0]) - corrected(rates[1])
half = 1.96 * math.sqrt(sum(p * (1 - p) / samples for p in rates)) / abs(power)
print(f"F less E, paired by seed: {text(leak)}")
print(f"F, always less E, seed {seeds[0]}: {always:.3f} [{always - half:.3f}, {always + half:.3f}]")

# %% [markdown]
# ## Verdict
#
# Gains are over seeds, paired. "About unchanged" is a tenth, the largest change from C to D among the VP columns of the paper's Table 2.

# %%
gains = {pair: fd[pair[0]] - fd[pair[1]] for pair in (("C", "E"), ("D", "E"), ("E", "F"))}
level_text = ", ".join(
    f"{name} {values(name, 'level', 'std_ratio').mean():.2f} and {values(name, 'level', 'w1').mean():.3f}"
    for name in "CDEF"
)
loss_text = ", ".join(f"{name} {averaged(name).mean():.3f}" for name in "CDEF")
note = (
    f"{len(seeds)} seeds of {rungs.rows[0]['loss'][-1][0]} pictures each; a classifier's features; EDM's loss over its p_train: {loss_text}; level std over the data's and W1: {level_text}; "
    f"corrected leakage, F less E: {leak.mean():.3f}, always applied: {always:.3f}"
)
ends = {pair: interval(gain) for pair, gain in gains.items()}
unclear = [f"{a_} to {b_}" for (a_, b_), (low, high) in ends.items() if low < 0 < high]
worse = [f"{a_} to {b_}" for (a_, b_), (low, high) in ends.items() if high < 0]
if unclear:
    note += f"; smaller than the seeds' spread: {', '.join(unclear)}"
if worse:
    note += f"; the other way: {', '.join(worse)}"
for (a_, b_), (low, high) in ends.items():
    what, value = f"Frechet distance of {a_} less {b_}'s", gains[a_, b_].mean()
    band_ = {} if what == "Frechet distance of D less E's" else {"at_least": 0.0}
    check("E-49", what, value, interval=(low, high), note="" if band_ else note, **band_)
change = fd["D"] / fd["C"] - 1
check("E-49", "D over C, less 1", change.mean(), interval=interval(change), equal=0.0, abs=0.1)
claims.save(out / "claims.json", found, "07_training_ladder")
for m in found:
    if m["id"] == "E-49":
        print(f"{m['what']:60s}{m['value']:8.3f}  [{m['interval'][0]:.3f}, {m['interval'][1]:.3f}]")
print(note.replace("; ", "\n"))
print(claims.summary(found))
