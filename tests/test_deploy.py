import numpy as np
import pytest

from ghostnas import reference, zoo
from ghostnas.arch import lower
from ghostnas.deploy import deploy, fold
from ghostnas.graph import (
    Activation,
    Add,
    Affine,
    BatchNorm,
    Builder,
    Conv,
    Dense,
    random_weights,
    weight_shapes,
)

CONV = Conv(in_channels=3, out_channels=3, kernel=3)
RELU = Activation(kind="relu")


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
    assert deploy(deployed) == deployed == deploy(graph)
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


def test_sums_and_dense_layers_take_their_relu_in():
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


def test_so_is_one_of_a_convolution_that_others_read():
    builder = Builder((3, 4, 4))
    x = builder.add("conv", CONV, 0)
    y = builder.add("bn", BatchNorm(channels=3), x)
    builder.add("add", Add(), x, y)
    graph = builder.build()
    assert [type(node.op) for node in deploy(graph).nodes[1:]] == [Conv, Affine, Add]
    assert_folds_to_the_same_values(graph)


def test_a_scale_and_shift_takes_its_relu_in():
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
