# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 15. The audit: every scheduler of diffusers, and every step it takes
#
# **Claim.** One probe finds out, for any scheduler and without knowing its code, which noise level each of its steps really goes to, and so
# finds the flaws of Lin et al. 2023 (Secs. 3.1 to 3.3) and errors of implementation alike.
#
# The probe is a model that cannot be wrong. A state is a list of coefficients, $x = a\,x_0 + b\,\epsilon + \sum_k f_k z_k$; whoever knows $x_0$ and
# $\epsilon$ answers with the exact $\epsilon$, $x_0$ or $v$ of that state. A consistent solver of any order then lands on the coefficients of the next
# level exactly, $\varphi = \mathrm{atan2}(\sqrt{b^2 + \sum_k f_k^2},\, a)$; noise that a step draws is known, because `torch.randn` answers with unit vectors meanwhile. A
# step that lands elsewhere than on the level that the network is told next is wrong.
#
# It would be worthless if it called right schedulers wrong. Flow matching, EDM's, consistency, ancestral and multistep schedulers are all here;
# and every bug it reports is reproduced below in a few lines of plain diffusers.

# %% tags=["parameters"]
counts = 1000
slow_counts = 8
out_dir = ""

# %%
import inspect
import itertools
import json
import math
import tempfile
import warnings
from pathlib import Path

import diffusers
import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.patches import Patch

from lab import ROOT
from lab.report import figures
from zsnr.audit import AuditError, audit, known
from zsnr.audit.report import ranges

torch.set_num_threads(1)
figures.style()
warnings.simplefilter("ignore")
diffusers.utils.logging.set_verbosity_error()
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
SD = known()["Stable Diffusion 1.5"]["config"]
SD = {k: v for k, v in SD.items() if k != "_class_name"} | {"clip_sample": False}
ZERO = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
ZERO = SD | ZERO | {"set_alpha_to_one": True}
reports = {}
print("diffusers", diffusers.__version__, "torch", torch.__version__.split("+")[0])

# %% [markdown]
# ## All schedulers
#
# Each with two configurations, where it takes them: Stable Diffusion 1.5's, and the paper's remedy (zero terminal SNR, $v$-prediction, trailing steps).
# Counts of steps: every one up to 125 is tried with a 25th of the others; all of 1 to 1000 with the three that are used most. Three that
# compute their grids or coefficients in Python loops get fewer.

