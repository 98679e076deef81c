"""Figures of finding 7: Table 1's coefficients, the ladder's measures, losses and pictures, and the augmentation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

from lab.measure.metrics import interval
from lab.models import digits, ladder
from lab.models.augment import warp
from lab.report import figures
from lab.studies import ladder_loss, preconditioning
from lab.studies.training_ladder import ALWAYS, LENGTHS, PAPER, STEPS, VE, Ladder, shorter
from zsnr import edm
from zsnr.finetune.loop import generator

COLOURS = dict(zip(ladder.CONFIGS, ("#c0a060", "#b0601e", "#d1495b", "#8d6cab", "#1f7a8c", "#222222"), strict=True))
MARKERS = dict(zip(ladder.CONFIGS, "osv^oD", strict=True))
LOOKS: dict[str, tuple[str, str, str, float]] = {
    "vp": ("VP", "#f0b4bc", "-", 5.5),
    "ve": ("VE", "#b07a1e", "-", 3.2),
    "edm": ("EDM", "#1f7a8c", "-", 1.6),
    "iddpm": ("iDDPM", "#111111", ":", 1.2),
}
"""Name, colour, line and width: where columns agree, a thin line lies on a wide one, and all can be seen."""
COEFFICIENTS = {
    "c_skip": r"$c_\mathrm{skip}$",
    "c_out": r"$|c_\mathrm{out}|$",
    "c_in": r"$c_\mathrm{in}$",
    "input": "variance of the network's input",
    "weight": r"weight of the network's error, $\lambda\,c_\mathrm{out}^2$",
}


def coefficients() -> Figure:
    """The four columns of Table 1 by noise level, and EDM's preconditioning with the weight 1/sigma^2 (D)."""
    fig, axes = plt.subplots(2, 3, figsize=(7, 3.9), layout="constrained")
    levels = preconditioning.LEVELS
    reports = {name: preconditioning.coefficients(name, levels) for name in LOOKS}
    for ax, (key, title) in zip(axes.flat, COEFFICIENTS.items(), strict=False):
        for name, (label, colour, line, width) in LOOKS.items():
            ax.plot(levels, reports[name][key], line, color=colour, lw=width, label=label)
        ax.set(xscale="log", title=title, xticks=[0.01, 0.1, 1, 10], xlabel=r"noise level $\sigma$")
        if key in ("c_out", "c_in", "input"):
            ax.set_yscale("log")
        else:
            ax.set_ylim(-0.05, 1.15)
    mixed = preconditioning.column("vp").weight(levels) * reports["edm"]["c_out"] ** 2
    axes[1, 1].plot(levels, mixed, "--", color="#8d6cab", label="D: EDM's coefficients\nwith $\\lambda = 1/\\sigma^2$")
    axes[1, 2].set_axis_off()
    axes[1, 2].legend(*axes[1, 1].get_legend_handles_labels(), loc="center", fontsize=8, title="columns of Table 1")
    return fig


def measures(rungs: Ladder) -> Figure:
    """The paper's FID; Frechet distance and EDM's loss of ours, by seed and with intervals; the former by epochs."""
    fig, axes = plt.subplots(1, 4, figsize=(7, 2.3), layout="constrained")
    axes[0].scatter(ladder.CONFIGS, [PAPER[name] for name in ladder.CONFIGS], c=list(COLOURS.values()), s=22)
    axes[0].set(title="the paper's FID", ylim=(1.6, 2.6))
    real = rungs.real["frechet"]
    _rungs(axes[1], lambda name: rungs.values(name, "frechet"), real, "our Fréchet distance")
    _rungs(axes[2], rungs.averaged, None, "our loss over $p_\\mathrm{train}$")
    for ax in axes[:3]:
        ax.set_xlabel("configuration")
    _lengths(axes[3], rungs)
    return fig


def _lengths(ax: Axes, rungs: Ladder) -> None:
    """Frechet distance of D, E and F by the length of training."""
    every = [rungs.real["frechet"]]
    for name, shift in (("D", 0.93), ("E", 1.0), ("F", 1.07)):
        x = np.array([rungs.values(shorter(name, part), "frechet") for part in LENGTHS])
        low, high = np.array([interval(row.tolist()) for row in x]).T
        every += x.flatten().tolist()
        at, bars = shift * np.array([rungs.epochs(part) for part in LENGTHS]), [x.mean(1) - low, high - x.mean(1)]
        look: dict[str, Any] = {"color": COLOURS[name], "ms": 3, "lw": 1, "elinewidth": 0.7, "capsize": 1.5}
        ax.errorbar(at, x.mean(1), bars, fmt=MARKERS[name] + "-", label=name, **look)
    ax.axhline(rungs.real["frechet"], color=figures.COLOURS["data"], lw=0.9, ls=":")
    ticks = [rungs.epochs(part) for part in LENGTHS]
    ax.set(xscale="log", title="ours, by length", xlabel="epochs")
    _log(ax, np.array(every))
    ax.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(fontsize=7)


