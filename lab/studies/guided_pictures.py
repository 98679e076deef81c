"""Finding 9, on the trained model: Figure 6 of Lin et al. 2023 (Sec. 3.4), measured.

*Over-exposed* is the share of a picture's values with |x| > 1.02, before they are clamped; *plain* is read as little
contrast, the std of a picture's own values (`lab.measure.saturation`). The paper shows pictures and measures neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from lab.measure.evaluation import REAL, Cell
from lab.measure.metrics import interval
from lab.measure.store import Row, load
from lab.measure.study import by_cell
from lab.studies.rescaled_guidance import Mean, W

FEW = REAL.but(part="few")
"""As many real pictures as a cell has."""


@dataclass(frozen=True)
class Guided:
    """The guided pictures of the zsnr model, all cells from the same noises.

    Args:
        rows: of the stage guide, by cell.
        cells: those of Figure 6, by (w, phi, what is rescaled).
        count: pictures of a cell.
        accuracy: the classifier's, on real pictures.
        classes: how many there are; seed n asks for class n % classes.
    """

    rows: Mapping[Cell, Row]
    cells: Mapping[tuple[float, float, str], Cell]
    count: int
    accuracy: float
    classes: int

    @property
    def none(self) -> Cell:
        """The cell without guidance."""
        return self.cells[1.0, 0.0, "v"]

    @property
    def scales(self) -> list[float]:
        """The guidance scales above 1."""
        return sorted({w for w, _, _ in self.cells} - {1.0})

    def strengths(self, w: float) -> list[float]:
        """The phi of v at this scale."""
        return sorted(phi for scale, phi, space in self.cells if scale == w and space == "v")

    def values(self, cell: Cell, what: str) -> Tensor:
        """(count,) of saturated or contrast; of class, whether the classifier takes the picture for it."""
        row = self.rows[cell]
        if what == "class":
            asked = torch.arange(self.count) % self.classes
            return (row.tensors["class"][: self.count] == asked).double()
        return row.tensors[what][: self.count].double()

    def measure(self, cell: Cell, what: str) -> Mean:
        """A measure of a cell with its interval: over pictures, for the Frechet distance a jackknife of tenths."""
        if what == "frechet":
            m = self.rows[FEW if cell == FEW else cell.but(part="figure6")]
            low, high = m["frechet_interval"]
            return m["frechet"], (low, high)
        if cell == FEW and what == "class":
            return self.accuracy, (self.accuracy, self.accuracy)
        v = self.values(cell, what)
        if v.std() == 0:
            return v[0].item(), (v[0].item(), v[0].item())
        return v.mean().item(), interval(v.tolist())

    def difference(self, a: Cell, b: Cell, what: str) -> Mean:
        """Mean of a - b with its interval, picture by picture: they started from the same noise."""
        d = (self.values(a, what) - self.values(b, what)).tolist()
        return float(np.mean(d)), interval(d)

    def beside_real(self, cell: Cell) -> Mean:
        """Contrast less the real pictures' with its interval; not paired (Welch)."""
        a, b = self.values(cell, "contrast"), self.rows[REAL].tensors["contrast"].double()
        bounds = stats.ttest_ind(a.numpy(), b.numpy(), equal_var=False).confidence_interval()
        return (a.mean() - b.mean()).item(), (float(bounds.low), float(bounds.high))

    def best(self, w: float = W) -> tuple[float, list[float]]:
        """The phi of the smallest Frechet distance, and all whose intervals reach the best one's."""
        curve = {phi: self.measure(self.cells[w, phi, "v"], "frechet") for phi in self.strengths(w)}
        best = min(curve, key=lambda phi: curve[phi][0])
        return best, [phi for phi, (_, (low, _)) in curve.items() if low <= curve[best][1][1]]


def load_guided(results: Path, classes: int) -> Guided:
    """What the stages guide and classifier kept, below results/<profile>."""
    rows = by_cell(load(results / "zsnr/guide"))
    cells = {(cell.w, cell.phi, cell.space): cell.but(part="") for cell in rows if cell.part == "figure6"}
    count = rows[cells[1.0, 0.0, "v"].but(part="figure6")]["n"]
    accuracy = json.loads((results / "classifier/classifier.json").read_text())["accuracy"]
    return Guided(rows, cells, count, accuracy, classes)
