"""A graph and its weights as a .tflite file: the FlatBuffer is written directly.

Maps are NHWC there, with a batch of one that `resize_tensor_input` may change. Symmetric padding is
SAME where the two agree, else a PAD op and VALID; XNNPACK fuses such a PAD into the convolution.

What a file says about itself are texts by name, and TFLite's own metadata for mobile tools: a
FlatBuffer of metadata_schema.fbs 1.1.0 (github.com/tensorflow/tflite-support), with the class names
as a file ``labels.txt`` in a zip archive at the end of the model.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

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
    Node,
    Pad,
    Shape,
    Upsample,
    Weights,
)
from ghostnas.ir.preprocessing import Preprocessing

INPUT, OUTPUT = "image", "logits"
STANDARD = "TFLITE_METADATA"
LABELS = "labels.txt"
# Constants of metadata_schema.fbs.
RGB, AXIS_LABELS, IMAGE_PROPERTIES, FEATURE_PROPERTIES, NORMALIZATION = 1, 2, 2, 1, 1
SCHEMA_VERSION = 3
_FUSED: dict[ActivationKind, int] = {
    "none": schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}
_TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
    np.dtype(np.int32): schema.TensorType.INT32,
}
_OPERATOR = schema.BuiltinOperator
_VERSIONS = {_OPERATOR.DEQUANTIZE: 3}  # the first that takes float16; all others are 1


def write(graph: Graph, weights: Weights, *, half: bool = False) -> bytes:
    """The model: signature ``serving_default`` from ``image`` (1, height, width, 3) to ``logits``.

    With `half`, kernels and biases are kept as float16, each behind a DEQUANTIZE op, which XNNPACK
    removes when it loads the model; everything is computed in float32.

    Raises:
        KeyError: `weights` lacks an array of `graph`.
    """
    deployed, folded = fold(graph, weights)
    writer = _Writer(folded, half=half)
    for node in deployed.nodes:
        writer.values.append(writer.op(node, [writer.values[source] for source in node.inputs]))
    return writer.model()


def annotate(model: bytes, texts: Mapping[str, str], preprocessing: Preprocessing | None) -> bytes:
    """The model with `texts`, and with TFLite's metadata where `preprocessing` is known."""
    parsed = schema.ModelT.InitFromPackedBuf(model)
    entries = {name: text.encode() for name, text in texts.items()}
    if preprocessing is not None:
        entries[STANDARD] = _standard(preprocessing)
    parsed.metadata = list(parsed.metadata or [])
    for name, content in entries.items():
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = list(content)
        entry.name, entry.buffer = name.encode(), len(parsed.buffers)
        parsed.buffers.append(buffer)
        parsed.metadata.append(entry)
    builder = flatbuffers.Builder(len(model) + 4096)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    written = bytes(builder.Output())
    if preprocessing is None or not preprocessing.classes:
        return written
    return _with_file(written, LABELS, "\n".join(preprocessing.classes) + "\n")


def texts_of(model: bytes) -> dict[str, str]:
    """The texts that `annotate` put in; none for a model made elsewhere."""
    parsed = schema.Model.GetRootAs(model)
    texts = {}
    for index in range(parsed.MetadataLength()):
        entry = parsed.Metadata(index)
        name = entry.Name().decode()
        if name.startswith("ghostnas."):
            texts[name] = parsed.Buffers(entry.Buffer()).DataAsNumpy().tobytes().decode()
    return texts


class Inside(NamedTuple):
    """What a model holds: its ops, bytes of its constants, and of its inputs and outputs."""

    ops: frozenset[str]
    constant_bytes: int
    map_bytes: int


