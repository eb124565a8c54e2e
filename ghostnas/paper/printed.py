"""What the GhostNet paper prints (Han et al., CVPR 2020, arXiv 1911.11907), and for each row which
network of this project it is; nothing here was measured.

Weights and FLOPs are in millions, accuracies in percent; None where the paper has a dash.
"""

from __future__ import annotations

from dataclasses import dataclass

from ghostnas.paper.subjects import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """A row: `subject` is None for a network that this project has no description of.

    `note` says where and why the published network differs from the printed figure.
    """

    label: str
    params: str | None = None
    macs: str | None = None
    top1: float | None = None
    top5: float | None = None
    subject: Subject | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A row of table 1: the input's size and channels, and the layer."""

    operator: str
    size: int
    channels: int
    expansion: int | None
    out: int | None
    se: bool
    stride: int | None


def _layers() -> tuple[Layer, ...]:
    bottlenecks = (
        *((112, 16, 16, 16, 0, 1), (112, 16, 48, 24, 0, 2), (56, 24, 72, 24, 0, 1)),
        *((56, 24, 72, 40, 1, 2), (28, 40, 120, 40, 1, 1), (28, 40, 240, 80, 0, 2)),
        *((14, 80, 200, 80, 0, 1), (14, 80, 184, 80, 0, 1), (14, 80, 184, 80, 0, 1)),
        *((14, 80, 480, 112, 1, 1), (14, 112, 672, 112, 1, 1), (14, 112, 672, 160, 1, 2)),
        *((7, 160, 960, 160, 0, 1), (7, 160, 960, 160, 1, 1), (7, 160, 960, 160, 0, 1)),
        (7, 160, 960, 160, 1, 1),
    )

    def layer(name: str, size: int, channels: int, out: int | None, stride: int | None) -> Layer:
        return Layer(
            operator=name,
            size=size,
            channels=channels,
            expansion=None,
            out=out,
            se=False,
            stride=stride,
        )

    return (
        layer("Conv2d 3x3", 224, 3, 16, 2),
        *(
            Layer(
                operator="G-bneck",
                size=size,
                channels=channels,
                expansion=expansion,
                out=out,
                se=bool(se),
                stride=stride,
            )
            for size, channels, expansion, out, se, stride in bottlenecks
        ),
        layer("Conv2d 1x1", 7, 160, 960, 1),
        layer("AvgPool 7x7", 7, 960, None, None),
        layer("Conv2d 1x1", 1, 960, 1280, 1),
        layer("FC", 1, 1280, 1000, None),
    )


TABLE1 = _layers()
# Mean squared errors in thousandths of the pairs of figure 1, by d.
TABLE2 = {
    "red pair": {1: 4.0, 3: 3.3, 5: 3.3, 7: 3.2},
    "green pair": {1: 25.0, 3: 24.3, 5: 24.1, 7: 23.9},
    "blue pair": {1: 12.1, 3: 11.2, 5: 11.1, 7: 11.0},
}


def _vgg(s: int | None, d: int, label: str, params: str, macs: str, top1: float) -> Printed:
    return Printed(
        label=label,
        params=params,
        macs=macs,
        top1=top1,
        subject=Subject(network="vgg16", s=s, d=d),
    )


