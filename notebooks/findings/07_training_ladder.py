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
# weight of the loss: the network's input and its target have unit variance, and its errors are amplified as little as possible. A
# network whose output layer starts from 0 then has a loss of 1 at every noise level. Training lowers the loss at intermediate levels only, and
# that is where EDM puts the noise of training. From one configuration to the next, preconditioning leaves FID about where it was, the loss gives the
# large gain, and non-leaky augmentation gives a consistent one.
#
# **What would refute it.** Other coefficients meet the requirements. Or the loss at the start depends on $\sigma$, or training
# lowers it at either end. Or the configuration with EDM's loss is no better than the ones before it by more than the seeds differ. Or the
# generated pictures are augmented ones.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
images = 10_000
out_dir = ""

# %%
import math

import numpy as np
from IPython.display import display

from lab import ROOT
from lab.measure.metrics import interval
from lab.models import data
from lab.report.figures import save
from lab.report.finding import measured, say, start, table
from lab.studies import ladder_loss, preconditioning, training_ladder
from lab.studies import training_ladder_figures as draw

out, claim = start("07_training_ladder", out_dir)
rungs = training_ladder.read(results)
sigma_data, sigmas, E = rungs.facts["sigma_data"], rungs.sigmas, rungs.after("E")
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")

# %% [markdown]
# ## The answer

# %%
pairs = (("C", "E"), ("D", "E"), ("E", "F"))
gains = {pair: rungs.gain(*pair) for pair in pairs}
step = {pair: measured(*rungs.gain(*pair), "+.1f") for pair in (("C", "D"), ("D", "E"), ("E", "F"))}
paper = [training_ladder.PAPER[a] - training_ladder.PAPER[b] for a, b in step]
low, high, share = ladder_loss.dropped(sigmas, E.mean(0))
say(
    f"Over {len(rungs.seeds)} seeds, EDM's preconditioning (C to D) gains **{step['C', 'D']}** of our Fréchet distance, "
    f"EDM's loss (D to E) **{step['D', 'E']}** and augmentation (E to F) **{step['E', 'F']}**; below zero is a loss. "
    f"The paper's FID gains {paper[0]:+.2f}, {paper[1]:+.2f} and {paper[2]:+.2f}. After training, E's loss is more than a tenth below 1 "
    f"from $\\sigma$ = {low:.2g} to {high:.2g}, where {share:.1%} of the noise levels of training lie."
)
save(draw.measures(rungs), out, "ladder")

# %% [markdown]
# *The six configurations of Table 2: the paper's FID, and three measures of ours: the Fréchet distance, the standard deviation of the
# backdrop's level over the data's, and EDM's loss, averaged over its $p_\text{train}$. Small dots are training seeds; beside them stand the
# mean and its 95 % interval.*
#
# | | A | B | C | D | E | F |
# |---|---|---|---|---|---|---|
# | what is new | VP as it was | hyperparameters | capacity | EDM's preconditioning | EDM's loss | augmentation |
#
# The paper trains on CIFAR-10 (conditional, VP). Here all have the same seeds, the same number of training pictures and the same deterministic
# sampler, and all are trained by Muon, where the paper takes Adam. Our distance is in the features of a classifier of these pictures, so only the order compares with the paper's FID.
#
# ## What the three requirements determine
#
# A denoiser $D = c_\text{skip}\, x + c_\text{out} F(c_\text{in}\, x)$ with $x = y + n$ asks of its network $F$ the target
# $(y - c_\text{skip}(y+n))/c_\text{out}$. The data have variance $\sigma_\text{data}^2$. We solve for the coefficients: $c_\text{in}$ from unit variance
# of the input, $c_\text{skip}$ and $c_\text{out}$ from unit variance of the target with the least $c_\text{out}$, and the weight from
# $\lambda\, c_\text{out}^2 = 1$.

# %%
derived = preconditioning.derive()
gaps = {name: (value - preconditioning.TABLE_1[name]).simplify() for name, value in derived.items()}
display(table([(name, str(derived[name]), str(gap)) for name, gap in gaps.items()], ["", "derived", "less Table 1's"]))
what = "derived c_in, c_skip, c_out, lambda that are Table 1's, of 4"
claim("E-43", what, sum(gap == 0 for gap in gaps.values()), equal=4)
what = "second derivative of c_out^2 over sigma^2 + sigma_data^2"
claim("E-43", what, preconditioning.curvature(), at_least=1e-9)
off = preconditioning.largest_deviation(derived)
claim("E-43", "code less derived, unit variances, lambda c_out^2: largest deviation, 400 levels", off)
save(draw.coefficients(), out, "coefficients")
say(
    f"The code's coefficients differ from the derived ones, and the variances and the weight from 1, by at most {off:.1e}."
)

