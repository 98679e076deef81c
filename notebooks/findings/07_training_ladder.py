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
# lowers it at either end. Or the configuration with EDM's loss is no better than the ones before it by more than the seeds differ. Or more
# than a tenth of the generated pictures look augmented.

# %% tags=["parameters"]
results = "results/full"
images = 10_000
out_dir = ""

# %%
import numpy as np
from IPython.display import display

from lab.measure.metrics import interval
from lab.models import digits
from lab.report.figures import save
from lab.report.finding import measured, say, start, table
from lab.studies import ladder_loss, preconditioning, training_ladder
from lab.studies import training_ladder_figures as draw
from zsnr.finetune.loop import generator

out, claim = start("07_training_ladder", out_dir)
rungs = training_ladder.read(results)
sigma_data, sigmas, E = rungs.facts["sigma_data"], rungs.sigmas, rungs.after("E")
train, test = digits.load()

# %% [markdown]
# ## The answer

# %%
pairs = (("C", "E"), ("D", "E"), ("E", "F"), (training_ladder.VE, "D"))
gains = {pair: rungs.gain(*pair) for pair in pairs}
step = {pair: measured(*rungs.gain(*pair), "+.3f") for pair in (("C", "D"), ("D", "E"), ("E", "F"))}
paper = [training_ladder.PAPER[a] - training_ladder.PAPER[b] for a, b in step]
low, high, share = ladder_loss.dropped(sigmas, E.mean(0))
say(
    f"After {rungs.epochs():.0f} epochs, over {len(rungs.seeds)} seeds, EDM's preconditioning (C to D) gains "
    f"**{step['C', 'D']}** of our Fréchet distance, EDM's loss (D to E) **{step['D', 'E']}** and augmentation (E to F) "
    f"**{step['E', 'F']}**; below zero is a loss. The paper's FID gains {paper[0]:+.2f}, {paper[1]:+.2f} and {paper[2]:+.2f}. "
    f"After training, E's loss is more than a tenth below 1 from $\\sigma$ = {low:.2g} to {high:.2g}, where {share:.1%} of the "
    "noise levels of training lie."
)
save(draw.measures(rungs), out, "ladder")

# %% [markdown]
# *The six configurations of Table 2: the paper's FID; our Fréchet distance, and EDM's loss on held-out pictures, averaged over its
# $p_\text{train}$; and the distance of D, E and F after a ninth, a third and all of the training. Small dots are training seeds; beside them
# stand the mean and its 95 % interval. VE is C of the VE column. The dotted line is a draw of as many real pictures.*
#
# | | A | B | C | D | E | F |
# |---|---|---|---|---|---|---|
# | what is new | VP as it was | hyperparameters | capacity | EDM's preconditioning | EDM's loss | augmentation |
#
# The paper trains on CIFAR-10 (conditional, VP) for thousands of epochs. Here the pictures are scikit-learn's digits, 8x8, few enough for hundreds of
# epochs; no network is told a class. All have the same seeds, the same number of training pictures and the same deterministic
# sampler. Our Fréchet distance is that of the 64 pixels to all real digits, trained on and held out, so only the order compares with the
# paper's FID. It sees means and covariances alone; the energy distance beside it sees the whole law.
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
# $\sigma_\text{data}^2 = E y^2$ is exact: the mean picture is subtracted, and the rest scaled. The output of the untrained networks is 0, so
# the loss needs no network. Its band is three standard errors of the mean over pictures.

# %%
exact = [gap == 0 for gap in preconditioning.start_gaps().values()]
claim("E-44", "expected losses at the start that are the closed forms of E and D, of 2", sum(exact), equal=2)
largest = max(ladder_loss.largest_output(name, train, sigmas) for name in "DE")
claim("E-44", f"largest |F| of the networks at the start, {len(sigmas)} levels", largest, equal=0)
curve, means = ladder_loss.at_start(train, images, sigmas)
error = (curve.std(1) / np.sqrt(curve.shape[1])).max().item()
band = {"equal": 1.0, "abs": 3 * error, "interval": ladder_loss.intervals(curve)}
worst = ladder_loss.farthest(curve)
ratio = np.array(means["D"]) * (sigmas**2 + sigma_data**2) / sigma_data**2
claim("E-44", "E's loss at the start, the level farthest from 1", worst[0], interval=worst[1])
claim("E-44", f"E, {len(sigmas)} levels", curve.mean(1), **band)
claim("E-44", "E, by the objective of training", np.array(means["E"]), **band)
claim("E-44", f"D over its closed form, {len(sigmas)} levels", ratio, **band)

# %% [markdown]
# And the networks that were trained, as they were measured before training, on the held-out pictures and in standard errors:

# %%
kept = rungs.facts["held_out"]
first = rungs.rows["E"][0]["curve at the start"]
z = np.abs((np.array(first["mean"]) - 1) / (np.array(first["std"]) / np.sqrt(kept))).max()
what = f"E as trained, at the start, less 1, in standard errors, {len(sigmas)} levels"
claim("E-44", what, z, at_most=3.0)
say(
    f"Of {len(sigmas)} noise levels, E's loss at the start is farthest from 1 with {measured(*worst)}; on the {kept} held-out "
    f"pictures it is between {min(first['mean']):.3f} and {max(first['mean']):.3f}, at most {z:.1f} standard errors from 1."
)

# %% [markdown]
# ## Figure 5a: the loss after training

