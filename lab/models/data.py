r"""Pictures whose brightness is known: garments of Fashion-MNIST on a plain backdrop, or any folder of images.

    x = g + (1 - alpha) (c + 1),     c ~ U[-1, 1]

g is the garment on black, from -1, padded to 32x32 and nowhere brighter than its matte alpha, which is 1 inside and
less on the rim; c is the backdrop's level. So the level has a wide distribution with a known truth, and can be read off
any picture: it is the mean of the outer frame, 2 pixels wide, which is always backdrop. Pictures are composed when they
are drawn and never stored.

Conditions are (B, 2) integers: a class, and a caption word for the level (the fifths of [-1, 1]), which only some of
the training pictures carry. The value after the last means "not given"; unconditional pictures have both not given.

Source of the images: Xiao, Rasul, Vollgraf 2017 (MIT licence, data/fashion-mnist/LICENSE).
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

SIZE = 32
FRAME = 2
SILHOUETTE = 15
"""Of 255: what is darker is not taken for a garment's inside."""
WORDS = ("black", "dark", "grey", "light", "white")
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may take a file for, whatever its name: no Ghostscript."""
NO_FOLDER = "image"
"""The class of images that lie in no subfolder."""
SHA256 = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}


@dataclass(frozen=True)
class Images:
    """A set of pictures to compose from.

    Args:
        image: (N, C, 32, 32) uint8, the pictures on black: 0 .. 255 for [-1, 1], and nowhere above the matte.
        matte: (N, 1, 32, 32) uint8, alpha: 255 where nothing of the backdrop shows, 0 where nothing else does.
        label: (N,) int64, the class.
        classes: the classes' names.
    """

    image: Tensor
    matte: Tensor
    label: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image)

    def compose(self, index: Tensor, level: Tensor) -> Tensor:
        """(B, C, 32, 32) float32 pictures in [-1, 1]: the indexed images on backdrops of the given (B,) levels."""
        backdrop = (level.to(torch.float32).view(-1, 1, 1, 1) + 1) / 2
        return 2 * (self.image[index] / 255 + self.backdrop(index) * backdrop) - 1

    def backdrop(self, index: Tensor | slice) -> Tensor:
        """(B, 1, 32, 32) float32: the share 1 - alpha that the backdrop has in each pixel of the indexed images."""
        return 1 - self.matte[index] / 255

    def pixels(self, index: Tensor | slice = slice(None)) -> float:
        """Of backdrop in the indexed images, on average: n = sum (1 - alpha)^2; 0 where there is none.

        The level has variance n Var(c) along the unit vector of 1 - alpha.
        """
        return self.backdrop(index).square().sum((1, 2, 3)).double().mean().item()

    def offset(self, index: Tensor | slice = slice(None)) -> float:
        """Variance of one value added to all pixels, along the unit vector of 1 - alpha: (sum of 1 - alpha)^2 / n.

        On average; it is n for a backdrop without rim.
        """
        seen = self.backdrop(index)
        return (seen.sum((1, 2, 3)).square() / seen.square().sum((1, 2, 3)).clamp(min=1e-9)).double().mean().item()

    @property
    def fills(self) -> Tensor:
        """(N,) bool: the images that leave no backdrop, whose level is their own."""
        return (self.matte == 255).flatten(1).all(1)

    def draw(
        self, n: int, generator: Generator, captioned: float = 0.0, unconditional: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """n random pictures, with replacement, and their (n, 2) conditions.

        Args:
            captioned: share of the pictures with a condition that also carry the word for their level.
            unconditional: share of the pictures with no condition at all.
        """
        x, conditions, _ = self.draw_parted(n, generator, captioned, unconditional)
        return x, conditions

    def draw_parted(
        self, n: int, generator: Generator, captioned: float = 0.0, unconditional: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `draw`, and (n, 1, 32, 32), the share that the backdrop has in each pixel."""
        index = torch.randint(len(self), (n,), generator=generator)
        x = self.compose(index, 2 * torch.rand(n, generator=generator) - 1)
        silent = torch.rand(n, generator=generator) >= captioned
        free = torch.rand(n, generator=generator) < unconditional
        conditions = torch.stack([self.label[index], word(level(x))], 1)
        conditions[silent | free, 1] = len(WORDS)
        conditions[free, 0] = len(self.classes)
        return x, conditions, self.backdrop(index)


def level(x: Tensor) -> Tensor:
    """(B,) backdrop levels of (B, C, H, W) pictures: the mean of the outer frame, 2 pixels wide."""
    inner = x[..., FRAME:-FRAME, FRAME:-FRAME].flatten(1)
    everything = x.flatten(1)
    return (everything.sum(1) - inner.sum(1)) / (everything.shape[1] - inner.shape[1])


def word(level: Tensor) -> Tensor:
    """The index in WORDS of the fifth of [-1, 1] that each level lies in."""
    return ((level + 1) * 2.5).floor().long().clamp(0, 4)


