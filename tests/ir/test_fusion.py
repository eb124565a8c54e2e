from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostnas.backends import quantization, tflite_runtime, tflite_writer
from ghostnas.devices import op_models
from ghostnas.ir import reference
from ghostnas.ir.fusion import deploy, fold, fold_norms
from ghostnas.ir.graph import (
    Activation,
    Add,
    Affine,
    AvgPool,
    BatchNorm,
    Builder,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    MaxPool,
    Multiply,
    Narrow,
    Pad,
    weight_shapes,
)
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import space, zoo
from ghostnas.networks.arch import Arch, Head, Stage, Stem, lower
from ghostnas.networks.blocks import GhostBlock, MBConv, squeeze_excite

CONV = Conv(in_channels=3, out_channels=3, kernel=3)
RELU = Activation(kind="relu")
GATE = Activation(kind="hard_sigmoid")


def chain(*ops):
    builder = Builder((3, 4, 4))
    x = 0
    for index, op in enumerate(ops):
        x = builder.add(f"op{index}", op, x)
    return builder.build()


def assert_folds_to_the_same_values(graph):
    weights = random_weights(graph, 0)
    images = np.random.default_rng(1).normal(size=(2, *graph.input_shape))
    expected = reference.run(graph, weights, images)
    np.testing.assert_allclose(
        reference.run(*fold(graph, weights), images), expected, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    "arch",
    [zoo.ghostnet(0.5, 33, 10), zoo.mobilenetv3_large(0.5, 32, 10)],
    ids=["ghostnet", "mobilenetv3"],
)
def test_a_deployed_network_has_no_batch_norm_no_relu_and_the_same_values(arch):
    graph = lower(arch)
    deployed = deploy(graph)
    assert not any(isinstance(node.op, BatchNorm) for node in deployed.nodes)
    assert RELU not in [node.op for node in deployed.nodes]
    assert all(node.op.bias for node in deployed.nodes if isinstance(node.op, Conv))
    assert deployed.output_shape == graph.output_shape
    assert_folds_to_the_same_values(graph)


def test_deploy_is_idempotent():
    graph = lower(zoo.mobilenetv3_large(0.5, 32, 10))
    deployed, folded = fold(graph, random_weights(graph, 0))
    assert deploy(deployed) == deployed
    assert fold_norms(graph, random_weights(graph, 0))[0] == deploy(graph)
    again, folded_again = fold(deployed, folded)
    assert again == deployed
    assert folded_again.keys() == folded.keys()
    for key, array in folded.items():
        np.testing.assert_array_equal(folded_again[key], array)


def test_folded_weights_are_float32_and_fit_the_deployed_graph():
    graph = lower(zoo.ghostnet(0.5, 32, 10))
    weights = {key: array.astype(np.float64) for key, array in random_weights(graph, 0).items()}
    deployed, folded = fold(graph, weights)
    shapes = {key: shape for node in deployed.nodes for key, shape in weight_shapes(node).items()}
    assert {key: array.shape for key, array in folded.items()} == shapes
    assert {array.dtype for array in folded.values()} == {np.dtype(np.float32)}


def test_batch_norm_folds_into_a_convolution_that_has_a_bias():
    biased = Conv(in_channels=3, out_channels=3, bias=True)
    assert_folds_to_the_same_values(chain(biased, BatchNorm(channels=3), RELU))


def test_relus_are_fused_and_the_hard_activations_are_not():
    swish, relu6 = Activation(kind="hard_swish"), Activation(kind="relu6")
    deployed = deploy(chain(CONV, relu6, CONV, swish, CONV, RELU))
    assert [type(node.op).__name__ for node in deployed.nodes] == [
        *("Input", "Conv", "Conv", "Activation", "Conv")
    ]
    assert [node.op.activation for node in deployed.nodes if isinstance(node.op, Conv)] == [
        *("relu6", "none", "relu")
    ]


