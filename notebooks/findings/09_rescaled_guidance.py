# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 9. Guidance at zero SNR: over-exposed, rescaled, plain?
#
# **Claim** (Lin et al. 2023, Sec. 3.4, Eqs. 13 to 16, Algorithm 2, Figure 6). As the terminal SNR goes to zero,
# classifier-free guidance becomes more sensitive: pictures are over-exposed. Imagen's remedy, dynamic thresholding,
# works in image space only. Rescaling the guided prediction to the positive branch's standard deviation,
#
# $$x_\mathrm{cfg} = x_\mathrm{neg} + w (x_\mathrm{pos} - x_\mathrm{neg}), \qquad
# x_\mathrm{final} =
# \Big(\phi\, \frac{\mathrm{std}(x_\mathrm{pos})}{\mathrm{std}(x_\mathrm{cfg})} + 1 - \phi\Big)\, x_\mathrm{cfg},$$
#
# brings it back; fully rescaled pictures ($\phi = 1$) are overly plain; $\phi = 0.7$ at $w = 7.5$ is the paper's
# choice.
#
# It would be wrong if the rescaling did not restore the standard deviation; if, of exact denoisers, guidance
# amplified as much on the flawed schedule as at zero SNR; if guided pictures were no more over-exposed than unguided
# ones, or lost no contrast at $\phi = 1$.
#
# The paper measures none of these on pictures. Here *over-exposure* is the share of pixels with $|x| > 1.02$ before
# clamping, and *plainness* a loss of contrast, the standard deviation of a picture's own pixels.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
foregrounds = 100
states = 5
angles = 21
out_dir = ""

# %%
import json
import math
import tempfile
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import stats

import zsnr
from lab import ROOT
from lab.measure import saturation
from lab.measure.evaluation import REAL
from lab.measure.laws import amplification
from lab.measure.metrics import interval
from lab.measure.store import load
from lab.measure.study import by_cell
from lab.models import data
from lab.models.backdrop import UniformBackdrop
from lab.report import claims, figures
from zsnr.finetune import loop
from zsnr.guidance import guided, rescaled, std
from zsnr.prediction import PREDICTIONS, cos_sin

torch.set_num_threads(1)
figures.style()
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
found = []
W, PHI = 7.5, 0.7  # the paper's choices
CONSTANT = torch.ones(2, 1, 8, 8, dtype=torch.float64)

# %% [markdown]
# ## Algorithm 2, without a network
#
# Branches of equal standard deviation and correlation $c$ give
# $\mathrm{std}(x_\mathrm{cfg}) / \mathrm{std}(x_\mathrm{pos}) = \sqrt{w^2 + (1 - w)^2 + 2 w (1 - w) c}$: the less the
# branches agree, the more guidance amplifies. Checked on vectors that have exactly that correlation. The algorithm as
# the paper prints it, line by line, is the reference.


# %%
def algorithm2(pos, neg, w, phi):
    """Algorithm 2 as printed."""
    cfg = neg + w * (pos - neg)
    std_pos = pos.std([1, 2, 3], keepdim=True)
    std_cfg = cfg.std([1, 2, 3], keepdim=True)
    factor = phi * (std_pos / std_cfg) + (1 - phi)
    return cfg * factor


correlations = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99], dtype=torch.float64)
g = loop.generator(9, 0)
raw = torch.randn(2, 1024, generator=g, dtype=torch.float64)
u, z = torch.linalg.qr((raw - raw.mean(1, keepdim=True)).T)[0].T  # orthonormal, of mean zero
column = correlations[:, None]
pos = u.repeat(len(column), 1).view(-1, 1, 32, 32)
neg = (column * u + (1 - column**2).sqrt() * z).view(-1, 1, 32, 32)
cfg = neg + W * (pos - neg)
final = {phi: rescaled(cfg, pos, phi) for phi in (0.0, PHI, 1.0)}

amplified = (std(cfg) / std(pos)).flatten()
law = [amplification(W, c) for c in correlations.tolist()]
printed = max((algorithm2(pos, neg, W, phi) - x).abs().max().item() for phi, x in final.items())
restored = (std(final[1.0]) / std(pos)).flatten()
cosine = torch.cosine_similarity(final[PHI].flatten(1), cfg.flatten(1))
unchanged = (final[0.0] - cfg).abs().max().item()

