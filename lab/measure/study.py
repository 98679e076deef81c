"""What the study notebooks read: the measures of all seeds, with their intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from lab.measure import evaluation, metrics


class Study:
    """The evaluations of one profile: one seed from the evaluate stage, the others from the replicate stages.

    Those of the ablate stages, where there are, belong to the same seeds.

    Args:
        folder: results/<profile>.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.measures, self.samples = evaluation.load(folder / "evaluate")
        replicas = sorted(folder.glob("replicate/*"), key=lambda path: int(path.name))
        loaded = [(self.measures, self.samples), *(evaluation.load(path) for path in replicas)]
        for k, (measures, samples) in enumerate(loaded):
            if (folder / f"ablate/{k}").exists():
                more = evaluation.load(folder / f"ablate/{k}")
                measures.update({key: value for key, value in more[0].items() if key != "environment"})
                samples.update(more[1])
        self.seeds = [measures for measures, _ in loaded]
        self.seed_samples = [samples for _, samples in loaded]

    def __contains__(self, cell: str) -> bool:
        return cell in self.measures

    def values(self, cell: str, *keys: str) -> list[float]:
        """One measure of a cell, by seed, such as values("zsnr/trailing-ddim-25", "level", "std_ratio")."""
        found = [_dig(seed[cell], keys) for seed in self.seeds if cell in seed]
        if not found:
            raise KeyError(f"no cell {cell!r}; there are {', '.join(self.measures)}")
        return found

    def mean(self, cell: str, *keys: str) -> float:
        """The measure's mean over seeds."""
        return float(np.mean(self.values(cell, *keys)))

    def interval(self, cell: str, *keys: str) -> tuple[float, float]:
        """Its 95 % interval: over seeds, or, for the spread and bias of a cell of one seed, over its pictures."""
        values = self.values(cell, *keys)
        if len(values) > 1:
            return metrics.interval(values)
        what, statistic = keys[0], keys[-1]
        found = self.measures[cell][what]
        if statistic == "std_ratio":
            truth = found["std"] / found["std_ratio"]
            return metrics.bootstrap(self.samples[f"{cell}/{what}"], lambda x: x.std(ddof=1) / truth)
        if statistic == "bias":
            truth = found["mean"] - found["bias"]
            return metrics.bootstrap(self.samples[f"{cell}/{what}"], lambda x: x.mean() - truth)
        raise ValueError(f"no interval of {'/'.join(keys)} from the one seed of {cell}")

    def difference(self, a: str, b: str, *keys: str) -> tuple[float, tuple[float, float]]:
        """Mean and 95 % interval of a - b, paired by seed."""
        pairs = zip(self.values(a, *keys), self.values(b, *keys), strict=True)
        differences = [x - y for x, y in pairs]
        return float(np.mean(differences)), metrics.interval(differences)

    def text(self, cell: str, *keys: str) -> str:
        """Mean, and interval where there is one, to print."""
        mean = self.mean(cell, *keys)
        if len(self.values(cell, *keys)) < 2 and keys[-1] not in ("std_ratio", "bias"):
            return f"{mean:.3f}"
        low, high = self.interval(cell, *keys)
        return f"{mean:.3f} [{low:.3f}, {high:.3f}]"

    def pictures(self, cell: str) -> Tensor:
        """The pictures kept of a cell, (n, C, H, W), of the evaluate stage."""
        return self.samples[f"{cell}/pictures"].float()


def _dig(tree: dict, keys: tuple[str, ...]) -> float:
    for key in keys:
        tree = tree[key]
    return float(tree)  # type: ignore[arg-type]
