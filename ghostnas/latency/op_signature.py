"""What decides an op's latency: the signatures of a graph's ops, the keys of a latency table."""

from __future__ import annotations

from typing import NamedTuple, get_args

from ghostnas.errors import MissingOpError
from ghostnas.ir.branches import merge
from ghostnas.ir.fusion import runs
from ghostnas.ir.graph import (
    Activation,
    Add,
    Affine,
    AvgPool,
    BatchNorm,
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
    Nonlinearity,
    Pad,
    Upsample,
)

NONLINEARITIES = get_args(Nonlinearity)
ACTIVATIONS = ("none", *NONLINEARITIES)
WINDOWED = (  # have a kernel and a stride
    *("conv", "depthwise", "strip", "maxpool", "avgpool", "pad", "channelconv"),
)
OPS = (
    *WINDOWED,
    *("dense", "affine", "add", "multiply", "product", "upsample", "concat", "narrow"),
    *("pool", "flatten"),
    *NONLINEARITIES,
)


class OpSignature(NamedTuple):
    """What decides an op's latency. A convolution and the PAD before it are one op.

    `op` is ``conv``, ``depthwise``, ``strip`` (depthwise, with a kernel of one row or one column),
    ``maxpool``, ``avgpool``, ``pad``, ``channelconv``, ``dense``, ``affine``, ``add``, ``multiply``
    (by a number per channel), ``product`` (of two maps), ``upsample``, ``concat``, ``narrow``,
    ``pool`` (the mean of a whole map), ``flatten`` or an activation's name. `height` and `width`
    are of the first input, 1 for vectors; for a convolution without padding, of the map from which
    a padded one makes the same. `kernel` and `stride` are 0 if there are none; a pad has those of a
    convolution that it could be for.
    """

    op: str
    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    activation: str

    def __str__(self) -> str:
        size = f"{self.height}x{self.width}x{self.in_channels}"
        kernel = f" k{self.kernel} s{self.stride}" if self.kernel else ""
        return f"{self.op} {size} -> {self.out_channels}{kernel} {self.activation}"


def signatures(graph: Graph) -> list[OpSignature]:
    """One signature for each op that runs, in order; `graph` is deployed first if it is not."""
    nodes = merge(graph).nodes
    found = []
    for node, activation, _ in runs(graph):
        op, kernel, stride = node.op, 0, 0
        if isinstance(op, Input):
            continue
        channels, *size = nodes[node.inputs[0]].shape
        height, width = size or (1, 1)
        match op:
            case Conv():
                if op.groups > 1 and not op.depthwise:
                    raise MissingOpError(f"{node.name}: grouped convolutions have no signature yet")
                kind = "depthwise" if op.depthwise else "conv"
                kernel, stride = max(op.kernel_size), op.stride
                if min(op.kernel_size) != kernel:
                    if not op.depthwise or min(op.kernel_size) != 1:
                        raise MissingOpError(f"{node.name}: {op} has no signature")
                    kind = "strip"
                if not op.padded:
                    height, width = (pixels - 2 * (kernel // 2) for pixels in (height, width))
            case MaxPool() | AvgPool():
                kind, kernel, stride = type(op).__name__.lower(), op.kernel, op.stride
            case Pad():
                kind, kernel, stride = "pad", 2 * op.amount + 1, 1
            case BatchNorm() | Affine():
                kind = "affine"
            case Activation():
                kind = op.kind
            case Multiply() if len(set(shapes := [nodes[at].shape for at in node.inputs])) == 1:
                kind = "product" if shapes[0][1:] != (1, 1) else "multiply"
            case ChannelConv():
                kind, kernel, stride = "channelconv", op.kernel, 1
            case Upsample() | Dense() | Add() | Multiply() | Concat() | Narrow() | Flatten():
                kind = type(op).__name__.lower()
            case GlobalPool():
                kind = "pool"
            case _:
                raise MissingOpError(f"{node.name}: {op} has no signature")
        out = node.shape[0]
        found.append(OpSignature(kind, height, width, channels, out, kernel, stride, activation))
    return found


def weight_count(signature: OpSignature) -> int:
    """Learned numbers of the op's kernel, without its bias."""
    s = signature
    taps = taps_of(s)
    if s.op == "channelconv":
        return s.kernel
    if s.op in ("depthwise", "strip", "affine"):
        return taps * s.out_channels
    return taps * s.in_channels * s.out_channels if s.op in ("conv", "dense") else 0


def taps_of(signature: OpSignature) -> int:
    """Numbers in a window; 1 for an op without."""
    side = max(signature.kernel, 1)
    return side if signature.op in ("strip", "channelconv") else side * side
