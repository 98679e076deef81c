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
# It would be wrong if the plain $v$ loss weighed some step otherwise, or not at all. Other weights are in common use, and every one of them is a
# weight $w$ on the squared error of the predicted $x_0$:
#
# $$L = w(\mathrm{SNR})\,\|x_0 - D\|^2, \qquad \|x_0 - D\| = \sin\varphi\,\|v - \tilde v\| = \tan\varphi\,\|\epsilon - \tilde\epsilon\|.$$
#
# Which of them are 0 at zero SNR is a matter of algebra. Whether a network suffers from it is not, because neighbouring steps teach it
# too: that is measured below, on models fine-tuned with three of the weights.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
held_out = 256
real = 10000
out_dir = ""

# %%
import tempfile
from pathlib import Path

import diffusers
import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers.training_utils import compute_snr

from lab import ROOT
from lab.measure import evaluation, metrics
from lab.measure.store import load
from lab.measure.study import Study
from lab.models import data, training
from lab.models.variants import find
from lab.report import claims, figures
from zsnr.finetune import loop
from zsnr.prediction import X0_WEIGHTS

torch.set_num_threads(1)
figures.style()
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
found = []
schedule = find("zsnr").schedule
snr, T = schedule.snr, schedule.T
one = torch.ones(1, dtype=torch.float64)

# %% [markdown]
# ## Eleven weights, one axis
#
# Scaled to 1 at SNR = 1, since a constant factor is no more than another learning rate. Solid: above 0 at zero SNR; dashed: 0 there.
# On the right, the steps beyond SNR = 1.

# %%
weights = {name: (w(snr) / w(one)).numpy() for name, w in X0_WEIGHTS.items() if name != "F"}
zero = [name for name, w in X0_WEIGHTS.items() if w(0 * one).item() == 0]
labels = {"v": "v, F", **{name: name for name in weights if name != "v"}}
colours = dict(zip(weights, plt.get_cmap("tab10").colors, strict=True))
order = sorted(weights, key=lambda name: name in zero)

fig, (left, right) = plt.subplots(1, 2, figsize=(6.8, 2.6))
log_snr = torch.linspace(-12, 8, 200, dtype=torch.float64)
middle = int((snr > 1).sum())  # steps with SNR > 1
for name in order:
    look = {"color": colours[name], "ls": "--" if name in zero else "-", "lw": 1.1}
    if name in ("x0", "eps"):  # others lie on top of them
        look |= {"lw": 3.5, "alpha": 0.35}
    left.semilogy(log_snr, X0_WEIGHTS[name](log_snr.exp()) / X0_WEIGHTS[name](one), **look)
    right.plot(range(middle, T + 1), weights[name][middle - 1 :], label=labels[name], **look)
left.set(xlabel=r"$\log\,\mathrm{SNR}$", ylabel="$w$ / $w$ at SNR = 1", ylim=(1e-5, 1e4))
right.set(xlabel="step $t$, rescaled schedule", ylim=(-0.02, 1.08))
right.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.01, 0.5))
fig.tight_layout()
figures.save(fig, out, "weights")

# %%
sources = {
    "x0": "plain x0 loss",
    "eps": "plain eps loss, Ho et al. 2020",
    "v": "plain v loss, Lin et al. 2023",
    "F": "Karras et al. 2022, at sigma_data = 1",
    "flow": "plain velocity loss, straight path",
    "truncated": "Salimans & Ho 2022",
    "min-snr-5": "Hang et al. 2023",
    "soft-min-snr-5": "Crowson et al. 2024",
    "p2": "Choi et al. 2022, k = gamma = 1",
    "debiased": "Yu et al. 2024",
    "sigmoid": "Kingma & Gao 2023, bias 2",
}
print(f"{'w / w at SNR = 1':17s}{'source':40s}{'t = 1000':>10s}{'t = 999':>10s}{'t = 900':>9s}  trains zero SNR")
for name, w in X0_WEIGHTS.items():
    at = [(w(snr[t - 1 : t]) / w(one)).item() for t in (1000, 999, 900)]
    print(f"{name:17s}{sources[name]:40s}{at[0]:10.2f}{at[1]:10.1e}{at[2]:9.4f}  {'no' if name in zero else 'yes'}")

