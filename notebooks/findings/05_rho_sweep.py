# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. Where the steps go: $\rho$, truncation error, and why 2, 3 and 7
#
# **Claim** (Karras et al. 2022, Eq. 5, App. D.1, Figure 13). The noise levels are $\sigma_i = (\sigma_\max^{1/\rho} + \frac{i}{N-1}(\sigma_\min^{1/\rho} -
# \sigma_\max^{1/\rho}))^\rho$. The error of a single step is about the same at all levels at $\rho = 2$ for Euler's method (about 0.03, $N = 64$), and at
# $\rho = 3$ for Heun's (0.0030 to 0.0045). Images are best at larger $\rho$, from 5 to 10, because errors near $\sigma_\min$ matter most. For inversion $\rho = 3$ is best.
#
# **What would refute it.** The claim is wrong if these numbers do not come out of an exact denoiser, if another $\rho$ gives errors that are more level,
# or if the finished pictures are best where the errors of single steps are level. For inversion it is wrong if another $\rho$ has the smallest error.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
intervals = 64
samples = 200
substeps = 200
drawn = 20
converged = 96
out_dir = ""

# %%
import numpy as np

from lab.report import figures
from lab.report.finding import measured, say, start, table
from lab.studies import rho_levels, rho_pictures, rho_sweep, rho_trained
from lab.studies import rho_sweep_figures as draw
from lab.studies.progress import bar
from lab.studies.rho_sweep import RHOS, SIGMAS, over_samples
from zsnr.path import EDM, VE

out, claim = start("05_rho_sweep", out_dir)
protocol = rho_sweep.Protocol(source, samples, intervals, substeps)
smooth = rho_pictures.Smooth(protocol)

# %% [markdown]
# ## The answer

# %%
ve = {rho: protocol.sweep(rho, SIGMAS, VE) for rho in bar(RHOS, "single steps")}
flat = [rho_sweep.most_level(ve, k) for k in (0, 1)]
on_gaussian = {rho: smooth.on_gaussian(rho, 18) for rho in range(1, 31)}
on_mixture = {rho: smooth.on_mixture(rho, 18) for rho in bar(rho_pictures.MANY, "pictures")}
best = [rho_pictures.best_rho(e) for e in (on_gaussian, on_mixture)]
trips = smooth.round_trips(intervals)
best_trip = {name: rho_pictures.best_rho(e, rho_pictures.median) for name, e in trips.items()}
inverse = best_trip[f"mixture, t, N = {intervals}"]
say(
    f"Of $\\rho$ = {', '.join(map(str, RHOS))}, the errors of single steps are most level at **{flat[0]}** for Euler's method and at **{flat[1]}** "
    f"for Heun's. Finished pictures have the smallest error at $\\rho$ = **{best[0][0]}** on Gaussian data and at {measured(*best[1], 'g')} on a mixture "
    f"of Gaussians. Inversion of the mixture (from a picture to its latent and back) has the smallest error at $\\rho$ = {measured(*inverse, 'g')}"
    f"{' (the largest tried)' * (inverse[0] == max(rho_pictures.INVERSION))}."
)
figures.save(draw.figure13ab(ve, intervals), out, "figure13ab")

# %% [markdown]
# *Error of one step that ends at $\sigma_i$, along the path $\sigma(t) = \sqrt t$, for levels from 80 to 0.02. Dots: the exact denoiser of a few pictures, mean over
# samples. Lines: the closed form for a denoiser that does not move. Red: the paper. Heun's errors at $\rho = 1$ rise out of the figure on the left.*
#
# ## Uniform at one end, geometric at the other
#
# $\rho = 1$ gives equal steps of $\sigma$. As $\rho \to \infty$ the levels become geometric, as in VE. To first order in $1/\rho$, $\ln\sigma_i$ lies above this limit by at most
# $\ln(\sigma_\max / \sigma_\min)^2 / 8\rho$. Steps should also become shorter towards the image, in $\sigma$ and in VE's time $t = \sigma^2$.

# %%
above = {rho: rho_levels.above_geometric(rho) for rho in (10, 100, 1000, 10000)}
limit = {rho: a / rho_levels.expansion(rho) for rho, a in above.items()}
what = "rho = 1: largest difference between steps of sigma; rho = 10000: ln sigma less the geometric levels'"
note = "levels are kept as angles: the rounding of one is 2e-16 (1 + sigma^2) in sigma, 1.4e-12 at 80, and a difference of steps holds four"
claim("E-13", what, [rho_levels.unevenness(), above[10000]], note=note)
claim("E-13", "rho = 10000: the same over its expansion L^2 / 8 rho", limit[10000], equal=1.0, rel=1e-2)
claim("E-23", "steps longer than the one before, rho 1 to 30", rho_levels.longer_steps())
table(((rho, above[rho], limit[rho]) for rho in above), ["rho", "ln sigma above the limit", "over its first order"])

