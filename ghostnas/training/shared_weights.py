"""Weights that all networks of a space share, and the network that any of them is with its part.

There is one array for each role (``ghost1.primary_conv.0``) in each kind of block at each place
(the third block of the second group), as large as the largest network has it. A network takes the
first channels and the middles of kernels (`ghostnas.training.weight_transfer`). Blocks of different
types, or of different numbers that a space file gives with a type, are different kinds and share
nothing; neither do a cheap operation that makes one map of each and one that makes several. Batch
norms have no statistics here: they differ from network to network. Trains nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ghostnas.arrays import Array
from ghostnas.backends.torch_module import Net
from ghostnas.errors import InputError
from ghostnas.ir.graph import BatchNorm, Conv, Graph, Shape, Weights, weight_shapes
from ghostnas.networks import enumeration
from ghostnas.networks.arch import Part, block_names, lower_part
from ghostnas.networks.space import Space, Value, Walk
from ghostnas.training import weight_transfer
from ghostnas.training.initialization import RESIDUAL_SCALE, residual_norms

# Numbers of which a larger one's weights contain a smaller one's, by the last part of their names.
NESTED = (
    *("alpha", "channels", "features", "depth", "width", "expansion", "se"),
    *("cheap_kernel", "kernel"),
)
STATISTICS = ("running_mean", "running_var")
MAP = 16  # pixels of the maps on which parts are lowered to find their arrays' shapes
Index: TypeAlias = slice | Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Member:
    """A network of the space: its graph, and for each of its learned arrays the name of the shared
    one and the index of each of its dimensions there.
    """

    graph: Graph
    taken: Mapping[str, tuple[str, tuple[Index, ...]]]


class SharedWeights(nn.Module):
    """The shared arrays, as parameters; dots in their names are slashes.

    Args:
        space: whose networks share them, with the classes of the data.
        seed: of the initial values, as in `ghostnas.training.initialization`.

    Raises:
        InputError: the space searches strides, on which the places of weights depend.
    """

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__()
        self.space = space
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name, (shape, residual) in sorted(_shapes(space).items()):
                array = nn.Parameter(_initial(name, shape, residual))
                self.register_parameter(name.replace(".", "/"), array)

    def member(self, params: Mapping[str, Value], graph: Graph) -> Member:
        """A network of the space.

        Args:
            params: its settings.
            graph: what it is lowered to, at any resolution.

        Raises:
            InputError: it has an array that the space's networks do not share.
        """
        names = shared_names(self.space, params, graph)
        taken = {}
        for key, part in weight_transfer.parts(graph).items():
            node, _, role = key.rpartition(".")
            if role in STATISTICS:
                continue
            name = f"{names[node]}.{role}"
            array = self._parameters.get(name.replace(".", "/"))
            if array is None:
                raise InputError(f"space {self.space.name}: {name} is no shared weight")
            taken[key] = (name, _indices(part, array.shape))
        return Member(graph=graph, taken=taken)

    def cut(self, member: Member) -> Net:
        """The network with its part of the weights, in training mode. It has no batch statistics,
        so that each batch is normalised by its own.

        A parameter that is a whole array shares its memory; others are copies.
        """
        with torch.device("meta"):
            net = Net(member.graph)
        for key, (name, index) in member.taken.items():
            path, _, role = key.rpartition(".")
            array = self.array(name).detach()
            module = net.get_submodule(path)
            module.register_parameter(role, nn.Parameter(_taken(array, index)))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
        return net.train()

    def give_back(self, member: Member, net: Net) -> None:
        """Add the gradients of a network that `cut` made to those of the arrays that it is a part
        of.
        """
        for key, (name, index) in member.taken.items():
            gradient = net.get_parameter(key).grad
            array = self.array(name)
            if gradient is None:
                continue
            if array.grad is None:
                if gradient.shape == array.shape and _is_whole(index):
                    array.grad = gradient
                    continue
                array.grad = torch.zeros_like(array)
            _add(array.grad, index, gradient)

    def array(self, name: str) -> Tensor:
        return self.get_parameter(name.replace(".", "/"))

    def arrays(self) -> dict[str, Array]:
        """All arrays by name, float32."""
        return {
            name.replace("/", "."): tensor.detach().float().cpu().contiguous().numpy().copy()
            for name, tensor in self.named_parameters()
        }

    def load(self, arrays: Weights, where: str) -> None:
        """Take what `arrays` returned.

        Raises:
            InputError: it is of another space.
        """
        own = dict(self.named_parameters())
        found = {name.replace(".", "/"): np.array(array) for name, array in arrays.items()}
        if {name: array.shape for name, array in found.items()} != {
            name: tuple(array.shape) for name, array in own.items()
        }:
            raise InputError(f"{where}: its weights are not those of space {self.space.name}")
        self.load_state_dict({name: torch.from_numpy(array) for name, array in found.items()})


def shared_names(space: Space, params: Mapping[str, Value], graph: Graph) -> dict[str, str]:
    """What each node of a network is named among the shared weights.

    Args:
        params: its settings.
    """
    arch = space.decode(params)
    walk = Walk(space, lambda name, options: params.get(name, options[0]))
    places = [
        f"group{group}.{position}.{_kind(space, group, params)}"
        for group, blocks in enumerate(walk.stem_and_groups()[1], 1)
        for position in range(len(blocks))
    ]
    prefixes = dict(zip(block_names(arch), [*places, "head"], strict=True))
    names = {}
    for node in graph.nodes:
        pieces = node.name.split(".")
        prefix = prefixes.get(".".join(pieces[:3]))
        names[node.name] = ".".join([prefix, *pieces[3:]]) if prefix else node.name
    return _by_maps(graph, names)


def _by_maps(graph: Graph, names: Mapping[str, str]) -> dict[str, str]:
    """The names, with how many maps a cheap operation makes of each in those of its nodes."""
    found: dict[str, str] = {}
    several: dict[int, str] = {}
    for index, node in enumerate(graph.nodes):
        mark = ""
        if isinstance(node.op, Conv) and node.op.groups > 1:
            each = node.op.out_channels // node.op.in_channels
            mark = f"@{each}" if each > 1 else ""
        elif isinstance(node.op, BatchNorm):
            mark = several.get(node.inputs[0], "")
        several[index] = mark
        found[node.name] = names[node.name] + mark
    return found


def _kind(space: Space, group: int, params: Mapping[str, Value]) -> str:
    options = space.blocks(group)
    return str(params.get(f"group{group}.block", options[0])).replace(" ", ",").replace(".", "_")


def _largest(space: Space) -> Iterator[Space]:
    """Spaces that together have all arrays at their largest, with most nested numbers pinned.

    Widths between blocks are not: a block as wide as the one before has no shortcut, so that the
    widest networks do not have all arrays. Nor do those whose widths are equal only as they are
    rounded; hence a space that does not round.
    """
    pinned = space.pin(
        **{
            name: max(options)
            for name, options in space.choices.items()
            if name.rpartition(".")[2] in NESTED
            and not name.endswith(".width")
            and name != "stem.channels"
        }
    )
    if "resolution" in pinned.choices:
        pinned = pinned.pin(resolution=pinned.choices["resolution"][0])
    yield pinned
    yield pinned.pin(round_to=1)


def _shapes(space: Space) -> dict[str, tuple[Shape, bool]]:
    """Each shared array's shape, and whether it scales the end of a residual branch."""
    found: dict[str, tuple[Shape, bool]] = {}
    for prefix, part in _parts(space):
        graph = lower_part(part)
        ends = residual_norms(graph)
        own = {
            node.name: ".".join([*prefix, *node.name.split(".")[1:]]) if prefix else node.name
            for node in graph.nodes
        }
        names = _by_maps(graph, own)
        for node in graph.nodes:
            for key, shape in weight_shapes(node).items():
                role = key.rpartition(".")[2]
                if role in STATISTICS:
                    continue
                name = f"{names[node.name]}.{role}"
                before = found.get(name, (shape, False))[0]
                grown = tuple(map(max, before, shape))
                found[name] = (grown, node.name in ends and role == "weight")
    return found


