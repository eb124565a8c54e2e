import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ghostnas.ir import reference
from ghostnas.ir.graph import (
    Activation,
    Add,
    Affine,
    AvgPool,
    BatchNorm,
    Builder,
    ChannelConv,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    Graph,
    Input,
    MaxPool,
    Multiply,
    Narrow,
    Node,
    Pad,
    Upsample,
    output_shape,
    weight_shapes,
)
from ghostnas.ir.random_weights import random_weights

MAP = (4, 6, 5)


@pytest.mark.parametrize(
    ("op", "shapes", "expected"),
    [
        (Input(shape=MAP), [], MAP),
        (Conv(in_channels=4, out_channels=7), [MAP], (7, 6, 5)),
        (Conv(in_channels=4, out_channels=8, kernel=3, stride=2, groups=4), [MAP], (8, 3, 3)),
        (Conv(in_channels=4, out_channels=7, kernel=3, padded=False), [MAP], (7, 4, 3)),
        (Conv(in_channels=4, out_channels=7, kernel=3, stride=2, padded=False), [MAP], (7, 2, 2)),
        (BatchNorm(channels=4), [MAP], MAP),
        (Affine(channels=4), [MAP], MAP),
        (Pad(amount=2), [MAP], (4, 10, 9)),
        (MaxPool(kernel=3, stride=2), [MAP], (4, 2, 2)),
        (AvgPool(kernel=2), [MAP], (4, 5, 4)),
        (AvgPool(kernel=1, stride=2), [MAP], (4, 3, 3)),
        (Activation(kind="relu"), [MAP], MAP),
        (Concat(), [MAP, (2, 6, 5), (1, 6, 5)], (7, 6, 5)),
        (Narrow(channels=3), [MAP], (3, 6, 5)),
        (Narrow(channels=3, start=1), [MAP], (3, 6, 5)),
        (Add(), [MAP, MAP], MAP),
        (Multiply(), [MAP, (4, 1, 1)], MAP),
        (Multiply(), [MAP, MAP], MAP),
        (Upsample(height=12, width=11), [MAP], (4, 12, 11)),
        (ChannelConv(kernel=3), [(4, 1, 1)], (4, 1, 1)),
        (Conv(in_channels=4, out_channels=8, kernel=1, kernel_width=5), [MAP], (8, 6, 5)),
        (GlobalPool(), [MAP], (4, 1, 1)),
        (Flatten(), [(4, 1, 1)], (4,)),
        (Dense(in_features=4, out_features=9), [(4,)], (9,)),
    ],
)
def test_output_shape(op, shapes, expected):
    assert output_shape(op, shapes) == expected


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (Conv(in_channels=5, out_channels=8), [MAP]),
        (Conv(in_channels=4, out_channels=6, groups=4), [MAP]),
        (Conv(in_channels=4, out_channels=6, groups=3), [MAP]),
        (Conv(in_channels=4, out_channels=6, kernel=7, padded=False), [MAP]),
        (BatchNorm(channels=5), [MAP]),
        (Affine(channels=5), [MAP]),
        (MaxPool(kernel=6), [MAP]),
        (AvgPool(kernel=6), [MAP]),
        (Concat(), [MAP, (4, 6, 4)]),
        (Narrow(channels=5), [MAP]),
        (Narrow(channels=2, start=3), [MAP]),
        (Narrow(channels=2, start=-1), [MAP]),
        (Add(), [MAP, (4, 1, 1)]),
        (Multiply(), [MAP, (3, 1, 1)]),
        (Multiply(), [MAP, (4, 6, 4)]),
        (Upsample(height=14, width=10), [MAP]),
        (Upsample(height=12, width=9), [MAP]),
        (ChannelConv(kernel=3), [MAP]),
        (ChannelConv(kernel=2), [(4, 1, 1)]),
        (Conv(in_channels=4, out_channels=8, kernel=1, kernel_width=4), [MAP]),
        (Flatten(), [MAP]),
        (Dense(in_features=5, out_features=9), [(4,)]),
    ],
)
def test_ops_that_do_not_fit_are_refused(op, shapes):
    assert output_shape(op, shapes) is None


