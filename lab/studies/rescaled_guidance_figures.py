"""The figures of finding 9; what they show is in `lab.studies.rescaled_guidance` and `lab.studies.guided_pictures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lab.models import data
from lab.report import figures
from lab.studies.guided_pictures import FEW, Guided
from lab.studies.rescaled_guidance import COS_T, At, Branches, Mean, W

INK = figures.COLOURS["data"]
SPACES = {
    "v": (figures.COLOURS["zsnr"], "$v$"),
    "x0": (figures.COLOURS["offset"], "$x_0$"),
    "eps": (figures.COLOURS["control"], "$\\epsilon$"),
}
DASHES = {"class": "-", "class and word": "--"}
MEASURES = {
    "saturated": "over-exposed pixels",
    "contrast": "contrast of a picture",
    "frechet": "Fréchet distance",
    "class": "in the class asked for",
}


def figure6(guided: Guided) -> Figure:
    """The paper's Figure 6: a row for each rescaling strength, at each guidance scale; columns are the same noises."""
    scales = guided.scales
    columns = min(len(guided.rows[guided.none].tensors["pictures"]), 18 // len(scales))
    height = 2 + max(len(guided.strengths(w)) for w in scales)
    fig, axes = plt.subplots(1, len(scales), figsize=(7, 7 * height / 19), squeeze=False)
    for ax, w in zip(axes[0], scales, strict=True):
        rows = {"not guided": guided.none} | {
            f"$\\phi = {phi:g}$": guided.cells[w, phi, "v"] for phi in guided.strengths(w)
        }
        sheet = torch.cat([guided.rows[cell].tensors["pictures"][:columns] for cell in rows.values()]).float()
        figures.pictures(ax, sheet, columns, f"$w = {w:g}$")
        for row, label in enumerate(rows if ax is axes[0, 0] else ()):
            ax.text(-6, row * (data.SIZE + 1) + data.SIZE / 2, label, ha="right", va="center", fontsize=7)
    fig.subplots_adjust(wspace=0.04)
    return fig


def strength(guided: Guided) -> Figure:
    """The four measures by rescaling strength, at each guidance scale, with the interval of each."""
    fig, axes = plt.subplots(1, len(MEASURES), figsize=(7.4, 2.2))
    shades = plt.get_cmap("viridis")(np.linspace(0.1, 0.8, len(guided.scales)))
    for ax, (what, title) in zip(axes, MEASURES.items(), strict=True):
        for w, colour in zip(guided.scales, shades, strict=True):
            phi = guided.strengths(w)
            points = [guided.measure(guided.cells[w, p, "v"], what) for p in phi]
            _points(ax, phi, points, fmt="o-", ms=3, color=colour, label=f"$w = {w:g}$, $v$ rescaled")
        for space, marker, shift in (("x0", "s", -0.06), ("eps", "^", 0.06)):
            colour, symbol = SPACES[space]
            phi = sorted(phi for w, phi, s in guided.cells if s == space and w == W)
            points = [guided.measure(guided.cells[W, p, space], what) for p in phi]
            look = {"fmt": marker, "ms": 4.5, "mfc": "white", "color": colour}
            _points(ax, [p + shift for p in phi], points, label=f"$w = {W:g}$, {symbol} rescaled", **look)
        for cell, colour, label in ((guided.none, "grey", "not guided"), (FEW, INK, "real pictures")):
            value, (low, high) = guided.measure(cell, what)
            ax.axhline(value, color=colour, lw=1, ls="--" if cell == guided.none else "-", label=label)
            ax.axhspan(low, high, color=colour, alpha=0.12, lw=0)
        ax.set(title=title, xlabel="rescaling strength $\\phi$", xticks=[0, 0.5, 1], xlim=(-0.12, 1.16))
        if what in ("saturated", "frechet"):
            ax.set_ylim(bottom=0)
    fig.tight_layout(w_pad=0.5)
    lines, names = axes[0].get_legend_handles_labels()
    named = dict(zip(names, lines, strict=True))
    order = sorted(named, key=lambda name: name in ("not guided", "real pictures"))
    fig.legend([named[n] for n in order], order, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 0.02), fontsize=7)
    return fig


def sensitivity(branches: Branches, angles: np.ndarray, curve: Sequence[At], terminal: Mapping[float, At]) -> Figure:
    """Amplification over the angle, at T as alpha_bar_T falls to 0, and of x0 after full rescaling.

    Args:
        angles: of the curve, in units of pi.
        curve: what `Branches.at` found at the angles.
        terminal: what `Branches.terminal` found at T, by the share of Stable Diffusion's alpha_bar_T.
    """
    fig, axes = plt.subplots(1, 3, figsize=(7.2, 2.6))
    ends = [share * COS_T**2 for share in terminal]
    for condition in branches.conditions:
        for space, (colour, _) in SPACES.items():
            look = {"ls": DASHES[condition], "color": colour}
            for ax, x, points, what in (
                (axes[0], angles, curve, "amplification"),
                (axes[1], ends, terminal.values(), "amplification"),
                (axes[2], angles, curve, "rescaled"),
            ):
                means = [branches.mean(p[condition, space][what]) for p in points]
                ax.plot(x, [m for m, _ in means], **look)
                ax.fill_between(x, *np.array([b for _, b in means]).T, color=colour, alpha=0.15, lw=0)
        free = [p[condition, "x0"]["amplification"].mean() for p in curve]
        axes[2].plot(angles, free, color=INK, alpha=0.22, lw=5, zorder=0)
    axes[0].set(title="guided, by angle", ylabel=f"std(cfg) / std(pos), $w = {W:g}$")
    axes[1].set(title="at $t = T$, as the SNR vanishes", xlabel="$\\bar\\alpha_T$")
    top = max(ends)
    axes[1].set_xticks([top, top / 2, 0], [f"{top:.4f}\n(flawed)", f"{top / 2:.4f}", "0\n(zero SNR)"])
    axes[1].invert_xaxis()
    axes[2].set(title="guided $x_0$, rescaled ($\\phi = 1$)", ylabel="std($x_0$) / std(pos $x_0$)")
    for ax in (axes[0], axes[2]):
        ax.set_xticks([0, 0.25, 0.5], ["0\n(image)", "$\\pi/4$", "$\\pi/2$\n(noise)"])
        ax.set_xlabel("angle $\\varphi$")
    for ax in axes:
        ax.axhline(1, color="grey", lw=0.6, zorder=0)
    handles = [Line2D([], [], color=colour, label=f"{name} guided or rescaled") for colour, name in SPACES.values()]
    handles += [Line2D([], [], color="grey", ls=DASHES[c], label=f"condition: {c}") for c in branches.conditions]
    handles.append(Line2D([], [], color=INK, alpha=0.22, lw=5, label="$x_0$, not rescaled"))
    fig.tight_layout(w_pad=0.6)
    fig.legend(handles=handles, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 0.02), fontsize=7)
    return fig


def _points(ax: Axes, x: Sequence[float], points: Sequence[Mean], **look: object) -> None:
    """Means with their 95 % intervals."""
    mean = np.array([m for m, _ in points])
    error = np.abs(np.array([b for _, b in points]).T - mean)
    ax.errorbar(x, mean, error, capsize=2, elinewidth=0.8, **look)  # type: ignore[arg-type]
