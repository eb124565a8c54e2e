"""``ghostnas show``; ``ghostnas latency predict`` prints the same."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from ghostnas import api
from ghostnas.cli.options import Result, add_arch, add_confidence, command


def run(args: Namespace) -> Result:
    found = api.show(
        args.arch,
        target=args.target,
        width=args.width,
        resolution=args.resolution,
        confidence=args.confidence,
    )

    from ghostnas.latency import summary

    return found, summary.text


def add(subcommands: Any) -> None:
    show = command(subcommands, "show", run, "show a network's costs")
    add_arch(show)
    show.add_argument("--target", help="name of a latency table, to predict latency as well")
    add_confidence(show)
