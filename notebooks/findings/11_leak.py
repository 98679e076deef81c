# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11. The leak: how much brightness a schedule costs, and what helps without training
#
# **Claim** (Lin et al. 2023, Secs. 1, 3.1, 5.4). A schedule that ends above zero SNR leaks "the lowest frequency information,
# such as the overall mean of each channel" at $t = T$. The model learns to take it from its input; from pure noise it then makes
# pictures of medium brightness. Offset noise does not fix the cause.
#
# The paper shows pictures. Here the claim becomes a law with numbers, for any shape, schedule and start.
#
# **What would refute it.** An exact solver of Gaussian data disagrees with the law; trained models lose nothing along the
# directions that it names; or a start that holds the leaked signal does not bring the brightness back.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
pictures = 10000
modes = 64
exact = 50
foregrounds = 200
mean_std = 0.5
shapes = [
    ["32x32 pixels", 1024],
    ["64x64 latent", 4096],
    ["128x128 latent", 16384],
    ["16x60x90 video", 86400],
]
out_dir = ""

# %%
from lab import ROOT
from lab.measure.metrics import interval
from lab.models import data
from lab.report import figures
from lab.report.finding import measured, say, start, table
from lab.studies import leak, leak_figures, leak_models
from lab.studies.leak_models import SPACINGS

out, claim = start("11_leak", out_dir)
train = data.load(ROOT / source)
base = leak_models.load_base(ROOT / results / "zsnr", ROOT / "results/data/data.json", train)
sd = leak.schedules()["Stable Diffusion"].alpha_bar[-1].item()
starts = {spacing: base.spread(base.level(spacing, "level")) for spacing in SPACINGS}

# %% [markdown]
# ## The answer

# %%
share, spread = leak.lost(sd, 4096, mean_std)
prompted = base.prompted()
darkest = min(x.mean().item() for _, x in prompted.values())
say(
    f"Sampled from pure noise, Stable Diffusion's schedule loses {share:.0%} of the mean of a 64x64 latent channel, and leaves its spread "
    f"at {spread:.0%} of the data's; a schedule of zero terminal SNR loses nothing. "
    "**A start that holds the leaked signal brings the brightness back without training**: the levels' spread becomes "
    f"{measured(*starts['leading'], '.2f')} (leading steps) and {measured(*starts['trailing'], '.2f')} (trailing) of the data's, where the law "
    f"says 1. With strong guidance it goes too far: a prompt for black gives a mean level of {darkest:.2f}, where the data end at -1."
)
figures.save(leak_figures.shapes(shapes, mean_std), out, "shapes")

# %% [markdown]
# *The law: share of a channel's mean that is lost (left), and what is left of its spread (right), by the number of positions
# that share the mean. The mean varies by half of the data's standard deviation from picture to picture. The cosine
# schedule loses next to nothing from $T$, but much where sampling starts at the first of 50 leading steps.*
#
# ## The law
#
# Take Gaussian data and one direction $u$ in which it has mean $\mu$ and variance $L$; for $n$ pixels that share a
# mean, $L = n\,\mathrm{Var}(\mathrm{mean})$. In training, $x_\varphi = \cos\varphi\, x_0 + \sin\varphi\,\epsilon$ with
# noise of variance $\nu$ along $u$ has variance $d = \bar\alpha L + (1 - \bar\alpha)\,\nu$ there, $\bar\alpha = \cos^2\varphi$. The
# probability-flow ODE is linear, so along $u$ it can only shift and scale: $x_0 = \mu + \sqrt{L / d}\,(x_\varphi -
# \cos\varphi\,\mu)$. Put in what sampling starts from, $x = \sqrt{\bar\alpha}\, m + \sqrt{1 - \bar\alpha}\,\epsilon'$:
#
# $$\mathrm{mean} = \mu + \sqrt{\bar\alpha L / d}\;(\bar m - \mu), \qquad
# \frac{\mathrm{std}}{\sqrt L} = \sqrt{\frac{\bar\alpha\,\mathrm{Var}(m) + (1 - \bar\alpha)\,\nu'}{d}} .$$
#
# Pure noise is the start whose $m$ is noise. Then the mean loses the share $\sqrt{\bar\alpha L / d}$ of itself. At
# $\bar\alpha = 0$ nothing is lost, whatever $L$. The check is an adaptive solver at a tolerance of $10^{-11}$, on a denoiser written out for this purpose.

