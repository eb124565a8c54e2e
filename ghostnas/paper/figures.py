"""Figures 4 to 7 of the GhostNet paper and those of the study of the seed, as drawings.

Published accuracies are drawn as hollow points and called published; own ones are filled. A latency
comes from a target's table through `ghostnas.latency.predictor`, one table for all networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ghostnas.errors import GhostnasError
from ghostnas.ir import cost
from ghostnas.latency import table as latency_tables
from ghostnas.latency.predictor import Predictor
from ghostnas.networks import zoo
from ghostnas.networks.arch import fit_to
from ghostnas.paper import printed
from ghostnas.paper.drawing import (
    COLOURS,
    GREY,
    INK,
    Area,
    Dot,
    Drawing,
    Label,
    Line,
    Plot,
    gallery,
    grey,
)
from ghostnas.paper.maps import Look, second_layer
from ghostnas.paper.seeds import Study, density
from ghostnas.paper.subjects import Subject, graph_of

FAMILIES = (  # one colour in both figures
    *("MobileNetV2", "MobileNetV3", "GhostNet", "MobileNetV1", "ShuffleNetV1", "ShuffleNetV2"),
    *("MnasNet", "FBNet", "ProxylessNAS"),
)
INTRINSIC, GHOST = "#c0392b", "#1e8449"
SHOWN = 32  # maps of a kind
LETTER = 5.5  # pixels of a letter of size 10, about
SHUFFLED = ("shufflenetv1-g3", "shufflenetv1-g8", "shufflenetv2")
# Accuracies that other papers print and table 7 does not: FBNet-C (Wu et al., 2019, table 3).
OTHERS = (("FBNet-C", Subject(network="fbnet-c"), 74.9),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A network in figures 6 and 7: published top-1 in percent, counted FLOPs, and the predicted
    latency with its interval, or why there is none.
    """

    label: str
    family: str
    top1: float
    macs: int
    latency_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """An accuracy measured here, in percent, to be marked in figures 6 and 7."""

    label: str
    top1: float
    macs: int
    latency_ms: float | None = None


def placed(target: str | None) -> list[Placed]:
    """The networks of table 7 that this project describes, and FBNet-C, with their published
    accuracies; with a target, each one's predicted latency.

    Raises:
        InputError: there is no such target.
    """
    predictor = Predictor(latency_tables.load(target)) if target else None
    rows = [(row.label, row.subject, row.top1) for row in printed.TABLE7]
    found = []
    for label, subject, top1 in (*rows, *OTHERS):
        if subject is None or top1 is None:
            continue
        graph = graph_of(subject, 224, 1000)
        about: dict[str, Any] = {}
        if predictor is not None:
            if subject.network in SHUFFLED:
                about["reason"] = "no table has its shuffle of channels"
            else:
                try:
                    predicted = predictor.predict(_network(subject))
                    about = {
                        "latency_ms": predicted.latency_ms,
                        "low_ms": predicted.low_ms,
                        "high_ms": predicted.high_ms,
                    }
                except GhostnasError as error:
                    about["reason"] = str(error)
        found.append(
            Placed(
                label=label,
                family=_family(label),
                top1=top1,
                macs=cost.count(graph).macs,
                **about,
            )
        )
    return found


def figure4(seen: Look) -> Drawing:
    """Intrinsic and ghost maps of the second layer; figure 5 for a network without ghosts."""
    at, intrinsic = second_layer(seen.graph)
    maps = seen.values[at]
    where = f"{seen.subject.title}, {seen.weights}"
    if intrinsic is None:
        groups = [(f"maps of the second layer ({len(maps)})", INTRINSIC, _pixels(maps))]
        number = 5
    else:
        first, ghosts = maps[:intrinsic], maps[intrinsic:]
        groups = [
            (f"intrinsic maps ({len(first)}), by the convolution", INTRINSIC, _pixels(first)),
            (f"ghost maps ({len(ghosts)}), by the cheap operation", GHOST, _pixels(ghosts)),
        ]
        number = 4
    image = ("the image", INK, [seen.image])
    return gallery([image, *groups], f"Figure {number}: the second layer of {where}")


