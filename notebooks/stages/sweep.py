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
# Every picture that notebooks 4, 5 and 6 need from a trained network is drawn here and measured: steps, solvers and paths, churn,
# and two questions about the network itself, how much variance it removes and whether its field is conservative.

# %% tags=["parameters"]
results = "results/smoke"
source = "data/fashion-mnist"
real = 512
samples = 64
steps = 5
rhos = [2, 7]
euler = [6]
long = []
heun = [7]
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
import json
import math
from functools import partial

import numpy as np
import torch
from safetensors.torch import save_file

import lab
from lab import ROOT
from lab.measure import evaluation, metrics, sweep
from lab.models import data, ladder
from zsnr import edm, grids, samplers
from zsnr.finetune import loop
from zsnr.noise import generators, randn
from zsnr.path import ANGLE, EDM, VE, VP

lab.threads(threads)
out, _ = lab.folders(out_dir)
folder = ROOT / results
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")
reference, _ = train.draw(real, loop.generator(2, 0))
judge = evaluation.Judge(metrics.Classifier.load(folder / "classifier/classifier.safetensors"), reference)
models = {name: sweep.model(folder / f"edm/{name}.safetensors") for name in ("original", "edm", "short")}
pictures, measures = {}, {}


def measure(name, x, evaluations):
    """All measures of a cell's pictures, with an interval of the Frechet distance."""
    pictures[name] = x
    measures[name] = {"evaluations": evaluations, **judge(x), "frechet_interval": sweep.jackknife(judge.frechet, x)}
    print(f"{name:36s} Frechet distance {measures[name]['frechet']:.2f}", flush=True)


