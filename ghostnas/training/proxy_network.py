"""The two networks of a search: the deployment, to which budgets, latency and exported files refer,
and the proxy, which is trained to evaluate it. Decided here, and nowhere else.

A deployment is `published`, the network at the resolution and with the strides of the paper's
table 1 (224 px), or `data`, the network at the size of the data's own images, with its first
strides run as 1 if these are small. Both have the data's classes. The proxy is what a recipe
trains: the same network or, where the images are smaller than the deployment's input, one at their
size with fewer strides, whose weights then do not fit the deployment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ghostnas.errors import InputError
from ghostnas.ir import cost
from ghostnas.networks.arch import Arch, lower
from ghostnas.networks.space import Space
from ghostnas.training import splits
from ghostnas.training.splits import Split

PUBLISHED, DATA = "published", "data"
DEPLOYMENTS = (PUBLISHED, DATA)


def deployed_space(space: Space, deploy: str, resolution: int, images: Split) -> Space:
    """The space whose architectures are deployments.

    Args:
        deploy: one of `DEPLOYMENTS`.
        resolution: pixels that the deployment is pinned to, or 0. Without it, a space that searches
            the resolution is pinned to its first one if the images are smaller than its largest:
            no training could distinguish the others.

    Raises:
        InputError: `deploy` is unknown, or cannot be combined with a resolution.
    """
    if deploy not in DEPLOYMENTS:
        raise InputError(f"--deploy {deploy!r}: known are {', '.join(DEPLOYMENTS)}")
    space = dataclasses.replace(space, classes=len(images.preprocessing.classes))
    if deploy == DATA:
        if resolution:
            raise InputError(
                f"--deploy {DATA} uses the images' own {images.data_resolution} px: leave "
                f"--resolution {resolution} out, or use --deploy {PUBLISHED}"
            )
        return dataclasses.replace(space.pin(resolution=images.data_resolution), drop_strides=True)
    if resolution:
        return space.pin(resolution=resolution)
    options = space.choices.get("resolution", ())
    if options and images.resolution < max(map(int, options)):
        return space.pin(resolution=options[0])
    return space


def proxy_of(arch: Arch, images: Split) -> Arch:
    """The network that is trained to evaluate the deployment `arch`."""
    return splits.fit(arch, images)


def shares_weights(arch: Arch, proxy: Arch) -> bool:
    """Whether the weights of `proxy` fit `arch`: with the same strides, both are one network on
    images of the same or different sizes.
    """
    return dataclasses.replace(proxy, resolution=arch.resolution) == arch


def describe(arch: Arch) -> str:
    """A network's input and counts, which distinguish a deployment from its proxy."""
    strides = arch.dropped_strides
    dropped = f", {strides} stride{'s' * (strides > 1)} dropped" if strides else ""
    macs = cost.count(lower(arch)).macs
    return f"{arch.resolution} px{dropped}, {arch.classes} classes, {macs / 1e6:.1f} MFLOPs"


def to_json(arch: Arch) -> Mapping[str, Any]:
    """The properties of a network that differ between deployment and proxy."""
    return {
        "id": arch.id,
        "resolution": arch.resolution,
        "dropped_strides": arch.dropped_strides,
        "classes": arch.classes,
        "macs": cost.count(lower(arch)).macs,
    }
