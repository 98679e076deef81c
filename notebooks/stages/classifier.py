# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A classifier, for features
#
# The Fréchet distance and the Inception score need a network that knows this data. A small convolutional classifier, trained
# on the same pictures on backdrops, gives 64 features and the class probabilities. Its scores compare within this project
# only.

# %% tags=["parameters"]
source = "data/fashion-mnist"
images = 4096
threads = 1
out_dir = ""

# %%
import json
import tempfile
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import lab
from lab import ROOT
from lab.measure.metrics import Classifier
from lab.models import data
from zsnr.finetune import loop

lab.threads(threads)
out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
train, test = data.load(ROOT / source, "train"), data.load(ROOT / source, "test")

# %%
torch.manual_seed(0)
network = Classifier(train.image.shape[1], len(train.classes))
optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
batch, steps = 128, images // 128
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
for step in range(steps):
    x, conditions = train.draw(batch, loop.generator(0, step))
    loss = cross_entropy(network.head(network(x)), conditions[:, 0])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    if (step + 1) % (steps // 8) == 0:
        print(f"{(step + 1) * batch:6d} pictures, cross entropy {loss.item():.3f}", flush=True)

# %% [markdown]
# Accuracy on test garments, on backdrops that it has not seen:

# %%
x, conditions = test.draw(2000, loop.generator(1))
with torch.no_grad():
    accuracy = (network.eval().head(network(x)).argmax(1) == conditions[:, 0]).double().mean().item()
print(f"accuracy on {len(x)} test pictures: {accuracy:.3f} (chance {1 / len(train.classes):.3f})")
if accuracy < 1.5 / len(train.classes):
    print("no better than chance: these features know nothing of the classes, and their distances mean little")

# %%
network.save(out / "classifier.safetensors")
_ = (out / "classifier.json").write_text(json.dumps({"accuracy": accuracy, **lab.environment()}, indent=1) + "\n")
