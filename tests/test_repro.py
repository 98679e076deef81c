"""`make repro` says what to do where something is missing or damaged, and what came out."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jupytext
import psutil
import pytest

from pipeline import checkout, record, repro, stopping

CONFIG = """
[core]
    remote = store
['remote "store"']
    url = ../dvcstore
"""
CLAIMS = [
    {"id": "Z-01", "verdict": "reproduced"},
    {"id": "Z-02", "verdict": "exact: reproduced; trained: contradicted"},
    {"id": "E-01", "verdict": "pending"},
]


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A repository with a tracked folder, one stage that needs it, and an embedded remote."""
    root = tmp_path_factory.mktemp("example")
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text(CONFIG)
    (root / ".dvcignore").touch()
    (root / "data/raw").mkdir(parents=True)
    (root / "data/raw/a.txt").write_text("raw data\n")
    stage = "{cmd: cp data/raw/a.txt out, deps: [data/raw], outs: [out]}"
    (root / "dvc.yaml").write_text(f"stages: {{copy: {stage}}}")
    subprocess.run(["git", "init", "-q", "."], cwd=root, check=True)
    for command in (["add", "-q", "data/raw"], ["repro", "-q"], ["push", "-q"]):
        subprocess.run([*repro.DVC, *command], cwd=root, check=True, stdout=subprocess.DEVNULL)
    return root


@pytest.fixture
def root(example, tmp_path, monkeypatch):
    """A copy of the example, whose DVC leaves nothing outside of it."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    return shutil.copytree(example, tmp_path / "repo", symlinks=True)


def forget(root):
    """Leave what a fresh clone has."""
    shutil.rmtree(root / ".dvc/cache")
    (root / "out").unlink()
    shutil.rmtree(root / "data/raw")


def test_a_clone_restores_everything(root):
    forget(root)
    repro.check_remote(root)
    repro.check_data(root)
    assert repro.pipeline(root) == "0 executed, 1 restored, 0 unchanged"
    assert (root / "out").read_text() == "raw data\n"
    assert repro.pipeline(root) == "0 executed, 0 restored, 1 unchanged"


def test_what_changed_is_executed(root):
    (root / "dvc.yaml").write_text((root / "dvc.yaml").read_text().replace("cp data", "cp -f data"))
    assert repro.pipeline(root) == "1 executed, 0 restored, 0 unchanged"


def test_what_no_stage_needs_is_not_kept(root, capfd):
    """The stage's former output and run go; what is left restores a clone."""

    def store(command):
        stage = f"{{cmd: {command} out, deps: [data/raw], outs: [out]}}"
        (root / "dvc.yaml").write_text(f"stages: {{copy: {stage}}}")
        with pytest.raises(checkout.Refused, match=r"copy(.|\n)*`make repro` first"):
            record.record(root)
        assert repro.pipeline(root) == "1 executed, 0 restored, 0 unchanged"
        record.record(root)
        return {path for path in root.glob("dvcstore/**/*") if path.is_file()}

    first, second = store("rev data/raw/a.txt >"), store("rev data/raw/a.txt | tr a-z A-Z >")
    assert "before: 0.0 MB in 4 files\nafter:  0.0 MB in 4 files" in capfd.readouterr().out
    assert [len(first & second), len(first - second)] == [2, 2], "the data stay, its listing and the file in it"
    forget(root)
    assert repro.pipeline(root) == "0 executed, 1 restored, 0 unchanged"
    assert (root / "out").read_text() == "ATAD WAR\n"


def test_results_of_another_text_are_not_recorded(root):
    """Parameters and prose may differ, code may not; a notebook that has no source any more is none of ours."""
    notebook = "notebooks/stages/sum.py"
    source = "# %% tags=['parameters']\nn = 2\n\n# %% [markdown]\n# prose\n\n# %%\nprint(n)\n"
    (root / notebook).parent.mkdir(parents=True)
    (root / notebook).write_text(source)
    results = root / "results/full"
    for name in ("sum", "gone"):
        (results / name).mkdir(parents=True)
        run = jupytext.reads(source.replace("n = 2", "n = 5").replace("prose", "other prose"), "py:percent")
        jupytext.write(run, results / name / f"{name}.ipynb")
    record.check_notebooks(root)
    (root / notebook).write_text(source.replace("print(n)", "print(n + 1)"))
    with pytest.raises(checkout.Refused, match=r"^results/full/sum/sum.ipynb\nwere run with another text"):
        record.check_notebooks(root)


