# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 16. Stable Diffusion's own classes, before and after fine-tuning: are black and white reached?
#
# **Claim** (Lin et al. 2023, Figs. 1 and 3). Stable Diffusion, asked for very dark or very bright pictures, makes
# pictures of medium brightness; fine-tuned with zero terminal SNR, $v$-prediction and trailing steps it does not.
#
# Stage `text_to_image` ran that fine-tuning on a small stand-in of the same classes, trained from
# scratch on captioned pictures of known brightness: `flawed` as Stable Diffusion was trained; then, each for as many
# pictures, `control` without the fixes, `lora` and `zsnr` with them, by low-rank changes or of all weights. All were
# drawn from in plain diffusers, with the scheduler that comes with each, from the same noises.
#
# The claim would be wrong if the flawed models' black and white lay as far apart as those of the pictures they have
# seen; if `control` spread them as much as the fixes do; or if the fixed models' lay no farther apart than the flawed
# ones'. What counts is the distance from black to white: a shift of both is another error, and is in the table.

# %% tags=["parameters"]
results = "results/full"
out_dir = ""

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from lab import ROOT
from lab.measure import metrics, store
from lab.report import figures
from zsnr import brightness

figures.style()
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
found = store.load(ROOT / results / "text_to_image/measures")
facts = found.facts
words, models, settings = (found.values(column) for column in ("prompt", "model", "setting"))
scale, strength = facts["guidance"]
cells = {(r["model"], r["setting"], r["prompt"]): r.tensors for r in found}
levels = {cell: tensors["level"].double().numpy() for cell, tensors in cells.items()}
titles = {"plain": "w = 1, not guided", "guided": f"w = {scale:g}, phi = {strength:g}"}
colours = {name: figures.COLOURS.get(name, colour) for name, colour in
           (("flawed", figures.COLOURS["base"]), ("control", ""), ("lora", "#5a8f3c"), ("zsnr", ""))}  # fmt: skip
n = len(next(iter(levels.values())))
print(f"{n} pictures a prompt, {facts['steps']} steps; fine-tunings of {facts['recipe']['images']} pictures")

# %% [markdown]
# ## What is known before anything is drawn
#
# The floor is what the VAE alone does to levels. The law of `zsnr.brightness`, along the direction of latents in which the
# level moves them, says what the flawed schedule and its first step do to a model that knows each prompt's pictures
# exactly. A trained one has to learn as well what the words mean, and at the noisiest steps, where words matter most,
# the $\epsilon$-loss hardly asks: its weight on $x_0$ is the SNR. So a flawed model may fall short of the law, but
# should not do better; and a fixed model is convincing if it does better than the law lets any flawed model do.

# %%
vae, law = facts["vae"], facts["law"]
print(
    f"VAE: error {vae['rmse']:.3f} a pixel, {vae['level_rmse']:.3f} of the level; latents' std {vae['latent_std']:.2f}"
)
print(f"text embeddings, drawn at random: std {vae['text_std']:.2f} over the captions, of values of std 1")
print(f"Lambda, the variance of latents along the level's direction: {law['variance']:.0f} over all pictures,")
print(f"  {np.mean(law['within']):.1f} for one prompt; correlation with the level {law['correlation']:.3f}")
print(
    f"alpha_bar at the first step {law['alpha_bar']:.4f}: the leak is {law['alpha_bar'] * law['variance']:.2f} over all"
)
floor = np.array([vae["level"][word] for word in words])
predicted = np.array([law["predicted"][word] for word in words])
print(f"{'level':24s}" + "".join(f"{word:>8s}" for word in words))
print(f"{'data, through the VAE':24s}" + "".join(f"{v:>+8.3f}" for v in floor))
print(f"{'law, flawed model':24s}" + "".join(f"{v:>+8.3f}" for v in predicted))

# %% [markdown]
# ## The audit, before and after

# %%
for name in models:
    print(f"{name:8s} {facts['audit'][name]['verdict']}")

# %% [markdown]
# ## Black, medium and white, from the same noises

