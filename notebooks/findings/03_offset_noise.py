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
# **Claim** (Lin et al. 2023, Secs. 1, 3.1, 5.4). A model trained on the flawed schedule makes pictures of medium brightness. Offset
# noise allows very dark and very bright pictures, but it does not match the data: the pictures are too bright or too dark. Zero
# terminal SNR, $v$-prediction and trailing time steps remove the cause.
#
# **What would refute it.** The backdrops of our data are uniform on $[-1, 1]$: every brightness is equally likely. The claim is
# wrong if the backdrops of the flawed model spread as far as those of the data, or if those of the fixed model do not. It is
# also wrong if the model trained with offset noise matches the data.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
out_dir = ""

# %%
from functools import partial

import numpy as np
from IPython.display import display

import zsnr
from lab.measure.evaluation import REAL, Cell
from lab.measure.metrics import interval
from lab.report import figures
from lab.report.finding import measured, say, start
from lab.studies import offset_noise

out, claim = start("03_offset_noise", out_dir)
study, prompted = offset_noise.read(results)
directions = offset_noise.directions(source)

# %% [markdown]
# ## The answer

# %%
short, long = (f(c.nfe for c in study.cells(model="control", spacing="leading", sampler="ddim")) for f in (min, max))
heun = long - 1 + long % 2
flawed, fixed = Cell("control", "trailing", "ddim", long), Cell("zsnr", "trailing", "ddim", long)
offset, control = Cell("offset", "leading", nfe=short), Cell("control", "leading", nfe=short)
by_heun = fixed.but(sampler="heun", nfe=heun)
spread = [study.text(cell, "level", "std_ratio") for cell in (flawed, fixed, by_heun, offset)]
gap, wider = (study.difference(*pair, "level", "std_ratio") for pair in ((fixed, flawed), (offset, control)))
say(
    f"By the same sampler (DDIM, {long} trailing steps), from the same noises, the backdrops of the flawed model have "
    f"**{spread[0]}** of the data's standard deviation, and those of the fixed model **{spread[1]}**; the difference is {measured(*gap)}. "
    f"By Heun's method ({heun} evaluations) the fixed model has {spread[2]}. With offset noise, sampled as its users do (DDIM, {short} leading steps), it is "
    f"{spread[3]}. The difference from the same training without it, {measured(*wider)}, would be above 0 if pictures that are not asked for became darker and brighter."
)

# %%
asked = {"flawed": Cell("control", "trailing", nfe=short), "fixed": Cell("zsnr", "trailing", nfe=short)}
rows = {"flawed,\nleading": flawed.but(spacing="leading"), "flawed,\ntrailing": flawed, "fixed,\ntrailing": fixed}
main = offset_noise.main_figure(study, rows, offset_noise.asked(results, asked), directions["level"].known)
figures.save(main, out, "main")
levels = {name: offset_noise.answered(prompted, cell) for name, cell in asked.items()}
guided = offset_noise.answered(prompted, asked["flawed"].but(w=7.5, phi=0.7))
say(
    f"*All pictures are drawn by DDIM, without guidance: above with {short} trailing steps, below with {long}. Asked for black and white, the flawed "
    f"model makes backdrops of level {levels['flawed'][0]:.2f} and {levels['flawed'][1]:.2f} on average, the fixed one {levels['fixed'][0]:.2f} and "
    f"{levels['fixed'][1]:.2f}; the truth is -0.8 and 0.8. {offset_noise.hidden(levels['flawed'], guided)}*"
)

# %% [markdown]
# *Leading* and *trailing* are the time steps; users of the flawed model take leading. The pictures at the top were asked for by a
# word; with guidance (scale 7.5, rescaled by 0.7) they are in [finding 12](12_prompts.ipynb). *Flawed* is the model that was trained on for
# as long as the fixed one, on its own schedule. A level of -1 is black, 1 is white. The histograms are over all seeds, and the black line is the data.
#
# ## Four models, the same noises
#
# *base* is the flawed model: it predicts $\epsilon$ on Stable Diffusion's schedule. The other three are fine-tuned from it for the
# same number of steps: *control* without a fix, *offset* with offset noise 0.1, *zsnr* with a rescaled schedule and
# $v$-prediction. Each is sampled by DDIM with the time steps that its users take.

# %%
cells = {m: Cell(m, "leading" if m != "zsnr" else "trailing", nfe=short) for m in ("base", "control", "offset", "zsnr")}
figures.save(offset_noise.pictures_figure(study, cells), out, "pictures")
figures.save(offset_noise.levels_figure(study, cells, directions["level"].known), out, "levels")

# %% [markdown]
# *Above: 24 pictures of each model; a place in the sheet is one noise. Below: the distribution of the backdrop's brightness and of the mean of
# the whole picture, all seeds together. The black line is the data.*
#
# How much spread should be lost? `zsnr.brightness` has the answer in closed form for Gaussian data of the same variance and many
# sampling steps. Its columns are called *law*. The level is the common value of the backdrop's pixels; offset noise adds
# $0.01\,n$ to the variance of the noise there, for $n$ pixels. Users of such a model still start from plain noise. To that model,
# plain noise looks like a picture of medium brightness. The row *offset, offset start* starts from the noise that the model was trained on.

