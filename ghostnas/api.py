"""The Python API: one function per command. Each takes the command's options under the same names,
those of a device together in `DeviceOptions`, and returns what ``--json`` prints;
``import ghostnas`` exposes all of them.

Modules that load torch, Optuna or a runtime are imported by the function that needs them. Errors
are `ghostnas.GhostnasError`, with the message that the command line prints. `progress` is called
from time to time with a human-readable line.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ghostnas.errors import InputError
from ghostnas.progress import Say, silent

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ghostnas.data.images import Dataset
    from ghostnas.devices.bench import Bench
    from ghostnas.ir.graph import Graph
    from ghostnas.latency.predictor import Prediction
    from ghostnas.latency.table import ModelTiming
    from ghostnas.nas.snapshot import Watch
    from ghostnas.networks.arch import Arch
    from ghostnas.networks.space import Space
    from ghostnas.paper.run import Pictured
    from ghostnas.training.recipe import Recipe

Place: TypeAlias = str | PathLike[str]

NETWORKS = 100  # measured whole for a table
WORKERS = 2  # default number of processes, if there are that many CPUs


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """A device and how to measure on it, for `build_table`, `check_table`, `calibrate_table` and
    `export`, which take a device that needs no further options by its name alone.

    >>> board = ghostnas.DeviceOptions(device="ssh:pi@board", cores="little", rounds=10)
    >>> board.cores
    'little'

    Attributes:
        device: ``local``, ``ssh:user@host[:port]``, ``adb[:SERIAL]`` or ``emulated:CORE``.
        cores: ``big``, ``little`` or indices such as ``0,2-3``.
        rounds: how many rounds of runs.
        python: the path of the device's Python, with LiteRT; this one, or ``python3`` elsewhere.
        benchmark_model: the path of TFLite's benchmark_model for the device, to use instead.
        emulator: the folder that ``scripts/emulated_arm/setup`` created.
    """

    device: str = "local"
    cores: str = "big"
    rounds: int = 30
    python: str | None = None
    benchmark_model: str | None = None
    emulator: Place = Path(".emulation")


def search(
    *,
    target: str | None = None,
    threads: int | None = None,
    dtype: str | None = None,
    budget: str | Sequence[str] | None = None,
    out: Place | None = None,
    resume: bool = False,
    confidence: float | None = None,
    space: str | None = None,
    data: str | None = None,
    effort: str | None = None,
    recipe: str | None = None,
    final_recipe: str | None = None,
    scorer: str | None = None,
    screened: int | None = None,
    screened_by: str | None = None,
    trials: int | None = None,
    halving: int | None = None,
    timeout: float | None = None,
    sampler: str | None = None,
    seed: int | None = None,
    finalists: int | None = None,
    seeds: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    deploy: str | None = None,
    resolution: int | None = None,
    storage: str | None = None,
    warm_start: Place | None = None,
    pareto: str | None = None,
    export_front: int | None = None,
    progress: Say = silent,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Find the best network for a target within budgets; returns the contents of ``result.json``.

    Omitted arguments take the defaults of ``ghostnas search``, or with `resume` the values that the
    run folder `out` was started with.

    >>> found = ghostnas.search(target="arm", budget="300KFLOPs", space="small.toml",
    ...     data="folder:images", recipe="short.toml", trials=2, finalists=1, seeds=2, out="run")
    >>> found["best"]["macs"] <= 300_000
    True

    Args:
        threads, dtype: of the target, if not those of its name: see `list_targets`.
        budget: amounts with a unit, such as ``150MFLOPs`` or ``["20ms", "6MB"]``.
        effort: ``minutes``, ``hour`` or ``night``: what is not given of `recipe`, `final_recipe`,
            `screened`, `trials`, `halving`, `finalists` and `seeds`.
        screened: networks to score without training before the first trial.
        screened_by: the scores of these, with commas: ``naswot,jacob_cov,supernet:DIR``.
        halving: stop trials that are not among the best 1/`halving` at a rung; 0 for never.
        timeout: seconds, after which no new trial starts.
        warm_start: run folder of an earlier search, whose trials this one learns from.
        pareto: trade accuracy for one or two of latency, macs and params: ``accuracy,latency``.
        export_front: how many networks along the front to train and export.
        watch: given, once the search runs, a function that any thread may call to learn how it
            stands (`ghostnas.nas.snapshot`).

    Raises:
        InputError: an argument is invalid.
        BudgetError: nothing in the space meets the budgets.
        TrainingError: most trainings fail.
    """
    if out is None and resume:
        raise InputError("--resume needs --out DIR, the folder of the search to resume")
    folder = Path("runs") / time.strftime("%Y%m%d-%H%M%S") if out is None else Path(out)
    _check_folder(folder)
    _check_counts(workers=workers)
    target = _variant(target, threads, dtype)
    given: dict[str, Any] = {
        "target": target,
        "budgets": (budget,) if isinstance(budget, str) else tuple(budget) if budget else None,
        "confidence": confidence,
        "space": space,
        "data": data,
        "effort": effort,
        "recipe": recipe,
        "final_recipe": final_recipe,
        "scorer": scorer,
        "screened": screened,
        "screened_by": screened_by,
        "halving": halving,
        "sampler": sampler,
        "seed": seed,
        "finalists": finalists,
        "seeds": seeds,
        "deploy": deploy,
        "resolution": resolution,
        "storage": storage,
        "warm_start": str(warm_start) if warm_start else None,
        "pareto": pareto,
        "export_front": export_front,
        "trials": trials,
        "timeout_s": timeout,
        "workers": workers,
        "device": device,
    }
    given = {key: value for key, value in given.items() if value is not None}
    missing = [key for key in ("target", "budgets") if key not in given]
    if missing and not resume:
        raise InputError(f"a search needs --{missing[0].removesuffix('s')}; see --help")
    _check_names(given)
    progress(f"search in {folder}: loading PyTorch, the data and the latency table")

    from ghostnas.nas import run, settings
    from ghostnas.nas.snapshot import unwatched

    if resume:
        return run.resume(folder, given, progress, watch or unwatched)
    return run.start(settings.new(given), folder, progress, watch or unwatched)


