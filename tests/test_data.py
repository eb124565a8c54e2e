import numpy as np
import pytest
from PIL import Image

from ghostnas import data
from ghostnas.data import Pictures
from ghostnas.errors import InputError

CIFAR_FILES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]


# CIFAR-10


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
    dataset = data.load(f"cifar10:{cifar}")
    assert dataset.train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert dataset.test.labels.tolist() == [5, 9]
    assert (dataset.train.images.shape, dataset.train.images.dtype) == ((10, 32, 32, 3), np.uint8)
    picture = dataset.train.images[2]
    assert picture[1, 5].tolist() == [37, 10, 7]  # row 1, column 5 is pixel 37
    assert dataset.test.images[1, 0, 0].tolist() == [0, 105, 7]
    assert (len(dataset.classes), dataset.classes[9]) == (10, "truck")
    assert (dataset.resolution, dataset.skipped) == (32, ())


def test_cifar10_is_found_in_the_folder_that_its_archive_makes(cifar):
    above, inside = data.load(f"cifar10:{cifar.parent}"), data.load(f"cifar10:{cifar}")
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
        data.load(f"cifar10:{cifar}")


# A folder of pictures


def colour_of(label):
    return (200, 30, 40) if label == "red" else (20, 40, 220)


def fill(folder, labels=("blue", "red"), count=10, size=(24, 24)):
    """`count` pictures a class, each in its class's colour."""
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            picture = Image.new("RGB", size, colour_of(label))
            picture.save(folder / label / f"{number}.{('png', 'jpg')[number % 2]}")


def test_a_folder_a_class_is_split_with_the_same_shares(tmp_path):
    fill(tmp_path)
    dataset = data.load(f"folder:{tmp_path}")
    assert dataset.classes == ("blue", "red")
    assert np.bincount(dataset.train.labels).tolist() == [8, 8]
    assert np.bincount(dataset.test.labels).tolist() == [2, 2]
    assert dataset.train.images.shape == (16, 24, 24, 3)
    assert dataset.skipped == ()
    for pictures in (dataset.train, dataset.test):
        for image, label in zip(pictures.images, pictures.labels, strict=True):
            expected = colour_of(dataset.classes[label])
            assert np.abs(image.astype(int) - expected).max() <= 3  # JPEG rounds


def test_the_split_is_deterministic(tmp_path):
    fill(tmp_path)
    once, again = data.load(f"folder:{tmp_path}"), data.load(f"folder:{tmp_path}")
    for part, other in ((once.train, again.train), (once.test, again.test)):
        np.testing.assert_array_equal(part.images, other.images)
        np.testing.assert_array_equal(part.labels, other.labels)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_train_and_test_folders_are_kept_apart(tmp_path, held_out):
    fill(tmp_path / "train", count=5)
    fill(tmp_path / held_out, count=3)
    dataset = data.load(f"folder:{tmp_path}")
    assert np.bincount(dataset.train.labels).tolist() == [5, 5]
    assert np.bincount(dataset.test.labels).tolist() == [3, 3]


