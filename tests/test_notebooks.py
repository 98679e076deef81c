"""The notebooks are pairs, run from top to bottom; dvc.yaml calls them with parameters that they declare."""

import shlex
from pathlib import Path

import jupytext
import nbformat
import pytest
from dvc.repo import Repo
from dvc.stage import PipelineStage
from jupytext.compare import compare_notebooks

from pipeline import nbrun

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
# every instance of every stage, with all templates (matrix, foreach, vars) filled in by DVC itself
STAGES = [stage for stage in Repo(str(ROOT)).index.stages if isinstance(stage, PipelineStage)]

each_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
each_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def calls(stage):
    """The options of each notebook run in a stage's commands."""
    commands = [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd
    words = [shlex.split(command) for command in commands]
    return [nbrun.command_line().parse_args(w[3:]) for w in words if w[:3] == ["python", "-m", "pipeline.nbrun"]]


def test_there_are_notebooks_and_stages():
    """A glob or a filter that matches nothing would pass all tests below."""
    assert SOURCES
    assert STAGES
    assert any(calls(stage) for stage in STAGES)


def test_each_half_has_its_other_half():
    halves = [
        {path.stem for path in (ROOT / "notebooks").glob(f"*{suffix}") if ".failed" not in path.name}
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
    assert nbrun.declared(notebook)
    assert notebook.metadata.get("kernelspec") == nbrun.KERNEL


@each_stage
def test_a_stage_passes_parameters_that_its_notebook_declares(stage):
    """Names, keys of params.yaml and types: what the run would refuse, refused before an hour of training."""
    for call in calls(stage):
        declared = nbrun.declared(jupytext.read(ROOT / call.source))
        nbrun.parameters(declared, call.P, call.p, ROOT / "params.yaml")


@each_stage
def test_a_stage_tracks_what_it_reads_and_writes(stage):
    tracked = [key for dep in stage.params for key in dep.params]
    deps = [str(dep) for dep in stage.deps]
    for call in calls(stage):
        for item in call.P:
            key = item.partition("=")[0]
            assert any(key == name or key.startswith(f"{name}.") for name in tracked), f"{key} is not tracked"
        assert str(call.source) in deps
        # the notebook is an output, alone or in a folder that is one
        assert {str(path) for path in (call.out, *call.out.parents)} & {str(out) for out in stage.outs}


@each_stage
def test_a_stage_does_not_depend_on_a_half_with_outputs(stage):
    """JupyterLab rewrites the .ipynb whenever it is opened: the stage would run again."""
    assert not [str(dep) for dep in stage.deps if str(dep).endswith(".ipynb")]


@each_stage
def test_all_outputs_are_cached(stage):
    """An output that is not cached is never pushed: a fresh clone would have to run the stage."""
    assert not [str(out) for out in stage.outs if not out.use_cache]
