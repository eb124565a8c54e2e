"""Plain GhostNet as a search's baseline: its widths, and the largest that meets the budgets."""

from __future__ import annotations

from ghostnas.nas.constraints import Constraints
from ghostnas.networks.arch import Arch, fit_to
from ghostnas.networks.zoo import ghostnet

WIDTHS = tuple(width / 20 for width in range(40, 1, -1))


def plain(width: float, resolution: int, classes: int, *, drop_strides: bool) -> Arch:
    """GhostNet for images of this size; with `drop_strides`, some as `fit_to` drops them."""
    arch = ghostnet(width, resolution, classes)
    return fit_to(arch, resolution=resolution, classes=classes) if drop_strides else arch


def largest(
    constraints: Constraints, resolution: int, classes: int, *, drop_strides: bool
) -> tuple[str, Arch] | None:
    """The name and the network of the largest width that meets the budgets; None if none does."""
    for width in WIDTHS:
        arch = plain(width, resolution, classes, drop_strides=drop_strides)
        if constraints.utilization(arch) <= 1:
            return f"GhostNet {width:g}x", arch
    return None