# %% [markdown]
# ## What trainers do there
#
# diffusers' fine-tuning examples divide $\min(\mathrm{SNR}, \gamma)$ by what the loss weighs already: by SNR for $\epsilon$, by SNR + 1 for $v$. Below,
# that formula, with the SNR from diffusers' `compute_snr` on its own scheduler with zero terminal SNR. kohya's sd-scripts rescale the schedule
# after the SNRs were tabulated (kohya-ss/sd-scripts#1263, #1905): the weight at $T$ is then that of the old schedule, small but not 0. Their debiased
# weight, $1/\sqrt{\mathrm{SNR}}$ on the $\epsilon$ error, is infinite at zero SNR (#1058).

# %%
settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
rescaled = diffusers.DDPMScheduler(**settings, rescale_betas_zero_snr=True)
stale = diffusers.DDPMScheduler(**settings)


def diffusers_weight(scheduler, prediction, timesteps, snr_gamma=5.0):
    """On the squared error of the prediction, as in examples/text_to_image/train_text_to_image.py."""
    snr = compute_snr(scheduler, timesteps)
    weight = torch.stack([snr, snr_gamma * torch.ones_like(timesteps)], dim=1).min(dim=1)[0]
    return weight / (snr if prediction == "eps" else snr + 1)


steps = torch.tensor([1000, 999, 900, 500])
lines = {
    "diffusers, v, zero SNR": diffusers_weight(rescaled, "v", steps - 1),
    "diffusers, eps, zero SNR": diffusers_weight(rescaled, "eps", steps - 1),
    "v, SNR of the old schedule (sd-scripts)": diffusers_weight(stale, "v", steps - 1),
}
print(f"{'min-SNR weight on the squared error':42s}" + "".join(f"{'t = ' + str(t):>11s}" for t in steps.tolist()))
for name, w in lines.items():
    print(f"  {name:40s}" + "".join(f"{x:11.2e}" if x else f"{'0':>11s}" for x in w.tolist()))
every = torch.arange(T)
theirs = diffusers_weight(rescaled, "v", every).double() * (snr + 1)
apart = ((theirs - X0_WEIGHTS["min-snr-5"](snr)).abs() / (snr + 1e-6)).max().item()
print(f"theirs times SNR + 1 is min-snr-5 of the table, to 1e-2 of the SNR at all steps: {apart < 1e-2}")

# %% [markdown]
# ## Measured on the objective itself
#
# A model that answers a constant $a$, whatever it sees, makes the loss of one step a parabola in $a$, whose curvature is the weight
# $\lambda_t$ on the squared $v$ error and whose slope at $a = 0$ is the gradient that a bias of the network gets. Both come from `lab.models.training.objective`,
# which trains the networks.


# %%
class Constant(torch.nn.Module):
    """Answers the number a."""

    def __init__(self, a):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(float(a)))

    def forward(self, x, t, class_labels):
        return self.a.expand_as(x)


train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")
x0, conditions = train.draw(16, loop.generator(13, 0))
x0 = x0.double()
eps = torch.randn(x0.shape, generator=loop.generator(13, 1)).double()


def objective(a, loss, t):
    """The loss at step t of a network that answers a, and the network."""
    model, recipe = Constant(a), training.ScheduleRecipe(prediction="v", loss=loss)
    at = torch.full((len(x0),), t - 1)
    return training.objective(model, x0, eps, at, conditions, schedule, recipe), model


def curvature(loss, t):
    """lambda_t, on the squared v error."""
    with torch.no_grad():
        low, middle, high = (objective(a, loss, t)[0].item() for a in (-1, 0, 1))
    return (low + high) / 2 - middle


