"""The Ghost module as a plug-in: turns convolutions of any graph into Ghost modules (GhostNet,
section 3.1). Changes no architecture's numbers and makes no weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import TypeAlias

from ghostnas.errors import InputError
from ghostnas.ir.graph import (
    Activation,
    BatchNorm,
    Builder,
    Concat,
    Conv,
    Dense,
    Flatten,
    Graph,
    Narrow,
    Node,
)

Choose: TypeAlias = Callable[[Node], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How many maps of a Ghost module are convolved, and how many made of those by the cheap
    operation; together at least as many as asked for.
    """

    primary: int
    cheap: int


def split(maps: int, s: int) -> Split:
    """The split of `maps` maps for a ratio s: ceil(maps / s) convolved, s - 1 ghosts of each."""
    primary = ceil(maps / s)
    return Split(primary=primary, cheap=primary * (s - 1))


def check_numbers(s: int, d: int) -> None:
    """Reject a ratio or kernel that no Ghost module has.

    Raises:
        InputError: s is below 2, or d is even or below 1.
    """
    if s < 2:
        raise InputError(f"s = {s}: a Ghost module makes 2 or more maps of each convolved one")
    if d < 1 or not d % 2:
        raise InputError(f"d = {d}: the kernel of the cheap operation is odd")


def convolutions(node: Node) -> bool:
    """The default choice: every ungrouped convolution of a map larger than 1x1, whatever its
    kernel and stride; not the 1x1 maps of squeeze-and-excitation or of a classifier.
    """
    return isinstance(node.op, Conv) and node.op.groups == 1 and node.shape[1:] != (1, 1)


def ghostify(graph: Graph, s: int = 2, d: int = 3, choose: Choose = convolutions) -> Graph:
    """The graph with the chosen layers as Ghost modules, everything else as it was.

    A convolution of n maps becomes one of ceil(n / s), with the same kernel and stride, followed by
    a d x d depthwise convolution that makes s - 1 ghosts of each, and the concatenation of both. A
    batch norm and an activation that alone follow it are applied to each half, so that ghosts are
    made of activated maps, as in the published Ghost module. A dense layer behind a `Flatten`
    becomes such a module on the 1x1 map. A layer of one map stays as it is.

    Args:
        s, d: as in the paper.
        choose: which nodes are replaced; asked of `Conv` nodes with ``groups = 1`` and of `Dense`.

    Raises:
        InputError: s or d is out of range, or a chosen dense layer does not follow a `Flatten`.
    """
    check_numbers(s, d)
    net = Builder(graph.input_shape)
    readers = graph.consumers()
    at = {0: 0}  # index in the given graph to index in the new one
    for index, node in enumerate(graph.nodes):
        if index in at:
            continue
        op, source = node.op, at[node.inputs[0]]
        if isinstance(op, Dense) and choose(node):
            at[index] = _dense(net, graph, node, at, s, d)
        elif isinstance(op, Conv) and op.groups == 1 and op.out_channels > 1 and choose(node):
            followers = _followers(graph, readers, index)
            made = _module(net, source, node.name, op, s, d, followers)
            at |= dict.fromkeys((index, *followers), made)
        else:
            at[index] = net.add(node.name, op, *[at[each] for each in node.inputs])
    return net.build()


def _followers(graph: Graph, readers: list[list[int]], index: int) -> dict[int, Node]:
    """The batch norm and the activation that a convolution's output goes through, and only that."""
    found: dict[int, Node] = {}
    for kind in (BatchNorm, Activation):
        if len(readers[index]) == 1 and isinstance(graph.nodes[readers[index][0]].op, kind):
            index = readers[index][0]
            found[index] = graph.nodes[index]
    return found


def _module(
    net: Builder, x: int, name: str, conv: Conv, s: int, d: int, followers: dict[int, Node]
) -> int:
    maps = split(conv.out_channels, s)
    norm = any(isinstance(node.op, BatchNorm) for node in followers.values())
    acts = [node.op for node in followers.values() if isinstance(node.op, Activation)]

    def convolved(y: int, part: str, op: Conv) -> int:
        y = net.add(f"{name}.{part}.0", op, y)
        if norm:
            y = net.add(f"{name}.{part}.1", BatchNorm(channels=op.out_channels), y)
        for act in acts:
            y = net.add(f"{name}.{part}.2", act, y)
        return y

    y = convolved(x, "primary_conv", replace(conv, out_channels=maps.primary))
    cheap = Conv(
        in_channels=maps.primary,
        out_channels=maps.cheap,
        kernel=d,
        groups=maps.primary,
        bias=conv.bias,
    )
    y = net.add(f"{name}.concat", Concat(), y, convolved(y, "cheap_operation", cheap))
    if maps.primary + maps.cheap != conv.out_channels:
        y = net.add(f"{name}.narrow", Narrow(channels=conv.out_channels), y)
    return y


def _dense(net: Builder, graph: Graph, node: Node, at: dict[int, int], s: int, d: int) -> int:
    """A dense layer as a Ghost module on the map before its `Flatten`."""
    flatten = graph.nodes[node.inputs[0]]
    if not isinstance(node.op, Dense) or not isinstance(flatten.op, Flatten):
        raise InputError(f"{node.name}: only a dense layer behind a flattened map can be replaced")
    conv = Conv(in_channels=node.op.in_features, out_channels=node.op.out_features, bias=True)
    x = _module(net, at[flatten.inputs[0]], node.name, conv, s, d, {})
    return net.add(f"{node.name}.flatten", Flatten(), x)
