# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The claims table
#
# One row for every checkable claim of both papers. The verdicts are computed from what the study notebooks measured:
# `reproduced`, `direction` (only the direction can be checked at this scale, and it holds), `not reproduced`, `contradicted`,
# `out of reach`, `pending`.

# %% tags=["parameters"]
results = "results/full"
out_dir = ""

# %%
import tempfile
from collections import Counter
from pathlib import Path

from IPython.display import Markdown, display

from lab import ROOT
from lab.report import claims

out = ROOT / out_dir if out_dir else Path(tempfile.mkdtemp())
measured = [claims.load(path) for path in sorted((ROOT / results / "findings").glob("*/claims.json"))]
rows = claims.table(measured)

# %%
for verdict, count in Counter(row["verdict"] for row in rows).most_common():
    print(f"{count:3d} {verdict}")

# %%
(out / "claims.json").write_text(claims.to_json(rows))
(out / "claims.md").write_text(claims.to_markdown(rows))
display(Markdown(claims.to_markdown(rows)))
