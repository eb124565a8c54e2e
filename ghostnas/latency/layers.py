"""A network row by row, as the GhostNet paper's table 1 has it: shapes, numbers, counts and, on a
target, milliseconds. One row is the stem, a block, or a layer of the head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

from ghostnas.ir import cost
from ghostnas.ir.graph import Conv, Dense, Flatten, GlobalPool, Graph, Input, Node, Shape
from ghostnas.latency import table
from ghostnas.latency.predictor import Predictor
from ghostnas.networks.arch import Arch, Head, Part, Stem, lower_part, parts
from ghostnas.networks.blocks import Block

COUNTS = ("params", "macs", "latency_ms")  # of a row; what the other fields say decides them


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One row; None is what the row does not have, or what changes nothing in it.

    Attributes:
        stage: ``stem``, ``stage 1`` and so on, or ``head``.
        in_shape: of its input, (channels, height, width).
        operator: ``G-bneck``, ``Conv2d 3x3`` and the like.
        kernel: of the depthwise convolution, or of the shortcut's.
        expansion: channels between its two halves ("#exp").
        ghost_ratio, cheap_kernel: s and d (section 3.1).
        split: whether the cheap operation is one convolution for each of its s - 1 maps.
        out_channels: "#out".
        attention: ``SE``, ``ECA``, ``DFC`` or several, joined by ``+``.
        stride: the one that it runs with.
    """

    stage: str
    in_shape: Shape
    operator: str
    kernel: int | None = None
    expansion: int | None = None
    ghost_ratio: int | None = None
    cheap_kernel: int | None = None
    split: bool = False
    out_channels: int | None = None
    attention: str = ""
    stride: int | None = None
    params: int
    macs: int
    latency_ms: float | None = None


def layers(arch: Arch, target: str | None = None) -> list[Layer]:
    """The rows of a network; with a target their milliseconds, which add up to its latency: a
    table's correction, which is of the whole, is shared out in proportion.

    Raises:
        InputError: there is no such target.
        MissingOpError: its table has nothing to predict an op from.
    """
    rows = list(_rows(arch))
    if target is None:
        return [layer for layer, _ in rows]
    predictor = Predictor(table.load(target))
    sums = [predictor.costs.of_graph(graph).latency_ms for _, graph in rows]
    share = predictor.predict(arch).latency_ms / sum(sums)
    return [replace(row, latency_ms=share * ms) for (row, _), ms in zip(rows, sums, strict=True)]


def to_json(layer: Layer) -> dict[str, Any]:
    """A row as JSON types; without a target it has no ``latency_ms``."""
    row = dataclasses.asdict(layer)
    if layer.latency_ms is None:
        del row["latency_ms"]
    return row


def _rows(arch: Arch) -> Iterator[tuple[Layer, Graph]]:
    """Each row without latency, and its ops."""
    stages = [
        f"stage {number}" for number, stage in enumerate(arch.stages, 1) for _ in stage.blocks
    ]
    for stage, part in zip(["stem", *stages, "head"], parts(arch), strict=True):
        graph = lower_part(part)
        match part.numbers:
            case Head():
                yield from ((_head_row(each), each) for each in _segments(graph))
            case Stem() as stem:
                size = {"out_channels": stem.channels, "stride": part.stride}
                yield _layer(stage, graph, operator="Conv2d 3x3", **size), graph
            case block:
                yield _block_row(stage, part, block, graph), graph


def _layer(stage: str, graph: Graph, **numbers: Any) -> Layer:
    counted = cost.count(graph)
    return Layer(
        stage=stage,
        in_shape=graph.input_shape,
        params=counted.params,
        macs=counted.macs,
        **numbers,
    )


def _block_row(stage: str, part: Part, block: Block, graph: Graph) -> Layer:
    numbers = block.numbers

    def kernel(key: str) -> int | None:
        """The kernel of this name, if the block's ops depend on it."""
        if key not in numbers:
            return None
        other: Any = replace(block, **{key: numbers[key] + 2})  # type: ignore[type-var]
        changes = lower_part(replace(part, numbers=other)) != graph
        return int(numbers[key]) if changes else None

    title, activation = block.title or block.type_name, numbers.get("activation")
    return _layer(
        stage,
        graph,
        operator=f"{title}, {activation}" if activation else title,
        kernel=kernel("kernel"),
        expansion=numbers.get("hidden_channels"),
        ghost_ratio=numbers.get("ghost_ratio"),
        cheap_kernel=kernel("cheap_kernel"),
        split=bool(numbers.get("split")) and numbers.get("ghost_ratio", 0) > 2,
        out_channels=block.out_channels,
        attention="+".join(block.attentions),
        stride=part.stride,
    )


def _segments(head: Graph) -> Iterator[Graph]:
    """A head, which is a chain, cut before each convolution, the mean and the classifier."""
    nodes: list[Node] = []
    for node in head.nodes[1:]:
        if isinstance(node.op, Conv | GlobalPool | Flatten) and nodes:
            yield Graph(tuple(nodes))
            nodes = []
        if not nodes:
            shape = head.nodes[node.inputs[0]].shape
            nodes.append(Node("input", Input(shape=shape), (), shape))
        nodes.append(node._replace(inputs=(len(nodes) - 1,)))
    yield Graph(tuple(nodes))