def inspect(model: bytes) -> Inside:
    """What a float32 or int8 model holds."""
    parsed = schema.ModelT.InitFromPackedBuf(model)
    graph = parsed.subgraphs[0]
    names = {code: name for name, code in vars(_OPERATOR).items() if isinstance(code, int)}
    constants = sum(len(buffer.data) for buffer in parsed.buffers if buffer.data is not None)
    bytes_each = {schema.TensorType.INT8: 1, schema.TensorType.FLOAT32: 4}
    maps = sum(
        bytes_each[graph.tensors[at].type] * math.prod(graph.tensors[at].shape)
        for at in (*graph.inputs, *graph.outputs)
    )
    ops = frozenset(names[code.builtinCode] for code in parsed.operatorCodes)
    return Inside(ops, constants, int(maps))


def count_ops(model: bytes) -> dict[str, int]:
    """How many ops of each name a model holds, in order of their first use."""
    parsed = schema.ModelT.InitFromPackedBuf(model)
    names = {code: name for name, code in vars(_OPERATOR).items() if isinstance(code, int)}
    used = [parsed.operatorCodes[op.opcodeIndex] for op in parsed.subgraphs[0].operators]
    return dict(Counter(names[code.builtinCode] for code in used))


def expected_ops(graph: Graph) -> dict[tuple[str, ...], int]:
    """How many ops of some kinds, each a few names, the model of a deployed graph must hold."""
    convolutions = dense = concatenations = means = 0
    for node in graph.nodes:
        match node.op:
            case Conv() | ChannelConv():
                convolutions += 1
            case AvgPool() if _is_apart(node.op):
                convolutions += 1
            case Dense():
                dense += 1
            case Concat():
                concatenations += 1
            case Upsample():
                concatenations += 1 + node.op.height % 2 + node.op.width % 2
            case GlobalPool():
                means += 1
            case _:
                pass
    return {
        ("CONV_2D", "DEPTHWISE_CONV_2D"): convolutions,
        ("FULLY_CONNECTED",): dense,
        ("CONCATENATION",): concatenations,
        ("MEAN",): means,
    }


