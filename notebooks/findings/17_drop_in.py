# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 17. The drop-in: a diffusers pipeline that is exact from zero SNR
#
# **New here.** One line gives a pipeline of diffusers the solvers of this package, from exactly zero terminal SNR:
#
# ```python
# pipe.scheduler = zsnr.ZeroSNRScheduler.from_config(pipe.scheduler.config, solver="heun", levels="power")
# ```
#
# The line is put to a test whose answer is known. The network of a real `StableDiffusionPipeline` is replaced by the exact
# denoiser of Gaussian latents, so that whatever error is left is the scheduler's. Then the mean and the standard deviation of
# the pictures must be the data's.
#
# **What would refute it.** A scheduler of diffusers is as near to them, in every direction, at as many calls of the network.

# %% tags=["parameters"]
results = "results/full"
calls = [9, 19, 49, 61, 99]  # of the network, in all schedulers
churned = 64  # pictures for the standard deviation under churn
out_dir = ""

# %%
import json

import torch

from lab import ROOT
from lab.measure import sweep
from lab.report import figures
from lab.report.finding import say, start, table
from lab.studies import drop_in, drop_in_figures
from lab.studies.drop_in import DIRECTIONS, STDS, ours

out, _ = start("17_drop_in", out_dir)
found = drop_in.measure(calls)

# %% [markdown]
# ## The answer