def _head_row(graph: Graph) -> Layer:
    first, last = graph.nodes[1].op, graph.nodes[-1].op
    if isinstance(first, GlobalPool):
        size = graph.input_shape[1]
        return _layer("head", graph, operator=f"AvgPool {size}x{size}")
    out = graph.output_shape[0]
    if isinstance(last, Dense):
        return _layer("head", graph, operator="FC", out_channels=out)
    return _layer("head", graph, operator="Conv2d 1x1", out_channels=out, stride=1)


def notes(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What a block costs, by its place as `ghostnas.networks.arch.lower_by_place` names it."""
    found: dict[str, str] = {}
    positions: dict[str, int] = {}
    for row in rows:
        stage = row["stage"].replace(" ", "")
        if stage == "head":
            continue  # several rows of one place
        positions[stage] = positions.get(stage, 0) + 1
        place = stage if stage == "stem" else f"{stage}/block{positions[stage]}"
        cost = f"{row['macs'] / 1e6:.2f} MFLOPs, {row['params']:,} parameters"
        if "latency_ms" in row:
            cost += f", {row['latency_ms']:.3f} ms"
        found[place] = f"{row['operator']} ({place}): {cost} in all"
    return found


# For a terminal: heads and how a row's cell is written. A column without any value is left out.
def _cells(row: Mapping[str, Any], stage: str) -> dict[str, str]:
    channels, height, width = row["in_shape"]

    def number(key: str) -> str:
        return "" if row[key] is None else str(row[key])

    return {
        "stage": stage,
        "input": f"{height}x{width}x{channels}",
        "operator": row["operator"],
        "k": number("kernel"),
        "#exp": number("expansion"),
        "s": number("ghost_ratio") + " split" * row["split"],
        "d": number("cheap_kernel"),
        "#out": number("out_channels"),
        "attention": row["attention"],
        "stride": number("stride"),
        "MFLOPs": f"{row['macs'] / 1e6:.2f}",
        "params": f"{row['params']:,}",
        "ms": f"{row['latency_ms']:.3f}" if "latency_ms" in row else "",
    }


LEFT = ("", "stage", "input", "operator", "attention")  # columns of words


def text(rows: Sequence[Mapping[str, Any]], marks: Sequence[str] = ()) -> str:
    """Rows of `to_json` as a table with aligned columns; `marks` stand before the rows."""
    written: list[dict[str, str]] = []
    stage = ""
    for at, row in enumerate(rows):
        again = not marks and row["stage"] == stage
        stage = row["stage"]
        mark = {"": marks[at]} if marks else {}
        written.append(mark | _cells(row, "" if again else stage))
    heads = [head for head in written[0] if any(row[head] for row in written)]
    widths = {head: max(len(head), *(len(row[head]) for row in written)) for head in heads}
    lines = []
    for row in [{head: head for head in heads}, *written]:
        cells = (
            row[head].ljust(widths[head]) if head in LEFT else row[head].rjust(widths[head])
            for head in heads
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def differences_text(described: Mapping[str, Any]) -> str:
    """Two networks, the second under ``compared``: their totals, and the rows in which they differ:
    ``-`` only of the first, ``+`` only of the second.
    """
    other = described["compared"]
    totals = [("", "-", "+", "difference", "")]
    for name, key, unit, digits in (
        ("MFLOPs", "macs", 1e6, 1),
        ("M parameters", "params", 1e6, 2),
        ("MB as .tflite", "model_bytes", 1e6, 1),
        ("MB of activations", "peak_activation_bytes", 1e6, 2),
        ("ms", "latency_ms", 1, 2),
    ):
        if key in described:
            one, two = described[key] / unit, other[key] / unit
            sizes = (f"{one:.{digits}f}", f"{two:.{digits}f}", f"{two - one:+.{digits}f}")
            totals.append((name, *sizes, f"{100 * (two / one - 1):+.1f} %"))
    widths = [max(len(row[at]) for row in totals) for at in range(5)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in totals
    ]
    if not described["layers"] or not other["layers"]:
        return "\n".join(lines)
    marked, alike = _marked(described["layers"], other["layers"])
    lines.append("")
    if marked:
        lines.append(text([row for _, row in marked], [mark for mark, _ in marked]))
    lines.append(f"{alike} rows are alike" if alike != 1 else "1 row is alike")
    return "\n".join(lines)


def _marked(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[str, Mapping[str, Any]]], int]:
    """The rows that differ with their marks, and how many do not."""

    def keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
        return [repr({key: row[key] for key in row if key not in COUNTS}) for row in rows]

    marked: list[tuple[str, Mapping[str, Any]]] = []
    alike = 0
    matcher = SequenceMatcher(None, keys(ours), keys(theirs), autojunk=False)
    for kind, first, last, other_first, other_last in matcher.get_opcodes():
        if kind == "equal":
            alike += last - first
            continue
        marked += [("-", row) for row in ours[first:last]]
        marked += [("+", row) for row in theirs[other_first:other_last]]
    return marked, alike
