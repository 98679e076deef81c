"""`make repro`: restore what is stored, run the rest, and say in ten lines what came out.

Stored objects and raw data are checked first: DVC trusts a local remote, and would restore a truncated object
as it is; and it takes damaged raw data for new data, and records the new hash. One run at a time; a signal ends it,
and all that it started (`pipeline.stopping`).
"""

import configparser
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from lab.report.wording import words
from pipeline import parameters, stopping
from pipeline.checkout import ROOT, Refused, check_machine

DVC = [sys.executable, "-m", "dvc"]
# a DVC that ends with the process that started it
BOUND_DVC = "import sys, dvc.cli, pipeline.stopping as s; s.end_with(int(sys.argv.pop(1))); sys.exit(dvc.cli.main())"
LINE = re.compile(r"(Running|Pulling data for) stage:? '(.+?)'|Stage '(.+?)' (is cached|didn't change)")
START = "notebooks/00_start_here.ipynb"
GO_ON = (
    "If a file is missing, `git checkout dvcstore` brings it back.\n"
    "If a kill cut off one that DVC was writing: `git checkout dvc.lock`, or `rm .dvc/tmp/rwlock`.\n"
    "Finished stages are kept: `make repro` goes on from there."
)


def settings(root: Path, *names: str) -> configparser.ConfigParser:
    """DVC's settings in files of these names: those of the repository, and of this checkout alone."""
    config = configparser.ConfigParser(interpolation=None)
    config.read([root / ".dvc" / name for name in names])
    return config


def remote(root: Path) -> tuple[str, Path | None]:
    """The name of DVC's remote, and its folder where it is one; None for a server, and where none is set."""
    config = settings(root, "config", "config.local")
    name = config.get("core", "remote", fallback="")
    url = config.get(f"'remote \"{name}\"'", "url", fallback="")
    return name, None if not url or "://" in url else Path(os.path.normpath(root / ".dvc" / url))


def without_git(root: Path) -> None:
    """Have DVC work where there is no git folder, as in a download: it would look for one, and refuse."""
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        config = settings(root, "config.local")
        config.read_dict({"core": {"no_scm": "true"}})
        with open(root / ".dvc/config.local", "w") as file:
            config.write(file)


