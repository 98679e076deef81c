"""pyproject.toml, both lock files, environment.yml and what is installed say the same."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from ruamel.yaml import YAML

from pipeline import lock, versions

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = YAML(typ="safe").load(ROOT / "environment.yml")
EXTRAS = PROJECT["optional-dependencies"]
SITE = EXTRAS.pop("site")  # exact versions, installed apart
NEEDS = {Requirement(text) for texts in [PROJECT["dependencies"], *EXTRAS.values()] for text in texts}
RANGES = sorted((need for need in NEEDS if need.name != "zsnr"), key=str)  # less extras that hold other extras
TRIED = versions.read(versions.TABLE.read_text(encoding="utf-8"))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(*files: str) -> dict[str, Version]:
    lines = [line for file in files or (lock.REPRO, lock.TEST) for line in (ROOT / file).read_text().splitlines()]
    pins = [line.partition("==") for line in lines if line and not line.startswith(("#", "-r "))]
    assert all(equals and version for _, equals, version in pins), "a lock holds name==version only"
    return {canonical(name): Version(version) for name, _, version in pins}


def test_both_locks_are_what_make_lock_writes():
    """All that is needed, nothing else, each package in one of the two, and no local version: 2.13.0 of 2.13.0+cpu."""
    assert lock.texts() == {file: (ROOT / file).read_text() for file in (lock.REPRO, lock.TEST)}
    assert locked(lock.REPRO).keys().isdisjoint(locked(lock.TEST))
    assert str(locked(lock.REPRO)["torch"]) == "2.13.0"


def test_reproducing_takes_no_tool_of_the_tests():
    assert not {"pytest", "nbval", "mypy", "ruff", "hypothesis"} & locked(lock.REPRO).keys()
    assert {"dvc", "jupyterlab", "papermill"} <= locked(lock.REPRO).keys()


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["nbval"], {"pytest", "coverage"}),
        (["requests"], {"urllib3"}),
        (["jsonschema[format-nongpl]"], {"rfc3987-syntax"}),
    ],
)
def test_what_a_package_needs_is_locked_with_it(texts, named):
    assert {canonical(Requirement(text).name) for text in texts} | named <= lock.closure(texts)
    assert "rfc3987-syntax" not in lock.closure(["jsonschema"])


def test_conda_brings_an_interpreter_that_the_package_supports_and_pip_the_rest():
    python, pip, rest = CONDA["dependencies"]
    assert Version(python.removeprefix("python=").removesuffix(".*")) in SpecifierSet(PROJECT["requires-python"])
    assert pip.startswith("pip")
    assert rest == {"pip": ["-r requirements.lock", "-e ."]}


def test_importing_the_package_needs_two_libraries():
    assert sorted(Requirement(text).name for text in PROJECT["dependencies"]) == ["numpy", "torch"]


@pytest.mark.parametrize("requirement", RANGES, ids=lambda r: r.name)
def test_every_dependency_is_locked_within_its_range(requirement):
    assert requirement.specifier, "give a range"
    assert locked()[canonical(requirement.name)] in requirement.specifier


def test_the_sites_packages_are_locked_apart():
    site = locked("requirements-site.lock")
    assert {f"{need.name}=={site[canonical(need.name)]}" for need in map(Requirement, SITE)} == set(SITE)
    assert not set(site) & set(locked())


def test_the_lock_installs_on_the_oldest_python():
    """A patch release counts: Debian 12 has 3.11.2."""
    oldest = Version(str(PROJECT["requires-python"]).removeprefix(">="))
    needs = {name: importlib.metadata.metadata(name).get("Requires-Python", "") for name in locked()}
    assert not {name: need for name, need in needs.items() if oldest not in SpecifierSet(need)}


def test_the_lock_is_what_is_installed():
    both = {name: (version, Version(importlib.metadata.version(name))) for name, version in locked().items()}
    wrong = {name: pair for name, pair in both.items() if len({version.public for version in pair}) == 2}
    assert not wrong, "run make dev, or make lock"


@pytest.mark.parametrize(("name", "bounds"), versions.declared().items())
def test_the_ends_of_every_range_were_tried(name, bounds):
    """Red where a bound has changed: `make versions`."""
    tried = [Version(column[name]) for column in TRIED.values()]
    assert not [version for version in tried if version not in SpecifierSet(bounds)]
    least = Version(versions.lowest(bounds))
    assert least.release in [version.release[: len(least.release)] for version in tried]
    assert max(tried) >= locked().get(canonical(name), least)


def test_every_python_that_is_claimed_was_tried_and_nothing_failed():
    claimed = {line.rpartition(" ")[2] for line in PROJECT["classifiers"]}
    assert claimed == {head.partition(", ")[2] for head in TRIED}
    assert {head: column["failed"] for head, column in TRIED.items()} == dict.fromkeys(TRIED, "0")
