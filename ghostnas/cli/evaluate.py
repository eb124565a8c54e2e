"""``ghostnas eval``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostnas import api
from ghostnas.cli.options import Result, add_blocks, add_strict, command, positive


def run(args: Namespace) -> Result:
    found = api.evaluate(
        args.model,
        data=args.data,
        workers=args.workers,
        limit=args.limit,
        strict=args.strict,
        progress=args.say,
    )
    return found, to_text


def to_text(result: Mapping[str, Any]) -> str:
    top5 = "" if result["top5"] is None else f", top-5 {result['top5']:.2%}"
    text = (
        f"{result['model']}: top-1 {result['top1']:.2%}{top5} of {result['pictures']} images; "
        f"{result['images_per_second']:.0f} images per second"
    )
    if result["skipped"]:
        text += f"\n{result['skipped']} skipped; first: {result['first_skipped']}"
    return "\n".join([text, *(f"warning: {line}" for line in result["warnings"])])


def add(subcommands: Any) -> None:
    evaluate = command(
        subcommands,
        "eval",
        run,
        "measure a model's accuracy on images",
        example="ghostnas eval models/model-int8.tflite --data cifar10:data",
    )
    evaluate.add_argument(
        "model", type=Path, metavar="MODEL", help=".pt2, .onnx, .tflite, .safetensors or a folder"
    )
    add_blocks(evaluate)
    evaluate.add_argument("--data", required=True, help="see: ghostnas data list")
    evaluate.add_argument("--workers", type=positive, metavar="N", help="processes (2)")
    evaluate.add_argument("--limit", type=positive, metavar="N", help="of the test images (all)")
    add_strict(evaluate)
