import dataclasses
import errno
import os

import numpy as np
import pytest
from PIL import Image

from ghostnas.data import datasets, image_folder
from ghostnas.data.images import PictureFiles, Pictures
from ghostnas.errors import InputError
from ghostnas.ir import preprocessing


def empty(path):
    path.write_bytes(b"")


def colour_of(label):
    return (200, 30, 40) if label == "red" else (20, 40, 220)


def fill(folder, labels=("blue", "red"), count=10, size=(24, 24)):
    """`count` images per class, each in its class's colour."""
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            picture = Image.new("RGB", size, colour_of(label))
            picture.save(folder / label / f"{number}.{('png', 'jpg')[number % 2]}")


def test_one_folder_per_class_is_split_with_the_same_shares(tmp_path):
    fill(tmp_path)
    dataset = datasets.load(f"folder:{tmp_path}")
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
    once, again = datasets.load(f"folder:{tmp_path}"), datasets.load(f"folder:{tmp_path}")
    for part, other in ((once.train, again.train), (once.test, again.test)):
        np.testing.assert_array_equal(part.images, other.images)
        np.testing.assert_array_equal(part.labels, other.labels)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_train_and_test_folders_are_kept_apart(tmp_path, held_out):
    fill(tmp_path / "train", count=5)
    fill(tmp_path / held_out, count=3)
    dataset = datasets.load(f"folder:{tmp_path}")
    assert np.bincount(dataset.train.labels).tolist() == [5, 5]
    assert np.bincount(dataset.test.labels).tolist() == [3, 3]