# %% [markdown]
# ## Why 2 and 3: the algebra
#
# Freeze the denoiser at $D = y$. Along $\sigma(t) = t$ the solution is then a straight line, and any step is exact. Along VE's own
# $\sigma(t) = \sqrt t$, $dx/dt = (x - y) / 2t$, and a step from $\sigma_a$ to $\sigma_b = \sigma_a / r$ has the error
#
# $$\tau_\mathrm{Euler} = \frac{(\sigma_a - \sigma_b)^2}{2\sigma_a}, \qquad \tau_\mathrm{Heun} = \frac{\sigma_b (r - 1)^3 (r + 3)}{8r} \qquad \text{in units of } |x - y| / \sigma.$$
#
# Steps of Eq. 5 have the length $h = \rho A \sigma^{1 - 1/\rho}$ with $A = (\sigma_\max^{1/\rho} - \sigma_\min^{1/\rho}) / N$. For small steps this gives
#
# $$\tau_\mathrm{Euler} \simeq \frac{h^2}{2\sigma} = \tfrac12 \rho^2 A^2 \sigma^{1 - 2/\rho}, \qquad \tau_\mathrm{Heun} \simeq \frac{h^3}{2\sigma^2} = \tfrac12 \rho^3 A^3 \sigma^{1 - 3/\rho},$$
#
# which is level at exactly $\rho = 2$ and $\rho = 3$. Level errors are also the errors with the smallest sum, because minimising $\int \tau / h \, d\sigma$
# for a given number of steps $\int d\sigma / h$ gives $\tau$ = const.
#
# ## The paper's protocol, on an exact denoiser
#
# For levels $\sigma_i$ and each $\rho$ we draw $x \sim p(x; \sigma_{i-1})$ and make one step to $\sigma_i$ by each method. The truth is reached by 200 Euler sub-steps, uniform in the path's time. RMSE is $|\tau| / \sqrt{\dim}$ in
# the paper's scale of $x$, over 200 samples. The data are 200 pictures, garments on backdrops, and the denoiser is their exact one. The paper's uniform step of 1.25 is $(80 - 0.02) / 64$, so its $N = 64$ means 64 intervals here.

# %%
euler, heun = (protocol.sweep(k + 2, rho_levels.levels(k + 2, intervals)[1:], VE)[k] for k in bar((0, 1), "all levels"))
uniform = ve[1][0][SIGMAS <= 0.5]
note = "that the path was sigma(t) = sqrt t is inferred: with sigma(t) = t none of the numbers comes out"
claim("E-14", "uniform step over 64 intervals from 80 to 0.02", (rho_levels.TOP - rho_levels.BOTTOM) / 64, note=note)
note = f"from {uniform.mean(1).max():.2f} at 0.02 to {uniform.mean(1).min():.2f} at {SIGMAS[SIGMAS <= 0.5][-1]:.2f}"
claim("E-15", "Euler, rho = 1: mean RMSE over levels up to 0.5", **over_samples(uniform), note=note)
claim("E-15", "its RMSE at 0.02 over that at 70", (ve[1][0][0].mean() / ve[1][0][-1].mean()).item(), at_least=10.0)
m = euler.mean(1)
note = f"{m.min():.3f} at 0.02 to {m.max():.3f} at 80; over levels spaced evenly in ln sigma {ve[2][0].mean():.4f}"
claim("E-17", "Euler, rho = 2: mean RMSE over all intervals", **over_samples(euler), note=note)
claim("E-17", "Euler: the most level of rho = 1, 2, 3, 5, 7", flat[0], equal=2)
rho_sweep.paper_table(uniform, euler, heun, intervals)

# %%
# of the closed forms, over 4096 steps
slope = {rho: [rho_levels.slope(rho, order) for order in (1, 2)] for rho in RHOS}
what = "slope of ln RMSE in ln sigma at rho = {}, frozen, small steps"
claim("E-17", f"Euler: {what.format(2)}", slope[2][0], equal=0.0, abs=0.02)
least, most = heun[heun.mean(1).argmin()], heun[heun.mean(1).argmax()]
note = f"with 63 intervals the frozen law ends at {rho_levels.errors(3, 63, 2).max():.5f}"
claim("E-18", "Heun, rho = 3: largest RMSE of all intervals", **over_samples(most), note=note)
claim("E-18", "Heun, rho = 3: smallest RMSE of all intervals", **over_samples(least), at_least=0.00295, at_most=0.00455)
claim("E-18", "Heun: the most level of rho = 1, 2, 3, 5, 7", flat[1], equal=3)
claim("E-18", f"Heun: {what.format(3)}", slope[3][1], equal=0.0, abs=0.02)
excess = rho_levels.errors(3, intervals, 2).mean().item() / rho_levels.equal_error(2, intervals)
claim("E-18", "its mean error over that of equal errors, the smallest there can be (frozen)", excess, at_most=1.1)
rho_sweep.slope_table(slope, ve)

