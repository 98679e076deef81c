"""EDM's objective by hand, its loss at the start in closed form, its ramps, and a training that was interrupted."""

import dataclasses
import itertools
import math

import pytest
import torch
from interrupted import Interrupted, draw, interrupted_after, same, seeded
from torch import nn

from lab.models import edm_training
from lab.models.augment import LABELS
from lab.models.edm_training import AugmentedUNet, EDMRecipe, _example, fit, loss_curve, objective, set_dropout
from lab.models.network import ConditionalUNet
from zsnr import edm

COLUMNS = ("vp", "ve", "iddpm", "edm")
SIGMAS = (0.002, 0.05, 0.59, 3.0, 80.0)


def unet(seed: int = 0) -> AugmentedUNet:
    torch.manual_seed(seed)
    return AugmentedUNet((16,))


class Affine(nn.Module):
    """F = x / 2 + c_noise / 100 + 0.3; remembers what it was given besides."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[dict] = []

    def forward(self, x, c_noise, **kwargs):
        self.given.append(kwargs)
        return x / 2 + c_noise.view(-1, 1, 1, 1).to(x) / 100 + 0.3


# objective


@pytest.mark.parametrize(("precondition", "loss"), itertools.product(COLUMNS, COLUMNS))
def test_the_objective_by_hand(precondition, loss):
    """Table 1 written out once more, number by number."""
    d, levels = 0.59, [0.05, 0.7, 12.0]
    y, eps = seeded(3, 1, 2, 2, dtype=torch.float64), seeded(3, 1, 2, 2, seed=1, dtype=torch.float64)
    recipe = EDMRecipe(precondition=precondition, loss=loss, sigma_data=d)
    value = objective(
        Affine(), y, torch.tensor(levels, dtype=torch.float64), eps, torch.zeros(3, 2), torch.zeros(3, LABELS), recipe
    )
    u, losses = edm.iddpm_levels().tolist(), []
    for i, s in enumerate(levels):
        root = math.sqrt(s * s + d * d)
        time = (math.sqrt(0.1**2 + 2 * 19.9 * math.log(1 + s * s)) - 0.1) / 19.9
        c_skip, c_out, c_in, c_noise = {
            "vp": (1, -s, 1 / math.sqrt(s * s + 1), 999 * time),
            "ve": (1, s, 1, math.log(s / 2)),
            "iddpm": (1, -s, 1 / math.sqrt(s * s + 1), 999 - min(range(1000), key=lambda j, s=s: abs(u[j] - s))),
            "edm": (d * d / (s * s + d * d), s * d / root, 1 / root, math.log(s) / 4),
        }[precondition]
        weight = (s * s + d * d) / (s * d) ** 2 if loss == "edm" else 1 / s**2
        for clean, noise in zip(y[i].flatten().tolist(), eps[i].flatten().tolist(), strict=True):
            x = clean + s * noise
            D = c_skip * x + c_out * (c_in * x / 2 + c_noise / 100 + 0.3)
            losses.append(weight * (D - clean) ** 2)
    assert value.item() == pytest.approx(sum(losses) / len(losses), rel=1e-12)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("weights", ["edm", "vp"])
def test_the_loss_at_the_start(weights, sigma):
    """1 at every level with EDM's weight (E); sigma_data^2 / (sigma^2 + sigma_data^2) with 1 / sigma^2 (D)."""
    d, n = 0.59, 64
    y, eps, levels = d * seeded(n, 1, 8, 8), seeded(n, 1, 8, 8, seed=1), torch.full((n,), sigma, dtype=torch.float64)
    recipe = EDMRecipe(loss=weights, sigma_data=d)
    conditions = torch.zeros(n, 2, dtype=torch.long)
    value = objective(unet(), y, levels, eps, conditions, torch.zeros(n, LABELS), recipe).item()
    expected = 1 if weights == "edm" else d**2 / (sigma**2 + d**2)
    # the error of each number is Gaussian, so that the loss is a mean of chi^2 of one degree, of variance 2
    assert value == pytest.approx(expected, rel=4 * math.sqrt(2 / y.numel()))