_VGG16 = _vgg(None, 3, "VGG-16", "15.0", "313", 93.6)
TABLE3 = (
    _VGG16,
    _vgg(2, 1, "d = 1", "7.6", "157", 93.5),
    _vgg(2, 3, "d = 3", "7.7", "158", 93.7),
    _vgg(2, 5, "d = 5", "7.7", "160", 93.4),
    _vgg(2, 7, "d = 7", "7.7", "163", 93.1),
)
TABLE4 = (
    _VGG16,
    _vgg(2, 3, "s = 2", "7.7", "158", 93.7),
    _vgg(3, 3, "s = 3", "5.2", "107", 93.4),
    _vgg(4, 3, "s = 4", "4.0", "80", 93.0),
    _vgg(5, 3, "s = 5", "3.3", "65", 92.9),
)
_OPTION_B = (
    "counted with 1x1 convolutions in the two shortcuts that change shape; zeros there instead "
    "(option A of He et al., 2016) are 2,752 parameters and 0.26 M fewer"
)
TABLE5 = (
    _vgg(None, 3, "VGG-16", "15", "313", 93.6),
    Printed(label="l1-VGG-16", params="5.4", macs="206", top1=93.4),
    Printed(label="SBP-VGG-16", macs="136", top1=92.5),
    _vgg(2, 3, "Ghost-VGG-16 (s=2)", "7.7", "158", 93.7),
    Printed(
        label="ResNet-56",
        params="0.85",
        macs="125",
        top1=93.0,
        subject=Subject(network="resnet56"),
        note=_OPTION_B,
    ),
    Printed(label="CP-ResNet-56", macs="63", top1=92.0),
    Printed(label="l1-ResNet-56", params="0.73", macs="91", top1=92.5),
    Printed(label="AMC-ResNet-56", macs="63", top1=91.9),
    Printed(
        label="Ghost-ResNet-56 (s=2)",
        params="0.43",
        macs="63",
        top1=92.7,
        subject=Subject(network="ghost-resnet56"),
        note="half of ResNet-56's FLOPs are 63 M, which leaves nothing for the ghosts themselves",
    ),
)
TABLE6 = (
    Printed(
        label="ResNet-50",
        params="25.6",
        macs="4100",
        top1=75.3,
        top5=92.2,
        subject=Subject(network="resnet50"),
    ),
    Printed(label="Thinet-ResNet-50", params="16.9", macs="2600", top1=72.1, top5=90.3),
    Printed(label="NISP-ResNet-50-B", params="14.4", macs="2300", top5=90.8),
    Printed(label="Versatile-ResNet-50", params="11.0", macs="3000", top1=74.5, top5=91.8),
    Printed(label="SSS-ResNet-50", macs="2800", top1=74.2, top5=91.9),
    Printed(
        label="Ghost-ResNet-50 (s=2)",
        params="13.0",
        macs="2200",
        top1=75.0,
        top5=92.3,
        subject=Subject(network="ghost-resnet50"),
        note="with the classifier a Ghost module too, as the printed weights need",
    ),
    Printed(label="Shift-ResNet-50", params="6.0", top1=70.6, top5=90.1),
    Printed(label="Taylor-FO-BN-ResNet-50", params="7.9", macs="1300", top1=71.7),
    Printed(label="Slimmable-ResNet-50 0.5x", params="6.9", macs="1100", top1=72.1),
    Printed(label="MetaPruning-ResNet-50", macs="1000", top1=73.4),
    Printed(
        label="Ghost-ResNet-50 (s=4)",
        params="6.5",
        macs="1200",
        top1=74.1,
        top5=91.9,
        subject=Subject(network="ghost-resnet50-s4"),
        note="with the classifier a Ghost module too; why 0.1 M weights more is not known",
    ),
)


def _mobile(
    label: str,
    network: str | None,
    width: float,
    params: str,
    macs: str,
    top1: float,
    top5: float | None,
    note: str = "",
) -> Printed:
    return Printed(
        label=label,
        params=params,
        macs=macs,
        top1=top1,
        top5=top5,
        subject=Subject(network=network, width=width) if network else None,
        note=note,
    )


