"""The rungs against the rows of Tables 2 and 7, drawing, and what trained networks are asked, in closed form."""

import dataclasses
import math
from functools import partial

import pytest
import torch
from interrupted import seeded as normal
from torch import nn

from lab.measure import sweep
from lab.measure.draw import draw, preconditioned
from lab.measure.metrics import interval
from lab.models import digits, network
from lab.models.edm_training import EDMRecipe
from lab.models.ladder import CONFIGS, Rung, configuration, rungs, train
from zsnr import edm
from zsnr.denoisers import Gaussian
from zsnr.grids import karras
from zsnr.noise import generators, randn
from zsnr.path import EDM
from zsnr.samplers import churn, heun

F = EDMRecipe(images=45_000, batch=64, lr=1e-3, warmup=2250, ema_halflife=5000, augment=0.12, seed=3)


seeded = partial(normal, dtype=torch.float64)


# rungs


def rung(name: str, seed: int = 3, **options) -> Rung:
    return Rung(name, seed, **options)


def described(of: Rung) -> dict:
    """A rung in numbers: its recipe, and its network's widths and dropout."""
    recipe, net = configuration(of, F, 32)
    (dropout,) = {m.p for m in net.modules() if isinstance(m, nn.Dropout)}
    return dataclasses.asdict(recipe) | {"widths": net.config["widths"], "dropout": dropout}


def changed(before: Rung, after: Rung) -> dict:
    a, b = described(before), described(after)
    return {k: (a[k], b[k]) for k in a if a[k] != b[k]}


def test_each_rung_changes_what_table_2_says_and_nothing_else():
    changes = {
        # Table 7: batch 128 -> 512, rate 2 -> 10, ramp .64 -> 10, half-life .89 -> .5, dropout 10 -> 13 %, no clipping
        "AB": {
            "batch": (16, 64),
            "lr": (2e-4, 1e-3),
            "warmup": (144, 2250),
            "ema_halflife": (8900, 5000),
            "clip": (1.0, 0.0),
            "dropout": (0.10, 0.13),
        },
        "BC": {"widths": ([16, 32, 64], [32, 64])},
        "CD": {"precondition": ("vp", "edm")},
        "DE": {"loss": ("vp", "edm")},
        "EF": {"augment": (0.0, 0.12)},
    }
    for (before, after), expected in changes.items():
        assert changed(rung(before), rung(after)) == expected, f"{before} to {after}"
    assert configuration(rung("F"), F, 32)[0] == F
    for found in rungs([3]):
        configuration(found, F, 32)[0].check()


def test_ve_differs_where_its_column_of_table_1_does():
    assert changed(rung("C"), rung("C", column="ve")) == {"precondition": ("vp", "ve"), "loss": ("vp", "ve")}
    assert changed(rung("C", column="ve"), rung("D", column="ve"))["precondition"] == ("ve", "edm")
    assert not changed(rung("E"), rung("E", column="ve"))


def test_the_ladder_has_every_rung_for_every_seed():
    found = rungs([0, 4])
    assert len(found) == len(set(found)) == 2 * (6 + 2 + 6)
    assert [r.config for r in found if r.seed == 4 and (r.column, r.always, r.part) == ("vp", False, 1)] == [*CONFIGS]
    assert [r.seed for r in found if r.always] == [0, 4], "so that the leak has an interval"
    assert changed(rung("F"), rung("F", always=True)) == {"augment": (0.12, 1.0)}
    assert changed(rung("E"), rung("E", part=9)) == {"images": (45_000, 5_000)}
    assert len({str(r) for r in found}) == 14, "a folder each, below the seed's"


