"""The mean over the backdrop's levels in a training's target: by the exact denoiser, by quadrature, as an average."""

import itertools
import math

import pytest
import torch
from interrupted import seeded

from lab.measure.draw import exact_by_class
from lab.models import data, training
from lab.models.backdrop import UniformBackdrop
from lab.models.level_mean import level_mean
from lab.models.training import ScheduleRecipe, objective
from zsnr import Schedule
from zsnr.finetune.loop import generator
from zsnr.prediction import PREDICTIONS
from zsnr.schedule import rescale_zero_terminal_snr, stable_diffusion

RIGHT, ANY = math.pi / 2, len(data.WORDS)
FEW = Schedule(torch.tensor([0.96, 0.6, 0.28], dtype=torch.float64))  # cos; the sines are .28, .8, .96
N = 6


def parts(n: int = N, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Foregrounds of 8x8 and the share of the backdrop, which is alone on the frame that the level is read from."""
    inside = torch.zeros(8, 8)
    inside[2:-2, 2:-2] = 1
    share = 1 - inside * torch.rand(n, 1, 8, 8, generator=generator(0))
    return inside * torch.randn(n, channels, 8, 8, generator=generator(1)) / 2, share


def pictures(word: torch.Tensor, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x0 = a + c b with levels that the words mean, a, and b."""
    a, b = parts(len(word), channels)
    low, high = data.bounds(word)
    level = low + (high - low) * torch.rand(len(word), generator=generator(2))
    return a + level.view(-1, 1, 1, 1) * b, a, b


def test_words_bound_their_fifths_and_the_one_after_the_last_nothing():
    low, high = data.bounds(torch.tensor([0, 2, 4, 5]))
    torch.testing.assert_close(low, torch.tensor([-1, -0.2, 0.6, -1]))
    torch.testing.assert_close(high, torch.tensor([-0.6, 0.2, 1, 1]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("phi", [0.03, 0.5, 1.2, math.atan(90), math.atan(3000), RIGHT])
def test_it_is_the_exact_denoiser_of_that_one_picture(phi, channels):
    word = torch.tensor([0, 1, 3, 4, ANY, ANY])
    x0, a, b = pictures(word, channels)
    c, s = (0.0, 1.0) if phi == RIGHT else (math.cos(phi), math.sin(phi))
    eps = seeded(*x0.shape, seed=3)
    found = level_mean(x0, eps, torch.full((N,), c, dtype=torch.float64), b, word)
    for i, (low, high) in enumerate(zip(*data.bounds(word), strict=True)):
        alone = UniformBackdrop(a[i : i + 1], b[i : i + 1], low.item(), high.item())
        x = c * x0[i : i + 1].double() + s * eps[i : i + 1].double()
        torch.testing.assert_close(found[i : i + 1].double(), c * x - s * alone(x, phi), rtol=0, atol=1e-5)


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0])
def test_it_knows_offset_noise(strength):
    word = torch.tensor([1, 4, ANY, ANY])
    x0, a, b = pictures(word, channels=2)
    eps = (seeded(*x0.shape, seed=4) + strength * seeded(len(word), 2, 1, 1, seed=5)).double()
    c, s = math.cos(1.45), math.sin(1.45)
    found = level_mean(x0, eps, torch.full((len(word),), c), b, word, strength)
    precision = (torch.eye(64, dtype=torch.float64) + strength**2).inverse()
    for i, (low, high) in enumerate(zip(*data.bounds(word), strict=True)):
        levels = low.double() + (high - low).double() * (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
        y = a[i].double() + levels.view(-1, 1, 1, 1) * b[i].double()
        away = (c * x0[i].double() + s * eps[i] - c * y).flatten(2) / s
        weight = (-(away @ precision * away).sum((1, 2)) / 2).softmax(0)
        torch.testing.assert_close(found[i].double(), (weight.view(-1, 1, 1, 1) * y).sum(0), rtol=0, atol=1e-4)


def test_a_picture_that_fills_the_frame_is_its_own_mean():
    x0 = seeded(3, 1, 8, 8)
    nothing, alpha, word = torch.zeros(3, 1, 8, 8), torch.tensor([0.0, 0.5, 1.0]), torch.full((3,), ANY)
    found = level_mean(x0, seeded(3, 1, 8, 8, seed=1), alpha, nothing, word)
    assert torch.equal(found, x0)


def test_on_average_over_what_looks_the_same_it_is_x0():
    """E[x0 - mean | x_t] = 0: nothing in x_t tells by how much x0 exceeds its mean, so a network learns the same."""
    n, c, s = 40_000, math.cos(1.4), math.sin(1.4)
    a, b = (part[:1].expand(n, 1, 8, 8) for part in parts())
    level = 2 * torch.rand(n, generator=generator(6)) - 1
    x0, eps = a + level.view(-1, 1, 1, 1) * b, torch.randn(n, 1, 8, 8, generator=generator(7))
    mean = level_mean(x0, eps, torch.full((n,), c), b, torch.full((n,), ANY))
    excess, seen = data.level(x0 - mean), ((c * x0 + s * eps - c * a) * b).sum((1, 2, 3))
    assert data.level(mean).std() < 0.8 * level.std(), "and yet is another thing"
    for part in torch.argsort(seen).chunk(10):
        assert abs(excess[part].mean()) < 4 * excess[part].std() / math.sqrt(len(part))


# in a training


@pytest.mark.parametrize(("loss", "prediction"), itertools.product(["", "v"], PREDICTIONS))
def test_the_target_is_the_means_and_the_input_is_not(loss, prediction):
    x0, eps, mean, t = (*(seeded(3, 1, 2, 2, seed=k) for k in range(3)), torch.tensor([2, 0, 1]))
    seen = []

    def network(x, step, class_labels):
        seen.append(x)
        return torch.zeros_like(x)

    value = objective(network, x0, eps, t, None, FEW, ScheduleRecipe(prediction, loss), mean)
    errors = []
    for i, (c, s) in enumerate([(0.28, 0.96), (0.96, 0.28), (0.6, 0.8)]):
        x = c * x0[i] + s * eps[i]
        torch.testing.assert_close(seen[0][i], x)
        noise = (x - c * mean[i]) / s
        wanted = {"eps": noise, "x0": mean[i], "v": c * noise - s * mean[i]}[prediction]
        as_v = {"eps": 1 / c, "x0": 1 / s, "v": 1}[prediction] if loss else 1
        errors.append((as_v * wanted).square().mean())
    torch.testing.assert_close(value, torch.stack(errors).mean())


def test_a_draw_that_tells_the_backdrop_is_averaged_and_another_is_not(tmp_path):
    word = torch.tensor([0, 2, ANY, ANY])
    x0, _, b = pictures(word)
    conditions, schedule = torch.stack([torch.zeros_like(word), word], 1), rescale_zero_terminal_snr(stable_diffusion())
    recipe = ScheduleRecipe("v", images=4, batch=4, offset_noise=0.3)
    *plain, mean = training._example(lambda n, g: (x0, conditions, b), schedule, recipe, 0)
    again = training._example(lambda n, g: (x0, conditions), schedule, recipe, 0)
    assert all(torch.equal(x, y) for x, y in zip(plain, again, strict=True))
    _, eps, t, _ = again
    assert torch.equal(mean, level_mean(x0, eps, schedule.sqrt_alpha_bar[t], b, word, 0.3))
    _, history = training.fit(_Zero(), lambda n, g: (x0, conditions, b), schedule, recipe, tmp_path)
    assert history[0][1] == pytest.approx(objective(_Zero(), *plain, schedule, recipe, mean).item(), rel=1e-5)


class _Zero(torch.nn.Module):
    """Answers 0, and could learn."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, step, class_labels):
        return self.w * x


# the exact denoiser of each class


def test_each_seed_is_answered_by_the_denoiser_of_its_class():
    denoisers = [lambda x, phi, k=k: torch.full_like(x, k) + phi for k in range(3)]
    answered = exact_by_class(denoisers)(range(4, 9), "cpu")(torch.zeros(5, 1, 2, 2), 0.25)
    assert answered[:, 0, 0, 0].tolist() == [1.25, 2.25, 0.25, 1.25, 2.25]


def test_a_denoiser_of_each_class_knows_its_pictures_alone():
    images = data.Images(
        torch.arange(20).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4),
        torch.full((20, 1, 4, 4), 100, dtype=torch.uint8),
        torch.arange(20) % 2,
        ("even", "odd"),
    )
    # on a backdrop of level 0, 127.5 b above what the picture is on black
    shown = [((d.a + 1 - d.b)[:, 0] * 127.5).round().int() for d in UniformBackdrop.by_class(images, 6, generator(0))]
    assert [len(values.unique()) for values in shown] == [3, 3]
    assert [(values % 2).unique().tolist() for values in shown] == [[0], [1]]
    full = data.Images(images.image, images.matte.clone(), images.label, images.classes)
    full.matte[1::2] = 255
    assert UniformBackdrop.by_class(full, 6, generator(0)) == []