# %%
T = min(counts, 1000)
usual = [n for n in range(1, T + 1) if n <= 125 or n % 25 == 0]
slow = sorted({round(x) for x in np.geomspace(1, T, slow_counts)} | ({61} if T >= 61 else set()))
ALL = ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")
SLOW = ("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "LMSDiscreteScheduler")
unjudged = []
for name in sorted(dir(diffusers.schedulers)):
    kind = getattr(diffusers.schedulers, name)
    if not inspect.isclass(kind) or not issubclass(kind, SchedulerMixin) or kind is SchedulerMixin:
        continue
    table = "beta_start" in inspect.signature(kind.__init__).parameters
    for label, config in {"SD 1.5": SD, "zero SNR": ZERO}.items() if table else {"default": {}}.items():
        chosen = range(1, T + 1) if name in ALL else slow if name in SLOW else usual
        try:
            reports[name.removesuffix("Scheduler"), label] = audit(kind.from_config(config), counts=chosen)
        except (AuditError, TypeError):  # TypeError: it must be told what its tokens are
            unjudged.append(name.removesuffix("Scheduler"))
SHORT = {
    "step outside the table": "outside",
    "step target": "target",
    "zero SNR ignored": "ignored",
    "custom sigmas": "sigmas",
    "error": "raises",
}
print(
    f"{'scheduler':24s}{'config':10s}{'counts':>7s}{'probed':>8s}  {'SNR_T':>8s} {'T visited':>10s}  {'sigma_N':>8s}  bugs (counts)"
)
for (name, label), r in reports.items():
    bugs = [f"{SHORT.get(b.name, b.name)} ({len(b.counts) or 'all'})" for b in r.findings if b.severity == "bug"]
    visited = r.facts["T is visited"].removesuffix(" counts").replace(" of ", "/")
    tried = f"{r.facts['counts tried']:7d}{r.facts['steps probed']:8d}"
    final = r.facts.get("final sigma", math.nan)
    final = "0" if final < 1e-3 else f"{final:.3f}"
    print(
        f"{name:24s}{label:10s}{tried}  {r.facts['terminal SNR']:8.1e} {visited:>10s}  {final:>8s}  {', '.join(bugs)}"
    )
print("\nwith options of step:")
for name, config, option in (
    ("DDIMScheduler", ZERO, {"eta": 1.0}),
    ("EulerDiscreteScheduler", SD, {"s_churn": 4.0}),
    ("EDMEulerScheduler", {}, {"s_churn": 4.0}),
):
    r = audit(getattr(diffusers, name).from_config(config), counts=[n for n in (10, 25, 50, 100) if n <= T], **option)
    new = [b for b in r.findings if b.name in ("not a number", "step target")]
    print(
        f"{name.removesuffix('Scheduler'):24s}{option!s:18s}{', '.join(f'{b.name} at {ranges(b.counts)} steps' for b in new)}"
    )
print("\nnot judged (tokens, proteins, inverse, several stages, or a convention of its own):")
print(", ".join(dict.fromkeys(unjudged)))

# %%
drawn = {key: r for key, r in reports.items() if key[1] != "SD 1.5"}
columns = list(range(1, T + 1))
strip = np.full((len(drawn), T), np.nan)
for row, r in enumerate(drawn.values()):
    outside = {n for b in r.findings if b.name == "step outside the table" for n in b.counts}
    tried = sorted(r.errors)
    for n in columns:  # the nearest count that was tried
        nearest = tried[min(np.searchsorted(tried, n), len(tried) - 1)]
        error = r.errors[nearest]
        if n in outside:
            strip[row, n - 1] = 5
        elif math.isinf(error):
            strip[row, n - 1] = 0
        else:
            strip[row, n - 1] = 4 if math.isnan(error) else 1 if error < 0.5 else 2 if error < 10 else 3
shades = ["#f2f2f2", "#cfe3e6", "#e3c27f", "#b07a1e", "#8d6cab", "#d1495b"]
texts = [
    "refused",
    "on target",
    "off by 0.5 to 10 steps",
    "by more than 10",
    "not a number",
    "a step outside the table",
]
fig, ax = plt.subplots(figsize=(7, 0.155 * len(drawn) + 0.8))
ax.pcolormesh(
    np.arange(T + 1) + 0.5, np.arange(len(drawn) + 1), strip, cmap=ListedColormap(shades),
    norm=BoundaryNorm(np.arange(7) - 0.5, 6), rasterized=True,
)  # fmt: skip
ax.hlines(np.arange(1, len(drawn)), 0.5, T + 0.5, color="white", lw=1.2)
names = [name + ("" if label == "zero SNR" else " (default)") for name, label in drawn]
names = [
    n + ("*" if "zero SNR ignored" in {f.name for f in r.findings} else "")
    for n, r in zip(names, drawn.values(), strict=True)
]
ax.set(xscale="log", xlim=(0.9, T + 0.5), xlabel="sampling steps", yticks=np.arange(len(drawn)) + 0.5)
ax.set_yticklabels(names, fontsize=6.5)
ax.invert_yaxis()
ax.grid(False)
ax.tick_params(axis="y", length=0)
ax.legend(
    handles=[Patch(color=c, label=t) for c, t in zip(shades, texts, strict=True)], loc="lower center",
    bbox_to_anchor=(0.4, 1.0), ncols=6, fontsize=6.5, handlelength=1, columnspacing=1,
)  # fmt: skip
figures.save(fig, out, "counts")

# %% [markdown]
# Each scheduler's worst probed step, zero-SNR configuration where it takes one (\*: ignored in silence). Between counts that were tried, the next
# one's colour is drawn. Trailing steps break at the same counts everywhere, because all share one line of code; DDIM's family lands off
# target at every count that does not divide 1000. IPNDM and PNDM with $v$ are section 8; counts that are refused are refused with a reason.
#
# ## Published models

# %%
probed_counts = [n for n in (*range(1, 31), 50, 61, 100, 250, 333, 500, 1000) if n <= T]
print(f"{'model':32s}{'scheduler':24s}{'SNR_T':>8s}{'mean lost':>10s}{'std kept':>9s}  verdict")
published = {}
for name, entry in known().items():
    r = published[name] = audit(entry["config"], shape=entry["shape"], counts=probed_counts)
    at = [v for k, v in r.facts.items() if k.startswith(("mean lost at", "std kept at")) and "steps" in k]
    says = [SHORT.get(f.name, f.name) for f in r.findings if f.severity != "note"]
    kind = r.subject.removesuffix("Scheduler")
    print(
        f"{name:32s}{kind:24s}{r.facts['terminal SNR']:8.1e}{at[0]:10.0%}{at[1]:9.0%}  {r.verdict}: {', '.join(says)}"
    )

# %% [markdown]
# *Mean lost* and *std kept* are `zsnr.brightness`'s law at the first of 50 steps: how much of a prompt's brightness is lost, and of its variety kept,
# for pictures whose channel means vary by half of the data's std. EDM's $\sigma_{max} = 80$ is not free of it at 128x128, flow matching is.
#
# ## The bugs, in plain diffusers
#
# Nothing below imports zsnr.
#
# ### 1. Trailing spacing: a step too many, at t = -1

# %%
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler

v_zero = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}
scheduler = DDIMScheduler(**v_zero)
scheduler.set_timesteps(61)
print("DDIM, 61 steps:", len(scheduler.timesteps), "timesteps, the last", scheduler.timesteps[-3:].tolist())
bad = []
for n in range(1, 1001):
    scheduler.set_timesteps(n)
    if len(scheduler.timesteps) != n:
        bad.append(n)
