# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 14. Fine-tuning with the fixes: Table 3, and what each fix carries
#
# **Claim** (Lin et al. 2023, Sec. 4, Sec. 5 and Table 3). An existing model, fine-tuned with all fixes, makes better
# pictures than the same model trained on the same data without them, by FID and by Inception score:
#
# | model | FID | IS |
# |---|---|---|
# | official | 23.76 | 32.84 |
# | our data, no fixes | 22.96 | 34.11 |
# | with fixes | 21.66 | 36.16 |
#
# It would be wrong if the fixed model's distance were no smaller, or its score no higher, than that of the model
# without fixes; and a gain would not be the fixes' if more training alone brought it.
#
# The paper fixes four things at once (zero terminal SNR, $v$-prediction, trailing steps, guidance rescale) and leaves
# none of them out. Here each is left out in turn. A Fréchet distance hardly sees brightness, which is what the fixes
# are for, so the distribution of backdrop levels stands beside it.

# %% tags=["parameters"]
results = "results/full"
source = "data/fashion-mnist"
real = 10000
guided_samples = 2000
out_dir = ""

# %%
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from lab import ROOT
from lab.measure import metrics, sweep
from lab.measure.evaluation import REAL, Cell
from lab.measure.store import load
from lab.measure.study import Study, by_cell
from lab.models import data, network, training
from lab.models.variants import find
from lab.report import claims, figures
from zsnr.denoisers import NetworkDenoiser
from zsnr.finetune import loop
from zsnr.prediction import check_prediction, cos_sin

torch.set_num_threads(1)
figures.style()
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
folder = ROOT / results / "zsnr"
found = []
study = Study(folder)
guided = by_cell(load(folder / "guide"))
guided |= {cell: rows[0] for cell, rows in study.rows.items() if cell.w == 7.5}

train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")
reference = data.level(train.draw(real, loop.generator(2, 0))[0])  # what every stage measures levels against
NONE = (math.nan, math.nan)


def evaluations(model):
    """How many evaluations the model's DDIM cells use."""
    return [cell.nfe for cell in study.cells(model=model, spacing="leading", sampler="ddim", w=1.0)]


short, long = min(evaluations("base")), max(evaluations("control"))
check = guided[Cell("control", "leading", nfe=short, w=7.5)]
stored, again = check["level"]["w1"], metrics.wasserstein1(check.tensors["level"], reference)
if abs(stored - again) > 1e-4:
    raise ValueError(f"W1 is {again:.5f} here and {stored:.5f} in the stage: real = {real} is not the stage's")
print(f"{len(study.seeds)} seeds; DDIM with {short} and {long} evaluations of the network")

# %% [markdown]
# ## The same start, the same pictures
#
# The set-up of Sec. 4: one flawed base (`official`, for the paper's official model), and from it two fine-tunings on
# the same data, one with the fixes (`zsnr`) and one without (`control`). What the weights' cards say of it, and what
# training shows to a network that only listens:

# %%
cards = {
    name: network.load(folder / ("train" if name == "base" else f"finetune/{name}") / "weights.safetensors")[1]
    for name in ("base", "control", "zsnr")
}
for name, card in cards.items():
    print(f"{name:8s} predicts {card['prediction']:4s} {card['images']:7d} pictures, seed {card['seed']}")
paper = 50_000 * 2048
print(f"the paper's fine-tuning sees {paper / cards['zsnr']['images']:.0f} times as many")


def shown(variant, images=96, batch=32):
    """What a training of the variant is shown: pictures, conditions, steps and noises."""
    seen = []  # a batch each; training also draws the first one to name its checkpoint, and does not show it
    kind, card = find(variant), cards[variant]

    class Listener(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x, t, class_labels):
            seen[-1] += [class_labels.cpu(), t.cpu(), x.detach().cpu()]
            return self.weight * x

    def draw(n, generator):
        x0, conditions = train.draw(n, generator, 0.1, 0.1)
        seen.append([x0])
        return x0, conditions

    recipe = training.ScheduleRecipe(kind.prediction, images=images, batch=batch, warmup=0, seed=card["seed"])
    with tempfile.TemporaryDirectory() as scratch:
        training.fit(Listener(), draw, kind.schedule, recipe, scratch)
    x0, conditions, t, x = (torch.cat(z) for z in zip(*(batch for batch in seen if len(batch) == 4), strict=True))
    alpha = kind.schedule.sqrt_alpha_bar[t].view(-1, 1, 1, 1)
    return x0, conditions, t, (x - alpha * x0) / (1 - alpha**2).sqrt()


