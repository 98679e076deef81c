# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Guidance, prompts and starts: what the zero-SNR studies ask of the trained models
#
# Every picture that notebooks 9, 11, 12 and 14 need beyond the `evaluate` stage is drawn here, from the models of seed 3, and measured; cells
# that two of them need are drawn once. A cell's name is `model/spacing-sampler-evaluations` and then what differs from plain sampling: `w7.5`,
# `phi0.7`, the space of the rescaling where it is not $v$, the caption word, the start.

# %% tags=["parameters"]
results = "results/smoke"
source = "data/fashion-mnist"
real = 512
short = 5
long = 10
samples = 64
figure_samples = 32
scales = [3.0, 7.5]
strengths = [0.0, 0.7, 1.0]
space_strengths = [1.0]
prompt_samples = 10
prompt_short = 4
leak_samples = 64
directions = 4
start_samples = 32
edits = [0.5]
precision = "float32"
threads = 1
out_dir = ""

# %%
import math
from functools import partial

import torch

import lab
from lab import ROOT
from lab.measure import evaluation, metrics, saturation, sweep
from lab.models import data, network
from lab.models.variants import VARIANTS
from zsnr.finetune import loop
from zsnr.prediction import cos_sin

lab.threads(threads)
out, _ = lab.folders(out_dir)
folder = ROOT / results
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")
reference, _ = train.draw(real, loop.generator(2, 0))
judge = evaluation.Judge(metrics.Classifier.load(folder / "classifier/classifier.safetensors"), reference)
models = {
    name: network.load(folder / ("train" if name == "base" else f"finetune/{name}") / "weights.safetensors")[0]
    for name in VARIANTS
}
pictures, measures = {}, {}


def draw(name, spacing, evaluations, n, scale=1.0, rescale=0.0, space="v", word=None):
    """The name of a cell, drawn or, where more of it is there already, shared."""
    parts = [f"{name}/{spacing}-ddim-{evaluations}"]
    if scale != 1:
        parts += [f"w{scale:g}", f"phi{rescale:g}", *([space] if space != "v" and rescale else [])]
    parts += [] if word is None else [data.WORDS[word]]
    key = "-".join(parts)
    if len(pictures.get(key, ())) < n:
        guidance = {"scale": scale, "rescale": rescale, "space": space} if scale != 1 else None
        cell = evaluation.Cell(spacing, "ddim", evaluations)
        pictures[key] = evaluation.draw(models[name], name, cell, n, precision, word=word, guidance=guidance)
        x = pictures[key]
        print(
            f"{key:46s} level {data.level(x).mean():+.2f}, saturated {saturation.saturated(x).mean():.3f}", flush=True
        )
    return key


def measure(key):
    """Everything about a cell, with intervals of its Frechet distance and Inception score."""
    x = pictures[key]
    measures[key] = {**judge(x), "n": len(x), "frechet_interval": sweep.jackknife(judge.frechet, x)}
    inception = partial(metrics.inception_score, judge.classifier)
    measures[key]["inception_interval"] = sweep.jackknife(inception, x)


# %% [markdown]
# ## Table 3 under guidance: all fixes, and those left out that need no training

# %%
pictures["real"] = test.draw(samples, loop.generator(2, 1))[0]
pictures["real/few"] = pictures["real"][:figure_samples]
for key in ("real", "real/few"):
    measure(key)
TABLE = (
    ("base", "leading", 0.0),
    ("control", "leading", 0.0),
    ("zsnr", "trailing", 0.7),
    ("zsnr", "leading", 0.7),
    ("zsnr", "trailing", 0.0),
)
table = [draw(name, spacing, short, samples, 7.5, rescale) for name, spacing, rescale in TABLE]
for key in table:
    measure(key)

# %% [markdown]
# ## Figure 6: scale and strength

# %%
cells = [draw("zsnr", "trailing", short, figure_samples)]
for scale in scales:
    cells += [draw("zsnr", "trailing", short, figure_samples, scale, rescale) for rescale in strengths]
for space in ("x0", "eps"):
    cells += [
        draw("zsnr", "trailing", short, figure_samples, 7.5, rescale, space) for rescale in space_strengths if rescale
    ]
figure6 = {key: pictures[key][:figure_samples] for key in cells}
for key, x in figure6.items():
    measures[f"figure6/{key}"] = {**judge(x), "n": len(x), "frechet_interval": sweep.jackknife(judge.frechet, x)}

# %% [markdown]
# ## Prompts: a class and a word for its backdrop
#
# Black and white in every cell; the words between in each model's own spacing, without guidance and with all of it.

# %%
n = prompt_samples
prompts = []  # the cells of Figure 3
for name, kind in VARIANTS.items():
    for spacing in ("leading", "linspace", "trailing"):
        for word in range(len(data.WORDS)):
            extreme = data.WORDS[word] in ("black", "white")
            if not extreme and spacing != kind.spacing:
                continue
            answers = [draw(name, spacing, short, n, word=word), draw(name, spacing, short, n, 7.5, 0.7, word=word)]
            if extreme:
                answers.append(draw(name, spacing, short, n, 7.5, 0.0, word=word))
                draw(name, spacing, prompt_short, n, 7.5, 0.7, word=word)
            if extreme and name in ("base", "zsnr") and spacing == kind.spacing:
                prompts += answers

