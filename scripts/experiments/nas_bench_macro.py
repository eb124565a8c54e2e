"""NAS-Bench-Macro (Su et al., CVPR 2021): its 6,561 networks as ours, by the keys of its file.

A key is eight digits, one per layer: 0 skipped, 1 MBConv of kernel 3 and expansion 3, 2 MBConv of
kernel 5 and expansion 6. The space is `nas_bench_macro.toml`; the file of accuracies is
``nas-bench-macro_cifar10.json`` of github.com/xiusu/NAS-Bench-Macro.

    python nas_bench_macro.py 12101011 --file nas-bench-macro_cifar10.json
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ghostnas.errors import InputError
from ghostnas.ir import cost
from ghostnas.networks import space
from ghostnas.networks.arch import Arch, lower
from ghostnas.networks.blocks import Block, MBConv, SkipBlock
from ghostnas.networks.space import Space, Value

LAYERS = 8
CLASSES = 10
OPTIONS = {"0": "skip", "1": "mbconv kernel=3 expansion=3", "2": "mbconv kernel=5 expansion=6"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A network of the file: its accuracies (%) on CIFAR-10 from three seeds, and its counts."""

    accuracies: tuple[float, ...]
    params: int
    macs: int


def load_space() -> Space:
    """The space, with the ten classes of CIFAR-10."""
    return replace(space.load(str(Path(__file__).with_suffix(".toml"))), classes=CLASSES)


def load_rows(path: Path) -> dict[str, Row]:
    """The published file: key to row."""
    return {
        key: Row(accuracies=tuple(row["test_acc"]), params=row["params"], macs=row["flops"])
        for key, row in json.loads(path.read_text(encoding="utf-8")).items()
    }


def keys() -> Iterator[str]:
    """The keys of all networks."""
    return map("".join, itertools.product(OPTIONS, repeat=LAYERS))


def params_of(key: str) -> dict[str, Value]:
    """The parameters of a key's network in the space.

    Raises:
        InputError: the key is not eight digits from 0 to 2.
    """
    if len(key) != LAYERS or not set(key) <= set(OPTIONS):
        raise InputError(f"{key!r} is not a key of NAS-Bench-Macro: {LAYERS} digits from 0 to 2")
    return {f"group{layer}.block": OPTIONS[digit] for layer, digit in enumerate(key, 1)}


def arch_of(key: str) -> Arch:
    """The network of a key, with ten classes.

    Raises:
        InputError: as `params_of`.
    """
    return load_space().decode(params_of(key))


def key_of_params(params: Mapping[str, Value]) -> str:
    """The key of parameters of the space; a layer that is left out has the first option."""
    digits = {option: digit for digit, option in OPTIONS.items()}
    first = OPTIONS["1"]
    return "".join(digits[str(params.get(f"group{layer}.block", first))] for layer in range(1, 9))


def key_of(arch: Arch) -> str:
    """The key of a network of the space, at any resolution and number of classes.

    Raises:
        InputError: the network is not one of the space.
    """
    blocks = [block for stage in arch.stages for block in stage.blocks]
    key = "".join(_digit(block) for block in blocks)
    same = replace(arch, classes=CLASSES, resolution=32, dropped_strides=0)
    if len(key) != LAYERS or "?" in key or same != arch_of(key):
        raise InputError("the network is not one of NAS-Bench-Macro")
    return key


def _digit(block: Block) -> str:
    match block:
        case SkipBlock():
            return "0"
        case MBConv(kernel=3):
            return "1"
        case MBConv(kernel=5):
            return "2"
        case _:
            return "?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("key", nargs="*", help="of networks; without any, all are compared")
    parser.add_argument("--file", type=Path, required=True, help="nas-bench-macro_cifar10.json")
    asked = parser.parse_args()
    rows = load_rows(asked.file)
    differing = 0
    for key in asked.key or keys():
        counts, row = cost.count(lower(arch_of(key))), rows[key]
        differing += (counts.params, counts.macs) != (row.params, row.macs)
        if asked.key:
            mean = sum(row.accuracies) / len(row.accuracies)
            print(f"{key}: {counts.params:,} parameters, {counts.macs:,} MACs, {mean:.2f} %")
    print(f"{differing} networks' counts differ from the file's")


if __name__ == "__main__":
    main()
