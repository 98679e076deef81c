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
# **Claim** (ours, on Lin et al. 2023, Secs. 3.1 to 3.3: schedules and sample steps of widely used models are flawed). One probe
# finds out, for any scheduler and without knowing its code, which noise level each of its steps really goes to. So it finds
# the flaws of the paper and errors of implementation alike.
#
# **What would refute it.** The probe calls a right scheduler wrong. Flow matching, EDM's, consistency, ancestral and multistep
# schedulers are all judged here; and every bug that it reports is reproduced below in plain diffusers.

# %% tags=["parameters"]
counts = 1000
slow_counts = 8
out_dir = ""

# %%
import json
import warnings

import torch
from diffusers import DDIMScheduler

from lab.report import figures
from lab.report.finding import say, start, table
from lab.studies import audits, diffusers_bugs
from zsnr.audit.report import ranges

warnings.simplefilter("ignore")  # of diffusers, about what is audited here
out, _ = start("15_audit", out_dir)
reports, unjudged = audits.schedulers(counts, slow_counts)
published = audits.published(counts)

# %% [markdown]
# ## The answer

# %%
bugs = {key: [f.name for f in r.findings if f.severity == "bug"] for key, r in reports.items()}
right = sorted({name for name, _ in bugs} - {name for (name, _), found in bugs.items() if found})
outside = next((f for f in reports["DDIM", "zero SNR"].findings if f.name == "step outside the table"), None)
say(
    f"Of {len({name for name, _ in bugs})} schedulers, {len(right)} take every step that was probed to its level: "
    f"{', '.join(right)}. The others have at least one bug in at least one of two configurations. "
    + (
        "With trailing steps, the paper's own remedy, DDIM takes one step too many, outside the table, at "
        f"{len(outside.counts)} of {min(counts, 1000)} counts ({ranges(outside.counts, 6)}). "
        if outside
        else ""
    )
    + f"Of {len(published)} published models, {sum(r.ok for r in published.values())} are free of flaws and bugs."
)
figures.save(audits.figure(reports, min(counts, 1000)), out, "counts")

# %% [markdown]
# *Each scheduler's worst step, by how many sampling steps are asked for. Schedulers that take them have the paper's settings (zero terminal SNR,
# $v$-prediction, trailing steps); those marked \* keep the flag and ignore it; "default" ones have their own settings.
# Above the black line: those with a wrong step. Between counts that were tried, the next one's colour is drawn.*
#
# ## The probe
#
# The probe is a model that cannot be wrong. A state is a list of coefficients, $x = a\,x_0 + b\,\epsilon + \sum_k f_k z_k$; whoever
# knows $x_0$ and $\epsilon$ answers with the exact $\epsilon$, $x_0$ or $v$ of that state. A consistent solver of any order then
# lands exactly on the coefficients of the next level, $\varphi = \mathrm{atan2}(\sqrt{b^2 + \sum_k f_k^2},\, a)$. Noise that a step draws is known,
# because `torch.randn` answers with unit vectors meanwhile. A step that lands on another level than the one that the network is told next is wrong.
#
# Each scheduler with a table of betas is judged in two configurations: Stable Diffusion 1.5's, and the paper's remedy. Every
# count up to 125 is tried and a 25th of the others; all of 1 to 1000 with the three that are used most; fewer with three that
# compute in Python loops.

# %%
others = ", ".join(unjudged)
say(f"Not judged (tokens, proteins, inverse, several stages, or a convention of its own): {others}.")
table(audits.by_bug(reports), ["bug", "schedulers", "which"])

# %%
options = [(name, option, bug.name, ranges(bug.counts)) for name, option, r in audits.with_options(counts)
           for bug in r.findings if bug.name in ("not a number", "step target")]  # fmt: skip
table(options, ["scheduler", "option of step", "bug", "at steps"])

# %% [markdown]
# ## Published models
#
# *Mean lost* and *std kept* are the law of finding 11 at the first of 50 steps: how much of a prompt's brightness is lost, and of its
# variety kept, for pictures whose channel means vary by half of the data's standard deviation.