same = [torch.allclose(a, b, atol=1e-4) for a, b in zip(shown("control"), shown("zsnr"), strict=True)]
for name, equal in zip(("pictures", "conditions", "steps", "noises"), same, strict=True):
    print(f"the same {name:10s} {equal}")

# %% [markdown]
# ## Table 3
#
# FD is the Fréchet distance, IS the Inception score, both by this data's own classifier: they compare within a column
# only. Under guidance ($w = 7.5$, the paper's setting; $\phi = 0.7$ with the fixes, 0 without) there is one model of
# each kind, and intervals are over its pictures: jackknife, or Student's $t$ for the share of pictures that the
# classifier takes for the class that was asked for. Without guidance, intervals are over the fine-tuning seeds of one
# base. A distance falls with the number of pictures, so real pictures, as many, stand beside.

# %%
classes = len(train.classes)
plain = {
    "official": Cell("base", "leading", nfe=short),
    "no fixes": Cell("control", "leading", nfe=short),
    "all fixes": Cell("zsnr", "trailing", nfe=short),
}
at_75 = {name: cell.but(w=7.5, phi=0.7 if name == "all fixes" else 0.0) for name, cell in plain.items()}


def text(value, bounds=NONE, sign=""):
    """A value, and its interval where there is one."""
    number = f"{{:{sign}.3f}}".format
    return number(value) + ("" if math.isnan(bounds[0]) else f" [{number(bounds[0])}, {number(bounds[1])}]")


def spread(levels):
    """Std of (n,) backdrop levels over the data's."""
    return (levels.std() / reference.std()).item()


def distance(levels):
    """W1 distance of (n,) backdrop levels to the data's."""
    return metrics.wasserstein1(levels, reference)


LEVEL = {"std_ratio": spread, "w1": distance}


def dig(tree, keys):
    for key in keys:
        tree = tree[key]
    return tree


def on_pictures(cell, *keys):
    """A guided cell's measure, and its interval over pictures, where one can be had."""
    value = dig(guided[cell].measures, keys)
    if keys[0] == "level":
        return value, sweep.jackknife(LEVEL[keys[1]], guided[cell].tensors["level"])
    return value, tuple(guided[cell].measures.get(f"{keys[0]}_interval", NONE))


def recognised(cell):
    """Share of a guided cell's pictures that the classifier takes for the class that was asked for."""
    seen = guided[cell].tensors["class"]
    asked = torch.arange(len(seen)) % classes
    if cell == REAL:
        asked = test.draw(len(seen), loop.generator(2, 1))[1][:, 0]
    right = (seen == asked).double().tolist()
    return float(np.mean(right)), metrics.interval(right)


COLUMNS = {
    "FD": ("frechet",),
    "IS": ("inception",),
    "level std / data": ("level", "std_ratio"),
    "level W1": ("level", "w1"),
}
print("guided, w = 7.5" + "".join(f"{name:>26s}" for name in (*COLUMNS, "recognised")))
for name, cell in {**at_75, "real": REAL}.items():
    values = [on_pictures(cell, *keys) for keys in COLUMNS.values()]
    print(f"  {name:13s}" + "".join(f"{text(*v):>26s}" for v in (*values, recognised(cell))))
print("\nunguided       " + "".join(f"{name:>26s}" for name in COLUMNS))
for name, cell in {**plain, "real": REAL}.items():
    print(f"  {name:13s}" + "".join(f"{study.text(cell, *keys):>26s}" for keys in COLUMNS.values()))

