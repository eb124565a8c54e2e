"""The networks that the GhostNet paper compares on ImageNet, as graphs at any width and resolution.

They are not `Arch`es: none can be searched. Channels are laid out so that counts, not published
weights, agree.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import NamedTuple

from ghostnas.errors import InputError
from ghostnas.ir.graph import (
    ActivationKind,
    Add,
    AvgPool,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    Graph,
    Narrow,
    Node,
    Pad,
)
from ghostnas.networks import classic_blocks as blocks
from ghostnas.networks import classics
from ghostnas.networks.blocks import make_divisible
from ghostnas.networks.classic_blocks import Layers
from ghostnas.networks.ghostify import convolutions, ghostify

# Widths of ShuffleNetV1's three stages by its groups, and of V2's by its width (Zhang et al., 2018,
# table 1; Ma et al., 2018, table 5).
SHUFFLENETV1 = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
SHUFFLENETV2 = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}
SHUFFLENET_UNITS = (4, 8, 4)


class _Stage(NamedTuple):
    """Inverted residuals of MnasNet-A1 (Tan et al., 2019, figure 7)."""

    expansion: int
    kernel: int
    se: bool
    out: int
    units: int
    stride: int


MNASNET_A1 = (
    _Stage(6, 3, False, 24, 2, 2),
    _Stage(3, 5, True, 40, 3, 2),
    _Stage(6, 3, False, 80, 4, 2),
    _Stage(6, 3, True, 112, 2, 1),
    _Stage(6, 5, True, 160, 3, 2),
    _Stage(6, 3, False, 320, 1, 1),
)
# FBNet (Wu et al., 2019): kernel and expansion of each unit, a dash for none; stages of equal width
# and their first strides.
FBNET_STAGES = ((16, 1), (24, 2), (32, 2), (64, 2), (112, 1), (184, 2), (352, 1))
FBNETS = {
    "b": "31 36513131 56533656 5651--53 56315153 56515656 36",
    "c": "31 36--3131 56535636 56535656 56565653 56565656 36",
}


def resnet50(width: float = 1.0, resolution: int = 224, classes: int = 1000) -> Graph:
    """ResNet-50 (He et al., 2016), the stride in a bottleneck's 3x3 convolution."""
    net = _layers(resolution, classes)
    x = net.pool(net.conv(0, int(64 * width), 7, 2))
    for stage, stride in blocks.strides([3, 4, 6, 3]):
        middle = int(64 * 2**stage * width)
        x = blocks.residual(
            net, x, 4 * middle, stride, partial(blocks.bottleneck, net, middle, 4 * middle, stride)
        )
    net.classify(x)
    return net.build()


def mobilenetv1(width: float = 1.0, resolution: int = 224, classes: int = 1000) -> Graph:
    """MobileNet (Howard et al., 2017)."""
    net = _layers(resolution, classes)
    x = net.conv(0, int(32 * width), 3, 2)
    strides = blocks.strides([len(stage) for stage in classics.MOBILENET])
    for (_, stride), out in zip(strides, chain(*classics.MOBILENET), strict=True):
        x = net.conv(net.depthwise(x, 3, stride), int(out * width))
    net.classify(x)
    return net.build()


def mobilenetv2(width: float = 1.0, resolution: int = 224, classes: int = 1000) -> Graph:
    """MobileNetV2 (Sandler et al., 2018), widths rounded as in its released code."""
    net = _layers(resolution, classes)
    x = net.conv(0, make_divisible(32 * width, 8), 3, 2, "relu6")
    for stage, (out, units, first) in enumerate(classics.MOBILENETV2):
        for unit in range(units):
            hidden, stride = net.width(x) * (6 if stage else 1), 1 if unit else first
            scaled = make_divisible(out * width, 8)
            x = blocks.inverted(net, x, hidden, scaled, 3, stride, expand=stage > 0)
    net.classify(net.conv(x, make_divisible(1280 * max(width, 1.0), 8), act="relu6"))
    return net.build()