_V3_WIDTH = (
    "its paper's table of layers, widths rounded as in the released code, counts fewer; the "
    "printed figure is its authors'"
)
_SHUFFLENETV2 = "parameters agree; the printed FLOPs are its authors' own, 1 % above ours"
TABLE7 = (
    _mobile("ShuffleNetV1 0.5x (g=8)", "shufflenetv1-g8", 0.5, "1.0", "40", 58.8, 81.0),
    _mobile("MobileNetV2 0.35x", "mobilenetv2", 0.35, "1.7", "59", 60.3, 82.9),
    _mobile("ShuffleNetV2 0.5x", "shufflenetv2", 0.5, "1.4", "41", 61.1, 82.6),
    _mobile(
        *("MobileNetV3-S 0.75x", "mobilenetv3-small", 0.75, "2.4", "44", 65.4, None, _V3_WIDTH)
    ),
    _mobile("GhostNet 0.5x", "ghostnet", 0.5, "2.6", "42", 66.2, 86.6),
    _mobile("MobileNetV1 0.5x", "mobilenetv1", 0.5, "1.3", "150", 63.3, 84.9),
    _mobile(
        *("MobileNetV2 0.6x", "mobilenetv2", 0.6, "2.2", "141", 66.7, None),
        "widths rounded to multiples of 8, as in the released code; no rounding we tried gives "
        "141 M: widths cut to whole numbers give 118",
    ),
    _mobile("ShuffleNetV1 1.0x (g=3)", "shufflenetv1-g3", 1.0, "1.9", "138", 67.8, 87.7),
    _mobile(*("ShuffleNetV2 1.0x", "shufflenetv2", 1.0, "2.3", "146", 69.4, 88.9, _SHUFFLENETV2)),
    _mobile(
        *("MobileNetV3-L 0.75x", "mobilenetv3-large", 0.75, "4.0", "155", 73.3, None, _V3_WIDTH)
    ),
    _mobile("GhostNet 1.0x", "ghostnet", 1.0, "5.2", "141", 73.9, 91.4),
    _mobile("MobileNetV2 1.0x", "mobilenetv2", 1.0, "3.5", "300", 71.8, 91.0),
    _mobile(*("ShuffleNetV2 1.5x", "shufflenetv2", 1.5, "3.5", "299", 72.6, 90.6, _SHUFFLENETV2)),
    _mobile("FE-Net 1.0x", None, 1.0, "4.0", "301", 72.9, None),
    _mobile(
        *("FBNet-B", "fbnet-b", 1.0, "4.5", "295", 74.1, None),
        "as its authors released it, which is not what they printed",
    ),
    _mobile("ProxylessNAS", "proxylessnas-mobile", 1.0, "4.1", "320", 74.6, 92.2),
    _mobile("MnasNet-A1", "mnasnet-a1", 1.0, "3.9", "312", 75.2, 92.5),
    _mobile(
        *("MobileNetV3-L 1.0x", "mobilenetv3-large", 1.0, "5.4", "219", 75.2, None),
        "the released network has 217 M, which its authors state later; 219 is from their paper",
    ),
    _mobile(
        *("GhostNet 1.3x", "ghostnet", 1.3, "7.3", "226", 75.7, 92.7),
        "as its authors' code counts: 227.0 M",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """A row of table 8: mean average precision on COCO's minival, in percent."""

    framework: str
    backbone: str
    macs: str
    map: float
    subject: Subject


def _detector(framework: str, backbone: str, subject: Subject, macs: str, found: float) -> Detector:
    return Detector(framework=framework, backbone=backbone, macs=macs, map=found, subject=subject)


_V2, _V3 = Subject(network="mobilenetv2"), Subject(network="mobilenetv3-large")
_GHOST = Subject(network="ghostnet", width=1.1)
TABLE8 = (
    _detector("RetinaNet", "MobileNetV2 1.0x", _V2, "300", 26.7),
    _detector("RetinaNet", "MobileNetV3 1.0x", _V3, "219", 26.4),
    _detector("RetinaNet", "GhostNet 1.1x", _GHOST, "164", 26.6),
    _detector("Faster R-CNN", "MobileNetV2 1.0x", _V2, "300", 27.5),
    _detector("Faster R-CNN", "MobileNetV3 1.0x", _V3, "219", 26.9),
    _detector("Faster R-CNN", "GhostNet 1.1x", _GHOST, "164", 26.9),
)