print(f"so for {len(bad)} of 1000 counts:", bad[:12], "...")
scheduler.set_timesteps(61)
x = torch.tensor([0.3])
print("x = 0.3, v = 0 at t = -1 becomes", scheduler.step(torch.zeros(1), -1, x).prev_sample.tolist())
# remedy: np.arange(n, 0, -1) * T / n, rounded

# %% [markdown]
# `np.arange(T, 0, -T / n)` in floating point gives $n + 1$ values where $T - n \cdot (T/n)$ comes out above 0. The last rounds to 0, less 1. Index
# $-1$ of the table is its noisiest entry: where that is zero SNR, $x_0 = 0 \cdot x - 1 \cdot v$ forgets the picture, and the data's mean comes out.
#
# ### 2. DDIM steps by T // n

# %%
for spacing in ("trailing", "linspace"):
    scheduler = DDIMScheduler(**v_zero | {"timestep_spacing": spacing})
    wrong = 0
    for n in range(1, 1001):
        scheduler.set_timesteps(n)
        t = scheduler.timesteps.tolist()
        wrong += any(a - 1000 // n != b for a, b in itertools.pairwise(t))
    scheduler.set_timesteps(7)
    t = scheduler.timesteps.tolist()
    print(f"{spacing}: told {t}, stepped to {[max(a - 1000 // 7, -1) for a in t]}; wrong for {wrong} of 1000 counts")
x0, eps = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])  # two pictures: the first is signal, the second noise
a = scheduler.alphas_cumprod[832].sqrt()
s = (1 - scheduler.alphas_cumprod[832]).sqrt()
after = scheduler.step(a * eps - s * x0, 832, a * x0 + s * eps).prev_sample
b = scheduler.alphas_cumprod
print(
    "linspace, 7 steps, from 832: signal",
    f"{after[0]:.4f}, at t = 690 {b[690].sqrt():.4f}, at the next t = 666 {b[666].sqrt():.4f}",
)
# remedy: the next of self.timesteps, as DDPMScheduler.previous_timestep does

