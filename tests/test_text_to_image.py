"""Fine-tuning against closed forms, diffusers' own conventions, and itself: split, interrupted, saved and loaded."""

import contextlib
import copy
import dataclasses
import itertools
import json
import logging
import multiprocessing
import os
import re
import socket
import time
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from lab import ROOT
from lab.models import tiny
from zsnr.diffusers import card
from zsnr.diffusers.config import from_scheduler
from zsnr.finetune import FineTune, captioned, captions, encode, fine_tune, loop, lora, pipelines, save, tune
from zsnr.finetune.__main__ import main
from zsnr.finetune.recipe import Recipe
from zsnr.schedule import rescale_zero_terminal_snr, stable_diffusion

RECIPE = FineTune(images=32, batch=4, lr=3e-3, warmup=8, ema_halflife=16, resolution=8, seed=5)
LORA = dataclasses.replace(RECIPE, lora_rank=2, lora_layers="all")
RELEASED = {  # what the paper's authors published beside their fine-tuned Stable Diffusion
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 1,
}
COLOURS = ["red", "green", "blue", "black", "white"]


def write(folder: Path, size: tuple[int, int] = (12, 10)) -> Path:
    folder.mkdir(parents=True)
    for name in COLOURS:
        Image.new("RGB", size, name).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"all {name}\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def pipeline():
    return tiny.quiet(tiny.stable_diffusion())


@pytest.fixture(scope="module")
def xl():
    return tiny.quiet(tiny.stable_diffusion_xl())


@pytest.fixture(scope="module")
def whole(pipeline, folder, tmp_path_factory):
    return fine_tune(pipeline, folder, RECIPE, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def low_rank(pipeline, folder, tmp_path_factory):
    return fine_tune(pipeline, folder, LORA, tmp_path_factory.mktemp("lora"))


def weights(pipeline) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in pipeline.unet.state_dict().items()}


def assert_same(a, b, **tolerance) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **{"rtol": 0, "atol": 0} | tolerance)


def draw(pipeline, prompt="all red", **kwargs) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    kwargs = {"num_inference_steps": 3, "height": 32, "width": 32, "output_type": "pt"} | kwargs
    return pipeline(prompt, generator=g, **kwargs).images


# folders of captioned pictures


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_captions_come_from_metadata_or_from_text_files(mark, tmp_path):
    write(tmp_path / "some")
    (tmp_path / "some/deep").mkdir()
    (tmp_path / "some/red.png").rename(tmp_path / "some/deep/red.PNG")
    (tmp_path / "some/red.txt").rename(tmp_path / "some/deep/red.txt")
    (tmp_path / "some/blue.txt").write_text(mark + "\n", encoding="utf-8")
    found = captioned(tmp_path / "some")
    assert [(path.stem, text) for path, text in found] == [
        ("black", "all black"),
        ("blue", ""),
        ("red", "all red"),
        ("green", "all green"),
        ("white", "all white"),
    ]
    lines = [json.dumps({"file_name": str(p.relative_to(tmp_path / "some")), "text": f"é {p.stem} "}) for p, _ in found]
    (tmp_path / "some/metadata.jsonl").write_text(mark + "\n".join(lines) + "\n\n", encoding="utf-8")
    assert [(path, text) for path, text in captioned(tmp_path / "some")] == [(p, f"é {p.stem}") for p, _ in found]