def test_what_a_server_keeps_is_not_touched(root):
    (root / ".dvc/config.local").write_text("['remote \"store\"']\n    url = s3://bucket/\n")
    with pytest.raises(checkout.Refused, match="`store` is not a folder"):
        record.record(root)


@pytest.mark.parametrize("empty", [True, False])
def test_an_unreachable_remote_is_named(root, empty):
    shutil.rmtree(root / "dvcstore")
    if empty:
        (root / "dvcstore").mkdir()
    with pytest.raises(checkout.Refused, match=r"dvcstore is missing or empty(.|\n)*git checkout dvcstore"):
        repro.check_remote(root)


def test_a_remote_of_the_users_own_is_taken(root):
    (root / ".dvc/config.local").write_text("['remote \"store\"']\n    url = /nowhere/at/all\n")
    with pytest.raises(checkout.Refused, match="/nowhere/at/all is missing"):
        repro.check_remote(root)
    (root / ".dvc/config.local").write_text("['remote \"store\"']\n    url = s3://bucket/%20\n")
    repro.check_remote(root)


@pytest.mark.parametrize("which", [0, 1], ids=["file", "listing"])
def test_a_truncated_object_is_found(root, which):
    copies = sorted(root.glob("dvcstore/files/md5/??/*"), key=lambda path: path.suffix)
    assert [path.suffix for path in copies] == ["", ".dir"]
    copy = copies[which]
    copy.chmod(0o644)
    copy.write_text("raw")
    with pytest.raises(checkout.Refused, match="truncated or damaged: `git checkout dvcstore`"):
        repro.check_remote(root)


@pytest.mark.parametrize("text", ["raw", ""], ids=["truncated", "missing"])
def test_damaged_data_is_found_before_it_becomes_the_new_data(root, text):
    (root / "data/raw/a.txt").unlink()
    if text:
        (root / "data/raw/a.txt").write_text(text)
    with pytest.raises(checkout.Refused, match=r"dvc pull --force data/raw.dvc"):
        repro.check_data(root)


def test_missing_data_stops_the_pipeline_with_a_remedy(root, capfd):
    forget(root)
    shutil.rmtree(root / "dvcstore/files")
    with pytest.raises(checkout.Refused, match=r"`git checkout dvcstore`(.|\n)*Finished stages are kept"):
        repro.pipeline(root)
    assert "data/raw" in capfd.readouterr().err


def start(root):
    """`make repro` in the example."""
    code = "import pathlib, pipeline.repro as r; r.stopping.catch(); r.ROOT = pathlib.Path({!r}); exit(r.main())"
    (root / "params.yaml").write_text("full: {}")
    command = [sys.executable, "-c", code.format(str(root))]
    return subprocess.Popen(command, cwd=checkout.ROOT, stdout=-1, stderr=-1, text=True)


def test_the_error_is_what_the_user_sees(root):
    shutil.rmtree(root / "dvcstore")
    run = start(root)
    err = run.communicate()[1]
    assert run.returncode == 1
    assert "DVC's remote `store` cannot be reached" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("shell", ["bash", "sh"])  # bash makes way for what it runs, dash stays
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_all_that_was_started(root, monkeypatch, number, shell):
    """A stage by its group; one that watches DVC, as the runner does, even where nobody is left to end it."""
    monkeypatch.setenv("SHELL", str(shutil.which(shell)))
    watch = "pipeline.stopping.end_with_dvc();" if number == signal.SIGKILL else ""
    code = f"import os, time, pipeline.stopping; {watch} print(os.getpid(), flush=True); time.sleep(60)"
    (root / "stage.py").write_text(code)
    (root / "dvc.yaml").write_text("stages: {slow: {cmd: python stage.py, outs: [out]}}")
    run = start(root)
    stage = psutil.Process(next(int(line) for line in run.stdout if line.strip().isdigit()))
    begin = time.monotonic()
    run.send_signal(number)
    err = run.communicate()[1]
    assert not psutil.wait_procs([stage], timeout=5)[1]
    assert time.monotonic() - begin < 5
    if number == signal.SIGTERM:
        assert (run.returncode, err) == (143, f"\n{stopping.LINE}\n")
    else:  # only dash has anything left to say
        assert (run.returncode, err.replace("Terminated\n", "")) == (-9, "")