def pick(
    run: Place,
    *,
    budget: str | Sequence[str],
    target: str | None = None,
    out: Place | None = None,
    networks: int | None = None,
    progress: Say = silent,
) -> dict[str, Any]:
    """Of the networks that a search trained or scored, the one expected to be the most accurate
    within another budget, or on another target; or of a supernet's space, the one that scores best
    with its part of the weights. Nothing is trained.

    >>> ghostnas.pick("run", budget="250KFLOPs")["macs"] <= 250_000
    True

    Args:
        run: folder of the search, or of a supernet, which needs a `target`.
        out: a .json file to write the architecture to; the weights that a supernet gives it go
            beside it.
        networks: of a supernet's space, how many are scored; 50 by default.

    Raises:
        InputError: an argument is invalid, or the folder holds neither.
        BudgetError: no network that is known, or of the supernet's space, is within the budget.
    """
    from ghostnas.nas import pick as picking
    from ghostnas.nas import supernet as shared
    from ghostnas.training.supernet import SETTINGS

    budgets = (budget,) if isinstance(budget, str) else tuple(budget)
    if (Path(run) / SETTINGS).exists():
        if target is None:
            raise InputError(f"{run}: is a supernet's; give --target, for which to pick")
        _check_names({"target": target, "budgets": budgets})
        file = None if out is None else Path(out)
        count = shared.SCORED if networks is None else networks
        return shared.pick(Path(run), budgets, target, file, count, progress)
    if networks is not None:
        raise InputError(f"--networks is for a supernet's folder, which {run} is not")
    return picking.pick(Path(run), budgets, target, None if out is None else Path(out))


def report(run: Place) -> dict[str, Any]:
    """Write the report.html of a search or a training from its folder, finished or not; returns
    its path and of what kind it is.

    >>> ghostnas.report("run")["kind"]
    'search'

    Args:
        run: the folder of the search or training.

    Raises:
        InputError: the folder holds neither, or what the report needs is missing or damaged.
    """
    folder = Path(run)
    if (folder / "train.toml").exists():
        from ghostnas.training import report as training_report

        kind, path = "training", training_report.write(folder)
    elif (folder / "search.toml").exists():
        from ghostnas.nas import report_page

        kind, path = "search", report_page.write(folder)
    else:
        raise InputError(f"{folder}: holds neither a search nor a training; name the --out of one")
    return {"run": str(folder), "kind": kind, "report": str(path), "bytes": path.stat().st_size}


def train(
    network: str | None = None,
    *,
    out: Place,
    data: str | None = None,
    recipe: str | None = None,
    resume: bool = False,
    width: float | None = None,
    init: Place | None = None,
    teacher: Place | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    resolution: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    checkpoint_every: float = 60.0,
    strict: bool = False,
    progress: Say = silent,
) -> dict[str, Any]:
    """Train a network in full in a folder; returns the contents of its ``result.json``.

    >>> trained = ghostnas.train("run", data="folder:images", recipe="short.toml", out="full")
    >>> 0 <= trained["test_accuracy"] <= 1
    True

    Args:
        network: its name, a ``.json`` file or a run folder; none with `resume`.
        init: a file of weights to start from, or ``supernet:DIR``.
        checkpoint_every: seconds between checkpoints.

    Raises:
        InputError: an argument is invalid.
        TrainingError: it cannot continue; the last good state is kept in `out`.
    """
    from ghostnas.networks import zoo
    from ghostnas.training import recipe as recipes
    from ghostnas.training import run
    from ghostnas.training.run import Machine
    from ghostnas.training.settings import Settings

    folder = Path(out)
    _check_folder(folder)
    _check_counts(threads=threads, workers=workers)
    machine = Machine(device=device, workers=_workers(workers), interval_s=checkpoint_every)
    if resume:
        settled = {  # what cannot change when a training resumes
            "ARCH": network,
            "--width": width,
            "--data": data,
            "--recipe": recipe,
            "--init": init,
            "--teacher": teacher,
            "--seed": seed,
            "--epochs": epochs,
            "--batch-size": batch_size,
            "--resolution": resolution,
            "--strict": strict or None,
            "--threads": threads,
        }
        if given := [name for name, value in settled.items() if value is not None]:
            raise InputError(f"--resume continues the training in --out; leave {given[0]} out")
        return run.resume(machine, folder, progress)
    if network is None or data is None:
        raise InputError(f"a training needs {'ARCH' if network is None else '--data'}")
    recipe_name = recipe or "cifar"
    how = recipes.change(
        recipes.load(recipe_name), epochs=epochs, batch_size=batch_size, resolution=resolution
    )
    arch = zoo.find(network, width)
    if resolution is not None and resolution > arch.resolution:
        arch = zoo.find(network, width, resolution)  # training can only make it smaller
    settings = Settings(
        data=data,
        recipe_name=recipe_name,
        seed=seed or 0,
        init=_initial(init) if init else "",
        teacher=str(Path(teacher).resolve()) if teacher else "",
        strict=strict,
        threads=threads or 0,
        network=network if network in zoo.ZOO else str(Path(network).resolve()),
    )
    return run.start(arch, how, settings, machine, folder, progress)