def gradient(loss, t):
    """dL/da at a = 0."""
    value, model = objective(0, loss, t)
    value.backward()
    return model.a.grad.item()


probe = [1, 250, 500, 750, 900, 990, 999, 1000]
lambdas = [curvature("v", t) for t in probe]
print("lambda_t of the plain v loss:", ", ".join(f"{x:.3f} (t = {t})" for t, x in zip(probe, lambdas, strict=True)))
print(f"{'gradient at a = 0 over the plain v loss':40s}" + "".join(f"{'t = ' + str(t):>11s}" for t in (1000, 999, 900)))
share = {}
for loss in X0_WEIGHTS:
    share[loss] = [gradient(loss, t) / gradient("v", t) for t in (1000, 999, 900)]
    print(f"  {loss:38s}" + "".join(f"{x:11.2e}" if x else f"{'0':>11s}" for x in share[loss]))
found += [
    claims.measure(
        "Z-08",
        "curvature of the plain v loss, lambda_t, at t = 1, 250, 500, 750, 900, 990, 999, 1000",
        lambdas,
    ),
    claims.measure(
        "Z-08",
        "gradient at zero SNR of " + ", ".join(zero) + ", over plain v's",
        [share[loss][0] for loss in zero],
        equal=[0.0] * len(zero),
        note="weights other than lambda = 1 in common use leave out the step at zero SNR",
    ),
]

# %% [markdown]
# ## Fine-tuned with three of them
#
# From the same base, on the same pictures, noises and steps, as many of each: plain $v$, plain $x_0$ and min-SNR-5 losses, all predicting $v$
# on the rescaled schedule. These are short fine-tunings, so all values are those of half-trained models; the comparison is between the losses.

# %%
study = Study(ROOT / results / "zsnr")
few = max((cell for cell in study.rows if cell.images and not cell.loss), key=lambda cell: cell.images)
cells = {"v": few} | {cell.loss: cell for cell in study.rows if cell.loss}
palette = {"v": figures.COLOURS["zsnr"], "x0": figures.COLOURS["base"], "min-snr-5": figures.COLOURS["control"]}
colour = {loss: palette.get(loss, "#777777") for loss in cells}
n = len(study.samples(few, "level")[0])
seeds = len(study.values(few, "frechet"))
print(f"{few.images} pictures of fine-tuning, {seeds} seed(s); {n} pictures drawn by {few.spacing} DDIM {few.nfe}")


def spelled(values):
    """Mean over seeds, and its interval where there are several."""
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) < 2 else "{} [{:.3f}, {:.3f}]".format(mean, *metrics.interval(values))


reference, _ = train.draw(real, loop.generator(2, 0))
judge = evaluation.Judge(
    metrics.Classifier.load(ROOT / results / "classifier/classifier.safetensors"), reference
)  # the stage's own
natural = [judge(test.draw(n, loop.generator(13, 2, k))[0]) for k in range(3)]
kinds = {
    "level std / data's": ("level", "std_ratio"),
    "level W1": ("level", "w1"),
    "Frechet distance": ("frechet",),
}
print(f"{'':22s}{'real pictures':>24s}" + "".join(f"{loss:>24s}" for loss in cells))
for name, keys in kinds.items():
    truth = [m[keys[0]][keys[1]] if len(keys) > 1 else m[keys[0]] for m in natural]
    values = {loss: study.values(cell, *keys) for loss, cell in cells.items()}
    print(f"{name:22s}{spelled(truth):>24s}" + "".join(f"{spelled(v):>24s}" for v in values.values()))
    less = {loss: [a - b for a, b in zip(v, values["v"], strict=True)] for loss, v in values.items() if loss != "v"}
    print(f"{'  less plain v, paired':46s}{'':>24s}" + "".join(f"{spelled(v):>24s}" for v in less.values()))

# %%
fig, axes = plt.subplots(1, len(cells), figsize=(2.2 * len(cells), 1.7))
for ax, (loss, cell) in zip(axes, cells.items(), strict=True):
    figures.pictures(ax, study.pictures(cell)[:16], 8, f"{loss} loss")
