"""``ghostnas data``: list, get and check."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostnas.cli.options import Result, add_strict, command


def list_data(args: Namespace) -> Result:
    from ghostnas.data import datasets

    rows = [{"data": name, "is": what} for name, what in datasets.usages().items()]
    return {"data": rows}, lambda r: "\n".join(f"{d['data']:16} {d['is']}" for d in r["data"])


def get_data(args: Namespace) -> Result:
    from ghostnas.data import download

    download.get(args.kind, args.folder, args.say)
    spec = f"{args.kind}:{args.folder}"
    return {"data": spec}, lambda r: f"use it with --data {r['data']}"


def check_data(args: Namespace) -> Result:
    from ghostnas.data import datasets

    return datasets.check(args.data, args.strict, args.say), _data_text


def _data_text(result: Mapping[str, Any]) -> str:
    lines = [f"{result['name']}: {result['classes']} classes, {result['resolution']} px"]
    for name in ("train", "test"):
        few, many = result[name]["fewest"], result[name]["most"]
        lines.append(
            f"{name}: {result[name]['pictures']} images, {few['pictures']} ({few['class']}) to "
            f"{many['pictures']} ({many['class']}) per class"
        )
    for name in ("mean", "std"):
        lines.append(f"{name}: {', '.join(f'{value:.4f}' for value in result[name])}")
    return "\n".join([*lines, *(f"skipped {line}" for line in result["skipped"])])


def add(subcommands: Any) -> None:
    data = subcommands.add_parser("data", help="datasets")
    actions = data.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command(
        actions,
        "list",
        list_data,
        "list the kinds of data and how to name them",
        example="ghostnas data list",
        then=lambda result: "ghostnas data get cifar10 data",
    )
    get = command(
        actions,
        "get",
        get_data,
        "download a dataset",
        example="ghostnas data get cifar10 data",
        then=lambda result: f"ghostnas data check {result['data']}",
    )
    get.add_argument(
        "kind", choices=("cifar10", "cifar100"), metavar="KIND", help="cifar10 or cifar100"
    )
    get.add_argument("folder", type=Path, metavar="DIR")
    checked = command(
        actions,
        "check",
        check_data,
        "read a dataset and describe it",
        example="ghostnas data check folder:photos",
        then=lambda result: "ghostnas search --target arm --budget 150MFLOPs --data DATA",
    )
    checked.add_argument("data", metavar="DATA", help="see: ghostnas data list")
    add_strict(checked)