# %%
known = ladder_loss.describe(train, test)
save(draw.losses(rungs, known), out, "figure5a")
law = ladder_loss.linear_loss(ladder_loss.power_law(sigma_data), sigmas, sigma_data)
best = ladder_loss.linear_loss(known.spectrum, sigmas, sigma_data)
note = (
    f"a perfect linear denoiser of these pictures has {best[0]:.2f} at the lower end; "
    f"the average training picture has loss {known.limit:.2f} on held-out ones, and E {E[:, -1].mean():.2f} at the upper"
)
say(f"On our digits, {note} end.")

# %% [markdown]
# *Loss on held-out pictures, always with EDM's weight. Left: E at the start and after training, the best linear
# denoisers, and below them the noise levels of training. Right: the other configurations relative to E; the bars of D and F are 95 % intervals over seeds.*
#
# The best linear denoiser is a closed form, for data of variances $\lambda_k$ about a known mean:
#
# $$L(\sigma) = \frac1K\sum_k \frac{\lambda_k \sigma^2}{\lambda_k + \sigma^2} \cdot \frac{\sigma^2 + \sigma_\text{data}^2}{(\sigma\,\sigma_\text{data})^2}$$
#
# It goes to 1 at both ends where all $\lambda_k$ are above 0: at the lower end noise cannot be told from the picture, and at the upper one the
# best answer is the average picture, 0. Our digits are made so: the mean picture is subtracted, the networks are told no class, and uniform noise undoes the
# rounding to grey levels, without which the pixels that are always black would show the noise at any $\sigma$. Beside them is the spectrum of photographs, $1/f^2$.
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
# Of the VE column there is C, which D replaces: from D on both columns are the same.
# Shorter trainings are how the longer ones begin, as the learning rate stays where it is after its rise.

# %%
names = ("A", "B", "C", training_ladder.VE, "D", "E", "F")
rows = []
for name in names:
    values = [rungs.values(name, "frechet"), 1000 * rungs.values(name, "energy"), rungs.averaged(name)]
    rows.append((name, training_ladder.PAPER.get(name), *map(training_ladder.of_seeds, values)))
rows.append(("real pictures", None, rungs.real["frechet"], 1000 * rungs.real["energy"], None))
save(draw.sheets(rungs, train, test), out, "pictures")
table(rows, {"": "", "paper's FID": ".2f", "Fréchet distance": ".3f", "energy distance / ‰": ".2f", "loss": ".4f"})

# %% [markdown]
# *Pictures of the first seed; a place in a sheet is one noise. The table has means over seeds with their 95 % intervals.*

# %%
say(training_ladder.why_uneven(rungs, digits.both(train, test).all(generator(ladder_loss.SEED, 8))[0]))
rows = []
for part in training_ladder.LENGTHS:
    short = [rungs.values(training_ladder.shorter(name, part), "frechet") for name in "DEF"]
    rows.append((f"{rungs.epochs(part):.0f}", *map(training_ladder.of_seeds, short)))
table(rows, {"epochs": "", "D": ".3f", "E": ".3f", "F": ".3f"})

# %% [markdown]
# ## Does the augmentation leak?
#
# The network is told how its training picture was transformed. Sampling tells it nine zeros, and the pictures should come out untouched. A classifier that was trained to tell
# augmented pictures from untouched ones says how many look augmented; the share is corrected by its errors on real pictures. A bad picture may look augmented, too:
# what F has beyond E, which never saw an augmented one, is an estimate. It misses transforms too mild for the classifier, and is too small where E's pictures are the worse.

# %%
rates = rungs.facts["suspected"]
say(
    f"The classifier takes {rates['augmented']:.0%} of real pictures with every transform for augmented, {rates['as trained']:.0%} of "
    f"those augmented as F's training pictures are, and {rates['untouched']:.0%} of untouched ones."
)
save(draw.table6(train), out, "table6")

# %% [markdown]
# *Above: the transforms of Table 6, each alone, at one standard deviation (the rotation is by 60 degrees). Below: training pictures as F and* F, always *see them.*

# %%
always, leak = training_ladder.ALWAYS, rungs.leak()
rows = [(name, rungs.corrected_mean(name)) for name in ("A", "B", "C", "D", "E", "F", always)]
rows += [(f"{name} less E, by seed", rungs.leak(name)) for name in ("F", always)]
claim("E-49", "leak: F less E, corrected share", leak[0], interval=leak[1], at_most=0.1)
table(rows, ["", "taken for augmented, corrected"])

# %% [markdown]
# *Intervals of a configuration are of the pictures counted, those of the differences are over seeds.*
#
# ## Verdict
#
# Gains are paired by seed. *About unchanged* is a tenth, the largest change from C to D among the paper's VP columns. *Direction*: only the sign can be checked.

# %%
note = training_ladder.note(rungs, gains)
for (before, after), gain in gains.items():
    about = {"note": note} if (before, after) == ("D", "E") else {}
    claim.positive("E-49", f"Frechet distance of {before} less {after}'s", gain, **about)
energy = rungs.values("D", "energy") - rungs.values("E", "energy")
claim.positive("E-49", "energy distance of D less E's", (energy.mean(), interval(energy)))
change = rungs.values("D", "frechet") / rungs.values("C", "frechet") - 1
claim("E-49", "D over C, less 1", change.mean(), interval=interval(change), equal=0.0, abs=0.1)
claim.verdict()
