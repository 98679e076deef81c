# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. The design space: one ODE, many samplers, and all of them from zero SNR
#
# **Claim** (Karras et al. 2022, Secs. 2 and 3, Tables 1 and 3, Figures 2 and 3). The samplers of VP, VE and DDIM models solve one ODE in different
# times and scales. Heun's method, $\rho$ steps, $\sigma(t) = t$ and $s(t) = 1$ reach the quality of the original samplers with 7.3 (VP), 300 (VE) and
# 3.2 (DDIM) times fewer evaluations of the network.
#
# **What would refute it.** The end points differ between the ODEs; or Euler's method needs no more evaluations than Heun's; or VE's sampler is not
# the one that gains most.
#
# **New here**: the same ODE in the angle $\varphi = \arctan\sigma$, where zero SNR ($\sigma = \infty$) is an ordinary point to start from.

# %% tags=["parameters"]
results = "results/full"
evaluations = 8192
mixtures = 8
tolerance = 1e-8
out_dir = ""

# %%
from IPython.display import display

from lab.report import figures
from lab.report.finding import say, start
from lab.studies import design_curvature as curvature
from lab.studies import design_exact as exact
from lab.studies import design_grids as grids
from lab.studies import design_network as trained
from lab.studies import design_originals as originals
from lab.studies import design_space as ode

out, claim = start("06_design_space", out_dir)
digits, network = exact.digits(tolerance), trained.read(results)
curves, apart = exact.curves(digits, evaluations), ode.ends_apart()

# %% [markdown]
# ## The answer

# %%
gains = {family: exact.gain(curves, family) for family in ("VP", "VE", "DDIM")}
early = {family: exact.needed(curves[family, exact.ORIGINAL], 0.01) for family in gains}
say(
    f"On data whose best denoiser is known exactly, the original samplers need **{gains['VP']:.1f}** (VP), **{gains['VE']:.1f}** (VE) and "
    f"**{gains['DDIM']:.1f}** (DDIM) times the evaluations of Heun's method on $\\sigma = t$, for an error of 0.01. VP's and DDIM's reach it in {early['VP']:.0f} and "
    f"{early['DDIM']:.0f} evaluations already, VE's in {early['VE']:.0f}. On a trained network "
    f"Heun's method makes {trained.less(network)} times the error of the original VP sampler, in 35 evaluations against 64. Six forms of the ODE end within {apart:.0e}."
)
figures.save(exact.figure2(curves), out, "figure2_exact")

# %% [markdown]
# *Error (RMSE per pixel to the exact end point of the ODE from the same latent, median over 32 latents) by the number of evaluations. DDIM has
# $\sigma = t$ from the start, so it has no brown line. Two of VE's lines become flat because its steps end at $\sigma_{min} = 0.02$.*
#
# VE's sampler gains most, as the paper says. All three gains are smaller than the paper's, and DDIM's is above VP's. These data are smooth, and the original samplers
# of VP and DDIM are already good in few evaluations; the factors grow with the accuracy that is asked for (section 5).
#
# ## 1. One ODE
#
# EDM's Eq. 4, for any $\sigma(t)$ and $s(t)$, is $\dot x = (\dot\sigma/\sigma + \dot s/s)\, x - (\dot\sigma s/\sigma)\, D(x/s; \sigma)$. At zero SNR
# its terms diverge. With $n = s\sqrt{1+\sigma^2}$ and $x = n\, x_\varphi$ it becomes $\dot x = \dot n\, x_\varphi + n\, \dot\varphi\, v$, which does
# not. The first two checks prove this, and the SDE that belongs to VP, by computer algebra. Then come numbers: the end points of an adaptive solver
# along six paths, from the same $x_\varphi$ at $\sigma = 80$ (E-06); Algorithm 1 as the paper prints it, in $x$, against our Heun's method, which
# keeps $x_\varphi$ (E-08); and one Euler step from $t$ to 0 with $\sigma = t$, which should reach $D$ (E-12).
#
# **From the SDE to the path** (E-50). The forward SDE $dx = f x\, dt + g\, dw$ gives $s = e^{\int f}$ and $\sigma^2 = \int g^2/s^2$. One check
# recovers the columns of Table 1 from Song's $f$ and $g$ by quadrature: VP, and VE with two clocks ($\sigma = \sqrt t$, and the geometric one). Two
# checks simulate VP's forward SDE from $x_0 = 1$ and compare mean and standard deviation with $s$ and $s\sigma$.

