"""Matches the blocks of one network to those of another by their keys. Knows nothing of weights."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

HEAD = (-1, 0)
_BLOCK = re.compile(r"blocks\.(\d{1,4}\.\d{1,4})\.(.+)", re.ASCII)


def match(theirs: Mapping[str, T], ours: Iterable[str]) -> dict[str, T]:
    """The values of `theirs` under the keys of our blocks at the same places: the second block of a
    stage under the second of that stage. Blocks without a counterpart are left out.
    """
    our_blocks = {place: block for block, place in _places(ours).items()}
    their_places = _places(theirs)
    matched = {}
    for key, value in theirs.items():
        if (found := _BLOCK.fullmatch(key)) is None:
            matched[key] = value
        elif (block := our_blocks.get(their_places[found[1]])) is not None:
            matched[f"blocks.{block}.{found[2]}"] = value
    return matched


def _places(keys: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Each block's stage and its number within it.

    In the keys a stage is two groups of blocks, its first and the rest, or one group if it has only
    one block. A stage begins where a Ghost block strides, the only place it has ``conv_dw``; the
    groups that follow count as the same stage. For other block types each group counts as a stage,
    since nothing else tells.
    """
    inside = defaultdict(set)
    for key in keys:
        if (found := _BLOCK.fullmatch(key)) is not None:
            inside[found[1]].add(found[2])
    places: dict[str, tuple[int, int]] = {}
    stage, number, last = -1, 0, ""
    for block in sorted(inside, key=lambda block: tuple(map(int, block.split(".")))):
        if "conv.weight" in inside[block]:
            places[block] = HEAD
            continue
        group = block.partition(".")[0]
        ghost = "ghost1.primary_conv.0.weight" in inside[block]
        begins = "conv_dw.weight" in inside[block] if ghost else group != last
        if begins or not places:
            stage, number = stage + 1, 0
        places[block] = (stage, number)
        number, last = number + 1, group
    return places