def _parts(space: Space) -> Iterator[tuple[tuple[str, ...], Part]]:
    """Parts that together have all arrays at their largest, and what their nodes are named under:
    nothing for the stem and the head.
    """
    if searched := [name for name in space.choices if name.endswith("stride")]:
        raise InputError(f"space {space.name} searches {searched[0]}: its weights have no places")
    for pinned in _largest(space):
        for whole in enumeration.wholes(pinned):
            yield from dict.fromkeys(_parts_of(pinned, whole))


def _parts_of(space: Space, whole: Mapping[str, Value]) -> Iterator[tuple[tuple[str, ...], Part]]:
    stems = enumeration.stems(space, whole)
    for stem in stems:
        yield (), Part(stem.built, (3, MAP, MAP), stem.built.stride)
    ends = {(stem.width, stem.built.channels) for stem in stems}
    for group in range(1, space.groups + 1):
        starts, ends = ends, set()
        for width, start in sorted(starts):
            for setting in enumeration.groups(space, whole, group, width, start):
                kind, channels = _kind(space, group, setting.params), start
                for position, block in enumerate(setting.built):
                    part = Part(block, (channels, MAP, MAP), block.stride)
                    yield (f"group{group}", str(position), kind), part
                    channels = block.out_channels
                ends.add((setting.width, channels))
    for head, (_, channels) in itertools.product(enumeration.heads(space, whole), sorted(ends)):
        yield (), Part(head.built, (channels, MAP, MAP), 1, space.classes)