# %%
claim("E-06", "Eq. 4 less n' x_phi + n phi' v, symbolically, any sigma(t) and s(t)", float(ode.rewritten()), equal=0)
claim("E-50", "VP: s'/s + beta/2, s^2 (sigma^2)' - beta, symbolically", ode.vp_sde(), equal=0)
claim("E-06", "end points along six paths, RK45: largest difference", apart)
literal, calls = zip(*map(ode.literal, (ode.VP, ode.VE, ode.EDM)), strict=True)
claim("E-08", "Algorithm 1 in the paper's variables less ours, on VP, VE, EDM", literal, at_most=1e-9)
claim("E-08", "evaluations of 18 steps on VP, VE, EDM", calls)
claim("E-12", "Euler step from t to 0 on sigma = t, less D, three levels", ode.single_step())
claim("E-50", "columns recovered from f and g: largest relative error", max(ode.recovered().values()))
for what, values, pairs, band in ode.simulated(paths=20000):
    claim("E-50", f"simulated forward VP SDE: {what}", values, equal=0, abs=band, interval=pairs)
gaps = ode.preconditioning()
say(
    f"By algebra, EDM's preconditioned network less a $v$-prediction with $F = -v$ is {gaps[0]}, and its input $c_{{in}} x$ less $x_\\varphi$ is "
    f"{gaps[1]}. If both are 0, EDM's network is a $v$-prediction network."
)

# %% [markdown]
# ## 2. Table 1 and the original samplers
#
# The constants of Table 1 first: VP's $\sigma(10^{-5})$ and $\sigma(1)$ (E-01), iDDPM's levels $u_j$ (E-02), and the ideal denoiser of App. B.3 with
# its two limits, the mean of the data and the nearest point (E-07).

# %%
ends, levels = originals.vp_ends(), originals.iddpm_levels()
claim("E-01", "sigma(eps_t), sigma(1) of the column that trains", ends)
what = "its other copies: where its steps begin, sigma_max, and the path's sigma(eps_t), sigma(1), over these"
claim("E-01", what, originals.vp_copies(ends), equal=1.0, abs=1e-9)
claim("E-02", "u_0 ... u_9", levels[:10])
claim("E-02", "u_999", levels[-1], equal=originals.PRINTED[-1], abs=5e-5)
claim("E-07", "formula; mean at sigma = 1e6; nearest point at sigma = .02", originals.ideal_limits())

# %% [markdown]
# **VE** (E-03). Song's update is Euler's method on $\sigma = \sqrt t$. **VP** (E-04). Song's sampler steps by $1/N$, but its times differ by
# $(1 - \epsilon_s)/(N - 1)$. So it ends at $\epsilon_s - 1/N$, which is before time 0 if $N < 1000$. The data here are one point, so all that differs
# from the point is noise that was left over. **Round-off** (E-05). The network computes in float32; the state is kept in float32 or in float64.

# %%
left = {N: originals.left_by_vp(N) for N in (64, 128, 256, 512, 1000)}
rounding = {N: originals.round_off(N) for N in originals.round_off_steps(evaluations)}
most = max(rounding)
(error, single, double), first = rounding[most], rounding[128]
claim("E-03", "Song's VE update less Euler on sigma = sqrt(t), 128 steps", originals.ve_is_euler())
claim("E-03", "first and last level for data in [-1, 1]", originals.ve_ends(), equal=[100.0, 0.02], abs=1e-9)
claim("E-04", "N = 128: the original ends at time", originals.EPS_S - 1 / 128, at_most=0.0)
claim("E-04", "N = 128: noise it leaves, grey levels of 255", left[128][0])
claim("E-04", "N = 128: with the right multiplier, and D at the end", left[128][2], at_most=1.0)
claim("E-05", f"round-off at N = {most} over N = 128", single / first[1], at_least=1.0)
claim("E-05", "most steps: float64 over float32 round-off", double / single)
note = originals.round_off_note(single, error)
claim("E-05", f"N = {most}: round-off over Euler's own error", single / error, at_least=1.0, note=note)
display(originals.left_table(left), originals.round_off_table(rounding))

