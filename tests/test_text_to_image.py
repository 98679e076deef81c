"""Fine-tuning against closed forms, diffusers' own conventions, and itself: split, interrupted, saved and loaded."""

import contextlib
import copy
import dataclasses
import errno
import itertools
import json
import logging
import multiprocessing
import os
import re
import socket
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from interrupted import Interrupted
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from tuning import LORA, RECIPE, write

from lab import ROOT
from lab.models import tiny
from zsnr.diffusers import card
from zsnr.diffusers.config import from_scheduler
from zsnr.finetune import (
    FineTune,
    captioned,
    captions,
    checkpoint,
    encode,
    fine_tune,
    loop,
    lora,
    pipelines,
    save,
    tune,
)
from zsnr.finetune.__main__ import main
from zsnr.finetune.recipe import Recipe
from zsnr.schedule import rescale_zero_terminal_snr, stable_diffusion

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


def draw(pipeline) -> torch.Tensor:
    options = {"num_inference_steps": 3, "height": 32, "width": 32, "output_type": "pt"}
    return pipeline("all red", generator=torch.Generator().manual_seed(1), **options).images


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


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_the_objective_is_the_squared_error_of_the_prediction(prediction):
    schedule = rescale_zero_terminal_snr(stable_diffusion()) if prediction == "v" else stable_diffusion()
    x0, eps = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    t, seen = torch.tensor([0, 500, 999]), []
    a = schedule.sqrt_alpha_bar.float()[t].view(-1, 1, 1, 1)
    s = (1 - a**2).sqrt()
    truth = {"v": a * eps - s * x0, "eps": eps}[prediction]

    def network(x, t, return_dict):
        seen.append(x)
        return (truth + 0.5,)

    value = tune._objective(network, x0, eps, t, {}, card.Card(prediction, schedule), "float32")
    assert value.item() == pytest.approx(0.25, abs=1e-5)
    torch.testing.assert_close(seen[0], a * x0 + s * eps)
    if prediction == "v":
        assert torch.equal(seen[0][2], eps[2]), "at T there is noise only"


@pytest.mark.parametrize("name", ["DDIM", "PNDM", "EulerDiscrete", "DPMSolverMultistep"])
def test_the_target_is_algorithm_1_from_any_scheduler_that_models_come_with(name, pipeline):
    other = copy.copy(pipeline)
    other.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(pipeline.scheduler.config)
    aim, scheduler = pipelines.training_target(other, zero_snr=True)
    exact = rescale_zero_terminal_snr(stable_diffusion()).sqrt_alpha_bar
    torch.testing.assert_close(aim.schedule.sqrt_alpha_bar, exact, rtol=0, atol=1e-6)  # diffusers' betas are float32
    torch.testing.assert_close(from_scheduler(scheduler).sqrt_alpha_bar, exact, rtol=0, atol=1e-5)
    assert (aim.prediction, aim.zero_snr, scheduler.alphas_cumprod[-1]) == ("v", True, 0)
    assert {**scheduler.config, "_class_name": type(scheduler).__name__}.items() >= RELEASED.items()


# the result


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
    assert result.unet.card.prediction == "eps"
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
    start, once, parts = (nn.utils.parameters_to_vector(p.unet.parameters()) for p in (pipeline, whole[0], result))
    # Adam makes a step of a gradient that is mere rounding, too: of a single weight nothing can be said
    assert (parts - once).norm() < 1e-4 * (once - start).norm()


@pytest.mark.parametrize("recipe", [RECIPE, LORA], ids=["full", "lora"])
def test_checkpointing_gives_the_same_gradients(recipe, xl):
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 2, 4, 4, 4, generator=g)
    aim = pipelines.training_target(xl, recipe.zero_snr)[0]
    with torch.no_grad():
        conditions = encode.conditions(xl, ["red", ""], torch.full((2, 6), 8))
    grads = []
    for checkpointing in (False, True):
        net = tune._network(xl.unet, dataclasses.replace(recipe, checkpointing=checkpointing)).train()
        calls = []
        net.down_blocks[0].resnets[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        tune._objective(net, x0, eps, torch.tensor([3, 999]), conditions, aim, "float32").backward()
        assert len(calls) == 1 + checkpointing, "what is not kept is computed again"
        grads.append({k: p.grad for k, p in net.named_parameters() if p.requires_grad})
    assert_same(grads[1], grads[0], atol=1e-7)
    assert all(p.grad is None for p in xl.unet.parameters())


@pytest.mark.parametrize("recipe", [RECIPE, LORA], ids=["full", "lora"])
def test_bfloat16_computes_in_it_and_trains_float32(recipe, pipeline, folder, whole, low_rank, tmp_path, monkeypatch):
    monkeypatch.setattr("zsnr.finetune.recipe.native_bf16", lambda device: True)
    recipe = dataclasses.replace(recipe, precision="auto").resolved()
    assert recipe.precision == "bf16"
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


class Two(nn.Module):
    """A number that is trained and one that is not."""

    def __init__(self):
        super().__init__()
        self.w, self.frozen = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(2.0), requires_grad=False)