def supernet(
    space: str | None = None,
    *,
    out: Place,
    data: str | None = None,
    recipe: str | None = None,
    resume: bool = False,
    networks: int | None = None,
    target: str | None = None,
    budget: str | Sequence[str] | None = None,
    deploy: str | None = None,
    resolution: int | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    checkpoint_every: float = 60.0,
    strict: bool = False,
    progress: Say = silent,
) -> dict[str, Any]:
    """Train weights once for all networks of a space; returns the contents of ``result.json``.

    >>> trained = ghostnas.supernet("small.toml", data="folder:images", recipe="short.toml",
    ...     out="shared")
    >>> 0 <= trained["accuracy"] <= 1
    True

    Args:
        space: its name or a ``.toml`` file; none with `resume`.
        networks: how many each step trains; by default 4, or as many as a number has options where
            none is nested.
        target, budget: if given, only networks within the budget are trained.
        deploy, resolution: what budgets refer to, as in `search`.
        checkpoint_every: seconds between checkpoints.

    Raises:
        InputError: an argument is invalid.
        BudgetError: nothing in the space meets the budgets.
        TrainingError: it cannot continue; the last good state is kept in `out`.
    """
    from ghostnas.nas import supernet as running
    from ghostnas.training import recipe as recipes
    from ghostnas.training.proxy_network import PUBLISHED
    from ghostnas.training.run import Machine
    from ghostnas.training.supernet import Settings

    folder = Path(out)
    _check_folder(folder)
    _check_counts(threads=threads, workers=workers)
    machine = Machine(device=device, workers=_workers(workers), interval_s=checkpoint_every)
    budgets = (budget,) if isinstance(budget, str) else tuple(budget or ())
    if resume:
        settled = {
            "SPACE": space,
            "--data": data,
            "--recipe": recipe,
            "--networks": networks,
            "--target": target,
            "--budget": budgets or None,
            "--deploy": deploy,
            "--resolution": resolution,
            "--seed": seed,
            "--epochs": epochs,
            "--batch-size": batch_size,
            "--strict": strict or None,
            "--threads": threads,
        }
        if given := [name for name, value in settled.items() if value is not None]:
            raise InputError(f"--resume continues the training in --out; leave {given[0]} out")
        return running.resume(machine, folder, progress)
    if space is None or data is None:
        raise InputError(f"a supernet needs {'SPACE' if space is None else '--data'}")
    if bool(budgets) != (target is not None):
        raise InputError(f"a supernet with --{'budget' if budgets else 'target'} needs the other")
    recipe_name = recipe or "supernet"
    _check_names({"space": space, "data": data, "recipe": recipe_name, "budgets": budgets})
    how = recipes.change(recipes.load(recipe_name), epochs=epochs, batch_size=batch_size)
    settings = Settings(
        space=space,
        data=data,
        recipe_name=recipe_name,
        networks=networks or 0,
        target=_variant(target, None, None) or "",
        budgets=budgets,
        deploy=deploy or PUBLISHED,
        resolution=resolution or 0,
        seed=seed or 0,
        strict=strict,
        threads=threads or 0,
    )
    return running.start(settings, how, machine, folder, progress)


def evaluate(
    model: Place,
    *,
    data: str,
    workers: int | None = None,
    limit: int | None = None,
    strict: bool = False,
    progress: Say = silent,
) -> dict[str, Any]:
    """Accuracy of a model file on a dataset's test images, run in the file's own runtime.

    >>> found = ghostnas.evaluate("files/model.onnx", data="folder:images", workers=1)
    >>> 0 <= found["top1"] <= 1
    True

    Raises:
        InputError: model or data cannot be read, or they do not match.
    """
    from ghostnas.deployment import evaluate as evaluation

    _check_counts(workers=workers)
    return evaluation.evaluate(
        Path(model), data, workers=_workers(workers), limit=limit, strict=strict, say=progress
    )


def export(
    network: str,
    *,
    out: Place,
    format: str | Sequence[str] | None = None,
    dtype: str | Sequence[str] = "fp32",
    width: float | None = None,
    resolution: int | None = None,
    weights: Place | None = None,
    data: str = "",
    calibration: int = 256,
    test_images: int | None = None,
    target: str | Sequence[str] = (),
    measure: bool = False,
    threads: int = 1,
    device: str | DeviceOptions = "local",
    license: str = "",
    progress: Say = silent,
) -> dict[str, Any]:
    """Write a network's files, each run in its own runtime and compared with PyTorch.

    >>> found = ghostnas.export("run", format="onnx,tflite", data="folder:images", out="files")
    >>> [file["format"] for file in found["files"]]
    ['onnx', 'tflite']

    Args:
        format: any of ``torch``, ``onnx``, ``tflite``; by default all that support one of the
            dtypes.
        dtype: any of ``fp32``, ``fp16``, ``int8``.
        target: latency tables to predict with.
        measure: whether to time each .tflite on `device`.
        license: of the weights, for the card, such as ``apache-2.0``.

    Raises:
        InputError: an argument names something that cannot be found or does not match.
        ExportError: a file fails its check; none is kept.
        DeviceError: the device failed; the files are kept.
    """
    from ghostnas.deployment import bundle
    from ghostnas.deployment import export as exporting
    from ghostnas.devices import table_build

    folder = Path(out)
    _check_folder(folder)
    dtypes = bundle.parse_dtypes(_joined(dtype))
    formats = bundle.parse_formats(_joined(format)) if format else bundle.offering(dtypes)
    request = exporting.ExportRequest(
        network=network,
        formats=formats,
        dtypes=dtypes,
        width=width,
        resolution=resolution,
        weights_file=Path(weights) if weights else None,
        data=data,
        calibration_pictures=calibration,
        test_images=test_images,
        targets=(target,) if isinstance(target, str) else tuple(target),
        license=license,
    )
    with ExitStack() as stack:

        def time_model(model: bytes, dtype: str) -> ModelTiming:
            bench = stack.enter_context(_bench(device, dtype, threads))
            return table_build.time_model(bench, model)

        return exporting.export_network(request, folder, time_model if measure else None, progress)


