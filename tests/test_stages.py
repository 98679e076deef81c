"""The stages of dvc.yaml: they pass what their notebooks declare, and depend on all that these read and import."""

import ast
import re
import shlex
from functools import cache, reduce
from pathlib import Path

import jupytext
import pytest
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from pipeline import imports, nbrun, parameters
from pipeline.checkout import Refused

ROOT = Path(__file__).parents[1]
PARAMS = parameters.load(ROOT / "params.yaml")
# every instance of every stage, with all templates (matrix, foreach, vars) filled in by DVC itself
with Repo(str(ROOT)) as repo:
    STAGES = [stage for stage in repo.index.stages if isinstance(stage, PipelineStage)]
each_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def calls(stage):
    """The options of each notebook run in a stage's commands."""
    commands = [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd
    words = [shlex.split(command) for command in commands]
    runs = [nbrun.command_line().parse_args(w[3:]) for w in words if w[:3] == ["python", "-m", "pipeline.nbrun"]]
    return [call for run in runs for call in nbrun.each(run)]


def modules(stage):
    """What a stage runs without a notebook, such as pipeline/summary.py."""
    found = re.findall(r"^python -m (pipeline[.]\w+)", stage.cmd if isinstance(stage.cmd, str) else "")
    return [Path(*name.split(".")).with_suffix(".py") for name in found if name != "pipeline.nbrun"]


notebook = cache(jupytext.read)


def filled(call):
    """The parameters of a run."""
    return nbrun.filled(notebook(call.source), call, PARAMS)


def read_by(call):
    """The keys of params.yaml that a run reads."""
    declared = parameters.declared(notebook(call.source))
    return parameters.sources(declared, PARAMS, call.profile, nbrun.sections(call, PARAMS), call.p)


def inside(path, folders):
    """Whether a path is one of these, or lies in one."""
    return not {str(path), *map(str, Path(path).parents)}.isdisjoint(map(str, folders))


def test_every_notebook_has_a_stage():
    """A filter that matches nothing would pass all tests below."""
    assert all(calls(stage) or modules(stage) for stage in STAGES)
    assert {call.source for stage in STAGES for call in calls(stage)} == set((ROOT / "notebooks").glob("*/*.py"))


@each_stage
def test_a_stage_passes_parameters_that_its_notebook_declares(stage):
    """Names, keys of params.yaml and types: what the run would refuse, refused before an hour of training."""
    tracked = [key for dep in stage.params for key in dep.params]
    assert all(reduce(lambda tree, key: tree[key], key.split("."), PARAMS) for key in tracked), "not in params.yaml"
    for call in calls(stage):
        filled(call)
        assert not {key for key in read_by(call) if not any(f"{key}.".startswith(f"{name}.") for name in tracked)}


def test_only_findings_and_smoke_fall_back_on_the_notebooks_own_numbers():
    """In full, a number that is missing would be one of smoke's."""
    tree = {"smoke": {}, "full": {}}

    def values(*words):
        call = nbrun.command_line().parse_args(words)
        return nbrun.filled(notebook(call.source), call, tree)

    assert values("stages/words", "smoke", "-p", "source=x")["recipe"]["images"] == 1280
    assert values("findings/08_choose", "full")["images"] == 4096
    with pytest.raises(Refused, match=r"lr is in none of"):
        values("stages/words", "full")


def test_every_parameter_is_read():
    def there(profile):
        return {f"{place}.{key}" for place, keys in parameters.groups(profile, PARAMS[profile]) for key in keys}

    read = set().union(*(read_by(call) for stage in STAGES for call in calls(stage)))
    assert {key for key in read if not key.startswith("gpu.")} == there("data") | there("smoke") | there("full")
    assert {key.replace("gpu.", "full.", 1) for key in there("gpu")} <= there("full")


def test_smoke_runs_what_full_runs():
    """From the same sections of params.yaml into the same folders, but for the last replica."""

    def runs(profile):
        found = set()
        for call in (call for stage in STAGES for call in calls(stage) if call.profile == profile):
            out = str(nbrun.target_path(call, filled(call)).relative_to(ROOT / "results")).removeprefix(f"{profile}/")
            given = [item for item in call.p if not item.startswith(("results=", "out_dir="))]
            shared = set(call.sections)
            if call.source.parent.name == "findings":  # smoke's are run by one command, which names all that any reads
                shared &= {key.split(".")[1] for key in read_by(call)}
            found.add((call.source.stem, out.removeprefix("claims/"), *sorted(given), *sorted(shared)))
        return found

    assert runs("smoke") == {run for run in runs("full") if "replica=2" not in run}


@each_stage
def test_a_stage_tracks_what_it_reads_and_writes(stage):
    for call in calls(stage):
        assert inside(call.source.relative_to(ROOT), stage.deps)
        assert inside(nbrun.target_path(call, filled(call)).relative_to(ROOT), stage.outs)


def test_no_stage_depends_on_a_half_with_outputs():
    """JupyterLab rewrites the .ipynb whenever it is opened: the stage would run again."""
    assert not [str(dep) for stage in STAGES for dep in stage.deps if str(dep).endswith(".ipynb")]
    ignored = STAGES[0].repo.dvcignore
    assert all(ignored.is_ignored_file(str(path)) for path in (ROOT / "notebooks").glob("*/*.ipynb"))


@each_stage
def test_all_outputs_are_cached(stage):
    """An output that is not cached is never pushed: a fresh clone would have to run the stage."""
    assert not [str(out) for out in stage.outs if not out.use_cache]


@each_stage
def test_a_stage_depends_on_all_that_its_notebook_imports(stage):
    runs = [call.source.relative_to(ROOT) for call in calls(stage)] + modules(stage)
    files = set().union(*map(imports.closure, runs))
    assert not sorted(str(file) for file in files if not inside(file, stage.deps)), "missing in deps"
    assert not [str(dep) for dep in stage.deps if str(dep).endswith(".py") and Path(str(dep)) not in files], (
        "not imported"
    )


@each_stage
def test_a_stage_depends_on_the_results_that_its_notebook_reads(stage):
    """As far as a path in the notebook shows it: results / "zsnr/train/weights.safetensors"."""
    known = [str(path) for path in [*stage.deps, *stage.outs] if str(path).startswith("results/")]
    written = {str(out) for other in STAGES for out in other.outs}
    for call in calls(stage):
        results = filled(call).get("results", "results")
        for node in ast.walk(imports.tree(call.source.relative_to(ROOT))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            path = text if text.startswith("results/") else f"{results}/{text}"
            if re.fullmatch(r"[\w./]+/[\w./]+", text) and text != results and inside(path, written):
                assert inside(path, known) or any(inside(one, [path]) for one in known), path


def test_an_experiment_changes_one_line_of_params(tmp_path):
    """As `dvc exp run -S` writes it; without a change, the same bytes."""
    text = (ROOT / "params.yaml").read_text()
    copy = tmp_path / "params.yaml"
    places = [place for profile in ("smoke", "full", "gpu") for place in parameters.groups(profile, PARAMS[profile])]
    rates = [f"{place}.{key}=1e-3" for place, values in places for key in values if key.endswith("lr")]
    assert "full.finetune.recipe.lr=1e-3" in rates
    for change in ["data.source=data/fashion-mnist", *rates]:
        copy.write_text(text)
        apply_overrides(copy, [change])
        lines = zip(text.splitlines(), copy.read_text().splitlines(), strict=True)
        assert sum(old != new for old, new in lines) == (change in rates), change


def test_the_lock_file_has_no_stage_that_is_gone():
    """DVC keeps a renamed stage's entry for ever: take it out of dvc.lock."""
    locked = YAML(typ="safe").load(ROOT / "dvc.lock")["stages"]
    assert set(locked) <= {stage.addressing for stage in STAGES}