# %% [markdown]
# The differences that the claim is about. Guided level measures are paired by picture, as all models draw from the
# same noises; the intervals of two distances are combined in quadrature, as if they were independent.


# %%
def over_seeds(a, b, *keys):
    """Mean of a - b, paired by seed, and its interval where more than one seed has both."""
    pairs = [(x.measures, y.measures) for x in study.of(a) for y in study.of(b) if x["replica"] == y["replica"]]
    differences = [dig(x, keys) - dig(y, keys) for x, y in pairs]
    return float(np.mean(differences)), metrics.interval(differences) if len(pairs) > 1 else NONE


def over_pictures(a, b, *keys):
    """a - b of guided cells, and its interval over pictures."""
    if keys[0] == "level":
        f = LEVEL[keys[1]]
        n = min(len(guided[cell].tensors["level"]) for cell in (a, b))
        both = torch.stack([guided[cell].tensors["level"][:n] for cell in (a, b)], 1)

        def difference(pair):
            return f(pair[:, 0]) - f(pair[:, 1])

        return difference(both), sweep.jackknife(difference, both)
    (x, of_x), (y, of_y) = on_pictures(a, *keys), on_pictures(b, *keys)
    half = math.hypot(of_x[1] - of_x[0], of_y[1] - of_y[0]) / 2
    return x - y, (x - y - half, x - y + half)


pair = {"unguided": (over_seeds, plain), "guided": (over_pictures, at_75)}
gain = {}
for setting, (difference, cells) in pair.items():
    for name, keys in COLUMNS.items():
        value, (low, high) = difference(cells["all fixes"], cells["no fixes"], *keys)
        # a gain is positive where more is better, and where less is
        gain[setting, name] = (value, (low, high)) if name in ("IS", "level std / data") else (-value, (-high, -low))
print("gain by all fixes " + "".join(f"{name:>28s}" for name in COLUMNS))
for setting in pair:
    print(f"  {setting:16s}" + "".join(f"{text(*gain[setting, name], '+'):>28s}" for name in COLUMNS))

# %% [markdown]
# ## Each fix left out
#
# | left out | what is drawn |
# |---|---|
# | Algorithm 1 | `no-rescale`: $v$, on Stable Diffusion's own schedule, trailing |
# | $v$ | `x0`: the network predicts $x_0$, which zero SNR allows as well |
# | trailing steps | `zsnr` with leading steps |
# | guidance rescale | `zsnr` with $\phi = 0$ (guided only) |
# | all four | `control` with leading steps and $\phi = 0$ |
#
# `no-rescale` and `x0` are trained as `zsnr` is: from the same base, with as many pictures, from the same seeds. A
# third way to leave $v$ out, to keep $\epsilon$, is not defined with Algorithm 1:

# %%
try:
    check_prediction("eps", find("zsnr").schedule)
except ValueError as refusal:
    print(refusal)

# %%
no_rescale, x0 = (Cell(name, "trailing", nfe=short) for name in ("no-rescale", "x0"))
leading = Cell("zsnr", "leading", nfe=short)
without = {
    "Algorithm 1": (no_rescale, no_rescale.but(w=7.5, phi=0.7)),
    "$v$ ($x_0$ in its place)": (x0, x0.but(w=7.5, phi=0.7, space="x0")),
    "trailing steps": (leading, leading.but(w=7.5, phi=0.7)),
    "guidance rescale": (None, plain["all fixes"].but(w=7.5)),
    "all four": (plain["no fixes"], at_75["no fixes"]),
}

fig, axes = plt.subplots(2, 4, figsize=(6.4, 3.7))
sheets = {"all fixes": at_75["all fixes"], **{f"without\n{name}": cell for name, (_, cell) in without.items()}}
del sheets["without\nall four"]
sheets = {"real": REAL, **sheets, "no fixes": at_75["no fixes"], "official": at_75["official"]}
for ax, (name, cell) in zip(axes.flat, sheets.items(), strict=True):
    figures.pictures(ax, guided[cell].tensors["pictures"][:16], 4, name.replace(" ($x_0$ in its place)", ""))
fig.subplots_adjust(wspace=0.06, hspace=0.3)
figures.save(fig, out, "pictures")

