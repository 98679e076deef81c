"""Finding 6, Figure 2 and Table 3 (Karras et al. 2022) on denoisers that are known exactly."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor

import zsnr
from lab.measure.laws import Counted
from lab.measure.metrics import interval
from lab.models.mixture import Mixture
from lab.report.figures import COLOURS
from lab.report.tables import Table, table
from lab.studies.design_space import vector
from lab.studies.progress import bar
from zsnr import edm
from zsnr.path import ANGLE, EDM, VE, VP, Path
from zsnr.samplers import euler, heun, rk2, rk45

ALPHAS = [0.5, 0.6, 2 / 3, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
ORIGINAL, HEUN, OURS = "original: Euler, its own steps", "Heun, ρ = 7 steps", "Heun, ρ = 7 steps, σ = t"
LOOKS = {ORIGINAL: (COLOURS["control"], "^-"), HEUN: (COLOURS["base"], "s-"), OURS: (COLOURS["zsnr"], "o-")}
LEVELS = (0.02, 0.01, 0.005)
Sampler = Callable[..., Tensor]


@dataclass(frozen=True)
class Exact:
    """Data whose best denoiser is known, latents, and the ends of the exact ODE from them.

    Args:
        denoiser: of the data.
        z: (B, n) standard normal latents.
        tolerance: relative, of RK45 for the exact ends; the absolute one is a tenth of it.
    """

    denoiser: Mixture
    z: Tensor
    tolerance: float
    _ends: dict[float, Tensor] = field(default_factory=dict)

    def ends(self, phi: float) -> Tensor:
        """End points from the angle phi: RK45 to sigma = 1e-4, where the rest is below 1e-6."""
        if phi not in self._ends:
            rtol, grid = self.tolerance, vector(phi, math.atan(1e-4), 0.0)
            self._ends[phi] = rk45(self.denoiser, math.sin(phi) * self.z, grid, rtol=rtol, atol=rtol / 10)
        return self._ends[phi]

    def sampled(self, sampler: Sampler, grid: Tensor, **options: object) -> tuple[float, ...]:
        """(evaluations, median, lower and upper quartile over latents of the RMSE to the exact end point)."""
        phi, counted = float(grid[0]), Counted(self.denoiser)
        x = sampler(counted, math.sin(phi) * self.z, grid, **options)
        error = (x - self.ends(phi)).square().mean(1).sqrt()
        return counted.calls, *error.quantile(vector(0.5, 0.25, 0.75)).tolist()


def digits(tolerance: float) -> Exact:
    """Ten Gaussians with the means and covariances of scikit-learn's digits (8x8), of std 0.5; 32 latents.

    The variance of rounding to a grey level is added. 0.5 is the std that EDM takes for images.
    """
    raw = load_digits()
    pixels = torch.tensor(raw.data)
    std = pixels.std()
    pixels = (pixels - pixels.mean()) / std * 0.5
    rounding = (0.5 / std) ** 2 / 12 * torch.eye(64, dtype=torch.float64)
    classes = [pixels[torch.tensor(raw.target == k)] for k in range(10)]
    data = Mixture([zsnr.Gaussian(z.mean(0), z.T.cov() + rounding) for z in classes])
    return Exact(data, zsnr.randn((32, 64), zsnr.generators(range(32)), torch.float64), tolerance)


def random_mixture(seed: int, tolerance: float) -> Exact:
    """Six equal Gaussians in 8 dimensions, variances falling by halves, scaled to a std of 0.5; 64 latents."""
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(6, 8, generator=g, dtype=torch.float64)
    variances = 0.1 * 2.0 ** -torch.arange(8, dtype=torch.float64)
    means = means - means.mean(0)
    scale = 0.5 / math.sqrt(means.square().mean() + variances.mean())
    data = Mixture([zsnr.Gaussian(m * scale, variances * scale**2) for m in means])
    return Exact(data, zsnr.randn((64, 8), zsnr.generators(range(64)), torch.float64), tolerance)


def few(evaluations: int) -> list[int]:
    """Numbers of Heun's steps."""
    return [n for n in (4, 6, 9, 12, 18, 28, 40, 64, 128) if 2 * n - 1 <= evaluations]


Row = tuple[str, str, Sampler, Path, Callable[[int], Tensor], list[int]]


