# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11. The leak: how much brightness a schedule costs, and what helps without training
#
# **Claim** (Lin et al. 2023, Secs. 1, 3.1, 5.4). A schedule that ends above zero SNR leaks the lowest frequencies of the picture at $t = T$;
# the model learns to take them from its input, and from pure noise makes pictures of medium brightness. Offset noise does not fix
# the cause.
#
# The paper shows pictures. Here the claim becomes a law with numbers, for any shape, schedule and start. It would be wrong if an exact
# solver of Gaussian data disagreed with it, if trained models lost nothing along the directions it names, or if a start that holds
# the leaked signal did not bring the brightness back.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
pictures = 10000
modes = 64
exact = 50
foregrounds = 200
mean_std = 0.5
shapes = [
    ["32x32 pixels", 1024],
    ["64x64 latent", 4096],
    ["128x128 latent", 16384],
    ["16x60x90 video", 86400],
]
out_dir = ""

# %%
import json
import math
import tempfile
import warnings
from pathlib import Path

import diffusers
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.special import ndtr, ndtri

import zsnr
from lab import ROOT
from lab.measure import metrics
from lab.measure.evaluation import Cell
from lab.measure.laws import sampled, together
from lab.measure.store import load
from lab.measure.study import Study, by_cell
from lab.models import data
from lab.models.backdrop import UniformBackdrop
from lab.models.variants import VARIANTS
from lab.report import claims, figures
from zsnr import brightness
from zsnr.finetune import loop
from zsnr.prediction import cos_sin

torch.set_num_threads(1)
figures.style()
warnings.filterwarnings("ignore", "leading spacing")
diffusers.utils.logging.set_verbosity_error()
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
found = []
sd, linear, cosine = zsnr.schedule.stable_diffusion(), zsnr.schedule.linear(), zsnr.schedule.cosine()
fixed = zsnr.rescale_zero_terminal_snr(sd)
alpha_bar_T = sd.alpha_bar[-1].item()

# %% [markdown]
# ## The law
#
# Take Gaussian data and one direction $u$ with $Cu = Lu$: for $n$ pixels that share a mean, $u = 1/\sqrt n$ and $L = n\,\mathrm{Var}(\mathrm{mean})$. In
# training, $x_\varphi = \cos\varphi\, x_0 + \sin\varphi\,\epsilon$ with noise of variance $\nu$ along $u$, so $x_\varphi$ has mean $\cos\varphi\,\mu$ and variance
#
# $$d(\varphi) = \bar\alpha L + (1 - \bar\alpha)\,\nu, \qquad \bar\alpha = \cos^2\varphi .$$
#
# The probability-flow ODE is linear here and carries each marginal to the next, so along $u$ it can only shift and scale:
# $x_0 = \mu + \sqrt{L / d}\,(x_\varphi - \cos\varphi\,\mu)$. All that remains is to put in what sampling starts from, $x = \sqrt{\bar\alpha}\, m + \sqrt{1 - \bar\alpha}\,\epsilon'$:
#
# $$\mathrm{mean} = \mu + \sqrt{\bar\alpha L / d}\;(\bar m - \mu), \qquad
# \frac{\mathrm{std}}{\sqrt L} = \sqrt{\frac{\bar\alpha\,\mathrm{Var}(m) + (1 - \bar\alpha)\,\nu'}{d}} .$$
#
# Pure noise is the start whose $m$ is noise: $\bar m = 0$, $\mathrm{Var}(m) = \nu' = 1$. Then the mean loses the share $\sqrt{\bar\alpha L / d}$ of itself and the
# std becomes $1/\sqrt d$ of the truth. With $\lambda = \bar\alpha L \ll 1$ the std loses $\lambda / 2$, the mean $\sqrt\lambda$: a leak too small to narrow anything
# still shifts a prompt's brightness. At $\bar\alpha = 0$ nothing is lost, whatever $L$.
#
# The check: RK45 at a tolerance of $10^{-11}$, on the denoiser written out for this purpose, against `zsnr.brightness`. *Leading* starts at
# the first of 50 leading steps, $t < T$, from pure noise all the same.


# %%
def double(x):
    return torch.as_tensor(x, dtype=torch.float64)


def gaussian(L, mean, nu):
    """(x, phi) -> E[cos eps - sin x0 | x] for independent directions, from their two conditional means."""

    def v(x, phi):
        c, s = cos_sin(phi)
        residual = (x - c * mean) / (c * c * L + s * s * nu)
        return c * s * nu * residual - s * (mean + c * L * residual)

    return v


