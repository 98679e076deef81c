"""`make versions`: run the tests on the oldest and the newest versions that pyproject.toml admits; docs/versions.md.

"lowest" is every dependency at its lower bound, on the oldest Python; "newest" is what pip installs, on each Python
that is found. Each is a virtual environment of its own (6 GB and ten minutes), which is removed again. A column of the
table that is not run again stays as it is: the Pythons need not all be on one machine.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from pipeline.checkout import ROOT

TABLE = ROOT / "docs/versions.md"
RECORDED = ("claims", "docs", "repository", "repro", "summary", "measure")
NOT_HERE = ("environment", *RECORDED, "training", "edm_training", "ladder")
"""Tests of the lock, of recorded results, of the repository, and of long training: another version changes little."""
README = "tests/test_docs.py::test_the_readmes_code_runs"
HEAD = """# Versions that the tests were run on

Written by `make versions`. *lowest*: every dependency at its lower bound in `pyproject.toml`; *newest*: what pip
installed; of torch it may be another release, PyPI's or Debian's, that is built for the CPU (`--torch`). All tests but
those of the lock, of recorded results, of the repository itself and of long training.

"""
Column = dict[str, str]


def declared() -> Column:
    """Python, what builds the wheel, and every dependency of every extra: name and range."""
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    package = tables["project"]
    groups = [tables["build-system"]["requires"], package["dependencies"], *package["optional-dependencies"].values()]
    found = (re.match(r"([\w.-]+)(>=.*)", text) for group in groups for text in group)
    return {"Python": package["requires-python"]} | {match[1]: match[2] for match in found if match}


def lowest(bounds: str) -> str:
    """The lower bound of a range: `>=2.6,<3` is 2.6."""
    return bounds.removeprefix(">=").partition(",")[0]


def read(text: str) -> dict[str, Column]:
    """The columns of a table by their heads; each is {name: version}, and counts of tests."""
    lines = [re.split(r" *\| *", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    return {head: {line[0]: line[i] for line in lines[2:]} for i, head in enumerate(lines[0]) if i} if lines else {}


def table(columns: Mapping[str, Column]) -> str:
    """The page: lowest first, then by Python."""
    heads = sorted(columns, key=lambda head: [int(n) if n.isdigit() else n for n in re.split(r"(\d+)", head)])
    names = dict.fromkeys(name for head in heads for name in columns[head])
    lines = [["", *heads], ["---"] * (len(heads) + 1)]
    lines += [[name, *(columns[head].get(name, "") for head in heads)] for name in names]
    return HEAD + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def install(python: str, kind: str, venv: Path, torch: str | None) -> Column:
    """Make an environment, with this torch if one is given; returns what is in it.

    Raises:
        subprocess.CalledProcessError: pip cannot install these versions on this Python.
    """
    needs = {name: bounds for name, bounds in declared().items() if name != "Python"}
    asked = {name: f"=={lowest(bounds)}" if kind == "lowest" else bounds for name, bounds in needs.items()}
    exact = [name + bounds for name, bounds in (asked | ({"torch": f"=={torch}"} if torch else {})).items()]
    code = "import importlib.metadata as m, json, platform, sys; names = sys.argv[1:]; found = map(m.version, names);"
    code += "print(json.dumps({'Python': platform.python_version()} | dict(zip(names, found))))"
    subprocess.run([python, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin/python", "-m", "pip", "install", "--quiet", "--no-compile", *exact], check=True)
    found = subprocess.check_output([venv / "bin/python", "-c", code, *needs], text=True)
    return {name: version.partition("+")[0] for name, version in json.loads(found).items()}


def tried(venv: Path, log: Path) -> Column:
    """Run the tests in an environment: how many passed and failed. What failed is named in the log."""
    files = sorted(path for path in (ROOT / "tests").glob("test_*.py") if path.stem[5:] not in NOT_HERE)
    pytest = [venv / "bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    surroundings = {"PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    surroundings |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*map(str, pytest), f"--junitxml={venv / 'report.xml'}", *map(str, files), README]
    with log.open("w") as out:
        subprocess.run(command, cwd=ROOT, env=os.environ | surroundings, stdout=out, stderr=out)
    suite = next(ElementTree.parse(venv / "report.xml").iter("testsuite")).attrib
    failed = int(suite["failures"]) + int(suite["errors"])
    return {"passed": str(int(suite["tests"]) - failed - int(suite["skipped"])), "failed": str(failed)}


def main() -> int:
    """Command line; returns the exit status, 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.versions", description=__doc__)
    parser.add_argument("pythons", nargs="*", help="interpreters; default: each python3.N that is found")
    parser.add_argument("--torch", help="a release of which there is a build for the CPU: PyPI's may bring CUDA, 6 GB")
    arguments = parser.parse_args()
    pythons = arguments.pythons or filter(None, (shutil.which(f"python3.{n}") for n in range(11, 30)))
    bad = False
    for python in pythons:
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        minor = subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()  # "": does not run
        kinds = ["lowest", "newest"] if minor == lowest(declared()["Python"]) else ["newest"]
        for head in (f"{kind}, {minor}" for kind in kinds if minor):
            print(f"{head}: installing, then testing", flush=True)
            log = ROOT / f"scratch/versions {head}.log"
            log.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory() as folder:
                column = install(python, head.partition(",")[0], Path(folder), arguments.torch)
                column |= tried(Path(folder), log)
            print(f"{head}: {column['passed']} passed, {column['failed']} failed, named in {log}", flush=True)
            kept = read(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
            TABLE.write_text(table(kept | {head: column}), encoding="utf-8")
            bad = bad or column["failed"] != "0"
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
