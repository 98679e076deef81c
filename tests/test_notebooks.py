"""The notebooks are pairs, run from top to bottom, and short enough to be read."""

import re
import statistics
from pathlib import Path

import jupytext
import nbformat
import pytest
from jupytext.compare import compare_notebooks

from pipeline import execute, parameters

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for place in ("*.py", "*/*.py") for path in (ROOT / "notebooks").glob(place))

each_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    """A glob that matches nothing would pass all tests below."""
    assert SOURCES


def test_each_half_has_its_other_half():
    halves = [
        {
            path.with_suffix("")
            for place in ("*", "*/*")
            for path in (ROOT / "notebooks").glob(place + suffix)
            if ".failed" not in path.name
        }
        for suffix in (".py", ".ipynb")
    ]
    assert halves[0] == halves[1]


@each_notebook
def test_the_halves_have_the_same_cells(source):
    """By content: jupytext's own check goes by the time of writing, which means nothing in a clone."""
    executed = jupytext.read(source.with_suffix(".ipynb"))
    compare_notebooks(executed, jupytext.read(source), fmt="py:percent", allow_expected_differences=True)


@each_notebook
def test_the_outputs_come_from_one_run_from_top_to_bottom(source):
    """nbval compares nothing in a cell that never ran."""
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "make notebooks"
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"], "warnings on the page"
    volatile = [{"execution", "papermill"} & set(cell.metadata) for cell in notebook.cells]
    assert not any(volatile), "times are recorded: make notebooks"


@each_notebook
def test_the_parameters_come_first_and_the_kernel_is_named(source):
    notebook = jupytext.read(source)
    tagged = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    first = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    assert tagged == [first]
    assert parameters.declared(notebook)
    assert notebook.metadata.get("kernelspec") == execute.KERNEL


@pytest.mark.parametrize(
    "source", [path for path in SOURCES if path.parent.name == "findings"], ids=lambda path: path.stem
)
def test_a_finding_is_read_and_not_scrolled(source):
    text = source.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="py:percent")
    cells = notebook.cells
    lines = [len(cell.source.splitlines()) for cell in code(notebook)]
    steps = lines[1:]  # the parameters come first
    told, coded = (
        len(re.findall(r"\w+", " ".join(cell.source for cell in cells if (cell.cell_type == "code") is kind)))
        for kind in (False, True)
    )
    assert len(text.splitlines()) <= 250
    assert len(steps) <= 12
    assert [n for n in steps if not 3 <= n <= 15] == []
    assert statistics.median(lines) <= 12
    assert max(lines) <= 25
    assert told >= coded / 3