print(f"{'c':>6s}{'std(cfg) / std(pos)':>22s}{'closed form':>14s}{'phi = .7':>11s}{'phi = 1':>10s}")
for c, measured, closed, part, whole in zip(
    correlations, amplified, law, (std(final[PHI]) / std(pos)).flatten(), restored, strict=True
):
    print(f"{c:6.2f}{measured:22.4f}{closed:14.4f}{part:11.4f}{whole:10.4f}")
print(f"the package against Algorithm 2 as printed: within 1e-12: {printed < 1e-12}")
print(f"phi = 0 changes nothing: {unchanged == 0}")

# %% [markdown]
# A constant prediction, such as that of a plain picture, has no standard deviation to divide by: as printed, the
# algorithm gives 0/0 there.


# %%
def branch(scale):
    """A denoiser whose v is the same in all pixels."""
    return lambda x, phi: scale * torch.ones_like(x)


flat = [
    guided(branch(a), branch(b), W, phi, space)(x, angle)
    for a, b in ((0.3, -0.1), (0.0, 0.0))
    for phi in (PHI, 1.0)
    for space in PREDICTIONS
    for x in (CONSTANT, 0 * CONSTANT)
    for angle in (0.5, math.pi / 2)
]
finite = sum(x.isfinite().all().item() for x in flat) / len(flat)
as_printed = algorithm2(0.3 * CONSTANT, -0.1 * CONSTANT, W, PHI).isfinite().all().item()
print(f"finite on constant predictions: {finite:.3f} of {len(flat)} cases; Algorithm 2 as printed: {as_printed}")

found += [
    claims.measure("Z-16", "the package against Algorithm 2 as printed: largest difference", printed, at_most=1e-12),
    claims.measure(
        "Z-16", "std(cfg) / std(pos), w = 7.5, c = .5 to .99", amplified.tolist(), equal=law, abs=1e-9,
    ),
    claims.measure("Z-16", "std(final) / std(pos) at phi = 1", restored.tolist()),
    claims.measure("Z-16", "change at phi = 0", unchanged, equal=0.0),
    claims.measure(
        "Z-16", "cosine between final, phi = .7, and cfg", cosine.tolist(), equal=[1.0] * len(law), abs=1e-9,
    ),
    claims.measure("Z-16", "finite on constant predictions, share of cases", finite, equal=1.0),
]  # fmt: skip

# %% [markdown]
# ## How sensitive is guidance, exactly?
#
# The branches' correlation is the data's and the schedule's doing. Both branches are known exactly for pictures of
# the training set on backdrops of uniform level (`lab.models.backdrop`): all classes without a condition, one class, or one
# class and the fifth of the levels that a word names. States are
# $x_\varphi = \cos(\varphi)\, x_0 + \sin(\varphi)\, \epsilon$ with $x_0$ from that data, each noise with its negative
# so that the terms linear in it cancel; $x_0$ and noise are the same at every angle. Intervals are over pictures and
# noises, not over classes or words, all of which are there. What happens at $t = T$ depends on a schedule through its
# last angle only, so a family of schedules whose $\bar\alpha_T$ shrinks from Stable Diffusion's value to 0 is the
# noisy end of one curve.

# %%
train = data.load(ROOT / source)
has_backdrop = not train.mask.all()
K, WORDS = len(train.classes), len(data.WORDS)


def ideal(index, low=-1.0, high=1.0):
    """The exact denoiser of those pictures, on backdrops of every level from low to high where there are any."""
    pictures = train.compose(index, torch.zeros(len(index)))
    return UniformBackdrop(pictures, train.mask[index], low, high) if has_backdrop else zsnr.Empirical(pictures)


def some(label):
    """A few pictures of a class."""
    index = (train.label == label).nonzero()[:, 0]
    return index[torch.randperm(len(index), generator=g)[:foregrounds]]


