# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Guidance, prompts and starts: what the zero-SNR findings ask of the trained models
#
# Every picture that findings 9, 11, 12 and 14 need beyond the `evaluate` stage is drawn here, from the models of seed 3, and measured; cells
# that two of them need are drawn once.

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
from lab.measure import evaluation, metrics, saturation, store, sweep
from lab.measure.evaluation import REAL, Cell
from lab.measure.starts import picture_of, start_at
from lab.models import data, network
from lab.models.variants import VARIANTS
from zsnr.finetune.loop import generator
from zsnr.finetune.recipe import precision_facts

lab.threads(threads)
out, _ = lab.folders(out_dir)
folder = ROOT / results
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")
reference, _ = train.draw(real, generator(2, 0))
judge = evaluation.Judge(metrics.Classifier.load(folder / "classifier/classifier.safetensors"), reference)
inception = partial(metrics.inception_score, judge.classifier)
models = {
    name: network.load(folder / "zsnr" / ("train" if name == "base" else f"finetune/{name}") / "weights.safetensors")[0]
    for name in VARIANTS
}
pictures, measures = {}, {}  # by cell


def draw(cell, n):
    """Draw a cell, or take it where as many pictures of it are there already."""
    if len(pictures.get(cell, ())) < n:
        x = pictures[cell] = evaluation.draw_cell(models[cell.model], cell, n, precision)
        print(
            f"{cell!s:46s} level {data.level(x).mean():+.2f}, saturated {saturation.saturated(x).mean():.3f}",
            flush=True,
        )
    return cell


def measure(cell):
    """Everything about a cell, with intervals of its Frechet distance and Inception score."""
    x = pictures[cell]
    measures[cell] = {**judge(x), "n": len(x), "frechet_interval": sweep.jackknife(judge.frechet, x)}
    measures[cell]["inception_interval"] = sweep.jackknife(inception, x)


# %% [markdown]
# ## Table 3 under guidance: all fixes, and those left out that need no training

# %%
FEW = REAL.but(part="few")
pictures[REAL] = test.draw(samples, generator(2, 1))[0]
pictures[FEW] = pictures[REAL][:figure_samples]
TABLE = (
    ("base", "leading", 0.0),
    ("control", "leading", 0.0),
    ("zsnr", "trailing", 0.7),
    ("zsnr", "leading", 0.7),
    ("zsnr", "trailing", 0.0),
)
table = [draw(Cell(name, spacing, nfe=short, w=7.5, phi=phi), samples) for name, spacing, phi in TABLE]
for cell in (REAL, FEW, *table):
    measure(cell)

# %% [markdown]
# ## Figure 6: scale and strength

# %%
plain = Cell("zsnr", "trailing", nfe=short)
cells = [draw(plain, figure_samples)]
cells += [draw(plain.but(w=w, phi=phi), figure_samples) for w in scales for phi in strengths]
for space in ("x0", "eps"):
    cells += [draw(plain.but(w=7.5, phi=phi, space=space), figure_samples) for phi in space_strengths if phi]
for cell in cells:
    x = pictures[cell][:figure_samples]
    measures[cell.but(part="figure6")] = {
        **judge(x),
        "n": len(x),
        "frechet_interval": sweep.jackknife(judge.frechet, x),
    }

# %% [markdown]
# ## Prompts: a class and a word for its backdrop
#
# Black and white in every cell; the words between in each model's own spacing, without guidance and with all of it.

# %%
n = prompt_samples
figure3 = []
for name, kind in VARIANTS.items():
    for spacing in ("leading", "linspace", "trailing"):
        for word in data.WORDS:
            extreme = word in ("black", "white")
            if not extreme and spacing != kind.spacing:
                continue
            cell = Cell(name, spacing, nfe=short, prompt=word)
            drawn = [draw(cell, n), draw(cell.but(w=7.5, phi=0.7), n)]
            if extreme:
                drawn.append(draw(cell.but(w=7.5), n))
                draw(cell.but(w=7.5, phi=0.7, nfe=prompt_short), n)
            if extreme and name in ("base", "zsnr") and spacing == kind.spacing:
                figure3 += drawn

# %% [markdown]
# ## The leak, direction by direction
#
# Pictures of many steps, without guidance or word, along the data's leading principal components.

# %%
many = long - 1 + long % 2
y = train.draw(real, generator(2, 0))[0].flatten(1).double()
mean = y.mean(0)
_, spread, basis = torch.linalg.svd(y - mean, full_matrices=False)
constant = torch.full_like(mean, 1 / math.sqrt(len(mean)))
axes = torch.cat([constant[None], basis[:directions]])
projections = {}
for name in VARIANTS:
    cell = Cell(name, "trailing", "heun", many)
    x = pictures[cell] = evaluation.draw_cell(models[name], cell, leak_samples, precision)
    projections[cell] = (x.flatten(1).double() @ axes.T).float()

# %% [markdown]
# ## Starts that need no fine-tuning
#
# The flawed base from the terminal marginal it was trained on, $x_T = \sqrt{\bar\alpha_T}\, m + \sqrt{1 - \bar\alpha_T}\,\epsilon$, with $m$ the data's
# mean, a plain level drawn as the data's are, or a picture of the wanted class; prompts from a plain level that suits the word; and
# image-to-image, from a picture of *another* class, noised to part of the way.

# %%
shape = reference.shape[1:]


def begin(cell, n, low=-1.0, high=1.0):
    """Draw a cell from its start."""
    start = start_at(cell.start, train, mean.view(shape), low, high) if cell.start else None
    x = pictures[cell] = evaluation.draw_cell(models["base"], cell, n, precision, start=start)
    print(f"{cell!s:46s} level {data.level(x).mean():+.2f} +- {data.level(x).std():.2f}", flush=True)


for spacing in ("leading", "trailing"):
    cell = Cell("base", spacing, nfe=long)
    for kind in ("", "mean", "level", "image"):
        begin(cell.but(start=kind), start_samples)
    for word in (0, len(data.WORDS) - 1):
        low, high = -1 + 2 * word / len(data.WORDS), -1 + 2 * (word + 1) / len(data.WORDS)
        begin(cell.but(nfe=short, w=7.5, prompt=data.WORDS[word], start="level"), prompt_samples, low, high)
    for strength in edits:
        begin(cell.but(start="edit", strength=strength), start_samples)
seeds = range(start_samples)
inputs = picture_of(train, seeds, [(seed % len(train.classes) + 1) % len(train.classes) for seed in seeds])

# %% [markdown]
# As many pictures are kept as the findings show.

# %%
kept = dict.fromkeys(pictures, 0) | dict.fromkeys(figure3, 6) | dict.fromkeys(cells, 18 // len(scales))
kept |= dict.fromkeys([REAL, *table], 16)
rows = []
for cell, x in pictures.items():
    more = {"projections": projections[cell]} if cell in projections else {}
    rows.append(evaluation.row(cell, x, measures.pop(cell, {}), kept=kept[cell], classifier=judge.classifier, **more))
rows += [store.Row({**evaluation.columns(cell), "replica": 0}, found) for cell, found in measures.items()]
rows.append(
    store.Row({"model": "data", "replica": 0}, tensors={"axes": axes.float(), "edited level": data.level(inputs)})
)
facts = {"directions": directions, "strengths": edits, "long": long, **lab.environment(), **precision_facts(precision)}
store.save(out, rows, facts)
