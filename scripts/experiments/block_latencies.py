"""What each choice of block buys on one target: predicted latency at equal multiply-accumulates.

GhostNet's table 1 (`ghostnas.networks.zoo.ghostnet`) with one choice throughout: s of the Ghost
modules and how their cheap maps are made, another block, or another attention. The width multiplier
is the one that comes nearest to GhostNet's MACs. It trains nothing, so it says nothing of accuracy.

    python block_latencies.py --target arm
    python block_latencies.py --target arm --random 2000
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ghostnas.ir import cost
from ghostnas.latency import table
from ghostnas.latency.predictor import Predictor
from ghostnas.networks import space, zoo
from ghostnas.networks.arch import Arch, Stage, lower
from ghostnas.networks.blocks import Block, GhostBlock, GhostV2Block, MBConv, RepGhostBlock
from ghostnas.networks.blocks.layers import efficient_attention_kernel, make_divisible

WIDTHS = [step / 100 for step in range(20, 301)]
NEAR = 0.05  # random networks count within this share of GhostNet's MACs


def ghost(block: GhostBlock, *, ratio: int, split: bool) -> Block:
    return replace(block, ghost_ratio=ratio, split=split and ratio > 2)


def unattended(block: GhostBlock) -> Block:
    return replace(block, se_ratio=0.0)


def squeezed(block: GhostBlock) -> Block:
    return replace(block, se_ratio=0.25)


def efficient(block: GhostBlock) -> Block:
    kernel = efficient_attention_kernel(block.hidden_channels)
    return replace(block, se_ratio=0.0, eca_kernel=kernel)


def mobile(block: GhostBlock) -> Block:
    hidden = block.hidden_channels
    return MBConv(
        hidden_channels=hidden,
        out_channels=block.out_channels,
        kernel=block.kernel,
        stride=block.stride,
        se_channels=make_divisible(hidden * block.se_ratio, 8) if block.se_ratio else 0,
        activation="relu",
    )


def version_2(block: GhostBlock) -> Block:
    return GhostV2Block(
        hidden_channels=block.hidden_channels,
        out_channels=block.out_channels,
        kernel=block.kernel,
        stride=block.stride,
        se_ratio=block.se_ratio,
    )


def rep(block: GhostBlock) -> Block:
    return RepGhostBlock(
        hidden_channels=make_divisible(block.hidden_channels / 2),
        out_channels=block.out_channels,
        kernel=block.kernel,
        stride=block.stride,
        se_ratio=block.se_ratio,
    )


def ratio(s: int, *, split: bool) -> Callable[[GhostBlock], Block]:
    return lambda block: ghost(block, ratio=s, split=split)


CHOICES: Mapping[str, Callable[[GhostBlock], Block]] = {
    "ghost, s = 1": ratio(1, split=False),
    "ghost, s = 2 (GhostNet)": ratio(2, split=False),
    "ghost, s = 3": ratio(3, split=False),
    "ghost, s = 3, split": ratio(3, split=True),
    "ghost, s = 4": ratio(4, split=False),
    "ghost, s = 4, split": ratio(4, split=True),
    "ghost, s = 5": ratio(5, split=False),
    "ghost, s = 5, split": ratio(5, split=True),
    "mbconv": mobile,
    "ghostv2, ghostv3": version_2,
    "repghost": rep,
    "ghost, no attention": unattended,
    "ghost, SE everywhere": squeezed,
    "ghost, ECA everywhere": efficient,
}


def network(width: float, change: Callable[[GhostBlock], Block]) -> Arch:
    """GhostNet at a width with each block changed."""
    arch = zoo.ghostnet(width)
    stages = []
    for stage in arch.stages:
        ghosts = [block for block in stage.blocks if isinstance(block, GhostBlock)]
        stages.append(Stage(blocks=tuple(map(change, ghosts))))
    return replace(arch, stages=tuple(stages))


def macs_of(arch: Arch) -> int:
    return cost.count(lower(arch)).macs


def nearest(change: Callable[[GhostBlock], Block], macs: int) -> tuple[float, Arch]:
    """The width multiplier whose network comes nearest to `macs`, and that network."""
    low, high = 0, len(WIDTHS) - 1
    while low < high:
        middle = (low + high) // 2
        if macs_of(network(WIDTHS[middle], change)) < macs:
            low = middle + 1
        else:
            high = middle
    widths = WIDTHS[max(low - 1, 0) : low + 1]
    archs = [(width, network(width, change)) for width in widths]
    return min(archs, key=lambda each: abs(macs_of(each[1]) - macs))


def print_table(predictor: Predictor, macs: int) -> None:
    print(f"{'choice':26}{'width':>6}{'MFLOPs':>8}{'Mparams':>9}{'ms':>7}{'from':>7}{'to':>7}")
    for name, change in CHOICES.items():
        width, arch = nearest(change, macs)
        counts, found = cost.count(lower(arch)), predictor.predict(arch)
        print(
            f"{name:26}{width:6.2f}{counts.macs / 1e6:8.1f}{counts.params / 1e6:9.2f}"
            f"{found.latency_ms:7.2f}{found.low_ms:7.2f}{found.high_ms:7.2f}"
        )


def print_best(predictor: Predictor, macs: int, names: Sequence[str], count: int) -> None:
    """Of random networks of each space with about so many MACs, the fastest and the median."""
    for name in names:
        searched, rng = space.load(name).pin(resolution=224), random.Random(0)
        found: list[float] = []
        while len(found) < count:
            arch = searched.decode(searched.sample(rng))
            if abs(macs_of(arch) / macs - 1) <= NEAR:
                found.append(predictor.predict(arch).latency_ms)
        found.sort()
        print(
            f"{name}: {count} random networks of {macs / 1e6:.0f} MFLOPs +- {NEAR:.0%}: fastest "
            f"{found[0]:.2f} ms, fastest hundredth {found[count // 100]:.2f} ms, median "
            f"{found[count // 2]:.2f} ms"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="arm")
    parser.add_argument("--random", type=int, metavar="N", help="networks of each space instead")
    parser.add_argument("--spaces", nargs="+", default=["ghostnet", "ghostnet-wide"])
    asked = parser.parse_args()
    predictor = Predictor(table.load(asked.target))
    macs = macs_of(zoo.ghostnet())
    if asked.random:
        print_best(predictor, macs, asked.spaces, asked.random)
    else:
        print_table(predictor, macs)


if __name__ == "__main__":
    main()