# %%
rows = [words[0], words[len(words) // 2], words[-1]]
columns = min(6, n)
fig, axes = plt.subplots(len(settings), len(models), figsize=(7, 2.0), squeeze=False)
for line, setting in zip(axes, settings, strict=True):
    for ax, name in zip(line, models, strict=True):
        sheet = torch.cat([cells[name, setting, word]["pictures"][:columns] for word in rows])
        figures.pictures(ax, sheet.float() / 127.5 - 1, columns, name if ax in axes[0] else "")
    line[0].text(-0.04, 0.5, titles[setting].replace(", ", ",\n"), va="center", ha="right",
                 transform=line[0].transAxes, size=7)  # fmt: skip
fig.subplots_adjust(wspace=0.04, hspace=0.06)
figures.save(fig, out, "pictures")

# %% [markdown]
# *Rows of each sheet: black, grey, white.*
#
# ## The level asked for, and the level obtained


# %%
def mean(values):
    """Mean over pictures, and its 95 % interval."""
    return float(np.mean(values)), metrics.interval(values.tolist())


def text(value, interval):
    return f"{value:+z.3f} [{interval[0]:+z.3f}, {interval[1]:+z.3f}]"


for setting in settings:
    print(f"{titles[setting]:24s}" + "".join(f"{word:>25s}" for word in words))
    for name in models:
        print(f"  {name:22s}" + "".join(f"{text(*mean(levels[name, setting, word])):>25s}" for word in words))

# %%
fig, axes = plt.subplots(1, len(settings), figsize=(7, 2.8), sharey=True)
for ax, setting in zip(axes, settings, strict=True):
    ax.plot(floor, floor, "_", color=figures.COLOURS["data"], ms=11, mew=1.2, label="data, through the VAE")
    if setting == "plain":
        ax.plot(floor, predicted, ":", color=figures.COLOURS["data"], lw=1, label="law, flawed")
    for i, name in enumerate(models):
        values = [mean(levels[name, setting, word]) for word in words]
        y = np.array([v for v, _ in values])
        error = np.abs(np.array([b for _, b in values]).T - y)
        ax.errorbar(floor + 0.03 * (i - 1.5), y, error, fmt="o-", ms=3, lw=1, capsize=1.5, color=colours[name] or
                    figures.COLOURS[name], label=name)  # fmt: skip
    ax.set(xticks=floor, xlabel="level asked for", title=titles[setting])
    ax.set_xticklabels([f"{word}\n{v:+.2f}" for word, v in zip(words, floor, strict=True)])
axes[0].set_ylabel("level obtained")
fig.legend(*axes[0].get_legend_handles_labels(), ncols=6, loc="lower center", bbox_to_anchor=(0.5, 0.98))
fig.tight_layout()
figures.save(fig, out, "levels")

# %% [markdown]
# ## From black to white, and the spread over all prompts
#
# The distance from black to white, picture by picture from the same noise and of the same garment; and the std of the
# level over the pictures of all prompts, by bootstrap. A flawed model that does not hear the words at all takes its
# brightness from the noise alone, and the law for all pictures together says how little of it there is.

# %%
truth = floor[-1] - floor[0]
distance, spread = {}, {}
print(f"{'':12s}{'white less black':>27s}{'share of the data':>20s}{'std over all prompts':>27s}")
for setting in settings:
    print(titles[setting])
    for name in models:
        distance[name, setting] = mean(levels[name, setting, words[-1]] - levels[name, setting, words[0]])
        everything = np.concatenate([levels[name, setting, word] for word in words])
        spread[name, setting] = float(everything.std()), metrics.bootstrap(torch.tensor(everything), np.std)
        print(f"  {name:10s}{text(*distance[name, setting]):>27s}{distance[name, setting][0] / truth:>20.0%}"
              f"{text(*spread[name, setting]):>27s}")  # fmt: skip
print(f"  {'data':10s}{truth:>+27.3f}{1:>20.0%}{vae['level_std']:>+27.3f}")
allowed = predicted[-1] - predicted[0]
print(f"  {'law':10s}{allowed:>+27.3f}{allowed / truth:>20.0%}")
unheard = brightness.predicted(law["alpha_bar"], law["variance"])[1] * vae["level_std"]
print(f"  {'law, words not heard':57s}{unheard:>+27.3f}")

# %% [markdown]
# ## Verdict
#
# By intervals over pictures; there is one training of each kind, so they say nothing of other seeds.


# %%
def says(what, holds):
    print(f"{what:72s} {'yes' if holds else 'no'}")
    return holds


verdicts = {}
for setting in settings:
    print(titles[setting])
    low, high = ({name: distance[name, setting][1][end] for name in models} for end in (0, 1))
    flawed = max(high["flawed"], high["control"])
    checks = [
        says("  black and white of both flawed models are closer than the data's", flawed < truth),
        says("  all weights fixed: farther apart than flawed and control", low["zsnr"] > flawed),
    ]
    if setting == "plain":
        checks.append(says("  and than the law allows any flawed model", low["zsnr"] > allowed))
        says("  the law's limit holds for flawed and control", max(low["flawed"], low["control"]) < allowed)
        says("  control reaches that limit", low["control"] <= allowed <= high["control"])
    says("  LoRA: farther apart than flawed and control", low["lora"] > flawed)
    if setting == "plain":
        says("  and than the law allows any flawed model", low["lora"] > allowed)
    says("  all weights fixed: at least 90 % of the data's distance", distance["zsnr", setting][0] > 0.9 * truth)
    verdicts[setting] = all(checks)
for setting, holds in verdicts.items():
    print(f"the claim {'holds' if holds else 'does not hold'} here, {titles[setting]}")