@contextmanager
def only_one(root: Path) -> Iterator[None]:
    """Refuse to start beside another `make repro`: the lock goes with the process, however that ends."""
    (root / ".dvc/tmp").mkdir(exist_ok=True)
    with open(root / ".dvc/tmp/make-repro", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            number, _, since = file.read().partition(" since ")
            raise Refused(
                f"`make repro` is running here already, as process {number} since {since}: wait for it, see what it "
                f"does (`pstree -a {number}`), or stop it (`kill {number}`)"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()} since {time.strftime('%H:%M')}")
        file.flush()
        yield


def check_remote(root: Path) -> None:
    """Refuse an unreachable remote or a damaged object, where the remote is a folder (a server tells DVC)."""
    name, folder = remote(root)
    if folder is None:
        return
    if not folder.is_dir() or not any(folder.iterdir()):
        raise Refused(
            f"DVC's remote `{name}` cannot be reached: {folder} is missing or empty. dvcstore/ is a part of\n"
            "the repository, and `git checkout dvcstore` brings it back; another copy is named by\n"
            f"  .venv/bin/dvc remote modify --local {name} url PATH_OR_ADDRESS"
        )
    for copy in folder.glob("files/md5/??/*"):  # named by their hash; a listing has the suffix .dir
        if hashlib.md5(copy.read_bytes(), usedforsecurity=False).hexdigest() != copy.parent.name + copy.stem:
            raise Refused(f"{copy} is truncated or damaged: `git checkout dvcstore` brings it back")


def check_data(root: Path) -> None:
    """Refuse raw data in the work tree that is not what its .dvc file records."""
    records = sorted(str(path.relative_to(root)) for path in root.glob("data/*.dvc"))
    if not records:
        return
    answer = subprocess.run([*DVC, "status", "--json", *records], cwd=root, capture_output=True, text=True)
    if answer.returncode:
        raise Refused(f"`dvc status` failed: {answer.stderr.strip()}")
    for record, changes in json.loads(answer.stdout).items():
        for change in changes:
            if "modified" in change.get("changed outs", {}).values():
                raise Refused(
                    f"the files that {record} records are missing, truncated or changed. To get them back:\n"
                    f"  git checkout {record} && .venv/bin/dvc pull --force {record}"
                )


def stages(root: Path) -> dict[str, bool]:
    """Every stage by name, and whether all that it writes is there."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

    try:
        with Repo(str(root)) as repo:
            every = [stage for stage in repo.index.stages if isinstance(stage, PipelineStage)]
            return {stage.name: all(out.exists for out in stage.outs) for stage in every}
    except DvcException as error:
        raise Refused(f"{error}\n{GO_ON}") from error


def dvc(root: Path, *words: str) -> Generator[str, None, None]:
    """The lines that a DVC command prints. It ends with this process; its status is checked."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    env = {**os.environ, "PATH": path, stopping.QUIET: "1"}  # stages call `python`: this one
    command = [sys.executable, "-c", BOUND_DVC, str(os.getpid()), *words]
    # a group of its own, which can be ended whole, and to which the terminal's Ctrl-C does not go
    with subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        try:
            yield from process.stdout or ()
        except BaseException:
            stopping.end_group(process)
            raise
    if process.returncode:
        raise Refused(
            f"The pipeline stopped (`dvc {' '.join(words)}`, status {process.returncode}), see above.\n{GO_ON}"
        )


def pipeline(root: Path) -> str:
    """Restore what is stored and run the rest, a line for each stage; return how many it ran, restored and left."""
    there = stages(root)
    if not all(there.values()):
        print(f"Restoring {list(there.values()).count(False)} of {len(there)} stages", flush=True)
        # all at once, which takes a fifth of the time; what is not stored is for the next command to run
        with suppress(Refused):
            list(dvc(root, "pull", "--quiet"))
    outcomes: dict[str, str] = {}
    running = False
    with closing(dvc(root, "repro", "--pull")) as lines:
        for line in lines:
            if match := LINE.match(line):
                action, pulled, other, how = match.groups()
                name, running = pulled or other, action == "Running"
                if name in there:
                    kept = there[name] and how == "didn't change"
                    outcomes[name] = "executed" if running else "unchanged" if kept else "restored"
                    progress(len(outcomes), len(there), name, running)
            elif running := running and not line.endswith(" lock file 'dvc.lock'\n"):  # what the stage says
                print(line, end="", flush=True)
    counts = Counter(outcomes.values())
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("executed", "restored", "unchanged"))


def progress(n: int, total: int, name: str, running: bool) -> None:
    """Stage n of all: in place on a terminal; elsewhere a line for each stage that runs, and for each quarter."""
    line = f"{n}/{total} {name}{': running' * running}"
    if sys.stdout.isatty():
        print(f"\r\033[K{line}", end="\n" * (running or n == total), flush=True)
    elif running or n * 4 // total > (n - 1) * 4 // total:
        print(line, flush=True)


def verdicts(rows: Sequence[Mapping[str, str]]) -> str:
    """How many verdicts there are of each kind, and which claims are contradicted."""
    counts = Counter(word for row in rows for word in words(row))
    against = [f"{row['id']} ({row['verdict']})" for row in rows if "contradicted" in words(row)]
    total = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
    return f"{len(rows)} claims: {total}\nContradicted: {', '.join(against) or 'none'} (docs/claims.md has all)"


def main() -> int:
    """Command line; returns the exit status."""
    try:
        check_machine()
        parameters.load(ROOT / "params.yaml")
        without_git(ROOT)
        with only_one(ROOT):
            check_remote(ROOT)
            check_data(ROOT)
            done = pipeline(ROOT)
        rows = json.loads((ROOT / "results/claims.json").read_text(encoding="utf-8"))
    except (Refused, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(f"\n{verdicts(rows)}\nStages: {done}\nNext, open {START}: .venv/bin/jupyter lab {START}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