@pytest.mark.parametrize("probability", [0.0, 0.2])
def test_labels_of_the_augmentation_are_passed_on_only_where_there_is_one(probability):
    net, labels, conditions = Affine(), seeded(2, LABELS), torch.tensor([[1, 2], [3, 4]])
    levels = torch.ones(2, dtype=torch.float64)
    objective(
        net,
        seeded(2, 1, 2, 2),
        levels,
        seeded(2, 1, 2, 2, seed=1),
        conditions,
        labels,
        EDMRecipe(augment=probability),
    )
    (given,) = net.given
    assert torch.equal(given["class_labels"], conditions)
    assert set(given) == ({"class_labels", "augment_labels"} if probability else {"class_labels"})
    assert not probability or torch.equal(given["augment_labels"], labels)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_precision_is_that_of_the_network_only(precision):
    seen = []

    class Watched(Affine):
        def forward(self, x, c_noise, **kwargs):
            seen.append((torch.is_autocast_enabled(x.device.type), x.dtype))
            return super().forward(x, c_noise, **kwargs)

    y, one = seeded(2, 1, 2, 2), torch.ones(2, dtype=torch.float64)
    value = objective(Watched(), y, one, y, None, None, EDMRecipe(precision=precision))
    assert seen == [(precision == "bf16", torch.float32)]
    assert value.dtype == torch.float32


def test_the_loss_curve_is_the_objective_picture_by_picture():
    d, n = 0.59, 6
    y, eps, conditions = seeded(n, 1, 4, 4), seeded(n, 1, 4, 4, seed=1), torch.zeros(n, 2)
    recipe = EDMRecipe(sigma_data=d)
    denoiser = edm.Preconditioned(Affine(), recipe.column("edm"))
    curve = loss_curve(denoiser, y, eps, SIGMAS, d, class_labels=conditions)
    assert curve.shape == (len(SIGMAS), n)
    for row, sigma in zip(curve, SIGMAS, strict=True):
        for i in range(n):
            one, level = slice(i, i + 1), torch.full((1,), sigma, dtype=torch.float64)
            value = objective(Affine(), y[one], level, eps[one], conditions[one], None, recipe)
            # float32: D is sigma^2 times as exact as sigma's own size
            assert row[i].item() == pytest.approx(value.item(), rel=1e-3)
    nothing = loss_curve(lambda x, sigma: y, y, eps, SIGMAS, d)
    assert torch.equal(nothing, torch.zeros_like(nothing))


# the network


def test_not_told_of_augmentation_it_is_a_conditional_unet():
    net = unet()
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(weight.numel()))
    plain = ConditionalUNet(widths=(16,))
    missing, unexpected = plain.load_state_dict(net.state_dict(), strict=False)
    assert (missing, unexpected) == ([], ["embed_augment.weight"])
    x, step, conditions = seeded(3, 1, 8, 8), torch.tensor([-1.5, 0.0, 1.1]), torch.tensor([[0, 5], [9, 2], [10, 5]])
    with torch.no_grad():
        out = plain(x, step, conditions)
        assert torch.equal(net(x, step, conditions), out)
        assert torch.equal(net(x, step, conditions, torch.zeros(3, LABELS)), out), "zeros are an untouched picture"
        for k in range(LABELS):
            labels = torch.zeros(3, LABELS)
            labels[1, k] = 1
            changed = (net(x, step, conditions, labels) != out).flatten(1).any(1)
            assert changed.tolist() == [False, True, False], f"label {k} reaches its own picture"


def test_dropout_is_set_everywhere():
    net = unet()
    layers = [m for m in net.modules() if isinstance(m, nn.Dropout)]
    set_dropout(net, 0.13)
    assert len(layers) > 2
    assert {m.p for m in layers} == {0.13}


