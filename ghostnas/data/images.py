"""Labelled images, in memory or in files, and how a file becomes a square of pixels; no batches.

An image is upright, 8-bit and RGB, whatever its file holds: orientation tags are followed, and
transparency is dropped. Scaling is bilinear over all pixels that a new one covers.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, Self, TypeAlias, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from ghostnas.arrays import Array
from ghostnas.errors import InputError
from ghostnas.ir.preprocessing import Preprocessing

# Only these are tried on a file: Pillow knows others that start programs, as EPS runs Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "GIF", "TIFF")
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm"),
    *(".gif", ".tif", ".tiff"),
)
DAMAGED = (
    *(OSError, ValueError, SyntaxError, EOFError, struct.error, MemoryError, OverflowError),
    *(KeyError, IndexError, TypeError, Image.DecompressionBombError),
)
REDUCTIONS = (8, 4, 2)  # that a JPEG can be decoded at
ORIENTATION = 0x0112  # of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LIES_ON_ITS_SIDE = 5  # and so do all orientations above it

Box: TypeAlias = tuple[float, float, float, float]
NAMED = 5  # of the images that could not be read


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Pictures:
    """`images` (n, height, width, 3) uint8, RGB; `labels` (n,) int64."""

    images: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Array) -> Self:
        return type(self)(images=self.images[indices], labels=self.labels[indices])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PictureFiles:
    """Files, decoded when they are needed; some may turn out damaged. `labels` (n,) int64."""

    paths: tuple[Path, ...]
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Array) -> Self:
        paths = tuple(self.paths[index] for index in indices.tolist())
        return type(self)(paths=paths, labels=self.labels[indices])


Source: TypeAlias = Pictures | PictureFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Training and test images, squares of `resolution` pixels if they are in memory.

    Attributes:
        resolution: natural for these images; files can be decoded at any other.
        preprocessing: mean and standard deviation of the training images, and the classes.
        skipped: which files could not be read, and why.
    """

    name: str
    classes: tuple[str, ...]
    train: Source
    test: Source
    resolution: int
    preprocessing: Preprocessing
    skipped: tuple[str, ...] = ()


class _Takes(Protocol):
    @property
    def labels(self) -> Array: ...

    def __len__(self) -> int: ...

    def take(self, indices: Array) -> Self: ...


Some = TypeVar("Some", bound=_Takes)


def subset(source: Some, size: int | None, seed: int) -> tuple[Some, Some]:
    """`size` images (all for None) drawn so that the classes keep their shares, and the rest."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(source))
    if size is None or size >= len(source):
        return source.take(order), source.take(order[:0])
    # Walking the classes side by side: the n-th of each class comes before any (n + 1)-th.
    labels = source.labels[order]
    by_label = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    firsts = np.repeat(np.cumsum(counts) - counts, counts)
    rank = np.empty(len(order))
    rank[by_label] = (np.arange(len(order)) - firsts + 0.5) / np.repeat(counts, counts)
    order = order[np.argsort(rank, kind="stable")]
    return source.take(order[:size]), source.take(order[size:])


def decode_square(path: Path | str, size: int, short_side: int | None = None) -> Array:
    """The middle of an image, (size, size, 3) uint8, its short side scaled to `short_side`
    (`size` for None).

    Raises:
        InputError: the file cannot be read; the line begins with its path.
    """
    share = size / (short_side or size)

    def middle(width: int, height: int) -> Box:
        side = share * min(width, height)
        return (width - side) / 2, (height - side) / 2, side, side

    return decode_crop(path, size, middle)


def decode_crop(path: Path | str, size: int, choose: Callable[[int, int], Box]) -> Array:
    """The part of an image that `choose` picks, scaled to (size, size, 3) uint8.

    `choose` is given the width and height of the upright image and returns left, top, width and
    height, in pixels. A JPEG is decoded at a half, a quarter or an eighth if that still leaves
    `size` pixels per side of the part.

    Raises:
        InputError: the file cannot be read; the line begins with its path.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged tags and large images, a line each
            with Image.open(path, formats=FORMATS) as picture:
                return _cut(picture, size, choose)
    except DAMAGED as error:
        raise InputError(f"{path}: {_reason(Path(path), error)}") from error


def short_side(path: Path) -> int:
    """Pixels of an image's short side, from its header.

    Raises:
        InputError: the header cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as picture:
                return min(picture.size)
    except DAMAGED as error:
        raise InputError(f"{path}: {_reason(path, error)}") from error


def _cut(picture: Image.Image, size: int, choose: Callable[[int, int], Box]) -> Array:
    orientation = _orientation(picture)
    full = picture.size
    upright = full[::-1] if orientation >= LIES_ON_ITS_SIDE else full
    left, top, width, height = choose(*upright)
    reduction = next((r for r in REDUCTIONS if min(width, height) >= r * size), 1)
    if reduction > 1:
        picture.draft(None, (full[0] // reduction, full[1] // reduction))
    if picture.size == full:
        reduction = 1  # only JPEGs can be reduced
    rgb = _eight_bits(picture).convert("RGB")
    if turn := TURNS.get(orientation):
        rgb = rgb.transpose(turn)
    box = (
        *(max(0.0, left / reduction), max(0.0, top / reduction)),
        min(float(rgb.width), (left + width) / reduction),
        min(float(rgb.height), (top + height) / reduction),
    )
    return np.asarray(rgb.resize((size, size), Image.Resampling.BILINEAR, box=box))


def _orientation(picture: Image.Image) -> int:
    """1 for upright, even if the tags are damaged: the pixels may not be."""
    try:
        found = picture.getexif().get(ORIENTATION, 1)
    except DAMAGED:
        return 1
    return found if found in TURNS else 1


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A 16-bit grey image by its high bytes, where Pillow would clip at 255; others as is."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray(
        (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
    )


def _reason(path: Path, error: Exception) -> str:
    """Why a file could not be read, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    if path.stat().st_size == 0:
        return "is empty"
    if isinstance(error, UnidentifiedImageError):
        return f"is not an image of a known kind ({', '.join(FORMATS)})"
    return " ".join(f"is damaged: {error or type(error).__name__}".split())


def skipped_lines(reasons: Collection[str]) -> list[str]:
    """Lines on images that could not be read: the first ones by name, and how many in all."""
    lines = [f"skipped {reason}" for reason in islice(reasons, NAMED)]
    if len(reasons) > NAMED:
        lines.append(f"skipped {len(reasons)} images in all")
    return lines
