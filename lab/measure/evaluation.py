"""Cells: {model} x {time steps} x {sampler} x {evaluations of the network} x {guidance} x {prompt} x {start}.

All models and cells draw from the same noises, one seed a picture, and the classes in turn. A cell is the key of its
rows in the store: nothing is told by a name that has to be parsed.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from lab.measure import metrics
from lab.measure.draw import Start, conditional, draw, exact_by_class
from lab.measure.saturation import per_picture
from lab.measure.store import Row, as_bytes
from lab.models import data
from lab.models.network import ConditionalUNet
from lab.models.variants import find
from zsnr.denoisers import Denoiser
from zsnr.grids import grid
from zsnr.noise import randn
from zsnr.samplers import SAMPLERS

KEPT = 32
"""Pictures kept of a cell, for the figures."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One way to draw.

    Args:
        model: one of `lab.models.variants`, or real for real pictures.
        spacing, sampler, nfe: time steps, solver, evaluations of the network (of one branch, where it is guided).
        w, phi, space: guidance scale (1: none), its rescaling, and what is rescaled.
        prompt: the word for the backdrop; none where empty.
        start: what sampling starts from, in place of noise: offset, mean, level, image or edit.
        strength: share of the steps that an edit takes.
        images, loss: of a fine-tuning that saw other than all pictures, or weighed its loss otherwise.
        exact: by the exact denoiser on the model's schedule, in place of the model.
        part: measured on a part of the pictures: figure6, few.
    """

    model: str
    spacing: str = ""
    sampler: str = "ddim"
    nfe: int = 0
    w: float = 1.0
    phi: float = 0.0
    space: str = "v"
    prompt: str = ""
    start: str = ""
    strength: float = 1.0
    images: int = 0
    loss: str = ""
    exact: bool = False
    part: str = ""

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.sampler!r}; choose one of {', '.join(SAMPLERS)}")
        if self.sampler == "heun" and self.nfe % 2 == 0:
            raise ValueError(f"Heun takes 2N - 1 evaluations, an odd number; got {self.nfe}")

    def __str__(self) -> str:
        if self.model == "real":
            return "real"
        guidance = [f"w{self.w:g}", f"phi{self.phi:g}"] if self.w != 1 else []
        changes = [self.space if self.space != "v" and self.phi else "", self.prompt, self.start, self.loss]
        changes += [
            f"{self.strength:g}" if self.strength != 1 else "",
            f"{self.images} pictures" if self.images else "",
        ]
        parts = [self.spacing, self.sampler, str(self.nfe), *guidance, *filter(None, changes)]
        return f"{'exact ' if self.exact else ''}{self.model}/{'-'.join(parts)}"

    def but(self, **changes: Any) -> Cell:
        """The same, with changes."""
        return dataclasses.replace(self, **changes)

    def grid(self) -> Tensor:
        """The angles: N steps of Heun take 2N - 1 evaluations, N steps of the others N."""
        steps = (self.nfe + 1) // 2 if self.sampler == "heun" else self.nfe
        with warnings.catch_warnings():  # the table holds the flawed combination on purpose
            warnings.filterwarnings("ignore", "leading spacing")
            return grid(find(self.model).schedule, steps, self.spacing)


REAL = Cell("real")


def plan(model: str, short: int, long: int, steps: list[int]) -> list[Cell]:
    """The cells of a model in the main comparison.

    Args:
        short, long: evaluations of the first and of the full comparison; Heun takes one less where `long` is even.
        steps: DDIM steps of the comparison of spacings, on the zsnr model.
    """
    kind = find(model)
    cells = [Cell(model, kind.spacing, "ddim", short)]
    if model in ("control", "zsnr"):
        odd = long - 1 + long % 2
        cells += [Cell(model, s, k, n) for s in ("leading", "trailing") for k, n in (("ddim", long), ("heun", odd))]
    if kind.offset_noise:
        cells += [Cell(model, kind.spacing, "ddim", short, start="offset")]
    if model == "zsnr":
        cells += [Cell(model, s, "ddim", n) for n in steps for s in ("leading", "linspace", "trailing")]
    cells = list(dict.fromkeys(cells))
    for cell in cells:
        cell.grid()  # refuses too many steps before any work is done
    return cells


def draw_cell(
    network: ConditionalUNet,
    cell: Cell,
    n: int,
    precision: str,
    first_seed: int = 0,
    start: Start | None = None,
) -> Tensor:
    """n pictures of one cell, (n, C, 32, 32), from the noises of seeds first_seed, first_seed + 1, ...

    Users of a model trained with offset noise start it from plain noise; the start `offset` is from what it knows.

    Args:
        start: what an image-to-image start is, see `lab.measure.starts`.
    """
    angles = cell.grid()
    steps = len(angles) - 1
    if cell.start == "offset":
        start = _offset(find(cell.model).offset_noise)
    word = data.WORDS.index(cell.prompt) if cell.prompt else None
    return draw(
        conditional(network, cell.model, word=word, w=cell.w, phi=cell.phi, space=cell.space),
        SAMPLERS[cell.sampler],
        angles[steps - round(cell.strength * steps) :],
        range(first_seed, first_seed + n),
        (network.config["channels"], data.SIZE, data.SIZE),
        precision=precision,
        start=start,
        title=str(cell),
    )


def draw_exact(
    denoisers: Sequence[Denoiser], cell: Cell, n: int, shape: tuple[int, ...], first_seed: int = 0
) -> Tensor:
    """As `draw_cell`, from the exact denoisers of the classes on the model's schedule, in float64."""
    return draw(
        exact_by_class(denoisers),
        SAMPLERS[cell.sampler],
        cell.grid(),
        range(first_seed, first_seed + n),
        shape,
        dtype=torch.float64,
        batch=250,
        device="cpu",
        title=str(cell),
    )


