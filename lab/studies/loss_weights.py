"""Finding 13: loss weights, w(SNR) |x0 - D|^2, at zero SNR; in the algebra, in the objective, and in trained models.

|x0 - D| = sin(phi) |v - v'| = tan(phi) |eps - eps'|        D the predicted x0; v', eps' the predictions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers.training_utils import compute_snr
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lab.measure import metrics
from lab.measure.evaluation import Cell, Judge
from lab.measure.store import load
from lab.measure.study import Study
from lab.models import data, training
from lab.report.figures import COLOURS
from lab.report.sheets import strip
from lab.report.tables import Table, table
from zsnr.finetune import loop
from zsnr.prediction import X0_WEIGHTS
from zsnr.schedule import Schedule

SOURCES = {
    "x0": "plain x0 loss",
    "eps": "plain ε loss, Ho et al. 2020",
    "v": "plain v loss, Lin et al. 2023",
    "F": "Karras et al. 2022, at sigma_data = 1",
    "flow": "plain velocity loss, straight path",
    "truncated": "Salimans & Ho 2022",
    "min-snr-5": "Hang et al. 2023",
    "soft-min-snr-5": "Crowson et al. 2024",
    "p2": "Choi et al. 2022, k = gamma = 1",
    "debiased": "Yu et al. 2024",
    "sigmoid": "Kingma & Gao 2023, bias 2",
}
ONE = torch.ones(1, dtype=torch.float64)
ZERO = [name for name, w in X0_WEIGHTS.items() if w(0 * ONE).item() == 0]
"""The weights that are 0 at zero SNR."""
LOOKS = {"v": COLOURS["zsnr"], "x0": COLOURS["base"], "min-snr-5": COLOURS["control"]}
DASHES = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)), "-.", (0, (6, 1, 1, 1, 1, 1)))


def scaled(name: str, snr: Tensor) -> Tensor:
    """w(SNR) over w at SNR = 1: a constant factor is no more than another learning rate."""
    return X0_WEIGHTS[name](snr) / X0_WEIGHTS[name](ONE)


def weights_table(schedule: Schedule) -> Table:
    """The weights on the last steps of the schedule."""
    rows = []
    for name in X0_WEIGHTS:
        at = [scaled(name, schedule.snr[t - 1 : t]).item() for t in (schedule.T, schedule.T - 1, 900)]
        rows.append((name, SOURCES[name], *at, name not in ZERO))
    titles = {"w / w at SNR = 1": "", "source": "", "t = 1000": ".2f", "t = 999": ".1e", "t = 900": ".4f"}
    return table(rows, {**titles, "trains zero SNR": ""})


def diffusers_weight(
    scheduler: diffusers.DDPMScheduler, prediction: str, timesteps: Tensor, gamma: float = 5
) -> Tensor:
    """min-SNR on the squared error of the prediction, by diffusers' example train_text_to_image.py."""
    snr = compute_snr(scheduler, timesteps)
    weight = torch.stack([snr, gamma * torch.ones_like(timesteps)], dim=1).min(dim=1)[0]
    return weight / (snr if prediction == "eps" else snr + 1)


def trainers() -> tuple[Table, Tensor]:
    """What trainers weigh the last steps by; and diffusers' weight on the squared x0 error at all steps, (T,)."""
    settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    rescaled = diffusers.DDPMScheduler(**settings, rescale_betas_zero_snr=True)
    steps = torch.tensor([1000, 999, 900, 500])
    lines = {
        "diffusers, v, zero SNR": diffusers_weight(rescaled, "v", steps - 1),
        "diffusers, ε, zero SNR": diffusers_weight(rescaled, "eps", steps - 1),
        "v, SNR of the old schedule (sd-scripts)": diffusers_weight(
            diffusers.DDPMScheduler(**settings), "v", steps - 1
        ),
    }
    titles = {"min-SNR weight on the squared error": ".2e", **{f"t = {t}": ".2e" for t in steps.tolist()}}
    every = diffusers_weight(rescaled, "v", torch.arange(1000)).double()
    found = table([(name, *w.tolist()) for name, w in lines.items()], titles)
    return found, every * (compute_snr(rescaled, torch.arange(1000)).double() + 1)