# %% [markdown]
# ## Where the curves cross
#
# With a frozen denoiser the error grows with the step. So the curves of two $\rho$ cross where both have the same step, and that is at the same $\sigma$ for
# Euler and Heun. The paper sees a crossing at about 10. The measured crossings are interpolated between the dots.

# %%
cross, (rises, falls) = rho_sweep.crossings(ve), rho_sweep.against_trend(ve)
note = f"there is no single crossing: neighbours cross from {cross.max():.0f} (rho = 1 and 2) down to {cross.min():.1f} (5 and 7)"
what = "median of the levels at which neighbouring curves cross, both methods"
claim("E-16", what, float(np.median(cross)), note=note)
claim("E-16", "errors that rise with rho at sigma <= 1", rises, equal=0)
claim("E-16", "errors that fall with rho at sigma = 70", falls, equal=0)
rho_sweep.crossing_table(ve, intervals)

# %% [markdown]
# ## Over samples, and along $\sigma(t) = t$
#
# Along $\sqrt t$ the error is a length of noise in 1024 dimensions, which varies by $1/\sqrt{2 \cdot 1024} = 2.2\,\%$. That it is almost constant says nothing about the pictures. Along $\sigma(t) = t$ a frozen denoiser
# costs nothing, and only the motion of $D$ is left. There the same protocol gives smaller errors that do differ between samples. It is also run on a Gaussian with the covariance of 2000 pictures, whose RMSE is exact.

# %%
straight = {rho: protocol.sweep(rho, SIGMAS, EDM) for rho in bar((1, 3, 7), "along t")}
on_t = {rho: smooth.single(rho, SIGMAS, EDM) for rho in bar(RHOS, "Gaussian")}
figures.save(draw.straight_figure(straight, on_t), out, "figure13ab_straight")
headline = [rho_sweep.variation(ve[2][0])[1], rho_sweep.variation(ve[3][1])[1]]
along_t = [rho_sweep.variation(e)[0] for both in straight.values() for e in both]
what = "largest std over samples, as a share of the mean: Euler at rho = 2, Heun at rho = 3"
note = f"it is the spread of the noise's length, 0.022 in 1024 dimensions; along sigma(t) = t it is {min(along_t):.1f} to {max(along_t):.1f} where the error is largest: there samples do differ"
claim("E-19", what, headline, note=note)
uneven = rho_sweep.least_uneven(straight, on_t)
say(
    "*The error of one step that ends at $\\sigma_i$, along $\\sigma(t) = t$: dots and lines for the pictures (mean over samples), dashes for the Gaussian. Values "
    f"below $10^{{-7}}$ are not shown. In every curve the largest error is at least {uneven:.1f} times the smallest.*"
)

# %% [markdown]
# ## Well below 0.01
#
# In pictures from -1 to 1, 0.01 is 1.3 of 256 grey levels. The table is for Heun along $\sqrt t$ at $\rho = 3$ on the Gaussian: the largest error of a single
# step (frozen law), and the exact error of the finished picture.

# %%
counts = [24, 32, 48, 64, 96, 128, 192, 256]
single = [rho_levels.errors(3, n, 2).max().item() for n in counts]
whole = [smooth.on_gaussian(3, n + 1, VE, rho_levels.BOTTOM) for n in counts]
at, need = rho_pictures.at(0.01, single, whole), rho_pictures.at(0.01, whole, single)
claim("E-20", "largest error of a step, Heun, rho = 3", heun.mean(1).max().item())
note = f"'well below': single errors must stay below {need:.4f} for 0.01 in the finished picture"
what = "error of the picture, where the largest error of a step is 0.01 (Gaussian)"
claim("E-20", what, at, at_least=0.01, note=note)
table(zip(counts, single, whole, strict=True), {"intervals": "", "largest step": ".2g", "picture": ".2g"})

