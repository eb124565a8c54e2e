import numpy as np
import pytest
import torch

from ghostnas.backends import tflite_runtime, tflite_writer
from ghostnas.backends.torch_module import net_of
from ghostnas.errors import InputError
from ghostnas.ir import cost
from ghostnas.ir.fusion import deploy
from ghostnas.ir.graph import Conv
from ghostnas.ir.random_weights import random_weights
from ghostnas.latency.op_signature import OPS, signatures
from ghostnas.networks import classics

NAMES = classics.names()
# Parameters as counted in pytorchcv.
PARAMS = {
    "bninception": 11_295_240,
    "densenet121": 7_978_856,
    "diracnet18v2": 11_511_784,
    "dla46c": 1_301_400,
    "fdmobilenet_w1": 2_901_288,
    "hardnet39ds": 3_488_228,
    "mobilenet_w1": 4_231_976,
    "mobilenetb_wd4": 467_592,
    "mobilenetv2_w1": 3_504_960,
    "mobilenetv2b_w3d4": 2_626_968,
    "mobilenetv3_large_w1": 5_481_752,
    "mobilenetv3_small_w7d20": 2_159_600,
    "peleenet": 2_802_248,
    "preresnet18": 11_687_848,
    "preresnetbc26b": 15_987_624,
    "proxylessnas_gpu": 7_119_848,
    "regnetx002": 2_684_792,
    "regnety016": 11_202_430,
    "resnet18": 11_689_512,
    "resnet18_wd4": 3_937_400,
    "resnext14_16x4d": 7_127_336,
    "sepreresnet18": 11_776_928,
    "seresnet10": 5_463_332,
    "squeezenet_v1_0": 1_248_424,
    "squeezeresnet_v1_1": 1_235_496,
    "vovnet27s": 3_525_736,
}
# Millions of multiply-accumulates, from the papers and from torchvision's documentation.
MACS = {
    "mobilenet_w1": (569, 0),
    "peleenet": (508, 0),
    "proxylessnas_mobile": (320, 0),
    "densenet121": (2830, -1),
    "densenet169": (3360, -1),
    "mobilenetv2b_w1": (300, -1),
    "mobilenetv3_large_w1": (220, -1),
    "mobilenetv3_small_w1": (60, -1),
    "regnetx008": (800, -1),
    "regnetx016": (1600, -1),
    "resnet18": (1810, -1),
    "squeezenet_v1_0": (820, -1),
    "squeezenet_v1_1": (350, -1),
}


@pytest.mark.parametrize("name", PARAMS)
def test_parameters_are_the_published_ones(name):
    assert cost.count(classics.graph(name)).params == PARAMS[name]


@pytest.mark.parametrize("name", MACS)
def test_macs_are_the_published_ones(name):
    millions, digits = MACS[name]
    assert round(cost.count(classics.graph(name)).macs / 1e6, digits) == millions


def test_names_are_sorted_and_an_unknown_one_lists_them():
    assert sorted(NAMES) == NAMES
    with pytest.raises(InputError, match=r"'resnet19'.*resnet18.*resnet18_w3d4"):
        classics.graph("resnet19")


@pytest.mark.parametrize("name", NAMES)
def test_every_network_uses_known_ops_and_classifies(name):
    graph = classics.graph(name)
    assert (graph.input_shape, graph.output_shape) == ((3, 224, 224), (1000,))
    found = signatures(graph)
    assert {signature.op for signature in found} <= set(OPS)
    assert len(found) == len(deploy(graph).nodes) - 1


def test_a_grouped_convolution_is_one_per_group():
    nodes = classics.graph("resnext14_16x4d").nodes
    convolutions = [node.op for node in nodes if isinstance(node.op, Conv)]
    assert {op.groups for op in convolutions} == {1}
    assert sum(not op.padded for op in convolutions) == 4 * 16


@pytest.mark.parametrize("name", ["mobilenet_wd4", "squeezeresnet_v1_1", "sepreresnet10"])
def test_xnnpack_takes_a_whole_network_that_pytorch_agrees_with(name):
    graph = classics.graph(name)
    weights = random_weights(graph, 0)
    model = tflite_writer.write(graph, weights)
    assert cost.count(graph).model_bytes == pytest.approx(len(model), rel=0.01)
    images = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    with torch.no_grad():
        expected = net_of(graph, weights)(torch.from_numpy(images)).numpy()
    difference = np.abs(tflite_runtime.run_model(model, images) - expected).max()
    assert difference <= 1e-4 * np.abs(expected).max()
