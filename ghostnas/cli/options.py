"""What the commands share: option value types, groups of options, and results."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ghostnas.api import DeviceOptions

LARGEST_SEED = 2**31 - 1
# A command's result, as JSON types, and how to format it as text.
Result: TypeAlias = tuple[Mapping[str, Any], Callable[[Mapping[str, Any]], str]]


def is_first_process() -> bool:
    """Whether this is the torchrun process that prints, or the only process."""
    return os.environ.get("RANK", "0") == "0"


def say(line: str) -> None:
    """Print a progress line on stderr."""
    if is_first_process():
        print(line, file=sys.stderr, flush=True)


def command(
    subcommands: Any,
    name: str,
    run: Callable[[argparse.Namespace], Result],
    what: str,
    resume: Callable[[argparse.Namespace], str] = lambda args: "",
    *,
    example: str,
    then: Callable[[Mapping[str, Any]], str] = lambda result: "",
) -> argparse.ArgumentParser:
    """A parser for a command that `run` executes.

    Args:
        resume: says how to resume it after Ctrl-C.
        example: a line of a shell.
        then: of the result, what its user may do next: a command, or nothing.
    """
    parser: argparse.ArgumentParser = subcommands.add_parser(
        name,
        help=what,
        description=what,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(command=run, resumed_by=resume, then=then)
    return parser


def add_blocks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--blocks",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="Python that defines block types of your own; may be repeated",
    )


def add_arch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "arch", metavar="ARCH", help="ghostnet, mobilenetv3-large, a .json file or a run folder"
    )
    parser.add_argument("--width", type=width, metavar="A", help="of a named network (1.0)")
    parser.add_argument("--resolution", type=resolution, metavar="R", help="in pixels")
    add_blocks(parser)


def add_space(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--space", default="ghostnet", help="the space whose networks are measured")
    add_blocks(parser)


def device_options(args: argparse.Namespace) -> DeviceOptions:
    """What `add_device`'s options say."""
    return DeviceOptions(
        device=args.device,
        cores=args.cores,
        rounds=args.rounds,
        python=args.python,
        benchmark_model=args.benchmark_model,
        emulator=args.emulator,
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        default="local",
        help="local, ssh:user@host[:port], adb[:SERIAL] or emulated:CORE",
    )
    parser.add_argument(
        "--emulator",
        type=Path,
        default=Path(".emulation"),
        metavar="DIR",
        help="what scripts/emulated_arm/setup created (.emulation)",
    )
    parser.add_argument("--cores", default="big", help="big, little or indices like 0,2-3 (big)")
    parser.add_argument("--rounds", type=positive, default=30, metavar="N", help="of runs (30)")
    parser.add_argument("--python", metavar="PATH", help="the device's, with LiteRT (python3)")
    parser.add_argument(
        "--benchmark-model",
        metavar="PATH",
        help="TFLite's benchmark_model for the device, to use instead of Python there",
    )


def add_strict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strict", action="store_true", help="an image that cannot be read is an error"
    )


def add_confidence(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--confidence",
        type=share,
        metavar="P",
        help="of the latency interval, such as 0.9; a budget in ms then applies to its upper end",
    )


def add_variant(parser: argparse.ArgumentParser) -> None:
    """What chooses among the targets of the same cores."""
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="the target's, if not those of its name"
    )
    parser.add_argument(
        "--dtype", choices=("fp32", "int8"), help="the target's, if not that of its name"
    )


def positive(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def resolution(text: str) -> int:
    """A deployed network's resolution, within a space file's limits."""
    from ghostnas.networks.space import LARGEST_RESOLUTION, SMALLEST_RESOLUTION

    return pixels(text, SMALLEST_RESOLUTION, LARGEST_RESOLUTION)


def training_resolution(text: str) -> int:
    """A training's resolution, which as in a recipe may be smaller than the deployment's."""
    from ghostnas.networks.space import LARGEST_RESOLUTION
    from ghostnas.training.recipe import SMALLEST_FIRST_RESOLUTION

    return pixels(text, SMALLEST_FIRST_RESOLUTION, LARGEST_RESOLUTION)


def pixels(text: str, lowest: int, highest: int) -> int:
    if not text.isdecimal() or len(text) > 5 or not lowest <= int(text) <= highest:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a resolution from {lowest} to {highest} pixels"
        )
    return int(text)


def count(text: str) -> int:
    return 0 if text == "0" else positive(text)


def seed(text: str) -> int:
    if not text.isdecimal() or len(text) > 10 or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {LARGEST_SEED}")
    return int(text)


def share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1, such as 0.9")
    return share


def width(text: str) -> float:
    try:
        width = float(text)
    except ValueError:
        width = 0.0
    if not 0.05 <= width <= 8:
        raise argparse.ArgumentTypeError(f"{text!r} is not a width from 0.05 to 8")
    return width


def seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    number = text[:-1] if text[-1:] in units else ""
    if not number.replace(".", "", 1).isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like 90s, 30m or 2h")
    return float(number) * units[text[-1]]