fig.subplots_adjust(wspace=0.06)
figures.save(fig, out, "pictures")

# %% [markdown]
# ### The error of the predicted $x_0$, step by step
#
# On held-out pictures, with their class. At $T$ no prediction is better than the mean of the class, whose error on the same pictures is the floor.

# %%
y, conditions = test.draw(held_out, loop.generator(2, 7))  # as the stage drew them
means = torch.stack(
    [
        train.compose(i, torch.zeros(len(i))).mean(0)
        for i in ((train.label == k).nonzero()[:, 0] for k in range(len(train.classes)))
    ]
)
floor = (y - means[conditions[:, 0]]).square().mean().item()
steps = [step + 1 for step in load(ROOT / results / "zsnr/evaluate_ablations/0").facts["steps"]]
errors = {loss: np.array([row["errors"] for row in study.of(cell)]) for loss, cell in cells.items()}
print(f"floor at T, the variance within classes: {floor:.3f}")
print(f"{'t':>6s}{'SNR':>10s}{'plain v':>24s}" + "".join(f"{loss + ' / v':>24s}" for loss in cells if loss != "v"))
for j, t in enumerate(steps):
    ratios = [spelled(e[:, j] / errors["v"][:, j]) for loss, e in errors.items() if loss != "v"]
    print(f"{t:6d}{snr[t - 1].item():10.2g}{spelled(errors['v'][:, j]):>24s}" + "".join(f"{r:>24s}" for r in ratios))
for loss, e in errors.items():
    print(f"at T, {loss:10s}: error over the floor {spelled(e[:, -1] / floor)}")

# %% [markdown]
# What each loss sees of these errors: $w$ times the error of the plain $v$ model, as a share of the sum over the steps measured.

# %%
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(7, 2.3))
for loss, e in errors.items():
    if loss != "v":
        for seed in e / errors["v"]:
            left.plot(steps, seed, color=colour[loss], lw=0.6, alpha=0.5)
        left.plot(steps, (e / errors["v"]).mean(0), "o-", color=colour[loss], label=loss)
    seen = (X0_WEIGHTS[loss](snr[np.array(steps) - 1]).numpy() * errors["v"].mean(0)).tolist()
    middle.plot(steps, np.array(seen) / sum(seen), "o-", color=colour[loss])
left.axhline(1, color=colour["v"], label="v")
left.set(title="squared $x_0$ error / plain $v$'s", xlabel="step $t$")
left.legend(fontsize=6.5)
middle.set(title="share of the loss", xlabel="step $t$")
middle.set_ylim(bottom=0)
for k, (loss, e) in enumerate(errors.items()):
    excess = e[:, -1] / floor
    right.plot(np.full(len(excess), k), excess, "o", color=colour[loss], mfc="white")
    right.plot(k, excess.mean(), "_", color=colour[loss], ms=16, mew=2)
right.axhline(1, color=figures.COLOURS["data"], lw=0.8)
right.set_xticks(range(len(errors)), list(errors))
right.set(title="error at $T$ / floor", xlim=(-0.6, len(errors) - 0.4))
fig.tight_layout()
figures.save(fig, out, "errors")

# %%
if seeds > 1:
    for loss, e in errors.items():
        if loss != "v":
            low, high = metrics.interval(e[:, -1] / errors["v"][:, -1])
            error = "larger" if low > 1 else "smaller" if high < 1 else "not told apart over seeds"
            low, high = study.difference(cells[loss], few, "level", "w1")[1]
            distance = "larger" if low > 0 else "smaller" if high < 0 else "not told apart over seeds"
            print(f"{loss}, against plain v: error at T {error}; distance of the levels from the data's {distance}")

# %% [markdown]
# ## Verdict
#
# Whether quality is similar between losses is no part of it: three short fine-tunings of one small network cannot say.

# %%
claims.save(out / "claims.json", found, "13_loss_weights")
print(claims.summary(found))
