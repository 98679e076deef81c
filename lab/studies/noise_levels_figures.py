"""The figure of finding 8."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm
from torch import Tensor, trapezoid

from lab.report.figures import COLOURS
from lab.studies.noise_levels import FIELDS, P_MEAN, P_STD, Losses, Sets

EDM, INK = COLOURS["base"], COLOURS["data"]
LOOKS = {
    "best linear": (COLOURS["zsnr"], "-"),
    "network": (COLOURS["control"], "-"),
    "ideal, own images": (COLOURS["offset"], "-"),
    "ideal, others": (COLOURS["offset"], "--"),
}
NAMES = {FIELDS: "$1/f^2$ fields", "images": "plain images"}


def choose(sets: Sets, losses: Losses) -> Figure:
    """The loss of each denoiser, where it can be reduced, and what sigma_max costs."""
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(7.4, 3.1), layout="constrained")
    _losses(left, losses, sets.first)
    _where(middle, sets, losses)
    _sigma_max(right, sets)
    for ax in (left, middle, right):
        ax.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.25), borderaxespad=0)
    return fig


def _losses(ax: Axes, losses: Losses, first: str) -> None:
    for name, (colour, line) in LOOKS.items():
        curve = losses.linear if name == "best linear" else losses.curves.get(name)
        if curve is not None:
            ax.semilogx(losses.sigmas, curve, line, color=colour, label=name)
    ax.axhline(1, color=INK, lw=0.7, ls=":", label="blind: knows mean and variance")
    ax.set(xlabel=r"$\sigma$", ylabel="loss $L$", ylim=(0, 2.2), title=f"loss of denoisers, {first}")


def _where(ax: Axes, sets: Sets, losses: Losses) -> None:
    """Densities of what is saved, 1 - L, and the normal densities that the rules derive from it."""
    fine = np.geomspace(5e-4, 400, 300)
    of = {
        "best linear": (losses.linear, sets.first),
        "network": (losses.curves.get("network"), f"{sets.first}, network"),
    }
    for name, (curve, key) in of.items():
        if curve is None:
            continue
        colour, proposal = LOOKS[name][0], losses.proposals[key]
        ax.semilogx(losses.sigmas, _density(curve, losses.sigmas), color=colour, label=f"saved by {name}")
        ax.semilogx(fine, norm.pdf(np.log(fine), proposal.P_mean, proposal.P_std), "--", color=colour, lw=1,
                    label="its normal: proposed")  # fmt: skip
    ax.semilogx(fine, norm.pdf(np.log(fine), P_MEAN, P_STD), "-.", color=EDM, label=r"$p_\mathrm{train}$ of EDM")
    ax.set(xlabel=r"$\sigma$", ylabel=r"density over $\ln\sigma$", title="where to train", ylim=(0, 0.36))


def _density(curve: Tensor, sigmas: Tensor) -> Tensor:
    gain = (1 - curve).clamp(min=0)
    return gain / trapezoid(gain, sigmas.log())


def _sigma_max(ax: Axes, sets: Sets) -> None:
    """The share of its std that the largest direction loses when sampling starts from N(0, sigma_max^2)."""
    tops = np.geomspace(5, 500, 100)
    for (name, s), line in zip(sets.measured.items(), ("-", "--", ":"), strict=False):
        lost = 1 - 1 / np.sqrt(1 + s.spectrum[0].item() / tops**2)
        ax.loglog(tops, 100 * lost, line, color=INK, label=NAMES.get(name, name))
    ax.axhline(1, color=COLOURS["control"], lw=0.8, label="allowed by the rules")
    ax.axvline(80, color=EDM, lw=1.2, ls="-.", label=r"EDM's $\sigma_\mathrm{max} = 80$")
    ax.set(xlabel=r"$\sigma_\mathrm{max}$", ylabel="std lost, largest direction (%)", ylim=(0.01, 60))  # fmt: skip
    ax.set_title("what it costs to start there")
