"""The commands, a short function each over the public modules: parsed options in, a result out.

A function returns what it found as JSON types, and how to say that to people. Modules that import
torch, Optuna or TFLite are imported by the command that needs them.
"""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ghostnas.errors import InputError

if TYPE_CHECKING:
    from ghostnas.devices.bench import Bench
    from ghostnas.latency.table import Origin, Timing

NETWORKS = 100  # that are measured whole for a table
WORKERS = 2  # processes, where none are asked for and there are as many CPUs
OF_A_TRAINING = (  # options that cannot change while it goes on
    *("arch", "width", "data", "recipe", "init", "teacher", "seed", "epochs", "batch_size"),
    *("resolution", "strict", "threads"),
)
Result: TypeAlias = tuple[Mapping[str, Any], Callable[[Mapping[str, Any]], str]]


def search(args: Namespace) -> Result:
    if args.out is None:
        if args.resume:
            raise InputError("--resume needs --out DIR, the folder of the search to go on with")
        args.out = Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    _check_folder(args.out)
    _check_counts(args)
    given = {
        "target": args.target,
        "budgets": tuple(args.budget) if args.budget else None,
        "confidence": args.confidence,
        "space": args.space,
        "data": args.data,
        "recipe": args.recipe,
        "scorer": args.scorer,
        "sampler": args.sampler,
        "seed": args.seed,
        "finalists": args.finalists,
        "seeds": args.seeds,
        "deploy": args.deploy,
        "resolution": args.resolution,
        "storage": args.storage,
        "trials": args.trials,
        "timeout_s": args.timeout,
        "workers": args.workers,
        "device": args.device,
    }
    given = {key: value for key, value in given.items() if value is not None}
    missing = [key for key in ("target", "budgets") if key not in given]
    if missing and not args.resume:
        raise InputError(f"a search needs --{missing[0].removesuffix('s')}; see --help")
    _check_names(given)
    _say(f"search in {args.out}: loading PyTorch, the data and the latency table")

    from ghostnas.nas import report, run
    from ghostnas.nas.settings import Settings

    if args.resume:
        return run.resume(args.out, given, _say), report.text
    return run.start(Settings(**given), args.out, _say), report.text


def _check_names(given: Mapping[str, Any]) -> None:
    """Refuse what a search is asked for wrongly, before torch and Optuna take seconds to load."""
    from ghostnas.data import datasets
    from ghostnas.latency import table as latency_table
    from ghostnas.nas import budget
    from ghostnas.networks import space
    from ghostnas.training import recipe

    budgets = [budget.parse(text) for text in given.get("budgets", ())]
    targets = [given.get("target"), *(each.target for each in budgets)]
    for target in dict.fromkeys(each for each in targets if each is not None):
        latency_table.load(target)
    for key, look_at in (("space", space.load), ("recipe", recipe.load), ("data", datasets.locate)):
        if key in given:
            look_at(given[key])


def show(args: Namespace) -> Result:
    from ghostnas.latency import summary
    from ghostnas.networks import zoo

    if args.confidence is not None and args.target is None:
        raise InputError("--confidence is of a latency: name its --target")
    arch = zoo.find(args.arch, args.width, args.resolution)
    return summary.describe(arch, args.target, args.confidence), summary.text


def export(args: Namespace) -> Result:
    from ghostnas.deployment import bundle
    from ghostnas.deployment import export as export_module
    from ghostnas.devices import table_build
    from ghostnas.nas import report

    _check_folder(args.out)
    dtypes = bundle.parse_dtypes(args.dtype)
    formats = bundle.parse_formats(args.format) if args.format else bundle.offering(dtypes)
    order = export_module.ExportRequest(
        network=args.arch,
        formats=formats,
        dtypes=dtypes,
        width=args.width,
        resolution=args.resolution,
        weights_file=args.weights,
        data=args.data or "",
        calibration_pictures=args.calibration,
        test_images=args.test_images,
        targets=args.target or (),
    )
    with ExitStack() as stack:

        def time_model(model: bytes, dtype: str) -> tuple[Timing | str, Origin]:
            bench = stack.enter_context(_bench(args, dtype, args.threads))
            return table_build.time_model(bench, model)

        result = export_module.export_network(
            order, args.out, time_model if args.measure else None, _say
        )
    return result, report.exported