variances, mu = double([0.01, 1, 30, 200, 1024, 21600]), 1.7
offsets = {"iid": torch.ones_like(variances), "offset": 1 + 0.01 * torch.clamp(4 * variances, min=1)}
schedules = {"Stable Diffusion": sd, "DDPM linear": linear, "cosine": cosine, "SD, zero SNR": fixed}
starts = {"pure noise": (0.0, 1.0), "a fixed picture": (0.6, 0.0), "the data's own": (mu, None)}
rows, errors = [], {"iid": [], "offset": []}
for name, schedule in schedules.items():
    for spacing in ("trailing", "leading"):
        phi = zsnr.grid(schedule, 50, spacing)[0].item()
        c, s = cos_sin(phi)
        for kind, nu in offsets.items():
            x = torch.stack([torch.zeros_like(variances), torch.ones_like(variances)])
            grid = double([phi, 1e-6, 0.0])
            zero, one = zsnr.rk45(gaussian(variances, mu, nu), x, grid, rtol=1e-11, atol=1e-12)
            slope, worst = one - zero, 0.0
            for m_mean, m_var in starts.values():
                for k, (L, n) in enumerate(zip(variances.tolist(), nu.tolist(), strict=True)):
                    var, noise = (L, n) if m_var is None else (m_var, 1.0)
                    mean, ratio = brightness.started(c * c, L, mu, m_mean, var, n, noise)
                    spread = slope[k].item() * math.sqrt((c * c * var + s * s * noise) / L)
                    worst = max(worst, abs(zero[k].item() + slope[k].item() * c * m_mean - mean), abs(spread - ratio))
            errors[kind].append(worst)
            rows.append((name, spacing, kind, c * c, *brightness.predicted(c * c, 1024.0, mu, nu[4].item())))
print(f"{'schedule':18s}{'steps':10s}{'noise':8s}{'alpha_bar':>11s}{'mean kept':>12s}{'std ratio':>11s}   L = 1024")
for name, spacing, kind, a, mean, ratio in rows:
    print(f"{name:18s}{spacing:10s}{kind:8s}{a:11.2e}{mean / mu:12.3f}{ratio:11.3f}")
agree = max(max(e) for e in errors.values()) < 1e-8
print(f"law and solver, {len(rows) * len(starts) * len(variances)} cases: agree to 1e-8: {agree}")
found += [
    claims.measure(
        "Z-06",
        "Gaussian data, ODE's limit less the law: largest error of mean and std ratio, 4 schedules, 2 first steps, 3 starts",
        max(errors["iid"]),
        equal=0.0,
        abs=1e-8,
    ),
    claims.measure(
        "Z-24",
        "the same, trained with offset noise",
        max(errors["offset"]),
        equal=0.0,
        abs=1e-8,
    ),
]

# %% [markdown]
# ## Trained models, direction by direction
#
# Heun, many trailing steps, no guidance and no word, so from pure noise at $t = T$; pictures projected on the constant image and on the data's
# leading principal components. The law is put to them in two forms, both of the data's own mean and covariance and of nothing else:
#
# - *one direction*: the axis by itself, $\nu = 1 + 0.01\, n\,\langle\mathrm{axis}, \mathrm{constant}\rangle^2$ for the model with offset noise;
# - *all directions, by class*: the models are told the class, so each class is a Gaussian of its own, and no axis is an axis of all of
#   them: `lab.measure.laws.together`, per class; then the variance of the mixture.
#
# For the flawed schedule there is also the exact denoiser of each class (garments on uniform backdrops), from the same noises.