# %% [markdown]
# ## The finished picture: why above 3
#
# An error made at a high level hardly arrives. On the way down the ODE contracts it by $\sqrt{\lambda / (\lambda + \sigma^2)}$ in a direction of variance $\lambda$. So steps at low $\sigma$ should be shorter
# than those that make the errors level. We measure the error of Heun's pictures with the paper's $N = 18$ from 80 to 0.002 along $\sigma(t) = t$. On the Gaussian it is exact; on the mixture, one Gaussian a
# class, the truth is RK45 with tolerances of $10^{-8}$. The round trip goes from $\sigma_\min = 0.02$ up to 80 and down again by Heun's steps. The grey dotted line is the sum of the frozen law's errors.

# %%
sums = {rho: rho_levels.errors(rho, intervals, 2).sum().item() for rho in range(1, 31)}
trip = {name: rho_pictures.over_samples(e, rho_pictures.median) for name, e in trips.items()}
finished = {"Gaussian": {rho: on_gaussian[rho] for rho in on_mixture}, "mixture": rho_pictures.over_samples(on_mixture)}
figures.save(draw.global_figure(finished, trip, sums), out, "global")
share = smooth.arrives(0.002) / smooth.arrives(10)
middle = max(e for rho, e in on_gaussian.items() if 5 <= rho <= 10)
claim("E-21", "mixture, N = 18: best rho", best[1][0], interval=best[1][1])
claim("E-21", "Gaussian, N = 18: best rho", best[0][0], at_least=5, at_most=10)
claim("E-21", "Gaussian: error at rho = 2 over the largest at rho = 5 ... 10", on_gaussian[2] / middle, at_least=1.0)
claim("E-21", "share of a white error at sigma_min = 0.002 that arrives, over that at 10", share, at_least=1.0)

# %% [markdown]
# *Error of the finished picture (left) and of the round trip, by $\rho$. Each curve is divided by its own smallest value, so that 1 is the best
# $\rho$. Values above 6 are not shown. $N$ is the number of levels.*
#
# ## Inversion: from the picture to its latent and back
#
# The paper advises $\rho = 3$ because it minimises the final error $\|e_N\|$. But $\rho = 3$ minimises the sum of single errors along $\sqrt t$, which is only a bound on
# $\|e_N\|$. The table has the error of the round trip (median over 16 samples of the mixture) and $\|e_N\|$, the error of the way down alone.

# %%
down = smooth.descents(intervals)
best_down, best_sum = [min(e, key=e.get) for e in down.values()], min(sums, key=sums.get)
claim("E-22", "rho with the smallest sum of single errors, Heun, sqrt t, frozen", best_sum, equal=3)
picked, ends = map(list, zip(*best_trip.values(), strict=True))
claim("E-22", f"rho with the smallest round-trip error: {'; '.join(trips)}", picked, interval=ends, equal=3)
what, note = "rho with the smallest", rho_pictures.inversion_note(trip, best_down, rho_pictures.by_variance(intervals))
claim("E-22", f"mixture, sigma(t) = t: {what} round-trip error", inverse[0], interval=inverse[1], note=note)
rho_pictures.inversion_table(trip, down)

# %% [markdown]
# ## A trained network
#
# EDM's network on such pictures, sampled by Heun along $\sigma(t) = t$, with 95 % intervals over its pictures. The curves of the paper's Figure 13c cannot be read
# as numbers, so its text stands for them: best from 5 to 10. To the right, the pictures are held against what the network makes of the same noises in many steps.

# %%
trained = rho_trained.read(results)
error = rho_trained.errors(results, list(trained.distance), trained.steps, drawn, converged)
own, ends = rho_pictures.best_rho(error, rho_pictures.median)
figures.save(draw.figure13c(trained, error), out, "figure13c")
what = f"trained network: Frechet distance at rho = {', '.join(map(str, trained.middle))} over the smallest of all"
claim("E-21", what, list(trained.middle.values()), at_most=1.02, note=trained.note)
say(
    f"*Fréchet distance of the trained network's pictures, by $\\rho$. It is smallest at {trained.best}; within 2 % of it, the paper's own spread "
    f"of a FID, are {', '.join(map(str, trained.alike))}. Real pictures have {trained.real:.2f}. From its own solution ({converged} steps) the network's "
    f"pictures are least far at $\\rho$ = {measured(own, ends, 'g')} (median of {drawn} noises).*"
)

# %% [markdown]
# ## Verdict

# %%
what, (gap, pair) = "smallest Frechet distance at rho <= 2 less the largest at rho = 5 ... 10", trained.gap()
claim("E-21", f"trained network: {what}", gap, interval=pair)
claim("E-21", "trained network, from its own solution: best rho", own, interval=ends, at_least=5, at_most=10)
claim.verdict()
