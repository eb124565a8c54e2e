"""The intermediate representation: a network as a flat list of primitive ops with known shapes.

Every reader (costs, latency, torch, numpy, TFLite, ONNX) reads a `Graph` and nothing else. A graph
has neither blocks nor weights; `Weights` is a mapping beside it whose keys are the node names.

Shapes omit the batch: ``(channels, height, width)`` for maps, ``(features,)`` after `Flatten`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple, TypeAlias, assert_never

from ghostnas.arrays import Array

Shape: TypeAlias = tuple[int, ...]
Weights: TypeAlias = Mapping[str, Array]
Nonlinearity: TypeAlias = Literal["relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid"]
ActivationKind: TypeAlias = Literal["none"] | Nonlinearity

BATCH_NORM_EPS = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """The image, ``(channels, height, width)``."""

    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Conv:
    """A convolution with symmetric padding of half the kernel; depthwise if groups = channels.

    The kernel is square unless it has a `kernel_width` of its own. Unless `padded`, there is no
    padding. Weights: ``weight`` (out, in / groups, kernel height, kernel width) and, with `bias`,
    ``bias`` (out,).
    `activation` is set by `ghostnas.ir.fusion` only; `Builder` writes activations as separate ops.
    """

    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    bias: bool = False
    activation: ActivationKind = "none"
    padded: bool = field(default=True, repr=False)  # no Arch sets it, and ids hash the repr
    kernel_width: int = field(default=0, repr=False)

    def __repr__(self) -> str:
        shown = [f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr]
        if self.kernel_width:  # shown only then, as ids hash the repr
            shown.append(f"kernel_width={self.kernel_width}")
        return f"Conv({', '.join(shown)})"

    @property
    def depthwise(self) -> bool:
        return self.groups == self.in_channels > 1

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Height and width."""
        return self.kernel, self.kernel_width or self.kernel

    @property
    def padding(self) -> tuple[int, int]:
        """Of zeros above and below, and left and right."""
        height, width = self.kernel_size
        return (height // 2, width // 2) if self.padded else (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A fully connected layer. Weights: ``weight`` (out, in) and ``bias`` (out,)."""

    in_features: int
    out_features: int
    activation: ActivationKind = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNorm:
    """Weights: ``weight``, ``bias``, ``running_mean``, ``running_var``, each (channels,)."""

    channels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """A scale and a shift for each channel: what `ghostnas.ir.fusion` makes of a batch norm that it
    cannot fold into a convolution. Weights: ``weight``, ``bias``, each (channels,).
    """

    channels: int
    activation: ActivationKind = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """An elementwise nonlinearity; the hard ones as in MobileNetV3 (Howard et al., 2019)."""

    kind: Nonlinearity


@dataclass(frozen=True, slots=True, kw_only=True)
class Pad:
    """Zeros around a map, `amount` pixels on each side."""

    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxPool:
    """The maximum of each square window that lies within the map."""

    kernel: int
    stride: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AvgPool:
    """The mean of each square window that lies within the map."""

    kernel: int
    stride: int = 1


@dataclass(frozen=True, slots=True)
class Add:
    """The sum of two maps of one shape; `activation` is set by `ghostnas.ir.fusion` only."""

    activation: ActivationKind = "none"


@dataclass(frozen=True, slots=True)
class Multiply:
    """A map times a gate: one number per channel, ``(channels, 1, 1)``, or a map of one shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsample:
    """A map of twice the size, or of a pixel more, each pixel that of its nearest: pixel ``i`` of
    the output is pixel ``floor(i * input / output)`` of the input.
    """

    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConv:
    """A convolution along the channels of a 1x1 map, with one kernel for all and zeros beside them.

    Weights: ``weight`` (1, 1, kernel).
    """

    kernel: int


@dataclass(frozen=True, slots=True)
class Concat:
    """Two or more maps, concatenated along the channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrow:
    """`channels` channels of a map, from `start` on."""

    channels: int
    start: int = field(default=0, repr=False)  # as for Conv.padded


@dataclass(frozen=True, slots=True)
class GlobalPool:
    """The mean over height and width, kept as a 1x1 map."""


@dataclass(frozen=True, slots=True)
class Flatten:
    """A 1x1 map as a vector."""


Op: TypeAlias = (
    Input
    | Conv
    | Dense
    | BatchNorm
    | Affine
    | Activation
    | Pad
    | MaxPool
    | AvgPool
    | Add
    | Multiply
    | Upsample
    | ChannelConv
    | Concat
    | Narrow
    | GlobalPool
    | Flatten
)


class Node(NamedTuple):
    """One op in a graph: `inputs` are indices of earlier nodes, `shape` is that of its output.

    `name` is the path of the op's module in PyTorch, so ``name + ".weight"`` is a published key.
    """

    name: str
    op: Op
    inputs: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in an order in which they can run: the first is the input, the last the output."""

    nodes: tuple[Node, ...]

    @property
    def input_shape(self) -> Shape:
        return self.nodes[0].shape

    @property
    def output_shape(self) -> Shape:
        return self.nodes[-1].shape

    def consumers(self) -> list[list[int]]:
        """For each node, the indices of the nodes that read it."""
        readers: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for source in node.inputs:
                readers[source].append(index)
        return readers

    def input_shapes(self, node: Node) -> list[Shape]:
        return [self.nodes[source].shape for source in node.inputs]


class Builder:
    """Appends ops, infers their shapes and refuses what does not fit."""

    def __init__(self, input_shape: Shape) -> None:
        self._nodes = [Node("input", Input(shape=input_shape), (), input_shape)]

    def shape(self, index: int) -> Shape:
        return self._nodes[index].shape

    def add(self, name: str, op: Op, *inputs: int) -> int:
        """Append an op and return its index.

        Raises:
            ValueError: the op does not fit the shapes of its inputs. A bug in the caller.
        """
        nodes = self._nodes
        shape = output_shape(op, [nodes[source].shape for source in inputs])
        if shape is None:
            shapes = ", ".join(str(nodes[source].shape) for source in inputs)
            raise ValueError(f"{name}: {op} does not fit inputs of shape {shapes}")
        nodes.append(Node(name, op, inputs, shape))
        return len(nodes) - 1

    def build(self) -> Graph:
        return Graph(tuple(self._nodes))


def output_shape(op: Op, shapes: list[Shape]) -> Shape | None:
    """The output shape of `op` for inputs of `shapes`, or None if they do not fit."""
    match op:
        case Conv():
            [(channels, height, width)] = shapes
            if channels != op.in_channels or op.out_channels % op.groups or channels % op.groups:
                return None
            if not all(side % 2 for side in op.kernel_size):
                return None
            if not op.padded:
                return _windows((op.out_channels, height, width), op)
            if op.stride == 1:  # odd kernels keep the size
                return (op.out_channels, height, width)
            return (op.out_channels, -(-height // op.stride), -(-width // op.stride))
        case BatchNorm() | Affine():
            return shapes[0] if shapes[0][0] == op.channels else None
        case Activation():
            return shapes[0]
        case Pad():
            channels, height, width = shapes[0]
            return (channels, height + 2 * op.amount, width + 2 * op.amount)
        case MaxPool() | AvgPool():
            return _windows(shapes[0], op)
        case Concat():
            if any(shape[1:] != shapes[0][1:] for shape in shapes):
                return None
            return (sum(shape[0] for shape in shapes), *shapes[0][1:])
        case Narrow():
            fits = 0 <= op.start <= shapes[0][0] - op.channels
            return (op.channels, *shapes[0][1:]) if fits else None
        case Add():
            return shapes[0] if shapes[0] == shapes[1] else None
        case Multiply():
            return shapes[0] if shapes[1] in (shapes[0], (shapes[0][0], 1, 1)) else None
        case Upsample():
            channels, *size = shapes[0]
            extra = (op.height - 2 * size[0], op.width - 2 * size[1])
            return (channels, op.height, op.width) if {0, 1}.issuperset(extra) else None
        case ChannelConv():
            return shapes[0] if shapes[0][1:] == (1, 1) and op.kernel % 2 else None
        case GlobalPool():
            return (shapes[0][0], 1, 1)
        case Flatten():
            return (shapes[0][0],) if shapes[0][1:] == (1, 1) else None
        case Dense():
            return (op.out_features,) if shapes[0] == (op.in_features,) else None
        case Input():
            return op.shape
        case _:
            assert_never(op)


def _windows(shape: Shape, op: Conv | MaxPool | AvgPool) -> Shape | None:
    """The shape with one pixel per window that lies within the map."""
    channels, *size = shape
    kernel = op.kernel_size if isinstance(op, Conv) else (op.kernel, op.kernel)
    height, width = (
        (pixels - side) // op.stride + 1 for pixels, side in zip(size, kernel, strict=True)
    )
    if min(height, width) < 1:
        return None
    return (channels, height, width)


def weight_shapes(node: Node) -> dict[str, Shape]:
    """The learned (and for batch norm, gathered) arrays of a node: full key to shape."""
    name, op = node.name, node.op
    match op:
        case Conv():
            kernel = (op.out_channels, op.in_channels // op.groups, *op.kernel_size)
            shapes: dict[str, Shape] = {f"{name}.weight": kernel}
            if op.bias:
                shapes[f"{name}.bias"] = (op.out_channels,)
            return shapes
        case Dense():
            matrix = (op.out_features, op.in_features)
            return {f"{name}.weight": matrix, f"{name}.bias": (op.out_features,)}
        case BatchNorm():
            keys = ("weight", "bias", "running_mean", "running_var")
            return {f"{name}.{key}": (op.channels,) for key in keys}
        case Affine():
            return {f"{name}.{key}": (op.channels,) for key in ("weight", "bias")}
        case ChannelConv():
            return {f"{name}.weight": (1, 1, op.kernel)}
        case Input() | Activation() | Add() | Multiply() | Upsample() | Concat() | Narrow():
            return {}
        case Pad() | MaxPool() | AvgPool() | GlobalPool() | Flatten():
            return {}
        case _:
            assert_never(op)
