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
# With a model (`model`: a folder or an id on the Hub) and a folder of captioned pictures (`folder`), this notebook audits the model, fixes it
# by fine-tuning, and audits it again. With none of them, as here, it first makes a stand-in of diffusers' own
# classes and a folder of pictures; everything after that is the same code. Stage `evaluate_text_to_image` draws from what is saved here.
#
# The parameters below are those of a run in seconds, which shows that all of it runs and teaches the stand-in nothing;
# the results of the full run are in finding 16. For one's own model start from: `images` = 50,000 or more, `batch` = 64, `resolution` = 512, `lr` = 2e-5, `lora_lr` = 1e-4,
# `precision` = "auto", on a GPU; on several, `accelerate launch -m zsnr.finetune` does the same training.

# %% tags=["parameters"]
model = ""  # a folder or a Hub id; empty: the stand-in
folder = ""  # captioned pictures, where a model is given
source = "data/fashion-mnist"  # of the stand-in's pictures
widths = [8, 16]  # channels of its UNet
vae_images = 1280  # pictures that its VAE is trained on
vae_lr = 5e-3
base_images = 640  # and its UNet, by eps-prediction on the flawed schedule
base_lr = 3e-3
pictures = 128  # in the folder
resolution = 32
images = 320  # of each fine-tuning
batch = 32
lr = 1.5e-3
lora_rank = 8
lora_lr = 1e-2
lora_layers = "all"
checkpointing = False
precision = "float32"
threads = 1
out_dir = ""

# %%
import dataclasses
import json

import diffusers
import matplotlib.pyplot as plt
import transformers

for library in (diffusers, transformers):
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()

import lab
from lab import ROOT
from lab.models import data, text_data, tiny
from lab.report import figures
from zsnr import finetune
from zsnr.audit import audit
from zsnr.finetune.loop import clean
from zsnr.finetune.recipe import precision_facts

if bool(model) != bool(folder):
    raise ValueError(f"model = {model!r}, folder = {folder!r}: give both, or neither for the stand-in")
lab.threads(threads)
figures.style()
out, scratch = lab.folders(out_dir)
out.mkdir(parents=True, exist_ok=True)
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
facts = {"recipe": dataclasses.asdict(recipe), "loss": {}, "audit": {}}

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
captioned = finetune.captioned(folder)
print(f"{len(captioned)} captioned pictures")
fig, axes = plt.subplots(1, 6, figsize=(7, 1.5))
for ax, (path, text) in zip(axes, captioned, strict=False):
    ax.imshow(plt.imread(path))
    ax.set_title(text if len(text) < 25 else text[:22] + "...", fontsize=6)
for ax in axes:
    ax.set_axis_off()
plt.show()

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
    blank.vae, facts["loss"]["vae"] = text_data.autoencoder(
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
    flawed, facts["loss"]["flawed"] = finetune.fine_tune(blank, folder, start, scratch / "base")
tiny.quiet(flawed)

# %% [markdown]
# ## The audit, before

# %%
report = audit(flawed)
print(report)
facts["audit"]["flawed"] = {"ok": report.ok, "verdict": report.verdict}

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
    tuned, facts["loss"][name] = finetune.fine_tune(flawed, folder, way, scratch / name)
    pipelines[name] = tiny.quiet(tuned)
    print(f"{name}: loss {facts['loss'][name][0][1]:.3f} -> {facts['loss'][name][-1][1]:.3f}")
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
    facts["audit"][name] = {"ok": report.ok, "verdict": report.verdict}
    print(f"{name}: {report.verdict}")
print(report)

# %% [markdown]
# ## Saved, each as a plain diffusers pipeline
#
# The LoRA is merged into its UNet, and lies beside it by itself, with the scheduler that it needs.

# %%
saved = {"flawed": start if not model else dataclasses.replace(recipe, zero_snr=False), **ways}
for name, pipeline in pipelines.items():
    finetune.save(pipeline, out / name, saved[name])
_ = (out / "facts.json").write_text(
    json.dumps({**facts, **lab.environment(), **precision_facts(precision)}, indent=1) + "\n"
)
clean(scratch)
