"""What the explorer shows of what was drawn: a headline, and one figure."""

from __future__ import annotations

import math
from io import BytesIO

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

import zsnr
from lab.models import data
from lab.report import figures
from lab.studies.explorer import COMPARED, RANGE, Drawn


def headline(drawn: Drawn) -> str:
    """Evaluations, the spread and the mean of the levels against the truth, and the error, in one line."""
    ratio, half = drawn.std_ratio
    parts = [
        f"{drawn.evaluations} evaluations",
        f"level: std {ratio:.2f} ± {half:.2f} of the truth's, mean {drawn.level.mean().item():+.2f}"
        f" (truth {drawn.truth.mean:+.2f})",
    ]
    parts += [f"RMSE {drawn.error:.3f} to the exact flow from zero SNR"] if drawn.error is not None else []
    return " · ".join(parts)


def figure(drawn: Drawn) -> Figure:
    """The noise levels, one pixel's way from noise to picture, the spread of the levels, and the pictures."""
    with mpl.rc_context(figures.STYLE):  # type: ignore[arg-type]
        fig = Figure(figsize=(9.6, 5.4), dpi=100)
        FigureCanvasAgg(fig)
        above = {"top": 0.94, "bottom": 0.45, "left": 0.045, "right": 0.985, "wspace": 0.22}
        left, middle, right = fig.subplots(1, 3, width_ratios=(0.85, 1.2, 1.2), gridspec_kw=above)
        _levels(left, drawn)
        _way(middle, drawn)
        _spread(right, drawn)
        sheets = [(drawn.pictures, "drawn")]
        if drawn.converged is not None:
            sheets.append((drawn.converged, "the exact flow from zero SNR, from the same noises"))
        for k, (pictures, title) in enumerate(sheets):
            ax = fig.add_axes((0.02, 0.19 - 0.17 * k, 0.965, 0.14) if _two(drawn) else (0.02, 0.03, 0.965, 0.26))
            some = pictures[:COMPARED].float()
            figures.pictures(ax, some.expand(-1, -1, data.SIZE, data.SIZE), len(some))
            ax.set_title(title, loc="left", pad=3)
    return fig


def png(fig: Figure) -> bytes:
    """The figure as a file."""
    file = BytesIO()
    fig.savefig(file, format="png", dpi=fig.dpi, bbox_inches=None, pil_kwargs={"compress_level": 1})
    return file.getvalue()


def _two(drawn: Drawn) -> bool:
    return drawn.converged is not None


def _levels(ax: Axes, drawn: Drawn) -> None:
    """The grid on the quarter circle: x_phi = cos(phi) x0 + sin(phi) eps."""
    circle = np.linspace(0, math.pi / 2, 100)
    ax.plot(np.cos(circle), np.sin(circle), color="0.8", lw=1)
    phi = drawn.grid.numpy()
    x, y = np.cos(phi), np.sin(phi)
    ax.add_collection(LineCollection([[(0, 0), p] for p in zip(x, y, strict=True)], colors="0.9", lw=0.6))
    ax.plot(x, y, "o", color=figures.COLOURS["zsnr"], ms=4)
    ax.plot(x[:1], y[:1], "o", color=figures.COLOURS["control"], ms=6)
    c, s = zsnr.prediction.cos_sin(phi[0])
    begin = f"start: SNR {c * c / (s * s):.2g}, φ = {math.degrees(phi[0]):.2f}°"
    ax.set(xlim=(-0.05, 1.06), ylim=(-0.05, 1.06), aspect="equal", xticks=[0, 1], yticks=[0, 1], anchor="N")
    ax.set(xlabel="signal, cos φ", ylabel="noise, sin φ", title=f"noise levels, {len(phi) - 1} steps\n{begin}")
    ax.grid(visible=False)


def _way(ax: Axes, drawn: Drawn) -> None:
    """One pixel of some pictures, from noise to its value; at the end as bright as it is drawn."""
    phi, way = np.degrees(drawn.visited.numpy()), drawn.path[:, :24].numpy()
    lines = [np.column_stack([phi, one]) for one in way.T]
    ends = mpl.colormaps["cividis"]((way[-1].clip(-1, 1) + 1) / 2)
    ax.add_collection(LineCollection(lines, colors=ends, lw=1))
    ax.scatter(np.zeros(way.shape[1]), way[-1], c=ends, s=14, zorder=3, clip_on=False)
    ax.set(xlim=(92, -2), ylim=(-3, 3), xticks=[90, 60, 30, 0], xlabel="noise level φ, in degrees")
    ax.set_title("one pixel of the backdrop, picture by picture")


def _spread(ax: Axes, drawn: Drawn) -> None:
    """The levels of all pictures, and the truth's density."""
    kind = "zsnr" if drawn.grid[0] == math.pi / 2 else "control"
    level = drawn.level.double().numpy().clip(-RANGE, RANGE)
    bins = np.linspace(-RANGE, RANGE, 33 if len(level) > 500 else 17).tolist()
    ax.hist(level, bins, density=True, color=figures.COLOURS[kind], alpha=0.75, label=f"{len(level)} drawn")
    ax.plot(drawn.truth.level, drawn.truth.density, color=figures.COLOURS["data"], lw=1.4, label="truth")
    ax.set(xlabel="level of the backdrop (-1 black, 1 white)", yticks=[], xlim=(-RANGE, RANGE))
    ax.set_ylim(0, 2.5 * drawn.truth.density.max() if len(level) < 50 else None)
    ax.set_title("spread of the levels")
    ax.legend(loc="upper right", fontsize=7)