def test_the_loop_trains_and_keeps_only_what_needs_a_gradient(tmp_path):
    def loss(net, y):
        return ((net.w * net.frozen - y) ** 2).mean()

    average, _ = loop.train(Two(), lambda step: (torch.zeros(4),), loss, Recipe(images=12, batch=4), tmp_path, {})
    (path,) = tmp_path.rglob("checkpoint.safetensors")
    assert set(load_file(path)) == {"average.w"}, "a finished training needs no more"
    assert average.w < 1
    assert average.frozen == 2


def test_a_checkpoint_between_two_entries_of_the_history_keeps_the_sum(tmp_path):
    def run(scratch, stop=-1):
        calls = itertools.count()

        def loss(net, y):
            if next(calls) == stop:
                raise Interrupted
            return ((net.w - y) ** 2).mean()

        recipe = Recipe(images=600, batch=4)
        return loop.train(Two(), lambda step: (torch.full((4,), step / 100),), loss, recipe, scratch, {})

    average, history = run(tmp_path / "whole")
    assert [n for n, _ in history[:2]] == [12, 24]
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", 7)
    again, its_history = run(tmp_path / "stopped")
    assert its_history == history
    assert_same(again.state_dict(), average.state_dict())


def child(rank: int, port: int, folder: Path, work: Path) -> None:
    """What each of two processes runs, as a launcher would start it."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    os.environ |= shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.distributed.is_mpi_available = lambda: False  # a build that has it (Debian's) counts ranks by mpirun alone
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
    context = multiprocessing.get_context("forkserver")  # from a process that has imported all this, and no more
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(Path(__file__).parent)]))
        children = [context.Process(target=child, args=(rank, port, folder, tmp_path)) for rank in (0, 1)]
        for process in children:
            process.start()
    for process in children:
        process.join()
        assert process.exitcode == 0
    for rank in (0, 1):
        processes, found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert processes == 2
        assert (tmp_path / "out/lora").is_dir()
        np.testing.assert_allclose(found, [whole[1], low_rank[1]], rtol=0, atol=1e-4)


# interruptions


@contextlib.contextmanager
def stopping(after: int, error: BaseException):
    """The objective raises after so many calls; gives the list of those that were made."""
    real, calls = tune._objective, []

    def objective(*args):
        if len(calls) == after:
            raise error
        calls.append(1)
        return real(*args)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tune, "_objective", objective)
        yield calls


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_an_error_keeps_every_step_before_it(kind, pipeline, folder, whole, low_rank, tmp_path):
    recipe, (expected, history) = (RECIPE, whole) if kind == "full" else (LORA, low_rank)
    with stopping(3, Interrupted()), pytest.raises(Interrupted):
        fine_tune(pipeline, folder, recipe, tmp_path)
    with stopping(5, Interrupted()) as calls:
        result, its_history = fine_tune(pipeline, folder, recipe, tmp_path)
    assert len(calls) == 5
    assert_same(weights(result), weights(expected))
    assert its_history == history


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_names_remedies_with_which_the_training_goes_on(error, pipeline, folder, tmp_path):
    with stopping(6, error), pytest.raises(torch.OutOfMemoryError) as caught:
        fine_tune(pipeline, folder, RECIPE, tmp_path)
    assert re.search(r"checkpointing.*accumulate, here 1, for a batch of 4.*bf16.*lora_rank", str(caught.value))
    with stopping(4, AssertionError("began again")) as calls:
        fine_tune(pipeline, folder, dataclasses.replace(RECIPE, accumulate=2, checkpointing=True), tmp_path)
    assert len(calls) == 4


def test_other_errors_pass(pipeline, folder, tmp_path):
    with stopping(0, RuntimeError("shapes")), pytest.raises(RuntimeError, match=r"^shapes$"):
        fine_tune(pipeline, folder, RECIPE, tmp_path)
    assert not list(tmp_path.rglob("checkpoint*"))


@pytest.mark.parametrize("change", ["caption", "picture", "recipe", "VAE", "scale", "nothing"])
def test_a_checkpoint_belongs_to_what_it_was_made_from(change, pipeline, tmp_path):
    pictures, recipe = write(tmp_path / "pictures"), RECIPE
    with stopping(7, Interrupted()), pytest.raises(Interrupted):
        fine_tune(pipeline, pictures, recipe, tmp_path / "scratch")
    pipeline = copy.copy(pipeline)
    pipeline.vae = copy.deepcopy(pipeline.vae)
    if change == "caption":
        (pictures / "white.txt").write_text("snow")
    if change == "picture":
        Image.new("RGB", (12, 10), "pink").save(pictures / "red.png")
    if change == "recipe":
        recipe = dataclasses.replace(RECIPE, clip=0.5)
    if change == "VAE":
        next(pipeline.vae.parameters()).data.mul_(1.01)
    if change == "scale":
        pipeline.vae.register_to_config(scaling_factor=0.2)
    with stopping(2, Interrupted()) as calls, contextlib.suppress(Interrupted):
        fine_tune(pipeline, pictures, recipe, tmp_path / "scratch")
    assert len(calls) == (1 if change == "nothing" else 2)


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


def test_untrained_parts_are_the_files_they_came_from_unless_they_were_changed(whole, tmp_path):
    model, out = tmp_path / "model", tmp_path / "out"
    tiny.stable_diffusion(seed=1).save_pretrained(model)
    (model / "text_encoder/model.bin").touch()
    for part in ("text_encoder", "vae"):  # as another version might have written them
        path = next((model / part).glob("*.safetensors"))
        save_file(load_file(path), path, {"format": "pt", "by": "another"})
    pipeline = pipelines.load(str(model))
    pipeline.unet, pipeline.scheduler = whole[0].unet, whole[0].scheduler
    pipeline.vae.half()
    save(pipeline, out, RECIPE)
    copied = [path.relative_to(out) for name in ("text_encoder", "tokenizer", "vae") for path in (out / name).iterdir()]
    assert len(copied) == 4 + len([*(model / "tokenizer").iterdir()])  # of which transformers 4 writes more
    assert all((out / path).read_bytes() == (model / path).read_bytes() for path in copied)
    next(pipeline.vae.parameters()).data.add_(1)
    save(pipeline, out, RECIPE)
    assert_same(load_file(out / "vae/diffusion_pytorch_model.safetensors"), pipeline.vae.state_dict())


def test_the_same_weights_are_the_same_bytes_and_keep_their_tensors(whole, tmp_path):
    """safetensors orders two entries by chance: half of such files would differ."""
    written = set()
    for k in range(8):
        whole[0].unet.save_pretrained(tmp_path / f"{k}")
        for _ in range(2):  # the second time there are two entries
            card.write(tmp_path / f"{k}", whole[0].unet.card)
        written.add(next((tmp_path / f"{k}").glob("*.safetensors")).read_bytes())
    assert len(written) == 1
    assert_same(load_file(next((tmp_path / "0").glob("*.safetensors"))), weights(whole[0]))


def test_only_an_earlier_result_is_replaced(whole, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(FileExistsError, match="and no earlier result"):
        save(whole[0], tmp_path, RECIPE)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_weights_that_are_no_numbers_are_neither_kept_nor_saved(whole, tmp_path):
    def loss(net, y):
        return (net.w - y).abs().sqrt().mean()  # 0, and its slope infinite

    with pytest.raises(FloatingPointError, match=r"weights are not finite after 4 pictures, at lr = .*: lower lr"):
        loop.train(Two(), lambda step: (torch.ones(4),), loss, Recipe(images=4, batch=4), tmp_path, {})
    broken = copy.copy(whole[0])
    broken.unet = copy.deepcopy(broken.unet)
    broken.unet.conv_out.bias.data.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match=r"not finite in torch.float32: nothing is saved"):
        save(broken, tmp_path / "out", RECIPE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), SafetensorError("I/O error: No space left on dev")])
def test_a_full_disk_names_the_remedy_and_leaves_the_last_good_state(error, pipeline, folder, whole, tmp_path):
    def full(*args, **_):
        path = next(z for z in args if isinstance(z, Path))
        path.mkdir() if path.name == ".out.tmp" else path.write_bytes(b"half")
        raise error

    with stopping(3, Interrupted()), pytest.raises(Interrupted):
        fine_tune(pipeline, folder, RECIPE, tmp_path)
    (place,) = tmp_path.iterdir()
    (place / "checkpoint.12345.tmp").touch()  # of a run that was killed while it wrote
    before = (place / "checkpoint.safetensors").read_bytes()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint, "save_file", full)
        with pytest.raises(OSError, match="for the checkpoint of step 8: free some, or give another scratch"):
            fine_tune(pipeline, folder, RECIPE, tmp_path)
    assert [path.name for path in place.iterdir()] == ["checkpoint.safetensors"]
    assert (place / "checkpoint.safetensors").read_bytes() == before
    with stopping(5, AssertionError("began again")):
        result, _ = fine_tune(pipeline, folder, RECIPE, tmp_path)
    assert_same(weights(result), weights(whole[0]))
    save(result, tmp_path / "out", RECIPE)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(result), "save_pretrained", lambda _, *args, **__: full(*args))
        with pytest.raises(OSError, match="for the result: free some, and start again"):
            save(result, tmp_path / "out", RECIPE)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([place.name, "out"])
    assert (tmp_path / "out/model_index.json").is_file()


class Single(TorchDispatchMode):
    """A device without float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        assert not (isinstance(out, torch.Tensor) and out.is_meta and out.dtype == torch.float64), function
        return out


