"""`make peers`: diffusers' own tests with our scheduler in the place of theirs.

Status 1 for a failure that expected.yaml gives no reason for, and for a test that it lists and that passes. A test
that fails with diffusers' own scheduler too (no hub, another version) says nothing about ours, and does not count.
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

HERE, ROOT = Path(__file__).resolve().parent, Path(__file__).resolve().parents[2]
PEERS = ROOT / ".peers"
CHECKOUT, SITE = PEERS / "diffusers", PEERS / "site"
EXTRA = ("parameterized==0.9.0", "requests-mock==1.12.1", "torchsde==0.2.6", "trampoline==0.1.2")
LIMIT = 600  # seconds, of everything
Outcomes = dict[str, tuple[str, str]]


def _pip(*arguments: str) -> bool:
    return not subprocess.run([sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments]).returncode


def fetch(tag: str) -> str | None:
    """Bring their tests and what these import into .peers/; what is missing, if something is."""
    if not (CHECKOUT / "tests" / "schedulers").is_dir():
        name = f"diffusers-{version('diffusers')}"
        source = PEERS / f"{name}.tar.gz"
        if source.exists() or _pip("download", "--no-deps", "--no-binary", ":all:", "-d", str(PEERS), name.replace("-", "==")):
            with tarfile.open(source) as archive:
                archive.extractall(PEERS, [m for m in archive if m.name.startswith(f"{name}/tests/")], filter="data")
            (PEERS / name).rename(CHECKOUT)
    if not (CHECKOUT / "tests" / "schedulers").is_dir():
        return f"the package index has no tests of diffusers; put a checkout of {tag} into {CHECKOUT}"
    if not SITE.is_dir() and not _pip("install", "--no-deps", "--target", str(SITE), *EXTRA):
        return f"the package index does not give {', '.join(EXTRA)}"
    return None


def run(mode: str, tests: list[str], until: float) -> Outcomes:
    """Outcome and message of every one of these files or tests that ran, in as many processes as there are cores."""
    (CHECKOUT / "pytest.ini").write_text("[pytest]\n")  # theirs alone: none of our options
    (PEERS / "tests.txt").write_text("\n".join(tests))
    flags = ("-c", "pytest.ini", "--rootdir=.", "-p", "swap", "-p", "no:cacheprovider", "-q", "--tb=no", "-W", "ignore")
    shards, running = os.cpu_count() or 1, []
    for k in range(shards):
        out = PEERS / f"{mode}-{k}.jsonl"
        out.write_text("")
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, (HERE, ROOT, SITE))),
            "PEERS_MODE": mode,
            "PEERS_SHARD": f"{k}/{shards}",
            "PEERS_OUT": str(out),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "pytest", *flags, f"@{PEERS / 'tests.txt'}"]
        with (PEERS / f"{mode}-{k}.log").open("w") as log:
            running.append((subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=log, stderr=log), out))
    found: Outcomes = {}
    try:
        for process, out in running:
            if process.wait(max(until - time.monotonic(), 0)) not in (0, 1, 5):  # 5: a shard without tests
                raise SystemExit(f"pytest did not run: see {out.with_suffix('.log')}")
            for line in out.read_text(encoding="utf-8").splitlines():
                test, outcome, message = json.loads(line)
                if found.get(test, ("",))[0] != "failed":
                    found[test] = outcome, message
    except subprocess.TimeoutExpired:
        raise SystemExit(f"not done within {LIMIT} s: see {PEERS}/{mode}-*.log") from None
    finally:
        for process, _ in running:
            process.kill()
    return found


def judge(mode: str, found: Outcomes, broken: set[str], reasons: dict[str, list[str]]) -> bool:
    """Print the counts and whatever is not as the table says; is everything as it says?"""
    failed = {test for test, (outcome, _) in found.items() if outcome == "failed"} - broken
    print(f"{mode}: {len(found)} run, {len(found) - len(failed | broken & set(found))} passed")
    print(f"  {len(broken & set(found))} fail with diffusers' own scheduler too")
    wrong, listed = [], set()
    for reason, patterns in reasons.items():
        named = {test: pattern for pattern in patterns for test in found if fnmatchcase(test, f"tests/*{pattern}")}
        wrong += [f"listed, and no such test ran: {p}" for p in patterns if p not in named.values()]
        wrong += [f"listed, and passes: {test}" for test in named.keys() - failed - broken]
        listed |= named.keys() & failed
        print(f"  {len(named.keys() & failed)} {reason}")
    wrong += [f"FAILED {test}: {found[test][1]}" for test in sorted(failed - listed)]
    print(*wrong, sep="\n")
    return not wrong


def main() -> int:
    """The command."""
    start = time.monotonic()
    table = YAML(typ="safe").load(HERE / "expected.yaml")
    PEERS.mkdir(exist_ok=True)
    if missing := fetch(table["tag"]):
        print(f"make peers is skipped: {missing}")
        return 0
    found = {mode: run(mode, table[mode]["files"], start + LIMIT) for mode in ("ours", "zero")}
    failed = {test for outcomes in found.values() for test, (outcome, _) in outcomes.items() if outcome == "failed"}
    theirs = run("theirs", sorted(failed), start + LIMIT) if failed else {}
    broken = {test for test, (outcome, _) in theirs.items() if outcome == "failed"}
    good = [judge(mode, found[mode], broken, table[mode]["reasons"]) for mode in found]
    print(f"{time.monotonic() - start:.0f} s, diffusers {version('diffusers')}, tests of {table['tag']}")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
