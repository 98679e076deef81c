# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 16. Stable Diffusion's own classes, before and after fine-tuning: are black and white reached?
#
# **Claim** (Lin et al. 2023, Figs. 1 and 3). Stable Diffusion, asked for very dark or very bright pictures, makes
# pictures of medium brightness. Fine-tuned with zero terminal SNR, $v$-prediction and trailing steps it does not.
#
# **What would refute it.** The flawed models' black and white lie as far apart as those of the pictures they have
# seen; or `control` spreads them as much as the fixes do; or the fixed models' lie no farther apart than the flawed
# ones'. What counts is the distance from black to white: a shift of both is another error, and is in the table.
#
# Stage `text_to_image` ran that fine-tuning on a small stand-in of the same classes, trained from scratch on captioned
# pictures of known brightness. `flawed` is trained as Stable Diffusion was. Three models are fine-tuned from it, each on as many
# pictures: `control` without the fixes; `lora` with them, by low-rank changes; and `zsnr` with them, of all weights.
# All pictures were drawn in plain diffusers, with the scheduler that comes with each model, from the same noises.

# %% tags=["parameters"]
results = "results/full"
out_dir = ""

# %%
import numpy as np

from lab import ROOT
from lab.report import figures
from lab.report.finding import measured, say, start, table
from lab.studies import text_to_image

out, _ = start("16_text_to_image", out_dir)
drawn = text_to_image.load(ROOT / results / "text_to_image/measures")
words, models, settings, facts = drawn.words, drawn.models, drawn.settings, drawn.facts

# %% [markdown]
# ## The answer

# %%
truth = drawn.floor[-1] - drawn.floor[0]
for setting in settings:
    shares = {name: drawn.distance(name, setting)[0] / truth for name in models}
    says = ", ".join(f"`{name}` **{share:.0%}**" for name, share in shares.items())
    say(f"From black to white, as a share of the data's distance ({drawn.titles[setting]}): {says}.")
figures.save(text_to_image.pictures_figure(drawn), out, "pictures")

# %%
count = len(next(iter(drawn.levels.values())))
say(
    "*Pictures that were asked for with a black, a grey and a white backdrop (rows of each sheet), from the same "
    "noises (columns), by four models. Above without guidance; below with guidance, rescaled. The numbers on this page "
    f"are over {count} pictures a word, of {facts['steps']} steps each; "
    f"every fine-tuning saw {facts['recipe']['images']:,} pictures.*"
)

# %% [markdown]
# ## The level asked for, and the level obtained
#
# *Mean level of the backdrop for each word with its 95 % interval over pictures, drawn and in numbers: without guidance
# (left), with it (right). Dashes are the data after the VAE, and the dotted line is what the law of the next section
# allows a flawed model.*

# %%
figures.save(text_to_image.levels_figure(drawn), out, "levels")
rows = [
    (drawn.titles[setting], name, *(measured(*drawn.level(name, setting, word), "+.3f") for word in words))
    for setting in settings
    for name in models
]
table(rows, ["guidance", "model", *words])

# %% [markdown]
# ## What is known before anything is drawn
#
# The best that any model can do is what the VAE leaves of the levels. The law of `zsnr.brightness`, along the direction of
# latents in which the level moves them, says what the flawed schedule and its first step do to a model that knows each
# prompt's pictures exactly. A trained one has to learn what the words mean, too. At the noisiest steps, where words matter most,
# the $\epsilon$-loss hardly asks for it: its weight on $x_0$ is the SNR. So a flawed model may fall short of the law, but should not
# do better. A fixed model is convincing if it does better than the law lets any flawed model do.

# %%
rows = [("data, after the VAE", *drawn.floor), ("law, flawed model", *drawn.law)]
columns = {"level": "", **dict.fromkeys(words, "+.3f")}
table(rows, columns)

# %%
vae, law = facts["vae"], facts["law"]
rows = [
    ("VAE: root mean square error of a pixel", vae["rmse"]),
    ("VAE: the same of the level", vae["level_rmse"]),
    ("std of the latents", vae["latent_std"]),
    ("std of the (random) text embeddings over the captions, of values of std 1", vae["text_std"]),
    ("Λ, variance of latents along the level's direction, all pictures", law["variance"]),
    ("the same, of one prompt", float(np.mean(law["within"]))),
    ("correlation of that direction with the level", law["correlation"]),
    ("ᾱ at the first step", law["alpha_bar"]),
    ("the leak, ᾱ Λ, all pictures", law["alpha_bar"] * law["variance"]),
]
table(rows, {"": "", "value": ".4g"})

# %% [markdown]
# The audit of each pipeline, as `zsnr.audit` gives it:

# %%
audit = facts["audit"]
rows = [(name, audit[name]["verdict"]) for name in models]
table(rows, ["model", "verdict of the audit"])

# %% [markdown]
# ## From black to white, and the spread over all words
#
# The distance from black to white is taken picture by picture, from the same noise and of the same garment. The standard deviation of the
# level is over the pictures of all words, with an interval by bootstrap. A flawed model that does not hear the words at all takes its
# brightness from the noise alone, and the law for all pictures together says how little of it there is.

# %%
rows = []
for setting in settings:
    for name in models:
        far, spread = drawn.distance(name, setting), drawn.spread(name, setting)
        rows.append((drawn.titles[setting], name, measured(*far), f"{far[0] / truth:.0%}", measured(*spread)))
allowed = drawn.law[-1] - drawn.law[0]
rows.append(("", "data, after the VAE", truth, "100%", vae["level_std"]))
rows.append(("", "law, flawed model", allowed, f"{allowed / truth:.0%}", None))
rows.append(("", "law, words not heard", None, "", drawn.unheard()))
table(rows, ["guidance", "model", "white less black", "share of the data's", "std over all words"])

# %% [markdown]
# ## Verdict
#
# All checks go by intervals over pictures. There is one training of each kind, so they say nothing of other seeds. A check *beside* decides nothing.

# %%
checks = {setting: text_to_image.checks(drawn, setting) for setting in settings}
rows = [(drawn.titles[s], what, "decides" if decides else "beside", holds)
        for s in settings for what, decides, holds in checks[s]]  # fmt: skip
table(rows, ["guidance", "check", "", "holds"])

# %%
for setting in settings:
    holds = all(holds for _, decides, holds in checks[setting] if decides)
    say(f"The claim **{'holds' if holds else 'does not hold'}** here, {drawn.titles[setting]}.")
