"""CIFAR-10 and CIFAR-100 from their binary files (Krizhevsky, 2009); downloads nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ghostnas.data.images import Pictures
from ghostnas.errors import InputError
from ghostnas.files import read_text

PIXEL_BYTES = 3 * 32 * 32
CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR100_FOLDER = "cifar-100-binary"
CIFAR100_CLASSES = 100


def read_cifar10(folder: Path) -> tuple[tuple[str, ...], Pictures, Pictures]:
    """The classes, and the training and test images, in `folder` or its cifar-10-batches-bin.

    Raises:
        InputError: a file is missing or damaged.
    """
    folder = _inner(folder, CIFAR10_FOLDER)
    count = len(CIFAR10_CLASSES)
    batches = [
        _records(folder / f"data_batch_{number}.bin", "cifar10", count) for number in range(1, 6)
    ]
    train = Pictures(
        images=np.concatenate([batch.images for batch in batches]),
        labels=np.concatenate([batch.labels for batch in batches]),
    )
    return CIFAR10_CLASSES, train, _records(folder / "test_batch.bin", "cifar10", count)


def read_cifar100(folder: Path) -> tuple[tuple[str, ...], Pictures, Pictures]:
    """As `read_cifar10`, in `folder` or its cifar-100-binary, with the 100 fine classes.

    Raises:
        InputError: a file is missing or damaged.
    """
    folder = _inner(folder, CIFAR100_FOLDER)
    train = _records(folder / "train.bin", "cifar100", CIFAR100_CLASSES)
    test = _records(folder / "test.bin", "cifar100", CIFAR100_CLASSES)
    return _fine_names(folder / "fine_label_names.txt"), train, test


def _inner(folder: Path, name: str) -> Path:
    """The folder that the archive makes, if `folder` is its parent."""
    return folder / name if (folder / name).is_dir() else folder


def _records(path: Path, kind: str, classes: int) -> Pictures:
    """A file of records: the label, in CIFAR-100 after that of its coarse class, then the pixels,
    all red ones first.
    """
    label_bytes = 2 if kind == "cifar100" else 1
    size = label_bytes + PIXEL_BYTES
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror}{_advice(path, kind)}"
        ) from error
    if not len(raw) or len(raw) % size:
        raise InputError(f"{path}: has {len(raw)} bytes, not a multiple of {size}; is it whole?")
    records = raw.reshape(-1, size)
    labels = records[:, label_bytes - 1].astype(np.int64)
    if labels.max() >= classes:
        raise InputError(
            f"{path}: record {int(labels.argmax())} has label {labels.max()}, not 0-{classes - 1}"
        )
    images = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Pictures(images=np.ascontiguousarray(images), labels=labels)


def _advice(path: Path, kind: str) -> str:
    folder = path.parent
    pickled = [folder / "data_batch_1", folder / "train", *folder.glob("cifar-10*-p*")]
    what = "; this is the Python version, and the binary one is needed" if _any(pickled) else ""
    return f"{what}; fetch it: ghostnas data get {kind} DIR"


def _any(paths: list[Path]) -> bool:
    return any(path.exists() for path in paths)


def _fine_names(path: Path) -> tuple[str, ...]:
    if not path.exists():
        return tuple(f"class {label}" for label in range(CIFAR100_CLASSES))
    names = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    if len(names) != CIFAR100_CLASSES:
        raise InputError(f"{path}: has {len(names)} names, not {CIFAR100_CLASSES}")
    return names