class Constant(torch.nn.Module):
    """A network that answers the number a, whatever it sees."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(float(a)))

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        return self.a.expand_as(x)


@dataclass(frozen=True)
class Objective:
    """`lab.models.training.objective` of a constant answer a, on v: a parabola in a at each step.

    Args:
        schedule: whose steps are 1 ... T.
        x0, eps, conditions: the pictures, the noises, and what the network is told of them.
    """

    schedule: Schedule
    x0: Tensor
    eps: Tensor
    conditions: Tensor

    @classmethod
    def of(cls, schedule: Schedule, train: data.Images) -> Objective:
        """On 16 pictures, in float64."""
        x0, conditions = train.draw(16, loop.generator(13, 0))
        x0 = x0.double()
        return cls(schedule, x0, torch.randn(x0.shape, generator=loop.generator(13, 1)).double(), conditions)

    def loss(self, a: float, loss: str, t: int) -> tuple[Tensor, Constant]:
        """The loss at step t, and the network that answers a."""
        model, recipe = Constant(a), training.ScheduleRecipe(prediction="v", loss=loss)
        at = torch.full((len(self.x0),), t - 1)
        return training.objective(model, self.x0, self.eps, at, self.conditions, self.schedule, recipe), model

    def curvature(self, loss: str, t: int) -> float:
        """lambda_t, the weight on the squared v error: (L(-1) + L(1)) / 2 - L(0)."""
        with torch.no_grad():
            low, middle, high = (self.loss(a, loss, t)[0].item() for a in (-1, 0, 1))
        return (low + high) / 2 - middle

    def gradient(self, loss: str, t: int) -> float:
        """dL/da at a = 0: the gradient that a bias of the network gets."""
        value, model = self.loss(0, loss, t)
        value.backward()
        grad = model.a.grad
        assert grad is not None
        return grad.item()


def tuned(study: Study) -> dict[str, Cell]:
    """By loss, the models that were fine-tuned on the same pictures: plain v first."""
    plain = max((cell for cell in study.rows if cell.images and not cell.loss), key=lambda cell: cell.images)
    return {"v": plain} | {cell.loss: cell for cell in study.rows if cell.loss}


def over_seeds(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, tuple[float, float] | None]:
    """Mean over seeds, and its interval where there are several."""
    return float(np.mean(values)), metrics.interval(list(values)) if len(values) > 1 else None


def held_out_errors(study: Study, cells: Mapping[str, Cell]) -> dict[str, NDArray[np.float64]]:
    """By loss, the squared x0 errors on held-out pictures: a row a seed, a column a step."""
    return {loss: np.array([row["errors"] for row in study.of(cell)]) for loss, cell in cells.items()}


def measured_steps(folder: Path) -> list[int]:
    """The steps, of 1 ... T, of these errors; folder is results/<profile>/zsnr."""
    return [step + 1 for step in load(folder / "evaluate_ablations/0").facts["steps"]]


def real_pictures(results: Path, train: data.Images, test: data.Images, real: int, drawn: int) -> list[dict[str, Any]]:
    """All measures of three draws of test pictures, by the judge of the stage that measured the models.

    Args:
        results: results/<profile>.
        real: how many pictures of `train` the judge holds them against.
        drawn: test pictures in a draw.
    """
    reference, _ = train.draw(real, loop.generator(2, 0))
    judge = Judge(metrics.Classifier.load(results / "classifier/classifier.safetensors"), reference)
    return [judge(test.draw(drawn, loop.generator(13, 2, k))[0]) for k in range(3)]


def quality_table(study: Study, cells: Mapping[str, Cell], natural: Sequence[Mapping[str, Any]]) -> Table:
    """Level and Fréchet distance by loss, beside real pictures; and each less plain v's, paired by seed."""
    names = {
        "level std / data's": ("level", "std_ratio"),
        "level W1": ("level", "w1"),
        "Fréchet distance": ("frechet",),
    }
    rows: list[Sequence[object]] = []
    for name, keys in names.items():
        truth = [m[keys[0]][keys[1]] if len(keys) > 1 else m[keys[0]] for m in natural]
        values = {loss: np.array(study.values(cell, *keys)) for loss, cell in cells.items()}
        rows.append((name, over_seeds(truth), *(over_seeds(v) for v in values.values())))
        less = [over_seeds(v - values["v"]) if loss != "v" else None for loss, v in values.items()]
        rows.append((f"{name}, less plain v's", None, *less))
    return table(rows, ["", "real pictures", *(f"{loss} loss" for loss in cells)])