# %%
errors = leak.errors_of_the_law()
what = (
    "Gaussian data, ODE's limit less the law: largest error of mean and std ratio, 4 schedules, 2 first steps, 3 starts"
)
claim("Z-06", what, errors["iid"], equal=0.0, abs=1e-8)
claim("Z-24", "the same, trained with offset noise", errors["offset"], equal=0.0, abs=1e-8)
say(f"Law and solver agree to better than 1e-8: {max(errors.values()) < 1e-8}.")

# %% [markdown]
# ## Trained models, direction by direction
#
# The models draw with many Heun steps from pure noise. Their pictures are projected on the constant image and on the data's
# leading principal components, and the spread along each is compared with the law for that class's Gaussian. The rival of the law is that
# there is no leak, and every ratio is 1. The check is over the models that were trained on the flawed schedule with the iid noise
# of the law. Offset noise is another noise, and its model is held against the law of that one.

# %%
directions = leak_models.directions(base, train, pictures, modes, exact, foregrounds)
relative, span = directions.over_rival
what = "std along the constant image and the leading components, flawed models: rms error of the law over that of 'no leak'"
note = f"over {' and '.join(directions.flawed)}; the law takes each class as a Gaussian; the data's levels are uniform, which leaks less"
claim("Z-06", what, relative, interval=span, at_most=1.0, note=note)
figures.save(leak_figures.along(directions), out, "directions")
(whole, rival), (own, own_rival) = directions.errors(*directions.flawed), directions.errors("offset")
constant = {name: directions.errors(name, axes=slice(1)) for name in directions.flawed}
worse = sum(law > no_leak for law, no_leak in constant.values())
each = ", ".join(f"{name} {law:.3f} against {no_leak:.3f}" for name, (law, no_leak) in constant.items())
say(
    f"Over {' and '.join(constant)} the root mean square error of the law is {whole:.3f}, that of no leak {rival:.3f}. Their ratio is "
    f"{measured(relative, span)}; below 1 the law is the better one. **On the constant image alone the law errs more than no leak for {worse} "
    f"of the {len(constant)} models** ({each}). With offset noise, over all directions, its own law errs by {own:.3f}, no leak by {own_rival:.3f}."
)

# %% [markdown]
# *Spread along each direction over the data's, measured against the law. The spread shrinks most with offset noise, by a
# little less than the law. Base and control lie above it at the constant image: levels are
# uniform and not Gaussian, which leaks less (the exact denoiser shows how much less), and a network errs. The zero-SNR
# model, which loses nothing, shows how far the network's errors and the number of pictures reach.*
#
# ## Who has the flaw, and by how much
#
# $n$ is the number of positions in space and time: 64x64 are Stable Diffusion's latents at 512 pixels, 128x128 those of
# SDXL at 1024. Share of the mean that is lost from $T$; *at 50* is the same for 64x64 at the first of 50 steps, where the scheduler starts by default.

# %%
rows = [
    (name, f"{end:.1e}", *(leak.lost(end, n, mean_std, offset, own)[0] for _, n in shapes),
     None if first is None else leak.lost(first, 4096, mean_std)[0])
    for name, end, first, offset, own in leak.ends()
]  # fmt: skip
still = [leak.lost(sd, n, mean_std, 0.01)[0] for _, n in shapes]
what = "Gaussian data, Stable Diffusion's schedule with offset noise 0.1: share of the mean still lost, by shape"
claim("Z-24", what, still, note="the closed form; 0 at zero SNR")
table(rows, ["schedule, or diffusers' schedulers by default", "alpha_bar_T", *(name for name, _ in shapes), "at 50"])

# %% [markdown]
# ## Another start, without training
#
# By the law the flawed model is exact from the marginal that it was trained on. That can be drawn: noise a picture $m$ to
# the first step's $\bar\alpha$. Only the lowest frequencies of $m$ matter, so a plain level should do. If the leak is the cause,
# then to change the start alone brings the spread back.

# %%
figures.save(leak_figures.starts(base), out, "starts")
gains = [(spacing, kind, base.gain(spacing, kind)) for spacing in SPACINGS for kind in ("level", "image")]
values, spans = zip(*(gain for *_, gain in gains), strict=True)
what = "flawed base from the terminal marginal it was trained on, less from pure noise: std ratio gained (level and picture starts, leading and trailing)"
claim("Z-06", what, values, interval=spans, at_least=0.0)
table(
    [(spacing, leak_models.STARTS[kind], gain) for spacing, kind, gain in gains], ["steps", "start", "std ratio gained"]
)

