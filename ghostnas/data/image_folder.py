"""Images in one folder per class, as users collect them and as ImageNet comes. Splits them, and
decodes what fits in memory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ghostnas.data.images import (
    SUFFIXES,
    PictureFiles,
    Pictures,
    Source,
    decode_square,
    short_side,
    subset,
)
from ghostnas.errors import InputError
from ghostnas.files import is_utf8

TEST_FOLDERS = ("test", "val", "valid", "validation")
TEST_SHARE = 0.2
LARGEST_RESOLUTION = 224
BYTES_IN_MEMORY = 2**30  # above it, images stay in their files
FEWEST_A_CLASS = 2
SAMPLE = 200  # images whose headers tell how large all are
IMAGENET_RESOLUTION = 224
IMAGENET_TOOL = "https://raw.githubusercontent.com/soumith/imagenetloader.torch/master/valprep.sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFolders:
    """What was found: the images of all classes, and the size they have or probably have."""

    classes: tuple[str, ...]
    train: Source
    test: Source
    resolution: int
    skipped: tuple[str, ...] = ()


def read_folder(folder: Path, strict: bool = False) -> ClassFolders:
    """Images in one folder per class, under train/ and test/ (or val/), or split here.

    Up to BYTES_IN_MEMORY they become squares of one size in memory: the middle of each, at the
    median short side, rounded down to a multiple of 8 and at most LARGEST_RESOLUTION.
    Above that they stay files.

    A folder or link that leads nowhere is named in `skipped`, as is an image that cannot be read.

    Raises:
        InputError: there are too few classes or images, or with `strict` something is skipped.
    """
    skipped: list[str] = []
    train, test, classes = _split_files(folder, skipped)
    _refuse(skipped, strict)
    resolution = _common_size(train)
    if (len(train) + (len(test) if test else 0)) * 3 * resolution**2 <= BYTES_IN_MEMORY:
        train_part: Source = _decode(train, resolution, skipped, strict)
        test_part: Source | None = _decode(test, resolution, skipped, strict) if test else None
    else:
        train_part, test_part = train, test
    if test_part is None:
        test_part, train_part = subset(train_part, round(len(train_part) * TEST_SHARE), seed=0)
    counts = np.bincount(train_part.labels, minlength=len(classes))
    if counts.min() < FEWEST_A_CLASS:
        raise InputError(
            f"{folder}: class {classes[int(counts.argmin())]} has {counts.min()} readable images "
            f"to train on, needs {FEWEST_A_CLASS}"
        )
    return ClassFolders(
        classes=classes,
        train=train_part,
        test=test_part,
        resolution=resolution,
        skipped=tuple(skipped),
    )


def read_imagenet(folder: Path, strict: bool = False) -> ClassFolders:
    """The files of train/<wnid>/ and val/<wnid>/; the classes are the wnids, sorted.

    Raises:
        InputError: a folder is missing, or val/ is not sorted into classes, or with `strict` a
            folder cannot be read.
    """
    skipped: list[str] = []
    for name in ("train", "val"):
        if not (folder / name).is_dir():
            raise InputError(f"{folder}: has no folder {name}; needs train/<wnid> and val/<wnid>")
    val = folder / "val"
    if _holds_pictures(val):
        raise InputError(
            f"{val}: its images are directly in it; sort them into val/<wnid>: run in it "
            f"{IMAGENET_TOOL}"
        )
    train, classes = _files(folder / "train", skipped)
    test, _ = _files(val, skipped, classes)
    _refuse(skipped, strict)
    return ClassFolders(
        classes=classes,
        train=train,
        test=test,
        resolution=IMAGENET_RESOLUTION,
        skipped=tuple(skipped),
    )


def _refuse(skipped: Sequence[str], strict: bool) -> None:
    if strict and skipped:
        raise InputError(skipped[0])


def _split_files(
    folder: Path, skipped: list[str]
) -> tuple[PictureFiles, PictureFiles | None, tuple[str, ...]]:
    """Training files, test files where they have a folder, and the classes."""
    held_out = next((folder / name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    parted = held_out is not None or (folder / "train").is_dir()
    if parted:  # otherwise they are among the classes
        skipped += _dead_links([folder / name for name in TEST_FOLDERS])
    train, classes = _files(folder / "train" if parted else folder, skipped)
    return train, _files(held_out, skipped, classes)[0] if held_out else None, classes


def _files(
    folder: Path, skipped: list[str], known: tuple[str, ...] | None = None
) -> tuple[PictureFiles, tuple[str, ...]]:
    """The image files below `folder`, sorted, and the classes; a class is a folder with some.

    If the classes are `known`, there may be no others. What cannot be read goes to `skipped`.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    skipped += _dead_links(entries)
    places = [place for place in entries if place.is_dir()]
    found = {place.name: paths for place in places if (paths := _pictures_below(place, skipped))}
    if len(found) < 2:
        raise InputError(
            f"{folder}: has images in {len(found)} folders, needs one folder per class, at least 2"
        )
    for name in found:
        if not is_utf8(name):
            raise InputError(f"{folder}: class folder {name!a}: give it a name in UTF-8")
    classes = known or tuple(sorted(found))
    if unknown := sorted(set(found) - set(classes)):
        raise InputError(f"{folder}: class {unknown[0]} has no images in train")
    files = tuple(path for name in classes for path in found.get(name, ()))
    counts = [len(found.get(name, ())) for name in classes]
    return PictureFiles(paths=files, labels=np.repeat(np.arange(len(classes)), counts)), classes


