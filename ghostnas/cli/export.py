"""``ghostnas export``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostnas import api
from ghostnas.cli.options import (
    Result,
    add_arch,
    add_device,
    command,
    count,
    device_options,
    positive,
)


def run(args: Namespace) -> Result:
    found = api.export(
        args.arch,
        out=args.out,
        format=args.format,
        dtype=args.dtype,
        width=args.width,
        resolution=args.resolution,
        weights=args.weights,
        data=args.data or "",
        calibration=args.calibration,
        test_images=args.test_images,
        target=args.target or (),
        measure=args.measure,
        threads=args.threads,
        license=args.license,
        progress=args.say,
        device=device_options(args),
    )

    from ghostnas.nas import report

    return found, report.exported


def _then(result: Mapping[str, Any]) -> str:
    return f"ghostnas eval {result['files'][0]['file']} --data DATA"


def add(subcommands: Any) -> None:
    export = command(
        subcommands,
        "export",
        run,
        "write a network's files, each checked",
        example="ghostnas export runs/full --dtype fp32,int8 --data cifar10:data --out models",
        then=_then,
    )
    add_arch(export)
    export.add_argument("--format", help="torch,onnx,tflite (those with the dtype)")
    export.add_argument("--dtype", default="fp32", help="fp32,fp16,int8 (fp32)")
    export.add_argument(
        "--weights", type=Path, metavar="FILE", help=".safetensors or .pth, the authors' or timm's"
    )
    export.add_argument(
        "--data", help="its training images calibrate int8, its test images give accuracies"
    )
    export.add_argument(
        "--calibration", type=positive, default=256, metavar="N", help="images (256)"
    )
    export.add_argument(
        "--test-images", type=count, metavar="N", help="0 for no accuracies (all, at most 10000)"
    )
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    export.add_argument(
        "--target", action="append", help="a latency table to predict with; may be repeated"
    )
    export.add_argument("--measure", action="store_true", help="time each .tflite on the device")
    export.add_argument("--threads", type=positive, default=1, metavar="N", help="(1)")
    export.add_argument(
        "--license", default="", metavar="ID", help="of the weights, for the card: apache-2.0 ..."
    )
    add_device(export)
