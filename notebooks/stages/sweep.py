# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What EDM's studies ask of trained networks
#
# Every picture that findings 4, 5 and 6 need from a trained network is drawn here and measured: steps, solvers and paths, churn,
# and two questions about the network itself, how much variance it removes and whether its field is conservative.

# %% tags=["parameters"]
results = "results/smoke"
source = "data/fashion-mnist"
real = 512
samples = 64
steps = 5
rhos = [2, 7]
euler_calls = [6]
long = []
heun_calls = [7]
converged = 16
many = 64
alphas = [0.5]
tolerances = [0.1]
churn_samples = 32
churn_steps = 6
S_churn = [2.0]
in_place = 8
iterations = 5
probes = 1
levels = 3
precision = "float32"
threads = 1
out_dir = ""

# %%
import math
from functools import partial

import numpy as np
import torch

import lab
from lab import ROOT
from lab.measure import evaluation, metrics, store, sweep
from lab.measure.draw import draw, preconditioned
from lab.measure.store import Row
from lab.models import data
from zsnr import edm
from zsnr.finetune.loop import generator
from zsnr.finetune.recipe import chosen_precision, precision_facts
from zsnr.grids import karras
from zsnr.noise import generators, randn
from zsnr.path import ANGLE, EDM, VE, VP
from zsnr.samplers import churn, dpmpp_2m, euler, heun, rk2, rk45

lab.threads(threads)
out, _ = lab.folders(out_dir)
folder = ROOT / results
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")
reference, _ = train.draw(real, generator(2, 0))
judge = evaluation.Judge(metrics.Classifier.load(folder / "classifier/classifier.safetensors"), reference)
models = {name: sweep.model(folder / f"edm/networks/{name}.safetensors") for name in ("original", "edm", "short")}
shape = reference.shape[1:]
rows = []


def measure(x, evaluations, **columns):
    """The row of a set of pictures, with an interval of the Frechet distance."""
    measures = {"evaluations": evaluations, **judge(x), "frechet_interval": sweep.jackknife(judge.frechet, x)}
    rows.append(Row(columns, measures))
    print(*columns.values(), f"Frechet distance {measures['frechet']:.2f}", flush=True)


def pictures(name, sampler, grid, n, first=0, precision=precision, **options):
    """n pictures of a model, from the noises of seeds first, first + 1, ..."""
    seeds = range(first, first + n)
    return draw(preconditioned(models[name]), sampler, grid, seeds, shape, precision=precision, title=name, **options)