def _rungs(ax: Axes, of: Callable[[str], np.ndarray], real: float | None, title: str) -> None:
    """One measure of all rungs: seeds as small dots, mean and interval to their right; C of VE's; real pictures."""
    every = np.concatenate([of(name) for name in (*ladder.CONFIGS, VE)] + ([] if real is None else [np.array([real])]))
    for i, name in [*enumerate(ladder.CONFIGS), (2, VE)]:
        x, colour = of(name), LOOKS["ve"][1] if name == VE else COLOURS[name]
        low, high = interval(x.tolist())
        ax.plot([i - 0.18] * len(x), x, "o", ms=3, color=colour, mew=0)
        bars = [[x.mean() - low], [high - x.mean()]]
        ax.errorbar(i + 0.18, x.mean(), bars, fmt="_", color=colour, capsize=2, ms=6, lw=1.2)
    ax.annotate("VE", (2.18, of(VE).mean()), (4, -2), textcoords="offset points", fontsize=6.5, color=LOOKS["ve"][1])
    if real is not None:
        ax.axhline(real, color=figures.COLOURS["data"], lw=0.9, ls=":")
        at = ("axes fraction", "data")  # right: left of it are long intervals
        ax.annotate("real pictures", (0.99, real), (0, 2), at, "offset points", fontsize=6.5, ha="right")
    # an interval over few seeds may be wider than what it is about
    if every.min() > 0 and every.max() > 5 * every.min():
        _log(ax, every)
    else:
        margin = 0.35 * np.ptp(every)
        ax.set_ylim(every.min() - margin, every.max() + margin)
    ax.set(title=title, xticks=range(len(ladder.CONFIGS)), xticklabels=ladder.CONFIGS)


def _log(ax: Axes, every: np.ndarray) -> None:
    """A logarithmic axis with plain numbers, about as far as the values go."""
    steps = (1, 3) if every.max() < 300 * every.min() else (1,)
    marks = [step * 10.0**power for power in range(-2, 7) for step in steps]
    ticks = [mark for mark in marks if every.min() / 1.6 < mark < every.max() * 1.6]
    ax.set(yscale="log", ylim=(every.min() / 1.6, every.max() * 1.6))
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.yaxis.set_minor_formatter(NullFormatter())


def losses(rungs: Ladder, pictures: ladder_loss.Data) -> Figure:
    """Figure 5a for E with two linear denoisers, where training puts its noise, and the other rungs' loss over E's."""
    fig = plt.figure(figsize=(7, 4.4), layout="constrained")
    axes = fig.subplot_mosaic([["E", "far"], ["E", "near"], ["density", "near"]], height_ratios=(2, 0.6, 1.2))
    sigmas, E = rungs.sigmas, rungs.after("E")
    _figure5a(axes["E"], rungs, pictures)
    _density(axes["density"], sigmas)
    for name in "ABC":
        ratio = rungs.after(name).mean(0) / E.mean(0)
        axes["far"].loglog(sigmas, ratio, MARKERS[name] + "-", ms=3, lw=1, color=COLOURS[name], label=name)
    for name, shift in (("D", 0.94), ("F", 1.06)):
        ratios = rungs.after(name) / E
        low, high = np.array([interval(x.tolist()) for x in ratios.T]).T
        bars = [ratios.mean(0) - low, high - ratios.mean(0)]
        look: dict[str, Any] = {"color": COLOURS[name], "ms": 3, "lw": 1, "elinewidth": 0.7, "capsize": 1.5}
        axes["near"].errorbar(sigmas * shift, ratios.mean(0), bars, fmt=MARKERS[name] + "-", label=name, **look)
    axes["far"].set_title("A to C: loss over E's")
    axes["near"].set(xscale="log", title="D and F: loss over E's", xlabel=r"noise level $\sigma$")
    for name in ("far", "near"):
        axes[name].axhline(1, color=COLOURS["E"], lw=1.4, label="E")
        axes[name].legend(loc="upper left" if name == "far" else "best", ncols=2 if name == "far" else 3)
    for ax in axes.values():
        ax.set(xlim=(sigmas[0] / 1.2, sigmas[-1] * 1.2), xticks=[0.01, 0.1, 1, 10])
    return fig


