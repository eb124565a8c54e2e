"""Table 8: a network's graph as a detection backbone, with RetinaNet or Faster R-CNN of torchvision
on top, and boxes in COCO's format. torchvision is an extra; nothing else here needs it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from ghostnas.backends.torch_module import Net, load_weights
from ghostnas.errors import InputError, TrainingError
from ghostnas.files import read_text, write_whole
from ghostnas.ir.graph import Activation, Add, BatchNorm, Graph, Weights
from ghostnas.progress import Say, silent
from ghostnas.training.initialization import fresh

Detector: TypeAlias = Literal["retinanet", "fasterrcnn"]
STRIDES = (4, 8, 16, 32)
FPN_CHANNELS = 256
NORMS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SMALLEST_ANCHOR = 4  # times the stride of a level
MADE_CLASSES = ("disc", "box")
MADE_SIZE = 128
INSTALL = (
    "detection needs torchvision, at the version that goes with torch: pip install torchvision"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """An image's file and its boxes: (n, 4) left, top, right, bottom in pixels, and classes from 1
    (0 is the background).
    """

    path: Path
    boxes: tuple[tuple[float, float, float, float], ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxes:
    """A detection dataset: classes by name, without the background."""

    classes: tuple[str, ...]
    examples: tuple[Example, ...]


def feature_nodes(graph: Graph, strides: Sequence[int] = STRIDES) -> list[int]:
    """For each stride, the last node of that size that ends a block: all later nodes depend on the
    earlier ones through it alone, and it is a sum or a batch norm without an activation.

    Raises:
        InputError: the network has no maps of a stride.
    """
    readers = graph.consumers()
    reach = 0  # the furthest node that reads anything before
    by_size: dict[int, int] = {}
    for index, node in enumerate(graph.nodes):
        cut = index > 0 and reach <= index
        reach = max([reach, *readers[index]])
        linear = isinstance(node.op, BatchNorm) and not any(
            isinstance(graph.nodes[at].op, Activation) for at in readers[index]
        )
        if cut and len(node.shape) == 3 and (isinstance(node.op, Add) or linear):
            by_size[node.shape[1]] = index
    sizes = [-(-graph.input_shape[1] // stride) for stride in strides]
    for stride, size in zip(strides, sizes, strict=True):
        if size not in by_size:
            raise InputError(f"the network has no block that ends at stride {stride}")
    return [by_size[size] for size in sizes]


class Backbone(nn.Module):
    """A graph's multi-scale maps, each with its name: images (n, 3, h, w) to maps by stride."""

    def __init__(self, graph: Graph, strides: Sequence[int], weights: Weights | None) -> None:
        super().__init__()
        nodes = feature_nodes(graph, strides)
        self.net: Net = fresh(Graph(graph.nodes[: nodes[-1] + 1]), 0)
        if weights is not None:
            own = self.net.state_dict()
            load_weights(self.net, {key: weights[key] for key in own if key in weights})
        self.channels = [graph.nodes[index].shape[0] for index in nodes]
        self._names = dict(zip(nodes, map(str, strides), strict=True))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        seen: OrderedDict[str, Tensor] = OrderedDict()

        def keep(index: int, value: Tensor) -> None:
            if index in self._names:
                seen[self._names[index]] = value

        self.net.run(images, keep)
        return seen


class _Pyramid(nn.Module):
    """A backbone and a feature pyramid (Lin et al., 2017) on it, as torchvision's heads expect."""

    def __init__(self, body: Backbone, extra: Any) -> None:
        from torchvision.ops import FeaturePyramidNetwork

        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(body.channels, FPN_CHANNELS, extra)
        self.out_channels = FPN_CHANNELS

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.fpn(self.body(images))
        return found


def detector(
    kind: Detector, graph: Graph, classes: int, size: int, weights: Weights | None = None
) -> nn.Module:
    """A RetinaNet (Lin et al., 2017b) on strides 8 to 128, or a Faster R-CNN (Ren et al., 2015) on
    strides 4 to 64, with the graph as its body.

    Args:
        classes: with the background.
        size: pixels of the short side that images are scaled to.
        weights: of the body, such as those trained for classification; drawn if None.

    Raises:
        InputError: there is no such detector, or torchvision is not installed.
    """
    if kind not in get_args(Detector):
        raise InputError(f"unknown detector {kind!r}; known: {', '.join(get_args(Detector))}")
    try:
        from torchvision.models.detection import FasterRCNN, RetinaNet
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
    except ImportError as error:
        raise InputError(INSTALL) from error
    mean, std = (list(each) for each in NORMS)
    common: dict[str, Any] = {
        "num_classes": classes,
        "min_size": size,
        "max_size": 2 * size,
        "image_mean": mean,
        "image_std": std,
    }
    ratios = (0.5, 1.0, 2.0)
    if kind == "retinanet":
        body = Backbone(graph, STRIDES[1:], weights)
        levels = [8, 16, 32, 64, 128]
        scales = [tuple(int(SMALLEST_ANCHOR * s * 2 ** (k / 3)) for k in range(3)) for s in levels]
        anchors = AnchorGenerator(tuple(scales), (ratios,) * len(levels))
        pyramid = _Pyramid(body, LastLevelP6P7(FPN_CHANNELS, FPN_CHANNELS))
        made: nn.Module = RetinaNet(pyramid, anchor_generator=anchors, **common)
        return made
    body = Backbone(graph, STRIDES, weights)
    levels = [4, 8, 16, 32, 64]
    anchors = AnchorGenerator(
        tuple((SMALLEST_ANCHOR * s,) for s in levels), (ratios,) * len(levels)
    )
    pyramid = _Pyramid(body, LastLevelMaxPool())
    made = FasterRCNN(pyramid, rpn_anchor_generator=anchors, **common)
    _pool_from(made)
    return made


