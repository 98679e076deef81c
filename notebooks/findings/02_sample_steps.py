# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Sample steps: start at T, and spend the steps where they count
#
# **Claim** (Lin et al. 2023, Sec. 3.3, Table 2, Figure 4). Sampling must start at the last training step $T$. *Leading* time steps never
# visit it. *Trailing* time steps do, and they use a small number of steps better than *linspace*, which wastes one on $t = 1$, where hardly any
# noise is left.
#
# **What would refute it.** The claim is wrong if leading steps give the true mean on a zero-SNR schedule, or if linspace is as good as trailing
# at five steps.

# %% tags=["parameters"]
results = "results/full"
out_dir = ""

# %%
import diffusers
import numpy as np

import zsnr
from lab import ROOT
from lab.measure.evaluation import Cell
from lab.measure.metrics import interval
from lab.measure.study import Study
from lab.report import figures
from lab.report.finding import measured, say, start, table
from lab.studies import sample_steps

out, claim = start("02_sample_steps", out_dir)
study, fixed = Study(ROOT / results / "zsnr"), zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion())

# %% [markdown]
# ## The answer

# %%
trained = sorted({cell.nfe for cell in study.cells(model="zsnr", spacing="linspace", sampler="ddim")})
few, many = trained[0], 25 if 25 in trained else trained[-1]
white = sample_steps.white_picture(fixed)
kept = {s: study.text(Cell("zsnr", s, nfe=few), "level", "std_ratio") for s in sample_steps.PAPER}
say(
    f"On a zero-SNR schedule and exact Gaussian data, a white picture of mean 0.9 comes out at **{white['leading'][0]:.3f}** in 50 leading steps, "
    f"and at **{white['trailing'][0]:.3f}** in 50 trailing ones. The trained model in {few} steps keeps {kept['leading']} of the spread of the "
    f"data's brightness with leading, {kept['linspace']} with linspace and {kept['trailing']} with trailing steps."
)
figures.save(sample_steps.figure4(study, list(dict.fromkeys([few, many]))), out, "figure4")

# %% [markdown]
# *The zero-SNR model, as in Figure 4 of the paper: 16 noises, one a column, ordered by brightness. With few steps all make dark
# backdrops too light and light ones too dark, trailing ones least. With more steps the difference becomes small.*
#
# ## Table 2
#
# The paper's example has ten steps of a thousand. The check that decides goes over every number of steps $S$ from 1 to 1000, and counts the
# steps that differ from the formulas of Table 2, in integers and with ties to even, as numpy rounds. The same question is asked of diffusers: does its
# list have $S$ different steps within the schedule, and does its DDIM step to the next level in the list?

# %%
for spacing, paper in sample_steps.PAPER.items():
    claim("Z-10", f"{spacing}, S = 10", zsnr.timesteps(spacing, 10), equal=paper)
wrong = {spacing: (sample_steps.wrong_steps(spacing), *sample_steps.diffusers_wrong(spacing)) for spacing in kept}
claim(
    "Z-10",
    "steps that differ from Table 2's formulas, S = 1 ... 1000, three spacings",
    sum(w[0] for w in wrong.values()),
    note=f"diffusers {diffusers.__version__}: trailing wrong for {wrong['trailing'][1]} of 1000, "
    f"DDIM's target for {wrong['trailing'][2]}",
)
titles = ["time steps", "zsnr: wrong steps", "diffusers: wrong lists", "diffusers' DDIM: wrong targets"]
table([(spacing, *w) for spacing, w in wrong.items()], titles, caption="Of 1000 numbers of steps, S = 1 ... 1000")

# %% [markdown]
# ## Where sampling must start: a white picture
#
# The prompt asks for white: the data have mean 0.9 and a spread of 0.2, over 4096 pixels that change together. For Gaussian data
# a deterministic sampler is affine in its noise, so the mean and the standard deviation of its pictures are computed and not sampled. The sampler is DDIM
# with 50 steps. Beside it stand the limit of many steps and the closed form of `zsnr.brightness`.

