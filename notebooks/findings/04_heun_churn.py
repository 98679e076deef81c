# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Heun against churn: when fresh noise helps
#
# **Claim** (Karras et al. 2022, Sec. 4, Algorithm 2, App. E, Figures 4, 5, 14, 15; Tables 4, 5). Replacing noise on the way down keeps every marginal,
# and so it heals the errors of earlier steps; but each step brings errors of its own. With an exact denoiser churn does no harm. With a trained one too
# much of it loses detail and shifts colours. Networks that were trained the original way gain from it, EDM's own on CIFAR-10 lose. A trained denoiser
# removes slightly too much noise, which $S_\text{noise}$ slightly above 1 makes up for.
#
# **What would refute it.** Churn changes the statistics of an exact denoiser's pictures by more than 2 %; or networks that were trained the original way do not gain
# from it; or trained networks remove no more variance than an exact denoiser does.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
points = 256
chains = 256
iterations = 300
repeats = 10
out_dir = ""

# %%
from lab.report import figures
from lab.report.finding import measured, say, start
from lab.studies import churn, churn_figures, churn_maruyama, churn_networks, churn_peers, churn_pictures, churn_removed
from lab.studies.churn_pictures import LEVELS, of, of_all
from lab.studies.churn_toy import NAMES

out, claim = start("04_heun_churn", out_dir)
networks = churn_networks.read(results)
removed, most = networks.removed(), networks.amounts[-1]

# %% [markdown]
# ## The answer

# %%
grid = churn.whole_grid(churn.STDS)
gain, strongest, excess = networks.vp_gain("original"), networks.most_gain("original"), removed["original"].too_much
say(
    f"What churn gains in Fréchet distance (below 0 it does harm): **{measured(*gain, '.2f')}** for the network that was trained the original "
    f"way, at the paper's setting for CIFAR-10 VP, and **{measured(*strongest, '.2f')}** at the most churn; for EDM's own network "
    f"{measured(*networks.most_gain('edm'), '.2f')} at the most. With an exact denoiser of Gaussian data the most churn "
    f"that Algorithm 2 allows changes the std of the pictures by at most {(grid['zsnr, Heun'] - 1).abs().max():.1%}. At levels in "
    f"[.05, 1] the original network removes {measured(100 * excess[0], [100 * x for x in excess[1]], '.2f')} % more noise than it should."
)
figures.save(churn_figures.frechet(networks), out, "frechet")

# %% [markdown]
# *Fréchet distance of three small networks against the amount of churn; lower is better. Bars are 95 % jackknife intervals; differences are paired, and sharper than the bars.
# Noise is replaced at all levels (red circles) or within a range of the paper's Table 5; marks side by side share one $S_\text{churn}$. Hollow marks have $S_\text{noise} = 1.007$; the two settings of
# Table 5 with 1.003 are in the table under* Trained networks. *There it is also said which results are clear.*
#
# ## Algorithm 2's amount of noise
#
# A step first raises $\sigma_i$ to $(1 + \gamma_i) \sigma_i$, where $\gamma_i = \min(S_\text{churn} / N, \sqrt 2 - 1)$ within
# $[S_\text{tmin}, S_\text{tmax}]$ and 0 outside. At the clamp the added variance, $(1 + \gamma)^2 - 1$ of the variance present, is all of it: half of
# the noise is then fresh. The paper's tuned settings (its Table 5, $N = 256$) stay below the clamp:

# %%
wrong, outside, added, (below, above) = churn.clamp()
claim("E-09", "values of gamma that differ from min(S_churn / N, sqrt 2 - 1)", wrong)
claim("E-09", "gamma outside [S_tmin, S_tmax]", outside, equal=0.0)
claim("E-09", "largest added variance over the variance present", added, equal=1.0, abs=1e-12)
claim("E-09", "gamma at 1.001 N (sqrt 2 - 1) over the clamp", above, equal=1.0, abs=1e-12)
claim("E-09", "and at .999 of it", below, equal=0.999, abs=1e-12)
churn.table5()