# %% [markdown]
# ## 3. Figure 3: which path is straight
#
# Data: two points, at $\pm 1$. Curvature is measured twice. The *deviation* is the largest distance from the chord over a range of $\sigma$, as a
# share of the way made there (RMS over 400 trajectories). The *turning* is the share of the total variation of $\dot x$ that falls into a range.

# %%
figures.save(curvature.figure3(), out, "figure3")
bend = curvature.curvature()
ratios = [bend["EDM"][part][0] / bend[other][part][0] for part in ("below", "above") for other in ("VP", "VE")]
claim("E-24", "deviation from the chord, EDM over VP and VE, sigma below and above the middle", ratios)
note = "two points at +-1, as in Fig. 3; 'narrow middle range' is read as: most of the turning within one decade"
what = "share of EDM's turning within .316 <= sigma <= 3.16, of .002 to 25"
claim("E-24", what, bend["EDM"]["middle"][1], at_least=0.5, note=note)
curvature.curvature_table(bend)

# %% [markdown]
# *Figure: the same 15 noises along four paths, each in its own time and scale. A trajectory runs from right to left, from noise to one of the two
# points at $t = 0$; the median one ends between them. The angle (green) starts at zero SNR. The lower row enlarges the end of the upper one.*
#
# ## 4. Orders
#
# The error of one step of length $h$ should fall as $h^2$ (Euler) and $h^3$ (Heun), and the error at the end as $1/N$ and $1/N^2$. The truth is the
# exact solution, for a Gaussian with variances from 1/64 to 64, and for a mixture of three Gaussians in the plane.

