"""The graph of a .tflite file that any converter wrote: its ops and their shapes, without weights.

For costs and latencies only. What does not change what an op costs is not kept: which side of a map
is padded (SAME pads one side more at stride 2), the values of constants, softmax and other ops on a
vector of classes, and changes of layout. A product of two maps reads and writes what a sum does,
and is one here. Files that ghostnas wrote carry their architecture; `ghostnas.backends.model_file`
reads those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ghostnas.arrays import Array
from ghostnas.errors import InputError
from ghostnas.ir.graph import (
    Activation,
    ActivationKind,
    Add,
    Affine,
    AvgPool,
    Builder,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    Graph,
    MaxPool,
    Multiply,
    Narrow,
    Op,
    Pad,
    Shape,
)

OPERATORS = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)
}
FUSED: dict[int, ActivationKind] = {
    schema.ActivationFunctionType.NONE: "none",
    schema.ActivationFunctionType.RELU: "relu",
    schema.ActivationFunctionType.RELU6: "relu6",
}
SAME = schema.Padding.SAME
TYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
    schema.TensorType.INT8: np.int8,
}
ACTIVATIONS = {"RELU": "relu", "RELU6": "relu6", "LOGISTIC": "sigmoid", "HARD_SWISH": "hard_swish"}
# The same numbers in another form or type; of no cost beside the ops around them.
UNCHANGED = ("QUANTIZE", "DEQUANTIZE", "SOFTMAX", "TRANSPOSE", "RESHAPE", "SQUEEZE", "EXPAND_DIMS")
SIZES = ("SHAPE", "PACK")  # arithmetic on shapes, which a file has for a batch of any size
IDENTIFIER = b"TFL3"


def read(path: Path) -> Graph:
    """The graph of a file.

    Raises:
        InputError: it is no .tflite file, or has an op or a size that no graph can have; named.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return parse(content, str(path))


def parse(content: bytes, where: str) -> Graph:
    """As `read`, of a file's content."""
    if content[4:8] != IDENTIFIER:
        raise InputError(f"{where}: is no .tflite file")
    try:
        model = schema.ModelT.InitFromPackedBuf(content)
        graphs = model.subgraphs
    except Exception as error:  # flatbuffers raises whatever the damage leads to
        raise InputError(f"{where}: is damaged: {error}") from error
    if len(graphs) != 1 or len(graphs[0].inputs) != 1:
        raise InputError(f"{where}: needs one graph with one input; it has {len(graphs)} graphs")
    return _Reader(model, where).graph()


