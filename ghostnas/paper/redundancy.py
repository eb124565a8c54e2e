"""Table 2 and figure 1: how well a cheap filter makes one feature map of another.

For every pair of maps of a layer the d x d filter is found that makes the second of the first with
the least squared error; it is one row of the paper's depthwise convolution, and needs no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ghostnas.arrays import Array
from ghostnas.errors import InputError
from ghostnas.ir.graph import Add
from ghostnas.paper.drawing import Drawing, Label, Picture, Shape, grey
from ghostnas.paper.maps import Look, first_residual_block

KERNELS = (1, 3, 5, 7)
PAIRS = 3
CHOSEN_BY = 3  # the kernel by which pairs are called alike
LIVELY = 0.1  # standard deviation of a map between 0 and 1, below which it is nearly blank
COLOURS = {"red": "#c0392b", "green": "#1e8449", "blue": "#2471a3"}
SHOWN = 64  # maps in the picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two maps, and the mean squared error of making the second of the first, by d.

    Maps are scaled to lie between 0 and 1 beforehand, so that errors of different maps compare.
    """

    colour: str
    first: int
    second: int
    mse: dict[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Redundancy:
    """What was found among a layer's maps.

    Attributes:
        pairs: the most alike, none of whose maps is in two of them: those of which the filter
            leaves the least share of the second map's variance.
        median: over all maps, of the error that the best other map leaves, by d.
        blank: maps that are one value nearly everywhere, and were left out.
    """

    pairs: tuple[Pair, ...]
    median: dict[int, float]
    maps: int
    blank: int


def find(maps: Array) -> Redundancy:
    """The redundancy of maps (channels, height, width).

    Raises:
        InputError: fewer than 6 of them vary.
    """
    low = maps.min((1, 2), keepdims=True).astype(np.float64)
    extent = maps.max((1, 2), keepdims=True) - low
    scaled = (maps - low) / np.where(extent > 0, extent, 1.0)
    lively = np.flatnonzero(scaled.std((1, 2)) > LIVELY)
    if len(lively) < 2 * PAIRS:
        raise InputError(
            f"{len(lively)} of {len(maps)} maps vary; {2 * PAIRS} are needed: is it trained?"
        )
    scaled = scaled[lively]
    errors = {d: fit_errors(scaled, d) for d in KERNELS}
    pairs = []
    left = errors[CHOSEN_BY] / scaled.var((1, 2))
    np.fill_diagonal(left, np.inf)
    for colour in COLOURS:
        first, second = (int(each) for each in np.unravel_index(left.argmin(), left.shape))
        by_d = {d: float(errors[d][first, second]) for d in KERNELS}
        pairs.append(
            Pair(colour=colour, first=int(lively[first]), second=int(lively[second]), mse=by_d)
        )
        for each in (first, second):
            left[each], left[:, each] = np.inf, np.inf
    median = {}
    for d, found in errors.items():
        best = found.copy()
        np.fill_diagonal(best, np.inf)
        median[d] = float(np.median(best.min(0)))
    return Redundancy(
        pairs=tuple(pairs), median=median, maps=len(maps), blank=len(maps) - len(lively)
    )


def fit_errors(maps: Array, d: int) -> Array:
    """For maps (n, height, width), the least mean squared error (n, n) of making map j of map i
    with a d x d filter, zeros around the map as in a depthwise convolution, at [i, j].
    """
    count, height, width = maps.shape
    reach = d // 2
    padded = np.pad(maps, ((0, 0), (reach, reach), (reach, reach)))
    targets = maps.reshape(count, -1).T
    squares = (targets**2).sum(0)
    errors = np.empty((count, count))
    for index in range(count):
        windows = np.lib.stride_tricks.sliding_window_view(padded[index], (d, d))
        rows = windows.reshape(height * width, d * d)
        right = rows.T @ targets
        # The normal equations, solved so that filters that see the same pixels do not matter.
        kernel = np.linalg.pinv(rows.T @ rows, hermitian=True) @ right
        errors[index] = squares - (kernel * right).sum(0)
    least: Array = np.maximum(errors, 0.0) / (height * width)
    return least


def to_json(found: Redundancy, seen: Look) -> dict[str, Any]:
    """The finding as JSON types."""
    return {
        "network": seen.subject.title,
        "weights": seen.weights,
        "trained": seen.trained,
        "where": _layer(seen),
        "layer": seen.graph.nodes[first_residual_block(seen.graph)].name,
        **asdict(found),
    }


def of(seen: Look) -> Redundancy:
    """The redundancy of the first residual block of a network that has seen an image."""
    return find(seen.values[first_residual_block(seen.graph)])


def text(found: Redundancy, seen: Look) -> str:
    """Ours in lines: the errors in thousandths, as the paper prints them."""
    lines = [
        f"ours, {seen.subject.title}, {_layer(seen)}, {seen.weights}: the most alike pairs of "
        f"{found.maps} maps ({found.blank} nearly blank)"
    ]
    for pair in found.pairs:
        by_d = ", ".join(f"d = {d}: {1000 * mse:.2f}" for d, mse in pair.mse.items())
        lines.append(f"{pair.colour:5} {pair.first:4} to {pair.second:<4} {by_d}")
    median = ", ".join(f"d = {d}: {1000 * mse:.2f}" for d, mse in found.median.items())
    lines.append(f"median over maps, of the best other map: {median}")
    return "\n".join(lines)


def figure1(found: Redundancy, seen: Look) -> Drawing:
    """The maps as pixels, the most alike pairs framed in their colours."""
    maps = seen.values[first_residual_block(seen.graph)]
    frames = {at: pair for pair in found.pairs for at in (pair.first, pair.second)}
    shown = _shown(len(maps), frames)
    cell, gap, columns, margin = 68, 6, 8, 12
    shapes: list[Shape] = [
        Picture(x=margin, y=margin, width=140, height=140, pixels=seen.image, title="the image"),
        Label(x=170, y=30, text=f"{seen.subject.title}, {_layer(seen)}", size=14),
        Label(x=170, y=50, text=seen.weights),
        Label(x=170, y=68, text="frames: the most alike pairs"),
    ]
    for row, pair in enumerate(found.pairs):
        by_d = ", ".join(f"{d}: {1000 * mse:.1f}" for d, mse in pair.mse.items())
        shapes.append(
            Label(
                x=170,
                y=90 + 18 * row,
                text=f"{pair.colour}: {pair.first} to {pair.second}, MSE / 1000 by d = {by_d}",
                colour=COLOURS[pair.colour],
            )
        )
    for index, at in enumerate(shown):
        shapes.append(
            Picture(
                x=margin + index % columns * (cell + gap),
                y=170 + index // columns * (cell + gap),
                width=cell,
                height=cell,
                pixels=grey(maps[at]),
                frame=COLOURS[frames[at].colour] if at in frames else "",
                title=f"map {at}",
            )
        )
    rows = -(-len(shown) // columns)
    return Drawing(
        width=2 * margin + columns * (cell + gap),
        height=180 + rows * (cell + gap),
        shapes=tuple(shapes),
        caption=f"Figure 1: feature maps of {seen.subject.title} ({seen.weights})",
    )


def _layer(seen: Look) -> str:
    """Which layer is looked at, in words."""
    residual = any(isinstance(node.op, Add) for node in seen.graph.nodes)
    return "the first residual block" if residual else "the second layer, as it has no residuals"


def _shown(count: int, framed: dict[int, Pair]) -> Sequence[int]:
    """The framed maps and the first others, in their order."""
    others = [at for at in range(count) if at not in framed]
    return sorted([*framed, *others[: max(0, SHOWN - len(framed))]])
