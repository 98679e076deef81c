# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. Terminal SNR: the last step of the usual schedules is not noise
#
# **Claim** (Lin et al. 2023, Sec. 3.1, Table 1, Figure 2). Diffusion models are sampled from pure noise, but their schedules never
# reach it. At the last training step the signal-to-noise ratio (SNR) is above 0, and the model learns to read the low
# frequencies of the picture, brightness first, from what is left. Algorithm 1 rescales any schedule so that it ends at exactly 0.
#
# **What would refute it.** The claim is wrong if the numbers of Table 1 do not follow from the published definitions, or if Algorithm 1
# changes the first step or does not end at 0.

# %% tags=["parameters"]
out_dir = ""

# %%
import math

import zsnr
from lab.report import figures
from lab.report.finding import say, start
from lab.report.tables import table
from lab.studies import terminal_snr

out, claim = start("01_terminal_snr", out_dir)

# %% [markdown]
# ## The answer

# %%
sd = zsnr.schedule.stable_diffusion()
fixed = zsnr.rescale_zero_terminal_snr(sd)
signal, noise = sd.sqrt_alpha_bar[-1].item(), (1 - sd.alpha_bar[-1]).sqrt().item()
say(
    f"At its last step, Stable Diffusion's schedule still holds a picture: $x_T = {signal:.6f}\\,x_0 + {noise:.6f}\\,\\epsilon$, an SNR "
    f"of **{sd.terminal_snr:.6f}**. Algorithm 1 brings the SNR to exactly **{fixed.terminal_snr:.0f}**, and changes the slope of "
    f"$\\sqrt{{\\bar\\alpha}}$ by {terminal_snr.slope_change(fixed, sd):.1%} everywhere."
)
figures.save(terminal_snr.figure2(sd, fixed), out, "figure2")

# %% [markdown]
# *Figure 2 of the paper: the logarithm of the SNR (left) and $\sqrt{\bar\alpha_t}$, the share of the picture (right), at each of the 1000
# training steps. The two schedules differ mainly near the end.*
#
# ## Table 1
#
# The library computes in float64. The digits that the paper prints are those of float32: betas rounded to float32, $1 - \beta$ in
# float32, the product accumulated in double, the result in float32. Both are here. The row of the cosine schedule comes out with
# $t/T$, and not with the $i = (t-1)/(T-1)$ that stands in the table.

# %%
schedules = {"linear": zsnr.schedule.linear(), "cosine": zsnr.schedule.cosine(), "Stable Diffusion": sd}
agree = sum(
    terminal_snr.as_printed(value, text) == text
    for name, schedule in schedules.items()
    for value, text in zip(terminal_snr.terminal_float32(schedule), terminal_snr.PRINTED[name], strict=True)
)
claim("Z-01", "digits that agree in float32, of 6 numbers", agree)
excess = terminal_snr.rounding_excess(schedules)
claim("Z-01", "float64: largest error over 2e-5 and the printed rounding", excess, at_most=1.0)
terminal_snr.table1(schedules)

# %% [markdown]
# The next checks are Eq. 10, which is the sentence at the top of this page, and the reason why the cosine schedule misses zero: one $\beta$, the last, is
# clipped at 0.999. Without the clip the cosine schedule ends at SNR 0.

# %%
cosine, unclipped = schedules["cosine"], zsnr.schedule.cosine(max_beta=None)
clipped = int((cosine.betas - unclipped.betas).abs().gt(1e-9).sum())
claim("Z-02", "sqrt(alpha_bar_T), sqrt(1 - alpha_bar_T)", [signal, noise])
ends = [s.terminal_snr for s in (*schedules.values(), unclipped)]
claim("Z-03", "terminal SNR of the three; of cosine without the clip", ends)
claim("Z-03", "betas that the clip touches", clipped, equal=1)
say(
    f"The clip touches {clipped} beta. With it, SNR(T) = {cosine.terminal_snr:.4e}, which is 0.001 times the "
    f"$\\bar\\alpha$ of the step before, {cosine.alpha_bar[-2].item():.4e}. Without it, SNR(T) = {unclipped.terminal_snr:.0f}."
)

# %% [markdown]
# ## Algorithm 1
#
# It shifts $\sqrt{\bar\alpha}$ so that the last value is 0, and scales it so that the first value stays. This is a straight line from the old
# values to the new ones.

# %%
first, last = sd.sqrt_alpha_bar[0], sd.sqrt_alpha_bar[-1]
factor = (fixed.sqrt_alpha_bar[0] / (first - last)).item()
change = (fixed.sqrt_alpha_bar[0] - first).item()
line = terminal_snr.off_line(fixed, sd)
claim("Z-04", "sqrt(alpha_bar_T)", fixed.sqrt_alpha_bar[-1].item(), equal=0.0)
claim("Z-04", "change of sqrt(alpha_bar_1)", change, equal=0.0, abs=1e-15)
claim("Z-04", "beta_T", fixed.betas[-1].item(), equal=1.0)
claim("Z-04", "beta_(T-1)", fixed.betas[-2].item(), equal=0.75114, abs=5e-6)
claim("Z-04", "scale factor", factor, equal=1.07329988, abs=5e-9)
claim("Z-04", "distance of the map from a straight line", line, at_most=1e-12)
largest = (fixed.sqrt_alpha_bar - sd.sqrt_alpha_bar).abs()
say(f"The largest change of $\\sqrt{{\\bar\\alpha_t}}$ is {largest.max():.6f}, at t = {int(largest.argmax()) + 1}.")

