"""``ghostnas latency``: list, predict, build, check, calibrate and import."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostnas import api
from ghostnas.cli.options import (
    Result,
    add_arch,
    add_confidence,
    add_device,
    add_space,
    add_variant,
    command,
    count,
    device_options,
    positive,
    resolution,
    seed,
    width,
)


def list_targets(args: Namespace) -> Result:
    return {"targets": api.list_targets()}, _targets_text


def build_table(args: Namespace) -> Result:
    built = api.build_table(
        out=args.out,
        space=args.space,
        dtype=args.dtype,
        threads=args.threads,
        ops=args.ops,
        networks=args.networks,
        progress=args.say,
        device=device_options(args),
    )
    return built, _built_text


def check_table(args: Namespace) -> Result:
    checked = api.check_table(
        args.target,
        space=args.space,
        networks=args.networks,
        seed=args.seed,
        progress=args.say,
        device=device_options(args),
    )
    return checked, _checked_text


def calibrate_table(args: Namespace) -> Result:
    carried = api.calibrate_table(
        args.target,
        out=args.out,
        timings=args.timings,
        threads=args.threads,
        dtype=args.dtype,
        space=args.space,
        networks=args.networks,
        progress=args.say,
        device=device_options(args),
    )
    if args.timings is not None:
        return carried, _adapted_text
    return carried, lambda r: f"{r['table']}: {r['ops']} ops, from {r['networks']} networks"


def import_table(args: Namespace) -> Result:
    imported = api.import_table(
        args.file,
        origin=args.origin,
        out=args.out,
        format=args.format,
        network=args.arch,
        width=args.width,
        resolution=args.resolution,
    )
    return imported, lambda r: f"{r['table']}: {r['ops']} ops, {r['imported']} newly imported"


def how_to_resume(args: Namespace) -> str:
    return "; measurements are kept, resume with the same command"


def predict(args: Namespace) -> Result:
    found = api.predict(
        args.arch,
        target=args.target,
        threads=args.threads,
        dtype=args.dtype,
        width=args.width,
        resolution=args.resolution,
        confidence=args.confidence,
        compare=args.compare,
        csv=args.csv,
    )

    from ghostnas.latency import summary

    return found, summary.where_text


def _targets_text(result: Mapping[str, Any]) -> str:
    """A line for each target; other names of one stand below."""
    lines = [
        f"{'target':22} {'device':38} {'core':16} {'MHz':>4} {'threads':>7} dtype {'error':>6}  on"
    ]
    names = []
    for each in result["targets"]:
        if each["table"] != each["target"]:
            names.append(f"{each['target']} is another name of {each['table']}")
            continue
        lines.append(
            f"{each['target']:22} {each['device']:38} {each['core']:16} {each['clock_mhz']:4} "
            f"{each['threads']:7} {each['dtype']:5} {100 * each['mape']:4.1f} %  {each['method']}"
        )
    lines += [
        "",
        "error: mean, on families of networks that the fit had not seen; of a computed target,",
        "how far off one measured core was when computed from another, at most",
        *names,
    ]
    return "\n".join(lines)


def _adapted_text(result: Mapping[str, Any]) -> str:
    lines = [
        f"{result['table']}: from {result['networks']} timings, starting from {result['nearest']}",
        f"each network left out in turn: mean error {100 * result['mape']:.1f} %",
        *(f"  {100 * error:+6.1f} %  {name}" for name, error in result["errors"].items()),
        f"with as many timings, expect about {100 * result['expected']:.0f} % on other networks",
    ]
    if not result["calibrated"]:
        lines.append("10 timings or more would calibrate an interval")
    return "\n".join(lines)


def _built_text(result: Mapping[str, Any]) -> str:
    lines = [
        f"{result['table']}: {result['ops']} ops, {result['measured']} newly measured, and "
        f"{result['networks']} networks, in {result['seconds']:.0f} s"
    ]
    if refused := result["refused"]:
        op, reason = next(iter(refused.items()))
        lines.append(f"{len(refused)} ops were refused, such as {op}: {reason}")
    return "\n".join(lines)


def _checked_text(result: Mapping[str, Any]) -> str:
    def line(name: str, found: Mapping[str, float]) -> str:
        return (
            f"{name:6} mean error {100 * found['mape']:5.2f} %, within 5 %: "
            f"{100 * found['within_5']:3.0f} %, within 10 %: {100 * found['within_10']:3.0f} %, "
            f"Spearman {found['spearman']:.3f}, Kendall {found['kendall']:.3f}"
        )

    lines = [
        f"{result['networks']} networks that {result['table']} has not seen",
        line("table", result),
        line("FLOPs", result["flops"]),
        f"the {100 * result['confidence']:.0f} % interval covered {100 * result['coverage']:.0f} % "
        "of them",
    ]
    if (drift := result["drift"]) is not None:
        lines.append(
            f"the device is {100 * abs(drift):.1f} % {'slower' if drift > 0 else 'faster'} than "
            "it was when the table was built"
        )
    return "\n".join(lines)


def _search_for(result: Mapping[str, Any]) -> str:
    return f"ghostnas search --target {result['table']} --budget 20ms"


def add(subcommands: Any) -> None:
    parser = subcommands.add_parser("latency", help="latency tables and predictions")
    actions = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command(
        actions,
        "list",
        list_targets,
        "list the targets and where their tables come from",
        example="ghostnas latency list",
        then=lambda result: "ghostnas search --target TARGET --budget 20ms",
    )
    predicted = command(
        actions,
        "predict",
        predict,
        "predict a network's latency on a target, and where it goes",
        example="ghostnas latency predict ghostnet --target rpi5-cpu1-fp32 --compare mobilenetv2",
    )
    add_arch(predicted)
    predicted.add_argument("--target", required=True, help="name or file of a latency table")
    add_variant(predicted)
    add_confidence(predicted)
    predicted.add_argument(
        "--compare", metavar="ARCH", help="another network, to be shown beside it"
    )
    predicted.add_argument(
        "--csv", type=Path, metavar="FILE.csv", help="also write where the time goes"
    )

    build = command(
        actions,
        "build",
        build_table,
        "measure a table on a device",
        how_to_resume,
        example="ghostnas latency build --device ssh:pi@board --out board.csv",
        then=lambda result: f"ghostnas latency check --target {result['table']} --device DEVICE",
    )
    build.add_argument("--dtype", choices=("fp32", "int8"), default="fp32")
    build.add_argument("--threads", type=positive, default=1, metavar="N", help="(1)")
    build.add_argument("--ops", type=positive, default=4000, metavar="N", help="at most (4000)")
    build.add_argument(
        "--networks", type=count, metavar="N", help="measured whole (100; none if emulated)"
    )
    build.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
    add_space(build)
    add_device(build)

    check = command(
        actions,
        "check",
        check_table,
        "check a table on its device",
        how_to_resume,
        example="ghostnas latency check --target board.csv --device ssh:pi@board",
        then=_search_for,
    )
    check.add_argument("--target", required=True, metavar="FILE.csv")
    check.add_argument("--networks", type=positive, default=50, metavar="N", help="fresh ones (50)")
    check.add_argument("--seed", type=seed, default=2, metavar="N", help="to draw them with (2)")
    add_space(check)
    add_device(check)

    calibrate = command(
        actions,
        "calibrate",
        calibrate_table,
        "transfer a table to a device of its kind",
        how_to_resume,
        example="ghostnas latency calibrate --from timings.csv --out phone.csv",
        then=_search_for,
    )
    calibrate.add_argument("--target", help="name or file of the table")
    calibrate.add_argument(
        "--from",
        dest="timings",
        type=Path,
        metavar="FILE.csv",
        help="timings of whole networks (network, resolution, ms) in place of a device",
    )
    add_variant(calibrate)
    calibrate.add_argument("--networks", type=positive, default=20, metavar="N", help="(20)")
    calibrate.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
    add_space(calibrate)
    add_device(calibrate)

    imported = command(
        actions,
        "import",
        import_table,
        "import a table measured elsewhere",
        example="ghostnas latency import rows.csv --origin origin.toml --out board.csv",
        then=_search_for,
    )
    imported.add_argument("file", type=Path, metavar="FILE")
    imported.add_argument("--format", choices=("csv", "benchmark-model"), default="csv")
    imported.add_argument("--arch", metavar="ARCH", help="the profiled network")
    imported.add_argument("--width", type=width, metavar="A", help="of a named network (1.0)")
    imported.add_argument("--resolution", type=resolution, metavar="R", help="in pixels")
    imported.add_argument(
        "--origin", type=Path, required=True, metavar="FILE.toml", help="device, threads, dtype ..."
    )
    imported.add_argument("--out", type=Path, required=True, metavar="FILE.csv")