def _figure5a(ax: Axes, rungs: Ladder, pictures: ladder_loss.Data) -> None:
    """E's loss at the start and after training, its spread over pictures, and the best linear denoisers'."""
    sigmas, sigma_data, mean = rungs.sigmas, rungs.facts["sigma_data"], rungs.after("E").mean(0)
    fine = np.geomspace(sigmas[0], sigmas[-1], 200)
    std = np.mean([row["curve"]["std"] for row in rungs.rows["E"]], 0)
    ax.fill_between(
        sigmas, mean - std, mean + std, color=COLOURS["E"], alpha=0.15, lw=0, label="the same: std over pictures"
    )
    ax.plot(sigmas, rungs.rows["E"][0]["curve at the start"]["mean"], "--", color=COLOURS["E"], lw=1, label="E, start")
    ax.plot(sigmas, mean, "o-", ms=3, color=COLOURS["E"], label="E, trained")
    spectra = {
        ("best linear, our digits", ":", "#b07a1e"): pictures.spectrum,
        ("best linear, $1/f^2$ spectrum", "-.", "#666666"): ladder_loss.power_law(sigma_data),
    }
    for (label, line, colour), spectrum in spectra.items():
        ax.plot(fine, ladder_loss.linear_loss(spectrum, fine, sigma_data), line, color=colour, label=label)
    ax.set(xscale="log", ylabel="loss with EDM's weight", ylim=(0, 2.2), title="E: loss by noise level")
    order = (2, 0, 1, 3, 4)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend([handles[i] for i in order], [labels[i] for i in order], fontsize=6.5, loc="upper left")


def _density(ax: Axes, sigmas: np.ndarray) -> None:
    """Where training puts its noise levels: EDM's p_train, and VP's from draws."""
    fine = np.geomspace(sigmas[0], sigmas[-1], 200)
    vp = edm.column("vp").p_train(50_000, generator(ladder_loss.SEED, 4)).log().numpy()
    counts, edges = np.histogram(vp, bins=40, range=(math.log(sigmas[0]), math.log(sigmas[-1])))
    ax.fill_between(fine, ladder_loss.p_train(fine), color=COLOURS["E"], alpha=0.3, lw=0, label="E, F")
    ax.stairs(counts / counts.sum() / np.diff(edges), np.exp(edges), color=COLOURS["C"], lw=1, label="A to D")
    ax.set(xscale="log", xlabel=r"noise level $\sigma$", ylabel="density of $\\ln\\sigma$", title="noise in training")
    ax.legend(fontsize=6.5, loc="upper left")


def sheets(rungs: Ladder, train: digits.Digits, test: digits.Digits) -> Figure:
    """Forty pictures of the first seed of each rung, from the same noises, and as many held-out ones."""
    n = 40
    titles = {name: f"{name}: {step}" for name, step in STEPS.items()}
    titles |= {VE: f"{VE}: VE as it was, with B and C", ALWAYS: "F, every transform always applied"}
    shown = {title: train.shown(rungs.rows[name][0].tensors["pictures"].float()) for name, title in titles.items()}
    shown["held-out digits"] = train.shown(test.draw(n, generator(ladder_loss.SEED, 5))[0])
    shown["digits trained on"] = train.shown(train.draw(n, generator(ladder_loss.SEED, 5))[0])
    fig, axes = plt.subplots(5, 2, figsize=(7, 3.6), layout="constrained")
    for ax, (name, x) in zip(axes.flat, shown.items(), strict=True):
        figures.pictures(ax, x, 20, name)
    return fig


def _turn(angle: float) -> Tensor:
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)


def transforms(one: Tensor) -> dict[str, Tensor]:
    """Table 6 on (1, C, H, W): each transform at one standard deviation, and a rotation by 60 degrees."""
    eye, scale = torch.eye(2, dtype=torch.float64), 2**0.2

    def moved(linear: Tensor, shift: Sequence[float] = (0.0, 0.0)) -> Tensor:
        return warp(one, linear[None], one.shape[-1] * torch.tensor([list(shift)], dtype=torch.float64))

    stretch = torch.diag(torch.tensor([scale, 1 / scale], dtype=torch.float64))
    return {
        "untouched": one,
        "x-flip\n$a_0=1$": one.flip(-1),
        "y-flip\n$a_1=1$": one.flip(-2),
        "scaling\n$a_2=1$": moved(scale * eye),
        "rotation\n$a_3=\\pi/3$": moved(_turn(-math.pi / 3)),
        "anisotropy\n$a_4=\\pi/4,\\ a_5=1$": moved(_turn(math.pi / 4) @ stretch @ _turn(-math.pi / 4)),
        "translation\n$a_6=a_7=1$": moved(eye, (1 / 8, 1 / 8)),
    }


def table6(train: digits.Digits) -> Figure:
    """Each transform of Table 6 alone, and training pictures as F and *F, always* see them."""
    seen = train.draw(20, generator(ladder_loss.SEED, 6))[0]
    fig = plt.figure(figsize=(7, 2.5), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=[1.25, 1], squeeze=False)[:, 0]
    shown = transforms(train.shown(seen[:1]))
    for ax, (title, x) in zip(top.subplots(1, len(shown)), shown.items(), strict=True):
        figures.pictures(ax, x, 1)
        ax.set_title(title, fontsize=7)
    for ax, (p, name) in zip(bottom.subplots(1, 2), ((0.12, "F"), (1.0, ALWAYS)), strict=True):
        x = train.shown(train.augment(seen, generator(ladder_loss.SEED, 7), p)[0])
        figures.pictures(ax, x, 10, f"{name}: each transform with probability {p:.0%}")
    return fig