# %% [markdown]
# ### 3. Flags that are kept and not obeyed

# %%
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverSinglestepScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    SASolverScheduler,
)

source = DDIMScheduler(**v_zero)
for kind in (
    DEISMultistepScheduler, DPMSolverSinglestepScheduler, HeunDiscreteScheduler, KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler, LMSDiscreteScheduler, PNDMScheduler, SASolverScheduler,
):  # fmt: skip
    scheduler = kind.from_config(source.config)
    print(
        f"{kind.__name__:32s}config {scheduler.config.rescale_betas_zero_snr}, alpha_bar_T {scheduler.alphas_cumprod[-1]:.5f}"
    )

# %% [markdown]
# Under a model that was trained with zero terminal SNR, `from_config` (what `pipe.scheduler = X.from_config(pipe.scheduler.config)` does) gives these the
# wrong level for every step. A warning would do.
#
# ### 4. Zero terminal SNR by its betas: no number

# %%
betas = DDIMScheduler(**v_zero).betas.tolist()
for kind in (
    DEISMultistepScheduler, DPMSolverSinglestepScheduler, HeunDiscreteScheduler, KDPM2DiscreteScheduler,
    LMSDiscreteScheduler, SASolverScheduler, EulerDiscreteScheduler,
):  # fmt: skip
    scheduler = kind(trained_betas=betas, prediction_type="v_prediction")
    scheduler.set_timesteps(10)
    x = torch.ones(1, 1, 1, 1)
    start = x * scheduler.init_noise_sigma
    t = scheduler.timesteps[0]
    answer = scheduler.step(x, t, start).prev_sample
    print(
        f"{kind.__name__:32s}init_noise_sigma {float(scheduler.init_noise_sigma):4g}, NaN in t: {bool(scheduler.timesteps.isnan().any())!s:6s}x: {answer.flatten().tolist()}"
    )

# %% [markdown]
# EulerDiscrete (with EulerAncestral, DPMSolverMultistep and UniPC) takes the flag, under which $\bar\alpha_T$ becomes $2^{-24}$, but not the betas.
#
# ### 5. DDIM with eta = 1, from zero SNR

# %%
scheduler = DDIMScheduler(**v_zero)
broken = []
for n in (n for n in range(1, 1001) if 1000 % n == 0):
    scheduler.set_timesteps(n)
    x = torch.ones(1, 1, 1, 1)
    if not scheduler.step(x, scheduler.timesteps[0], x, eta=1.0).prev_sample.isfinite():
        broken.append(n)
print("of the divisors of 1000, NaN at", broken)
# remedy: (1 - alpha_prod_t_prev - std_dev_t**2).clamp(min=0)

# %% [markdown]
# ### 6. Churn: the network is asked before the noise is added
#
# EDM's Algorithm 2 raises the noise to $\hat\sigma$ and evaluates the network *there*. In `step` the network's answer is given already. With eps-prediction and
# a perfect model the noise that a step must leave is $\sigma_{i+1}$.

# %%
scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
scheduler.set_timesteps(10)
n = 100_000
eps = torch.randn(n, generator=torch.Generator().manual_seed(0))
t, sigma = scheduler.timesteps[0], scheduler.sigmas
scheduler.scale_model_input(eps, t)
after = scheduler.step(eps, t, sigma[0] * eps, s_churn=4.0, generator=torch.Generator().manual_seed(1)).prev_sample
print(f"EulerDiscrete: noise after the step {after.std():.2f}, should be {sigma[1]:.2f}")

# %% [markdown]
# ### 7. EDMEuler's custom sigmas

# %%
from diffusers import EDMEulerScheduler

scheduler = EDMEulerScheduler()
try:
    scheduler.set_timesteps(sigmas=[80.0, 10.0, 1.0, 0.1])
except AttributeError as error:
    print("a list, as documented:", error)
