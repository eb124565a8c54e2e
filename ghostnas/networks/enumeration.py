"""A space taken apart: the settings of the whole network, and those of each group given its input.

A network of a space is a chain. Once the numbers of the whole are chosen (alpha, resolution,
round_to), a group's blocks depend on its own numbers and on the width of the group before it, and
on nothing else. Whatever is a sum over blocks can therefore be counted and drawn group by group
(`ghostnas.nas.feasible`) without building the networks themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from ghostnas.errors import InputError
from ghostnas.networks.arch import Arch, Head, Stem
from ghostnas.networks.blocks import BLOCK_TYPES, Block
from ghostnas.networks.space import WHOLE, Params, Space, Value, Walk

T = TypeVar("T")
# Which options of a number, by its name, are looked at.
Narrowed: TypeAlias = Callable[[str, Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting(Generic[T]):
    """One way to choose some of a space's numbers, and what it builds.

    Attributes:
        params: the searched numbers that were asked for.
        built: the stem, a group's blocks, or the head.
        width: of the output, before alpha.
    """

    params: Mapping[str, Value]
    built: T
    width: float


class _NoOption(Exception):  # noqa: N818 - leads the exploration, nothing went wrong
    pass


def explore(
    build: Callable[[Callable[[str, Sequence[Any]], Any]], T],
    narrowed: Narrowed = lambda name, options: options,
) -> Iterator[tuple[dict[str, Value], T]]:
    """Everything that `build(pick)` can build, with what it asked `pick` for, each setting once.

    A number that is not asked for in some settings makes no difference there and none is repeated.
    """
    waiting: list[dict[str, Value]] = [{}]
    while waiting:
        params = waiting.pop()

        def pick(name: str, options: Sequence[Any], params: dict[str, Value] = params) -> Any:
            """What was chosen, or else the first option; the others wait."""
            if name not in params:
                looked_at = narrowed(name, options)
                if not looked_at:
                    raise _NoOption
                waiting.extend({**params, name: value} for value in reversed(looked_at[1:]))
                params[name] = looked_at[0]
            return params[name]

        with suppress(_NoOption):
            built = build(pick)
            yield params, built


def wholes(space: Space) -> list[dict[str, Value]]:
    """Every setting of the searched numbers that hold for the whole network, the first options
    first.
    """

    def ask(pick: Callable[[str, Sequence[Any]], Any]) -> None:
        for name in WHOLE:
            if name in space.choices:
                pick(name, space.choices[name])

    return [params for params, _ in explore(ask)]


def stems(space: Space, whole: Mapping[str, Value]) -> list[Setting[Stem]]:
    """The stem's settings, given those of the whole."""
    found = explore(lambda pick: Walk(space, _given(whole, pick)).stem())
    return [Setting(params=params, built=stem, width=width) for params, (stem, width) in found]


def groups(
    space: Space, whole: Mapping[str, Value], group: int, width: float, channels: int
) -> list[Setting[tuple[Block, ...]]]:
    """A group's settings, given those of the whole and the width (before alpha) and channels of
    what comes before it; groups count from 1.
    """
    found = explore(
        lambda pick: Walk(space, _given(whole, pick)).group(f"group{group}", width, channels)
    )
    return [
        Setting(params=params, built=tuple(blocks), width=out) for params, (blocks, out) in found
    ]


def heads(space: Space, whole: Mapping[str, Value]) -> list[Setting[Head]]:
    """The head's settings, given those of the whole."""
    found = explore(lambda pick: Walk(space, _given(whole, pick)).head())
    return [Setting(params=params, built=head, width=0.0) for params, head in found]


def settings_of(space: Space, arch: Arch) -> Params:
    """The settings of a space whose network has the same stem, blocks and head as `arch`, whatever
    its resolution and classes.

    Raises:
        InputError: the space has no such network.
    """
    if "resolution" in space.choices:
        space = space.pin(resolution=space.choices["resolution"][0])
    blocks = tuple(block for stage in arch.stages for block in stage.blocks)
    for whole in wholes(space):
        for stem in stems(space, whole):
            if stem.built == arch.stem:
                for params in _matching(space, whole, 1, stem.width, arch.stem.channels, blocks):
                    for head in heads(space, whole):
                        if head.built == arch.head:
                            return {**whole, **stem.params, **params, **head.params}
    raise InputError(f"network {arch.id} is not one of space {space.name}")


def _matching(
    space: Space,
    whole: Mapping[str, Value],
    group: int,
    width: float,
    channels: int,
    blocks: tuple[Block, ...],
) -> Iterator[Params]:
    """Settings of the groups from `group` on that build exactly these blocks."""
    if group > space.groups or not blocks:
        if group > space.groups and not blocks:
            yield {}
        return

    def narrowed(name: str, options: Sequence[Any]) -> Sequence[Any]:
        match name.rpartition(".")[2]:
            case "block":
                return [o for o in options if BLOCK_TYPES[o.split()[0]] is type(blocks[0])]
            case "width":
                walk = Walk(space, _given(whole, lambda name, options: options[0]))
                return [o for o in options if walk.scale(o) == blocks[0].out_channels]
            case "depth":
                return [o for o in options if o <= len(blocks)]
            case _:
                return options

    found = explore(
        lambda pick: Walk(space, _given(whole, pick)).group(f"group{group}", width, channels),
        narrowed,
    )
    for params, (built, out_width) in found:
        if tuple(built) == blocks[: len(built)]:
            out_channels, rest = built[-1].out_channels, blocks[len(built) :]
            for later in _matching(space, whole, group + 1, out_width, out_channels, rest):
                yield {**params, **later}


def _given(
    whole: Mapping[str, Value], pick: Callable[[str, Sequence[Any]], Any]
) -> Callable[[str, Sequence[Any]], Any]:
    return lambda name, options: whole[name] if name in whole else pick(name, options)
