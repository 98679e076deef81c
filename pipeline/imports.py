"""What a notebook imports of this repository, directly or not: what its stage in dvc.yaml has to depend on.

Read off the syntax trees: nothing is imported. A name that a package only passes on (`zsnr.heun`, also where a
`__getattr__` imports it when it is asked for) leads to the file that defines it.
"""

import ast
import re
from functools import cache
from pathlib import Path

from pipeline.checkout import ROOT

NO_NUMBERS = Path("lab/__init__.py")
"""It says where folders are and how many threads there are: no stage depends on it."""


def closure(path: Path) -> set[Path]:
    """All files that decide what a notebook computes, itself included; paths are relative to the root."""
    seen: set[Path] = set()
    todo = [path]
    while todo:
        if (file := todo.pop()) not in seen:
            seen.add(file)
            todo += _imports(file) if file.suffix == ".py" else []
    return {file for file in seen if file.name != "__init__.py" or _defines(file)} - {NO_NUMBERS}


@cache
def tree(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


@cache
def _imports(path: Path) -> set[Path]:
    """The files that a file imports, and the YAML beside it that it names."""
    found: set[Path | None] = set()
    bound: dict[str, str] = {}  # the module behind a local name
    for node in ast.walk(tree(path)):
        match node:
            case ast.ImportFrom(module=str(source), level=0):
                found |= {_origin(source, alias.name) for alias in node.names}
                bound |= {alias.asname or alias.name: f"{source}.{alias.name}" for alias in node.names}
            case ast.ImportFrom():
                raise ValueError(f"{path}: import by the full name, not relatively")
            case ast.Import():
                found |= {_file(alias.name) for alias in node.names}
                bound |= {alias.asname or alias.name: alias.name for alias in node.names}
            case ast.Constant(value=str(text)) if re.fullmatch(r"\w+\.yaml", text):
                found |= {beside} if (ROOT / (beside := path.with_name(text))).is_file() else set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and (package := bound.get(ast.unparse(node.value))):
            found |= {_origin(package, node.attr)}
    return {file for file in found if file and file != path}


@cache
def _file(module: str) -> Path | None:
    """The file of a module of this repository, and None for all others."""
    path = Path(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if (ROOT / file).is_file()), None)


@cache
def _origin(source: str, name: str) -> Path | None:
    """The file behind `from source import name`."""
    package = _file(source)
    if package is None or package.name != "__init__.py":
        return package
    if module := _file(f"{source}.{name}"):
        return module
    for node in ast.walk(tree(package)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module != source:
            for alias in node.names:
                if name == (alias.asname or alias.name) and _file(node.module):
                    return _origin(node.module, alias.name)
    return package


def _defines(package: Path) -> bool:
    """Whether a package defines anything itself."""
    nodes = tree(package).body
    return any(isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name != "__getattr__" for n in nodes)