# %%
schedules = {"Stable Diffusion": zsnr.schedule.stable_diffusion(), "linear": zsnr.schedule.linear()}
found = {name: sample_steps.white_picture(s) for name, s in schedules.items()} | {"SD, zero SNR": white}
for name, values in found.items():
    (limit, limit_std), (law, law_std) = values["many steps"], values["closed form"]
    if name != "Stable Diffusion":
        claim("Z-06", f"{name}: many steps against the closed form, mean", limit, equal=law, abs=1e-5)
    claim("Z-06", f"{name}: std ratio, many steps", limit_std, equal=law_std, rel=1e-4)
rows = [(name, *(mean for mean, _ in v.values()), *(std for _, std in v.values())) for name, v in found.items()]
table(rows, ["schedule", *(f"{what}, {how}" for what in ("mean", "std") for how in white)])

# %% [markdown]
# Only the zero-SNR schedule with trailing steps gives 0.9. The columns *std* are over the true standard deviation.

# %%
means = {(name, spacing): values[spacing][0] for name, values in found.items() for spacing in ("leading", "trailing")}
best = means.pop(("SD, zero SNR", "trailing"))
limit = found["Stable Diffusion"]["many steps"][0]
claim("Z-06", "Gaussian data, Stable Diffusion, many steps: mean, truth 0.9", limit)
claim("Z-06", "mean, zero SNR and trailing, 50 steps, truth 0.9", best, equal=0.9, abs=1e-6)
claim("Z-06", "largest mean of the other five", max(means.values()), at_most=0.9 - 1e-3)
claim("Z-13", "zero-SNR schedule started at t < T (leading): mean, truth 0.9", means["SD, zero SNR", "leading"])
claim("Z-13", "started at T (trailing)", best, equal=0.9, abs=1e-6)

# %% [markdown]
# ## Few steps: the useless one, and what it costs
#
# The step to $t = 1$ changes almost nothing, because only $\sqrt{1 - \bar\alpha_1}$ of noise is left there. The table shows what is left of the
# spread of the backdrop's level, on exact Gaussian data and the rescaled schedule, by DDIM.

# %%
sd, counts = schedules["Stable Diffusion"], [5, 10, 25, 50]
leftover = (1 - sd.alpha_bar[0]).sqrt().item()
ratio = {(spacing, S): sample_steps.spread_kept(fixed, spacing, S) for spacing in kept for S in counts}
claim("Z-11", "beta_1", sd.betas[0].item(), equal=0.00085, abs=1e-12)
claim("Z-11", "sqrt(1 - alpha_bar_1)", leftover, equal=0.0292, abs=5e-5)
gain = [ratio["trailing", S] - ratio["linspace", S] for S in counts]
claim("Z-11", "std ratio, trailing less linspace, S = 5, 10, 25, 50", gain)
table(
    [(spacing, *(ratio[spacing, S] for S in counts)) for spacing in kept], ["time steps", *(f"S = {S}" for S in counts)]
)

# %% [markdown]
# ## Orders of the solvers, from exactly zero SNR
#
# The data are Gaussian with variances from 1/64 to 64 along different directions. Sampling starts at $\varphi = \pi/2$, and the result is compared
# with the exact solution.

# %%
steps = [20, 40, 50, 100, 125, 200, 250, 500]
orders = sample_steps.orders(("ddim", "euler", "heun"), steps)
for sampler, order in (("euler", 2), ("heun", 3)):
    claim("E-11", f"{sampler}: local order", sample_steps.local_order(sampler), equal=order, abs=0.1)
for sampler, order in (("euler", 1), ("heun", 2)):
    for grid in ("uniform angle", "power 1.5"):
        what = f"{sampler}: slope on the {grid} grid, from zero SNR"
        claim("E-11", what, orders[sampler, grid][1], equal=order, abs=0.1)
figures.save(sample_steps.orders_figure(orders, steps), out, "orders")

