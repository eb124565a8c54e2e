"""Published networks as graphs, by their names in pytorchcv, for comparing predictions with
measurements. They are not `Arch`es: none can be searched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

import numpy as np

from ghostnas.errors import InputError
from ghostnas.ir.graph import (
    ActivationKind,
    Add,
    AvgPool,
    Concat,
    Flatten,
    GlobalPool,
    Graph,
    MaxPool,
)
from ghostnas.networks import classic_blocks as blocks
from ghostnas.networks.blocks import make_divisible
from ghostnas.networks.classic_blocks import CLASSES, Layers

WIDTHS = {"w5d4": 1.25, "w1": 1.0, "w3d4": 0.75, "wd2": 0.5, "w7d20": 0.35, "wd4": 0.25}
# Widths of the units of each stage.
MOBILENET = ([64], [128] * 2, [256] * 2, [512] * 6, [1024] * 2)
FD_MOBILENET = ([64], [128] * 2, [256] * 2, [*[512] * 5, 1024])
# Kernel and width of the stem, widths of the units of each stage.
SQUEEZENETS = {
    "v1_0": (7, 96, ([128, 128, 256], [256, 384, 384, 512], [512])),
    "v1_1": (3, 64, ([128, 128], [256, 256], [384, 384, 512, 512])),
}
# Width, units and stride of each stage.
MOBILENETV2 = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
# Kernel, expanded and output width, SE, hard-swish and stride of each unit.
MOBILENETV3 = {
    "small": "3 16 16 1 0 2, 3 72 24 0 0 2, 3 88 24 0 0 1, 5 96 40 1 1 2, 5 240 40 1 1 1, "
    "5 240 40 1 1 1, 5 120 48 1 1 1, 5 144 48 1 1 1, 5 288 96 1 1 2, 5 576 96 1 1 1, "
    "5 576 96 1 1 1",
    "large": "3 16 16 0 0 1, 3 64 24 0 0 2, 3 72 24 0 0 1, 5 72 40 1 0 2, 5 120 40 1 0 1, "
    "5 120 40 1 0 1, 3 240 80 0 1 2, 3 200 80 0 1 1, 3 184 80 0 1 1, 3 184 80 0 1 1, "
    "3 480 112 1 1 1, 3 672 112 1 1 1, 5 672 160 1 1 2, 5 960 160 1 1 1, 5 960 160 1 1 1",
}
# Widths of stem, stages and head; expansion and kernel of each unit of a stage.
PROXYLESS_UNITS = "13 3533 37333535 67353535 65353535 67673737 67"
PROXYLESSNAS = {
    "cpu": ("40 24 32 48 88 104 216 360 1432", "13 63333333 63333335 6333 65333333 65353533 65"),
    "gpu": ("40 24 32 56 112 128 256 432 1728", "13 35 3733 6735 653335 67676765 67"),
    "mobile": ("32 16 32 40 80 96 192 320 1280", PROXYLESS_UNITS),
    "mobile14": ("48 24 40 56 112 136 256 448 1792", PROXYLESS_UNITS),
}
# Units of each stage; bottlenecks where the name has bc.
SHALLOW = {"10": "1111", "12": "2111", "14": "2211", "16": "2221", "18": "2222"}
RESNETS = {**SHALLOW, "bc14b": "1111", "bc26b": "2222"}
# Initial width, slope, ratio of the stages' widths, depth, width of a group.
REGNETS = {
    "x002": (24, 36.44, 2.49, 13, 8),
    "x004": (24, 24.48, 2.54, 22, 16),
    "x006": (48, 36.97, 2.24, 16, 24),
    "x008": (56, 35.73, 2.28, 16, 16),
    "x016": (80, 34.01, 2.25, 18, 24),
    "y002": (24, 36.44, 2.49, 13, 8),
    "y004": (48, 27.89, 2.09, 16, 8),
    "y006": (48, 32.54, 2.32, 15, 16),
    "y008": (56, 38.84, 2.4, 14, 16),
    "y016": (48, 20.71, 2.65, 27, 24),
}
# Width of the stem, growth, and each stage's layers, width, growth rate and stride at its end.
HARDNETS = {
    "39ds": (48, 1.6, "4 96 16 2, 16 320 20 2, 8 640 64 2, 4 1024 160 1"),
    "68ds": (64, 1.7, "8 128 14 2, 16 256 16 1, 16 320 20 2, 16 640 40 2, 4 1024 160 1"),
}
BN_INCEPTION = (
    *("64 64 64 64 96 32", "64 64 96 64 96 64", "0 128 160 64 96 0", "224 64 96 96 128 128"),
    *("192 96 128 96 128 128", "160 128 160 128 160 128", "96 128 192 160 192 128"),
    *("0 128 192 192 256 0", "352 192 320 160 224 128", "352 192 320 192 224 128"),
)


def names() -> list[str]:
    return sorted(_NETWORKS)


def graph(name: str, resolution: int = 224, classes: int = CLASSES) -> Graph:
    """The network, by default at 224 pixels with 1,000 classes.

    Raises:
        InputError: there is no network of that name.
    """
    if name not in _NETWORKS:
        raise InputError(f"unknown network {name!r}; known: {', '.join(names())}")
    net = Layers((3, resolution, resolution), classes)
    _NETWORKS[name](net)
    return net.build()


def _mobilenet(
    net: Layers, stages: Sequence[list[int]], width: float, first: int = 1, simple: bool = False
) -> None:
    """MobileNet (Howard et al., 2017); the depthwise convolutions of a `simple` one are bare."""
    x = net.conv(0, int(32 * width), 3, 2)
    strides = blocks.strides([len(stage) for stage in stages], first)
    for (_, stride), out in zip(strides, chain(*stages), strict=True):
        same = net.width(x)
        y = net.bare(x, same, 3, stride, same) if simple else net.depthwise(x, 3, stride)
        x = net.conv(y, int(out * width))
    net.classify(x)


def _mobilenetv2(net: Layers, width: float, expand: bool) -> None:
    """`expand`: whether the first unit, as wide as its input, has a 1x1 expansion convolution."""
    x = net.conv(0, int(32 * width), 3, 2, "relu6")
    for stage, (out, units, first) in enumerate(MOBILENETV2):
        for unit in range(units):
            hidden = net.width(x) * (6 if stage else 1)
            stride, out_width = 1 if unit else first, int(out * width)
            x = blocks.inverted(net, x, hidden, out_width, 3, stride, expand=stage > 0 or expand)
    x = net.op(GlobalPool(), net.conv(x, 1280, act="relu6"))
    net.op(Flatten(), net.bare(x, net.classes))


def _mobilenetv3(net: Layers, width: float, size: str) -> None:
    """MobileNetV3 (Howard et al., 2019)."""
    x = net.conv(0, make_divisible(16 * width, 8), 3, 2, "hard_swish")
    for unit in MOBILENETV3[size].split(","):
        kernel, expanded, out, se, swish, stride = map(int, unit.split())
        hidden, out = (make_divisible(each * width, 8) for each in (expanded, out))
        act: ActivationKind = "hard_swish" if swish else "relu"
        x = blocks.inverted(net, x, hidden, out, kernel, stride, act, se > 0, hidden != out)
    last = make_divisible((960 if size == "large" else 576) * max(width, 1.0), 8)
    x = net.op(GlobalPool(), net.conv(x, last, act="hard_swish"))
    x = net.act(net.bare(x, 1280), "hard_swish")
    net.op(Flatten(), net.biased(x, net.classes, act="none"))


def proxylessnas(net: Layers, name: str) -> None:
    """ProxylessNAS (Cai et al., 2019)."""
    widths, stages = PROXYLESSNAS[name]
    stem, *outs, last = map(int, widths.split())
    x = net.conv(0, stem, 3, 2, "relu6")
    for out, units, stride in zip(outs, stages.split(), (1, 2, 2, 2, 1, 2, 1), strict=True):
        for expansion, kernel in zip(map(int, units[::2]), map(int, units[1::2]), strict=True):
            hidden = net.width(x) * expansion
            x = blocks.inverted(net, x, hidden, out, kernel, stride, expand=expansion > 1)
            stride = 1
    net.classify(net.conv(x, last, act="relu6"))


def _resnet(
    net: Layers, name: str, width: float = 1.0, pre: bool = False, se: bool = False
) -> None:
    """ResNet and its variants. The last unit of a narrow one keeps its full width."""
    units, deep = [int(count) for count in RESNETS[name]], "bc" in name
    x = net.pool(net.conv(0, int(64 * width), 7, 2))
    for number, (stage, stride) in enumerate(blocks.strides(units), 1):
        wide = 64 * 2**stage * (4 if deep else 1)
        out = wide if number == sum(units) else int(wide * width)
        middle, reduced = out // 4 if deep else 0, out // 16 if se else 0
        deep_body = partial(blocks.bottleneck, net, middle, out, stride)
        body = deep_body if deep else partial(blocks.basic, net, out, stride, reduced)
        if pre:
            x = blocks.preactivated(net, x, out, stride, middle, reduced)
        else:
            x = blocks.residual(net, x, out, stride, body)
    net.classify(net.norm(x) if pre else x)


def _resnext(net: Layers, units: int, groups: int) -> None:
    """ResNeXt (Xie et al., 2017) with groups of 4 maps in the first stage."""
    x = net.pool(net.conv(0, 64, 7, 2))
    for stage, stride in blocks.strides([units] * 4):
        out, middle = 256 * 2**stage, 4 * groups * 2**stage
        body = partial(blocks.bottleneck, net, middle, out, stride, groups=groups)
        x = blocks.residual(net, x, out, stride, body)
    net.classify(x)


def _regnet(net: Layers, name: str) -> None:
    """RegNet (Radosavovic et al., 2020), equations 2 to 4; with SE where the name says y."""
    first, slope, ratio, depth, group = REGNETS[name]
    steps = np.round(np.log(np.arange(depth) * slope / first + 1) / np.log(ratio))
    widths, units = np.unique(np.round(first * ratio**steps / 8) * 8, return_counts=True)
    x = net.conv(0, 32, 3, 2)
    for stage, stride in blocks.strides(units.tolist(), first=2):
        groups = round(widths[stage] / group)
        out, se = groups * group, net.width(x) // 4 if "y" in name else 0
        body = partial(blocks.bottleneck, net, out, out, stride, groups=groups, se=se)
        x = blocks.residual(net, x, out, stride, body)
    net.classify(x)


def _squeezenet(net: Layers, name: str, add: bool = False) -> None:
    """SqueezeNet (Iandola et al., 2016)."""
    kernel, stem, stages = SQUEEZENETS[name]
    x = net.unpadded(0, stem, kernel, 2)
    for outs in stages:
        x = net.ceil_pool(x)
        for out in outs:
            y = net.biased(x, out // 8)
            y = net.op(Concat(), net.biased(y, out // 2), net.biased(y, out // 2, 3))
            x = net.op(Add(), y, x) if add and net.width(x) == out else y
    net.op(Flatten(), net.op(GlobalPool(), net.biased(x, net.classes)))


def _densenet(net: Layers, units: Sequence[int]) -> None:
    """DenseNet (Huang et al., 2017) that grows by 32 maps per unit."""
    x = net.pool(net.conv(0, 64, 7, 2))
    for stage, count in enumerate(units):
        x = net.halve(net.bare(net.norm(x), net.width(x) // 2)) if stage else x
        for _ in range(count):
            y = net.norm(net.bare(net.norm(x), 128))
            x = net.op(Concat(), x, net.bare(y, 32, 3))
    net.classify(net.norm(x))


def _vovnet27s(net: Layers) -> None:
    x = net.conv(net.conv(net.conv(0, 64, 3, 2), 64, 3), 128, 3, 2)
    for stage, (out, branch) in enumerate(((128, 64), (256, 80), (384, 96), (512, 112))):
        x = blocks.one_shot(net, net.ceil_pool(x) if stage else x, branch, out)
    net.classify(x)


def _diracnet18v2(net: Layers) -> None:
    """DiracNet (Zagoruyko et al., 2017), with ReLUs before, not after, the pools: either fuses."""
    x = net.pool(net.biased(0, 64, 7, 2))
    for stage in range(4):
        x = net.op(MaxPool(kernel=2, stride=2), x) if stage else x
        for _ in range(4):
            x = net.biased(x, 64 * 2**stage, 3)
    net.classify(x)


def _peleenet(net: Layers) -> None:
    x = net.conv(0, 32, 3, 2)
    y = net.conv(net.conv(x, 16), 32, 3, 2)
    x = net.conv(net.op(Concat(), y, net.op(MaxPool(kernel=2, stride=2), x)), 32)
    for stage, (units, middle) in enumerate(((3, 16), (4, 32), (8, 64), (6, 64))):
        x = net.halve(net.conv(x, net.width(x))) if stage else x
        for _ in range(units):
            x = blocks.two_way(net, x, middle)
    net.classify(net.conv(x, net.width(x)))


def _hardnet(net: Layers, name: str) -> None:
    stem, growth, stages = HARDNETS[name]
    x = net.conv(net.conv(0, stem // 2, 3, 2, "relu6"), stem, act="relu6")
    x = net.depthwise(x, 3, 2, "none")
    for stage in stages.split(","):
        layers, out, rate, stride = map(int, stage.split())
        x = blocks.hard_block(net, x, layers, out, rate, growth)
        x = net.depthwise(x, 3, 2, "none") if stride == 2 else x
    net.classify(x)


def _bninception(net: Layers) -> None:
    x = net.ceil_pool(net.conv(0, 64, 7, 2, bias=True))
    x = net.ceil_pool(net.conv(net.conv(x, 64, bias=True), 192, 3, bias=True))
    for at, widths in enumerate(BN_INCEPTION, 1):
        pool = AvgPool(kernel=3) if at < len(BN_INCEPTION) else MaxPool(kernel=3)
        x = blocks.inception(net, x, [int(width) for width in widths.split()], pool)
    net.classify(x)


def _dla46c(net: Layers) -> None:
    x = net.conv(net.conv(net.conv(0, 16, 7), 16, 3), 32, 3, 2)
    for stage, (levels, out) in enumerate(((1, 64), (2, 64), (2, 128), (1, 256))):
        down = net.op(MaxPool(kernel=2, stride=2), x)
        x = blocks.tree(net, x, down, levels, out, 2, [down] if stage else [])
    net.op(Flatten(), net.biased(net.op(GlobalPool(), x), net.classes, act="none"))


def _at(widths: str, name: str, build: Callable[..., None]) -> dict[str, Callable[[Layers], None]]:
    return {f"{name}_{width}": partial(build, width=WIDTHS[width]) for width in widths.split()}


_THREE, _FOUR, _FIVE = "w3d4 wd2 wd4", "w1 w3d4 wd2 wd4", "w5d4 w1 w3d4 wd2 w7d20"
_NETWORKS: dict[str, Callable[[Layers], None]] = {
    **_at(_FOUR, "mobilenet", partial(_mobilenet, stages=MOBILENET)),
    **_at(_FOUR, "mobilenetb", partial(_mobilenet, stages=MOBILENET, simple=True)),
    **_at(_FOUR, "fdmobilenet", partial(_mobilenet, stages=FD_MOBILENET, first=2)),
    **_at(_FOUR, "mobilenetv2", partial(_mobilenetv2, expand=True)),
    **_at(_FOUR, "mobilenetv2b", partial(_mobilenetv2, expand=False)),
    **_at(_FIVE, "mobilenetv3_small", partial(_mobilenetv3, size="small")),
    **_at(_FIVE, "mobilenetv3_large", partial(_mobilenetv3, size="large")),
    **_at(_THREE, "resnet18", partial(_resnet, name="18")),
    **_at(_THREE, "preresnet18", partial(_resnet, name="18", pre=True)),
    **{f"resnet{name}": partial(_resnet, name=name) for name in RESNETS},
    **{f"preresnet{name}": partial(_resnet, name=name, pre=True) for name in RESNETS},
    **{f"seresnet{name}": partial(_resnet, name=name, se=True) for name in SHALLOW},
    **{f"sepreresnet{name}": partial(_resnet, name=name, pre=True, se=True) for name in SHALLOW},
    **{f"resnext14_{each}x4d": partial(_resnext, units=1, groups=each) for each in (16, 32)},
    **{f"resnext26_{each}x4d": partial(_resnext, units=2, groups=each) for each in (16, 32)},
    **{f"regnet{name}": partial(_regnet, name=name) for name in REGNETS},
    **{f"proxylessnas_{name}": partial(proxylessnas, name=name) for name in PROXYLESSNAS},
    **{f"squeezenet_{name}": partial(_squeezenet, name=name) for name in SQUEEZENETS},
    **{f"squeezeresnet_{name}": partial(_squeezenet, name=name, add=True) for name in SQUEEZENETS},
    **{f"hardnet{name}": partial(_hardnet, name=name) for name in HARDNETS},
    "densenet121": partial(_densenet, units=(6, 12, 24, 16)),
    "densenet169": partial(_densenet, units=(6, 12, 32, 32)),
    "bninception": _bninception,
    "diracnet18v2": _diracnet18v2,
    "dla46c": _dla46c,
    "peleenet": _peleenet,
    "vovnet27s": _vovnet27s,
}
