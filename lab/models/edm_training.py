r"""EDM's training recipe: any column's preconditioning with any column's noise levels and weights, and augmentation.

    L = E_{ln sigma ~ p_train} E_{y, n} lambda(sigma) |D(y + n; sigma | labels) - y|^2
      = E lambda c_out^2 |F - F_target|^2,     F_target = (y - c_skip (y + n)) / c_out

With EDM's column, lambda c_out^2 = 1, and a network that starts from 0 starts with a loss of 1 at every sigma.

Source: Karras et al. 2022, Sec. 5, App. B.6, F; EMA and learning-rate ramps as in Table 7 and its code.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from lab.models.augment import LABELS, augment
from lab.models.network import ConditionalUNet
from lab.models.training import Draw
from zsnr import edm
from zsnr.finetune import loop
from zsnr.finetune.checkpoint import History
from zsnr.finetune.loop import generator, seed_dropout
from zsnr.finetune.recipe import Recipe

VERSION = 1
"""Of what is learnt: raised when a training of the same recipe gives other weights than before."""


@dataclasses.dataclass(frozen=True)
class EDMRecipe(Recipe):
    """How to train; the defaults are EDM's design (configuration E), scaled to tens of thousands of pictures.

    See `zsnr.finetune.recipe.Recipe` for the rest; here lr stays where it is after its rise.

    Args:
        precondition: the column of Table 1 that preconditions the network: vp, ve, iddpm or edm.
        loss: the column whose p_train and lambda are used.
        sigma_data: the data's std, for edm's columns.
        P_mean, P_std: of ln sigma, for edm's p_train.
        ema_rampup: at the start, the half-life of the averaged weights as a share of the pictures seen.
        augment: probability of each geometric transform; 0 for none.
    """

    precondition: str = "edm"
    loss: str = "edm"
    sigma_data: float = 0.5
    P_mean: float = -1.2
    P_std: float = 1.2
    warmup: int = 6_000
    ema_rampup: float = 0.05
    augment: float = 0.0

    ABOVE_ZERO = ("sigma_data", "P_std", *Recipe.ABOVE_ZERO, "ema_rampup")
    SHARES = ("augment",)

    def check(self) -> None:
        """Refuse, before any work, a recipe that cannot be trained."""
        self.column(self.precondition), self.column(self.loss)
        super().check()

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        return self.lr * self.ramp(step)

    def decay(self, step: int) -> float:
        """The decay of the averaged weights after so many steps."""
        return 0.5 ** (self.batch / min(self.ema_halflife, self.ema_rampup * step * self.batch))

    def column(self, name: str) -> edm.Column:
        """The column of Table 1, with this recipe's parameters where it is edm's."""
        if name == "edm":
            return edm.column(name, sigma_data=self.sigma_data, P_mean=self.P_mean, P_std=self.P_std)
        return edm.column(name)


class AugmentedUNet(ConditionalUNet):
    """A ConditionalUNet that can be told how its pictures were augmented; not told, it takes them for untouched.

    `lab.models.network.load` builds ConditionalUNets: keep its state_dict.
    """

    def __init__(
        self, widths: tuple[int, ...], channels: int = 1, classes: int = 10, words: int = 5, groups: int = 16
    ) -> None:
        super().__init__(channels, classes, words, widths, groups=groups)
        self.embed_augment = nn.Linear(LABELS, 4 * widths[0], bias=False)
        nn.init.normal_(self.embed_augment.weight)  # as loud as the classes' embeddings; torch's own is not heard

    def forward(self, x: Tensor, step: Tensor, class_labels: Tensor, augment_labels: Tensor | None = None) -> Tensor:
        """As ConditionalUNet's, with the (B, 9) labels of `lab.models.augment`."""
        condition = self.embed_class(class_labels[:, 0]) + self.embed_word(class_labels[:, 1])
        if augment_labels is not None:
            condition = condition + self.embed_augment(augment_labels)
        return self.predict(x, step, condition)


