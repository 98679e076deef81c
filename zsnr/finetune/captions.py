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
Captioned = list[tuple[Path, str]]


def captioned(folder: str | Path) -> Captioned:
    """The pictures of a folder and of the folders in it, by name, each with its caption, which may be empty.

    Raises:
        FileNotFoundError: no such folder, no pictures, or metadata that names files that are not there.
        ValueError: pictures without captions, or metadata that cannot be read.
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
        texts = {path: _read(text).strip() for path in paths if (text := path.with_suffix(".txt")).is_file()}
        remedy = "write metadata.jsonl, or a file NAME.txt beside each NAME" + paths[0].suffix
    if bare := [str(path.relative_to(folder)) for path in paths if path not in texts]:
        raise ValueError(f"{len(bare)} of {len(paths)} pictures have no caption: {first(bare)}; {remedy}")
    return [(path, texts[path]) for path in paths]


def digest(path: Path) -> tuple[str, str]:
    """The SHA-256 of a picture's file; and why it does not open, if it does not."""
    try:
        with Image.open(path) as image:
            image.load()
        return hashlib.sha256(path.read_bytes()).hexdigest(), ""
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return "", f"{path} ({error})"


def picture(path: Path, resolution: int, flip: bool = False) -> tuple[Tensor, Tensor]:
    """A square picture and what was done to it.

    Returns:
        (3, resolution, resolution) in [-1, 1], and Stable Diffusion XL's six sizes: the picture's height and width, the
        top and left of the cut after scaling, the height and width of the result.
    """
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        if image.mode.startswith("I"):  # 16 bits, which convert() would clip at 255
            image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
        image = image.convert("RGB")
    scale = resolution / min(image.size)
    width, height = (max(resolution, round(side * scale)) for side in image.size)
    top, left = (height - resolution) // 2, (width - resolution) // 2
    cut = left, top, left + resolution, top + resolution
    square = image.resize((width, height), Image.Resampling.LANCZOS).crop(cut)
    square = ImageOps.mirror(square) if flip else square
    pixels = torch.from_numpy(np.asarray(square, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1
    return pixels, torch.tensor([image.height, image.width, top, left, resolution, resolution])


def _metadata(path: Path) -> dict[Path, str]:
    texts = {}
    for number, line in enumerate(_read(path).split("\n"), 1):  # other ends of lines may stand in a caption
        if line.strip():
            try:
                row = json.loads(line)
                texts[path.parent / row["file_name"]] = row["text"].strip()
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f'{path}, line {number}: {line[:60]!r} is not {{"file_name": "NAME.png", "text": "CAPTION"}}'
                ) from error
    return texts


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): convert it") from error


def first(names: Sequence[str], n: int = 5) -> str:
    """The first n names, and how many more there are."""
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")
