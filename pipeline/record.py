"""`make record`: after a run, keep in DVC's remote what the stages of the work tree need, and nothing else.

The remote, dvcstore/, is a part of the repository: whatever it holds, every clone pays for. Older results stay in git's
history.
"""

import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import jupytext
from nbformat import NotebookNode

from pipeline.checkout import ROOT, Refused
from pipeline.repro import DVC, remote


def check_results(root: Path) -> None:
    """Refuse to record results that are not those of the work tree."""
    if subprocess.run([*DVC, "status", "--quiet"], cwd=root).returncode:
        changes = subprocess.run([*DVC, "status"], cwd=root, capture_output=True, text=True).stdout
        raise Refused(f"{changes}\nResults are not those of this work tree: `make repro` first")


def code(notebook: NotebookNode) -> list[str]:
    """The cells that hold code, without the parameters, which the runner writes anew."""
    kept = (c for c in notebook.cells if not {"parameters", "injected-parameters"} & {*c.metadata.get("tags", [])})
    return [c.source.strip() for c in kept if c.cell_type == "code"]


def check_notebooks(root: Path) -> None:
    """Refuse to record results whose notebooks have another code than their sources.

    DVC restores a stage by the hashes of its dependencies, so that after a `dvc commit` an older run may come back.
    """
    sources = {path.stem: path for path in (root / "notebooks").glob("*/*.py")}
    run = [path for path in sorted((root / "results").rglob("*.ipynb")) if path.stem in sources]
    other = [path for path in run if code(jupytext.read(path)) != code(jupytext.read(sources[path.stem]))]
    if other:
        names = "\n".join(str(path.relative_to(root)) for path in other)
        raise Refused(f"{names}\nwere run with another text: `dvc repro --single-item --force --no-run-cache` on each")


def size(folder: Path) -> str:
    """How much a folder holds."""
    files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{sum(files) / 1e6:.1f} MB in {len(files)} files"


def record(root: Path) -> None:
    """Push what is missing in the remote, then remove from it, and from the local cache, what no stage needs."""
    name, store = remote(root)
    if store is None:
        raise Refused(f"DVC's remote `{name}` is not a folder: what a server keeps is not for this to decide")
    check_results(root)
    check_notebooks(root)
    print(f"before: {size(store)}")
    for command in (["push"], ["gc", "--workspace", "--cloud", "--remote", name, "--force"]):
        if subprocess.run([*DVC, *command, "--quiet"], cwd=root).returncode:
            raise Refused(f"`dvc {command[0]}` failed, see above")
    shutil.rmtree(store / "runs", ignore_errors=True)
    keep_runs(root, store / "runs")
    print(f"after:  {size(store)}")


def keep_runs(root: Path, folder: Path) -> None:
    """Write the run-cache entry of each stage as dvc.lock has it: by these a clone without results restores them."""
    from dvc.repo import Repo
    from dvc.stage import PipelineStage
    from dvc.stage.cache import StageCache

    with chdir(root), Repo() as repo:  # DVC finds stages from where it is called
        runs = StageCache(repo)
        runs.cache_dir = str(folder)
        for stage in repo.index.stages:
            if isinstance(stage, PipelineStage):
                runs.save(stage)


def main() -> int:
    """Command line; returns the exit status."""
    try:
        record(ROOT)
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
