# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8. Choose for your data: $\sigma_\text{data}$, $P_\text{mean}$, $P_\text{std}$, $\sigma_\text{min}$, $\sigma_\text{max}$
#
# **Claim** (Karras et al. 2022, Sec. 5, Table 1). Training should be spent on the intermediate noise levels, where the loss can be reduced:
# $\ln\sigma \sim N(-1.2, 1.2^2)$. $\sigma_\text{data} = 0.5$ serves images in $[-1, 1]$; the rest of the design was chosen empirically.
#
# It would be wrong if $p_\text{train}$ saw less to learn than levels spread evenly do. But these are numbers for the paper's
# photographs. **New here**: rules that give all five for a folder of images, each with its reason (`lab.measure.choose`, derived for this project).

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
images = 4096
out_dir = ""

# %%
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import norm

import zsnr
from lab import ROOT
from lab.measure import choose, sweep
from lab.models import data
from lab.models.edm_training import loss_curve
from lab.report import claims, figures
from zsnr import edm
from zsnr.finetune.loop import generator

torch.set_num_threads(1)
figures.style()
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
found = []
INK, EDM_, OURS, NETWORK, KNOWN = "#222222", "#b07a1e", "#1f7a8c", "#d1495b", "#8d6cab"

# %% [markdown]
# ## The paper's numbers
#
# The training levels are log-normal: closed forms against draws of EDM's column, with 95 % intervals.

# %%
P_mean, P_std, draws = -1.2, 1.2, 400_000
column = edm.column("edm")
sigma = column.p_train(draws, generator(0, 0)).numpy()
shares = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
z = norm.ppf(shares)
rows = {"mean of ln sigma": (np.log(sigma).mean(), P_mean, P_std / math.sqrt(draws))}
rows["std of ln sigma"] = np.log(sigma).std(), P_std, P_std / math.sqrt(2 * draws)
for share, quantile, at in zip(shares, np.quantile(sigma, shares), z, strict=True):
    exact = math.exp(P_mean + P_std * at)
    rows[f"quantile {share:.0%}"] = (
        quantile,
        exact,
        exact * P_std * math.sqrt(share * (1 - share) / draws) / norm.pdf(at),
    )
mean = math.exp(P_mean + P_std**2 / 2)
rows["mean"] = sigma.mean(), mean, mean * math.sqrt(math.expm1(P_std**2) / draws)
for level in (1, 10):
    share = norm.cdf((P_mean - math.log(level)) / P_std)
    rows[f"P(sigma > {level})"] = (sigma > level).mean(), share, math.sqrt(share * (1 - share) / draws)
mode = math.exp(P_mean - P_std**2)
# the log of the density is a parabola in ln sigma: its vertex, from counts in narrow windows, in ten batches
windows = np.geomspace(0.02, 0.3, 28)
vertex = []
for batch in sigma.reshape(10, -1):
    counts = [((batch > 0.9 * w) & (batch < 1.1 * w)).sum() / w for w in windows]
    parabola = np.polyfit(np.log(windows), np.log(counts), 2)
    vertex.append(math.exp(-parabola[1] / (2 * parabola[0])))
rows["mode"] = np.mean(vertex), mode, np.std(vertex, ddof=1) / math.sqrt(10)
print(f"{'':18s}{'drawn':>10s}{'closed form':>13s}")
for name, (value, exact, se) in rows.items():
    print(f"{name:18s}{value:10.4f}{exact:13.4f}")
    interval = value - 1.96 * se, value + 1.96 * se
    band = {} if name == "P(sigma > 1)" else {"equal": exact, "abs": 6 * se}
    found.append(claims.measure("E-46", name, value, interval=interval, **band))

# %% [markdown]
# The output scale: a network that predicts $\epsilon$ has its error multiplied by $\sigma$, EDM's by at most $\sigma_\text{data}$. And $c_\text{noise}$ puts the noise
# level on a scale of about one.

