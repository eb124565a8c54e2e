import numpy as np
import pytest
import torch
from torch import nn

from ghostnas.backends import quantization, tflite_writer
from ghostnas.backends.torch_module import Net
from ghostnas.ir import cost
from ghostnas.ir.fusion import deploy
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
)
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import zoo
from ghostnas.networks.arch import lower

NETWORKS = pytest.mark.parametrize(
    "arch",
    [zoo.ghostnet(0.5, 97), zoo.ghostnet(1.0, 64, 10), zoo.mobilenetv3_large(0.75, 65)],
    ids=["ghostnet-0.5", "ghostnet-1.0", "mobilenetv3"],
)


def macs_of_a_run(net, shape):
    """What the convolutions and dense layers multiply in one forward pass, output by output."""
    macs = 0

    def count(module, _inputs, output):
        nonlocal macs
        macs += output.numel() * module.weight[0].numel()

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        net.eval()(torch.zeros(1, *shape))
    return macs


@NETWORKS
def test_macs_and_params_are_those_of_the_torch_network(arch):
    graph = lower(arch)
    net = Net(graph)
    counted = cost.count(graph)
    assert counted.params == sum(parameter.numel() for parameter in net.parameters())
    assert counted.macs == macs_of_a_run(net, graph.input_shape)


@NETWORKS
def test_a_deployed_network_multiplies_as_much_and_holds_fewer_numbers(arch):
    graph = lower(arch)
    deployed = deploy(graph)
    assert cost.count(deployed).macs == cost.count(graph).macs
    assert cost.count(deployed).params == sum(p.numel() for p in Net(deployed).parameters())
    assert cost.count(deployed).params < cost.count(graph).params


def test_costs_by_hand():
    builder = Builder((3, 5, 5))
    conv = Conv(in_channels=3, out_channels=4, kernel=3, stride=2, bias=True)  # 3x3 outputs
    x = builder.add("conv", conv, 0)
    x = builder.add("bn", BatchNorm(channels=4), x)
    x = builder.add("dw", Conv(in_channels=4, out_channels=8, kernel=5, groups=4), x)
    x = builder.add("pool", GlobalPool(), x)
    x = builder.add("flatten", Flatten(), x)
    builder.add("classifier", Dense(in_features=8, out_features=10), x)
    counted = cost.count(builder.build())
    assert counted.macs == 9 * 4 * 3 * 9 + 9 * 8 * 25 + 8 * 10
    assert counted.params == (4 * 3 * 9 + 4) + 2 * 4 + 8 * 25 + (8 + 1) * 10


def test_a_batch_norm_without_a_convolution_costs_its_parameters_and_no_macs():
    builder = Builder((3, 5, 5))
    x = builder.add("pad", Pad(amount=1), 0)
    x = builder.add("pool", MaxPool(kernel=3, stride=2), x)
    x = builder.add("bn", BatchNorm(channels=3), x)
    builder.add("relu", Activation(kind="relu"), x)
    graph = builder.build()
    assert deploy(graph).nodes[-1].op == Affine(channels=3, activation="relu")
    for each in (graph, deploy(graph)):
        counted = cost.count(each)
        assert (counted.macs, counted.params) == (0, 2 * 3)
        assert counted.model_bytes == 4 * 2 * 3 + 162 * len(each.nodes)


@NETWORKS
def test_model_bytes_are_about_those_of_the_tflite_file(arch):
    graph = lower(arch)
    written = len(tflite_writer.write(graph, random_weights(graph, 0)))
    assert cost.count(graph).model_bytes == pytest.approx(written, rel=0.03)


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_model_bytes_are_about_those_of_the_tflite_file_in_every_dtype(width):
    graph = lower(zoo.ghostnet(width, 64, 10))
    values = random_weights(graph, 0)
    half = len(tflite_writer.write(graph, values, half=True))
    assert cost.count(graph, "fp16").model_bytes == pytest.approx(half, rel=0.03)
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    int8 = quantization.quantize(
        tflite_writer.write(graph, values), quantization.nhwc_samples(images)
    )
    assert cost.count(graph, "int8").model_bytes == pytest.approx(len(int8), rel=0.05)


# Each builds on an input of 2x4x4 = 32 numbers; the peak is counted in numbers of 4 bytes.


def convolution(builder):
    x = builder.add("conv", Conv(in_channels=2, out_channels=3), 0)
    x = builder.add("bn", BatchNorm(channels=3), x)
    builder.add("relu", Activation(kind="relu"), x)
    return 32 + 48  # batch norm and ReLU work in place


def residual(builder):
    x = builder.add("conv", Conv(in_channels=2, out_channels=2), 0)
    x = builder.add("relu", Activation(kind="relu"), x)
    x = builder.add("conv2", Conv(in_channels=2, out_channels=2), x)
    builder.add("add", Add(), x, 0)
    return 32 + 32 + 32  # the input stays alive beside both sides of the second convolution


def activation_of_a_map_that_is_read_again(builder):
    x = builder.add("relu", Activation(kind="relu"), 0)
    x = builder.add("pool", GlobalPool(), x)
    builder.add("scale", Multiply(), 0, x)
    return 32 + 2 + 32  # the ReLU took 32 of its own and gave them back


def ghost(builder):
    x = builder.add("primary", Conv(in_channels=2, out_channels=3), 0)
    y = builder.add("cheap", Conv(in_channels=3, out_channels=3, kernel=3, groups=3), x)
    builder.add("concat", Concat(), x, y)
    return 48 + 48 + 96


def narrowed(builder):
    builder.add("narrow", Narrow(channels=1), 0)
    return 32 + 16


def pooled(builder):
    x = builder.add("pad", Pad(amount=1), 0)
    x = builder.add("pool", AvgPool(kernel=3), x)
    builder.add("bn", BatchNorm(channels=2), x)
    return 72 + 32  # the padded map beside either


def pooled_to_the_same_size(builder):
    builder.add("pool", MaxPool(kernel=1), 0)
    return 32 + 32  # no pool works in place


def same_map_twice(builder):
    x = builder.add("conv", Conv(in_channels=2, out_channels=2), 0)
    x = builder.add("add", Add(), x, x)
    builder.add("conv2", Conv(in_channels=2, out_channels=16), x)
    return 32 + 256  # the doubled map is given back once


def shrinking(builder):
    x = builder.add("conv", Conv(in_channels=2, out_channels=2, kernel=3, stride=2), 0)
    x = builder.add("conv2", Conv(in_channels=2, out_channels=16), x)
    x = builder.add("pool", GlobalPool(), x)
    builder.add("flatten", Flatten(), x)
    return 16 * 4 + 16  # the widened map beside its mean, no longer beside the input


@pytest.mark.parametrize(
    "append",
    [
        convolution,
        residual,
        activation_of_a_map_that_is_read_again,
        ghost,
        narrowed,
        pooled,
        pooled_to_the_same_size,
        same_map_twice,
        shrinking,
    ],
)
def test_peak_activation_bytes_by_hand(append):
    builder = Builder((2, 4, 4))
    peak = append(builder)
    assert cost.count(builder.build()).peak_activation_bytes == 4 * peak
