r"""Measures of a set of pictures, with 95 % intervals: brightness first, then Frechet distance and Inception score.

A Frechet distance hardly sees brightness, so the measure for the schedule's flaw is direct: the distribution of
backdrop levels (or of image means) against the data's, by mean, standard deviation and Wasserstein-1 distance.
Features for the Frechet distance (Heusel et al. 2017) and the Inception score (Salimans et al. 2016) are a classifier's
of this data, so their values compare within this project only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import Tensor, nn


class Classifier(nn.Module):
    """(B, C, 32, 32) pictures -> (B, 64) features; `head` takes them to the classes' logits."""

    num_features = 64

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        widths = (channels, 16, 32, 64)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(4, after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, 1, 1), nn.GroupNorm(4, after), nn.SiLU()]
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.SiLU())
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(x)

    def save(self, path: str | Path) -> None:
        """Write the weights as safetensors, atomically."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".tmp")
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, partial)
        partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Classifier:
        """The classifier at `path`."""
        if not Path(path).exists():
            raise FileNotFoundError(f"no classifier at {path}: `dvc repro --pull` restores or trains it")
        weights = load_file(path)
        network = cls(weights["trunk.0.weight"].shape[1], len(weights["head.bias"]))
        network.load_state_dict(weights)
        return network.eval()


class Frechet:
    """Frechet distance of generated pictures to a fixed set of (N, C, H, W) real ones, in a network's features.

    Args:
        features: pictures -> (B, num_features), with that attribute.
    """

    def __init__(self, features: nn.Module, real: Tensor) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance  # half a second, and most need intervals only

        self.metric = FrechetInceptionDistance(feature=features, reset_real_features=False)
        self._update(real, real=True)

    @torch.no_grad()
    def _update(self, x: Tensor, real: bool) -> None:
        for batch in x.split(500):
            self.metric.update(batch, real=real)

    def __call__(self, generated: Tensor) -> float:
        """The distance; biased upwards for few pictures, so give the value of as many real ones beside it."""
        self.metric.reset()
        self._update(generated, real=False)
        return self.metric.compute().item()


@torch.no_grad()
def inception_score(classifier: Classifier, generated: Tensor) -> float:
    """exp E KL(p(class | x) || p(class)) by the classifier: 1 to the number of classes."""
    log_p = torch.cat([classifier.head(classifier(batch)) for batch in generated.split(500)]).double().log_softmax(1)
    log_marginal = log_p.logsumexp(0) - math.log(len(log_p))
    return (log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp().item()


def wasserstein1(a: Tensor, b: Tensor) -> float:
    """Wasserstein-1 distance between two samples of one number each, in that number's unit."""
    return float(stats.wasserstein_distance(np.asarray(a, np.float64), np.asarray(b, np.float64)))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % Student-t interval of the mean of independent repeats (one a training seed).

    Raises:
        ValueError: fewer than two repeats say nothing about their spread.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} repeat gives no interval: train with more seeds, or bootstrap its samples")
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), max(stats.sem(values), 1e-300))
    return float(low), float(high)


def bootstrap(
    sample: Tensor, statistic: Callable[[np.ndarray], float], resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a statistic of one (N,) sample."""
    result = stats.bootstrap(
        (np.asarray(sample, np.float64),),
        statistic,
        n_resamples=resamples,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
