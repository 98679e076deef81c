# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What fine-tuning did to a small Stable Diffusion: the same prompts from the same noises
#
# The pipelines of stage `text_to_image`, loaded in plain diffusers.
#
# **Claim** (Lin et al. 2023): a model trained on Stable Diffusion's schedule makes pictures of medium brightness
# whatever it is asked for; Algorithm 1, $v$-prediction, trailing steps and some fine-tuning mend that. It would be
# wrong here if the flawed model's black and white were as far apart as those of the pictures it has seen, or if
# training on without the fixes spread them as much as the fixes do.

# %% tags=["parameters"]
results = "results/smoke"
prompts = []  # of one's own model; empty: the stand-in's
source = "data/fashion-mnist"  # of the stand-in's pictures
measured = 256  # pictures that say what the data are
batch = 32
samples = 2  # pictures for each prompt
steps = 4
scale = 7.5  # guidance, and its rescaling
strength = 0.7
threads = 1
out_dir = ""

# %%
import dataclasses
import json

import diffusers
import matplotlib.pyplot as plt
import numpy as np
import torch
import transformers

for library in (diffusers, transformers):
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()

import lab
from lab import ROOT
from lab.measure import metrics, store
from lab.models import data, text_data, tiny
from lab.report import figures
from zsnr.finetune.loop import generator

lab.threads(threads)
figures.style()
out, _ = lab.folders(out_dir)
device = "cuda" if torch.cuda.is_available() else "cpu"
folder = ROOT / results / "text_to_image/models"
facts = json.loads((folder / "facts.json").read_text())
NAMES = ("flawed", "control", "lora", "zsnr")
pipelines = {name: tiny.quiet(diffusers.DiffusionPipeline.from_pretrained(folder / name)) for name in NAMES}
flawed, model = pipelines["flawed"], bool(prompts)
if not model:
    prompts, train = list(data.WORDS), data.load(ROOT / source)


def asked(name):
    """The prompts for one row of pictures: the stand-in is asked for garments in turn, on this backdrop."""
    return [name] * samples if model else text_data.prompts(train.classes, name, samples)


# %% [markdown]
# What the VAE alone does to pictures' levels is the floor below which nothing here can be told apart.

# %%
if not model:
    x, conditions = train.draw(measured, generator(2, 0), captioned=1.0)
    x = text_data.rgb(x)
    z = text_data.latents(flawed.vae, x)
    decoded = text_data.decode(flawed.vae, z).clamp(-1, 1)
    error = data.level(decoded) - data.level(x)
    backdrop = data.word(data.level(x))
    floor = {word: data.level(decoded)[backdrop == k].tolist() for k, word in enumerate(prompts)}
    with torch.no_grad():
        ids = flawed.tokenizer(
            [text_data.caption(name, word) for name in train.classes for word in prompts],
            padding="max_length",
            return_tensors="pt",
        ).input_ids
        text = flawed.text_encoder(ids)[0]
    facts["vae"] = {
        "rmse": (decoded - x).square().mean().sqrt().item(),
        "level_rmse": error.square().mean().sqrt().item(),
        "scaling_factor": flawed.vae.config.scaling_factor,
        "latent_std": z.std().item(),
        "level": {word: sum(levels) / len(levels) for word, levels in floor.items()},
        "level_std": data.level(decoded).std().item(),
        "text_std": text.std(0).mean().item(),
    }
    fig, ax = plt.subplots(figsize=(6, 1.2))
    figures.pictures(ax, torch.cat([x[:14], decoded[:14]]), 14, "pictures, and through the VAE")
    plt.show()
    print(f"VAE: error {facts['vae']['rmse']:.3f} a pixel, {facts['vae']['level_rmse']:.3f} of the level")
    print(f"latents: std {facts['vae']['latent_std']:.3f}")
    print(f"text embeddings: std {facts['vae']['text_std']:.3f} over the captions, of values of std 1")