def show(
    network: str,
    compare: str | None = None,
    *,
    target: str | None = None,
    threads: int | None = None,
    dtype: str | None = None,
    width: float | None = None,
    resolution: int | None = None,
    confidence: float | None = None,
    svg: Place | None = None,
    onnx: Place | None = None,
) -> dict[str, Any]:
    """A network's costs and, for a target, its latency with an interval; and ``layers``, row by row
    as in table 1 of the GhostNet paper, empty for a network without stages and blocks.

    >>> shown = ghostnas.show("ghostnet", width=0.5)
    >>> shown["macs"], shown["layers"][1]["operator"]
    (42328152, 'G-bneck')

    Args:
        network: as `load_network`, or one of `ghostnas.networks.classics`, or a ``.tflite`` file.
        compare: another network, described under ``compared`` with the same options, but for
            `width`, which is of the first.
        threads, dtype: of the target, if not those of its name: see `list_targets`.
        svg: a file to draw it to, or both.
        onnx: a file to write its structure to, with random weights and nodes named by stage and
            block, for Netron.

    Raises:
        InputError: there is no such network or target, or it cannot be drawn.
        MissingOpError: the target's table has nothing to predict an op from.
    """
    from ghostnas.files import write_whole
    from ghostnas.latency import drawing, layers, summary
    from ghostnas.networks.arch import Arch, lower_by_place

    if confidence is not None and target is None:
        raise InputError("--confidence applies to a latency: add --target")
    target = _variant(target, threads, dtype)

    def described(name: str, found: Arch | Graph) -> dict[str, Any]:
        rows = layers.layers(found, target) if isinstance(found, Arch) else []
        title = f"{name} {width:g}x" if width is not None and found is first else name
        return {
            **summary.describe(found, target, confidence, name=name),
            "name": title,
            "layers": [layers.to_json(row) for row in rows],
        }

    first = _network(network, width, resolution)
    shown = described(network, first)
    if compare is not None:
        shown["compared"] = described(compare, _network(compare, None, resolution))
    if svg is not None:
        write_whole(_file(svg, ".svg"), drawing.svg(shown).encode())
    if onnx is not None:
        from ghostnas.backends import onnx_structure

        graph = lower_by_place(first) if isinstance(first, Arch) else first
        notes = layers.notes(shown["layers"])
        write_whole(_file(onnx, ".onnx"), onnx_structure.write(graph, shown["name"], notes))
    return shown


def predict(
    network: str,
    *,
    target: str,
    threads: int | None = None,
    dtype: str | None = None,
    width: float | None = None,
    resolution: int | None = None,
    confidence: float | None = None,
    compare: str | None = None,
    csv: Place | None = None,
) -> dict[str, Any]:
    """As `show`, with where the time goes: `latency_ms` of each stage and kind of op.

    >>> found = ghostnas.predict("ghostnet", target="arm")
    >>> round(sum(row["latency_ms"] for row in found["where"]) / found["latency_ms"], 3)
    1.0

    Args:
        compare: another network, described under ``compared`` with the same options.
        csv: a file to write ``where`` to as well, one row for each stage and kind of op.

    Raises:
        InputError: there is no such network or target.
    """
    from ghostnas.files import write_whole
    from ghostnas.latency import summary

    chosen = _variant(target, threads, dtype)
    assert chosen is not None

    def described(name: str) -> dict[str, Any]:
        found = _network(name, width if name == network else None, resolution)
        return {
            **summary.describe(found, chosen, confidence, name=name),
            "where": summary.where(found, chosen),
        }

    both = described(network)
    if compare is not None:
        both["compared"] = described(compare)
    if csv is not None:
        write_whole(Path(csv), summary.where_csv(both).encode())
    return both


def predict_latency(
    network: str | Arch | Graph,
    target: str,
    *,
    threads: int | None = None,
    dtype: str | None = None,
    confidence: float | None = None,
) -> Prediction:
    """The latency of a network on a target, in milliseconds, with an interval.

    >>> predicted = ghostnas.predict_latency("ghostnet", "arm")
    >>> predicted.low_ms < predicted.latency_ms < predicted.high_ms
    True

    Args:
        target: a name from `list_targets`, or the path of a table's .csv file.
        threads, dtype: of the target, if not those of its name.
        confidence: of the interval; 0.9 by default.

    Raises:
        InputError: there is no such network or target, or its table cannot give that confidence.
        MissingOpError: the table has nothing to predict an op from.
    """
    from ghostnas.latency import table
    from ghostnas.latency.predictor import CONFIDENCE, Predictor
    from ghostnas.latency.targets import variant

    found = _network(network) if isinstance(network, str) else network
    known = table.load(variant(target, threads=threads, dtype=dtype))
    return Predictor(known, confidence or CONFIDENCE).predict(found)