def floor(train: data.Images, test: data.Images, held_out: int) -> float:
    """Least squared error at zero SNR: that of the mean of the class, on the pictures that the stage held out."""
    y, conditions = test.draw(held_out, loop.generator(2, 7))
    classes = ((train.label == k).nonzero()[:, 0] for k in range(len(train.classes)))
    means = torch.stack([train.compose(i, torch.zeros(len(i))).mean(0) for i in classes])
    return (y - means[conditions[:, 0]]).square().mean().item()


def errors_table(errors: Mapping[str, NDArray[np.float64]], steps: Sequence[int], snr: Tensor) -> Table:
    """Squared x0 error of plain v by step, and the others' over it."""
    others = [loss for loss in errors if loss != "v"]
    rows = []
    for j, t in enumerate(steps):
        ratios = [over_seeds(errors[loss][:, j] / errors["v"][:, j]) for loss in others]
        rows.append((t, f"{snr[t - 1].item():.2g}", over_seeds(errors["v"][:, j]), *ratios))
    return table(rows, ["t", "SNR", "squared x0 error, plain v", *(f"{loss} / v" for loss in others)])


def weights_figure() -> Figure:
    """The weights over log SNR: those above 0 at zero SNR, and those that vanish there."""
    fig, axes = plt.subplots(1, 2, figsize=(7, 2.9), sharey=True, layout="constrained")
    log_snr = torch.linspace(-12, 8, 200, dtype=torch.float64)
    kept = {"x0": "x0", "truncated": "truncated", "v": "v, F", "flow": "flow"}
    lost = {name: name for name in ("eps", "debiased", "sigmoid", "soft-min-snr-5", "min-snr-5", "p2")}
    titles = ("above 0 at zero SNR", "0 at zero SNR")
    for ax, names, title in zip(axes, (kept, lost), titles, strict=True):
        for (name, label), dash in zip(names.items(), DASHES, strict=False):
            ax.semilogy(log_snr, scaled(name, log_snr.exp()), ls=dash, lw=1.5, label=label)
        ax.set(xlabel=r"$\log\,\mathrm{SNR}$ (zero SNR: far to the left)", title=title, ylim=(1e-5, 1e4))
        ax.set_xticks(range(-12, 9, 4))
        ax.legend(fontsize=6.5, loc="upper left")
    axes[0].set_ylabel("$w$ / $w$ at SNR = 1")
    return fig


def pictures_figure(study: Study, cells: Mapping[str, Cell]) -> Figure:
    """Pictures from the same noises, a row for each loss."""
    fig, axes = plt.subplots(len(cells), 1, figsize=(7, 0.45 * len(cells)), squeeze=False, gridspec_kw={"hspace": 0.06})
    for ax, (loss, cell) in zip(axes[:, 0], cells.items(), strict=True):
        strip(ax, study.pictures(cell)[:16], f"{loss} loss")
    return fig


def errors_figure(errors: Mapping[str, NDArray[np.float64]], steps: Sequence[int], snr: Tensor, least: float) -> Figure:
    """Errors over plain v's; each loss's share of the plain v model's errors, by step; and the errors at T."""
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(7, 2.5), layout="constrained")
    for k, (loss, e) in enumerate(errors.items()):
        colour = LOOKS.get(loss, "#777777")
        for seed in e / errors["v"] if loss != "v" else ():
            left.plot(steps, seed, color=colour, lw=0.6, alpha=0.5)
        left.plot(steps, (e / errors["v"]).mean(0), "o-", color=colour, label=f"{loss} loss")
        seen = X0_WEIGHTS[loss](snr[np.array(steps) - 1]).numpy() * errors["v"].mean(0)
        middle.plot(steps, seen / seen.sum(), "o-", color=colour)
        right.plot(np.full(len(e), k), e[:, -1] / least, "o", color=colour, mfc="white")
        right.plot(k, e[:, -1].mean() / least, "_", color=colour, ms=16, mew=2)
    left.set(title="squared $x_0$ error / plain $v$'s", xlabel="step $t$")
    left.legend(fontsize=6.5, handlelength=1.2)
    middle.set(title="share of the loss", xlabel="step $t$")
    middle.set_ylim(bottom=0)
    right.axhline(1, color=COLOURS["data"], lw=0.8)
    right.set_xticks(range(len(errors)), list(errors))
    right.set(title="error at $T$ / least possible", xlabel="loss", xlim=(-0.6, len(errors) - 0.4))
    return fig
