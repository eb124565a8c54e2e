import numpy as np
import pytest

from ghostnas.data import synthetic


@pytest.fixture(scope="module")
def drawn():
    return synthetic.draw(500, seed=1)


def test_images_are_small_and_of_bytes(drawn):
    images, labels = drawn
    assert (images.shape, images.dtype) == ((500, 32, 32, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((500,), np.int64)
    assert images.std(axis=(1, 2, 3)).min() > 5  # none is empty


def test_classes_are_balanced(drawn):
    assert np.bincount(drawn[1]).tolist() == [50] * len(synthetic.CLASSES)


def test_the_same_seed_draws_the_same_images_and_another_draws_others(drawn):
    for one, again in zip(drawn, synthetic.draw(500, seed=1), strict=True):
        np.testing.assert_array_equal(one, again)
    images, labels = synthetic.draw(500, seed=2)
    assert (labels != drawn[1]).any()
    assert (images != drawn[0]).any(axis=(1, 2, 3)).all()


def test_colour_and_brightness_say_nothing_about_the_class():
    # A class's mean colour lies within chance of all classes' mean.
    images, labels = synthetic.draw(1000, seed=3)
    colours = images.mean(axis=(1, 2))
    spread = colours.std(axis=0)
    for label in range(len(synthetic.CLASSES)):
        members = colours[labels == label]
        assert (np.abs(members.mean(axis=0) - colours.mean(axis=0)) < spread).all()


def test_a_figure_of_each_class_has_a_shape_of_its_own():
    masks = [
        synthetic._figure(label, np.random.default_rng(0), size=10.0, margin=11.0) > 0.5
        for label in range(len(synthetic.CLASSES))
    ]
    for index, mask in enumerate(masks):
        assert mask.sum() > 40  # pixels
        assert all((mask != other).sum() > 20 for other in masks[:index])
