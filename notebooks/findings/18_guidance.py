# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 18. Guidance, judged by a known truth: an interval, projection, a worse model
#
# **New here.** Three methods were made to guide without the harm of classifier-free guidance (CFG; over-exposure, sameness). An *interval*
# guides at middle noise levels only (Kynkäänniemi et al. 2024). *APG* takes the part of the update along the
# prediction away, and bounds its length (Sadat et al. 2024). *Autoguidance* guides by a worse model in place of the unconditional one (Karras et al. 2024).
# All are arguments of `zsnr.guided`, safe at zero SNR. Here the interval is $0.3 < \sigma \le 3$, and APG has $\eta = 0$ and $r = 2.5$, without momentum.
#
# What each does is known here, as every denoiser is exact: shapes on textured backdrops of uniform level, asked for as "a black disc".
# **Claim**: at the same $w$, each leaves the level under "black" nearer to its truth than CFG does, in its mean and in its spread.
# It would be wrong if some method at some $w$ were as far off as CFG, in either.

# %% tags=["parameters"]
scales = [1.5, 2.0, 3.0, 5.0, 7.5]
repeats = 4  # of the noises, for intervals
each = 48  # pictures a repeat
steps = 60
out_dir = ""

# %%
import json
import math

import numpy as np
import torch

import zsnr
from lab.measure import guiding
from lab.measure.laws import autoguided, interval_share
from lab.report import figures
from lab.report.finding import start
from lab.studies import guidance, guidance_figures
from zsnr.finetune.loop import generator

out, _ = start("18_guidance", out_dir)

# %% [markdown]
# ## The answer
#
# Two models are guided: the exact one, and one with a flaw, which takes "black" for a wider range and the texture for a coarser one. The worse
# model has the same flaw, twice or more as large. A sample starts from exactly zero SNR; Heun's steps are so many that they do not matter (below).

# %%
FLAWED, WORSE = 0.5, 1.0
MODELS = {"exact": 0.0, "flawed": FLAWED}
x = guiding.noises(repeats, each, generator(18, 0))
grid = zsnr.power(steps)
found = {name: guiding.sweep(flaw, WORSE, scales, x, grid, repeats) for name, flaw in MODELS.items()}
real = guiding.measures(guiding.drawn(x), repeats)

# %%
ours = ("CFG in (0.3, 3]", "APG", "autoguidance")
for what, name in (("shift", "mean"), ("spread", "spread")):
    cells = {(m, w): guidance.gain(found["exact"], what, ("CFG", w), (m, w))[1] for m in ours for w in scales}
    nearer = [cell for cell, (low, _) in cells.items() if low > 0]
    farther = [cell for cell, (_, high) in cells.items() if high < 0]
    rest = [f"{m} at w = {w:g}" for m, w in cells if (m, w) not in nearer]
    print(f"Of the exact model, the level's {name} is nearer to the truth than CFG's in {len(nearer)} of {len(cells)} "
          f"cells, farther in {len(farther)}; not nearer: {', '.join(rest) or 'none'}.")  # fmt: skip
figures.save(guidance_figures.measures(found, real), out, "guidance")

# %% [markdown]
# *Means, and 95 % intervals over repeats; dashed, real pictures. Distance: root mean square to the nearest black disc without texture, so that real pictures have the texture's, and less is too smooth.*
#
# ## The numbers, with intervals, and what the steps cost

# %%
spread = {m.lower(): float(np.mean(points[scales[-1]]["spread"])) for m, points in found["exact"].items()}
(out / "metrics.json").write_text(json.dumps({f"level_spread_{m}": spread[m] for m in ("cfg", "apg", "autoguidance")}))
print(f"{'w = ' + format(scales[-1], 'g'):26s}" + "".join(f"{what:>26s}" for what in real))
rows = {("", "real"): real} | {(name, "no guidance"): found[name]["CFG"][1.0] for name in MODELS}
rows |= {(name, method): found[name][method][scales[-1]] for name in MODELS for method in guiding.METHODS}
for (name, method), m in rows.items():
    print(f"{name:7s}{method:19s}" + "".join(f"{guidance.text(m[what]):>26s}" for what in real))

# %%
twice = guiding.sweep(FLAWED, WORSE, scales[-1:], x, zsnr.power(2 * steps), repeats)
for method in guiding.METHODS:
    pairs = [(np.mean(twice[method][scales[-1]][k]), np.mean(found["flawed"][method][scales[-1]][k])) for k in real]
    print(f"{method:20s} at twice the steps, all four change by at most {max(abs(a - b) for a, b in pairs):.3f}")

