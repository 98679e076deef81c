"""The objective by hand, the loop against its own recursion, and a killed training against one that was not."""

import dataclasses
import itertools
import math
import os
import re
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from interrupted import Interrupted, draw, interrupted_after, same, seeded
from safetensors.torch import load_file, save_file
from torch import nn

import lab
from lab import ROOT
from lab.models import network, training
from lab.models.network import ConditionalUNet
from lab.models.training import ScheduleRecipe, fit, objective
from zsnr import Schedule
from zsnr.finetune import checkpoint, loop, recipe
from zsnr.prediction import PREDICTIONS
from zsnr.schedule import rescale_zero_terminal_snr, stable_diffusion

SD = stable_diffusion()
ZERO_SNR = rescale_zero_terminal_snr(SD)
FEW = Schedule(torch.tensor([0.96, 0.6, 0.28], dtype=torch.float64))  # cos; the sines are .28, .8, .96


def unet(seed: int = 0) -> ConditionalUNet:
    torch.manual_seed(seed)
    return ConditionalUNet(widths=(16,))


class Scalar(nn.Module):
    """One trainable number, which is its prediction everywhere; remembers what it saw."""

    seen: list  # shared with the copy that is trained

    def __init__(self, w: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))
        self.seen = []

    def __deepcopy__(self, memo):
        copy = Scalar(self.w.item())
        copy.seen = self.seen
        return copy

    def forward(self, x, step, class_labels):
        self.seen.append((x.detach(), step, self.w.item()))
        return self.w.expand_as(x)


# objective


@pytest.mark.parametrize(("loss", "prediction"), itertools.product(["", *PREDICTIONS], PREDICTIONS))
def test_the_objective_by_hand(loss, prediction):
    x0, eps, t = seeded(3, 1, 2, 2), seeded(3, 1, 2, 2, seed=1), torch.tensor([2, 0, 1])
    net = Scalar(0.3)
    value = objective(net, x0, eps, t, torch.zeros(3, 2), FEW, ScheduleRecipe(prediction, loss))
    expected = []
    for i, (c, s) in enumerate([(0.28, 0.96), (0.96, 0.28), (0.6, 0.8)]):
        truth = {"eps": eps[i], "x0": x0[i], "v": c * eps[i] - s * x0[i]}[prediction]
        as_x0 = {"x0": 1.0, "v": s, "eps": s / c}  # what an error of 1 in each makes in x0
        weight = (as_x0[prediction] / as_x0[loss or prediction]) ** 2
        expected.append(weight * (truth - 0.3).square().mean())
        torch.testing.assert_close(net.seen[0][0][i], c * x0[i] + s * eps[i])
    torch.testing.assert_close(value, torch.stack(expected).mean())
    assert torch.equal(net.seen[0][1], t)


@pytest.mark.parametrize("prediction", ["v", "x0"])
@pytest.mark.parametrize("loss", PREDICTIONS)
def test_the_objective_is_finite_at_zero_snr(prediction, loss):
    t = torch.full((3,), 999)
    value = objective(
        Scalar(0.3), seeded(3, 1, 2, 2), seeded(3, 1, 2, 2), t, None, ZERO_SNR, ScheduleRecipe(prediction, loss)
    )
    assert value.isfinite()