def build_table(
    *,
    out: Place,
    device: str | DeviceOptions = "local",
    space: str = "ghostnet",
    dtype: str = "fp32",
    threads: int = 1,
    ops: int = 4000,
    networks: int | None = None,
    progress: Say = silent,
) -> dict[str, Any]:
    """Measure a space's ops and some of its networks on a device, and write a latency table.

    >>> built = ghostnas.build_table(out="here.csv", space="small.toml", ops=120, networks=10,
    ...     device=ghostnas.DeviceOptions(rounds=2))
    >>> built["ops"] > 50
    True

    Args:
        out: the table's .csv file; an existing table of the same setting is extended.
        networks: how many are measured whole; by default 100, or 0 on an emulated device.

    Raises:
        InputError: an argument is invalid.
        DeviceError: the device failed; measurements made before that are kept.
    """
    from ghostnas.devices import table_build
    from ghostnas.devices.emulated import SCHEME
    from ghostnas.files import locked_file
    from ghostnas.networks import space as spaces

    file = _table_file(out)
    if networks is None:  # an emulator tells no more about a network than about its ops
        networks = 0 if _options(device).device.startswith(SCHEME) else NETWORKS
    with locked_file(file), _bench(device, dtype, threads) as bench:
        searched = spaces.load(space)
        built = table_build.build(bench, searched, file, ops=ops, networks=networks, say=progress)
    return {
        "table": str(file),
        "ops": len(built.table.rows),
        "measured": built.measured,
        "refused": {str(op): reason for op, reason in built.refused.items()},
        "networks": built.networks,
        "seconds": round(built.seconds, 1),
        "writing_s": round(built.writing_s, 1),
        "thrown_away": built.thrown_away,
    }


def check_table(
    target: Place,
    *,
    device: str | DeviceOptions = "local",
    space: str = "ghostnet",
    networks: int = 50,
    seed: int = 2,
    progress: Say = silent,
) -> dict[str, Any]:
    """Check one of your tables against networks it has not seen, measured on its device.

    >>> checked = ghostnas.check_table("here.csv", space="small.toml", networks=10,
    ...     device=ghostnas.DeviceOptions(rounds=2))
    >>> 0 <= checked["coverage"] <= 1
    True

    Raises:
        InputError: the device's setting differs from the table's; the message names the difference.
        DeviceError: the device failed; measurements made before that are kept.
    """
    from ghostnas.devices import table_check
    from ghostnas.files import locked_file
    from ghostnas.latency import table
    from ghostnas.networks import space as spaces

    file = _table_file(target)
    origin = table.load(str(file)).origin
    with locked_file(file), _bench(device, origin.dtype, origin.threads) as bench:
        searched = spaces.load(space)
        checked = table_check.check(
            bench, file, searched, networks=networks, seed=seed, say=progress
        )
    return {"table": str(file), **checked}


def calibrate_table(
    target: str | None = None,
    *,
    out: Place,
    timings: Place | None = None,
    threads: int | None = None,
    dtype: str | None = None,
    device: str | DeviceOptions = "local",
    space: str = "ghostnet",
    networks: int = 20,
    progress: Say = silent,
) -> dict[str, Any]:
    """Transfer a table to another device of its kind by measuring a few networks there, or by
    `timings` of whole networks that somebody has measured.

    >>> carried = ghostnas.calibrate_table("here.csv", space="small.toml", networks=10,
    ...     device=ghostnas.DeviceOptions(rounds=2), out="there.csv")
    >>> carried["networks"]
    10

    Args:
        target: whose table is transferred; with `timings`, the shipped target to start from, by
            default the one that they say is nearest.
        timings: a CSV with columns network (a name, a ``.json`` or a ``.tflite`` file), ms and
            resolution (may be left out); ``--from`` on the command line.
        threads, dtype: of the target; with `timings`, what they were taken with.

    Raises:
        InputError: the architecture, dtype or number of threads differs, or a network is unknown.
        DeviceError: the device failed; measurements made before that are kept.
    """
    from ghostnas.devices import table_check
    from ghostnas.files import locked_file
    from ghostnas.latency import table
    from ghostnas.networks import space as spaces

    if timings is not None:
        return _calibrate_from(Path(timings), _table_file(out), target, threads, dtype)
    if target is None:
        raise InputError("give --target, the table to transfer, or --from, timings of networks")
    chosen = _variant(str(target), threads, dtype)
    known, file = table.load(str(chosen)), _table_file(out)
    origin = known.origin
    with locked_file(file), _bench(device, origin.dtype, origin.threads) as bench:
        searched = spaces.load(space)
        carried = table_check.calibrate(
            bench, known, searched, file, networks=networks, say=progress
        )
    return {"table": str(file), "ops": len(carried.rows), "networks": networks}


def _calibrate_from(
    path: Path, file: Path, target: str | None, threads: int | None, dtype: str | None
) -> dict[str, Any]:
    import datetime

    import numpy as np

    from ghostnas.files import locked_file
    from ghostnas.latency import cost_model, table, targets
    from ghostnas.latency import timings as timed
    from ghostnas.latency.op_signature import signatures
    from ghostnas.networks.arch import Arch, lower

    if file.exists():
        raise InputError(f"{file} already exists; choose another --out")
    known = targets.targets()
    if target is None:
        dtype = dtype or "fp32"
        candidates = [t for t in known.values() if t.source == "fitted" and t.dtype == dtype]
        if threads is not None:
            candidates = [t for t in candidates if t.threads == threads]
    else:
        chosen = table.load(str(_variant(target, threads, dtype)))
        if chosen.name not in known:
            raise InputError(
                f"--from starts from a target that ships, and {target} is a table of your own: "
                "leave out --target"
            )
        candidates = [known[chosen.name]]
        dtype = chosen.origin.dtype
    rows = timed.read(path)
    works = []
    for row in rows:
        name = str(path.parent / row.network) if "." in row.network else row.network
        found = _network(name, None, row.resolution)
        graph = lower(found) if isinstance(found, Arch) else found
        works.append(cost_model.total(signatures(graph), dtype))
    adapted = timed.adapt(np.array(works), np.array([row.ms for row in rows]), dtype, candidates)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    made = timed.to_table(adapted, file.stem, today)
    with locked_file(file):
        table.save(made, file)
    return {
        "table": str(file),
        "networks": len(rows),
        "nearest": adapted.nearest.name,
        "dtype": dtype,
        "mape": adapted.mape,
        "expected": timed.expected(len(rows), dtype),
        "errors": {
            row.network: math.expm1(-error) for row, error in zip(rows, adapted.errors, strict=True)
        },
        "calibrated": made.correction is not None,
    }


