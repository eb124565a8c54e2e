import numpy as np
import pytest

from ghostnas.data import datasets
from ghostnas.errors import InputError

CIFAR_FILES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]


def record(label, pixel):
    """One record of the binary files: red is the pixel's number, green `pixel`, blue 7."""
    red = (np.arange(1024) % 256).astype(np.uint8)
    channels = red, np.full(1024, pixel, np.uint8), np.full(1024, 7, np.uint8)
    return bytes([label]) + b"".join(channel.tobytes() for channel in channels)


@pytest.fixture
def cifar(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate(CIFAR_FILES):
        (folder / name).write_bytes(record(number, 10 * number) + record(9, 100 + number))
    return folder


def test_cifar10_is_read_in_order_with_its_channels_and_labels(cifar):
    dataset = datasets.load(f"cifar10:{cifar}")
    assert dataset.train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert dataset.test.labels.tolist() == [5, 9]
    assert (dataset.train.images.shape, dataset.train.images.dtype) == ((10, 32, 32, 3), np.uint8)
    picture = dataset.train.images[2]
    assert picture[1, 5].tolist() == [37, 10, 7]  # row 1, column 5 is pixel 37
    assert dataset.test.images[1, 0, 0].tolist() == [0, 105, 7]
    assert (len(dataset.classes), dataset.classes[9]) == (10, "truck")
    assert (dataset.resolution, dataset.skipped) == (32, ())


def test_cifar10_is_found_in_the_folder_that_its_archive_makes(cifar):
    above, inside = datasets.load(f"cifar10:{cifar.parent}"), datasets.load(f"cifar10:{cifar}")
    np.testing.assert_array_equal(above.train.images, inside.train.images)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def mislabel(path):
    path.write_bytes(record(3, 0) + record(200, 0))


@pytest.mark.parametrize("name", ["data_batch_3.bin", "test_batch.bin"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "cannot be read: No such file"),
        (cut, "has 6145 bytes, not a multiple of 3073"),
        (empty, "has 0 bytes"),
        (mislabel, "record 1 has label 200"),
    ],
    ids=["missing", "cut", "empty", "label"],
)
def test_a_damaged_cifar10_is_refused_by_file(cifar, name, damage, message):
    damage(cifar / name)
    with pytest.raises(InputError, match=rf"{name}: .*{message}"):
        datasets.load(f"cifar10:{cifar}")


def test_a_missing_file_says_how_to_fetch_it_and_what_is_there_instead(tmp_path):
    with pytest.raises(InputError, match="ghostnas data get cifar10 DIR"):
        datasets.load(f"cifar10:{tmp_path}")
    (tmp_path / "data_batch_1").write_bytes(b"a pickle")
    with pytest.raises(InputError, match="this is the Python version, and the binary one"):
        datasets.load(f"cifar10:{tmp_path}")


# CIFAR-100


def fine(coarse, label, pixel):
    return bytes([coarse]) + record(label, pixel)


@pytest.fixture
def cifar100(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    (folder / "train.bin").write_bytes(fine(19, 99, 5) + fine(3, 0, 6) + fine(0, 42, 7))
    (folder / "test.bin").write_bytes(fine(7, 1, 8))
    return folder


@pytest.mark.parametrize("place", [".", ".."])
def test_cifar100_has_the_fine_classes(cifar100, place):
    dataset = datasets.load(f"cifar100:{cifar100 / place}")
    assert dataset.train.labels.tolist() == [99, 0, 42]
    assert dataset.test.labels.tolist() == [1]
    assert dataset.train.images[1, 1, 5].tolist() == [37, 6, 7]
    assert (len(dataset.classes), dataset.classes[99]) == (100, "class 99")
    assert dataset.preprocessing.classes == dataset.classes


def test_cifar100_takes_its_classes_names_from_their_file(cifar100):
    names = [f"kind of thing {number}" for number in range(100)]
    (cifar100 / "fine_label_names.txt").write_text("\n".join(names) + "\n\n")
    assert datasets.load(f"cifar100:{cifar100}").classes == tuple(names)
    (cifar100 / "fine_label_names.txt").write_text("\n".join(names[1:]))
    with pytest.raises(InputError, match=r"fine_label_names.txt: has 99 names, not 100"):
        datasets.load(f"cifar100:{cifar100}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (record(1, 1), "3073 bytes, not a multiple of 3074"),
        (fine(0, 100, 1), "label 100, not 0-99"),
    ],
)
def test_a_damaged_cifar100_is_refused_by_file(cifar100, content, message):
    (cifar100 / "test.bin").write_bytes(content)
    with pytest.raises(InputError, match=f"test.bin: .*{message}"):
        datasets.load(f"cifar100:{cifar100}")
