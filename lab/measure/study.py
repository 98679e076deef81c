"""What the findings read: the measures of all seeds, by cell, with their intervals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from torch import Tensor

from lab.measure import metrics
from lab.measure.evaluation import Cell
from lab.measure.store import Results, Row, load


def cell_of(row: Row) -> Cell:
    """The cell that a row's columns say."""
    return Cell(**{field.name: row.columns[field.name] for field in dataclasses.fields(Cell)})


def by_cell(results: Results) -> dict[Cell, Row]:
    """The rows of one replica by cell; a row that is of no cell is left out."""
    return {cell_of(row): row for row in results if "spacing" in row.columns}


class Study:
    """The evaluations of one profile: those of all replicas, and of the ablations from the same seeds.

    Args:
        folder: results/<profile>/zsnr.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        stages = [path for stage in ("evaluate", "evaluate_ablations") for path in (folder / stage).glob("*")]
        self.results = load(*sorted(stages, key=lambda path: (path.parent.name, int(path.name))))
        self.rows: dict[Cell, list[Row]] = {}
        for row in sorted(self.results, key=lambda row: row["replica"]):
            self.rows.setdefault(cell_of(row), []).append(row)
        self.seeds = self.results.values("replica")

    def __contains__(self, cell: Cell) -> bool:
        return cell in self.rows

    def where(self, **columns: object) -> Results:
        """The rows of all replicas with these columns."""
        return self.results.where(**columns)

    def cells(self, **columns: object) -> list[Cell]:
        """The cells with these columns, in the order in which they were measured."""
        return [cell for cell in self.rows if all(getattr(cell, k) == v for k, v in columns.items())]

    def of(self, cell: Cell) -> list[Row]:
        """The cell's rows, one a replica."""
        if cell not in self.rows:
            raise KeyError(f"no cell {cell}; there are {', '.join(map(str, self.rows))}")
        return self.rows[cell]

    def values(self, cell: Cell, *keys: str) -> list[float]:
        """One measure of a cell, by replica, such as values(Cell("zsnr", "trailing", nfe=25), "level", "std_ratio")."""
        return [_dig(row, keys) for row in self.of(cell)]

    def mean(self, cell: Cell, *keys: str) -> float:
        """The measure's mean over replicas."""
        return float(np.mean(self.values(cell, *keys)))

    def interval(self, cell: Cell, *keys: str) -> tuple[float, float]:
        """Its 95 % interval: over replicas, or, for the spread and bias of a cell of one, over its pictures."""
        values = self.values(cell, *keys)
        if len(values) > 1:
            return metrics.interval(values)
        what, statistic = keys[0], keys[-1]
        row = self.of(cell)[0]
        found, sample = row.measures[what], row.tensors.get(what)
        if statistic == "std_ratio" and sample is not None:
            truth = found["std"] / found["std_ratio"]
            return metrics.bootstrap(sample, lambda x: x.std(ddof=1) / truth)
        if statistic == "bias" and sample is not None:
            truth = found["mean"] - found["bias"]
            return metrics.bootstrap(sample, lambda x: x.mean() - truth)
        raise ValueError(f"no interval of {'/'.join(keys)} from the one replica of {cell}")

    def difference(self, a: Cell, b: Cell, *keys: str) -> tuple[float, tuple[float, float]]:
        """Mean and 95 % interval of a - b, paired by replica."""
        pairs = zip(self.values(a, *keys), self.values(b, *keys), strict=True)
        differences = [x - y for x, y in pairs]
        return float(np.mean(differences)), metrics.interval(differences)

    def text(self, cell: Cell, *keys: str) -> str:
        """Mean, and interval where there is one, to print."""
        mean = self.mean(cell, *keys)
        if len(self.values(cell, *keys)) < 2 and keys[-1] not in ("std_ratio", "bias"):
            return f"{mean:.3f}"
        low, high = self.interval(cell, *keys)
        return f"{mean:.3f} [{low:.3f}, {high:.3f}]"

    def samples(self, cell: Cell, what: str) -> list[Tensor]:
        """One number for each picture of a cell, such as level, by replica."""
        return [row.tensors[what] for row in self.of(cell)]

    def pictures(self, cell: Cell) -> Tensor:
        """The pictures kept of a cell, (n, C, H, W), of the first replica."""
        return self.of(cell)[0].tensors["pictures"].float()


def _dig(row: Row, keys: tuple[str, ...]) -> float:
    found = row.measures
    for key in keys:
        found = found[key]
    return float(found)  # type: ignore[arg-type]