def test_sums_and_dense_layers_absorb_their_relu():
    builder = Builder((3, 1, 1))
    x = builder.add("add", Add(), 0, 0)
    builder.add("relu", RELU, x)
    assert deploy(builder.build()).nodes[-1].op == Add("relu")
    builder = Builder((3,))
    x = builder.add("dense", Dense(in_features=3, out_features=2), 0)
    builder.add("relu", RELU, x)
    assert deploy(builder.build()).nodes[-1].op.activation == "relu"


def test_a_relu_is_not_fused_into_a_convolution_that_others_read():
    builder = Builder((3, 4, 4))
    x = builder.add("conv", CONV, 0)
    y = builder.add("relu", RELU, x)
    builder.add("add", Add(), x, y)
    graph = builder.build()
    assert RELU in [node.op for node in deploy(graph).nodes]


def test_two_relus_in_a_row_keep_their_values():
    graph = chain(CONV, BatchNorm(channels=3), Activation(kind="relu6"), RELU)
    assert_folds_to_the_same_values(graph)


@pytest.mark.parametrize(
    "ops",
    [
        (BatchNorm(channels=3),),
        (CONV, RELU, BatchNorm(channels=3)),
        (CONV, BatchNorm(channels=3), BatchNorm(channels=3)),
    ],
    ids=["first", "after-relu", "twice"],
)
def test_a_batch_norm_that_cannot_be_folded_is_a_scale_and_a_shift(ops):
    graph = chain(*ops)
    deployed, folded = fold(graph, random_weights(graph, 0))
    assert deployed.nodes[-1].op == Affine(channels=3)
    assert not any(isinstance(node.op, BatchNorm) for node in deployed.nodes)
    assert_folds_to_the_same_values(graph)
    again, folded_again = fold(deployed, folded)
    assert again == deployed
    for key, array in folded.items():
        np.testing.assert_array_equal(folded_again[key], array)


def test_a_batch_norm_of_a_convolution_that_others_read_is_a_scale_and_a_shift():
    builder = Builder((3, 4, 4))
    x = builder.add("conv", CONV, 0)
    y = builder.add("bn", BatchNorm(channels=3), x)
    builder.add("add", Add(), x, y)
    graph = builder.build()
    assert [type(node.op) for node in deploy(graph).nodes[1:]] == [Conv, Affine, Add]
    assert_folds_to_the_same_values(graph)


def test_a_scale_and_shift_absorbs_its_relu():
    graph = chain(BatchNorm(channels=3), RELU, CONV, RELU)
    assert deploy(graph).nodes[1].op == Affine(channels=3, activation="relu")
    assert_folds_to_the_same_values(graph)
    swish = chain(BatchNorm(channels=3), Activation(kind="hard_swish"))
    assert deploy(swish).nodes[1].op == Affine(channels=3)


def test_a_convolution_without_bias_or_batch_norm_gets_zeros_for_a_bias():
    graph = chain(CONV, RELU)
    deployed, folded = fold(graph, random_weights(graph, 0))
    assert deployed.nodes[1].op.bias
    np.testing.assert_array_equal(folded["op0.bias"], np.zeros(3, np.float32))
    assert_folds_to_the_same_values(graph)


def test_a_missing_weight_is_a_key_error():
    graph = chain(CONV, BatchNorm(channels=3))
    weights = random_weights(graph, 0)
    del weights["op1.running_var"]
    with pytest.raises(KeyError, match=r"op1\.running_var"):
        fold(graph, weights)


def gates(graph):
    return [node.op for node in graph.nodes].count(GATE)


def assert_equal_within_1e_5(graph, seed=0, contrast=1.0):
    weights = random_weights(graph, seed)
    images = np.random.default_rng(seed).normal(0, contrast, (2, *graph.input_shape))
    expected = reference.run(graph, weights, images)
    folded = reference.run(*fold(graph, weights), images)
    assert np.abs(folded - expected).max() <= 1e-5 * np.abs(expected).max()


