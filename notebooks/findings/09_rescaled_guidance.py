# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 9. Guidance at zero SNR: over-exposed, rescaled, plain?
#
# **Claim** (Lin et al. 2023, Sec. 3.4, Eqs. 13 to 16, Algorithm 2, Fig. 6). "As the terminal SNR approaches zero,
# classifier-free guidance becomes very sensitive and can cause images to be overexposed." Imagen's remedy, dynamic
# thresholding, works in image space only. The paper rescales the guided prediction to the standard deviation of the
# positive one,
#
# $$x_\mathrm{cfg} = x_\mathrm{neg} + w (x_\mathrm{pos} - x_\mathrm{neg}), \qquad
# x_\mathrm{final} =
# \Big(\phi\, \frac{\mathrm{std}(x_\mathrm{pos})}{\mathrm{std}(x_\mathrm{cfg})} + 1 - \phi\Big)\, x_\mathrm{cfg},$$
#
# and chooses $\phi = 0.7$ at $w = 7.5$; fully rescaled pictures ($\phi = 1$) are "overly plain".
#
# **What would refute it.** Rescaling does not restore the standard deviation; guided pictures are no more over-exposed
# than others, or lose no contrast at $\phi = 1$; or, for exact denoisers, guidance amplifies as much on the flawed
# schedule as at zero SNR. The paper measures none of this on pictures. Here *over-exposed* is the share of pixels with
# $|x| > 1.02$ before clamping, and *plain* means little contrast, the standard deviation of a picture's own pixels.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
foregrounds = 100
states = 5
angles = 21
out_dir = ""

# %%
import torch

from lab import ROOT
from lab.measure.laws import amplification
from lab.models import data
from lab.report import figures
from lab.report.finding import measured, say, start, table
from lab.studies import guided_pictures
from lab.studies import rescaled_guidance as rescaling
from lab.studies import rescaled_guidance_figures as draw
from lab.studies.rescaled_guidance import PHI, W
from zsnr.finetune import loop
from zsnr.guidance import rescaled, std

out, claim = start("09_rescaled_guidance", out_dir)

# %%
train = data.load(ROOT / source)
guided = guided_pictures.load_guided(ROOT / results, len(train.classes))
free, part, full = guided.cells[W, 0.0, "v"], guided.none.but(w=W, phi=PHI), guided.cells[W, 1.0, "v"]

# %% [markdown]
# ## The answer

# %%
over, contrast = (
    [guided.measure(cell, what)[0] for cell in (guided.none, free, part, full, guided_pictures.FEW)]
    for what in ("saturated", "contrast")
)
say(
    f"At $w = {W:g}$, {over[1]:.1%} of the pixels lie beyond the data's range, against {over[0]:.1%} without guidance; rescaling with "
    f"$\\phi = {PHI:g}$ brings that down to {over[2]:.1%}. The contrast is {contrast[1]:.2f} guided, {contrast[2]:.2f} at "
    f"$\\phi = {PHI:g}$ and {contrast[3]:.2f} at $\\phi = 1$; that of real pictures is {contrast[4]:.2f}. So full rescaling makes pictures "
    f"plainer than guidance alone; their contrast differs from that of real ones by {contrast[3] - contrast[4]:+.3f}."
)
figures.save(draw.figure6(guided), out, "figure6")

# %% [markdown]
# *Figure 6 of the paper, with our model of zero terminal SNR: trailing DDIM, guidance towards a class, three guidance
# scales $w$; from top to bottom without guidance, and with more and more rescaling $\phi$. Every column starts from the
# same noise. The values are clamped, as in an image file.*
#
# ## Algorithm 2, without a network
#
# Two predictions of equal standard deviation and correlation $c$ give
# $\mathrm{std}(x_\mathrm{cfg}) / \mathrm{std}(x_\mathrm{pos}) = \sqrt{w^2 + (1 - w)^2 + 2 w (1 - w) c}$: the less the
# two agree, the more guidance amplifies. This is checked on vectors that have exactly that correlation. The algorithm, line by line as
# the paper prints it, is the reference. On a constant prediction, such as that of a plain picture, it divides
# 0 by 0; the package does not.