def train(args: Namespace) -> Result:
    from ghostnas.networks import zoo
    from ghostnas.training import recipe, run
    from ghostnas.training.run import Machine
    from ghostnas.training.settings import Settings

    _check_folder(args.out)
    _check_counts(args)
    machine = Machine(
        device=args.device,
        workers=_workers(args),
        interval_s=args.checkpoint_every,
    )
    if args.resume:
        values = {key: getattr(args, key) for key in OF_A_TRAINING}
        if given := [key for key, each in values.items() if each is not None and each is not False]:
            name = "ARCH" if given[0] == "arch" else f"--{given[0].replace('_', '-')}"
            raise InputError(f"--resume goes on with the training in --out; leave {name} out")
        return run.resume(machine, args.out, _say), _trained_text
    if missing := [key for key in ("arch", "data") if getattr(args, key) is None]:
        raise InputError(f"a training needs {'ARCH' if missing[0] == 'arch' else '--data'}")
    recipe_name = args.recipe or "cifar"
    how = recipe.change(
        recipe.load(recipe_name),
        epochs=args.epochs,
        batch_size=args.batch_size,
        resolution=args.resolution,
    )
    arch = zoo.find(args.arch, args.width)
    if args.resolution is not None and args.resolution > arch.resolution:
        arch = zoo.find(args.arch, args.width, args.resolution)  # a training only makes it smaller
    settings = Settings(
        data=args.data,
        recipe_name=recipe_name,
        seed=args.seed or 0,
        init=str(args.init.resolve()) if args.init else "",
        teacher=str(args.teacher.resolve()) if args.teacher else "",
        strict=args.strict,
        threads=args.threads or 0,
    )
    return run.start(arch, how, settings, machine, args.out, _say), _trained_text


def evaluate(args: Namespace) -> Result:
    from ghostnas.deployment import evaluate

    _check_counts(args)
    result = evaluate.evaluate(
        args.model,
        args.data,
        workers=_workers(args),
        limit=args.limit,
        strict=args.strict,
        say=_say,
    )
    return result, _evaluated_text


def list_targets(args: Namespace) -> Result:
    from ghostnas.latency import table as latency_table

    rows = []
    for name, table_name in latency_table.targets().items():
        table = latency_table.load(name)
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
    from ghostnas.devices import table_build
    from ghostnas.devices.emulated import SCHEME
    from ghostnas.files import locked_file
    from ghostnas.networks import space

    out = _table_file(args.out)
    networks = args.networks
    if networks is None:  # an emulator says of a network only what it says of its ops
        networks = 0 if args.device.startswith(SCHEME) else NETWORKS
    with locked_file(out), _bench(args, args.dtype, args.threads) as bench:
        searched = space.load(args.space)
        built = table_build.build(bench, searched, out, ops=args.ops, networks=networks, say=_say)
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
    from ghostnas.devices import table_check
    from ghostnas.files import locked_file
    from ghostnas.latency import table as latency_table
    from ghostnas.networks import space

    path = _table_file(Path(args.target))
    origin = latency_table.load(str(path)).origin
    with locked_file(path), _bench(args, origin.dtype, origin.threads) as bench:
        searched = space.load(args.space)
        checked = table_check.check(
            bench, path, searched, networks=args.networks, seed=args.seed, say=_say
        )
    return {"table": str(path), **checked}, _checked_text


def calibrate_table(args: Namespace) -> Result:
    from ghostnas.devices import table_check
    from ghostnas.files import locked_file
    from ghostnas.latency import table as latency_table
    from ghostnas.networks import space

    table, out = latency_table.load(args.target), _table_file(args.out)
    with locked_file(out), _bench(args, table.origin.dtype, table.origin.threads) as bench:
        searched = space.load(args.space)
        carried = table_check.calibrate(
            bench, table, searched, out, networks=args.networks, say=_say
        )
    result = {"table": str(out), "ops": len(carried.rows), "networks": args.networks}
    return result, lambda r: f"{r['table']}: {r['ops']} ops, by {r['networks']} networks"