def spoil(name: str, folder: Path) -> Path:
    """A folder with something wrong in it."""
    if name == "missing":
        return folder / "none"
    write(folder)
    if name == "no pictures":
        for path in folder.glob("*.png"):
            path.unlink()
    if name == "no captions":
        (folder / "red.txt").unlink()
        (folder / "blue.txt").unlink()
    if name == "not text":
        (folder / "red.txt").write_bytes(b"\xff\xfe\x00")
    if name == "a line short":
        (folder / "metadata.jsonl").write_text('{"file_name": "red.png", "text": "red"}')
    if name == "a name too many":
        (folder / "metadata.jsonl").write_text('{"file_name": "pink.png", "text": "pink"}')
    if name in ("no json", "a list", "a number"):
        line = {"no json": "red.png: red", "a list": "[1]", "a number": '{"file_name": "red.png", "text": 3}'}[name]
        (folder / "metadata.jsonl").write_text(f"\n{line}\n")
    if name == "cut off":
        data = (folder / "red.png").read_bytes()
        (folder / "red.png").write_bytes(data[: len(data) // 2])
        (folder / "blue.png").write_bytes(b"not a picture")
    return folder


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("missing", FileNotFoundError, r"no folder .*none"),
        ("no pictures", FileNotFoundError, r"no pictures in .*: \.png"),
        ("no captions", ValueError, r"2 of 5 pictures have no caption: blue\.png, red\.png; write metadata\.jsonl, or"),
        ("not text", ValueError, r"red\.txt is not UTF-8"),
        ("a line short", ValueError, r"4 of 5 .* black\.png, blue\.png, green\.png, white\.png; add a line"),
        ("a name too many", FileNotFoundError, r"not there: pink\.png"),
        ("no json", ValueError, r"metadata\.jsonl, line 2: 'red\.png: red' is not"),
        ("a list", ValueError, r"line 2: '\[1\]' is not"),
        ("a number", ValueError, r"line 2"),
        ("cut off", ValueError, r"2 pictures do not open: .*blue\.png \(.*red\.png \("),
    ],
)
def test_a_folder_that_will_not_do_is_refused_before_any_work(name, error, message, pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(error, match=message):
        fine_tune(pipeline, spoil(name, tmp_path / "pictures"), RECIPE, tmp_path)
    assert not list(tmp_path.rglob("checkpoint*"))


def ramp(width: int, height: int) -> Image.Image:
    """Red rises by 4 a column, green by 4 a row."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([4 * x, 4 * y, 0 * x], -1).astype(np.uint8))


def test_a_picture_is_scaled_and_cut_from_its_centre(tmp_path):
    ramp(60, 40).save(tmp_path / "a.png")
    pixels, sizes = captions.picture(tmp_path / "a.png", 20)
    assert sizes.tolist() == [40, 60, 0, 5, 20, 20]  # 30 x 20 after scaling, of which 5 .. 25 stay
    column = 4 * (2 * torch.arange(5, 25) + 0.5)  # a pixel of the half is the mean of two; linear away from the edges
    torch.testing.assert_close((pixels[0, 10] + 1) * 127.5, column, rtol=0, atol=1)
    row = 4 * (2 * torch.arange(20) + 0.5)
    torch.testing.assert_close((pixels[1, 2:-2, 10] + 1) * 127.5, row[2:-2], rtol=0, atol=1)
    torch.testing.assert_close(captions.picture(tmp_path / "a.png", 20, flip=True)[0], pixels.flip(2))
    assert pixels[2].eq(-1).all()


def test_pictures_are_upright_and_on_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    ramp(24, 16).save(tmp_path / "a.png", exif=exif)
    pixels, sizes = captions.picture(tmp_path / "a.png", 16)
    assert sizes.tolist() == [24, 16, 4, 0, 16, 16]
    upright = np.rot90(np.asarray(ramp(24, 16)), -1)[4:20]
    torch.testing.assert_close((pixels + 1) * 127.5, torch.from_numpy(upright.copy()).permute(2, 0, 1).float())
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "b.png")
    assert captions.picture(tmp_path / "b.png", 8)[0].eq(1).all()
    Image.new("L", (8, 8), 51).save(tmp_path / "c.png")
    torch.testing.assert_close(captions.picture(tmp_path / "c.png", 8)[0], torch.full((3, 8, 8), -0.6))


# what is drawn


def test_each_pass_shows_every_picture_once_in_an_order_of_its_own():
    recipe = dataclasses.replace(RECIPE, batch=6)
    stream = torch.cat([tune._example(8, 1000, recipe, step)[0] for step in range(8)])
    passes = [stream[k : k + 8].tolist() for k in range(0, 48, 8)]
    assert all(sorted(order) == list(range(8)) for order in passes)
    assert len({tuple(order) for order in passes}) == 6
    other = dataclasses.replace(recipe, seed=6)
    assert [tune._example(8, 1000, other, 0)[0].tolist()] != [stream[:6].tolist()]


@pytest.mark.parametrize("flip", [False, True])
def test_steps_drops_flips_and_seeds_have_their_laws(flip):
    n = 20_000
    recipe = dataclasses.replace(RECIPE, batch=n, flip=flip)
    _, seeds, t, drop, flips = tune._example(50, 1000, recipe, 3)
    assert len(seeds.unique()) == n
    counts = t.bincount(minlength=1000)
    assert len(counts) == 1000
    assert counts.min() > 0, "T among them"
    chi = ((counts - 20) ** 2 / 20).sum().item()
    assert chi == pytest.approx(999, abs=5 * (2 * 999) ** 0.5)
    assert drop.float().mean().item() == pytest.approx(0.1, abs=5 * (0.09 / n) ** 0.5)
    assert flips.float().mean().item() == pytest.approx(0.5 if flip else 0, abs=5 * (0.25 / n) ** 0.5)
    assert not torch.equal(tune._example(50, 1000, recipe, 4)[1], seeds)


def test_latents_are_the_posterior_s_and_do_not_depend_on_the_batch(pipeline, folder):
    files, n = [path for path, _ in captioned(folder)], 400
    x0, eps, _ = encode.latents(pipeline, files, [7, 8, 9, 10, 11], [False] * 5, 8)
    for i in range(5):
        alone = encode.latents(pipeline, files[i : i + 1], [7 + i], [False], 8)
        torch.testing.assert_close(alone[0][0], x0[i], rtol=0, atol=1e-5)
        assert torch.equal(alone[1][0], eps[i])
    x0, eps, _ = encode.latents(pipeline, [files[2]] * n, list(range(n)), [False] * n, 8)
    pixels = captions.picture(files[2], 8)[0][None]
    with torch.no_grad():
        posterior = pipeline.vae.encode(pixels).latent_dist
    scale = pipeline.vae.config.scaling_factor
    z = (x0 / scale - posterior.mean) / posterior.std
    for sample in (z, eps):
        assert sample.mean().item() == pytest.approx(0, abs=5 / sample.numel() ** 0.5)
        assert sample.var().item() == pytest.approx(1, abs=5 * (2 / sample.numel()) ** 0.5)
    assert (z * eps).mean().abs().item() < 5 / z.numel() ** 0.5, "the draw and eps are independent"


def test_conditions_are_those_of_the_pipelines(pipeline, xl):
    sizes = torch.tensor([[40, 60, 0, 5, 20, 20], [32, 32, 1, 2, 20, 20]])
    with torch.no_grad():
        found = encode.conditions(pipeline, ["all red", ""], sizes)
        expected = pipeline.encode_prompt("all red", "cpu", 1, True)
        torch.testing.assert_close(found["encoder_hidden_states"], torch.cat(expected))
        found = encode.conditions(xl, ["all red", ""], sizes)
        embeds, none, pooled, no_pooled = xl.encode_prompt("all red", device="cpu", do_classifier_free_guidance=True)
        torch.testing.assert_close(found["encoder_hidden_states"], torch.cat([embeds, none]))
        added = found["added_cond_kwargs"]
        torch.testing.assert_close(added["text_embeds"], torch.cat([pooled, no_pooled]))
        assert no_pooled.eq(0).all()
        width = xl.text_encoder_2.config.projection_dim
        ids = xl._get_add_time_ids((40, 60), (0, 5), (20, 20), torch.float32, width)
        assert torch.equal(added["time_ids"][:1], ids)


# the objective


class Oracle(nn.Module):
    """Knows the x0 and eps of what it is asked about, and says what a network with that prediction should."""

    def __init__(self, x0, eps, schedule, prediction):
        super().__init__()
        self.x0, self.eps, self.a, self.prediction = x0, eps, schedule.sqrt_alpha_bar.float(), prediction

    def forward(self, x, t, return_dict, **conditions):
        a = self.a[t].view(-1, 1, 1, 1)
        s = (1 - a**2).sqrt()
        torch.testing.assert_close(x, a * self.x0 + s * self.eps)
        self.seen = x
        return ({"v": a * self.eps - s * self.x0, "eps": self.eps}[self.prediction] + 0.5,)


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_the_objective_is_the_squared_error_of_the_prediction(prediction):
    schedule = rescale_zero_terminal_snr(stable_diffusion()) if prediction == "v" else stable_diffusion()
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 4, 2, 2, generator=g)
    oracle = Oracle(x0, eps, schedule, prediction)
    t = torch.tensor([0, 500, 999])
    value = tune._objective(oracle, x0, eps, t, {}, schedule, prediction, "float32")
    assert value.item() == pytest.approx(0.25, abs=1e-5)
    if prediction == "v":
        assert torch.equal(oracle.seen[2], eps[2]), "at T there is noise only"


def test_the_schedule_is_algorithm_1_in_float64(pipeline):
    schedule, prediction, scheduler = pipelines.training_target(pipeline, RECIPE.zero_snr)
    assert prediction == "v"
    exact = rescale_zero_terminal_snr(stable_diffusion()).sqrt_alpha_bar
    torch.testing.assert_close(schedule.sqrt_alpha_bar, exact, rtol=0, atol=1e-6)  # diffusers' betas are float32
    assert schedule.zero_snr
    torch.testing.assert_close(from_scheduler(scheduler).sqrt_alpha_bar, exact, rtol=0, atol=1e-5)
    assert scheduler.alphas_cumprod[-1] == 0


# the result


def test_the_result_s_scheduler_is_configured_as_the_released_one(whole):
    config = whole[0].scheduler.config
    assert {k: type(whole[0].scheduler).__name__ if k == "_class_name" else config[k] for k in RELEASED} == RELEASED


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_it_is_the_same_from_the_schedulers_that_models_come_with(scheduler, pipeline):
    other = type(pipeline)(**{**pipeline.components, "scheduler": None}, requires_safety_checker=False)
    other.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config)
    found, expected = (pipelines.training_target(p, RECIPE.zero_snr)[2] for p in (other, pipeline))
    assert found.config == expected.config


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_given_pipeline_is_left_as_it_is(kind, pipeline, folder, tmp_path, whole, low_rank):
    recipe = dataclasses.replace(RECIPE if kind == "full" else LORA, checkpointing=True, images=8)
    before, config = weights(pipeline), dict(pipeline.scheduler.config)
    parts = {name: id(part) for name, part in pipeline.components.items()}
    result, _ = fine_tune(pipeline, folder, recipe, tmp_path)
    if kind == "lora":
        result.fuse_lora()
    assert_same(weights(pipeline), before)
    assert dict(pipeline.scheduler.config) == config
    assert {name: id(part) for name, part in pipeline.components.items()} == parts
    assert not pipeline.unet.is_gradient_checkpointing
    assert not result.unet.is_gradient_checkpointing
    assert all(p.requires_grad for p in pipeline.unet.parameters())
    assert not pipeline.unet.training
    assert not result.unet.training
    assert result.vae is pipeline.vae
    if kind == "full":
        assert all(not torch.equal(v, before[k]) for k, v in whole[0].unet.state_dict().items())
    else:
        moved = [k for k, v in low_rank[0].unet.state_dict().items() if "lora_B" in k and v.any()]
        layers = [m for m in pipeline.unet.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        assert len(moved) == len(layers), "all of them, of which the attention's projections are a part"


def test_layers_of_a_lora():
    def named(layers):
        unet = lora.adapted(tiny.stable_diffusion().unet, 2, layers, 0)
        return {k.partition(".lora_A")[0] for k in unet.state_dict() if ".lora_A" in k}

    some, every = named("attention"), named("all")
    assert {name.rsplit("attn", 1)[1][2:] for name in some} == {"to_q", "to_k", "to_v", "to_out.0"}
    assert some < every
    assert {"conv_in", "conv_out", "time_embedding.linear_1"} <= every


def test_training_on_keeps_the_pipeline_s_schedule_and_prediction(pipeline, folder, tmp_path):
    recipe = dataclasses.replace(RECIPE, zero_snr=False, images=8)
    result, history = fine_tune(pipeline, folder, recipe, tmp_path)
    assert dict(result.scheduler.config) == dict(pipeline.scheduler.config)
    assert pipelines.training_target(pipeline, recipe.zero_snr)[1] == "eps"
    assert len(history) == 2


def test_one_picture_is_learnt_by_heart(tmp_path):
    """At T the best prediction is v = -x0, whatever the noise: it is reached, from a network that never saw T."""
    Image.new("RGB", (8, 8), "white").save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("white")
    pipeline = tiny.stable_diffusion()
    half = pipeline.vae.quant_conv
    half.weight.data[4:], half.bias.data[4:] = 0, -20  # a VAE that is sure of its latents
    pipeline.vae.register_to_config(scaling_factor=3.0)
    recipe = dataclasses.replace(RECIPE, images=320, batch=8, lr=1e-2, ema_halflife=40, unconditional=0)
    result, _ = fine_tune(pipeline, tmp_path, recipe, tmp_path / "scratch")
    x0, eps, sizes = encode.latents(pipeline, [tmp_path / "a.png"] * 32, list(range(900, 932)), [False] * 32, 8)
    with torch.no_grad():
        conditions = encode.conditions(pipeline, ["white"] * 32, sizes)
        t = torch.full((32,), 999)
        v, flawed = (p.unet(eps, t, **conditions).sample for p in (result, pipeline))
    assert (v + x0).square().mean() < 0.2 * x0.square().mean()
    assert (flawed + x0).square().mean() > 0.8 * x0.square().mean()


# what may not matter


def test_micro_batches_change_memory_only(pipeline, folder, whole, tmp_path, monkeypatch):
    sizes = []
    real = tune._objective
    monkeypatch.setattr(tune, "_objective", lambda net, x0, *rest: (sizes.append(len(x0)), real(net, x0, *rest))[1])
    result, history = fine_tune(pipeline, folder, dataclasses.replace(RECIPE, accumulate=4), tmp_path)
    assert sizes == [1] * 32
    assert [n for n, _ in history] == [n for n, _ in whole[1]]
    np.testing.assert_allclose([loss for _, loss in history], [loss for _, loss in whole[1]], rtol=1e-5)
    assert_same(weights(result), weights(whole[0]), atol=1e-5)


@pytest.mark.parametrize("recipe", [RECIPE, LORA], ids=["full", "lora"])
def test_checkpointing_gives_the_same_gradients(recipe, xl):
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 2, 4, 4, 4, generator=g)
    schedule = pipelines.training_target(xl, recipe.zero_snr)[0]
    with torch.no_grad():
        conditions = encode.conditions(xl, ["red", ""], torch.full((2, 6), 8))
    grads = []
    for checkpointing in (False, True):
        net = tune._network(xl.unet, dataclasses.replace(recipe, checkpointing=checkpointing)).train()
        calls = []
        net.down_blocks[0].resnets[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        tune._objective(net, x0, eps, torch.tensor([3, 999]), conditions, schedule, "v", "float32").backward()
        assert len(calls) == 1 + checkpointing, "what is not kept is computed again"
        grads.append({k: p.grad for k, p in net.named_parameters() if p.requires_grad})
    assert_same(grads[1], grads[0], atol=1e-7)
    assert all(p.grad is None for p in xl.unet.parameters())


@pytest.mark.parametrize("recipe", [RECIPE, LORA], ids=["full", "lora"])
def test_bfloat16_computes_in_it_and_trains_float32(recipe, pipeline, folder, whole, low_rank, tmp_path):
    recipe = dataclasses.replace(recipe, precision="bf16")
    net = tune._network(pipeline.unet, recipe)
    assert {p.dtype for p in net.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in net.parameters() if not p.requires_grad} <= {torch.bfloat16}
    result, history = fine_tune(pipeline, folder, recipe, tmp_path)
    _, its_history = whole if recipe.lora_rank == 0 else low_rank
    assert history != its_history
    np.testing.assert_allclose([loss for _, loss in history], [loss for _, loss in its_history], rtol=0.02)
    assert {p.dtype for p in result.unet.parameters()} == {torch.float32}


def test_a_pipeline_in_half_precision_is_trained_in_float32_and_stays_in_its_own(folder, tmp_path):
    half = tiny.stable_diffusion().to(torch.float16)
    assert {p.dtype for p in tune._network(half.unet, RECIPE).parameters()} == {torch.float32}
    result, _ = fine_tune(half, folder, dataclasses.replace(RECIPE, images=8), tmp_path)
    assert {p.dtype for p in result.unet.parameters()} == {torch.float16}
    assert half.vae.dtype == torch.float16


class Interrupted(Exception):
    pass


class Two(nn.Module):
    """A number that is trained and one that is not."""

    def __init__(self):
        super().__init__()
        self.w, self.frozen = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(2.0), requires_grad=False)


class Constant(Recipe):
    def rate(self, step):
        return 0.1

    def decay(self, step):
        return 0.5


def test_the_loop_trains_averages_and_keeps_only_what_needs_a_gradient(tmp_path):
    net = Two()
    seen = []

    def loss(net, y):
        seen.append(net.w.item())
        trained.append(net)
        return ((net.w * net.frozen - y) ** 2).mean()

    trained = []
    average, _ = loop.train(net, lambda step: (torch.zeros(4),), loss, Constant(images=12, batch=4), tmp_path, {})
    (path,) = tmp_path.rglob("checkpoint.safetensors")
    kept = load_file(path)
    assert not [k for k in kept if "frozen" in k]
    assert set(kept) == {"average.w"}, "a finished training needs no more"
    w = [*seen, trained[-1].w.item()]
    ema = w[0]
    for value in w[1:]:
        ema = (ema + value) / 2
    assert average.w.item() == pytest.approx(ema, abs=1e-6)
    assert average.frozen.item() == 2
    assert w[0] > w[1] > w[2] > w[3]


def test_a_checkpoint_between_two_entries_of_the_history_keeps_the_sum(tmp_path):
    def run(scratch, stop):
        calls = itertools.count()

        def loss(net, y):
            if next(calls) == stop:
                raise Interrupted
            return ((net.w - y) ** 2).mean()

        recipe = Constant(images=600, batch=4)
        return loop.train(Two(), lambda step: (torch.full((4,), step / 100),), loss, recipe, scratch, {})

    average, history = run(tmp_path / "whole", -1)
    assert [n for n, _ in history[:2]] == [12, 24]
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", 7)
    again, its_history = run(tmp_path / "stopped", -1)
    assert its_history == history
    assert_same(again.state_dict(), average.state_dict())


def test_rates_are_the_recipe_s(pipeline, folder, tmp_path, monkeypatch):
    given = {}

    def train(*arguments, **options):
        given.update(options, recipe=arguments[3])
        raise Interrupted

    monkeypatch.setattr(loop, "train", train)
    with pytest.raises(Interrupted):
        fine_tune(pipeline, folder, dataclasses.replace(RECIPE, clip=0.7), tmp_path)  # 8 steps, 2 of them to warm up
    recipe = given["recipe"]
    assert [recipe.rate(k) for k in range(8)] == pytest.approx(
        [3e-3 * min(1, (k + 1) / 2) * (1 - k / 8) for k in range(8)]
    )
    assert recipe.decay(10**6) ** 4 == pytest.approx(0.5), "a half-life of 16 pictures is 4 steps"
    assert recipe.decay(1) == pytest.approx(1 / 11)
    assert (recipe.images, recipe.batch, given["accumulate"], recipe.clip) == (32, 4, 1, 0.7)


def start(target, *args) -> multiprocessing.Process:
    """Another process, forked from one that has imported all this and done nothing yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(Path(__file__).parent)]))
        process = context.Process(target=target, args=args)
        process.start()
    return process