# %% [markdown]
# ## The leak, direction by direction
#
# Pictures of many steps, without guidance or word, along the data's leading principal components.

# %%
many = long - 1 + long % 2
y = train.draw(real, loop.generator(2, 0))[0].flatten(1).double()
mean = y.mean(0)
_, spread, basis = torch.linalg.svd(y - mean, full_matrices=False)
basis = basis[:directions]
constant = torch.full_like(mean, 1 / math.sqrt(len(mean)))
axes = torch.cat([constant[None], basis])
projections = {}
for name in VARIANTS:
    cell = evaluation.Cell("trailing", "heun", many)
    x = evaluation.draw(models[name], name, cell, leak_samples, precision)
    pictures[f"{name}/{cell.name}"] = x
    projections[f"{name}/{cell.name}/projections"] = (x.flatten(1).double() @ axes.T).float()

# %% [markdown]
# ## Starts that need no fine-tuning
#
# The flawed base from the terminal marginal it was trained on, $x_T = \sqrt{\bar\alpha_T}\, m + \sqrt{1 - \bar\alpha_T}\,\epsilon$, with $m$ the data's
# mean, a plain level drawn as the data's are, or a picture of the wanted class; prompts from a plain level that suits the word; and
# image-to-image, from a picture of *another* class, noised to part of the way.


# %%
def picture_of(seeds, classes):
    """A training picture for each seed, of the class that is asked for."""
    chosen = []
    for seed, label in zip(seeds, classes, strict=True):
        g = loop.generator(6, seed)
        index = (train.label == label).nonzero()[:, 0]
        one = index[torch.randint(len(index), (1,), generator=g)]
        chosen.append(train.compose(one, 2 * torch.rand(1, generator=g) - 1))
    return torch.cat(chosen)


def start_at(kind, low=-1.0, high=1.0):
    """(noise, seeds, phi) -> the noised start of that kind; levels lie between low and high."""

    def start(noise, seeds, phi):
        classes = [seed % len(train.classes) for seed in seeds]
        if kind == "mean":
            m = mean.float().view(1, *noise.shape[1:])
        elif kind == "level":
            shares = [torch.rand(1, generator=loop.generator(6, seed)).item() for seed in seeds]
            m = (low + (high - low) * torch.tensor(shares)).view(-1, 1, 1, 1).expand(noise.shape)
        else:
            shift = 1 if kind == "edit" else 0
            m = picture_of(seeds, [(k + shift) % len(train.classes) for k in classes])
        c, s = cos_sin(phi)
        return c * m.to(noise) + s * noise

    return start


for spacing in ("leading", "trailing"):
    cell = evaluation.Cell(spacing, "ddim", long)
    go = partial(evaluation.draw, models["base"], "base", cell, start_samples, precision)
    pictures[f"base/{cell.name}"] = go()
    for kind in ("mean", "level", "image"):
        pictures[f"base/{cell.name}-start-{kind}"] = go(start=start_at(kind))
    for word in (0, len(data.WORDS) - 1):
        low, high = -1 + 2 * word / len(data.WORDS), -1 + 2 * (word + 1) / len(data.WORDS)
        key = f"base/{spacing}-ddim-{short}-w7.5-phi0-{data.WORDS[word]}-start-level"
        pictures[key] = evaluation.draw(
            models["base"],
            "base",
            evaluation.Cell(spacing, "ddim", short),
            prompt_samples,
            precision,
            word=word,
            guidance={"scale": 7.5, "rescale": 0.0},
            start=start_at("level", low, high),
        )
    for strength in edits:
        skip = long - round(strength * long)
        pictures[f"base/{cell.name}-edit-{strength:g}"] = go(start=start_at("edit"), skip=skip)
for key, x in pictures.items():
    if (
        "-start-" in key
        or "-edit-" in key
        or key in ("base/leading-ddim-" + str(long), "base/trailing-ddim-" + str(long))
    ):
        print(f"{key:46s} level {data.level(x).mean():+.2f} +- {data.level(x).std():.2f}")
classes = [seed % len(train.classes) for seed in range(start_samples)]
inputs = picture_of(range(start_samples), [(k + 1) % len(train.classes) for k in classes])
projections["edit/input-level"] = data.level(inputs)
measures["edits"] = {"strengths": edits, "long": long}

# %%
measures |= {"directions": directions, "environment": lab.environment()}
# as many pictures as the notebooks show
kept = dict.fromkeys(pictures, 0) | dict.fromkeys(prompts, 6) | dict.fromkeys(cells, 18 // len(scales))
kept |= dict.fromkeys(["real", *table], 16)
saturation.save(out, measures, pictures, judge.classifier, kept, more={**projections, "axes": axes.float()})
