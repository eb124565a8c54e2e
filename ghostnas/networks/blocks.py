"""Block types as ops: each is a few numbers and a `build` that appends its ops to a graph.

Node names follow the PyTorch modules of the published networks, so that their weights fit. For
small images a block of stride 2 keeps its ops and weights but runs with stride 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TypeAlias

from ghostnas.ir.graph import (
    Activation,
    Add,
    BatchNorm,
    Builder,
    Concat,
    Conv,
    GlobalPool,
    Multiply,
    Narrow,
    Nonlinearity,
)


def make_divisible(value: float, divisor: int = 4) -> int:
    """`value` rounded to a multiple of `divisor`, never down by more than 10 %.

    The rule in MobileNetV2's released code, which GhostNet uses with divisor 4.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class GhostBlock:
    """A Ghost bottleneck (GhostNet, figure 3): two Ghost modules, the second without activation.

    Attributes:
        hidden_channels: width between the two Ghost modules ("#exp" in table 1).
        out_channels: width of the output ("#out").
        kernel: k of the depthwise convolution at stride 2 and of the shortcut's.
        stride: 1 or 2.
        se_ratio: squeeze-and-excitation width as a share of `hidden_channels`; 0 for none.
        ghost_ratio: s, total maps per convolved map (section 3.1).
        cheap_kernel: d, kernel of the cheap linear operation.
    """

    hidden_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    se_ratio: float = 0.0
    ghost_ratio: int = 2
    cheap_kernel: int = 3

    def build(self, graph: Builder, x: int, name: str, stride: int | None = None) -> int:
        """Append the block's ops after node `x`, named under `name`; return the output's index.

        It runs with its own stride unless another is given.
        """
        stride = self.stride if stride is None else stride
        in_channels = graph.shape(x)[0]
        hidden = self.hidden_channels
        y = ghost_module(graph, x, f"{name}.ghost1", hidden, self, relu=True)
        if self.stride > 1:
            y = graph.add(f"{name}.conv_dw", _depthwise(hidden, self.kernel, stride), y)
            y = graph.add(f"{name}.bn_dw", BatchNorm(channels=hidden), y)
        if self.se_ratio:
            reduced = make_divisible(hidden * self.se_ratio)
            y = squeeze_excite(graph, y, f"{name}.se", reduced)
        y = ghost_module(graph, y, f"{name}.ghost2", self.out_channels, self, relu=False)
        shortcut = x
        if not self.keeps_shape(in_channels):
            depthwise = _depthwise(in_channels, self.kernel, stride)
            pointwise = Conv(in_channels=in_channels, out_channels=self.out_channels)
            shortcut = graph.add(f"{name}.shortcut.0", depthwise, shortcut)
            shortcut = graph.add(f"{name}.shortcut.1", BatchNorm(channels=in_channels), shortcut)
            shortcut = graph.add(f"{name}.shortcut.2", pointwise, shortcut)
            norm = BatchNorm(channels=self.out_channels)
            shortcut = graph.add(f"{name}.shortcut.3", norm, shortcut)
        return graph.add(f"{name}.add", Add(), y, shortcut)

    def keeps_shape(self, in_channels: int) -> bool:
        """Whether the shortcut is the identity; then `kernel` changes nothing."""
        return self.stride == 1 and in_channels == self.out_channels


@dataclass(frozen=True, slots=True, kw_only=True)
class MBConv:
    """An inverted residual (MobileNetV2), with SE and activation as in MobileNetV3.

    Attributes:
        hidden_channels: width of the depthwise convolution; no expansion if equal to the input's.
        out_channels, kernel, stride: as usual.
        se_channels: squeeze-and-excitation width; 0 for none.
        activation: after the expansion and the depthwise convolution.
    """

    hidden_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    se_channels: int = 0
    activation: Nonlinearity = "relu6"

    def build(self, graph: Builder, x: int, name: str, stride: int | None = None) -> int:
        """Append the block's ops after node `x`, named under `name`; return the output's index.

        It runs with its own stride unless another is given.
        """
        stride = self.stride if stride is None else stride
        in_channels = graph.shape(x)[0]
        hidden, act = self.hidden_channels, Activation(kind=self.activation)
        y = x
        if hidden != in_channels:
            expand = Conv(in_channels=in_channels, out_channels=hidden)
            y = graph.add(f"{name}.conv_pw", expand, y)
            y = graph.add(f"{name}.bn1", BatchNorm(channels=hidden), y)
            y = graph.add(f"{name}.act1", act, y)
        y = graph.add(f"{name}.conv_dw", _depthwise(hidden, self.kernel, stride), y)
        y = graph.add(f"{name}.bn2", BatchNorm(channels=hidden), y)
        y = graph.add(f"{name}.act2", act, y)
        if self.se_channels:
            y = squeeze_excite(graph, y, f"{name}.se", self.se_channels)
        project = Conv(in_channels=hidden, out_channels=self.out_channels)
        y = graph.add(f"{name}.conv_pwl", project, y)
        y = graph.add(f"{name}.bn3", BatchNorm(channels=self.out_channels), y)
        if self.stride == 1 and in_channels == self.out_channels:
            y = graph.add(f"{name}.add", Add(), y, x)
        return y


Block: TypeAlias = GhostBlock | MBConv
BLOCK_TYPES: dict[str, type[Block]] = {"ghost": GhostBlock, "mbconv": MBConv}


def ghost_module(
    graph: Builder, x: int, name: str, out_channels: int, block: GhostBlock, *, relu: bool
) -> int:
    """A Ghost module (section 3.1): a 1x1 convolution plus cheap depthwise maps of its output."""
    primary = ceil(out_channels / block.ghost_ratio)
    cheap = primary * (block.ghost_ratio - 1)
    y = _conv_norm(
        graph,
        x,
        f"{name}.primary_conv",
        Conv(in_channels=graph.shape(x)[0], out_channels=primary),
        relu=relu,
    )
    if not cheap:
        return y
    ghosts = _conv_norm(
        graph,
        y,
        f"{name}.cheap_operation",
        Conv(in_channels=primary, out_channels=cheap, kernel=block.cheap_kernel, groups=primary),
        relu=relu,
    )
    y = graph.add(f"{name}.concat", Concat(), y, ghosts)
    if primary + cheap != out_channels:
        y = graph.add(f"{name}.narrow", Narrow(channels=out_channels), y)
    return y


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


def _conv_norm(graph: Builder, x: int, name: str, conv: Conv, *, relu: bool) -> int:
    y = graph.add(f"{name}.0", conv, x)
    y = graph.add(f"{name}.1", BatchNorm(channels=conv.out_channels), y)
    return graph.add(f"{name}.2", Activation(kind="relu"), y) if relu else y


def _depthwise(channels: int, kernel: int, stride: int) -> Conv:
    return Conv(
        in_channels=channels, out_channels=channels, kernel=kernel, stride=stride, groups=channels
    )