# %% [markdown]
# *Spread of the level over the data's, by what sampling starts from: pure noise; the data's mean picture; a plain level, drawn as the data's; a
# picture of the class. DDIM, no guidance. Crosses: the law for uniform levels in many steps; diamonds: for Gaussian levels in these steps.*
#
# **Does the start overshoot?** A band of 0.1 around the law is the check:

# %%
laws = {spacing: base.law(spacing, "level")[0] for spacing in SPACINGS}
values = [starts[spacing][0] - laws[spacing] for spacing in SPACINGS]
spans = [tuple(end - laws[spacing] for end in starts[spacing][1]) for spacing in SPACINGS]
note = "above it the start overshoots: too dark and too bright"
what = "flawed base from a plain level: std ratio less the law's, within .1 (leading, trailing)"
claim("Z-06", what, values, interval=spans, equal=0.0, abs=0.1, note=note)
say(
    f"From a plain level the spread is {measured(*starts['leading'], '.2f')} of the data's with leading steps and "
    f"{measured(*starts['trailing'], '.2f')} with trailing ones; the law says {laws['leading']:.2f} and {laws['trailing']:.2f}: an excess of "
    f"{values[0]:.2f} and {values[1]:.2f}."
)

# %% [markdown]
# With a prompt it goes further. A word asks for a fifth of $[-1, 1]$; the start is a plain level from that fifth, and
# guidance has $w = 7.5$. The level does shift towards the word. But from pure noise, guidance has already taken it past
# the end of the data's range, and now it is even further.

# %%
rows, shifts = [], []
for cell, (plain, x) in prompted.items():
    side = 1 if cell.prompt in data.WORDS[len(data.WORDS) // 2 :] else -1
    found = [(v.mean().item(), interval(v.tolist())) for v in (plain, x, side * (x - plain))]
    rows.append((cell.prompt, f"{cell.spacing}, {cell.nfe}", *found))
    shifts.append(found[-1])
values, spans = zip(*shifts, strict=True)
what = "prompts black and white, guided: shift of the level towards the word by a start of suitable level (leading and trailing)"
claim("Z-06", what, values, interval=spans, at_least=0.0)
table(rows, ["word", "steps", "from pure noise", "from a level of the word", "shift towards the word"])

# %% [markdown]
# ## Image-to-image keeps the brightness of its input
#
# Of a picture noised to $\bar\alpha$, the share $\sqrt{\bar\alpha L / d}$ of its level's distance from the data's mean survives, and the rest is
# fresh. $L$ is large for the level; of directions in which the data hardly vary, little is kept. The input is a picture of *another* class than is asked for.

# %%
strongest = max(base.strengths)
slopes, spans = zip(*(base.edited(spacing, strongest)[2] for spacing in SPACINGS), strict=True)
figures.save(leak_figures.edits(base), out, "edits")

# %% [markdown]
# *Left: level of the output against that of the input, each point a picture. Right: the slope of that relation (circles) and the share
# of pictures that a classifier still takes for the input's class (squares), by strength. The level survives where the class is gone.*
#
# ## A recipe
#
# 1. *Look up the shape.* With $\lambda = n\,\mathrm{Var}(\mathrm{mean})\,\bar\alpha_T$ the mean loses about $\sqrt{\lambda / (1 + \lambda)}$ of
#    its distance from 0. Below $\lambda = 10^{-4}$ (1 % of the mean) there is nothing to mend.
# 2. *Without fine-tuning,* change the start: a plain picture of the wanted brightness, noised to the first step's $\bar\alpha$ with the
#    scheduler's `add_noise`. By the law this is exact; with strong guidance it goes too far: look at the result.
# 3. *Mind the first step*: from pure noise at $t < T$ even the cosine schedule leaks. Take trailing steps.
# 4. *With fine-tuning*: zero terminal SNR and $v$-prediction (findings 3 and 14). By the law nothing is lost then.
#
# ## Verdict

# %%
note = "the lowest frequency survives noise that the rest does not; the class asked for is another"
what = f"image-to-image at strength {strongest:g}: slope of the level less the share that keeps the input's class (leading, trailing)"
claim("Z-06", what, slopes, interval=spans, at_least=0.0, note=note)
claim.verdict()