scheduler.set_timesteps(sigmas=torch.tensor([80.0, 10.0, 1.0, 0.1]))
print("a tensor: ", [f"{v:.3g}" for v in scheduler.sigmas.tolist()])
print(
    f"init_noise_sigma: {scheduler.init_noise_sigma:.4f} = sqrt(sigma_max^2 + 1), whatever sigma_data = {scheduler.config.sigma_data}"
)
scheduler = EDMEulerScheduler(final_sigmas_type="sigma_min")
scheduler.set_timesteps(1)
print("one step to sigma_min:", scheduler.sigmas.tolist())

# %% [markdown]
# The sigmas are taken for the *ramp* from 0 to 1. With `final_sigmas_type="sigma_min"` the last sigma is repeated, so one step does nothing.
#
# ### 8. PNDM with v-prediction, IPNDM, steps_offset = 1 with 1000 steps

# %%
from diffusers import IPNDMScheduler, UnCLIPScheduler

scheduler = PNDMScheduler(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    skip_prk_steps=True,
    prediction_type="v_prediction",
)
scheduler.set_timesteps(10)
x0, eps = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
a, s = scheduler.alphas_cumprod.sqrt(), (1 - scheduler.alphas_cumprod).sqrt()
x = a[900] * x0 + s[900] * eps
for t in scheduler.timesteps[:4].tolist():
    norm = x.norm()
    x = scheduler.step((x[0] * eps - x[1] * x0) / norm, t, x).prev_sample
print(
    f"PNDM, v of a perfect model, 4 calls: signal {x[0]:.4f}, should be {a[600]:.4f}; norm {x.norm():.4f}, should be 1"
)

scheduler = IPNDMScheduler()
scheduler.set_timesteps(10)
x = scheduler.step(-x0, scheduler.timesteps[0], eps).prev_sample  # at t = 1 the state is eps, and v = -x0
phi = scheduler.timesteps[1] * math.pi / 2
print(f"IPNDM, first step: signal {x[0]:.4f}, should be {math.cos(phi):.4f}")

scheduler = DDPMScheduler(steps_offset=1)
scheduler.set_timesteps(1000)
try:
    scheduler.step(torch.zeros(1, 1, 1, 1), scheduler.timesteps[0], torch.zeros(1, 1, 1, 1))
except IndexError as error:
    print("leading, steps_offset=1, 1000 steps:", error)
try:
    UnCLIPScheduler().set_timesteps(1)
except ZeroDivisionError as error:
    print("UnCLIP, 1 step:", error)

# %% [markdown]
# PNDM extrapolates the network's outputs of several levels, and converts the sum to eps at one of them: right for eps, which does not change
# along the path, wrong for $v$, which does. IPNDM multiplies the output by $\cos\varphi = 0$ at its first step, so a $v$-model's answer there is lost.

# %%
found = {" / ".join(key): json.loads(r.json()) for key, r in reports.items()}
found |= {name: json.loads(r.json()) for name, r in published.items()}
for name, target in (("all 1000 counts", ("DDIM", "zero SNR")),):
    for one in reports[target].findings:
        print(f"{name}, {target[0]}: {one.name} at {ranges(one.counts, 10)} ({len(one.counts)} counts)")
sound = sum(r.ok for r in reports.values())
print(
    f"schedulers and configurations judged: {len(reports)}, sound {sound}; published: {len(published)}, sound {sum(r.ok for r in published.values())}"
)
if out_dir:
    out.mkdir(parents=True, exist_ok=True)
    (out / "findings.json").write_text(json.dumps(found, indent=1) + "\n")

# %% [markdown]
# **Verdict.** The audit finds by itself what reading finds (trailing at 61 steps and 61 more, DDIM's target, ignored flags, no numbers at zero SNR,
# churn, EDMEuler's sigmas), and four things that were not looked for: IPNDM's first step, PNDM with $v$, the last step of a one-step
# EDMEuler, and `steps_offset = 1` with all steps. Everything that is stochastic, consistent, flow matching or EDM's is on target with the
# same probe. What it cannot see: errors of order (all consistent solvers are exact here), and models; those need data, as in notebooks 4 and 10.