# %% [markdown]
# What is lost by leaving each out: FD and W1 without it less with all, spread and IS with all less without it.
# Positive is worse without. A spread above the data's own (see Table 3) is no gain: where that happens, W1 is the
# judge.

# %%
LOST = {
    "level std / data": "level std / data's",
    "level W1": "level W1",
    "FD": "Fréchet distance (FD)",
    "IS": "Inception score (IS)",
}
lost = {}
for fix, cells in without.items():
    for setting, cell in zip(pair, cells, strict=True):
        difference, whole = pair[setting]
        for name in LOST:
            if cell is None or (setting == "unguided" and cell not in study):
                lost[fix, setting, name] = (math.nan, NONE)
                continue
            value, (low, high) = difference(cell, whole["all fixes"], *COLUMNS[name])
            worse = name in ("FD", "level W1")
            lost[fix, setting, name] = (value, (low, high)) if worse else (-value, (-high, -low))

fig, axes = plt.subplots(1, 4, figsize=(7.2, 2.5), sharey=True)
marks = {"unguided": ("o", "white", -0.14), "guided": ("o", None, 0.14)}
y = np.arange(len(without))
for ax, (name, label) in zip(axes, LOST.items(), strict=True):
    for setting, (mark, fill, shift) in marks.items():
        values = np.array([lost[fix, setting, name][0] for fix in without])
        bounds = np.array([lost[fix, setting, name][1] for fix in without])
        there = np.isfinite(values)
        bars = np.nan_to_num(np.abs(bounds.T - values))  # none where one seed, or the stage, gives no interval
        colour = figures.COLOURS["zsnr"] if setting == "guided" else figures.COLOURS["data"]
        ax.errorbar(
            values[there],
            (y + shift)[there],
            xerr=bars[:, there],
            fmt=mark,
            color=colour,
            mfc=fill or colour,
            lw=1,
            capsize=2,
            label="guided, $w = 7.5$ (over pictures)" if setting == "guided" else "unguided (over seeds)",
        )
    ax.axvline(0, color=figures.COLOURS["data"], lw=0.8)
    ax.axhline(len(without) - 1.5, color="#bbbbbb", lw=0.6)
    ax.set_xlabel(label)
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.12)
axes[0].set_yticks(y, list(without))
axes[0].set_ylim(len(without) - 0.5, -0.5)
axes[0].set_ylabel("left out")
fig.suptitle("lost without it (right of 0: worse)", y=0.96, fontsize=8)
fig.legend(*axes[0].get_legend_handles_labels(), ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0.02))
fig.tight_layout(w_pad=0.8)
figures.save(fig, out, "ablation")

# %%
for setting in pair:
    print(f"lost without, {setting:11s}" + "".join(f"{name:>28s}" for name in LOST))
    for fix in without:
        rows = [lost[fix, setting, name] for name in LOST]
        if np.isfinite(rows[0][0]):
            print(f"  {fix.replace('$', '').replace('_', ''):23s}" + "".join(f"{text(*row, '+'):>28s}" for row in rows))
single = [fix for fix in without if fix != "all four"]
for setting in pair:
    for name in LOST:
        there = {fix: lost[fix, setting, name] for fix in single if np.isfinite(lost[fix, setting, name][0])}
        sure = [fix.replace("$", "").replace("_", "") for fix, (_, (low, _)) in there.items() if low > 0]
        print(f"{setting:9s} {name:17s} worse, beyond its interval, without: {', '.join(sure) or 'none'}")

# %% [markdown]
# ## Each fix alone
#
# Trailing steps need no training, and neither does guidance rescale: both can be had alone, on `control`. Algorithm 1
# alone is the refusal above, so it comes with $v$ and its fine-tuning (`zsnr` with leading steps). $v$ alone would be
# `no-rescale` with leading steps, which is not drawn.
#
# Left: without guidance, intervals over seeds. Right: with guidance, by how much the level follows the word: level
# with *white* less level with *black*, for the same class and noise, whose true mean is that of the words' ranges.
# Intervals are over pictures.