# %%
mine = "zsnr Heun, power"
places = {"all": "over all directions", "std 8": "in the widest", "std 1/4": "in the narrowest"}
for i in sorted({len(calls) // 2, len(calls) - 1}):
    parts = []
    for direction, place in places.items():
        own, (other, name) = found.worst(direction)[mine][i], found.nearest(direction, i, others=True)
        parts.append(f"{place} **{100 * own:.2g} %**, against {100 * other:.2g} % by {name}")
    say(
        f"At {calls[i]} calls of the network, the largest error of the standard deviation by the drop-in's Heun "
        f'(`levels="power"`), and by the '
        f"nearest of diffusers' schedulers: {'; '.join(parts)}."
    )
figures.save(drop_in_figures.errors(found), out, "errors")

# %% [markdown]
# *Error of the standard deviation by calls of the network, for a wide direction of the latents (left) and a narrow one (right). Above,
# solvers that ask the network once a step; below, twice. The solid line with dots is the same above and below. Euler's
# method in $\sigma$ is DDIM, so Euler's crosses lie in the squares of zsnr DDIM. Heun and KDPM2 of diffusers are not drawn where they give NaN from the first step on.*
#
# ## The line, and what the pipeline then does
#
# The table has the timesteps at which the network is asked when there are four steps. They are trained steps, counted from 0, and
# fractions lie between them. Heun asks twice at each level but the first. Churn raises the level of the next step at the end of this one,
# so that each call has a timestep of its own.

# %%
rows = []
for change in ({"solver": "ddim"}, {"solver": "heun"}, {"solver": "rk2", "alpha": 0.5},
               {"solver": "heun", "S_churn": 2.0}, {"solver": "heun", "levels": "power"}):  # fmt: skip
    scheduler = ours(**change)
    scheduler.set_timesteps(4)
    times = [f"{t:.1f}" for t in scheduler.timesteps.tolist()]
    rows.append((", ".join(f"{k}={v!r}" for k, v in change.items()), *times, *[""] * (7 - len(times))))
table(rows, ["", *(f"call {k}" for k in range(1, 8))])

# %% [markdown]
# ## Latents whose law is known
#
# The four channels have standard deviations from 1/4 to 8, as directions of real latents may (brightness is a wide one), and a mean of a
# quarter of each. The picture is then an affine function of its noise. A line through the two gives the mean and the standard deviation
# that a scheduler makes, without sampling error.
#
# The schedulers of diffusers take a zero-SNR schedule by their own flag. Two have no flag and are given the rescaled betas.
# Steps are as many as make the same number of calls; second-order schedulers take two a step, but for the last.

# %%
rows = [
    ("largest of all (%)" if direction == "all" else f"{direction} (%)", name, *(float(100 * v) for v in values))
    for direction in DIRECTIONS
    for name, values in found.worst(direction).items()
]
table(rows, {"error of the std": "", "scheduler": "", **{f"{n} calls": ".3f" for n in calls}})

# %%
off = max(mean.max() for name, mean in found.mean.items() if name.startswith("zsnr"))
say(
    f"The drop-in's mean is off by at most {off:.4f} of the standard deviation, "
    "in all its forms and at all numbers of calls."
)

# %% [markdown]
# A dash is NaN. Diffusers' Heun and KDPM2, given the rescaled betas, make NaN from the first step on; DPM++ 2M with Karras' sigmas
# ends in an IndexError where two levels round to the same step. At 61 calls, diffusers' DDIM with trailing steps asks for step $-1$.
#
# Trailing steps are coarse near the picture. What they do there to fine detail hides what the solver does: from zero SNR, Heun wants a grid
# that is fine at both ends (`levels="power"`). With $2^{-24}$ in the place of zero, Heun's first step is wrong by orders of magnitude where the data are wide.
# UniPC has a higher order, which serves it there better than Heun's does; near the picture it has the same coarse grid as the others.
#
# ## Churn, and a start in the middle
#
# The table has the standard deviation over the data's with $S_\text{churn} = 20$ and 50 steps, from many pictures, with 95 % intervals over
# pictures. Diffusers' Euler adds the noise after the network was asked.

# %%
churn = drop_in.churn(churned)
rows = [(name, *values) for name, values in churn.items()]
table(rows, ["", *(f"std {s:g}" for s in STDS.tolist())])

# %% [markdown]
# Image-to-image begins in the middle of the grid, and its state must be at the level of the call that comes next. Here the pipeline is
# compared with the package's own Heun, from the same noise.

# %%
middle = drop_in.image_to_image()
same = "yes" if middle < 1e-5 else "no"
say(f"The two pictures differ by less than 1e-5: **{same}**.")

# %% [markdown]
# ## EDM's networks in diffusers
#
# A trained EDM network (of [finding 6](06_design_space.ipynb)) becomes the UNet of a diffusers scheduler, up to its $\sigma_\text{max}$, and stands
# beside EDM's own sampler.

# %%
pair = drop_in.edm_both_ways(sweep.model(ROOT / results / "edm/networks/edm.safetensors"))
figures.save(drop_in_figures.both_ways(*pair), out, "edm_in_diffusers")
correlation = torch.corrcoef(torch.stack([x.flatten() for x in pair]))[0, 1].item()
say(
    "*The same network, from the same ten noises, one class of garment each. "
    f"The correlation of the two rows is {correlation:.2f}.*"
)

# %% [markdown]
# ## What is refused
#
# A model that predicts $\epsilon$ has no answer at zero SNR. The scheduler says so before anything is drawn, and what helps instead.

# %%
try:
    ours(prediction_type="epsilon")
except ValueError as refusal:
    say(f"> {refusal}")

# %% [markdown]
# ## Verdict
#
# Which scheduler is nearest to the data's standard deviation, by direction and calls, and the largest deviation under churn.

# %%
rows = []
for direction in DIRECTIONS:
    for i, n in enumerate(calls):
        value, name = found.nearest(direction, i)
        rows.append((direction, n, name, f"{100 * value:.3f} %"))
table(rows, ["direction", "calls", "nearest", "error of the std"])

# %%
deviation = {name: max(abs(value - 1) for value, _ in values) for name, values in churn.items()}
own, (other, _) = found.worst("all")[mine][-1], found.nearest("all", -1, others=True)
(out / "metrics.json").write_text(json.dumps({"std_error_heun": float(own), "std_error_nearest_other": float(other)}))
beaten = all(found.nearest("all", i)[1].startswith("zsnr") for i in range(len(calls)))
say(
    f"Over all directions, the drop-in is the nearest at {'every number' if beaten else 'not every number'} of calls. "
    "The largest deviation of the standard deviation under churn: "
    f"{', '.join(f'{name} {100 * value:.1f} %' for name, value in deviation.items())}."
)