# %%
counts = [min(evaluations, 512) // k for k in (8, 4, 2, 1)]
errors, local = grids.end_errors(counts), grids.local_orders()
for what, values, order in grids.order_checks(counts, errors, local):
    claim("E-11", f"{what}, on {len(values)} paths", values, equal=order, abs=0.1)
claim("E-11", "order of one step's error, Euler and Heun, mean over paths and data", grids.mean_orders(local))
figures.save(grids.orders_figure(errors, counts), out, "orders")

# %% [markdown]
# *Error at the end by the number of steps, on each path with its own steps. Where lines coincide, the markers lie within each other.*
#
# ## 5. Table 3 on a denoiser that is known exactly
#
# Data: ten Gaussians, each with the mean and the covariance of one class of scikit-learn's digits. They are smooth, so an error is an error, and not
# a jump to another picture. A dash in the table means that the curve does not reach the error.

# %%
claim("E-26", "256/35 (VP), 8192/27 (VE), 250/79 (DDIM)", [256 / 35, 8192 / 27, 250 / 79])
what = "exact denoiser, evaluations for an error of .01, Euler over Heun on the same steps and path"
claim("E-29", what, exact.euler_over_heun(curves))
note = (
    f"on the exact denoiser the gains at an error of .01 are {', '.join(f'{k} {x:.1f}' for k, x in gains.items())}; "
    "they grow with the accuracy asked for, and VP's own path is better than sigma = t there"
)
what = "exact denoiser, gain over the original sampler at an error of .01: VE's over the larger of VP's and DDIM's"
claim("E-29", what, gains["VE"] / max(gains["VP"], gains["DDIM"]), at_least=1.0, note=note)
exact.needed_table(curves)

# %% [markdown]
# $\sigma = t$ does not beat VP's own path here, once both use Heun's method and $\rho$ steps: the third row of Table 3 does not follow from the ODE
# alone. From exactly zero SNR, with Heun's method in the angle and `power` steps, the same accuracy takes the fewest evaluations of all.
# Three more checks: the cost of **RK45** (E-28), the **start of iDDPM's steps** (E-02), and $\alpha$ of the general second-order solver (E-10).

# %%
what, value = "the paper's RK45 over its own evaluations (VP, VE, DDIM)", [115 / 35, 93 / 27, 131 / 79]
claim("E-28", what, value, equal=[3.3, 3.4, 1.7], abs=0.05)
cost = exact.black_box(curves, evaluations)
what = "exact denoiser: RK45's evaluations over Heun's 35, at the error of Heun's 18 steps"
claim("E-28", what, cost[18], note=exact.at_most_steps(cost))
few = [n for n in (16, 64, 256) if n <= evaluations]
what = f"exact denoiser, Euler: error from j_0 = 0 over that from j_0 = 8, {', '.join(map(str, few))} steps"
claim("E-02", what, exact.starts(digits, few), at_least=1.0, note="error instead of FID")
swept = exact.alphas([*(exact.random_mixture(seed, tolerance) for seed in range(mixtures)), digits])
k, pairs = exact.ALPHAS.index(1.1), exact.alpha_intervals(swept)
note = f"{mixtures} mixtures, on the paper's grid and path; smaller alphas are better there"
what = "exact denoisers: error at alpha = 1.1 over alpha = 1"
claim("E-10", what, swept[:-1, k].mean(), interval=pairs[k], note=note)
figures.save(exact.alpha_figure(swept, pairs), out, "alpha")

# %% [markdown]
# *Error of 18 steps by $\alpha$, on random mixtures in eight dimensions and on the digits. For exact denoisers the error is smallest below 1.*
#
# ## 6. From exactly zero SNR
#
# Usual samplers cannot start at $\sigma = \infty$ and replace it by a number, such as 4096. In the angle nothing is replaced. A deterministic sampler
# is affine in its noise, so one run gives the exact ratio of the generated standard deviation to the true one.

# %%
errors = grids.starts((10, 25, 50))
figures.save(grids.zero_snr_figure(errors, (10, 25, 50)), out, "zero_snr")
grids.starts_table(errors, (10, 25, 50))

# %% [markdown]
# *Error of the standard deviation by the variance of the data, by where a sampler starts, its steps and its path. A sharp dip is a change of sign.
# Steps* power 1.5 *are $\tan\varphi = (u/(1-u))^{1.5}$ with equal steps of $u$;* trailing *steps are those of Stable Diffusion's rescaled schedule.*
# With few trailing steps from 4096 (in the table, not drawn) it is the path that fails, not the number: on $\sigma = t$ the first step is longer than all
# others together, and Heun's method averages two slopes over it. In the angle the same start has the error of zero SNR.
#
# ## 7. A trained network
#
# Figure 2 on one network of this project, EDM's (configuration E). All samplers start at $\sigma = 80$, up to which it is trained. The Fréchet
# distance is the paper's measure, and each curve's number of evaluations is that at its circle. But all samplers solve the same ODE, so each picture
# is also held against the network's own converged solution from the same noise, which decides E-10, E-25 and E-29. Whether 35 evaluations beat
# 13 (E-30), and come near the converged solution (E-35), is decided on more pictures, paired by their noises, which the figure does not show.

# %%
if network.curves:
    figures.save(trained.figure2(network), out, "figure2")
    display(trained.best_table(network))

# %% [markdown]
# *Above: Fréchet distance by evaluations, with 95 % intervals over pictures; the dotted line is what as many real pictures reach. Below: error
# (RMSE per pixel) to the converged solution from the same noise, mean over pictures.* By distance only VE's original sampler needs clearly more evaluations
# here: the intervals leave open which of VP's and DDIM's is better. By error ours is ahead of all three, once there are enough evaluations.
#
# ## Verdict
#
# *Direction* means that only the sign can be checked at this scale, and that it is as claimed. A check *beside* decides nothing.

# %%
here = "one network, EDM's, under all samplers, from sigma = 80; the paper has a network for each family"
for id, what, value, pair, band in trained.checks(network):
    note = f"{band.pop('note')}; {here}" if "note" in band else here
    claim(id, what, value, interval=pair, note=note, **band)
claim("E-35", "evaluations of the recommended 18, 40, 256 steps", ode.evaluations((18, 40, 256)))
claim.verdict()
