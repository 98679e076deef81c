"""Rows of pictures with a name, for figures that compare models on the same noises."""

from matplotlib.axes import Axes
from torch import Tensor

from lab.report.figures import pictures


def strip(ax: Axes, x: Tensor, label: str = "") -> None:
    """(N, C, H, W) pictures in [-1, 1] as one row, with its name to the left."""
    pictures(ax, x, len(x))
    ax.text(-0.01, 0.5, label, transform=ax.transAxes, ha="right", va="center", fontsize=7)