def import_table(args: Namespace) -> Result:
    from ghostnas.devices import table_import
    from ghostnas.files import locked_file, read_text
    from ghostnas.latency import table as latency_table
    from ghostnas.networks import zoo
    from ghostnas.networks.arch import lower

    text, out = read_text(args.file), _table_file(args.out)
    origin = table_import.origin_from_toml(read_text(args.origin), str(args.origin))
    if args.format == "csv":
        rows = table_import.from_csv(text, str(args.file))
    elif args.arch is None:
        raise InputError("a profile needs --arch ARCH, the network that it was taken of")
    else:
        arch = zoo.find(args.arch, args.width, args.resolution)
        rows = table_import.from_profile(text, lower(arch), str(args.file))
    table = latency_table.Table(name=out.stem, origin=origin, rows=rows)
    with locked_file(out):
        if out.exists():
            table = latency_table.join([table, latency_table.load(str(out))])
        latency_table.save(table, out)
    result = {"table": str(out), "ops": len(table.rows), "imported": len(rows)}
    return result, lambda r: f"{r['table']}: {r['ops']} ops, {r['imported']} of them imported now"


def list_data(args: Namespace) -> Result:
    from ghostnas.data import datasets

    rows = [{"data": name, "is": what} for name, what in datasets.usages().items()]
    return {"data": rows}, lambda r: "\n".join(f"{d['data']:16} {d['is']}" for d in r["data"])


def get_data(args: Namespace) -> Result:
    from ghostnas.data import download

    download.get(args.kind, args.folder, _say)
    spec = f"{args.kind}:{args.folder}"
    return {"data": spec}, lambda r: f"use it as --data {r['data']}"


def check_data(args: Namespace) -> Result:
    from ghostnas.data import datasets

    return datasets.check(args.data, args.strict, _say), _data_text


@contextmanager
def _bench(args: Namespace, dtype: str, threads: int) -> Iterator[Bench]:
    from ghostnas.devices.bench import DeviceBench, Setting
    from ghostnas.devices.device import open_device
    from ghostnas.devices.emulated import SCHEME, EmulatedBench

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


def _check_folder(out: Path) -> None:
    """Refuse an --out that is a file or lies below one."""
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file, not a folder; name another --out")


def _check_counts(args: Namespace) -> None:
    """Refuse more threads or processes than this machine has CPUs for."""
    from ghostnas.processes import check_count

    for name in ("threads", "workers"):
        if (count := getattr(args, name, None)) is not None:
            check_count(f"--{name}", count)


def _workers(args: Namespace) -> int:
    from ghostnas.processes import usable_cpus

    given: int | None = args.workers
    return min(WORKERS, usable_cpus()) if given is None else given


def _table_file(path: Path) -> Path:
    if path.suffix != ".csv":
        raise InputError(f"{path}: a table's file ends in .csv")
    return path


def is_first_process() -> bool:
    """Whether this is the one of torchrun's processes that speaks, or there are no others."""
    return os.environ.get("RANK", "0") == "0"


def _say(line: str) -> None:
    if is_first_process():
        print(line, file=sys.stderr, flush=True)


def _trained_text(result: Mapping[str, Any]) -> str:
    held_out = result["accuracy"]
    chosen = "" if held_out is None else f", {held_out:.1%} of those held out from training"
    return (
        f"{result['run']}/model.safetensors: {result['test_accuracy']:.2%} of "
        f"{result['test_pictures']} test pictures{chosen}; {result['epochs']} epochs of "
        f"{result['train_pictures']} pictures at {result['resolution']} px in "
        f"{result['seconds'] / 60:.1f} minutes on {result['hardware']}, seed {result['seed']}"
    )


def _evaluated_text(result: Mapping[str, Any]) -> str:
    top5 = "" if result["top5"] is None else f", top-5 {result['top5']:.2%}"
    text = (
        f"{result['model']}: top-1 {result['top1']:.2%}{top5} of {result['pictures']} pictures; "
        f"{result['images_per_second']:.0f} pictures a second"
    )
    if result["skipped"]:
        text += f"\n{result['skipped']} skipped; the first: {result['first_skipped']}"
    return "\n".join([text, *(f"warning: {line}" for line in result["warnings"])])


def _data_text(result: Mapping[str, Any]) -> str:
    lines = [f"{result['name']}: {result['classes']} classes, {result['resolution']} px"]
    for name in ("train", "test"):
        few, many = result[name]["fewest"], result[name]["most"]
        lines.append(
            f"{name}: {result[name]['pictures']} pictures, {few['pictures']} ({few['class']}) to "
            f"{many['pictures']} ({many['class']}) a class"
        )
    for name in ("mean", "std"):
        lines.append(f"{name}: {', '.join(f'{value:.4f}' for value in result[name])}")
    return "\n".join([*lines, *(f"skipped {line}" for line in result["skipped"])])


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
