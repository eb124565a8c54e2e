import random
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostnas.devices.op_models import op_graph
from ghostnas.errors import MissingOpError
from ghostnas.ir.fusion import deploy
from ghostnas.ir.graph import (
    Activation,
    Add,
    BatchNorm,
    Builder,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    Multiply,
    Narrow,
    weight_shapes,
)
from ghostnas.latency.op_signature import OpSignature, signatures, weight_count
from ghostnas.networks import space, zoo
from ghostnas.networks.arch import fit_to, lower

GHOSTNET = space.load("ghostnet")


def test_signatures_by_hand():
    builder = Builder((3, 9, 8))
    x = builder.add("conv", Conv(in_channels=3, out_channels=6, kernel=3, stride=2), 0)
    x = builder.add("bn", BatchNorm(channels=6), x)
    x = builder.add("relu", Activation(kind="relu"), x)
    y = builder.add("dw", Conv(in_channels=6, out_channels=12, kernel=5, groups=6), x)
    y = builder.add("swish", Activation(kind="hard_swish"), y)
    y = builder.add("narrow", Narrow(channels=6), y)
    y = builder.add("add", Add(), y, x)
    y = builder.add("relu6", Activation(kind="relu6"), y)
    x = builder.add("concat", Concat(), x, y)
    y = builder.add("pool", GlobalPool(), x)
    x = builder.add("scale", Multiply(), x, y)
    x = builder.add("pool2", GlobalPool(), x)
    x = builder.add("flatten", Flatten(), x)
    x = builder.add("classifier", Dense(in_features=12, out_features=10), x)
    builder.add("relu2", Activation(kind="relu"), x)
    graph = builder.build()
    assert signatures(graph) == [
        OpSignature("conv", 9, 8, 3, 6, 3, 2, "relu"),
        OpSignature("depthwise", 5, 4, 6, 12, 5, 1, "none"),
        OpSignature("hard_swish", 5, 4, 12, 12, 0, 0, "none"),
        OpSignature("narrow", 5, 4, 12, 6, 0, 0, "none"),
        OpSignature("add", 5, 4, 6, 6, 0, 0, "relu6"),
        OpSignature("concat", 5, 4, 6, 12, 0, 0, "none"),
        OpSignature("pool", 5, 4, 12, 12, 0, 0, "none"),
        OpSignature("multiply", 5, 4, 12, 12, 0, 0, "none"),
        OpSignature("pool", 5, 4, 12, 12, 0, 0, "none"),
        OpSignature("flatten", 1, 1, 12, 12, 0, 0, "none"),
        OpSignature("dense", 1, 1, 12, 10, 0, 0, "relu"),
    ]
    assert signatures(deploy(graph)) == signatures(graph)


def test_an_activation_whose_input_is_read_elsewhere_too_is_an_op_of_its_own():
    builder = Builder((4, 8, 8))
    x = builder.add("conv", Conv(in_channels=4, out_channels=4), 0)
    y = builder.add("relu", Activation(kind="relu"), x)
    builder.add("add", Add(), x, y)
    assert signatures(builder.build()) == [
        OpSignature("conv", 8, 8, 4, 4, 1, 1, "none"),
        OpSignature("relu", 8, 8, 4, 4, 0, 0, "none"),
        OpSignature("add", 8, 8, 4, 4, 0, 0, "none"),
    ]


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_a_signature_for_each_op_that_runs(name):
    graph = deploy(lower(zoo.named(name)))
    assert len(signatures(graph)) == len(graph.nodes) - 1


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), small=st.booleans())
def test_a_network_has_the_signatures_of_its_deployed_form(seed, small):
    arch = GHOSTNET.decode(GHOSTNET.sample(random.Random(seed)))
    graph = lower(fit_to(arch, resolution=32, classes=10) if small else arch)
    deployed = deploy(graph)
    found = signatures(graph)
    assert found == signatures(deployed)
    for signature, node in zip(found, deployed.nodes[1:], strict=True):
        shape = deployed.input_shapes(node)[0]
        size = shape[1:] or (1, 1)
        assert (signature.in_channels, signature.height, signature.width) == (shape[0], *size)
        assert signature.out_channels == node.shape[0]
        assert signature.activation == getattr(node.op, "activation", "none")
        assert signature.stride == getattr(node.op, "stride", 0)


def test_a_grouped_convolution_is_refused_by_name():
    builder = Builder((4, 8, 8))
    builder.add("grouped", Conv(in_channels=4, out_channels=8, groups=2), 0)
    with pytest.raises(MissingOpError, match="grouped"):
        signatures(builder.build())


def test_a_signature_reads_as_text():
    assert str(OpSignature("conv", 9, 8, 3, 6, 3, 2, "relu")) == "conv 9x8x3 -> 6 k3 s2 relu"
    assert str(OpSignature("add", 5, 4, 6, 6, 0, 0, "none")) == "add 5x4x6 -> 6 none"


@pytest.mark.parametrize(
    ("signature", "count"),
    [
        (OpSignature("conv", 9, 8, 3, 6, 3, 2, "relu"), 162),
        (OpSignature("conv", 9, 8, 3, 6, 1, 1, "none"), 18),
        (OpSignature("depthwise", 9, 8, 6, 12, 5, 1, "none"), 300),
        (OpSignature("dense", 1, 1, 12, 10, 0, 0, "none"), 120),
        (OpSignature("add", 5, 4, 6, 6, 0, 0, "none"), 0),
        (OpSignature("narrow", 5, 4, 9, 8, 0, 0, "none"), 0),
        (OpSignature("flatten", 1, 1, 12, 12, 0, 0, "none"), 0),
    ],
    ids=str,
)
def test_weight_count_is_that_of_the_kernel_without_its_bias(signature, count):
    assert weight_count(signature) == count
    shapes = weight_shapes(op_graph(signature).nodes[-1])
    assert count == sum(prod(shape) for key, shape in shapes.items() if key.endswith(".weight"))
