r"""Finding 8: where training finds something to learn, and what the rules of `lab.measure.choose` propose for it.

EDM's training levels are log-normal, ln sigma ~ N(P_mean, P_std^2) with P_mean = -1.2 and P_std = 1.2 (Karras et al.
2022, Sec. 5, Table 1). The loss L(sigma) is the error |D - y|^2 of a denoiser over that of a *blind* one, which knows
only each pixel's mean and the variance: L = 1 where there is nothing to learn, or nothing learnt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

import zsnr
from lab import ROOT
from lab.measure import choose, sweep
from lab.models import data
from lab.models.edm_training import loss_curve
from lab.studies.progress import bar
from zsnr import edm
from zsnr.finetune.loop import generator

P_MEAN, P_STD = -1.2, 1.2
SHARES = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
FIELDS = "1/f^2"


@dataclass(frozen=True)
class Sets:
    """Images by name, what was measured of them and what the rules propose.

    Args:
        first: the name of the set that the networks were trained on.
        drawn: images as training draws them, float in [-1, 1], (N, C, H, W).
        spectrum: (D,) the exact variances of the fields, falling.
    """

    images: dict[str, Tensor]
    first: str
    drawn: Tensor
    spectrum: Tensor
    measured: dict[str, choose.Statistics]
    proposals: dict[str, choose.Proposal]

    @property
    def spectra(self) -> dict[str, Tensor]:
        """Variances by direction: what was measured, and last the exact ones of the fields."""
        return {**{name: s.spectrum for name, s in self.measured.items()}, f"{FIELDS}, exact": self.spectrum}


@dataclass(frozen=True)
class Losses:
    """L of several denoisers at rising sigmas (S,), on held-out pictures y (n, C, H, W) and one noise eps.

    Args:
        linear: (S,) of the best linear denoiser, in closed form.
        curves: (S,) by name: the ideal denoiser of a finite set and, if there is one, the trained network.
        proposals: those of the sets and, if there is a network, the one from its curve.
        networks: the trained ones by name.
        error: by network, (levels, n): the mean over pixels of |D - y|^2 at the levels HIGH.
    """

    sigmas: Tensor
    linear: Tensor
    curves: dict[str, Tensor]
    proposals: dict[str, choose.Proposal]
    networks: dict[str, edm.Preconditioned]
    error: dict[str, Tensor]


HIGH = (5.0, 20.0, 80.0)


def draws(n: int = 400_000) -> np.ndarray:
    """(n,) training levels of EDM's column."""
    return edm.column("edm").p_train(n, generator(0, 0)).numpy()


def lognormal(sigma: np.ndarray) -> dict[str, tuple[float, float, float]]:
    """Of (n,) draws: value, closed form under ln sigma ~ N(P_mean, P_std^2), and the value's standard error."""
    n, z = len(sigma), norm.ppf(SHARES)
    rows = {"mean of ln sigma": (np.log(sigma).mean(), P_MEAN, P_STD / math.sqrt(n))}
    rows["std of ln sigma"] = np.log(sigma).std(), P_STD, P_STD / math.sqrt(2 * n)
    for share, quantile, at in zip(SHARES, np.quantile(sigma, SHARES), z, strict=True):
        exact = math.exp(P_MEAN + P_STD * at)
        rows[f"quantile {share:.0%}"] = (
            quantile,
            exact,
            exact * P_STD * math.sqrt(share * (1 - share) / n) / norm.pdf(at),
        )
    mean = math.exp(P_MEAN + P_STD**2 / 2)
    rows["mean"] = sigma.mean(), mean, mean * math.sqrt(math.expm1(P_STD**2) / n)
    for level in (1, 10):
        share = norm.cdf((P_MEAN - math.log(level)) / P_STD)
        rows[f"P(sigma > {level})"] = (sigma > level).mean(), share, math.sqrt(share * (1 - share) / n)
    vertex = [mode(batch) for batch in sigma.reshape(10, -1)]
    rows["mode"] = np.mean(vertex), math.exp(P_MEAN - P_STD**2), float(np.std(vertex, ddof=1)) / math.sqrt(10)
    return rows


