"""The images that an export uses: some give int8 its ranges, others, labelled, judge each file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ghostnas.arrays import Array
from ghostnas.data.images import Dataset, Source, subset
from ghostnas.errors import InputError
from ghostnas.ir.graph import Graph, Weights
from ghostnas.ir.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

# Of 256 images of CIFAR-10-JPEG, 9 made maps of a MobileNetV3 0.5x after 5 short epochs 22 to 195
# times as large as the median image does, the others at most 4.3. With the 9, its int8 files lost
# 3.2 and 5.2 points of accuracy on 2,000 images, without them 0.2 and 0.1. With GhostNet, none did.
MOST_TIMES = 10
CALIBRATION_BATCH = 16  # of which the maps are looked at together
IMAGES = 256  # for int8, by default
BATCH = 50
SEED = 0  # of every draw


def draw(source: Source, count: int, size: int, expected: Preprocessing) -> Array:
    """A fixed sample of the images as a network takes them, (n, 3, size, size).

    Raises:
        InputError: none of them can be read.
    """
    from ghostnas.data.loader import normaliser, test_batches

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
    import torch
    from torch import nn

    from ghostnas.backends.torch_module import net_of

    largest: list[Tensor] = []

    def look(module: nn.Module, inputs: object, output: Tensor) -> None:
        largest.append(output.abs().flatten(1).amax(1))

    net = net_of(graph, weights)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(look)
    rows = []
    with torch.inference_mode():
        for at in range(0, len(images), CALIBRATION_BATCH):
            largest.clear()
            net(torch.from_numpy(images[at : at + CALIBRATION_BATCH].astype(np.float32)))
            rows.append(torch.stack(largest, 1).numpy())
    magnitudes = np.concatenate(rows)  # (images, convolutions)
    if not np.isfinite(magnitudes).all():
        raise InputError("the weights give maps that are not finite")
    calm: Array = (magnitudes <= MOST_TIMES * np.median(magnitudes, axis=0)).all(1)
    kept: Array = images[calm]
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Labelled images not used for calibration, and how `ghostnas eval` selects the same ones.

    Attributes:
        source: the images; their labels are indices of `classes`.
        description: what they are, in the plural: ``test images of cifar10``.
        data: the value for ``--data``; empty if no command selects exactly these images.
        limit: the value for ``--limit``; None for all test images.
    """

    source: Source
    classes: tuple[str, ...]
    description: str
    data: str = ""
    limit: int | None = None

    def command(self, file: str) -> str | None:
        """The command that prints the accuracy of a file on these images."""
        if not self.data:
            return None
        limit = [] if self.limit is None else ["--limit", str(self.limit)]
        return shlex.join(["ghostnas", "eval", file, "--data", self.data, *limit])


def of_dataset(dataset: Dataset, spec: str, limit: int | None = None) -> Evaluation:
    """The test images of a dataset that `spec` names, as `evaluate` draws them for a `limit`."""
    return Evaluation(
        source=labelled(dataset, limit),
        classes=dataset.classes,
        description=f"test images of {dataset.name}",
        data=spec,
        limit=limit,
    )


def batches(
    source: Source,
    preprocessing: Preprocessing,
    size: int,
    *,
    batch_size: int = BATCH,
    strict: bool = False,
    skipped: dict[Path, str] | None = None,
) -> Iterator[tuple[Array, Array]]:
    """Images as a network takes them, float32 (n, 3, size, size), and their labels (n,), in order.

    Unreadable files are added to `skipped`, with the reason.

    Raises:
        InputError: a file cannot be read, with `strict`.
    """
    import torch

    from ghostnas.data.loader import normaliser, test_batches

    normalise = normaliser(preprocessing, torch.device("cpu"))
    for images, labels in test_batches(
        source, batch_size=batch_size, size=size, strict=strict, skipped=skipped
    ):
        yield normalise(images).contiguous().numpy(), labels.numpy()


def labelled(dataset: Dataset, limit: int | None) -> Source:
    """The test images of a dataset; with a `limit`, drawn so that classes keep their shares."""
    return dataset.test if limit is None else subset(dataset.test, limit, SEED)[0]