def import_table(
    file: Place,
    *,
    origin: Place,
    out: Place,
    format: str = "csv",
    network: str | None = None,
    width: float | None = None,
    resolution: int | None = None,
) -> dict[str, Any]:
    """Make a table from latencies measured elsewhere.

    >>> imported = ghostnas.import_table("rows.csv", origin="origin.toml", out="phone.csv")
    >>> imported["imported"]
    1

    Args:
        format: ``csv``, or ``benchmark-model`` for an op profile from TFLite's benchmark_model.
        network: the network that was profiled.

    Raises:
        InputError: a file is missing or damaged; the message names the line.
    """
    from ghostnas.devices import table_import
    from ghostnas.files import locked_file, read_text
    from ghostnas.latency import table as tables
    from ghostnas.networks import zoo
    from ghostnas.networks.arch import lower

    text, path = read_text(Path(file)), _table_file(out)
    about = table_import.origin_from_toml(read_text(Path(origin)), str(origin))
    if format == "csv":
        rows = table_import.from_csv(text, str(file))
    elif network is None:
        raise InputError("a profile needs --arch ARCH, the network that was profiled")
    else:
        arch = zoo.find(network, width, resolution)
        rows = table_import.from_profile(text, lower(arch), str(file))
    table = tables.Table(name=path.stem, origin=about, rows=rows)
    with locked_file(path):
        if path.exists():
            table = tables.join([table, tables.load(str(path))])
        tables.save(table, path)
    return {"table": str(path), "ops": len(table.rows), "imported": len(rows)}


def list_targets() -> list[dict[str, Any]]:
    """The shipped targets, where each one's latencies come from and what their error is.

    >>> "arm" in [target["target"] for target in ghostnas.list_targets()]
    True

    `source` is ``fitted`` to networks that were measured on the device, ``computed`` from those of
    another with such cores, or ``measured`` op by op. `mape` (a share) is the error on families of
    networks that the fit had not seen; of a computed target, what computing was off by elsewhere.
    """
    from ghostnas.latency import table as tables
    from ghostnas.latency import targets

    rows = []
    for name, table_name in tables.targets().items():
        origin = tables.load(name).origin
        target = targets.targets().get(table_name)
        rows.append(
            {
                "target": name,
                "table": table_name,
                "device": origin.device,
                "core": origin.core,
                "clock_mhz": origin.clock_mhz,
                "threads": origin.threads,
                "dtype": origin.dtype,
                "source": "measured" if target is None else target.source,
                "networks": target.networks if target else None,
                "mape": origin.op_error,
                "within_10": target.within_10 if target else None,
                "spearman": target.spearman if target else None,
                "method": origin.method,
                "date": origin.date,
            }
        )
    return rows


def load_network(name: str, *, width: float | None = None, resolution: int | None = None) -> Arch:
    """A network by name, from a ``.json`` file or from a run folder.

    >>> ghostnas.load_network("ghostnet", resolution=160).resolution
    160

    Raises:
        InputError: there is no such network.
    """
    from ghostnas.networks import zoo

    return zoo.find(name, width, resolution)


def load_space(name: str) -> Space:
    """A shipped search space by name, or one from a ``.toml`` file.

    >>> ghostnas.load_space("ghostnet").decode({}) == ghostnas.load_network("ghostnet")
    False

    The space shares its numbers across groups of blocks, so its first network is close to the
    published one, not equal to it.

    Raises:
        InputError: there is no such space, or the file is damaged.
    """
    from ghostnas.networks import space

    return space.load(name)


def load_blocks(path: Place) -> None:
    """Make the block types of a Python file known to search spaces and architectures.

    >>> ghostnas.load_blocks("my_block.py")

    Raises:
        InputError: the file cannot be loaded, or its block types are not complete.
    """
    from ghostnas.networks import blocks

    blocks.load_file(Path(path))


def load_data(spec: str, *, strict: bool = False) -> Dataset:
    """A dataset by its kind and folder, such as ``cifar10:DIR``.

    >>> ghostnas.load_data("folder:images").classes
    ('bright', 'dark')

    Raises:
        InputError: the kind is unknown, or the files are missing or damaged.
    """
    from ghostnas.data import datasets

    return datasets.load(spec, strict)


def ghostify(
    network: Graph | nn.Module,
    example: Tensor | None = None,
    *,
    s: int = 2,
    d: int = 3,
    choose: Callable[..., bool] | None = None,
) -> Any:
    """A network with its convolutions as Ghost modules (GhostNet, section 3.1).

    >>> import torch
    >>> made = ghostnas.ghostify(torch.nn.Conv2d(16, 32, 3, padding=1), torch.zeros(1, 16, 8, 8))
    >>> made.before.macs, made.after.macs
    (294912, 156672)

    Args:
        network: a graph, or any PyTorch module, which is left unchanged.
        example: for a module, one batch of its input.
        s, d: maps per convolved map, and the kernel of the cheap operation.
        choose: which layers are replaced: of a graph, asked of each node; of a module, of each path
            and `nn.Conv2d`. By default every ungrouped convolution of maps larger than 1x1.

    Returns:
        A graph for a graph; for a module a `ghostnas.backends.torch_ghostify.Ghostified`: the new
        module, the paths of its Ghost modules, and parameters and multiply-accumulates before and
        after.

    Raises:
        InputError: s or d is out of range, or the module does not run on `example`.
    """
    from ghostnas.ir.graph import Graph

    if isinstance(network, Graph):
        from ghostnas.networks import ghostify as graphs

        return graphs.ghostify(network, s, d, choose or graphs.convolutions)
    from ghostnas.backends import torch_ghostify

    if example is None:
        raise InputError("ghostify needs an example input of the module, such as one image")
    return torch_ghostify.ghostify(network, example, s, d, choose)