def mode(sigma: np.ndarray) -> float:
    """The most likely level: the log of the density is a parabola in ln sigma, fitted to counts in narrow windows."""
    windows = np.geomspace(0.02, 0.3, 28)
    counts = [((sigma > 0.9 * w) & (sigma < 1.1 * w)).sum() / w for w in windows]
    parabola = np.polyfit(np.log(windows), np.log(counts), 2)
    return math.exp(-parabola[1] / (2 * parabola[0]))


def natural_fields(n: int) -> tuple[Tensor, Tensor]:
    """(n, 3, 32, 32) Gaussian fields with a natural image's spectrum 1/f^2, and their exact variances (3072,), falling.

    Of std 0.5, with colours correlated by 0.9, in 8 bits. Their mean level varies as much as the largest wave.
    """
    f = torch.fft.fftfreq(32) * 32
    power = 1 / (f[:, None] ** 2 + f**2).clamp(min=1)
    power = 0.25 * power / power.mean()
    correlation = torch.full((3, 3), 0.9) + 0.1 * torch.eye(3)
    white = torch.randn(n, 3, 32, 32, generator=generator(0, 1))
    waves = torch.fft.ifft2(torch.fft.fft2(white) * power.sqrt()).real
    fields = torch.einsum("cd,ndhw->nchw", torch.linalg.cholesky(correlation), waves)
    variances = (torch.linalg.eigvalsh(correlation.double())[:, None] * power.flatten()).flatten()
    return (fields * 127.5 + 127.5).round() / 127.5 - 1, variances.sort(descending=True).values


def measure(source: str, n: int) -> Sets:
    """The images of a source as they are drawn in training, on black, and fields whose answer is known."""
    train = data.load(ROOT / source)
    drawn, _ = train.draw(n, generator(0, 2))
    index = torch.randperm(len(train), generator=generator(0, 3))[:n]
    sets = {"images": train.image[index].float() / 127.5 - 1}
    if not bool(train.fills.all()):
        sets = {"on backdrops": drawn, **sets}
    first = next(iter(sets))
    sets[FIELDS], spectrum = natural_fields(min(n, 2048))
    measured = {name: choose.measure(y) for name, y in sets.items()}
    proposals = {name: choose.propose(s) for name, s in measured.items()}
    truth = choose.Statistics(0.5, (0.5,), 2 / 255, "its own waves", spectrum, torch.zeros(len(spectrum)))
    proposals[f"{FIELDS}, exact"] = choose.propose(truth)
    return Sets(sets, first, drawn, spectrum, measured, proposals)


def load_networks(results: str, channels: int) -> dict[str, edm.Preconditioned]:
    """The networks `original` (it predicts eps) and `edm` (preconditioned), where they take pictures of that kind."""
    paths = {name: ROOT / results / "edm/networks" / f"{name}.safetensors" for name in ("original", "edm")}
    models = {name: sweep.model(path) for name, path in paths.items() if path.exists()}
    return {name: m for name, m in models.items() if m.network.config["channels"] == channels}  # type: ignore[index]