def rows(evaluations: int) -> list[Row]:
    """(family, label, solver, path, steps, their numbers) of Table 3's rows, and of four samplers beside them."""
    powers = [2**k for k in range(4, 11) if 2**k <= evaluations]
    long = [n for n in (2048, 4096, 8192) if n <= evaluations]
    N = few(evaluations)
    rho, ve, ddim = (functools.partial(zsnr.karras, sigma_min=low) for low in (0.002, 0.02, 0.0064))
    return [
        ("VP", ORIGINAL, euler, VP, edm.column("vp").steps, powers),
        ("VP", HEUN, heun, VP, rho, N),
        ("VP", OURS, heun, EDM, rho, N),
        ("VE", ORIGINAL, euler, VE, edm.column("ve").steps, powers + long),
        ("VE", HEUN, heun, VE, ve, N),
        ("VE", OURS, heun, EDM, ve, N),
        ("DDIM", ORIGINAL, euler, EDM, edm.column("iddpm").steps, powers[:-1]),
        ("DDIM", OURS, heun, EDM, ddim, N),
        ("beside", "Heun, power 1.5, angle, zero SNR", heun, ANGLE, zsnr.power, N),
        ("beside", "Heun, ρ = 7, angle", heun, ANGLE, rho, N),
        ("beside", "Heun, power 1.5, σ = t", heun, EDM, functools.partial(zsnr.power, phi_max=math.atan(80)), N),
        ("beside", "Euler, ρ = 7, σ = t", euler, EDM, rho, powers),
    ]


Curves = dict[tuple[str, str], np.ndarray]


def curves(data: Exact, evaluations: int) -> Curves:
    """{(family, label): (N, 4) evaluations, median error and quartiles}, of all rows and of RK45."""
    found = {}
    for family, label, solver, path, make, counts in bar(rows(evaluations), "samplers"):
        found[family, label] = np.array([data.sampled(solver, make(N), path=path) for N in counts])
    black_box: list[tuple[float, ...]] = []
    for tol in np.logspace(-1, -5, 13):
        black_box.append(data.sampled(rk45, zsnr.karras(18), path=EDM, rtol=tol, atol=tol))
        if black_box[-1][0] > evaluations:
            break
    found["beside", "RK45, σ = t"] = np.array(black_box)
    return found


def needed(curve: np.ndarray, level: float) -> float:
    """Evaluations for a median error, interpolated in the logarithms; the last crossing counts, NaN without one."""
    n, error = np.log(curve[:, 0]), np.log(curve[:, 1] / level)
    above = np.flatnonzero(error > 0)
    if len(above) == 0 or above[-1] == len(n) - 1:
        return math.nan
    k = above[-1]
    return math.exp(n[k] + (n[k + 1] - n[k]) * error[k] / (error[k] - error[k + 1]))


def gain(found: Curves, family: str, level: float = 0.01) -> float:
    """Evaluations of the family's original sampler over those of Heun's method on sigma = t, for an error."""
    return needed(found[family, ORIGINAL], level) / needed(found[family, OURS], level)


def euler_over_heun(found: Curves, level: float = 0.01) -> float:
    """Evaluations of Euler's method over those of Heun's, on sigma = t and the same rho steps, for an error."""
    return needed(found["beside", "Euler, ρ = 7, σ = t"], level) / needed(found["VP", OURS], level)


def needed_table(found: Curves) -> Table:
    """Evaluations for three errors; a dash where a curve does not cross the error."""
    shown = [(key, curve) for key, curve in found.items() if not key[1].startswith("RK45")]
    cells = [(*key, *(needed(curve, e) for e in LEVELS)) for key, curve in shown]
    return table(cells, {"model": "", "sampler": "", **{f"error {e:g}": ".0f" for e in LEVELS}}, "Evaluations needed")


def black_box(found: Curves, evaluations: int) -> dict[int, float]:
    """{Heun's steps: evaluations of RK45 over Heun's, at an error that is no larger}."""
    ours, theirs = found["VP", OURS], found["beside", "RK45, σ = t"]
    costs = {}
    for steps, (n, error, *_) in zip(few(evaluations), ours, strict=True):
        costs[steps] = min((row[0] for row in theirs if row[1] <= error), default=math.nan) / n
    return costs


def at_most_steps(costs: Mapping[int, float]) -> str:
    """What `black_box` found for the most steps."""
    return f"at the error of {max(costs)} Heun steps RK45 needs {costs[max(costs)]:.2f} times Heun's evaluations"


