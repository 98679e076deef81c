# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The claims of both papers
#
# One primary check decides a claim, for exact denoisers and for trained ones apart where the claim is about both; `lab/report/claims.yaml`
# names it, its band and why, before a finding measures it. The whole page, with all checks and what the verdicts mean, is `docs/claims.md`.

# %% tags=["parameters"]
results = "results/full"
out_dir = ""

# %%
import tempfile
from pathlib import Path

from IPython.display import Markdown, display

from lab import ROOT
from lab.report import claims, page, wording

out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
measured = [claims.load(path) for path in sorted((ROOT / results / "findings").glob("*/claims.json"))]
rows = wording.table(measured)

# %%
(out / "claims.json").write_text(claims.to_json(rows), encoding="utf-8")
(out / "claims.md").write_text(page.to_markdown(rows, out, Path(results).name), encoding="utf-8")
print(page.counts(rows))

# %%
display(Markdown(page.overview(rows)))
