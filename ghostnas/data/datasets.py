"""Datasets by name: `load("cifar10:DIR")`, and what each holds; makes no batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ghostnas.data import synthetic
from ghostnas.data.cifar import read_cifar10, read_cifar100
from ghostnas.data.image_folder import ClassFolders, read_folder, read_imagenet
from ghostnas.data.images import Dataset, PictureFiles, Pictures, Source, decode_square, subset
from ghostnas.errors import InputError, did_you_mean
from ghostnas.ir import preprocessing
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.progress import Say, silent

__all__ = ["Dataset", "PictureFiles", "Pictures", "Source", "check", "load", "subset", "usages"]

STATISTICS_FILES = 500  # from which mean and standard deviation are taken
STATISTICS_PICTURES = 5000  # the same for images in memory, if as small as CIFAR's
STATISTICS_PIXELS = STATISTICS_PICTURES * 32 * 32
SMALLEST_STD = 1e-3  # images are divided by it
CHECKED_SIZE = 8  # pixels; damage shows at any size
CHECKED_A_LINE = 10_000


def load(spec: str, strict: bool = False) -> Dataset:
    """The dataset that a ``KIND`` or ``KIND:DIR`` names.

    Images that cannot be read are left out and named in `Dataset.skipped`, or refused with
    `strict`. Those that stay in files are not opened here.

    Raises:
        InputError: as `locate`, or the files are missing or damaged.
    """
    kind, folder = locate(spec)
    return KINDS[kind][2](folder, strict)


def locate(spec: str) -> tuple[str, Path]:
    """The kind that a ``KIND`` or ``KIND:DIR`` names and its folder, in which nothing is read.

    Raises:
        InputError: the kind is unknown, or there is no such folder.
    """
    kind, _, place = spec.partition(":")
    if kind not in KINDS:
        known = ", ".join(usages())
        raise InputError(f"unknown data {spec!r}; known: {known}{did_you_mean(kind, KINDS)}")
    needs_folder = KINDS[kind][0]
    if needs_folder != bool(place):
        right = f"{kind}:DIR" if needs_folder else kind
        raise InputError(f"data {spec!r}: write {right}")
    folder = Path(place)
    if needs_folder and not folder.is_dir():
        raise InputError(f"data {spec!r}: there is no folder {folder}")
    return kind, folder


def absolute(spec: str) -> str:
    """The same data, named so that it can be found from any folder."""
    kind, colon, place = spec.partition(":")
    return f"{kind}:{Path(place).resolve()}" if colon else spec


def usages() -> dict[str, str]:
    """How each kind of data is written on the command line, and what it is."""
    return {f"{kind}:DIR" if needs else kind: what for kind, (needs, what, _) in KINDS.items()}


def check(spec: str, strict: bool = False, say: Say = silent) -> dict[str, Any]:
    """What a dataset holds, every image decoded once: counts, classes, resolution, and all
    `skipped` files with the reason. With files, `say` gets the progress.

    ``ghostnas data check`` prints it.

    Raises:
        InputError: `load` would refuse it; with `strict` also the first damaged image.
    """
    dataset = load(spec, strict)
    skipped = list(dataset.skipped)
    parts = {}
    for name, source in (("train", dataset.train), ("test", dataset.test)):
        damaged = _damaged(source, strict, say)
        skipped += damaged.values()
        readable = np.delete(source.labels, list(damaged))
        parts[name] = _balance(readable, dataset.classes)
    return {
        "data": spec,
        "name": dataset.name,
        "classes": len(dataset.classes),
        "resolution": dataset.resolution,
        "in_memory": isinstance(dataset.train, Pictures),
        "mean": dataset.preprocessing.mean,
        "std": dataset.preprocessing.std,
        **parts,
        "skipped": skipped,
    }


def _damaged(source: Source, strict: bool, say: Say) -> dict[int, str]:
    """By its index, each file that cannot be decoded, and why."""
    if isinstance(source, Pictures):
        return {}
    found: dict[int, str] = {}
    for index, path in enumerate(source.paths):
        if index and index % CHECKED_A_LINE == 0:
            say(f"{index} of {len(source)} images checked, {len(found)} cannot be read")
        try:
            decode_square(path, CHECKED_SIZE)
        except InputError as error:
            if strict:
                raise
            found[index] = str(error)
    return found


def _balance(labels: Any, classes: tuple[str, ...]) -> dict[str, Any]:
    counts = np.bincount(labels, minlength=len(classes))
    few, many = int(counts.argmin()), int(counts.argmax())
    return {
        "pictures": len(labels),
        "fewest": {"class": classes[few], "pictures": int(counts[few])},
        "most": {"class": classes[many], "pictures": int(counts[many])},
    }


def _synthetic(_: Path, strict: bool) -> Dataset:
    images, labels = synthetic.draw(synthetic.TRAIN_PICTURES, seed=1)
    test_images, test_labels = synthetic.draw(synthetic.TEST_PICTURES, seed=2)
    train = Pictures(images=images, labels=labels)
    test = Pictures(images=test_images, labels=test_labels)
    return _in_memory("synthetic", (synthetic.CLASSES, train, test))


def _cifar10(folder: Path, strict: bool) -> Dataset:
    return _in_memory("cifar10", read_cifar10(folder))


def _cifar100(folder: Path, strict: bool) -> Dataset:
    return _in_memory("cifar100", read_cifar100(folder))


def _folder(folder: Path, strict: bool) -> Dataset:
    found = read_folder(folder, strict)
    statistics = _preprocessing(found.train, found.classes, found.resolution)
    return _of_folders(f"folder {folder.resolve().name}", found, statistics)


def _imagenet(folder: Path, strict: bool) -> Dataset:
    found = read_imagenet(folder, strict)
    return _of_folders("imagenet", found, replace(preprocessing.IMAGENET, classes=found.classes))


def _in_memory(name: str, parts: tuple[tuple[str, ...], Pictures, Pictures]) -> Dataset:
    classes, train, test = parts
    size = int(train.images.shape[1])
    statistics = _preprocessing(train, classes, size)
    return Dataset(
        name=name,
        classes=classes,
        train=train,
        test=test,
        resolution=size,
        preprocessing=statistics,
    )


def _of_folders(name: str, found: ClassFolders, statistics: Preprocessing) -> Dataset:
    return Dataset(
        name=name,
        classes=found.classes,
        train=found.train,
        test=found.test,
        resolution=found.resolution,
        preprocessing=statistics,
        skipped=found.skipped,
    )


def _preprocessing(train: Source, classes: tuple[str, ...], size: int) -> Preprocessing:
    """Mean and standard deviation of each channel over some of the images, evenly spaced."""
    if isinstance(train, Pictures):
        most = min(STATISTICS_PICTURES, max(STATISTICS_FILES, STATISTICS_PIXELS // size**2))
        some = train.images[:: max(1, len(train) // most)]
    else:
        some = _sample(train, size)
    count = len(some) * some.shape[1] * some.shape[2]
    sums, squares = np.zeros(3), np.zeros(3)
    for image in some:
        values = image.reshape(-1, 3) / 255.0
        sums += values.sum(0)
        squares += np.square(values).sum(0)
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return Preprocessing(
        mean=tuple(map(float, mean)),
        std=tuple(float(max(value, SMALLEST_STD)) for value in std),
        classes=classes,
    )


def _sample(files: PictureFiles, size: int) -> Any:
    images = []
    for path in files.paths[:: max(1, len(files) // STATISTICS_FILES)]:
        try:
            images.append(decode_square(path, size))
        except InputError:
            continue  # named when it is used
    if not images:
        raise InputError(f"{files.paths[0].parent}: none of the images tried can be read")
    return np.stack(images)


# By kind: whether it takes a folder, what it is, and how it is read.
KINDS: dict[str, tuple[bool, str, Callable[[Path, bool], Dataset]]] = {
    "synthetic": (False, "ten classes of 32x32 images that ghostnas draws itself", _synthetic),
    "cifar10": (True, "CIFAR-10's binary files (data_batch_1.bin ... test_batch.bin)", _cifar10),
    "cifar100": (True, "CIFAR-100's binary files (train.bin, test.bin), fine classes", _cifar100),
    "imagenet": (True, "ImageNet's images in train/<wnid>/ and val/<wnid>/", _imagenet),
    "folder": (True, "images in one folder per class, or train/ and test/ of such", _folder),
}
