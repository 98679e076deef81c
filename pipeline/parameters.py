"""A notebook's parameters, filled from params.yaml: strict names, checked types, each value from one place only.

The names are those of the notebook's `parameters` cell, which holds literals; a mapping there, such as
`recipe = {"images": 1280, "lr": 1e-3}`, is filled key by key. `fill` looks for each of them in

    -p name=value        the command line
    out_dir, results     the folders of the run, made from the profile
    PROFILE.SECTION      the sections of params.yaml that are the notebook's own or named on the command line; what
                         stands in groups within a section counts as if it stood in the section itself
    PROFILE.run          what holds for the whole profile: threads, precision, batch, optimizer
    data                 where the pictures are, and how many of them carry a word
    the notebook         its own default, for a finding and in smoke; the defaults of stages are those of smoke

and refuses what is nowhere, what is in two sections, and what has another type than the default: a misspelled name,
or the string "1e-4", would otherwise train the wrong model in silence.
"""

import ast
import difflib
import json
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from pipeline.checkout import Refused


def declared(notebook: NotebookNode) -> dict[str, Any]:
    """The defaults in the cell tagged `parameters`, by name.

    Raises:
        Refused: the cell holds anything but `name = literal`, or more than one cell is tagged.
    """
    tagged = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) > 1:
        raise Refused(f"{len(tagged)} cells are tagged `parameters`; only one can be")
    defaults = {}
    for node in ast.parse("".join(tagged)).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.expr() as value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                raise Refused(f"the parameters cell may hold `name = literal` only, not {ast.unparse(node)}")
        try:
            defaults[name] = ast.literal_eval(value)
        except ValueError as error:
            raise Refused(f"the default of {name} must be a literal, not {ast.unparse(value)}") from error
    return defaults


def fill(
    defaults: Mapping[str, Any],
    tree: Mapping[str, Any],
    profile: str,
    sections: Sequence[str],
    given: Sequence[str] = (),
    folders: Mapping[str, str] | None = None,
    own: bool = False,
) -> dict[str, Any]:
    """A value for everything that a notebook declares.

    Args:
        defaults: what it declares, from `declared`.
        tree: the content of params.yaml.
        profile: smoke, full, ...
        sections: of the profile; each must be there, unless `own`.
        given: `name=value` from the command line, which come before all others.
        folders: `out_dir` and `results`, for a notebook that declares them.
        own: what is nowhere is as the notebook declares it.

    Raises:
        Refused: with every name that is nowhere, in two places, unknown, or of the wrong type.
    """
    leaves = dict(_leaves(defaults))
    on_line = _given(given, leaves)
    places = _places(tree, profile, sections, own)
    values, wrong = {}, []
    for name, default in leaves.items():
        found = {f"{label}.{name}": section[name] for label, section in places.items() if name in section}
        if name in on_line:
            found = {f"-p {name}": on_line[name]}
        elif name in (folders or {}):
            found = {name: (folders or {})[name]}
        if len(found) == 1:
            [(origin, value)] = found.items()
            try:
                values[name] = checked(name, value, default, origin)
            except Refused as error:
                wrong.append(str(error))
        elif found:
            wrong.append(f"{name} is in two places: {' and '.join(found)}")
        elif own:
            values[name] = default
        else:
            wrong.append(f"{name} is in none of {', '.join(places)}{_nearest(name, places)}")
    if wrong:
        raise Refused("\n".join(wrong))
    return {
        name: {key: values[key] for key in default} if isinstance(default, dict) else values[name]
        for name, default in defaults.items()
    }


def sources(defaults: Mapping[str, Any], tree: Mapping[str, Any], profile: str, sections: Sequence[str],
            given: Sequence[str] = ()) -> set[str]:  # fmt: skip
    """The dotted keys of params.yaml that `fill` reads."""
    names = {name for name, _ in _leaves(defaults)} - {item.partition("=")[0] for item in given}
    places = _places(tree, profile, sections, own=True)
    return {f"{label}.{name}" for label, section in places.items() for name in names & section.keys()}


def checked(name: str, value: Any, default: Any, origin: str) -> Any:
    """`value`, if it has the type of the notebook's default (None accepts all, a float accepts an int)."""
    if not _fits(value):
        raise Refused(f"{origin} is {reprlib.repr(value)}: give numbers that are finite and fit 64 bits")
    if type(default) is float and type(value) is int:
        return float(value)
    if default is not None and type(value) is not type(default):
        raise Refused(
            f"{origin} is {reprlib.repr(value)} ({type(value).__name__}), but the notebook declares "
            f"{name} = {default!r} ({type(default).__name__})"
        )
    return value


def load(path: Path) -> dict[str, Any]:
    """params.yaml as DVC reads it: YAML 1.2, where 1e-4 is a number."""
    from ruamel.yaml import YAML, YAMLError

    try:
        tree = YAML(typ="safe", pure=True).load(path)
    except (YAMLError, ValueError) as error:  # the latter: characters, or digits, that Python does not read
        raise Refused(f"{path} cannot be read: {error}") from error
    if not isinstance(tree, dict):
        raise Refused(f"{path} holds {reprlib.repr(tree)}: give profiles with sections, such as `full: {{train: ...}}`")
    return tree


def _fits(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_fits, value))
    return not isinstance(value, int | float) or abs(value) < 2**63  # NaN is not


def _leaves(defaults: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(name, default) of every single value, those in mappings too."""
    for name, default in defaults.items():
        yield from default.items() if isinstance(default, dict) else [(name, default)]


def _given(pairs: Sequence[str], leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `-p name=value`: text where text is declared, otherwise JSON if it reads as such."""
    values: dict[str, Any] = {}
    for item in pairs:
        name, equals, text = item.partition("=")
        if not equals:
            raise Refused(f"-p {item}: expected name=value")
        if name not in leaves:
            raise Refused(f"no parameter named {name}; declared are {', '.join(leaves) or 'none'}")
        if name in values:
            raise Refused(f"given twice: {name}")
        try:
            values[name] = text if isinstance(leaves[name], str) else json.loads(text)
        except ValueError:  # no JSON, or too many digits for Python
            values[name] = text
    return values


def _places(tree: Mapping[str, Any], profile: str, sections: Sequence[str], own: bool) -> dict[str, Mapping[str, Any]]:
    """Where values may stand, by label: the sections, and the profile's `run` and `data` where they are."""
    if not isinstance(tree.get(profile), dict):
        raise Refused(f"no profile {profile}{_closest(profile, tree)}")
    for section in sections:
        if not isinstance(tree[profile].get(section, {} if own else None), dict):
            raise Refused(f"no section {profile}.{section}{_closest(section, tree[profile])}")
    named = {f"{profile}.{name}": tree[profile].get(name) for name in (*sections, "run")} | {"data": tree.get("data")}
    return {place: values for label, section in named.items() if section for place, values in groups(label, section)}


def groups(label: str, section: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A section's values, by the label of the group that they stand in."""
    if values := {key: value for key, value in section.items() if not isinstance(value, dict)}:
        yield label, values
    for key, value in section.items():
        if isinstance(value, dict):
            yield from groups(f"{label}.{key}", value)


def _nearest(name: str, places: Mapping[str, Mapping[str, Any]]) -> str:
    keys = {key: f"{label}.{key}" for label, section in places.items() for key in section}
    return "".join(f"; the nearest is {keys[key]}" for key in difflib.get_close_matches(name, keys, 1, cutoff=0.5))


def _closest(name: str, names: Mapping[str, Any]) -> str:
    return "".join(f"; the nearest is {near}" for near in difflib.get_close_matches(name, names, 1, cutoff=0.0))