def set_dropout(network: nn.Module, p: float) -> None:
    """Set the probability of every dropout layer; diffusers' residual blocks have one each."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = p


def objective(
    network: nn.Module, y: Tensor, sigma: Tensor, eps: Tensor, conditions: Tensor, labels: Tensor, recipe: EDMRecipe
) -> Tensor:
    """The loss of a batch, averaged over pictures and pixels.

    Args:
        network: the raw F, called as network(x, c_noise, class_labels[, augment_labels]).
        y, eps: (B, C, H, W), pictures and unit noise.
        sigma: (B,), float64.
        labels: (B, 9), of the augmentation; not passed on where the recipe has none.
    """
    kwargs = {"class_labels": conditions} | ({"augment_labels": labels} if recipe.augment else {})
    denoiser = edm.Preconditioned(network, recipe.column(recipe.precondition))
    with torch.autocast(y.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        d = denoiser(y + sigma.to(y).view(-1, 1, 1, 1) * eps, sigma, **kwargs)
    weight = recipe.column(recipe.loss).weight(sigma).to(y).view(-1, 1, 1, 1)
    return (weight * (d - y) ** 2).mean()


def fit(
    network: nn.Module,
    draw: Draw,
    recipe: EDMRecipe,
    scratch: str | Path,
    *,
    note: str = "",
    transform: Callable[[Tensor, Generator, float], tuple[Tensor, Tensor]] = augment,
) -> tuple[nn.Module, History]:
    """Train a copy of the raw network F, or go on with an interrupted call's checkpoint, as `lab.models.training.fit`.

    Args:
        transform: (pictures, generator, probability) -> augmented pictures and labels, where the recipe augments.

    Returns:
        The averaged F, and (pictures seen, mean loss since the entry before) about 50 times.
    """
    recipe.check()
    recipe = recipe.resolved()
    if recipe.augment and "augment_labels" not in inspect.signature(network.forward).parameters:
        raise ValueError(
            f"augment = {recipe.augment} needs a network that takes augment_labels, such as AugmentedUNet: "
            "untold, it would draw augmented pictures"
        )

    def loss(network: nn.Module, *example: Tensor) -> Tensor:
        y, sigma, eps, conditions, labels = example
        return objective(network, y, sigma, eps, conditions, labels, recipe)

    description = {"training": "EDM's", "version": VERSION, "recipe": dataclasses.asdict(recipe)}

    def example(step: int) -> tuple[Tensor, ...]:
        return _example(draw, recipe, step, transform)

    return loop.train(network, example, loss, recipe, scratch, description, note=note)


@torch.no_grad()
def loss_curve(
    denoiser: Callable[..., Tensor], y: Tensor, eps: Tensor, sigmas: Sequence[float], sigma_data: float = 0.5, **kw: Any
) -> Tensor:
    """(len(sigmas), B): EDM's loss lambda |D - y|^2, a mean over pixels, of each picture at each level (Figure 5a).

    Args:
        denoiser: (x, sigma (B,), **kw) -> D.
        y, eps: (B, C, H, W), held-out pictures and unit noise.
    """
    rows = []
    for sigma in sigmas:
        level = torch.full((len(y),), sigma, dtype=torch.float64)
        error = (denoiser(y + sigma * eps, level, **kw) - y).double() ** 2
        rows.append((sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2 * error.flatten(1).mean(1))
    return torch.stack(rows)


def _example(
    draw: Draw, recipe: EDMRecipe, step: int, transform: Callable[..., tuple[Tensor, Tensor]] = augment
) -> tuple[Tensor, ...]:
    """Pictures, levels, noise, conditions and augmentation labels of a step, from (seed, step); seeds torch, too."""
    g = generator(recipe.seed, step)
    y, conditions = draw(recipe.batch, g)
    labels = torch.zeros(len(y), LABELS)
    if recipe.augment:
        y, labels = transform(y, g, recipe.augment)
    sigma = recipe.column(recipe.loss).p_train(recipe.batch, g)
    eps = torch.randn(y.shape, generator=g)
    seed_dropout(g)
    return y, sigma, eps, conditions, labels
