"""``ghostnas show``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from ghostnas import api
from ghostnas.cli.options import Result, add_arch, add_confidence, add_variant, command


def run(args: Namespace) -> Result:
    found = api.show(
        args.arch,
        target=args.target,
        threads=args.threads,
        dtype=args.dtype,
        width=args.width,
        resolution=args.resolution,
        confidence=args.confidence,
    )

    from ghostnas.latency import summary

    return found, summary.text


def add(subcommands: Any) -> None:
    show = command(
        subcommands,
        "show",
        run,
        "show a network's costs",
        example="ghostnas show ghostnet --width 0.5 --target arm",
        then=lambda found: (
            "look for a better one: ghostnas search --target arm "
            f"--budget {found['macs'] / 1e6:.0f}MFLOPs"
        ),
    )
    add_arch(show)
    show.add_argument("--target", help="name of a latency table, to predict latency as well")
    add_variant(show)
    add_confidence(show)