channels = st.integers(1, 24)
common = {
    "hidden_channels": channels,
    "out_channels": channels,
    "kernel": st.sampled_from([1, 3, 5]),
    "stride": st.integers(1, 2),
}
ghosts = st.builds(
    GhostBlock, **common, se_ratio=st.sampled_from([0.25, 0.5]), ghost_ratio=st.integers(1, 4)
)
mbconvs = st.builds(
    MBConv,
    **common,
    se_channels=st.integers(1, 8),
    activation=st.sampled_from(["relu", "relu6", "hard_swish"]),
)
blocks = st.lists(ghosts | mbconvs, min_size=1, max_size=3)


@settings(max_examples=60)
@given(
    blocks=blocks,
    kind=st.sampled_from(["relu", "hard_swish", "hard_sigmoid"]),
    contrast=st.sampled_from([1.0, 20.0]),
    seed=st.integers(0, 100),
)
def test_networks_with_gates_keep_their_logits_and_lose_their_gates(blocks, kind, contrast, seed):
    arch = Arch(
        stem=Stem(channels=8),
        stages=tuple(Stage(blocks=(block,)) for block in blocks),
        head=Head(channels=12, features=16, activation=kind),
        classes=5,
        resolution=17,
    )
    graph = lower(arch)
    assert gates(graph) == len(blocks) + 2 * (kind == "hard_sigmoid")
    assert gates(fold(graph, random_weights(graph, seed))[0]) == 0
    assert gates(deploy(graph)) == gates(graph)  # latency tables know them
    assert_equal_within_1e_5(graph, seed, contrast)


@pytest.mark.parametrize(
    "arch",
    [
        zoo.ghostnet(1.0, 32, 10),
        zoo.mobilenetv3_large(1.0, 32, 10),
        replace(space.load("ghostnet").decode({"group2.se": 0.25}), resolution=33),
    ],
    ids=["ghostnet", "mobilenetv3", "of-a-space"],
)
def test_named_networks_keep_their_logits_and_lose_their_gates(arch):
    graph = lower(arch)
    deployed, folded = fold(graph, random_weights(graph, 0))
    assert gates(deployed) == 0 < gates(graph)
    shapes = {key: shape for node in deployed.nodes for key, shape in weight_shapes(node).items()}
    assert {key: array.shape for key, array in folded.items()} == shapes
    assert_equal_within_1e_5(graph)


def test_the_three_and_the_sixth_go_where_they_belong():
    builder = Builder((3, 4, 4))
    x = squeeze_excite(builder, 0, "se", 2)
    x = builder.add("conv", CONV, x)
    builder.add("bn", BatchNorm(channels=3), x)
    graph = builder.build()
    weights = random_weights(graph, 0)
    (plain, norms), (deployed, folded) = fold_norms(graph, weights), fold(graph, weights)
    assert len(deployed.nodes) == len(plain.nodes) - 1
    assert [node.op.activation for node in deployed.nodes if isinstance(node.op, Conv)] == [
        *("relu", "relu6", "none")
    ]
    changed = {key for key in folded if not np.allclose(folded[key], norms[key], rtol=1e-6)}
    assert changed == {"se.conv_expand.bias", "conv.weight"}
    np.testing.assert_allclose(
        folded["se.conv_expand.bias"], weights["se.conv_expand.bias"] + 3, 1e-6
    )
    np.testing.assert_allclose(6 * folded["conv.weight"], norms["conv.weight"], 1e-6)


def gated(readers):
    """A gate and what reads its product; `readers` appends that to the builder."""
    builder = Builder((4, 6, 6))
    readers(builder, squeeze_excite(builder, 0, "se", 2))
    return builder.build()


def conv(builder, name, x):
    return builder.add(name, Conv(in_channels=4, out_channels=4, kernel=3), x)


def into_two_convolutions(builder, x):
    builder.add("add", Add(), conv(builder, "one", x), conv(builder, "two", x))


def into_a_convolution_behind_a_pad(builder, x):
    conv(builder, "conv", builder.add("pad", Pad(amount=1), x))


