"""The inverted residual of MobileNetV2 and MobileNetV3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, get_args

from ghostnas.ir.graph import Activation, Add, BatchNorm, Builder, Conv, Nonlinearity
from ghostnas.networks.blocks.block import LATER, Block, Limits, Place
from ghostnas.networks.blocks.layers import (
    depthwise,
    efficient_attention,
    make_divisible,
    squeeze_excite,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MBConv(Block):
    """An inverted residual (MobileNetV2), with SE and activation as in MobileNetV3.

    Attributes:
        hidden_channels: width of the depthwise convolution; no expansion if equal to the input's.
        out_channels, kernel, stride: as usual.
        se_channels: squeeze-and-excitation width; 0 for none.
        activation: after the expansion and the depthwise convolution.
        eca_kernel: kernel of efficient channel attention in the place of SE; 0 for none.
    """

    type_name: ClassVar[str] = "mbconv"
    title: ClassVar[str] = "MBConv"
    keys: ClassVar[tuple[str, ...]] = (*("expansion", "attention", "se", "kernel", "activation"),)
    defaults: ClassVar[Mapping[str, Any]] = {"attention": "se", "activation": "relu6"}
    limits: ClassVar[Mapping[str, Limits]] = {"activation": get_args(Nonlinearity)}

    hidden_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    se_channels: int = 0
    activation: Nonlinearity = "relu6"
    eca_kernel: int = field(default=0, metadata=LATER)

    def build(self, graph: Builder, x: int, name: str, stride: int | None = None) -> int:
        """As `Block.build`; nodes are named as in timm."""
        stride = self.stride if stride is None else stride
        in_channels = graph.shape(x)[0]
        hidden, act = self.hidden_channels, Activation(kind=self.activation)
        y = x
        if hidden != in_channels:
            expand = Conv(in_channels=in_channels, out_channels=hidden)
            y = graph.add(f"{name}.conv_pw", expand, y)
            y = graph.add(f"{name}.bn1", BatchNorm(channels=hidden), y)
            y = graph.add(f"{name}.act1", act, y)
        y = graph.add(f"{name}.conv_dw", depthwise(hidden, self.kernel, stride), y)
        y = graph.add(f"{name}.bn2", BatchNorm(channels=hidden), y)
        y = graph.add(f"{name}.act2", act, y)
        if self.se_channels:
            y = squeeze_excite(graph, y, f"{name}.se", self.se_channels)
        if self.eca_kernel:
            y = efficient_attention(graph, y, f"{name}.eca", self.eca_kernel)
        project = Conv(in_channels=hidden, out_channels=self.out_channels)
        y = graph.add(f"{name}.conv_pwl", project, y)
        y = graph.add(f"{name}.bn3", BatchNorm(channels=self.out_channels), y)
        if self.stride == 1 and in_channels == self.out_channels:
            y = graph.add(f"{name}.add", Add(), y, x)
        return y

    @classmethod
    def choose(cls, place: Place) -> Self:
        """As `Block.choose`."""
        hidden = place.scale(place.in_width * place.ask("expansion"))
        se, eca_kernel = place.attention(hidden)
        return cls(
            hidden_channels=hidden,
            out_channels=place.out_channels,
            kernel=int(place.ask("kernel")),
            stride=place.stride,
            se_channels=make_divisible(hidden * se, 8) if se else 0,
            activation=place.ask("activation"),
            eca_kernel=eca_kernel,
        )