# %% [markdown]
# ## E-32: noise may be replaced at any rate
#
# For data of variance $\lambda$ the state has the variance $V = \lambda + \sigma^2$. In EDM's Eq. 6 the Langevin term removes $2 \beta \sigma^2 dt$ of
# it and adds as much, so the rate $\beta$ cancels. Finite steps leave an error of first order, and nothing is left when the steps are extrapolated to
# 0. Song's reverse SDEs are the case $\beta = \sigma' / \sigma$. No samples are needed: for Gaussian data every step is linear, $x' = a\,x + b\,z$, so
# the library's own steps are asked for $a$ and $b$, and the variance $V' = a^2 V + b^2$ is followed exactly.

# %%
orders, left = churn.rates()
claim("E-32", "order of the variance's error in the steps, rates 0 to 2", orders, equal=1, abs=0.1)
claim("E-32", "error of the variance extrapolated to steps of 0, rates 0 to 2", left)
claim("E-32", "Song's VE and VP steps against beta = sigma' / sigma", churn.song_gap(), at_most=1e-9)
say(f"The error is of order {min(orders):.2f} to {max(orders):.2f}; at steps of 0, at most {max(left):.1e} is left.")

# %% [markdown]
# ## E-37: churn with an exact denoiser
#
# *At one level*, again and again: raise $\sigma$ by $1 + \gamma$, and come back along the ODE. With an exact way back, the standard deviation (std)
# of the state settles at $S_\text{noise}$ times the right one; one Heun step leaves a little more, where the signal's variance is near the noise's. *Over the whole
# grid*: $N = 256$, every step at the clamp. Beside it stand first-order steps, a start from exactly zero SNR, and diffusers' two Euler schedulers,
# which add the noise after the network saw the state without it. The figure is with E-42 below.

# %%
by_exact, by_heun = churn.settles()
grid |= churn_peers.whole_grid(churn.STDS)
claim("E-37", "exact denoiser and way back: std over S_noise, less 1", by_exact, at_most=1e-9)
what = "exact denoiser, one level, one Heun step an iteration: std that is too much at lambda / sigma^2 = 1/4, 1, 4"
note, band = "bands are this project's closed form", [0.0058, 0.0094, 0.0062]
claim("E-37", what, by_heun, equal=band, abs=5e-5, note=note)
what = "exact denoiser, whole grid, Heun, N = 256: std ratio at data std .25 to 2"
claim("E-37", what, grid["zsnr, Heun"], equal=1.0, abs=0.01, note=churn_peers.note(grid))
claim("E-37", "the same from exactly zero SNR", grid["zsnr, Heun, from zero SNR"], equal=1.0, abs=0.01)

# %% [markdown]
# *On real pictures*: the ideal denoiser of a few hundred, churned at one level. Contrast is the root mean square of $D$, detail that of the differences
# of neighbouring pixels; the later half of the iterations is compared with the mean over all pictures. At low levels such a denoiser returns one of its
# pictures whatever happens, so the noise is watched as well. Intervals are over chains.

# %%
pictures = churn_pictures.read(source, points)
found = churn_pictures.by_ideal_denoiser(pictures, chains, iterations)
what = "ideal denoiser of pictures, sigma 2 and 10: change of the contrast"
note = f"{points} pictures, {chains} chains of {iterations} iterations; below, most chains stay on their picture"
claim("E-37", what, **of(churn_pictures.mixing(found)), note=note)
for k, name in enumerate(("contrast", "detail")):
    what = f"ideal denoiser of {points} pictures, {iterations} iterations: change of the {name}, sigma .1, .5, 2, 10"
    claim("E-37", what, **of(*(found[sigma, 1.0].means[k] for sigma in LEVELS)), equal=0.0, abs=0.02)
note = "the band tells S_noise 1 from 1.007 and allows for a Heun step's own error"
for S_noise in dict.fromkeys(S for _, S in found):
    what = f"the same, S_noise = {S_noise}: std of x - D over that of fresh noise"
    claim("E-37", what, **of(*(found[s, S_noise].means[2] for s in LEVELS)), equal=S_noise, abs=5e-3, note=note)
churn_pictures.chains_table(found)

# %% [markdown]
# ## E-42: Euler-Maruyama against Algorithm 2
#
# Euler-Maruyama asks the denoiser before it adds the noise, Algorithm 2 after it, at the raised level. Here both add the same noise at every step.
# First on Gaussian data; then on two narrow modes, by sampling, with the Wasserstein-1 distance (W1) to the exact quantiles.

