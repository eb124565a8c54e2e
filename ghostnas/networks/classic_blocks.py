"""Layers and blocks of the published networks in `ghostnas.networks.classics`.

They use the ops that tf2cv, pytorchcv in TensorFlow, runs in TFLite: a border of zeros before a
padded pool, a 2x2 mean with stride 2 as two pools, a grouped convolution as one per group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from ghostnas.ir.graph import (
    Activation,
    ActivationKind,
    Add,
    AvgPool,
    BatchNorm,
    Builder,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    MaxPool,
    Multiply,
    Narrow,
    Op,
    Pad,
    Shape,
)
from ghostnas.networks.blocks import make_divisible

CLASSES = 1000


class Layers(Builder):
    """Appends layers, each named by its op and position; takes and returns node indices."""

    def __init__(self, input_shape: Shape, classes: int = CLASSES) -> None:
        super().__init__(input_shape)
        self.classes = classes

    def op(self, op: Op, *inputs: int) -> int:
        return self.add(f"{type(op).__name__.lower()}{len(self._nodes)}", op, *inputs)

    def width(self, x: int) -> int:
        return self.shape(x)[0]

    def act(self, x: int, kind: ActivationKind = "relu") -> int:
        return x if kind == "none" else self.op(Activation(kind=kind), x)

    def norm(self, x: int, act: ActivationKind = "relu") -> int:
        """Batch norm and an activation."""
        return self.act(self.op(BatchNorm(channels=self.width(x)), x), act)

    def bare(
        self,
        x: int,
        out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> int:
        """A convolution alone."""
        width = self.width(x)
        conv = partial(Conv, kernel=kernel, stride=stride, bias=bias)
        if groups in (1, width):
            return self.op(conv(in_channels=width, out_channels=out, groups=groups), x)
        part = width // groups
        one = conv(in_channels=part, out_channels=out // groups, padded=False)
        x = self.op(Pad(amount=kernel // 2), x)
        parts = [self.op(Narrow(channels=part, start=at), x) for at in range(0, width, part)]
        return self.op(Concat(), *[self.op(one, each) for each in parts])

    def conv(
        self,
        x: int,
        out: int,
        kernel: int = 1,
        stride: int = 1,
        act: ActivationKind = "relu",
        groups: int = 1,
        bias: bool = False,
    ) -> int:
        """A convolution, batch norm and an activation."""
        return self.norm(self.bare(x, out, kernel, stride, groups, bias), act)

    def depthwise(self, x: int, kernel: int, stride: int, act: ActivationKind = "relu") -> int:
        return self.conv(x, self.width(x), kernel, stride, act, self.width(x))

    def biased(
        self, x: int, out: int, kernel: int = 1, stride: int = 1, act: ActivationKind = "relu"
    ) -> int:
        """A convolution with a bias, and an activation."""
        return self.act(self.bare(x, out, kernel, stride, bias=True), act)

    def unpadded(self, x: int, out: int, kernel: int, stride: int) -> int:
        """A convolution without padding, with a bias and ReLU."""
        width = self.width(x)
        conv = Conv(
            in_channels=width,
            out_channels=out,
            kernel=kernel,
            stride=stride,
            bias=True,
            padded=False,
        )
        return self.act(self.op(conv, x))

    def pool(self, x: int) -> int:
        """3x3 max pooling with stride 2, for maps without values below the padding's zeros."""
        return self.op(MaxPool(kernel=3, stride=2), self.op(Pad(amount=1), x))

    def ceil_pool(self, x: int) -> int:
        """Like `pool`, but padded only where pixels would be left over."""
        odd = self.shape(x)[1] % 2
        return self.op(MaxPool(kernel=3, stride=2), x) if odd else self.pool(x)

    def halve(self, x: int) -> int:
        """The mean of each 2x2."""
        return self.op(AvgPool(kernel=1, stride=2), self.op(AvgPool(kernel=2), x))

    def excite(self, x: int, reduced: int, gate: ActivationKind = "sigmoid") -> int:
        """Squeeze-and-excitation (Hu et al., 2018)."""
        y = self.biased(self.op(GlobalPool(), x), reduced)
        return self.op(Multiply(), x, self.biased(y, self.width(x), act=gate))

    def classify(self, x: int) -> None:
        x = self.op(Flatten(), self.op(GlobalPool(), x))
        self.op(Dense(in_features=self.width(x), out_features=self.classes), x)


def strides(units: Sequence[int], first: int = 1) -> Iterator[tuple[int, int]]:
    """Each unit's stage and stride: a stage's first unit has 2, the very first one `first`."""
    for stage, count in enumerate(units):
        for unit in range(count):
            yield stage, 1 if unit else (2 if stage else first)


def inverted(
    net: Layers,
    x: int,
    hidden: int,
    out: int,
    kernel: int,
    stride: int,
    act: ActivationKind = "relu6",
    se: bool = False,
    expand: bool = True,
) -> int:
    """The inverted residual of MobileNetV2 (Sandler et al., 2018) and its successors."""
    y = net.conv(x, hidden, act=act) if expand else x
    y = net.depthwise(y, kernel, stride, act)
    y = net.excite(y, make_divisible(hidden / 4, 8), "hard_sigmoid") if se else y
    y = net.conv(y, out, act="none")
    return net.op(Add(), y, x) if stride == 1 and net.width(x) == out else y