def figure6(networks: Sequence[Placed], own: Sequence[Own] = ()) -> Drawing:
    """Accuracy against FLOPs."""
    points = [(each, each.macs / 1e6) for each in networks]
    marks = [(each, each.macs / 1e6) for each in own]
    return _scatter(
        points,
        marks,
        "million FLOPs (multiply-accumulates), counted here",
        "Figure 6: published top-1 accuracy on ImageNet against FLOPs",
    )


def figure7(networks: Sequence[Placed], target: str, own: Sequence[Own] = ()) -> Drawing:
    """Accuracy against latency on a target; networks without a prediction are named below."""
    points = [(each, each.latency_ms) for each in networks if each.latency_ms is not None]
    marks = [(each, each.latency_ms) for each in own if each.latency_ms is not None]
    missing = [each.label for each in networks if each.latency_ms is None]
    return _scatter(
        points,
        marks,
        f"predicted latency on {target} in ms, with its interval",
        f"Figure 7: published top-1 accuracy on ImageNet against predicted latency on {target}"
        + (f"; without a prediction: {', '.join(missing)}" if missing else ""),
    )


def by_epoch(found: Study) -> Drawing:
    """Mean, one deviation and range of the accuracy after each epoch, over the seeds."""
    epochs = range(1, len(found.by_epoch) + 1)
    rows = [(100 * s.mean, 100 * (s.std or 0), 100 * s.min, 100 * s.max) for s in found.by_epoch]
    low = min(row[2] for row in rows)
    high = max(row[3] for row in rows)
    plot = Plot(
        x_range=(0.5 if len(rows) == 1 else 1, max(1.5, len(rows))),
        y_range=(low - 2, high + 2),
        x_name="epoch",
        y_name="accuracy on test images in %",
    )
    for ends, opacity, what in (
        ([(row[2], row[3]) for row in rows], 0.15, "lowest to highest"),
        ([(row[0] - row[1], row[0] + row[1]) for row in rows], 0.3, "one standard deviation"),
    ):
        under = [plot.at(epoch, end[0]) for epoch, end in zip(epochs, ends, strict=True)]
        over = [plot.at(epoch, end[1]) for epoch, end in zip(epochs, ends, strict=True)]
        points = (*under, *reversed(over))
        plot.add(Area(points=points, colour=COLOURS[0], opacity=opacity, title=what))
    mean = tuple(plot.at(epoch, row[0]) for epoch, row in zip(epochs, rows, strict=True))
    plot.add(Line(points=mean, colour=COLOURS[0], width=2))
    x, y = plot.width - plot.right - 300, plot.height - plot.bottom - 44
    plot.add(
        Label(x=x, y=y, text="line: mean; dark: one standard deviation;", colour=GREY),
        Label(x=x, y=y + 16, text=f"light: range of {found.final.count} seeds", colour=GREY),
    )
    return plot.drawing(f"{found.network}: accuracy by epoch over {found.final.count} seeds")