# %%
folder = ROOT / results / "zsnr"
study = Study(folder)
of_guide = load(folder / "guide")
guide = by_cell(of_guide)
facts = json.loads((ROOT / "results/data/data.json").read_text())
train = data.load(ROOT / source)
axes = of_guide.one(model="data").tensors["axes"].double()
names = ["constant", *(f"PC {k}" for k in range(1, len(axes)))]
y, conditions = train.draw(pictures, loop.generator(2, 0))
y, label = y.flatten(1).double(), conditions[:, 0]
area = data.SIZE**2
channel = torch.kron(torch.eye(y.shape[1] // area), torch.ones(1, area) / math.sqrt(area)).double()
overlap = (axes @ channel.T).square().sum(1)
torch.manual_seed(0)
basis = torch.linalg.qr(torch.cat([axes.T, torch.pca_lowrank(y, modes)[2]], 1))[0]  # the rest hardly varies
by_class = [y[label == k] @ basis for k in label.unique()]


def all_directions(end, offset=0.0):
    """Std along each axis of a mixture of the classes, each a Gaussian with its full covariance."""
    shift, a = channel @ basis, axes @ basis
    nu = torch.eye(basis.shape[1]).double() + offset**2 * area * shift.T @ shift
    means, variances = [], []
    for z in by_class:
        mean, covariance = together(end, z.mean(0), torch.cov(z.T), nu)
        means.append(a @ mean)
        variances.append(((a @ covariance) * a).sum(1))
    return (torch.stack(variances).mean(0) + torch.stack(means).var(0, correction=0)).sqrt()


def one_direction(end, offset=0.0):
    """Std ratio along each axis, taken by itself."""
    nu = 1 + offset**2 * area * overlap
    pairs = zip(true.square().tolist(), nu.tolist(), strict=True)
    return double([brightness.predicted(end, L, nu=k)[1] for L, k in pairs])


true = all_directions(0.0)  # the data's own: nothing is lost, and the classes are as frequent as in what is generated
many_steps = {cell.model: cell for cell, row in guide.items() if "projections" in row.tensors}
measured = {name: guide[cell].tensors["projections"].double() for name, cell in sorted(many_steps.items())}
ends = {name: (VARIANTS[name].schedule.alpha_bar[-1].item(), VARIANTS[name].offset_noise) for name in measured}
alone = {name: one_direction(*end) for name, end in ends.items()}
law = {name: all_directions(*end) / true for name, end in ends.items()}
count = len(next(iter(measured.values())))
print(f"{count} pictures of each model, {many_steps['base'].nfe} evaluations; std along each axis over the data's")

# %%
classes = len(train.classes)
visible = ~train.mask.flatten(1).all(1)
ideal = None
if (~train.mask).any():  # there is no such denoiser of images that fill the frame
    drawn = []
    grid = zsnr.power(20, phi_max=sd.angle[-1].item())
    for k in range(classes):
        keep = ((train.label == k) & visible).nonzero()[:foregrounds, 0]
        denoiser = UniformBackdrop(train.compose(keep, torch.zeros(len(keep))), train.mask[keep])
        seeds = range(k, exact * classes, classes)
        noise = zsnr.randn((exact, *train.image.shape[1:]), zsnr.generators(seeds)).double()
        drawn.append(zsnr.heun(denoiser, noise, grid).flatten(1) @ axes.T)
    ideal = torch.cat(drawn)


def ratios(x):
    """Std ratio along each axis with its 95 % interval over pictures."""
    value = (x.std(0) / true).tolist()
    bounds = [
        metrics.bootstrap(z, lambda v, t=t: v.std(ddof=1) / t, 500) for z, t in zip(x.T, true.tolist(), strict=True)
    ]
    return list(zip(value, bounds, strict=True))


ratio = {name: ratios(x) for name, x in measured.items()}
if ideal is not None:
    ratio["exact"] = ratios(ideal)
    alone["exact"], law["exact"] = alone["base"], law["base"]
for name, values in ratio.items():
    print(f"{name}\n  {'axis':10s}{'measured':>22s}{'all directions':>16s}{'one direction':>15s}")
    for k, (value, (low, high)) in enumerate(values):
        text = f"{value:.3f} [{low:.3f}, {high:.3f}]"
        print(f"  {names[k]:10s}{text:>22s}{law[name][k].item():16.3f}{alone[name][k].item():15.3f}")

# %%
fig, panels = plt.subplots(1, 2, figsize=(7, 3.4), sharey=True)
colours = figures.COLOURS | {"exact": figures.COLOURS["data"]}
labels = {
    "exact": "exact, flawed schedule",
    "base": "base",
    "control": "control",
    "offset": "offset noise",
    "zsnr": "zero SNR",
}
for ax, prediction, title in ((panels[0], alone, "one direction"), (panels[1], law, "all directions, by class")):
    for k, (name, values) in enumerate(ratio.items()):
        x = prediction[name].numpy() + 0.004 * (k - 2)  # side by side where they would hide each other
        middle = np.array([v for v, _ in values])
        bounds = np.array([b for _, b in values])
        for part, marker, size in ((slice(0, 1), "s", 6), (slice(1, None), "o", 3.5)):
            ax.errorbar(
                x[part], middle[part], np.abs(bounds[part].T - middle[part]), fmt=marker, ms=size, lw=0.7,
                color=colours[name], mfc="white" if name == "exact" else None, alpha=0.85,
                label=labels[name] if marker == "o" else None,
            )  # fmt: skip
    lower, upper = ax.get_xlim()
    ax.axline((1, 1), slope=1, color=figures.COLOURS["data"], lw=0.8, zorder=0)
    ax.set(xlabel="predicted std / data's", title=title, xlim=(lower, upper))
panels[0].set_ylabel("measured std / data's")
panels[0].legend(loc="upper left", fontsize=6.5, title="squares: the constant image", title_fontsize=6.5)
fig.tight_layout()
figures.save(fig, out, "directions")

# %% [markdown]
# How good is the law? Against its rival, that there is no leak and every ratio is 1: root mean square error over all axes of the
# flawed models, the law's over the rival's. Beside it, how many predictions lie inside the measurement's 95 % interval; a law that were
# the whole truth would have 95 % of them there. The zero-SNR model, for which law and rival are the same, shows what else there is: the
# network's own errors.

# %%
flawed = [name for name in measured if not VARIANTS[name].zero_snr]


def rms(prediction, rows, chosen):
    errors = [measured[name][rows].std(0) / true - prediction(name) for name in chosen]
    return torch.stack(errors).square().mean().sqrt().item()


def over_rival(rows):
    """Error of the law over that of 'no leak', flawed models."""
    return rms(law.__getitem__, rows, flawed) / rms(lambda name: 1.0, rows, flawed)


def bootstrap(f, n):
    """95 % interval of f(chosen pictures)."""
    return metrics.bootstrap(torch.arange(n), lambda rows: f(torch.from_numpy(rows.astype(np.int64))), 500)


everything = torch.arange(count)
relative, relative_interval = over_rival(everything), bootstrap(over_rival, count)
for name, values in ratio.items():
    inside = [
        np.mean([low <= p <= high for (_, (low, high)), p in zip(values, predictions[name].tolist(), strict=True)])
        for predictions in (law, alone)
    ]
    print(f"{labels[name]:24s} inside the interval: all directions {inside[0]:.2f}, one direction {inside[1]:.2f}")
print(f"rms error of the law, flawed models: all directions {rms(law.__getitem__, everything, flawed):.3f}", end=", ")
print(f"one direction {rms(alone.__getitem__, everything, flawed):.3f},", end=" ")
print(f"no leak {rms(lambda name: 1.0, everything, flawed):.3f}")
if ideal is not None:
    same = [name for name in flawed if not VARIANTS[name].offset_noise]
    print(f"of {' and '.join(same)}: the law {rms(law.__getitem__, everything, same):.3f}", end=", ")
    print(f"the exact denoiser {rms(lambda name: ideal.std(0) / true, everything, same):.3f}")
if "zsnr" in measured:
    print(f"zero SNR, against 1: {rms(lambda name: 1.0, everything, ['zsnr']):.3f}")
found.append(
    claims.measure(
        "Z-06",
        "std along the constant image and the leading components, flawed models: rms error of the law over that of 'no leak'",
        relative,
        interval=relative_interval,
        at_most=1.0,
        note="the law takes each class as a Gaussian; the data's levels are uniform, which leaks less",
    )
)

# %% [markdown]
# ### What the Gaussian picture misses
#
# Levels are uniform on $[-1, 1]$, not Gaussian. In one dimension the ODE is a monotone map from marginal to marginal, so for *any* data it is
# $x_0 = Q(F_T(x))$, with $F_T$ the distribution function of $x_T$ and $Q$ the data's quantile function. For a backdrop of $n$ pixels,
# with $a = \sqrt{\bar\alpha n}$, $G(z) = z\,\Phi(z) + \Phi'(z)$ and $s = \sqrt{1 - \bar\alpha}$:
#
# $$\mathrm{level} = 2 F_T(x) - 1, \qquad F_T(x) = \frac{s}{2a}\left[G\!\left(\tfrac{x + a}{s}\right) - G\!\left(\tfrac{x - a}{s}\right)\right] .$$

# %%
backdrop = (~train.mask).sum((1, 2, 3)).double().mean().item() or 240.0  # pixels; the frame's where images fill it
L_level = backdrop * facts["level_std"] ** 2
quantiles = ndtri((np.arange(2000) + 0.5) / 2000)  # stands for a normal variable


def uniform_level(x, alpha_bar, n):
    """Where the ODE's limit carries x along the backdrop's direction, for levels uniform on [-1, 1]."""
    a, s = math.sqrt(alpha_bar * n), math.sqrt(1 - alpha_bar)

    def G(z):
        return z * ndtr(z) + np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)

    return s / a * (G((x + a) / s) - G((x - a) / s)) - 1


def uniform_start(alpha_bar, m):
    """(mean, std ratio) of levels from sqrt(alpha_bar) m + sqrt(1 - alpha_bar) eps; m: levels, or None for pure noise."""
    if m is None:
        x = quantiles
    else:
        x = math.sqrt(alpha_bar * backdrop) * np.reshape(m, (-1, 1)) + math.sqrt(1 - alpha_bar) * quantiles
    level = uniform_level(x, alpha_bar, backdrop)
    return level.mean(), level.std() * math.sqrt(3)


def spread(x):
    """Std ratio of levels, and its interval."""
    return (x.std() / facts["level_std"]).item(), metrics.bootstrap(
        x, lambda v: v.std(ddof=1) / facts["level_std"], 500
    )


print(f"level std / data's, flawed schedule, {backdrop:.0f} pixels of backdrop, pure noise at T, many steps")
print(f"  law, Gaussian levels  {brightness.predicted(alpha_bar_T, L_level)[1]:.3f}")
print(f"  law, uniform levels   {uniform_start(alpha_bar_T, None)[1]:.3f}")
if limits := study.cells(model="control", spacing="trailing", sampler="heun", exact=True):
    limit = max(limits, key=lambda cell: cell.nfe)
    print(f"  exact denoiser        {study.text(limit, 'level', 'std_ratio')} ({limit})")
for name in flawed:
    value, (low, high) = spread(guide[many_steps[name]].tensors["level"])
    print(f"  {name + ', trained':22s}{value:.3f} [{low:.3f}, {high:.3f}]")

# %% [markdown]
# ## Who has the flaw, and by how much
#
# The mean of one channel, over $n$ positions in space (and time); a channel's mean varies from picture to picture by `mean_std` (a
# parameter; 0.5 in units in which the data have a std of about 1). What counts is $n$: 64x64 are Stable Diffusion's latents at 512 pixels, 128x128 those of
# SDXL and SD3 at 1024, whatever their channels; where channels move together, $n$ counts them all. Each entry is the std ratio of the
# mean / the share of the mean that is lost: its distance from 0 in the model's units. *At 50* is the same for 64x64 latents at the first
# of 50 steps, where that scheduler by default starts, from pure noise.


# %%
def entry(alpha_bar, n, offset=0.0, start=1.0):
    nu = 1 + offset * n
    mean, std = brightness.predicted(alpha_bar, n * mean_std**2, 1.0, nu, nu if start is None else start)
    return f"{std:.3f} / {1 - mean:.3f}"


def row(name, alpha_bar, first=None, **options):
    snr = f"{alpha_bar / (1 - alpha_bar):.2e}"
    cells = [entry(alpha_bar, n, **options) for _, n in shapes]
    at = "" if first is None else entry(first, 4096)
    print(f"{name:30s}{alpha_bar:11.2e}{snr:>11s}" + "".join(f"{x:>17s}" for x in [*cells, at]))


heads = [f"{name:>17s}" for name, _ in shapes] + [f"{'at 50, 64x64':>17s}"]
head = f"{'schedule':30s}{'alpha_bar_T':>11s}{'SNR_T':>11s}" + "".join(heads)
print(head)
for name, schedule in schedules.items():
    first = zsnr.grid(schedule, 50, "trailing" if schedule.zero_snr else "leading")[0].cos().item() ** 2
    row(name, schedule.alpha_bar[-1].item(), 0.0 if schedule.zero_snr else first)
row("SD, offset 0.1, plain start", alpha_bar_T, offset=0.01)
row("SD, offset 0.1, own start", alpha_bar_T, offset=0.01, start=None)

# %%
tables, straight, tableless = {}, [], {}
for name in sorted(dir(diffusers)):
    if not name.endswith("Scheduler") or "Flax" in name or "Inverse" in name:
        continue  # inverse ones run from the picture to noise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            scheduler = getattr(diffusers, name)()
        except (TypeError, ImportError):
            continue  # a scheduler of tokens, or one whose library is not installed
    short = name.removesuffix("Scheduler")
    sigmas = getattr(scheduler, "sigmas", None)
    if getattr(scheduler, "alphas_cumprod", None) is not None:
        schedule = zsnr.from_scheduler(scheduler)
        scheduler.set_timesteps(50)
        first = schedule.alpha_bar[round(float(scheduler.timesteps[0]))].item()
        tables.setdefault((float(f"{schedule.alpha_bar[-1]:.3g}"), float(f"{first:.3g}")), []).append(short)
    elif sigmas is not None and "sigma_data" in scheduler.config:
        alpha_bar = 1 / (1 + (float(sigmas[0]) / scheduler.config.sigma_data) ** 2)
        tableless.setdefault(float(f"{alpha_bar:.3g}"), []).append(short)
    elif sigmas is not None and "Flow" in name and float(sigmas[0]) == 1:
        straight.append(short)
print(head)
for (end, first), kinds in sorted(tables.items()):
    row("", end, first)
    print(f"  {', '.join(kinds)}")
for value, kinds in sorted(tableless.items()):
    row("", value)
    print(f"  {', '.join(kinds)} (from sigma_max and sigma_data)")
print(f"flow matching from sigma = 1, exactly zero SNR, nothing lost: {', '.join(straight)}")

# %%
fig, panels = plt.subplots(1, 2, figsize=(7, 2.7))
positions = np.geomspace(64, 4e5, 200)
first_cosine = zsnr.grid(cosine, 50, "leading")[0].cos().item() ** 2
lines = {
    "SD scaled_linear": (alpha_bar_T, 0.0, figures.COLOURS["control"], "-"),
    "SD, offset noise 0.1, own start": (alpha_bar_T, 0.01, figures.COLOURS["offset"], "-"),
    "DDPM linear": (linear.alpha_bar[-1].item(), 0.0, figures.COLOURS["base"], "-"),
    "cosine, $\\beta \\leq 0.999$": (cosine.alpha_bar[-1].item(), 0.0, "#777777", "-"),
    "cosine, from the first of 50 leading steps": (first_cosine, 0.0, "#777777", ":"),
    "zero SNR": (0.0, 0.0, figures.COLOURS["zsnr"], "--"),
}
for name, (end, offset, colour, dash) in lines.items():
    nu = 1 + offset * positions
    laws = [brightness.predicted(end, n * mean_std**2, 1.0, k, k) for n, k in zip(positions, nu, strict=True)]
    panels[0].semilogx(positions, [std for _, std in laws], dash, color=colour, label=name)
    panels[1].semilogx(positions, [1 - mean for mean, _ in laws], dash, color=colour)
for ax in panels:
    ax.set(ylim=(-0.03, 1.05), xlabel="positions that share a mean, n")
    for name, n in shapes:
        ax.axvline(n, color=figures.COLOURS["data"], lw=0.5, ls=":", zorder=0)
        ax.annotate(name, (n, 1.06), xycoords=("data", "axes fraction"), rotation=30, fontsize=6, va="bottom")
panels[0].set_ylabel("std of the mean / data's")
panels[1].set_ylabel("share of the mean that is lost")
fig.tight_layout()
fig.legend(
    *panels[0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=3, fontsize=6.5
)
figures.save(fig, out, "shapes")
lost = [1 - brightness.predicted(alpha_bar_T, n * mean_std**2, 1.0, 1 + 0.01 * n, 1 + 0.01 * n)[0] for _, n in shapes]
found.append(
    claims.measure(
        "Z-24",
        "Gaussian data, Stable Diffusion's schedule with offset noise 0.1: share of the mean still lost, by shape",
        lost,
        note="the closed form; 0 at zero SNR",
    )
)

# %% [markdown]
# ## What helps without training: the start
#
# By the law, the flawed model is exact from the marginal it was trained on. Its $x_T$ can be drawn: noise a picture $m$ to the first step's
# $\bar\alpha$. Only the lowest frequencies of $m$ matter, so a plain level should do. DDIM, class asked for, no guidance: from pure noise; from the data's
# *mean* picture (the law: the right mean, but no more spread than noise has); from a plain *level*, drawn as the data's; from an *image*
# of the class. Each beside the law with many steps, with the cell's own steps (DDIM is affine for Gaussian data: no sampling), and with
# uniform levels.

# %%
long, strengths = of_guide.facts["long"], of_guide.facts["strengths"]
level_mean = facts["level_mean"]
kinds = {"": "pure noise", "mean": "mean picture", "level": "plain level", "image": "picture"}


def gaussian_levels(grid, kind):
    """Std ratio of the level for a start: (many steps, the grid's own DDIM steps)."""
    m_var = {"": 1.0, "mean": 0.0}.get(kind, L_level)
    c, s = cos_sin(grid[0].item())
    own = sampled(zsnr.ddim, grid, L_level)[1] * math.sqrt(c * c * m_var + s * s)
    return brightness.started(c * c, L_level, start_variance=m_var)[1], own


table = {}
print(
    f"{'level std / data' + chr(39) + 's':34s}{'measured':>22s}{'many steps':>12s}{'own steps':>11s}{'uniform':>9s}{'mean':>8s}"
)
for spacing in ("leading", "trailing"):
    grid = Cell("base", spacing, nfe=long).grid()
    end = grid[0].cos().item() ** 2
    for kind, title in kinds.items():
        x = guide[Cell("base", spacing, nfe=long, start=kind)].tensors["level"]
        value, bounds = spread(x)
        levels = {"": None, "mean": level_mean}.get(kind, np.linspace(-1, 1, 401))
        many, own = gaussian_levels(grid, kind)
        table[spacing, kind] = value, bounds, many, own, uniform_start(end, levels)[1]
        text = f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"
        print(
            f"{spacing + ' ' + str(long) + ', ' + title:34s}{text:>22s}"
            f"{many:12.3f}{own:11.3f}{table[spacing, kind][4]:9.3f}{x.mean():8.3f}"
        )

# %%
fig, ax = plt.subplots(figsize=(5.6, 2.6))
for shift, spacing in ((-0.17, "leading"), (0.17, "trailing")):
    values = [table[spacing, kind] for kind in kinds]
    x, middle = np.arange(len(kinds)) + shift, np.array([v[0] for v in values])
    bounds = np.abs(np.array([v[1] for v in values]).T - middle)
    ax.bar(
        x, middle, 0.32, yerr=bounds, color=figures.COLOURS[spacing], alpha=0.8, capsize=2,
        label=f"base, {spacing}", error_kw={"lw": 0.8},
    )  # fmt: skip
    for k, marker, title in ((2, "D", "law, many steps"), (3, "_", "law, own steps"), (4, "o", "law, uniform levels")):
        ax.plot(
            x, [v[k] for v in values], marker, color=figures.COLOURS["data"], ls="", ms=4 if marker != "_" else 9,
            mfc="white", mew=0.9, label=title if shift > 0 else None,
        )  # fmt: skip
ax.axhline(1, color=figures.COLOURS["data"], lw=0.8)
ax.set_xticks(range(len(kinds)), kinds.values())
ax.set(ylabel="std of the level / data's", xlabel="start", ylim=(0, max(1.45, 1.25 * ax.get_ylim()[1])))
ax.legend(ncols=3, loc="upper left", fontsize=6.5)
figures.save(fig, out, "starts")

# %% [markdown]
# The claim's test: change the start alone, and the spread should come back. Difference of std ratios, the true terminal marginal less
# pure noise, same model, seeds and steps.

# %%
gains = []
for spacing in ("leading", "trailing"):
    plain = guide[Cell("base", spacing, nfe=long)].tensors["level"]
    for kind in ("level", "image"):
        x = guide[Cell("base", spacing, nfe=long, start=kind)].tensors["level"]

        def gain(rows, x=x, plain=plain):
            return ((x[rows].std() - plain[rows].std()) / facts["level_std"]).item()

        gains.append((gain(torch.arange(len(x))), bootstrap(gain, len(x))))
        low, high = gains[-1][1]
        print(f"{spacing:9s}{kinds[kind]:14s}std ratio gained: {gains[-1][0]:.3f} [{low:.3f}, {high:.3f}]")
found.append(
    claims.measure(
        "Z-06",
        "flawed base from the terminal marginal it was trained on, less from pure noise: std ratio gained "
        "(level and picture starts, leading and trailing)",
        [value for value, _ in gains],
        interval=[interval for _, interval in gains],
        at_least=0.0,
    )
)
# the law says more than a sign: how much of the spread such a start should give
starts_at = [table[spacing, "level"] for spacing in ("leading", "trailing")]
found.append(
    claims.measure(
        "Z-06",
        "flawed base from a plain level: std ratio less the law's, within .1 (leading, trailing)",
        [value - steps for value, _, _, steps, _ in starts_at],
        interval=[(low - steps, high - steps) for _, (low, high), _, steps, _ in starts_at],
        equal=0.0,
        abs=0.1,
        note="above it the start overshoots: too dark and too bright",
    )
)

# %% [markdown]
# ### Prompts
#
# A word says in which fifth of $[-1, 1]$ the backdrop lies; how far each model follows it is notebook 12's subject. Here, for the flawed base
# with guidance, $w = 7.5$: does a start that suits the word help? A plain level from the word's own fifth, noised to the first step.

# %%
centre = {word: -1 + (2 * k + 1) / len(data.WORDS) for k, word in enumerate(data.WORDS)}


def slope(x, y):
    """Of the regression of y on x."""
    x, y = double(x), double(y)
    return (((x - x.mean()) * (y - y.mean())).mean() / (x - x.mean()).square().mean()).item()


shifts = []
print(
    f"{'base, w = 7.5':26s}{'from pure noise':>26s}{'from a level that suits':>26s}{'shift to the word':>26s}  in its fifth"
)
for cell in guide:
    if not (cell.start == "level" and cell.prompt):
        continue
    word, plain, x = cell.prompt, guide[cell.but(start="")].tensors["level"], guide[cell].tensors["level"]
    n_word = min(len(plain), len(x))
    side = math.copysign(1, centre[word])
    edge = abs(centre[word]) - 1 / len(data.WORDS)
    texts = []
    for values in (plain[:n_word], x[:n_word], side * (x[:n_word] - plain[:n_word])):
        low, high = metrics.interval(values.tolist())
        texts.append(f"{values.mean():.3f} [{low:.3f}, {high:.3f}]")
    shifts.append((values.mean().item(), (low, high)))
    reached = [bool(edge <= side * values.mean() <= edge + 2 / len(data.WORDS)) for values in (plain, x)]
    name = f"{cell.spacing} {cell.nfe}, {word}"
    print(f"{name:26s}" + "".join(f"{t:>26s}" for t in texts) + f"  {reached[0]} -> {reached[1]}")
found.append(
    claims.measure(
        "Z-06",
        "prompts black and white, guided: shift of the level towards the word by a start of suitable level "
        "(leading and trailing)",
        [value for value, _ in shifts],
        interval=[interval for _, interval in shifts],
        at_least=0.0,
    )
)

# %% [markdown]
# ## Image-to-image keeps the brightness of its input
#
# Of a picture noised to $\bar\alpha$, the share $\sqrt{\bar\alpha L / d}$ of its level's distance from the data's mean survives, the rest is fresh. For the level
# $L$ is large; of directions in which the data hardly vary, the law keeps little. Input: a picture of *another* class. Measured: the slope of output on
# input level, and how many outputs the classifier still takes for the input's class; strength is the share of the steps that are taken.

# %%
inputs = of_guide.one(model="data").tensors["edited level"]
shown = np.linspace(-1, 1, 81)
edited = {}
print(
    f"{'':26s}{'alpha_bar':>10s}{'slope of the level':>26s}{'law':>7s}{'uniform':>9s}{'correlation':>13s}{'class kept':>12s}"
)
for spacing in ("leading", "trailing"):
    grid = Cell("base", spacing, nfe=long).grid()
    for strength in strengths:
        cell = Cell("base", spacing, nfe=long, start="edit", strength=strength)
        end = grid[long - round(strength * long)].cos().item() ** 2
        x, kind = guide[cell].tensors["level"], guide[cell].tensors["class"]
        same = (kind == (torch.arange(len(x)) % classes + 1) % classes).double()

        def slopes_of(rows, x=x):
            return slope(inputs[rows], x[rows])

        def beyond(rows, x=x, same=same):
            """Slope of the level less the share of pictures that are still of the input's class."""
            return slope(inputs[rows], x[rows]) - same[rows].mean().item()

        rows = torch.arange(len(x))
        value, (low, high) = slopes_of(rows), bootstrap(slopes_of, len(x))
        more_interval = bootstrap(beyond, len(x))
        share = brightness.kept(end, L_level)[0]
        noised = math.sqrt(end * backdrop) * shown[:, None] + math.sqrt(1 - end) * quantiles
        curve = uniform_level(noised, end, backdrop).mean(1)
        correlation = torch.corrcoef(torch.stack([inputs, x]))[0, 1].item()
        edited[spacing, strength] = value, (low, high), same.mean().item(), curve, more_interval
        text = f"{value:.3f} [{low:.3f}, {high:.3f}]"
        print(
            f"{spacing + ', strength ' + format(strength, '.2f'):26s}{end:10.4f}{text:>26s}{share:7.3f}"
            f"{slope(shown, curve):9.3f}{correlation:13.3f}{same.mean():12.3f}"
        )

# %%
fig, panels = plt.subplots(1, 2, figsize=(7, 2.8))
strongest = max(strengths)
for spacing in ("leading", "trailing"):
    colour = figures.COLOURS[spacing]
    x = guide[Cell("base", spacing, nfe=long, start="edit", strength=strongest)].tensors["level"]
    panels[0].plot(inputs, x, ".", color=colour, ms=3, alpha=0.5, label=f"{spacing}, strength {strongest:g}")
    panels[0].plot(shown, edited[spacing, strongest][3], color=colour, lw=1.2)
    grid = Cell("base", spacing, nfe=long).grid()[:-1]
    taken = 1 - np.arange(long) / long
    panels[1].plot(
        taken, [brightness.kept(phi.cos().item() ** 2, L_level)[0] for phi in grid], color=colour, lw=1.2,
        label=f"level, law, {spacing}",
    )  # fmt: skip
    middle_values = np.array([edited[spacing, k][0] for k in strengths])
    bounds = np.abs(np.array([edited[spacing, k][1] for k in strengths]).T - middle_values)
    panels[1].errorbar(strengths, middle_values, bounds, fmt="o", color=colour, capsize=2, lw=0.8)
    panels[1].plot(strengths, [edited[spacing, k][2] for k in strengths], "x", color=colour, ms=5)
panels[0].plot([-1, 1], [-1, 1], color=figures.COLOURS["data"], lw=0.6, ls=":")
panels[0].set(xlabel="level of the input", ylabel="level of the output")
panels[0].legend(fontsize=6.5, loc="upper left")
panels[1].plot([], [], "o", color="#777777", label="level, measured slope")
panels[1].plot([], [], "x", color="#777777", ms=5, label="class kept, measured")
panels[1].set(
    xlabel="strength: share of the steps taken", ylabel="share that survives", ylim=(-0.04, 1.08), xlim=(0, 1.03)
)
fig.tight_layout()
fig.legend(
    *panels[1].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=4, fontsize=6.5
)
figures.save(fig, out, "edits")
found.append(
    claims.measure(
        "Z-06",
        f"image-to-image at strength {strongest:g}: slope of the level less the share that keeps the input's class "
        "(leading, trailing)",
        [edited[spacing, strongest][0] - edited[spacing, strongest][2] for spacing in ("leading", "trailing")],
        interval=[edited[spacing, strongest][4] for spacing in ("leading", "trailing")],
        at_least=0.0,
        note="the lowest frequency survives noise that the rest does not; the class asked for is another",
    )
)

# %% [markdown]
# ## A recipe
#
# 1. *Look up the shape.* $n$ is the number of positions a channel's mean is taken over; with the std of that mean over your data and the
#    scheduler's own $\bar\alpha_T$, $\lambda = n\,\mathrm{Var}(\mathrm{mean})\,\bar\alpha_T$. The mean loses about $\sqrt{\lambda / (1 + \lambda)}$ of its distance from 0, the std
#    is $1/\sqrt{1 + \lambda}$ of the truth. Below $\lambda = 10^{-4}$ (1 % of the mean) there is nothing to mend.
# 2. *Zero already?* Flow matching from $\sigma = 1$, or a rescaled schedule with trailing steps: the law gives an exact 0.
# 3. *Without fine-tuning,* change the start, not the noise: a plain picture of the wanted brightness (in a latent model, encoded), noised
#    to the first step's $\bar\alpha$ with the scheduler's own `add_noise`. It costs nothing. For free variety, draw its level as your data have it. By the
#    law this is exact for any model of the flawed schedule; what it did for a trained one stands above.
# 4. *Mind the first step*: a leading grid starts at $t < T$, where $\bar\alpha$ is larger, and from pure noise there even the harmless cosine
#    schedule leaks. Take trailing steps, or noise $m$ to that step's own $\bar\alpha$.
# 5. *Image-to-image*: the share of the mean that the table above calls lost is what the input's mean keeps at full strength, more below it.
#    Shift the input's level before it is noised.
# 6. *Offset noise*, by the law, leaks less but not nothing when it starts from its own kind of noise; from plain noise it is too even.
# 7. *With fine-tuning*: zero terminal SNR and $v$-prediction (notebook 3).

# %% [markdown]
# ## Verdict

# %%
claims.save(out / "claims.json", found, "11_leak")
print(claims.summary(found))
