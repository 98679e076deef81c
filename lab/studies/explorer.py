r"""What the explorer computes: a model, a grid and a solver are chosen, and draw, beside the truth.

    draw(Settings(spacing="leading", steps=25)) -> Drawn        here, by calls of zsnr
    figure(drawn)                               -> Figure       in explorer_figure
    show(steps=25)                                              in explorer_widgets: for a notebook, or for Voila

Four models. The *exact denoiser* knows ten garments on backdrops of uniform level, the *exact mixture* two Gaussians of
one pixel: what they draw differs from the truth by the grid and the solver alone. The *flawed* and the *fixed network*
are those of the full profile (eps on Stable Diffusion's schedule; v on the same with zero terminal SNR), which have
errors of their own, too. A choice that cannot work is refused by the library, and its sentence is what the user sees.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Collection

import numpy as np
import torch
from torch import Tensor

import zsnr
from lab import ROOT
from lab.models import data, network
from lab.models.backdrop import UniformBackdrop
from lab.models.mixture import Mixture
from lab.models.variants import find
from zsnr.denoisers import Denoiser

RESULTS = ROOT / "results/full"
SOURCE = ROOT / "data/fashion-mnist"

NETWORKS = {"flawed network": "control", "fixed network": "zsnr"}
"""Their names in `lab.models.variants`."""
MODELS = {"exact denoiser": 96, "exact mixture": 1000, **dict.fromkeys(NETWORKS, 8)}
"""How many pictures each draws: a network takes about 20 ms for each evaluation of each picture."""
SCHEDULES: dict[str, Callable[[], zsnr.Schedule]] = {
    "linear": zsnr.schedule.linear,
    "cosine": zsnr.schedule.cosine,
    "Stable Diffusion": zsnr.schedule.stable_diffusion,
    "rescaled to zero SNR": lambda: zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion()),
}
TRAINED_STEPS = ("leading", "linspace", "trailing")
GRIDS: dict[str, Callable[[Settings], Tensor]] = {
    **{name: lambda s: zsnr.grid(SCHEDULES[s.schedule](), s.steps, s.spacing) for name in TRAINED_STEPS},
    "power": lambda s: zsnr.power(s.steps),
    "geometric": lambda s: zsnr.geometric(s.steps),
    "skewed": lambda s: zsnr.skewed(s.steps),
    "uniform": lambda s: zsnr.uniform(s.steps),
    "karras": lambda s: zsnr.karras(s.steps, sigma_max=s.sigma_max, rho=s.rho),
}
SOLVERS = ("ddim", "euler", "heun", "dpmpp_2m", "eab", "churn", "ddpm", "euler_maruyama")
RANDOM = ("churn", "ddpm", "euler_maruyama")
"""They draw fresh noise, so that a picture has no one right answer."""
PROMPTS = ("none", *data.WORDS)
COMPARED = 12
"""Pictures that are held against the converged solution from the same noises."""
RANGE = 1.6
"""Levels are shown from -1.6 to 1.6: guidance may go beyond the data's -1 to 1."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the user chooses.

    Args:
        model, schedule, spacing, solver, prompt: names in MODELS, SCHEDULES, GRIDS, SOLVERS and PROMPTS.
        steps: N of the grid; Heun takes 2N - 1 evaluations.
        rho, sigma_max: of the Karras grid.
        S_churn: of EDM's Algorithm 2.
        w, phi: guidance scale and its rescaling, of the prompt against none.
    """

    model: str = "exact denoiser"
    schedule: str = "Stable Diffusion"
    spacing: str = "leading"
    solver: str = "ddim"
    steps: int = 25
    rho: float = 7.0
    sigma_max: float = 80.0
    S_churn: float = 10.0
    prompt: str = "none"
    w: float = 1.0
    phi: float = 0.0

    def __post_init__(self) -> None:
        known: dict[str, Collection[str]] = {
            "model": MODELS,
            "schedule": SCHEDULES,
            "spacing": GRIDS,
            "solver": SOLVERS,
            "prompt": PROMPTS,
        }
        for name, names in known.items():
            if (value := getattr(self, name)) not in names:
                raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(names)}")

    def used(self) -> set[str]:
        """The choices that make a difference beside the others; the rest is disabled."""
        guided = self.prompt != "none" and self.model != "exact mixture"
        when = {
            "schedule": self.spacing in TRAINED_STEPS or self.model in NETWORKS,
            "rho": self.spacing == "karras",
            "sigma_max": self.spacing == "karras",
            "S_churn": self.solver == "churn",
            "prompt": self.model != "exact mixture",
            "w": guided,
            "phi": guided and self.w != 1,
        }
        return {field.name for field in dataclasses.fields(self) if when.get(field.name, True)}


@dataclasses.dataclass(frozen=True)
class Truth:
    """The density of a picture's level in the data: points of its graph, mean and std."""

    level: np.ndarray
    density: np.ndarray
    mean: float
    std: float


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What the settings led to.

    Args:
        grid: (N + 1,) angles.
        pictures: (n, 1, H, W); converged: (12, 1, H, W), exact pictures from the same noises, None for networks.
        path: (steps + 1, n) the upper left pixel of the state, at the angles (steps + 1,) `visited`.
        evaluations: counted calls of the denoiser; a guided one asks its model twice.
        error: RMSE of the first 12 pictures against `converged`, None where there is no one right answer.
        notes: what the library warned of.
    """

    settings: Settings
    grid: Tensor
    pictures: Tensor
    converged: Tensor | None
    path: Tensor
    visited: Tensor
    truth: Truth
    evaluations: int
    error: float | None
    notes: tuple[str, ...]

    @property
    def level(self) -> Tensor:
        """(n,) levels of the backdrop: the mean of the outer frame."""
        return data.level(self.pictures)

    @property
    def std_ratio(self) -> tuple[float, float]:
        """Std of the levels over the truth's, and half of its 95 % interval by the delta method."""
        d = self.level.double() - self.level.double().mean()
        ratio = d.square().mean().sqrt().item() / self.truth.std
        kurtosis = (d**4).mean().item() / max(d.square().mean().item() ** 2, 1e-30)
        return ratio, 1.96 * ratio * math.sqrt(max(kurtosis - 1, 0.0) / (4 * len(d)))