# %%
levels = torch.tensor([0.002, 0.01, 0.1, 0.5, 1, 10, 80], dtype=torch.float64)
eps_out = edm.column("vp").precondition(levels)[1].abs()
edm_out, c_noise = column.precondition(levels)[1], column.precondition(levels)[3]
print(f"{'sigma':>22s}" + "".join(f"{s:9.4g}" for s in levels.tolist()))
for name, row in (("|c_out|, eps", eps_out), ("|c_out|, EDM", edm_out), ("c_noise = ln(sigma) / 4", c_noise)):
    print(f"{name:>22s}" + "".join(f"{v:9.4f}" for v in row.tolist()))
found += [
    claims.measure("E-47", "eps: |c_out| over sigma", (eps_out / levels).tolist(), equal=1.0, abs=1e-12),
    claims.measure("E-47", "EDM: |c_out| over sigma_data", (edm_out / 0.5).tolist()),
]

# %% [markdown]
# ## Measure the data
#
# Three sets beside each other: what the source's `draw` gives (for Fashion-MNIST garments on backdrops), the plain images, and fields with a natural
# image's spectrum, $1/f^2$, std 0.5 and colours correlated by 0.9, rounded to 8 bits, whose answer is known from its closed form.
# Variances are held out: the principal components come from other images.

# %%
train, test = data.load(ROOT / source), data.load(ROOT / source, "test")
composed = not bool(train.mask.all())


def plain(pictures, n, *key):
    index = torch.randperm(len(pictures), generator=generator(*key))[:n]
    return pictures.image[index].float() / 127.5 - 1


f = torch.fft.fftfreq(32) * 32
power = 1 / (f[:, None] ** 2 + f**2).clamp(min=1)  # its mean level varies as much as the largest wave
power = 0.25 * power / power.mean()
correlation = torch.full((3, 3), 0.9) + 0.1 * torch.eye(3)
white = torch.randn(min(images, 2048), 3, 32, 32, generator=generator(0, 1))
waves = torch.fft.ifft2(torch.fft.fft2(white) * power.sqrt()).real
fields = torch.einsum("cd,ndhw->nchw", torch.linalg.cholesky(correlation), waves)
fields = (fields * 127.5 + 127.5).round() / 127.5 - 1
exact = (torch.linalg.eigvalsh(correlation.double())[:, None] * power.flatten()).flatten().sort(descending=True).values

drawn, _ = train.draw(images, generator(0, 2))
sets = {"images": plain(train, images, 0, 3)}
if composed:
    sets = {"on backdrops": drawn, **sets}
first = next(iter(sets))
sets["1/f^2"] = fields
measured = {name: choose.measure(y) for name, y in sets.items()}
proposals = {name: choose.propose(s) for name, s in measured.items()}
truth = choose.Statistics(0.5, (0.5,), 2 / 255, "its own waves", exact, torch.zeros(len(exact)))
proposals["1/f^2, exact"] = choose.propose(truth)
print(f"{'':14s}{'images':>8s}{'rms':>8s}{'std':>8s}{'largest':>9s}{'step':>9s}   basis")
for name, s in measured.items():
    std = s.spectrum.mean().sqrt().item()
    print(
        f"{name:14s}{len(sets[name]):8d}{s.sigma_data:8.3f}{std:8.3f}{s.spectrum[0].sqrt().item():9.2f}{s.step:9.5f}   {s.basis}"
    )

# %%
values = [measured[name].sigma_data for name in sets]
note = (
    "sigma_data here: " + ", ".join(f"{name} {v:.2f}" for name, v in zip(sets, values, strict=True)) + ", so measure it"
)
found += [
    claims.measure("E-48", "c_noise at sigma = .002, .01, .1, .5, 1, 10, 80", c_noise.tolist(), note=note),
    claims.measure("E-48", "c_skip at sigma = 0.5", column.precondition(levels[3:4])[0].item(), equal=0.5, abs=1e-12),
]
print("variance of the network's input at small sigma with sigma_data = 0.5, which should be 1:")
print("   ".join(f"{name} {(v / 0.5) ** 2:.2f}" for name, v in zip(sets, values, strict=True)))

