# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fine-tune Stable Diffusion to zero terminal SNR
#
# With a model (`model`: a folder or an id on the Hub), a folder of captioned pictures (`folder`) and some prompts
# (`prompts`), this notebook audits the model, fixes it by fine-tuning, audits it again, and draws the same prompts
# from the same noises before and after. With none of them, as here, it first makes a stand-in of diffusers' own
# classes and a folder of pictures; everything after that is the same code.
#
# **Claim** (Lin et al. 2023): a model trained on Stable Diffusion's schedule makes pictures of medium brightness
# whatever it is asked for; Algorithm 1, $v$-prediction, trailing steps and some fine-tuning mend that. It would be
# wrong here if the flawed model's black and white were as far apart as those of the pictures it has seen, or if
# training on without the fixes spread them as much as the fixes do.
#
# The parameters below are those of a run in seconds, which shows that all of it runs and teaches the stand-in nothing;
# the results of the full run are in notebook 16. For one's own model start from: `images` = 50,000 or more, `batch` = 64, `resolution` = 512, `lr` = 2e-5, `lora_lr` = 1e-4,
# `precision` = "bf16", on a GPU; on several, `accelerate launch -m zsnr.finetune` does the same training.

# %% tags=["parameters"]
model = ""  # a folder or a Hub id; empty: the stand-in
folder = ""  # captioned pictures, where a model is given
prompts = [
    "solid black background",
    "a dark night",
    "a lighthouse by the sea",
    "a snow field",
    "solid white background",
]
source = "data/fashion-mnist"  # of the stand-in's pictures
widths = [8, 16]  # channels of its UNet
vae_images = 1280  # pictures that its VAE is trained on
vae_lr = 5e-3
base_images = 640  # and its UNet, by eps-prediction on the flawed schedule
base_lr = 3e-3
pictures = 128  # in the folder
measured = 256  # pictures that say what the data are
resolution = 32
images = 320  # of each fine-tuning
batch = 32
lr = 1.5e-3
lora_rank = 8
lora_lr = 1e-2
lora_layers = "all"
checkpointing = False
samples = 2  # pictures for each prompt
steps = 4
scale = 7.5  # guidance, and its rescaling
strength = 0.7
precision = "float32"
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
from safetensors.torch import save_file

for library in (diffusers, transformers):
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()

import lab
from lab import ROOT
from lab.measure import metrics
from lab.models import data, text_data
from lab.report import figures
from zsnr import finetune
from zsnr.audit import audit
from zsnr.diffusers import tiny
from zsnr.finetune import loop

if bool(model) != bool(folder):
    raise ValueError(f"model = {model!r}, folder = {folder!r}: give both, or neither for the stand-in")
lab.threads(threads)
figures.style()
out, scratch = lab.folders(out_dir)
out.mkdir(parents=True, exist_ok=True)
device = "cuda" if torch.cuda.is_available() else "cpu"
recipe = finetune.FineTune(
    images=images,
    batch=batch,
    lr=lr,
    warmup=images // 20,
    ema_halflife=images // 10,
    resolution=resolution,
    precision=precision,
    checkpointing=checkpointing,
    seed=1,
)
measures = {"recipe": dataclasses.asdict(recipe), "loss": {}}

# %% [markdown]
# ## The pictures
#
# A folder as users have it: PNG files, and `metadata.jsonl` with one line for each. The stand-in's are garments on
# backdrops of a uniformly distributed grey level, for which the caption has one of five words. So it is known what
# every prompt should give.

# %%
if not model:
    train = data.load(ROOT / source)
    folder = text_data.export(train, scratch / "pictures", pictures)
    prompts = list(data.WORDS)
captioned = finetune.captioned(folder)
print(f"{len(captioned)} captioned pictures")
fig, axes = plt.subplots(1, 6, figsize=(7, 1.5))
for ax, (path, text) in zip(axes, captioned, strict=False):
    ax.imshow(plt.imread(path))
    ax.set_title(text if len(text) < 25 else text[:22] + "...", fontsize=6)