# %%
compared, w1 = churn_maruyama.compare(), churn_maruyama.modes(repeats)
note = "Gaussian data; on other data, too, which of the two is better depends on the data"
claim("E-42", "std ratios by asking before and after the noise, apart at N = 8", compared.apart[0], note=note)
claim("E-42", "order in N at which they meet", churn_maruyama.order_in_N(compared.apart), equal=1, abs=0.1)
what = "Euler-Maruyama's error of the std over Algorithm 2's, N = 8, 16, 32"
claim("E-42", what, compared.over(order=2), at_least=1.0)
what = "the same over Algorithm 2's with first-order steps, which isolates the order of asking"
claim("E-42", what, compared.over(order=1), at_least=1.0, note=compared.note())
for order in (1, 2):
    what = f"two modes: W1 of Euler-Maruyama less Algorithm 2's, order {order}, N = 8, 16, 32"
    claim("E-42", what, **of_all(churn_maruyama.gains(w1, order)), at_least=0.0)
figures.save(churn_figures.exact(grid, compared.errors), out, "exact")

# %% [markdown]
# *Exact denoisers of Gaussian data. Left: by how much the std is too large after many iterations at one level. Middle: std of the pictures over the
# data's with the most churn at every step; 1 is right. Right: rms error of the std by the number of steps, the same noise for all.*
#
# ## Trained networks: is churn of use?
#
# The first figure has three small networks: *original*, trained with VP's preconditioning and loss; *edm*, with EDM's; *short*, the same but stopped
# early (all by Muon, where the paper takes Adam). The hollow triangle left of the middle is the paper's setting for CIFAR-10 VP (Table 5), with
# its $\gamma = S_\text{churn} / N$, range and $S_\text{noise}$, not tuned here. Differences are taken picture by picture, from the same noises. Only the gain at the most churn is clear: what decides
# whether churn harms EDM's network, and whether a network removes too much noise, is [finding 19](19_churn_known_truth.ipynb), where the law of the data is known.

# %%
scale = f"{networks.pictures} pictures, N = {networks.N}, networks of this project's size"
claim("E-33", "original: gain of churn at CIFAR-10 VP's setting", **of(gain), at_least=0.0, note=scale)
claim("E-33", f"original: gain of churn at S_churn = {most:g}, all levels", **of(strongest), at_least=0.0)
what = f"original: gain of each setting of Table 5: {', '.join(NAMES)}"
note = "found by grid search, each for its own network and data; the first is for this way of training"
claim("E-33", what, **of_all(networks.gains("original")), at_least=0.0, note=note)
costs, worse = networks.costs(networks.strong), networks.costs(most)[::-1]
claim("E-33", "original: cost of S_noise = 1, of all levels, of both, at VE's S_churn", **of_all(costs), at_least=0.0)
what = f"original, S_churn = {most:g}: cost of all levels, with S_noise, of S_noise = 1 in [.05, 1]"
claim("E-40", what, **of_all(worse), at_least=0.0, note=scale + "; the figure's curves cannot be read as numbers")
networks.table()

# %%
for claimed, what, found in networks.optimum_checks():
    claim(claimed, what, **of(found), at_least=0.0, note=scale)
harms = [networks.harm("edm", S) for S in networks.amounts]
claim("E-41", "edm: harm of the largest S_churn, all levels", **of(harms[-1]), at_least=0.0)
what = f"edm: harm of S_churn = {', '.join(f'{S:g}' for S in networks.amounts)}, all levels"
claim("E-41", what, **of_all(harms), at_least=0.0)
claim("E-41", "original: gain of churn at CIFAR-10 VP's setting", **of(gain), at_least=0.0)
what = "original, all levels: gamma of the least distance, and of all not told apart"
low, *_, high = churn.PAPER_GAMMA
note = "the paper's optima at N = 256 have gamma .117, .156 and .3125; its networks and data sets are not run here"
claim("E-34", what, **of(networks.optimum()), at_least=low, at_most=high, note=note)

