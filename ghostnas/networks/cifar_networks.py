"""Networks for CIFAR's images as graphs: VGG-16, ResNet-56 and the ResNet-9 of Picard (2021).

They are not `Arch`es: none can be searched. `width` scales their channels.
"""

from __future__ import annotations

from collections.abc import Callable

from ghostnas.ir.graph import Add, Dense, Flatten, GlobalPool, Graph, MaxPool
from ghostnas.networks import classic_blocks as blocks
from ghostnas.networks.classic_blocks import Layers
from ghostnas.networks.ghostify import ghostify

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
RESNET_STAGES = (16, 32, 64)


def vgg16(width: float = 1.0, resolution: int = 32, classes: int = 10) -> Graph:
    """VGG-16 (Simonyan and Zisserman, 2015) as usual on CIFAR-10 (Zagoruyko, 2015): batch norm
    after every convolution, and a hidden layer of 512, with batch norm too, in the classifier.

    The paper's 15.0 M parameters and 313 M multiply-accumulates need that hidden layer.
    """
    net = Layers((3, resolution, resolution))
    x = 0
    for stage in VGG16:
        for maps in stage:
            x = net.conv(x, _scaled(maps, width), 3)
        x = net.op(MaxPool(kernel=2, stride=2), x)
    x = net.op(GlobalPool(), x) if net.shape(x)[1] > 1 else x
    x = net.conv(x, _scaled(512, width), bias=True)
    return _classified(net, x, classes)


def resnet56(width: float = 1.0, resolution: int = 32, classes: int = 10) -> Graph:
    """ResNet-56 (He et al., 2016, section 4.2), with a 1x1 convolution (their option B) where a
    shortcut changes its shape; they pad with zeros there (option A), which no op of ours does.
    """
    net = Layers((3, resolution, resolution))
    x = net.conv(0, _scaled(16, width), 3)
    for stage, stride in blocks.strides([9, 9, 9]):
        out = _scaled(RESNET_STAGES[stage], width)

        def body(y: int, out: int = out, stride: int = stride) -> int:
            return blocks.basic(net, out, stride, 0, y)

        x = blocks.residual(net, x, out, stride, body)
    return _classified(net, net.op(GlobalPool(), x), classes)


def resnet9(width: float = 1.0, resolution: int = 32, classes: int = 10) -> Graph:
    """The ResNet with 9 layers of Picard (2021, section 2): C3_64 - C3_128 - M2 - R[C3_128 -
    C3_128] - C3_256 - M2 - C3_256 - M2 - R[C3_256 - C3_256] - G1 - L10.

    C3_n is a 3x3 convolution of n maps with batch norm and ReLU, M2 takes the maximum of each 2x2,
    R[] adds what is in it to its input, G1 is a global pool (here the mean), L10 the classifier.
    """
    net = Layers((3, resolution, resolution))
    c64, c128, c256 = (_scaled(maps, width) for maps in (64, 128, 256))

    def pooled(x: int) -> int:
        return net.op(MaxPool(kernel=2, stride=2), x)

    def residual(x: int, maps: int) -> int:
        return net.op(Add(), net.conv(net.conv(x, maps, 3), maps, 3), x)

    x = pooled(net.conv(net.conv(0, c64, 3), c128, 3))
    x = pooled(net.conv(residual(x, c128), c256, 3))
    x = residual(pooled(net.conv(x, c256, 3)), c256)
    return _classified(net, net.op(GlobalPool(), x), classes)


def _scaled(maps: int, width: float) -> int:
    return max(1, round(maps * width))


def _classified(net: Layers, x: int, classes: int) -> Graph:
    x = net.op(Flatten(), x)
    net.op(Dense(in_features=net.width(x), out_features=classes), x)
    return net.build()


def _ghost_vgg16(width: float, resolution: int, classes: int) -> Graph:
    return ghostify(vgg16(width, resolution, classes))


def _ghost_resnet56(width: float, resolution: int, classes: int) -> Graph:
    return ghostify(resnet56(width, resolution, classes))


NETWORKS: dict[str, Callable[[float, int, int], Graph]] = {
    "vgg16": vgg16,
    "ghost-vgg16": _ghost_vgg16,
    "resnet56": resnet56,
    "ghost-resnet56": _ghost_resnet56,
    "resnet9": resnet9,
}
