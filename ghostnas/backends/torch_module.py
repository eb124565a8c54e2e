"""A graph as a PyTorch module whose state_dict keys are the node names. Does no training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, assert_never

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ghostnas.arrays import Array
from ghostnas.backends.torch_convolutions import DepthwiseConv2d, PointwiseConv2d
from ghostnas.errors import InputError
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
    Op,
    Pad,
    Upsample,
    Weights,
)

Watch: TypeAlias = Callable[[int, Tensor], None]


class Net(nn.Module):
    """Runs the nodes of a graph in order: (batch, 3, height, width) to (batch, classes).

    A fully convolutional graph takes images of other sizes too, as usual in PyTorch.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self._modules_of_nodes: list[nn.Module | None] = []
        for node in graph.nodes:
            module = _module(node.op)
            if module is not None:
                _attach(self, node.name, module)
            self._modules_of_nodes.append(module)
        last_reader = {
            source: index for index, node in enumerate(graph.nodes) for source in node.inputs
        }
        self._done_with = [
            tuple(source for source, last in last_reader.items() if last == index)
            for index in range(len(graph.nodes))
        ]

    def forward(self, images: Tensor) -> Tensor:
        return self.run(images, _look_at_nothing)

    def run(self, images: Tensor, watch: Watch) -> Tensor:
        """As `forward`; `watch` is called with the index and the output of each node but the
        input, as soon as it is computed.
        """
        values: list[Tensor | None] = [images]
        steps = zip(self.graph.nodes, self._modules_of_nodes, self._done_with, strict=True)
        for node, module, done_with in list(steps)[1:]:
            inputs = [_alive(values[source]) for source in node.inputs]
            value = _run_op(node.op, module, inputs)
            watch(len(values), value)
            values.append(value)
            for source in done_with:
                values[source] = None
        return _alive(values[-1])


class _ScaleShift(nn.Module):
    """An `Affine`, without its activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class _Concat(torch.autograd.Function):
    """Concatenated maps, whose gradients are made contiguous in memory.

    As slices of one gradient, which is what autograd passes on, each reader would copy them:
    networks of Ghost modules with s = 3 train a tenth slower that way.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.channels = [each.shape[1] for each in inputs]
        return torch.cat(inputs, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        parts = gradients[0].split(ctx.channels, 1)
        return tuple(part.contiguous(memory_format=torch.channels_last) for part in parts)


def net_of(graph: Graph, weights: Weights) -> Net:
    """A network with these weights, in evaluation mode.

    Raises:
        InputError: a key is missing, unknown, or of another shape.
    """
    net = Net(graph)
    load_weights(net, weights)
    return net.eval()


def load_weights(net: Net, weights: Weights) -> None:
    """Copy weights in; every key of the network must be there and no other.

    Batch norm's ``num_batches_tracked``, which counts training steps, may be missing.

    Raises:
        InputError: a key is missing, unknown, or of another shape.
    """
    own = net.state_dict()
    needed = {key for key in own if not key.endswith("num_batches_tracked")}
    if missing := sorted(needed - set(weights)):
        raise InputError(f"weights: {len(missing)} missing, the first is {missing[0]}")
    if unknown := sorted(set(weights) - set(own)):
        raise InputError(f"weights: {len(unknown)} unknown, the first is {unknown[0]}")
    for key, array in weights.items():
        if tuple(array.shape) != tuple(own[key].shape):
            raise InputError(
                f"weights: {key} has shape {tuple(array.shape)}, needs {tuple(own[key].shape)}"
            )
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in weights.items()}
    net.load_state_dict({**own, **tensors}, strict=True)


def weights_of(net: Net) -> dict[str, Array]:
    """The network's weights as float32 arrays, without the step counters of training."""
    return {
        key: tensor.detach().float().cpu().contiguous().numpy().copy()
        for key, tensor in net.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def _attach(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` at a dotted path, with empty modules on the way."""
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        root = getattr(root, parent)
    root.add_module(name, module)


def _module(op: Op) -> nn.Module | None:
    """The module that holds the op's weights, if it has any."""
    match op:
        case Conv():
            return _convolution(op)(
                op.in_channels,
                op.out_channels,
                op.kernel_size,
                op.stride,
                op.padding,
                groups=op.groups,
                bias=op.bias,
            )
        case Dense():
            return nn.Linear(op.in_features, op.out_features)
        case BatchNorm():
            return nn.BatchNorm2d(op.channels, eps=BATCH_NORM_EPS)
        case Affine():
            return _ScaleShift(op.channels)
        case ChannelConv():
            return nn.Conv1d(1, 1, op.kernel, padding=op.kernel // 2, bias=False)
        case Input() | Activation() | Add() | Multiply() | Upsample() | Concat() | Narrow():
            return None
        case Pad() | MaxPool() | AvgPool() | GlobalPool() | Flatten():
            return None
        case _:
            assert_never(op)


def _convolution(op: Conv) -> type[nn.Conv2d]:
    if op.depthwise:
        return DepthwiseConv2d
    pointwise = op.kernel_size == (1, 1) and op.groups == op.stride == 1
    return PointwiseConv2d if pointwise else nn.Conv2d


def _run_op(op: Op, module: nn.Module | None, inputs: list[Tensor]) -> Tensor:
    x = inputs[0]
    match op:
        case Conv() | Dense() | Affine():
            assert module is not None
            return _activate(module(x), op.activation)
        case BatchNorm():
            assert module is not None
            y: Tensor = module(x)
            return y
        case Activation():
            return _activate(x, op.kind)
        case Pad():
            return F.pad(x, [op.amount] * 4)
        case MaxPool():
            return F.max_pool2d(x, op.kernel, op.stride)
        case AvgPool():
            return F.avg_pool2d(x, op.kernel, op.stride)
        case Add():
            return _activate(x + inputs[1], op.activation)
        case Multiply():
            return x * inputs[1]
        case Upsample():
            return F.interpolate(x, size=(op.height, op.width), mode="nearest")
        case ChannelConv():
            assert module is not None
            mixed: Tensor = module(x.flatten(1)[:, None])
            return mixed[:, 0, :, None, None]
        case Concat():
            if not (x.requires_grad and x.device.type == "cpu"):
                return torch.cat(inputs, 1)
            joined: Tensor = _Concat.apply(*inputs)  # type: ignore[no-untyped-call]
            return joined
        case Narrow():
            return x[:, op.start : op.start + op.channels]
        case GlobalPool():
            return x.mean((2, 3), keepdim=True)
        case Flatten():
            return x.flatten(1)
        case Input():
            return x
        case _:
            assert_never(op)


def _activate(x: Tensor, kind: ActivationKind) -> Tensor:
    match kind:
        case "none":
            return x
        case "relu":
            return F.relu(x)
        case "relu6":
            return F.relu6(x)
        case "hard_swish":
            return F.hardswish(x)
        case "hard_sigmoid":
            return F.hardsigmoid(x)
        case "sigmoid":
            return torch.sigmoid(x)
        case _:
            assert_never(kind)


def _look_at_nothing(index: int, value: Tensor) -> None:
    pass


def _alive(value: Tensor | None) -> Tensor:
    assert value is not None
    return value