def _initial(name: str, shape: Shape, residual: bool) -> Tensor:
    """As `ghostnas.training.initialization` draws those of one network."""
    values = torch.empty(shape)
    if len(shape) == 1:
        scale = RESIDUAL_SCALE if residual else 1.0
        return values.fill_(scale if name.endswith(".weight") else 0.0)
    if len(shape) == 2:
        nn.init.kaiming_uniform_(values, a=5**0.5)  # as nn.Linear
    else:
        nn.init.kaiming_normal_(values)
    return values


def _indices(part: weight_transfer.Part, shape: Shape) -> tuple[Index, ...]:
    """A part of an array of this shape, as slices where it is one."""
    found: list[Index] = []
    for size, each in zip(shape, part.indices, strict=False):
        assert each.max(initial=-1) < size, f"a part of {len(each)} of an array of {shape}"
        ordered = np.array_equal(each, np.arange(len(each)))
        found.append(slice(0, len(each)) if ordered else torch.from_numpy(each))
    if len(shape) > 2:
        while len(found) < 2:  # of a depthwise convolution, or one along the channels
            found.append(slice(0, shape[len(found)]))
        for size, wanted in zip(shape[2:], part.kernel, strict=True):
            first = (size - wanted) // 2
            found.append(slice(first, first + wanted))
    return tuple(found)


def _is_whole(index: tuple[Index, ...]) -> bool:
    """Whether a part that is as large as its array is in its order."""
    return all(isinstance(each, slice) for each in index)


def _taken(array: Tensor, index: tuple[Index, ...]) -> Tensor:
    found = array[tuple(each if isinstance(each, slice) else slice(None) for each in index)]
    for dimension, each in enumerate(index):
        if not isinstance(each, slice):
            found = found.index_select(dimension, each.to(array.device))
    return found if found.shape == array.shape else found.contiguous()


def _add(total: Tensor, index: tuple[Index, ...], gradient: Tensor) -> None:
    view = total[tuple(each if isinstance(each, slice) else slice(None) for each in index)]
    listed = [each.to(total.device) for each in index if not isinstance(each, slice)]
    if not listed:
        view.add_(gradient)
    elif len(listed) == 2:
        view[listed[0][:, None], listed[1]] += gradient
    else:
        view.index_add_(
            next(at for at, each in enumerate(index) if not isinstance(each, slice)),
            listed[0],
            gradient,
        )
