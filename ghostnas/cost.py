"""What a graph costs on any machine: multiply-accumulates, parameters, bytes. No latencies."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ghostnas.graph import Affine, AvgPool, BatchNorm, Conv, Dense, Graph, MaxPool

BYTES_A_NODE = 162  # names, shapes and options in a .tflite file, for each node of a graph
MOVING = Conv | Dense | MaxPool | AvgPool  # write where they have yet to read


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Counts of a whole network for one picture.

    Attributes:
        macs: multiply-accumulates of convolutions and dense layers, batch norm folded; what the
            paper and its tables call FLOPs.
        params: learned numbers, batch norm's scale and shift among them.
        model_bytes: about the size of the float32 .tflite file.
        peak_activation_bytes: most bytes of float32 maps alive at once when the ops run in order,
            batch norm and activations in place.
    """

    macs: int
    params: int
    model_bytes: int
    peak_activation_bytes: int


def count(graph: Graph) -> Cost:
    """Costs of `graph`; the published numbers of GhostNet follow to the digit."""
    macs = params = folded = 0
    for node in graph.nodes:
        op = node.op
        if isinstance(op, Conv):
            weights = op.in_channels // op.groups * op.out_channels * op.kernel * op.kernel
            macs += weights * node.shape[1] * node.shape[2]
            params += weights + op.out_channels * op.bias
            folded += weights + op.out_channels
        elif isinstance(op, BatchNorm | Affine):
            params += 2 * op.channels
            if not isinstance(graph.nodes[node.inputs[0]].op, Conv):
                folded += 2 * op.channels
        elif isinstance(op, Dense):
            macs += op.in_features * op.out_features
            weights = (op.in_features + 1) * op.out_features
            params += weights
            folded += weights
    return Cost(
        macs=macs,
        params=params,
        model_bytes=4 * folded + BYTES_A_NODE * len(graph.nodes),
        peak_activation_bytes=4 * _peak_elements(graph),
    )


def _peak_elements(graph: Graph) -> int:
    """Most elements alive at once. An op with one input of its own output's size, which nothing
    reads later, works in place.
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
