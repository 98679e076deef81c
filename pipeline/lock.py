"""`make lock`: write down which versions are installed, in two files.

    requirements.lock        what `make repro` and the notebooks need: dependencies and the extra `repro`
    requirements-test.lock   what comes to it with the extra `dev` and the dependency groups: tests, style, the site

To add a package, name it with a range in pyproject.toml, then `make lock`: what is asked for and not there is
installed, what is there keeps its version. Each file holds the packages asked for and all that these need on this
platform, but for setuptools, which a virtual environment brings. The local version +cpu of torch is dropped: the public
index does not have it, and on Linux gives the CUDA build, whose metadata pins the CUDA libraries.
"""

import importlib.metadata
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.checkout import ROOT

REPRO, TEST = "requirements.lock", "requirements-test.lock"
HEADS = {
    REPRO: """# The exact versions that everything here was run with (Python 3.11). `make lock` writes this file, and
# `make env` and environment.yml install it. soupsieve is held below 3, which needs Python 3.11.5.
""",
    TEST: """# What tests, style checks and the site need besides. `make lock` writes this file, `make dev` installs it.
-r requirements.lock
""",
}


def asked() -> dict[str, list[str]]:
    """What pyproject.toml asks for, by the file that holds it."""
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    package = tables["project"]
    extras = package["optional-dependencies"]

    def expand(texts: Iterable[str]) -> Iterator[str]:
        """With the content of an extra in place of its name, such as zsnr[finetune]."""
        for text in texts:
            need = Requirement(text)
            if need.name == package["name"]:
                yield from expand(inner for extra in sorted(need.extras) for inner in extras[extra])
            else:
                yield text

    groups = tables.get("dependency-groups", {}).values()
    repro = list(expand([*package["dependencies"], *extras["repro"]]))
    return {REPRO: repro, TEST: [*repro, *expand(extras["dev"]), *(text for group in groups for text in group)]}


def closure(texts: Iterable[str]) -> set[str]:
    """The names of these packages and of all that they need here, as installed."""
    todo = [Requirement(text) for text in texts]
    seen, names = set(), set[str]()
    while todo:
        need = todo.pop()
        key = (canonicalize_name(need.name), frozenset(need.extras))
        if key in seen or key[0] == "setuptools":
            continue
        seen.add(key)
        names.add(key[0])
        for deeper in map(Requirement, importlib.metadata.requires(need.name) or ()):
            if not deeper.marker or any(deeper.marker.evaluate({"extra": extra}) for extra in need.extras or {""}):
                todo.append(deeper)
    return names


def texts() -> dict[str, str]:
    """The content of both files, for what is installed.

    Raises:
        importlib.metadata.PackageNotFoundError: something that is needed is not installed.
    """
    held = {file: closure(needs) for file, needs in asked().items()}
    return {REPRO: HEADS[REPRO] + pins(held[REPRO]), TEST: HEADS[TEST] + pins(held[TEST] - held[REPRO])}


def pins(names: Iterable[str]) -> str:
    """A line name==version for each."""
    found = {meta["Name"]: meta["Version"] for meta in map(importlib.metadata.metadata, names)}
    return "".join(f"{name}=={found[name].partition('+')[0]}\n" for name in sorted(found, key=str.lower))


def main() -> None:
    """Install what is missing, and write both files."""
    needs = dict.fromkeys(asked()[TEST])
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", *needs], check=True)
    for file, text in texts().items():
        (ROOT / file).write_text(text, encoding="utf-8")
        print(f"{file}: {text.count('==')} packages")


if __name__ == "__main__":
    main()
