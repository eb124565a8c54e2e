"""The command line: its options, and how a command's result or failure reaches the user."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ghostnas import __version__
from ghostnas.cli import commands
from ghostnas.errors import GhostnasError
from ghostnas.files import is_utf8

INTERRUPTED = 130
BROKEN_PIPE = 141  # what a shell says of a program that SIGPIPE ended
LARGEST_SEED = 2**31 - 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it did what was asked, 2 with one line on stderr if it could not."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    for each in given:
        if not is_utf8(each):  # nor would be a file that names it, such as a run's settings
            parser.error(f"{each!a} is not UTF-8; name the file or folder otherwise")
    parsed = parser.parse_args(_with_negative_amounts(given))
    command: Callable[[argparse.Namespace], commands.Result] = parsed.command
    try:
        result, to_text = command(parsed)
    except (GhostnasError, OSError) as error:
        print(f"ghostnas: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"ghostnas: stopped{_how_to_resume(parsed)}", file=sys.stderr)
        return INTERRUPTED
    if not commands.is_first_process():
        return 0
    return _print(json.dumps(result) if parsed.json else to_text(result))


def _print(text: str) -> int:
    """Print the result; quietly not, if whoever reads has gone, as `head` does."""
    try:
        # A file of the data may have a name that is no text.
        print(text.encode("utf-8", "backslashreplace").decode(), flush=True)
    except BrokenPipeError:
        # What is left in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return 0


def _with_negative_amounts(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``--budget -5ms`` as ``--budget=-5ms``: argparse takes -5ms for an option,
    and would only say that the budget lacks its value.
    """
    joined: list[str] = []
    for each in arguments:
        if re.match(r"-\.?\d", each) and joined and re.fullmatch(r"--[a-z-]+", joined[-1]):
            joined[-1] += f"={each}"
        else:
            joined.append(each)
    return joined


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ghostnas",
        description="Finds, for one device and one budget, the GhostNet that learns best.",
    )
    parser.add_argument("--version", action="version", version=f"ghostnas {__version__}")
    subcommands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    search = _command(subcommands, "search", commands.search, "find the best network under budgets")
    search.add_argument("--target", help="name of a latency table, see: ghostnas latency list")
    search.add_argument(
        "--budget",
        action="append",
        metavar="AMOUNT",
        help="150MFLOPs, 20ms, 5Mparams, 6MB, 4MBpeak or 20ms@TARGET; may be repeated",
    )
    _add_confidence(search)
    search.add_argument("--space", help="a shipped space's name or a .toml file (ghostnet)")
    search.add_argument("--data", help="what to train on, see: ghostnas data list (synthetic)")
    search.add_argument("--recipe", help="how each network is trained: a name or a .toml (quick)")
    search.add_argument("--scorer", help="train, or one that trains nothing, like synflow (train)")
    search.add_argument("--trials", type=_positive, metavar="N", help="networks to train (6)")
    search.add_argument("--timeout", type=_seconds, metavar="T", help="90s, 30m, 2h: no new trial")
    search.add_argument("--sampler", choices=("tpe", "random"), help="how networks are proposed")
    search.add_argument("--seed", type=_seed, metavar="N", help="all randomness flows from it (0)")
    search.add_argument(
        "--finalists", type=_positive, metavar="K", help="trained anew to find the best of (3)"
    )
    search.add_argument(
        "--seeds",
        type=_positive,
        metavar="K",
        help="trainings of each finalist, and as many of the winner (3)",
    )
    search.add_argument("--workers", type=_positive, metavar="N", help="trainings at once (2)")
    search.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        help="that trains; auto is CUDA if there (auto)",
    )
    search.add_argument(
        "--deploy",
        choices=("published", "data"),
        help="what budgets, latency and files mean: the network at the published 224 px, or at the "
        "data's own size (published)",
    )
    search.add_argument(
        "--resolution", type=_resolution, metavar="R", help="of the deployment, instead of 224 px"
    )
    search.add_argument("--storage", metavar="URL", help="of the Optuna study (in the run folder)")
    search.add_argument(
        "--out", type=Path, metavar="DIR", help="the run folder (a new one in runs)"
    )
    search.add_argument("--resume", action="store_true", help="go on with the search in --out")

    show = _command(subcommands, "show", commands.show, "a network's costs")
    _add_arch(show)
    show.add_argument("--target", help="name of a latency table, to predict latency as well")
    _add_confidence(show)

    export = _command(
        subcommands, "export", commands.export, "write a network's files, each checked"
    )
    _add_arch(export)
    export.add_argument("--format", help="torch,onnx,tflite (those that offer the dtype)")
    export.add_argument("--dtype", default="fp32", help="fp32,fp16,int8 (fp32)")
    export.add_argument(
        "--weights", type=Path, metavar="FILE", help=".safetensors or .pth, of the authors or timm"
    )
    export.add_argument(
        "--data", help="calibrates int8 by its training images, gives accuracies by its test images"
    )
    export.add_argument(
        "--calibration", type=_positive, default=256, metavar="N", help="images (256)"
    )
    export.add_argument(
        "--test-images", type=_count, metavar="N", help="0 for no accuracies (all, at most 10000)"
    )
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    export.add_argument(
        "--target", action="append", help="a latency table, to predict with; may be repeated"
    )
    export.add_argument("--measure", action="store_true", help="time each .tflite on the device")
    export.add_argument("--threads", type=_positive, default=1, metavar="N", help="(1)")
    _add_device(export)

    _add_train(_command(subcommands, "train", commands.train, "train a network in full"))

    evaluate = _command(subcommands, "eval", commands.evaluate, "a model's accuracy on pictures")
    evaluate.add_argument(
        "model", type=Path, metavar="MODEL", help=".pt2, .onnx, .tflite, .safetensors or a folder"
    )
    evaluate.add_argument("--data", required=True, help="see: ghostnas data list")
    evaluate.add_argument("--workers", type=_positive, metavar="N", help="processes (2)")
    evaluate.add_argument("--limit", type=_positive, metavar="N", help="of the test pictures (all)")
    _add_strict(evaluate)

    _add_latency(subcommands.add_parser("latency", help="latency tables and predictions"))

    data = subcommands.add_parser("data", help="datasets")
    actions = data.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _command(actions, "list", commands.list_data, "the kinds of data and how they are named")
    get = _command(actions, "get", commands.get_data, "download a dataset")
    get.add_argument(
        "kind", choices=("cifar10", "cifar100"), metavar="KIND", help="cifar10 or cifar100"
    )
    get.add_argument("folder", type=Path, metavar="DIR")
    checked = _command(actions, "check", commands.check_data, "read a dataset and describe it")
    checked.add_argument("data", metavar="DATA", help="see: ghostnas data list")
    _add_strict(checked)
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "arch",
        metavar="ARCH",
        nargs="?",
        help="ghostnet, mobilenetv3-large, a .json file or a run folder; none with --resume",
    )
    parser.add_argument("--width", type=_width, metavar="A", help="of a named network (1.0)")
    parser.add_argument("--data", help="what to train on, see: ghostnas data list")
    parser.add_argument("--recipe", help="a name or a .toml file (cifar)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--resume", action="store_true", help="go on with the training in --out")
    parser.add_argument("--init", type=Path, metavar="FILE", help="weights to begin with")
    parser.add_argument("--teacher", type=Path, metavar="MODEL", help="whose answers are learned")
    parser.add_argument("--seed", type=_seed, metavar="N", help="all randomness flows from it (0)")
    parser.add_argument("--epochs", type=_positive, metavar="N", help="(the recipe's)")
    parser.add_argument(
        "--batch-size", type=_positive, metavar="N", help="with the rate in proportion to it"
    )
    parser.add_argument(
        "--resolution", type=_training_resolution, metavar="R", help="of pictures, in pixels"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=_positive, metavar="N", help="of the CPU (PyTorch's)")
    parser.add_argument(
        "--workers", type=_count, metavar="N", help="processes that decode pictures (2)"
    )
    parser.add_argument(
        "--checkpoint-every", type=_seconds, default="60s", metavar="T", help="(60s)"
    )
    _add_strict(parser)


