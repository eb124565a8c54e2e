"""Parallel branches that are one convolution when deployed: RepVGG's re-parameterisation.

A sum of convolutions that read the same map, each with or without batch norm, is one convolution of
the largest kernel, in which the smaller ones are centred; a batch norm alone is a kernel of 1 at
its centre (Ding et al., CVPR 2021, section 3.3). Networks are trained with the branches; costs,
latencies and files are those of the merged graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ghostnas.arrays import Array
from ghostnas.ir.graph import (
    BATCH_NORM_EPS,
    Add,
    BatchNorm,
    Conv,
    Graph,
    Node,
    Weights,
)


class _Branch(NamedTuple):
    """A convolution and its batch norm, either of which may be missing; their names."""

    conv: Conv | None
    conv_name: str
    norm_name: str


class _Sum(NamedTuple):
    """Branches that read node `source`, whose values node `nodes[-1]` adds up."""

    source: int
    branches: tuple[_Branch, ...]
    nodes: tuple[int, ...]


def merge(graph: Graph) -> Graph:
    """The graph with each sum of branches as one convolution with a bias, named after the sum."""
    return _merged(graph, _sums(graph))


def merge_weights(graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
    """`merge` of a graph, and its weights: those of merged convolutions are float64.

    Raises:
        KeyError: `weights` lacks an array of a branch.
    """
    sums = _sums(graph)
    if not sums:
        return graph, weights
    found: dict[str, Array] = dict(weights)
    for end, each in sums.items():
        name, conv = graph.nodes[end].name, _conv(each)
        kernel, bias = np.zeros(()), np.zeros(conv.out_channels)
        for branch in each.branches:
            more, shift = _kernel_and_bias(branch, conv, weights)
            kernel, bias = kernel + more, bias + shift
        found[f"{name}.weight"], found[f"{name}.bias"] = kernel, bias
    return _merged(graph, sums), found


def count_terms(graph: Graph) -> dict[str, int]:
    """For each batch norm that ends a branch, by name, how many branches its sum has."""
    return {
        branch.norm_name: len(each.branches)
        for each in _sums(graph).values()
        for branch in each.branches
    }


def scale_and_shift(norm: str, weights: Weights, bias: Array | float = 0.0) -> tuple[Array, Array]:
    """What a batch norm does to maps that lack this bias, in float64."""
    gamma, beta, mean, variance = (
        weights[f"{norm}.{key}"].astype(np.float64)
        for key in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + BATCH_NORM_EPS)
    return scale, beta + (bias - mean) * scale


def _sums(graph: Graph) -> dict[int, _Sum]:
    """The sums that are one convolution, by their last nodes."""
    nodes = graph.nodes
    if not any(_may_be_one(graph, node) for node in nodes):
        return {}
    readers = [0] * len(nodes)
    for node in nodes:
        for source in node.inputs:
            readers[source] += 1
    found: dict[int, _Sum] = {}
    for index, node in enumerate(nodes):
        if isinstance(node.op, Add) and all(readers[source] == 1 for source in node.inputs):
            one, other = (
                found.get(source) or _branch(graph, readers, source) for source in node.inputs
            )
            if one is not None and other is not None and _fit(one, other):
                branches = one.branches + other.branches
                found[index] = _Sum(one.source, branches, (*one.nodes, *other.nodes, index))
                for source in node.inputs:
                    found.pop(source, None)
    return found


def _may_be_one(graph: Graph, node: Node) -> bool:
    """Whether a node adds up maps as branches end with; most graphs have none."""
    return isinstance(node.op, Add) and all(
        isinstance(graph.nodes[source].op, Conv | BatchNorm) for source in node.inputs
    )


def _branch(graph: Graph, readers: list[int], index: int) -> _Sum | None:
    """The branch that ends at a node, if one does."""
    node = graph.nodes[index]
    if isinstance(node.op, Conv) and node.op.activation == "none" and node.op.padded:
        return _Sum(node.inputs[0], (_Branch(node.op, node.name, ""),), (index,))
    if not isinstance(node.op, BatchNorm):
        return None
    [before] = node.inputs
    conv = _branch(graph, readers, before) if readers[before] == 1 else None
    if conv is not None and not conv.branches[0].norm_name:
        return _Sum(conv.source, (conv.branches[0]._replace(norm_name=node.name),), (before, index))
    return _Sum(before, (_Branch(None, "", node.name),), (index,))


def _fit(one: _Sum, other: _Sum) -> bool:
    """Whether both read the same map and are, together, one convolution."""
    branches = one.branches + other.branches
    convs = [branch.conv for branch in branches if branch.conv is not None]
    if one.source != other.source or not convs:
        return False
    alike = {(c.in_channels, c.out_channels, c.groups, c.stride) for c in convs}
    first = convs[0]
    keeps = first.stride == 1 and first.in_channels == first.out_channels
    whole = first.groups in (1, first.in_channels)
    bare = len(convs) < len(branches)
    return len(alike) == 1 and (not bare or (keeps and whole))


def _conv(each: _Sum) -> Conv:
    convs = [branch.conv for branch in each.branches if branch.conv is not None]
    height, width = (max(sides) for sides in zip(*(c.kernel_size for c in convs), strict=True))
    kernel_width = width if width != height else 0
    return replace(convs[0], kernel=height, kernel_width=kernel_width, bias=True)


def _merged(graph: Graph, sums: Mapping[int, _Sum]) -> Graph:
    if not sums:
        return graph
    gone = {index for each in sums.values() for index in each.nodes}
    nodes: list[Node] = []
    moved: list[int] = []
    for index, (name, op, inputs, shape) in enumerate(graph.nodes):
        if index in sums:
            op, inputs = _conv(sums[index]), (sums[index].source,)
        elif index in gone:
            moved.append(-1)
            continue
        moved.append(len(nodes))
        nodes.append(Node(name, op, tuple(moved[source] for source in inputs), shape))
    return Graph(tuple(nodes))


def _kernel_and_bias(branch: _Branch, whole: Conv, weights: Weights) -> tuple[Array, Array]:
    """What a branch adds to the kernel and the bias of the `whole` convolution, in float64."""
    if branch.conv is None:
        kernel = np.zeros((whole.out_channels, whole.in_channels // whole.groups, 1, 1))
        channels = np.arange(whole.out_channels)
        kernel[channels, channels % kernel.shape[1]] = 1
        bias: Array | float = 0.0
    else:
        kernel = weights[f"{branch.conv_name}.weight"].astype(np.float64)
        bias = np.zeros(whole.out_channels)
        if branch.conv.bias:
            bias = weights[f"{branch.conv_name}.bias"].astype(np.float64)
    shift = np.asarray(bias)
    if branch.norm_name:
        scale, shift = scale_and_shift(branch.norm_name, weights, bias)
        kernel = kernel * scale[:, None, None, None]
    margins = [
        ((wide - side) // 2,) * 2
        for wide, side in zip(whole.kernel_size, kernel.shape[2:], strict=True)
    ]
    return np.pad(kernel, [(0, 0), (0, 0), *margins]), shift