# %% [markdown]
# The interval's two jumps cost Heun its order there, and it alone still moves.
#
# ## Why: the first step
#
# At zero SNR a prediction is the mean of what was asked for, and the update of CFG the difference of two means: nearly all of it brightness. It
# goes along the prediction, which is what APG takes away; an interval does not guide there yet; a worse model has the same mean.

# %%
state, right = torch.zeros(1, 1, guiding.SIZE, guiding.SIZE, dtype=torch.float64), math.pi / 2
mean, nothing = (-guiding.Model().denoiser(*what)(state, right) for what in ((0, *guiding.BLACK), ()))
cosine = torch.cosine_similarity((mean - nothing).flatten(), mean.flatten(), dim=0)
print(f"cosine between the update and the prediction: {cosine:.3f}")
for method in guiding.METHODS:
    x0 = -guiding.asked(0.0, WORSE, method, scales[-1])(state, right)
    print(f"{method:20s} level of the first x0, w = {scales[-1]:g}: {guiding.data.level(x0).item():7.3f}")

# %% [markdown]
# ## What a Gaussian says in closed form
#
# Classes of one variance $L$: an interval $(lo, hi]$ leaves of CFG's shift the share $\cos\arctan(lo/\sqrt L) - \cos\arctan(hi/\sqrt L)$. A copy of
# $k$ times the variance makes the std $k^{(1-w)/2}$ of itself, and leaves the mean. Guided by a worse model, a model whose std is $s$ times the truth is mended at
# $w^* = 1 + 2 \ln s / \ln k$, and narrower than the truth beyond.

# %%
for L in torch.tensor([1 / 64, 1.0, 64.0], dtype=torch.float64):
    own, wide = (zsnr.Gaussian(torch.zeros(1), k * L.view(1)) for k in (1, 2))
    std = zsnr.heun(zsnr.guided(own, wide, 3.0, 0.0), torch.ones(1, 1).double(), zsnr.power(200)).item() / L.sqrt()
    print(f"L = {L:7.4f}: of the shift, the interval leaves {interval_share(0.3, 3.0, L):.3f}; "
          f"k = 2 at w = 3: std {std:.4f}, law {autoguided(3.0, 2.0):.4f}")  # fmt: skip

# %% [markdown]
# The texture is Gaussian, and the law foretells what autoguidance makes of it in the pictures, and where it mends the flaw.

# %%
exact, own, worse = (guiding.TEXTURE + 0.15 * flaw for flaw in (0.0, FLAWED, WORSE))
best = 1 + math.log(own / exact) / math.log(worse / own)
print(f"texture of std {own:.3f} guided by {worse:.3f}: {exact:.3f}, the truth, at w = {best:.2f}")
for w in scales:
    law, seen = own * autoguided(w, (worse / own) ** 2), np.mean(found["flawed"]["autoguidance"][w]["off"])
    print(f"  w = {w:3g}: by the law {law:.4f}, in the pictures {seen:.4f}")

# %% [markdown]
# ## Pictures
#
# Levels from $-1.2$ (black here) to $-0.4$ (white here), noises the same in every row.

# %%
W, some = 3.0, slice(0, None, max(1, repeats * each // 16))
rows = {"real": guiding.drawn(x)[some]}
rows["no guidance"] = zsnr.heun(guiding.asked(FLAWED, WORSE, "CFG", 1.0), x[some], grid)
rows |= {m: zsnr.heun(guiding.asked(FLAWED, WORSE, m, W), x[some], grid) for m in guiding.METHODS}
figures.save(guidance_figures.sheets(rows, f"the flawed model at $w = {W:g}$"), out, "pictures")

# %% [markdown]
# ## What to take from it
#
# An exact model has nothing to be mended, and at large $w$ each method narrows what it draws, APG least. A flawed model gains where the worse model has more of the same flaw, up to the $w$ of the law; whoever guides
# by a condition alone can narrow its levels, and leaves its texture.

# %%
for what in ("spread", "off"):
    for method in guiding.METHODS:
        w = min(scales, key=lambda w, m=method: abs(np.mean(found["flawed"][m][w][what]) - guidance.TRUTH[what]))
        value, (low, high) = guidance.gain(found["flawed"], what, ("CFG", 1.0), (method, w))
        print(
            f"{what:7s}{method:20s} is nearest at w = {w:3g}; "
            f"nearer than without guidance by {value:6.3f} [{low:.3f}, {high:.3f}]"
        )