for ax in axes:
    ax.set_axis_off()
plt.show()


def asked(name):
    """The prompts for one row of pictures: the stand-in is asked for garments in turn, on this backdrop."""
    return [name] * samples if model else text_data.prompts(train.classes, name, samples)


# %% [markdown]
# ## The model
#
# The stand-in has all parts of Stable Diffusion, small: 32x32 pictures, 4x16x16 latents. The VAE is trained a little,
# so that latents carry the picture, and its `scaling_factor` set so that they have unit std. The text encoder stays as
# it was drawn, at random: it gives each caption an embedding of its own, which is all that is asked of it here. The
# UNet is trained from scratch by the same `fine_tune`, without the fixes: $\epsilon$-prediction on Stable Diffusion's
# own schedule, and captions dropped with probability 0.1.

# %%
if model:
    flawed = diffusers.DiffusionPipeline.from_pretrained(model)
    if getattr(flawed, "safety_checker", None) is not None:
        flawed.safety_checker = None  # it would black out pictures, in a study of black pictures
else:
    words = ["a", "on", *data.WORDS, *(word for name in train.classes for word in name.replace("-", " ").split())]
    blank = tiny.stable_diffusion(words=tuple(dict.fromkeys(words)), widths=widths, text=32)
    blank.tokenizer.model_max_length = 10  # the captions are short
    blank.vae, measures["loss"]["vae"] = text_data.autoencoder(
        blank.vae, train, scratch / "vae", pictures=vae_images, batch=batch, lr=vae_lr
    )
    start = dataclasses.replace(
        recipe,
        zero_snr=False,
        images=base_images,
        lr=base_lr,
        warmup=base_images // 20,
        ema_halflife=base_images // 10,
        seed=0,
    )
    flawed, measures["loss"]["flawed"] = finetune.fine_tune(blank, folder, start, scratch / "base")
tiny.quiet(flawed)

# %% [markdown]
# What the VAE alone does to pictures' levels is the floor below which nothing here can be told apart.

# %%
if not model:
    x, conditions = train.draw(measured, loop.generator(2, 0), captioned=1.0)
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
    measures["vae"] = {
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
    print(f"VAE: error {measures['vae']['rmse']:.3f} a pixel, {measures['vae']['level_rmse']:.3f} of the level")
    print(f"latents: std {measures['vae']['latent_std']:.3f}")
    print(f"text embeddings: std {measures['vae']['text_std']:.3f} over the captions, of values of std 1")

# %% [markdown]
# ## The audit, before

# %%
report = audit(flawed)
print(report)
measures["audit"] = {"flawed": {"ok": report.ok, "verdict": report.verdict}}

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
    measures["law"] = {
        **dataclasses.asdict(along),
        "alpha_bar": first(flawed),
        "predicted": dict(zip(prompts, along.predicted(first(flawed)), strict=True)),
    }
    print(f"Lambda = {along.variance:.0f} over all pictures, {np.mean(along.within):.1f} for one prompt")
    print(f"the leak at the first step, alpha_bar Lambda: {first(flawed) * along.variance:.2f} over all pictures")
    for word, level, drawn in zip(prompts, along.levels, measures["law"]["predicted"].values(), strict=True):
        print(f"  {word:6s} level of the data {level:+.2f}, predicted of the flawed model {drawn:+.2f}")

# %% [markdown]
# ## The fix
#
# `zsnr` trains all weights of the UNet, `lora` low-rank changes to some of its layers, `control` trains on for as long
# without the fixes: what training alone does. A fixed pipeline comes with the scheduler that goes with it.

# %%
ways = {
    "control": dataclasses.replace(recipe, zero_snr=False),
    "lora": dataclasses.replace(recipe, lora_rank=lora_rank, lora_layers=lora_layers, lr=lora_lr),
    "zsnr": recipe,
}
pipelines = {"flawed": flawed}
for name, way in ways.items():
    tuned, measures["loss"][name] = finetune.fine_tune(flawed, folder, way, scratch / name)
    pipelines[name] = tiny.quiet(tuned)
    print(f"{name}: loss {measures['loss'][name][0][1]:.3f} -> {measures['loss'][name][-1][1]:.3f}")
print({key: value for key, value in pipelines["zsnr"].scheduler.config.items() if key in (
    "prediction_type", "rescale_betas_zero_snr", "timestep_spacing", "set_alpha_to_one")})  # fmt: skip

# %% [markdown]
# ## The audit, after
#
# What is left is no longer the model's: bugs of diffusers' scheduler at some counts of steps, for which
# `pipeline.scheduler = zsnr.ZeroSNRScheduler.from_config(pipeline.scheduler.config)` is the remedy.

# %%
for name in ("control", "lora", "zsnr"):
    report = audit(pipelines[name])
    measures["audit"][name] = {"ok": report.ok, "verdict": report.verdict}
    print(f"{name}: {report.verdict}")
print(report)

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
                generator=[loop.generator(3, i + j) for j in range(len(texts[i : i + batch]))],
                output_type="pt",
            ).images.cpu()
        )
    return 2 * torch.cat(drawn) - 1


