# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The training ladder: configurations A to F, trained
#
# Each rung of EDM's Table 2 is trained on scikit-learn's digits from several seeds; stage `evaluate_ladder` samples and measures.
# Beside them: C with VE's preconditioning and loss; F with every transform always applied, for what the augmentation leaks; and D, E and F on
# a ninth and a third of the pictures. Weights are not kept in the results: they stay in `scratch/`.

# %% tags=["parameters"]
width = 8
batch_size = 32
recipe = {
    "images": 144,
    "lr": 2e-3,
    "warmup": 32,
    "ema_halflife": 80,
    "augment": 0.12,
}
seeds = [0, 1]
out_dir = ""

# %%
import lab
from lab.models import digits, ladder
from lab.models.edm_training import EDMRecipe
from lab.models.training import record

lab.threads(1)  # on pictures of 8x8 more are slower
out, scratch = lab.folders(out_dir)
pictures, _ = digits.load()

# %%
rows = []
whole = EDMRecipe(sigma_data=digits.SIGMA_DATA, batch=batch_size, **recipe)
for rung in ladder.rungs(seeds):
    _, history = ladder.train(rung, whole, width, pictures, scratch)
    rows.append({**rung.columns, "loss": history})
    print(f"{rung} seed {rung.seed}: loss {history[0][1]:.3f} -> {history[-1][1]:.3f}", flush=True)

# %%
record(out / "history.json", whole.precision, rows=rows, epochs=whole.images / len(pictures))
