"""Each network of a space takes the part of the shared weights that belongs to it, and no more."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import SPACE
from torch.func import functional_call

from ghostnas.errors import InputError
from ghostnas.ir.graph import Conv, Dense
from ghostnas.networks import space as spaces
from ghostnas.networks.arch import fit_to, lower
from ghostnas.training.shared_weights import SharedWeights

KINDS = """
block = ["ghost", {type = "mbconv", kernel = 3, expansion = 2}, "repghost", "ghostv2", "skip"]
alpha = [1.0, 0.5]
resolution = 32
round_to = 4
stem = {channels = [12, 8]}
head = {channels = 16, features = 16}

[[group]]
stride = 1
depth = 1
width = [8, 12]
expansion = [1, 3]
attention = ["none", "se", "eca"]
se = 0.25
ghost_ratio = [2, 1, 3, 4]
cheap = ["joint", "split"]
cheap_kernel = [3, 5]
kernel = [3, 5]
activation = "relu"

[[group]]
stride = 2
depth = [2, 3]
width = [16, 12]
expansion = [2, 3]
attention = ["se", "none"]
se = 0.25
ghost_ratio = [2, 3]
cheap = "joint"
cheap_kernel = 3
kernel = [5, 3]
activation = "relu"
"""


def space_of(text):
    return replace(spaces.parse(text, "own", "own"), classes=5)


@pytest.fixture(scope="module")
def shared():
    return SharedWeights(space_of(KINDS), 0)


@pytest.fixture(scope="module")
def ghosts():
    return SharedWeights(space_of(SPACE), 0)


def member_of(shared, params, size=16):
    arch = fit_to(shared.space.decode(params), resolution=size, classes=5)
    return shared.member(params, lower(arch))


def images_of(size=16, count=4):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def filled(text):
    """Shared weights without ones and zeros, in which nothing looks alike."""
    shared = SharedWeights(space_of(text), 0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for array in shared.parameters():
            if array.ndim == 1:
                array.copy_(torch.rand(array.shape, generator=generator) + 0.5)
    return shared


# Widths of which a Ghost module with s = 2 or 3 drops no maps.
WHOLE = SPACE.replace("round_to = 4", "round_to = 6").replace("[8, 12, 16]", "[6, 12, 18]")
FIXED = {"group1.depth": 2, "group1.cheap_kernel": 5, "group1.kernel": 5, "group1.se": 0.25}
WIDE = {**FIXED, "group1.width": 18, "group1.expansion": 2, "head.channels": 32}


@pytest.mark.parametrize("ratio", [2, 3])
@pytest.mark.parametrize(
    "narrower", [{"group1.width": 12}, {"group1.expansion": 1}, {"head.channels": 16}]
)
def test_a_narrower_network_is_the_wider_one_whose_other_channels_are_dead(ratio, narrower):
    shared = filled(WHOLE)
    large = {**WIDE, "group1.ghost_ratio": ratio}
    small = member_of(shared, {**large, **narrower})
    biased = {n.name for n in small.graph.nodes if isinstance(n.op, Conv) and n.op.bias}
    before = shared.cut(member_of(shared, large))(images_of())
    with torch.no_grad():
        for key, (name, index) in small.taken.items():
            array, used = shared.array(name), index[0]
            count = used.stop if isinstance(used, slice) else len(used)
            if array.ndim == 1 or key.rpartition(".")[0] in biased:
                array[count:] = 0
    expected = shared.cut(member_of(shared, large))(images_of())
    found = shared.cut(small)(images_of())
    assert not torch.allclose(before, expected, atol=1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("key", ["group1.kernel", "group1.cheap_kernel"])
def test_a_smaller_kernel_is_the_middle_of_the_larger_one(key):
    shared = filled(WHOLE)
    small = member_of(shared, {**WIDE, key: 3})
    with torch.no_grad():
        for name, index in small.taken.values():
            array = shared.array(name)
            if array.ndim == 4 and array.shape[3] == 5 and index[3] == slice(1, 4):
                edge = torch.ones(5, 5)
                edge[1:4, 1:4] = 0
                array[:, :, edge == 1] = 0
    expected = shared.cut(member_of(shared, WIDE))(images_of())
    torch.testing.assert_close(shared.cut(small)(images_of()), expected, rtol=1e-4, atol=1e-5)


def test_a_shallower_network_has_the_first_blocks(ghosts):
    def names(depth):
        return {name for name, _ in member_of(ghosts, {"group1.depth": depth}).taken.values()}

    assert names(1) < names(2)
    assert {name.split(".")[1] for name in names(2) - names(1)} == {"1"}


def test_every_network_has_its_part_and_every_array_is_of_one(shared):
    rng = random.Random(0)
    used = set()
    for number in range(100):
        member = member_of(shared, shared.space.sample(rng))
        used |= {name for name, _ in member.taken.values()}
        if number % 10:
            continue
        net = shared.cut(member)
        assert {key for key, _ in net.named_parameters()} == set(member.taken)
        for key, (name, index) in member.taken.items():
            array = shared.array(name).detach()
            rows = [np.arange(size)[each] for size, each in zip(array.shape, index, strict=False)]
            rows += [np.arange(size) for size in array.shape[len(rows) :]]
            np.testing.assert_array_equal(net.get_parameter(key).detach(), array[np.ix_(*rows)])
    assert used == {name.replace("/", ".") for name, _ in shared.named_parameters()}


def test_kinds_of_blocks_share_nothing(shared):
    def names(block):
        return {
            name
            for name, _ in member_of(shared, {"group2.block": block}).taken.values()
            if name.startswith("group2")
        }

    ghost, inverted = names("ghost"), names("mbconv kernel=3 expansion=2")
    assert ghost
    assert inverted
    assert not ghost & inverted


def test_cheap_operations_that_make_several_maps_share_nothing_with_those_of_one(ghosts):
    def cheap(ratio):
        taken = member_of(ghosts, {"group1.ghost_ratio": ratio}).taken
        return {name for key, (name, _) in taken.items() if "cheap_operation" in key}

    assert cheap(2)
    assert not cheap(2) & cheap(3)


def test_gradients_are_those_of_the_arrays_that_the_network_was_cut_from(shared):
    rng = random.Random(3)
    for _ in range(6):
        params = shared.space.sample(rng)
        member = member_of(shared, params)
        shared.zero_grad()
        net = shared.cut(member)
        images = images_of()
        net(images).logsumexp(1).sum().backward()
        shared.give_back(member, net)
        leaves = {
            name: shared.array(name).detach().clone().requires_grad_()
            for name, _ in member.taken.values()
        }
        parts = {}
        for key, (name, index) in member.taken.items():
            part = leaves[name]
            for dimension, each in enumerate(index):
                rows = torch.arange(part.shape[dimension])[each]
                part = part.index_select(dimension, rows)
            parts[key] = part
        functional_call(net, parts, (images,)).logsumexp(1).sum().backward()
        for name, array in shared.named_parameters():
            leaf = leaves.get(name.replace("/", "."))
            if leaf is None:
                assert array.grad is None
            else:
                torch.testing.assert_close(array.grad, leaf.grad, rtol=1e-3, atol=1e-5)


def test_gradients_of_several_networks_add_up(ghosts):
    ghosts.zero_grad()
    params = {"group1.width": 12}
    member = member_of(ghosts, params)
    totals = []
    for _ in range(2):
        net = ghosts.cut(member)
        net(images_of()).logsumexp(1).sum().backward()
        ghosts.give_back(member, net)
        totals.append(ghosts.array("classifier.weight").grad.clone())
    torch.testing.assert_close(totals[1], 2 * totals[0])


def test_the_same_seed_draws_the_same_weights():
    first, second, other = (SharedWeights(space_of(SPACE), seed) for seed in (1, 1, 2))
    for name, array in first.named_parameters():
        assert torch.equal(array, second.get_parameter(name))
    assert not torch.equal(first.array("conv_stem.weight"), other.array("conv_stem.weight"))


def test_weights_of_another_space_are_refused(shared, ghosts):
    with pytest.raises(InputError, match="not those of space own"):
        ghosts.load(shared.arrays(), "file")
    ghosts.load(ghosts.arrays(), "file")


def test_a_space_that_searches_strides_has_no_places():
    text = SPACE.replace("stride = 2", "stride = [1, 2]")
    with pytest.raises(InputError, match=r"searches group1\.stride"):
        SharedWeights(space_of(text), 0)


def test_the_classifier_reads_the_features_of_every_head(ghosts):
    member = member_of(ghosts, {"head.channels": 16})
    last = member.graph.nodes[-1]
    assert isinstance(last.op, Dense)
    assert ghosts.cut(member)(images_of()).shape == (4, 5)