def test_pictures_become_squares_from_their_middles(tmp_path):
    fill(tmp_path, count=4, size=(60, 33))
    wide = np.zeros((33, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    Image.fromarray(wide).save(tmp_path / "red" / "0.png")
    dataset = data.load(f"folder:{tmp_path}")
    assert dataset.resolution == 32  # the short side, down to a multiple of 8
    images = np.concatenate([dataset.train.images, dataset.test.images])
    (middle,) = (image for image in images if not image[0, 0].any())
    assert not middle[:, :5].any()
    assert not middle[:, 27:].any()
    assert (middle[:, 8:24] > 200).all()


def test_large_pictures_are_kept_at_96_pixels(tmp_path):
    fill(tmp_path, count=3, size=(130, 150))
    assert data.load(f"folder:{tmp_path}").resolution == data.LARGEST_RESOLUTION


def ramp():
    """A grey ramp from black to white, with an even middle."""
    return np.tile(np.arange(24) * 255 // 23, (24, 1))


PICTURES = {
    "grey": lambda: Image.fromarray(ramp().astype(np.uint8)),
    "grey-alpha": lambda: Image.fromarray(ramp().astype(np.uint8)).convert("LA"),
    "rgba": lambda: Image.fromarray(ramp().astype(np.uint8)).convert("RGBA"),
    "palette": lambda: Image.fromarray(ramp().astype(np.uint8)).convert("P"),
    "16-bit": lambda: Image.fromarray((ramp() * 257).astype(np.uint16)),
}


@pytest.mark.parametrize("mode", PICTURES)
def test_pictures_of_every_kind_are_read(tmp_path, mode):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(4):
            PICTURES[mode]().save(tmp_path / label / f"{number}.png")
    dataset = data.load(f"folder:{tmp_path}")
    assert dataset.skipped == ()
    for image in dataset.train.images:
        np.testing.assert_allclose(image, np.repeat(ramp()[..., None], 3, 2), atol=1)


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_picture(path):
    path.write_text("this is no picture")


def too_large(path):
    """A whole header that promises 60000 x 60000 pixels."""
    Image.new("L", (1, 1)).save(path, "bmp")
    header = bytearray(path.read_bytes())
    header[18:26] = (60000).to_bytes(4, "little") * 2
    path.write_bytes(header)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("2.png", cut_in_half),
        ("3.jpg", cut_in_half),
        ("2.png", empty),
        ("3.jpg", no_picture),
        ("2.png", too_large),
    ],
    ids=["cut-png", "cut-jpg", "empty", "text", "too-large"],
)
def test_a_picture_that_cannot_be_read_is_skipped_by_name(tmp_path, name, damage):
    rng = np.random.default_rng(0)
    fill(tmp_path, count=6)
    path = tmp_path / "red" / name
    Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(path)
    damage(path)
    dataset = data.load(f"folder:{tmp_path}")
    assert len(dataset.train) + len(dataset.test) == 11
    (skipped,) = dataset.skipped
    assert skipped.startswith(f"{path}: ")


def test_no_readable_picture_at_all_is_refused(tmp_path):
    fill(tmp_path, count=3)
    for path in tmp_path.rglob("*.*"):
        empty(path)
    with pytest.raises(InputError, match="none of the pictures"):
        data.load(f"folder:{tmp_path}")


def test_a_class_with_one_readable_picture_is_refused_by_name(tmp_path):
    fill(tmp_path / "train", count=2)
    fill(tmp_path / "test", count=2)
    empty(tmp_path / "train" / "red" / "0.png")
    with pytest.raises(InputError, match="class red has 1 readable"):
        data.load(f"folder:{tmp_path}")


def test_a_test_folder_without_readable_pictures_is_refused(tmp_path):
    fill(tmp_path / "train", count=2)
    (tmp_path / "test").mkdir()
    with pytest.raises(InputError, match=r"test: has pictures in 0 folders|test.*no pictures"):
        data.load(f"folder:{tmp_path}")


def test_a_test_class_that_train_has_not_is_refused_by_name(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", labels=("blue", "green"))
    with pytest.raises(InputError, match="green"):
        data.load(f"folder:{tmp_path}")


def test_fewer_than_two_classes_are_refused(tmp_path):
    with pytest.raises(InputError, match="in 0 folders"):
        data.load(f"folder:{tmp_path}")
    fill(tmp_path, labels=("red",))
    (tmp_path / "blue").mkdir()
    (tmp_path / "blue" / "notes.txt").write_text("none yet")
    with pytest.raises(InputError, match="in 1 folders"):
        data.load(f"folder:{tmp_path}")


# What is asked for


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cifra10:x", r"'cifra10:x'.*synthetic.*cifar10:DIR.*folder:DIR"),
        ("", "unknown data ''"),
        ("/some/folder", "unknown data"),
        ("folder", "write folder:DIR"),
        ("cifar10", "write cifar10:DIR"),
        ("cifar10:", "write cifar10:DIR"),
        ("synthetic:x", "write synthetic"),
        ("folder:/nowhere/at/all", "there is no folder /nowhere/at/all"),
    ],
)
def test_a_bad_spec_is_refused(spec, message):
    with pytest.raises(InputError, match=message):
        data.load(spec)


def test_synthetic_is_balanced_and_its_test_pictures_are_others():
    dataset = data.load("synthetic")
    for pictures, count in ((dataset.train, 5000), (dataset.test, 1000)):
        assert (pictures.images.shape, pictures.images.dtype) == ((count, 32, 32, 3), np.uint8)
        assert np.bincount(pictures.labels).tolist() == [count // 10] * 10
    seen = {image.tobytes() for image in dataset.train.images}
    assert not any(image.tobytes() in seen for image in dataset.test.images)


# Parts


def numbered(counts):
    """Pictures of so many of each class; each picture holds its number."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Pictures(images=images, labels=labels)


@pytest.mark.parametrize("size", [10, 50, 99])
def test_a_subset_keeps_the_classes_shares_and_the_rest_is_the_rest(size):
    pictures = numbered([60, 30, 10])
    part, rest = data.subset(pictures, size, seed=3)
    assert len(part) == size
    shares = np.bincount(part.labels, minlength=3)
    assert np.abs(shares - size * np.array([0.6, 0.3, 0.1])).max() <= 1
    together = np.concatenate([part.images, rest.images]).ravel()
    assert sorted(together) == list(range(100))
    np.testing.assert_array_equal(part.labels, pictures.labels[part.images.ravel()])


def test_subsets_are_drawn_by_seed():
    pictures = numbered([60, 40])
    drawn = [data.subset(pictures, 20, seed)[0].images.ravel().tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("size", [None, 100, 1000])
def test_a_subset_of_all_leaves_nothing(size):
    part, rest = data.subset(numbered([60, 40]), size, seed=0)
    assert (len(part), len(rest)) == (100, 0)


def test_mean_and_std_are_those_of_the_training_pictures():
    train = Pictures(images=np.zeros((4, 2, 2, 3), np.uint8), labels=np.arange(4))
    train.images[:2, ..., 0] = 255
    train.images[..., 1] = 51
    dataset = data.Dataset(name="", classes=("a",), train=train, test=train)
    mean, std = dataset.mean_std()
    assert mean == pytest.approx((0.5, 0.2, 0))
    assert std == pytest.approx((0.5, 1e-3, 1e-3))  # never 0: pictures are divided by it
