# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Explorer: change the schedule, the steps or the solver, and watch the pictures
#
# Every choice is drawn at once, from the same noises. Upper row of the figure: the noise levels that the solver visits, on the quarter circle from
# noise to picture; the way of one pixel of the backdrop; and how bright the backdrops are, against the truth. Below are the pictures, and under
# them what an exact solution from zero SNR makes of the same noises.
#
# The *exact denoiser* knows its data, so every error you see is the schedule's, the grid's or the solver's. The two networks were trained here, and
# are slower: one change takes some seconds.
#
# Run all cells. Or, as an app without the code: `make explorer`.

# %% tags=["parameters"]
start = {"model": "exact denoiser", "schedule": "Stable Diffusion", "spacing": "leading", "solver": "ddim", "steps": 25}

# %%
from lab.studies import explorer_widgets

explorer_widgets.show(**start)

# %% [markdown]
# ## Things to try
#
# 1. **The flaw.** As it opens: Stable Diffusion's schedule still holds a signal where sampling starts, so the backdrops are too grey. Choose the
#    schedule *rescaled to zero SNR*, then the spacing *trailing*: the spread comes back.
# 2. **Fewer steps.** On *trailing* set `steps` to 8. Then take the solver `heun` on *power*, or `eab` on *skewed*, with as many evaluations.
# 3. **Ask for black.** Set `prompt` to *black*, and then `w` to 7.5: guidance goes beyond what was asked for. `phi` takes contrast back.
# 4. **A refusal.** Take the *flawed network* and the schedule *rescaled to zero SNR*. The library says why this cannot work.
# 5. **Large sigmas.** On *karras* raise `sigma_max` to 1000: most steps are spent where nothing happens.
