"""``ghostnas report``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostnas import api
from ghostnas.cli.options import Result, command


def run(args: Namespace) -> Result:
    return api.report(args.run), text


def text(written: Mapping[str, Any]) -> str:
    return f"{written['report']}: {written['bytes'] / 1e6:.1f} MB, opens in any browser"


def add(subcommands: Any) -> None:
    report = command(
        subcommands,
        "report",
        run,
        "write the report of a search or training, finished or not",
        example="ghostnas report runs/cifar",
    )
    report.add_argument("run", type=Path, help="folder of the search or training")