# --- what is computed


def draw(settings: Settings) -> Drawn:
    """Draw by the settings; the same settings give the same pictures.

    Raises:
        ValueError: the library refuses the combination, such as eps with zero terminal SNR.
        FileNotFoundError: the pictures, or a network's weights, are not there; it says how to restore them.
    """
    s, n = settings, MODELS[settings.model]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        grid = GRIDS[s.spacing](s)
    model, calls, visited, path = denoiser(s, n), [0], [], []

    def counted(x: Tensor, phi: float) -> Tensor:
        calls[0] += 1
        return model(x, phi)

    def seen(i: int, phi: float, x: Tensor, v: Tensor) -> None:
        visited.append(phi)
        path.append(x[:, 0, 0, 0].clone())

    noise, generators = start(s, n)
    sampler = zsnr.SAMPLERS[s.solver]
    options = {"S_churn": s.S_churn} if s.solver == "churn" else {}
    fresh = {"generators": generators} if getattr(sampler, "stochastic", False) else {}
    x = sampler(counted, noise, grid, callback=seen, **fresh, **options)
    visited, path = [*visited, 0.0], [*path, x[:, 0, 0, 0]]
    exact = None if s.model in NETWORKS else _converged(s.model, *_guidance(s))
    error = None
    if exact is not None and s.solver not in RANDOM:
        error = (x[:COMPARED] - exact).square().mean().sqrt().item()
    return Drawn(
        settings=s,
        grid=grid,
        pictures=x.float(),
        converged=exact,
        path=torch.stack(path).float(),
        visited=torch.tensor(visited),
        truth=truth(s),
        evaluations=calls[0],
        error=error,
        notes=tuple(str(warning.message) for warning in caught),
    )


def denoiser(s: Settings, n: int) -> Denoiser:
    """The denoiser (x, phi) -> v of n pictures; of a network, the classes are asked for in turn."""
    prompt, w, phi = _guidance(s)
    if s.model == "exact mixture":
        return _mixture()
    make: Callable[[str], Denoiser] = _backdrop if s.model not in NETWORKS else lambda word: _asked(s, n, word)
    return make(prompt) if w == 1 else zsnr.guided(make(prompt), make("none"), w, phi)