settings = {"plain": (1.0, 0.0), "guided": (scale, strength)}
levels, kept = {}, {}
for setting, guidance in settings.items():
    for name, pipeline in pipelines.items():
        for prompt in prompts:
            key = f"{name}/{setting}/{prompt}"
            x = draw(pipeline, asked(prompt), *guidance)
            levels[key] = data.level(x).tolist()
            kept[key] = (x[:6] * 127.5 + 127.5).round().to(torch.uint8).contiguous()
measures["levels"] = levels

# %%
columns = min(6, samples)
ends = (prompts[0], prompts[-1])
for setting in settings:
    fig, axes = plt.subplots(1, len(pipelines), figsize=(7, 7 / len(pipelines) / columns * 2 + 0.3))
    for ax, name in zip(axes, pipelines, strict=True):
        sheet = torch.cat([kept[f"{name}/{setting}/{end}"] for end in ends])
        figures.pictures(ax, sheet.float() / 127.5 - 1, columns, f"{name}, {setting}")
    plt.show()


def text(values):
    """Mean and its 95 % interval over pictures."""
    low, high = metrics.interval(values)
    return f"{np.mean(values):+z.2f} [{low:+z.2f}, {high:+z.2f}]"


print(f"level asked for: {ends[0]}, {ends[1]}")
for setting in settings:
    for name in pipelines:
        parts = [f"{text(levels[f'{name}/{setting}/{end}']):>24s}" for end in ends]
        print(f"  {setting:8s}{name:10s}" + "".join(parts))
if not model:
    print(f"  {'':8s}{'data':10s}" + "".join(f"{text(floor[end]):>24s}" for end in ends) + "   (through the VAE)")

# %% [markdown]
# ## Saved, and loaded again in plain diffusers

# %%
same = {}
for name in ("lora", "zsnr"):
    finetune.save(pipelines[name], scratch / "saved" / name, ways[name])
    again = tiny.quiet(type(flawed).from_pretrained(scratch / "saved" / name))
    key = f"{name}/guided/{ends[0]}"
    x = draw(again, asked(ends[0]), *settings["guided"])
    same[name] = (data.level(x) - torch.tensor(levels[key])).abs().max().item()
    print(f"{name}: {type(again.scheduler).__module__.split('.')[0]}'s own {type(again.scheduler).__name__};", end=" ")
    print("the same pictures" if same[name] < 1e-3 else f"OTHER PICTURES: levels differ by {same[name]:.3f}")
measures["loaded"] = same

# %%
measures["floor"] = floor if not model else {}
measures["prompts"], measures["steps"] = prompts, steps
measures["guidance"] = [scale, strength]
measures["environment"] = lab.environment()
(out / "measures.json").write_text(json.dumps(measures, indent=1) + "\n")
save_file(kept, out / "samples.safetensors")
loop.clean(scratch)
