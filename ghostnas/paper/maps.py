"""The feature maps of a network on an image: which weights it has, and where its maps are found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ghostnas.arrays import Array
from ghostnas.backends import pretrained
from ghostnas.backends.torch_module import net_of
from ghostnas.data.images import decode_square
from ghostnas.errors import InputError
from ghostnas.ir.graph import (
    Activation,
    Add,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Graph,
    Weights,
    weight_shapes,
)
from ghostnas.ir.preprocessing import IMAGENET
from ghostnas.ir.random_weights import random_weights
from ghostnas.paper.subjects import Subject, graph_of

RESNET50_UNITS = (3, 4, 6, 3)
TORCHVISION = "layer1.0.conv1.weight"  # a key that only its ResNets have
EXAMPLE_SEED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A network that has seen an image.

    Attributes:
        values: the output of each node, (channels, height, width), by its index.
        image: what it saw, (height, width, 3) uint8.
        weights: where they are from, in words; `trained` is False for random ones.
    """

    subject: Subject
    graph: Graph
    values: dict[int, Array]
    image: Array
    weights: str
    trained: bool


def look(
    subject: Subject, image: Path | None, weights: Path | None, resolution: int, classes: int
) -> Look:
    """Run a network on an image.

    Args:
        image: a file; None for a made picture.
        weights: a file of this project, or torchvision's ResNet-50; None for random weights, and
            then nothing found is about a trained network.

    Raises:
        InputError: a file cannot be read, or the weights are another network's.
    """
    if weights is not None:
        found = pretrained.read_any(weights)
        classes = _classes(found) or classes
    graph = graph_of(subject, resolution, classes)
    if weights is None:
        values, said = random_weights(graph, 0), "random weights: untrained"
    else:
        values, said = fitted(graph, found, weights), f"weights of {weights.name}"
    pixels = example_image(resolution) if image is None else decode_square(image, resolution)
    seen: dict[int, Array] = {}
    preprocessing = (pretrained.preprocessing_of(weights) if weights else None) or IMAGENET
    mean, std = (np.asarray(each) for each in (preprocessing.mean, preprocessing.std))
    inputs = ((pixels / 255.0 - mean) / std).astype(np.float32).transpose(2, 0, 1)
    with torch.inference_mode():
        net_of(graph, values).run(
            torch.from_numpy(inputs[None]),
            lambda index, value: seen.update({index: value[0].numpy().copy()}),
        )
    return Look(
        subject=subject,
        graph=graph,
        values=seen,
        image=pixels,
        weights=said,
        trained=weights is not None,
    )


def example_image(resolution: int) -> Array:
    """A made picture, (resolution, resolution, 3) uint8, with edges, shades and a texture."""
    rng = np.random.default_rng(EXAMPLE_SEED)
    rows, columns = np.mgrid[0:resolution, 0:resolution] / resolution
    image = np.stack([0.3 + 0.4 * rows, 0.4 + 0.3 * columns, 0.7 - 0.4 * rows], 2)
    for _ in range(6):
        y, x, radius = rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.85), rng.uniform(0.08, 0.25)
        inside = np.hypot(rows - y, columns - x) < radius
        shade = 0.7 + 0.3 * (rows - y) / radius
        image[inside] = (rng.uniform(0, 1, 3) * shade[..., None])[inside]
    stripes = (columns > 0.6) & (rows > 0.55)
    image[stripes] *= (0.6 + 0.4 * np.sin(columns * 60))[stripes][:, None]
    image += rng.normal(0, 0.02, image.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def fitted(graph: Graph, found: Weights, path: Path) -> dict[str, Array]:
    """The graph's weights among those of a file, whose keys may be torchvision's for ResNet-50.

    Raises:
        InputError: they are another network's.
    """
    names = _torchvision_names(graph) if TORCHVISION in found else {}
    taken = {}
    for node in graph.nodes:
        for key, shape in weight_shapes(node).items():
            theirs = key.replace(node.name, names.get(node.name, node.name), 1)
            if theirs not in found or tuple(found[theirs].shape) != shape:
                raise InputError(f"{path}: has no {theirs} of shape {shape}: another network's?")
            taken[key] = found[theirs]
    return taken


def _classes(found: Weights) -> int | None:
    """How many classes the weights know, by their last matrix."""
    matrices = [array for array in found.values() if array.ndim == 2]
    return len(matrices[-1]) if matrices else None


def _torchvision_names(graph: Graph) -> dict[str, str]:
    """torchvision's names of our ResNet-50's layers, by order: a shortcut's come first here."""
    theirs = ["conv1", "bn1"]
    for stage, units in enumerate(RESNET50_UNITS, 1):
        for unit in range(units):
            at = f"layer{stage}.{unit}"
            theirs += [f"{at}.downsample.0", f"{at}.downsample.1"] * (unit == 0)
            theirs += [f"{at}.{kind}{part}" for part in (1, 2, 3) for kind in ("conv", "bn")]
    theirs.append("fc")
    ours = [node.name for node in graph.nodes if isinstance(node.op, Conv | BatchNorm | Dense)]
    if len(ours) != len(theirs):
        raise InputError("these weights are torchvision's ResNet-50; name --network resnet50")
    return dict(zip(ours, theirs, strict=True))


def first_residual_block(graph: Graph) -> int:
    """The node of the first residual block's output, after its activation if it has one; of a
    network without any, that of the second convolution.
    """
    for index, node in enumerate(graph.nodes):
        if isinstance(node.op, Add):
            return _activated(graph, index)
    return second_layer(graph)[0]


def second_layer(graph: Graph) -> tuple[int, int | None]:
    """The node of the second layer's output and, where that is a Ghost module, of its first maps,
    the intrinsic ones: those from there to the end are ghosts.
    """
    layers: list[tuple[int, int | None]] = []
    readers = graph.consumers()
    for index, node in enumerate(graph.nodes):
        if isinstance(node.op, Concat) and _is_ghost(graph, index):
            layers.append((index, graph.nodes[node.inputs[0]].shape[0]))
        elif isinstance(node.op, Conv) and node.op.groups == 1 and node.shape[1:] != (1, 1):
            at = _activated(graph, index)
            if not any(
                isinstance(graph.nodes[each].op, Concat) and _is_ghost(graph, each)
                for each in readers[at]
            ):
                layers.append((at, None))
        if len(layers) == 2:
            return layers[1]
    raise InputError("the network has no second convolution")


def _is_ghost(graph: Graph, index: int) -> bool:
    """Whether a concatenation is of maps and of depthwise convolutions of the same maps."""
    first, *others = graph.nodes[index].inputs
    if len(others) != 1:
        return False
    source = others[0]
    while isinstance(graph.nodes[source].op, BatchNorm | Activation):
        source = graph.nodes[source].inputs[0]
    op = graph.nodes[source].op
    return isinstance(op, Conv) and op.groups > 1 and graph.nodes[source].inputs[0] == first


def _activated(graph: Graph, index: int) -> int:
    """The node after the batch norm and the activation that follow."""
    readers = graph.consumers()
    while len(readers[index]) >= 1:
        following = [
            at for at in readers[index] if isinstance(graph.nodes[at].op, BatchNorm | Activation)
        ]
        if not following or (len(readers[index]) > 1 and not isinstance(
            graph.nodes[following[0]].op, Activation)):  # fmt: skip
            return index
        index = following[0]
        if isinstance(graph.nodes[index].op, Activation):
            return index
    return index
