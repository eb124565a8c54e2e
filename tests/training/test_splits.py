import os
from dataclasses import replace

import numpy as np
import pytest
from small import write_pictures

from ghostnas.data import datasets
from ghostnas.data.images import Dataset, PictureFiles, Pictures
from ghostnas.errors import InputError
from ghostnas.ir import cost
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.networks.arch import lower
from ghostnas.networks.zoo import ghostnet
from ghostnas.training import splits
from ghostnas.training.recipe import Recipe

PLAIN = Recipe(epochs=1, batch_size=4, learning_rate=0.1)


def numbered(count, classes=5, first=0):
    """Images distinguished by their first value."""
    images = np.zeros((count, 32, 32, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(first, first + count)
    return Pictures(images=images, labels=np.arange(count) % classes)


DATASET = Dataset(
    name="numbers",
    classes=("a", "b", "c", "d", "e"),
    train=numbered(100),
    test=numbered(50, first=100),
    resolution=32,
    preprocessing=Preprocessing(mean=(0, 0, 0), std=(1, 1, 1), classes=("a", "b", "c", "d", "e")),
)


def numbers(pictures):
    return set(pictures.images[:, 0, 0, 0].tolist())


def test_no_image_is_in_two_parts_and_the_parts_are_always_the_same():
    how = replace(PLAIN, train_pictures=40, validation_pictures=20)
    first, again = splits.split(DATASET, how), splits.split(DATASET, how)
    assert (len(first.train), len(first.validation), len(first.test)) == (40, 20, 50)
    assert not numbers(first.train) & numbers(first.validation)
    assert numbers(first.train) == numbers(again.train)
    assert numbers(first.validation) == numbers(again.validation)
    assert np.bincount(first.validation.labels).tolist() == [4] * 5


def test_without_limits_all_images_are_used_and_none_held_out():
    found = splits.split(DATASET, PLAIN)
    assert numbers(found.train) == numbers(DATASET.train)
    assert len(found.validation) == 0
    assert numbers(found.test) == numbers(DATASET.test)


def test_fewer_classes_are_renumbered_with_their_names():
    found = splits.split(DATASET, replace(PLAIN, classes=2))
    assert len(found.preprocessing.classes) == 2
    for part in (found.train, found.test):
        assert set(part.labels.tolist()) == {0, 1}
        for label, name in enumerate(found.preprocessing.classes):
            of_it = part.take(np.flatnonzero(part.labels == label))
            assert {number % 5 for number in numbers(of_it)} == {DATASET.classes.index(name)}


@pytest.mark.parametrize("classes", [1, 6])
def test_nonexistent_classes_are_rejected(classes):
    how = replace(PLAIN, classes=classes)
    with pytest.raises(InputError, match="numbers has 5"):
        splits.split(DATASET, how)


def other_pixels(pictures):
    images = pictures.images.copy()
    images[-1, -1, -1, -1] ^= 1
    return replace(pictures, images=images)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize(
    "change",
    [
        other_pixels,
        lambda pictures: pictures.take(np.arange(len(pictures))[::-1]),
        lambda pictures: pictures.take(np.arange(len(pictures) - 1)),
        lambda pictures: replace(pictures, labels=(pictures.labels + 1) % 5),
    ],
    ids=["pixels", "order", "number", "labels"],
)
def test_a_fingerprint_distinguishes_other_images(part, change):
    found = splits.split(DATASET, replace(PLAIN, validation_pictures=20))
    other = replace(found, **{part: change(getattr(found, part))})
    kept = splits.fingerprint(found)
    assert splits.fingerprint(found) == kept
    assert splits.has_fingerprint(found, kept)
    assert splits.fingerprint(other) != kept
    assert not splits.has_fingerprint(other, kept)


def test_fingerprints_of_old_trainings_still_hold_and_ignore_pixels():
    found = splits.split(DATASET, replace(PLAIN, validation_pictures=20))
    old = "524653fee820e246"
    assert splits.has_fingerprint(found, old)
    assert splits.has_fingerprint(replace(found, test=other_pixels(found.test)), old)
    assert not splits.has_fingerprint(replace(found, resolution=24), old)
    assert not splits.has_fingerprint(found, "")


def test_a_fingerprint_of_files_uses_their_names_even_if_not_text(tmp_path):
    names = ("a.png", "b.png", os.fsdecode(b"\xe9.png"))
    files = PictureFiles(paths=tuple(tmp_path / name for name in names), labels=np.arange(3))
    found = splits.split(DATASET, PLAIN)
    one = replace(found, train=files)
    other = replace(found, train=replace(files, paths=tuple(reversed(files.paths))))
    assert splits.has_fingerprint(one, splits.fingerprint(one))
    assert splits.fingerprint(one) != splits.fingerprint(other)


def macs(resolution):
    how = replace(PLAIN, resolution=resolution)
    arch = splits.fit(ghostnet(0.5), splits.split(DATASET, how))
    assert arch.classes == 5
    return cost.count(lower(arch)).macs


def test_smaller_images_cost_less():
    assert macs(16) < macs(24) < macs(32) < macs(64)
    assert macs(16) < macs(32) / 3
    assert macs(None) == macs(32)


def test_a_network_for_smaller_images_keeps_its_size(tmp_path):
    write_pictures(tmp_path, size=48)
    dataset = datasets.load(f"folder:{tmp_path / 'pictures'}")
    found = splits.split(dataset, PLAIN)
    assert splits.fit(ghostnet(0.5, resolution=32), found).resolution == 32
    assert splits.fit(ghostnet(0.5), found).resolution == dataset.resolution
