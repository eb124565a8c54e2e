"""A graph run in numpy, in float64: slow, and the definition that every other reader must meet."""

from __future__ import annotations

from typing import assert_never

import numpy as np

from ghostnas.graph import (
    BATCH_NORM_EPS,
    Activation,
    ActivationKind,
    Add,
    Array,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    Graph,
    Input,
    Multiply,
    Narrow,
    Node,
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
            y = convolve(x, weight("weight"), op.stride, op.groups)
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
        case Activation():
            return activate(x, op.kind)
        case Add():
            return activate(x + inputs[1], op.activation)
        case Multiply():
            return x * inputs[1]
        case Concat():
            return np.concatenate(inputs, axis=1)
        case Narrow():
            return x[:, : op.channels]
        case GlobalPool():
            return np.asarray(x.mean(axis=(2, 3), keepdims=True))
        case Flatten():
            return x.reshape(len(x), -1)
        case _:
            assert_never(op)


def convolve(x: Array, kernel: Array, stride: int, groups: int) -> Array:
    """A 2-d cross-correlation with symmetric zero padding of half the kernel.

    Args:
        x: (batch, in, height, width).
        kernel: (out, in / groups, k, k).
    """
    batch, _, height, width = x.shape
    out, group_in, k, _ = kernel.shape
    pad = k // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    rows, columns = (height + 2 * pad - k) // stride + 1, (width + 2 * pad - k) // stride + 1
    grouped = padded.reshape(batch, groups, group_in, *padded.shape[2:])
    taps = kernel.reshape(groups, out // groups, group_in, k, k)
    y = np.zeros((batch, groups, out // groups, rows, columns))
    for i in range(k):
        for j in range(k):
            window = grouped[..., i : i + stride * rows : stride, j : j + stride * columns : stride]
            y += np.einsum("bgihw,goi->bgohw", window, taps[..., i, j], optimize=True)
    return y.reshape(batch, out, rows, columns)


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
        case _:
            assert_never(kind)


def _hard_sigmoid(x: Array) -> Array:
    gate: Array = np.clip(x + 3, 0, 6) / 6
    return gate
