r"""Which sigma_data, P_mean, P_std, sigma_min and sigma_max suit a set of images, measured, each with its reason.

Along orthonormal directions k, on which the data has mean m_k and variance Lambda_k (Lambda: their mean):

    sigma_data  sqrt(E y^2): input and target of EDM's network have unit variance
    sigma_min   the std of rounding, step / sqrt 12: below it nothing is left to learn
    sigma_max   from N(0, sigma_max^2) the largest direction's std becomes 1 / sqrt(1 + Lambda_max / sigma_max^2) of
                the truth, here 99 %; the mean is off by |m_k| / sqrt(Lambda_k + sigma_max^2) of a std
    P_mean,     mean and std of ln sigma under R = 1 - L from sigma_min to sigma_max, the reducible loss: of all
    P_std       normal densities the nearest to it

L is the error |D - y|^2 of a denoiser over that of one which knows only each pixel's mean, and Lambda. For the best
linear denoiser L = mean_k[Lambda_k / (Lambda_k + sigma^2)] (1 + sigma^2 / Lambda), 1 at both ends. The rules are
derived for this project (finding 8); beside them the numbers that Karras et al. 2022 chose by experience (Table 1).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

PUBLISHED = {"sigma_data": 0.5, "P_mean": -1.2, "P_std": 1.2, "sigma_min": 0.002, "sigma_max": 80.0}


@dataclasses.dataclass(frozen=True)
class Statistics:
    """rms, std by channel, step of rounding (0: none), variances (D,) by direction of the basis, falling, and means."""

    sigma_data: float
    channel_std: tuple[float, ...]
    step: float
    basis: str
    spectrum: Tensor
    shift: Tensor


@dataclasses.dataclass(frozen=True)
class Proposal:
    """Five numbers for EDM's column of Table 1 and its steps, and a sentence for each."""

    sigma_data: float
    P_mean: float
    P_std: float
    sigma_min: float
    sigma_max: float
    reasons: dict[str, str]

    def text(self) -> str:
        """A table: name, proposal, EDM's value, reason."""
        rows = (f"{k:11s}{getattr(self, k):10.4g}{PUBLISHED[k]:8.4g}   {self.reasons[k]}" for k in PUBLISHED)
        return "\n".join([f"{'':11s}{'proposed':>10s}{'EDM':>8s}   because", *rows])


def gaussian_loss(spectrum: Tensor, sigmas: Tensor, sigma_data: float | None = None) -> Tensor:
    """(S,) losses lambda |D - y|^2 a pixel of the best linear denoiser; lambda's sigma_data is the std if not given."""
    v, s2 = spectrum.double(), sigmas.double()[:, None] ** 2
    return (v / (v + s2)).mean(1) * (1 + s2[:, 0] / (v.mean() if sigma_data is None else sigma_data**2))


def measure(images: Tensor) -> Statistics:
    """The statistics of (N, C, H, W) float images, of which a few thousand are plenty.

    The basis comes from one half of the images and the variances from the other: no bias. A wrong basis only hides what
    can be learnt, so of principal components (given more images than values) and cosines the one that shows more is it.
    """
    if images.dim() != 4 or not images.is_floating_point() or len(images) < 16 or not images.std(0).max() > 1e-6:
        raise ValueError(f"{tuple(images.shape)} {images.dtype}: give at least 16 different float images (N, C, H, W)")
    y, half = images.double(), len(images) // 2
    rms, channels = y.square().mean().sqrt().item(), y.transpose(0, 1).flatten(1).std(1).tolist()
    a, b, m = y[:half] - y[:half].mean(0), y[half:], y.mean(0, keepdim=True)
    colours = torch.linalg.eigh(a.transpose(0, 1).flatten(1) @ a.transpose(0, 1).flatten(1).T)[1]
    rows, columns = (_cosines(n) for n in y.shape[2:])
    bases = {"cosines": lambda x: torch.einsum("nchw,cd->ndhw", rows @ x @ columns.T, colours).flatten(1)}
    if half > a[0].numel():
        components = torch.linalg.eigh(a.flatten(1).T @ a.flatten(1))[1]
        bases["principal components"] = lambda x: x.flatten(1) @ components
    found = {name: (basis(b).var(0), basis(m)[0]) for name, basis in bases.items()}
    name = min(found, key=lambda k: gaussian_loss(found[k][0], rms * torch.logspace(-2.5, 2.5, 50)).sum().item())
    spectrum, order = found[name][0].sort(descending=True)
    return Statistics(rms, tuple(channels), _step(y[:256]), name, spectrum, found[name][1][order])


