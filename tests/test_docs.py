"""What the repository's page shows is what the pipeline computed, and the README's code runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab.report import page

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FIGURES = sorted(path.name for path in (ROOT / "docs").glob("*.png"))


def test_the_claims_on_the_page_are_the_pipelines():
    rows = json.loads((ROOT / "results/claims.json").read_text())
    assert page.to_markdown(rows, ROOT / "docs") == (ROOT / "docs/claims.md").read_text(), "make docs"


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_on_the_page_is_the_pipelines(name):
    notebook, _, figure = name.partition("-")
    assert (ROOT / "docs" / name).read_bytes() == (ROOT / "results/full/findings" / notebook / figure).read_bytes()


def test_every_figure_of_the_full_profile_is_on_the_page():
    made = sorted(f"{path.parent.name}-{path.name}" for path in (ROOT / "results/full/findings").glob("*/*.png"))
    assert made == FIGURES


def test_the_readmes_code_runs():
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.S))
    code += "\nassert pictures.shape == (4, 3, 32, 32) and pictures.isfinite().all()"
    code += "\nassert scheduler.alphas_cumprod[-1] == 0 and len(images) == 1 and image.size == (32, 32)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    snr, verdict, remedy = done.stdout.splitlines()
    flawed, fixed = map(float, snr.split())
    assert f"# {flawed:.4f} {fixed}" in README
    assert f"print(report.verdict)  # {verdict}\n" in README
    assert "Algorithm 1" in remedy


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http)[^)]+)\)", README))))
def test_a_link_of_the_readme_leads_somewhere(link):
    assert (ROOT / link).exists()


def test_the_readmes_findings_are_the_pipelines():
    rows = json.loads((ROOT / "results/claims.json").read_text())
    assert page.readme(README, rows) == README, "make docs"
