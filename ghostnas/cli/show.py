"""``ghostnas show``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostnas import api
from ghostnas.cli.options import Result, add_arch, add_confidence, add_variant, command


def run(args: Namespace) -> Result:
    found = api.show(
        args.arch,
        args.other,
        target=args.target,
        threads=args.threads,
        dtype=args.dtype,
        width=args.width,
        resolution=args.resolution,
        confidence=args.confidence,
        svg=args.svg,
        onnx=args.onnx,
    )
    return found, _text


def _text(found: Mapping[str, Any]) -> str:
    from ghostnas.latency import layers, summary

    def counts(described: Mapping[str, Any]) -> str:
        return f"{described['name']}: {summary.text(described)}"

    if "compared" in found:
        heads = [f"- {counts(found)}", "", f"+ {counts(found['compared'])}"]
        return "\n".join([*heads, "", layers.differences_text(found)])
    rows = ["", layers.text(found["layers"])] if found["layers"] else []
    return "\n".join([counts(found), *rows])


def add(subcommands: Any) -> None:
    show = command(
        subcommands,
        "show",
        run,
        "show a network's layers and costs, or compare two",
        example="ghostnas show ghostnet mobilenetv3-large --target arm",
        then=lambda found: (
            "look for a better one: ghostnas search --target arm "
            f"--budget {found['macs'] / 1e6:.0f}MFLOPs"
        ),
    )
    add_arch(show)
    show.add_argument("other", nargs="?", metavar="OTHER", help="a network to compare it with")
    show.add_argument("--target", help="name of a latency table, to predict latency as well")
    add_variant(show)
    add_confidence(show)
    show.add_argument("--svg", type=Path, metavar="FILE", help="draw it, or both, stage by stage")
    show.add_argument(
        "--onnx", type=Path, metavar="FILE", help="its structure, named by stage and block"
    )
