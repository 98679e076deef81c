"""The stages of dvc.yaml: they pass what their notebooks declare, and depend on all that these read and import."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import jupytext
import pytest
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc.utils.hydra import apply_overrides

from pipeline import nbrun, parameters

ROOT = Path(__file__).parents[1]
PARAMS = parameters.load(ROOT / "params.yaml")
# every instance of every stage, with all templates (matrix, foreach, vars) filled in by DVC itself
STAGES = [stage for stage in Repo(str(ROOT)).index.stages if isinstance(stage, PipelineStage)]
each_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def calls(stage):
    """The options of each notebook run in a stage's commands."""
    commands = [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd
    words = [shlex.split(command) for command in commands]
    runs = [nbrun.command_line().parse_args(w[3:]) for w in words if w[:3] == ["python", "-m", "pipeline.nbrun"]]
    return [call for run in runs for call in nbrun.each(run)]


def filled(call):
    """The parameters of a run."""
    return nbrun.filled(jupytext.read(call.source), call)


def read_by(call):
    """The keys of params.yaml that a run reads."""
    declared = nbrun.declared(jupytext.read(call.source))
    return parameters.sources(declared, PARAMS, call.profile, nbrun.sections(call, PARAMS), call.p)


def inside(path, folders):
    """Whether a path is one of these, or lies in one."""
    return not {str(path), *map(str, Path(path).parents)}.isdisjoint(map(str, folders))


def test_there_are_stages():
    """A filter that matches nothing would pass all tests below."""
    assert all(calls(stage) for stage in STAGES)
    assert {call.source.relative_to(ROOT) for stage in STAGES for call in calls(stage)} == {
        path.relative_to(ROOT) for path in (ROOT / "notebooks").glob("*/*.py")
    }


@each_stage
def test_a_stage_passes_parameters_that_its_notebook_declares(stage):
    """Names, keys of params.yaml and types: what the run would refuse, refused before an hour of training."""
    tracked = [key for dep in stage.params for key in dep.params]
    for call in calls(stage):
        filled(call)
        assert not {key for key in read_by(call) if not any(f"{key}.".startswith(f"{name}.") for name in tracked)}


def test_every_parameter_is_read():
    read = set().union(*(read_by(call) for stage in STAGES for call in calls(stage)))
    there = {name: {f"{place}.{key}" for place, values in parameters.groups(name, PARAMS[name]) for key in values}
             for name in ("data", "smoke", "full", "gpu")}  # fmt: skip
    assert read == there["data"] | there["smoke"] | there["full"]
    assert {key.replace("gpu.", "full.", 1) for key in there["gpu"]} <= there["full"]


def test_smoke_runs_what_full_runs():
    """From the same keys of params.yaml into the same folders, but for the last replica."""

    def runs(profile):
        found = set()
        for call in (call for stage in STAGES for call in calls(stage) if call.profile == profile):
            out = str(nbrun.target_path(call, filled(call)).relative_to(ROOT / "results")).removeprefix(f"{profile}/")
            given = [item for item in call.p if not item.startswith(("results=", "out_dir="))]
            keys = {key.partition(".")[2] for key in read_by(call) if not key.startswith("data.")}
            found.add((call.source.stem, out.removeprefix("claims/"), *sorted(given), *sorted(keys)))
        return found

    assert runs("smoke") == {run for run in runs("full") if "replica=2" not in run}


@each_stage
def test_a_stage_tracks_what_it_reads_and_writes(stage):
    deps, outs = [str(dep) for dep in stage.deps], [str(out) for out in stage.outs]
    for call in calls(stage):
        assert inside(call.source.relative_to(ROOT), deps)
        assert inside(nbrun.target_path(call, filled(call)).relative_to(ROOT), outs)


@each_stage
def test_a_stage_does_not_depend_on_a_half_with_outputs(stage):
    """JupyterLab rewrites the .ipynb whenever it is opened: the stage would run again."""
    assert not [str(dep) for dep in stage.deps if str(dep).endswith(".ipynb")]
    ignored = Repo(str(ROOT)).dvcignore
    assert all(ignored.is_ignored_file(str(path)) for path in (ROOT / "notebooks").glob("*/*.ipynb"))


@each_stage
def test_all_outputs_are_cached(stage):
    """An output that is not cached is never pushed: a fresh clone would have to run the stage."""
    assert not [str(out) for out in stage.outs if not out.use_cache]


# --- what a notebook imports


@cache
def tree(path):
    return ast.parse((ROOT / path).read_text())


@cache
def module(name):
    """The file of a module of this repository, and None for all others."""
    path = Path(*name.split("."))
    files = [path.with_suffix(".py"), path / "__init__.py"]
    return next((file for file in files if (ROOT / file).is_file()), None)


@cache
def where(package, name):
    """The file that defines a name which is asked of a package: a module in it, or where its __init__ has it from."""
    if found := module(f"{package}.{name}"):
        return found
    for node in ast.walk(tree(module(package))):
        if isinstance(node, ast.ImportFrom) and node.module and module(node.module):
            for alias in node.names:
                if name == (alias.asname or alias.name) and node.module != package:
                    return direct_import(node.module, alias.name)
    return module(package)


def direct_import(source, name):
    """The file behind `from source import name`."""
    path = module(source)
    return where(source, name) if path and path.name == "__init__.py" else path


@cache
def imports(path):
    """The files of this repository that a file imports, through what packages export, and the data beside it."""
    found, packages = set(), {}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            found |= {direct_import(node.module, alias.name) for alias in node.names}
            packages |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {module(alias.name) for alias in node.names}
            packages |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"\w+\.yaml", node.value):
            beside = Path(path).with_name(node.value)
            found |= {beside} if (ROOT / beside).is_file() else set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in packages:
            package = module(packages[ast.unparse(node.value)])
            if package and package.name == "__init__.py":
                found.add(where(packages[ast.unparse(node.value)], node.attr))
    return {file for file in found if file and file != Path(path)}