class _Writer:
    """Gathers tensors and operators. `values` holds the tensor of each graph node's output."""

    def __init__(self, weights: Weights, *, half: bool) -> None:
        self.values: list[int] = []
        self._weights = weights
        self._half = half
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[int, int] = {}
        empty = schema.BufferT()
        self._buffers = [empty]  # the format reserves buffer 0 for tensors without data
        self._inputs: list[int] = []

    def op(self, node: Node, inputs: list[int]) -> int:
        """Append the node in TFLite form; return its output tensor."""
        op, shape = node.op, _nhwc(node.shape)
        emit = partial(self._operator, name=node.name, shape=shape)
        match op:
            case Input():
                self._inputs.append(self._tensor(node.name, shape))
                return self._inputs[-1]
            case Conv():
                return self._conv(node, op, inputs[0])
            case Dense():
                options = schema.FullyConnectedOptionsT()
                options.fusedActivationFunction = _FUSED[op.activation]
                operands = [*inputs, *self._learned(node.name)]
                return emit(_OPERATOR.FULLY_CONNECTED, operands, options)
            case Add():
                return self._add(node.name, inputs, shape, op.activation)
            case Affine():
                scale, shift = (
                    self._constant(f"{node.name}.{key}", self._weights[f"{node.name}.{key}"])
                    for key in ("weight", "bias")
                )
                scaled = self._multiply(f"{node.name}.scaled", [*inputs, scale], shape)
                return self._add(node.name, [scaled, shift], shape, op.activation)
            case Pad():
                return self._pad(node.name, inputs[0], (op.amount, op.amount))
            case AvgPool() if _is_apart(op):
                return self._mean_of_windows(node, op, inputs[0])
            case MaxPool() | AvgPool():
                options = schema.Pool2DOptionsT()
                options.padding = schema.Padding.VALID
                options.strideH = options.strideW = op.stride
                options.filterHeight = options.filterWidth = op.kernel
                kind = "MAX_POOL_2D" if isinstance(op, MaxPool) else "AVERAGE_POOL_2D"
                return emit(getattr(_OPERATOR, kind), inputs, options)
            case Multiply():
                return self._multiply(node.name, inputs, shape)
            case Upsample():
                return self._upsample(node.name, inputs[0], shape)
            case ChannelConv():
                return self._channel_conv(node.name, op, inputs[0], shape)
            case Concat():
                options = schema.ConcatenationOptionsT()
                options.axis = 3
                return emit(_OPERATOR.CONCATENATION, inputs, options)
            case Narrow():
                end = (0, *shape[1:3], op.start + op.channels)
                return self._slice(node.name, inputs[0], (0, 0, 0, op.start), end, shape)
            case GlobalPool():
                axes = self._constant(f"{node.name}.axes", np.array([1, 2], np.int32))
                options = schema.ReducerOptionsT()
                options.keepDims = True
                return emit(_OPERATOR.MEAN, [*inputs, axes], options)
            case Flatten():
                options = schema.ReshapeOptionsT()
                options.newShape = _any_batch(shape)
                target = self._constant(f"{node.name}.shape", _any_batch(shape))
                return emit(_OPERATOR.RESHAPE, [*inputs, target], options)
            case Activation():
                return self._activation(node.name, inputs[0], shape, op.kind)
            case _:
                raise ValueError(f"{node.name}: {op} is not an op of a deployed graph")

    def model(self) -> bytes:
        subgraph = schema.SubGraphT()
        subgraph.name = b"main"
        subgraph.tensors, subgraph.operators = self._tensors, self._operators
        subgraph.inputs = np.array(self._inputs, np.int32)
        subgraph.outputs = np.array(self.values[-1:], np.int32)
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
        signature.inputs = [
            _tensor_map(INPUT if index == 0 else f"{INPUT}{index}", tensor)
            for index, tensor in enumerate(self._inputs)
        ]
        signature.outputs = [_tensor_map(OUTPUT, self.values[-1])]
        model = schema.ModelT()
        model.version = SCHEMA_VERSION
        model.description = b"ghostnas"
        model.operatorCodes = [_operator_code(code) for code in self._codes]
        model.subgraphs, model.buffers = [subgraph], self._buffers
        model.signatureDefs = [signature]
        size = sum(len(buffer.data) for buffer in self._buffers if buffer.data is not None)
        builder = flatbuffers.Builder(size + 4096 + 512 * len(self._tensors))
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _conv(self, node: Node, op: Conv, x: int) -> int:
        height, width = (int(size) for size in self._tensors[x].shape[1:3])
        sides = zip((height, width), op.kernel_size, op.padding, strict=True)
        same = all(_same_is_symmetric(size, kernel, op.stride, pad) for size, kernel, pad in sides)
        if any(op.padding) and not same:
            x = self._pad(node.name, x, op.padding)
        kernel, bias = (self._weights[f"{node.name}.{key}"] for key in ("weight", "bias"))
        options: Any
        if op.depthwise:
            code, options = _OPERATOR.DEPTHWISE_CONV_2D, schema.DepthwiseConv2DOptionsT()
            options.depthMultiplier = op.out_channels // op.in_channels
            kernel = kernel.transpose(1, 2, 3, 0)  # 1HWC
        else:
            code, options = _OPERATOR.CONV_2D, schema.Conv2DOptionsT()
            kernel = kernel.transpose(0, 2, 3, 1)  # OHWI
        options.strideH = options.strideW = op.stride
        options.dilationHFactor = options.dilationWFactor = 1
        options.padding = schema.Padding.SAME if same else schema.Padding.VALID
        options.fusedActivationFunction = _FUSED[op.activation]
        operands = [
            x,
            self._weight(f"{node.name}.weight", kernel),
            self._weight(f"{node.name}.bias", bias),
        ]
        return self._operator(code, operands, options, name=node.name, shape=_nhwc(node.shape))

    def _pad(self, name: str, x: int, padding: tuple[int, int]) -> int:
        batch, height, width, channels = (int(size) for size in self._tensors[x].shape)
        rows, columns = padding
        amounts = np.array([[0, 0], [rows, rows], [columns, columns], [0, 0]], np.int32)
        shape = (batch, height + 2 * rows, width + 2 * columns, channels)
        operands = [x, self._constant(f"{name}.padding", amounts)]
        options = schema.PadOptionsT()
        return self._operator(_OPERATOR.PAD, operands, options, name=f"{name}.pad", shape=shape)

    def _mean_of_windows(self, node: Node, op: AvgPool, x: int) -> int:
        """As a depthwise convolution: XNNPACK takes no AVERAGE_POOL_2D in int8."""
        channels, taps = node.shape[0], op.kernel * op.kernel
        options = schema.DepthwiseConv2DOptionsT()
        options.depthMultiplier = 1
        options.strideH = options.strideW = op.stride
        options.dilationHFactor = options.dilationWFactor = 1
        options.padding = schema.Padding.VALID
        shares = np.full((1, op.kernel, op.kernel, channels), 1 / taps, np.float32)
        operands = [
            x,
            self._weight(f"{node.name}.weight", shares),
            self._constant(f"{node.name}.bias", np.zeros(channels, np.float32)),
        ]
        code, shape = _OPERATOR.DEPTHWISE_CONV_2D, _nhwc(node.shape)
        return self._operator(code, operands, options, name=node.name, shape=shape)

    def _upsample(self, name: str, x: int, shape: Shape) -> int:
        """Four copies of each pixel, and where the size is odd the first row or column once more.

        XNNPACK does not take TFLite's own op for it, RESIZE_NEAREST_NEIGHBOR.
        """
        batch, rows, columns, channels = (int(size) for size in self._tensors[x].shape)
        four = (batch, rows, columns, 4 * channels)
        x = self._concat(f"{name}.copies", [x] * 4, four, axis=3)
        options = schema.DepthToSpaceOptionsT()
        options.blockSize = 2
        size = [batch, 2 * rows, 2 * columns, channels]
        even = tuple(size) == shape
        doubled = name if even else f"{name}.doubled"
        x = self._operator(_OPERATOR.DEPTH_TO_SPACE, [x], options, name=doubled, shape=tuple(size))
        for axis in (1, 2):
            if size[axis] == shape[axis]:
                continue
            edge = [*size]
            edge[axis] = 1
            first = self._slice(f"{name}.edge{axis}", x, (0, 0, 0, 0), (0, *edge[1:]), tuple(edge))
            size[axis] += 1
            longer = name if tuple(size) == shape else f"{name}.longer{axis}"
            x = self._concat(longer, [first, x], tuple(size), axis=axis)
        return x

    def _concat(self, name: str, inputs: list[int], shape: Shape, *, axis: int) -> int:
        options = schema.ConcatenationOptionsT()
        options.axis = axis
        return self._operator(_OPERATOR.CONCATENATION, inputs, options, name=name, shape=shape)

    def _slice(self, name: str, x: int, begin: Shape, end: Shape, shape: Shape) -> int:
        """From `begin` to `end`, all of the first axis.

        No SLICE: XNNPACK takes one only with a size that fixes the batch.
        """
        options = schema.StridedSliceOptionsT()
        options.beginMask = options.endMask = 1
        operands = [
            self._constant(f"{name}.{key}", np.array(value, np.int32))
            for key, value in (("begin", begin), ("end", end), ("step", (1, 1, 1, 1)))
        ]
        return self._operator(
            _OPERATOR.STRIDED_SLICE, [x, *operands], options, name=name, shape=shape
        )

    def _channel_conv(self, name: str, op: ChannelConv, x: int, shape: Shape) -> int:
        """As a map of one row and one channel."""
        batch, channels = shape[0], shape[3]
        row = (batch, 1, channels, 1)
        x = self._reshape(f"{name}.row", x, row)
        kernel = self._weights[f"{name}.weight"].reshape(1, 1, op.kernel, 1)
        options = schema.Conv2DOptionsT()
        options.strideH = options.strideW = 1
        options.dilationHFactor = options.dilationWFactor = 1
        options.padding = schema.Padding.SAME
        operands = [
            x,
            self._weight(f"{name}.weight", kernel),
            self._constant(f"{name}.bias", np.zeros(1, np.float32)),
        ]
        x = self._operator(_OPERATOR.CONV_2D, operands, options, name=f"{name}.mixed", shape=row)
        return self._reshape(name, x, shape)

    def _reshape(self, name: str, x: int, shape: Shape) -> int:
        operands = [x, self._constant(f"{name}.shape", _any_batch(shape))]
        options = schema.ReshapeOptionsT()
        return self._operator(_OPERATOR.RESHAPE, operands, options, name=name, shape=shape)

    def _multiply(self, name: str, inputs: list[int], shape: Shape) -> int:
        options = schema.MulOptionsT()
        return self._operator(_OPERATOR.MUL, inputs, options, name=name, shape=shape)

    def _add(self, name: str, inputs: list[int], shape: Shape, activation: ActivationKind) -> int:
        options = schema.AddOptionsT()
        options.fusedActivationFunction = _FUSED[activation]
        return self._operator(_OPERATOR.ADD, inputs, options, name=name, shape=shape)

    def _activation(self, name: str, x: int, shape: Shape, kind: ActivationKind) -> int:
        emit = partial(self._operator, name=name, shape=shape)
        match kind:
            case "relu":
                return emit(_OPERATOR.RELU, [x], None)
            case "relu6":
                return emit(_OPERATOR.RELU6, [x], None)
            case "hard_swish":
                return emit(_OPERATOR.HARD_SWISH, [x], schema.HardSwishOptionsT())
            case "hard_sigmoid":  # not an op of TFLite: min(max(x + 3, 0), 6) / 6
                three = self._constant(f"{name}.three", np.array([3], np.float32))
                sixth = self._constant(f"{name}.sixth", np.array([1 / 6], np.float32))
                shifted = self._add(f"{name}.shifted", [x, three], shape, "relu6")
                return self._multiply(name, [shifted, sixth], shape)
            case "sigmoid":
                return emit(_OPERATOR.LOGISTIC, [x], None)
            case _:
                raise ValueError(f"{name}: {kind} is not an activation of TFLite")

    def _operator(
        self, code: int, inputs: list[int], options: Any, *, name: str, shape: Shape
    ) -> int:
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes.setdefault(code, len(self._codes))
        output = self._tensor(name, shape)
        operator.inputs = np.array(inputs, np.int32)
        operator.outputs = np.array([output], np.int32)
        if options is not None:
            union = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, union)
            operator.builtinOptions = options
        self._operators.append(operator)
        return output

    def _tensor(self, name: str, shape: Shape, dtype: Any = np.float32, buffer: int = 0) -> int:
        tensor = schema.TensorT()
        tensor.name = name.encode()
        tensor.shape = np.array(shape, np.int32)
        tensor.hasRank = True
        tensor.type = _TYPES[np.dtype(dtype)]
        tensor.buffer = buffer
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _constant(self, name: str, value: Array) -> int:
        buffer = schema.BufferT()
        buffer.data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        self._buffers.append(buffer)
        return self._tensor(name, value.shape, value.dtype, len(self._buffers) - 1)

    def _learned(self, name: str) -> list[int]:
        keys = (f"{name}.weight", f"{name}.bias")
        return [self._weight(key, self._weights[key]) for key in keys]

    def _weight(self, name: str, value: Array) -> int:
        if not self._half:
            return self._constant(name, value)
        kept = self._constant(f"{name}.half", value.astype(np.float16))
        options = schema.DequantizeOptionsT()
        return self._operator(
            _OPERATOR.DEQUANTIZE, [kept], options, name=name, shape=tuple(value.shape)
        )


