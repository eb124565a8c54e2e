"""Datasets as uint8 pictures in memory: `load("cifar10:DIR")`, `folder:DIR` or `synthetic`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ghostnas import synthetic
from ghostnas.errors import InputError
from ghostnas.graph import Array

CIFAR10_RECORD_BYTES = 1 + 3 * 32 * 32
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}
FOLDER_TEST_SHARE = 0.2
LARGEST_RESOLUTION = 96  # of a folder's pictures as they are kept in memory
FEWEST_A_CLASS = 2
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """`images` (n, height, width, 3) uint8, RGB; `labels` (n,) int64."""

    images: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Array) -> Pictures:
        return Pictures(images=self.images[indices], labels=self.labels[indices])


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Training and test pictures of one size (`resolution` pixels, square).

    `mean` and `std` are those of the training pictures, a number a channel, on a scale of 0 to 1.
    `skipped` says which files could not be read, and why.
    """

    name: str
    classes: tuple[str, ...]
    train: Pictures
    test: Pictures
    skipped: tuple[str, ...] = ()

    @property
    def resolution(self) -> int:
        return int(self.train.images.shape[1])

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        sample = self.train.images[:: max(1, len(self.train) // 5000)] / 255.0
        mean, std = sample.mean(axis=(0, 1, 2)), sample.std(axis=(0, 1, 2))
        return tuple(map(float, mean)), tuple(float(max(value, 1e-3)) for value in std)


def load(spec: str) -> Dataset:
    """The dataset that a ``KIND`` or ``KIND:DIR`` names.

    Raises:
        InputError: the kind is unknown, or the files are missing or damaged.
    """
    kind, _, place = spec.partition(":")
    if kind not in KINDS:
        raise InputError(f"unknown data {spec!r}; known: {', '.join(usages())}")
    needs_folder, _, read = KINDS[kind]
    if needs_folder != bool(place):
        right = f"{kind}:DIR" if needs_folder else kind
        raise InputError(f"data {spec!r}: write {right}")
    folder = Path(place)
    if needs_folder and not folder.is_dir():
        raise InputError(f"data {spec!r}: there is no folder {folder}")
    return read(folder)


def usages() -> dict[str, str]:
    """How each kind of data is written on the command line, and what it is."""
    return {f"{kind}:DIR" if needs else kind: what for kind, (needs, what, _) in KINDS.items()}


def subset(pictures: Pictures, size: int | None, seed: int) -> tuple[Pictures, Pictures]:
    """`size` pictures (all for None) drawn so that the classes keep their shares, and the rest."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(pictures))
    if size is None or size >= len(pictures):
        return pictures.take(order), pictures.take(order[:0])
    # Walking the classes side by side: the n-th of each class comes before any (n + 1)-th.
    labels = pictures.labels[order]
    rank = np.empty(len(order))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = order[np.argsort(rank, kind="stable")]
    return pictures.take(order[:size]), pictures.take(order[size:])


def _synthetic(_: Path) -> Dataset:
    images, labels = synthetic.draw(synthetic.TRAIN_PICTURES, seed=1)
    test_images, test_labels = synthetic.draw(synthetic.TEST_PICTURES, seed=2)
    return Dataset(
        name="synthetic",
        classes=synthetic.CLASSES,
        train=Pictures(images=images, labels=labels),
        test=Pictures(images=test_images, labels=test_labels),
    )


def _cifar10(folder: Path) -> Dataset:
    """CIFAR-10's binary version (Krizhevsky, 2009), in `folder` or its cifar-10-batches-bin."""
    if (folder / "cifar-10-batches-bin").is_dir():
        folder = folder / "cifar-10-batches-bin"
    batches = [_cifar10_batch(folder / f"data_batch_{number}.bin") for number in range(1, 6)]
    train = Pictures(
        images=np.concatenate([batch.images for batch in batches]),
        labels=np.concatenate([batch.labels for batch in batches]),
    )
    test = _cifar10_batch(folder / "test_batch.bin")
    return Dataset(name="cifar10", classes=CIFAR10_CLASSES, train=train, test=test)


def _cifar10_batch(path: Path) -> Pictures:
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not len(raw) or len(raw) % CIFAR10_RECORD_BYTES:
        raise InputError(
            f"{path}: has {len(raw)} bytes, not a multiple of {CIFAR10_RECORD_BYTES}; is it whole?"
        )
    records = raw.reshape(-1, CIFAR10_RECORD_BYTES)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CIFAR10_CLASSES):
        raise InputError(f"{path}: record {int(labels.argmax())} has label {labels.max()}, not 0-9")
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Pictures(images=np.ascontiguousarray(images), labels=labels)


def _folder(folder: Path) -> Dataset:
    """Pictures in a folder a class; with train/ and test/ (or val/) above them, or split here.

    They become squares of one size: the middle of each, at the median short side, rounded down to
    a multiple of 8 and at most LARGEST_RESOLUTION.
    """
    held_out = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    train_files = _class_files(folder / "train" if held_out else folder)
    classes = tuple(sorted(train_files))
    skipped: list[str] = []
    size = _common_size([path for files in train_files.values() for path in files])
    train = _decode(train_files, classes, size, skipped)
    if held_out:
        test_files = _class_files(held_out)
        if unknown := sorted(set(test_files) - set(classes)):
            raise InputError(f"{held_out}: class {unknown[0]} has no pictures in train")
        test = _decode(test_files, classes, size, skipped)
    else:
        test, train = subset(train, round(len(train) * FOLDER_TEST_SHARE), seed=0)
    counts = np.bincount(train.labels, minlength=len(classes))
    if counts.min() < FEWEST_A_CLASS:
        raise InputError(
            f"{folder}: class {classes[int(counts.argmin())]} has {counts.min()} readable pictures "
            f"to train on, needs {FEWEST_A_CLASS}"
        )
    name = f"folder {folder.name}"
    return Dataset(name=name, classes=classes, train=train, test=test, skipped=tuple(skipped))


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """The picture files of each class, sorted; a class is a folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    files = {
        place.name: sorted(p for p in place.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
        for place in sorted(folder.iterdir())
        if place.is_dir()
    }
    found = {name: paths for name, paths in files.items() if paths}
    if len(found) < 2:
        raise InputError(
            f"{folder}: has pictures in {len(found)} folders, needs a folder a class and at least 2"
        )
    return found


def _common_size(paths: list[Path]) -> int:
    sides = []
    for path in paths[:: max(1, len(paths) // 200)]:
        try:
            with Image.open(path) as picture:
                sides.append(min(picture.size))
        except UNREADABLE:
            continue  # named when it is decoded
    if not sides:
        raise InputError(f"{paths[0].parent}: none of the pictures tried can be read")
    return max(8, min(LARGEST_RESOLUTION, int(np.median(sides)) // 8 * 8))


def _decode(
    files: dict[str, list[Path]], classes: tuple[str, ...], size: int, skipped: list[str]
) -> Pictures:
    """Every readable picture; the others go to `skipped` with the reason."""
    images, labels = [], []
    for label, name in enumerate(classes):
        for path in files.get(name, []):
            try:
                images.append(_square(path, size))
            except UNREADABLE as error:
                skipped.append(f"{path}: {error}")
                continue
            labels.append(label)
    if not images:
        raise InputError(f"none of the pictures can be read; the first: {skipped[0]}")
    return Pictures(images=np.stack(images), labels=np.array(labels, np.int64))


def _square(path: Path, size: int) -> Array:
    """The middle of a picture, its short side scaled to `size`, (size, size, 3) uint8."""
    with Image.open(path) as picture:
        picture.draft("RGB", (size, size))
        rgb = _eight_bits(picture).convert("RGB")
        scale = size / min(rgb.size)
        scaled = rgb.resize(
            (max(size, round(rgb.width * scale)), max(size, round(rgb.height * scale)))
        )
        left, top = (scaled.width - size) // 2, (scaled.height - size) // 2
        return np.asarray(scaled.crop((left, top, left + size, top + size)))


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A 16-bit grey picture by its high bytes, which Pillow would cut off at 255; others as is."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray(
        (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
    )


# Kind to: whether it takes a folder, what it is, and how it is read.
KINDS: dict[str, tuple[bool, str, Callable[[Path], Dataset]]] = {
    "synthetic": (False, "ten classes of 32x32 pictures that ghostnas draws itself", _synthetic),
    "cifar10": (True, "CIFAR-10's binary files (data_batch_1.bin ... test_batch.bin)", _cifar10),
    "folder": (True, "pictures in a folder a class, or train/ and test/ of such", _folder),
}
