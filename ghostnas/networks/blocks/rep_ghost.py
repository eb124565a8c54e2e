"""The bottleneck of RepGhost (Chen et al., 2022): its branches are deployed as one convolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from ghostnas.ir.graph import Activation, Add, BatchNorm, Builder, Conv
from ghostnas.networks.blocks.block import Block, Place
from ghostnas.networks.blocks.layers import (
    conv_norm,
    depthwise,
    efficient_attention,
    make_divisible,
    shortcut,
    squeeze_excite,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepGhostBlock(Block):
    """A RepGhost bottleneck (figure 4): Ghost modules that add where GhostNet's concatenate.

    Attributes:
        hidden_channels: width between the two modules, half of GhostNet's.
        out_channels: width of the output.
        kernel: of the depthwise convolution at stride 2 and of the shortcut's.
        stride: 1 or 2.
        se_ratio: squeeze-and-excitation width as a share of `hidden_channels`; 0 for none.
        cheap_kernel: of the cheap operation.
        eca_kernel: kernel of efficient channel attention in the place of SE; 0 for none.
    """

    type_name: ClassVar[str] = "repghost"
    title: ClassVar[str] = "RepGhost"
    keys: ClassVar[tuple[str, ...]] = ("expansion", "attention", "se", "cheap_kernel", "kernel")
    defaults: ClassVar[Mapping[str, Any]] = {"attention": "se"}

    hidden_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    se_ratio: float = 0.0
    cheap_kernel: int = 3
    eca_kernel: int = 0

    def build(self, graph: Builder, x: int, name: str, stride: int | None = None) -> int:
        """As `Block.build`; nodes are named as in timm and the authors' release."""
        stride = self.stride if stride is None else stride
        in_channels, hidden = graph.shape(x)[0], self.hidden_channels
        y = self._module(graph, x, f"{name}.ghost1", hidden, relu=True)
        if self.stride > 1:
            y = graph.add(f"{name}.conv_dw", depthwise(hidden, self.kernel, stride), y)
            y = graph.add(f"{name}.bn_dw", BatchNorm(channels=hidden), y)
        if self.se_ratio:
            reduced = make_divisible(hidden * self.se_ratio)
            y = squeeze_excite(graph, y, f"{name}.se", reduced)
        if self.eca_kernel:
            y = efficient_attention(graph, y, f"{name}.eca", self.eca_kernel)
        y = self._module(graph, y, f"{name}.ghost2", self.out_channels, relu=False)
        if self.stride > 1 or in_channels != self.out_channels:
            x = shortcut(graph, x, f"{name}.shortcut", self.out_channels, self.kernel, stride)
        return graph.add(f"{name}.add", Add(), y, x)

    def _module(self, graph: Builder, x: int, name: str, out: int, *, relu: bool) -> int:
        primary = Conv(in_channels=graph.shape(x)[0], out_channels=out)
        y = conv_norm(graph, x, f"{name}.primary_conv", primary, relu=relu)
        cheap = depthwise(out, self.cheap_kernel, 1)
        ghosts = conv_norm(graph, y, f"{name}.cheap_operation", cheap, relu=False)
        y = graph.add(f"{name}.fusion_bn.0", BatchNorm(channels=out), y)
        y = graph.add(f"{name}.fused", Add(), ghosts, y)
        return graph.add(f"{name}.relu", Activation(kind="relu"), y) if relu else y

    @classmethod
    def choose(cls, place: Place) -> Self:
        """As `Block.choose`."""
        hidden = place.scale(place.in_width * place.ask("expansion"))
        se_ratio, eca_kernel = place.attention(hidden)
        block = cls(
            hidden_channels=hidden,
            out_channels=place.out_channels,
            stride=place.stride,
            se_ratio=se_ratio,
            cheap_kernel=int(place.ask("cheap_kernel")),
            eca_kernel=eca_kernel,
        )
        kernel = place.answers.get("kernel") if place.keeps_shape else place.ask("kernel")
        return replace(block, kernel=int(kernel)) if kernel is not None else block