def histogram(found: Study) -> Drawing:
    """The final accuracies: their histogram with its density, mean, deviation and ends."""
    values = 100 * np.asarray(found.accuracies)
    counts, edges = np.histogram(values, bins=min(20, max(5, len(values) // 3)))
    places, heights = density(found.accuracies)
    width = edges[1] - edges[0]
    scaled = [height * len(values) * width / 100 for height in heights]
    room = 0.15 * (edges[-1] - edges[0]) or 1.0
    plot = Plot(
        x_range=(float(edges[0] - room), float(edges[-1] + room)),
        y_range=(0, 1.25 * max(counts.max(), *scaled, 1)),
        x_name="final accuracy on test images in %",
        y_name="seeds",
    )
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        box = ((left, 0), (left, count), (right, count), (right, 0))
        corners = tuple(plot.at(float(x), float(y)) for x, y in box)
        title = f"{count} seeds from {left:.2f} to {right:.2f} %"
        plot.add(Area(points=corners, colour=COLOURS[1], opacity=0.45, title=title))
    if scaled:
        curve = tuple(
            plot.at(100 * x, y) for x, y in zip(places, scaled, strict=True)
            if plot.x_range[0] <= 100 * x <= plot.x_range[1]
        )  # fmt: skip
        plot.add(Line(points=curve, colour=COLOURS[1], width=2))
    final = found.final
    top = plot.y_range[1]
    for value, name, dashed in (
        (final.mean, "mean", False),
        (final.min, "lowest", True),
        (final.max, "highest", True),
    ):
        ends = (plot.at(100 * value, 0), plot.at(100 * value, 0.88 * top))
        plot.add(
            Line(points=ends, colour=COLOURS[0], dashed=dashed),
            Label(
                x=plot.x(100 * value),
                y=plot.y(0.9 * top),
                text=f"{name} {100 * value:.2f}",
                anchor="middle",
                colour=COLOURS[0],
            ),
        )
    plot.add(
        Label(
            x=plot.width - plot.right,
            y=plot.top + 6,
            text=f"{final.count} seeds, standard deviation {100 * (final.std or 0):.2f} points",
            anchor="end",
        )
    )
    return plot.drawing(f"{found.network}: final accuracies of {final.count} seeds")


def trained(found: dict[str, Any], title: str) -> Drawing:
    """A trained table: each row's accuracies, mean and 95 % interval, beside the printed value."""
    rows = [row for row in found["rows"] if row["seeds"]]
    values = [100 * each for row in rows for each in row["accuracies"]]
    ends = [100 * each for row in rows for each in (row["interval"] or ())]
    said = [row["printed_percent"] for row in rows]
    low, high = min(*values, *ends, *said), max(*values, *ends, *said)
    room = 0.08 * (high - low) or 1.0
    plot = Plot(
        x_range=(-0.6, len(rows) - 0.4),
        y_range=(low - room, high + room),
        x_name="",
        y_name="top-1 accuracy on CIFAR-10's test images in %",
    )
    drawn = plot.drawing("").shapes
    kept = [shape for shape in drawn if not _below(shape, plot)]
    plot.shapes = []
    for index, row in enumerate(rows):
        x = plot.x(index)
        if row["interval"]:
            bar = tuple((x, plot.y(100 * each)) for each in row["interval"])
            plot.add(Line(points=bar, colour=COLOURS[1], width=2))
        for each in row["accuracies"]:
            plot.add(Dot(x=x - 12, y=plot.y(100 * each), radius=2.5, colour=GREY))
        mean = 100 * row["mean"]
        plot.add(
            Dot(x=x, y=plot.y(mean), colour=COLOURS[1], title=f"ours {mean:.2f} %"),
            Dot(
                x=x + 14,
                y=plot.y(row["printed_percent"]),
                colour=COLOURS[0],
                filled=False,
                title=f"printed {row['printed_percent']} %",
            ),
            Label(
                x=x,
                y=plot.height - plot.bottom + 18,
                text=row["network"],
                anchor="middle",
            ),
        )
    plot.add(
        Label(
            x=plot.left,
            y=plot.height - 12,
            text="blue: ours, mean and 95 % interval; grey: each seed; red and hollow: printed",
            colour=GREY,
        )
    )
    return Drawing(
        width=plot.width, height=plot.height, shapes=(*kept, *plot.shapes), caption=title
    )


def _below(shape: object, plot: Plot) -> bool:
    """Whether a shape is a tick of the horizontal axis, which a table's rows take the place of."""
    floor = plot.height - plot.bottom
    if isinstance(shape, Label):
        return shape.y > floor + 10
    return isinstance(shape, Line) and shape.points[-1][1] == floor + 4


def _scatter(
    points: Sequence[tuple[Placed, float]],
    marks: Sequence[tuple[Own, float]],
    x_name: str,
    caption: str,
) -> Drawing:
    xs = [x for _, x in points] + [x for _, x in marks]
    xs += [end for each, _ in points for end in (each.low_ms, each.high_ms)
           if end is not None and "latency" in x_name]  # fmt: skip
    ys = [each.top1 for each, _ in points] + [each.top1 for each, _ in marks]
    plot = Plot(
        x_range=(0.9 * min(xs), 1.15 * max(xs)),
        y_range=(min(ys) - 1.5, max(ys) + 1.5),
        x_name=x_name,
        y_name="top-1 accuracy in %: hollow as published" + (", filled our own" if marks else ""),
        log_x=True,
        height=520,
    )
    families = list(dict.fromkeys(each.family for each, _ in points))
    taken: list[tuple[float, float]] = [plot.at(x, each.top1) for each, x in points]
    for family in families:
        colour = COLOURS[FAMILIES.index(family) % len(COLOURS)]
        of = sorted(((x, each) for each, x in points if each.family == family), key=lambda p: p[0])
        line = tuple(plot.at(x, each.top1) for x, each in of)
        if len(line) > 1:
            plot.add(Line(points=line, colour=colour, width=2.5 if family == "GhostNet" else 1.2))
        for x, each in of:
            if each.low_ms is not None and each.high_ms is not None and "latency" in x_name:
                bar = (plot.at(each.low_ms, each.top1), plot.at(each.high_ms, each.top1))
                plot.add(Line(points=bar, colour=colour, width=0.8))
            title = f"{each.label}: published {each.top1} %, {x:.4g}"
            dot_x, dot_y = plot.at(x, each.top1)
            plot.add(
                Dot(x=dot_x, y=dot_y, colour=colour, filled=False, title=title),
                _beside(dot_x, dot_y, each.label, colour, taken),
            )
    for own, x in marks:
        dot_x, dot_y = plot.at(x, own.top1)
        plot.add(
            Dot(x=dot_x, y=dot_y, radius=5, title=f"{own.label}: ours {own.top1:.2f} %, {x:.4g}"),
            Label(x=dot_x + 8, y=dot_y - 6, text=f"{own.label} (ours)", size=10),
        )
    return plot.drawing(caption)


def _beside(x: float, y: float, text: str, colour: str, taken: list[tuple[float, float]]) -> Label:
    """A label near a point, where it covers the fewest of the points and words so far."""
    width = LETTER * len(text)
    places: list[tuple[int, int, float, float]] = []
    for left in (x + 8, x - 8 - width):
        for base in (y + 12, y - 6, y + 4, y + 24, y - 18):
            covered = sum(
                left - LETTER < at < left + width + LETTER and base - 12 < up < base + 5
                for at, up in taken
            )
            places.append((covered, len(places), left, base))
    _, _, left, base = min(places)
    taken += [(left + part * LETTER, base - 4) for part in range(len(text))]
    return Label(x=left, y=base, text=text, size=10, colour=colour)


def _family(label: str) -> str:
    return label.split(" ")[0].replace("-S", "").replace("-L", "").split("-")[0]


def _network(subject: Subject) -> Any:
    """The network as the predictor knows it best: an `Arch` where it is one."""
    if subject.network in zoo.ZOO:
        return fit_to(zoo.named(subject.network, subject.width), resolution=224, classes=1000)
    return graph_of(subject, 224, 1000)


def _pixels(maps: Any) -> list[Any]:
    return [grey(each) for each in maps[:SHOWN]]


def save(drawing: Drawing, folder: Path, name: str) -> list[Path]:
    """Write a drawing as SVG and PNG."""
    from ghostnas.files import write_whole
    from ghostnas.paper.drawing import png, svg

    paths = [folder / f"{name}.svg", folder / f"{name}.png"]
    write_whole(paths[0], svg(drawing).encode())
    write_whole(paths[1], png(drawing))
    return paths