def losses(sets: Sets, source: str, results: str) -> Losses:
    """L of the first set's denoisers between its proposed sigma_min and sigma_max."""
    stat, proposal, drawn = sets.measured[sets.first], sets.proposals[sets.first], sets.drawn
    std, n = stat.spectrum.mean().sqrt().item(), min(len(drawn) // 8, 256)
    low, high = math.log10(proposal.sigma_min), math.log10(proposal.sigma_max)
    sigmas = torch.logspace(low, high, 25 if len(drawn) > 1024 else 9, dtype=torch.float64)
    y, conditions = data.load(ROOT / source, "test").draw(n, generator(0, 4))
    eps = torch.randn(y.shape, generator=generator(0, 5))
    known, mean = drawn[: len(drawn) // 2], drawn.mean(0)
    ideal, blind = ideal_denoiser(known), blind_denoiser(mean, std)

    def loss(denoiser: Callable[..., Tensor], y: Tensor, **kw: Any) -> Tensor:
        least = loss_curve(blind, y, eps[: len(y)], sigmas.tolist(), std).mean(1, keepdim=True)
        return (loss_curve(denoiser, y, eps[: len(y)], sigmas.tolist(), std, **kw) / least).mean(1)

    networks, proposals = load_networks(results, y.shape[1]), dict(sets.proposals)
    asked: dict[str, Any] = {"ideal, own images": (ideal, known[:n], {}), "ideal, others": (ideal, y, {})}
    if "edm" in networks:
        asked["network"] = networks["edm"], y, {"class_labels": conditions}
    curves = {name: loss(D, y, **kw) for name, (D, y, kw) in bar(list(asked.items()), "denoisers")}
    if "network" in curves:
        proposals[f"{sets.first}, network"] = choose.propose(stat, (sigmas, curves["network"]))
    weight = torch.tensor([(s**2 + std**2) / (s * std) ** 2 for s in HIGH], dtype=torch.float64)
    error = {
        name: loss_curve(model, y, eps, HIGH, std, class_labels=conditions) / weight[:, None]
        for name, model in networks.items()
    }
    return Losses(sigmas, choose.gaussian_loss(stat.spectrum, sigmas), curves, proposals, networks, error)


def ideal_denoiser(images: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """D(x, sigma) of a finite set of images (App. B.3), for one sigma a batch."""
    ideal = zsnr.Empirical(images)

    def D(x: Tensor, sigma: Tensor) -> Tensor:
        phi = math.atan(sigma[0].item())
        x = math.cos(phi) * x
        return math.cos(phi) * x - math.sin(phi) * ideal(x, phi)

    return D


def blind_denoiser(mean: Tensor, std: float) -> Callable[[Tensor, Tensor], Tensor]:
    """D(x, sigma) of N(mean, std^2): mean + (x - mean) std^2 / (std^2 + sigma^2)."""

    def D(x: Tensor, sigma: Tensor) -> Tensor:
        return mean + (x - mean) * std**2 / (std**2 + sigma.to(x).view(-1, 1, 1, 1) ** 2)

    return D


def saved(sets: Sets, sigma: np.ndarray) -> dict[str, tuple[float, float]]:
    """The loss 1 - L that the best linear denoiser saves, over levels sigma and over even ones in ln sigma, by set."""
    even = torch.logspace(math.log10(0.002), math.log10(80), 400, dtype=torch.float64)
    levels = torch.tensor(sigma[:2000]), even
    return {
        name: tuple((1 - choose.gaussian_loss(spectrum, at)).mean().item() for at in levels)  # type: ignore[misc]
        for name, spectrum in sets.spectra.items()
    }


def overlap(p: choose.Proposal, mean: float = P_MEAN, std: float = P_STD) -> float:
    """What two normal densities of ln sigma share: the integral of the lesser one."""
    u = np.linspace(-16, 12, 4001)
    least = np.minimum(norm.pdf(u, p.P_mean, p.P_std), norm.pdf(u, mean, std))
    return float(least.sum() * (u[1] - u[0]))


def constant_directions(s: choose.Statistics, p: choose.Proposal) -> float:
    """The share of directions whose std is less than sigma_min: there the data never change."""
    return (s.spectrum.sqrt() < p.sigma_min).double().mean().item()


def error_ratios(error: Mapping[str, Tensor]) -> list[tuple[float, Sequence[float]]]:
    """Root mean square error of D, `original` over `edm`, at each of HIGH; 95 % intervals by bootstrap of pictures."""
    g, ends, found = generator(0, 6), torch.tensor([0.025, 0.975], dtype=torch.float64), []
    for a, b in zip(error["original"], error["edm"], strict=True):
        pick = torch.randint(len(a), (1000, len(a)), generator=g)
        again = (a[pick].mean(1) / b[pick].mean(1)).sqrt()
        found.append(((a.mean() / b.mean()).sqrt().item(), again.quantile(ends).tolist()))
    return found