def test_the_first_loss_of_the_network_is_that_of_predicting_0():
    x0, eps, t = seeded(64, 1, 8, 8), seeded(64, 1, 8, 8, seed=1), torch.arange(64) * 15
    conditions = torch.zeros(64, 2, dtype=torch.long)
    for seed in (0, 1):
        value = objective(unet(seed), x0, eps, t, conditions, SD, ScheduleRecipe("eps"))
        torch.testing.assert_close(value, eps.square().mean())
        assert value.item() == pytest.approx(1, abs=4 * math.sqrt(2 / eps.numel()))


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.5])
def test_offset_noise_is_shared_by_the_pixels_of_a_channel(strength, tmp_path):
    net, n, pixels = Scalar(), 2000, 64
    blank = lambda n, g: (torch.zeros(n, 2, 8, 8), torch.zeros(n, 2))  # noqa: E731
    fit(net, blank, SD, ScheduleRecipe("eps", images=n, batch=n, offset_noise=strength), tmp_path)
    x, step, _ = net.seen[0]
    eps = x.double() / (1 - SD.alpha_bar[step]).sqrt().view(-1, 1, 1, 1)
    means = eps.mean((2, 3))
    # 1 + strength^2 n times the variance 1 / n of independent noise, e.g. 41.96 for 64x64 and .1 (Z-24)
    assert pixels * means.var().item() == pytest.approx(1 + strength**2 * pixels, rel=0.1)
    assert (eps - means[..., None, None]).var().item() * pixels / (pixels - 1) == pytest.approx(1, rel=0.03)
    correlation = torch.corrcoef(means.T)[0, 1]
    assert correlation.abs() < 0.1, "each channel has its own"
    assert step.min() < 20
    assert step.max() > 980


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_a_shift_above_1_draws_noisy_steps_more_often(shift):
    n, blank = 20_000, lambda n, g: (torch.zeros(n, 1, 1, 1), torch.zeros(n, 2))
    recipe = ScheduleRecipe("v", images=n, batch=n, shift=shift)
    _, eps, t, _ = training._example(blank, ZERO_SNR, recipe, 0)
    for share in (0.1, 0.5, 0.9):  # of t below share T: u = share / (shift - (shift - 1) share)
        expected = share / (shift - (shift - 1) * share)
        assert (t < 1000 * share).double().mean().item() == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(n))
    _, same, uniform, _ = training._example(blank, ZERO_SNR, dataclasses.replace(recipe, shift=1.0), 0)
    assert torch.equal(eps, same), "all else is drawn alike"
    assert torch.equal(t, uniform) == (shift == 1)
    assert 0 <= t.min() < 20
    assert t.max() == 999


# the loop


def test_weights_average_and_history_are_the_recursion_by_hand(tmp_path):
    """AdamW on one number, with warm-up and decay, and the average that forgets its start."""
    values = [math.sin(k) for k in range(120)]
    pictures = iter([0.0, *values])  # a draw before the first step names the checkpoint

    def sine(n, g):
        return torch.full((n, 1, 2, 2), next(pictures)), torch.zeros(n, 2)

    recipe = ScheduleRecipe("x0", images=480, batch=4, lr=0.1, warmup=40, ema_halflife=50)
    net = Scalar(0.5)
    average, history = fit(net, sine, SD, recipe, tmp_path)
    w, ema, m, v, losses = 0.5, 0.5, 0.0, 0.0, []
    for k, y in enumerate(values):
        assert net.seen[k][2] == pytest.approx(w, abs=1e-5)
        losses.append((y - w) ** 2)
        g = -2 * (y - w)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        lr = 0.1 * min(1, (k + 1) * 4 / 40) * (1 - k / 120)
        w -= lr * (m / (1 - 0.9 ** (k + 1))) / (math.sqrt(v / (1 - 0.999 ** (k + 1))) + 1e-8)
        decay = min(0.5 ** (4 / 50), (k + 1) / (k + 11))
        ema = decay * ema + (1 - decay) * w
    assert average.w.item() == pytest.approx(ema, abs=1e-5)
    assert net.w.item() == 0.5, "the caller's network is left as it is"
    assert [seen for seen, _ in history] == list(range(8, 481, 8))
    expected = [(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)]
    assert [loss for _, loss in history] == pytest.approx(expected, abs=1e-5)


def test_the_number_of_pictures_is_rounded_up_to_whole_batches(tmp_path):
    net = Scalar()
    _, history = fit(net, draw, SD, ScheduleRecipe("v", images=9, batch=4), tmp_path)
    assert len(net.seen) == 3
    assert history[-1][0] == 12


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bf16", "auto"])
def test_each_precision_trains_after_the_other(precision, native, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "native_bf16", lambda device: native)
    lower = []

    class Watched(ConditionalUNet):
        def forward(self, x, step, class_labels):
            lower.append(torch.is_autocast_enabled(x.device.type))
            return super().forward(x, step, class_labels)

    fit(Scalar(), draw, SD, ScheduleRecipe("v", images=4, batch=4), tmp_path)
    asked = ScheduleRecipe("v", images=8, batch=4, precision=precision)
    with pytest.warns(UserWarning, match="bf16 on a cpu") if precision == "bf16" and not native else nullcontext():
        average, _ = fit(Watched(widths=(16,)), draw, SD, asked, tmp_path)
    assert lower == [precision == "bf16" or (precision == "auto" and native)] * 2
    assert {w.dtype for w in average.parameters()} == {torch.float32}


