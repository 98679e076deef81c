"""A folder of captioned pictures, as the `imagefolder` of Hugging Face's datasets has it, or with a text file each.

    folder/metadata.jsonl    {"file_name": "a.png", "text": "a red barn"}   one line a picture
    folder/a.txt             a red barn                                     where there is no metadata.jsonl

Pictures are upright by their EXIF, on white where they are transparent, scaled (up or down) until the shorter side
fits, and cut to a square from the centre.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP")
"""What Pillow may take a file for, whatever its name: no Ghostscript, no numbers without a range."""
Captioned = list[tuple[Path, str]]


def captioned(folder: str | Path) -> Captioned:
    """The pictures of a folder and of the folders in it, by name, each with its caption, which may be empty.

    Raises:
        FileNotFoundError: no such folder, no pictures, or metadata that names files that are not there.
        ValueError: pictures without captions, and captions or metadata that cannot be read, or are links out of the
            folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give one with pictures and their captions")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    paths = [path for path in paths if not any(part[0] == "." for part in path.relative_to(folder).parts)]  # hidden
    if not paths:
        raise FileNotFoundError(f"no pictures in {folder}: {', '.join(SUFFIXES)} are read")
    metadata = folder / "metadata.jsonl"
    if metadata.is_file():
        texts = _metadata(metadata)
        if gone := [str(path.relative_to(folder)) for path in texts if not path.is_file()]:
            raise FileNotFoundError(f"{metadata} names files that are not there: {first(gone)}")
        remedy = "add a line for each to metadata.jsonl"
    else:
        texts = {path: _read(text, folder).strip() for path in paths if (text := path.with_suffix(".txt")).is_file()}
        remedy = "write metadata.jsonl, or a file NAME.txt beside each NAME" + paths[0].suffix
    if bare := [str(path.relative_to(folder)) for path in paths if path not in texts]:
        raise ValueError(f"{len(bare)} of {len(paths)} pictures have no caption: {first(bare)}; {remedy}")
    return [(path, texts[path]) for path in paths]


def digest(path: Path) -> tuple[str, str]:
    """The SHA-256 of a picture's file; and why it does not open, if it does not."""
    try:
        picture(path, 1)
        return hashlib.sha256(path.read_bytes()).hexdigest(), ""
    except Exception as error:  # all kinds of them, by Pillow's decoders
        return "", f"{path} ({error})"


def picture(path: Path, resolution: int, flip: bool = False) -> tuple[Tensor, Tensor]:
    """A square picture and what was done to it.

    Returns:
        (3, resolution, resolution) in [-1, 1], and Stable Diffusion XL's six sizes: the picture's height and width, the
        top and left of the cut after scaling, the height and width of the result.
    """
    with Image.open(path, formats=FORMATS) as file:
        image = ImageOps.exif_transpose(file)
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        if image.mode.startswith("I"):  # 16 bits, which convert() would clip at 255
            image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
        image = image.convert("RGB")
    # of a strip the middle counts: scaled as a whole, one of a pixel's width would take minutes
    x, y = (max(0, side - 8 * min(image.size)) // 2 for side in image.size)
    image = image.crop((x, y, image.width - x, image.height - y))
    scale = resolution / min(image.size)
    width, height = (max(resolution, round(side * scale)) for side in image.size)
    top, left = (height - resolution) // 2, (width - resolution) // 2
    cut = left, top, left + resolution, top + resolution
    square = image.resize((width, height), Image.Resampling.LANCZOS).crop(cut)
    square = ImageOps.mirror(square) if flip else square
    pixels = torch.from_numpy(np.asarray(square, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1
    return pixels, torch.tensor([image.height, image.width, top, left, resolution, resolution])


def _metadata(path: Path) -> dict[Path, str]:
    texts: dict[Path, str] = {}
    for number, line in enumerate(_read(path, path.parent).split("\n"), 1):  # other ends of lines may be in a caption
        if line.strip():
            try:
                row = json.loads(line)
                name, text = path.parent / row["file_name"], row["text"].strip()
                f"{name}{text}".encode()  # half a surrogate pair is no text
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f'{path}, line {number}: {line[:60]!r} is not {{"file_name": "NAME.png", "text": "CAPTION"}}'
                ) from error
            if texts.setdefault(name, text) != text:
                raise ValueError(f"{path}, line {number}: another caption for {row['file_name']}: leave one of them")
    return texts


def _read(path: Path, folder: Path) -> str:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path} is a link out of {folder}, to {path.resolve()}: put the file itself there")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): convert it") from error


def first(names: Sequence[str], n: int = 5) -> str:
    """The first n names, and how many more there are."""
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")
