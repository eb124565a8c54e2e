"""Images on which a network explodes do not calibrate it."""

import numpy as np
import pytest

from ghostnas.deployment import samples
from ghostnas.errors import InputError
from ghostnas.ir.graph import Builder, Conv
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import zoo
from ghostnas.networks.arch import lower


def test_images_with_far_larger_maps_are_left_out_and_no_others():
    graph = lower(zoo.ghostnet(0.25, 32, 10))
    images = np.random.default_rng(0).normal(size=(40, 3, 32, 32)).astype(np.float32)
    values = random_weights(graph, 0)
    np.testing.assert_array_equal(samples.without_explosions(graph, values, images), images)
    loud = images.copy()
    loud[[3, 20]] *= 100
    kept = samples.without_explosions(graph, values, loud)
    np.testing.assert_array_equal(kept, np.delete(loud, [3, 20], axis=0))


def test_one_convolution_is_enough_and_a_dead_one_keeps_all():
    graph = Builder((3, 4, 4))
    first = graph.add("first", Conv(in_channels=3, out_channels=2, bias=True), 0)
    graph.add("second", Conv(in_channels=2, out_channels=2, bias=True), first)
    built = graph.build()
    images = np.ones((5, 3, 4, 4), np.float32)
    images[2] = 11
    values = random_weights(built, 0)
    values["first.bias"] = 0 * values["first.bias"]
    values["second.bias"] = values["second.bias"] + np.float32(1e6)  # the second is equal for all
    assert len(samples.without_explosions(built, values, images)) == 4
    for key in values:
        values[key] = 0 * values[key]
    assert len(samples.without_explosions(built, values, images)) == 5
    values["first.bias"] = values["first.bias"] + np.float32(np.nan)
    with pytest.raises(InputError, match="not finite"):
        samples.without_explosions(built, values, images)
