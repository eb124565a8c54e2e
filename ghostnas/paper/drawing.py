"""Drawings of lines, points, words and pictures, as SVG and PNG; knows not what they show."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeAlias, assert_never

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image, ImageDraw, ImageFont

from ghostnas.arrays import Array

Anchor: TypeAlias = Literal["start", "middle", "end"]
Point: TypeAlias = tuple[float, float]

INK, GREY, PALE = "#222222", "#777777", "#dddddd"
COLOURS = (
    "#c0392b",
    "#2471a3",
    "#1e8449",
    "#b9770e",
    "#7d3c98",
    "#117a65",
    "#5d6d7e",
    "#a04000",
    "#515a5a",
)
PNG_SCALE = 2
TICKS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line through points."""

    points: tuple[Point, ...]
    colour: str = INK
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A filled polygon; `title` is shown where a pointer rests on it in SVG."""

    points: tuple[Point, ...]
    colour: str
    opacity: float = 1.0
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A circle, filled or only its outline."""

    x: float
    y: float
    radius: float = 4.0
    colour: str = INK
    filled: bool = True
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Words; `y` is their baseline."""

    x: float
    y: float
    text: str
    size: float = 12.0
    colour: str = INK
    anchor: Anchor = "start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Pixels, (height, width) grey or (height, width, 3), uint8, scaled to a box without blur."""

    x: float
    y: float
    width: float
    height: float
    pixels: Array
    frame: str = ""
    title: str = ""


Shape: TypeAlias = Line | Area | Dot | Label | Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """Shapes on white, in the order in which they are drawn; `caption` says what it shows."""

    width: int
    height: int
    shapes: tuple[Shape, ...]
    caption: str


@dataclass(slots=True)
class Plot:
    """A drawing with two axes: maps values to points, and gathers shapes."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_name: str
    y_name: str
    log_x: bool = False
    width: int = 760
    height: int = 460
    left: int = 64
    right: int = 24
    top: int = 20
    bottom: int = 52
    shapes: list[Shape] = field(default_factory=list)

    def x(self, value: float) -> float:
        low, high = self.x_range
        across = self.width - self.left - self.right
        if self.log_x:
            share = math.log(value / low) / math.log(high / low)
        else:
            share = (value - low) / (high - low)
        return self.left + share * across

    def y(self, value: float) -> float:
        low, high = self.y_range
        return (
            self.height
            - self.bottom
            - (value - low) / (high - low) * (self.height - self.top - self.bottom)
        )

    def at(self, x: float, y: float) -> Point:
        return self.x(x), self.y(y)

    def add(self, *shapes: Shape) -> None:
        self.shapes.extend(shapes)

    def drawing(self, caption: str) -> Drawing:
        return Drawing(
            width=self.width,
            height=self.height,
            shapes=(*self._axes(), *self.shapes),
            caption=caption,
        )

    def _axes(self) -> list[Shape]:
        floor, end = self.height - self.bottom, self.width - self.right
        shapes: list[Shape] = []
        for value in ticks(*self.y_range):
            y = self.y(value)
            shapes.append(Line(points=((self.left, y), (end, y)), colour=PALE))
            shapes.append(
                Label(x=self.left - 8, y=y + 4, text=f"{value:g}", anchor="end", colour=GREY)
            )
        for value in log_ticks(*self.x_range) if self.log_x else ticks(*self.x_range):
            x = self.x(value)
            shapes.append(Line(points=((x, floor), (x, floor + 4)), colour=GREY))
            shapes.append(Label(x=x, y=floor + 18, text=f"{value:g}", anchor="middle", colour=GREY))
        shapes.append(Line(points=((self.left, self.top), (self.left, floor), (end, floor))))
        middle = (self.left + end) / 2
        shapes.append(Label(x=middle, y=self.height - 12, text=self.x_name, anchor="middle"))
        shapes.append(Label(x=8, y=self.top - 6, text=self.y_name))
        return shapes


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, about TICKS of them."""
    step = 10 ** math.floor(math.log10((high - low) / TICKS))
    for factor in (1, 2, 5, 10):
        if (high - low) / (step * factor) <= TICKS:
            step *= factor
            break
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [value for value in values if low <= value <= high]


def grey(values: Array) -> Array:
    """A map of numbers as uint8 pixels, its lowest value black and its highest white."""
    low, high = float(values.min()), float(values.max())
    if high == low:
        return np.zeros(values.shape, np.uint8)
    return ((values - low) / (high - low) * 255).round().astype(np.uint8)


