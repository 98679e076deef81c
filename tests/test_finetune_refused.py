"""Recipes, models and launches that fine-tuning refuses: in a line, with the remedy, before any work."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from tuning import RECIPE, write

from lab.models import tiny
from zsnr.diffusers import card
from zsnr.finetune import fine_tune, loop, lora, pipelines
from zsnr.finetune.__main__ import main
from zsnr.schedule import rescale_zero_terminal_snr, stable_diffusion


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "pictures")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed = -1: must not be negative"),
        ({"batch": 2.5}, "batch = 2.5: must be a whole number"),
        ({"images": True}, "images = True: must be a whole number"),
        ({"lr": float("inf")}, "lr = inf: must be a finite number"),
        ({"clip": float("nan")}, "clip = nan: must be a finite number"),
        ({"lr": 10**400}, "lr = 10+: must be a finite number"),
        ({"lr": "1e-3"}, "lr = '1e-3': must be a finite number"),
        ({"zero_snr": "no"}, "zero_snr = 'no': must be True or False"),
        ({"lora_rank": 100_000}, "lora_rank = 100000: this UNet's layers have at most 32"),
        ({"accumulate": 0}, "accumulate = 0"),
        ({"lora_rank": -1}, "lora_rank = -1"),
        ({"unconditional": 1.5}, r"unconditional = 1.5.*\[0, 1\]"),
        ({"lora_rank": 2, "lora_layers": "some"}, "'some'; choose attention or all"),
        ({"resolution": 10}, "resolution = 10: .* multiple of 4"),
        ({"accumulate": 3}, r"batch of 4 does not divide over 1 processes of 3 micro-batches each: .* multiple of 3"),
    ],
)
def test_a_recipe_that_cannot_be_trained(change, message, folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        fine_tune(tiny.stable_diffusion(), folder, dataclasses.replace(RECIPE, **change), tmp_path)
    assert not list(tmp_path.iterdir())


V = card.Card("v", rescale_zero_terminal_snr(stable_diffusion()))


def zero_snr_of_eps(pipeline):
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, rescale_betas_zero_snr=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: tiny.unconditional(), "DDPMPipeline cannot be fine-tuned here: load .* StableDiffusionPipeline"),
        (lambda p: p.unet.register_to_config(in_channels=9), "9 channels, and the VAE has 4"),
        (lambda p: lora.adapted(p.unet, 2, "attention", 0) and None, "has an adapter: fuse it"),
        (lambda p: setattr(p.vae, "_hf_hook", object()), r"remove_all_hooks\(\)"),
        (lambda p: setattr(p, "scheduler", diffusers.EDMEulerScheduler()), "EDMEulerScheduler has no table"),
        (zero_snr_of_eps, "predicts v or x0"),
        (
            lambda p: p.unet.conv_in.to("meta") and None,
            "the unet's weights lack conv_in.weight, conv_in.bias",
        ),
        (lambda p: p.vae.register_to_config(scaling_factor=None), "scaling_factor is None.*mend its config"),
        (lambda p: p.vae.register_to_config(scaling_factor=0), "scaling_factor is 0"),
        (lambda p: p.vae.register_to_config(shift_factor=float("nan")), "its shift_factor nan"),
        (
            lambda p: p.__dict__.update(tokenizer=range(2)),  # as transformers 5 makes one of no files
            "text_encoder has 514 tokens, tokenizer 2:",
        ),
        (lambda p: setattr(p.unet, "card", V), "the network's card contradicts this use: it predicts v, not eps"),
        (
            lambda p: p.unet.register_to_config(sample_size=None),
            "resolution = 0, .* has no sample_size",
        ),
    ],
)
def test_a_pipeline_that_cannot_be_trained(change, message, folder, tmp_path):
    pipeline = tiny.stable_diffusion()
    pipeline = change(pipeline) or pipeline
    recipe = dataclasses.replace(RECIPE, zero_snr=change is not zero_snr_of_eps, resolution=0)
    with pytest.raises(ValueError, match=message):
        fine_tune(pipeline, folder, recipe, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("launched", "message"),
    [
        ({"mixed_precision": "fp16"}, "fp16, but the recipe says float32"),
        ({"gradient_accumulation_steps": 2}, "`accumulate`"),
        ({"distributed_type": DistributedType.FSDP}, "FSDP splits the weights"),
        ({"num_processes": 3}, "does not divide over 3 processes of 1 micro-batches"),
    ],
)
def test_a_launch_that_contradicts_the_recipe(launched, message):
    usual = {"mixed_precision": "no", "gradient_accumulation_steps": 1, "num_processes": 1, "distributed_type": "NO"}
    loop.check_launch(SimpleNamespace(**usual), RECIPE, 1)
    with pytest.raises(ValueError, match=message):
        loop.check_launch(SimpleNamespace(**usual | launched), RECIPE, 1)


def test_a_checkpoint_that_only_some_machines_see(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Accelerator, "gather", lambda self, z: z.new_tensor([0, 3]))
    with pytest.raises(ValueError, match=r"not all processes see the checkpoint in .* every machine can read"):
        fine_tune(tiny.stable_diffusion(), folder, RECIPE, tmp_path)


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
    given = {"--model": "empty", "--folder": str(folder), "--out": "out"} | {option: value}
    with pytest.raises(SystemExit, match=message):
        main([z for pair in given.items() for z in pair])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "taken"]


def test_the_same_command_after_a_kill_before_the_cleaning(folder, tmp_path, monkeypatch):
    """The result is there, and so is the finished training: the command ends as it would have, but no other does."""
    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    out, scratch = tmp_path / "out", tmp_path / "out-scratch"
    command = f"--model {tmp_path}/model --folder {folder} --out {out} --images 2 --batch 2 --resolution 8".split()
    with monkeypatch.context() as killed:
        killed.setattr(loop, "clean", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(command)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match="out is there already: choose"):
        main([*command, "--lr", "1e-3"])  # another training
    aside = out.rename(tmp_path / "aside")
    out.mkdir()
    (out / "notes").touch()
    with pytest.raises(SystemExit, match="out is there already, and no earlier result"):
        main(command)
    assert [path.name for path in out.iterdir()] == ["notes"]
    (out / "notes").unlink()
    aside.rename(out)
    monkeypatch.setattr(loop, "_average", lambda *_: pytest.fail("trained again"))
    main(command)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not scratch.exists()
    with pytest.raises(SystemExit, match="out is there already: choose"):
        main(command)


def lose(part: Path) -> None:
    """Take a tensor out of a part's weights."""
    tensors = load_file(part)
    tensors.pop(max(tensors))
    save_file(tensors, part, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: shutil.rmtree(m / "tokenizer"), "lacks tokenizer, of its model_index.json"),
        (lambda m: (m / "model_index.json").write_text("[]"), "is not a pipeline's index"),
        (lambda m: (m / "model_index.json").write_text("{"), "is not a pipeline's index"),
        (lambda m: (m / "model_index.json").write_text("{}"), "cannot be loaded: '_class_name'"),
        (lambda m: (m / "model_index.json").write_text('{"_class_name": "Nope"}'), "cannot be loaded: .*Nope"),
        (lambda m: shutil.rmtree(m) or m.write_text("one file"), "is one file: .*from_single_file"),
        (lambda m: lose(m / "unet/diffusion_pytorch_model.safetensors"), "the unet's weights lack .* at random: down"),
        (lambda m: lose(m / "vae/diffusion_pytorch_model.safetensors"), "the vae's weights lack"),
        (
            lambda m: lose(m / "text_encoder/model.safetensors"),
            "the text_encoder's weights lack .* version of transformers",
        ),
    ],
)
def test_a_damaged_model(change, message, folder, tmp_path):
    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises(SystemExit, match=message):
        main(f"--model {tmp_path}/model --folder {folder} --out {tmp_path}/out --images 2 --batch 2".split())
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_model_that_is_nowhere(monkeypatch):
    def none(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", none)
    with pytest.raises(FileNotFoundError, match=r"no folder some/model, and none to be had on the hub: no connection"):
        pipelines.load("some/model")