of_class = [some(k) for k in range(K)]
everything = ideal(torch.cat(of_class))
class_denoiser = [ideal(index) for index in of_class]
fifths = [(-1 + 2 * i / WORDS, -1 + 2 * (i + 1) / WORDS) for i in range(WORDS)]
word_denoiser = [[ideal(index, *fifth) for fifth in fifths] for index in of_class] if has_backdrop else []

kind = torch.arange(K).repeat_interleave(WORDS * states)
fifth = torch.arange(WORDS).repeat_interleave(states).repeat(K)
level = (2 * (fifth + torch.rand(len(kind), generator=g)) / WORDS - 1).float()
picked = torch.stack([of_class[k][torch.randint(len(of_class[k]), (1,), generator=g)[0]] for k in kind.tolist()])
x0 = train.compose(picked, level).double()
eps = torch.randn(x0.shape, generator=g, dtype=torch.float64)
x0, eps = torch.cat([x0, x0]), torch.cat([eps, -eps])
kind, fifth = kind.repeat(2), fifth.repeat(2)
CONDITIONS = ("class", "class and word") if has_backdrop else ("class",)


def branches(x, phi):
    """v without a condition, and v with each of CONDITIONS."""
    given = {name: torch.empty_like(x) for name in CONDITIONS}
    for k in range(K):
        mine = kind == k
        given["class"][mine] = class_denoiser[k](x[mine], phi)
        for i in range(WORDS if has_backdrop else 0):
            both = mine & (fifth == i)
            if both.any():
                given["class and word"][both] = word_denoiser[k][i](x[both], phi)
    return everything(x, phi), given


def in_space(v, x, phi, space):
    """v as a prediction of another kind."""
    c, s = cos_sin(phi)
    return {"v": v, "x0": c * x - s * v, "eps": s * x + c * v}[space]


def correlation(a, b):
    """Over the values of each picture."""
    a, b = (t.flatten(1) - t.flatten(1).mean(1, keepdim=True) for t in (a, b))
    return torch.cosine_similarity(a, b)


def rms(x):
    """Over the values of each picture."""
    return x.flatten(1).square().mean(1).sqrt()


def per_state(values):
    """One number a picture, averaged over its noise and the noise's negative."""
    return values.view(2, -1).mean(0)


def sensitivity(cos_phi, noise_only=False):
    """{(condition, space): amplification, correlation, and guided x0's over-exposure, a number a state} at an angle.

    Rescaled by phi = 1 in that space: std(guided x0) / std(x0 of the positive branch), and how far x0 moves.
    """
    phi = math.acos(cos_phi) if cos_phi else math.pi / 2
    c, s = cos_sin(phi)
    x = eps if noise_only else c * x0 + s * eps
    without, given = branches(x, phi)
    result = {}
    for condition, v in given.items():
        plain = in_space(without + W * (v - without), x, phi, "x0")
        unit = std(in_space(v, x, phi, "x0"))
        for space in PREDICTIONS:
            a, b = (in_space(t, x, phi, space) for t in (v, without))
            turned = guided(lambda x, phi, v=v: v, lambda x, phi: without, W, 1.0, space)(x, phi)
            moved = in_space(turned, x, phi, "x0")
            result[condition, space] = {
                "amplification": per_state((std(b + W * (a - b)) / std(a)).flatten()),
                "correlation": per_state(correlation(a, b)),
                "saturated": per_state(saturation.saturated(plain)),
                "rescaled": per_state((std(moved) / unit).flatten()),
                "moved": per_state(rms(moved - plain) / rms(plain)),
            }
    return result


def over_states(values):
    """95 % interval of the mean over pictures and noises; classes and words are not drawn, each has as many states."""
    groups = values.view(K * WORDS, states)
    error = math.sqrt(groups.var(1).mean().item() / values.numel())
    half = float(stats.t.ppf(0.975, K * WORDS * (states - 1))) * error
    return values.mean().item() - half, values.mean().item() + half


def text(values, digits=3):
    """Mean and interval, to print."""
    low, high = over_states(values)
    return f"{values.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


