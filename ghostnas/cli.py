"""The command line: one short function a command, over the public modules. No logic of its own.

Modules that import torch, Optuna or TFLite are imported by the command that needs them, so that
``ghostnas --help`` stays quick.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ghostnas import __version__
from ghostnas.errors import GhostnasError, InputError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it did what was asked, 2 with one line on stderr if it could not."""
    parsed = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = parsed.command
    try:
        command(parsed)
    except (GhostnasError, OSError) as error:
        print(f"ghostnas: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"ghostnas: stopped{_how_to_resume(parsed)}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _search(args: argparse.Namespace) -> None:
    from ghostnas import report, search
    from ghostnas.settings import Settings

    if args.out is None:
        if args.resume:
            raise InputError("--resume needs --out DIR, the folder of the search to go on with")
        args.out = Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    given = {
        "target": args.target,
        "budgets": tuple(args.budget) if args.budget else None,
        "space": args.space,
        "data": args.data,
        "recipe": args.recipe,
        "sampler": args.sampler,
        "seed": args.seed,
        "seeds": args.seeds,
        "resolution": args.resolution,
        "storage": args.storage,
        "trials": args.trials,
        "timeout_s": args.timeout,
        "workers": args.workers,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if args.resume:
        result = search.resume(args.out, given, _say)
    else:
        if missing := [key for key in ("target", "budgets") if key not in given]:
            raise InputError(f"a search needs --{missing[0].removesuffix('s')}; see --help")
        result = search.start(Settings(**given), args.out, _say)
    _show(args, result, report.text)


def _show_arch(args: argparse.Namespace) -> None:
    from ghostnas import show

    arch = show.find(args.arch, args.width, args.resolution)
    _show(args, show.describe(arch, args.target), show.text)


def _export(args: argparse.Namespace) -> None:
    from ghostnas import export, report, show

    formats = export.parse_formats(args.format)
    arch, values = show.find_with_weights(args.arch, args.width, args.resolution, args.weights)
    exported = export.export(arch, values, formats, args.out)
    files = [each.to_json() for each in exported]
    _show(args, {"id": arch.id, "files": files}, lambda result: report.files(result["files"]))


def _latency_list(args: argparse.Namespace) -> None:
    from ghostnas import latency

    rows = []
    for name, table_name in latency.targets().items():
        table = latency.load(name)
        origin = table.origin
        rows.append(
            {
                "target": name,
                "table": table_name,
                "ops": len(table.rows),
                "device": origin.device,
                "core": origin.core,
                "clock_mhz": origin.clock_mhz,
                "threads": origin.threads,
                "dtype": origin.dtype,
                "method": origin.method,
                "date": origin.date,
            }
        )
    _show(args, {"targets": rows}, _latency_list_text)


def _latency_build(args: argparse.Namespace) -> None:
    from ghostnas import latency, measure, space

    if args.device != "local":
        raise InputError(f"device {args.device!r}: only local can be measured so far")
    if args.out.suffix != ".csv":
        raise InputError(f"--out {args.out}: a table's file ends in .csv")
    wanted = measure.ops_of(space.load(args.space), args.networks)
    rows = measure.time_ops(wanted, args.runs, _say_count)
    table = latency.Table(name=args.out.stem, origin=measure.local_origin(), rows=rows)
    latency.save(table, args.out)
    _show(
        args, {"table": str(args.out), "ops": len(rows)}, lambda r: f"{r['table']}: {r['ops']} ops"
    )


def _data_list(args: argparse.Namespace) -> None:
    from ghostnas import data

    rows = [{"data": name, "is": what} for name, what in data.usages().items()]
    _show(args, {"data": rows}, _data_list_text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ghostnas",
        description="Finds, for one device and one budget, the GhostNet that learns best.",
    )
    parser.add_argument("--version", action="version", version=f"ghostnas {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    search = _command(commands, "search", _search, "find the best network under budgets")
    search.add_argument("--target", help="name of a latency table, see: ghostnas latency list")
    search.add_argument(
        "--budget",
        action="append",
        metavar="AMOUNT",
        help="150MFLOPs, 20ms, 5Mparams, 6MB, 4MBpeak or 20ms@TARGET; may be repeated",
    )
    search.add_argument("--space", help="a shipped space's name or a .toml file (ghostnet)")
    search.add_argument("--data", help="what to train on, see: ghostnas data list (synthetic)")
    search.add_argument("--recipe", help="quick or proxy: how each network is trained (quick)")
    search.add_argument("--trials", type=_positive, metavar="N", help="networks to train (6)")
    search.add_argument("--timeout", type=_seconds, metavar="T", help="90s, 30m, 2h: no new trial")
    search.add_argument("--sampler", choices=("tpe", "random"), help="how networks are proposed")
    search.add_argument("--seed", type=int, metavar="N", help="all randomness flows from it (0)")
    search.add_argument(
        "--seeds", type=_positive, metavar="K", help="trainings of each finalist (2)"
    )
    search.add_argument("--workers", type=_positive, metavar="N", help="trainings at once (2)")
    search.add_argument(
        "--resolution", type=_positive, metavar="R", help="of the deployed network, in pixels"
    )
    search.add_argument("--storage", metavar="URL", help="of the Optuna study (in the run folder)")
    search.add_argument(
        "--out", type=Path, metavar="DIR", help="the run folder (a new one in runs)"
    )
    search.add_argument("--resume", action="store_true", help="go on with the search in --out")

    show = _command(commands, "show", _show_arch, "a network's costs")
    _add_arch(show)
    show.add_argument("--target", help="name of a latency table, to predict latency as well")

    export = _command(commands, "export", _export, "write a network's files, each checked")
    _add_arch(export)
    export.add_argument("--format", default="torch,onnx,tflite", help="torch,onnx,tflite")
    export.add_argument("--weights", type=Path, metavar="FILE", help=".safetensors of the network")
    export.add_argument("--out", type=Path, required=True, metavar="DIR")

    latency = commands.add_parser("latency", help="latency tables and predictions")
    actions = latency.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _command(actions, "list", _latency_list, "the targets and where their tables come from")
    predict = _command(actions, "predict", _show_arch, "a network's latency on a target")
    _add_arch(predict)
    predict.add_argument("--target", required=True)
    build = _command(actions, "build", _latency_build, "measure a table")
    build.add_argument("--device", default="local", help="local")
    build.add_argument("--space", default="ghostnet")
    build.add_argument("--networks", type=_positive, default=2, help="whose ops are measured")
    build.add_argument("--runs", type=_positive, default=20, help="of each op")
    build.add_argument("--out", type=Path, required=True, metavar="FILE.csv")

    data = commands.add_parser("data", help="datasets")
    actions = data.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _command(actions, "list", _data_list, "the kinds of data and how they are named")
    return parser


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, without the usage; --help has that."""

    def error(self, message: str) -> Any:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], what: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=run)
    return parser


def _add_arch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "arch", metavar="ARCH", help="ghostnet, mobilenetv3-large, a .json file or a run folder"
    )
    parser.add_argument("--width", type=_width, metavar="A", help="of a named network (1.0)")
    parser.add_argument("--resolution", type=_positive, metavar="R", help="in pixels")


def _positive(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


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


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _say_count(done: int, wanted: int) -> None:
    if done % 50 == 0 or done == wanted:
        _say(f"{done} of {wanted} ops")


def _how_to_resume(parsed: argparse.Namespace) -> str:
    if parsed.command is not _search:
        return ""
    return f"; what is done is kept, go on with: ghostnas search --resume --out {parsed.out}"


def _show(
    args: argparse.Namespace,
    result: Mapping[str, Any],
    text: Callable[[Mapping[str, Any]], str],
) -> None:
    print(json.dumps(result) if args.json else text(result))


def _latency_list_text(result: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{each['target']:24} {each['ops']:6} ops  {each['core']} at {each['clock_mhz']} MHz, "
        f"{each['threads']} thread, {each['dtype']}; {each['device']}; {each['method']}, "
        f"{each['date']}"
        for each in result["targets"]
    )


def _data_list_text(result: Mapping[str, Any]) -> str:
    return "\n".join(f"{each['data']:16} {each['is']}" for each in result["data"])
