"""A graph and its weights as an ONNX file, written without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ghostnas.arrays import Array
from ghostnas.ir.fusion import fold
from ghostnas.ir.graph import (
    Activation,
    ActivationKind,
    Add,
    Affine,
    AvgPool,
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
    Pad,
    Shape,
    Upsample,
    Weights,
)

OPSET = 18  # the first with ReduceMean's axes as an input; onnxruntime reads it since 1.14
IR_VERSION = 8
INPUT, OUTPUT = "image", "logits"


def write(graph: Graph, weights: Weights, *, half: bool = False) -> bytes:
    """The model: input ``image`` (N, 3, height, width), output ``logits`` (N, classes), float32.

    With `half`, weights and maps between the two are float16.

    Raises:
        KeyError: `weights` lacks an array of `graph`.
    """
    deployed, folded = fold(graph, weights)
    writer = _Writer(folded, half=half)
    for index, node in enumerate(deployed.nodes):
        last = index == len(deployed.nodes) - 1
        inputs = [writer.values[source] for source in node.inputs]
        shape = deployed.nodes[node.inputs[0]].shape if node.inputs else ()
        output = writer.output if last else node.name
        writer.values.append(writer.op(node.op, node.name, inputs, output, shape))
    return writer.model(deployed).SerializeToString()  # type: ignore[no-any-return]


def annotate(model: bytes, texts: Mapping[str, str]) -> bytes:
    """The model with these texts in its ``metadata_props``, replacing any it has."""
    parsed = onnx.load_from_string(model)
    helper.set_model_props(parsed, dict(texts))
    return parsed.SerializeToString()  # type: ignore[no-any-return]


def texts_of(model: bytes) -> dict[str, str]:
    """The texts of a model's ``metadata_props``."""
    return {entry.key: entry.value for entry in onnx.load_from_string(model).metadata_props}


