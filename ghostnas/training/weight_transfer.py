"""Which part of one network's weights another takes: index maps, and what is made of them. Trains
nothing.

A layer takes the first channels of the layer of the same name. Which inputs belong to them follows
from the graph: a Ghost module's output is its primary maps and then its cheap ones, so half of its
channels are the first half of each. A stage takes the first blocks of the stage of its number.
Kernels are centred.

`fit` takes what it can of any file. `parts` takes everything from arrays that many networks share
(`ghostnas.training.shared_weights`); channels that one network concatenates are interleaved there,
so that every width is a prefix of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias, assert_never

import numpy as np
import numpy.typing as npt

from ghostnas.arrays import Array
from ghostnas.errors import InputError
from ghostnas.ir.graph import (
    Activation,
    Add,
    Affine,
    AvgPool,
    BatchNorm,
    ChannelConv,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    Graph,
    Input,
    MaxPool,
    Multiply,
    Narrow,
    Op,
    Pad,
    Shape,
    Upsample,
    Weights,
    weight_shapes,
)
from ghostnas.training import block_matching

Indices: TypeAlias = npt.NDArray[np.intp]
NONE = -1  # in place of an index: the other network has no such channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Channels made by one layer: for each, its index in the other network's layer, which has
    `size` channels.
    """

    indices: Indices
    size: int


Layout: TypeAlias = tuple[Run, ...]  # of a node's output, in order


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of an array.

    Attributes:
        indices: of its first dimensions, those that are taken, in order.
        kernel: sizes of the other dimensions, which are centred.
    """

    indices: tuple[Indices, ...]
    kernel: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """How many arrays of the network were taken whole, in part or not at all, and how many of the
    file's were unused.

    Attributes:
        whole, cut, left: arrays of the network; those left start from values of their own.
        unused: arrays of the file from which nothing was taken.
    """

    whole: int
    cut: int
    left: int
    unused: int

    def __str__(self) -> str:
        return (
            f"{self.whole} of {self.whole + self.cut + self.left} arrays taken whole, "
            f"{self.cut} cut, {self.left} left at their initial values; {self.unused} unused"
        )


def fit(graph: Graph, weights: Weights, seed: int = 0) -> tuple[dict[str, Array], Fitted]:
    """What the network of `graph` takes from another's `weights`; float32, in its own shapes.

    Channels that the other network lacks are initialised as in a new one, drawn from `seed`:
    He-normal kernels, batch norms at 1 and 0. A smaller kernel is centred in zeros; of a larger
    one the middle is taken. A classifier with another number of classes is left out.

    Raises:
        InputError: nothing fits.
    """
    shapes = {key: shape for node in graph.nodes for key, shape in weight_shapes(node).items()}
    matched = block_matching.match(weights, shapes)
    source = {
        key: matched[key].shape
        for node in graph.nodes
        for key, shape in weight_shapes(node).items()
        if key in matched and _could(matched[key].shape, shape, _grouped(node.op))
    }
    classifier = set(weight_shapes(graph.nodes[-1]))
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    whole = 0
    for key, part in _parts(graph, source, interleaved=False).items():
        found, shape = matched[key], shapes[key]
        if key in classifier and len(found) != shape[0]:
            continue
        if not part.indices:  # one kernel for all channels
            arrays[key] = np.ascontiguousarray(_centred(found, part.kernel), np.float32)
            whole += found.shape == shape
        elif not any((each == NONE).all() for each in part.indices):
            arrays[key] = _gathered(found, part.indices, _fresh(key, shape, rng))
            whole += found.shape == shape and all(map(_is_all, part.indices))
    if not arrays:
        raise InputError(
            f"none of the {len(weights)} arrays fit any of the network's {len(shapes)}"
        )
    left, unused = len(shapes) - len(arrays), len(weights) - len(arrays)
    return arrays, Fitted(whole=whole, cut=len(arrays) - whole, left=left, unused=unused)


def parts(graph: Graph) -> dict[str, Part]:
    """The part that each of a network's arrays is of one that networks of all widths share: key to
    part. Its indices are a permutation of the first ones.
    """
    shapes = {key: shape for node in graph.nodes for key, shape in weight_shapes(node).items()}
    return _parts(graph, shapes, interleaved=True)


def _parts(graph: Graph, source: Mapping[str, Shape], *, interleaved: bool) -> dict[str, Part]:
    """The parts of another network's arrays, of the shapes in `source`."""
    # The first walk finds where the Ghost modules' maps are; then the stem, which the first of them
    # are added to, can take the same channels.
    layouts = _layouts(graph, source, None, interleaved=interleaved)
    layouts = _layouts(graph, source, layouts, interleaved=interleaved)
    found = {}
    for node, layout in zip(graph.nodes, layouts, strict=True):
        for key, shape in weight_shapes(node).items():
            theirs = source.get(key)
            if theirs is None:
                continue
            indices: list[Indices] = []
            if not isinstance(node.op, ChannelConv):
                indices.append(_join(layout, theirs[0]))
            if isinstance(node.op, Conv | Dense) and not _grouped(node.op):
                indices += [_join(layouts[node.inputs[0]], size) for size in theirs[1:2]]
            found[key] = Part(indices=tuple(indices), kernel=shape[2:])
    return found