# %%
g = loop.generator(9, 0)
correlations = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99], dtype=torch.float64)
pos, neg = rescaling.correlated(correlations, g)
cfg = neg + W * (pos - neg)
final = {phi: rescaled(cfg, pos, phi) for phi in (0.0, PHI, 1.0)}
ratios = [(std(x) / std(pos)).flatten() for x in (cfg, final[PHI], final[1.0])]
law = [amplification(W, c) for c in correlations.tolist()]
rows = list(zip(correlations.tolist(), law, *(r.tolist() for r in ratios), strict=True))
table(rows, ["c", "closed form", "std(cfg) / std(pos)", f"rescaled, φ = {PHI:g}", "rescaled, φ = 1"])

# %%
printed = max((rescaling.algorithm2(pos, neg, W, phi) - x).abs().max().item() for phi, x in final.items())
cosine = torch.cosine_similarity(final[PHI].flatten(1), cfg.flatten(1))
claim("Z-16", "the package against Algorithm 2 as printed: largest difference", printed, at_most=1e-12)
claim("Z-16", "std(cfg) / std(pos), w = 7.5, c = .5 to .99", ratios[0].tolist(), equal=law, abs=1e-9)
claim("Z-16", "std(final) / std(pos) at phi = 1", ratios[2].tolist())
claim("Z-16", "change at phi = 0", (final[0.0] - cfg).abs().max().item(), equal=0.0)
claim("Z-16", "cosine between final, phi = .7, and cfg", cosine.tolist(), equal=[1.0] * len(law), abs=1e-9)
claim("Z-16", "finite on constant predictions, share of cases", rescaling.finite_on_constants(), equal=1.0)

# %% [markdown]
# ## Over-exposed, and rescaled: the trained model
#
# All cells start from the same noises, so differences are taken picture by picture.

# %%
figures.save(draw.strength(guided), out, "strength")
note = f"trained model, class labels, w = {W:g}, {guided.count} pictures, paired by noise"
for what, a, b, measure, band in (
    ("contrast, phi = .7 less phi = 0", part, free, "contrast", {"note": note}),
    ("contrast, guided (phi = 0) less unguided", free, guided.none, "contrast", {"at_least": 0.0}),
    ("over-exposed pixels, guided (phi = 0) less unguided", free, guided.none, "saturated", {"at_least": 0.0}),
    ("over-exposed pixels, phi = .7 less phi = 0", part, free, "saturated", {"at_most": 0.0}),
):
    value, span = guided.difference(a, b, measure)
    claim("Z-16", what, value, interval=span, **band)
    say(f"- {what}: {measured(value, span)}")

# %% [markdown]
# *By rescaling strength $\phi$, at three guidance scales: over-exposure, contrast, the Fréchet distance (a jackknife over
# tenths of the pictures), and the share that a classifier takes for the class asked for. Open marks: $x_0$ or $\epsilon$ is
# rescaled in place of $v$. The line of real pictures says what as many of them have.*
#
# ## Is full rescaling overly plain?
#
# *Plain* is read as less contrast than real pictures have. The paper finds its best $\phi$ by eye.

# %%
best, level_with = guided.best()
told = f"by Frechet distance the best phi is {best:g}, but phi = {', '.join(f'{phi:g}' for phi in level_with)} are not told apart"
plainer, span = guided.beside_real(full)
claim("Z-17", "contrast, phi = 1 less real pictures'", plainer, interval=span, note=told)
over_free, over_span = guided.difference(free, guided.none, "saturated")
claim("Z-17", "over-exposed pixels, phi = 0 less no guidance", over_free, interval=over_span, at_least=0.0, note=note)
change, change_span = guided.difference(full, free, "contrast")
claim("Z-17", "contrast, phi = 1 less phi = 0", change, interval=change_span, at_most=0.0)
say(f"Contrast at $\\phi = 1$ less real pictures': {measured(plainer, span)}; {told.replace('Frechet', 'Fréchet')}.")

# %% [markdown]
# ## Is guidance more sensitive at zero SNR?
#
# How much the two predictions agree depends on the data and on the schedule. Exact denoisers of garments on uniform backdrops know both
# predictions: without a condition, and for a class, or for a class and a word for the level. At $t = T$ a schedule
# matters only through its last angle, so schedules whose $\bar\alpha_T$ shrinks from Stable Diffusion's value to 0 are the noisy end of one curve.

