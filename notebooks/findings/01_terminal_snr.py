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
# reach it: at the last training step the signal-to-noise ratio is above 0, and the model learns to read the low
# frequencies, brightness first, off what is left. Algorithm 1 rescales any schedule to end at exactly 0.
#
# It would be wrong if the numbers of Table 1 did not come out of the published definitions, or if Algorithm 1 changed the first
# step or missed 0.

# %% tags=["parameters"]
out_dir = ""

# %%
import inspect
import math
import tempfile
from pathlib import Path

import diffusers
import matplotlib.pyplot as plt
import numpy as np
import torch

import zsnr
from lab import ROOT
from lab.report import claims, figures
from zsnr import prediction

torch.set_num_threads(1)
figures.style()
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
found = []

# %% [markdown]
# ## Table 1
#
# The library computes in float64. The paper's printed digits are those of float32: betas rounded to float32, $1 - \beta$ in
# float32, the product accumulated in double, the result in float32. Both are here. The row of the cosine schedule comes out with
# $t/T$, not with the table's literal $i = (t-1)/(T-1)$.

# %%
schedules = {
    "linear": zsnr.schedule.linear(),
    "cosine": zsnr.schedule.cosine(),
    "Stable Diffusion": zsnr.schedule.stable_diffusion(),
}
printed = {
    "linear": ("4.035993e-05", "0.006353"),
    "cosine": ("2.428735e-09", "4.928220e-05"),
    "Stable Diffusion": ("0.004682", "0.068265"),
}


def float32(schedule):
    """(SNR, sqrt alpha_bar) at T by the paper's arithmetic."""
    alpha = np.float32(1) - schedule.betas.numpy().astype(np.float32)
    alpha_bar = np.float32(np.cumprod(alpha.astype(np.float64))[-1])
    return float(alpha_bar / (np.float32(1) - alpha_bar)), float(np.sqrt(alpha_bar))


def like(value, text):
    """The value, printed with as many digits as the text has."""
    digits = len(text.split("e")[0].split(".")[1])
    return f"{value:.{digits}{'e' if 'e' in text else 'f'}}"


print(
    f"{'schedule':18s}{'SNR(T), paper':>16s}{'float32':>16s}{'float64':>16s}   sqrt(alpha_bar_T), paper / float32 / float64"
)
agree = []
for name, schedule in schedules.items():
    ours64 = schedule.terminal_snr, schedule.sqrt_alpha_bar[-1].item()
    ours32 = [like(v, p) for v, p in zip(float32(schedule), printed[name], strict=True)]
    print(
        f"{name:18s}{printed[name][0]:>16s}{ours32[0]:>16s}{ours64[0]:16.6e}   "
        f"{printed[name][1]} / {ours32[1]} / {ours64[1]:.6e}"
    )
    agree += [a == b for a, b in zip(ours32, printed[name], strict=True)]

table = [v for s in schedules.values() for v in (s.terminal_snr, s.sqrt_alpha_bar[-1].item())]
paper = [float(v) for row in printed.values() for v in row]
rounding = [2e-5 * p if "e" in t else 2e-5 * p + 0.5e-6 for p, t in zip(paper, sum(printed.values(), ()), strict=True)]
found.append(claims.measure("Z-01", "digits that agree in float32, of 6 numbers", sum(agree)))
excess = max(abs(a - b) / r for a, b, r in zip(table, paper, rounding, strict=True))
found.append(claims.measure("Z-01", "float64: largest error over 2e-5 and the printed rounding", excess, at_most=1.0))

# %% [markdown]
# At the last step of Stable Diffusion's schedule (Eq. 10), a picture is still there:

# %%
sd = zsnr.schedule.stable_diffusion()
signal, noise = sd.sqrt_alpha_bar[-1].item(), (1 - sd.alpha_bar[-1]).sqrt().item()
print(f"x_T = {signal:.6f} x0 + {noise:.6f} eps")
found.append(claims.measure("Z-02", "sqrt(alpha_bar_T), sqrt(1 - alpha_bar_T)", [signal, noise]))

# %% [markdown]
# The cosine schedule misses zero by one clipped $\beta$, its last:

# %%
cosine, unclipped = zsnr.schedule.cosine(), zsnr.schedule.cosine(max_beta=None)
clipped = int((cosine.betas - unclipped.betas).abs().gt(1e-9).sum())
print(f"clipped betas: {clipped}; unclipped terminal SNR: {unclipped.terminal_snr}")
print(f"SNR(T) = {cosine.terminal_snr:.4e} = 0.001 alpha_bar_(T-1) = {0.001 * cosine.alpha_bar[-2].item():.4e}")
found += [
    claims.measure(
        "Z-03",
        "terminal SNR of the three; of cosine without the clip",
        [s.terminal_snr for s in (*schedules.values(), unclipped)],
    ),
    claims.measure("Z-03", "betas that the clip touches", clipped, equal=1),
]

# %% [markdown]
# ## Algorithm 1, and Figure 2

# %%
fixed = zsnr.rescale_zero_terminal_snr(sd)
factor = (fixed.sqrt_alpha_bar[0] / (sd.sqrt_alpha_bar[0] - sd.sqrt_alpha_bar[-1])).item()
before, after = sd.sqrt_alpha_bar.numpy(), fixed.sqrt_alpha_bar.numpy()
off_line = np.abs(after - np.polyval(np.polyfit(before, after, 1), before)).max().item()
largest = (fixed.sqrt_alpha_bar - sd.sqrt_alpha_bar).abs()
print(f"scale factor {factor:.8f}, sqrt(alpha_bar_1) {sd.sqrt_alpha_bar[0]:.8f} -> {fixed.sqrt_alpha_bar[0]:.8f}")
print(f"beta_T {fixed.betas[-1].item()}, beta_(T-1) {fixed.betas[-2].item():.5f}")
print(
    f"largest change {largest.max().item():.6f} at t = {int(largest.argmax()) + 1}, off a straight line {off_line:.0e}"
)
found += [
    claims.measure("Z-04", "sqrt(alpha_bar_T)", fixed.sqrt_alpha_bar[-1].item(), equal=0.0),
    claims.measure(
        "Z-04",
        "change of sqrt(alpha_bar_1)",
        (fixed.sqrt_alpha_bar[0] - sd.sqrt_alpha_bar[0]).item(),
        equal=0.0,
        abs=1e-15,
    ),
    claims.measure("Z-04", "beta_T", fixed.betas[-1].item(), equal=1.0),
    claims.measure("Z-04", "beta_(T-1)", fixed.betas[-2].item(), equal=0.75114, abs=5e-6),
    claims.measure("Z-04", "scale factor", factor, equal=1.07329988, abs=5e-9),
    claims.measure("Z-04", "distance of the map from a straight line", off_line, at_most=1e-12),
]

# %%
t = np.arange(1, 1001)
fig, (left, right) = plt.subplots(1, 2, figsize=(6.5, 2.4))
for schedule, label, colour in ((sd, "Stable Diffusion", "control"), (fixed, "rescaled", "zsnr")):
    left.plot(
        t[:-1] if schedule is fixed else t,
        schedule.log_snr[:-1] if schedule is fixed else schedule.log_snr,
        color=figures.COLOURS[colour],
        label=label,
    )
    right.plot(t, schedule.sqrt_alpha_bar, color=figures.COLOURS[colour], label=label)
left.annotate(r"$-\infty$ at $t = T$", (1000, -14.6), (560, -13.3), arrowprops={"arrowstyle": "->", "lw": 0.6})
left.set(xlabel="step $t$", ylabel=r"$\log\,\mathrm{SNR}$", ylim=(-15.5, 8))
right.set(xlabel="step $t$", ylabel=r"$\sqrt{\bar\alpha_t}$", ylim=(0, 1.02))
inset = right.inset_axes((0.6, 0.52, 0.38, 0.4))
inset.plot(t[-120:], sd.sqrt_alpha_bar[-120:], color=figures.COLOURS["control"])
inset.plot(t[-120:], fixed.sqrt_alpha_bar[-120:], color=figures.COLOURS["zsnr"])
inset.set_title("the last 120 steps", fontsize=6, pad=2)
inset.tick_params(labelsize=6)
left.legend(loc="lower left")
fig.tight_layout()
figures.save(fig, out, "figure2")

at = [1, 250, 500, 750, 900, 999, 1000]
print(f"{'t':>6s}{'log SNR':>12s}{'rescaled':>12s}{'sqrt ab':>12s}{'rescaled':>12s}")
for i in at:
    print(
        f"{i:6d}{sd.log_snr[i - 1]:12.4f}{fixed.log_snr[i - 1]:12.4f}{sd.sqrt_alpha_bar[i - 1]:12.5f}{fixed.sqrt_alpha_bar[i - 1]:12.5f}"
    )