def test_the_step_puts_no_float64_on_the_device(pipeline):
    aim = pipelines.training_target(pipeline, zero_snr=True)[0]
    z, t = torch.empty(2, 4, 4, 4, device="meta"), torch.zeros(2, dtype=torch.long, device="meta")
    with Single():
        tune._objective(lambda x, t, return_dict: (x,), z, z, t, {}, aim, "float32")


def test_captions_that_are_cut_are_said_once(pipeline, tmp_path, caplog):
    pictures = write(tmp_path / "pictures")
    (pictures / "blue.txt").write_text("blue " * 40)
    logging.getLogger("diffusers").propagate = True
    with pytest.warns(UserWarning, match=r"1 captions have more than 77 tokens, and are cut: blue.png") as caught:
        fine_tune(pipeline, pictures, RECIPE, tmp_path / "scratch")
    assert len(caught) == 1
    assert "truncated" not in caplog.text


# the command line


def test_the_command_line_trains_and_saves(pipeline, folder, low_rank, tmp_path, capfd):
    pipeline.save_pretrained(tmp_path / "model")
    capfd.readouterr()
    given = f"--model {tmp_path}/model --folder {folder} --out {tmp_path}/out"
    fields = "--images 32 --batch 4 --lr 3e-3 --warmup 8 --ema-halflife 16 --resolution 8 --seed 5 --precision float32"
    main(f"{given} {fields} --lora-rank 2 --lora-layers all --zero-snr --no-flip".split())
    printed = capfd.readouterr()
    again = tiny.quiet(diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "out"))
    torch.testing.assert_close(draw(again), draw(tiny.quiet(low_rank[0])), rtol=0, atol=1e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "out"]
    first, *rest = printed.out.splitlines()
    assert first == "training 11,216 parameters, rank 2 of the UNet, on 5 pictures at 8 x 8: 8 steps of 4"
    assert re.fullmatch(r"[\d.e-]+ s a step, 0:00:\d\d for the 4 that are left", rest[0])
    assert "20 of 32 pictures" in rest[1]
    assert not printed.err


def test_help_is_whole_and_the_resolution_the_model_s_own(pipeline, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = "".join(capsys.readouterr().out.split())
    assert all("".join(field.metadata["help"].split()) in said for field in dataclasses.fields(FineTune))
    assert pipelines.fitted(FineTune(), pipeline).resolution == 32


def test_a_model_saved_in_half_precision_is_loaded_in_single(tmp_path):
    tiny.stable_diffusion().to(torch.float16).save_pretrained(tmp_path)
    pipeline = pipelines.load(str(tmp_path))
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float32}
