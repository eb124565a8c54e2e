"""The bottleneck of GhostNetV2 (Tang et al., NeurIPS 2022): GhostNet's with attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ghostnas.ir.graph import Builder
from ghostnas.networks.blocks.ghost import GhostBlock, ghost_module
from ghostnas.networks.blocks.layers import decoupled_attention


@dataclass(frozen=True, slots=True, kw_only=True)
class GhostV2Block(GhostBlock):
    """A Ghost bottleneck whose first Ghost module is gated by decoupled fully connected attention
    (GhostNetV2, figure 4). Its numbers are those of `GhostBlock`.
    """

    type_name: ClassVar[str] = "ghostv2"
    title: ClassVar[str] = "G-bneck V2"

    @property
    def attentions(self) -> tuple[str, ...]:
        """As `Block.attentions`, and decoupled fully connected attention."""
        return ("DFC", *super(GhostV2Block, self).attentions)

    def first(self, graph: Builder, x: int, name: str) -> int:
        """The first Ghost module and its attention."""
        y = ghost_module(graph, x, name, self.hidden_channels, self, relu=True)
        return decoupled_attention(graph, x, y, name)
