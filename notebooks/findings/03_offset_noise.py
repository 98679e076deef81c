# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. Offset noise against zero terminal SNR: can the model make dark and bright pictures?
#
# **Claim** (Lin et al. 2023, Secs. 1, 3.1, 5.1). A model trained on the flawed schedule makes pictures of medium brightness. Offset
# noise widens the range, but does not match the data: too bright or too dark. Zero terminal SNR, $v$-prediction and trailing
# steps fix it.
#
# It would be wrong if the flawed model's backdrops were spread as the data's are, or the fixed model's were not. The data's
# backdrops are uniform on $[-1, 1]$: every brightness is as likely. Whether offset noise is too bright, too dark or too grey is
# for the measurement to say.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
out_dir = ""

# %%
import json
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import zsnr
from lab import ROOT
from lab.measure.evaluation import REAL, Cell
from lab.measure.metrics import interval
from lab.measure.study import Study
from lab.models import data
from lab.report import claims, figures
from zsnr import brightness

torch.set_num_threads(1)
figures.style()
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
found = []
study = Study(ROOT / results / "zsnr")
facts = json.loads((ROOT / "results/data/data.json").read_text())
mask = data.load(ROOT / source).mask
backdrop = (~mask).sum((1, 2, 3)).double().mean().item()  # pixels a picture; 0 where images fill the frame


def evaluations(model):
    """How many evaluations the model's leading DDIM cells use."""
    return [cell.nfe for cell in study.cells(model=model, spacing="leading", sampler="ddim")]


short, long = min(evaluations("base")), max(evaluations("control"))
heun = long - 1 + long % 2
print(f"{len(study.seeds)} seeds; comparisons at {short} and {long} evaluations of the network")
print(f"{backdrop:.0f} of {mask[0].numel()} pixels are backdrop, on average")

# %% [markdown]
# ## Four models, the same noises
#
# DDIM, with the steps that each model's users take: leading for the flawed ones, trailing for the fixed one.

# %%
models = {
    "base": Cell("base", "leading", nfe=short),
    "control": Cell("control", "leading", nfe=short),
    "offset": Cell("offset", "leading", nfe=short),
    "zsnr": Cell("zsnr", "trailing", nfe=short),
}
titles = {
    "base": "base\n$\\epsilon$, flawed schedule",
    "control": "control\nthe same, trained on",
    "offset": "offset\nwith offset noise 0.1",
    "zsnr": "zsnr\nzero SNR, $v$",
}
fig, axes = plt.subplots(1, 4, figsize=(7, 1.7))
for ax, (variant, cell) in zip(axes, models.items(), strict=True):
    figures.pictures(ax, study.pictures(cell)[:24], 6, titles[variant])
fig.subplots_adjust(wspace=0.04)
figures.save(fig, out, "pictures")

# %% [markdown]
# ## How bright are they?
#
# Distribution of the backdrop's level and of the image mean, all seeds together, against real pictures.

# %%
bins = np.linspace(-1.25, 1.25, 26)


def outline(ax, what):
    """The data's distribution: uniform where it is known, real pictures otherwise."""
    if what == "level" and backdrop:
        ax.plot([-1, -1, 1, 1], [0, 0.5, 0.5, 0], color=figures.COLOURS["data"], lw=1.2, label="data")
    else:
        real = study.samples(REAL, what)[0].numpy()
        ax.hist(real, bins, density=True, histtype="step", color=figures.COLOURS["data"], lw=1.2, label="data")


fig, axes = plt.subplots(2, 4, figsize=(7, 3), sharex=True, sharey="row")
for column, (variant, cell) in zip(axes.T, models.items(), strict=True):
    for ax, what in zip(column, ("level", "mean"), strict=True):
        values = np.concatenate([x.numpy() for x in study.samples(cell, what)])
        ax.hist(values.clip(-1.25, 1.25), bins, density=True, color=figures.COLOURS[variant], alpha=0.75)
        outline(ax, what)
        ax.set_yticks([])
    column[0].set_title(titles[variant])
    column[1].set_xlabel("image mean")
    column[0].set_xlabel("backdrop level")
axes[0, 0].set_ylabel("density")
axes[1, 0].set_ylabel("density")
fig.tight_layout()
figures.save(fig, out, "levels")

# %% [markdown]
# Next to each measurement stands what the closed form of `zsnr.brightness` predicts for Gaussian data of the same variance in the limit of
# many steps: the level is the common value of the backdrop's pixels, the image mean that of all 1024. Offset noise
# adds $0.01\,n$ to the noise's variance there. Its users start sampling from plain noise, which to that model is far too even; the
# line *offset, offset start* begins with the noise that it was trained on. Intervals are over the fine-tuning seeds of one base, and
# over pictures (bootstrap) where there is one model only.