def into_pools_and_a_classifier(builder, x):
    x = builder.add("max", MaxPool(kernel=2), x)
    x = builder.add("avg", AvgPool(kernel=2), x)
    x = builder.add("narrow", Narrow(channels=3), x)
    x = builder.add("flatten", Flatten(), builder.add("pool", GlobalPool(), x))
    builder.add("classifier", Dense(in_features=3, out_features=2), x)


def into_a_batch_norm_of_its_own(builder, x):
    builder.add("bn", BatchNorm(channels=4), x)


def into_a_second_gate(builder, x):
    conv(builder, "conv", squeeze_excite(builder, x, "second", 2))


def into_its_own_square(builder, x):
    small = builder.add("small", GlobalPool(), x)
    conv(builder, "conv", builder.add("square", Multiply(), small, small))


@pytest.mark.parametrize(
    "readers",
    [
        into_two_convolutions,
        into_a_convolution_behind_a_pad,
        into_pools_and_a_classifier,
        into_a_batch_norm_of_its_own,
        into_a_second_gate,
        into_its_own_square,
    ],
)
def test_a_gate_is_fused_whatever_kernels_follow(readers):
    graph = gated(readers)
    assert gates(fold(graph, random_weights(graph, 0))[0]) == 0 < gates(graph)
    assert_equal_within_1e_5(graph)


def into_nothing(builder, x):
    pass


def into_a_sum(builder, x):
    builder.add("add", Add(), conv(builder, "conv", x), x)


def into_a_concatenation(builder, x):
    conv(builder, "conv", x)
    conv(
        builder, "last", builder.add("narrow", Narrow(channels=4), builder.add("c", Concat(), x, 0))
    )


def into_a_swish(builder, x):
    conv(builder, "conv", builder.add("swish", Activation(kind="hard_swish"), x))


@pytest.mark.parametrize("readers", [into_nothing, into_a_sum, into_a_concatenation, into_a_swish])
def test_a_gate_stays_where_something_else_reads_the_product(readers):
    graph = gated(readers)
    assert gates(fold(graph, random_weights(graph, 0))[0]) == 1
    assert_equal_within_1e_5(graph)


@pytest.mark.parametrize("kind", ["none", "relu"])
def test_a_gate_stays_where_the_convolution_before_it_cannot_absorb_it(kind):
    """Others read that convolution, or it has a ReLU already."""
    builder = Builder((4, 6, 6))
    x = conv(builder, "before", 0)
    read = builder.add("relu", RELU, x) if kind == "relu" else x
    y = conv(builder, "after", builder.add("gate", GATE, read))
    if kind == "none":
        builder.add("add", Add(), x, y)
    graph = builder.build()
    assert gates(fold(graph, random_weights(graph, 0))[0]) == 1
    assert_equal_within_1e_5(graph)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_xnnpack_takes_the_whole_of_a_network_with_fused_gates(dtype):
    model = op_models.network_model(zoo.ghostnet(0.5, 64, 10), dtype)
    parts, gives_output = tflite_runtime.delegates(tflite_runtime.load(model))
    assert (parts, gives_output) == (1, True)
    counted = tflite_writer.count_ops(model)
    assert counted["MUL"] == 7  # one per squeeze-and-excitation; two with separate gates
    assert counted["ADD"] == 16  # one per block


def test_int8_with_fused_gates_agrees_with_the_reference():
    graph = lower(zoo.ghostnet(0.5, 64, 10))
    weights = random_weights(graph, 0)
    images = np.random.default_rng(0).normal(size=(8, 3, 64, 64)).astype(np.float32)
    expected = reference.run(graph, weights, images)
    model = quantization.quantize(
        tflite_writer.write(graph, weights), quantization.nhwc_samples(images)
    )
    logits = tflite_runtime.run(tflite_runtime.load(model), images)
    # 0.0059 when written; 0.0062 with separate gates.
    assert np.abs(logits - expected).mean() < 0.012 * np.abs(expected).max()
