"""The settings of a space's parts are those that the space itself builds."""

import itertools
import random
from dataclasses import replace

import pytest
from budgeted import SPACE, TINY

from ghostnas.errors import InputError
from ghostnas.networks import enumeration, space
from ghostnas.networks.arch import fit_to

ODD = space.parse(
    """
alpha = [1.0, 0.5]
resolution = 32
round_to = 4
stem = {channels = [8, 12]}
head = {channels = [16, 32], features = 16}

[[group]]
block = ["ghost", {type = "mbconv", kernel = 5}, "skip"]
stride = 1
depth = [1, 2]
width = 8
expansion = 2
se = [0, 0.25]
ghost_ratio = [2, 3]
cheap_kernel = 3
kernel = 3
""",
    "odd",
    "odd.toml",
)


def every(searched):
    """Every setting of a chain: what it asked for, and the network's blocks."""
    for whole in enumeration.wholes(searched):
        for stem in enumeration.stems(searched, whole):
            started = [({**whole, **stem.params}, stem.width, stem.built.channels, ())]
            for group in range(1, searched.groups + 1):
                started = [
                    (
                        {**params, **each.params},
                        each.width,
                        each.built[-1].out_channels,
                        (*blocks, *each.built),
                    )
                    for params, width, channels, blocks in started
                    for each in enumeration.groups(searched, whole, group, width, channels)
                ]
            for (params, _, _, blocks), head in itertools.product(
                started, enumeration.heads(searched, whole)
            ):
                yield {**params, **head.params}, stem.built, blocks, head.built


@pytest.mark.parametrize("searched", [TINY, ODD], ids=["tiny", "odd"])
def test_the_settings_are_what_the_space_can_build_each_once(searched):
    found = {}
    for params, stem, blocks, head in every(searched):
        key = frozenset(params.items())
        assert key not in found
        found[key] = params
        asked = {}

        def pick(name, options, params=params, asked=asked):
            asked[name] = params[name]  # no number is left out
            return params[name]

        built = searched.build(pick)
        assert asked == params  # and none is too many
        assert built.stem == stem
        assert built.head == head
        assert tuple(block for stage in built.stages for block in stage.blocks) == blocks
    rng = random.Random(0)
    sampled = {frozenset(searched.sample(rng).items()) for _ in range(3000)}
    assert sampled == set(found)


def test_the_first_setting_of_each_part_is_the_published_one():
    params, stem, blocks, head = next(every(SPACE))
    published = SPACE.decode({})
    assert (stem, head) == (published.stem, published.head)
    assert blocks == tuple(block for stage in published.stages for block in stage.blocks)
    assert SPACE.decode(params) == published


def test_a_number_that_makes_no_difference_is_not_repeated():
    def build(pick):
        return pick("kind", ("plain", "deep")) == "deep" and pick("depth", (2, 3, 4))

    assert list(enumeration.explore(build)) == [
        ({"kind": "plain"}, False),
        ({"kind": "deep", "depth": 2}, 2),
        ({"kind": "deep", "depth": 3}, 3),
        ({"kind": "deep", "depth": 4}, 4),
    ]


@pytest.mark.parametrize("name", ["ghostnet", "ghostnet-wide", "odd"])
def test_a_network_tells_the_settings_that_build_it(name):
    searched = ODD if name == "odd" else space.load(name)
    for seed in range(8):
        network = searched.decode(searched.sample(random.Random(seed)))
        elsewhere = fit_to(network, resolution=32, classes=7)
        again = searched.decode(enumeration.settings_of(searched, elsewhere))
        assert replace(again, resolution=network.resolution) == network


def test_a_network_of_another_space_has_no_settings():
    with pytest.raises(InputError, match="is not one of space odd"):
        enumeration.settings_of(ODD, space.load("ghostnet").decode({}))
    network = ODD.decode({})
    longer = replace(network, stages=network.stages * 3)
    with pytest.raises(InputError, match="is not one of space odd"):
        enumeration.settings_of(ODD, longer)