# %% [markdown]
# ## E-38: how much variance does a network really remove?
#
# The error of a posterior mean is orthogonal to every function of $x$, so what it should remove follows from its measured error, without knowing the
# data. Per pixel, with $r = E|x - D|^2 / \sigma^2 d$ and $e = E|D - y|^2 / d$,
#
# $$c = \frac{E\langle x - y, x - D\rangle}{E|x - D|^2} = \frac{r + 1 - e / \sigma^2}{2 r}$$
#
# is the share of what the network removes that really is noise. It is 1 for every posterior mean. At $c < 1$ the network removes $1/c$ times what it should,
# and in Langevin's limit $S_\text{noise} = c^{-1/2}$ makes up for it. Both are checked on a Gaussian denoiser that is off by 1.4 %. Other errors of a
# trained network lower $c$ as well, so its $c^{-1/2}$ holds only if all of its error were such a factor.
#
# **Is the field conservative?** An exact $D = x + \sigma^2 \nabla \log p$ has a symmetric Jacobian $J$. The paper suspects that trained ones do not,
# and that this is why churn corrupts. $\|J - J^\top\| / \|J\|$ is measured by random probes; independent entries would have $\sqrt 2$.

# %%
gap, restored = churn.restored(0.014, g=0.01)
what = "Gaussian: c of an exact denoiser, and of one that is 1.4 % off, times 1.014; less 1"
claim("E-38", what, gap, at_most=1e-12)
claim("E-38", "Gaussian, gamma = .01: std ratio restored by S_noise = c^(-1/2), less 1", restored)
mean, note = churn_removed.average(removed)
what = "noise removed too much, mean over levels in [.05, 1], of three networks"
claim("E-38", what, **of(mean), at_least=0.0, note=note)
what = "original: noise removed too much, mean over levels in [.05, 1]; interval over noises"
claim("E-38", what, **of(excess), at_least=0.0)
what, note = "original: the S_noise that would restore it", "the band is the range of Table 5's grid search"
claim("E-38", what, **of(churn_removed.restoring(excess)), at_least=1.0, at_most=1.01, note=note)
what = "original: gain of S_noise = 1.007 within [.05, 1], at VE's S_churn"
claim("E-38", what, **of(costs[0]), at_least=0.0, note=scale)

# %%
smooth = max(churn_removed.exact_asymmetry(pictures, removed["original"].sigma))
claim("E-37", "asymmetry of the Jacobian, exact, largest", smooth, at_most=1e-6)
note = "the band excludes float32's rounding; that such a field is the cause of the damage remains a suspicion"
for name in ("original", "edm"):
    what = f"asymmetry of the Jacobian, {name}, smallest over the levels"
    claim("E-37", what, **of(networks.least_asymmetry(name)), at_least=1e-4, note=note)
figures.save(churn_figures.network(networks), out, "network")

# %% [markdown]
# *Three networks on held-out pictures, by level. Left: the variance that they remove, and (dashed) what a posterior mean with their error would remove.
# Middle: above 1 a network removes too much. Right: 0 is a conservative field. Bars are 95 % intervals.*
#
# ## Figure 14: churn at one level, and the verdict
#
# *Below, first: $D$ of two held-out pictures at each level (rows) after the iterations above each column; the paper's go on to 10,000. Then, of
# the original network, means over pictures; contrast and detail are over their first values. The upper row's intervals, of many times the lower row's width, are not drawn. The lower row is
# what $S_\text{noise} = 1.007$ adds, with 95 % intervals over pictures. Beyond the range means $|D| > 1.02$.*
#
# In the table *direction* means that only the sign can be checked at this scale, and that it is as claimed. A check *beside* decides nothing.

# %%
(changes, added), (rise, more) = churn_networks.contrasts(networks), churn_networks.saturation(networks)
note = f"{networks.iterations} iterations instead of 10000; intervals from {networks.kept} pictures"
claim("E-39", "original, sigma 2 and 10, S_noise 1: change of the contrast", **of_all(changes), at_most=0.0, note=note)
what = "original, sigma 2 and 10: last contrast at S_noise 1.007 less that at 1"
claim("E-39", what, **of_all(added), at_least=0.0)
claim("E-39", "original, sigma .1: rise of the share of saturated pixels", **of(rise), at_least=0.0)
claim("E-39", "original, sigma .1: S_noise 1.007 adds to that share", **of(more), at_least=0.0)
for name in ("original", "edm"):
    lost = churn_networks.lost_detail(networks, name)
    claim("E-37", f"{name}, sigma .1: change of the detail", **of(lost), at_most=0.0, note=note)
figures.save(churn_figures.figure14(networks), out, "figure14")
figures.save(churn_figures.in_place(networks), out, "in_place")
claim.verdict()