def _pictures_below(folder: Path, skipped: list[str]) -> list[Path]:
    """Sorted; names with a leading dot are not images but what file managers leave. Folders that
    cannot be read, and links to others, which may form cycles, go to `skipped`.
    """

    def skip(error: OSError) -> None:
        skipped.append(f"{error.filename}: cannot be read: {error.strerror}")

    paths: list[str] = []
    for place, folders, names in os.walk(folder, onerror=skip):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(place, name) for name in folders):
            if path.is_symlink():
                skipped.append(f"{path}: is a link to a folder, which is not followed")
        others = [Path(place, name) for name in sorted(names) if not name.startswith(".")]
        skipped += _dead_links([path for path in others if not _is_picture(path.name)])
        paths += [os.path.join(place, name) for name in names if _is_picture(name)]
    return [Path(path) for path in sorted(paths)]


def _dead_links(paths: Sequence[Path]) -> list[str]:
    """Those of the paths that are links to nothing; their targets may have been images."""
    return [
        f"{path}: cannot be read: it is a broken link"
        for path in paths
        if path.is_symlink() and not path.exists()
    ]


def _holds_pictures(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.is_file() and _is_picture(entry.name) for entry in entries)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _common_size(files: PictureFiles) -> int:
    sides = []
    for path in files.paths[:: max(1, len(files) // SAMPLE)]:
        try:
            sides.append(short_side(path))
        except InputError:
            continue  # named when it is decoded
    if not sides:
        raise InputError(f"{files.paths[0].parent}: none of the images tried can be read")
    return max(8, min(LARGEST_RESOLUTION, int(np.median(sides)) // 8 * 8))


def _decode(files: PictureFiles, size: int, skipped: list[str], strict: bool) -> Pictures:
    """Every readable image; the others go to `skipped` with the reason."""
    images = np.empty((len(files), size, size, 3), np.uint8)
    read: list[int] = []
    for index, path in enumerate(files.paths):
        try:
            images[len(read)] = decode_square(path, size)
        except InputError as error:
            if strict:
                raise
            skipped.append(str(error))
            continue
        read.append(index)
    if not read:
        raise InputError(f"none of the images can be read; the first: {skipped[0]}")
    return Pictures(images=images[: len(read)], labels=files.labels[read])