def bounds(word: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest level that each word means: a fifth of [-1, 1], or all of it after the last."""
    any_level = word == len(WORDS)
    low = (0.4 * word - 1).where(~any_level, -1)
    return low, (low + 0.4).where(~any_level, 1)


def load(source: str | Path, split: str = "train") -> Images:
    """The train or test split of Fashion-MNIST's four files, or of a folder of images.

    Args:
        source: the folder. With the four gzipped IDX files in it, it is Fashion-MNIST; otherwise every image below it
            that is not hidden is read, turned upright, cropped to a square, scaled to 32x32, and classed by its first
            subfolder; each seventh one, in order of name, is in the test split, but for a class that would have no
            other. Such images fill the frame, so their level is their own.
        split: train or test.

    Raises:
        FileNotFoundError: no such folder, a file is missing, or there are no images.
        ValueError: a file is damaged, the split is unknown, images lie beside a folder `image`, whose class they would
            be, or no class has two of them.
    """
    source = Path(source)
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}; choose train or test")
    if not source.is_dir():
        raise FileNotFoundError(
            f"no data folder {source}: run `dvc pull data/fashion-mnist.dvc`, or set data.source in params.yaml"
        )
    if any((source / name).exists() for name in SHA256):
        return _fashion_mnist(source, "train" if split == "train" else "t10k")
    return _folder(source, split)


def _fashion_mnist(folder: Path, prefix: str) -> Images:
    image = _idx(folder / f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    label = _idx(folder / f"{prefix}-labels-idx1-ubyte.gz", 8)
    padded = torch.from_numpy(np.pad(image, ((0, 0), (2, 2), (2, 2))))[:, None]
    alpha = matte(padded)
    return Images(torch.minimum(padded, alpha), alpha, torch.from_numpy(label.astype(np.int64)), CLASSES)


def matte(image: Tensor) -> Tensor:
    r"""(N, 1, H, W) uint8 mattes of garments that were photographed on black.

    1 inside the eroded silhouette; on its rim, where a pixel is garment times alpha, p / (largest p of 3x3); 0 outside.
    Holes of up to 2 pixels are garment.
    A mask of the pixels above 0 would leave black specks around every garment, on all backdrops but a black one.
    """
    silhouette = _smallest(_largest(image > SILHOUETTE))  # closed
    inner, outer = _smallest(silhouette), _largest(silhouette)
    rim = (255.0 * image / _largest(image).clamp(min=1)).round().to(torch.uint8)
    return (rim * outer).masked_fill(inner, 255)


def _largest(x: Tensor) -> Tensor:
    """Of each pixel and its eight neighbours."""
    for dim in (-2, -1):
        size, whole = x.shape[dim], x.clone()
        for before, after in ((0, 1), (1, 0)):  # of two neighbours, each takes the other where it is larger
            ours = whole.narrow(dim, before, size - 1)
            torch.maximum(ours, x.narrow(dim, after, size - 1), out=ours)
        x = whole
    return x


def _smallest(x: Tensor) -> Tensor:
    return ~_largest(~x)


def _idx(path: Path, header: int) -> np.ndarray:
    remedy = "restore it with `dvc pull data/fashion-mnist.dvc --force`, or take it from Fashion-MNIST's authors again"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: {remedy}")
    raw = path.read_bytes()
    if (found := hashlib.sha256(raw).hexdigest()) != SHA256[path.name]:
        raise ValueError(f"{path} is damaged ({len(raw)} bytes, SHA-256 {found[:12]}...): {remedy}")
    return np.frombuffer(gzip.decompress(raw), np.uint8, offset=header)


def _folder(folder: Path, split: str) -> Images:
    from PIL import Image, ImageOps

    extensions = {extension for extension, kind in Image.registered_extensions().items() if kind in FORMATS}
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in extensions)
    files = [p for p in files if not any(part[0] == "." for part in p.relative_to(folder).parts)]
    if len(files) < 2:
        raise FileNotFoundError(f"{len(files)} images below {folder}: point data.source at a folder of at least 2")
    if (folder / NO_FOLDER).is_dir() and any(path.parent == folder for path in files):
        raise ValueError(f"images in {folder} itself are of class {NO_FOLDER!r}, as its folder of that name: rename it")
    labels = [_class(path, folder) for path in files]
    classes = sorted(set(labels))
    pictures = []
    for path in files:
        try:
            with Image.open(path, formats=FORMATS) as file:
                picture = ImageOps.exif_transpose(file)
            if picture.mode == "F":
                raise TypeError("its numbers are floats, whose range is not known")
            if picture.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
                picture = Image.fromarray((np.asarray(picture) // 257).clip(0, 255).astype(np.uint8))
            picture = picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")
            pictures.append(ImageOps.fit(picture, (SIZE, SIZE)))
        except Exception as error:  # all kinds of them, by Pillow's decoders
            raise ValueError(f"{path} does not open as an image ({error}): mend or remove it") from error
    mode = "RGB" if any(p.mode == "RGB" for p in pictures) else "L"
    array = np.stack([np.atleast_3d(np.asarray(p.convert(mode))) for p in pictures])
    held_out = set(range(6, len(files), 7))
    trained = {label for i, label in enumerate(labels) if i not in held_out}
    held_out = {i for i in held_out if labels[i] in trained}
    held_out = held_out or set([i for i, label in enumerate(labels) if labels.count(label) > 1][-1:])
    if not held_out:
        raise ValueError(f"no class of {folder} has two images, one of them for the test split: {', '.join(classes)}")
    keep = [i for i in range(len(files)) if (i in held_out) == (split == "test")]
    image = torch.from_numpy(array).permute(0, 3, 1, 2)[keep].contiguous()
    label = torch.tensor([classes.index(labels[i]) for i in keep])
    return Images(image, torch.full((len(keep), 1, SIZE, SIZE), 255, dtype=torch.uint8), label, tuple(classes))


def _class(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else NO_FOLDER