# %%
rows = []
for name, r in published.items():
    at = [v for k, v in r.facts.items() if k.startswith(("mean lost at", "std kept at")) and "steps" in k]
    says = ", ".join(f.name for f in r.findings if f.severity != "note") or "none"
    rows.append(
        (
            name,
            r.subject.removesuffix("Scheduler"),
            f"{r.facts['terminal SNR']:.1e}",
            *(f"{v:.0%}" for v in at[:2]),
            says,
        )
    )
table(rows, ["model", "scheduler", "SNR_T", "mean lost", "std kept", "flaws and bugs"])

# %% [markdown]
# ## Trailing steps: one too many, at t = -1
#
# In plain diffusers. `np.arange(T, 0, -T / n)` in floating point gives $n + 1$ values where $T - n \cdot (T/n)$ comes out above 0.
# The last rounds to 0, less 1. Index $-1$ of the table is its noisiest entry; where that is zero SNR, $x_0 = 0 \cdot x - 1
# \cdot v$ forgets the picture. The remedy is `np.arange(n, 0, -1) * T / n`, rounded.

# %%
scheduler = DDIMScheduler(**diffusers_bugs.ZERO)
scheduler.set_timesteps(61)
last = scheduler.timesteps[-3:].tolist()
after = scheduler.step(torch.zeros(1), -1, torch.tensor([0.3])).prev_sample.item()
bad = [n for n, t in diffusers_bugs.counted(DDIMScheduler(**diffusers_bugs.ZERO)) if len(t) != n]
say(
    f"DDIM with 61 steps has {len(scheduler.timesteps)} time steps, the last three {last}. So it is for {len(bad)} of "
    f"1000 counts: {ranges(bad, 10)}. A state of 0.3 with $v = 0$ becomes {after:g} at $t = -1$."
)

# %% [markdown]
# ## DDIM steps by T // n
#
# DDIM computes its target as $t - T // n$, whatever the next time step is. It is right with leading steps only, and with
# trailing ones where $n$ divides $T$. The remedy is the next of `self.timesteps`.

# %%
columns = ["where", "seen", "should be"]
rows = diffusers_bugs.ddim_target()
table(rows, columns)

# %% [markdown]
# ## Flags that are kept and not obeyed, and tables of zero SNR
#
# `pipe.scheduler = X.from_config(pipe.scheduler.config)` is how users change schedulers. Under a model that was trained with zero terminal SNR,
# these schedulers take the wrong level for every step, without a warning. Given zero SNR by its betas, in place of
# the flag, others divide by zero.

# %%
kept = diffusers_bugs.ignored_flag()
divided = diffusers_bugs.zero_betas()
table([*kept, *divided], columns)

# %% [markdown]
# ## Noise, sigmas and multistep solvers
#
# - *DDIM with $\eta = 1$* takes the root of a number that rounding makes negative. Remedy: clamp it at 0.
# - *Churn*: EDM's Algorithm 2 raises the noise to $\hat\sigma$ and evaluates the network *there*. In `step` the network's answer is given
#   already, so the added noise is never removed.
# - *EDMEuler* takes custom sigmas for the ramp from 0 to 1, and its single step to `sigma_min` does nothing.
# - *PNDM* extrapolates the network's outputs of several levels: right for $\epsilon$, which does not change along the path, wrong for
#   $v$. *IPNDM* multiplies its first output by $\cos\varphi = 0$, so a $v$-model's answer there is lost.

# %%
rows = [
    *diffusers_bugs.stochastic(),
    *diffusers_bugs.custom_sigmas(),
    *diffusers_bugs.multistep(),
    *diffusers_bugs.ends(),
]
table(rows, columns)

# %% [markdown]
# ## Verdict
#
# The probe does not call right schedulers wrong: what it calls right is stochastic, consistent, flow matching and EDM's alike, and each bug that it
# names is seen in plain diffusers. What it cannot see: errors of order (a consistent solver is exact here), and models; those need data, as in findings 4 and 10.

# %%
found = {" / ".join(key): json.loads(r.json()) for key, r in reports.items()}
found |= {name: json.loads(r.json()) for name, r in published.items()}
sound = sum(r.ok for r in reports.values())
say(
    f"{len(reports)} schedulers and configurations judged, {sound} without flaw or bug; {len(published)} published "
    f"models, {sum(r.ok for r in published.values())} without."
)
if out_dir:
    out.mkdir(parents=True, exist_ok=True)
    (out / "findings.json").write_text(json.dumps(found, indent=1) + "\n")