def run(model: bytes, images: Array) -> Array:
    """Logits (n, classes) of `images` (n, 3, height, width), by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits: Array = session.run([OUTPUT], {INPUT: images.astype(np.float32)})[0]
    return logits


class _Writer:
    """Gathers nodes and initializers. `values` holds the ONNX name of each graph node's output."""

    def __init__(self, weights: Weights, *, half: bool) -> None:
        self.values: list[str] = []
        self.output = f"{OUTPUT}.half" if half else OUTPUT  # of the graph's last node
        self._half = half
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def op(self, op: Any, name: str, inputs: list[str], output: str, shape: Shape) -> str:
        """Append `op` in ONNX form; return the name of its output.

        `shape` is that of its first input, without the batch.
        """
        match op:
            case Input():
                return self._cast(INPUT, f"{INPUT}.half", TensorProto.FLOAT16)
            case Conv():
                attributes = {
                    "kernel_shape": list(op.kernel_size),
                    "strides": [op.stride] * 2,
                    "pads": [*op.padding, *op.padding],
                    "group": op.groups,
                }
                return self._activated(
                    "Conv", [*inputs, *self._learned(name)], output, op.activation, attributes
                )
            case Dense():
                operands = [*inputs, *self._learned(name)]
                return self._activated("Gemm", operands, output, op.activation, {"transB": 1})
            case Activation():
                return self._activation(inputs[0], output, op.kind)
            case Add():
                return self._activated("Add", inputs, output, op.activation, {})
            case Affine():
                scale, shift = (
                    self._constant(f"{name}.{key}", self._weights[f"{name}.{key}"][:, None, None])
                    for key in ("weight", "bias")
                )
                scaled = self._node("Mul", [*inputs, scale], f"{name}.scaled")
                return self._activated("Add", [scaled, shift], output, op.activation, {})
            case Pad():
                # Without axes onnxruntime 1.31 fuses a pad with a max pool, and its zeros are lost.
                amount = self._constant(f"{name}.amount", np.array([op.amount] * 4, np.int64))
                axes = self._constant("map_axes", np.array([2, 3], np.int64))
                return self._node("Pad", [*inputs, amount, "", axes], output)
            case MaxPool() | AvgPool():
                kind = "MaxPool" if isinstance(op, MaxPool) else "AveragePool"
                kernel, strides = [op.kernel] * 2, [op.stride] * 2
                return self._node(kind, inputs, output, kernel_shape=kernel, strides=strides)
            case Multiply():
                return self._node("Mul", inputs, output)
            case Upsample():
                # No Resize: onnxruntime 1.31 cannot run the one that its own quantiser makes.
                for side, pixels in ((2, op.height), (3, op.width)):
                    nearest = np.arange(pixels) * shape[side - 1] // pixels
                    at = self._constant(f"{name}.nearest{side}", nearest)
                    here = output if side == 3 else f"{name}.rows"
                    inputs = [self._node("Gather", [*inputs, at], here, axis=side)]
                return output
            case ChannelConv():
                # As a 1xC map of one channel: quantisers know convolutions of two dimensions.
                taps = self._weights[f"{name}.weight"][:, :, None]
                row = self._constant("channels_as_row", np.array([0, 1, 1, -1], np.int64))
                back = self._constant("row_as_channels", np.array([0, -1, 1, 1], np.int64))
                flat = self._node("Reshape", [*inputs, row], f"{name}.row")
                operands = [flat, self._constant(f"{name}.weight", taps)]
                pads = [0, op.kernel // 2] * 2
                mixed = self._node("Conv", operands, f"{name}.mixed", pads=pads)
                return self._node("Reshape", [mixed, back], output)
            case Concat():
                return self._node("Concat", inputs, output, axis=1)
            case Narrow():
                end = op.start + op.channels
                ends = self._constant(f"{name}.end", np.array([end], np.int64))
                key = f"{name}.start" if op.start else "zero"
                start = self._constant(key, np.array([op.start], np.int64))
                axis = self._constant("channel_axis", np.array([1], np.int64))
                return self._node("Slice", [*inputs, start, ends, axis], output)
            case GlobalPool():
                return self._node("GlobalAveragePool", inputs, output)
            case Flatten():
                return self._node("Flatten", inputs, output, axis=1)
            case _:
                raise ValueError(f"{name}: {op} is not an op of a deployed graph")

    def model(self, graph: Graph) -> onnx.ModelProto:
        self._cast(self.output, OUTPUT, TensorProto.FLOAT)
        image: list[str | int | None] = ["N", *graph.input_shape]
        logits: list[str | int | None] = ["N", *graph.output_shape]
        body = helper.make_graph(
            self._nodes,
            "ghostnas",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, image)],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, logits)],
            list(self._constants.values()),
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(
            body, opset_imports=[opset], ir_version=IR_VERSION, producer_name="ghostnas"
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def _cast(self, x: str, output: str, kind: int) -> str:
        return self._node("Cast", [x], output, to=kind) if self._half else x

    def _activated(
        self,
        kind: str,
        inputs: list[str],
        output: str,
        activation: ActivationKind,
        attributes: dict[str, Any],
    ) -> str:
        if activation == "none":
            return self._node(kind, inputs, output, **attributes)
        raw = self._node(kind, inputs, f"{output}.raw", **attributes)
        return self._activation(raw, output, activation)

    def _activation(self, x: str, output: str, kind: ActivationKind) -> str:
        match kind:
            case "none":
                return x
            case "relu":
                return self._node("Relu", [x], output)
            case "relu6":
                low = self._constant("clip.low", np.array(0, np.float32))
                high = self._constant("clip.high", np.array(6, np.float32))
                return self._node("Clip", [x, low, high], output)
            case "hard_swish":
                return self._node("HardSwish", [x], output)
            case "hard_sigmoid":
                return self._node("HardSigmoid", [x], output, alpha=1 / 6, beta=0.5)
            case "sigmoid":
                return self._node("Sigmoid", [x], output)
            case _:
                assert_never(kind)

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _learned(self, name: str) -> list[str]:
        keys = (f"{name}.weight", f"{name}.bias")
        return [self._constant(key, self._weights[key]) for key in keys]

    def _constant(self, name: str, value: Array) -> str:
        if self._half and value.dtype == np.float32:
            value = value.astype(np.float16)
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name
