"""The block that is left out, so that a search can choose how deep a network is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ghostnas.ir.graph import BatchNorm, Builder, Conv
from ghostnas.networks.blocks.block import Block


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipBlock(Block):
    """Nothing where the shape stays; where it changes, a 1x1 convolution and batch norm.

    The identity of NAS-Bench-Macro (Su et al., CVPR 2021).
    """

    type_name: ClassVar[str] = "skip"
    repeats: ClassVar[bool] = False

    out_channels: int
    stride: int = 1

    def build(self, graph: Builder, x: int, name: str, stride: int | None = None) -> int:
        """As `Block.build`."""
        in_channels = graph.shape(x)[0]
        if self.stride == 1 and in_channels == self.out_channels:
            return x
        stride = self.stride if stride is None else stride
        conv = Conv(in_channels=in_channels, out_channels=self.out_channels, stride=stride)
        y = graph.add(f"{name}.conv", conv, x)
        return graph.add(f"{name}.bn", BatchNorm(channels=self.out_channels), y)
