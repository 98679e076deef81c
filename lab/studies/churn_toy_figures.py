"""The figures of finding 19."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lab.measure.known_truth import NONE, RANGES, Setting
from lab.measure.sweep import S_NOISE
from lab.report.figures import COLOURS
from lab.studies.churn_toy import DATA, NAMES, OUTSIDE, TRAININGS, Toys, over_seeds
from zsnr.samplers import GAMMA_MAX

TINT = {"original": COLOURS["control"], "edm": COLOURS["zsnr"], "exact": COLOURS["data"]}
LOOKS = {"all levels": ("o", COLOURS["base"]), "[.05, 1]": ("s", COLOURS["offset"])}
SHORT = ("VP", "VE", "pre-\ntrained", "EDM")


def distances(toys: Toys) -> Figure:
    """Energy distance by S_churn, a row a data set and a column a training; Table 5's settings stand to the right."""
    fig, axes = plt.subplots(2, 2, figsize=(7, 5), sharex=True, sharey="row", layout="constrained")
    amounts, N = toys.amounts, toys.lengths[0]
    table5 = len(amounts) + 1.2 + np.arange(len(NAMES))
    for row, (data, title) in zip(axes, DATA.items(), strict=True):
        low, high = toys.floor(data)[1]
        for ax, (training, way) in zip(row, TRAININGS.items(), strict=True):
            ax.axhspan(low, high, color="#bbbbbb", alpha=0.5, lw=0, label="samples of the law")
            none = over_seeds(toys.at(data, training, NONE))
            ax.axhline(none[0], color=COLOURS["data"], lw=0.7, ls=":")
            look = {"capsize": 2, "elinewidth": 0.8, "ms": 4.5, "lw": 1}
            ax.errorbar([0], *_bars([none]), fmt="D", color=COLOURS["data"], label="no churn", **look)
            for k, (name, levels) in enumerate(RANGES.items()):
                mark, colour = LOOKS[name]
                for S_noise in S_NOISE:
                    found = [over_seeds(toys.at(data, training, Setting(S, *levels, S_noise))) for S in amounts]
                    x = 1 + np.arange(len(amounts)) + 0.18 * (2 * k + (S_noise > 1) - 1.5)
                    fill, line = ("white", "--") if S_noise > 1 else (colour, "-")
                    label = rf"{name}, $S_\mathrm{{noise}}$ = {S_noise:g}"
                    ax.errorbar(x, *_bars(found), fmt=mark + line, color=colour, mfc=fill, label=label, **look)
            found = [over_seeds(toys.at(data, training, setting)) for setting in NAMES.values()]
            ax.errorbar(table5, *_bars(found), fmt="^", color=COLOURS["zsnr"], label="settings of Table 5", **look)
            ax.axvline(len(amounts) + 0.6, color="#999999", lw=0.6)
            ax.set(title=f"{title},\n{way}", yscale="symlog")
            ax.set_yscale("symlog", linthresh=1.0, linscale=0.5)
        row[0].set_ylabel("energy distance / ‰")
    ticks = [f"{S:g}\n{min(S / N, GAMMA_MAX):.2f}" for S in amounts]
    for ax in axes[1]:
        ax.set_xticks([0, *1 + np.arange(len(amounts)), *table5], ["0\nγ: 0", *ticks, *SHORT], fontsize=6.5)
        ax.set_xlabel(r"$S_\mathrm{churn}$" + f" at N = {N}; right: tuned in the paper")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    return fig


def reasons(toys: Toys) -> Figure:
    """Noise that is removed too much by level (q), and churn at one level; shades are intervals over seeds.

    Where networks leave the law, a line marks the distance beyond which samples lie outside it.
    """
    fig, axes = plt.subplots(2, 3, figsize=(7, 4.2), layout="constrained")
    for row, (data, title) in zip(axes, DATA.items(), strict=True):
        for training in TRAININGS:
            sigma, values = toys.removed(data, training)
            means = [over_seeds(100 * v) for v in values.T]
            row[0].semilogx(sigma, [m for m, _ in means], color=TINT[training], label=training)
            low, high = np.array([ends for _, ends in means]).T
            row[0].fill_between(sigma, low, high, color=TINT[training], alpha=0.2, lw=0)
        row[0].axvspan(0.05, 1, color="#dddddd", alpha=0.5, lw=0, zorder=0)
        row[0].axhline(0, color=COLOURS["data"], lw=0.8, ls=":")
        row[0].set_yscale("symlog", linthresh=1.0)
        row[0].set(title=f"{title}", xlabel="σ", ylabel="removed too much / %")
        for ax, level in zip(row[1:], (0.1, 2.0), strict=True):
            for training, S_noise in [(t, S) for t in TRAININGS for S in S_NOISE] + [("exact", 1.0)]:
                times, energy = toys.in_place(data, training, level, S_noise)
                line = "--" if S_noise > 1 else "-"
                label = f"{training}, {S_noise:g}"
                keep = times <= toys.in_place(data, "edm", level, 1.0)[0][-1]
                ax.plot(times[keep], energy.mean(0)[keep], f"o{line}", ms=2.5, color=TINT[training], label=label, lw=1)
            ax.set_yscale("symlog", linthresh=1.0)
            if ax.get_ylim()[1] > OUTSIDE:
                ax.axhline(OUTSIDE, color="#999999", lw=0.8)
                ax.text(
                    0.03, 0.97, "above the grey line:\noutside the law", transform=ax.transAxes, fontsize=7, va="top"
                )
            ax.yaxis.get_major_locator().set_params(numticks=6)
            ax.set(title=f"{data}, in place at σ = {level:g}", xlabel="iterations", ylabel="energy distance / ‰")
    handles = axes[1, 1].get_legend_handles_labels()
    fig.legend(*handles, loc="outside lower center", ncols=5, fontsize=7, title=r"denoiser, $S_\mathrm{noise}$")
    return fig


def _bars(found: list[tuple[float, tuple[float, float]]]) -> tuple[list[float], list[list[float]]]:
    """Values, and the lengths of their intervals to both sides."""
    sides = [[m - low for m, (low, _) in found], [high - m for m, (_, high) in found]]
    return [m for m, _ in found], sides
