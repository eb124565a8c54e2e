"""A graph run in numpy, in float64: slow, and the definition that every other reader must match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import numpy as np

from ghostnas.arrays import Array
from ghostnas.ir.graph import (
    BATCH_NORM_EPS,
    Activation,
    ActivationKind,
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
    Node,
    Pad,
    Upsample,
    Weights,
)


def run(graph: Graph, weights: Weights, images: Array) -> Array:
    """Logits of `images`.

    Args:
        images: (batch, channels, height, width).

    Returns:
        (batch, classes), float64.
    """
    values: list[Array] = []
    for node in graph.nodes:
        inputs = [values[source] for source in node.inputs] or [images.astype(np.float64)]
        values.append(_run_node(node, inputs, weights))
    return values[-1]


def _run_node(node: Node, inputs: list[Array], weights: Weights) -> Array:
    op, x = node.op, inputs[0]

    def weight(key: str) -> Array:
        array: Array = weights[f"{node.name}.{key}"].astype(np.float64)
        return array

    match op:
        case Input():
            return x
        case Conv():
            y = convolve(x, weight("weight"), op.stride, op.groups, padded=op.padded)
            if op.bias:
                y = y + weight("bias")[:, None, None]
            return activate(y, op.activation)
        case Dense():
            y = x @ weight("weight").T + weight("bias")
            return activate(y, op.activation)
        case BatchNorm():
            scale = weight("weight") / np.sqrt(weight("running_var") + BATCH_NORM_EPS)
            shift = weight("bias") - weight("running_mean") * scale
            return x * scale[:, None, None] + shift[:, None, None]
        case Affine():
            y = x * weight("weight")[:, None, None] + weight("bias")[:, None, None]
            return activate(y, op.activation)
        case Activation():
            return activate(x, op.kind)
        case Pad():
            return _pad(x, op.amount, op.amount)
        case MaxPool():
            return np.asarray(np.max(_windows(x, [op.kernel] * 2, op.stride), axis=0))
        case AvgPool():
            return np.asarray(np.mean(_windows(x, [op.kernel] * 2, op.stride), axis=0))
        case Add():
            return activate(x + inputs[1], op.activation)
        case Multiply():
            return x * inputs[1]
        case Upsample():
            rows, columns = (
                np.arange(size) * have // size
                for size, have in zip((op.height, op.width), x.shape[2:], strict=True)
            )
            return x[:, :, rows[:, None], columns]
        case ChannelConv():
            around = np.pad(x, ((0, 0), (op.kernel // 2,) * 2, (0, 0), (0, 0)))
            taps = weight("weight").reshape(-1)
            return np.asarray(
                sum(tap * around[:, i : i + x.shape[1]] for i, tap in enumerate(taps))
            )
        case Concat():
            return np.concatenate(inputs, axis=1)
        case Narrow():
            return x[:, op.start : op.start + op.channels]
        case GlobalPool():
            return np.asarray(x.mean(axis=(2, 3), keepdims=True))
        case Flatten():
            return x.reshape(len(x), -1)
        case _:
            assert_never(op)


def convolve(x: Array, kernel: Array, stride: int, groups: int, *, padded: bool = True) -> Array:
    """A 2-d cross-correlation with symmetric zero padding of half the kernel, or with none.

    Args:
        x: (batch, in, height, width).
        kernel: (out, in / groups, height, width).
    """
    out, group_in, *size = kernel.shape
    if padded:
        x = _pad(x, size[0] // 2, size[1] // 2)
    batch, _, height, width = x.shape
    grouped = x.reshape(batch, groups, group_in, height, width)
    taps = kernel.reshape(groups, out // groups, group_in, size[0] * size[1])
    terms = (
        np.einsum("bgihw,goi->bgohw", pixels, taps[..., at], optimize=True)
        for at, pixels in enumerate(_windows(grouped, size, stride))
    )
    y = np.asarray(sum(terms))
    return y.reshape(batch, out, *y.shape[-2:])


def _pad(x: Array, rows: int, columns: int) -> Array:
    return np.pad(x, ((0, 0), (0, 0), (rows, rows), (columns, columns)))


def _windows(x: Array, kernel: Sequence[int], stride: int) -> list[Array]:
    """For each position in a window, row by row, the map of the pixels there."""
    rows, columns = (
        (size - side) // stride + 1 for size, side in zip(x.shape[-2:], kernel, strict=True)
    )
    return [
        x[..., i : i + stride * rows : stride, j : j + stride * columns : stride]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def activate(x: Array, kind: ActivationKind) -> Array:
    """The activation's value, elementwise."""
    match kind:
        case "none":
            return x
        case "relu":
            return np.maximum(x, 0)
        case "relu6":
            return np.clip(x, 0, 6)
        case "hard_sigmoid":
            return _hard_sigmoid(x)
        case "hard_swish":
            return x * _hard_sigmoid(x)
        case "sigmoid":
            return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))  # exp(-x) may overflow
        case _:
            assert_never(kind)


def _hard_sigmoid(x: Array) -> Array:
    gate: Array = np.clip(x + 3, 0, 6) / 6
    return gate
