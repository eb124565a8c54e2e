"""Which ops of a space are worth measuring, and each as a .tflite model of its own."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import numpy as np

from ghostnas.backends import tflite_writer
from ghostnas.backends.quantization import quantize
from ghostnas.errors import InputError
from ghostnas.ir.graph import (
    Activation,
    Add,
    Affine,
    AvgPool,
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
    Op,
    Pad,
    Upsample,
)
from ghostnas.ir.random_weights import random_weights
from ghostnas.latency.interpolation import Kind, kind_of
from ghostnas.latency.op_signature import OpSignature, signatures
from ghostnas.networks.arch import Arch, lower
from ghostnas.networks.space import Space
from ghostnas.networks.zoo import ZOO

SENTINEL = OpSignature("conv", 28, 28, 64, 64, 1, 1, "relu")
ZOO_WIDTHS = (0.5, 0.75, 1.0, 1.3)
HEAD_FEATURES = (16, 64, 256, 640, 1280, 1920)  # a space or a dataset may ask for any
CLASS_COUNTS = (2, 10, 50, 100, 400, 1000)
NETWORKS_WALKED = 600
OPS_A_KIND = 12


def ops_of(space: Space, count: int, seed: int = 0) -> list[OpSignature]:
    """The `count` signatures that are most worth measuring for a space, or as many as it has.

    First a few of every kind, then those of the zoo, then those of random networks of the space,
    most used first. Deterministic: the same arguments give the same list.

    Raises:
        InputError: the count is too small for a few of every kind.
    """
    rng = random.Random(seed)
    archs = [build(width, 224, 1000) for build in ZOO.values() for width in ZOO_WIDTHS]
    archs.append(space.decode({}))
    first = {signature for arch in archs for signature in signatures(lower(arch))}
    for features in HEAD_FEATURES:
        first.add(OpSignature("flatten", 1, 1, features, features, 0, 0, "none"))
        for classes in CLASS_COUNTS:
            first.add(OpSignature("dense", 1, 1, features, classes, 0, 0, "none"))
    uses: Counter[OpSignature] = Counter()
    for _ in range(NETWORKS_WALKED):
        uses.update(signatures(lower(space.decode(space.sample(rng)))))
    rest = sorted(uses.keys() - first, key=lambda op: (-uses[op], op))
    kinds: defaultdict[Kind, list[OpSignature]] = defaultdict(list)
    for op in [*sorted(first), *rest]:
        kinds[kind_of(op)].append(op)
    some = [op for ops in kinds.values() for op in rng.sample(ops, min(len(ops), OPS_A_KIND))]
    if count < len(some):
        raise InputError(
            f"{count} ops are too few for space {space.name}: its {len(kinds)} kinds of op take "
            f"{len(some)}"
        )
    return list(dict.fromkeys([*some, *sorted(first), *rest]))[:count]


def op_model(signature: OpSignature, dtype: str = "fp32") -> bytes:
    """A .tflite of this one op, with random weights."""
    return _model(op_graph(signature), dtype)


def network_model(arch: Arch, dtype: str = "fp32") -> bytes:
    """A .tflite of a whole network, with random weights."""
    return _model(lower(arch), dtype)


def op_graph(signature: OpSignature) -> Graph:
    """A graph of this one op; its second input, if it takes one, is an `Input` too."""
    s = signature
    shape = (s.in_channels, s.height, s.width)
    graph = Builder((s.in_channels,) if s.op == "dense" else shape)
    second = {
        "add": shape,
        "multiply": (s.in_channels, 1, 1),
        "product": shape,
        "concat": (s.out_channels - s.in_channels, s.height, s.width),
    }
    inputs = [0]
    if s.op in second:
        other = second[s.op]
        inputs.append(graph.add("input1", Input(shape=other)))
    graph.add("op", _op(s), *inputs)
    return graph.build()


def _model(graph: Graph, dtype: str) -> bytes:
    """int8 ranges are those of random inputs; the second input's is the wider one, so that a
    concatenation has to rescale, as it has to in a network.
    """
    model = tflite_writer.write(graph, random_weights(graph, seed=0))
    if dtype == "fp32":
        return model
    rng = np.random.default_rng(0)
    shapes = [node.shape for node in graph.nodes if isinstance(node.op, Input)]
    sample = [
        rng.normal(0.0, 1.0 + index, (1, *shape[1:], shape[0])).astype(np.float32)
        for index, shape in enumerate(shapes)
    ]
    return quantize(model, [sample])


def _op(s: OpSignature) -> Op:
    match s.op:
        case "conv" | "depthwise" | "strip":
            return Conv(
                in_channels=s.in_channels,
                out_channels=s.out_channels,
                kernel=s.kernel,
                stride=s.stride,
                kernel_width=1 if s.op == "strip" else 0,
                groups=1 if s.op == "conv" else s.in_channels,
                bias=True,
                activation=s.activation,  # type: ignore[arg-type]
            )
        case "dense":
            return Dense(
                in_features=s.in_channels,
                out_features=s.out_channels,
                activation=s.activation,  # type: ignore[arg-type]
            )
        case "maxpool":
            return MaxPool(kernel=s.kernel, stride=s.stride)
        case "avgpool":
            return AvgPool(kernel=s.kernel, stride=s.stride)
        case "pad":
            return Pad(amount=s.kernel // 2)
        case "affine":
            return Affine(
                channels=s.out_channels,
                activation=s.activation,  # type: ignore[arg-type]
            )
        case "add":
            return Add(activation=s.activation)  # type: ignore[arg-type]
        case "upsample":
            return Upsample(height=2 * s.height, width=2 * s.width)
        case "channelconv":
            return ChannelConv(kernel=s.kernel)
        case "multiply" | "product":
            return Multiply()
        case "concat":
            return Concat()
        case "narrow":
            return Narrow(channels=s.out_channels)
        case "pool":
            return GlobalPool()
        case "flatten":
            return Flatten()
        case _:
            return Activation(kind=s.op)  # type: ignore[arg-type]
