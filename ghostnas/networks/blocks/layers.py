"""What several blocks are made of: rounded widths, convolutions with batch norm, attention."""

from __future__ import annotations

from dataclasses import replace
from math import log2

from ghostnas.ir.graph import (
    Activation,
    AvgPool,
    BatchNorm,
    Builder,
    ChannelConv,
    Conv,
    GlobalPool,
    Multiply,
    Upsample,
)


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


def efficient_attention(graph: Builder, x: int, name: str, kernel: int) -> int:
    """Efficient channel attention (ECA-Net, Wang et al., CVPR 2020): a convolution along the
    channels of the pooled map, and a sigmoid gate.
    """
    y = graph.add(f"{name}.pool", GlobalPool(), x)
    y = graph.add(f"{name}.conv", ChannelConv(kernel=kernel), y)
    gate = graph.add(f"{name}.gate", Activation(kind="sigmoid"), y)
    return graph.add(f"{name}.scale", Multiply(), x, gate)


def efficient_attention_kernel(channels: int) -> int:
    """The kernel for so many channels (ECA-Net, equation 12, gamma = 2 and b = 1): odd."""
    size = int(abs(log2(channels) / 2 + 0.5))
    return size if size % 2 else size + 1


def decoupled_attention(graph: Builder, x: int, y: int, name: str) -> int:
    """`y` gated by decoupled fully connected attention on `x` (GhostNetV2, Tang et al., 2022, in
    its released form): at half the size a 1x1 convolution, then one along each row and one along
    each column, of 5 pixels. Both have the same size; a map of one pixel is not halved.
    """
    out_channels, *size = graph.shape(y)
    small = min(size) < 2
    pooled = x if small else graph.add(f"{name}.pool", AvgPool(kernel=2, stride=2), x)
    strip = Conv(in_channels=out_channels, out_channels=out_channels, groups=out_channels)
    gate = pooled
    for at, conv in (
        (0, Conv(in_channels=graph.shape(x)[0], out_channels=out_channels)),
        (2, replace(strip, kernel_width=5)),
        (4, replace(strip, kernel=5, kernel_width=1)),
    ):
        gate = graph.add(f"{name}.short_conv.{at}", conv, gate)
        norm = BatchNorm(channels=out_channels)
        gate = graph.add(f"{name}.short_conv.{at + 1}", norm, gate)
    gate = graph.add(f"{name}.gate", Activation(kind="sigmoid"), gate)
    if not small:
        height, width = size
        gate = graph.add(f"{name}.upsample", Upsample(height=height, width=width), gate)
    return graph.add(f"{name}.attended", Multiply(), y, gate)


def shortcut(graph: Builder, x: int, name: str, out_channels: int, kernel: int, stride: int) -> int:
    """Where a Ghost bottleneck changes the shape: a depthwise convolution and a 1x1 convolution."""
    in_channels = graph.shape(x)[0]
    pointwise = Conv(in_channels=in_channels, out_channels=out_channels)
    y = graph.add(f"{name}.0", depthwise(in_channels, kernel, stride), x)
    y = graph.add(f"{name}.1", BatchNorm(channels=in_channels), y)
    y = graph.add(f"{name}.2", pointwise, y)
    return graph.add(f"{name}.3", BatchNorm(channels=out_channels), y)


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
