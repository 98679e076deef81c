"""`make repro`: restore what is cached, run the rest, and show what came out.

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
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.report.claims import words
from pipeline import parameters, stopping
from pipeline.checkout import ROOT, Refused, check_machine

DVC = [sys.executable, "-m", "dvc"]
# a DVC that ends with the process that started it
BOUND_DVC = "import sys, dvc.cli, pipeline.stopping as s; s.end_with(int(sys.argv.pop(1))); sys.exit(dvc.cli.main())"
LINE = re.compile(r"(Running|Pulling data for) stage:? '(.+?)'|Stage '(.+?)' (is cached|didn't change)")
OUTCOME = {"Running": "executed", "didn't change": "unchanged"}  # anything else: restored


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


def pipeline(root: Path) -> str:
    """Run `dvc repro --pull`, passing its output on; return how many stages it ran, restored and left."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    env = {**os.environ, "PATH": path, stopping.QUIET: "1"}  # stages call `python`: this one
    outcomes: dict[str, str] = {}
    command = [sys.executable, "-c", BOUND_DVC, str(os.getpid()), "repro", "--pull"]
    # a group of its own, which can be ended whole, and to which the terminal's Ctrl-C does not go
    with subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        try:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                if match := LINE.match(line):
                    action, name, other, how = match.groups()
                    outcomes[name or other] = OUTCOME.get(action or how, "restored")
        except BaseException:
            stopping.end_group(process)
            raise
    if process.returncode:
        raise Refused(
            f"The pipeline stopped (`dvc repro --pull`, status {process.returncode}), see above.\n"
            "If a file is missing, `git checkout dvcstore` brings it back.\n"
            "If a kill cut off one that DVC was writing: `git checkout dvc.lock`, or `rm .dvc/tmp/rwlock`.\n"
            "Finished stages are kept: `make repro` goes on from there."
        )
    counts = Counter(outcome for name, outcome in outcomes.items() if not name.endswith(".dvc"))
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("executed", "restored", "unchanged"))


def table(rows: list[dict[str, Any]], width: int) -> str:
    """The claims that have a verdict, a line each, and how many there are of each verdict."""
    fields = ("id", "verdict", "expected", "measured", "notebook")
    cells = [["" if row.get(f) is None else str(row[f]) for f in fields] for row in rows]
    cells = [[*row[:4], Path(row[4]).stem] for row in cells]
    cells = [list(fields), *(row for row in cells if row[1] != "pending")]
    sizes = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sizes[1] = min(sizes[1], width // 3)
    room = max(width - sizes[0] - sizes[1] - sizes[4] - 2 * 4, 16)  # for expected and measured
    sizes[2] = min(sizes[2], max(room // 2, room - sizes[3]))
    sizes[3] = min(sizes[3], room - sizes[2])
    lines = ["  ".join(map(fit, row, sizes)).rstrip() for row in cells]
    counts = Counter(word for row in rows for word in words(row))
    total = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
    return "\n".join([*lines, f"{len(rows)} claims: {total}"])


def fit(text: str, size: int) -> str:
    """`text` in exactly `size` columns of one line."""
    text = " ".join(text.split())
    return text.ljust(size) if len(text) <= size else text[: size - 1] + "…"


def places(root: Path) -> str:
    """Where to look next."""
    lines = ["The claims in full: results/claims.md", "The main figures: docs/"]
    for what, suffix in (("Figures", ".png"), ("Executed notebooks", ".ipynb")):
        found = Counter(path.relative_to(root).parts[1] for path in root.glob(f"results/*/**/*{suffix}"))
        lines += [f"{what}: results/{profile}/ ({n})" for profile, n in sorted(found.items())]
    return "\n".join(lines)


def main() -> int:
    """Command line; returns the exit status."""
    try:
        check_machine()
        parameters.load(ROOT / "params.yaml")
        without_git(ROOT)
        with only_one(ROOT):
            check_remote(ROOT)
            check_data(ROOT)
            stages = pipeline(ROOT)
        rows = json.loads((ROOT / "results/claims.json").read_text())
    except (Refused, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    width = shutil.get_terminal_size((100, 24)).columns
    print(f"\n{table(rows, width)}\n\nStages: {stages}\n{places(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