@given(
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 3),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    padded=st.booleans(),
)
def test_convolution_shapes_are_those_of_the_reference(kernel, stride, height, width, padded):
    assume(padded or min(height, width) >= kernel)
    conv = Conv(in_channels=1, out_channels=1, kernel=kernel, stride=stride, padded=padded)
    x, taps = np.zeros((1, 1, height, width)), np.zeros((1, 1, kernel, kernel))
    result = reference.convolve(x, taps, stride, 1, padded=padded)
    assert output_shape(conv, [(1, height, width)]) == result.shape[1:]


def test_a_builder_names_the_op_that_does_not_fit():
    builder = Builder(MAP)
    with pytest.raises(ValueError, match=r"blocks\.0\.conv: Conv.*\(4, 6, 5\)"):
        builder.add("blocks.0.conv", Conv(in_channels=3, out_channels=8), 0)


def residual():
    builder = Builder(MAP)
    conv = builder.add("conv", Conv(in_channels=4, out_channels=4), 0)
    norm = builder.add("bn", BatchNorm(channels=4), conv)
    builder.add("add", Add(), norm, 0)
    return builder.build()


def test_a_builder_gives_nodes_in_the_order_they_were_added():
    graph = residual()
    assert [node.name for node in graph.nodes] == ["input", "conv", "bn", "add"]
    assert [node.inputs for node in graph.nodes] == [(), (0,), (1,), (2, 0)]
    assert graph.input_shape == graph.output_shape == MAP
    assert graph.consumers() == [[1, 3], [2], [3], []]
    assert graph.input_shapes(graph.nodes[3]) == [MAP, MAP]


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Conv(in_channels=4, out_channels=6, kernel=3), {"weight": (6, 4, 3, 3)}),
        (
            Conv(in_channels=4, out_channels=8, kernel=5, groups=4, bias=True),
            {"weight": (8, 1, 5, 5), "bias": (8,)},
        ),
        (Dense(in_features=4, out_features=9), {"weight": (9, 4), "bias": (9,)}),
        (
            BatchNorm(channels=4),
            {"weight": (4,), "bias": (4,), "running_mean": (4,), "running_var": (4,)},
        ),
        (Affine(channels=4), {"weight": (4,), "bias": (4,)}),
        (Narrow(channels=2), {}),
        (Pad(amount=1), {}),
        (MaxPool(kernel=2), {}),
    ],
)
def test_weight_shapes(op, expected):
    node = Node("a.b", op, (0,), MAP)
    assert weight_shapes(node) == {f"a.b.{key}": shape for key, shape in expected.items()}


def test_random_weights_are_reproducible_and_nowhere_zero():
    graph = residual()
    weights = random_weights(graph, 3)
    again, other = random_weights(graph, 3), random_weights(graph, 4)
    shapes = {key: shape for node in graph.nodes for key, shape in weight_shapes(node).items()}
    assert {key: array.shape for key, array in weights.items()} == shapes
    for key, array in weights.items():
        assert array.dtype == np.float32
        assert array.all()
        np.testing.assert_array_equal(array, again[key])
        assert not np.array_equal(array, other[key])
    assert (weights["bn.running_var"] > 0).all()


def test_an_op_and_a_graph_are_plain_values():
    assert residual() == residual()
    assert hash(residual()) == hash(residual())
    assert Graph(residual().nodes[:2]) != residual()
    with pytest.raises(AttributeError):
        Narrow(channels=2).channels = 3


def test_what_no_architecture_sets_is_not_in_the_text_that_its_id_hashes():
    assert repr(Narrow(channels=2, start=1)) == "Narrow(channels=2)"
    assert repr(Conv(in_channels=4, out_channels=6, padded=False)) == (
        "Conv(in_channels=4, out_channels=6, kernel=1, stride=1, groups=1, bias=False, "
        "activation='none')"
    )
