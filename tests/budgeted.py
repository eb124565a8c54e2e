"""Shared by tests of the search: small spaces, and what fits into a budget there."""

from __future__ import annotations

import functools
import math

from ghostnas.ir import cost
from ghostnas.nas.feasible import FeasibleSet
from ghostnas.networks import space
from ghostnas.networks.arch import Arch, lower, lower_part
from ghostnas.networks.space import Space

SPACE = space.parse(
    """
block = "ghost"
alpha = [1.0, 0.5, 0.75, 1.5]
resolution = [32, 24, 16]
round_to = 4
stem = {channels = 8}
head = {channels = 16, features = 32}

[[group]]
stride = 1
depth = [1, 2]
width = 8
expansion = [2, 3]
se = [0, 0.25]
ghost_ratio = [2, 1]
cheap_kernel = 3
kernel = 3

[[group]]
stride = 2
depth = [2, 1, 3]
width = [16, 12, 24]
expansion = [3, 2, 4]
se = 0
ghost_ratio = 2
cheap_kernel = [3, 5]
kernel = [3, 5]
""",
    "small",
    "small.toml",
)
TINY = SPACE.pin(
    **{name: options[0] for name, options in SPACE.choices.items() if name.startswith("group1")},
    **{"group2.cheap_kernel": 3, "group2.kernel": 3, "group2.depth": 1, "group2.expansion": 2},
    resolution=16,
)
# MACs: about 100, 2,000 and most of the 19,584 networks of SPACE fit.
TIGHTEST, TIGHT, LOOSE = 58_400, 100_000, 500_000


@functools.cache
def macs(arch: Arch) -> int:
    return cost.count(lower(arch)).macs


def feasible(searched: Space = SPACE, limit: float = LOOSE) -> FeasibleSet:
    """The networks of a space within a number of multiply-accumulates."""
    return FeasibleSet(
        searched,
        lambda part: [cost.count(lower_part(part)).macs / limit],
        lambda arch: [macs(arch) / limit],
        1,
        True,
        lambda arch: macs(arch) / limit,
        lambda arch: (math.log(macs(arch)),),
    )