def closure(path):
    """All files of this repository on which a notebook's numbers depend, itself included.

    A package's __init__ that only passes names on is none, nor is lab's own: it says where folders are.
    """
    seen, todo = set(), [path]
    while todo:
        if (file := todo.pop()) not in seen:
            seen.add(file)
            todo += imports(file) if file.suffix == ".py" else []
    passing = {file for file in seen if file.name == "__init__.py" and not defines(file)}
    return seen - passing - {Path("lab/__init__.py")}


def defines(file):
    """Whether a package defines anything itself."""
    return any(isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name != "__getattr__" for n in tree(file).body)


@each_stage
def test_a_stage_depends_on_all_that_its_notebook_imports(stage):
    deps = [str(dep) for dep in stage.deps]
    files = set().union(*(closure(call.source.relative_to(ROOT)) for call in calls(stage)))
    assert not sorted(str(file) for file in files if not inside(file, deps)), "missing in deps"
    assert not [dep for dep in deps if dep.endswith(".py") and Path(dep) not in files], "not imported"


@each_stage
def test_a_stage_depends_on_the_results_that_its_notebook_reads(stage):
    """As far as a path in the notebook shows it: results / "zsnr/train/weights.safetensors"."""
    made = [str(dep) for dep in [*stage.deps, *stage.outs] if str(dep).startswith("results/")]
    written = {str(out) for other in STAGES for out in other.outs}
    for call in calls(stage):
        values = filled(call)
        for node in ast.walk(tree(call.source.relative_to(ROOT))):
            text = node.value if isinstance(node, ast.Constant) else None
            if not isinstance(text, str) or not re.fullmatch(r"[\w./]+", text):
                continue
            path = text if text.startswith("results/") else f"{values.get('results', 'results')}/{text}"
            if "/" in text and text != values.get("results") and inside(path, written):
                assert inside(path, made) or any(inside(one, [path]) for one in made), path


# --- params.yaml


def test_an_experiment_changes_one_line_of_params(tmp_path):
    """As `dvc exp run -S` writes it; without a change, the same bytes."""
    text = (ROOT / "params.yaml").read_text()
    copy = tmp_path / "params.yaml"
    places = [place for profile in ("smoke", "full", "gpu") for place in parameters.groups(profile, PARAMS[profile])]
    rates = [f"{place}.{key}=3e-4" for place, values in places for key in values if key.endswith("lr")]
    assert "full.finetune.lr=3e-4" in rates
    for change in ["data.source=data/fashion-mnist", *rates]:
        copy.write_text(text)
        apply_overrides(copy, [change])
        lines = zip(text.splitlines(), copy.read_text().splitlines(), strict=True)
        assert sum(old != new for old, new in lines) == (change in rates), change
