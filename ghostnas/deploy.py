"""The pass from a network as it trains to the network as it runs: batch norm folded, ReLUs fused.

Latency, TFLite and ONNX read a deployed graph. It is a `Graph` like any other; its convolutions
have a bias, and convolutions, dense layers and sums carry the ReLU that followed them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from ghostnas.graph import (
    BATCH_NORM_EPS,
    Activation,
    ActivationKind,
    Add,
    Array,
    BatchNorm,
    Conv,
    Dense,
    Graph,
    Node,
    Weights,
)

FOLDED = {BatchNorm, Activation}


def deploy(graph: Graph) -> Graph:
    """The deployed form of `graph`; a deployed graph comes back as it is."""
    return _fuse(graph)[0]


def fold(graph: Graph, weights: Weights) -> tuple[Graph, dict[str, Array]]:
    """The deployed form of `graph` and the float32 weights that go with it.

    Raises:
        KeyError: `weights` lacks an array of `graph`.
    """
    deployed, norms = _fuse(graph)
    folded: dict[str, Array] = {}
    for node in deployed.nodes:
        if node.name in norms:
            folded.update(_fold_norm(node.name, norms[node.name], weights))
        elif isinstance(node.op, Conv | Dense):
            for key in ("weight", "bias"):
                folded[f"{node.name}.{key}"] = weights[f"{node.name}.{key}"].astype(np.float32)
    return deployed, folded


def _fuse(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """The deployed graph, and for each convolution that took in a batch norm, that one's name."""
    readers = [0] * len(graph.nodes)
    for node in graph.nodes:
        for source in node.inputs:
            readers[source] += 1
    nodes: list[Node] = []
    norms: dict[str, str] = {}
    moved: list[int] = []  # index in `graph` to index in `nodes`
    for node in graph.nodes:
        op = node.op
        inputs = tuple(moved[source] for source in node.inputs)
        if type(op) in FOLDED and readers[node.inputs[0]] == 1:
            producer = nodes[inputs[0]]
            if (
                isinstance(op, BatchNorm)
                and isinstance(producer.op, Conv)
                and producer.op.activation == "none"
                and producer.name not in norms
            ):
                nodes[inputs[0]] = producer._replace(op=_with_bias(producer.op))
                norms[producer.name] = node.name
                moved.append(inputs[0])
                continue
            if (
                isinstance(op, Activation)
                and op.kind in ("relu", "relu6")
                and isinstance(producer.op, Conv | Dense | Add)
                and producer.op.activation == "none"
            ):
                nodes[inputs[0]] = producer._replace(op=_with_activation(producer.op, op.kind))
                moved.append(inputs[0])
                continue
        if type(op) is BatchNorm:
            raise ValueError(f"{node.name}: a batch norm that follows no convolution of its own")
        moved.append(len(nodes))
        nodes.append(Node(node.name, op, inputs, node.shape))
    return Graph(tuple(nodes)), norms


@cache
def _with_bias(op: Conv) -> Conv:
    return replace(op, bias=True)


@cache
def _with_activation(op: Conv | Dense | Add, kind: ActivationKind) -> Conv | Dense | Add:
    return replace(op, activation=kind)


def _fold_norm(conv: str, norm: str, weights: Weights) -> dict[str, Array]:
    """Kernel and bias of a convolution and its batch norm as one, worked out in float64."""
    gamma, beta, mean, variance = (
        weights[f"{norm}.{key}"].astype(np.float64)
        for key in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + BATCH_NORM_EPS)
    kernel = weights[f"{conv}.weight"].astype(np.float64) * scale[:, None, None, None]
    bias = weights[f"{conv}.bias"].astype(np.float64) if f"{conv}.bias" in weights else 0.0
    shift = beta + (bias - mean) * scale
    return {f"{conv}.weight": kernel.astype(np.float32), f"{conv}.bias": shift.astype(np.float32)}
