# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12. Prompts for dark and bright pictures: does the model follow?
#
# **Claim** (Lin et al. 2023, abstract, Figs. 1 and 3). The flawed schedule "severely limits the model to only generate images
# with medium brightness and prevents it from generating very bright and dark samples". After the fixes, the model follows prompts for both.
#
# **What would refute it.** The flawed model's black and white are as far from medium grey as they should be; or the
# fixed model's are not; or an exact denoiser, which has nothing to learn, answers alike on the flawed and on the fixed schedule.
#
# The paper shows eight prompts and measures no level. Here a prompt is a class of garment and one of five words: *black*,
# *dark*, *grey*, *light*, *white*. Each word names a fifth of $[-1, 1]$, and every backdrop level in it is as likely. So
# the truth is known: the words mean the levels $-0.8, -0.4, 0, 0.4, 0.8$.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
exact = 100  # garments that the exact denoiser knows
seeds = 64  # noises that it starts from: the first of the models'
out_dir = ""

# %%
from lab import ROOT
from lab.models import data
from lab.models.variants import VARIANTS
from lab.report import figures
from lab.report.finding import measured, say, start, table
from lab.studies import prompts, prompts_figures
from lab.studies.prompts import EXTREMES, average, short_of, truth

out, claim = start("12_prompts", out_dir)
answers = prompts.load_answers(ROOT / results / "zsnr", data.load(ROOT / source), exact, seeds)
plain, unrescaled, guided = answers.settings

# %% [markdown]
# ## The answer

# %%
black, white = EXTREMES
level = {who: [answers.mean(who, plain, word)[0] for word in EXTREMES] for who in ("base", "zsnr", "zsnr_words")}
say(
    f"Asked for black and for white without guidance, the flawed model answers with mean levels {level['base'][0]:.2f} "
    f"and {level['base'][1]:.2f}, where the words mean {truth(black):.1f} and {truth(white):.1f}. Fine-tuned with "
    f"the fixes it answers {level['zsnr'][0]:.2f} and {level['zsnr'][1]:.2f}, and {level['zsnr_words'][0]:.2f} and "
    f"{level['zsnr_words'][1]:.2f} once it has seen a word with every picture."
)

# %%
if answers.exact:
    whole, _, schedule, network = answers.parts("base", plain)
    strong, ideal, *_ = answers.parts("base", unrescaled)
    say(
        f"The flawed model falls short by {whole[0]:.2f}. The schedule alone costs {schedule:.2f} of it (exact "
        f"denoisers, flawed against zero SNR), and the network's own error {network[0]:.2f}. Strong guidance takes "
        f"every answer further from grey: at $w = {guided.w:g}$ the flawed model's shortfall is {strong[0]:.2f}, and "
        f"that of the exact denoiser at zero SNR {ideal:.2f}."
    )
figures.save(prompts_figures.pictures(answers), out, "figure3")

# %% [markdown]
# *Six pictures under black and six under white, from the same noises, by the flawed base with its usual leading steps,
# by the model that was fine-tuned with the fixes, and by the exact denoiser at zero terminal SNR. Rows: without guidance;
# with the paper's guidance scale $w = 7.5$; and with guidance rescaled by the paper's $\phi = 0.7$.*
#
# ## All five words
#
# Guidance complicates the question. It sharpens what the word says, so even a perfect model, guided, does not draw from
# the word's fifth as it is. Therefore a second judge stands beside the truth: the exact denoiser of garments of that
# class on backdrops of that fifth (`lab.models.backdrop`). It starts from the same noises and is guided in the same way.

# %%
figures.save(prompts_figures.every_word(answers), out, "words")
names = [name for name in prompts.NAMES if answers.exact or not name.startswith("exact")]
rows = [
    (prompts.NAMES[name], "no" if setting == plain else f"w = {setting.w:g}, φ = {setting.phi:g}",
     *(answers.mean(name, setting, word)[0] for word in data.WORDS))
    for setting in (plain, guided) for name in names
]  # fmt: skip
table(rows, {"who answers": "", "guided": "", **dict.fromkeys(data.WORDS, "+.2f")})