# %%
flawed = zsnr.schedule.stable_diffusion()
last = flawed.sqrt_alpha_bar[-1].item()
shares = [math.sqrt(share) for share in (1, 0.75, 0.5, 0.25, 0)]  # equal steps of alpha_bar_T
terminal = {share: sensitivity(share * last) for share in shares}
from_noise = sensitivity(last, noise_only=True)
predicted = {"flawed, eps": terminal[1.0], "flawed, eps, from plain noise": from_noise, "zero SNR, v": terminal[0.0]}

print(f"At t = T, w = 7.5; sqrt(alpha_bar_T) of the flawed schedule is {last:.4f}")
for condition in CONDITIONS:
    print(f"\ncondition: {condition:22s}{'correlation':>24s}{'std(cfg) / std(pos)':>25s}", end="")
    print(f"{'the same, of x0':>25s}{'guided x0 beyond 1.02':>24s}")
    for name, at in predicted.items():
        own = at[condition, "v" if name.endswith("v") else "eps"]
        print(
            f"  {name:31s}{text(own['correlation'], 4):>24s}{text(own['amplification']):>25s}"
            f"{text(at[condition, 'x0']['amplification']):>25s}{text(own['saturated']):>24s}"
        )
print("\nstd(cfg) / std(pos) as alpha_bar_T goes to zero, from SD's in equal steps")
for condition in CONDITIONS:
    for space in PREDICTIONS:
        row = "".join(f"{terminal[share][condition, space]['amplification'].mean():9.3f}" for share in shares)
        print(f"  {condition:16s}{space:4s}{row}")

# %% [markdown]
# What a network predicts matters: the flawed model's $\epsilon$ branches are both nearly its input, while $v = -x_0$
# at zero SNR has no common noise, and each branch is a mean picture. But what reaches the picture is $x_0$, so its
# amplification is compared too.
#
# ## Why rescaling does nothing in $\epsilon$ space
#
# At zero SNR $\epsilon = x_T$ in both branches: same standard deviation, factor 1. What is left of the rescaling as
# $\cos\varphi \to 0$ is a multiple of the noise added to $x_0$. Rescaled fully ($\phi = 1$) in each space, at
# $w = 7.5$:

# %%
table = {"zero SNR": 0.0, "SD's last": last, "cos .1": 0.1, "cos .3": 0.3, "cos .6": 0.6, "cos .9": 0.9}
at_angle = {name: sensitivity(c) if c not in (0.0, last) else terminal[c / last] for name, c in table.items()}
for condition in CONDITIONS:
    print(f"condition: {condition}")
    print(f"  {'':12s}{'std of guided x0 / std of positive x0':^44s}{'rms change of x0 / its rms':^33s}")
    print(f"  {'':12s}{'none':>11s}" + "".join(f"{space:>11s}" for space in PREDICTIONS * 2))
    for name, at in at_angle.items():
        row = [at[condition, "x0"]["amplification"].mean()]
        row += [at[condition, space]["rescaled"].mean() for space in PREDICTIONS]
        row += [at[condition, space]["moved"].mean() for space in PREDICTIONS]
        print(f"  {name:12s}" + "".join(f"{value:11.3f}" for value in row))

# %%
grid = 0.5 - 0.48 * np.linspace(1, 0, angles) ** 2  # of pi; most of them at the noisy end
curve = [sensitivity(math.cos(a * math.pi) if a < 0.5 else 0.0) for a in grid]
STYLES = {
    "v": (figures.COLOURS["zsnr"], "$v$"),
    "x0": (figures.COLOURS["offset"], "$x_0$"),
    "eps": (figures.COLOURS["control"], "$\\epsilon$"),
}
LINES = dict(zip(CONDITIONS, ("-", "--"), strict=False))


def draw(ax, x, points, what):
    """A measure's mean with its interval, by space and condition."""
    for condition, line in LINES.items():
        for space, (colour, label) in STYLES.items():
            values = [p[condition, space][what] for p in points]
            low, high = np.array([over_states(v) for v in values]).T
            ax.plot(x, [v.mean() for v in values], line, color=colour, label=label if line == "-" else None)
            ax.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