# the recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precondition": "cosine"}, "'cosine' of EDM's Table 1; choose one of"),
        ({"loss": "cosine"}, "'cosine' of EDM's Table 1; choose one of"),
        ({"sigma_data": 0.0}, r"sigma_data = 0\.0: must be above 0"),
        ({"P_std": -1.2}, r"P_std = -1\.2: must be above 0"),
        ({"images": 0}, "images = 0: must be above 0"),
        ({"batch": -1}, "batch = -1: must be above 0"),
        ({"lr": math.nan}, "lr = nan: must be a finite number"),
        ({"ema_halflife": 0}, "ema_halflife = 0: must be above 0"),
        ({"ema_rampup": 0.0}, r"ema_rampup = 0\.0: must be above 0"),
        ({"warmup": -1}, "warmup = -1: must not be negative"),
        ({"clip": -1.0}, r"clip = -1\.0: must not be negative"),
        ({"augment": 1.1}, r"augment = 1\.1: a probability"),
        ({"augment": -0.1}, r"augment = -0\.1: a probability"),
        ({"precision": "float16"}, "'float16'; choose auto or float32 or bf16"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused_before_any_work(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(unet(), lambda *_: pytest.fail("drew"), EDMRecipe(**change), tmp_path)


def test_the_learning_rate_rises_and_stays():
    lr = EDMRecipe(batch=10, lr=2e-3, warmup=100, images=5000).rate
    assert [lr(step) for step in (0, 4, 8, 9, 10, 499)] == pytest.approx([2e-4, 1e-3, 1.8e-3, 2e-3, 2e-3, 2e-3])
    lr = EDMRecipe(batch=10, lr=2e-3, warmup=0).rate
    assert [lr(0), lr(1)] == [2e-3, 2e-3]


def test_the_average_is_over_a_share_of_what_was_seen_until_that_is_the_half_life():
    ema = EDMRecipe(batch=10, ema_halflife=500, ema_rampup=0.05).decay
    # half-lives in steps of 10 pictures: 5 % of the steps, at most 50
    halflives = {1: 0.05, 2: 0.1, 20: 1.0, 100: 5.0, 999: 49.95, 1000: 50.0, 1001: 50.0, 10_000: 50.0}
    for step, halflife in halflives.items():
        assert ema(step) ** halflife == pytest.approx(0.5, rel=1e-9)


def test_the_recipe_reaches_the_loop(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(edm_training.loop, "train", lambda *arguments, **options: given.append(arguments))
    recipe = EDMRecipe(images=700, batch=35, clip=1.0)
    fit(unet(), draw, recipe, tmp_path)
    assert given[0][3] is recipe
    assert given[0][5]["recipe"] == dataclasses.asdict(recipe)
    assert EDMRecipe().clip == 0.0


def test_levels_are_drawn_from_the_losss_column_and_not_from_the_preconditionings():
    recipe = EDMRecipe(batch=4000, precondition="vp", loss="edm", P_mean=-0.4, P_std=0.7)
    few = lambda n, g: (torch.zeros(n, 1, 1, 1), torch.zeros(n, 2))  # noqa: E731
    log = _example(few, recipe, 0)[1].log()
    assert log.mean().item() == pytest.approx(-0.4, abs=4 * 0.7 / math.sqrt(4000))
    assert log.std().item() == pytest.approx(0.7, rel=4 / math.sqrt(8000))
    sigma = _example(few, EDMRecipe(batch=4000, precondition="edm", loss="vp"), 0)[1]
    # VP: sigma > 10 where B(t) > ln 101, t > .676
    t = (math.sqrt(0.01 + 2 * 19.9 * math.log(101)) - 0.1) / 19.9
    assert (sigma > 10).double().mean().item() == pytest.approx(1 - t, abs=4 * math.sqrt(0.25 / 4000))


def test_an_example_depends_on_seed_and_step_and_is_augmented_where_it_should_be():
    plain, always = EDMRecipe(batch=8), EDMRecipe(batch=8, augment=1.0)
    one, again = _example(draw, plain, 3), _example(draw, plain, 3)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    for other in (_example(draw, plain, 4), _example(draw, dataclasses.replace(plain, seed=1), 3)):
        assert not any(torch.equal(one[k], other[k]) for k in (0, 1, 2))
    y, sigma, eps, _, labels = one
    assert torch.equal(labels, torch.zeros(8, LABELS))
    assert (y.shape, sigma.shape, eps.shape) == ((8, 1, 8, 8), (8,), (8, 1, 8, 8))
    assert sigma.dtype == torch.float64
    augmented = _example(draw, always, 3)
    assert (augmented[4] != 0).any(1).all()
    assert not torch.equal(augmented[0], y)


# interruptions


RECIPE = EDMRecipe(images=48, batch=4, lr=1e-2, warmup=8, ema_halflife=16, augment=0.5, clip=1.0)


def start() -> AugmentedUNet:
    net = unet()
    set_dropout(net, 0.2)
    return net


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return fit(start(), draw, RECIPE, tmp_path_factory.mktemp("uninterrupted"))


@pytest.mark.parametrize("stops", [[1], [7], [3, 2, 4]], ids=str)
def test_an_interrupted_training_ends_as_one_that_was_not(stops, uninterrupted, saving_always, tmp_path):
    for steps in stops:
        with pytest.raises(Interrupted):
            fit(start(), interrupted_after(steps), RECIPE, tmp_path)
    average, history = fit(start(), interrupted_after(12 - sum(stops)), RECIPE, tmp_path)
    assert same(average, uninterrupted[0])
    assert history == uninterrupted[1]


def test_a_checkpoint_belongs_to_its_recipe(uninterrupted, tmp_path):
    drawn = []
    counted = lambda n, g: drawn.append(n) or draw(n, g)  # noqa: E731
    for recipe, steps in ((RECIPE, 12), (RECIPE, 0), (dataclasses.replace(RECIPE, lr=2e-2), 12)):
        drawn.clear()
        fit(start(), counted, recipe, tmp_path)
        assert len(drawn) - 1 == steps