def _is_apart(op: AvgPool) -> bool:
    """Whether no two of its windows overlap."""
    return op.kernel == op.stride > 1


def _nhwc(shape: Shape) -> Shape:
    return (1, *shape[1:], shape[0])


def _any_batch(shape: Shape) -> Array:
    """The shape as an op's argument that leaves the batch as it is, even if it was resized."""
    return np.array((-1, *shape[1:]), np.int32)


def _same_is_symmetric(size: int, kernel: int, stride: int, padding: int) -> bool:
    """Whether TFLite's SAME pads `size` pixels as PyTorch's padding of half the kernel does."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total == 2 * padding


def _operator_code(code: int) -> Any:
    operator_code = schema.OperatorCodeT()
    operator_code.builtinCode = code
    operator_code.deprecatedBuiltinCode = min(code, 127)
    operator_code.version = _VERSIONS.get(code, 1)
    return operator_code


def _tensor_map(name: str, tensor: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), tensor
    return entry


def _with_file(model: bytes, name: str, text: str) -> bytes:
    content = io.BytesIO(model)
    with zipfile.ZipFile(content, "a") as archive:  # after the model, which is read from its start
        archive.writestr(zipfile.ZipInfo(name), text)  # ZipInfo: no write time
    return content.getvalue()


def _standard(preprocessing: Preprocessing) -> bytes:
    b = flatbuffers.Builder(1024)
    mean, std = (
        _floats(b, [255 * value for value in values])
        for values in (preprocessing.mean, preprocessing.std)
    )
    image = _table(b, {0: ("Int8", RGB)})
    content = _table(b, {0: ("Uint8", IMAGE_PROPERTIES), 1: ("UOffsetTRelative", image)})
    options = _table(b, {0: ("UOffsetTRelative", mean), 1: ("UOffsetTRelative", std)})
    unit = _table(b, {0: ("Uint8", NORMALIZATION), 1: ("UOffsetTRelative", options)})
    source = _tensor(b, INPUT, "An RGB picture.", content, {4: _vector(b, [unit])})
    features = _table(b, {0: ("Uint8", FEATURE_PROPERTIES), 1: ("UOffsetTRelative", _table(b, {}))})
    files = {}
    if preprocessing.classes:
        text, about = b.CreateString(LABELS), b.CreateString("Names of the classes.")
        labels = {0: ("UOffsetTRelative", text), 1: ("UOffsetTRelative", about)}
        files[6] = _vector(b, [_table(b, labels | {2: ("Int8", AXIS_LABELS)})])
    target = _tensor(b, OUTPUT, "A number for each class, the largest wins.", features, files)
    inputs, outputs = _vector(b, [source]), _vector(b, [target])
    subgraph = _table(b, {2: ("UOffsetTRelative", inputs), 3: ("UOffsetTRelative", outputs)})
    name, version = b.CreateString("ghostnas"), b.CreateString("1.0.0")
    subgraphs = _vector(b, [subgraph])
    root = {
        0: ("UOffsetTRelative", name),
        3: ("UOffsetTRelative", subgraphs),
        7: ("UOffsetTRelative", version),
    }
    b.Finish(_table(b, root), b"M001")
    return bytes(b.Output())


def _tensor(b: Any, name: str, description: str, content: int, more: Mapping[int, int]) -> int:
    fields = {0: b.CreateString(name), 1: b.CreateString(description), 3: content, **more}
    return _table(b, {slot: ("UOffsetTRelative", at) for slot, at in fields.items()})


def _table(b: Any, fields: Mapping[int, tuple[str, int]]) -> int:
    """A table of values by field number, each with its FlatBuffers type."""
    b.StartObject(8)
    for slot, (kind, value) in fields.items():
        getattr(b, f"Prepend{kind}Slot")(slot, value, 0)
    return int(b.EndObject())


def _vector(b: Any, offsets: list[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())


def _floats(b: Any, values: list[float]) -> int:
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        b.PrependFloat32(value)
    return int(b.EndVector())