def paper_seeds(
    *,
    out: Place,
    data: str | None = None,
    network: str = "resnet9",
    width: float = 1.0,
    recipe: str = "cifar-seeds",
    seeds: int = 30,
    epochs: int | None = None,
    batch_size: int | None = None,
    images: int | None = None,
    body: Place | None = None,
    workers: int = 1,
    device: str = "auto",
    threads: int | None = None,
    timeout: float | None = None,
    progress: Say = silent,
) -> dict[str, Any]:
    """Train a network from many seeds and say how much the seed alone moves its accuracy.

    What `out` already holds is not trained again, so that the same call goes on.

    >>> ghostnas.paper_seeds(data="folder:images", recipe="short.toml", seeds=3, width=0.03,
    ...     out="seeds")["final"]["count"]
    3

    Args:
        images: how many of the training images are used; all by default.
        body: weights to start from, but for the classifier's.
        timeout: seconds, after which nothing more is trained.

    Raises:
        InputError: an argument is invalid, or `out` holds trainings of another recipe.
        TrainingError: several trainings failed.
    """
    from ghostnas.paper import run

    _check_folder(Path(out))
    _check_counts(threads=threads)
    settings = run.Training(
        data=_needed(data),
        recipe=_changed_recipe(recipe, epochs, batch_size, images),
        folder=Path(out),
        seeds=seeds,
        width=width,
        workers=workers,
        device=device,
        threads=threads,
        timeout_s=timeout,
    )
    return run.seeds(settings, network, str(body) if body else None, progress)


def paper_table(
    table: str,
    *,
    out: Place | None = None,
    train: bool = False,
    data: str | None = None,
    width: float | None = None,
    recipe: str | None = None,
    seeds: int = 3,
    epochs: int | None = None,
    batch_size: int | None = None,
    images: int | None = None,
    image: Place | None = None,
    network: str | None = None,
    weights: Place | None = None,
    annotations: Place | None = None,
    pictures: Place | None = None,
    steps: int = 60,
    workers: int = 1,
    device: str = "auto",
    threads: int | None = None,
    timeout: float | None = None,
    progress: Say = silent,
) -> dict[str, Any]:
    """A table of the GhostNet paper: what it prints, what this project counts, the difference.

    >>> ghostnas.paper_table("table3")["rows"][2]["params"]["ours"]
    7651498

    Args:
        table: ``table1`` to ``table8``.
        out: the folder of the trainings, and where the page is written.
        train: whether tables 3 to 5 are also trained, on `data`, and table 8 for a few steps; what
            `out` holds of tables 3 to 5 is not trained again.
        width: of all trained networks, and of table 8's backbone (1.1).
        image, network, weights: for table 2; for table 8 `weights` are the backbone's.
        annotations, pictures, steps: for table 8: boxes in COCO's format and the folder of their
            images, and how many steps both detectors are trained with `train`; a made set by
            default.

    Raises:
        InputError: an argument is invalid.
        TrainingError: several trainings failed.
    """
    from ghostnas.paper import run

    if out is not None:
        _check_folder(Path(out))
    _check_counts(threads=threads)
    settings = None
    if train:
        if out is None:
            raise InputError("--train needs --out DIR, where its trainings are kept")
        if table == "table8":
            how = run.Detection(
                folder=Path(out),
                annotations=Path(annotations) if annotations else None,
                pictures=Path(pictures) if pictures else None,
                weights=Path(weights) if weights else None,
                width=width or 1.1,
                steps=steps,
                device=device,
            )
            return run.detect(how, progress)
        name = recipe or ("cifar-resnet" if table == "table5" else "cifar-vgg")
        settings = run.Training(
            data=_needed(data),
            recipe=_changed_recipe(name, epochs, batch_size, images),
            folder=Path(out),
            seeds=seeds,
            width=width or 1.0,
            workers=workers,
            device=device,
            threads=threads,
            timeout_s=timeout,
        )
    pictured = _pictured(image, network, width or 1.0, weights)
    return run.table(table, settings, pictured, Path(out) if out else None, progress)


def paper_figures(
    *,
    out: Place,
    target: str = "arm",
    image: Place | None = None,
    network: str | None = None,
    width: float = 1.0,
    weights: Place | None = None,
    runs: Sequence[Place] = (),
) -> dict[str, Any]:
    """Figures 4 to 7 of the GhostNet paper as SVG, PNG and a page: feature maps of a network's
    second layer, and accuracy against FLOPs and against predicted latency.

    >>> drawn = ghostnas.paper_figures(out="figures")
    >>> drawn["files"][-1]
    'figures/figures.html'

    Args:
        target: whose table predicts every network.
        image, network, weights: whose maps are drawn; by default Ghost-VGG-16 and VGG-16 with
            random weights and a made picture, called untrained.
        runs: folders of trainings, whose accuracies are marked as our own.

    Raises:
        InputError: an argument is invalid, or a file cannot be read.
    """
    from ghostnas.paper import run

    _check_folder(Path(out))
    pictured = _pictured(image, network, width, weights)
    return run.draw(Path(out), target, pictured, tuple(Path(each) for each in runs))


