"""A network, or two beside each other, as an SVG drawing: a row a stage, a box a block. It draws
the rows that it is given, and looks nothing up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from ghostnas.errors import InputError

COLUMNS = 6  # boxes in a row; a longer stage goes on below
BOX, GAP, MARGIN = (176, 86), 12, 20
STAGE = 132  # width of a stage's name
TITLE = 26  # height of a line of the heading
BAR = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """A block: its place in pixels, its lines, and its share of the longest bar, 0 to 1."""

    x: int
    y: int
    lines: tuple[str, ...]
    share: float
    network: int
    differs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """A stage's name or a heading; `network` chooses the colour, -1 is neither."""

    x: int
    y: int
    text: str
    network: int = -1
    strong: bool = False


def svg(described: Mapping[str, Any]) -> str:
    """The drawing of what `ghostnas.show` returns; of both networks where there are two. It needs
    no other file, and is light or dark as its reader prefers.

    Raises:
        InputError: a network is no architecture of stages and blocks.
    """
    networks = [described, *([described["compared"]] if "compared" in described else [])]
    for each in networks:
        if not each["layers"]:
            raise InputError(f"{each['id']} has no stages and blocks to draw")
    unit = "latency_ms" if "latency_ms" in described else "macs"
    most = max(row[unit] for each in networks for row in each["layers"])
    headings = [_heading(each) for each in networks]
    words = [
        _Words(
            x=MARGIN,
            y=MARGIN + TITLE * at + 16,
            text=heading,
            network=at if len(networks) > 1 else -1,
            strong=True,
        )
        for at, heading in enumerate(headings)
    ]
    boxes: list[_Box] = []
    y = MARGIN + TITLE * len(networks) + GAP
    for stage in _stages(networks):
        rows = [[row for row in each["layers"] if row["stage"] == stage] for each in networks]
        words += _stage_words(stage, next(each for each in rows if each), y)
        for at, own in enumerate(rows):
            alike = own if len(networks) == 1 else rows[1 - at]
            boxes += _stage_boxes(own, alike, at, y, lambda row: row[unit] / most)
            y += -(-len(own) // COLUMNS) * (BOX[1] + GAP)
        y += GAP
    on = f"predicted milliseconds on {described['target']}" if unit == "latency_ms" else "FLOPs"
    return _template().render(
        width=2 * MARGIN + STAGE + COLUMNS * (BOX[0] + GAP) - GAP,
        height=y + TITLE,
        box=BOX,
        bar=BAR,
        left=MARGIN,
        words=words,
        boxes=boxes,
        caption="; ".join(headings),
        bars=on,
        compared=len(networks) > 1,
    )


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("network.svg.j2")


def _stages(networks: Sequence[Mapping[str, Any]]) -> list[str]:
    """The stages of all networks in order; one may have more than the other."""
    found = dict.fromkeys(row["stage"] for each in networks for row in each["layers"])
    return sorted(found, key=lambda stage: stage == "head")


def _stage_boxes(
    rows: Sequence[Mapping[str, Any]],
    alike: Sequence[Mapping[str, Any]],
    network: int,
    top: int,
    share: Callable[[Mapping[str, Any]], float],
) -> Iterator[_Box]:
    """A stage's boxes; those differ whose words, but for the costs, no row of `alike` has."""
    known = [_lines(row)[:-1] for row in alike]
    for position, row in enumerate(rows):
        lines = _lines(row)
        yield _Box(
            x=MARGIN + STAGE + position % COLUMNS * (BOX[0] + GAP),
            y=top + position // COLUMNS * (BOX[1] + GAP),
            lines=lines,
            share=share(row),
            network=network,
            differs=lines[:-1] not in known,
        )


def _heading(described: Mapping[str, Any]) -> str:
    parts = [
        f"{described['name']} at {described['resolution']} px",
        f"{described['macs'] / 1e6:.1f} MFLOPs",
        f"{described['params'] / 1e6:.2f} M parameters",
    ]
    if "latency_ms" in described:
        ends = f"{described['latency_low_ms']:.2f} to {described['latency_high_ms']:.2f}"
        parts.append(f"{described['latency_ms']:.2f} ms ({ends}) on {described['target']}")
    return ", ".join(parts)


def _stage_words(stage: str, rows: Sequence[Mapping[str, Any]], top: int) -> list[_Words]:
    channels, height, width = rows[0]["in_shape"]
    size = f"in {height} x {width} x {channels}"
    return [
        _Words(x=MARGIN, y=top + 20, text=stage, strong=True),
        _Words(x=MARGIN, y=top + 38, text=size),
    ]


def _lines(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The words in a box: what it is, its widths, its numbers, its costs last."""
    widths = (row["in_shape"][0], row["expansion"], row["out_channels"])
    numbers = [
        f"k {row['kernel']}" if row["kernel"] else "",
        f"s {row['ghost_ratio']}{' split' * row['split']}" if row["ghost_ratio"] else "",
        f"d {row['cheap_kernel']}" if row["cheap_kernel"] else "",
        row["attention"],
    ]
    stride = f", stride {row['stride']}" if (row["stride"] or 1) > 1 else ""
    cost = f"{row['macs'] / 1e6:.2f} MFLOPs"
    if "latency_ms" in row:
        cost += f", {row['latency_ms']:.2f} ms"
    return (
        row["operator"],
        " → ".join(str(each) for each in widths if each is not None) + stride,
        ", ".join(each for each in numbers if each),
        cost,
    )
