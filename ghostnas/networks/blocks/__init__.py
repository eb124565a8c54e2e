"""Block types as ops, one file each: a few numbers and a `build` that appends ops to a graph.

Node names follow the PyTorch modules of the published networks, so that their weights fit.
"""

from __future__ import annotations

import dataclasses
import os
import pkgutil
import sys
from collections.abc import Iterator
from importlib import import_module, util
from pathlib import Path
from types import ModuleType

from ghostnas.errors import InputError
from ghostnas.networks.blocks.block import Block, Limits, Place, Range
from ghostnas.networks.blocks.ghost import GhostBlock
from ghostnas.networks.blocks.ghost_v2 import GhostV2Block
from ghostnas.networks.blocks.ghost_v3 import GhostV3Block
from ghostnas.networks.blocks.layers import make_divisible, squeeze_excite
from ghostnas.networks.blocks.mbconv import MBConv
from ghostnas.networks.blocks.rep_ghost import RepGhostBlock
from ghostnas.networks.blocks.skip import SkipBlock

__all__ = [
    "BLOCK_TYPES",
    "Block",
    "GhostBlock",
    "GhostV2Block",
    "GhostV3Block",
    "Limits",
    "MBConv",
    "Place",
    "Range",
    "RepGhostBlock",
    "SkipBlock",
    "block_types_of",
    "load_file",
    "make_divisible",
    "own_files",
    "squeeze_excite",
]


# The user's own files, separated as paths in PATH: every process that this one starts reads them.
OWN_FILES = "GHOSTNAS_BLOCKS"


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


def load_file(path: Path) -> None:
    """Make the block types of a user's file known, in this process and in those that it starts.

    Raises:
        InputError: the file cannot be read or run, defines no block type, or one that is not a
            frozen dataclass or whose name is taken.
    """
    module_name = f"{__name__}.own_{path.stem}"  # a worker that unpickles a block imports this
    spec = util.spec_from_file_location(module_name, path)
    if path.suffix != ".py" or spec is None or spec.loader is None:
        raise InputError(f"{path}: is not a .py file of block types")
    known = sys.modules.get(module_name)
    if known is not None:
        if Path(str(known.__file__)).resolve() == path.resolve():
            return
        raise InputError(f"{path}: another file of block types is named {path.stem}.py too")
    module = util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
        found = list(block_types_of(module))
        _check(found, path)
    except InputError:
        del sys.modules[module_name]
        raise
    except Exception as error:  # the user's code may raise anything
        del sys.modules[module_name]
        raise InputError(f"{path}: cannot be loaded: {type(error).__name__}: {error}") from error
    BLOCK_TYPES.update({block_type.type_name: block_type for block_type in found})
    os.environ[OWN_FILES] = os.pathsep.join(dict.fromkeys([*own_files(), str(path.resolve())]))


def own_files() -> list[str]:
    """The user's files that `load_file` made known, here or in the process that started this."""
    return [each for each in os.environ.get(OWN_FILES, "").split(os.pathsep) if each]


def _check(found: list[type[Block]], path: Path) -> None:
    if not found:
        raise InputError(f"{path}: defines no block type, a subclass of Block")
    for block_type in found:
        name = block_type.__name__
        if not dataclasses.is_dataclass(block_type):
            raise InputError(f"{path}: {name} is not a dataclass")
        fields = {field.name for field in dataclasses.fields(block_type)}
        if missing := sorted({"out_channels", "stride"} - fields):
            raise InputError(f"{path}: {name} has no field {missing[0]}")
        type_name = getattr(block_type, "type_name", None)
        if not isinstance(type_name, str) or not type_name.isidentifier():
            raise InputError(f"{path}: {name}.type_name is {type_name!r}, not a name like ghost")
        if type_name in BLOCK_TYPES:
            raise InputError(f"{path}: {name} is named {type_name!r}, as a block of ghostnas is")


for _own in own_files():
    load_file(Path(_own))
