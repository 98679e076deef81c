"""Pictures of known brightness: how they are made and measured, and what damaged or missing files lead to."""

import functools
import gzip
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.nn.functional import avg_pool2d, pad

from lab import ROOT
from lab.models import data
from lab.models.data import WORDS, level, word
from lab.studies import sample_steps
from zsnr.finetune.loop import generator

SOURCE = ROOT / "data/fashion-mnist"


@functools.cache
def fashion(split: str) -> data.Images:
    """Fails with `dvc pull` as the remedy in a checkout without data."""
    return data.load(SOURCE, split)


@pytest.mark.parametrize(("split", "prefix", "n"), [("train", "train", 60000), ("test", "t10k", 10000)])
def test_fashion_mnist_is_all_there_in_its_order(split, prefix, n):
    images = fashion(split)
    assert len(images) == n
    assert images.label.bincount().tolist() == [n // 10] * 10
    raw = gzip.decompress((SOURCE / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((SOURCE / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
    for i in (0, 17, n - 1):
        pixels = np.frombuffer(raw[16 + i * 784 : 16 + (i + 1) * 784], np.uint8).reshape(28, 28)
        alpha = images.matte[i, 0]
        assert np.array_equal(alpha, by_scipy(np.pad(pixels, 2)))
        assert np.array_equal(images.image[i, 0, 2:-2, 2:-2], np.minimum(pixels, alpha[2:-2, 2:-2]))
        assert images.label[i] == labels[8 + i]
    assert not images.matte[..., [0, 1, 30, 31]].any()
    assert not images.matte[..., [0, 1, 30, 31], :].any()


def by_scipy(p):
    """The matte of one garment, by scipy's morphology."""
    square = np.ones((3, 3))
    silhouette = ndimage.binary_closing(np.pad(p > 15, 2), square)[2:-2, 2:-2]
    inner, outer = ndimage.binary_erosion(silhouette, square), ndimage.binary_dilation(silhouette, square)
    rim = 255 * p.astype(float) / np.maximum(ndimage.grey_dilation(p, (3, 3)), 1)
    return np.where(inner, 255, np.where(outer, rim.round(), 0))


def test_the_backdrops_pixels_and_what_one_value_adds_along_them():
    """Of a picture with 768 pixels of backdrop and 256 of half of it."""
    matte = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    matte[..., 8:24, 8:24] = 51
    images = data.Images(torch.zeros_like(matte), matte, torch.zeros(1, dtype=torch.int64), ("one",))
    n = 768 + 256 * 0.8**2
    assert images.pixels() == pytest.approx(n)
    assert images.offset() == pytest.approx((768 + 256 * 0.8) ** 2 / n)


def test_finding_2_counts_the_backdrops_pixels():
    assert round(fashion("train").pixels()) == sample_steps.BACKDROP


def test_no_specks_around_garments():
    """What varies fast in a picture is the garment: a rim that is cut off adds to it on every backdrop but black."""
    images, level = fashion("test"), torch.full((500,), 0.8)
    soft = images.compose(torch.arange(500), level)
    raw = gzip.decompress((SOURCE / "t10k-images-idx3-ubyte.gz").read_bytes())[16 : 16 + 500 * 784]
    pixels = torch.from_numpy(np.frombuffer(raw, np.uint8).reshape(-1, 1, 28, 28).copy())
    hard = pad(torch.where(pixels > 0, pixels / 127.5 - 1, 0.8), (2, 2, 2, 2), value=0.8)
    fast = [(x - avg_pool2d(x, 3, 1, 1)).square().mean().item() for x in (soft, hard)]
    assert fast[0] < 0.4 * fast[1]


def test_a_picture_is_the_garment_where_it_is_and_the_backdrop_elsewhere():
    images, levels = fashion("test"), [-1.0, -0.3, 0.0, 0.77]
    pictures = images.compose(torch.tensor([3, 1, 4, 1]), torch.tensor(levels))
    for x, i, c in zip(pictures, [3, 1, 4, 1], levels, strict=True):
        g, alpha = images.image[i].numpy() / 255, images.matte[i].numpy() / 255
        expected = 2 * (g + (1 - alpha) * (c + 1) / 2) - 1
        np.testing.assert_allclose(x.numpy(), expected, atol=1e-6)
    assert pictures.dtype == torch.float32
    assert pictures.abs().max() <= 1


def test_the_level_is_read_back_from_a_picture():
    levels = 2 * torch.rand(500, generator=generator(0)) - 1
    x = fashion("test").compose(torch.arange(500), levels)
    torch.testing.assert_close(level(x), levels, rtol=0, atol=2e-6)
    torch.testing.assert_close(level(x.double()), levels.double(), rtol=0, atol=1e-12)


def test_the_level_is_the_mean_of_the_240_pixels_of_the_frame():
    x = torch.randn(5, 3, 32, 32, generator=generator(0), dtype=torch.float64)
    frame = np.ones((32, 32), bool)
    frame[2:-2, 2:-2] = False
    assert frame.sum() == 240
    np.testing.assert_allclose(level(x), x.numpy()[:, :, frame].mean((1, 2)), atol=1e-12)


def test_words_are_the_fifths():
    levels = torch.tensor([-1, -0.61, -0.59, -0.21, -0.19, 0.19, 0.21, 0.59, 0.61, 1, -1.3, 1.3])
    names = [WORDS[i] for i in word(levels)]
    assert names == ["black"] * 2 + ["dark"] * 2 + ["grey"] * 2 + ["light"] * 2 + ["white"] * 2 + ["black", "white"]


def test_drawn_levels_are_uniform_and_images_are_all_of_them():
    x, conditions = fashion("test").draw(20000, generator(0))
    levels = level(x).double()
    assert levels.mean().abs() < 4 / math.sqrt(3 * 20000)
    assert levels.var().item() == pytest.approx(1 / 3, rel=0.03)
    assert levels.pow(4).mean().item() == pytest.approx(1 / 5, rel=0.04)
    assert (conditions[:, 0].bincount(minlength=10) > 1800).all()
    assert (conditions[:, 1] == len(WORDS)).all(), "no words unless asked for"


def test_shares_of_words_and_of_pictures_without_condition():
    n = 20000
    x, conditions = fashion("test").draw(n, generator(0), captioned=0.3, unconditional=0.2)
    assert conditions.shape == (n, 2)
    free, spoken = conditions[:, 0] == 10, conditions[:, 1] != len(WORDS)
    assert free.float().mean().item() == pytest.approx(0.2, abs=0.012)
    assert spoken[~free].float().mean().item() == pytest.approx(0.3, abs=0.015)
    assert not spoken[free].any()
    assert torch.equal(conditions[spoken, 1], word(level(x[spoken])))


def test_a_condition_is_the_class_of_its_picture():
    inside = torch.zeros(10, 1, 32, 32, dtype=torch.uint8)
    inside[..., 10:20, 10:20] = 1
    image = torch.arange(5, 255, 25).byte().view(-1, 1, 1, 1) * inside
    images = data.Images(image, 255 * inside, torch.arange(10), data.CLASSES)
    x, conditions = images.draw(200, generator(0))
    assert torch.equal(((x[:, 0, 15, 15] + 1) * 127.5 / 25).long(), conditions[:, 0])


def test_all_or_no_condition():
    images = fashion("test")
    assert (images.draw(200, generator(0), 1.0)[1] < torch.tensor([10, 5])).all()
    assert (images.draw(200, generator(0), 1.0, 1.0)[1] == torch.tensor([10, 5])).all()


def test_a_draw_is_its_generators():
    images = fashion("test")
    first, second, third = (images.draw(8, generator(s), 0.5, 0.5) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], third[0])


@pytest.fixture
def copied(tmp_path) -> Path:
    """The four files, in a folder that may be spoiled."""
    for name in data.SHA256:
        (tmp_path / name).symlink_to(SOURCE / name)
    return tmp_path


@pytest.mark.parametrize("name", ["t10k-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"])
def test_a_truncated_file_is_named_with_the_remedy(copied, name):
    raw = (SOURCE / name).read_bytes()
    (copied / name).unlink()
    (copied / name).write_bytes(raw[:-1])
    with pytest.raises(ValueError, match=rf"{name} is damaged \({len(raw) - 1} bytes(.|\n)*dvc pull"):
        data.load(copied, "test")


def test_a_missing_file_is_named_with_the_remedy(copied):
    (copied / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-labels-idx1-ubyte.gz is missing(.|\n)*dvc pull"):
        data.load(copied)


def test_a_missing_folder_says_where_data_comes_from(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere(.|\n)*dvc pull(.|\n)*data.source"):
        data.load(tmp_path / "nowhere")


@pytest.mark.parametrize("present", [0, 1])
def test_a_folder_without_images_is_refused(tmp_path, present):
    (tmp_path / "notes.txt").write_text("no image")
    for i in range(present):
        Image.new("L", (32, 32)).save(tmp_path / f"{i}.png")
    with pytest.raises(FileNotFoundError, match=f"{present} images(.|\n)*data.source"):
        data.load(tmp_path)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'validation'; choose train or test"):
        data.load(SOURCE, "validation")


def folder(root: Path, mode: str, n: int = 15) -> Path:
    """n odd-sized images, one grey each, in two classes and at the top."""
    for i in range(n):
        place = root / ("cats", "dogs/puppies", ".")[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        grey = 10 * i + 5
        suffix = ("png", "PNG", "bmp")[i % 3]
        Image.new(mode, (20 + 7 * i, 50 - 2 * i), grey if mode == "L" else (grey,) * 3).save(place / f"{i:02}.{suffix}")
    return root


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_any_folder_of_images(tmp_path, mode, channels):
    train, test = (data.load(folder(tmp_path, mode), split) for split in ("train", "test"))
    assert train.classes == test.classes == ("cats", "dogs", "image")
    greys = [images.image[:, 0, 0, 0].tolist() for images in (train, test)]
    assert sorted(greys[0] + greys[1]) == [10 * i + 5 for i in range(15)], "the splits are disjoint and complete"
    assert len(test) == 2
    for images in (train, test):
        assert images.image.shape[1:] == (channels, 32, 32)
        assert (images.image == images.image[:, :1, :1, :1]).all()
        assert [("cats", "dogs", "image")[(g - 5) // 10 % 3] for g in images.image[:, 0, 0, 0].tolist()] == [
            images.classes[i] for i in images.label
        ]
    x, conditions = test.draw(10, generator(0), captioned=1.0)
    assert x.shape == (10, channels, 32, 32)
    torch.testing.assert_close(level(x), x[:, 0, 0, 0], rtol=0, atol=1e-5)
    assert torch.equal(conditions[:, 1], word(x[:, 0, 0, 0]))


@pytest.mark.parametrize("n", [4, 6, 7, 8])
def test_small_folders_have_both_splits(tmp_path, n):
    folder(tmp_path, "L", n)
    train, test = (data.load(tmp_path, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (n - 1, 1)
    assert set(train.label.tolist()) == {0, 1, 2}


def test_no_class_is_in_the_test_split_alone(tmp_path):
    folder(tmp_path, "L", 3)
    with pytest.raises(ValueError, match=r"no class of .* has two images.*: cats, dogs, image"):
        data.load(tmp_path)
    for i in range(6):
        Image.new("L", (40, 40), 9).save(tmp_path / f"cats/{i}.png")
    shutil.move(tmp_path / "02.bmp", tmp_path / "cats/02.bmp")
    train, test = (data.load(tmp_path, split) for split in ("train", "test"))  # 8 of cats, and the ninth alone
    assert set(train.label.tolist()) == {0, 1}
    assert test.label.tolist() == [0]


def test_images_are_upright_and_hidden_ones_are_left(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    half = Image.fromarray(np.repeat(np.array([[0], [255]], np.uint8), [16, 16], axis=0).repeat(32, 1))
    for name in ("a.png", "b.png"):
        half.save(tmp_path / name, exif=exif)
    (tmp_path / ".thumbnails").mkdir()
    half.save(tmp_path / ".thumbnails/a.png")
    half.save(tmp_path / "._a.png")
    train = data.load(tmp_path)
    assert (train.classes, len(train)) == (("image",), 1)
    assert train.image[0, 0, 0, 0] == 255
    assert train.image[0, 0, -1, 0] == 0


def test_images_beside_a_folder_of_their_class_are_refused(tmp_path):
    (folder(tmp_path, "L") / "cats").rename(tmp_path / "image")
    with pytest.raises(ValueError, match=r"of class 'image', as its folder of that name: rename it"):
        data.load(tmp_path)


def test_one_colour_image_makes_all_of_them_colour(tmp_path):
    Image.new("L", (40, 40), 100).save(tmp_path / "a.png")
    Image.new("RGB", (40, 40), (1, 2, 3)).save(tmp_path / "b.png")
    assert data.load(tmp_path).image[0, :, 0, 0].tolist() == [100, 100, 100]
    assert data.load(tmp_path, "test").image[0, :, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("how", ["text", "truncated", "directory", "floats", "PostScript"])
def test_a_broken_image_is_named(tmp_path, how):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)).save(tmp_path / "good.png")
    shutil.copy(tmp_path / "good.png", tmp_path / "fine.png")
    bad = tmp_path / "bad.png"
    if how == "text":
        bad.write_text("not an image")
    elif how == "truncated":
        bad.write_bytes((tmp_path / "good.png").read_bytes()[:-600])
    elif how == "floats":
        Image.new("F", (40, 40), 0.5).save(bad, "TIFF")
    elif how == "PostScript":
        bad.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    else:
        bad.mkdir()
    with pytest.raises(ValueError, match=r"bad.png does not open as an image(.|\n)*mend or remove it"):
        data.load(tmp_path)


def test_an_image_with_a_broken_chunk_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "good.png")
    raw = bytearray((tmp_path / "good.png").read_bytes())
    second = raw.index(b"IDAT", raw.index(b"IDAT") + 4)
    raw[second : second + 4] = b"\x00\x01\x02\x03"
    (tmp_path / "bad.png").write_bytes(raw)
    with pytest.raises(ValueError, match=r"bad.png does not open as an image"):
        data.load(tmp_path)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    Image.fromarray((ramp // 257).astype(np.uint8)).save(tmp_path / "b.png")
    deep, plain = (data.load(tmp_path, split).image[0].int() for split in ("train", "test"))
    assert (deep - plain).abs().max() <= 1