# %% [markdown]
# *Mean level of the backdrop for each word with its 95 % interval over pictures, without guidance (left) and with the
# paper's (right). Grey: the levels that the word means, and their mean. Without guidance the two flawed models stay too
# near medium grey; the fixed model is near to what the words mean.*
#
# ## The fixed model, held against the truth
#
# Without guidance the fixed model is compared with the truth; guided, with the exact denoiser from the same noises. A
# level within 0.05, an eighth of a word's range, counts as the same. During fine-tuning only a tenth of the pictures
# carried a word, so the model is also trained on with a word for every picture: an error that this removes was a lack of
# training, and not the schedule's.

# %%
for who, label in (("zsnr", "fixed model"), ("zsnr_words", "the same, trained on with a word for every picture")):
    means, spans = zip(*(answers.mean(who, plain, word) for word in EXTREMES), strict=True)
    what = f"{label}, {plain.steps} trailing steps, w = 1: mean level under black and white"
    claim("Z-21", what, means, interval=spans, equal=[truth(word) for word in EXTREMES], abs=0.05)
    if answers.exact:
        pairs = [[answers.paired(one, guided, word).double() for one in (who, "exact")] for word in EXTREMES]
        means, spans = zip(*(average(model - ideal) for model, ideal in pairs), strict=True)
        what = (
            f"{label}, w = {guided.w:g}, phi = {guided.phi:g}: mean level, black and white, less the exact denoiser's"
        )
        claim("Z-21", what, means, interval=spans, equal=[0.0, 0.0], abs=0.05)
if answers.exact:
    figures.save(prompts_figures.heard(answers), out, "heard")

# %% [markdown]
# *Level less the exact denoiser's from the same noise, by word: the network's own error, before and after training with a
# word for every picture. The grey band is what counts as the same.*
#
# ## The flawed models, with and without guidance
#
# A *shortfall* is how far a level lies from the word's mean on the side of medium grey; it is negative where the level
# lies beyond the mean. Without guidance the flawed models fall far short. At the paper's scale, not rescaled, they go beyond it: guidance multiplies
# the difference that the word makes by 7.5, more than making up for what was not learned.

# %%
figures.save(prompts_figures.black_and_white(answers), out, "table")
flawed, note = ("base", "control"), ""
if answers.exact:
    even, least = (answers.shortfalls(who, unrescaled) for who in ("exact flawed", "exact"))
    rescaled = [value for model in flawed for value in answers.shortfalls(model, guided)]
    note = (
        f"guidance moves levels beyond the word's mean: at w = {guided.w:g} even the exact denoiser has shortfalls "
        f"{even[0]:.2f} and {even[1]:.2f} on the flawed schedule, {least[0]:.2f} and {least[1]:.2f} without it; "
        f"the models rescaled, phi = {guided.phi:g}: {', '.join(f'{x:.2f}' for x in rescaled)}"
    )
for setting, remark in ((plain, ""), (unrescaled, note)):
    found = [average(short_of(word, answers.level(m, setting, word))) for m in flawed for word in EXTREMES]
    means, spans = zip(*found, strict=True)
    what = f"flawed models ({', '.join(flawed)}), leading, w = {setting.w:g}: shortfall under black and white"
    claim("Z-21", what, means, interval=spans, at_least=0.0, note=remark)

# %% [markdown]
# *Mean level under black (filled) and under white (open), for every model and every choice of time steps. Rows as in the
# first figure. Grey: the levels that the word means. Diamonds: the exact denoiser on the same schedule. Linspace and
# trailing steps give about the same; leading ones stay nearer to grey, those of the flawed models most where guidance is
# not rescaled. Such guidance takes every model beyond the data's range of $[-1, 1]$, where the exact denoiser
# stops.*
#
# ## Is the schedule the cause?
#
# The exact denoiser decides: on the flawed schedule it falls short by what the schedule costs, and by nothing else. A
# trained model is then held against the exact denoiser at zero terminal SNR, guided alike, so that what guidance does to
# any model is no part of the difference. The claim speaks of black and of white, so we take the smaller shortfall of
# the two, and widen its interval for this choice.