def _pool_from(made: Any) -> None:
    """Have regions pooled from our levels, whose names are their strides."""
    from torchvision.ops import MultiScaleRoIAlign

    names = [str(stride) for stride in STRIDES]
    made.roi_heads.box_roi_pool = MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """A short training: its losses, one a step; the medians of its first and last fifth."""

    losses: tuple[float, ...]

    @property
    def first(self) -> float:
        return float(np.median(self.losses[: max(1, len(self.losses) // 5)]))

    @property
    def last(self) -> float:
        return float(np.median(self.losses[-max(1, len(self.losses) // 5) :]))


def train(
    model: nn.Module,
    data: Boxes,
    *,
    steps: int,
    batch_size: int = 4,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
    say: Say = silent,
) -> Steps:
    """So many steps of AdamW on random batches of the images.

    Raises:
        TrainingError: a loss is not finite.
        InputError: an image cannot be read.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)  # torchvision samples anchors with torch's own numbers
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    losses: list[float] = []
    for step in range(1, steps + 1):
        drawn = rng.integers(0, len(data.examples), batch_size)
        examples = [data.examples[index] for index in drawn]
        images = [_pixels(each.path).to(device) for each in examples]
        targets = [
            {
                "boxes": torch.tensor(each.boxes, device=device).reshape(-1, 4),
                "labels": torch.tensor(each.labels, dtype=torch.int64, device=device),
            }
            for each in examples
        ]
        parts: dict[str, Tensor] = model(images, targets)
        loss = torch.stack(list(parts.values())).sum()
        if not bool(loss.isfinite()):
            raise TrainingError(f"the loss is {loss.item()} at step {step} of {steps}")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.item())
        if step % max(1, steps // 5) == 0:
            say(f"step {step}/{steps}: loss {losses[-1]:.3f}")
    return Steps(losses=tuple(losses))


def read_coco(annotations: Path, images: Path) -> Boxes:
    """Boxes in COCO's format (Lin et al., 2014): ``images``, ``annotations``, ``categories``.

    Crowds and boxes without an area are left out, and so are images without any box.

    Raises:
        InputError: the file is damaged, or names an image that is not there.
    """
    try:
        found = json.loads(read_text(annotations))
        names = {each["id"]: str(each["name"]) for each in found["categories"]}
        order = {number: at for at, number in enumerate(sorted(names), 1)}
        files = {each["id"]: images / str(each["file_name"]) for each in found["images"]}
        boxes: dict[int, list[tuple[float, float, float, float]]] = {}
        labels: dict[int, list[int]] = {}
        for each in found["annotations"]:
            left, top, width, height = map(float, each["bbox"])
            if each.get("iscrowd") or width <= 0 or height <= 0:
                continue
            at = each["image_id"]
            boxes.setdefault(at, []).append((left, top, left + width, top + height))
            labels.setdefault(at, []).append(order[each["category_id"]])
        examples = [
            Example(path=files[at], boxes=tuple(found_boxes), labels=tuple(labels[at]))
            for at, found_boxes in boxes.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        kind = f"{type(error).__name__}: {error}"
        raise InputError(f"{annotations}: is not in COCO's format: {kind}") from error
    for example in examples:
        if not example.path.is_file():
            raise InputError(f"{annotations}: names {example.path}, which is not there")
    if not examples:
        raise InputError(f"{annotations}: has no boxes")
    classes = tuple(names[number] for number in sorted(names))
    return Boxes(classes=classes, examples=tuple(examples))


def make_boxes(folder: Path, count: int, seed: int = 0) -> Boxes:
    """A made set in COCO's format: bright discs and boxes on noise, one to three an image."""
    rng = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        noise = rng.integers(0, 90, (MADE_SIZE, MADE_SIZE, 3), dtype=np.uint8)
        picture = Image.fromarray(noise)
        canvas = ImageDraw.Draw(picture)
        for _ in range(int(rng.integers(1, 4))):
            side = (
                rng.integers(24, 64, 2) if rng.random() < 0.5 else [int(rng.integers(24, 64))] * 2
            )
            width, height = (int(each) for each in side)
            left, top = (int(rng.integers(0, MADE_SIZE - each)) for each in (width, height))
            label = int(rng.integers(0, 2))
            colour = tuple(int(each) for each in rng.integers(140, 256, 3))
            draw = canvas.ellipse if label == 0 else canvas.rectangle
            draw((left, top, left + width, top + height), fill=colour)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
        name = f"{number:04}.png"
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name)
        images.append({"id": number, "file_name": name, "width": MADE_SIZE, "height": MADE_SIZE})
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": at, "name": name} for at, name in enumerate(MADE_CLASSES, 1)],
    }
    write_whole(folder / "annotations.json", json.dumps(document).encode())
    return read_coco(folder / "annotations.json", folder)


def _pixels(path: Path) -> Tensor:
    try:
        with Image.open(path) as picture:
            rgb = np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    return torch.from_numpy(rgb.transpose(2, 0, 1).copy()).float() / 255
