"""Exports a trained network as requested: calibrated on images, with predicted and measured
latencies.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ghostnas.arrays import Array
from ghostnas.backends import pretrained
from ghostnas.backends.model_file import class_mismatch, other_names
from ghostnas.data import datasets
from ghostnas.data.images import Dataset
from ghostnas.deployment import samples
from ghostnas.deployment.bundle import MANIFEST, add_measurements, export, from_manifest
from ghostnas.deployment.model_card import HOLDS_FOR, Latency, Origin, Search, Training
from ghostnas.deployment.samples import Evaluation, of_dataset
from ghostnas.deployment.verify import Exported
from ghostnas.errors import InputError, short
from ghostnas.files import read_text
from ghostnas.ir.preprocessing import IMAGENET, Preprocessing
from ghostnas.latency import table as latency_table
from ghostnas.latency.predictor import Predictor
from ghostnas.latency.table import ModelTiming, Table
from ghostnas.networks.arch import Arch
from ghostnas.progress import Say

MOST_TEST_IMAGES = 10_000  # used for accuracies by default
COMPARED = ("core", "threads")  # must be the same for a table's latency to be compared
TimeModel = Callable[[bytes, str], ModelTiming]  # times a .tflite model of a dtype on a device


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What to export, and how.

    Attributes:
        network: its name or path, as the user gave it.
        weights_file: where its weights are, if not in its folder.
        data: its training images calibrate int8, and the files are run on its test images; if
            empty, the data of the training whose folder `network` is.
        test_images: at most this many; None for all, up to MOST_TEST_IMAGES.
        targets: latency tables, one or more for each dtype.
        license: of the weights, for the card; empty for that of an earlier export, if any.
    """

    network: str
    formats: Sequence[str]
    dtypes: Sequence[str]
    width: float | None = None
    resolution: int | None = None
    weights_file: Path | None = None
    data: str = ""
    calibration_pictures: int = samples.IMAGES
    test_images: int | None = None
    targets: Sequence[str] = ()
    license: str = ""


def export_network(
    request: ExportRequest, folder: Path, time_model: TimeModel | None, say: Say
) -> dict[str, Any]:
    """Export into `folder`; returns the files and their latencies.

    Args:
        time_model: times each .tflite on a device.

    Raises:
        InputError: the request names something that cannot be found or does not match.
        ExportError: a file could not be verified; none is kept.
        DeviceError: the device failed; the files are kept.
    """
    tables = [latency_table.load(target) for target in request.targets]
    _check_tables(request, tables)
    if time_model is not None and "tflite" not in request.formats:
        raise InputError("--measure times .tflite files: add tflite to --format")
    arch, values, expected = pretrained.find_with_weights(
        request.network, request.width, request.resolution, request.weights_file
    )
    if expected is None:
        say("the weights do not say what input they expect: ImageNet's mean and std are assumed")
        expected = IMAGENET
    predicted = [(table, Predictor(table).predict(arch)) for table in tables]
    latencies = tuple(
        Latency(
            target=table.name,
            latency_ms=each.latency_ms,
            low_ms=each.low_ms,
            high_ms=each.high_ms,
            dtype=table.origin.dtype,
        )
        for table, each in predicted
    )
    origin = _origin(request)
    dataset = datasets.load(request.data) if request.data else None
    exported = export(
        arch,
        values,
        request.formats,
        folder,
        dtypes=request.dtypes,
        preprocessing=expected,
        calibration=_calibration(request, dataset, arch, expected) if dataset else None,
        evaluation=_evaluation(request, dataset, arch, expected, say),
        origin=replace(origin, latencies=latencies) if latencies else origin,
        say=say,
    )
    measured: list[dict[str, Any]] = []
    if time_model is not None:
        for each in exported:
            if each.format == "tflite":
                own = [
                    (table, found.latency_ms)
                    for table, found in predicted
                    if each.dtype in HOLDS_FOR[table.origin.dtype]
                ]
                measured.append(_measured(each, time_model, own))
        add_measurements(folder, measured)
    files = [each.to_json() for each in exported]
    return {"id": arch.id, "files": files, "latency": measured}


def _check_tables(request: ExportRequest, tables: Sequence[Table]) -> None:
    for target, table in zip(request.targets, tables, strict=True):
        holds_for = HOLDS_FOR[table.origin.dtype]
        if set(holds_for).isdisjoint(request.dtypes):
            raise InputError(
                f"target {target!r} is for files in {' or '.join(holds_for)}; none is exported: "
                f"add --dtype {table.origin.dtype}, or name a target for another dtype"
            )