drop = (sd.log_snr - fixed.log_snr)[:-1]  # before T, where it is infinite
print(f"log SNR falls by {drop[499]:.2f} at t = 500, {drop[899]:.2f} at 900, {drop[998]:.2f} at 999")
found += [
    claims.measure("Z-05", "log SNR at T, original", sd.log_snr[-1].item(), equal=math.log(0.004682), abs=2e-4),
    claims.measure("Z-05", "log SNR falls by more the later the step", bool((drop.diff() > 0).all()), equal=1),
    claims.measure(
        "Z-05",
        "fall of log SNR at t = 500 over that at t = 999",
        (drop[499] / drop[998]).item(),
    ),
]

# %% [markdown]
# Why in $\sqrt{\bar\alpha}$, and not in SNR? Shifting the SNR itself to zero also ends at zero. By distance it stays closer to the original
# curve; but the affine map changes the slope by the same 7 % everywhere, where the other bends the curve over at its end.

# %%
shifted = (sd.snr - sd.snr[-1]) * sd.snr[0] / (sd.snr[0] - sd.snr[-1])
other = zsnr.from_alpha_bar(shifted / (1 + shifted))
slope = {
    n: (x.sqrt_alpha_bar.diff() / sd.sqrt_alpha_bar.diff() - 1).abs().max().item()
    for n, x in (("sqrt", fixed), ("SNR", other))
}
distance = {
    n: (x.sqrt_alpha_bar - sd.sqrt_alpha_bar).square().mean().sqrt().item()
    for n, x in (("sqrt", fixed), ("SNR", other))
}
for n in slope:
    print(f"scaling in {n:4s}: largest change of slope {slope[n]:8.2%}, rms distance {distance[n]:.4f}")
found.append(
    claims.measure(
        "Z-04",
        "largest relative change of the curve's slope, over that of scaling in SNR space",
        slope["sqrt"] / slope["SNR"],
        note=f"rms distance of scaling in SNR space {distance['SNR']:.3f}, of Algorithm 1 {distance['sqrt']:.3f}",
    )
)

# %% [markdown]
# ## What may be predicted there
#
# With $\epsilon$-prediction the last step becomes trivial: its input *is* the target. The best attainable error of each prediction
# follows from exact Gaussian data (unit variance, one pixel): it vanishes for $\epsilon$ as the SNR does, and what is left is divided
# by $\sqrt{\bar\alpha}$ to get $x_0$.

# %%
angle = fixed.angle.numpy()
posterior = np.sin(angle) ** 2  # variance of x0 given x, for x0 ~ N(0, 1)
with np.errstate(divide="ignore", invalid="ignore"):
    eps_error = posterior * fixed.snr.numpy()
    v_error = posterior * (1 + fixed.snr.numpy())
print(f"{'t':>6s}{'best eps loss':>16s}{'best v loss':>14s}{'x0 error per eps error':>26s}")
for i in (500, 900, 990, 999, 1000):
    gain = fixed.sigma[i - 1].item()
    print(f"{i:6d}{eps_error[i - 1]:16.2e}{v_error[i - 1]:14.3f}{gain:26.4g}")

scheduler = diffusers.DDIMScheduler(
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
    clip_sample=False,
)
scheduler.set_timesteps(10)
step = scheduler.step(torch.ones(1, 1, 2, 2), 999, torch.ones(1, 1, 2, 2))
print("diffusers, eps at zero SNR:", step.pred_original_sample.flatten().tolist()[:2])
try:
    prediction.check_prediction("eps", fixed)
    refused = False
except ValueError as error:
    refused = True
    print("zsnr:", error)
found += [
    claims.measure("Z-07", "best eps loss at T, reached by the identity", float(eps_error[-1])),
    claims.measure("Z-07", "best v loss at T", float(v_error[-1]), equal=1.0, rel=1e-12),
    claims.measure(
        "Z-07", "x0 is finite there in diffusers", bool(step.pred_original_sample.isfinite().all()), equal=0
    ),
    claims.measure("Z-07", "zsnr refuses it", refused, equal=1),
]

# %% [markdown]
# $v$ is the way out (Eq. 11), and all conversions are exact at zero SNR (Eqs. 17, 19). The text's "$v_T = x_0$" has the wrong
# sign; the equations give $v_T = -x_0$.