fig, axes = plt.subplots(1, 3, figsize=(7, 2.3))
draw(axes[0], grid, curve, "amplification")
axes[0].set(title="over the whole angle", ylabel="std(cfg) / std(pos), $w = 7.5$")
draw(axes[1], [(share * last) ** 2 for share in shares], list(terminal.values()), "amplification")
axes[1].set(title="at $t = T$, as the SNR vanishes", xlabel="$\\bar\\alpha_T$")
axes[1].set_xticks([last**2, last**2 / 2, 0], [f"{last**2:.4f}\n(SD)", f"{last**2 / 2:.4f}", "0\n(zero SNR)"])
axes[1].invert_xaxis()
axes[1].plot([], [], "-", color="grey", label="class")
if has_backdrop:
    axes[1].plot([], [], "--", color="grey", label="class and word")
draw(axes[2], grid, curve, "rescaled")
for condition, line in LINES.items():
    none = [p[condition, "x0"]["amplification"].mean() for p in curve]
    axes[2].plot(grid, none, line, color=figures.COLOURS["data"], lw=1, label="not rescaled" if line == "-" else None)
axes[2].set(title="$x_0$, rescaled in each space", ylabel="std(guided $x_0$) / std(pos $x_0$)")
for ax in (axes[0], axes[2]):
    ax.set_xticks([0, 0.25, 0.5], ["0\n(image)", "$\\pi/4$", "$\\pi/2$\n(noise)"])
    ax.set_xlabel("$\\varphi$")
for ax in axes:
    ax.axhline(1, color="grey", lw=0.6, zorder=0)
axes[0].legend(loc="upper left")
axes[1].legend(*[h[3:] for h in axes[1].get_legend_handles_labels()], loc="center left", fontsize=7)
axes[2].legend(*[h[3:] for h in axes[2].get_legend_handles_labels()], loc="upper left", fontsize=7)
fig.tight_layout()
figures.save(fig, out, "sensitivity")

# %% [markdown]
# ## Dynamic thresholding needs known bounds
#
# Imagen's remedy clips a predicted $x_0$ to $[-s, s]$ and divides by $s$, with $s$ a high percentile of $|x_0|$ where
# that is above 1. It takes no network to see where it can work: it must leave a *real* picture alone. Our pictures
# are image space, with the bounds $\pm 1$ that it assumes. A latent space has others. The plainest stand-in for one
# is a random rotation of the pixels (noise stays the same noise, and diffusion and guidance commute with it), scaled
# to standard deviation 1 as Stable Diffusion scales its latents. How far does thresholding move real pictures in
# each? Rescaling by standard deviations assumes no bounds. On the trained model thresholding is not tried.


# %%
def thresholded(x, percentile=0.995):
    """Imagen's dynamic thresholding (Saharia et al. 2022, Sec. 2.3)."""
    s = x.abs().flatten(1).quantile(percentile, dim=1).clamp(min=1).view(-1, 1, 1, 1)
    return x.clamp(-s, s) / s


real = x0[: len(x0) // 2]
n = data.SIZE**2
rotation = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))[0]
latent = (real.flatten(2) @ rotation).view(real.shape)
latent = latent / latent.std()
without, given = branches(eps, math.pi / 2)
guided_x0 = -(without + W * (given["class"] - without))


def moved(x):
    """rms change by thresholding over the picture's own rms."""
    return rms(thresholded(x) - x) / rms(x)


beyond = thresholded(guided_x0).abs().max().item()
print(f"guided x0 at zero SNR, largest |x|: {guided_x0.abs().max():.3f}, thresholded {beyond:.3f}")
print(f"change of real pictures over their rms: in image space at most {moved(real).max():.3f}", end="")
print(f", rotated {text(moved(latent))}")

# %% [markdown]
# ## Figure 6, on the trained model
#
# The `zsnr` model, trailing DDIM, the same noises in every cell; guidance is towards a class. The paper's figure has
# five $\phi$ at $w = 7.5$; scales beside it are ours. Pictures are shown clamped, as an image file would hold them;
# the columns are seeds 0, 1, ..., and so the classes in turn.