def gallery(
    groups: Sequence[tuple[str, str, Sequence[Array]]],
    caption: str,
    columns: int = 8,
    cell: int = 76,
) -> Drawing:
    """Groups of pictures, each with a title and a colour, in rows of `columns`."""
    gap, margin = 6, 12
    width = 2 * margin + columns * (cell + gap)
    y = float(margin)
    shapes: list[Shape] = []
    for title, colour, pictures in groups:
        shapes.append(Label(x=margin, y=y + 12, text=title, colour=colour))
        y += 20
        for index, pixels in enumerate(pictures):
            column, row = index % columns, index // columns
            shapes.append(
                Picture(
                    x=margin + column * (cell + gap),
                    y=y + row * (cell + gap),
                    width=cell,
                    height=cell,
                    pixels=pixels,
                    frame=colour,
                )
            )
        y += -(-len(pictures) // columns) * (cell + gap) + 10
    return Drawing(width=width, height=round(y), shapes=tuple(shapes), caption=caption)


def svg(drawing: Drawing) -> str:
    """The drawing as an SVG document that needs nothing else."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    kinds = [type(shape).__name__ for shape in drawing.shapes]
    return environment.get_template("drawing.svg.j2").render(
        drawing=drawing,
        shapes=list(zip(kinds, drawing.shapes, strict=True)),
        place=lambda points: " ".join(f"{x:.2f},{y:.2f}" for x, y in points),
        data=lambda pixels: base64.b64encode(_png(Image.fromarray(pixels))).decode(),
    )


def png(drawing: Drawing) -> bytes:
    """The drawing as a PNG of PNG_SCALE times its size."""
    scale = PNG_SCALE
    image = Image.new("RGB", (drawing.width * scale, drawing.height * scale), "white")
    canvas = ImageDraw.Draw(image, "RGBA")

    def scaled(points: Sequence[Point]) -> list[Point]:
        return [(x * scale, y * scale) for x, y in points]

    for shape in drawing.shapes:
        match shape:
            case Line():
                width = max(1, round(shape.width * scale))
                draw = _dashed if shape.dashed else _solid
                draw(canvas, scaled(shape.points), shape.colour, width)
            case Area():
                alpha = round(255 * shape.opacity)
                canvas.polygon(scaled(shape.points), fill=(*_rgb(shape.colour), alpha))
            case Dot():
                x, y, radius = (each * scale for each in (shape.x, shape.y, shape.radius))
                box = (x - radius, y - radius, x + radius, y + radius)
                fill = shape.colour if shape.filled else "white"
                canvas.ellipse(box, fill=fill, outline=shape.colour, width=scale)
            case Label():
                font = ImageFont.load_default(shape.size * scale)
                anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
                place = (shape.x * scale, shape.y * scale)
                canvas.text(place, shape.text, shape.colour, font, anchor)
            case Picture():
                left, top = round(shape.x * scale), round(shape.y * scale)
                right = round((shape.x + shape.width) * scale)
                bottom = round((shape.y + shape.height) * scale)
                picture = Image.fromarray(shape.pixels).convert("RGB")
                size = (right - left, bottom - top)
                image.paste(picture.resize(size, Image.Resampling.NEAREST), (left, top))
                if shape.frame:
                    canvas.rectangle((left, top, right, bottom), outline=shape.frame, width=scale)
            case _:
                assert_never(shape)
    return _png(image)


def _solid(canvas: ImageDraw.ImageDraw, points: list[Point], colour: str, width: int) -> None:
    canvas.line(points, fill=colour, width=width, joint="curve")


def _dashed(canvas: ImageDraw.ImageDraw, points: list[Point], colour: str, width: int) -> None:
    """Dashes of 6 pixels and gaps of 4, as the SVG has them."""
    dash, period = 6 * PNG_SCALE, 10 * PNG_SCALE
    for (x1, y1), (x2, y2) in pairwise(points):
        length = math.hypot(x2 - x1, y2 - y1)
        for start in range(0, math.ceil(length), period):
            a, b = start / length, min(1.0, (start + dash) / length)
            ends = [(x1 + (x2 - x1) * at, y1 + (y2 - y1) * at) for at in (a, b)]
            canvas.line(ends, fill=colour, width=width)


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return red, green, blue


def _png(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()