# %%
STEPS = ("leading", "trailing")
words = (data.WORDS[-1], data.WORDS[0])
target = 2 - 2 / len(data.WORDS)


def followed(name, spacing, strength):
    """Level with white less level with black, and the share of over-exposed values in the two; by picture."""
    rows = [guided[Cell(name, spacing, nfe=short, w=7.5, phi=float(strength), prompt=word)] for word in words]
    white, black = (row.tensors["level"].double() for row in rows)
    exposed = sum(row.tensors["saturated"].double() for row in rows) / 2
    return (white - black).numpy(), exposed.numpy()


ways = [(spacing, strength) for spacing in STEPS for strength in ("0", "0.7")]
follows = {(name, *way): followed(name, *way) for name in ("control", "zsnr") for way in ways}

fig, (left, right) = plt.subplots(1, 2, figsize=(7, 2.5), width_ratios=(1, 1.7))
for name, shift in (("control", -0.1), ("zsnr", 0.1)):
    label = "control ($\\epsilon$, flawed schedule)" if name == "control" else "zsnr (Algorithm 1 and $v$)"
    style = {"color": figures.COLOURS[name], "fmt": "o", "capsize": 2, "label": label}
    cells = [Cell(name, spacing, nfe=long) for spacing in STEPS]
    values = np.array([study.mean(cell, "level", "std_ratio") for cell in cells])
    bounds = np.array([study.interval(cell, "level", "std_ratio") for cell in cells])
    left.errorbar(np.arange(2) + shift, values, np.abs(bounds.T - values), **style)
    rows = [follows[name, *way][0] for way in ways]
    values = np.array([row.mean() for row in rows])
    bounds = np.array([metrics.interval(row) for row in rows])
    right.errorbar(np.arange(len(ways)) + shift, values, np.abs(bounds.T - values), **style)
left.axhline(1, color=figures.COLOURS["data"], lw=0.8, ls="--")
left.set_xticks(range(2), STEPS)
left.set(xlim=(-0.5, 1.5), ylim=(0, None), ylabel="level std / data's", title=f"unguided, DDIM {long}")
right.axhline(target, color=figures.COLOURS["data"], lw=0.8, ls="--", label="data")
right.set_xticks(range(len(ways)), [f"{spacing}\n$\\phi = {strength}$" for spacing, strength in ways])
right.set(xlim=(-0.5, 3.5), ylim=(min(0, right.get_ylim()[0]), None), title=f"guided, $w = 7.5$, DDIM {short}")
right.set_ylabel("level, white less black")
fig.legend(*right.get_legend_handles_labels(), ncols=3, loc="upper center", bbox_to_anchor=(0.5, 0.02))
fig.tight_layout()
figures.save(fig, out, "alone")

# %%
title = f"white less black (data {target:.1f})"
print(f"{title:32s}{'control':>28s}{'zsnr':>28s}{'over-exposed: control':>24s}{'zsnr':>8s}")
for way in ways:
    values, exposed = zip(*(follows[name, *way] for name in ("control", "zsnr")), strict=True)
    line = "".join(f"{text(v.mean(), metrics.interval(v)):>28s}" for v in values)
    print(f"  {way[0] + ' steps, phi ' + way[1]:30s}{line}{exposed[0].mean():24.3f}{exposed[1].mean():8.3f}")

alone = {
    "trailing steps": ("control", "trailing", "0"),
    "guidance rescale": ("control", "leading", "0.7"),
    "Algorithm 1 and v": ("zsnr", "leading", "0"),
    "all four": ("zsnr", "trailing", "0.7"),
}
nothing = follows["control", "leading", "0"]
print(f"\n{'added to no fixes':22s}{'white less black':>28s}{'over-exposed':>28s}{'unguided level std / data':>28s}")
for name, way in alone.items():
    changes = [a - b for a, b in zip(follows[way], nothing, strict=True)]
    line = "".join(f"{text(change.mean(), metrics.interval(change), '+'):>28s}" for change in changes)
    if name != "guidance rescale":  # which does nothing without guidance
        cells = Cell(way[0], way[1], nfe=long), Cell("control", "leading", nfe=long)
        line += f"{text(*over_seeds(*cells, 'level', 'std_ratio'), '+'):>28s}"
    print(f"  {name:20s}{line}")