def test_networks_are_small_and_start_alike():
    weights = {name: configuration(rung(name), F, 16)[1].state_dict() for name in CONFIGS}
    for name, state in weights.items():
        assert 50_000 < sum(w.numel() for w in state.values()) <= 200_000, name
    for name in "DEF":
        assert all(torch.equal(a, b) for a, b in zip(weights["C"].values(), weights[name].values(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights["A"].values(), weights["B"].values(), strict=True))
    other = configuration(rung("C", seed=4), F, 16)[1].state_dict()
    assert not torch.equal(other["embed_class.weight"], weights["C"]["embed_class.weight"])


@pytest.mark.parametrize("name", ["A", "C"])
def test_the_norm_keeps_what_the_noise_level_adds(name):
    """A group of one channel would lose a number that is added to all its pixels."""
    _, net = configuration(rung(name), F, 16)
    norms = [m for m in net.modules() if isinstance(m, nn.GroupNorm)]
    assert min(norm.num_channels // norm.num_groups for norm in norms) >= 4
    block = net.unet.down_blocks[0].resnets[0].eval()
    x, embedding = seeded(1, net.config["widths"][0], 4, 4).float(), seeded(2, 4 * net.config["widths"][0], seed=1)
    first, second = (block(x, e[None].float()) for e in embedding)
    assert (first - second).std() > 0.05 * first.std()


def test_groups_leave_other_networks_as_they_are():
    assert "groups" not in network.ConditionalUNet(widths=(16, 32)).config
    found = network.ConditionalUNet(widths=(16, 32), groups=4)
    assert network.ConditionalUNet(**found.config).unet.config["norm_num_groups"] == 4


def test_an_unknown_rung_is_refused():
    with pytest.raises(ValueError, match="'G' of EDM's Table 2; choose one of A, B, C, D, E, F"):
        configuration(rung("G"), F, 32)


def test_a_shorter_training_is_how_a_longer_one_begins(tmp_path):
    """So that lengths are lengths of one training, and nothing else."""
    pictures, _ = digits.load()
    short = dataclasses.replace(F, images=288, batch=32)
    histories = [train(rung("F", part=part), short, 8, pictures, tmp_path)[1] for part in (1, 3)]
    assert histories[1] == histories[0][: len(histories[1])]
    assert len(histories[1]) == 3


# drawing


class Small(nn.Module):
    """A quick F that looks at everything, and remembers its conditions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = {"classes": 4, "words": 5, "channels": 1}
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.asked: list[torch.Tensor] = []

    def forward(self, x, c_noise, class_labels):
        self.asked.append(class_labels)
        shift = c_noise + class_labels[:, 0] / 4
        return torch.tanh(self.conv(x)) + shift.view(-1, 1, 1, 1).to(x)


def small() -> edm.Preconditioned:
    return edm.Preconditioned(Small(), edm.column("edm"))


@pytest.mark.parametrize("sampler", [heun, partial(churn, S_churn=2.0)], ids=["heun", "churn"])
def test_a_picture_does_not_depend_on_its_batch(sampler):
    drawn = partial(draw, preconditioned(small()), sampler, karras(3), shape=(1, 32, 32), path=EDM)
    whole = drawn(range(70))  # in batches of 64 and 6
    assert whole.shape == (70, 1, 32, 32)
    for first, n in ((60, 10), (64, 6), (5, 1)):
        part = drawn(range(first, first + n))
        torch.testing.assert_close(part, whole[first : first + n], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole[0], whole[4], atol=0.1), "of the same class, from another noise"


def test_classes_come_in_turn_without_a_word():
    model = small()
    draw(preconditioned(model), heun, karras(2), range(3, 69), (1, 32, 32), path=EDM)
    asked = model.network.asked
    assert len(asked) == 2 * 3, "3 evaluations for each of 2 batches"
    seeds = torch.arange(3, 69)
    together = torch.cat([asked[0], asked[3]])
    assert torch.equal(together, torch.stack([seeds % 4, torch.full_like(seeds, 5)], 1))


def test_drawing_is_the_sampler_on_the_noise_of_the_seed():
    model, grid = small(), karras(4)
    x = draw(preconditioned(model), heun, grid, range(9, 11), (1, 32, 32), path=EDM)
    noise = randn((2, 1, 32, 32), generators([9, 10]))
    conditions = torch.tensor([[1, 5], [2, 5]])
    expected = heun(edm.EDMDenoiser(model, class_labels=conditions), noise, grid, path=EDM)
    torch.testing.assert_close(x, expected.float())


def test_the_grid_is_edms():
    sigma = torch.tan(karras(18))
    expected = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)] + [0.0]
    torch.testing.assert_close(sigma, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)


# what networks are asked


def linear(matrix: list[list[float]] | torch.Tensor):
    m = torch.as_tensor(matrix, dtype=torch.float64)
    return lambda x: x @ m.T


def test_a_gradient_has_no_asymmetry():
    x, a = seeded(50, 6), seeded(6, 6, seed=1)
    assert sweep.asymmetry(linear(a + a.T), x, 2, torch.Generator().manual_seed(2))[0] < 1e-14
    # softmax is the gradient of logsumexp; its Jacobian changes with x
    assert sweep.asymmetry(lambda x: x.softmax(1), x, 2, torch.Generator().manual_seed(2))[0] < 1e-12


def test_asymmetry_of_known_matrices():
    # a rotation by 90 degrees: J - J^T = 2 J, for every probe
    ratio, error = sweep.asymmetry(linear([[0, 1], [-1, 0]]), seeded(20, 2), 1, torch.Generator().manual_seed(0))
    assert ratio == pytest.approx(2, rel=1e-12)
    assert error == pytest.approx(0, abs=1e-12)
    # J - J^T = [[0, 2], [-2, 0]] of norm sqrt 8, J of norm sqrt 14
    ratio, error = sweep.asymmetry(linear([[1, 2], [0, 3]]), seeded(20_000, 2), 2, torch.Generator().manual_seed(0))
    assert ratio == pytest.approx(math.sqrt(8 / 14), abs=4 * error)
    assert error < 0.01
    # n^2 independent entries: sqrt 2, up to about 1 / n
    a = seeded(100, 100, seed=5)
    truth = ((a - a.T).norm() / a.norm()).item()
    assert truth == pytest.approx(math.sqrt(2), abs=4 / 100)
    ratio, error = sweep.asymmetry(linear(a), seeded(500, 100), 2, torch.Generator().manual_seed(0))
    assert ratio == pytest.approx(truth, abs=4 * error)
    assert error < 0.02


def test_a_network_with_attention_can_be_asked():
    """Its derivative goes both ways, through attention and norms: no kernel without them is taken."""
    torch.manual_seed(0)
    net = network.ConditionalUNet(widths=(8, 16)).eval()
    nn.init.normal_(net.head[-1].weight, std=0.1)
    x, labels = seeded(2, 1, 32, 32).float(), torch.tensor([[1, 5], [2, 5]])
    field = partial(net, step=torch.tensor([500, 500]), class_labels=labels)
    ratio, error = sweep.asymmetry(field, x, 2, torch.Generator().manual_seed(0))
    assert 0 < error < ratio < 1.5


def test_the_error_of_an_asymmetry_is_its_spread():
    x, truth, z = seeded(100, 2), math.sqrt(8 / 14), []
    for seed in range(200):
        ratio, error = sweep.asymmetry(linear([[1, 2], [0, 3]]), x, 1, torch.Generator().manual_seed(seed))
        z.append((ratio - truth) / error)
    assert torch.tensor(z).std().item() == pytest.approx(1, abs=4 / math.sqrt(400) + 0.05)


@pytest.mark.parametrize("groups", [5, 10])
def test_the_jackknife_of_a_mean_is_the_t_interval_of_its_groups_means(groups):
    sample = seeded(50).exp()
    found = sweep.jackknife(lambda x: x.mean().item(), sample, groups)
    means = [part.mean().item() for part in sample.chunk(groups)]
    assert found == pytest.approx(interval(means), rel=1e-9)


def test_the_jackknife_leaves_out_no_whole_class():
    """Pictures come in classes in turn, so a statistic of the classes' balance must not see the groups."""
    classes = torch.arange(200) % 10
    low, high = sweep.jackknife(lambda x: (x == 3).double().mean().item(), classes)
    assert high - low < 1e-9


class OneMode(Gaussian):
    """Data N(0, variance), one number."""

    def __init__(self, variance: float) -> None:
        super().__init__(torch.zeros(1), torch.tensor([variance]))


@pytest.mark.parametrize(
    ("over", "inflation"), [(1 / 4, 0.0058), (1.0, 0.0094), (4.0, 0.0062), (1e4, 0.0), (1e-4, 0.0)]
)
@pytest.mark.parametrize("sigma", [0.3, 3.0])
def test_churning_in_place_keeps_a_gaussian(sigma, over, inflation):
    """x <- a x + b z is read off two runs; its stationary std is the mode's, up to Heun's known truncation error."""
    model = OneMode(over * sigma**2)
    phi = math.atan(sigma)
    one = torch.ones(1, 1, dtype=torch.float64)

    def iterate(x, S_noise):
        """The state after an iteration, from the D that is kept, which is proportional to it."""
        kept = sweep.churn_in_place(model, x, sigma, 1, S_noise, generators([7]), 1)
        assert len(kept) == 2
        return kept[1].item() / (math.cos(phi) * one - math.sin(phi) * model(one, phi)).item()

    z = randn((1, 1), generators([7]), torch.float64).item()
    a, b = iterate(one, 0.0), iterate(0 * one, 1.0) / z
    stationary = b**2 / (1 - a**2)
    truth = math.cos(phi) ** 2 * over * sigma**2 + math.sin(phi) ** 2
    assert math.sqrt(stationary / truth) - 1 == pytest.approx(inflation, abs=6e-5)
    assert iterate(0 * one, 1.007) / z == pytest.approx(1.007 * b, rel=1e-12), "S_noise multiplies the stationary std"


def test_churning_in_place_keeps_what_was_asked_for():
    x = seeded(3, 1)
    kept = sweep.churn_in_place(OneMode(0.5), x, 0.7, 6, 1.0, generators(range(3)), 3)
    assert len(kept) == 3
    phi = math.atan(0.7)
    torch.testing.assert_close(kept[0], math.cos(phi) * x - math.sin(phi) * OneMode(0.5)(x, phi))
    alone = sweep.churn_in_place(OneMode(0.5), x[1:2], 0.7, 6, 1.0, generators([1]), 3)
    torch.testing.assert_close(alone[2], kept[2][1:2])


def test_only_networks_whose_card_says_how_are_preconditioned(tmp_path):
    net = network.ConditionalUNet(widths=(16,))
    network.save(tmp_path / "plain.safetensors", net, seed=0)
    with pytest.raises(ValueError, match=r"plain.safetensors is no preconditioned network: its card has seed"):
        sweep.model(tmp_path / "plain.safetensors")
    network.save(tmp_path / "edm.safetensors", net, precondition="edm", sigma_data=0.59)
    network.save(tmp_path / "vp.safetensors", net, precondition="vp", sigma_data=0.59)
    sigma = torch.tensor([0.59], dtype=torch.float64)
    c_skip = sweep.model(tmp_path / "edm.safetensors").column.precondition(sigma)[0]
    assert c_skip.item() == pytest.approx(0.5), "its own sigma_data"
    found = sweep.model(tmp_path / "vp.safetensors")
    assert found.column.name == "vp"
    assert not found.training