def _offset(strength: float) -> Start:
    def start(noise: Tensor, seeds: range, generators: list[Generator], phi: float) -> Tensor:
        return noise + strength * randn((*noise.shape[:2], 1, 1), generators, device=noise.device)

    return start


def row(
    cell: Cell,
    x: Tensor,
    measures: Mapping[str, Any] | None = None,
    *,
    replica: int = 0,
    kept: int = KEPT,
    classifier: metrics.Classifier | None = None,
    **tensors: Tensor,
) -> Row:
    """A cell's row of the store: level and mean of all pictures, and the first pictures as bytes.

    Args:
        classifier: say of each picture how saturated it is, too, its contrast and its class.
    """
    single = per_picture(x, classifier) if classifier else {"level": data.level(x), "mean": x.mean((1, 2, 3))}
    tensors = {**single, "pictures": as_bytes(x[:kept]), **tensors}
    return Row({**columns(cell), "replica": replica}, measures or {}, tensors)


def columns(cell: Cell) -> dict[str, Any]:
    """A cell as columns of the store."""
    return dataclasses.asdict(cell)


def brightness(values: Tensor, truth: Tensor) -> dict[str, float]:
    """Mean, std, ratio of stds, bias and Wasserstein-1 distance of levels (or image means) against the data's."""
    return {
        "mean": values.mean().item(),
        "std": values.std().item(),
        "std_ratio": (values.std() / truth.std()).item(),
        "bias": (values.mean() - truth.mean()).item(),
        "w1": metrics.wasserstein1(values, truth),
    }


class Judge:
    """Holds generated pictures against real ones.

    Args:
        classifier: for the features of the Frechet distance and the classes of the Inception score.
        real: (N, C, H, W) pictures of the training set.
    """

    def __init__(self, classifier: metrics.Classifier, real: Tensor) -> None:
        self.classifier = classifier
        self.level, self.mean = data.level(real), real.mean((1, 2, 3))
        self.frechet = metrics.Frechet(classifier, real)

    def __call__(self, x: Tensor) -> dict[str, Any]:
        """All measures of (n, C, H, W) pictures."""
        return {
            "level": brightness(data.level(x), self.level),
            "mean": brightness(x.mean((1, 2, 3)), self.mean),
            "frechet": self.frechet(x),
            "inception": metrics.inception_score(self.classifier, x),
        }
