"""Captioned pictures, a VAE trained a little, and the direction of latents that carries the level."""

import hashlib
import json

import pytest
import torch
from interrupted import Interrupted, interrupted_after, same
from PIL import Image

from lab.models import data, text_data, tiny
from zsnr import brightness
from zsnr.finetune.loop import generator


@pytest.fixture(scope="module")
def images():
    """Ten grey squares of one class, darker and lighter."""
    image = torch.zeros(10, 1, 32, 32, dtype=torch.uint8)
    image[:, :, 8:24, 8:24] = torch.arange(20, 220, 20, dtype=torch.uint8).view(-1, 1, 1, 1)
    return data.Images(image, image > 0, torch.arange(10) % 2, ("trouser", "bag"))


@pytest.fixture(scope="module")
def vae():
    return tiny.stable_diffusion().vae


def files(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_folder_is_what_users_have(images, tmp_path):
    """Read by the fine-tuning's own reader; each caption says the class, and the word of the picture's own level."""
    text_to_image = pytest.importorskip("zsnr.finetune")
    text_data.export(images, tmp_path, 40)
    pairs = text_to_image.captioned(tmp_path)
    assert len(pairs) == 40
    words = []
    for path, text in pairs:
        a, name, on, backdrop = text.split(" ")
        assert (a, on) == ("a", "on")
        assert name in images.classes
        with Image.open(path) as picture:
            assert (picture.mode, picture.size) == ("RGB", (32, 32))
            level = picture.getpixel((0, 0))[0] / 127.5 - 1
        middle = -0.8 + 0.4 * data.WORDS.index(backdrop)
        assert abs(level - middle) <= 0.2 + 1 / 255  # half a word's range, and half a grey level's rounding
        words.append(backdrop)
    assert len(set(words)) == 5


def test_an_export_is_repeated_byte_for_byte_and_another_seed_gives_other_pictures(images, tmp_path):
    first, again, other = (
        text_data.export(images, tmp_path / name, 6, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert files(first) == files(again)
    assert files(first) != files(other)
    lines = [json.loads(line) for line in (first / "metadata.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == [f"0000{i}.png" for i in range(6)]


def test_prompts_ask_for_the_classes_in_turn():
    assert text_data.prompts(("bag", "coat"), "black", 3) == ["a bag on black", "a coat on black", "a bag on black"]


@pytest.mark.parametrize("n", [0, -1])
def test_an_empty_export_is_refused(images, tmp_path, n):
    with pytest.raises(ValueError, match=f"n = {n}"):
        text_data.export(images, tmp_path, n)


def test_the_trained_vae_carries_the_level_in_latents_of_unit_std(images, vae, tmp_path):
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    trained, history = text_data.autoencoder(vae, images, tmp_path, pictures=1024, batch=16, lr=1e-2)
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    assert vae.config.scaling_factor == 0.18215  # the given one is left as it is
    x = text_data.rgb(images.draw(2000, generator(5))[0])
    z = text_data.latents(trained, x)
    assert z.shape == (2000, 4, 16, 16)
    assert z.std().item() == pytest.approx(1, abs=0.06)  # other pictures than those of the measurement
    error = {
        one: (text_data.decode(one, text_data.latents(one, x)) - x).square().mean().item() for one in (vae, trained)
    }
    assert error[trained] < x.var().item() / 3 < error[vae]  # a constant picture has the variance
    assert history[-1][1] < history[0][1] / 2
    assert all(p.requires_grad for p in trained.parameters())


def test_the_vae_goes_on_from_a_checkpoint_to_the_same_weights(images, vae, tmp_path, saving_always, capsys):
    whole, _ = text_data.autoencoder(vae, images, tmp_path / "whole", pictures=64, batch=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data.Images, "draw", interrupted_after(2, data.Images.draw))
        with pytest.raises(Interrupted):
            text_data.autoencoder(vae, images, tmp_path / "cut", pictures=64, batch=16)
    resumed, _ = text_data.autoencoder(vae, images, tmp_path / "cut", pictures=64, batch=16)
    assert "going on from" in capsys.readouterr().err
    assert resumed.config.scaling_factor == whole.config.scaling_factor
    assert same(resumed, whole)


@pytest.mark.parametrize(("name", "value"), [("images", 0), ("batch", -1), ("lr", 0.0)])
def test_a_vae_recipe_that_cannot_be_trained_is_refused(images, vae, tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} = {value}"):
        text_data.autoencoder(
            vae, images, tmp_path, **{"pictures": 8, "batch": 4} | {name.replace("images", "pictures"): value}
        )


def gaussian(n=20_000, within=9.0):
    """Latents that move by 10 a level along one direction, and vary by `within` there beside it."""
    g = generator(7)
    d = torch.randn(4 * 4 * 4, generator=g, dtype=torch.float64)
    d /= d.norm()
    level = 2 * torch.rand(n, generator=g, dtype=torch.float64) - 1
    label = torch.randint(2, (n,), generator=g)
    z = torch.randn(n, len(d), generator=g, dtype=torch.float64)
    z += torch.outer(10 * level + 5 + (within**0.5 - 1) * (z @ d), d)
    return z.view(n, 4, 4, 4), level.view(-1, 1, 1, 1).expand(-1, 3, 8, 8), label


def test_the_direction_is_found_and_what_the_data_do_along_it():
    z, x, label = gaussian()
    found = text_data.direction(z, x, label)
    spread = 10**2 * 0.4**2 / 12  # of the levels in one fifth, uniform
    assert found.variance == pytest.approx(100 / 3 + 9, rel=0.03)
    assert found.within == pytest.approx([9 + spread] * 5, rel=0.06)
    assert found.levels == pytest.approx([-0.8, -0.4, 0, 0.4, 0.8], abs=0.01)
    assert found.mean == pytest.approx([-3, 1, 5, 9, 13], abs=0.2)
    assert found.correlation == pytest.approx((100 / 3 / (100 / 3 + 9)) ** 0.5, abs=0.01)


def test_the_prediction_is_the_law_read_as_a_level():
    found = text_data.direction(*gaussian())
    assert found.predicted(0.0) == pytest.approx(found.levels)  # zero SNR: no leak
    for k, level in enumerate(found.predicted(0.01)):
        mean, _ = brightness.predicted(0.01, found.within[k], found.mean[k])
        assert level == pytest.approx(found.levels[k] + found.slope * (mean - found.mean[k]))
    assert found.predicted(0.01)[4] < found.levels[4] - 0.05
    assert found.predicted(0.01)[0] > found.levels[0]


def test_too_few_pictures_to_know_their_spread_are_refused():
    z, x, label = gaussian(4)
    with pytest.raises(ValueError, match=r"too few of the 4 pictures are on \w+"):
        text_data.direction(z, x, label)
