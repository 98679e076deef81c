"""What the pages show is what the pipeline computed, their code runs as it stands, and their links lead somewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab.report import page
from pipeline import frontpage, parameters

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
FIGURES = sorted(path.name for path in (ROOT / "docs").glob("*.png"))
CODE = {name: "".join(re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)) for name, text in TEXTS.items()}
LINKS = [(name, link) for name, text in TEXTS.items() for link in re.findall(r"\]\(((?!http)[^)\s]+)\)", text)]


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


def test_the_result_on_the_first_page_is_the_pipelines():
    (block,) = re.findall(f"{frontpage.MARKS[0]}(.*?){frontpage.MARKS[1]}", TEXTS["README.md"], re.S)
    assert block == frontpage.block()


def test_a_finding_that_no_longer_holds_is_not_written(monkeypatch):
    monkeypatch.setattr(frontpage, "findings", lambda *_: iter([(True, "Still true."), (False, "No longer.")]))
    with pytest.raises(ValueError, match=r"write it anew .*: No longer\."):
        frontpage.block()


def test_the_learning_rate_that_an_experiment_changes_is_the_one_in_params():
    lr = parameters.load(ROOT / "params.yaml")["smoke"]["edm"]["recipe"]["lr"]
    told = {"README.md": r"another learning rate than (\S+), takes", "docs/experiments.md": r"\((\S+) stands there"}
    for name, words in told.items():
        (named,) = re.findall(words, TEXTS[name])
        assert float(named) == lr


@pytest.mark.parametrize(
    ("value", "bounds", "scale", "text"),
    [(-0.004, None, 1, "0.00"), (-0.109, (-0.73, 0.5), 1, "−0.11 [−0.73, 0.50]"), (0.238, None, 100, "23.8")],
)
def test_numbers_on_the_first_page(value, bounds, scale, text):
    assert frontpage.number(value, bounds, scale) == text


def run(name: str, folder: Path) -> None:
    """The page's code, in order, in a folder that has the results beside it; what it prints must stand in the code."""
    (folder / "results").symlink_to(ROOT / "results")
    code = CODE[name]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"^# (.*)$", code, re.M)
    assert [line for line in done.stdout.splitlines() if line not in shown] == []
    assert set(shown) <= {*done.stdout.splitlines()}


def test_the_readmes_code_runs(tmp_path):
    run("README.md", tmp_path)
    assert (tmp_path / "garments.png").stat().st_size > 10_000


def test_the_readmes_findings_are_the_pipelines():
    rows = json.loads((ROOT / "results/claims.json").read_text())
    assert page.readme(TEXTS["README.md"], rows) == TEXTS["README.md"], "make docs"


@pytest.mark.parametrize("name", [name for name, code in CODE.items() if code and name != "README.md"])
def test_the_code_of_a_page_runs(name, tmp_path):
    run(name, tmp_path)


def headings(text: str) -> set[str]:
    """The anchors that GitHub and MyST give to a page's headings."""
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in re.findall(r"^#+ (.*)$", text, re.M))
    return {title.replace(" ", "-") for title in plain}


@pytest.mark.parametrize(("name", "link"), sorted(set(LINKS)))
def test_a_link_leads_somewhere(name, link):
    path, _, anchor = link.partition("#")
    target = (ROOT / name).parent / path if path else ROOT / name
    assert target.exists()
    text = target.read_text(encoding="utf-8") if anchor else ""
    if target.suffix == ".ipynb" and anchor:
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    assert not anchor or anchor in headings(text)


def test_every_page_is_linked():
    """But those that pages begin at, on GitHub the README, on the site its index, which alone lists the stages."""
    linked = {((ROOT / name).parent / link.partition("#")[0]).resolve() for name, link in LINKS}
    assert {page for page in PAGES if page not in (README, ROOT / "docs/index.md", ROOT / "docs/stages.md")} <= linked


def test_the_readme_can_be_read_in_one_go():
    assert len(TEXTS["README.md"].splitlines()) <= 150
