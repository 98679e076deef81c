"""Folders of captioned pictures: what is read, how a picture becomes a square, and what is refused."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tuning import COLOURS, RECIPE, write

from lab.models import tiny
from zsnr.finetune import captioned, captions, fine_tune, loop


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_captions_come_from_metadata_or_from_text_files(mark, tmp_path):
    folder = write(tmp_path / "some")
    (folder / "deep").mkdir()
    (folder / "red.png").rename(folder / "deep/red.PNG")
    (folder / "red.txt").rename(folder / "deep/red.txt")
    (folder / "blue.txt").write_text(mark + "\n", encoding="utf-8")
    found = captioned(folder)
    assert [path.stem for path, _ in found] == ["black", "blue", "red", "green", "white"]
    assert [text for _, text in found] == ["all black", "", "all red", "all green", "all white"]
    lines = [json.dumps({"file_name": str(path.relative_to(folder)), "text": f"é {path.stem} "}) for path, _ in found]
    (folder / "metadata.jsonl").write_text(mark + "\n".join(lines) + "\n\n", encoding="utf-8")
    assert captioned(folder) == [(path, f"é {path.stem}") for path, _ in found]


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # cut off


def named(name: str, text: str = "red") -> str:
    return json.dumps({"file_name": f"{name}.png", "text": text})


def encoded(image: Image.Image, kind: str) -> bytes:
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def metadata(*lines: str) -> dict[str, bytes]:
    return {"metadata.jsonl": "\n".join(lines).encode()}


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        (None, FileNotFoundError, r"no folder .*none"),
        ({f"{name}.png": None for name in COLOURS}, FileNotFoundError, r"no pictures in .*: \.png"),
        ({"red.txt": None, "blue.txt": None}, ValueError, r"2 of 5 .* blue\.png, red\.png; write metadata\.jsonl, or"),
        ({"red.txt": b"\xff\xfe\x00"}, ValueError, r"red\.txt is not UTF-8"),
        (metadata(named("red")), ValueError, r"4 of 5 .* black\.png, blue\.png, green\.png, white\.png; add a line"),
        (metadata(named("pink")), FileNotFoundError, r"not there: pink\.png"),
        (metadata("", "red.png: red"), ValueError, r"metadata\.jsonl, line 2: 'red\.png: red' is not"),
        (metadata("", "[1]"), ValueError, r"line 2: '\[1\]' is not"),
        (metadata("", '{"file_name": "red.png", "text": 3}'), ValueError, r"line 2"),
        (metadata('{"file_name": "red.png", "text": "\\ud800"}'), ValueError, r"line 1: .* is not"),
        (metadata(named("red"), named("red", "pink")), ValueError, r"line 2: another caption for red\.png"),
        ({"red.png": encoded(Image.new("F", (8, 8), 0.5), "TIFF")}, ValueError, r"1 pictures do not open: .*red\.png"),
        ({"red.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"}, ValueError, r"1 pictures do not open"),
        ({"red.png": PNG, "blue.png": b"none"}, ValueError, r"2 pictures do not open: .*blue.png \(.*red.png \("),
    ],
)
def test_a_folder_that_will_not_do_is_refused_before_any_work(files, error, message, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained"))
    folder = tmp_path / "none" if files is None else write(tmp_path / "pictures")
    for name, content in (files or {}).items():
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(error, match=message):
        fine_tune(tiny.stable_diffusion(), folder, RECIPE, tmp_path)
    assert not list(tmp_path.rglob("checkpoint*"))


def test_a_caption_that_is_a_link_out_of_the_folder_is_not_read(tmp_path):
    folder = write(tmp_path / "pictures")
    (tmp_path / "secret").write_text("not for captions")
    (folder / "red.txt").unlink()
    (folder / "red.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"red\.txt is a link out of .*pictures, to .*secret"):
        captioned(folder)


def test_pictures_that_would_fill_the_memory_do_not_open(tmp_path, monkeypatch):
    (path, *_) = write(tmp_path / "pictures").glob("*.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert "exceeds limit" in captions.digest(path)[1]


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1)])
def test_of_a_strip_only_the_middle_is_scaled(size, tmp_path, monkeypatch):
    shade = np.where(np.abs(np.arange(2000) - 999.5) < 4, 255, 0).astype(np.uint8)
    Image.fromarray(shade.reshape(size[1], size[0])).save(tmp_path / "a.png")
    areas, real = [], Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda z, to, *way: areas.append(to[0] * to[1]) or real(z, to, *way))
    assert captions.picture(tmp_path / "a.png", 64)[0].mean() > 0.9
    assert max(areas) <= 8 * 64**2


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
