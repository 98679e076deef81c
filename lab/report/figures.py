"""One look for all figures: print size, no chart junk, the same colour for the same thing everywhere."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from IPython.display import Image as Shown
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

COLOURS = {
    "data": "#222222",
    "base": "#b07a1e",
    "control": "#d1495b",
    "offset": "#8d6cab",
    "zsnr": "#1f7a8c",
    "leading": "#d1495b",
    "linspace": "#b07a1e",
    "trailing": "#1f7a8c",
}
STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
}


def style() -> None:
    """Set the look, for the figures made from here on."""
    mpl.rcParams.update(STYLE)  # type: ignore[arg-type]


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write the figure as folder/name.png, and show that file, in a notebook: drawing is slow, so it is done once.

    In 256 colours, which halves the file and cannot be told apart.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, drawn = folder / f"{name}.png", BytesIO()
    figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    display(Shown(file.read_bytes(), width=round(110 * figure.get_figwidth())))
    plt.close(figure)


def pictures(ax: Axes, x: Tensor, columns: int, title: str = "") -> None:
    """(N, C, H, W) pictures in [-1, 1] as one sheet, row by row, a pixel of margin between them."""
    n, channels, height, width = x.shape
    rows = -(-n // columns)
    sheet = x.new_full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), 0.0).float()
    for i, picture in enumerate(x.float()):
        top, left = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        sheet[top : top + height, left : left + width] = picture.permute(1, 2, 0)
    ax.imshow(((sheet + 1) / 2).clamp(0, 1).squeeze(-1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    ax.set_title(title)