def paper_page(
    *,
    out: Place,
    target: str = "arm",
    image: Place | None = None,
    network: str | None = None,
    width: float = 1.0,
    weights: Place | None = None,
    runs: Sequence[Place] = (),
    progress: Say = silent,
) -> dict[str, Any]:
    """All tables and figures of the GhostNet paper on one page, with what was trained into `out`.

    >>> ghostnas.paper_page(out="paper")["page"]
    'paper/paper.html'

    Arguments and errors are those of `paper_figures`.
    """
    from ghostnas.paper import run

    _check_folder(Path(out))
    pictured = _pictured(image, network, width, weights)
    return run.page(Path(out), target, pictured, tuple(Path(each) for each in runs), progress)


def _pictured(
    image: Place | None, network: str | None, width: float, weights: Place | None
) -> Pictured:
    from ghostnas.paper.run import Pictured

    if weights is not None and network is None:
        raise InputError("--weights needs --network NAME, whose weights they are")
    return Pictured(
        image=Path(image) if image else None,
        network=network,
        width=width,
        weights=Path(weights) if weights else None,
    )


def _needed(data: str | None) -> str:
    from ghostnas.data import datasets

    if data is None:
        raise InputError("a training needs --data, such as cifar10:DIR")
    datasets.locate(data)
    return data


def _changed_recipe(
    name: str, epochs: int | None, batch_size: int | None, images: int | None
) -> Recipe:
    from dataclasses import replace

    from ghostnas.training import recipe as recipes

    found = recipes.change(recipes.load(name), epochs=epochs, batch_size=batch_size)
    return found if images is None else replace(found, train_pictures=images)


def _options(device: str | DeviceOptions) -> DeviceOptions:
    return DeviceOptions(device=device) if isinstance(device, str) else device


@contextmanager
def _bench(device: str | DeviceOptions, dtype: str, threads: int) -> Iterator[Bench]:
    from ghostnas.devices.bench import DeviceBench, Setting
    from ghostnas.devices.device import open_device
    from ghostnas.devices.emulated import SCHEME, EmulatedBench

    given = _options(device)
    setting = Setting(
        dtype=dtype,
        threads=threads,
        cores=given.cores,
        rounds=given.rounds,
        python=given.python or (sys.executable if given.device == "local" else "python3"),
        benchmark_model=given.benchmark_model,
    )
    if given.device.startswith(SCHEME):
        core = given.device.removeprefix(SCHEME)
        yield EmulatedBench(core, setting, Path(given.emulator))
        return
    with open_device(given.device) as opened:
        yield DeviceBench(opened, setting)


def _variant(target: str | None, threads: int | None, dtype: str | None) -> str | None:
    """The target with that many threads and that dtype, as the name that stands for both."""
    from ghostnas.latency.targets import variant

    if target is None:
        for name, value in (("--threads", threads), ("--dtype", dtype)):
            if value is not None:
                raise InputError(f"{name} applies to a latency: add --target")
        return None
    return variant(target, threads=threads, dtype=dtype)


def _network(name: str, width: float | None = None, resolution: int | None = None) -> Arch | Graph:
    """As `load_network`, or a published network that is no architecture, or a ``.tflite`` file."""
    from ghostnas.networks import zoo

    if name in zoo.GRAPHS:
        return zoo.graph(name, width or 1.0, resolution)
    if Path(name).suffix != ".tflite":
        return zoo.find(name, width, resolution)
    from ghostnas.backends import tflite_graph

    if width is not None:
        raise InputError(f"--width is for the named networks: {', '.join(sorted(zoo.ZOO))}")
    graph = tflite_graph.read(Path(name))
    if resolution not in (None, *graph.input_shape[1:]):
        sizes = " x ".join(map(str, graph.input_shape[1:]))
        raise InputError(f"{name} has {sizes} pixels, not {resolution}: leave out --resolution")
    return graph


def _check_names(given: dict[str, Any]) -> None:
    """Reject invalid search arguments before torch and Optuna take seconds to load."""
    from ghostnas.data import datasets
    from ghostnas.latency import table
    from ghostnas.nas import budget
    from ghostnas.networks import space
    from ghostnas.training import recipe

    budgets = [budget.parse(text) for text in given.get("budgets", ())]
    targets = [given.get("target"), *(each.target for each in budgets)]
    for target in dict.fromkeys(each for each in targets if each is not None):
        table.load(target)
    for key, look_at in (("space", space.load), ("recipe", recipe.load), ("data", datasets.locate)):
        if key in given:
            look_at(given[key])


def _check_folder(out: Path) -> None:
    """Reject an --out that is a file or lies below one."""
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file, not a folder; name another --out")


def _check_counts(**counts: int | None) -> None:
    """Reject more threads or processes than this machine has CPUs for."""
    from ghostnas.processes import check_count

    for name, count in counts.items():
        if count is not None:
            check_count(f"--{name}", count)


def _workers(given: int | None) -> int:
    from ghostnas.processes import usable_cpus

    return min(WORKERS, usable_cpus()) if given is None else given


def _initial(given: Place) -> str:
    """What a training starts from, found from any folder."""
    from ghostnas.training import supernet

    name = str(given)
    return supernet.absolute(name) if supernet.folder_of(name) else str(Path(name).resolve())


def _table_file(path: Place) -> Path:
    if Path(path).suffix != ".csv":
        raise InputError(f"{path}: a table's file name must end in .csv")
    return Path(path)


def _file(path: Place, suffix: str) -> Path:
    if Path(path).suffix != suffix:
        raise InputError(f"{path}: the file's name must end in {suffix}")
    return Path(path)


def _joined(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else ",".join(names)
