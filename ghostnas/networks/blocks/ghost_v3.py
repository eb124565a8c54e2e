"""The bottleneck of GhostNetV3 (Liu et al., 2024), whose branches are one convolution when
deployed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from ghostnas.ir.graph import Activation, Add, BatchNorm, Builder, Concat, Conv, Narrow
from ghostnas.networks.blocks.block import Block, Place
from ghostnas.networks.blocks.layers import (
    decoupled_attention,
    depthwise,
    efficient_attention,
    make_divisible,
    shortcut,
    squeeze_excite,
)

BRANCHES = 3  # copies of each convolution while training


@dataclass(frozen=True, slots=True, kw_only=True)
class GhostV3Block(Block):
    """A Ghost bottleneck with s = 2 whose convolutions have several branches each.

    Attributes:
        hidden_channels: width between the two Ghost modules.
        out_channels: width of the output.
        kernel: of the depthwise convolution at stride 2 and of the shortcut's.
        stride: 1 or 2.
        se_ratio: squeeze-and-excitation width as a share of `hidden_channels`; 0 for none.
        cheap_kernel: of the cheap operation.
        eca_kernel: kernel of efficient channel attention in the place of SE; 0 for none.
        attended: whether the first module is gated as in GhostNetV2.
    """

    type_name: ClassVar[str] = "ghostv3"
    title: ClassVar[str] = "G-bneck V3"
    keys: ClassVar[tuple[str, ...]] = ("expansion", "attention", "se", "cheap_kernel", "kernel")
    defaults: ClassVar[Mapping[str, Any]] = {"attention": "se"}

    hidden_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    se_ratio: float = 0.0
    cheap_kernel: int = 3
    eca_kernel: int = 0
    attended: bool = True

    @property
    def attentions(self) -> tuple[str, ...]:
        """As `Block.attentions`, and decoupled fully connected attention where it is on."""
        others = super(GhostV3Block, self).attentions
        return ("DFC", *others) if self.attended else others

    def build(self, graph: Builder, x: int, name: str, stride: int | None = None) -> int:
        """As `Block.build`; nodes are named as in timm."""
        stride = self.stride if stride is None else stride
        in_channels, hidden = graph.shape(x)[0], self.hidden_channels
        y = self._module(graph, x, f"{name}.ghost1", hidden, relu=True)
        if self.attended:
            y = decoupled_attention(graph, x, y, f"{name}.ghost1")
        if self.stride > 1:
            point = depthwise(hidden, 1, stride)
            whole = depthwise(hidden, self.kernel, stride)
            branches = [_branch(graph, y, f"{name}.dw_rpr_scale", point)]
            branches += _branches(graph, y, f"{name}.dw_rpr_conv", whole)
            y = _sum(graph, f"{name}.conv_dw", branches)
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
        half = -(-out // 2)
        primary = Conv(in_channels=graph.shape(x)[0], out_channels=half)
        found = _branches(graph, x, f"{name}.primary_rpr_conv", primary)
        y = _sum(graph, f"{name}.primary_conv", found)
        if relu:
            y = graph.add(f"{name}.primary_activation", Activation(kind="relu"), y)
        scale = _branch(graph, y, f"{name}.cheap_rpr_scale", depthwise(half, 1, 1))
        skip = graph.add(f"{name}.cheap_rpr_skip", BatchNorm(channels=half), y)
        cheap = depthwise(half, self.cheap_kernel, 1)
        found = _branches(graph, y, f"{name}.cheap_rpr_conv", cheap)
        ghosts = _sum(graph, f"{name}.cheap_operation", [scale, skip, *found])
        if relu:
            ghosts = graph.add(f"{name}.cheap_activation", Activation(kind="relu"), ghosts)
        y = graph.add(f"{name}.concat", Concat(), y, ghosts)
        return y if out == 2 * half else graph.add(f"{name}.narrow", Narrow(channels=out), y)

    @classmethod
    def choose(cls, place: Place) -> Self:
        """As `Block.choose`; attention is on."""
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


def _branch(graph: Builder, x: int, name: str, conv: Conv) -> int:
    y = graph.add(f"{name}.conv", conv, x)
    return graph.add(f"{name}.bn1", BatchNorm(channels=conv.out_channels), y)


def _branches(graph: Builder, x: int, name: str, conv: Conv) -> list[int]:
    return [_branch(graph, x, f"{name}.{at}", conv) for at in range(BRANCHES)]


def _sum(graph: Builder, name: str, terms: Sequence[int]) -> int:
    """The sum in this order; its last node has the name."""
    total, *rest = terms
    for at, term in enumerate(rest, 1):
        last = at == len(rest)
        total = graph.add(name if last else f"{name}.sum{at}", Add(), total, term)
    return total