def propose(statistics: Statistics, curve: tuple[Tensor, Tensor] | None = None, tolerance: float = 0.01) -> Proposal:
    """The five numbers; sigma_max may cost the share `tolerance` of the largest direction's std.

    curve: (sigmas, L) of a trained network on held-out images, for P_mean and P_std; None: the best linear denoiser's.
    """
    s, top = statistics, statistics.spectrum[0].item()
    low = s.step / math.sqrt(12) if s.step else PUBLISHED["sigma_min"] / PUBLISHED["sigma_data"] * s.sigma_data
    high = math.sqrt(top / ((1 - tolerance) ** -2 - 1))
    off = (s.shift.abs() / (s.spectrum + high**2).sqrt()).max().item()
    log = torch.linspace(math.log(low), math.log(high), 400, dtype=torch.float64)
    if curve is not None:
        x, L = (torch.as_tensor(c, dtype=torch.float64) for c in curve)
        if not (x.diff() > 0).all() or x[0] > low * 1.001 or x[-1] < high * 0.999 or not torch.isfinite(L).all():
            raise ValueError(f"the curve needs rising sigmas from {low:.3g} or less to {high:.3g} or more, and no NaN")
    loss = gaussian_loss(s.spectrum, log.exp()) if curve is None else torch.tensor(np.interp(log, x.log(), L))
    R = (1 - loss).clamp(min=0)
    if R.max() < tolerance:
        raise ValueError(f"at most {R.max().item():.1g} of the loss is reducible: noise, or a network not yet trained")
    P_mean = float((R * log).sum() / R.sum())
    P_std = float((R * (log - P_mean) ** 2).sum() / R.sum()) ** 0.5
    whose, unequal = s.basis if curve is None else "network", max(s.channel_std) > 1.5 * min(s.channel_std)
    reasons = {
        "sigma_data": "root mean square" + unequal * "; the channels' stds differ: standardise each first",
        "P_mean": f"mean of ln sigma under what a denoiser saves ({whose}), at most {R.max().item():.1%}",
        "P_std": f"its std; {R[0].item():.1%} is saved at sigma_min, {R[-1].item():.1%} at sigma_max",
        "sigma_min": f"rounding in steps of {s.step:.5f}" if s.step else "no coarse rounding: EDM's 0.004 sigma_data",
        "sigma_max": f"costs the largest direction {tolerance:.0%} of its std, {math.sqrt(top):.3g}; the mean is off "
        f"by {off:.1%} of a std" + (off > tolerance) * ", unless sampling starts from mean plus noise",
    }
    return Proposal(s.sigma_data, P_mean, P_std, low, high, reasons)


def _cosines(n: int) -> Tensor:
    """(n, n) the orthonormal DCT-II, a row each."""
    k = torch.arange(n, dtype=torch.float64)
    return torch.cos(math.pi / n * k[:, None] * (k + 0.5)) * torch.where(k > 0, 2 / n, 1 / n).sqrt()[:, None]


def _step(y: Tensor) -> float:
    """The step of the lattice that all values lie on; 0 where there is none, or it is finer than 13 bits."""
    diff = ((y * 1e6).round().unique() / 1e6).diff()  # float32 of one integer may differ in its last bits
    if len(diff) < 2 or diff.min() < 2e-4:
        return 0.0
    steps = (diff / diff.min()).round()
    step = float(diff.sum() / steps.sum())
    return step if (diff - step * steps).abs().max() < 5e-6 else 0.0