def test_a_stage_whose_dvc_was_gone_before_it_could_watch_ends(tmp_path):
    """A shell in DVC's place ends at once; what it started is an orphan by the time it asks for its parent."""
    stage = "import os, pathlib, time, pipeline.stopping; pid = pathlib.Path('pid'); pid.write_text(str(os.getpid()));"
    stage += "time.sleep({}); pipeline.stopping.end_with_dvc(); time.sleep(60)"
    (tmp_path / "stage.py").write_text(stage.format(2))
    environment = os.environ | {"DVC_STAGE": "slow", "PYTHONPATH": str(checkout.ROOT)}
    subprocess.run(["sh", "-c", f"{sys.executable} stage.py &"], cwd=tmp_path, env=environment, check=True)
    while not (text := (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else ""):
        time.sleep(0.1)
    process = psutil.Process(int(text))
    assert process.is_running()
    assert not psutil.wait_procs([process], timeout=8)[1]


def test_a_second_run_is_told_of_the_first(root):
    first = repro.only_one(root)
    with first, pytest.raises(checkout.Refused, match=rf"as process {os.getpid()} since \d\d:"), repro.only_one(root):
        pytest.fail("it ran")


def test_a_download_without_git_works(root):
    shutil.rmtree(root / ".git")
    (root / ".dvc/config.local").write_text("[cache]\n    type = copy\n")
    repro.without_git(root)
    repro.check_data(root)
    assert repro.settings(root, "config.local").get("cache", "type") == "copy"


@pytest.mark.parametrize(
    ("name", "remedy"), [("dvc.lock", "git checkout dvc.lock"), (".dvc/tmp/rwlock", "rm .dvc/tmp/rwlock")]
)
def test_what_a_kill_cuts_off_is_named(root, name, remedy):
    (root / name).write_text("{")
    with pytest.raises(checkout.Refused, match=remedy):
        repro.pipeline(root)
    (root / name).unlink()
    (root / "dvc.lock").unlink(missing_ok=True)
    assert repro.pipeline(root) == "0 executed, 1 restored, 0 unchanged"


def test_verdicts_are_counted_and_contradictions_named():
    assert repro.verdicts(CLAIMS) == (
        "3 claims: 2 reproduced, 1 contradicted, 1 pending\n"
        "Contradicted: Z-02 (exact: reproduced; trained: contradicted) (docs/claims.md has all)"
    )
    assert repro.verdicts(CLAIMS[2:]) == "1 claims: 1 pending\nContradicted: none (docs/claims.md has all)"


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_line_that_changes_or_a_few_lines(monkeypatch, capsys, terminal):
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    for n in range(1, 41):
        repro.progress(n, 40, f"stage-{n}", running=n == 7)
    out = capsys.readouterr().out
    lines = out.splitlines()
    if terminal:
        assert "\r\033[K40/40 stage-40\n" in out
        assert out.count("\n") == 2, "one under the stage that ran, one under the last"
    else:
        assert lines == [f"{n}/40 stage-{n}{': running' * (n == 7)}" for n in (7, 10, 20, 30, 40)]


def test_a_run_says_in_ten_lines_what_came_out(root):
    """With the output of the one stage that ran, and where to go on."""
    (root / "results").mkdir()
    (root / "results/claims.json").write_text(json.dumps(CLAIMS))
    forget(root)
    command = "echo a stage speaks && cp data/raw/a.txt out"
    (root / "dvc.yaml").write_text(f"stages: {{copy: {{cmd: {command}, deps: [data/raw], outs: [out]}}}}")
    out = start(root).communicate()[0]
    assert "1/1 copy: running\n" in out
    assert "a stage speaks\n" in out
    assert "Stages: 1 executed, 0 restored, 0 unchanged\n" in out
    assert out.splitlines()[-1].startswith(f"Next, open {repro.START}")
    assert len(out.splitlines()) <= 10