def _layouts(
    graph: Graph, source: Mapping[str, Shape], known: list[Layout] | None, *, interleaved: bool
) -> list[Layout]:
    """For each node, which of the other network's channels its output has.

    `source` is the shapes of the other's arrays; `known` the layouts of an earlier walk, if any.
    """
    readers = graph.consumers()
    layouts: list[Layout] = []
    for index, node in enumerate(graph.nodes):
        before = [layouts[each] for each in node.inputs]
        found = source.get(f"{node.name}.weight")
        match node.op:
            case Input():
                layout: Layout = (_first(node.shape[0], node.shape[0]),)
            case Conv() if _grouped(node.op):
                layout = _cheap(node.op, before[0], found)
            case Conv() | Dense():
                partner = _partner(graph, readers, index)
                if partner is not None and (known or partner < index):
                    layout = (known or layouts)[partner]
                else:
                    size = node.shape[0] if found is None else found[0]
                    layout = (_first(node.shape[0], size),)
            case Concat():
                layout = tuple(run for each in before for run in each)
                if interleaved:
                    layout = _interleaved(layout)
            case Narrow():
                layout = _narrowed(before[0], node.op)
                if interleaved:
                    layout = _ranked(layout[0].indices)
            case Add():
                layout = before[1]  # the shortcut's channels stay in place
            case BatchNorm() | Affine() | Activation() | Multiply():
                layout = before[0]
            case Upsample() | ChannelConv():
                layout = before[0]
            case Pad() | MaxPool() | AvgPool() | GlobalPool() | Flatten():
                layout = before[0]
            case _:
                assert_never(node.op)
        layouts.append(layout)
    return layouts


def _interleaved(layout: Layout) -> Layout:
    """The runs as one, each spread evenly over it: of two the channels alternate, and the first n
    of the whole are about the first n / 2 of each, whatever its width.
    """
    share = np.concatenate([run.indices / run.size for run in layout])
    return _ranked(share)


def _ranked(order: npt.NDArray[Any]) -> Layout:
    """One run, its channels numbered in the order of these numbers; equal ones stay in place."""
    places = np.empty(len(order), np.intp)
    places[np.argsort(order, kind="stable")] = np.arange(len(order))
    return (Run(indices=places, size=len(order)),)


