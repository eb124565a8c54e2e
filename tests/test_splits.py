from dataclasses import replace

import numpy as np
import pytest
from small import write_pictures

from ghostnas import cost, data, splits
from ghostnas.arch import lower
from ghostnas.errors import InputError
from ghostnas.pictures import Dataset, Pictures
from ghostnas.preprocessing import Preprocessing
from ghostnas.recipe import Recipe
from ghostnas.zoo import ghostnet

PLAIN = Recipe(epochs=1, batch_size=4, learning_rate=0.1)


def numbered(count, classes=5, first=0):
    """Pictures that are told apart by their first value."""
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


def test_no_picture_is_in_two_parts_and_they_are_always_the_same():
    how = replace(PLAIN, train_pictures=40, validation_pictures=20)
    first, again = splits.split(DATASET, how), splits.split(DATASET, how)
    assert (len(first.train), len(first.validation), len(first.test)) == (40, 20, 50)
    assert not numbers(first.train) & numbers(first.validation)
    assert numbers(first.train) == numbers(again.train)
    assert numbers(first.validation) == numbers(again.validation)
    assert np.bincount(first.validation.labels).tolist() == [4] * 5


def test_without_limits_all_pictures_are_used_and_none_held_out():
    found = splits.split(DATASET, PLAIN)
    assert numbers(found.train) == numbers(DATASET.train)
    assert len(found.validation) == 0
    assert numbers(found.test) == numbers(DATASET.test)


def test_fewer_classes_are_numbered_anew_with_their_names():
    found = splits.split(DATASET, replace(PLAIN, classes=2))
    assert len(found.preprocessing.classes) == 2
    for part in (found.train, found.test):
        assert set(part.labels.tolist()) == {0, 1}
        for label, name in enumerate(found.preprocessing.classes):
            of_it = part.take(np.flatnonzero(part.labels == label))
            assert {number % 5 for number in numbers(of_it)} == {DATASET.classes.index(name)}


@pytest.mark.parametrize("classes", [1, 6])
def test_classes_that_there_are_not_are_refused(classes):
    how = replace(PLAIN, classes=classes)
    with pytest.raises(InputError, match="numbers has 5"):
        splits.split(DATASET, how)


def macs(resolution):
    how = replace(PLAIN, resolution=resolution)
    arch = splits.fit(ghostnet(0.5), splits.split(DATASET, how))
    assert arch.classes == 5
    return cost.count(lower(arch)).macs


def test_smaller_pictures_cost_less():
    assert macs(16) < macs(24) < macs(32) < macs(64)
    assert macs(16) < macs(32) / 3
    assert macs(None) == macs(32)


def test_a_network_for_smaller_pictures_keeps_its_size(tmp_path):
    write_pictures(tmp_path, size=48)
    dataset = data.load(f"folder:{tmp_path / 'pictures'}")
    found = splits.split(dataset, PLAIN)
    assert splits.fit(ghostnet(0.5, resolution=32), found).resolution == 32
    assert splits.fit(ghostnet(0.5), found).resolution == dataset.resolution
