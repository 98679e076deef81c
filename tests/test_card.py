"""The card in the weights: written, read, and in the way of sampling a network as what it is not."""

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import zsnr
from lab.models import data, network, tiny, training
from zsnr import NetworkDenoiser
from zsnr.audit import audit
from zsnr.diffusers import card, denoiser
from zsnr.diffusers.card import Card

SD = zsnr.schedule.stable_diffusion()
ZERO = zsnr.rescale_zero_terminal_snr(SD)


def test_what_is_written_is_read_and_the_tensors_stay(tmp_path):
    path = tmp_path / "weights.safetensors"
    tensors = {"a": torch.randn(3, 4), "b": torch.randn(5).half()}
    save_file(tensors, path, {"format": "pt", "other": "kept"})
    assert card.read(path) is None
    card.write(path, Card("v", ZERO, 0.5, {"seed": 3, "widths": [4, 8]}))
    got = card.read(path)
    assert (got.prediction, got.sigma_data, got.zero_snr) == ("v", 0.5, True)
    assert got.facts == {"seed": 3, "widths": [4, 8]}
    assert torch.equal(got.schedule.sqrt_alpha_bar, ZERO.sqrt_alpha_bar)
    card.write(path, Card("x0", SD))  # in place of the first
    assert (card.read(path).prediction, card.read(path).facts) == ("x0", {})
    assert all(torch.equal(v, tensors[k]) for k, v in load_file(path).items())
    with safe_open(path, "pt") as file:
        assert file.metadata()["other"] == "kept"


def test_a_saved_pipeline_carries_it_and_diffusers_does_not_mind(tmp_path):
    pipe = tiny.stable_diffusion(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    pipe.save_pretrained(tmp_path)
    card.write(tmp_path, Card("v", ZERO))
    again = StableDiffusionPipeline.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(pipe.unet.parameters(), again.unet.parameters(), strict=True))
    found = card.read(tmp_path)
    found.check_scheduler(again.scheduler)
    found.check_scheduler(zsnr.ZeroSNRScheduler.from_config(again.scheduler.config))
    assert card.read(tmp_path / "unet").prediction == "v"
    with pytest.raises(ValueError, match=r"it predicts v, not eps; .*with zero terminal SNR, not terminal SNR 0\.0046"):
        found.check_scheduler(DDIMScheduler.from_config(tiny.STABLE_DIFFUSION_1))


def test_the_audit_of_a_saved_pipeline_reads_it(tmp_path):
    fixed = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    tiny.stable_diffusion(**fixed).save_pretrained(tmp_path)
    assert "card" not in audit(tmp_path, counts=[25]).facts
    card.write(tmp_path, Card("v", ZERO))
    report = audit(tmp_path, counts=[25])
    assert report.facts["card"] == "v, terminal SNR 0"
    assert not [one for one in report.findings if one.name == "card"]
    DDIMScheduler.from_config(tiny.STABLE_DIFFUSION_1).save_pretrained(tmp_path / "scheduler")
    wrong = next(one for one in audit(tmp_path, counts=[25]).findings if one.name == "card")
    assert wrong.severity == "flaw"
    assert "it predicts v, not eps" in wrong.what


@pytest.mark.parametrize(
    ("prediction", "schedule", "message"),
    [
        ("eps", SD, "it predicts v, not eps"),
        ("v", SD, r"a schedule with zero terminal SNR, not terminal SNR 0\.0046"),
        ("v", zsnr.schedule.cosine(max_beta=None), r"its schedule is another \(sqrt\(alpha_bar\) differs by 0\.\d+\)"),
        (
            "v",
            zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion(500)),
            "trained on T = 1000 steps, not 500",
        ),
    ],
)
def test_a_network_is_not_sampled_as_what_it_is_not(prediction, schedule, message):
    model = torch.nn.Conv2d(1, 1, 1)
    model.card = Card("v", ZERO)
    NetworkDenoiser(model, ZERO, "v")
    NetworkDenoiser(model, zsnr.from_alpha_bar(ZERO.alpha_bar.float()), "v")  # a float32 table is the same
    with pytest.raises(ValueError, match=message):
        NetworkDenoiser(model, schedule, prediction)


def test_a_unet_and_its_scheduler_make_a_denoiser():
    pipe = tiny.unconditional(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for whole in (False, True):
        want = NetworkDenoiser(pipe.unet, ZERO, "v", whole_steps=whole)(x, 1.0)
        torch.testing.assert_close(denoiser(pipe.unet, pipe.scheduler, whole_steps=whole)(x, 1.0), want)
    assert denoiser(pipe.unet, pipe.scheduler, class_labels=None).conditions == {"class_labels": None}
    with pytest.raises(ValueError, match="eps-prediction with zero terminal SNR"):
        denoiser(pipe.unet, DDIMScheduler(rescale_betas_zero_snr=True))


def test_sigma_data_is_checked_where_it_is_said():
    Card("v", ZERO, 0.5).check("v", ZERO)
    with pytest.raises(ValueError, match=r"sigma_data is 0\.5, not 1"):
        Card("v", ZERO, 0.5).check("v", ZERO, 1.0)


def test_networks_trained_here_have_one_before_and_after_they_are_saved(tmp_path):
    def draw(n, g):
        return torch.randn(n, 1, 32, 32, generator=g), torch.zeros(n, 2, dtype=torch.long)

    start = network.ConditionalUNet(widths=(4, 8))
    start.card = Card("eps", SD)  # what it was; training makes it another
    recipe = training.ScheduleRecipe("v", images=4, batch=2, warmup=0)
    trained, _ = training.fit(start, draw, ZERO, recipe, tmp_path)
    assert trained.card.prediction == "v"
    assert trained.card.zero_snr
    network.save(tmp_path / "w.safetensors", trained, variant="zsnr", prediction="v")
    loaded, said = network.load(tmp_path / "w.safetensors")
    assert said == {"variant": "zsnr", "prediction": "v"}
    with pytest.raises(ValueError, match="not eps"):
        NetworkDenoiser(loaded, SD, "eps")
    assert data.WORDS  # the conditions above are a class and a word


def test_a_network_that_edm_preconditions_is_not_sampled_by_itself(tmp_path):
    network.save(tmp_path / "w.safetensors", network.ConditionalUNet(widths=(4, 8)), seed=0)
    loaded, facts = network.load(tmp_path / "w.safetensors")
    assert (str(loaded.card), facts) == ("F", {"seed": 0})
    with pytest.raises(ValueError, match=r"zsnr\.edm\.Preconditioned"):
        NetworkDenoiser(loaded, SD, "eps")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Card("eps", ZERO), "eps-prediction with zero terminal SNR"),
        (lambda: Card("F", SD), "unknown prediction 'F'"),
        (lambda: Card("v", None), "predicts v has a schedule: give it"),
        (lambda: Card("v", SD, 0.0), r"sigma_data = 0\.0"),
    ],
)
def test_cards_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_path_without_weights_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \.safetensors at"):
        card.read(tmp_path)
