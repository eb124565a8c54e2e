"""The Ghost bottleneck of GhostNet (Han et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, ClassVar, Self

from ghostnas.ir.graph import Add, BatchNorm, Builder, Concat, Conv, Narrow
from ghostnas.networks.blocks.block import LATER, Block, Limits, Place, Range
from ghostnas.networks.blocks.layers import (
    conv_norm,
    depthwise,
    efficient_attention,
    make_divisible,
    shortcut,
    squeeze_excite,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GhostBlock(Block):
    """A Ghost bottleneck (GhostNet, figure 3): two Ghost modules, the second without activation.

    Attributes:
        hidden_channels: width between the two Ghost modules ("#exp" in table 1).
        out_channels: width of the output ("#out").
        kernel: k of the depthwise convolution at stride 2 and of the shortcut's.
        stride: 1 or 2.
        se_ratio: squeeze-and-excitation width as a share of `hidden_channels`; 0 for none.
        ghost_ratio: s, total maps per convolved map (section 3.1).
        cheap_kernel: d, kernel of the cheap linear operation.
        split: whether the cheap operation is a depthwise convolution for each of its s - 1 maps,
            and not one that makes all of them: runtimes have fast kernels for the former only. With
            s = 2 both are the same.
        eca_kernel: kernel of efficient channel attention in the place of SE; 0 for none.
    """

    type_name: ClassVar[str] = "ghost"
    title: ClassVar[str] = "G-bneck"
    keys: ClassVar[tuple[str, ...]] = (
        *("expansion", "attention", "se", "ghost_ratio", "cheap", "cheap_kernel", "kernel"),
    )
    defaults: ClassVar[Mapping[str, Any]] = {"attention": "se", "cheap": "joint"}
    limits: ClassVar[Mapping[str, Limits]] = {
        "cheap": ("joint", "split"),
        "ghost_ratio": Range(1, 16),
    }

    hidden_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    se_ratio: float = 0.0
    ghost_ratio: int = 2
    cheap_kernel: int = 3
    split: bool = field(default=False, metadata=LATER)
    eca_kernel: int = field(default=0, metadata=LATER)

    def build(self, graph: Builder, x: int, name: str, stride: int | None = None) -> int:
        """As `Block.build`; nodes are named as in the published GhostNet."""
        stride = self.stride if stride is None else stride
        in_channels = graph.shape(x)[0]
        hidden = self.hidden_channels
        y = self.first(graph, x, f"{name}.ghost1")
        if self.stride > 1:
            y = graph.add(f"{name}.conv_dw", depthwise(hidden, self.kernel, stride), y)
            y = graph.add(f"{name}.bn_dw", BatchNorm(channels=hidden), y)
        if self.se_ratio:
            reduced = make_divisible(hidden * self.se_ratio)
            y = squeeze_excite(graph, y, f"{name}.se", reduced)
        if self.eca_kernel:
            y = efficient_attention(graph, y, f"{name}.eca", self.eca_kernel)
        y = ghost_module(graph, y, f"{name}.ghost2", self.out_channels, self, relu=False)
        if not self.keeps_shape(in_channels):
            x = shortcut(graph, x, f"{name}.shortcut", self.out_channels, self.kernel, stride)
        return graph.add(f"{name}.add", Add(), y, x)

    def first(self, graph: Builder, x: int, name: str) -> int:
        """The first Ghost module."""
        return ghost_module(graph, x, name, self.hidden_channels, self, relu=True)

    def keeps_shape(self, in_channels: int) -> bool:
        """Whether the shortcut is the identity; then `kernel` changes nothing."""
        return self.stride == 1 and in_channels == self.out_channels

    @classmethod
    def choose(cls, place: Place) -> Self:
        """As `Block.choose`."""
        hidden = place.scale(place.in_width * place.ask("expansion"))
        se_ratio, eca_kernel = place.attention(hidden)
        ratio = int(place.ask("ghost_ratio"))
        block = cls(
            hidden_channels=hidden,
            out_channels=place.out_channels,
            stride=place.stride,
            se_ratio=se_ratio,
            ghost_ratio=ratio,
            eca_kernel=eca_kernel,
        )
        if ratio > 2:
            block = replace(block, split=place.ask("cheap") == "split")
        if ratio > 1:
            block = replace(block, cheap_kernel=int(place.ask("cheap_kernel")))
        kernel = place.answers.get("kernel") if place.keeps_shape else place.ask("kernel")
        return replace(block, kernel=int(kernel)) if kernel is not None else block


def ghost_module(
    graph: Builder, x: int, name: str, out_channels: int, block: GhostBlock, *, relu: bool
) -> int:
    """A Ghost module (section 3.1): a 1x1 convolution plus cheap depthwise maps of its output."""
    primary = ceil(out_channels / block.ghost_ratio)
    cheap = primary * (block.ghost_ratio - 1)
    convolution = Conv(
        in_channels=primary, out_channels=cheap, kernel=block.cheap_kernel, groups=primary
    )
    y = conv_norm(
        graph,
        x,
        f"{name}.primary_conv",
        Conv(in_channels=graph.shape(x)[0], out_channels=primary),
        relu=relu,
    )
    if not cheap:
        return y
    if block.split:
        one = replace(convolution, out_channels=primary)
        ghosts = [
            conv_norm(graph, y, f"{name}.cheap_operation{at or ''}", one, relu=relu)
            for at in range(block.ghost_ratio - 1)
        ]
    else:
        ghosts = [conv_norm(graph, y, f"{name}.cheap_operation", convolution, relu=relu)]
    y = graph.add(f"{name}.concat", Concat(), y, *ghosts)
    if primary + cheap != out_channels:
        y = graph.add(f"{name}.narrow", Narrow(channels=out_channels), y)
    return y