for n in sorted({samples, samples // 2, churn_samples}):
    measure(f"real/{n}", test.draw(n, loop.generator(2, 1))[0], 0)

# %% [markdown]
# ## $\rho$ (notebook 5)
#
# EDM's sampler on EDM's network; only the spacing of the levels changes.

# %%
for rho in rhos:
    grid = grids.karras(steps, 0.002, 80.0, rho)
    x = ladder.draw(models["edm"], samplers.heun, grid, samples, precision, title=f"rho {rho}", path=EDM)
    measure(f"rho/{rho}", x, 2 * steps - 1)

# %% [markdown]
# ## Solver, path and steps (notebook 6)
#
# On EDM's network, for which all start at $\sigma = 80$: the original steps are cut there, where they went up to 152 and 100.


# %%
def design(solver, path, steps_name, grid, evaluations, n=samples // 2, label=None, **options):
    count = []
    options |= {"callback": lambda i, phi, x, v: count.append(i)} if solver is samplers.rk45 else {}
    options |= {} if path is None else {"path": path}
    title = f"{label or solver.__name__}-{path.name if path else 'none'}-{steps_name}"
    x = ladder.draw(models["edm"], solver, grid, n, precision, title=title, **options)
    # an adaptive solver chooses its evaluations batch by batch: their mean
    evaluations = evaluations or round(len(count) / sum(i == 0 for i in count))
    measure(f"design/{title}-{evaluations}", x, evaluations)


original = {
    "vp": edm.column("vp", t_max=VP.time(math.atan(80.0))),
    "ve": edm.column("ve", sigma_max=80.0),
    "iddpm": edm.column("iddpm"),
}
for n in [*euler, *long]:
    design(samplers.euler, VP, "vp", original["vp"].steps(n), n)
    design(samplers.euler, VE, "ve", original["ve"].steps(n), n)
for n in euler:
    design(samplers.euler, EDM, "iddpm", original["iddpm"].steps(n), n)
    design(samplers.euler, EDM, "rho7", grids.karras(n), n)
    design(samplers.dpmpp_2m, None, "rho7", grids.karras(n), n)
for n in heun:
    for path in (VP, VE, EDM, ANGLE):
        design(samplers.heun, path, "rho7", grids.karras((n + 1) // 2), n)
for alpha in alphas:
    grid = grids.karras(steps)
    design(samplers.rk2, EDM, "rho7", grid, 2 * steps - 1, label=f"rk2_{alpha:g}", alpha=alpha)
for tolerance in tolerances:
    design(samplers.rk45, EDM, "rho7", grids.karras(steps), None, rtol=tolerance, atol=tolerance)

# %% [markdown]
# How much does a Frechet distance vary by its noises alone? Two more sets of them.

# %%
repeat = partial(ladder.draw, models["edm"], samplers.heun, grids.karras(steps), samples // 2, precision, path=EDM)
more = [judge.frechet(repeat(first_seed=k * samples)) for k in (1, 2)]
measures["repeats"] = {"frechet": [judge.frechet(repeat()), *more], "evaluations": 2 * steps - 1}

# %% [markdown]
# ## Churn (notebook 4)
#
# By training quality, over the whole range of noise levels and in the middle of it, with and without a larger $S_\text{noise}$.

# %%
middle = {"S_tmin": 0.05, "S_tmax": 1.0}
for name, model in models.items():
    for S in [0, *S_churn]:
        kinds = (
            [("all", 1.0)]
            if S not in S_churn[1::2] + S_churn[-1:]
            else [("all", 1.0), ("all", 1.007), ("middle", 1.0), ("middle", 1.007)]
        )
        for where, S_noise in kinds:
            options = {"S_churn": S, "S_noise": S_noise, "path": EDM, **(middle if where == "middle" else {})}
            grid = grids.karras(churn_steps)
            x = ladder.draw(
                model, samplers.churn, grid, churn_samples, precision, title=f"{name} {S} {where}", **options
            )
            measure(f"churn/{name}/{S}/{where}/{S_noise}", x, 2 * churn_steps - 1)

# %% [markdown]
# ## Churn at one level (Figure 14)
#
# Pictures with noise of one level, churned at it again and again; what is kept is $D$ of them.

# %%
device = "cuda" if torch.cuda.is_available() else "cpu"
y, conditions = test.draw(in_place, loop.generator(2, 5))
for name in ("original", "edm"):
    denoiser = edm.EDMDenoiser(models[name].to(device), class_labels=conditions.to(device))
    for sigma in (0.1, 0.5, 2.0, 10.0):
        for S_noise in (1.0, 1.007):
            own = generators(range(in_place))
            phi = math.atan(sigma)
            x = math.cos(phi) * y + math.sin(phi) * randn(y.shape, own)
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                states = sweep.churn_in_place(denoiser, x, sigma, iterations, S_noise, own, max(1, iterations // 5))
            key = f"in_place/{name}/{sigma}/{S_noise}"
            measures[key] = {"std": [s.std().item() for s in states], "iterations": iterations}
            measures[key]["saturated"] = [(s.abs() > 1.02).double().mean().item() for s in states]
            pictures[key] = torch.cat(states)

# %% [markdown]
# ## The network itself
#
# By level, on held-out pictures: the residual variance, $\|x - D\|^2 / (\sigma^2 d)$ and the error $\|D - y\|^2 / d$; and how far
# the Jacobian of $D$ is from symmetric, as that of an exact denoiser is.

# %%
sigmas = np.geomspace(0.01, 40, levels).tolist()
y, conditions = test.draw(samples // 2, loop.generator(2, 3))
eps = torch.randn(y.shape, generator=loop.generator(2, 4))
for name, model in models.items():
    model = model.to("cpu")
    table = {"sigma": sigmas, "residual": [], "error": [], "asymmetry": [], "asymmetry_se": []}
    for k, sigma in enumerate(sigmas):
        level = torch.full((len(y),), sigma, dtype=torch.float64)
        x = y + sigma * eps
        with torch.no_grad():
            d = model(x, level, class_labels=conditions)
        table["residual"].append((x - d).double().square().mean().item() / sigma**2)
        table["error"].append((d - y).double().square().mean().item())
        few = slice(0, min(32, len(y)))
        field = partial(model, sigma=level[few], class_labels=conditions[few])
        ratio, se = sweep.asymmetry(field, x[few], probes, loop.generator(2, 6, k))
        table["asymmetry"].append(ratio)
        table["asymmetry_se"].append(se)
    measures[f"network/{name}"] = table
    print(f"{name:9s} asymmetry", *(f"{v:.3f}" for v in table["asymmetry"]))

# %%
out.mkdir(parents=True, exist_ok=True)
kept = {f"{name}/pictures": x[:16].half() if "in_place" not in name else x.half() for name, x in pictures.items()}
save_file({k: v.contiguous() for k, v in kept.items()}, out / "samples.safetensors")
(out / "measures.json").write_text(json.dumps({**measures, "environment": lab.environment()}, indent=1) + "\n")
