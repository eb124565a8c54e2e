"""Exports a trained network as its user asked: calibrated on pictures, predicted and measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ghostnas import data, latency, show
from ghostnas.arch import Arch
from ghostnas.bench import Bench
from ghostnas.errors import InputError
from ghostnas.export import MANIFEST, export, from_manifest
from ghostnas.files import read_text, write_whole
from ghostnas.graph import Array
from ghostnas.loader import normaliser, test_batches
from ghostnas.model_card import Latency, Origin
from ghostnas.pictures import subset
from ghostnas.predict import Predictor
from ghostnas.preprocessing import IMAGENET, Preprocessing
from ghostnas.proof import Exported
from ghostnas.seeds import summary

CALIBRATION_PICTURES = 256
SEED = 0  # of the pictures that int8 is calibrated on
ROUND_RUNS = 4  # of a network in one turn; the first finds its weights cold and does not count
LATENCIES = "latency.json"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked for.

    Attributes:
        network: its name or place, as the user gave it.
        weights_file: where its weights are, if not in its folder.
        data: whose training pictures int8 is calibrated on; empty for none.
        targets: latency tables, one or more for each dtype.
    """

    network: str
    formats: Sequence[str]
    dtypes: Sequence[str]
    width: float | None = None
    resolution: int | None = None
    weights_file: Path | None = None
    data: str = ""
    calibration_pictures: int = CALIBRATION_PICTURES
    targets: Sequence[str] = ()


def hand_over(
    order: Order, folder: Path, bench_of: Callable[[str], Bench] | None, say: Say
) -> dict[str, Any]:
    """Export into `folder`; what is returned lists the files and their latencies.

    Args:
        bench_of: a bench for models of a dtype, on which each .tflite is timed.

    Raises:
        InputError: something that is named cannot be found or does not fit.
        ExportError: a file could not be proven; none is kept.
        DeviceError: the bench failed; the files are kept.
    """
    tables = [latency.load(target) for target in order.targets]
    arch, values, expected = show.find_with_weights(
        order.network, order.width, order.resolution, order.weights_file
    )
    if expected is None:
        say("the weights do not say what pictures they expect: ImageNet's mean and std are assumed")
        expected = IMAGENET
    predicted = [(table, Predictor(table).predict(arch)) for table in tables]
    latencies = tuple(
        Latency(
            target=f"{table.name}, {table.origin.dtype}",
            latency_ms=each.latency_ms,
            low_ms=each.low_ms,
            high_ms=each.high_ms,
        )
        for table, each in predicted
    )
    origin = _origin(order)
    exported = export(
        arch,
        values,
        order.formats,
        folder,
        dtypes=order.dtypes,
        preprocessing=expected,
        calibration=_calibration(order, arch, expected) if order.data else None,
        origin=replace(origin, latencies=latencies) if latencies else origin,
    )
    measured = []
    if bench_of is not None:
        for each in exported:
            if each.format == "tflite":
                own = [found for table, found in predicted if table.origin.dtype == each.dtype]
                measured.append(_measured(each, bench_of, [found.latency_ms for found in own]))
        write_whole(folder / LATENCIES, json.dumps(measured, indent=1).encode())
    files = [each.to_json() for each in exported]
    return {"id": arch.id, "files": files, "latency": measured}


def _calibration(order: Order, arch: Arch, expected: Preprocessing) -> Array:
    """Training pictures as the network takes them, (n, 3, height, width)."""
    dataset = data.load(order.data)
    drawn, _ = subset(dataset.train, order.calibration_pictures, SEED)
    batches = test_batches(drawn, batch_size=len(drawn), size=arch.resolution)
    images, _ = next(batches, (None, None))
    if images is None:
        raise InputError(f"data {order.data!r}: none of the pictures for int8 can be read")
    inputs: Array = normaliser(expected, images.device)(images).contiguous().numpy()
    return inputs


def _measured(
    exported: Exported, bench_of: Callable[[str], Bench], predicted_ms: Sequence[float]
) -> dict[str, Any]:
    """A .tflite file's own time on the bench, beside what the tables of its dtype say."""
    # Float16 weights are taken to float32 when the file is loaded.
    bench = bench_of("fp32" if exported.dtype == "fp16" else exported.dtype)
    timing = bench.time([exported.path.read_bytes()], ROUND_RUNS).timings[0]
    found: dict[str, Any] = {"file": str(exported.path), "dtype": exported.dtype}
    if isinstance(timing, str):
        return {**found, "refused": timing}
    found |= {**timing._asdict(), "core": bench.cores[0].name, "threads": bench.setting.threads}
    if predicted_ms:
        ratio = predicted_ms[0] / timing.median_ms
        found |= {"predicted_ms": predicted_ms[0], "predicted_to_measured": ratio}
    return found


def _origin(order: Order) -> Origin:
    """What a search or a training told of its network and weights."""
    network = Path(order.network).stem + (f" {order.width:g}x" if order.width else "")
    if order.weights_file is not None:
        return Origin(network=network, weights=f"read from {order.weights_file.name}")
    folder = Path(order.network)
    if (folder / "export" / MANIFEST).exists():
        return from_manifest(folder / "export" / MANIFEST)
    if not (folder / "result.json").exists():
        return Origin(network=network)
    found = json.loads(read_text(folder / "result.json"))
    kind, accuracy = found["data"].partition(":")[0], found["test_accuracy"]
    return Origin(
        network=network,
        weights=f"trained on {kind}, recipe {found['recipe']}, {found['epochs']} epochs at "
        f"{found['resolution']} px, seed {found['seed']}, on {found['hardware']}",
        accuracy=summary([accuracy]),
        pictures=f"{found['test_pictures']} test pictures of {kind}",
    )
