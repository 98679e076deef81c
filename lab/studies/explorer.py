r"""The explorer: choose a model, a grid and a solver, and see what they draw, beside the truth.

    draw(Settings(spacing="leading", steps=25)) -> Drawn        all that is computed, by calls of zsnr
    figure(drawn)                               -> Figure       all that is shown
    show(steps=25)                                              the same behind widgets, in a notebook or in Voila

Four models. The *exact denoiser* knows ten garments on backdrops of uniform level, the *exact mixture* two Gaussians of
one pixel: what they draw differs from the truth by the grid and the solver alone. The *flawed* and the *fixed network*
are those of the full profile (eps on Stable Diffusion's schedule; v on the same with zero terminal SNR), which have
errors of their own, too. A choice that cannot work is refused by the library, and its sentence is what the user sees.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Collection
from io import BytesIO
from typing import Any

import ipywidgets as widgets
import matplotlib as mpl
import numpy as np
import torch
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

import zsnr
from lab import ROOT
from lab.models import data, network
from lab.models.backdrop import UniformBackdrop
from lab.models.mixture import Mixture
from lab.models.variants import find
from lab.report import figures
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
    shows = ~images.mask.flatten(1).all(1)  # some backdrop, without which its level is unknown
    index = torch.tensor([int((shows & (images.label == k)).nonzero()[0]) for k in range(len(images.classes))])
    return UniformBackdrop(images.compose(index, torch.zeros(len(index))), images.mask[index], *bounds(prompt))


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


# --- what is shown


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


# --- the widgets

WIDE = widgets.Layout(width="290px")
NARROW = {"description_width": "84px"}


def controls(settings: Settings) -> dict[str, Any]:
    """A widget for each field of the settings, by its name."""

    def choice(name: str, options: Any) -> widgets.Dropdown:
        return widgets.Dropdown(options=list(options), value=getattr(settings, name))

    def slider(kind: type, name: str, low: float, high: float, step: float, **more: Any) -> Any:
        return kind(value=getattr(settings, name), min=low, max=high, step=step, **more)

    made = {
        "model": choice("model", MODELS),
        "prompt": choice("prompt", PROMPTS),
        "w": slider(widgets.FloatSlider, "w", 1, 10, 0.5),
        "phi": slider(widgets.FloatSlider, "phi", 0, 1, 0.1),
        "schedule": choice("schedule", SCHEDULES),
        "spacing": choice("spacing", GRIDS),
        "steps": slider(widgets.IntSlider, "steps", 1, 60, 1),
        "rho": slider(widgets.FloatSlider, "rho", 1, 12, 0.5),
        "sigma_max": widgets.FloatLogSlider(value=settings.sigma_max, min=0, max=3, step=0.1),
        "solver": choice("solver", SOLVERS),
        "S_churn": slider(widgets.FloatSlider, "S_churn", 0, 40, 1),
    }
    for name, control in made.items():
        control.description, control.layout, control.style = name, WIDE, NARROW
    return made


class Explorer(widgets.HBox):
    """Controls on the left, what they lead to on the right: a headline, and the figure or the library's refusal."""

    def __init__(self, settings: Settings) -> None:
        self.controls = controls(settings)
        self.headline, self.notes, self.image = widgets.HTML(), widgets.HTML(), widgets.Image(format="png")
        for widget, name in ((self.headline, "headline"), (self.notes, "notes"), (self.image, "figure")):
            widget.add_class(f"zsnr-{name}")
        self.image.layout = widgets.Layout(width="960px", max_width="100%", height="auto")
        right = widgets.VBox([self.headline, self.notes, self.image], layout=widgets.Layout(flex="1 1 auto"))
        left = widgets.VBox(list(self.controls.values()), layout=widgets.Layout(flex="0 0 310px"))
        super().__init__([left, right])
        for control in self.controls.values():
            control.observe(self._changed, "value")
        self.redraw()

    @property
    def settings(self) -> Settings:
        """What is chosen."""
        return Settings(**{name: control.value for name, control in self.controls.items()})

    def _changed(self, change: Any) -> None:
        own = NETWORKS.get(self.controls["model"].value)
        schedule = "rescaled to zero SNR" if own and find(own).zero_snr else "Stable Diffusion"
        if change["owner"] is self.controls["model"] and own and self.controls["schedule"].value != schedule:
            self.controls["schedule"].value = schedule  # which draws, as every change does
        else:
            self.redraw()

    def redraw(self) -> None:
        """Disable what does not apply, draw, and show it, or say why not."""
        settings, started = self.settings, time.perf_counter()
        used = settings.used()
        for name, control in self.controls.items():
            control.disabled = name not in used
            if hasattr(control, "continuous_update"):
                control.continuous_update = settings.model not in NETWORKS  # too slow to follow the hand
        if settings.model in NETWORKS:
            self.headline.value = _styled("asking the network ...")
        try:
            drawn = draw(settings)
        except (ValueError, FloatingPointError, FileNotFoundError) as error:
            self.headline.value, self.notes.value = _styled("not possible"), _styled(str(error), "refusal")
            self.image.layout.display = "none"
            return
        self.image.value = png(figure(drawn))
        self.image.layout.display = None
        self.notes.value = "".join(_styled(note, "refusal") for note in drawn.notes)
        self.headline.value = _styled(f"{headline(drawn)} · {time.perf_counter() - started:.2f} s")


def _styled(text: str, kind: str = "headline") -> str:
    """Text in the page's own font: what is refused is set apart."""
    style = {"headline": "font-weight:600", "refusal": "padding:8px 12px;border-left:4px solid #d1495b;max-width:60em"}
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return f'<div style="line-height:1.5;{style[kind]}">{escaped}</div>'


def show(**chosen: Any) -> None:
    """Display the explorer, from these settings on; where no kernel runs, such as on a web page, its first figure."""
    app = Explorer(Settings(**chosen))
    bundle = dict(app._repr_mimebundle_())
    bundle["text/plain"] = "The explorer: open this notebook in JupyterLab, or with Voila, to use it."
    if app.image.layout.display is None:
        bundle["image/png"] = base64.b64encode(app.image.value).decode()
    display(bundle, raw=True)