# %% [markdown]
# *Table 1 as computed here, for $\sigma_\text{data} = 0.5$; where columns agree, a thin line lies on a wide one. Where $\sigma$ is
# large, an error of the networks of VP, VE and iDDPM is multiplied by $\sigma$, that of EDM's network by $\sigma_\text{data}$ only. VE's input is as
# large as the noise. Configuration D mixes EDM's coefficients with the weight $1/\sigma^2$, and so gives large noise
# levels almost no weight.*
#
# ## The loss at the start
#
# With $F = 0$ the expected loss is $\lambda[(1-c_\text{skip})^2\, E y^2 + c_\text{skip}^2 \sigma^2]$. With EDM's weight (E) that is 1 at every
# $\sigma$. With EDM's coefficients and $\lambda = 1/\sigma^2$ (D) it is $\sigma_\text{data}^2/(\sigma^2 + \sigma_\text{data}^2)$. Here
# $\sigma_\text{data}^2 = E y^2$ includes the mean. The output of the untrained networks is 0, so the loss on held-out pictures needs no
# network. Its band has two parts: $\sigma_\text{data}$ is rounded to two digits, which alone may move the loss by
# $2 \cdot 0.005/\sigma_\text{data}$; and three standard errors of the mean over pictures.

# %%
exact = [gap == 0 for gap in preconditioning.start_gaps().values()]
claim("E-44", "expected losses at the start that are the closed forms of E and D, of 2", sum(exact), equal=2)
largest = max(ladder_loss.largest_output(name, test, sigmas, sigma_data) for name in "DE")
claim("E-44", f"largest |F| of the networks at the start, {len(sigmas)} levels", largest, equal=0)
curve, means = ladder_loss.at_start(test, images // 5, sigmas, sigma_data)
error = (curve.std(1) / math.sqrt(curve.shape[1])).max().item()
band = {"equal": 1.0, "abs": 2 * 0.005 / sigma_data + 3 * error, "interval": ladder_loss.intervals(curve)}
worst = ladder_loss.farthest(curve)
ratio = np.array(means["D"]) * (sigmas**2 + sigma_data**2) / sigma_data**2
claim("E-44", "E's loss at the start, the level farthest from 1", worst[0], interval=worst[1])
claim("E-44", f"E, {len(sigmas)} levels", curve.mean(1), **band)
claim("E-44", "E, by the objective of training", np.array(means["E"]), **band)
claim("E-44", f"D over its closed form, {len(sigmas)} levels", ratio, **band)

# %% [markdown]
# And the networks that were trained, as they were measured before training, on fewer pictures and in standard errors:

# %%
kept = min(rungs.samples, 256)  # held-out pictures of the stage's curves
first = rungs.rows["E"][0]["curve at the start"]
z = np.abs((np.array(first["mean"]) - 1) / (np.array(first["std"]) / math.sqrt(kept))).max()
what = f"E as trained, at the start, less 1, in standard errors, {len(sigmas)} levels"
claim("E-44", what, z, at_most=3.0)
say(
    f"Of {len(sigmas)} noise levels, E's loss at the start is farthest from 1 with {measured(*worst)}; on the {kept} pictures "
    f"of the trained networks it is between {min(first['mean']):.3f} and {max(first['mean']):.3f}, at most {z:.1f} standard errors from 1."
)

# %% [markdown]
# ## Figure 5a: the loss after training

# %%
known = ladder_loss.describe(train, test, images, kept, sigma_data)
save(draw.losses(rungs, known), out, "figure5a")
law = ladder_loss.linear_loss(ladder_loss.power_law(sigma_data), sigmas, sigma_data)
best = ladder_loss.linear_loss(known.spectrum, sigmas, sigma_data)
directions = f"{known.constant} of {len(known.spectrum)} directions of these pictures have no variance"
note = (
    f"{directions}, so that a perfect linear denoiser reaches {best[0]:.2f} at the lower end; "
    f"the average picture of a class has loss {known.limit:.2f}, and E {E[:, -1].mean():.2f} at the upper"
)
say(f"{note} end.")

# %% [markdown]
# *Loss on held-out pictures, always with EDM's weight. Left: E at the start and after training, the best linear
# denoisers, and below them the noise levels of training. Right: the other configurations relative to E; the bars of D and F are 95 % intervals over seeds.*
#
# The best linear denoiser is a closed form, for data of variances $\lambda_k$ about a known mean:
#
# $$L(\sigma) = \frac1K\sum_k \frac{\lambda_k \sigma^2}{\lambda_k + \sigma^2} \cdot \frac{\sigma^2 + \sigma_\text{data}^2}{(\sigma\,\sigma_\text{data})^2}$$
#
# With the spectrum of photographs, $1/f^2$, it goes to 1 at both ends. With the spectrum of our pictures it does not. At the lower end,
# many $\lambda_k$ are 0, because the frame of each picture has one level, and noise in those directions can be seen at any $\sigma$. At the upper end, the best answer
# is the average picture of the class, which the network is told.
#
# The paper prints no numbers here. We take *dropped* as more than a tenth below 1, and *where $p_\text{train}$ puts its samples* as at least half of them.

# %%
one, fall = {"equal": 1.0, "abs": ladder_loss.FALL}, 1 - ladder_loss.FALL
dip = 1 + int(E.mean(0)[1:-1].argmin())  # between the ends
claim("E-45", "closed form, 1/f^2 spectrum, both ends", [law[0], law[-1]], **one)
claim("E-45", "closed form, 1/f^2 spectrum, least", law.min(), at_most=fall)
claim("E-45", "E's loss at sigma = 0.002", E[:, 0].mean(), interval=interval(E[:, 0]), note=note, **one)
claim("E-45", "E's loss at sigma = 80", E[:, -1].mean(), interval=interval(E[:, -1]))
upper = E[:, -1] / known.limit
claim("E-45", "E's loss at sigma = 80 over the average picture's", upper.mean(), interval=interval(upper), **one)
what = f"E's loss at sigma = {sigmas[dip]:.3g}, its least between the ends"
claim("E-45", what, E[:, dip].mean(), at_most=fall, interval=interval(E[:, dip]))
claim("E-45", "share of p_train where E's loss dropped", share, at_least=0.5)

# %% [markdown]
# ## Table 2 at our scale
#
# A Fréchet distance hardly sees brightness. So two measures of the backdrop's level stand beside it: its standard deviation over the data's, and
# the Wasserstein-1 distance ($W_1$) of the levels. From B to C more than the capacity changes: the first resolution of A and B has 16 channels,
# each its own group of the GroupNorm, which removes what the embedding of the noise level adds to a channel. Only their coarser resolutions know the noise level.

# %%
keys = (("frechet",), ("level", "std_ratio"), ("level", "w1"))
rows = []
for name in rungs.rows:
    values = [training_ladder.of_seeds(rungs.values(name, *key)) for key in keys]
    loss = training_ladder.of_seeds(rungs.averaged(name)) if name in training_ladder.PAPER else None
    rows.append((name, training_ladder.PAPER.get(name), *values, loss))
truth = rungs.real
rows.append(("real pictures", None, truth["frechet"], truth["level"]["std_ratio"], truth["level"]["w1"], None))
columns = {"paper's FID": ".2f", "Fréchet distance": ".1f", "level std / data's": ".2f", "W1": ".3f", "loss": ".3f"}
save(draw.sheets(rungs, test), out, "pictures")
table(rows, {"": "", **columns})

# %% [markdown]
# *Pictures of the first seed; a place in a sheet is one noise and one class. The table has means over seeds with their 95 % intervals.*
#
# ## Does the augmentation leak?

# %%
save(draw.table6(train), out, "table6")

# %% [markdown]
# *Above: the transforms of Table 6, each alone, at one standard deviation (the rotation is by 60 degrees). Below: training pictures as F and* F, always *see them.*
#
# The network is told how its training picture was transformed. Sampling tells it nine zeros, and the pictures should come out untouched. A classifier that was trained to tell
# augmented pictures from untouched ones says how many look augmented; the share is corrected by its errors on real pictures. A bad picture may look augmented, too, and
# F's may be worse than E's, which never saw an augmented one: what F has beyond E is the most that can be leak.

# %%
always = training_ladder.ALWAYS
leak = training_ladder.of_seeds(rungs.corrected("F") - rungs.corrected("E"))
rows = [(name, len(rungs.rows[name]), rungs.corrected_mean(name)) for name in ("A", "B", "C", "D", "E", "F", always)]
rows += [("F less E, by seed", len(rungs.seeds), leak), (f"{always} less E, by seed", 1, rungs.leak_always)]
table(rows, ["", "seeds", "taken for augmented, corrected"])

# %% [markdown]
# *Intervals of a configuration are of the pictures counted, that of the first difference is over seeds.*
#
# ## Verdict
#
# Gains are paired by seed. *About unchanged* is a tenth: the largest change from C to D among the VP columns of the paper's Table 2. *Direction* means that
# only the sign can be checked at this scale. A check *beside* decides nothing.

# %%
note = training_ladder.note(rungs, gains)
(ce, ce_pair), (de, de_pair), (ef, ef_pair) = gains.values()
claim("E-49", "Frechet distance of C less E's", ce, interval=ce_pair, at_least=0.0)
claim("E-49", "Frechet distance of D less E's", de, interval=de_pair, note=note)
claim("E-49", "Frechet distance of E less F's", ef, interval=ef_pair, at_least=0.0)
change = rungs.values("D", "frechet") / rungs.values("C", "frechet") - 1
claim("E-49", "D over C, less 1", change.mean(), interval=interval(change), equal=0.0, abs=0.1)
claim.verdict()
