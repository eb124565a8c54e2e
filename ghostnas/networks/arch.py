"""An architecture as plain immutable numbers, its JSON form, and its lowering to a `Graph`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ghostnas import records
from ghostnas.errors import InputError, short
from ghostnas.files import read_text
from ghostnas.ir.graph import (
    Activation,
    BatchNorm,
    Builder,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    Graph,
    Nonlinearity,
    Shape,
)
from ghostnas.networks.blocks import BLOCK_TYPES, Block

T = TypeVar("T")

FORMAT = 1
SMALLEST_LAST_MAP = 4
LARGEST = 65536  # number in an architecture's file


@dataclass(frozen=True, slots=True, kw_only=True)
class Stem:
    """The first convolution, 3x3 with batch norm."""

    channels: int
    stride: int = 2
    activation: Nonlinearity = "relu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Blocks of one feature-map size; only the first may have a stride."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What follows the stages: 1x1 convolution, mean over the map, 1x1 convolution, classifier.

    Without `features` (0) the classifier reads the mean itself.
    """

    channels: int
    features: int
    activation: Nonlinearity = "relu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """A whole network, at the resolution (pixels, square) and number of classes it runs with.

    `dropped_strides` counts the strides of 2, from the stem on, that run as 1 for small images.
    """

    stem: Stem
    stages: tuple[Stage, ...]
    head: Head
    classes: int = 1000
    resolution: int = 224
    dropped_strides: int = 0

    @property
    def id(self) -> str:
        """Twelve hex digits of a hash of the lowered graph: equal for equal networks."""
        return graph_id(lower(self))


def graph_id(graph: Graph) -> str:
    """Twelve hex digits of a hash of a graph's ops, whatever their names."""
    ops = [(node.op, node.inputs) for node in graph.nodes]
    return hashlib.sha256(repr(ops).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Part:
    """A stem, a block or a head at its place: what is lowered on its own.

    `stride` is the one it runs with; `classes` is 0 but for a head.
    """

    numbers: Stem | Block | Head
    in_shape: Shape
    stride: int = 1
    classes: int = 0


def lower(arch: Arch) -> Graph:
    """The network as a graph, nodes named as in the published GhostNet.

    There a stage is two groups of blocks, the first block alone and then the rest.
    """
    graph = Builder((3, arch.resolution, arch.resolution))
    strides = _running_strides(arch)
    x = _add_stem(graph, arch.stem, next(strides))
    for _, name, block in _named_blocks(arch):
        x = block.build(graph, x, name, next(strides))
    _add_head(graph, x, arch.head, _head_name(arch), arch.classes)
    return graph.build()


def block_names(arch: Arch) -> list[str]:
    """What the nodes of each block are named under, and at last those of the head."""
    return [*(name for _, name, _ in _named_blocks(arch)), _head_name(arch)]


def lower_by_place(arch: Arch) -> Graph:
    """The same graph, nodes named by where they are: ``stem/...``, ``stage3/block1/ghost1/...`` or
    ``head/...``. For people to look at; published weights go by the names of `lower`.
    """
    places = {name: place for place, name, _ in _named_blocks(arch)}
    places[_head_name(arch)] = "head"
    graph = lower(arch)
    nodes, place = [graph.nodes[0]], "stem"
    for node in graph.nodes[1:]:
        rest = node.name
        if match := re.match(r"(blocks\.\d+\.\d+)\.(.+)", node.name):
            place, rest = places[match[1]], match[2]
        nodes.append(node._replace(name=f"{place}/{rest.replace('.', '/')}"))
    return Graph(tuple(nodes))


def _named_blocks(arch: Arch) -> Iterator[tuple[str, str, Block]]:
    """Each block with its place and its published name, in order."""
    group = 0
    for number, stage in enumerate(arch.stages, 1):
        for position, block in enumerate(stage.blocks):
            index = max(0, position - 1)
            yield f"stage{number}/block{position + 1}", f"blocks.{group}.{index}", block
            group += position in (0, len(stage.blocks) - 1)


def _head_name(arch: Arch) -> str:
    return f"blocks.{sum(min(2, len(stage.blocks)) for stage in arch.stages)}.0"


def parts(arch: Arch) -> list[Part]:
    """Stem, blocks and head, each at its place."""
    size = arch.resolution
    strides = _running_strides(arch)
    stride = next(strides)
    found = [Part(arch.stem, (3, size, size), stride)]
    channels, size = arch.stem.channels, -(-size // stride)
    for stage in arch.stages:
        for block in stage.blocks:
            stride = next(strides)
            found.append(Part(block, (channels, size, size), stride))
            channels, size = block.out_channels, -(-size // stride)
    return [*found, Part(arch.head, (channels, size, size), 1, arch.classes)]


def _running_strides(arch: Arch) -> Iterator[int]:
    """The strides that the stem and the blocks run with, in order."""
    to_drop = arch.dropped_strides
    parts: list[Stem | Block] = [arch.stem]
    parts += [block for stage in arch.stages for block in stage.blocks]
    for part in parts:
        if part.stride > 1 and to_drop:
            to_drop -= 1
            yield 1
        else:
            yield part.stride


def lower_part(part: Part) -> Graph:
    """One part as a graph of its own; the parts' ops together are those of the whole network."""
    graph = Builder(part.in_shape)
    match part.numbers:
        case Stem() as stem:
            _add_stem(graph, stem, part.stride)
        case Head() as head:
            _add_head(graph, 0, head, "head", part.classes)
        case block:
            block.build(graph, 0, "block", part.stride)
    return graph.build()


def _add_stem(graph: Builder, stem: Stem, stride: int) -> int:
    conv = Conv(in_channels=3, out_channels=stem.channels, kernel=3, stride=stride)
    x = graph.add("conv_stem", conv, 0)
    x = graph.add("bn1", BatchNorm(channels=stem.channels), x)
    return graph.add("act1", Activation(kind=stem.activation), x)


def _add_head(graph: Builder, x: int, head: Head, name: str, classes: int) -> None:
    channels = graph.shape(x)[0]
    x = graph.add(f"{name}.conv", Conv(in_channels=channels, out_channels=head.channels), x)
    x = graph.add(f"{name}.bn1", BatchNorm(channels=head.channels), x)
    x = graph.add(f"{name}.act", Activation(kind=head.activation), x)
    x = graph.add("global_pool", GlobalPool(), x)
    if head.features:
        features = Conv(in_channels=head.channels, out_channels=head.features, bias=True)
        x = graph.add("conv_head", features, x)
        x = graph.add("act2", Activation(kind=head.activation), x)
    x = graph.add("flatten", Flatten(), x)
    in_features = head.features or head.channels
    graph.add("classifier", Dense(in_features=in_features, out_features=classes), x)


def fit_to(arch: Arch, *, resolution: int, classes: int) -> Arch:
    """The same network for other images: all weights but the classifier's fit both.

    Where the images are small, strides are dropped from the stem on, until the last map keeps at
    least 4x4.
    """
    strides = [arch.stem.stride, *(stage.blocks[0].stride for stage in arch.stages)]
    strided = sum(stride > 1 for stride in strides)
    dropped = 0
    while dropped < strided and -(-resolution // 2 ** (strided - dropped)) < SMALLEST_LAST_MAP:
        dropped += 1
    return dataclasses.replace(
        arch, resolution=resolution, classes=classes, dropped_strides=dropped
    )


def to_json(arch: Arch) -> dict[str, Any]:
    """A dict of JSON types that `from_json` reads back to an equal `Arch`."""
    names = {block_type: name for name, block_type in BLOCK_TYPES.items()}
    stages = [
        [{"type": names[type(block)], **_numbers(block)} for block in stage.blocks]
        for stage in arch.stages
    ]
    return {
        "format": FORMAT,
        "resolution": arch.resolution,
        "classes": arch.classes,
        "dropped_strides": arch.dropped_strides,
        "stem": dataclasses.asdict(arch.stem),
        "stages": stages,
        "head": dataclasses.asdict(arch.head),
    }


def _numbers(block: Block) -> dict[str, Any]:
    """A block's fields, without those of later versions that have their defaults."""
    fields = dataclasses.fields(block)  # type: ignore[arg-type]
    values = {field.name: getattr(block, field.name) for field in fields}
    later = {field.name: field.default for field in fields if field.metadata.get("later")}
    return {key: value for key, value in values.items() if (key, value) not in later.items()}


def from_json(document: object) -> Arch:
    """The `Arch` of a parsed JSON document.

    Raises:
        InputError: a key is missing, unknown or of the wrong type, or the parts do not fit.
    """
    fields = _object(document, "architecture")
    version = fields.pop("format", None)
    if version != FORMAT:
        raise InputError(f"architecture: format is {_shown(version)}, this ghostnas reads {FORMAT}")
    stages = fields.pop("stages", None)
    if not isinstance(stages, list) or not stages or not all(stages):
        raise InputError("architecture: stages must be a list of non-empty lists of blocks")
    arch = _record(
        Arch,
        {
            **fields,
            "stem": _record(Stem, fields.get("stem"), "stem"),
            "head": _record(Head, fields.get("head"), "head"),
            "stages": tuple(_stage(blocks, index) for index, blocks in enumerate(stages)),
        },
        "architecture",
    )
    try:
        lower(arch)
    except (ValueError, OverflowError) as error:
        raise InputError(f"architecture: {error}") from error
    return arch


def load(path: Path) -> Arch:
    """Read an architecture from a .json file.

    Raises:
        InputError: there is no such file, or it does not hold an architecture.
    """
    try:
        document = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON: {error}") from error
    try:
        return from_json(document)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _stage(blocks: object, index: int) -> Stage:
    if not isinstance(blocks, list):
        raise InputError(f"stages[{index}]: must be a list of blocks")
    built: list[Block] = []
    for position, block in enumerate(blocks):
        where = f"stages[{index}][{position}]"
        fields = _object(block, where)
        kind = fields.pop("type", None)
        if not isinstance(kind, str) or kind not in BLOCK_TYPES:
            known = f"{', '.join(BLOCK_TYPES)}, and those of a file with --blocks"
            raise InputError(f"{where}: type is {_shown(kind)}, known: {known}")
        built.append(_record(BLOCK_TYPES[kind], fields, where))
        if position and built[-1].stride != 1:
            raise InputError(f"{where}: only the first block of a stage may have a stride")
    return Stage(blocks=tuple(built))


def _object(document: object, where: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise InputError(f"{where}: must be an object, not {type(document).__name__}")
    return dict(document)


def _record(record: type[T], document: object, where: str) -> T:
    """An instance of a dataclass from an object with exactly its fields, each in its range."""
    values = _object(document, where)
    try:
        found = records.from_table(record, values)
        for field in dataclasses.fields(record):  # type: ignore[arg-type]
            if field.name in values:
                _check_range(field, values[field.name])
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return found


def _check_range(field: dataclasses.Field[Any], value: object) -> None:
    """Of a field's value whose type is checked: a share is from 0 to 1, a count at most LARGEST."""
    if isinstance(field.default, float):
        if not 0 <= value <= 1:  # type: ignore[operator]
            raise records.refused(field.name, value, "a number from 0 to 1")
        return
    if isinstance(value, bool) or not isinstance(value, int):
        return
    lowest = 0 if field.default == 0 or field.name == "features" else 1
    if not lowest <= value <= LARGEST:
        raise records.refused(field.name, value, f"a whole number from {lowest} to {LARGEST}")
    if field.name == "stride" and value > 2:
        raise records.refused(field.name, value, "1 or 2")
    absent = value == 0  # such as the kernel of an attention that is not there
    if field.name.endswith("kernel") and value % 2 == 0 and not absent:
        raise records.refused(field.name, value, "odd")


def _shown(value: object) -> str:
    return short(repr(value))
