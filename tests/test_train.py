import math
from dataclasses import replace

import numpy as np
import pytest

from ghostnas.arch import Arch, Head, Stage, Stem, lower
from ghostnas.blocks import GhostBlock
from ghostnas.data import Pictures
from ghostnas.errors import TrainingError
from ghostnas.torch_net import net_of
from ghostnas.train import RECIPES, Recipe, evaluate, train

NET = lower(
    Arch(
        stem=Stem(channels=8, stride=1),
        stages=(Stage(blocks=(GhostBlock(hidden_channels=16, out_channels=8),)),),
        head=Head(channels=16, features=16),
        classes=3,
        resolution=8,
    )
)
RECIPE = Recipe(
    train_pictures=None,
    validation_pictures=60,
    epochs=4,
    batch_size=16,
    learning_rate=0.01,
    crop_padding=1,
)
UNIT = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def colours(count, seed):
    """A class a colour, under noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 100, (count, 8, 8, 3))
    images[np.arange(count), :, :, labels] += 120
    return Pictures(images=images.astype(np.uint8), labels=labels)


TRAIN, HELD_OUT = colours(120, 0), colours(60, 1)


def trained(seed=0, recipe=RECIPE, report=lambda step, steps, loss: None):
    return train(NET, TRAIN, HELD_OUT, recipe, seed, UNIT, report)


def test_a_net_learns_to_tell_colours():
    losses = []
    result = trained(report=lambda step, steps, loss: losses.append((step, steps, loss)))
    assert [step for step, _, _ in losses] == list(range(1, 29))  # 4 epochs of 7 whole batches
    assert {steps for _, steps, _ in losses} == {28}
    assert np.mean([loss for _, _, loss in losses[-5:]]) < 0.3 * losses[0][2]
    assert result.accuracy > 0.9
    assert result.seconds > 0
    assert evaluate(net_of(NET, result.weights), HELD_OUT, UNIT) == result.accuracy


def test_labels_that_say_nothing_are_not_learned():
    shuffled = replace(HELD_OUT, labels=np.random.default_rng(0).permutation(HELD_OUT.labels))
    result = trained()
    assert evaluate(net_of(NET, result.weights), shuffled, UNIT) < 0.6


def test_the_same_seed_gives_the_same_weights_and_another_gives_others():
    once, again, other = (trained(seed).weights for seed in (1, 1, 2))
    assert once.keys() == again.keys()
    for key, array in once.items():
        np.testing.assert_array_equal(array, again[key])
    differing = {key for key in once if not np.array_equal(once[key], other[key])}
    assert differing == once.keys()


def test_training_changes_every_weight_and_statistic():
    short = trained(recipe=replace(RECIPE, epochs=1)).weights
    longer = trained().weights
    assert [key for key in short if np.array_equal(short[key], longer[key])] == []


@pytest.mark.parametrize("learning_rate", [1e30, math.inf])
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_loss_that_is_no_number_ends_the_training(learning_rate, epochs):
    recipe = replace(RECIPE, learning_rate=learning_rate, epochs=epochs)
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+ of"):
        trained(recipe=recipe)


def test_weights_that_are_no_numbers_are_never_handed_out():
    recipe = replace(RECIPE, learning_rate=math.inf, epochs=1, batch_size=len(TRAIN))
    with pytest.raises(TrainingError):  # its one step has a loss, and breaks the weights
        trained(recipe=recipe)


def test_fewer_pictures_than_a_batch_are_one_batch():
    steps = []
    train(
        NET,
        colours(9, 2),
        HELD_OUT,
        replace(RECIPE, epochs=2),
        0,
        UNIT,
        lambda step, total, loss: steps.append((step, total)),
    )
    assert steps == [(1, 2), (2, 2)]


def test_accuracy_is_the_share_of_right_pictures():
    weights = dict(trained().weights)
    weights["classifier.weight"] = np.zeros_like(weights["classifier.weight"])
    weights["classifier.bias"] = np.array([0, 1, 0], np.float32)  # always the second class
    held_out = HELD_OUT.take(np.flatnonzero(HELD_OUT.labels != 2)[:30])
    assert evaluate(net_of(NET, weights), held_out, UNIT) == 0.5


def test_pictures_are_normalised_as_the_training_was():
    result = trained()
    assert evaluate(net_of(NET, result.weights), HELD_OUT, ((0, 0, 0), (9, 9, 9))) < 0.9


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_can_be_carried_out(name):
    recipe = RECIPES[name]
    assert recipe.epochs >= 1
    assert recipe.validation_pictures > 0
    assert recipe.train_pictures is None or recipe.train_pictures >= recipe.batch_size


def test_pictures_are_scaled_to_the_size_that_the_graph_takes():
    large = Pictures(images=HELD_OUT.images.repeat(2, 1).repeat(2, 2), labels=HELD_OUT.labels)
    assert evaluate(net_of(NET, trained().weights), large, UNIT) > 0.9
