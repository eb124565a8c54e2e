"""What several blocks are made of: rounded widths, convolutions with batch norm, attention."""

from __future__ import annotations

from ghostnas.ir.graph import Activation, BatchNorm, Builder, Conv, GlobalPool, Multiply


def make_divisible(value: float, divisor: int = 4) -> int:
    """`value` rounded to a multiple of `divisor`, never down by more than 10 %.

    The rule in MobileNetV2's released code, which GhostNet uses with divisor 4.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def squeeze_excite(graph: Builder, x: int, name: str, reduced: int) -> int:
    """Squeeze-and-excitation (Hu et al., 2018) with MobileNetV3's hard-sigmoid gate."""
    channels = graph.shape(x)[0]
    squeeze = Conv(in_channels=channels, out_channels=reduced, bias=True)
    excite = Conv(in_channels=reduced, out_channels=channels, bias=True)
    y = graph.add(f"{name}.pool", GlobalPool(), x)
    y = graph.add(f"{name}.conv_reduce", squeeze, y)
    y = graph.add(f"{name}.act1", Activation(kind="relu"), y)
    y = graph.add(f"{name}.conv_expand", excite, y)
    gate = graph.add(f"{name}.gate", Activation(kind="hard_sigmoid"), y)
    return graph.add(f"{name}.scale", Multiply(), x, gate)


def conv_norm(graph: Builder, x: int, name: str, conv: Conv, *, relu: bool) -> int:
    """A convolution, its batch norm and, with `relu`, a ReLU: ``name.0`` to ``name.2``."""
    y = graph.add(f"{name}.0", conv, x)
    y = graph.add(f"{name}.1", BatchNorm(channels=conv.out_channels), y)
    return graph.add(f"{name}.2", Activation(kind="relu"), y) if relu else y


def depthwise(channels: int, kernel: int, stride: int) -> Conv:
    """A depthwise convolution, one map each."""
    return Conv(
        in_channels=channels, out_channels=channels, kernel=kernel, stride=stride, groups=channels
    )