def _evaluation(
    request: ExportRequest, dataset: Dataset | None, arch: Arch, expected: Preprocessing, say: Say
) -> Evaluation | None:
    """The test images of the data given, or of the data that a training's folder names."""
    if request.test_images == 0:
        return None
    spec = request.data
    if dataset is None and request.weights_file is None:
        spec = _settings_of_training(Path(request.network)).get("data", "")
        try:
            dataset = datasets.load(spec) if spec else None
        except InputError as error:
            say(f"no accuracy is claimed: {error}")
            return None
    if dataset is None:
        say("no accuracy is claimed: give labelled images with --data to run the files on them")
        return None
    wrong = class_mismatch(arch.classes, expected.classes, dataset.classes)
    differ = other_names(expected.classes, dataset.classes)
    if wrong or (differ and set(expected.classes).isdisjoint(dataset.classes)):
        say(f"no accuracy is claimed on {spec}: the network {wrong or differ}")
        return None
    if differ:
        say(f"{spec}: the network {differ}")
    limit = request.test_images
    if limit is None and len(dataset.test) > MOST_TEST_IMAGES:
        limit = MOST_TEST_IMAGES
    return of_dataset(dataset, spec, limit)


def _settings_of_training(folder: Path) -> dict[str, Any]:
    """What a training's folder says that it was asked for; empty if it is not one."""
    settings_file = folder / "train.toml"
    if not settings_file.exists():
        return {}
    try:
        found = tomllib.loads(read_text(settings_file))
        return {**found, "data": str(found["data"])}
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise InputError(f"{settings_file}: is damaged: {short(error)}") from error


def _calibration(
    request: ExportRequest, dataset: Dataset, arch: Arch, expected: Preprocessing
) -> Array | None:
    """Training images as the network takes them, (n, 3, height, width), if int8 is requested."""
    if "int8" not in request.dtypes:
        return None
    return samples.draw(dataset.train, request.calibration_pictures, arch.resolution, expected)


def _measured(
    exported: Exported, time_model: TimeModel, predicted: Sequence[tuple[Table, float]]
) -> dict[str, Any]:
    """A .tflite file's measured time on the device, beside the predictions of applicable tables.

    The two are compared if the table is for a core of the same name and as many threads.
    """
    # Float16 weights are converted to float32 when the file is loaded.
    dtype = "fp32" if exported.dtype == "fp16" else exported.dtype
    timing, here, memory_bytes = time_model(exported.path.read_bytes(), dtype)
    found: dict[str, Any] = {"file": str(exported.path), "dtype": exported.dtype}
    if isinstance(timing, str):
        return {**found, "refused": timing}
    found |= {
        **timing._asdict(),
        "core": here.core,
        "threads": here.threads,
        "device": here.device,
        "soc": here.soc,
        "clock_mhz": here.clock_mhz,
        "runtime": f"{here.runtime}, {here.delegate}",
        "memory_bytes": memory_bytes,
        "date": here.date,
    }
    alike = [
        all(getattr(table.origin, key) == getattr(here, key) for key in COMPARED)
        for table, _ in predicted
    ]
    if predicted:
        table, predicted_ms = predicted[alike.index(True) if any(alike) else 0]
        found |= {"target": table.name, "predicted_ms": predicted_ms}
        if any(alike):
            found["predicted_to_measured"] = predicted_ms / timing.median_ms
        else:
            found["not_compared"] = (
                f"table {table.name} is for another kind of device: {table.origin.core}, "
                f"{table.origin.threads} thread{'s' * (table.origin.threads != 1)}"
            )
    return found


def _origin(request: ExportRequest) -> Origin:
    """What a search or a training recorded about its network and weights."""
    found = _recorded(request)
    return replace(found, license=request.license or found.license)


def _recorded(request: ExportRequest) -> Origin:
    network = Path(request.network).stem + (f" {request.width:g}x" if request.width else "")
    if request.weights_file is not None:
        return Origin(network=network, weights=f"read from {request.weights_file.name}")
    folder = Path(request.network)
    if (folder / "export" / MANIFEST).exists():
        return from_manifest(folder / "export" / MANIFEST)
    if not (folder / "result.json").exists():
        return Origin(network=network)
    found = json.loads(read_text(folder / "result.json"))
    asked = _settings_of_training(folder)
    kind = found["data"].partition(":")[0]
    return Origin(
        network=network,
        weights=f"trained on {kind}, recipe {found['recipe']}, {found['epochs']} epochs at "
        f"{found['resolution']} px, seed {found['seed']}, on {found['hardware']}",
        training=Training(
            data=found["data"],
            recipe=found["recipe"],
            epochs=found["epochs"],
            resolution=found["resolution"],
            seed=found["seed"],
            images=found.get("train_pictures", 0),
            hardware=found["hardware"],
            initial=asked.get("init", ""),
            teacher=asked.get("teacher", ""),
        ),
        search=_search_of(asked.get("network", "")),
    )


def _search_of(network: str) -> Search | None:
    """The search that found a training's network, if its folder is still there and says so."""
    manifest = Path(network) / "export" / MANIFEST
    return from_manifest(manifest).search if network and manifest.exists() else None