for n in sorted({samples, samples // 2, churn_samples, many}):
    measure(test.draw(n, generator(2, 1))[0], 0, study="real", n=n)

# %% [markdown]
# ## $\rho$ (finding 5)
#
# EDM's sampler on EDM's network; only the spacing of the levels changes.

# %%
for rho in rhos:
    x = pictures("edm", heun, karras(steps, 0.002, 80.0, rho), samples, path=EDM)
    measure(x, 2 * steps - 1, study="rho", rho=rho)

# %% [markdown]
# ## Solver, path and steps (finding 6)
#
# On EDM's network, for which all start at $\sigma = 80$: the original steps are cut there, where they went up to 152 and 100. Each picture is also
# held against the network's own converged solution from the same noise: all solve one ODE, and that error is the sampler's alone. In float32, since
# a network rounded to bfloat16 is no smooth function.

# %%
truth = pictures("edm", heun, karras(converged), samples // 2, path=EDM, precision="float32")
measure(truth, 2 * converged - 1, study="converged", n=samples // 2)


def design(sampler, path, grid_name, grid, nfe, **options):
    """The row of one solver on EDM's network."""
    calls = []
    on_path = {"path": path} if path else {}
    count = {"callback": lambda i, phi, x, v: calls.append(i)} if sampler is rk45 else {}
    x = pictures("edm", sampler, grid, samples // 2, precision="float32", **on_path, **count, **options)
    # an adaptive solver chooses its evaluations batch by batch: their mean
    nfe = nfe or round(len(calls) / sum(i == 0 for i in calls))
    about = {"solver": sampler.__name__, "path": path.name if path else "none", "steps": grid_name, "nfe": nfe}
    measure(x, nfe, study="design", **about, alpha=options.get("alpha", 1.0))
    rows[-1].tensors["error"] = (x - truth).square().mean((1, 2, 3)).sqrt()


original = {
    "vp": edm.column("vp", t_max=VP.time(math.atan(80.0))),
    "ve": edm.column("ve", sigma_max=80.0),
    "iddpm": edm.column("iddpm"),
}
for n in [*euler_calls, *long]:
    design(euler, VP, "vp", original["vp"].steps(n), n)
    design(euler, VE, "ve", original["ve"].steps(n), n)
for n in euler_calls:
    design(euler, EDM, "iddpm", original["iddpm"].steps(n), n)
    design(euler, EDM, "rho7", karras(n), n)
    design(dpmpp_2m, None, "rho7", karras(n), n)
for n in heun_calls:
    for path in (VP, VE, EDM, ANGLE):
        design(heun, path, "rho7", karras((n + 1) // 2), n)
for alpha in alphas:
    design(rk2, EDM, "rho7", karras(steps), 2 * steps - 1, alpha=alpha)
for tolerance in tolerances:
    design(rk45, EDM, "rho7", karras(steps), None, rtol=tolerance, atol=tolerance)

# %% [markdown]
# Do 35 evaluations gain over 13, and come near the converged solution? More pictures than a curve has, which could not tell. Their first noises are
# those of the curves.


# %%
def over(pair):
    """The Frechet distance of pictures over that of others from the same noises."""
    return judge.frechet(pair[:, 0]) / judge.frechet(pair[:, 1])


at_13, at_35, solved = (
    pictures("edm", heun, karras(n), many, path=EDM, precision="float32") for n in (7, 18, converged)
)
for name, other in {"13": at_13, "converged": solved}.items():
    pair = torch.stack([at_35, other], 1)
    measures = {"frechet": [judge.frechet(at_35), judge.frechet(other)]}
    measures |= {"ratio": over(pair), "interval": sweep.jackknife(over, pair)}
    rows.append(Row({"study": "enough", "nfe": 35, "over": name, "n": many}, measures))
    print(f"35 evaluations over {name}: {measures['ratio']:.3f}")

# %% [markdown]
# How much does a Frechet distance vary by its noises alone? Two more sets of them.

# %%
repeat = partial(pictures, "edm", heun, karras(steps), samples // 2, path=EDM)
distances = [judge.frechet(repeat(first=k * samples)) for k in (0, 1, 2)]
rows.append(Row({"study": "repeats"}, {"frechet": distances, "evaluations": 2 * steps - 1}))

# %% [markdown]
# ## Churn (finding 4)
#
# By training quality: amounts of churn at all levels, two amounts in every range with and without a larger $S_\text{noise}$, and Table 5's settings.
# The pictures' features are kept, so that a difference of two distances can be taken picture by picture, from the same noises.


# %%
@torch.no_grad()
def features(x):
    """(n, 64), of the classifier that the Frechet distance goes by."""
    return torch.cat([judge.classifier(part) for part in x.split(500)])


known = features(reference).double()
rows.append(Row({"study": "reference"}, {}, {"mean": known.mean(0), "covariance": known.T.cov()}))
for name in models:
    for setting in sweep.churns(S_churn, churn_steps):
        x = pictures(name, churn, karras(churn_steps), churn_samples, path=EDM, **setting._asdict())
        measure(x, 2 * churn_steps - 1, study="churn", model=name, **setting._asdict())
        rows[-1].tensors["features"] = features(x).half()

# %% [markdown]
# ## Churn at one level (Figure 14)
#
# Pictures with noise of one level, churned at it again and again; what is kept of each is three measures of $D$, and of the first two $D$ itself.

# %%
device = "cuda" if torch.cuda.is_available() else "cpu"
y, conditions = test.draw(in_place, generator(2, 5))
for name in ("original", "edm"):
    denoiser = edm.EDMDenoiser(models[name].to(device), class_labels=conditions.to(device))
    for sigma in (0.1, 0.5, 2.0, 10.0):
        for S_noise in (1.0, 1.007):
            own = generators(range(in_place))
            phi = math.atan(sigma)
            x = math.cos(phi) * y + math.sin(phi) * randn(y.shape, own)
            with torch.autocast(device, torch.bfloat16, enabled=chosen_precision(precision, device) == "bf16"):
                states = sweep.churn_in_place(denoiser, x, sigma, iterations, S_noise, own, max(1, iterations // 5))
            kept = {f.__name__: torch.stack([f(s) for s in states]) for f in sweep.MEASURES}
            kept["pictures"] = store.as_bytes(torch.stack([s[:2] for s in states]))
            columns = {"study": "in_place", "model": name, "sigma": sigma, "S_noise": S_noise}
            rows.append(Row(columns, {"iterations": iterations}, kept))

# %% [markdown]
# ## The network itself
#
# By level, on held-out pictures: the residual variance, $\|x - D\|^2 / (\sigma^2 d)$ and the error $\|D - y\|^2 / d$; and how far
# the Jacobian of $D$ is from symmetric, as that of an exact denoiser is.

# %%
sigmas = np.geomspace(0.01, 40, levels).tolist()
y, conditions = test.draw(samples // 2, generator(2, 3))
eps = torch.randn(y.shape, generator=generator(2, 4))
for name, model in models.items():
    model = model.to("cpu")
    table = {"sigma": sigmas, "values": y.numel(), "residual": [], "error": [], "asymmetry": [], "asymmetry_se": []}
    for k, sigma in enumerate(sigmas):
        level = torch.full((len(y),), sigma, dtype=torch.float64)
        x = y + sigma * eps
        with torch.no_grad():
            d = model(x, level, class_labels=conditions)
        table["residual"].append((x - d).double().square().mean().item() / sigma**2)
        table["error"].append((d - y).double().square().mean().item())
        few = slice(0, min(32, len(y)))
        field = partial(model, sigma=level[few], class_labels=conditions[few])
        ratio, se = sweep.asymmetry(field, x[few], probes, generator(2, 6, k))
        table["asymmetry"].append(ratio)
        table["asymmetry_se"].append(se)
    rows.append(Row({"study": "network", "model": name}, table))
    print(f"{name:9s} asymmetry", *(f"{v:.3f}" for v in table["asymmetry"]))

# %%
store.save(out, rows, lab.environment() | precision_facts(precision))