def start(s: Settings, n: int) -> tuple[Tensor, list[torch.Generator]]:
    """Noise to start from, by one generator a picture, in float64 for exact denoisers."""
    generators = zsnr.generators(range(n))
    side = 1 if s.model == "exact mixture" else data.SIZE
    noise = zsnr.randn((n, 1, side, side), generators)
    return (noise if s.model in NETWORKS else noise.double()), generators


def truth(s: Settings) -> Truth:
    """The law of the level in the data: uniform, on the fifth of [-1, 1] that the prompt names; or the mixture's."""
    if s.model != "exact mixture":
        low, high = bounds(s.prompt)
        density = np.array([0, 1, 1, 0]) / (high - low)
        return Truth(np.array([low, low, high, high]), density, (low + high) / 2, (high - low) / math.sqrt(12))
    mixture, y = _mixture(), np.linspace(-RANGE, RANGE, 321)
    w = mixture.weights.numpy()
    m, var = (np.array([part(k) for k in mixture.components]) for part in (_mean, _variance))
    density = (w * np.exp(-((y[:, None] - m) ** 2) / (2 * var)) / np.sqrt(2 * np.pi * var)).sum(1)
    mean = float(w @ m)
    return Truth(y, density, mean, math.sqrt(float(w @ (var + m**2)) - mean**2))


def bounds(prompt: str) -> tuple[float, float]:
    """The lowest and the highest level that a prompt asks for."""
    if prompt == "none":
        return -1.0, 1.0
    width = 2 / len(data.WORDS)
    low = -1 + width * data.WORDS.index(prompt)
    return low, low + width


def _guidance(s: Settings) -> tuple[str, float, float]:
    """Prompt, w and phi, where they are used."""
    used = s.used()
    prompt = s.prompt if "prompt" in used else "none"
    return prompt, (s.w if "w" in used else 1.0), (s.phi if "phi" in used else 0.0)


@functools.lru_cache(maxsize=64)
def _converged(model: str, prompt: str, w: float, phi: float) -> Tensor:
    """(12, 1, H, W): the flow from exactly zero SNR, from the same noises, in so many steps that they do not matter."""
    s = Settings(model=model, prompt=prompt, w=w, phi=phi)
    return zsnr.eab(denoiser(s, COMPARED), start(s, COMPARED)[0], zsnr.skewed(40))


@functools.cache
def _images() -> data.Images:
    return data.load(SOURCE, "test")


@functools.cache
def _backdrop(prompt: str) -> UniformBackdrop:
    """The exact denoiser of one garment of each class, on backdrops of the levels that the prompt asks for."""
    images = _images()
    shows = ~images.fills  # some backdrop, without which its level is unknown
    index = torch.tensor([int((shows & (images.label == k)).nonzero()[0]) for k in range(len(images.classes))])
    return UniformBackdrop.of(images, index, *bounds(prompt))


@functools.cache
def _mixture() -> Mixture:
    """One pixel: a narrow dark component and a wide bright one."""
    parts = [(-0.7, 0.1), (0.5, 0.25)]
    gaussians = [zsnr.Gaussian(torch.full((1, 1, 1), m), torch.full((1, 1, 1), std**2)) for m, std in parts]
    return Mixture(gaussians, [0.4, 0.6])


def _mean(component: zsnr.Gaussian) -> float:
    return component.mean.item()


def _variance(component: zsnr.Gaussian) -> float:
    return component.variance.item()


@functools.cache
def _network(variant: str) -> network.ConditionalUNet:
    return network.load(RESULTS / "zsnr/finetune" / variant / "weights.safetensors")[0].eval()


def _asked(s: Settings, n: int, word: str) -> zsnr.NetworkDenoiser:
    """The network asked for the classes in turn and a word, or, where the prompt is none, for nothing but the class."""
    variant = NETWORKS[s.model]
    net = _network(variant)
    classes, words = net.config["classes"], net.config["words"]
    labels = [[k % classes, data.WORDS.index(word) if word != "none" else words] for k in range(n)]
    schedule = SCHEDULES[s.schedule]()
    return zsnr.NetworkDenoiser(net, schedule, find(variant).prediction, class_labels=torch.tensor(labels))
