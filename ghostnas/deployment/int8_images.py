"""Chooses the images that int8 takes its ranges from: not those on which the network explodes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ghostnas.arrays import Array
from ghostnas.backends.torch_module import net_of
from ghostnas.data.images import Source, subset
from ghostnas.data.loader import normaliser, test_batches
from ghostnas.errors import InputError
from ghostnas.ir.graph import Graph, Weights
from ghostnas.ir.preprocessing import Preprocessing

# Of 256 images of CIFAR-10-JPEG, 9 made maps of a MobileNetV3 0.5x after 5 short epochs 22 to 195
# times as large as the median image does, the others at most 4.3. With the 9, its int8 files lost
# 3.2 and 5.2 points of accuracy on 2,000 images, without them 0.2 and 0.1. With GhostNet, none did.
MOST_TIMES = 10
BATCH = 16
IMAGES = 256
SEED = 0


def draw(source: Source, count: int, size: int, expected: Preprocessing) -> Array:
    """A fixed sample of the images as a network takes them, (n, 3, size, size).

    Raises:
        InputError: none of them can be read.
    """
    drawn, _ = subset(source, count, SEED)
    batches = test_batches(drawn, batch_size=len(drawn), size=size)
    images, _ = next(batches, (None, None))
    if images is None:
        raise InputError(f"none of the {len(drawn)} images for int8 can be read")
    inputs: Array = normaliser(expected, images.device)(images).contiguous().numpy()
    return inputs


def without_explosions(graph: Graph, weights: Weights, images: Array) -> Array:
    """Those of `images` (n, 3, height, width) on which no convolution outputs a number of more than
    MOST_TIMES its magnitude for the median image, which would widen its range for all others.

    Raises:
        InputError: the network outputs numbers that are not finite.
    """
    largest: list[Tensor] = []

    def look(module: nn.Module, inputs: object, output: Tensor) -> None:
        largest.append(output.abs().flatten(1).amax(1))

    net = net_of(graph, weights)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(look)
    rows = []
    with torch.inference_mode():
        for at in range(0, len(images), BATCH):
            largest.clear()
            net(torch.from_numpy(images[at : at + BATCH].astype(np.float32)))
            rows.append(torch.stack(largest, 1).numpy())
    magnitudes = np.concatenate(rows)  # (images, convolutions)
    if not np.isfinite(magnitudes).all():
        raise InputError("the weights give maps that are not finite")
    calm: Array = (magnitudes <= MOST_TIMES * np.median(magnitudes, axis=0)).all(1)
    kept: Array = images[calm]
    return kept
