"""What users bring that is not as it should be: each is refused or read rightly, with the remedy."""

import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image

import zsnr
from lab.models import tiny
from zsnr import ZeroSNRScheduler
from zsnr.audit import audit
from zsnr.audit.__main__ import main
from zsnr.diffusers import card, denoiser
from zsnr.finetune import captions
from zsnr.finetune.__main__ import main as tune_main

ZERO = tiny.STABLE_DIFFUSION_1 | {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
ZERO |= {"rescale_betas_zero_snr": True}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A zero-SNR pipeline with the drop-in, and its card."""
    path = tmp_path_factory.mktemp("model") / "fixed"
    pipe = tiny.stable_diffusion(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    pipe.scheduler = ZeroSNRScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    pipe.save_pretrained(path)
    card.write(path, card.Card("v", pipe.scheduler.schedule))
    return path


# the scheduler


def test_a_schedulers_own_sigmas_are_taken_though_float32_rounds_them_up():
    for kind in (diffusers.EulerDiscreteScheduler, diffusers.HeunDiscreteScheduler):
        theirs = kind.from_config(tiny.STABLE_DIFFUSION_1, timestep_spacing="trailing")
        theirs.set_timesteps(10)
        ours = ZeroSNRScheduler.from_config(tiny.STABLE_DIFFUSION_1)
        ours.set_timesteps(sigmas=theirs.sigmas.unique().flip(0).tolist())
        assert ours.timesteps[0] == 999


def test_a_scheduler_for_its_config_is_taken_and_a_path_is_not():
    theirs = DDIMScheduler.from_config(ZERO)
    assert ZeroSNRScheduler.from_config(theirs).config == ZeroSNRScheduler.from_config(theirs.config).config
    with pytest.raises(ValueError, match="from_pretrained reads those"):
        ZeroSNRScheduler.from_config("some/folder")


def test_a_table_may_be_given_as_betas_and_learned_variances_are_refused():
    theirs = diffusers.CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    betas = zsnr.from_scheduler(theirs).betas.tolist()
    ours = ZeroSNRScheduler.from_config(theirs.config, snr_shift_scale=1.0, trained_betas=betas)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod.float(), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"learned_range.*first half"):
        ZeroSNRScheduler.from_config(ZERO | {"variance_type": "learned_range"})


def test_grids_that_are_not_known_are_named(caplog):
    ZeroSNRScheduler.from_config(ZERO | {"use_exponential_sigmas": True, "thresholding": True})
    assert "use_exponential_sigmas" in caplog.text
    assert "thresholding" in caplog.text


def test_torch_betas_are_saved(tmp_path):
    betas = zsnr.rescale_zero_terminal_snr(zsnr.schedule.cosine()).betas
    ZeroSNRScheduler(trained_betas=betas, prediction_type="v_prediction").save_pretrained(tmp_path)
    again = ZeroSNRScheduler.from_pretrained(tmp_path)
    torch.testing.assert_close(again.schedule.betas, betas)


def test_a_sigma_of_zero_is_not_the_default():
    with pytest.raises(ValueError, match="rho steps need 0 < sigma_min < sigma_max"):
        ZeroSNRScheduler.from_config(ZERO, levels="karras", sigma_max=0.0)


def test_a_strength_that_leaves_no_step_says_so():
    pipe = tiny.stable_diffusion()
    pipe.scheduler = ZeroSNRScheduler.from_config(ZERO)
    pipe = tiny.quiet(StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False))
    with pytest.raises(ValueError, match="no timesteps are left: the strength is too small"):
        pipe("a", image=torch.rand(1, 3, 32, 32), strength=0.05, num_inference_steps=10)


# the audit and the card


def test_a_pipeline_saved_with_the_drop_in_is_sound(saved, capsys):
    report = audit(saved, counts=[10, 25, 61])
    assert report.ok, report
    assert report.facts["card"] == "v, terminal SNR 0"
    assert audit(json.loads((saved / "scheduler/scheduler_config.json").read_text()), counts=[25]).ok
    for levels in ("power", "karras", "uniform"):
        assert audit(ZeroSNRScheduler.from_config(ZERO, levels=levels), counts=[10, 50, 400, 1000]).ok


def test_what_diffusers_loaded_is_not_sampled_against_its_card(saved):
    pipe = StableDiffusionPipeline.from_pretrained(saved)
    assert denoiser(pipe.unet, pipe.scheduler).prediction == "v"
    with pytest.raises(ValueError, match="it predicts v, not eps"):
        denoiser(pipe.unet, DDIMScheduler.from_config(tiny.STABLE_DIFFUSION_1))
    zsnr.NetworkDenoiser(pipe.unet, zsnr.schedule.stable_diffusion(), "eps")  # looks for no file
    pipe.scheduler = DDIMScheduler.from_config(tiny.STABLE_DIFFUSION_1)
    wrong = [one for one in audit(pipe, counts=[25]).findings if one.name == "card"]
    assert "not eps" in wrong[0].what


def test_broken_weights_and_cards_cannot_be_read(saved, tmp_path, capsys):
    broken = tmp_path / "model"
    tiny.stable_diffusion().save_pretrained(broken)
    file = next((broken / "unet").glob("*.safetensors"))
    file.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert main([str(broken)]) == 2
    assert "is no safetensors file" in capsys.readouterr().err
    with pytest.raises(ValueError, match="card cannot be read"):
        card.Card.from_json("{}")


# pictures and folders


def test_sixteen_bits_are_read_as_eight(tmp_path):
    for value in (0, 10_000, 65_535):
        Image.fromarray(np.full((20, 20), value, np.uint16)).save(tmp_path / "grey.png")
        pixels, _ = captions.picture(tmp_path / "grey.png", 16)
        assert pixels.mean().item() == pytest.approx(2 * value / 65_535 - 1, abs=1 / 127)


def test_captions_may_hold_any_character_and_hidden_files_are_not_pictures(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / "._0.png").write_bytes(b"not a picture")
    (tmp_path / ".trash").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / ".trash/1.png")
    said = "one\u2028two\u0085three"
    (tmp_path / "metadata.jsonl").write_text(
        json.dumps({"file_name": "0.png", "text": said}, ensure_ascii=False) + "\r\n", encoding="utf-8"
    )
    assert captions.captioned(tmp_path) == [(tmp_path / "0.png", said)]


def test_only_the_runs_own_checkpoints_are_removed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny.stable_diffusion().save_pretrained("model")
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save("pictures/0.png")
    (tmp_path / "pictures/0.txt").write_text("black")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch/notes.txt").write_text("precious")
    sizes = ["--images", "2", "--batch", "2", "--resolution", "8"]
    tune_main(["--model", "model", "--folder", "pictures", "--out", "out", "--scratch", "scratch", *sizes])
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["notes.txt"]
    with pytest.raises(SystemExit, match=r"no folder /nope, and none to be had on the hub"):
        tune_main(["--model", "/nope", "--folder", "pictures", "--out", "other"])
