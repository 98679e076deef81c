# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 13. Loss weights: who still trains the step that zero SNR is about?
#
# **Claim** (Lin et al. 2023, Sec. 3.2, Eqs. 11, 12). Training on $v$ with the weight $\lambda_t = 1$ gives every step its share, zero SNR
# included. At that step the only thing to learn is the mean of the data, and all brightness grows from it.
#
# **What would refute it.** The claim is wrong if the plain $v$ loss weighs some step with another weight, or not at all. Other weights are in
# common use, and each of them is a weight $w$ on the squared error of the predicted $x_0$, which is called $D$ here:
#
# $$L = w(\mathrm{SNR})\,\|x_0 - D\|^2, \qquad \|x_0 - D\| = \sin\varphi\,\|v - \tilde v\| = \tan\varphi\,\|\epsilon - \tilde\epsilon\|.$$
#
# Algebra says which of them are 0 at zero SNR. It does not say whether a network suffers from it, because neighbouring steps teach it
# too. That is measured below, on models that were fine-tuned with three of the weights.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
held_out = 256
real = 10000
out_dir = ""

# %%
import json

from lab import ROOT
from lab.measure.study import Study
from lab.models import data
from lab.models.variants import find
from lab.report import figures
from lab.report.finding import measured, say, start, table
from lab.studies import loss_weights

out, claim = start("13_loss_weights", out_dir)
study, schedule = Study(ROOT / results / "zsnr"), find("zsnr").schedule
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")

# %% [markdown]
# ## The answer

# %%
objective = loss_weights.Objective.of(schedule, train)
steps = [1, 250, 500, 750, 900, 990, 999, 1000]
lambdas = [objective.curvature("v", t) for t in steps]
zero, n = loss_weights.ZERO, len(loss_weights.SOURCES)
cells = loss_weights.tuned(study)
errors = loss_weights.held_out_errors(study, cells)
untrained = loss_weights.over_seeds(errors["min-snr-5"][:, -1] / errors["v"][:, -1])
say(
    f"Measured on the objective, the weight of the plain $v$ loss is 1 to within {max(abs(x - 1) for x in lambdas):.0e}"
    f" at every step, zero SNR included. **{len(zero)} of {n}** weights in common use are 0 at zero SNR: "
    f"{', '.join(zero)}. A model fine-tuned with min-snr-5 has **{measured(*untrained)}** times the error of plain $v$ "
    "there."
)
figures.save(loss_weights.weights_figure(), out, "weights")
loss_weights.weights_table(schedule)

# %% [markdown]
# *Each weight on the squared $x_0$ error, scaled to 1 at SNR = 1, since a constant factor is no more than another learning rate. In the figure, left: the weights that
# train zero SNR. x0 and truncated are the same below SNR = 1. Right: the weights that do not. Most of them fall as the SNR does and lie on each
# other there.*
#
# ## What trainers do there
#
# The fine-tuning examples of diffusers divide $\min(\mathrm{SNR}, \gamma)$ by what the loss weighs already: by SNR for $\epsilon$, by SNR + 1 for
# $v$. The table evaluates that formula, with the SNR from diffusers' `compute_snr` on its own scheduler with zero terminal SNR. The sd-scripts of
# kohya rescale the schedule after the SNRs were tabulated (kohya-ss/sd-scripts#1263, #1905): the weight at $T$ is then that of the old schedule, which
# is small but not 0. Their debiased weight, $1/\sqrt{\mathrm{SNR}}$ on the $\epsilon$ error, is infinite at zero SNR (#1058). A dash in
# the table is 0/0.

# %%
trainers, theirs = loss_weights.trainers()
ours = loss_weights.X0_WEIGHTS["min-snr-5"](schedule.snr)
apart = ((theirs - ours).abs() / (schedule.snr + 1e-6)).max().item()
say(
    "diffusers' weight for $v$, times SNR + 1, is min-snr-5 to 1e-2 of the SNR at all steps: "
    f"{'yes' if apart < 1e-2 else 'no'}."
)
trainers

# %% [markdown]
# ## Measured on the objective itself
#
# If a model answers a constant $a$, whatever it sees, the loss of one step is a parabola in $a$. Its curvature is the weight
# $\lambda_t$ on the squared $v$ error. Its slope at $a = 0$ is the gradient that a bias of the network gets. Both come from
# `lab.models.training.objective`, which trains the networks.

# %%
last = (1000, 999, 900)
share = {
    loss: [objective.gradient(loss, t) / objective.gradient("v", t) for t in last] for loss in loss_weights.X0_WEIGHTS
}
claim("Z-08", "curvature of the plain v loss, lambda_t, at t = 1, 250, 500, 750, 900, 990, 999, 1000", lambdas)
claim(
    "Z-08",
    "gradient at zero SNR of " + ", ".join(zero) + ", over plain v's",
    [share[loss][0] for loss in zero],
    equal=[0.0] * len(zero),
    note="weights other than lambda = 1 in common use leave out the step at zero SNR",
)
titles = ["gradient at a = 0 over the plain v loss", *(f"t = {t}" for t in last)]
table([(loss, *values) for loss, values in share.items()], dict.fromkeys(titles, ".2e"))

# %% [markdown]
# ## Fine-tuned with three of them
#
# The models start from the same base and see the same pictures, noises and steps, noisy ones more often. They are trained with the plain $v$, the plain $x_0$ and the min-SNR-5
# loss. All predict $v$ on the rescaled schedule. These fine-tunings are short, so all values are those of half-trained models: compare
# the losses with each other only. The real pictures are three draws from the test set.

# %%
few = cells["v"]
drawn, seeds = len(study.samples(few, "level")[0]), len(study.values(few, "frechet"))
natural = loss_weights.real_pictures(ROOT / results, train, test, real, drawn)
say(
    f"{few.images} pictures of fine-tuning, {seeds} seed(s); {drawn} pictures drawn by {few.spacing} DDIM "
    f"in {few.nfe} steps."
)
figures.save(loss_weights.pictures_figure(study, cells), out, "pictures")
loss_weights.quality_table(study, cells, natural)

# %% [markdown]
# *Pictures from the same 16 noises, one a column; a row is one loss.*
#
# ### The error of the predicted $x_0$, step by step
#
# It is measured on held-out pictures, and the network is told their class. At $T$ no prediction is better than the mean of the class. The error of that
# mean on the same pictures is the least possible error.

# %%
least = loss_weights.floor(train, test, held_out)
levels = loss_weights.measured_steps(ROOT / results / "zsnr")
at_T = [f"{loss} {measured(*loss_weights.over_seeds(e[:, -1] / least))}" for loss, e in errors.items()]
figures.save(loss_weights.errors_figure(errors, levels, schedule.snr, least), out, "errors")
say(f"The least possible error at $T$ is {least:.3f}. The errors at $T$ over it are: {', '.join(at_T)}.")
loss_weights.errors_table(errors, levels, schedule.snr)

# %% [markdown]
# *Left: error of the $x_0$ that is predicted at each step, over that of the plain $v$ model; thin lines are single seeds. Middle: what each loss sees of the plain
# $v$ model's errors, $w$ times the error, as a share of its sum over the steps, were all drawn alike. Right: error at $T$ over the least possible one; circles are seeds, bars their mean.*
#
# ## Verdict
#
# It does not say whether quality is similar between the losses: three short fine-tunings of one small network cannot show that. *Direction* means that
# only the sign can be checked. A check *beside* decides nothing.

# %%
number = {"error_at_T_min_snr_5_over_v": untrained[0]}
(out / "metrics.json").write_text(json.dumps(number))
claim.verdict()
