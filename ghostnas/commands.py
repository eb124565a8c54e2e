"""The commands, a short function each over the public modules: parsed options in, a result out.

A function returns what it found as JSON types, and how to say that to people. Modules that import
torch, Optuna or TFLite are imported by the command that needs them.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ghostnas.errors import InputError

if TYPE_CHECKING:
    from ghostnas.bench import Bench

NETWORKS = 100  # that are measured whole for a table
Result: TypeAlias = tuple[Mapping[str, Any], Callable[[Mapping[str, Any]], str]]


def search(args: Namespace) -> Result:
    from ghostnas import report, search
    from ghostnas.settings import Settings

    if args.out is None:
        if args.resume:
            raise InputError("--resume needs --out DIR, the folder of the search to go on with")
        args.out = Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    given = {
        "target": args.target,
        "budgets": tuple(args.budget) if args.budget else None,
        "confidence": args.confidence,
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
        return search.resume(args.out, given, _say), report.text
    if missing := [key for key in ("target", "budgets") if key not in given]:
        raise InputError(f"a search needs --{missing[0].removesuffix('s')}; see --help")
    return search.start(Settings(**given), args.out, _say), report.text


def show(args: Namespace) -> Result:
    from ghostnas import show

    arch = show.find(args.arch, args.width, args.resolution)
    return show.describe(arch, args.target, args.confidence), show.text


def export(args: Namespace) -> Result:
    from ghostnas import export, report, show

    formats = export.parse_formats(args.format)
    arch, values = show.find_with_weights(args.arch, args.width, args.resolution, args.weights)
    files = [each.to_json() for each in export.export(arch, values, formats, args.out)]
    return {"id": arch.id, "files": files}, lambda result: report.files(result["files"])


def list_targets(args: Namespace) -> Result:
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
    return {"targets": rows}, _targets_text


def build_table(args: Namespace) -> Result:
    from ghostnas import measure, space
    from ghostnas.emulated import SCHEME

    out = _table_file(args.out)
    networks = args.networks
    if networks is None:  # an emulator says of a network only what it says of its ops
        networks = 0 if args.device.startswith(SCHEME) else NETWORKS
    with _bench(args, args.dtype, args.threads) as bench:
        searched = space.load(args.space)
        built = measure.build(bench, searched, out, ops=args.ops, networks=networks, say=_say)
    refused = {str(op): reason for op, reason in built.refused.items()}
    result = {
        "table": str(out),
        "ops": len(built.table.rows),
        "measured": built.measured,
        "refused": refused,
        "networks": built.networks,
        "seconds": round(built.seconds, 1),
        "writing_s": round(built.writing_s, 1),
        "thrown_away": built.thrown_away,
    }
    return result, _built_text


def check_table(args: Namespace) -> Result:
    from ghostnas import check, latency, space

    path = _table_file(Path(args.target))
    origin = latency.load(str(path)).origin
    with _bench(args, origin.dtype, origin.threads) as bench:
        searched = space.load(args.space)
        checked = check.check(
            bench, path, searched, networks=args.networks, seed=args.seed, say=_say
        )
    return {"table": str(path), **checked}, _checked_text


def calibrate_table(args: Namespace) -> Result:
    from ghostnas import check, latency, space

    table, out = latency.load(args.target), _table_file(args.out)
    with _bench(args, table.origin.dtype, table.origin.threads) as bench:
        searched = space.load(args.space)
        carried = check.calibrate(bench, table, searched, out, networks=args.networks, say=_say)
    result = {"table": str(out), "ops": len(carried.rows), "networks": args.networks}
    return result, lambda r: f"{r['table']}: {r['ops']} ops, by {r['networks']} networks"


def import_table(args: Namespace) -> Result:
    from ghostnas import latency, show, table_import
    from ghostnas.arch import lower
    from ghostnas.files import read_text

    text, out = read_text(args.file), _table_file(args.out)
    origin = table_import.origin_from_toml(read_text(args.origin), str(args.origin))
    if args.format == "csv":
        rows = table_import.from_csv(text, str(args.file))
    elif args.arch is None:
        raise InputError("a profile needs --arch ARCH, the network that it was taken of")
    else:
        arch = show.find(args.arch, args.width, args.resolution)
        rows = table_import.from_profile(text, lower(arch), str(args.file))
    table = latency.Table(name=out.stem, origin=origin, rows=rows)
    if out.exists():
        table = latency.join([table, latency.load(str(out))])
    latency.save(table, out)
    result = {"table": str(out), "ops": len(table.rows), "imported": len(rows)}
    return result, lambda r: f"{r['table']}: {r['ops']} ops, {r['imported']} of them imported now"


def list_data(args: Namespace) -> Result:
    from ghostnas import data

    rows = [{"data": name, "is": what} for name, what in data.usages().items()]
    return {"data": rows}, lambda r: "\n".join(f"{d['data']:16} {d['is']}" for d in r["data"])


@contextmanager
def _bench(args: Namespace, dtype: str, threads: int) -> Iterator[Bench]:
    from ghostnas.bench import DeviceBench, Setting
    from ghostnas.device import open_device
    from ghostnas.emulated import SCHEME, EmulatedBench

    setting = Setting(
        dtype=dtype,
        threads=threads,
        cores=args.cores,
        rounds=args.rounds,
        python=args.python or (sys.executable if args.device == "local" else "python3"),
        benchmark_model=args.benchmark_model,
    )
    if args.device.startswith(SCHEME):
        yield EmulatedBench(args.device.removeprefix(SCHEME), setting, args.emulator)
        return
    with open_device(args.device) as device:
        yield DeviceBench(device, setting)


def _table_file(path: Path) -> Path:
    if path.suffix != ".csv":
        raise InputError(f"{path}: a table's file ends in .csv")
    return path


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _targets_text(result: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{each['target']:24} {each['ops']:6} ops  {each['core']} at {each['clock_mhz']} MHz, "
        f"{each['threads']} thread, {each['dtype']}; {each['device']}; {each['method']}, "
        f"{each['date']}"
        for each in result["targets"]
    )


def _built_text(result: Mapping[str, Any]) -> str:
    lines = [
        f"{result['table']}: {result['ops']} ops, {result['measured']} of them measured now, and "
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
        f"the {100 * result['confidence']:.0f} % interval held {100 * result['coverage']:.0f} % "
        "of them",
    ]
    if (drift := result["drift"]) is not None:
        lines.append(
            f"the device is {100 * abs(drift):.1f} % {'slower' if drift > 0 else 'quicker'} than "
            "it was when the table was built"
        )
    return "\n".join(lines)
