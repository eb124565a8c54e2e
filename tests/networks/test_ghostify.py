"""Ghost modules in graphs: the counts of equations 4 and 5, and what follows a convolution."""

import numpy as np
import pytest

from ghostnas.errors import InputError
from ghostnas.ir import cost, reference
from ghostnas.ir.graph import (
    Activation,
    BatchNorm,
    Builder,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    Graph,
)
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import zoo
from ghostnas.networks.ghostify import ghostify


def one(conv: Conv, *, norm: bool = True) -> Graph:
    net = Builder((conv.in_channels, 12, 12))
    x = net.add("conv", conv, 0)
    if norm:
        x = net.add("bn", BatchNorm(channels=conv.out_channels), x)
    net.add("act", Activation(kind="relu"), x)
    return net.build()


@pytest.mark.parametrize(("s", "d"), [(2, 3), (2, 1), (3, 5), (4, 7)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (5, 2)])
def test_costs_fall_as_equations_4_and_5_say(s: int, d: int, kernel: int, stride: int) -> None:
    """Speed-up n c k k / (n/s c k k + (s - 1) n/s d d), and the compression ratio is the same."""
    channels, maps = 24, 48
    plain = one(Conv(in_channels=channels, out_channels=maps, kernel=kernel, stride=stride))
    ghost = ghostify(plain, s, d)
    of_one = channels * kernel * kernel
    weights = maps // s * of_one + (s - 1) * (maps // s) * d * d
    pixels = plain.nodes[1].shape[1] ** 2
    assert cost.count(ghost).macs == weights * pixels
    assert cost.count(ghost).params == weights + 2 * maps
    assert cost.count(plain).macs / cost.count(ghost).macs == maps * of_one / weights
    assert ghost.output_shape == plain.output_shape


def test_ghosts_are_made_of_normalised_and_activated_maps() -> None:
    ghost = ghostify(one(Conv(in_channels=4, out_channels=8, kernel=3)))
    ops = [type(node.op).__name__ for node in ghost.nodes[1:]]
    half = ["Conv", "BatchNorm", "Activation"]
    assert ops == [*half, *half, "Concat"]
    cheap = ghost.nodes[4]
    assert isinstance(cheap.op, Conv)
    assert cheap.op.groups == 4
    assert cheap.inputs == (3,)


def test_a_bias_without_batch_norm_goes_to_both_halves() -> None:
    conv = Conv(in_channels=4, out_channels=8, kernel=3, bias=True)
    ghost = ghostify(one(conv, norm=False))
    assert [node.op.bias for node in ghost.nodes if isinstance(node.op, Conv)] == [True, True]


def test_maps_that_s_does_not_divide_are_cut_to_their_number() -> None:
    graph = ghostify(one(Conv(in_channels=4, out_channels=7)), s=3)
    assert graph.output_shape == (7, 12, 12)
    image = np.random.default_rng(0).normal(size=(1, 4, 12, 12)).astype(np.float32)
    assert reference.run(graph, random_weights(graph, 0), image).shape == (1, 7, 12, 12)


def test_a_map_that_others_read_keeps_its_batch_norm_apart() -> None:
    net = Builder((4, 6, 6))
    x = net.add("conv", Conv(in_channels=4, out_channels=8), 0)
    y = net.add("bn", BatchNorm(channels=8), x)
    net.add("concat", Concat(), x, y)
    names = [node.name for node in ghostify(net.build()).nodes]
    assert names == ["input", "conv.primary_conv.0", "conv.cheap_operation.0", "conv.concat",
                     "bn", "concat"]  # fmt: skip


def test_the_caller_chooses() -> None:
    graph = zoo.graph("vgg16", 0.25)
    ghost = ghostify(graph, choose=lambda node: node.name == "conv4")
    assert {node.name for node in graph.nodes} - {node.name for node in ghost.nodes} == {
        *("conv4", "batchnorm5", "activation6")
    }


def test_grouped_convolutions_and_gates_stay() -> None:
    graph = zoo.graph("mobilenetv3-large")
    kept = {node.name for node in ghostify(graph).nodes}
    for node in graph.nodes:
        if isinstance(node.op, Conv) and (node.op.groups > 1 or node.shape[1:] == (1, 1)):
            assert node.name in kept


def test_a_dense_layer_becomes_a_module_on_the_map_before_it() -> None:
    net = Builder((6, 5, 5))
    x = net.add("flatten", Flatten(), net.add("pool", GlobalPool(), 0))
    net.add("classifier", Dense(in_features=6, out_features=10), x)
    plain = net.build()
    ghost = ghostify(plain, choose=lambda node: isinstance(node.op, Dense))
    assert ghost.output_shape == (10,)
    assert cost.count(ghost).macs == 6 * 5 + 5 * 9
    assert ghostify(plain) == plain


@pytest.mark.parametrize(("s", "d"), [(1, 3), (2, 2), (2, 0), (0, 3)])
def test_numbers_that_no_ghost_module_has_are_refused(s: int, d: int) -> None:
    with pytest.raises(InputError):
        ghostify(one(Conv(in_channels=4, out_channels=8)), s, d)
