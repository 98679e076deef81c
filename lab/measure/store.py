"""One store for the results of all stages: rows with columns, measures and tensors.

    rows.jsonl            a line each: {"columns": {...}, "measures": {...}}
    tensors.safetensors   <number of the row>/<name>, such as 12/level
    facts.json            what holds for the whole stage, such as where it was computed

Pictures to look at may be kept as bytes. What was drawn is said by columns, never by a name that is parsed back:

    results = load(folder / "guide", folder / "evaluate/0")
    results.where(model="zsnr", nfe=25).one(spacing="trailing", w=7.5, phi=0.7)["frechet"]
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Row:
    """One set of pictures (or one question to a network): what it is, what was measured, and what was kept.

    Args:
        columns: what was drawn: strings, numbers and booleans.
        measures: JSON; numbers, lists and dicts.
        tensors: by name, such as level (n,) or pictures (n, C, H, W).
    """

    columns: Mapping[str, Any]
    measures: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """A measure or a column."""
        for part in (self.measures, self.columns):
            if name in part:
                return part[name]
        raise KeyError(f"no {name!r} in a row of {', '.join([*self.measures, *self.columns])}")

    def __contains__(self, name: str) -> bool:
        return name in self.measures or name in self.columns


@dataclass(frozen=True, eq=False)
class Results:
    """Rows, in the order in which they were saved, and the facts of their stage."""

    rows: Sequence[Row]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, **columns: Any) -> Results:
        """The rows in which every one of these columns has that value.

        Raises:
            KeyError: a column that no row has; it names those there are.
        """
        known = {name for row in self.rows for name in row.columns}
        if self.rows and (unknown := set(columns) - known):
            raise KeyError(f"no column {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
        found = [row for row in self.rows if all(k in row.columns and row.columns[k] == v for k, v in columns.items())]
        return Results(found, self.facts)

    def one(self, **columns: Any) -> Row:
        """The one row with these columns.

        Raises:
            LookupError: none, or several; it says which.
        """
        found = self.where(**columns).rows
        if len(found) != 1:
            among = "; ".join(str(dict(row.columns)) for row in (found or self.rows)[:8])
            raise LookupError(f"{len(found)} rows with {columns} in place of one, among: {among}")
        return found[0]

    def values(self, column: str) -> list[Any]:
        """The different values of a column, in order of appearance."""
        return list(dict.fromkeys(row.columns[column] for row in self.rows if column in row.columns))


def as_bytes(pictures: Tensor) -> Tensor:
    """Pictures in [-1, 1] as 0 ... 255, what lies beyond cut off; saved as `pictures`, they load as numbers again.

    By way of half precision, so that pictures that were kept in it give the same bytes.
    """
    return ((pictures.half().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def save(folder: str | Path, rows: Sequence[Row], facts: Mapping[str, Any] | None = None) -> None:
    """Write results; the same rows give the same bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{i}/{name}": x.contiguous() for i, row in enumerate(rows) for name, x in row.tensors.items()}
    lines = [json.dumps({"columns": dict(row.columns), "measures": dict(row.measures)}) for row in rows]
    save_file(tensors, folder / "tensors.safetensors")
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "facts.json").write_text(json.dumps(dict(facts or {}), indent=1) + "\n")


def load(*folders: str | Path) -> Results:
    """What `save` wrote in one folder or several, one after the other; the facts are those of the first.

    Raises:
        FileNotFoundError: nothing was saved there.
    """
    rows: list[Row] = []
    facts: list[dict[str, Any]] = []
    for folder in map(Path, folders):
        if not (folder / "rows.jsonl").exists():
            raise FileNotFoundError(f"no results in {folder}: `dvc repro --pull` restores or computes them")
        tensors: dict[int, dict[str, Tensor]] = {}
        for key, x in load_file(folder / "tensors.safetensors").items():
            index, _, name = key.partition("/")
            bytes_ = name == "pictures" and x.dtype == torch.uint8
            tensors.setdefault(int(index), {})[name] = x / 127.5 - 1 if bytes_ else x
        for i, line in enumerate((folder / "rows.jsonl").read_text().splitlines()):
            rows.append(Row(**json.loads(line), tensors=tensors.get(i, {})))
        facts.append(json.loads((folder / "facts.json").read_text()))
    return Results(rows, facts[0] if facts else {})