def test_a_checkpoint_that_only_some_machines_see_is_refused(pipeline, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Accelerator, "gather", lambda self, z: torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"not all processes see the checkpoint in .* every machine can read"):
        fine_tune(pipeline, folder, RECIPE, tmp_path)


def test_launchers_that_split_the_weights_are_refused(pipeline, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(ValueError, match="FSDP splits the weights"):
        fine_tune(pipeline, folder, RECIPE, tmp_path)


def child(rank: int, port: int, folder: Path, work: Path) -> None:
    """What each of two processes runs, as a launcher would start it."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    os.environ |= shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    pipeline = pipelines.load(str(work / "model"))
    results = [fine_tune(pipeline, folder, recipe, work) for recipe in (RECIPE, LORA)]
    save(results[1][0], work / "out", LORA)
    found = [history for _, history in results]
    (work / f"{rank}.json").write_text(json.dumps([Accelerator().num_processes, found]))
    torch.distributed.destroy_process_group()


def test_two_processes_and_one_give_the_same_losses(folder, whole, low_rank, tmp_path):
    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = [start(child, rank, port, folder, tmp_path) for rank in (0, 1)]
    for process in children:
        process.join()
        assert process.exitcode == 0
    for rank in (0, 1):
        processes, found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert processes == 2
        assert (tmp_path / "out/lora").is_dir()
        np.testing.assert_allclose(found, [whole[1], low_rank[1]], rtol=0, atol=1e-4)


# interruptions


def stopping(monkeypatch, after: int, error: BaseException) -> list[int]:
    """Make the objective raise after so many calls; the list counts them."""
    real, calls = tune._objective, []

    def objective(*args):
        if len(calls) == after:
            raise error
        calls.append(1)
        return real(*args)

    monkeypatch.setattr(tune, "_objective", objective)
    return calls


def interrupted(after: int, *args) -> int:
    """Fine-tune until so many calls of the objective, or the end; how many there were."""
    with pytest.MonkeyPatch.context() as patched:
        calls = stopping(patched, after, Interrupted())
        with contextlib.suppress(Interrupted):
            fine_tune(*args)
    return len(calls)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_an_error_keeps_every_step_before_it(kind, pipeline, folder, whole, low_rank, tmp_path, monkeypatch):
    recipe, (expected, history) = (RECIPE, whole) if kind == "full" else (LORA, low_rank)
    assert interrupted(3, pipeline, folder, recipe, tmp_path) == 3
    calls = stopping(monkeypatch, 5, Interrupted())
    result, its_history = fine_tune(pipeline, folder, recipe, tmp_path)
    assert len(calls) == 5
    assert_same(weights(result), weights(expected))
    assert its_history == history


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_names_remedies_with_which_the_training_goes_on(error, pipeline, folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stopping(patched, 6, error)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            fine_tune(pipeline, folder, RECIPE, tmp_path)
    assert re.search(r"checkpointing.*accumulate, here 1, for a batch of 4.*bf16.*lora_rank", str(caught.value))
    smaller = dataclasses.replace(RECIPE, accumulate=2, checkpointing=True)
    calls = stopping(monkeypatch, 4, AssertionError("began again"))
    fine_tune(pipeline, folder, smaller, tmp_path)
    assert len(calls) == 4


def test_other_errors_pass(pipeline, folder, tmp_path, monkeypatch):
    stopping(monkeypatch, 0, RuntimeError("shapes"))
    with pytest.raises(RuntimeError, match=r"^shapes$"):
        fine_tune(pipeline, folder, RECIPE, tmp_path)
    assert not list(tmp_path.rglob("checkpoint*"))


@pytest.mark.parametrize("change", ["caption", "picture", "recipe", "VAE", "scale", "nothing"])
def test_a_checkpoint_belongs_to_what_it_was_made_from(change, pipeline, tmp_path):
    pictures = write(tmp_path / "pictures")
    assert interrupted(7, pipeline, pictures, RECIPE, tmp_path / "scratch") == 7
    if change == "caption":
        (pictures / "white.txt").write_text("snow")
    if change == "picture":
        Image.new("RGB", (12, 10), "pink").save(pictures / "red.png")
    recipe = dataclasses.replace(RECIPE, clip=0.5) if change == "recipe" else RECIPE
    if change in ("VAE", "scale"):
        pipeline = copy.copy(pipeline)
        pipeline.vae = copy.deepcopy(pipeline.vae)
        with torch.no_grad():
            next(pipeline.vae.parameters()).mul_(1.01 if change == "VAE" else 1.0)
        pipeline.vae.register_to_config(scaling_factor=0.2 if change == "scale" else pipeline.vae.config.scaling_factor)
    left = interrupted(2, pipeline, pictures, recipe, tmp_path / "scratch")
    assert left == (1 if change == "nothing" else 2)


def slowly(folder: Path, scratch: Path) -> None:
    """What the process that is killed runs: a checkpoint after each step."""
    clock = itertools.count(0, 1000)
    loop.time = type("Clock", (), {"monotonic": staticmethod(lambda: float(next(clock)))})
    real = encode.latents
    encode.latents = lambda *args: (time.sleep(0.2), real(*args))[1]
    fine_tune(tiny.stable_diffusion(), folder, RECIPE, scratch)


def test_kill_9_in_the_middle_changes_nothing(pipeline, folder, whole, tmp_path, monkeypatch):
    process = start(slowly, folder, tmp_path)
    while process.is_alive() and not list(tmp_path.rglob("checkpoint.safetensors")):
        time.sleep(0.02)
    time.sleep(0.3)
    process.kill()
    process.join()
    assert process.exitcode == -9
    calls = stopping(monkeypatch, 100, Interrupted())
    result, history = fine_tune(pipeline, folder, RECIPE, tmp_path)
    assert 0 < len(calls) < 8
    assert_same(weights(result), weights(whole[0]))
    assert history == whole[1]


# saving


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_result_loads_in_plain_diffusers(kind, pipeline, whole, low_rank, tmp_path):
    recipe, (result, _) = (RECIPE, whole) if kind == "full" else (LORA, low_rank)
    out, before = tmp_path / "out", weights(result)
    save(result, out, recipe)
    save(result, out, recipe)  # an earlier result is replaced
    assert_same(weights(result), before)
    expected = draw(tiny.quiet(result))
    again = tiny.quiet(diffusers.StableDiffusionPipeline.from_pretrained(out))
    torch.testing.assert_close(draw(again), expected, rtol=0, atol=1e-4 if kind == "lora" else 0)
    for folder in ["unet", "lora"] if kind == "lora" else ["unet"]:
        card.read(out / folder).check_scheduler(result.scheduler)
        with pytest.raises(ValueError, match="it predicts v, not eps"):
            card.read(out / folder).check_scheduler(pipeline.scheduler)
    assert "zsnr" not in (out / "model_index.json").read_text()
    saved = json.loads((out / "scheduler/scheduler_config.json").read_text())
    assert {k: saved[k] for k in RELEASED} == RELEASED
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    if kind == "lora":
        base = tiny.quiet(tiny.stable_diffusion())
        base.scheduler = diffusers.DDIMScheduler.from_pretrained(out / "lora", subfolder="scheduler")
        without = draw(base)
        base.load_lora_weights(out / "lora")
        torch.testing.assert_close(draw(base), expected, rtol=0, atol=1e-5)
        assert (without - expected).abs().max() > 1e-3
    else:
        assert not (out / "lora").exists()


@pytest.mark.parametrize("recipe", [RECIPE, LORA], ids=["full", "lora"])
def test_xl_is_trained_saved_and_loaded(recipe, xl, folder, tmp_path):
    recipe = dataclasses.replace(recipe, images=8)
    result, history = fine_tune(xl, folder, recipe, tmp_path / "scratch")
    save(result, tmp_path / "out", recipe)
    again = tiny.quiet(diffusers.StableDiffusionXLPipeline.from_pretrained(tmp_path / "out", add_watermarker=False))
    torch.testing.assert_close(draw(again), draw(tiny.quiet(result)), rtol=0, atol=1e-4)
    assert history[-1][0] == 8


def test_only_an_earlier_result_is_replaced(whole, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(FileExistsError, match="and no earlier result"):
        save(whole[0], tmp_path, RECIPE)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


# what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 0}, "images = 0"),
        ({"batch": -1}, "batch = -1"),
        ({"accumulate": 0}, "accumulate = 0"),
        ({"lr": float("nan")}, "lr = nan"),
        ({"warmup": -1}, "warmup = -1"),
        ({"lora_rank": -1}, "lora_rank = -1"),
        ({"unconditional": 1.5}, r"unconditional = 1.5.*\[0, 1\]"),
        ({"precision": "fp16"}, "'fp16'; choose float32 or bf16"),
        ({"lora_rank": 2, "lora_layers": "some"}, "'some'; choose attention or all"),
        ({"resolution": 10}, "resolution = 10: .* multiple of 4"),
        ({"accumulate": 3}, r"batch of 4 does not divide over 1 processes of 3 micro-batches each: .* multiple of 3"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused_before_any_work(change, message, pipeline, folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        fine_tune(pipeline, folder, dataclasses.replace(RECIPE, **change), tmp_path)
    assert not list(tmp_path.iterdir())


def other(name: str):
    if name == "unconditional":
        return tiny.unconditional()
    pipeline = tiny.stable_diffusion()
    if name == "inpainting":
        pipeline.unet.register_to_config(in_channels=9)
    if name == "adapter":
        lora.adapted(pipeline.unet, 2, "attention", 0)
    if name == "offloaded":
        pipeline.vae._hf_hook = object()
    if name == "EDM":
        pipeline.scheduler = diffusers.EDMEulerScheduler()
    if name == "eps at zero SNR":
        pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, rescale_betas_zero_snr=True)
    return pipeline


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unconditional", "DDPMPipeline cannot be fine-tuned here: load .* StableDiffusionPipeline"),
        ("inpainting", "9 channels, and the VAE has 4"),
        ("adapter", "has an adapter: fuse it"),
        ("offloaded", r"remove_all_hooks\(\)"),
        ("EDM", "EDMEulerScheduler has no table"),
        ("eps at zero SNR", "predicts v or x0"),
    ],
)
def test_a_pipeline_that_cannot_be_trained_is_refused_before_any_work(name, message, folder, tmp_path):
    recipe = dataclasses.replace(RECIPE, zero_snr=name != "eps at zero SNR")
    with pytest.raises(ValueError, match=message):
        fine_tune(other(name), folder, recipe, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_launcher_s_own_precision_or_accumulation_is_refused():
    accelerator = type(
        "Launched", (), {"num_processes": 1, "mixed_precision": "fp16", "gradient_accumulation_steps": 1}
    )
    with pytest.raises(ValueError, match="fp16, but the recipe says float32"):
        tune._check_launch(accelerator, RECIPE)
    accelerator.mixed_precision, accelerator.gradient_accumulation_steps = "no", 2
    with pytest.raises(ValueError, match="`accumulate`"):
        tune._check_launch(accelerator, RECIPE)


def test_a_loss_that_is_no_number_is_said(folder, tmp_path):
    broken = tiny.stable_diffusion()
    broken.unet.conv_out.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"loss is nan after 4 pictures(.|\n)*lower lr"):
        fine_tune(broken, folder, RECIPE, tmp_path)


def test_captions_that_are_cut_are_said_once(pipeline, tmp_path, caplog):
    pictures = write(tmp_path / "pictures")
    (pictures / "blue.txt").write_text("blue " * 40)
    logging.getLogger("diffusers").propagate = True
    with pytest.warns(UserWarning, match=r"1 captions have more than 77 tokens, and are cut: blue.png") as caught:
        fine_tune(pipeline, pictures, RECIPE, tmp_path / "scratch")
    assert len(caught) == 1
    assert "truncated" not in caplog.text


# the command line


def command(*options: object) -> None:
    main([str(option) for option in options])


def test_the_command_line_trains_and_saves(pipeline, folder, low_rank, tmp_path, capfd):
    pipeline.save_pretrained(tmp_path / "model")
    capfd.readouterr()
    given = ["--model", tmp_path / "model", "--folder", folder, "--out", tmp_path / "out"]
    fields = {"images": 32, "batch": 4, "lr": 3e-3, "warmup": 8, "ema-halflife": 16, "resolution": 8, "seed": 5}
    options = [z for k, v in fields.items() for z in (f"--{k}", v)]
    command(*given, *options, "--lora-rank", 2, "--lora-layers", "all", "--zero-snr", "--no-flip")
    printed = capfd.readouterr()
    again = tiny.quiet(diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "out"))
    torch.testing.assert_close(draw(again), draw(tiny.quiet(low_rank[0])), rtol=0, atol=1e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "out"]
    assert "20 of 32 pictures" in printed.out
    assert not printed.err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model", "empty", "model_index.json is missing"),
        ("--folder", "none", "no folder"),
        ("--out", "taken", "taken is there already: choose"),
        ("--batch", "0", "batch = 0"),
    ],
)
def test_the_command_line_refuses_in_a_line(option, value, message, folder, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/fine_tune.json").touch()
    monkeypatch.chdir(tmp_path)
    given = {"--model": "empty", "--folder": folder, "--out": "out"} | {option: value}
    with pytest.raises(SystemExit, match=message):
        command(*(z for pair in given.items() for z in pair))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "taken"]


def test_a_model_that_is_nowhere_is_said(monkeypatch):
    def none(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", none)
    with pytest.raises(FileNotFoundError, match=r"no folder some/model, and none to be had on the hub: no connection"):
        pipelines.load("some/model")


def test_a_model_saved_in_half_precision_is_loaded_in_single(tmp_path):
    tiny.stable_diffusion().to(torch.float16).save_pretrained(tmp_path)
    pipeline = pipelines.load(str(tmp_path))
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float32}
