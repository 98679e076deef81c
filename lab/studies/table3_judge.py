"""How stage table3 judges: features that see a picture's class and its backdrop's level, and the cells that it draws.

The classifier of `lab.measure.metrics` is taught the class alone, and its group norms take out most of a level. The
one here has a second head, for the tenth of [-1, 1] that the level lies in, so that its 64 features have to hold both.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lab.measure.evaluation import Cell
from lab.measure.metrics import Classifier
from lab.models import data
from lab.models.variants import find
from zsnr.finetune.loop import generator

BINS = 10
"""Of the backdrop's level, equally wide."""
PHI = 0.7
"""The paper's rescaling of guidance."""
PAPER = 7.5
"""The paper's guidance scale."""
NO_FIXES, ALL_FIXES, PHI_0 = "no fixes", "all fixes", "all fixes, φ = 0"
Moments = tuple[Tensor, Tensor]
"""Mean (F,) and covariance (F, F) of features."""


def bins(x: Tensor) -> Tensor:
    """(B,) index of the tenth of [-1, 1] that the level of each of (B, C, H, W) pictures lies in."""
    return ((data.level(x) + 1) / 2 * BINS).floor().long().clamp(0, BINS - 1)


def train(pictures: data.Images, images: int, batch: int = 128, seed: int = 0) -> Classifier:
    """A classifier of class and level, whose head gives the logits of the classes, then those of the levels.

    Trained as stage `classifier` trains the other one, on `images` random pictures.
    """
    torch.manual_seed(seed)
    classes = len(pictures.classes)
    network = Classifier(pictures.image.shape[1], classes + BINS)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    steps = images // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        x, conditions = pictures.draw(batch, generator(seed, step))
        logits = network.head(network(x))
        loss = cross_entropy(logits[:, :classes], conditions[:, 0]) + cross_entropy(logits[:, classes:], bins(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def features(network: Classifier, x: Tensor) -> Tensor:
    """(n, 64) features of (n, C, H, W) pictures."""
    return torch.cat([network(batch) for batch in x.split(500)])


@torch.no_grad()
def accuracy(network: Classifier, x: Tensor, label: Tensor) -> dict[str, float]:
    """Share of pictures whose class, and whose tenth of the levels, the classifier names."""
    logits = network.head(features(network, x))
    classes = logits.shape[1] - BINS
    right = {"class": logits[:, :classes].argmax(1) == label, "level": logits[:, classes:].argmax(1) == bins(x)}
    return {name: hit.double().mean().item() for name, hit in right.items()}


def moments(seen: Tensor) -> Moments:
    """Mean and covariance of (n, F) features, in float64."""
    return seen.double().mean(0), seen.double().T.cov()


def frechet(seen: Tensor, real: Moments) -> float:
    """Frechet distance of (n, F) features to real ones (Heusel et al. 2017, Eq. 6)."""
    mean, covariance = moments(seen)
    root = torch.linalg.eigvals(covariance @ real[1]).sqrt().real.sum()
    return ((mean - real[0]).square().sum() + covariance.trace() + real[1].trace() - 2 * root).item()


def kinds(w: float, nfe: int) -> dict[str, Cell]:
    """What is compared at each guidance scale; without guidance there is nothing to rescale."""
    no, fixed = (Cell(name, find(name).spacing, nfe=nfe, w=w) for name in ("control", "zsnr"))
    return {NO_FIXES: no, ALL_FIXES: fixed.but(phi=PHI if w != 1 else 0.0), PHI_0: fixed}


def without(w: float, nfe: int) -> dict[str, Cell]:
    """All fixes but one, by the one that is left out; what is rescaled is what the network predicts."""
    whole = kinds(w, nfe)
    return {
        "Algorithm 1": whole[ALL_FIXES].but(model="no-rescale"),
        "$v$ ($x_0$ in its place)": whole[ALL_FIXES].but(model="x0", space="x0"),
        "trailing steps": whole[ALL_FIXES].but(spacing="leading"),
        "rescaled guidance": whole[PHI_0],
        "all four": whole[NO_FIXES],
    }


def best(distances: Mapping[float, float]) -> float:
    """The guidance scale of least distance; of equal ones the first."""
    return min(distances, key=lambda w: distances[w])


def shared(distances: Mapping[str, Mapping[float, float]]) -> float:
    """One scale above 1 for no fixes and all fixes: where the mean of their two distances is least."""
    both = {w: (d + distances[ALL_FIXES][w]) / 2 for w, d in distances[NO_FIXES].items() if w > 1}
    return best(both)
