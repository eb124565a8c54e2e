"""The pass from a network as trained to the network as run: batch norm folded, ReLUs fused.

Latency, TFLite and ONNX read a deployed graph. It is a `Graph` like any other; its convolutions
have a bias, and convolutions, dense layers and sums carry the ReLU that followed them. A batch norm
that folds into no convolution is a scale and a shift, `Affine`, with that ReLU.

Parallel branches of one convolution are that convolution (`ghostnas.ir.branches`).

One more step is for files only, as latency tables have hard sigmoids as separate ops. Such a gate
is relu6(x + 3) / 6: the 3 goes into the bias of the op before it, which also takes the ReLU6, and
the 1/6 into the kernels that read what the gate multiplies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ghostnas.arrays import Array
from ghostnas.ir.branches import merge, merge_weights, scale_and_shift
from ghostnas.ir.graph import (
    Activation,
    ActivationKind,
    Add,
    Affine,
    AvgPool,
    BatchNorm,
    ChannelConv,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    Graph,
    MaxPool,
    Multiply,
    Narrow,
    Node,
    Op,
    Pad,
    Upsample,
    Weights,
)

FOLDED = {BatchNorm, Activation}  # into the node before
FUSING = {Conv, Dense, Add, BatchNorm, Affine}  # with the ReLU after it
HARD_SIGMOID = Activation(kind="hard_sigmoid")
# Six times one input gives six times the output.
SCALING = Multiply | Narrow | Pad | MaxPool | AvgPool | GlobalPool | Flatten | Upsample


class Run(NamedTuple):
    """A node that runs, and what it absorbs from those after it.

    `activation` is the node's own or that of a ReLU after it; `norm` is the name of the batch norm
    after a convolution, or empty.
    """

    node: Node
    activation: ActivationKind
    norm: str


def runs(graph: Graph) -> list[Run]:
    """The nodes that run when `graph` is deployed, in order; their inputs are indices of
    `ghostnas.ir.branches.merge` of it.
    """
    return _fuse(merge(graph))[0]


def deploy(graph: Graph) -> Graph:
    """The deployed form of `graph`; a deployed graph comes back unchanged."""
    fused, moved = _fuse(merge(graph))
    return Graph(tuple(_deployed(run, moved) for run in fused))


def fold(graph: Graph, weights: Weights) -> tuple[Graph, dict[str, Array]]:
    """The deployed form of `graph` with its gates fused, and the float32 weights that go with it.

    Raises:
        KeyError: `weights` lacks an array of `graph`.
    """
    deployed, folded = fold_gates(*fold_norms(graph, weights))
    return deployed, {key: array.astype(np.float32) for key, array in folded.items()}


def fold_norms(graph: Graph, weights: Weights) -> tuple[Graph, dict[str, Array]]:
    """`deploy(graph)` and the float64 weights that go with it.

    Raises:
        KeyError: `weights` lacks an array of `graph`.
    """
    graph, weights = merge_weights(graph, weights)
    fused, moved = _fuse(graph)
    folded: dict[str, Array] = {}
    for node, _, norm in fused:
        name, op = node.name, node.op
        if norm:
            folded.update(_fold_norm(name, norm, weights))
        elif isinstance(op, BatchNorm):
            folded[f"{name}.weight"], folded[f"{name}.bias"] = scale_and_shift(name, weights)
        elif isinstance(op, ChannelConv):
            folded[f"{name}.weight"] = weights[f"{name}.weight"].astype(np.float64)
        elif isinstance(op, Conv | Dense | Affine):
            folded[f"{name}.weight"] = weights[f"{name}.weight"].astype(np.float64)
            if isinstance(op, Conv) and not op.bias:
                folded[f"{name}.bias"] = np.zeros(op.out_channels)
            else:
                folded[f"{name}.bias"] = weights[f"{name}.bias"].astype(np.float64)
    return Graph(tuple(_deployed(run, moved) for run in fused)), folded


def fold_gates(graph: Graph, weights: Weights) -> tuple[Graph, dict[str, Array]]:
    """A deployed graph with each hard sigmoid fused into the op before it, where that is exact.

    It is exact if that op has a bias, no activation and no other reader, and if everything that the
    gate changes goes through kernels: the maps between are six times what they were. A hard sigmoid
    whose output is read by a sum or a concatenation stays as it is.
    """
    consumers, folded = graph.consumers(), dict(weights)
    fused: set[int] = set()
    for index, node in enumerate(graph.nodes):
        if node.op != HARD_SIGMOID:
            continue
        [before] = node.inputs
        takers = _takers(graph, consumers, index)
        alone = consumers[before] == [index]
        if not takers or not alone or _activation(graph.nodes[before].op) != "none":
            continue
        bias = f"{graph.nodes[before].name}.bias"
        folded[bias] = folded[bias] + 3
        for taker in takers:
            kernel = f"{graph.nodes[taker].name}.weight"
            folded[kernel] = folded[kernel] / 6
        fused.add(index)
    nodes: list[Node] = []
    moved: list[int] = []
    for index, (name, op, inputs, shape) in enumerate(graph.nodes):
        if index in fused:
            moved.append(moved[inputs[0]])
            continue
        if fused.intersection(consumers[index]):
            assert isinstance(op, Conv | Dense | Affine)
            op = replace(op, activation="relu6")
        moved.append(len(nodes))
        nodes.append(Node(name, op, tuple(moved[source] for source in inputs), shape))
    return Graph(tuple(nodes)), folded


def _activation(op: Op) -> ActivationKind | None:
    """That of an op with a kernel or a scale, and a bias; None for others."""
    return op.activation if isinstance(op, Conv | Dense | Affine) else None


def _takers(graph: Graph, consumers: list[list[int]], index: int) -> list[int]:
    """The nodes that can absorb a scaling of a node's output, one for each path there.

    Empty if they cannot absorb all of it. A node is there twice if it reads the output's square.
    """
    takers: list[int] = []
    for reader in consumers[index]:
        op = graph.nodes[reader].op
        if isinstance(op, Conv | Dense | Affine):
            takers.append(reader)
        elif isinstance(op, SCALING) and (further := _takers(graph, consumers, reader)):
            takers += further
        else:
            return []
    return takers


def _fuse(graph: Graph) -> tuple[list[Run], list[int]]:
    """The nodes that run, and for each node of `graph` the index of the one it is part of."""
    readers = [0] * len(graph.nodes)
    for node in graph.nodes:
        for source in node.inputs:
            readers[source] += 1
    fused: list[Run] = []
    moved: list[int] = []
    for node in graph.nodes:
        op, kind = node.op, type(node.op)
        if kind in FOLDED and readers[node.inputs[0]] == 1:
            at = moved[node.inputs[0]]
            taken = _take_in(fused[at], op)
            if taken is not None:
                fused[at] = taken if kind is Activation else taken._replace(norm=node.name)
                moved.append(at)
                continue
        moved.append(len(fused))
        own = op.activation if isinstance(op, Conv | Dense | Add | Affine) else "none"
        fused.append(Run(node, own, ""))
    return fused, moved


def _take_in(run: Run, op: Op) -> Run | None:
    """The node with what follows it; None if it cannot absorb that."""
    if run.activation != "none":
        return None
    if isinstance(op, Activation):
        fits = op.kind in ("relu", "relu6") and type(run.node.op) in FUSING
        return Run(run.node, op.kind, run.norm) if fits else None
    return run if type(run.node.op) is Conv and not run.norm else None


def _deployed(run: Run, moved: list[int]) -> Node:
    name, op, inputs, shape = run.node
    if isinstance(op, Conv):
        op = replace(op, bias=True, activation=run.activation)
    elif isinstance(op, Dense | Add | Affine):
        op = replace(op, activation=run.activation)
    elif isinstance(op, BatchNorm):
        op = Affine(channels=op.channels, activation=run.activation)
    return Node(name, op, tuple(moved[source] for source in inputs), shape)


def _fold_norm(conv: str, norm: str, weights: Weights) -> dict[str, Array]:
    """Kernel and bias of a convolution and its batch norm as one, computed in float64."""
    bias = weights[f"{conv}.bias"].astype(np.float64) if f"{conv}.bias" in weights else 0.0
    scale, shift = scale_and_shift(norm, weights, bias)
    kernel = weights[f"{conv}.weight"].astype(np.float64) * scale[:, None, None, None]
    return {f"{conv}.weight": kernel, f"{conv}.bias": shift}