# %% [markdown]
# ## Where is something to learn?
#
# The error $L$ of a denoiser, over that of one which knows only each pixel's mean and the variance (a Gaussian with equal variances). It is EDM's
# loss $\lambda(\sigma)\,\|D - y\|^2$ for data of zero mean. Four denoisers of the same data:
# the best *linear* one, in closed form; the *trained network* on held-out images; and the ideal denoiser of a finite set (App. B.3), asked about its *own*
# images and about *others*. The last two are no guide: the one knows its images by heart, so that its loss falls to 0 where noise is low; the
# other has never seen the details, and is worse than knowing nothing.

# %%
stat, proposal = measured[first], proposals[first]
std = stat.spectrum.mean().sqrt().item()
n = min(images // 8, 256)
sigmas = torch.logspace(
    math.log10(proposal.sigma_min), math.log10(proposal.sigma_max), 25 if images > 1024 else 9, dtype=torch.float64
)
y, conditions = test.draw(n, generator(0, 4))
eps = torch.randn(y.shape, generator=generator(0, 5))
known, pixel_mean = drawn[: images // 2], drawn.mean(0)
ideal = zsnr.Empirical(known)


def ideal_D(x, sigma):
    phi = math.atan(sigma[0].item())
    x = math.cos(phi) * x
    return math.cos(phi) * x - math.sin(phi) * ideal(x, phi)


def blind_D(x, sigma):
    return pixel_mean + (x - pixel_mean) * std**2 / (std**2 + sigma.to(x).view(-1, 1, 1, 1) ** 2)


def loss(denoiser, y, **kw):
    """(levels, n) errors over the mean error of the blind one, on the same pictures and noise."""
    e = eps[: len(y)]
    blind = loss_curve(blind_D, y, e, sigmas.tolist(), std).mean(1, keepdim=True)
    return loss_curve(denoiser, y, e, sigmas.tolist(), std, **kw) / blind


curves = {"ideal, own images": loss(ideal_D, known[:n]), "ideal, others": loss(ideal_D, y)}
networks = {}
for name in ("original", "edm"):
    path = ROOT / results / "edm/networks" / f"{name}.safetensors"
    model = sweep.model(path) if path.exists() else None
    if model is not None and model.network.config["channels"] == y.shape[1]:
        networks[name] = model
if "edm" in networks:
    curves["network"] = loss(networks["edm"], y, class_labels=conditions)
else:
    print(f"no network for these images in {results}/edm/networks: its curve is left out")
linear = choose.gaussian_loss(stat.spectrum, sigmas)
pick = list(range(0, len(sigmas), 3 if len(sigmas) > 9 else 1))
print(f"{'sigma':>20s}" + "".join(f"{sigmas[i].item():8.3g}" for i in pick))
print(f"{'linear':>20s}" + "".join(f"{linear[i].item():8.3f}" for i in pick))
for name, curve in curves.items():
    print(f"{name:>20s}" + "".join(f"{v:8.3f}" if v < 100 else f"{v:8.1f}" for v in curve.mean(1)[pick].tolist()))

# %%
if "network" in curves:
    proposals[f"{first}, network"] = choose.propose(stat, (sigmas, curves["network"].mean(1)))
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(7.2, 2.5))
left.semilogx(sigmas, linear, color=OURS, label="linear")
looks = {"network": (NETWORK, "-"), "ideal, own images": (KNOWN, "-"), "ideal, others": (KNOWN, "--")}
for name, (colour, line) in looks.items():
    if name in curves:
        left.semilogx(sigmas, curves[name].mean(1), line, color=colour, label=name.removesuffix(" images"))
left.axhline(1, color=INK, lw=0.6, ls=":")
left.set(xlabel=r"$\sigma$", ylabel="$L$", ylim=(0, 2.2), title=f"loss, {first}")
left.legend(fontsize=6, loc="upper right", handlelength=1.1, borderaxespad=0)

log = sigmas.log()
for name, values, colour in (("best linear", linear, OURS), ("network", curves.get("network"), NETWORK)):
    if values is not None:
        saved = (1 - (values if values.dim() == 1 else values.mean(1))).clamp(min=0)
        middle.semilogx(sigmas, saved / torch.trapezoid(saved, log), color=colour, label=f"saved by {name}")
fine = np.geomspace(5e-4, 400, 300)
normals = {"EDM": (P_mean, P_std, EDM_)}
normals["linear"] = proposal.P_mean, proposal.P_std, OURS
if "network" in curves:
    chosen = proposals[f"{first}, network"]
    normals["network"] = chosen.P_mean, chosen.P_std, NETWORK
for name, (m, s, colour) in normals.items():
    label = r"$p_\mathrm{train}$ of EDM" if name == "EDM" else None
    middle.semilogx(fine, norm.pdf(np.log(fine), m, s), "--", color=colour, lw=1, label=label)
middle.set(
    xlabel=r"$\sigma$", ylabel=r"density over $\ln\sigma$", title="where to train (dashed: normal)", ylim=(0, 0.6)
)
middle.legend(fontsize=6, loc="upper right")

tops = np.geomspace(5, 500, 100)
for (name, s), colour in zip(measured.items(), (OURS, NETWORK, KNOWN), strict=False):
    lost = 1 - 1 / np.sqrt(1 + s.spectrum[0].item() / tops**2)
    right.loglog(tops, 100 * lost, color=colour, label="$1/f^2$" if name == "1/f^2" else name)
right.axhline(1, color=INK, lw=0.6, ls=":")
right.axvline(80, color=EDM_, lw=1, ls="--", label="EDM's 80")
right.set(
    xlabel=r"$\sigma_\mathrm{max}$",
    ylabel="std lost, largest direction (%)",
    title=r"$\sigma_\mathrm{max}$",
    ylim=(0.01, 60),
)
right.legend(fontsize=6, loc="lower left")
fig.tight_layout()
figures.save(fig, out, "choose")

# %% [markdown]
# EDM's argument can be tested on these data: the share of the loss that the best linear denoiser saves, averaged over EDM's training
# levels and over levels spread evenly in $\ln\sigma$ from 0.002 to 80.

# %%
even = torch.logspace(math.log10(0.002), math.log10(80), 400, dtype=torch.float64)
gains = {}
for name, spectrum in {**{k: s.spectrum for k, s in measured.items()}, "1/f^2, exact": exact}.items():
    at_train = (1 - choose.gaussian_loss(spectrum, torch.tensor(sigma[:2000]))).mean().item()
    at_even = (1 - choose.gaussian_loss(spectrum, even)).mean().item()
    gains[name] = at_train / at_even
    print(f"{name:14s} p_train {at_train:.3f}, evenly {at_even:.3f}: {gains[name]:.2f} times")
found.append(
    claims.measure(
        "E-46",
        "loss that can be saved, at p_train's levels over evenly spread ones: " + ", ".join(gains),
        list(gains.values()),
        at_least=1.0,
        note="'where it matters' stands for the loss that the best linear denoiser saves",
    )
)

# %% [markdown]
# ## The proposal, and an honest check of the rules
#
# On data like the paper's the rules should come near the paper's choice; nothing in them was set to. $\sigma_\text{min}$ of float data is EDM's own share of
# $\sigma_\text{data}$, no finding.

# %%
print(f"{'':24s}" + "".join(f"{k:>12s}" for k in choose.PUBLISHED))
print(f"{'EDM':24s}" + "".join(f"{v:12.4g}" for v in choose.PUBLISHED.values()))
for name, p in proposals.items():
    print(f"{name:24s}" + "".join(f"{getattr(p, k):12.4g}" for k in choose.PUBLISHED))

# %%
best = proposals.get(f"{first}, network", proposal)
print(f"{source}, {first}\n")
print(best.text())


# %%
def overlap(a, b):
    """Of the two normal densities of ln sigma, what they share."""
    u = np.linspace(-16, 12, 4001)
    return np.minimum(norm.pdf(u, a.P_mean, a.P_std), norm.pdf(u, *b)).sum() * (u[1] - u[0])


constant = {
    name: (s.spectrum.sqrt() < proposals[name].sigma_min).double().mean().item() for name, s in measured.items()
}
print(f"{'':24s}{'shared with EDM density':>24s}{'sigma_max / 80':>16s}{'constant directions':>21s}")
for name, p in proposals.items():
    share = f"{constant[name]:.1%}" if name in constant else ""
    print(f"{name:24s}{overlap(p, (P_mean, P_std)):24.1%}{p.sigma_max / 80:16.2f}{share:>21s}")

# %% [markdown]
# How to read them. Directions in which the data never changes (the padding of Fashion-MNIST, a plain backdrop) can be denoised at every level:
# they stretch $P_\text{std}$ towards low noise, though such a gain is soon learnt. The rules say where there is something to
# learn, not how hard it is or how much it is seen. The network's own curve, once there is one, sees more than a linear denoiser, but
# little where it was hardly trained. With fewer images than values in an image only cosines are tried, which may understate $\sigma_\text{max}$.
#
# ## The same, seen in the networks
#
# *original* predicts $\epsilon$, *edm* is preconditioned. Root mean square error of $D$ at large noise on held-out images, and of the raw
# network, $|D - y| / |c_\text{out}|$.

# %%
if len(networks) < 2:
    print("needs both networks: left out")
else:
    high = [5.0, 20.0, 80.0]
    error = {}
    for name, model in networks.items():
        weighted = loss_curve(model, y, eps, high, std, class_labels=conditions)
        weight = torch.tensor([(s**2 + std**2) / (s * std) ** 2 for s in high], dtype=torch.float64)
        error[name] = weighted / weight[:, None]
    ratio, bounds = [], []
    g = generator(0, 6)
    for a, b in zip(error["original"], error["edm"], strict=True):
        pick = torch.randint(n, (1000, n), generator=g)
        again = (a[pick].mean(1) / b[pick].mean(1)).sqrt()
        ratio.append((a.mean() / b.mean()).sqrt().item())
        bounds.append(again.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist())
    print(
        f"{'sigma':>6s}{'D original':>13s}{'D edm':>9s}{'ratio':>9s}{'95 % interval':>20s}{'F original':>13s}{'F edm':>9s}"
    )
    for i, s in enumerate(high):
        a, b = (error[name][i].mean().sqrt().item() for name in ("original", "edm"))
        scale = [m.column.precondition(torch.tensor(s).double())[1].abs().item() for m in networks.values()]
        shown = f"[{bounds[i][0]:.2f}, {bounds[i][1]:.2f}]"
        print(f"{s:6.0f}{a:13.3f}{b:9.3f}{ratio[i]:9.2f}{shown:>20s}{a / scale[0]:13.4f}{b / scale[1]:9.4f}")
    found += [
        claims.measure("E-47", "trained: error of D, eps over EDM, at sigma = 80", ratio[-1], interval=bounds[-1]),
        claims.measure("E-47", "the same at sigma = 5, 20", ratio[:-1], interval=bounds[:-1], at_least=1.0),
    ]

# %% [markdown]
# ## Verdict

# %%
claims.save(out / "claims.json", found, "08_choose")
print(claims.summary(found))
