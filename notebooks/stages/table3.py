# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Table 3 at this data's own guidance
#
# Models without the fixes and with them, from several seeds, at several guidance scales; each fix left out at one of them; and the
# rescaling of guidance in fine steps (Lin et al. 2023, Table 3 and Figure 6). The judge is a classifier of class and backdrop level. All
# models of one seed draw from the same noises, and each seed from others. The models are those of stages `finetune`, `replicate`
# and `ablate`, found in their `scratch/` folders, or trained again where there is none.

# %% tags=["parameters"]
replicas = 2
results = "results/smoke"
source = "data/fashion-mnist"
captioned = 0.1
unconditional = 0.1
recipe = {
    "images": 1280,
    "batch": 32,
    "lr": 1e-3,
    "optimizer": "muon",
    "warmup": 128,
    "ema_halflife": 160,
    "precision": "float32",
    "shift": 3.0,
}
judge_images = 4096
real = 512
short = 5
scales = [1.0, 2.0, 7.5]
table_samples = 32
strengths = [0.0, 0.5, 1.0]
strength_samples = 16
precision = "float32"
threads = 1
out_dir = ""

# %%
from functools import partial

import torch

import lab
from lab import ROOT
from lab.measure import evaluation, metrics, saturation, store
from lab.measure.evaluation import REAL
from lab.measure.study import cell_of
from lab.models import data, network, plans
from lab.models.training import ScheduleRecipe
from lab.models.variants import ABLATIONS
from lab.studies import table3_judge as judge
from zsnr.finetune.loop import generator
from zsnr.finetune.recipe import precision_facts

lab.threads(threads)
out, _ = lab.folders(out_dir)
folder = ROOT / results
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")
draw = partial(train.draw_parted, captioned=captioned, unconditional=unconditional)
base, _ = network.load(folder / "zsnr/train/weights.safetensors")

# %% [markdown]
# ## The judge

# %%
seeing = judge.train(train, judge_images)
x, conditions = test.draw(2000, generator(1))
accuracy = judge.accuracy(seeing, x, conditions[:, 0])
print(", ".join(f"{name} named right: {share:.3f}" for name, share in accuracy.items()))

# %%
by_class = metrics.Classifier.load(folder / "classifier/classifier.safetensors")
reference, _ = train.draw(real, generator(2, 0))
levels = data.level(reference)
judges = {"distance": seeing, "frechet": by_class}
truth = {name: judge.moments(judge.features(net, reference)) for name, net in judges.items()}
rows = []


def measure(cell, x, replica=0):
    """A cell's row; of the first seed the features too, for differences by picture."""
    seen = {name: judge.features(net, x) for name, net in judges.items()}
    single = {"level": data.level(x), "contrast": saturation.contrast(x), "saturated": saturation.saturated(x)}
    found = {name: judge.frechet(seen[name], truth[name]) for name in judges}
    found |= {name: single[name].mean().item() for name in ("contrast", "saturated")}
    found |= {"level": evaluation.brightness(single["level"], levels)}
    found |= {"inception": metrics.inception_score(by_class, x)}
    kept = {"features": seen["distance"].half()} if replica == 0 and not cell.part else {}
    tensors = {name: values.half() for name, values in single.items()} | kept
    rows.append(store.Row({**evaluation.columns(cell), "replica": replica}, found, tensors))
    print(f"{cell!s:45s} {replica}: distance {found['distance']:.3f}, level std {found['level']['std_ratio']:.2f}")
    return found["distance"]


# %% [markdown]
# As many real pictures which no network saw, as a floor; and, to see what each judge sees, the same on levels drawn in to 0.8 of their spread.

# %%
mean, covariance = truth["distance"]
about = evaluation.columns(REAL.but(part="reference")) | {"replica": 0}
rows.append(store.Row(about, {}, {"mean": mean, "covariance": covariance, "level": levels.half()}))
for replica in range(replicas):
    index = torch.randint(len(test), (table_samples,), generator=generator(2, 1, replica))
    level = 2 * torch.rand(table_samples, generator=generator(2, 2, replica)) - 1
    measure(REAL, test.compose(index, level), replica)
    measure(REAL.but(part="narrow"), test.compose(index, 0.8 * level), replica)

# %% [markdown]
# ## Without the fixes and with them, by guidance scale

# %% tags=["nbval-ignore-output"]
models = {}
for replica in range(replicas):
    tuned = plans.replicas(ScheduleRecipe(**recipe), replica)
    left_out = plans.ablations(ScheduleRecipe(**recipe), replica, [], recipe["images"], [])
    home = {name: lab.scratch(f"{results}/zsnr/replicate/{replica}") for name in ("control", "zsnr")}
    home |= {name: lab.scratch(f"{results}/zsnr/ablate/{replica}") for name in ABLATIONS}
    for name, scratch in home.items():
        if replica == 0 and name in tuned:
            models[name, 0], _ = network.load(folder / "zsnr/finetune" / name / "weights.safetensors")
        else:
            models[name, replica], _ = plans.train(base, draw, tuned | left_out, name, scratch, note=plans.AGAIN)


def drawn(cell, replica, n=table_samples):
    """n pictures of a cell from one seed's model and noises."""
    return evaluation.draw_cell(models[cell.model, replica], cell, n, precision, replica * table_samples)


# %%
compared = {name: {} for name in judge.kinds(judge.PAPER, short)}
pictures = {}
for replica in range(replicas):
    for w in scales:
        for name, cell in judge.kinds(w, short).items():
            if (cell, replica) not in pictures:  # without guidance two kinds are one cell
                x = drawn(cell, replica)
                pictures[cell, replica] = x[:16].half()
                distance = measure(cell, x, replica)
            if replica == 0:
                compared[name][w] = distance

# %% [markdown]
# ## Each fix left out
#
# At one guidance scale for all: that of least mean of the distances without the fixes and with them, on the first seed's models.

# %%
w = judge.shared(compared)
print(f"shared scale: {w:g}")
for replica in range(replicas):
    for cell in judge.without(w, short).values():
        if (cell, replica) not in pictures:
            measure(cell, drawn(cell, replica), replica)

# %% [markdown]
# ## Figure 6: the rescaling of guidance in fine steps

# %%
for scale in dict.fromkeys([judge.PAPER, w]):
    for phi in strengths:
        cell = judge.kinds(scale, short)[judge.PHI_0].but(phi=phi, part="figure6")
        measure(cell, drawn(cell, 0, strength_samples))

# %%
kept = [judge.kinds(scale, short)[name] for scale in (judge.PAPER, w) for name in (judge.NO_FIXES, judge.ALL_FIXES)]
for row in rows:
    if row["replica"] == 0 and (cell := cell_of(row)) in kept:
        row.tensors["pictures"] = pictures[cell, 0]
store.save(out, rows, {"accuracy": accuracy, "w": w, **lab.environment(), **precision_facts(precision)})
