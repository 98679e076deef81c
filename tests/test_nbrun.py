"""The notebook runner refuses what is wrong before it works, and writes the same bytes for the same code."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple

import jupytext
import nbformat
import psutil
import pytest

from pipeline import checkout, execute, nbrun, parameters, stopping

PARAMS = """
data: {source: pictures, near: 1}
small:
  run: {threads: 1, both: 3}
  nb: {lr: 1e-5, steps: 10, flag: true, name: base, levels: [1, 2], extra: base}
  other: {lr: 2, steps: 10, name: 7, levels: [], extra: null, images: 8, both: 4}
  typed: {lr: null, steps: 1e-5, flag: false, name: a, levels: [], extra: 0}
  held: {steps: true, lr: 1.0, flag: false, name: a, levels: [], extra: {a: 1}}
smoke:
  finding_nb: {lr: 1e-5, steps: 10, flag: true, name: base, levels: [], extra: 0}
  nb: {lr: 1e-5, name: a, more: {steps: 1, flag: true, deep: {levels: [], extra: 0}}}
"""
HEADER = (
    "# ---\n# jupyter:\n#   kernelspec: {display_name: Python 3 (ipykernel), language: python, name: python3}\n# ---\n"
)
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
    """Write and run a small notebook, by profile and sections or as a pair: nb(code, *options) -> (status, output)."""
    shutil.copy(checkout.ROOT / "notebooks/jupytext.toml", tmp_path)

    def call(code, *options, place=("small",), name="nb", folder=".", cell=PARAMETERS, params=PARAMS, head=HEADER):
        (tmp_path / "params.yaml").write_text(params)
        source = tmp_path / folder / f"{name}.py"
        source.parent.mkdir(exist_ok=True)
        source.write_text(f"{head}\n# %% [markdown]\n# # Title\n{cell}\n# %%\n{code}\n")
        out = tmp_path / "new/folder" if place else source.parent
        where = [*place, "-o", str(out)] if place else []
        status = nbrun.main([str(source), *where, "--params", str(tmp_path / "params.yaml"), *options])
        return status, out / f"{name}.ipynb"

    return call


def printed(path):
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def refused(nb, capfd, monkeypatch, *options, **call):
    """What is printed of a call that must not get as far as running."""
    monkeypatch.setattr(nbrun, "run", lambda *_: pytest.fail("it ran"))
    status, out = nb("", *options, **call)
    assert status == 1
    assert not out.exists()
    return capfd.readouterr().err


def cell(text):
    return {"cell": f'# %% tags=["parameters"]\n{text}\n'}


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        ({}, ["-p", "lrr=1"], "no parameter named lrr; declared are lr, steps, name, flag, levels, extra"),
        ({}, ["-p", "flag=True"], "-p flag is 'True' (str), but the notebook declares flag = False (bool)"),
        ({}, ["-p", "lr"], "expected name=value"),
        ({}, ["-p", "lr=1", "-p", "lr=2"], "given twice: lr"),
        ({"name": "typed"}, [], "small.typed.lr is None (NoneType), but the notebook declares lr = 0.0001 (float)"),
        ({"name": "typed"}, [], "small.typed.steps is 1e-05 (float), but the notebook declares steps = 3 (int)"),
        ({"name": "held"}, [], "small.held.steps is True (bool), but the notebook declares steps = 3 (int)"),
        ({"name": "other"}, [], "small.other.name is 7 (int), but the notebook declares name = 'a' (str)"),
        ({"name": "other"}, [], "flag is in none of small.other, small.run, data"),
        ({"place": ["smal"]}, [], "no profile smal; the nearest is small"),
        ({"place": ["small", "othre"]}, [], "no section small.othre; the nearest is other"),
        ({"place": ["small", "other"]}, [], "steps is in two places: small.other.steps and small.nb.steps"),
        (cell("level = [1]"), [], "level is in none of small.nb, small.run, data; the nearest is small.nb.levels"),
        (cell("sources = ''"), [], "the nearest is data.source"),
        (cell("recipe = {'lr': 1e-3, 'stepz': 2}"), [], "small.run, data; the nearest is small.nb.steps"),
        (cell("recipe = {'lr': 1}"), [], "small.nb.lr is 1e-05 (float), but the notebook declares lr = 1 (int)"),
        ({"head": "import os"}, [], "it has no jupytext header"),
        ({"params": "5"}, [], "holds 5: give profiles"),
        ({"params": "[small]"}, [], "holds ['small']: give profiles"),
        ({"params": ""}, [], "holds None: give profiles"),
        ({"params": "a: b: c"}, [], "cannot be read: mapping values are not allowed here"),
        ({"params": "a: " + 5000 * "9"}, [], "cannot be read: Exceeds the limit"),
        ({"params": f"small: {{nb: {{lr: {400 * '9'}}}}}"}, [], "small.nb.lr is 999999999999999999...999"),
        (
            {"params": "small: {nb: {levels: [1, .nan]}}"},
            [],
            "small.nb.levels is [1, nan]: give numbers that are finite",
        ),
    ],
)
def test_what_is_wrong_is_refused_before_work(nb, capfd, monkeypatch, call, options, message):
    assert message in refused(nb, capfd, monkeypatch, *options, **call)


@pytest.mark.parametrize(
    ("name", "options", "values"),
    [
        ("nb", ["-p", "name=7"], "[1e-05, 10, '7', True, [1, 2], 'base']"),
        ("other", ["-p", "name=a", "-p", "flag=true"], "[2.0, 10, 'a', True, [], None]"),  # lr: an integer will do
    ],
)
def test_values_keep_their_types(nb, name, options, values):
    status, out = nb("print([lr, steps, name, flag, levels, extra])", *options, name=name)
    assert (status, printed(out)) == (0, f"{values}\n")


def test_a_recipe_is_filled_key_by_key(nb, tmp_path):
    cell = """# %% tags=["parameters"]