def test_images_become_squares_from_their_middles(tmp_path):
    fill(tmp_path, count=4, size=(60, 33))
    wide = np.zeros((33, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    Image.fromarray(wide).save(tmp_path / "red" / "0.png")
    dataset = datasets.load(f"folder:{tmp_path}")
    assert dataset.resolution == 32  # the short side, down to a multiple of 8
    images = np.concatenate([dataset.train.images, dataset.test.images])
    (middle,) = (image for image in images if not image[0, 0].any())
    assert not middle[:, :5].any()
    assert not middle[:, 27:].any()
    assert (middle[:, 8:24] > 200).all()


def test_large_images_are_kept_at_224_pixels(tmp_path):
    fill(tmp_path, count=3, size=(230, 250))
    dataset = datasets.load(f"folder:{tmp_path}")
    assert dataset.resolution == image_folder.LARGEST_RESOLUTION == 224
    assert dataset.train.images.shape[1:] == (224, 224, 3)


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_picture(path):
    path.write_text("this is no picture")


def too_large(path):
    """A complete header that promises 60000 x 60000 pixels."""
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
def test_an_image_that_cannot_be_read_is_skipped_by_name(tmp_path, name, damage):
    rng = np.random.default_rng(0)
    fill(tmp_path, count=6)
    path = tmp_path / "red" / name
    Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(path)
    damage(path)
    dataset = datasets.load(f"folder:{tmp_path}")
    assert len(dataset.train) + len(dataset.test) == 11
    (skipped,) = dataset.skipped
    assert skipped.startswith(f"{path}: ")


def dead_class(root):
    (root / "green").symlink_to(root / "unmounted")
    return root / "green"


def dead_subfolder(root):
    (root / "red" / "more").symlink_to(root / "unmounted")
    return root / "red" / "more"


def linked_subfolder(root):
    (root / "red" / "more").symlink_to(root / "blue")
    return root / "red" / "more"


def closed_class(root):
    (root / "green").mkdir()
    return root / "green"


LOST = pytest.mark.parametrize("lose", [dead_class, dead_subfolder, linked_subfolder, closed_class])


@pytest.fixture
def refuse_green(monkeypatch):
    """The folder of that name cannot be listed, even if this runs as root, who may list all."""

    def scandir(path, real=os.scandir):
        if os.path.basename(path) == "green":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


@LOST
@pytest.mark.parametrize("parent", ["", "train", "test"])
def test_a_folder_that_cannot_be_read_is_named_and_with_strict_an_error(
    tmp_path, lose, parent, refuse_green
):
    for part in ("train", "test") if parent else ("",):
        fill(tmp_path / part, count=6)
    lost = lose(tmp_path / parent)
    dataset = datasets.load(f"folder:{tmp_path}")
    assert dataset.classes == ("blue", "red")
    [skipped] = dataset.skipped
    assert skipped.startswith(f"{lost}: ")
    assert datasets.check(f"folder:{tmp_path}")["skipped"] == [skipped]
    with pytest.raises(InputError, match=f"^{lost}: "):
        datasets.load(f"folder:{tmp_path}", strict=True)


def test_a_test_folder_that_leads_nowhere_is_named(tmp_path):
    """Without it, some of the training images would silently be the test."""
    fill(tmp_path / "train", count=6)
    (tmp_path / "val").symlink_to(tmp_path / "unmounted")
    [skipped] = datasets.load(f"folder:{tmp_path}").skipped
    assert skipped.startswith(f"{tmp_path / 'val'}: ")
    with pytest.raises(InputError, match="val: cannot be read"):
        datasets.load(f"folder:{tmp_path}", strict=True)


def test_a_class_whose_name_is_not_text_is_refused(tmp_path):
    fill(tmp_path)
    os.rename(os.fsencode(tmp_path / "red"), os.fsencode(tmp_path) + b"/r\xe9d")
    with pytest.raises(InputError, match=r"class folder 'r\\udce9d': give it a name in UTF-8"):
        datasets.load(f"folder:{tmp_path}")


def test_no_readable_image_at_all_is_refused(tmp_path):
    fill(tmp_path, count=3)
    for path in tmp_path.rglob("*.*"):
        empty(path)
    with pytest.raises(InputError, match="none of the images"):
        datasets.load(f"folder:{tmp_path}")


def test_a_class_with_one_readable_image_is_refused_by_name(tmp_path):
    fill(tmp_path / "train", count=2)
    fill(tmp_path / "test", count=2)
    empty(tmp_path / "train" / "red" / "0.png")
    with pytest.raises(InputError, match="class red has 1 readable"):
        datasets.load(f"folder:{tmp_path}")


def test_a_test_folder_without_readable_images_is_refused(tmp_path):
    fill(tmp_path / "train", count=2)
    (tmp_path / "test").mkdir()
    with pytest.raises(InputError, match=r"test: has images in 0 folders|test.*no images"):
        datasets.load(f"folder:{tmp_path}")


def test_a_test_class_that_train_lacks_is_refused_by_name(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", labels=("blue", "green"))
    with pytest.raises(InputError, match="green"):
        datasets.load(f"folder:{tmp_path}")


def test_fewer_than_two_classes_are_refused(tmp_path):
    with pytest.raises(InputError, match="in 0 folders"):
        datasets.load(f"folder:{tmp_path}")
    fill(tmp_path, labels=("red",))
    (tmp_path / "blue").mkdir()
    (tmp_path / "blue" / "notes.txt").write_text("none yet")
    with pytest.raises(InputError, match="in 1 folders"):
        datasets.load(f"folder:{tmp_path}")


def test_with_strict_the_first_unreadable_image_is_refused_by_name(tmp_path):
    fill(tmp_path, count=6)
    empty(tmp_path / "red" / "2.png")
    assert len(datasets.load(f"folder:{tmp_path}").skipped) == 1
    with pytest.raises(InputError, match=r"red/2.png: is empty"):
        datasets.load(f"folder:{tmp_path}", strict=True)


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_other_names_of_a_test_folder_are_not_classes(tmp_path, name):
    fill(tmp_path / "train", count=4)
    fill(tmp_path / name, count=2)
    dataset = datasets.load(f"folder:{tmp_path}")
    assert dataset.classes == ("blue", "red")
    assert (len(dataset.train), len(dataset.test)) == (8, 4)


def test_a_train_folder_alone_is_split(tmp_path):
    fill(tmp_path / "train")
    dataset = datasets.load(f"folder:{tmp_path}")
    assert (len(dataset.train), len(dataset.test)) == (16, 4)


def test_what_file_managers_leave_is_neither_an_image_nor_a_class(tmp_path):
    fill(tmp_path, count=4)
    fill(tmp_path / ".thumbnails", count=1)
    (tmp_path / "red" / "._0.png").write_bytes(b"a resource fork")
    (tmp_path / "red" / ".cache").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "red" / ".cache" / "0.png")
    dataset = datasets.load(f"folder:{tmp_path}", strict=True)
    assert dataset.classes == ("blue", "red")
    assert len(dataset.train) + len(dataset.test) == 8


# More than fits in memory


@pytest.fixture
def little_memory(monkeypatch):
    """Room for 19 images of 24 pixels."""
    monkeypatch.setattr(image_folder, "BYTES_IN_MEMORY", 19 * 24 * 24 * 3)


def test_images_that_need_more_memory_stay_files_in_the_same_split(tmp_path, monkeypatch):
    fill(tmp_path)
    kept = datasets.load(f"folder:{tmp_path}")
    monkeypatch.setattr(image_folder, "BYTES_IN_MEMORY", 19 * 24 * 24 * 3)
    filed = datasets.load(f"folder:{tmp_path}")
    assert isinstance(kept.train, Pictures)
    assert isinstance(filed.train, PictureFiles)
    assert isinstance(filed.test, PictureFiles)
    for part, files in ((kept.train, filed.train), (kept.test, filed.test)):
        np.testing.assert_array_equal(part.labels, files.labels)
        assert [path.parent.name for path in files.paths] == [
            filed.classes[label] for label in files.labels
        ]
    assert filed.resolution == kept.resolution == 24
    assert filed.preprocessing.mean == pytest.approx(kept.preprocessing.mean, abs=1e-6)
    assert filed.preprocessing.std == pytest.approx(kept.preprocessing.std, abs=1e-6)


@pytest.mark.usefixtures("little_memory")
def test_test_folders_stay_files_too(tmp_path):
    fill(tmp_path / "train", count=8)
    fill(tmp_path / "val", count=3)
    dataset = datasets.load(f"folder:{tmp_path}")
    assert [type(dataset.train), type(dataset.test)] == [PictureFiles, PictureFiles]
    assert all("val" in path.parts for path in dataset.test.paths)


# ImageNet

WNIDS = ("n01440764", "n01443537")


@pytest.fixture
def imagenet(tmp_path):
    for part, count in (("train", 3), ("val", 2)):
        for wnid in WNIDS:
            (tmp_path / part / wnid).mkdir(parents=True)
            for number in range(count):
                place = tmp_path / part / wnid / f"{wnid}_{number}.JPEG"
                Image.new("RGB", (40, 30)).save(place, "jpeg")
    return tmp_path


def test_imagenet_is_files_with_its_own_constants(imagenet):
    dataset = datasets.load(f"imagenet:{imagenet}")
    assert (dataset.name, dataset.classes, dataset.resolution) == ("imagenet", WNIDS, 224)
    assert dataset.preprocessing == dataclasses.replace(preprocessing.IMAGENET, classes=WNIDS)
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert dataset.train.paths[3] == imagenet / "train" / WNIDS[1] / f"{WNIDS[1]}_0.JPEG"


def test_a_flat_val_folder_is_refused_with_what_sorts_it(imagenet):
    for path in (imagenet / "val").glob("*/*"):
        path.rename(imagenet / "val" / path.name)
    with pytest.raises(
        InputError, match=r"val: .*sort them into val/<wnid>: run in it .*valprep.sh"
    ):
        datasets.load(f"imagenet:{imagenet}")


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_missing_part_of_imagenet_is_named(imagenet, part):
    (imagenet / part).rename(imagenet / "elsewhere")
    with pytest.raises(InputError, match=f"has no folder {part}"):
        datasets.load(f"imagenet:{imagenet}")
