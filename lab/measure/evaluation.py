r"""Draw and measure: the cells of the table {model} x {spacing} x {sampler} x {evaluations of the network}.

A cell's name is spacing-sampler-evaluations, such as trailing-heun-49. All models and cells draw from the same noises,
one seed a sample, and the classes in turn, without a caption word.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from lab.measure import metrics
from lab.models import data
from lab.models.network import ConditionalUNet
from lab.models.variants import find
from zsnr.denoisers import Denoiser, NetworkDenoiser
from zsnr.grids import grid
from zsnr.guidance import guided
from zsnr.noise import generators, randn
from zsnr.samplers import SAMPLERS
from zsnr.schedule import Schedule

KEPT = 32
"""Pictures kept of a cell, for the figures."""


@dataclass(frozen=True)
class Cell:
    """One way to sample: time steps, solver, evaluations of the network, and the noise to start from.

    Users of a model trained with offset noise start it from plain noise; `offset_noise` starts it from what it knows.
    """

    spacing: str
    sampler: str
    evaluations: int
    offset_noise: float = 0.0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.sampler!r}; choose one of {', '.join(SAMPLERS)}")
        if self.sampler == "heun" and self.evaluations % 2 == 0:
            raise ValueError(f"Heun takes 2N - 1 evaluations, an odd number; got {self.evaluations}")

    @property
    def name(self) -> str:
        """spacing-sampler-evaluations, and -offset where the starting noise has one."""
        return f"{self.spacing}-{self.sampler}-{self.evaluations}" + ("-offset" if self.offset_noise else "")

    def grid(self, schedule: Schedule) -> Tensor:
        """The angles: N steps of Heun take 2N - 1 evaluations, N steps of the others N."""
        steps = (self.evaluations + 1) // 2 if self.sampler == "heun" else self.evaluations
        with warnings.catch_warnings():  # the table holds the flawed combination on purpose
            warnings.filterwarnings("ignore", "leading spacing")
            return grid(schedule, steps, self.spacing)


def plan(variant: str, short: int, long: int, steps: list[int]) -> list[Cell]:
    """The cells of a variant.

    Args:
        short, long: evaluations of the first and of the full comparison; Heun takes one less where `long` is even.
        steps: DDIM steps of the comparison of spacings, on the zsnr model.
    """
    kind = find(variant)
    cells = [Cell(kind.spacing, "ddim", short)]
    if variant in ("control", "zsnr"):
        odd = long - 1 + long % 2
        cells += [Cell(s, k, n) for s in ("leading", "trailing") for k, n in (("ddim", long), ("heun", odd))]
    if kind.offset_noise:
        cells += [Cell(kind.spacing, "ddim", short, kind.offset_noise)]
    if variant == "zsnr":
        cells += [Cell(s, "ddim", n) for n in steps for s in ("leading", "linspace", "trailing")]
    cells = list(dict.fromkeys(cells))
    for cell in cells:
        cell.grid(kind.schedule)  # refuses too many steps before any work is done
    return cells


def draw(
    network: ConditionalUNet,
    variant: str,
    cell: Cell,
    n: int,
    precision: str,
    first_seed: int = 0,
    *,
    word: int | None = None,
    guidance: Mapping[str, Any] | None = None,
    start: Callable[[Tensor, range, float], Tensor] | None = None,
    skip: int = 0,
) -> Tensor:
    """n pictures of one cell, (n, C, 32, 32), from the noises of seeds first_seed, first_seed + 1, ...

    Runs on the GPU where there is one; precision is float32, or bf16 for autocast to bfloat16.

    Args:
        word: the caption word beside the class, an index of `data.WORDS`; none where left out.
        guidance: scale, rescale and space of `zsnr.guidance.guided`, against no condition; none where left out.
        start: (noise, seeds, phi) -> x at the first angle, where that is not the noise itself.
        skip: steps to leave out at the noisy end, for image-to-image starts.
    """
    kind, device = find(variant), "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device).eval()
    classes, words, channels = (network.config[k] for k in ("classes", "words", "channels"))
    angles, pictures = cell.grid(kind.schedule)[skip:], []
    size = 1000 if device == "cuda" else 64  # larger batches leave a CPU's cache, and are slower
    for seeds in _batches(n, first_seed, size, f"{variant} {cell.name}"):
        said = words if word is None else word
        conditions = torch.tensor([[seed % classes, said] for seed in seeds], device=device)
        denoiser: Denoiser = NetworkDenoiser(network, kind.schedule, kind.prediction, class_labels=conditions)
        if guidance:
            nothing = torch.tensor([[classes, words]], device=device).expand(len(seeds), 2)
            without = NetworkDenoiser(network, kind.schedule, kind.prediction, class_labels=nothing)
            denoiser = guided(denoiser, without, **guidance)
        own = generators(seeds)
        noise = randn((len(seeds), channels, data.SIZE, data.SIZE), own, device=device)
        if cell.offset_noise:
            noise += cell.offset_noise * randn((len(seeds), channels, 1, 1), own, device=device)
        if start:
            noise = start(noise, seeds, float(angles[0]))
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            pictures.append(SAMPLERS[cell.sampler](denoiser, noise, angles).float().cpu())
    return torch.cat(pictures)


def draw_exact(denoiser: Denoiser, variant: str, cell: Cell, n: int, shape: Sequence[int]) -> Tensor:
    """As `draw`, from an exact denoiser on a variant's schedule, in float64."""
    angles = cell.grid(find(variant).schedule)
    pictures = []
    for seeds in _batches(n, 0, 250, f"exact {cell.name}"):
        noise = randn((len(seeds), *shape), generators(seeds)).double()
        pictures.append(SAMPLERS[cell.sampler](denoiser, noise, angles).float())
    return torch.cat(pictures)


def _batches(n: int, first: int, size: int, name: str) -> Iterable[range]:
    batches = [range(k, min(k + size, first + n)) for k in range(first, first + n, size)]
    return tqdm(batches, name, file=sys.stderr, disable=not sys.stderr.isatty())


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


def save(folder: str | Path, measures: dict[str, Any], pictures: dict[str, Tensor], kept: int = KEPT) -> None:
    """Write measures.json and, of each cell, all levels and image means and the first pictures, in half precision."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, x in pictures.items():
        tensors |= {
            f"{name}/level": data.level(x),
            f"{name}/mean": x.mean((1, 2, 3)),
            f"{name}/pictures": x[:kept].half(),
        }
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "samples.safetensors")
    (folder / "measures.json").write_text(json.dumps(measures, indent=1) + "\n")


def load(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `save` wrote: measures by cell, and tensors named cell/level, cell/mean, cell/pictures."""
    folder = Path(folder)
    if not (folder / "measures.json").exists():
        raise FileNotFoundError(f"no evaluation in {folder}: `dvc repro --pull` restores or computes it")
    return json.loads((folder / "measures.json").read_text()), load_file(folder / "samples.safetensors")