# %%
branches = rescaling.branches(train, foregrounds, states, g)
terminal = branches.terminal()
from_noise = branches.at(rescaling.COS_T, noise_only=True)
figures.save(draw.sensitivity(branches, *branches.curve(angles), terminal), out, "sensitivity")

# %% [markdown]
# *Exact denoisers at $w = 7.5$. Left: how much guidance amplifies the standard deviation of $v$, $x_0$ and $\epsilon$ along the way
# from image to noise. Middle: the same at $t = T$, for schedules that end ever closer to zero SNR. Right: what is left of it in $x_0$ when
# $v$, $x_0$ or $\epsilon$ is rescaled with $\phi = 1$: rescaling $\epsilon$ does nothing, since both predictions of $\epsilon$ are nearly the noise itself.*

# %%
what = "std(cfg) / std(pos) of x0 from plain noise, by class: zero SNR less the flawed schedule's T"
for condition in branches.conditions:
    apart = terminal[0][condition, "x0"]["amplification"] - from_noise[condition, "x0"]["amplification"]
    value, span = branches.mean(apart)
    what = what.replace("by class:", f"by {condition}:")
    band = {"note": "exact denoisers, w = 7.5"} if condition == "class" else {"at_least": 0.0}
    claim("Z-18", what, value, interval=span, **band)
    say(f"- {what}: {measured(value, span)}")

# %% [markdown]
# The comparison that decides is of the state that sampling really starts from, plain noise, and of $x_0$, which reaches the
# picture. On noised pictures, which are what training sees, guidance does become more sensitive step by step:

# %%
steps = [
    ("std(cfg) / std(pos), v at zero SNR less eps at the flawed schedule's T", (0, "v"), (1, "eps")),
    ("std(cfg) / std(pos) of x0, zero SNR less the flawed schedule's T", (0, "x0"), (1, "x0")),
    *((f"std(cfg) / std(pos) of v, alpha_bar_T from {a:.2f} to {b:.2f} of SD's", (b, "v"), (a, "v"))
      for a, b in rescaling.NEIGHBOURS),
]  # fmt: skip
rows = []
for what, (a, space_a), (b, space_b) in steps:
    pairs = [(terminal[a][c, space_a], terminal[b][c, space_b]) for c in branches.conditions]
    found = [branches.mean(x["amplification"] - y["amplification"]) for x, y in pairs]
    means, spans = zip(*found, strict=True)
    name = f"noised pictures: {what}, by {' and by '.join(branches.conditions)}"
    claim("Z-18", name, means, interval=spans, at_least=0.0)
    rows.append((what, *found))
table(rows, ["noised pictures", *branches.conditions])

# %% [markdown]
# ## Dynamic thresholding needs known bounds
#
# Imagen clips a predicted $x_0$ to $[-s, s]$ and divides by $s$, a high percentile of $|x_0|$. It must leave a *real*
# picture alone, so no network is needed to see where it can work. Our pictures have the bounds $\pm 1$ that it assumes. A latent space has
# others; a random rotation of the pixels, scaled to standard deviation 1, stands in for one.

# %%
real = branches.x0[: len(branches.x0) // 2]
latent = rescaling.moved(rescaling.rotated(real, g))
beyond = rescaling.thresholded(branches.guided_x0("class")).abs().max().item()
value, span = branches.mean(latent)
say(
    f"Real pictures change by {rescaling.moved(real).max():.3f} at most in image space, and by {value:.2f} of their size rotated."
)

# %% [markdown]
# ## Verdict

# %%
claim("Z-18", "dynamic thresholding in image space: guided x0, largest |x|", beyond, at_most=1.0)
claim("Z-18", "its rms change of a real picture, at most", rescaling.moved(real).max().item(), equal=0.0)
note = "a random rotation stands in for a latent space; real latents are not tried"
what = "the same in a rotated space, over the picture's rms"
claim("Z-18", what, value, interval=span, at_least=0.1, note=note)
claim.verdict()