# %%
g = torch.Generator().manual_seed(0)
x0, eps = torch.randn(2, 1000, generator=g, dtype=torch.float64)
worst = 0.0
for phi in fixed.angle.tolist():
    c, s = prediction.cos_sin(phi)
    x, v = c * x0 + s * eps, c * eps - s * x0
    worst = max(
        worst,
        (prediction.to_x0(v, x, phi, "v") - x0).abs().max().item(),
        (prediction.to_eps(v, x, phi, "v") - eps).abs().max().item(),
    )
c, s = prediction.cos_sin(fixed.angle[-1].item())
at_T = c * eps - s * x0
alpha, sigma = fixed.sqrt_alpha_bar, (1 - fixed.alpha_bar).sqrt()
x0_weight = prediction.loss_weight("v", "x0", alpha, sigma)
eps_weight = prediction.loss_weight("v", "eps", alpha[:-1], sigma[:-1])
identity = max(
    (x0_weight - (1 + fixed.snr)).abs().max().item() / (1 + fixed.snr).max().item(),
    (eps_weight * fixed.alpha_bar[:-1] - 1).abs().max().item(),
)
print(f"round trips at all 1000 steps, T included: largest error {worst:.1e}")
print(f"v_T = -x0: {(at_T + x0).abs().max().item():.0e};  v_T = x0: {(at_T - x0).abs().max().item():.1f}")
print(f"the plain v loss weighs the x0 error by SNR + 1, the eps error by 1 / alpha_bar: to {identity:.0e}")
found += [
    claims.measure(
        "Z-08", "relative error of the weights SNR + 1 on x0 and 1 / alpha_bar on eps", identity, at_most=1e-12
    ),
    claims.measure(
        "Z-08",
        "|v_T + x0|, the sign of Eqs. 11 and 19",
        (at_T + x0).abs().max().item(),
        equal=0.0,
        note="the text's v_T = x0 has the other sign; whether quality is similar to the eps loss's is not measured here",
    ),
    claims.measure("Z-09", "largest round-trip error over all steps", worst),
]

# %% [markdown]
# ## Who has the flaw? The schedulers that diffusers ships
#
# Terminal SNR of every scheduler of the installed diffusers that has a table of $\bar\alpha$, with its default settings and with Stable
# Diffusion's. The leak $\lambda = D\,\bar\alpha_T\,\mathrm{Var}$ is given for a latent of Stable Diffusion's size, D = 64 x 64 a channel, whose
# mean has a standard deviation of 0.5.

# %%
rows = {}
for name in sorted(dir(diffusers)):
    if not name.endswith("Scheduler") or "Flax" in name or "FlowMatch" in name:
        continue
    for label, config in (
        ("default", {}),
        ("Stable Diffusion", {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        ("cosine", {"beta_schedule": "squaredcos_cap_v2"}),
        (
            "Stable Diffusion, zero SNR",
            {
                "beta_schedule": "scaled_linear",
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "rescale_betas_zero_snr": True,
            },
        ),
    ):
        kind = getattr(diffusers, name)
        if "Dummy" in str(type(kind)) or not hasattr(kind, "config_name"):
            continue
        if not set(config) <= set(inspect.signature(kind.__init__).parameters):
            continue
        try:
            instance = kind(**config)
            table = instance.alphas_cumprod
        except (AttributeError, ImportError, NotImplementedError, ValueError, TypeError):
            continue
        alpha_bar = float(torch.as_tensor(table)[-1])
        rows.setdefault((label, f"{alpha_bar:.3g}"), []).append(name.removesuffix("Scheduler"))
print(f"{'schedule':28s}{'alpha_bar_T held':>17s}{'leak, 64x64':>13s}   schedulers")
for (label, alpha_bar), names in sorted(rows.items()):
    leak = 64 * 64 * float(alpha_bar) * 0.25
    print(f"{label:28s}{alpha_bar:>17s}{leak:13.3g}   {len(names)}: {', '.join(names)}")
defaults = {float(alpha_bar): len(names) for (label, alpha_bar), names in rows.items() if label == "default"}
flawed = sum(n for alpha_bar, n in defaults.items() if alpha_bar > 0)
print(f"by default, {flawed} of {sum(defaults.values())} end above zero SNR")

# %% [markdown]
# Where zero SNR is asked for, some schedulers hold an exact 0 and others $2^{-24} = 6 \times 10^{-8}$, because
# their own arithmetic cannot take a zero; `zsnr.from_scheduler` reads both as the zero that was meant.

# %% [markdown]
# ## Verdict

# %%
claims.save(out / "claims.json", found, "01_terminal_snr")
print(claims.summary(found))
