"""The two networks of a search: the deployment, which budgets, latency and exported files mean, and
the proxy, which is trained to judge it. Decided here, and nowhere else.

A deployment is `published`, the network at the resolution and with the strides of the paper's
table 1 (224 px), or `data`, the network at the size of the data's own images, whose first strides
run as 1 where these are small. Both have the data's classes. The proxy is what a recipe trains of
it: the same network, or, where the images are smaller than the deployment's input, one at their
size with fewer strides, whose weights are then no weights of the deployment.
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
            the resolution is searched at its first one where the images are smaller than any
            larger: no training could tell the others apart.

    Raises:
        InputError: `deploy` is unknown, or does not go with a resolution.
    """
    if deploy not in DEPLOYMENTS:
        raise InputError(f"--deploy {deploy!r}: known are {', '.join(DEPLOYMENTS)}")
    space = dataclasses.replace(space, classes=len(images.preprocessing.classes))
    if deploy == DATA:
        if resolution:
            raise InputError(
                f"--deploy {DATA} is at the images' own {images.data_resolution} px: leave "
                f"--resolution {resolution} out, or take --deploy {PUBLISHED}"
            )
        return dataclasses.replace(space.pin(resolution=images.data_resolution), drop_strides=True)
    if resolution:
        return space.pin(resolution=resolution)
    options = space.choices.get("resolution", ())
    if options and images.resolution < max(options):
        return space.pin(resolution=options[0])
    return space


def proxy_of(arch: Arch, images: Split) -> Arch:
    """The network that is trained to judge the deployment `arch`."""
    return splits.fit(arch, images)


def shares_weights(arch: Arch, proxy: Arch) -> bool:
    """Whether the weights of `proxy` are weights of `arch`: the same strides run, so that both are
    one network on images of two sizes, or of one.
    """
    return dataclasses.replace(proxy, resolution=arch.resolution) == arch


def describe(arch: Arch) -> str:
    """A network's input and counts, as one tells a deployment from its proxy."""
    strides = arch.dropped_strides
    dropped = f", {strides} stride{'s' * (strides > 1)} dropped" if strides else ""
    macs = cost.count(lower(arch)).macs
    return f"{arch.resolution} px{dropped}, {arch.classes} classes, {macs / 1e6:.1f} MFLOPs"


def to_json(arch: Arch) -> Mapping[str, Any]:
    """What of a network differs between deployment and proxy."""
    return {
        "id": arch.id,
        "resolution": arch.resolution,
        "dropped_strides": arch.dropped_strides,
        "classes": arch.classes,
        "macs": cost.count(lower(arch)).macs,
    }