# %%
alpha_bar_T = {"flawed": zsnr.schedule.stable_diffusion().alpha_bar[-1].item(), "fixed": 0.0}
directions = {"level": (backdrop or 240, facts["level_std"]), "mean": (mask[0].numel(), facts["mean_std"])}
rows = {
    "base": (models["base"], "flawed", False, False),
    "control": (models["control"], "flawed", False, False),
    "offset": (models["offset"], "flawed", True, False),
    "offset, offset start": (models["offset"].but(start="offset"), "flawed", True, True),
    "zsnr": (models["zsnr"], "fixed", False, False),
    "zsnr, Heun": (Cell("zsnr", "trailing", "heun", heun), "fixed", False, False),
}
for what, (n, spread) in directions.items():
    print(f"{what:22s}{'std / data':>23s}{'law':>7s}{'bias':>25s}{'law':>8s}{'W1':>23s}")
    for name, (cell, schedule, offset, offset_start) in rows.items():
        nu = 1 + 0.01 * n * offset
        true = math.sqrt(n) * facts[f"{what}_mean" if what == "level" else "mean"]
        start = nu if offset_start else 1.0
        mean, std = brightness.predicted(alpha_bar_T[schedule], n * spread**2, true, nu, start)
        print(
            f"  {name:20s}{study.text(cell, what, 'std_ratio'):>23s}{std:7.3f}"
            f"{study.text(cell, what, 'bias'):>25s}{(mean - true) / math.sqrt(n):8.3f}{study.text(cell, what, 'w1'):>23s}"
        )
    print(
        f"  {'real pictures':20s}{study.text(REAL, what, 'std_ratio'):>23s}{'':7s}{study.text(REAL, what, 'bias'):>25s}{'':8s}{study.text(REAL, what, 'w1'):>23s}"
    )

# %% [markdown]
# ## Leak, spacing and discretisation, apart
#
# At equal evaluations of the network. *Exact* is the denoiser of the data's own distribution (garments on uniform backdrops) on the same
# schedule, steps and solver, so it has the leak and the discretisation but nothing to learn; the last line of each has next to no
# discretisation either, and shows the leak alone. All exact values carry the sampling error of one set of noises (the value of the
# exact zero-SNR model in the limit says how much: it should be 1).

# %%


def exact(cell):
    """The exact denoiser's std ratio; there is none where the images have no backdrop."""
    cell = cell.but(exact=True)
    return study.mean(cell, "level", "std_ratio") if cell in study else math.nan


print(f"{'level std / data':34s}{'trained, flawed':>24s}{'exact':>8s}{'trained, zero SNR':>26s}{'exact':>8s}")
for spacing in ("leading", "trailing"):
    for sampler, evaluations in (("ddim", long), ("heun", heun)):
        cells = [Cell(model, spacing, sampler, evaluations) for model in ("control", "zsnr")]
        values = [f"{study.text(cell, 'level', 'std_ratio'):>24s}{exact(cell):8.3f}" for cell in cells]
        print(f"  {f'{spacing}-{sampler}-{evaluations}':32s}{'  '.join(values)}")
limit = [exact(Cell(model, "trailing", "heun", 8 * short - 1)) for model in ("control", "zsnr")]
print(f"  {f'leak alone, trailing-heun-{8 * short - 1}':32s}{'':24s}{limit[0]:8.3f}{'':26s}{limit[1]:8.3f}")

# %%
fig, ax = plt.subplots(figsize=(5.2, 2.6))
order = [(s, k, n) for s in ("leading", "trailing") for k, n in (("ddim", long), ("heun", heun))]
for shift, (variant, label) in enumerate((("control", "flawed, trained"), ("zsnr", "zero SNR, trained"))):
    cells = [Cell(variant, *how) for how in order]
    middle = np.array([study.mean(cell, "level", "std_ratio") for cell in cells])
    bounds = np.array([study.interval(cell, "level", "std_ratio") for cell in cells])
    x = np.arange(len(order)) + (shift - 0.5) * 0.36
    ax.bar(
        x,
        middle,
        0.34,
        yerr=np.abs(bounds.T - middle),
        color=figures.COLOURS[variant],
        alpha=0.85,
        capsize=2,
        label=label,
        error_kw={"lw": 0.8},
    )
    ideal = [exact(cell) for cell in cells]
    ax.plot(x, ideal, "D", color="white", mec=figures.COLOURS["data"], ms=4, label="exact denoiser" if shift else None)
ax.axhline(1, color=figures.COLOURS["data"], lw=0.8)
ax.set_xticks(range(len(order)), [f"{spacing}\n{sampler}, {n}" for spacing, sampler, n in order])
ax.set(
    xlabel="steps, sampler and evaluations",
    ylabel="std of the backdrop level / data's",
    ylim=(0, max(1.25, ax.get_ylim()[1])),
)
ax.legend(ncols=3, loc="upper left", fontsize=6.5)
figures.save(fig, out, "table")

# %% [markdown]
# ## The main finding in one picture