# %%
alpha_bar_T = zsnr.schedule.stable_diffusion().alpha_bar[-1].item()
kinds = {
    "base": (cells["base"], alpha_bar_T, 0.0, False),
    "control": (cells["control"], alpha_bar_T, 0.0, False),
    "offset": (cells["offset"], alpha_bar_T, 0.1, False),
    "offset, offset start": (cells["offset"].but(start="offset"), alpha_bar_T, 0.1, True),
    "zsnr": (cells["zsnr"], 0.0, 0.0, False),
    "zsnr, Heun": (Cell("zsnr", "trailing", "heun", heun), 0.0, 0.0, False),
}
display(*(offset_noise.law_table(study, directions, what, kinds) for what in directions))

# %% [markdown]
# Intervals are over the fine-tuning seeds of one base, and over pictures (bootstrap) where there is one model only. $W_1$ is the
# distance between the model's distribution and the data's.
#
# ## Three causes apart: the schedule, the time steps, the solver
#
# The *exact denoiser* knows the distribution of the data: garments of the class that is asked for, on uniform backdrops. It uses the same
# schedule, time steps, solver and noises, but it has nothing to learn. So its loss of spread comes from the schedule and the solver alone. In
# the last row the solver's error is almost 0 as well, and only the effect of the schedule is left.

# %%
settings = [(s, k, n) for s in ("leading", "trailing") for k, n in (("ddim", long), ("heun", heun))]
names = {"control": "flawed", "zsnr": "zero terminal SNR"}
figures.save(offset_noise.ratios_figure(study, settings, names), out, "table")
say(offset_noise.nearness(study, settings, names))
offset_noise.ratios_table(study, [*settings, ("trailing", "heun", 8 * short - 1)], names)

# %% [markdown]
# *Bars: trained models with 95 % intervals over seeds. Diamonds: exact denoisers, from the same noises. The line at 1 is the data.*
#
# The exact values carry the sampling error of these noises. The exact denoiser at zero terminal SNR in the last row shows how large that
# error is, since its true value is 1. Trained over exact, from the same noises, is what the networks miss.
# Their targets were averaged over the level, whose distribution is known here, and only here (`lab.models.level_mean`).
#
# **Check Z-06**: the primary check compares both models by the same solver, time steps and noises. The others say how far each of them is
# from the data.

# %%
flawed, fixed, offset = cells["control"], Cell("zsnr", "trailing", "heun", heun), cells["offset"]
even = Cell("control", "trailing", "heun", heun)  # the flawed model with the fixed one's sampler
of = partial(offset_noise.of_level, study)
apart, pair = study.difference(fixed, even, "level", "std_ratio")
w1 = [a / b for a, b in zip(study.values(fixed, "level", "w1"), study.values(even, "level", "w1"), strict=True)]
claim("Z-06", "trained, trailing Heun: level std / data's, zero SNR less flawed", apart, interval=pair)
claim("Z-06", f"trained, flawed, leading DDIM {short}: level std / data's", **of(flawed), at_most=0.75)
claim("Z-06", f"trained, zero SNR, trailing Heun {heun}: level std / data's", **of(fixed), at_least=0.92, at_most=1.05)
claim("Z-06", "its bias", **of(fixed, "bias"), at_least=-0.03, at_most=0.03)
what = "its W1 distance over the flawed model's, by the same sampler"
claim("Z-06", what, float(np.mean(w1)), interval=interval(w1), at_most=1 / 3)

# %% [markdown]
# ## Offset noise: too bright, too dark or too grey?
#
# First the noise itself: its variance along the mean of $n$ pixels should be $1 + 0.01\,n$. Then the pictures, not asked for anything. What
# happens when the model is asked for black and white is [finding 12](12_prompts.ipynb), which decides claim Z-24.

# %%
pixels = [784, 1024, 4096]
drawn = offset_noise.mean_mode_variance(pixels)
over = [v / (1 + 0.01 * n) for v, n in zip(drawn, pixels, strict=True)]
what = "variance of the noise's mean mode, n = 784, 1024, 4096, over 1 + 0.01 n"
claim("Z-24", what, over, equal=[1.0] * 3, abs=0.04)
known = study.mean(offset.but(start="offset"), "level", "std_ratio")
note = (
    f"sampled from plain noise, as its users do; the Gaussian law says greyer. "
    f"From noise with an offset: std ratio {known:.2f}"
)
claim("Z-24", "offset noise, unprompted: level std / data's", **of(offset), at_least=1.0, note=note)
wider, pair = study.difference(offset, flawed, "level", "std_ratio")
claim("Z-24", "the same, less control's", wider, interval=pair, at_least=0.0)
worse, pair = study.difference(offset, fixed, "level", "w1")
claim("Z-24", "W1 distance of the level, less zero SNR's", worse, interval=pair, at_least=0.0)

# %% [markdown]
# ## Offset noise in one sentence, and the verdict
#
# *Direction* means that only the sign can be checked at this scale, and that it is as claimed. A check *beside* decides nothing.

# %%
spread, shift = offset_noise.spread_and_shift(study, offset)
start_gain, pair = study.difference(offset.but(start="offset"), offset, "level", "std_ratio")
far = [np.mean([(x.abs() > 1.02).double().mean().item() for x in study.samples(c, "level")]) for c in (offset, REAL)]
say(
    f"Started from plain noise and not asked for anything, the pictures of *offset* are **{spread}**, and their mean brightness is {shift}. "
    f"The noise that it was trained on widens the spread by {measured(start_gain, pair, '.2f')}. Levels beyond the range of the data "
    f"(by 0.02) are {far[0]:.1%} of its pictures, and {far[1]:.1%} of real ones."
)
claim.verdict()