class _Reader:
    """Walks the operators in order. `_at` has the node of each tensor."""

    def __init__(self, model: Any, where: str) -> None:
        self._model = model
        self._subgraph = model.subgraphs[0]
        self._where = where
        self._at: dict[int, int] = {}
        self._pads: dict[int, int] = {}  # tensor that is padded: tensor before
        self._first = int(self._subgraph.inputs[0])
        self._channels_first = self._is_channels_first()
        self._builder = Builder(self._shape(self._first))
        self._at[self._first] = 0
        self._count = 0
        self._affines: set[int] = set()  # nodes of those without an activation

    def graph(self) -> Graph:
        operators = self._subgraph.operators
        known = {*_READERS, *ACTIVATIONS, *UNCHANGED, *SIZES}
        unknown = sorted({self._name(each) for each in operators} - known)
        if unknown:
            raise InputError(
                f"{self._where}: has ops that have no latency here: {', '.join(unknown)}; "
                f"known are {', '.join(sorted(known))}"
            )
        for operator in operators:
            name = self._name(operator)
            inputs = [int(at) for at in operator.inputs if at >= 0]
            outputs = [int(at) for at in operator.outputs]
            if not any(at in self._at or at in self._pads for at in inputs):
                continue  # of constants only, such as the weights of a float16 file
            if name in SIZES:
                continue  # what it makes counts as a constant
            if name in UNCHANGED:
                self._alias(inputs[0], outputs[0])
            elif name in ACTIVATIONS:
                self._activation(ACTIVATIONS[name], inputs[0], outputs[0])
            else:
                _READERS[name](self, operator.builtinOptions, inputs, outputs)
        return self._builder.build()

    def _name(self, operator: Any) -> str:
        code = self._model.operatorCodes[operator.opcodeIndex]
        name: str = OPERATORS.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM")
        return name

    def _is_channels_first(self) -> bool:
        """Whether a file of a converter from PyTorch turns the image round first."""
        for operator in self._subgraph.operators:
            if self._first in operator.inputs:
                return self._name(operator) == "TRANSPOSE"
        return False

    def _tensor_shape(self, tensor: int) -> list[int]:
        shape = self._subgraph.tensors[tensor].shape
        return [int(size) for size in shape] if shape is not None else []

    def _shape(self, tensor: int) -> Shape:
        """Channels first, without the batch."""
        sizes = self._tensor_shape(tensor)
        if len(sizes) != 4:
            raise self._error(
                tensor, f"an image of shape {sizes} is not (1, height, width, channels)"
            )
        _, *rest = sizes
        channels_first = tensor == self._first and self._channels_first
        return tuple(rest) if channels_first else (rest[2], rest[0], rest[1])

    def _constant(self, tensor: int) -> Array | None:
        found = self._subgraph.tensors[tensor]
        data = self._model.buffers[found.buffer].data
        if data is None or found.type not in TYPES:
            return None
        values: Array = np.frombuffer(bytes(data), TYPES[found.type])
        return values

    def _is_constant(self, tensor: int) -> bool:
        return tensor not in self._at and tensor not in self._pads

    def _error(self, tensor: int, what: str) -> InputError:
        name = self._subgraph.tensors[tensor].name
        name = name.decode() if isinstance(name, bytes) else name
        return InputError(f"{self._where}: {name}: {what}")

    def _add(self, op: Op, inputs: Sequence[int], output: int) -> None:
        """Append an op that reads nodes, as what makes a tensor."""
        self._count += 1
        try:
            self._at[output] = self._builder.add(f"op{self._count}", op, *inputs)
        except ValueError as error:
            raise self._error(output, str(error)) from error

    def _alias(self, source: int, output: int) -> None:
        if source in self._pads:
            self._materialize(source)
        numbers = int(np.prod(self._tensor_shape(source)[1:]))
        sizes = self._tensor_shape(output)
        node = self._at[source]
        spread = len(sizes) < 3 and self._builder.shape(node)[1:] not in ((), (1, 1))
        if spread and len(sizes) == 2 and sizes[-1] == numbers:
            raise self._error(output, "a map with more than one pixel becomes a vector")
        self._at[output] = node

    def _activation(self, kind: Any, source: int, output: int) -> None:
        self._add(Activation(kind=kind), [self._node(source)], output)

    def _node(self, tensor: int) -> int:
        if tensor in self._pads:
            self._materialize(tensor)
        return self._at[tensor]

    def _materialize(self, tensor: int) -> None:
        """A padding that no convolution takes in is an op of its own."""
        before = self._pads.pop(tensor)
        height, padded = self._tensor_shape(before)[1], self._tensor_shape(tensor)[1]
        if (padded - height) % 2:
            raise self._error(
                tensor, "pads one side more than the other, and no convolution reads it"
            )
        self._add(Pad(amount=(padded - height) // 2), [self._at[before]], tensor)

    def _fused(self, options: Any, output: int) -> ActivationKind:
        kind = FUSED.get(options.fusedActivationFunction)
        if kind is None:
            raise self._error(output, "has a fused activation that is neither ReLU nor ReLU6")
        return kind

    def _conv(self, options: Any, inputs: list[int], outputs: list[int]) -> None:
        self._convolution(options, inputs, outputs, depthwise=False)

    def _depthwise(self, options: Any, inputs: list[int], outputs: list[int]) -> None:
        self._convolution(options, inputs, outputs, depthwise=True)

    def _convolution(
        self, options: Any, inputs: list[int], outputs: list[int], *, depthwise: bool
    ) -> None:
        source, [output] = inputs[0], outputs
        _, *kernel, last = self._tensor_shape(inputs[1])
        if kernel[0] != kernel[1] or not kernel[0] % 2 or options.strideH != options.strideW:
            raise self._error(
                output, f"a {kernel[0]}x{kernel[1]} convolution is not square and odd"
            )
        if max(options.dilationHFactor, options.dilationWFactor) > 1:
            raise self._error(output, "a dilated convolution is no op of a graph")
        before = self._pads.get(source, source)
        height, width = self._tensor_shape(before)[1:3]
        made = self._tensor_shape(output)[1:3]
        strided = [-(-size // options.strideH) for size in (height, width)]
        padded = made == strided
        if not padded and source in self._pads:
            before = source
        shape = self._builder.shape(self._node(before))
        out = self._tensor_shape(output)[3]
        self._add(
            Conv(
                in_channels=shape[0],
                out_channels=out,
                kernel=kernel[0],
                stride=options.strideH,
                groups=shape[0] if depthwise else shape[0] // last,
                bias=True,
                activation=self._fused(options, output),
                padded=padded,
            ),
            [self._at[before]],
            output,
        )

    def _dense(self, options: Any, inputs: list[int], outputs: list[int]) -> None:
        source, [output] = inputs[0], outputs
        node = self._node(source)
        if len(self._builder.shape(node)) == 3:
            self._count += 1
            try:
                node = self._builder.add(f"op{self._count}", Flatten(), node)
            except ValueError as error:
                what = "a dense layer reads a map with more than one pixel"
                raise self._error(output, what) from error
        [features] = self._builder.shape(node)
        out = self._tensor_shape(inputs[1])[0]
        activation = self._fused(options, output)
        self._add(
            Dense(in_features=features, out_features=out, activation=activation), [node], output
        )

    def _pad(self, options: Any, inputs: list[int], outputs: list[int]) -> None:
        amounts = self._constant(inputs[1])
        if amounts is None or amounts.reshape(-1, 2)[[0, -1]].any():
            raise self._error(outputs[0], "pads the batch or the channels")
        before = self._tensor_shape(inputs[0])[1:3]
        after = self._tensor_shape(outputs[0])[1:3]
        if after[0] - before[0] != after[1] - before[1]:
            raise self._error(outputs[0], "pads height and width unequally")
        if after == before:
            self._alias(inputs[0], outputs[0])
            return
        self._node(inputs[0])
        self._pads[outputs[0]] = inputs[0]

    def _elementwise(self, options: Any, inputs: list[int], outputs: list[int]) -> None:
        """A sum, a difference, a product or a quotient: of two maps, or of one and constants."""
        [output] = outputs
        activation = self._fused(options, output)
        maps = [at for at in inputs if not self._is_constant(at)]
        nodes = [self._node(at) for at in maps]
        shapes = [self._builder.shape(node) for node in nodes]
        if len(nodes) == 1:
            self._affine(nodes[0], activation, output)
            return
        if shapes[0] == shapes[1]:
            self._add(Add(activation=activation), nodes, output)
            return
        nodes.sort(key=lambda node: -int(np.prod(self._builder.shape(node))))
        self._add(Multiply(), nodes, output)

    def _affine(self, node: int, activation: ActivationKind, output: int) -> None:
        """A scale after a shift, or the other way, is one op."""
        channels = self._builder.shape(node)[0]
        if node in self._affines and activation == "none":
            self._at[output] = node
            return
        self._add(Affine(channels=channels, activation=activation), [node], output)
        if activation == "none":
            self._affines.add(self._at[output])

    def _pool(self, options: Any, inputs: list[int], outputs: list[int], kind: type) -> None:
        source, [output] = inputs[0], outputs
        before = self._pads.get(source, source)
        height, width = self._tensor_shape(source)[1:3]
        kernel = options.filterHeight
        whole = (kernel, options.filterWidth) == (height, width)
        square = kernel == options.filterWidth and options.strideH == options.strideW
        if not square and not whole:
            raise self._error(output, "a window that is not square is no op of a graph")
        if kind is AvgPool and whole:
            self._add(GlobalPool(), [self._node(source)], output)
            return
        node = self._node(before)
        pool = kind(kernel=kernel, stride=options.strideH)
        made = self._tensor_shape(output)[1]
        if (self._tensor_shape(before)[1] - kernel) // options.strideH + 1 != made:
            self._count += 1
            node = self._builder.add(f"op{self._count}", Pad(amount=kernel // 2), node)
        self._add(pool, [node], output)

    def _average(self, options: Any, inputs: list[int], outputs: list[int]) -> None:
        self._pool(options, inputs, outputs, AvgPool)

    def _maximum(self, options: Any, inputs: list[int], outputs: list[int]) -> None:
        self._pool(options, inputs, outputs, MaxPool)

    def _mean(self, options: Any, inputs: list[int], outputs: list[int]) -> None:
        made = self._tensor_shape(outputs[0])
        if int(np.prod(made[1:])) != self._builder.shape(self._node(inputs[0]))[0]:
            raise self._error(outputs[0], "a mean over other than height and width")
        self._add(GlobalPool(), [self._node(inputs[0])], outputs[0])

    def _concat(self, options: Any, inputs: list[int], outputs: list[int]) -> None:
        nodes = [self._node(at) for at in inputs]
        self._add(Concat(), nodes, outputs[0])

    def _slice(self, options: Any, inputs: list[int], outputs: list[int]) -> None:
        """Slices of channels; several outputs are a split."""
        source = next(at for at in inputs if not self._is_constant(at))
        node = self._node(source)
        start = 0
        for output in outputs:
            sizes = self._tensor_shape(output)
            if sizes[1:3] != self._tensor_shape(source)[1:3]:
                raise self._error(output, "a slice of other than channels is no op of a graph")
            self._add(Narrow(channels=sizes[3], start=start), [node], output)
            start += sizes[3] if len(outputs) > 1 else 0


_READERS: dict[str, Callable[[_Reader, Any, list[int], list[int]], None]] = {
    "CONV_2D": _Reader._conv,
    "DEPTHWISE_CONV_2D": _Reader._depthwise,
    "FULLY_CONNECTED": _Reader._dense,
    "PAD": _Reader._pad,
    "ADD": _Reader._elementwise,
    "SUB": _Reader._elementwise,
    "MUL": _Reader._elementwise,
    "DIV": _Reader._elementwise,
    "AVERAGE_POOL_2D": _Reader._average,
    "MAX_POOL_2D": _Reader._maximum,
    "MEAN": _Reader._mean,
    "CONCATENATION": _Reader._concat,
    "SLICE": _Reader._slice,
    "STRIDED_SLICE": _Reader._slice,
    "SPLIT": _Reader._slice,
}