# %% [markdown]
# *Error against the number of steps; the slope is the order. On grids that are smooth in their index the orders are 1 and 2. The trailing steps of
# Stable Diffusion's schedule are not smooth where they end ($\varphi \sim \sqrt t$). There Heun loses its order, and it should be given another grid.*
#
# ## DDPM, DDIM and the last step at zero SNR
#
# The posterior's mean written with $\epsilon$ (Eq. 18) divides by $\alpha_T = 0$; written with $x_0$ (Eq. 20) it does not. With $\eta = 1$ DDIM
# draws the same pictures as DDPM (Eqs. 21, 22). One step from any level to 0 is the denoiser itself (EDM, Sec. 3).

# %%
by_eps, by_x0, variance = sample_steps.posterior(fixed)
apart = (by_eps - by_x0)[:, :-1].abs().max().item()
before = fixed.alpha_bar[-2]
at_T = (by_x0[0, -1] / before.sqrt()).item(), variance[-1].item() / (1 - before).item()
claim("Z-14", "Eq. 18 less Eq. 20 for t < T; at T, coefficient of x0 and variance over their limits", [apart, *at_T])
claim("Z-15", "DDIM, eta = 1, against DDPM, 1000 steps from zero SNR", sample_steps.ddpm_less_ddim(fixed))
claim("E-12", "one step to 0 against D, four samplers, four levels", sample_steps.single_step_error(), at_most=1e-12)
forms = {"Eq. 18, with ε": by_eps, "Eq. 20, with x0": by_x0}
rows = [(name, *coefficients[:, -1].tolist()) for name, coefficients in forms.items()]
table(rows, {"the mean at T": "", "coefficient of x0": ".2e", "coefficient of ε": ".2e"})

# %% [markdown]
# ## Figure 4's question, on the trained model
#
# The zero-SNR model is sampled by DDIM from the same noises, with the three selections of steps. $W_1$ is the distance of the level's
# distribution from the data's. Intervals are over fine-tuning seeds.

# %%
pairs = {S: [Cell("zsnr", spacing, nfe=S) for spacing in ("linspace", "trailing")] for S in (few, many)}
frechet = {S: np.subtract(*(study.values(cell, "frechet") for cell in pair)) for S, pair in pairs.items()}
apart = frechet[few] - 2 * np.abs(frechet[many])
what = "Frechet distance of linspace less trailing's: S = 5, less twice its size at S = 25"
claim("Z-12", what, apart.mean(), interval=interval(apart))
for S, values in frechet.items():
    what = f"Frechet distance of linspace less trailing's, S = {S}"
    claim("Z-12", what, values.mean(), interval=interval(values), at_least=0.0)

# %%
gaps = {S: measured(values.mean(), interval(values)) for S, values in frechet.items()}
widest = max(kept, key=lambda spacing: study.mean(Cell("zsnr", spacing, nfe=few), "level", "std_ratio"))
nearest = min(kept, key=lambda spacing: study.mean(Cell("zsnr", spacing, nfe=few), "frechet"))
say(
    f"In {few} steps linspace's Fréchet distance is above trailing's by {gaps[few]}, in {many} by {gaps[many]}. Z-12 is decided by the first "
    f"less twice the size of the second, which should be above 0: it is {measured(apart.mean(), interval(apart))}. The distance hardly sees "
    f"brightness: in {few} steps {nearest} ones have the smallest, and {widest} ones keep the most of the spread of the level."
)
figures.save(sample_steps.spacing_figure(study, trained), out, "spacing")
sample_steps.trained_table(study, trained)

# %% [markdown]
# *Left: spread of the level. Right: Fréchet distance. The paper's Figure 4 shows pictures and gives no number.*
#
# ## Verdict
#
# *Direction* means that only the sign can be checked, and that it is as claimed. *Inconclusive* means that the interval lies on both sides of the
# band's edge. A check *beside* decides nothing.

# %%
for S, (linspace, trailing) in pairs.items():
    value, bounds = study.difference(linspace, trailing, "level", "w1")
    claim("Z-12", f"W1 of the level, linspace less trailing's, S = {S}", value, interval=bounds, at_least=0.0)
claim.verdict()
