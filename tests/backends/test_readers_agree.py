"""Random networks on which torch, the reference, ONNX and TFLite give the same logits."""

import random
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given, settings
from hypothesis import strategies as st
from small import numbered

from ghostnas.backends import onnx_writer, quantization, tflite_writer, torch_module
from ghostnas.ir import reference
from ghostnas.ir.fusion import deploy, fold
from ghostnas.ir.graph import (
    Activation,
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
from ghostnas.networks import space, zoo
from ghostnas.networks.arch import Arch, Head, Stage, Stem, fit_to, lower
from ghostnas.networks.blocks import GhostBlock, MBConv, SkipBlock

TOLERANCE = 1e-4  # of the largest logit; float32 against float64


def run_torch(graph, weights, images):
    with torch.no_grad():
        return torch_module.net_of(graph, weights)(torch.from_numpy(images)).numpy()


def onnx_session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_onnx(model, images):
    return onnx_session(model).run(None, {onnx_writer.INPUT: images})[0]


def interpreter(model, *, xnnpack):
    kind = "AUTO" if xnnpack else "BUILTIN_WITHOUT_DEFAULT_DELEGATES"
    loaded = Interpreter(
        model_content=model, num_threads=1, experimental_op_resolver_type=OpResolverType[kind]
    )
    loaded.allocate_tensors()
    return loaded


def ops(loaded):
    return [op["op_name"] for op in loaded._get_ops_details()]


def run_tflite(model, images, *, xnnpack):
    """Checks on the way that XNNPACK took the whole graph, or that nothing did."""
    loaded = interpreter(model, xnnpack=xnnpack)
    delegates = [op for op in loaded._get_ops_details() if op["op_name"] == "DELEGATE"]
    assert len(delegates) == xnnpack
    for delegate in delegates:
        (output,) = loaded.get_output_details()
        assert list(delegate["outputs"]) == [output["index"]]
    run = loaded.get_signature_runner("serving_default")
    nhwc = images.transpose(0, 2, 3, 1)
    return np.concatenate(
        [run(**{tflite_writer.INPUT: image[None]})[tflite_writer.OUTPUT] for image in nhwc]
    )


def assert_readers_agree(arch, seed=0, contrast=1.0):
    assert_readers_agree_on(lower(arch), seed, contrast)


def assert_readers_agree_on(graph, seed=0, contrast=1.0):
    weights = random_weights(graph, seed)
    shape = (2, *graph.input_shape)
    images = np.random.default_rng(seed).normal(0, contrast, shape).astype(np.float32)
    expected = reference.run(graph, weights, images)
    deployed, folded = fold(graph, weights)
    onnx_bytes, tflite_bytes = (
        onnx_writer.write(graph, weights),
        tflite_writer.write(graph, weights),
    )
    readers = {
        "torch": run_torch(graph, weights, images),
        "torch, deployed": run_torch(deployed, folded, images),
        "reference, deployed": reference.run(deployed, folded, images),
        "onnx": run_onnx(onnx_bytes, images),
        "tflite": run_tflite(tflite_bytes, images, xnnpack=False),
        "tflite, XNNPACK": run_tflite(tflite_bytes, images, xnnpack=True),
    }
    for reader, logits in readers.items():
        assert logits.shape == (2, *graph.output_shape), reader
        difference = np.abs(logits - expected).max()
        assert difference <= TOLERANCE * np.abs(expected).max(), (reader, difference)
    assert deploy(deployed) == deployed


@pytest.mark.parametrize("name", space.names())
@pytest.mark.parametrize("seed", numbered(50, by_default=4))
def test_on_architectures_of_the_shipped_spaces(seed, name):
    rng = random.Random(seed)
    searched = space.load(name)
    arch = replace(searched, classes=10).decode(searched.sample(rng))
    assert_readers_agree(replace(arch, resolution=rng.choice([32, 33, 35, 48])), seed)


@pytest.mark.parametrize("resolution", [32, 33])
@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_on_the_named_networks(name, resolution):
    assert_readers_agree(zoo.named(name, resolution=resolution))


channels = st.integers(1, 24)
kernels = st.sampled_from([1, 3, 5, 7])
activations = st.sampled_from(["relu", "relu6", "hard_swish", "hard_sigmoid"])
ghosts = st.builds(
    GhostBlock,
    hidden_channels=channels,
    out_channels=channels,
    kernel=kernels,
    stride=st.integers(1, 2),
    se_ratio=st.sampled_from([0.0, 0.25]),
    ghost_ratio=st.integers(1, 4),
    cheap_kernel=kernels,
)
mbconvs = st.builds(
    MBConv,
    hidden_channels=channels,
    out_channels=channels,
    kernel=kernels,
    stride=st.integers(1, 2),
    se_channels=st.integers(0, 8),
    activation=activations,
)
skips = st.builds(SkipBlock, out_channels=channels, stride=st.integers(1, 2))
blocks = ghosts | mbconvs | skips
archs = st.builds(
    Arch,
    stem=st.builds(Stem, channels=channels, stride=st.integers(1, 2), activation=activations),
    stages=st.lists(st.builds(Stage, blocks=st.tuples(blocks)), min_size=1, max_size=4).map(tuple),
    head=st.builds(Head, channels=channels, features=st.just(0) | channels, activation=activations),
    classes=st.integers(2, 10),
    resolution=st.integers(5, 24),
    dropped_strides=st.integers(0, 2),
)


drawn = given(arch=archs, seed=st.integers(0, 100), contrast=st.sampled_from([1.0, 20.0]))


@settings(max_examples=25)
@drawn
def test_on_networks_of_any_numbers(arch, seed, contrast):
    assert_readers_agree(arch, seed, contrast)  # at 20, maps exceed the bounds of relu6 and such


@pytest.mark.slow
@settings(max_examples=100)
@drawn
def test_on_more_networks_of_any_numbers(arch, seed, contrast):
    assert_readers_agree(arch, seed, contrast)


class Chain(Builder):
    """Ops one after another, each named by its position."""

    def __init__(self, shape):
        super().__init__(shape)
        self.last = 0

    def op(self, op, *inputs):
        self.last = self.add(f"op{len(self._nodes)}", op, *(inputs or [self.last]))
        return self.last

    @property
    def channels(self):
        return self.shape(self.last)[0]

    @property
    def size(self):
        return min(self.shape(self.last)[1:])


def preactivation(chain, draw):
    chain.op(BatchNorm(channels=chain.channels))
    chain.op(Activation(kind=draw(st.sampled_from(["relu", "relu6", "sigmoid"]))))
    chain.op(Conv(in_channels=chain.channels, out_channels=8, kernel=3))


def pool(chain, draw):
    if chain.size < 3 or draw(st.booleans()):
        chain.op(Pad(amount=draw(st.integers(1, 2))))
    kind = draw(st.sampled_from([MaxPool, AvgPool]))
    chain.op(kind(kernel=draw(st.integers(2, 3)), stride=draw(st.integers(1, 2))))


def grouped_convolution(chain, draw):
    groups, x = draw(st.sampled_from([2, 4])), chain.op(Pad(amount=1))
    part = chain.channels // groups
    one = Conv(
        in_channels=part,
        out_channels=4,
        kernel=3,
        stride=draw(st.integers(1, 2)),
        padded=False,
    )
    starts = range(0, groups * part, part)
    narrowed = [chain.op(Narrow(channels=part, start=start), x) for start in starts]
    chain.op(Concat(), *[chain.op(one, each) for each in narrowed])
    chain.op(BatchNorm(channels=chain.channels))


def dense_unit(chain, draw):
    maps = [chain.last]
    for _ in range(draw(st.integers(1, 3))):
        out = 4 * draw(st.integers(1, 2))
        maps.append(chain.op(Conv(in_channels=chain.channels, out_channels=out)))
    chain.op(Concat(), *maps)


def gate(chain, draw):
    x = chain.last
    chain.op(GlobalPool())
    chain.op(Conv(in_channels=chain.channels, out_channels=chain.channels, bias=True))
    chain.op(Multiply(), x, chain.op(Activation(kind="sigmoid")))


@st.composite
def graphs_of_other_ops(draw):
    """Of ops that no architecture has but published networks do."""
    chain = Chain((3, draw(st.integers(5, 15)), draw(st.integers(5, 15))))
    chain.op(Conv(in_channels=3, out_channels=8, kernel=3, padded=draw(st.booleans())))
    parts = [preactivation, pool, grouped_convolution, dense_unit, gate]
    for part in draw(st.lists(st.sampled_from(parts), min_size=1, max_size=6)):
        part(chain, draw)
    chain.op(GlobalPool())
    chain.op(Flatten())
    chain.op(Dense(in_features=chain.channels, out_features=5))
    return chain.build()


@settings(max_examples=60)
@given(graph=graphs_of_other_ops(), seed=st.integers(0, 100))
def test_on_the_ops_of_published_networks(graph, seed):
    assert_readers_agree_on(graph, seed)


def dropping_maps():
    """Channels that are not a multiple of the ghost ratio, so that some maps are cut off."""
    block = GhostBlock(hidden_channels=20, out_channels=16, stride=2, ghost_ratio=3)
    return Arch(
        stem=Stem(channels=8),
        stages=(Stage(blocks=(block,)),),
        head=Head(channels=24, features=16),
        resolution=33,
        classes=5,
    )


def test_where_a_ghost_module_drops_maps():
    arch = dropping_maps()
    assert sum(isinstance(node.op, Narrow) for node in lower(arch).nodes) == 2
    assert_readers_agree(arch)


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_where_strides_are_dropped(name):
    arch = fit_to(zoo.named(name, width=0.25), resolution=18, classes=5)
    assert arch.dropped_strides
    assert_readers_agree(arch)


@pytest.mark.parametrize(("resolution", "pads"), [(33, 0), (32, 9)])
def test_tflite_pads_only_where_same_differs(resolution, pads):
    # At 33 pixels every strided map is of odd size, and SAME is symmetric there; at 32 none is:
    # the stem, and a depthwise convolution and a shortcut in each of four blocks.
    graph = lower(zoo.ghostnet(0.5, resolution, 10))
    model = tflite_writer.write(graph, random_weights(graph, 0))
    assert ops(interpreter(model, xnnpack=False)).count("PAD") == pads


def test_onnx_takes_any_batch():
    graph = lower(zoo.ghostnet(0.5, 33, 10))
    weights = random_weights(graph, 0)
    session = onnx_session(onnx_writer.write(graph, weights))
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape) == ("image", ["N", 3, 33, 33])
    assert (logits.name, logits.shape) == ("logits", ["N", 10])
    images = np.random.default_rng(0).normal(size=(5, 3, 33, 33)).astype(np.float32)
    (together,) = session.run(None, {"image": images})
    alone = [session.run(None, {"image": picture[None]})[0] for picture in images]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_tflite_takes_a_batch_that_it_is_resized_to_and_xnnpack_all_of_it(dtype):
    arch = dropping_maps()
    graph = lower(arch)
    images = np.random.default_rng(0).normal(size=(3, 33, 33, 3)).astype(np.float32)
    model = tflite_writer.write(graph, random_weights(graph, 0), half=dtype == "fp16")
    if dtype == "int8":
        model = quantization.quantize(model, [[image[None]] for image in images])
    loaded = interpreter(model, xnnpack=True)
    [source], [target] = loaded.get_input_details(), loaded.get_output_details()

    def run(batch):
        loaded.resize_tensor_input(source["index"], batch.shape)
        loaded.allocate_tensors()
        loaded.set_tensor(source["index"], batch)
        loaded.invoke()
        return loaded.get_tensor(target["index"])

    if dtype == "int8":
        scale, zero = source["quantization"]
        images = np.clip(np.round(images / scale) + zero, -128, 127).astype(np.int8)
    alone = np.concatenate([run(image[None]) for image in images])
    together = run(images)
    assert together.shape == (3, 5)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    assert np.ptp(together.astype(float), axis=0).max() > 0
    assert ops(loaded).count("DELEGATE") == 1


@pytest.mark.parametrize("writer", [onnx_writer, tflite_writer], ids=["onnx", "tflite"])
def test_files_are_reproducible_and_a_missing_weight_is_a_key_error(writer):
    graph = lower(zoo.ghostnet(0.25, 32, 10))
    weights = random_weights(graph, 0)
    assert writer.write(graph, weights) == writer.write(graph, weights)
    del weights["classifier.bias"]
    with pytest.raises(KeyError, match=r"classifier\.bias"):
        writer.write(graph, weights)