# %%
guide = by_cell(load(ROOT / results / "zsnr/guide"))
FEW = REAL.but(part="few")
accuracy = json.loads((ROOT / results / "classifier/classifier.json").read_text())["accuracy"]
cells = {(cell.w, cell.phi, cell.space): cell.but(part="") for cell in guide if cell.part == "figure6"}
unguided = cells[1.0, 0.0, "v"]
count = guide[unguided.but(part="figure6")]["n"]
scales = sorted({w for w, _, _ in cells} - {1.0})
strengths = {w: sorted(phi for v, phi, space in cells if v == w and space == "v") for w in scales}
print(f"{count} pictures a cell, {unguided.nfe} steps; w: {', '.join(map(str, scales))}")

# %%
columns = min(len(guide[unguided].tensors["pictures"]), 18 // len(scales))
height = 2 + max(len(p) for p in strengths.values())
fig, axes = plt.subplots(1, len(scales), figsize=(7, 7 * height / 19), squeeze=False)
for ax, w in zip(axes[0], scales, strict=True):
    rows = {"no guidance": unguided, **{f"$\\phi = {phi:g}$": cells[w, phi, "v"] for phi in strengths[w]}}
    figures.pictures(
        ax,
        torch.cat([guide[cell].tensors["pictures"][:columns] for cell in rows.values()]).float(),
        columns,
        f"$w = {w:g}$",
    )
    for row, label in enumerate(rows if ax is axes[0, 0] else ()):
        ax.text(-6, row * (data.SIZE + 1) + data.SIZE / 2, label, ha="right", va="center", fontsize=7)
fig.subplots_adjust(wspace=0.04)
figures.save(fig, out, "figure6")

# %% [markdown]
# Intervals of over-exposure, contrast and the asked-for class are over pictures; those of the Frechet distance leave
# out each tenth of them in turn. It is of pictures as they come, not clamped, in a classifier's features. The line
# *real* says what as many pictures of the test set have: the distance that few pictures have by chance alone, and,
# for the class, the classifier's accuracy.


# %%
def values(cell, what):
    """One number for each of a cell's pictures; all cells have the same noises."""
    if what == "class":
        asked = torch.arange(count) % K
        return (guide[cell].tensors["class"][:count] == asked).double()
    return guide[cell].tensors[what][:count].double()


def band(cell, what):
    """(value, (low, high)) of a measure of a cell."""
    if what == "frechet":
        m = guide[FEW if cell == FEW else cell.but(part="figure6")]
        return m["frechet"], m["frechet_interval"]
    if cell == FEW and what == "class":
        return accuracy, (accuracy, accuracy)
    v = values(cell, what)
    if v.std() == 0:
        return v[0].item(), (v[0].item(), v[0].item())
    return v.mean().item(), interval(v.tolist())


WHAT = {
    "saturated": "pixels with $|x| > 1.02$",
    "contrast": "std in a picture",
    "frechet": "Frechet distance",
    "class": "in the class asked for",
}


def line(cell, title):
    texts = []
    for what in WHAT:
        digits = 1 if what == "frechet" else 3
        value, (low, high) = band(cell, what)
        bounds = f" [{low:.{digits}f}, {high:.{digits}f}]" if low < high else ""
        texts.append(f"{value:.{digits}f}{bounds}")
    relative = band(cell, "contrast")[0] / band(FEW, "contrast")[0]
    print(f"{title:22s}" + "".join(f"{text:>25s}" for text in texts) + f"{relative:10.3f}")


print(
    f"{'':22s}"
    + "".join(f"{what:>25s}" for what in ("over-exposed", "contrast", "Frechet distance", "class asked for"))
    + "  / data's"
)
line(FEW, "real")
line(unguided, "no guidance")
for (w, phi, space), name in sorted(
    cells.items(), key=lambda item: (item[0][0], item[0][2] != "v", item[0][2], item[0][1])
):
    if w != 1:
        line(name, f"w {w:g}, phi {phi:g}" + ("" if space == "v" else f", in {space}"))

# %%
fig, axes = plt.subplots(1, 4, figsize=(7.4, 2.1))
colours = dict(zip(scales, plt.cm.viridis(np.linspace(0.15, 0.8, len(scales))), strict=True))
for ax, (what, title) in zip(axes, WHAT.items(), strict=True):
    for w in scales:
        points = [band(cells[w, phi, "v"], what) for phi in strengths[w]]
        middle, bounds = np.array([m for m, _ in points]), np.array([b for _, b in points])
        ax.errorbar(
            strengths[w],
            middle,
            np.abs(bounds.T - middle),
            fmt="o-",
            ms=3,
            capsize=2,
            color=colours[w],
            elinewidth=0.8,
            label=f"$w = {w:g}$",
        )
    for space, marker, shift in (("x0", "s", -0.05), ("eps", "^", 0.05)):
        there = sorted((phi, str(cell), cell) for (w, phi, s), cell in cells.items() if s == space and w == W)
        points = [band(cell, what) for *_, cell in there]
        middle, bounds = np.array([m for m, _ in points]), np.array([b for _, b in points])
        ax.errorbar(
            [phi + shift for phi, *_ in there], middle, np.abs(bounds.T - middle), fmt=marker, color=STYLES[space][0],
            ms=4, mfc="white", capsize=2, elinewidth=0.8, label=f"$w = {W:g}$, in {STYLES[space][1]}",
        )  # fmt: skip
    for cell, colour, label in ((unguided, "grey", "no guidance"), (FEW, figures.COLOURS["data"], "real")):
        value, (low, high) = band(cell, what)
        ax.axhline(value, color=colour, lw=1, ls="--" if cell == unguided else "-", label=label)
        ax.axhspan(low, high, color=colour, alpha=0.12, lw=0)
    ax.set(title=title, xlabel="$\\phi$", xticks=[0, 0.5, 1], xlim=(-0.1, 1.1))
    if what in ("saturated", "frechet"):
        ax.set_ylim(bottom=0)
fig.tight_layout(w_pad=0.4)
handles, labels = axes[0].get_legend_handles_labels()
last_first = sorted(range(len(labels)), key=lambda i: labels[i] in ("no guidance", "real"))
fig.legend(
    [handles[i] for i in last_first],
    [labels[i] for i in last_first],
    ncols=7,
    loc="upper center",
    bbox_to_anchor=(0.5, 0.02),
    fontsize=6.5,
)
figures.save(fig, out, "strength")

# %% [markdown]
# ## What is claimed, measured


# %%
def difference(a, b, what):
    """Mean and interval of a - b, picture by picture: they started from the same noise."""
    d = (values(a, what) - values(b, what)).tolist()
    return float(np.mean(d)), interval(d)


def from_data(cell):
    """Contrast less the real pictures', and its interval; not paired."""
    a, b = values(cell, "contrast"), guide[REAL].tensors["contrast"].double()
    bounds = stats.ttest_ind(a.numpy(), b.numpy(), equal_var=False).confidence_interval()
    return (a.mean() - b.mean()).item(), (float(bounds.low), float(bounds.high))


def changes(id, what, change, **band):
    """A check of a difference, by its interval."""
    print(f"{what}: {change[0]:.4f} [{change[1][0]:.4f}, {change[1][1]:.4f}]")
    return claims.measure(id, what, change[0], interval=change[1], **band)


none, plain = cells[W, 0.0, "v"], cells[W, 1.0, "v"]
chosen = unguided.but(w=W, phi=PHI)  # drawn for Table 3 where it is not in Figure 6
note = f"trained model, class labels, w = {W:g}, {count} pictures, paired by noise"
found += [
    changes("Z-16", "contrast, phi = .7 less phi = 0", difference(chosen, none, "contrast"), note=note),
    changes("Z-16", "contrast, guided (phi = 0) less unguided", difference(none, unguided, "contrast"), at_least=0.0),
    changes(
        "Z-16",
        "over-exposed pixels, guided (phi = 0) less unguided",
        difference(none, unguided, "saturated"),
        at_least=0.0,
    ),
    changes("Z-16", "over-exposed pixels, phi = .7 less phi = 0", difference(chosen, none, "saturated"), at_most=0.0),
]

# %%
curve_fd = {phi: band(cells[W, phi, "v"], "frechet") for phi in strengths[W]}
best = min(curve_fd, key=lambda phi: curve_fd[phi][0])
level_with = [phi for phi, (_, (low, _)) in curve_fd.items() if low <= curve_fd[best][1][1]]
print(f"best phi at w = {W:g} by Frechet distance: {best:.2f}", end="")
print(f"; intervals overlap the best's from {level_with[0]:.2f} to {level_with[-1]:.2f}")
for w in scales:
    print(f"  w = {w:g}: {min(strengths[w], key=lambda phi: band(cells[w, phi, 'v'], 'frechet')[0]):.2f}")
found += [
    changes(
        "Z-17",
        "contrast, phi = 1 less real pictures'",
        from_data(plain),
        note=f"by Frechet distance the best phi is {best:g}, but phi = {', '.join(f'{phi:g}' for phi in level_with)} are not told apart",
    ),
    changes(
        "Z-17",
        "over-exposed pixels, phi = 0 less no guidance",
        difference(none, unguided, "saturated"),
        at_least=0.0,
        note=note,
    ),
    changes("Z-17", "contrast, phi = 1 less phi = 0", difference(plain, none, "contrast"), at_most=0.0),
]


# %%
def exact_change(a, b):
    """Mean and interval of a - b over states, by condition."""
    changes = [a[c] - b[c] for c in CONDITIONS]
    return [change.mean().item() for change in changes], [over_states(change) for change in changes]


def amplified_in(share, space):
    return {c: terminal[share][c, space]["amplification"] for c in CONDITIONS}


first_states = {c: terminal[0.0][c, "x0"]["amplification"] - from_noise[c, "x0"]["amplification"] for c in CONDITIONS}
what = "std(cfg) / std(pos) of x0 from plain noise, {}: zero SNR less the flawed schedule's T"
found.append(
    changes(
        "Z-18",
        "std(cfg) / std(pos) of x0 from plain noise, by class: zero SNR less the flawed schedule's T",
        (first_states["class"].mean().item(), over_states(first_states["class"])),
        note="exact denoisers, w = 7.5",
    )
)
if has_backdrop:
    both = first_states["class and word"]
    found.append(
        changes("Z-18", what.format("by class and word"), (both.mean().item(), over_states(both)), at_least=0.0)
    )
steps_down = [
    ("std(cfg) / std(pos), v at zero SNR less eps at the flawed schedule's T", (0.0, "v"), (1.0, "eps")),
    ("std(cfg) / std(pos) of x0, zero SNR less the flawed schedule's T", (0.0, "x0"), (1.0, "x0")),
]
steps_down += [
    (f"std(cfg) / std(pos) of v, alpha_bar_T from {a**2:.2f} to {b**2:.2f} of SD's", (b, "v"), (a, "v"))
    for a, b in pairwise(shares)
]
for what, a, b in steps_down:
    middle, bounds = exact_change(amplified_in(*a), amplified_in(*b))
    print(
        f"{what:75s}" + ", ".join(f"{m:.4f} [{lo:.4f}, {hi:.4f}]" for m, (lo, hi) in zip(middle, bounds, strict=True))
    )
    found.append(
        claims.measure(
            "Z-18", f"noised pictures: {what}, by {' and by '.join(CONDITIONS)}", middle, interval=bounds, at_least=0.0,
        )
    )  # fmt: skip
found += [
    claims.measure("Z-18", "dynamic thresholding in image space: guided x0, largest |x|", beyond, at_most=1.0),
    claims.measure("Z-18", "its rms change of a real picture, at most", moved(real).max().item(), equal=0.0),
    claims.measure(
        "Z-18",
        "the same in a rotated space, over the picture's rms",
        moved(latent).mean().item(),
        interval=over_states(moved(latent)),
        at_least=0.1,
        note="a random rotation stands in for a latent space; real latents are not tried",
    ),
]

# %% [markdown]
# ## Verdict

# %%
claims.save(out / "claims.json", found, "09_rescaled_guidance")
print(claims.summary(found))