# %% [markdown]
# ## How many pictures the change takes
#
# At first the network predicts $\epsilon$ and is read as if it predicted $v$, which at zero SNR is the other thing
# altogether: $-x_0$. How many pictures does it take to unlearn that? `length-n` are fine-tunings of $n$ pictures with
# the learning rate's ramp and fall in proportion. All are measured here on as many pictures as the shortest drew.
#
# The held-out error $\|x_0 - D\|^2$ at $T$ has a floor: at zero SNR the input says nothing, the best answer is the
# mean of the class, and its error is the variance within the class (garment and backdrop). The class means are those
# of the training set, the floor is of the same held-out pictures.

# %%
trained = {cell.images: cell for cell in study.rows if cell.images and not cell.loss}
trained = dict(sorted(trained.items())) | {cards["zsnr"]["images"]: plain["all fixes"]}
few = len(study.samples(next(iter(trained.values())), "level")[0])


def brightness(cell):
    """Spread and W1 of a cell's first levels, by seed."""
    by_seed = [levels[:few] for levels in study.samples(cell, "level")]
    return {name: [f(levels) for levels in by_seed] for name, f in LEVEL.items()}


def of_seeds(values):
    """Mean over seeds, and interval where there is one."""
    return float(np.mean(values)), metrics.interval(values) if len(values) > 1 else NONE


zsnr = find("zsnr")
y, conditions = test.draw(min(guided_samples, 256), loop.generator(2, 7))  # those of the ablate stage
eps = torch.randn(y.shape, generator=loop.generator(2, 8))
steps = load(folder / "evaluate_ablations/0").facts["steps"]


@torch.no_grad()
def error(model, step):
    """Mean squared error of the predicted x0 at a step, the network being read as one that predicts v."""
    phi = zsnr.schedule.angle[step].item()
    c, s = cos_sin(phi)
    x = c * y + s * eps
    d = c * x - s * NetworkDenoiser(model, zsnr.schedule, "v", class_labels=conditions)(x, phi)
    return (d - y).square().mean().item()


def class_mean(k):
    """The mean picture of a class; a backdrop's mean level is 0."""
    index = (train.label == k).nonzero()[:, 0]
    return train.compose(index, torch.zeros(len(index))).mean(0)


means = torch.stack([class_mean(k) for k in range(classes)])
floor = (y - means[conditions[:, 0]]).square().flatten(1).mean(1).double().tolist()
base = network.load(folder / "train/weights.safetensors")[0].eval()
base.card = None  # which says that it predicts eps: here it is read as v on purpose, as fine-tuning starts from it
start = error(base, steps[-1])
model = network.load(folder / "finetune/zsnr/weights.safetensors")[0].eval()
some = steps[::-2][::-1]
longest = [error(model, step) for step in some]

# %%
errors = {
    n: np.array([row["errors"] for row in study.of(cell)])
    for n, cell in trained.items()
    if "errors" in study.of(cell)[0]
}
at_T = {n: e[:, -1].tolist() for n, e in errors.items()} | {cards["zsnr"]["images"]: [longest[-1]]}
level = {n: brightness(cell) for n, cell in trained.items()}
flawed, truth = brightness(plain["no fixes"]), brightness(REAL)
print(f"{'pictures':>10s}{'level std / data':>28s}{'level W1':>28s}{'error at T':>28s}{'over the floor':>16s}")
print(f"{0:10d}{'':28s}{'':28s}{start:28.3f}{start / np.mean(floor) - 1:>+15.1%}")
for n in trained:
    line = "".join(f"{text(*of_seeds(values)):>28s}" for values in (level[n]["std_ratio"], level[n]["w1"], at_T[n]))
    print(f"{n:10d}{line}{np.mean(at_T[n]) / np.mean(floor) - 1:>+15.1%}")