def residual(net: Layers, x: int, out: int, stride: int, body: Callable[[int], int]) -> int:
    """A unit of ResNet (He et al., 2016) around a `body`."""
    same = stride == 1 and net.width(x) == out
    shortcut = x if same else net.conv(x, out, 1, stride, "none")
    return net.act(net.op(Add(), body(x), shortcut))


def basic(net: Layers, out: int, stride: int, se: int, x: int) -> int:
    """Two 3x3 convolutions; `se` is the width of squeeze-and-excitation, 0 for none."""
    y = net.conv(net.conv(x, out, 3, stride), out, 3, act="none")
    return net.excite(y, se) if se else y


def bottleneck(
    net: Layers, middle: int, out: int, stride: int, x: int, groups: int = 1, se: int = 0
) -> int:
    """1x1, 3x3 and 1x1 convolutions; `se` as in RegNet, before the last."""
    y = net.conv(net.conv(x, middle), middle, 3, stride, groups=groups)
    return net.conv(net.excite(y, se) if se else y, out, act="none")


def preactivated(net: Layers, x: int, out: int, stride: int, middle: int, se: int) -> int:
    """A ResNet unit with batch norm and ReLU before its convolutions (He et al., 2016b).

    `middle` is the width of a bottleneck, 0 for two 3x3 convolutions.
    """
    same = stride == 1 and net.width(x) == out
    active = net.norm(x)
    if middle:
        y = net.bare(net.norm(net.bare(active, middle)), middle, 3, stride)
        y = net.bare(net.norm(y), out)
    else:
        y = net.bare(net.norm(net.bare(active, out, 3, stride)), out, 3)
    y = net.excite(y, se) if se else y
    return net.op(Add(), y, x if same else net.bare(active, out, 1, stride))


def one_shot(net: Layers, x: int, branch: int, out: int) -> int:
    """One-shot aggregation (VoVNet, Lee et al., 2019) of five 3x3 convolutions."""
    maps = [x]
    for _ in range(5):
        maps.append(net.conv(maps[-1], branch, 3))
    return net.conv(net.op(Concat(), *maps), out)


def two_way(net: Layers, x: int, middle: int) -> int:
    """A dense layer that sees 3x3 and 5x5 pixels (PeleeNet, Wang et al., 2018)."""
    one = net.conv(net.conv(x, middle), 16, 3)
    two = net.conv(net.conv(net.conv(x, middle), 16, 3), 16, 3)
    return net.op(Concat(), x, one, two)


def hard_block(net: Layers, x: int, layers: int, out: int, rate: int, growth: float) -> int:
    """HarDNet's block (Chao et al., 2019): layer n reads layers n - 1, n - 2, n - 4, ... as long as
    the power of two divides n, and is `growth` times wider for each.
    """
    maps = [x]
    for layer in range(1, layers + 1):
        powers = [2**n for n in range(10) if layer % 2**n == 0]
        width = float(rate)
        for _ in powers[1:]:
            width *= growth
        read = [maps[layer - power] for power in powers]
        y = net.op(Concat(), *read) if len(read) > 1 else read[0]
        y = net.conv(y, int(int(width + 1) / 2) * 2, act="relu6")
        maps.append(net.depthwise(y, 3, 1, "none"))
    last = [] if layers % 2 else [maps[-1]]
    return net.conv(net.op(Concat(), *maps[1::2], *last), out, act="relu6")


def inception(net: Layers, x: int, widths: Sequence[int], pool: MaxPool | AvgPool) -> int:
    """Inception with batch norm (Ioffe and Szegedy, 2015); stride 2 if the first width is 0.

    `widths` are those of 1x1, of 3x3 (reduced, full), of double 3x3 (reduced, full) and after
    `pool`.
    """
    one, reduced3, three, reduced5, five, pooled = widths
    stride, conv = 1 if one else 2, partial(net.conv, bias=True)
    maps = [conv(x, one)] if one else []
    maps.append(conv(conv(x, reduced3), three, 3, stride))
    maps.append(conv(conv(conv(x, reduced5), five, 3), five, 3, stride))
    if one:
        maps.append(conv(net.op(pool, net.op(Pad(amount=1), x)), pooled))
    else:
        maps.append(net.ceil_pool(x))
    return net.op(Concat(), *maps)


def tree(
    net: Layers, x: int, down: int, levels: int, out: int, stride: int, more: Sequence[int] = ()
) -> int:
    """A tree of deep layer aggregation (Yu et al., 2018). `down` is x at the tree's stride; the
    root also reads `more`.
    """
    if levels > 1:
        y = tree(net, x, down, levels - 1, out, stride)
        return tree(net, y, y, levels - 1, out, 1, [*more, y])
    shortcut = down if net.width(x) == out else net.conv(down, out, act="none")
    y = net.act(net.op(Add(), bottleneck(net, out // 2, out, stride, x), shortcut))
    z = net.act(net.op(Add(), bottleneck(net, out // 2, out, 1, y), y))
    return net.conv(net.op(Concat(), z, y, *more), out)