recipe = {"lr": 1e-3, "steps": 1, "threads": 0}
source = ""
images = 1
results = "somewhere"
out_dir = ""
"""
    status, out = nb("print(recipe, source, images, results, out_dir)", "-p", "images=2", cell=cell)
    assert status == 0
    folder = tmp_path / "new/folder"
    assert printed(out) == f"{{'lr': 1e-05, 'steps': 10, 'threads': 1}} pictures 2 results/small {folder}\n"


@pytest.mark.parametrize("folder", ["findings", "stages"])
def test_smoke_keeps_the_numbers_of_a_finding_and_shows_no_verdict(nb, tmp_path, capfd, folder):
    code = f"for name in ('a.png', 'a.json'):\n    open({str(tmp_path / 'new/folder')!r} + '/' + name, 'w').close()"
    code += "\nprint('Z-01 contradicted')"
    status, out = nb(code, place=("smoke",), folder=folder)
    assert status == 0
    kept = ["a.json"] if folder == "findings" else ["a.json", "a.png", "nb.ipynb"]
    assert sorted(path.name for path in out.parent.iterdir()) == kept
    assert ("contradicted" in capfd.readouterr().out) == (folder == "stages")


@pytest.mark.parametrize("cell", ["steps = 1\nlr = steps * 2", "lr = print", "print(1)", "a = b = 1", "lr: float"])
def test_defaults_must_be_literals(cell):
    notebook = jupytext.reads(f'# %% tags=["parameters"]\n{cell}\n', fmt="py:percent")
    with pytest.raises(checkout.Refused, match=r"literal"):
        parameters.declared(notebook)


def test_a_folder_is_run_until_one_fails(nb, tmp_path, capfd):
    for name in ("a", "b", "c"):
        code = "print('ran')" if name == "a" else "raise ValueError('stop')"
        (tmp_path / f"{name}.py").write_text(f"{HEADER}\n# %%\n{code}\n")
    assert nbrun.main([str(tmp_path)]) == 1
    assert printed(tmp_path / "a.ipynb") == "ran\n"
    assert (tmp_path / "b.failed.ipynb").exists()
    assert not (tmp_path / "c.failed.ipynb").exists()
    assert nbrun.main([str(tmp_path), "smoke", "-o", "x"]) == 1
    assert "-o is for one notebook" in capfd.readouterr().err


def test_two_runs_write_the_same_bytes(nb):
    code = (
        "import sys, time\nprint('a', flush=True)\nprint('going on', file=sys.stderr)\ntime.sleep(0.1)\nprint('b')\nlr"
    )
    first = nb(code, "-p", "steps=4")[1].read_bytes()
    status, out = nb(code, "-p", "steps=4")
    assert status == 0
    assert out.read_bytes() == first
    assert b'"steps": 4' in first, "the parameters of the run are part of the record"
    assert first.count(b'"stream"') == 1, "a stream is stored in one piece, wherever it was cut"
    assert printed(out) == "a\nb\n", "what is said of this run alone is not a result"


def test_a_pair_is_rewritten_as_jupytext_would(nb, tmp_path):
    status, out = nb("", place=())
    assert status == 0
    metadata = nbformat.read(out, as_version=4).metadata
    assert set(metadata) == {"jupytext", "kernelspec", "language_info"}
    assert nb("", "-p", "steps=4", place=())[0] == 1, "a committed pair has its defaults"


@pytest.mark.parametrize("place", [(), ("small",)])
def test_the_kernel_imports_this_checkout_and_runs_in_its_root_or_beside_the_pair(nb, tmp_path, monkeypatch, place):
    other = tmp_path / "other/zsnr/__init__.py"
    other.parent.mkdir(parents=True)
    other.touch()
    monkeypatch.setenv("PYTHONPATH", str(other.parents[1]))
    status, path = nb("import os, zsnr\nprint(zsnr.__file__, os.getcwd())", place=place)
    assert status == 0
    assert printed(path) == f"{checkout.ROOT}/zsnr/__init__.py {checkout.ROOT if place else tmp_path}\n"


def test_a_failing_notebook_shows_its_error_and_keeps_what_ran(nb, capfd):
    good = nb("print('good')")[1].read_bytes()
    status, out = nb("print('before')\nraise ValueError('steps must be\\npositive, got 0')")
    assert status == 1
    err = capfd.readouterr().err
    assert "failed in cell [3]" in err
    assert "ValueError: steps must be\npositive, got 0" in err
    assert printed(out.with_name("nb.failed.ipynb")) == "before\n"
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
    assert checkout.REMEDY in capfd.readouterr().err


def test_a_full_disk_in_the_runner_names_the_remedy(nb, capfd, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(execute.os, "replace", full)
    status, out = nb("")
    assert status == 1
    assert checkout.REMEDY in capfd.readouterr().err
    assert [path.name for path in out.parent.iterdir()] == ["nb.failed.ipynb"], "no half-written file stays"


def test_a_nearly_full_disk_is_an_error_before_work(nb, capfd, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checkout.shutil, "disk_usage", lambda _: usage(10**12, 10**12, 123_000_000))
    assert f"only 123 MB free at {checkout.ROOT}, 500 are needed. {checkout.REMEDY}" in refused(nb, capfd, monkeypatch)


def test_few_open_files_are_raised_or_an_error_before_work(nb, capfd, monkeypatch):
    limits = {checkout.resource.RLIMIT_NOFILE: (20, 4096)}
    monkeypatch.setattr(checkout.resource, "getrlimit", limits.get)
    monkeypatch.setattr(checkout.resource, "setrlimit", limits.__setitem__)
    checkout.check_machine()
    assert [*limits.values()] == [(128, 4096)]
    limits[checkout.resource.RLIMIT_NOFILE] = 20, 20
    assert "only 20 files may be open at once, 128 are needed" in refused(nb, capfd, monkeypatch)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_the_kernel_too(tmp_path, number):
    """Interrupted, it leaves no notebook but a training's last step; killed, the kernel sees that it is alone."""
    code = "import os, time\ntry:\n    print(os.getpid(), flush=True); time.sleep(60)\nfinally:\n    open('kept', 'w')"
    (tmp_path / "nb.py").write_text(f"{HEADER}\n# %%\n{code}\n")
    command = [sys.executable, "-m", "pipeline.nbrun", str(tmp_path / "nb.py")]
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it
    run = subprocess.Popen(command, cwd=checkout.ROOT, stdout=-1, stderr=-1, text=True, preexec_fn=heard)
    kernel = psutil.Process(int(run.stdout.readline()))
    start = time.monotonic()
    run.send_signal(number)
    err = run.communicate()[1]
    psutil.wait_procs([kernel], timeout=5)
    assert time.monotonic() - start < 5
    assert not kernel.is_running()
    asked = number == signal.SIGINT
    assert run.returncode == (130 if asked else -9)
    assert not asked or err == f"\n{stopping.LINE}\n"
    assert (tmp_path / "kept").exists() == asked
    assert (tmp_path / "nb.failed.ipynb").exists() != asked