print(f"{'control':>10s}" + "".join(f"{text(*of_seeds(flawed[name])):>28s}" for name in LEVEL))
print(f"{'real':>10s}" + "".join(f"{text(*of_seeds(truth[name])):>28s}" for name in LEVEL))
print(f"{'floor':>10s}{'':56s}{text(float(np.mean(floor)), metrics.interval(floor)):>28s}")

nearer = [n for n in trained if all(a < b for a, b in zip(level[n]["w1"], flawed["w1"], strict=False))]
whole = np.mean(level[cards["zsnr"]["images"]]["std_ratio"])
wide = [n for n in trained if np.mean(level[n]["std_ratio"]) >= 0.95 * whole]
print(f"fewest pictures with a smaller level W1 than control's, by every seed: {min(nearer, default='none')}")
print(f"fewest pictures with at least 95 % of the full fine-tuning's spread: {min(wide)}")

# %%
fig, axes = plt.subplots(2, 2, figsize=(7, 4.4))
n = np.array(list(trained))
for ax, (name, label) in zip(axes[0], (("std_ratio", "level std / data's"), ("w1", "level W1")), strict=True):
    values, bounds = zip(*(of_seeds(level[k][name]) for k in trained), strict=True)
    bars = np.nan_to_num(np.abs(np.array(bounds).T - np.array(values)))
    ax.errorbar(n, values, bars, fmt="o-", color=figures.COLOURS["zsnr"], capsize=2, label="zsnr")
    middle, (low, high) = of_seeds(flawed[name])
    ax.axhline(middle, color=figures.COLOURS["control"], lw=1, label="control, full length")
    ax.axhspan(low, high, color=figures.COLOURS["control"], alpha=0.12, lw=0)
    ax.axhline(truth[name][0], color=figures.COLOURS["data"], lw=1, ls="--", label="real pictures")
    ax.set(ylabel=label, ylim=(0, None))
ax = axes[1, 0]
shades = np.linspace(0.35, 0.8, len(errors))
for (k, e), alpha in zip(errors.items(), shades, strict=True):
    ax.plot(
        np.array(steps) + 1,
        e.mean(0),
        "o-",
        color=figures.COLOURS["zsnr"],
        alpha=alpha,
        ms=2.5,
        label=f"{k:,} pictures",
    )
colour = figures.COLOURS["zsnr"]
ax.plot(np.array(some) + 1, longest, "s-", color=colour, ms=3, label=f"{cards['zsnr']['images']:,} pictures")
leaky = np.array([row["errors"] for row in study.of(no_rescale)])
ax.plot(np.array(steps) + 1, leaky.mean(0), "--", color=figures.COLOURS["base"], label="$v$, flawed schedule")
ax.plot(steps[-1] + 1, np.mean(floor), "*", color=figures.COLOURS["data"], ms=8, zorder=5, label="floor at $T$")
ax.set(xlabel="$t$", ylabel="held-out error of $x_0$ a pixel", ylim=(0, None))
ax.legend()
ax = axes[1, 1]
values, bounds = zip(*(of_seeds(at_T[k]) for k in trained), strict=True)
bars = np.nan_to_num(np.abs(np.array(bounds).T - np.array(values)))
over, scale = np.array(values) / np.mean(floor) - 1, np.mean(floor)
ax.errorbar(n, 100 * over, 100 * bars / scale, fmt="o-", color=colour, capsize=2)
ax.axhline(0, color=figures.COLOURS["data"], lw=1, ls="--")
ax.set_ylabel("error at $T$ over the floor, %")
for ax in (*axes[0], axes[1, 1]):
    ax.set(xscale="log", xlabel="pictures of fine-tuning")
    ax.set_xticks(n, [f"{k:,}" for k in n])
    ax.minorticks_off()