def starts(data: Exact, counts: Sequence[int]) -> np.ndarray:
    """Median error of Euler on iDDPM's steps from j_0 = 0 over that from j_0 = 8 (EDM, App. C.3.4)."""
    errors = [[data.sampled(euler, edm.column("iddpm", j_0=j).steps(N), path=EDM)[1] for N in counts] for j in (0, 8)]
    return np.array(errors[0]) / np.array(errors[1])


def alphas(sets: Sequence[Exact]) -> np.ndarray:
    """(sets, ALPHAS) median error of the second-order solver with alpha over that of alpha = 1, which is Heun."""
    swept = []
    for data in bar(sets, "alpha"):
        errors = [data.sampled(rk2, zsnr.karras(18), path=EDM, alpha=alpha)[1] for alpha in ALPHAS]
        swept.append(np.divide(errors, errors[ALPHAS.index(1.0)]))
    return np.array(swept)


def alpha_intervals(swept: np.ndarray) -> list[tuple[float, float]]:
    """95 % intervals over mixtures, by alpha; the last row of `swept` is the digits, and alpha = 1 is 1 throughout."""
    found = [interval(values) if alpha != 1 else (1.0, 1.0) for alpha, values in zip(ALPHAS, swept[:-1].T, strict=True)]
    return found


def figure2(found: Curves) -> Figure:
    """Error by evaluations for VP, VE and DDIM; the bands are quartiles over latents."""
    fig, axes = plt.subplots(1, 3, figsize=(7, 3), sharey=True)
    zero, rk = found["beside", "Heun, power 1.5, angle, zero SNR"], found["beside", "RK45, σ = t"]
    for ax, family in zip(axes, ("VP", "VE", "DDIM"), strict=True):
        for label, (colour, style) in LOOKS.items():
            if (family, label) in found:
                n, middle, lower, upper = found[family, label].T
                ax.fill_between(n, lower, upper, color=colour, alpha=0.15, lw=0)
                ax.loglog(n, middle, style, color=colour, ms=3, label=label)
        ax.fill_between([], [], [], color="#cccccc", label="bands: quartiles over latents")
        ax.loglog(*zero[:, :2].T, ".--", color=COLOURS["data"], ms=3, lw=0.9, label="Heun in the angle, from zero SNR")
        ax.loglog(*rk[:, :2].T, "x", color=COLOURS["offset"], ms=3.5, label="RK45, σ = t, by tolerance")
        ax.axhline(0.01, color=COLOURS["data"], lw=0.6, ls=":", label="an error of 0.01")
        ax.set(title=family, xlabel="evaluations of the denoiser", ylim=(1e-4, 2), xlim=(5, 1e4))
    axes[0].set_ylabel("RMSE to the exact end point")
    fig.tight_layout(rect=(0, 0.13, 1, 1))
    fig.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=3, fontsize=7)
    return fig


def alpha_figure(swept: np.ndarray, intervals: Sequence[tuple[float, float]]) -> Figure:
    """Error by alpha, over that of alpha = 1; the last row of `swept` is the digits."""
    fig, ax = plt.subplots(figsize=(4.2, 2.6))
    mixtures, last = swept[:-1], swept[-1]
    lines = ax.plot(ALPHAS, mixtures.T, color=COLOURS["zsnr"], lw=0.5, alpha=0.5)
    lines[0].set_label("each mixture")
    error = np.abs(np.transpose(intervals) - mixtures.mean(0))
    label = f"mean of {len(mixtures)}, 95 % interval"
    ax.errorbar(ALPHAS, mixtures.mean(0), error, fmt="o-", color=COLOURS["zsnr"], capsize=2, label=label)
    ax.plot(ALPHAS, last, "s--", color=COLOURS["base"], ms=3, label="digits")
    ax.axvline(1.1, color=COLOURS["data"], lw=0.7, ls=":", label="the paper's best, 1.1")
    ax.set(xlabel=r"$\alpha$ (1 is Heun, 1/2 midpoint)", ylabel=r"error over that of $\alpha = 1$", yscale="log")
    ax.set_yticks([0.2, 0.5, 1, 2, 4], ["0.2", "0.5", "1", "2", "4"])
    ax.minorticks_off()
    ax.legend(loc="upper left", fontsize=7, bbox_to_anchor=(1.02, 1))
    return fig
