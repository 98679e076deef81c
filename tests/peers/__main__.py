"""`make peers`: diffusers' own tests with our scheduler in the place of theirs (swap.py).

Status 1 for a failure that expected.yaml gives no reason for, and for a test that it lists and that passes. What fails
with diffusers' own scheduler too (no hub, numbers of another version) says nothing about ours, and does not count.
It takes 16 minutes of processor time, shared by all cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path

from ruamel.yaml import YAML

HERE = Path(__file__).resolve().parent
PEERS = HERE.parents[1] / ".peers"
CHECKOUT, SITE = PEERS / "diffusers", PEERS / "site"
EXTRA = ("parameterized==0.9.0", "requests-mock==1.12.1", "torchsde==0.2.6", "trampoline==0.1.2")
LIMIT = 600  # seconds for one test, against those that hang
Outcomes = dict[str, tuple[str, str]]


def _pip(*arguments: str | Path) -> bool:
    return not subprocess.run([sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments]).returncode


def fetch(tag: str) -> str | None:
    """Bring their tests, and what these import, into .peers/. Returns what is not to be had."""
    tests, name = CHECKOUT / "tests" / "schedulers", f"diffusers-{version('diffusers')}"
    source = ("--no-deps", "--no-binary=diffusers", "-d", PEERS, name.replace("-", "=="))
    if not tests.is_dir() and _pip("download", *source):
        with tarfile.open(PEERS / f"{name}.tar.gz") as archive:
            archive.extractall(PEERS, filter="data")
        if (PEERS / name / "tests" / "schedulers").is_dir():
            (PEERS / name).rename(CHECKOUT)
    if not tests.is_dir():
        return f"the package index has {name} without its tests: put a checkout of {tag} into {CHECKOUT}"
    if not SITE.is_dir() and not _pip("install", "--no-deps", "--target", SITE, *EXTRA):
        return f"the package index does not give {', '.join(EXTRA)}"
    return None


def run(mode: str, tests: list[str]) -> Outcomes:
    """Outcome and message of each of these tests, or of all in these files; one process for each core."""
    options = "-p swap -p no:cacheprovider -q --tb=no -W ignore"  # in place of our own
    (CHECKOUT / "pytest.ini").write_text(f"[pytest]\naddopts = {options}\n")
    (PEERS / "tests.txt").write_text("\n".join(tests))
    command = [sys.executable, "-m", "pytest", "-c", "pytest.ini", "--rootdir=.", "@../tests.txt"]
    shards = os.cpu_count() or 1
    path = os.pathsep.join(map(str, (HERE, HERE.parents[1], SITE)))
    environment = os.environ | {"PEERS_MODE": mode, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    outs, processes = [PEERS / f"{mode}-{k}.jsonl" for k in range(shards)], {}
    for k, out in enumerate(outs):
        out.write_text("")
        own = environment | {"PEERS_SHARD": f"{k}/{shards}", "PEERS_OUT": str(out)}
        with out.with_suffix(".log").open("w") as log:
            processes[log.name] = subprocess.Popen(command, cwd=CHECKOUT, env=own, stdout=log, stderr=log)
    try:
        while running := [log for log, process in processes.items() if process.poll() is None]:
            if stuck := [log for log in running if time.time() - os.stat(log).st_mtime > LIMIT]:
                raise SystemExit(f"a test has been running for {LIMIT} s: see {', '.join(stuck)}")
            time.sleep(1)
    finally:
        for process in processes.values():
            process.kill()
    if broke := [log for log, process in processes.items() if process.returncode not in (0, 1, 5)]:  # 5: no test there
        raise SystemExit(f"pytest broke off: see {', '.join(broke)}")
    lines = [json.loads(line) for out in outs for line in out.read_text(encoding="utf-8").splitlines()]
    # a test that passed and then could not be torn down has two lines: the failure comes last
    return {test: (outcome, message) for test, outcome, message in lines}


def judge(found: Outcomes, broken: set[str], reasons: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """The counts, and whatever is not as the table says."""
    failed = {test for test, (outcome, _) in found.items() if outcome == "failed"}
    ours = failed - broken
    counts = [f"{len(found)} run, {len(found.keys() - failed)} passed, {len(failed & broken)} fail with theirs too"]
    wrong, listed = [], set()
    for reason, patterns in reasons.items():
        named = {pattern: {test for test in found if fnmatchcase(test, f"*{pattern}")} for pattern in patterns}
        tests = set().union(*named.values())
        listed |= tests
        counts.append(f"{len(tests & ours)} {reason}")
        wrong += [f"listed, but there is no such test: {pattern}" for pattern in named if not named[pattern]]
        wrong += [f"listed, but does not fail for us alone: {test}" for test in sorted(tests - ours)]
    return counts, wrong + [f"fails: {test}: {found[test][1]}" for test in sorted(ours - listed)]


def main() -> int:
    """The command."""
    start, table = time.monotonic(), YAML(typ="safe").load(HERE / "expected.yaml")
    PEERS.mkdir(exist_ok=True)
    if missing := fetch(table["tag"]):
        print(f"make peers is skipped: {missing}")
        return 0
    found = {mode: run(mode, table[mode]["files"]) for mode in ("ours", "zero")}
    failed = {test for tests in found.values() for test, (outcome, _) in tests.items() if outcome == "failed"}
    theirs = run("theirs", sorted(failed)) if failed else {}
    broken = {test for test, (outcome, _) in theirs.items() if outcome == "failed"}
    red = False
    for mode in found:
        counts, wrong = judge(found[mode], broken, table[mode]["reasons"])
        print(f"{mode}: " + "\n    ".join(counts + wrong))
        red = red or bool(wrong)
    print(f"{time.monotonic() - start:.0f} s, diffusers {version('diffusers')}, its tests of {table['tag']}")
    return int(red)


if __name__ == "__main__":
    sys.exit(main())