fig.legend(*axes[0, 0].get_legend_handles_labels(), ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
fig.tight_layout()
figures.save(fig, out, "length")
difference = leaky[:, -1].mean() - np.mean(floor)
print(
    f"v on the flawed schedule, at its last step: error {leaky[:, -1].mean():.3f}, over the floor by {difference:+.3f}"
)
print("(there the input does say something: an error below the floor is read off the leaked signal)")

# %% [markdown]
# ## More training, or the fixes?
#
# `control` against the base says what the same number of further pictures does by itself, `zsnr` against `control`
# what the fixes do. There is one base: its sampling error (bootstrap over pictures) is combined with the interval
# over seeds in quadrature.

# %%
official, no_fixes, all_fixes = plain.values()
key = ("level", "std_ratio")
base = study.mean(official, *key)
base_low, base_high = study.interval(official, *key)


def against_base(differences):
    """Interval of a mean over seeds that the one base's value enters as well."""
    low, high = metrics.interval(differences)
    half = math.hypot(high - low, base_high - base_low) / 2
    return float(np.mean(differences)), (float(np.mean(differences)) - half, float(np.mean(differences)) + half)


control, fixed = study.values(no_fixes, *key), study.values(all_fixes, *key)
training_alone = against_base([c - base for c in control])
by_fixes = over_seeds(all_fixes, no_fixes, *key)
excess = against_base([2 * c - base - f for c, f in zip(control, fixed, strict=True)])
print(f"level std / data's: base {text(base, (base_low, base_high))}")
print(f"  more training alone adds   {text(*training_alone, '+')}")
print(f"  the fixes add to that      {text(*by_fixes, '+')}")
print(f"  training alone less fixes  {text(*excess, '+')}")
w1_base = study.mean(official, "level", "w1")
w1 = of_seeds([v - w1_base for v in study.values(no_fixes, "level", "w1")])
print(f"level W1: base {w1_base:.3f}")
print(f"  more training alone adds   {text(*w1, '+')} (over seeds; the base's own error is not in it)")
print(f"  the fixes add to that      {text(*over_seeds(all_fixes, no_fixes, 'level', 'w1'), '+')}")

# %% [markdown]
# ## What is claimed, measured
#
# The claim is a direction: a gain above zero. The last check is one of no gain, an equivalence: what more training
# alone adds lies within a quarter of what the fixes add, .05 of the data's spread.

# %%
note = (
    "Inception and FID by this data's classifier; unguided over seeds, guided (w = 7.5) over pictures of one model each"
)
for setting in pair:
    for name, label in (
        ("FD", "Frechet distance, no fixes less all fixes"),
        ("IS", "Inception score, all fixes less none"),
    ):
        value, bounds = gain[setting, name]
        if math.isnan(bounds[0]):
            print(f"{setting}: {label}: {value:+.3f}, of unknown error: no check")
            continue
        what = f"{setting}: {label}"
        # claims.yaml has the band of the primary one
        band = {} if what == "unguided: Frechet distance, no fixes less all fixes" else {"at_least": 0.0}
        found.append(claims.measure("Z-19", what, value, interval=bounds, note=note, **band))
fine = cards["zsnr"]["images"]
note = f"{fine} pictures, not the paper's 50,000 iterations of 2,048 ({paper / fine:.0f} times as many)"
found += [
    claims.measure(
        "Z-20", "pictures of fine-tuning, with the fixes over without", fine / cards["control"]["images"], equal=1.0
    ),
    claims.measure(
        "Z-20", "their seeds' difference", cards["zsnr"]["seed"] - cards["control"]["seed"], equal=0, note=note
    ),
    claims.measure("Z-20", "same pictures, conditions, steps and noises shown", same, equal=[True] * len(same)),
    claims.measure(
        "Z-20",
        "level std / data's: what the fixes add to control",
        by_fixes[0],
        interval=by_fixes[1],
    ),
    claims.measure(
        "Z-20",
        "the same: what more training alone adds, less what the fixes add",
        excess[0],
        interval=excess[1],
        at_most=0.0,
    ),
    claims.measure(
        "Z-20",
        "the same: what more training alone adds, none within .05",
        training_alone[0],
        interval=training_alone[1],
        equal=0.0,
        abs=0.05,
    ),
]

# %% [markdown]
# ## Verdict

# %%
claims.save(out / "claims.json", found, "14_finetuning")
print(claims.summary(found))
