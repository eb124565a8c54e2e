"""The named networks: published architectures at any width and resolution."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ghostnas.errors import InputError, did_you_mean
from ghostnas.ir.graph import Graph
from ghostnas.networks import cifar_networks, classics, imagenet_networks
from ghostnas.networks.arch import Arch, Head, Stage, Stem, fit_to, load, lower
from ghostnas.networks.blocks import (
    Block,
    GhostBlock,
    GhostV2Block,
    GhostV3Block,
    MBConv,
    RepGhostBlock,
    make_divisible,
)

# GhostNet, table 1, by feature-map size: kernel, #exp, #out, SE; each stage's stride comes first.
_GHOSTNET = (
    (1, ((3, 16, 16, 0.0),)),
    (2, ((3, 48, 24, 0.0), (3, 72, 24, 0.0))),
    (2, ((5, 72, 40, 0.25), (5, 120, 40, 0.25))),
    (
        2,
        (
            (3, 240, 80, 0.0),
            (3, 200, 80, 0.0),
            (3, 184, 80, 0.0),
            (3, 184, 80, 0.0),
            (3, 480, 112, 0.25),
            (3, 672, 112, 0.25),
        ),
    ),
    (
        2,
        (
            (5, 672, 160, 0.25),
            (5, 960, 160, 0.0),
            (5, 960, 160, 0.25),
            (5, 960, 160, 0.0),
            (5, 960, 160, 0.25),
        ),
    ),
)

# MobileNetV3-Large (Howard et al., 2019), table 1: kernel, #exp, #out, SE, hard-swish.
_MOBILENETV3_LARGE = (
    (1, ((3, 16, 16, 0, 0),)),
    (2, ((3, 64, 24, 0, 0), (3, 72, 24, 0, 0))),
    (2, ((5, 72, 40, 1, 0), (5, 120, 40, 1, 0), (5, 120, 40, 1, 0))),
    (
        2,
        (
            (3, 240, 80, 0, 1),
            (3, 200, 80, 0, 1),
            (3, 184, 80, 0, 1),
            (3, 184, 80, 0, 1),
            (3, 480, 112, 1, 1),
            (3, 672, 112, 1, 1),
        ),
    ),
    (2, ((5, 672, 160, 1, 1), (5, 960, 160, 1, 1), (5, 960, 160, 1, 1))),
)


def ghostnet(width: float = 1.0, resolution: int = 224, classes: int = 1000) -> Arch:
    """GhostNet (Han et al., 2020), every channel count except the 1,280 features times `width`."""
    return _like_ghostnet(lambda _: GhostBlock, width, resolution, classes)


def ghostnetv2(width: float = 1.0, resolution: int = 224, classes: int = 1000) -> Arch:
    """GhostNetV2 (Tang et al., 2022): GhostNet with attention from the third block on."""
    return _like_ghostnet(
        lambda position: GhostV2Block if position > 1 else GhostBlock, width, resolution, classes
    )


def ghostnetv3(width: float = 1.0, resolution: int = 224, classes: int = 1000) -> Arch:
    """GhostNetV3 (Liu et al., 2024) as in training, with its branches; attention as in V2."""
    return _like_ghostnet(
        lambda position: partial(GhostV3Block, attended=position > 1), width, resolution, classes
    )


def repghostnet(width: float = 1.0, resolution: int = 224, classes: int = 1000) -> Arch:
    """RepGhostNet (Chen et al., 2022) as in training, with its branches: between its Ghost modules
    half of GhostNet's channels, but 120 where GhostNet has 184.
    """
    return _like_ghostnet(lambda _: RepGhostBlock, width, resolution, classes, _repghost_hidden)


def _repghost_hidden(hidden: int) -> float:
    return 120 if hidden == 184 else hidden / 2


def _like_ghostnet(
    block_at: Callable[[int], Callable[..., Block]],
    width: float,
    resolution: int,
    classes: int,
    hidden_of: Callable[[int], float] = float,
) -> Arch:
    """The network of GhostNet's table with the block type of each position, counted from 0.

    `hidden_of` is the width between the block's modules for the table's.
    """
    stages: list[Stage] = []
    position = 0
    for stride, rows in _GHOSTNET:
        blocks: list[Block] = []
        for kernel, hidden, out, se_ratio in rows:
            block = block_at(position)(
                hidden_channels=make_divisible(hidden_of(hidden) * width),
                out_channels=make_divisible(out * width),
                kernel=kernel,
                stride=1 if blocks else stride,
                se_ratio=se_ratio,
            )
            blocks.append(block)
            position += 1
        stages.append(Stage(blocks=tuple(blocks)))
    return Arch(
        stem=Stem(channels=make_divisible(16 * width)),
        stages=tuple(stages),
        head=Head(channels=make_divisible(960 * width), features=1280),
        classes=classes,
        resolution=resolution,
    )


def mobilenetv3_large(width: float = 1.0, resolution: int = 224, classes: int = 1000) -> Arch:
    """MobileNetV3-Large (Howard et al., 2019); `width` leaves the 1,280 features as they are."""

    def scale(channels: int) -> int:
        return make_divisible(channels * width, 8)

    stages = []
    for stride, rows in _MOBILENETV3_LARGE:
        blocks = [
            MBConv(
                hidden_channels=scale(hidden),
                out_channels=scale(out),
                kernel=kernel,
                stride=stride if index == 0 else 1,
                se_channels=make_divisible(scale(hidden) / 4, 8) if se else 0,
                activation="hard_swish" if hard_swish else "relu",
            )
            for index, (kernel, hidden, out, se, hard_swish) in enumerate(rows)
        ]
        stages.append(Stage(blocks=tuple(blocks)))
    return Arch(
        stem=Stem(channels=scale(16), activation="hard_swish"),
        stages=tuple(stages),
        head=Head(channels=scale(960), features=1280, activation="hard_swish"),
        classes=classes,
        resolution=resolution,
    )


ZOO: dict[str, Callable[[float, int, int], Arch]] = {
    "ghostnet": ghostnet,
    "ghostnetv2": ghostnetv2,
    "ghostnetv3": ghostnetv3,
    "mobilenetv3-large": mobilenetv3_large,
    "repghostnet": repghostnet,
}


def _classic(name: str, width: float, resolution: int, classes: int) -> Graph:
    if width != 1.0:
        raise InputError(f"{name} has its width in its name; leave out --width")
    return classics.graph(name, resolution, classes)


# Networks that are no `Arch`: they can be counted, trained and predicted, but not searched.
GRAPHS: dict[str, Callable[[float, int, int], Graph]] = {
    **cifar_networks.NETWORKS,
    **imagenet_networks.NETWORKS,
    **{name: partial(_classic, name) for name in classics.names()},
}


# What a message lists; those of `classics`, with their widths in their names, are too many.
NAMED = sorted({*ZOO, *cifar_networks.NETWORKS, *imagenet_networks.NETWORKS})


def graph(
    name: str, width: float = 1.0, resolution: int | None = None, classes: int | None = None
) -> Graph:
    """The network of this name as a graph, whether it is an `Arch` or not.

    By default it is as published: for CIFAR's 10 classes at 32 pixels, or for ImageNet's 1,000 at
    224.

    Raises:
        InputError: there is no such network, or it does not come in that width or resolution.
    """
    known = {**ZOO, **GRAPHS}
    if name not in known:
        raise InputError(
            f"unknown network {name!r}; known: {', '.join(NAMED)}, and those of "
            f"ghostnas.networks.classics{did_you_mean(name, known)}"
        )
    small = name in cifar_networks.NETWORKS
    pixels, count = (32, 10) if small else (224, 1000)
    pixels, count = resolution or pixels, classes or count
    if name in GRAPHS:
        try:
            return GRAPHS[name](width, pixels, count)
        except ValueError as error:
            raise InputError(f"{name} does not run at {pixels} pixels, width {width:g}") from error
    return lower(fit_to(named(name, width), resolution=pixels, classes=count))


def named(name: str, width: float = 1.0, resolution: int = 224, classes: int = 1000) -> Arch:
    """The zoo's network of this name.

    Raises:
        InputError: the zoo has no such network.
    """
    if name not in ZOO:
        raise InputError(
            f"unknown network {name!r}; known: {', '.join(sorted(ZOO))}{did_you_mean(name, ZOO)}"
        )
    return ZOO[name](width, resolution, classes)


def find(name: str, width: float | None = None, resolution: int | None = None) -> Arch:
    """The network of a zoo name, a .json file or a run folder: a search's best or a training's.

    Raises:
        InputError: there is no such network, or `width` is given for one that has its own.
    """
    path = Path(name)
    if name in ZOO:
        return named(name, width or 1.0, resolution or 224)
    if name in GRAPHS:
        raise InputError(
            f"{name} can be shown, and trained by ghostnas paper, but not searched, trained or "
            f"exported as an architecture; those are {', '.join(sorted(ZOO))}, a .json file or a "
            "run folder"
        )
    if width is not None:
        raise InputError(f"--width is for the named networks: {', '.join(sorted(ZOO))}")
    if path.is_dir():
        held = [path / file for file in ("best.json", "arch.json") if (path / file).exists()]
        if not held:
            raise InputError(
                f"{path}: holds neither a finished search (best.json) nor a training (arch.json)"
            )
        path = held[0]
    elif path.suffix != ".json":
        known = ", ".join(sorted(ZOO))
        raise InputError(
            f"unknown network {name!r}: {known}, a .json file or a run folder"
            f"{did_you_mean(name, ZOO)}"
        )
    arch = load(path)
    if resolution is not None:
        arch = fit_to(arch, resolution=resolution, classes=arch.classes)
    return arch