def _add_strict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strict", action="store_true", help="a picture that cannot be read is an error"
    )


def _add_latency(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _command(actions, "list", commands.list_targets, "the targets and where their tables are from")
    predict = _command(actions, "predict", commands.show, "a network's latency on a target")
    _add_arch(predict)
    predict.add_argument("--target", required=True, help="name or file of a latency table")
    _add_confidence(predict)

    build = _command(actions, "build", commands.build_table, "measure a table on a device")
    build.add_argument("--dtype", choices=("fp32", "int8"), default="fp32")
    build.add_argument("--threads", type=_positive, default=1, metavar="N", help="(1)")
    build.add_argument("--ops", type=_positive, default=4000, metavar="N", help="at most (4000)")
    build.add_argument(
        "--networks", type=_count, metavar="N", help="measured whole (100; none if emulated)"
    )
    build.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
    _add_space(build)
    _add_device(build)

    check = _command(actions, "check", commands.check_table, "hold a table against its device")
    check.add_argument("--target", required=True, metavar="FILE.csv")
    check.add_argument(
        "--networks", type=_positive, default=50, metavar="N", help="fresh ones (50)"
    )
    check.add_argument("--seed", type=_seed, default=2, metavar="N", help="they are drawn from (2)")
    _add_space(check)
    _add_device(check)

    calibrate = _command(
        actions, "calibrate", commands.calibrate_table, "carry a table to a device of its kind"
    )
    calibrate.add_argument("--target", required=True, help="name or file of the table")
    calibrate.add_argument("--networks", type=_positive, default=20, metavar="N", help="(20)")
    calibrate.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
    _add_space(calibrate)
    _add_device(calibrate)

    imported = _command(actions, "import", commands.import_table, "a table measured elsewhere")
    imported.add_argument("file", type=Path, metavar="FILE")
    imported.add_argument("--format", choices=("csv", "benchmark-model"), default="csv")
    imported.add_argument("--arch", metavar="ARCH", help="the network of a profile")
    imported.add_argument("--width", type=_width, metavar="A", help="of a named network (1.0)")
    imported.add_argument("--resolution", type=_resolution, metavar="R", help="in pixels")
    imported.add_argument(
        "--origin", type=Path, required=True, metavar="FILE.toml", help="device, threads, dtype ..."
    )
    imported.add_argument("--out", type=Path, required=True, metavar="FILE.csv")


def _add_space(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--space", default="ghostnet", help="whose networks are measured")


def _add_device(parser: argparse.ArgumentParser) -> None:
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
        help="what scripts/emulated_arm/setup made (.emulation)",
    )
    parser.add_argument("--cores", default="big", help="big, little or indices like 0,2-3 (big)")
    parser.add_argument("--rounds", type=_positive, default=30, metavar="N", help="of runs (30)")
    parser.add_argument("--python", metavar="PATH", help="the device's, which has LiteRT (python3)")
    parser.add_argument(
        "--benchmark-model",
        metavar="PATH",
        help="TFLite's benchmark_model for the device, to use in place of Python there",
    )


def _add_confidence(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--confidence",
        type=_share,
        metavar="P",
        help="of the latency's interval, such as 0.9; a budget in ms then holds at its upper end",
    )


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, without the usage; --help has that."""

    def error(self, message: str) -> Any:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def _command(
    subcommands: Any, name: str, run: Callable[[argparse.Namespace], commands.Result], what: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subcommands.add_parser(name, help=what, description=what)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=run)
    return parser


def _add_arch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "arch", metavar="ARCH", help="ghostnet, mobilenetv3-large, a .json file or a run folder"
    )
    parser.add_argument("--width", type=_width, metavar="A", help="of a named network (1.0)")
    parser.add_argument("--resolution", type=_resolution, metavar="R", help="in pixels")


def _positive(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _resolution(text: str) -> int:
    """Of a deployed network, as in a space's file."""
    from ghostnas.networks.space import LARGEST_RESOLUTION, SMALLEST_RESOLUTION

    return _pixels(text, SMALLEST_RESOLUTION, LARGEST_RESOLUTION)


def _training_resolution(text: str) -> int:
    """A training may see smaller images than the network is deployed for, as in a recipe."""
    from ghostnas.networks.space import LARGEST_RESOLUTION
    from ghostnas.training.recipe import SMALLEST_FIRST_RESOLUTION

    return _pixels(text, SMALLEST_FIRST_RESOLUTION, LARGEST_RESOLUTION)


def _pixels(text: str, lowest: int, highest: int) -> int:
    if not text.isdecimal() or len(text) > 5 or not lowest <= int(text) <= highest:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a resolution from {lowest} to {highest} pixels"
        )
    return int(text)


def _count(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or len(text) > 10 or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {LARGEST_SEED}")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1, such as 0.9")
    return share


def _width(text: str) -> float:
    try:
        width = float(text)
    except ValueError:
        width = 0.0
    if not 0.05 <= width <= 8:
        raise argparse.ArgumentTypeError(f"{text!r} is not a width from 0.05 to 8")
    return width


def _seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    number = text[:-1] if text[-1:] in units else ""
    if not number.replace(".", "", 1).isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no time like 90s, 30m or 2h")
    return float(number) * units[text[-1]]


def _how_to_resume(parsed: argparse.Namespace) -> str:
    if parsed.command is commands.search:
        return f"; what is done is kept, go on with: ghostnas search --resume --out {parsed.out}"
    if parsed.command is commands.train:
        return f"; go on with: ghostnas train --resume --out {parsed.out}"
    if parsed.command in (commands.build_table, commands.calibrate_table, commands.check_table):
        return "; what was measured is kept, go on with the same command"
    return ""
