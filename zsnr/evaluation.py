r"""Draw and measure: the cells of the table {model} x {spacing} x {sampler} x {evaluations of the network}.

A cell's name is spacing-sampler-evaluations, such as trailing-heun-49. All models and cells draw from the same noises,
one seed a sample, and the classes in turn, without a caption word.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from zsnr import data, metrics
from zsnr.denoiser import Denoiser, NetworkDenoiser
from zsnr.network import ConditionalUNet
from zsnr.sampler import SAMPLERS, generators, randn
from zsnr.schedule import Schedule
from zsnr.spacing import grid
from zsnr.variants import VARIANTS

KEPT = 64
"""Pictures kept of a cell."""


@dataclass(frozen=True)
class Cell:
    """One way to sample: time steps, solver, and how many evaluations of the network it may use."""

    spacing: str
    sampler: str
    evaluations: int

    @property
    def name(self) -> str:
        """spacing-sampler-evaluations."""
        return f"{self.spacing}-{self.sampler}-{self.evaluations}"

    def grid(self, schedule: Schedule) -> Tensor:
        """The angles: N steps of Heun take 2N - 1 evaluations, N steps of the others N."""
        steps = (self.evaluations + 1) // 2 if self.sampler == "heun" else self.evaluations
        return grid(schedule, steps, self.spacing)


def plan(variant: str, short: int, long: int, steps: list[int]) -> list[Cell]:
    """The cells of a variant.

    Args:
        short, long: evaluations of the first and of the full comparison; `long` is odd or even as comes, Heun uses one
            less where it is even.
        steps: DDIM steps of the comparison of spacings, on the zsnr model.
    """
    cells = [Cell(VARIANTS[variant].spacing, "ddim", short)]
    if variant in ("control", "zsnr"):
        odd = long - 1 + long % 2
        cells += [Cell(s, k, n) for s in ("leading", "trailing") for k, n in (("ddim", long), ("heun", odd))]
    if variant == "zsnr":
        cells += [Cell(s, "ddim", n) for n in steps for s in ("leading", "linspace", "trailing")]
    return list(dict.fromkeys(cells))


def denoiser(network: ConditionalUNet, variant: str, conditions: Tensor) -> Denoiser:
    """The network as a denoiser, on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device).eval()
    kind = VARIANTS[variant]
    return NetworkDenoiser(network, kind.schedule, kind.prediction, class_labels=conditions.to(device))


def draw(network: ConditionalUNet, variant: str, cell: Cell, n: int, precision: str, batch: int = 250) -> Tensor:
    """n pictures of one cell, (n, C, 32, 32), from the noises of seeds 0 .. n - 1."""
    classes, channels = network.config["classes"], network.config["channels"]
    angles = cell.grid(VARIANTS[variant].schedule)
    pictures = []
    for start in tqdm(range(0, n, batch), f"{variant} {cell.name}", file=sys.stderr, disable=not sys.stderr.isatty()):
        seeds = range(start, min(start + batch, n))
        conditions = torch.tensor([[i % classes, network.config["words"]] for i in seeds])
        noise = randn((len(seeds), channels, data.SIZE, data.SIZE), generators(seeds))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            x = SAMPLERS[cell.sampler](denoiser(network, variant, conditions), noise.to(device), angles)
        pictures.append(x.float().cpu())
    return torch.cat(pictures)


def brightness(values: Tensor, truth: Tensor) -> dict[str, float]:
    """Mean, std, ratio of stds, bias and Wasserstein-1 distance of levels (or image means) against the data's."""
    return {
        "mean": values.mean().item(),
        "std": values.std().item(),
        "std_ratio": (values.std() / truth.std()).item(),
        "bias": (values.mean() - truth.mean()).item(),
        "w1": metrics.wasserstein1(values, truth),
    }


@dataclass(frozen=True)
class Judge:
    """What generated pictures are held against.

    Args:
        classifier: features and classes.
        real: pictures of the training set, the reference of the Frechet distance and of the brightness.
    """

    classifier: metrics.Classifier
    real: Tensor

    def __call__(self, x: Tensor) -> dict[str, Any]:
        """All measures of (n, C, 32, 32) pictures."""
        return {
            "level": brightness(data.level(x), data.level(self.real)),
            "mean": brightness(x.mean((1, 2, 3)), self.real.mean((1, 2, 3))),
            "frechet": metrics.frechet_distance(self.classifier, self.real.split(500), x),
            "inception": metrics.inception_score(self.classifier, x),
        }


def save(folder: str | Path, measures: dict[str, Any], pictures: dict[str, Tensor]) -> None:
    """Write measures.json and, of each cell, all levels and image means and the first pictures, in half precision."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, x in pictures.items():
        tensors |= {
            f"{name}/level": data.level(x),
            f"{name}/mean": x.mean((1, 2, 3)),
            f"{name}/pictures": x[:KEPT].half(),
        }
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "samples.safetensors")
    (folder / "measures.json").write_text(json.dumps(measures, indent=1) + "\n")


def load(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `save` wrote: measures by cell, and tensors named cell/level, cell/mean, cell/pictures."""
    folder = Path(folder)
    if not (folder / "measures.json").exists():
        raise FileNotFoundError(f"no evaluation in {folder}: `dvc repro --pull` restores or computes it")
    return json.loads((folder / "measures.json").read_text()), load_file(folder / "samples.safetensors")