def _cheap(op: Conv, layout: Layout, found: Shape | None) -> Layout:
    """A depthwise convolution's maps follow its input; a cheap operation makes several per map."""
    each = op.out_channels // op.in_channels
    if found is None:
        return layout if each == 1 else (_first(op.out_channels, op.out_channels),)
    their_each = max(1, round(found[0] / sum(run.size for run in layout)))
    if each == their_each == 1:
        return layout
    maps = np.arange(op.out_channels)
    inputs, number = _join(layout, found[0] // their_each)[maps // each], maps % each
    rows = np.where((inputs == NONE) | (number >= their_each), NONE, inputs * their_each + number)
    return (Run(indices=rows, size=found[0]),)


def _partner(graph: Graph, readers: list[list[int]], index: int) -> int | None:
    """The node that this one's output, normalised or not, is added to or gates."""
    reached = [index]
    while reached:
        here = reached.pop()
        for reader in readers[here]:
            node = graph.nodes[reader]
            if isinstance(node.op, Add) or (
                isinstance(node.op, Multiply) and here != node.inputs[0]
            ):
                return sum(node.inputs) - here
            per_channel = isinstance(node.op, BatchNorm | Activation | Upsample)
            if per_channel or (
                isinstance(node.op, Conv) and node.op.depthwise and _single(node.op)
            ):
                reached.append(reader)
    return None


def _single(op: Conv) -> bool:
    return op.in_channels == op.out_channels


def _grouped(op: Op) -> bool:
    return isinstance(op, Conv) and op.groups > 1


def _could(found: Shape, shape: Shape, grouped: bool) -> bool:
    """Whether an array could be part of one of `shape`: same rank, kernels that can be centred."""
    if len(found) != len(shape) or 0 in found:
        return False
    if grouped and len(found) == 4 and not found[1] == shape[1] == 1:
        return False
    theirs, ours = found[2:], shape[2:]
    if len(set(ours)) > 1:  # one row or one column
        alike = [side == 1 for side in theirs] == [side == 1 for side in ours]
    else:
        alike = len(set(theirs)) <= 1
    return alike and all((a - b) % 2 == 0 for a, b in zip(theirs, ours, strict=True))


def _gathered(source: Array, indices: Sequence[Indices], start: Array) -> Array:
    """`start`, filled from `source` at the `indices` of the first dimensions."""
    values, new = source[indices[0]], indices[0] == NONE
    if len(indices) > 1:
        values, new = values[:, indices[1]], new[:, None] | (indices[1] == NONE)
    values = _centred(values, start.shape[2:])
    new = new.reshape(new.shape + (1,) * (start.ndim - new.ndim))
    return np.ascontiguousarray(np.where(new, start, values), np.float32)


def _is_all(indices: Indices) -> bool:
    return np.array_equal(indices, np.arange(len(indices)))


def _first(count: int, size: int) -> Run:
    """The first `count` channels of `size`."""
    indices = np.arange(count)
    return Run(indices=np.where(indices < size, indices, NONE), size=size)


def _join(layout: Layout, size: int) -> Indices:
    """A layout's indices among the `size` channels of the other network's layer.

    A Ghost module of odd width drops its last cheap maps. Where the sizes differ by more, the
    channels come from a different layer there, as in a shortened stage: the runs then start at
    the same proportion of its channels.
    """
    total = sum(run.size for run in layout)
    exact = 0 <= (total - size) * layout[0].size < total
    starts = [0, *accumulate(run.size for run in layout)]
    if not exact:
        starts = [start * size // total for start in starts]
    indices = []
    for run, start, end in zip(layout, starts, starts[1:], strict=False):
        within = (run.indices != NONE) & (run.indices < min(end, size) - start)
        indices.append(np.where(within, run.indices + start, NONE))
    return np.concatenate(indices)


def _narrowed(layout: Layout, op: Narrow) -> Layout:
    """The runs without the dropped channels; they keep the other network's sizes."""
    kept, skipped = [], 0
    for run in layout:
        first, last = op.start - skipped, op.start + op.channels - skipped
        kept.append(Run(indices=run.indices[max(first, 0) : max(last, 0)], size=run.size))
        skipped += len(run.indices)
    return tuple(kept)


def _centred(kernels: Array, size: Shape) -> Array:
    """Kernels at another size: their middle, or centred in zeros."""
    if not size or kernels.shape[2:] == size:
        return kernels
    for axis, wanted in enumerate(size, 2):
        margin = (wanted - kernels.shape[axis]) // 2
        if margin < 0:
            kernels = np.take(kernels, range(-margin, wanted - margin), axis)
        else:
            around = [(margin, margin) if at == axis else (0, 0) for at in range(kernels.ndim)]
            kernels = np.pad(kernels, around)
    return kernels


def _fresh(key: str, shape: Shape, rng: np.random.Generator) -> Array:
    if len(shape) > 1:
        return rng.normal(0.0, (2 / float(np.prod(shape[1:]))) ** 0.5, shape)
    return np.full(shape, float(key.endswith((".weight", ".running_var"))))
