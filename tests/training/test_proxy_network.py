"""What is deployed and what is trained to evaluate it, decided in one place."""

import dataclasses

import numpy as np
import pytest

from ghostnas.data.images import Dataset, Pictures
from ghostnas.errors import InputError
from ghostnas.ir import cost
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.networks import space
from ghostnas.networks.arch import fit_to, lower
from ghostnas.networks.zoo import ghostnet
from ghostnas.training import proxy_network, recipe, splits

SEARCHED = space.load("ghostnet")


def images(size, **changed):
    pictures = Pictures(
        images=np.zeros((40, size, size, 3), np.uint8), labels=np.arange(40, dtype=np.int64) % 4
    )
    classes = ("a", "b", "c", "d")
    dataset = Dataset(
        name="made",
        classes=classes,
        train=pictures,
        test=pictures,
        resolution=size,
        preprocessing=Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, classes=classes),
    )
    how = recipe.Recipe(epochs=1, batch_size=4, learning_rate=0.1, **changed)
    return splits.split(dataset, how)


def deployed(found, deploy="published", resolution=0):
    return proxy_network.deployed_space(SEARCHED, deploy, resolution, found)


def test_the_default_is_the_published_network_and_its_proxy_has_other_weights():
    found = images(32)
    arch = deployed(found).decode({})
    assert (arch.resolution, arch.dropped_strides, arch.classes) == (224, 0, 4)
    proxy = proxy_network.proxy_of(arch, found)
    assert (proxy.resolution, proxy.dropped_strides, proxy.classes) == (32, 2, 4)
    assert not proxy_network.shares_weights(arch, proxy)


def test_at_the_datas_own_size_the_trained_network_is_the_deployed_one():
    found = images(32)
    searched = deployed(found, "data")
    assert "resolution" not in searched.choices
    arch = searched.decode({"alpha": 0.5})
    assert (arch.resolution, arch.dropped_strides) == (32, 2)
    assert proxy_network.proxy_of(arch, found) == arch
    assert proxy_network.shares_weights(arch, arch)


def test_a_deployment_no_larger_than_the_images_is_trained_as_it_is():
    """`--resolution 32` on images of 32 px: no stride is dropped behind the user's back."""
    found = images(32)
    arch = deployed(found, resolution=32).decode({})
    proxy = proxy_network.proxy_of(arch, found)
    assert proxy == arch
    assert cost.count(lower(proxy)) == cost.count(lower(arch))


def test_images_that_a_recipe_shrinks_train_the_same_network():
    found = images(256, resolution=128)
    arch = deployed(found, resolution=224).decode({})
    proxy = proxy_network.proxy_of(arch, found)
    assert (proxy.resolution, proxy.dropped_strides) == (128, 0)
    assert proxy_network.shares_weights(arch, proxy)
    small = images(32, resolution=24)
    own = deployed(small, "data").decode({})
    assert proxy_network.proxy_of(own, small) == dataclasses.replace(own, resolution=24)
    assert proxy_network.shares_weights(own, proxy_network.proxy_of(own, small))


def test_resolutions_are_searched_where_a_training_can_distinguish_them():
    options = SEARCHED.choices["resolution"]
    assert deployed(images(max(options))).choices["resolution"] == options
    assert "resolution" not in deployed(images(32)).choices


def test_contradictory_options_are_rejected():
    with pytest.raises(InputError, match=r"leave --resolution 48 out"):
        deployed(images(32), "data", 48)
    with pytest.raises(InputError, match="known are published, data"):
        deployed(images(32), "imagenet")


def test_a_description_distinguishes_deployment_and_proxy():
    arch = ghostnet(0.5, 224, 10)
    assert proxy_network.describe(arch) == "224 px, 10 classes, 41.1 MFLOPs"
    proxy = fit_to(arch, resolution=32, classes=10)
    assert proxy_network.describe(proxy).startswith("32 px, 2 strides dropped, 10 classes, ")
    once = dataclasses.replace(proxy, dropped_strides=1)
    assert "1 stride dropped" in proxy_network.describe(once)