# %%
fig, axes = plt.subplots(2, 2, figsize=(6, 3.4), height_ratios=(1.6, 1))
pair = (
    ("control", Cell("control", "leading", nfe=short), "flawed schedule, $\\epsilon$"),
    ("zsnr", Cell("zsnr", "trailing", "heun", heun), "zero terminal SNR, $v$, from $\\varphi = \\pi/2$"),
)
for column, (variant, cell, title) in zip(axes.T, pair, strict=True):
    figures.pictures(column[0], study.pictures(cell)[:32], 8, title)
    values = np.concatenate([x.numpy() for x in study.samples(cell, "level")])
    column[1].hist(values.clip(-1.25, 1.25), bins, density=True, color=figures.COLOURS[variant], alpha=0.8)
    outline(column[1], "level")
    column[1].set(
        xlabel="backdrop level",
        yticks=[],
        ylim=(0, 1.15),
        title=f"std {study.mean(cell, 'level', 'std_ratio'):.2f} of the data's",
    )
axes[1, 0].set_ylabel("density")
axes[1, 0].legend()
fig.tight_layout(h_pad=0.6)
figures.save(fig, out, "main")

# %% [markdown]
# ## What is claimed, measured

# %%
flawed, fixed, offset = models["control"], Cell("zsnr", "trailing", "heun", heun), models["offset"]


def ratio(cell):
    return {"value": study.mean(cell, "level", "std_ratio"), "interval": study.interval(cell, "level", "std_ratio")}


even = Cell("control", "trailing", "heun", heun)  # the flawed model with the fixed one's sampler
apart, apart_interval = study.difference(fixed, even, "level", "std_ratio")
w1_ratio = [a / b for a, b in zip(study.values(fixed, "level", "w1"), study.values(even, "level", "w1"), strict=True)]
wider, wider_interval = study.difference(offset, flawed, "level", "std_ratio")
worse, worse_interval = study.difference(offset, fixed, "level", "w1")
found += [
    claims.measure(
        "Z-06", "trained, trailing Heun: level std / data's, zero SNR less flawed", apart, interval=apart_interval
    ),
    claims.measure(
        "Z-06",
        f"trained, flawed, leading DDIM {short}: level std / data's",
        **ratio(flawed),
        at_most=0.75,
    ),
    claims.measure(
        "Z-06",
        f"trained, zero SNR, trailing Heun {heun}: level std / data's",
        **ratio(fixed),
        at_least=0.92,
        at_most=1.05,
    ),
    claims.measure(
        "Z-06",
        "its bias",
        study.mean(fixed, "level", "bias"),
        interval=study.interval(fixed, "level", "bias"),
        at_least=-0.03,
        at_most=0.03,
    ),
    claims.measure(
        "Z-06",
        "its W1 distance over the flawed model's, by the same sampler",
        float(np.mean(w1_ratio)),
        interval=interval(w1_ratio),
        at_most=1 / 3,
    ),
]

# %%
pixels = [784, 1024, 4096]
g = torch.Generator().manual_seed(0)
drawn = []
for n in pixels:
    noise = torch.randn(20_000, n, generator=g) + 0.1 * torch.randn(20_000, 1, generator=g)
    drawn.append((noise.sum(1) / math.sqrt(n)).var().item())
print(
    "variance of the noise along the mean:", ", ".join(f"{v:.2f} (n = {n})" for v, n in zip(drawn, pixels, strict=True))
)

over = [(x.abs() > 1.02).double().mean().item() for x in study.samples(offset, "level")]
start = study.difference(offset.but(start="offset"), offset, "level", "std_ratio")
note = (
    f"sampled from plain noise, as its users do; the Gaussian law says greyer. "
    f"From noise with an offset: std ratio {study.mean(offset.but(start='offset'), 'level', 'std_ratio'):.2f}"
)
found += [
    claims.measure(
        "Z-24",
        "variance of the noise's mean mode, n = 784, 1024, 4096, over 1 + 0.01 n",
        [d / (1 + 0.01 * n) for d, n in zip(drawn, pixels, strict=True)],
        equal=[1.0] * 3,
        abs=0.04,
    ),
    claims.measure(
        "Z-24",
        "offset noise, unprompted: level std / data's",
        **ratio(offset),
        at_least=1.0,
        note=note,
    ),
    claims.measure(
        "Z-24",
        "the same, less control's",
        wider,
        interval=wider_interval,
        at_least=0.0,
    ),
    claims.measure(
        "Z-24",
        "W1 distance of the level, less zero SNR's",
        worse,
        interval=worse_interval,
        at_least=0.0,
    ),
]
low, high = study.interval(offset, "level", "std_ratio")
spread = "too grey" if high < 1 else "too bright or too dark" if low > 1 else "spread as the data"
low, high = study.interval(offset, "level", "bias")
shift = "too bright" if low > 0 else "too dark" if high < 0 else "unbiased"
print(f"offset noise, started from plain noise: {spread}, and {shift} on average")
print(f"offset less control, std ratio: {wider:.3f} [{wider_interval[0]:.3f}, {wider_interval[1]:.3f}]")
print(f"offset start less plain start, std ratio: {start[0]:.3f} [{start[1][0]:.3f}, {start[1][1]:.3f}]")
print(
    f"levels beyond the data's range (by .02): offset {np.mean(over):.3f}, of real pictures {(study.samples(REAL, 'level')[0].abs() > 1.02).double().mean():.3f}"
)

# %% [markdown]
# ## Verdict

# %%
claims.save(out / "claims.json", found, "03_offset_noise")
print(claims.summary(found))