# %%
drop = (sd.log_snr - fixed.log_snr)[:-1]  # before T, where it is infinite
claim("Z-05", "log SNR at T, original", sd.log_snr[-1].item(), equal=math.log(0.004682), abs=2e-4)
claim("Z-05", "log SNR falls by more the later the step", bool((drop.diff() > 0).all()), equal=1)
claim("Z-05", "fall of log SNR at t = 500 over that at t = 999", (drop[499] / drop[998]).item())
curves = (sd.log_snr, fixed.log_snr, sd.sqrt_alpha_bar, fixed.sqrt_alpha_bar)
rows = [(t, *(float(curve[t - 1]) for curve in curves)) for t in (1, 250, 500, 750, 900, 999, 1000)]
table(rows, ["t", "log SNR", "log SNR, rescaled", "√ᾱ", "√ᾱ, rescaled"], caption="Figure 2 in numbers")

# %% [markdown]
# Why a straight line in $\sqrt{\bar\alpha}$, and not in the SNR? If the SNR itself is shifted to zero, it ends at zero as well. The curve then
# stays closer to the original one in distance, but it bends at its end, where Algorithm 1 changes the slope by the same share everywhere.

# %%
others = {"Algorithm 1": fixed, "shifted in SNR": terminal_snr.scaled_in_snr(sd)}
slope = {name: terminal_snr.slope_change(s, sd) for name, s in others.items()}
away = {name: terminal_snr.distance(s, sd) for name, s in others.items()}
claim(
    "Z-04",
    "largest relative change of the curve's slope, over that of scaling in SNR space",
    slope["Algorithm 1"] / slope["shifted in SNR"],
    note=f"rms distance of scaling in SNR space {away['shifted in SNR']:.3f}, of Algorithm 1 {away['Algorithm 1']:.3f}",
)
table([(name, slope[name], away[name]) for name in others], ["", "largest change of slope", "rms distance"])

# %% [markdown]
# ## What may be predicted there
#
# At zero SNR the input of the network is the noise itself, so $\epsilon$-prediction is solved by a copy of the input. For Gaussian
# data (unit variance, one pixel) the least possible error has a closed form. For $\epsilon$ it vanishes as the SNR does, and what is
# left is divided by $\sqrt{\bar\alpha}$ to get $x_0$. For $v$ it does not vanish.

# %%
eps_loss, v_loss = terminal_snr.best_losses(fixed)
x0 = terminal_snr.diffusers_x0_from_eps()
try:
    zsnr.prediction.check_prediction("eps", fixed)
    refusal = ""
except ValueError as error:
    refusal = str(error)
claim("Z-07", "best eps loss at T, reached by the identity", float(eps_loss[-1]))
claim("Z-07", "best v loss at T", float(v_loss[-1]), equal=1.0, rel=1e-12)
claim("Z-07", "x0 is finite there in diffusers", bool(x0.isfinite().all()), equal=0)
claim("Z-07", "zsnr refuses it", bool(refusal), equal=1)
rows = [(t, *(float(x[t - 1]) for x in (eps_loss, v_loss, fixed.sigma))) for t in (500, 900, 990, 999, 1000)]
say(f"diffusers returns {x0.flatten()[0].item()} for $x_0$ there; zsnr refuses: *{refusal}*")
table(rows, {"t": "", "best eps loss": ".2e", "best v loss": "", "x0 error per eps error": ".4g"})

# %% [markdown]
# $v$ is the way out (Eq. 11): $x_0$ and $\epsilon$ follow from $v$ without a division, at zero SNR too (Eqs. 17, 19). The text's
# "$v_T = x_0$" has the wrong sign; the equations give $v_T = -x_0$.

# %%
worst, x0, v_T = terminal_snr.round_trip(fixed)
error = terminal_snr.weight_error(fixed)
sign = (v_T + x0).abs().max().item()
claim("Z-08", "relative error of the weights SNR + 1 on x0 and 1 / alpha_bar on eps", error, at_most=1e-12)
note = "the text's v_T = x0 has the other sign; whether quality is similar to the eps loss's is not measured here"
claim("Z-08", "|v_T + x0|, the sign of Eqs. 11 and 19", sign, equal=0.0, note=note)
claim("Z-09", "largest round-trip error over all steps", worst)

# %% [markdown]
# ## Who has the flaw? The schedulers that diffusers ships
#
# Below is $\bar\alpha_T$ of every scheduler of the installed diffusers that has a table of $\bar\alpha$, with its default settings and with those of
# Stable Diffusion. The leak is $D\,\bar\alpha_T\,\mathrm{Var}$: how much of the mean of a picture is visible at $T$. It is given for a latent of
# Stable Diffusion's size, $D = 64 \times 64$, whose mean has a standard deviation of 0.5.

# %%
held = terminal_snr.shipped()
rows = [(label, end, 64 * 64 * float(end) * 0.25, len(names), ", ".join(names)) for (label, end), names in held.items()]
table(rows, {"schedule": "", "ᾱ(T)": "", "leak": ".3g", "schedulers": "", "which": ""})

# %% [markdown]
# Where zero SNR is asked for, some schedulers hold an exact 0 and others $2^{-24} = 6 \times 10^{-8}$, because
# their own arithmetic cannot take a zero. `zsnr.from_scheduler` reads both as the zero that was meant.
#
# ## What schedulers do by default, and the verdict
#
# *Direction* means that only the sign can be checked, and that it is as claimed. A check *beside* decides nothing.

# %%
defaults = {float(end): len(names) for (label, end), names in held.items() if label == "default"}
flawed = sum(n for end, n in defaults.items() if end > 0)
say(f"By default, **{flawed} of {sum(defaults.values())}** schedulers end above zero SNR.")
claim.verdict()
