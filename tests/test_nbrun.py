"""The notebook runner refuses what is wrong before it works, and writes the same bytes for the same code."""

import os
import shutil
from collections import namedtuple

import jupytext
import nbformat
import pytest

from pipeline import nbrun

PARAMS = """
train: {lr: 1e-5, steps: 10, flag: true, name: base, levels: [1, 2], nothing: null}
"""
PARAMETERS = """
# %% tags=["parameters"]
lr = 1e-4
steps: int = 3
name = "a"
flag = False
levels = [0.5]
extra = None
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.fixture
def nb(tmp_path):
    """Write and run a small notebook: nb(code, *options) -> (status, output path)."""
    (tmp_path / "params.yaml").write_text(PARAMS)
    shutil.copy(nbrun.ROOT / "notebooks/jupytext.toml", tmp_path)
    source = tmp_path / "nb.py"

    def call(code, *options, out="new/folder/out.ipynb"):
        source.write_text(f"# %% [markdown]\n# # Title\n{PARAMETERS}\n# %%\n{code}\n")
        target = tmp_path / out if out else source.with_suffix(".ipynb")
        where = ["-o", str(target)] if out else []
        status = nbrun.main([str(source), *where, "--params", str(tmp_path / "params.yaml"), *options])
        return status, target

    return call


def printed(path):
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-p", "lrr=1"], "no parameter named lrr; declared are lr, steps, name, flag, levels, extra"),
        (["-P", "train.lrr=lr"], "no key train.lrr; the nearest is train.lr"),
        (["-P", "trian.steps"], "no key trian.steps; the nearest is train.steps"),
        (["-P", "train.steps.x=lr"], "no key train.steps.x"),
        (["-P", "train=lr"], "train is a section (lr, steps, flag, name, levels, nothing)"),
        (["-P", "train.name=steps"], "is 'base' (str), but the notebook declares steps = 3 (int)"),
        (["-P", "train.flag=steps"], "is True (bool), but the notebook declares steps = 3 (int)"),
        (["-P", "train.lr=steps"], "is 1e-05 (float), but the notebook declares steps = 3 (int)"),
        (["-P", "train.nothing=lr"], "is None (NoneType), but the notebook declares lr = 0.0001 (float)"),
        (["-p", "flag=True"], "-p flag is 'True' (str), but the notebook declares flag = False (bool)"),
        (["-p", "lr"], "expected name=value"),
        (["-p", "lr=1", "-P", "train.lr"], "given twice: lr"),
    ],
)
def test_a_wrong_parameter_is_refused_before_work(nb, capfd, monkeypatch, options, message):
    monkeypatch.setattr(nbrun, "run", lambda *_: pytest.fail("it ran"))
    status, out = nb("", *options)
    assert status == 1
    assert message in capfd.readouterr().err
    assert not out.exists()


def test_values_keep_their_types(nb):
    options = ["-P", "train.lr", "-P", "train.flag", "-P", "train.levels", "-P", "train.name=extra"]
    status, out = nb("print([lr, steps, name, flag, levels, extra])", *options, "-p", "name=7")
    assert status == 0
    assert printed(out) == "[1e-05, 3, '7', True, [1, 2], 'base']\n"


def test_an_integer_may_stand_for_a_float(nb):
    status, out = nb("print(repr(lr))", "-P", "train.steps=lr")
    assert status == 0
    assert printed(out) == "10.0\n"


@pytest.mark.parametrize("cell", ["steps = 1\nlr = steps * 2", "lr = print", "print(1)", "a = b = 1", "lr: float"])
def test_defaults_must_be_literals(cell):
    notebook = jupytext.reads(f'# %% tags=["parameters"]\n{cell}\n', fmt="py:percent")
    with pytest.raises(nbrun.Refused, match=r"literal"):
        nbrun.declared(notebook)


def test_two_runs_write_the_same_bytes(nb):
    code = "import time\nprint('a', flush=True)\ntime.sleep(0.1)\nprint('b')\nlr"
    first = nb(code, "-p", "steps=4")[1].read_bytes()
    status, out = nb(code, "-p", "steps=4")
    assert status == 0
    assert out.read_bytes() == first
    assert b'"steps": 4' in first, "the parameters of the run are part of the record"
    assert first.count(b'"stream"') == 1, "a stream is stored in one piece, wherever it was cut"


def test_a_pair_is_rewritten_as_jupytext_would(nb, tmp_path):
    status, out = nb("import os\nprint(os.getcwd())", out=None)
    assert status == 0
    assert printed(out) == f"{tmp_path}\n", "the kernel runs in the notebook's folder"
    metadata = nbformat.read(out, as_version=4).metadata
    assert set(metadata) == {"jupytext", "kernelspec", "language_info"}
    assert nb("", "-p", "steps=4", out=None)[0] == 1, "a committed pair has its defaults"


@pytest.mark.parametrize("out", ["out.ipynb", None])
def test_the_kernel_imports_this_checkout(nb, tmp_path, monkeypatch, out):
    other = tmp_path / "other/zsnr/__init__.py"
    other.parent.mkdir(parents=True)
    other.touch()
    monkeypatch.setenv("PYTHONPATH", str(other.parents[1]))
    status, path = nb("import zsnr\nprint(zsnr.__file__)", out=out)
    assert status == 0
    assert printed(path) == f"{nbrun.ROOT}/zsnr/__init__.py\n"


def test_a_stage_runs_in_the_root(nb):
    assert printed(nb("import os\nprint(os.getcwd())")[1]) == f"{nbrun.ROOT}\n"


def test_a_failing_notebook_shows_its_error_and_keeps_what_ran(nb, capfd):
    good = nb("print('good')")[1].read_bytes()
    status, out = nb("print('before')\nraise ValueError('steps must be\\npositive, got 0')")
    assert status == 1
    err = capfd.readouterr().err
    assert "failed in cell [2]" in err
    assert "ValueError: steps must be\npositive, got 0" in err
    assert printed(out.with_name("out.failed.ipynb")) == "before\n"
    assert out.read_bytes() == good, "the earlier result is not touched"


def test_a_notebook_that_exits_early_has_failed(nb, capfd):
    """papermill calls it a success, with the cells after it not run."""
    status, out = nb("import sys\nsys.exit(0)\n# %%\nprint('end')")
    assert status == 1
    assert "a cell never ran" in capfd.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "error", ["OSError(28, 'No space left on device')", "RuntimeError('I/O: No space left on device (28)')"]
)
def test_a_full_disk_in_the_notebook_names_the_remedy(nb, capfd, error):
    assert nb(f"raise {error}")[0] == 1
    err = capfd.readouterr().err
    assert nbrun.REMEDY in err
    assert "finished stages are kept" in err


def test_a_full_disk_in_the_runner_names_the_remedy(nb, capfd, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nbrun.os, "replace", full)
    status, out = nb("")
    assert status == 1
    assert nbrun.REMEDY in capfd.readouterr().err
    assert [path.name for path in out.parent.iterdir()] == ["out.failed.ipynb"], "no half-written file stays"


def test_a_nearly_full_disk_is_an_error_before_work(nb, capfd, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(nbrun.shutil, "disk_usage", lambda _: usage(10**12, 10**12, 123_000_000))
    monkeypatch.setattr(nbrun, "run", lambda *_: pytest.fail("it ran"))
    assert nb("")[0] == 1
    err = capfd.readouterr().err
    assert "only 123 MB free" in err
    assert nbrun.REMEDY in err
