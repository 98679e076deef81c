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
# One row for every checkable claim of both papers. One primary check decides it, for exact denoisers and for trained ones apart where
# the claim is about both; `lab/report/claims.yaml` names it, its band and why, before a finding measures it. The verdicts: `reproduced`;
# `direction` (only the sign can be checked at this scale, and it holds); `arithmetic` (the paper's own numbers, put together);
# `contradicted`; `inconclusive` (the 95 % interval lies across an edge of the band); `pending`; `out of reach`.

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
for verdict, count in Counter(word for row in rows for word in claims.words(row)).most_common():
    print(f"{count:3d} {verdict}")

# %%
(out / "claims.json").write_text(claims.to_json(rows))
(out / "claims.md").write_text(claims.to_markdown(rows))
display(Markdown(claims.to_markdown(rows)))