def mobilenetv3_small(width: float = 1.0, resolution: int = 224, classes: int = 1000) -> Graph:
    """MobileNetV3-Small (Howard et al., 2019), with 1,280 features as in its paper."""
    net = _layers(resolution, classes)
    x = net.conv(0, make_divisible(16 * width, 8), 3, 2, "hard_swish")
    for unit in classics.MOBILENETV3["small"].split(","):
        kernel, expanded, out, se, swish, stride = map(int, unit.split())
        hidden, out = (make_divisible(each * width, 8) for each in (expanded, out))
        act: ActivationKind = "hard_swish" if swish else "relu"
        x = blocks.inverted(net, x, hidden, out, kernel, stride, act, se > 0, hidden != out)
    x = net.conv(x, make_divisible(576 * width, 8), act="hard_swish")
    x = net.biased(net.op(GlobalPool(), x), 1280, act="hard_swish")
    return _dense(net, x)


def proxylessnas_mobile(width: float = 1.0, resolution: int = 224, classes: int = 1000) -> Graph:
    """ProxylessNAS mobile (Cai et al., 2019)."""
    _only_published("proxylessnas-mobile", width)
    net = _layers(resolution, classes)
    classics.proxylessnas(net, "mobile")
    return net.build()


def mnasnet_a1(width: float = 1.0, resolution: int = 224, classes: int = 1000) -> Graph:
    """MnasNet-A1 (Tan et al., 2019); the squeeze is a quarter of a unit's input, as released."""
    _only_published("mnasnet-a1", width)
    net = _layers(resolution, classes)
    x = net.conv(0, 32, 3, 2)
    x = net.conv(net.depthwise(x, 3, 1), 16, act="none")
    for stage in MNASNET_A1:
        for unit in range(stage.units):
            stride, source = 1 if unit else stage.stride, x
            y = net.conv(x, net.width(x) * stage.expansion)
            y = net.depthwise(y, stage.kernel, stride)
            y = net.excite(y, net.width(source) // 4) if stage.se else y
            x = _added(net, net.conv(y, stage.out, act="none"), source, stride)
    net.classify(net.conv(x, 1280))
    return net.build()


def fbnet(name: str, width: float = 1.0, resolution: int = 224, classes: int = 1000) -> Graph:
    """FBNet-B or -C (Wu et al., 2019), as in its authors' release: a unit of expansion 1 has no
    first 1x1 convolution, and the head has 1,984 features.
    """
    _only_published(f"fbnet-{name}", width)
    net = _layers(resolution, classes)
    x = net.conv(0, 16, 3, 2)
    for (out, first), units in zip(FBNET_STAGES, FBNETS[name].split(), strict=True):
        for at in range(0, len(units), 2):
            if units[at] == "-":
                continue
            kernel, expansion = int(units[at]), int(units[at + 1])
            hidden, stride = net.width(x) * expansion, 1 if at else first
            x = blocks.inverted(net, x, hidden, out, kernel, stride, "relu", expand=expansion > 1)
    net.classify(net.conv(x, 1984))
    return net.build()


def shufflenetv1(
    groups: int, width: float = 1.0, resolution: int = 224, classes: int = 1000
) -> Graph:
    """ShuffleNet (Zhang et al., 2018) with `groups`; the very first 1x1 convolution has none."""
    net = _layers(resolution, classes)
    x = net.pool(net.conv(0, make_divisible(24 * width, 8), 3, 2))
    for stage, units in enumerate(SHUFFLENET_UNITS):
        out = int(SHUFFLENETV1[groups] * width) * 2**stage
        for unit in range(units):
            source, first = x, stage == unit == 0
            maps = out if unit else out - net.width(x)
            y = net.act(_grouped(net, x, out // 4, 1 if first else groups))
            y = net.depthwise(_shuffle(net, y, groups), 3, 1 if unit else 2, "none")
            y = _grouped(net, y, maps, groups)
            if unit:
                x = net.act(_added(net, y, source, 1))
            else:
                pooled = net.op(AvgPool(kernel=3, stride=2), net.op(Pad(amount=1), source))
                x = net.act(net.op(Concat(), pooled, y))
    net.classify(x)
    return net.build()


def shufflenetv2(width: float = 1.0, resolution: int = 224, classes: int = 1000) -> Graph:
    """ShuffleNetV2 (Ma et al., 2018) at one of its published widths."""
    if width not in SHUFFLENETV2:
        known = ", ".join(f"{each:g}" for each in SHUFFLENETV2)
        raise InputError(f"shufflenetv2 comes in widths {known}, not {width:g}")
    *stages, last = SHUFFLENETV2[width]
    net = _layers(resolution, classes)
    x = net.pool(net.conv(0, 24, 3, 2))
    for out, units in zip(stages, SHUFFLENET_UNITS, strict=True):
        for unit in range(units):
            half = out // 2
            if unit:
                kept = net.op(Narrow(channels=half), x)
                y = net.op(Narrow(channels=half, start=half), x)
            else:
                kept = net.conv(net.depthwise(x, 3, 2, "none"), half)
                y = x
            y = net.depthwise(net.conv(y, half), 3, 1 if unit else 2, "none")
            x = _shuffle(net, net.op(Concat(), kept, net.conv(y, half)), 2)
    net.classify(net.conv(x, last))
    return net.build()


def _layers(resolution: int, classes: int) -> Layers:
    return Layers((3, resolution, resolution), classes)


def _only_published(name: str, width: float) -> None:
    if width != 1.0:
        raise InputError(f"{name} comes in width 1, not {width:g}")


def _dense(net: Layers, x: int) -> Graph:
    x = net.op(Flatten(), x)
    net.op(Dense(in_features=net.width(x), out_features=net.classes), x)
    return net.build()


def _added(net: Layers, y: int, x: int, stride: int) -> int:
    return net.op(Add(), y, x) if stride == 1 and net.width(x) == net.width(y) else y


def _grouped(net: Layers, x: int, out: int, groups: int) -> int:
    """A grouped 1x1 convolution and batch norm, without an activation."""
    conv = Conv(in_channels=net.width(x), out_channels=out, groups=groups)
    return net.norm(net.op(conv, x), "none")


def _shuffle(net: Layers, x: int, groups: int) -> int:
    """ShuffleNet's exchange between groups: map i of group g becomes map i * groups + g."""
    maps = net.width(x)
    part = maps // groups
    order = [group * part + at for at in range(part) for group in range(groups)]
    return net.op(Concat(), *[net.op(Narrow(channels=1, start=start), x) for start in order])


def _ghost_resnet50(s: int) -> Callable[[float, int, int], Graph]:
    """Ghost-ResNet-50. The printed weights need the classifier to be a Ghost module too, and the
    printed FLOPs the first convolution to stay as it is.
    """

    def chosen(node: Node) -> bool:
        return isinstance(node.op, Dense) or (convolutions(node) and node.inputs != (0,))

    return lambda width, resolution, classes: ghostify(
        resnet50(width, resolution, classes), s, 3, chosen
    )


NETWORKS: dict[str, Callable[[float, int, int], Graph]] = {
    "resnet50": resnet50,
    "ghost-resnet50": _ghost_resnet50(2),
    "ghost-resnet50-s4": _ghost_resnet50(4),
    "mobilenetv1": mobilenetv1,
    "mobilenetv2": mobilenetv2,
    "mobilenetv3-small": mobilenetv3_small,
    "proxylessnas-mobile": proxylessnas_mobile,
    "mnasnet-a1": mnasnet_a1,
    "fbnet-b": partial(fbnet, "b"),
    "fbnet-c": partial(fbnet, "c"),
    "shufflenetv1-g3": partial(shufflenetv1, 3),
    "shufflenetv1-g8": partial(shufflenetv1, 8),
    "shufflenetv2": shufflenetv2,
}
