"""The Ghost bottleneck of GhostNet (Han et al., CVPR 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import ClassVar

from ghostnas.ir.graph import Add, BatchNorm, Builder, Concat, Conv, Narrow
from ghostnas.networks.blocks.block import Block, Place
from ghostnas.networks.blocks.layers import conv_norm, depthwise, make_divisible, squeeze_excite


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
    """

    type_name: ClassVar[str] = "ghost"
    keys: ClassVar[tuple[str, ...]] = ("expansion", "se", "ghost_ratio", "cheap_kernel", "kernel")

    hidden_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    se_ratio: float = 0.0
    ghost_ratio: int = 2
    cheap_kernel: int = 3

    def build(self, graph: Builder, x: int, name: str, stride: int | None = None) -> int:
        """As `Block.build`; nodes are named as in the published GhostNet."""
        stride = self.stride if stride is None else stride
        in_channels = graph.shape(x)[0]
        hidden = self.hidden_channels
        y = ghost_module(graph, x, f"{name}.ghost1", hidden, self, relu=True)
        if self.stride > 1:
            y = graph.add(f"{name}.conv_dw", depthwise(hidden, self.kernel, stride), y)
            y = graph.add(f"{name}.bn_dw", BatchNorm(channels=hidden), y)
        if self.se_ratio:
            reduced = make_divisible(hidden * self.se_ratio)
            y = squeeze_excite(graph, y, f"{name}.se", reduced)
        y = ghost_module(graph, y, f"{name}.ghost2", self.out_channels, self, relu=False)
        shortcut = x
        if not self.keeps_shape(in_channels):
            spatial = depthwise(in_channels, self.kernel, stride)
            pointwise = Conv(in_channels=in_channels, out_channels=self.out_channels)
            shortcut = graph.add(f"{name}.shortcut.0", spatial, shortcut)
            shortcut = graph.add(f"{name}.shortcut.1", BatchNorm(channels=in_channels), shortcut)
            shortcut = graph.add(f"{name}.shortcut.2", pointwise, shortcut)
            norm = BatchNorm(channels=self.out_channels)
            shortcut = graph.add(f"{name}.shortcut.3", norm, shortcut)
        return graph.add(f"{name}.add", Add(), y, shortcut)

    def keeps_shape(self, in_channels: int) -> bool:
        """Whether the shortcut is the identity; then `kernel` changes nothing."""
        return self.stride == 1 and in_channels == self.out_channels

    @classmethod
    def choose(cls, place: Place) -> GhostBlock:
        """As `Block.choose`."""
        ratio = int(place.ask("ghost_ratio"))
        block = cls(
            hidden_channels=place.scale(place.in_width * place.ask("expansion")),
            out_channels=place.out_channels,
            stride=place.stride,
            se_ratio=float(place.ask("se")),
            ghost_ratio=ratio,
        )
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
    y = conv_norm(
        graph,
        x,
        f"{name}.primary_conv",
        Conv(in_channels=graph.shape(x)[0], out_channels=primary),
        relu=relu,
    )
    if not cheap:
        return y
    ghosts = conv_norm(
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
