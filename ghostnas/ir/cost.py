"""What a graph costs on any machine: multiply-accumulates, parameters, bytes. No latencies."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from ghostnas.ir.branches import merge
from ghostnas.ir.graph import (
    Affine,
    AvgPool,
    BatchNorm,
    ChannelConv,
    Conv,
    Dense,
    Graph,
    MaxPool,
)

MOVING = Conv | Dense | MaxPool | AvgPool  # would overwrite what they have yet to read


class _Stored(NamedTuple):
    """Bytes of a .tflite file in one dtype: per weight, per output channel (its bias, and in int8
    its scales and zero points), per node (its names, shapes and options); and per element of the
    maps while it runs. The last three were fitted to written files of GhostNet and MobileNetV3.
    """

    weight: int
    channel: int
    node: int
    element: int


_STORED = {
    "fp32": _Stored(4, 4, 162, 4),
    "fp16": _Stored(2, 2, 238, 4),  # computes in float32
    "int8": _Stored(1, 36, 253, 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Counts of a whole network for one image.

    Attributes:
        macs: multiply-accumulates of convolutions and dense layers, batch norm folded; what the
            paper and its tables call FLOPs.
        params: learned numbers, including batch norm's scale and shift.
        model_bytes: approximate size of the .tflite file in the dtype counted for.
        peak_activation_bytes: most bytes of maps alive at once when the ops run in order, batch
            norm and activations in place, in that dtype.
    """

    macs: int
    params: int
    model_bytes: int
    peak_activation_bytes: int


def count(graph: Graph, dtype: str = "fp32") -> Cost:
    """Costs of `graph`; they match GhostNet's published numbers to the digit.

    Parallel branches that run as one convolution count as that one (`ghostnas.ir.branches`).

    Args:
        dtype: ``fp32``, ``fp16`` or ``int8``, for which the bytes are counted.
    """
    graph = merge(graph)
    macs = params = kernels = channels = 0
    for node in graph.nodes:
        op = node.op
        if isinstance(op, Conv):
            weights = op.in_channels // op.groups * op.out_channels * prod(op.kernel_size)
            macs += weights * node.shape[1] * node.shape[2]
            params += weights + op.out_channels * op.bias
            kernels += weights
            channels += op.out_channels
        elif isinstance(op, BatchNorm | Affine):
            params += 2 * op.channels
            if not isinstance(graph.nodes[node.inputs[0]].op, Conv):
                kernels += op.channels
                channels += op.channels
        elif isinstance(op, Dense):
            weights = op.in_features * op.out_features
            macs += weights
            params += weights + op.out_features
            kernels += weights
            channels += op.out_features
        elif isinstance(op, ChannelConv):
            macs += op.kernel * node.shape[0]
            params += op.kernel
            kernels += op.kernel
    stored = _STORED[dtype]
    return Cost(
        macs=macs,
        params=params,
        model_bytes=stored.weight * kernels
        + stored.channel * channels
        + stored.node * len(graph.nodes),
        peak_activation_bytes=stored.element * _peak_elements(graph),
    )


def _peak_elements(graph: Graph) -> int:
    """Most elements alive at once. An op with one input, which has its output's size and is
    not read later, works in place.
    """
    nodes = graph.nodes
    last_use = list(range(len(nodes)))
    for index, node in enumerate(nodes):
        for source in node.inputs:
            last_use[source] = index
    sizes = [prod(node.shape) for node in nodes]
    alive = peak = sizes[0]
    for index, node in enumerate(nodes[1:], 1):
        size, freed = sizes[index], 0
        for source in set(node.inputs) if len(node.inputs) > 1 else node.inputs:
            if last_use[source] == index:
                freed += sizes[source]
        in_place = freed == size and len(node.inputs) == 1 and not isinstance(node.op, MOVING)
        during = alive if in_place else alive + size
        if during > peak:
            peak = during
        alive += size - freed
    return peak