# %% [markdown]
# ## What the flaw should do, before anything is drawn
#
# Training shows the network a last step in which $\sqrt{\bar\alpha_T}$ of the latents is left; sampling starts from
# noise alone, which the network takes for the latents of a picture of medium brightness. For Gaussian latents the law
# of `zsnr.brightness` says what comes of it, from the variance $\Lambda$ that the latents of one prompt have along the
# direction in which the level moves them.


# %%
def first(pipeline):
    """alpha_bar of the step that sampling starts at."""
    pipeline.scheduler.set_timesteps(steps)
    return pipeline.scheduler.alphas_cumprod[pipeline.scheduler.timesteps[0]].item()


if not model:
    along = text_data.direction(z, x, conditions[:, 0])
    facts["law"] = {
        **dataclasses.asdict(along),
        "alpha_bar": first(flawed),
        "predicted": dict(zip(prompts, along.predicted(first(flawed)), strict=True)),
    }
    print(f"Lambda = {along.variance:.0f} over all pictures, {np.mean(along.within):.1f} for one prompt")
    print(f"the leak at the first step, alpha_bar Lambda: {first(flawed) * along.variance:.2f} over all pictures")
    for word, level, drawn in zip(prompts, along.levels, facts["law"]["predicted"].values(), strict=True):
        print(f"  {word:6s} level of the data {level:+.2f}, predicted of the flawed model {drawn:+.2f}")

# %% [markdown]
# ## The same prompts from the same noises
#
# Every pipeline as its users call it, with the scheduler it comes with; one generator a picture, seeded alike for all
# pipelines and prompts.


# %%
def draw(pipeline, texts, scale, strength):
    """(n, 3, H, W) pictures in [-1, 1] for n prompts."""
    drawn = []
    for i in range(0, len(texts), batch):
        drawn.append(
            pipeline.to(device)(
                texts[i : i + batch],
                num_inference_steps=steps,
                guidance_scale=scale,
                guidance_rescale=strength,
                generator=[generator(3, i + j) for j in range(len(texts[i : i + batch]))],
                output_type="pt",
            ).images.cpu()
        )
    return 2 * torch.cat(drawn) - 1


settings = {"plain": (1.0, 0.0), "guided": (scale, strength)}
rows = []
for setting, (w, phi) in settings.items():
    for name, pipeline in pipelines.items():
        for prompt in prompts:
            x = draw(pipeline, asked(prompt), w, phi)
            kept = (x[:6] * 127.5 + 127.5).round().to(torch.uint8)
            columns = {"model": name, "setting": setting, "prompt": prompt, "w": w, "phi": phi}
            rows.append(store.Row(columns, tensors={"level": data.level(x), "pictures": kept}))
drawn = store.Results(rows)

# %%
columns = min(6, samples)
ends = (prompts[0], prompts[-1])
for setting in settings:
    fig, axes = plt.subplots(1, len(pipelines), figsize=(7, 7 / len(pipelines) / columns * 2 + 0.3))
    for ax, name in zip(axes, pipelines, strict=True):
        sheet = torch.cat([drawn.one(model=name, setting=setting, prompt=end).tensors["pictures"] for end in ends])
        figures.pictures(ax, sheet.float() / 127.5 - 1, columns, f"{name}, {setting}")
    plt.show()


def text(values):
    """Mean and its 95 % interval over pictures."""
    values = torch.as_tensor(values).tolist()
    low, high = metrics.interval(values)
    return f"{np.mean(values):+z.2f} [{low:+z.2f}, {high:+z.2f}]"


print(f"level asked for: {ends[0]}, {ends[1]}")
for setting in settings:
    for name in pipelines:
        parts = [f"{text(drawn.one(model=name, setting=setting, prompt=end).tensors['level']):>24s}" for end in ends]
        print(f"  {setting:8s}{name:10s}" + "".join(parts))
if not model:
    print(f"  {'':8s}{'data':10s}" + "".join(f"{text(floor[end]):>24s}" for end in ends) + "   (through the VAE)")

# %%
facts |= {"floor": floor if not model else {}, "prompts": prompts, "steps": steps, "guidance": [scale, strength]}
store.save(out, rows, facts | {"environment": lab.environment()})