def test_a_loss_that_is_no_number_says_what_to_do(tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss is nan after 4 pictures(.|\n)*lower lr"):
        fit(Scalar(math.nan), draw, SD, ScheduleRecipe("v", images=40, batch=4, lr=0.01), tmp_path)


@pytest.mark.parametrize(
    ("change", "schedule", "message"),
    [
        ({"prediction": "eps"}, ZERO_SNR, "predicts v or x0"),
        ({"prediction": "noise"}, SD, "'noise'; choose one of"),
        ({"loss": "noise"}, SD, "'noise'; choose one of"),
        ({"images": 0}, SD, "images = 0"),
        ({"batch": -1}, SD, "batch = -1"),
        ({"lr": 0.0}, SD, "lr = 0.0"),
        ({"lr": math.nan}, SD, "lr = nan"),
        ({"ema_halflife": 0}, SD, "ema_halflife = 0"),
        ({"offset_noise": -0.1}, SD, "offset_noise = -0.1"),
        ({"shift": 0.0}, SD, "shift = 0.0"),
        ({"warmup": -1}, SD, "warmup = -1"),
        ({"precision": "float16"}, SD, "'float16'; choose auto or float32 or bf16"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused_before_any_work(change, schedule, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(Scalar(), lambda *_: pytest.fail("drew"), schedule, ScheduleRecipe(**change), tmp_path)


# interruptions


RECIPE = ScheduleRecipe("v", images=48, batch=4, lr=1e-2, warmup=8, ema_halflife=16, offset_noise=0.1)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return fit(unet(), draw, ZERO_SNR, RECIPE, tmp_path_factory.mktemp("uninterrupted"))


@pytest.mark.parametrize("stops", [[1], [7], [11], [3, 2, 4]], ids=str)
def test_an_interrupted_training_ends_as_one_that_was_not(stops, uninterrupted, saving_always, tmp_path, capsys):
    for steps in stops:
        with pytest.raises(Interrupted):
            fit(unet(), interrupted_after(steps), ZERO_SNR, RECIPE, tmp_path)
    left = 12 - sum(stops)
    capsys.readouterr()
    average, history = fit(unet(), interrupted_after(left), ZERO_SNR, RECIPE, tmp_path)
    assert same(average, uninterrupted[0])
    assert history == uninterrupted[1]
    printed = "".join(f"{seen:8d} of 48 pictures, loss {loss:.4f}\n" for seen, loss in history[4::5])
    assert capsys.readouterr().out == printed, "an executed notebook tells of the kill"


def test_half_a_checkpoint_is_not_taken_for_one(uninterrupted, saving_always, monkeypatch, tmp_path):
    """A kill while it is written leaves part of a temporary file, and the checkpoint before."""
    count = itertools.count()

    def killed(tensors, path, metadata):
        save_file(tensors, path, metadata)
        if next(count) == 4:
            Path(path).write_bytes(Path(path).read_bytes()[:1000])
            raise Interrupted

    monkeypatch.setattr(checkpoint, "save_file", killed)
    with pytest.raises(Interrupted):
        fit(unet(), draw, ZERO_SNR, RECIPE, tmp_path)
    assert len(list(tmp_path.rglob("*.tmp"))) == 1
    average, history = fit(unet(), interrupted_after(8), ZERO_SNR, RECIPE, tmp_path)
    assert same(average, uninterrupted[0])
    assert history == uninterrupted[1]


@pytest.mark.parametrize("change", ["recipe", "schedule", "weights", "pictures", "nothing"])
def test_a_checkpoint_belongs_to_what_it_was_made_from(change, saving_always, tmp_path):
    with pytest.raises(Interrupted):
        fit(unet(), interrupted_after(5), ZERO_SNR, RECIPE, tmp_path)
    net = unet(1 if change == "weights" else 0)
    schedule = SD if change == "schedule" else ZERO_SNR
    recipe = dataclasses.replace(RECIPE, lr=2e-2) if change == "recipe" else RECIPE
    drawn = []

    def counted(n, g):
        drawn.append(n)
        x, conditions = draw(n, g)
        return (-x if change == "pictures" else x), conditions

    fit(net, counted, schedule, recipe, tmp_path)
    assert len(drawn) - 1 == (7 if change == "nothing" else 12)


def test_a_trained_network_can_be_trained_on(uninterrupted, tmp_path):
    trained, _ = fit(uninterrupted[0], draw, ZERO_SNR, RECIPE, tmp_path)
    assert not same(trained, uninterrupted[0])


def test_a_finished_training_is_there_at_once(uninterrupted, tmp_path, capsys):
    fit(unet(), draw, ZERO_SNR, RECIPE, tmp_path)
    (path,) = tmp_path.rglob("checkpoint.safetensors")
    assert {name.partition(".")[0] for name in load_file(path)} == {"average"}, "no optimizer, no other weights"
    printed = capsys.readouterr().out
    average, history = fit(unet(), interrupted_after(0), ZERO_SNR, RECIPE, tmp_path, note="trained again")
    assert same(average, uninterrupted[0])
    assert history == uninterrupted[1]
    assert capsys.readouterr() == ("", "")
    fit(unet(), interrupted_after(0), ZERO_SNR, RECIPE, tmp_path)
    assert capsys.readouterr().out == printed
    fit(unet(), draw, ZERO_SNR, RECIPE, tmp_path / "other", note="trained again")
    assert capsys.readouterr().err == "trained again\n"


def test_a_checkpoint_that_is_not_used_is_named_with_the_reason(saving_always, monkeypatch, tmp_path, capsys):
    fit(unet(), draw, ZERO_SNR, RECIPE, tmp_path)
    fit(unet(), draw, ZERO_SNR, dataclasses.replace(RECIPE, lr=0.5), tmp_path)
    assert re.search(r"the checkpoint \w+ is not used: recipe.lr was [\d.e-]+, is 0.5\n", capsys.readouterr().err)
    monkeypatch.setattr(training, "VERSION", 2)
    fit(unet(), draw, ZERO_SNR, RECIPE, tmp_path)
    assert "is not used: version was 1, is 2" in capsys.readouterr().err
    for path in tmp_path.rglob("checkpoint.safetensors"):
        path.write_bytes(b"half of it")
    fit(unet(), draw, ZERO_SNR, RECIPE, tmp_path)
    assert capsys.readouterr().err.count("it cannot be read") == 3


def test_clean_removes_the_checkpoints(saving_always, tmp_path):
    fit(unet(), draw, ZERO_SNR, RECIPE, tmp_path / "scratch")
    assert list(tmp_path.rglob("*.safetensors"))
    loop.clean(tmp_path / "scratch")
    loop.clean(tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()


LONG = dataclasses.replace(RECIPE, images=1600)


class Convolutions(nn.Sequential):
    """Quick, so that the training can be long."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(1, 8, 3, 1, 1), nn.SiLU(), nn.Conv2d(8, 1, 3, 1, 1))

    def forward(self, x, step, class_labels):
        return super().forward(x)


def train_slowly(scratch: str) -> None:
    """What the process that is killed runs."""
    clock = itertools.count(0, 100)
    loop.time = type("Clock", (), {"monotonic": staticmethod(lambda: float(next(clock)))})

    def slow(n, g):
        time.sleep(0.05)
        return draw(n, g)

    fit(Convolutions(), slow, ZERO_SNR, LONG, scratch)


def test_kill_9_at_any_moment_changes_nothing(tmp_path):
    code = f"import test_training as t; t.torch.set_num_threads({torch.get_num_threads()}); t.train_slowly('killed')"
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | paths, stdout=subprocess.DEVNULL
    ) as child:
        while child.poll() is None and not list(tmp_path.rglob("checkpoint.safetensors")):
            time.sleep(0.02)
        time.sleep(0.3)
        child.kill()
    assert child.returncode == -9
    drawn = []
    average, history = fit(
        Convolutions(), lambda n, g: drawn.append(n) or draw(n, g), ZERO_SNR, LONG, tmp_path / "killed"
    )
    assert 1 < len(drawn) < 400
    whole, its_history = fit(Convolutions(), draw, ZERO_SNR, LONG, tmp_path / "whole")
    assert same(average, whole)
    assert history == its_history


# randomness, weights on disk


def test_seeds_are_used_in_full():
    seeds = [(5,), (2**32 + 5,), (6,), (1, 5), (5, 2)]
    first = [torch.rand(1, generator=loop.generator(*seed)).item() for seed in seeds]
    assert len(set(first)) == len(seeds)
    assert torch.rand(1, generator=loop.generator(5)).item() == first[0]


def test_threads_are_set_or_left():
    before = torch.get_num_threads()
    lab.threads(0)
    assert torch.get_num_threads() == before
    lab.threads(before)
    with pytest.raises(ValueError, match="threads = -1"):
        lab.threads(-1)


@pytest.mark.parametrize(("avx512", "amx", "gpu", "chosen"), [
    (False, False, None, "float32"),
    (True, False, None, "bf16"),
    (False, True, None, "bf16"),
    (False, False, True, "bf16"),
    (True, True, False, "float32"),
])  # fmt: skip
def test_auto_is_bf16_where_the_gpu_or_else_the_cpu_has_it(avx512, amx, gpu, chosen, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu or including_emulation)
    assert recipe.chosen_precision("auto") == chosen
    assert recipe.chosen_precision("float32") == "float32"
    with pytest.warns(UserWarning, match="give auto or float32") if chosen == "float32" else nullcontext():
        assert recipe.chosen_precision("bf16") == "bf16"


def test_a_checkpoint_of_auto_is_that_of_the_precision_it_chose(tmp_path, monkeypatch):
    for native in (False, True):
        monkeypatch.setattr(recipe, "native_bf16", lambda device, native=native: native)
        for precision in ("auto", "bf16" if native else "float32"):
            fit(Scalar(), draw, SD, ScheduleRecipe("v", images=4, batch=4, precision=precision), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_result_tells_the_precision_that_the_machine_chose(monkeypatch):
    monkeypatch.setattr(recipe, "native_bf16", lambda device: True)
    assert recipe.precision_facts("auto") == {"precision": "bf16"}
    assert recipe.precision_facts("bf16") == {}


def test_the_environment_does_not_name_a_build():
    found = lab.environment()
    assert found["threads"] == torch.get_num_threads()
    assert "+" not in found["torch"]


def test_the_same_weights_are_the_same_bytes(tmp_path):
    """safetensors orders several metadata entries by chance: half of such files would differ."""
    net = network.ConditionalUNet(widths=(16, 16))
    for i in range(12):
        network.save(tmp_path / f"{i}.safetensors", net, seed=3, variant="zsnr")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_weights_and_card_come_back_in_half_precision(tmp_path):
    net, path = ConditionalUNet(3, 4, 2, (16, 32), 2), tmp_path / "new/folder/weights.safetensors"
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.1)
    network.save(path, net, seed=3, variant="zsnr")
    again, card = network.load(path)
    assert card == {"seed": 3, "variant": "zsnr"}
    assert again.config == net.config
    for name, weight in net.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight.half().float(), rtol=0, atol=0)
    x, conditions = seeded(2, 3, 32, 32), torch.tensor([[4, 2], [0, 1]])
    out = again(x, torch.tensor([0.0, 999.0]), class_labels=conditions)
    assert out.shape == x.shape
    assert not torch.equal(out, again(x, torch.tensor([0.0, 999.0]), class_labels=conditions.flip(0)))
    assert [p.name for p in path.parent.iterdir()] == ["weights.safetensors"]


def test_missing_and_foreign_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at (.|\n)*dvc repro --pull"):
        network.load(tmp_path / "none.safetensors")
    save_file({"w": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match=r"foreign.safetensors has no network description"):
        network.load(tmp_path / "foreign.safetensors")