# %%
if answers.exact:
    both = [answers.beside("exact flawed", "exact", plain, word) for word in EXTREMES]
    value, span = average(sum(both) / 2)
    claim(
        "Z-21",
        "exact denoiser, w = 1: shortfall of black and white, flawed schedule less zero SNR",
        value,
        interval=span,
    )
    by_word = [sum(answers.beside(m, "exact", unrescaled, word) for m in flawed) / 2 for word in EXTREMES]
    value, span = prompts.lesser(*by_word)
    what = "flawed models, w = 7.5: shortfall beside the exact denoiser at zero SNR, lesser of black and white"
    claim("Z-21", what, value, interval=span)

# %% [markdown]
# The shortfall in parts, the mean of black and white: what guidance and finitely many steps do to the exact denoiser at zero terminal
# SNR, what the model's own schedule and steps add, and what the network adds.

# %%
say(
    "The network's part holds everything that a network can get wrong: a short training, few words, and, for the flawed "
    "models, which predict $\\epsilon$, an error of $x_0$ that is $\\tan\\varphi$ times as large, "
    f"{VARIANTS['base'].schedule.angle[-1].tan():.1f} times at $T$."
)
shown = [(who, setting) for setting in answers.settings for who in ("base", "control", "zsnr") if answers.exact]
rows = [
    (prompts.NAMES[who], f"w = {s.w:g}, φ = {s.phi:g}", whole, ideal, schedule, network)
    for who, s in shown
    for whole, ideal, schedule, network in [answers.parts(who, s)]
]
table(rows, ["model", "guidance", "shortfall", "guidance and steps", "schedule", "network"])

# %% [markdown]
# Beside the two deciding checks: the same differences for each model and word, and the exact denoiser held against the
# truth on each schedule.

# %%
if answers.exact:
    found = [
        average(answers.beside(m, "exact", s, word)) for s in (plain, unrescaled) for m in flawed for word in EXTREMES
    ]
    what = f"the same models, w = 1 and {guided.w:g}: shortfall beside the exact denoiser, zero SNR, guided alike"
    means, spans = zip(*found, strict=True)
    claim("Z-21", what, means, interval=spans, at_least=0.0)
    for who, schedule, band in (
        ("exact flawed", "flawed schedule, leading", {"at_least": 0.0}),
        ("exact", "zero SNR, trailing", {"equal": [0.0, 0.0], "abs": 0.05}),
    ):
        means, spans = zip(*(average(answers.shortfall(who, plain, word)) for word in EXTREMES), strict=True)
        claim(
            "Z-21", f"exact denoiser, {schedule}, w = 1: shortfall under black and white", means, interval=spans, **band
        )

# %% [markdown]
# ## Offset noise goes too far
#
# Offset noise was made for such prompts (Sec. 5.4). Most users do not know that a model was trained with it and start
# from plain noise. At the paper's guidance scale such a model goes beyond the data: from black to white it covers more
# than the whole range of levels, which is 2. Guidance that is not rescaled takes other models beyond it, too.

# %%
value, span = average(answers.reach("offset", unrescaled))
claim(
    "Z-24", "asked for white less asked for black, leading, w = 7.5, over the data's whole range", value, interval=span
)
more, more_span = average(answers.reach("offset", unrescaled) - answers.reach("control", unrescaled))
claim("Z-24", "the same, less control's", more, interval=more_span, at_least=0.0)

# %% [markdown]
# ## Offset noise in one sentence, and the verdict

# %%
say(
    f"From black to white, offset noise covers {measured(value, span)} of the data's range: "
    f"{more:.2f} more than control. The fixed model covers {average(answers.reach('zsnr', unrescaled))[0]:.2f}."
)
claim.verdict()
