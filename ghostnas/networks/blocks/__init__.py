"""Block types as ops, one file each: a few numbers and a `build` that appends ops to a graph.

Node names follow the PyTorch modules of the published networks, so that their weights fit.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

from ghostnas.networks.blocks.block import Block, Place
from ghostnas.networks.blocks.ghost import GhostBlock
from ghostnas.networks.blocks.layers import make_divisible, squeeze_excite
from ghostnas.networks.blocks.mbconv import MBConv
from ghostnas.networks.blocks.skip import SkipBlock

__all__ = [
    "BLOCK_TYPES",
    "Block",
    "GhostBlock",
    "MBConv",
    "Place",
    "SkipBlock",
    "make_divisible",
    "squeeze_excite",
]


def block_types_of(module: ModuleType) -> Iterator[type[Block]]:
    """The block types that a module defines, not those that it imports."""
    own = [value for value in vars(module).values() if isinstance(value, type)]
    for value in own:
        if value.__module__ == module.__name__ and issubclass(value, Block) and value is not Block:
            yield value


BLOCK_TYPES: dict[str, type[Block]] = {
    block_type.type_name: block_type
    for module in sorted(each.name for each in pkgutil.iter_modules(__path__))
    for block_type in block_types_of(import_module(f"{__name__}.{module}"))
}
