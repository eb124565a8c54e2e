"""A block type of one's own: the fused inverted residual of EfficientNetV2 (Tan and Le, ICML 2021).

ghostnas search --blocks my_block.py --space my_space.toml --target arm --budget 20ms
"""

from dataclasses import dataclass
from typing import ClassVar

from ghostnas.ir.graph import Activation, Add, BatchNorm, Builder, Conv
from ghostnas.networks.blocks import Block


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedMBConv(Block):
    """One k x k convolution in the place of MBConv's 1x1 and depthwise ones."""

    type_name: ClassVar[str] = "fused"
    keys: ClassVar[tuple[str, ...]] = ("expansion", "kernel")

    hidden_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1

    def build(self, graph: Builder, x: int, name: str, stride: int | None = None) -> int:
        """A k x k convolution to the hidden width, a 1x1 convolution, and the residual."""
        stride = self.stride if stride is None else stride
        inputs, hidden, outputs = graph.shape(x)[0], self.hidden_channels, self.out_channels
        wide = Conv(in_channels=inputs, out_channels=hidden, kernel=self.kernel, stride=stride)
        y = graph.add(f"{name}.conv", wide, x)
        y = graph.add(f"{name}.bn1", BatchNorm(channels=hidden), y)
        y = graph.add(f"{name}.act", Activation(kind="relu6"), y)
        y = graph.add(f"{name}.conv_pwl", Conv(in_channels=hidden, out_channels=outputs), y)
        y = graph.add(f"{name}.bn2", BatchNorm(channels=outputs), y)
        if self.stride == 1 and inputs == outputs:
            y = graph.add(f"{name}.add", Add(), y, x)
        return y
