"""Exports a network as self-contained files, and verifies each before any is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ghostnas import records
from ghostnas._version import __version__
from ghostnas.arrays import Array
from ghostnas.backends import (
    onnx_writer,
    quantization,
    tflite_writer,
    torch_export,
)
from ghostnas.backends.model_file import ARCH_ID, DTYPE, ORIGIN, PREPROCESSING, SEAL, class_mismatch
from ghostnas.deployment import model_card
from ghostnas.deployment.model_card import Latency, Origin, Search, Training
from ghostnas.deployment.samples import MOST_TIMES, Evaluation, without_explosions
from ghostnas.deployment.verify import (
    PROOF_IMAGES,
    TOLERANCES,
    Accuracy,
    Exported,
    Written,
    as_export_error,
    hold_out,
    proof_images,
    prove,
)
from ghostnas.errors import ExportError, InputError, short
from ghostnas.files import SEAL_MARK, all_or_none, read_bytes, read_text, seal, write_whole
from ghostnas.ir import cost, weights
from ghostnas.ir.fusion import fold
from ghostnas.ir.graph import Graph, Weights
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.networks.arch import Arch, load, lower, to_json
from ghostnas.progress import Say, silent

HALF_MAX = float(np.finfo(np.float16).max)
MANIFEST, CARD, ARCH_FILE = "export.json", "README.md", "arch.json"
LATENCIES = "latency.json"
PAPERS = (MANIFEST, CARD, ARCH_FILE, model_card.PREPROCESSING_FILE)
SAFETENSORS = "safetensors"

DTYPES = tuple(TOLERANCES)


class Format(NamedTuple):
    """A file format: its suffix, the dtypes it supports, and its writer."""

    suffix: str
    dtypes: tuple[str, ...]
    write: Callable[[_Model], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """The input of every format's writer."""

    graph: Graph
    values: Weights
    dtype: str
    calibration: Array | None
    preprocessing: Preprocessing | None
    texts: Mapping[str, str]

    @property
    def half(self) -> bool:
        return self.dtype == "fp16"


def parse_formats(text: str) -> list[str]:
    """The formats in a list such as ``torch,onnx``.

    Raises:
        InputError: one is unknown, or there is none.
    """
    return _parse(text, "format", tuple(FORMATS))


def parse_dtypes(text: str) -> list[str]:
    """The dtypes in a list such as ``fp32,int8``.

    Raises:
        InputError: one is unknown, or there is none.
    """
    return _parse(text, "dtype", DTYPES)


def export(
    arch: Arch,
    values: Weights,
    formats: Sequence[str],
    folder: Path,
    *,
    dtypes: Sequence[str] = ("fp32",),
    preprocessing: Preprocessing | None = None,
    calibration: Array | None = None,
    evaluation: Evaluation | None = None,
    origin: Origin | None = None,
    name: str = "model",
    replace_other: bool = False,
    say: Say = silent,
) -> list[Exported]:
    """Write weights, architecture, README and a file for each format and dtype into `folder`.

    Each file is opened and run in its own runtime and compared with torch, on images not used for
    calibration: those of `evaluation`, else images held out from the calibration, else random
    ones. All files are kept or none. Files from an earlier export of the same network and weights
    stay, except those that are rewritten.

    Args:
        calibration: images as the network takes them, (n, 3, height, width), normalised; int8
            takes its ranges from them.
        evaluation: labelled images; each file's own accuracy on them is then reported.
        origin: what the README says about where the network comes from.
        replace_other: whether an export of another network in `folder` may be replaced.
        say: receives the progress of a long evaluation.

    Raises:
        ExportError: a file cannot be written or run, or it is too far from torch.
        InputError: weights, preprocessing or images do not match the architecture, a format does
            not support a dtype, int8 has no calibration, or `folder` cannot be written to or holds
            something else.
    """
    pairs = _pairs(formats, dtypes, calibration)
    graph = lower(arch)
    _check_fits(graph, preprocessing, calibration, evaluation)
    origin = origin or Origin()
    images: Array | Evaluation
    if evaluation is not None:
        images = evaluation
    elif calibration is not None and "int8" in dtypes:
        calibration, images = hold_out(calibration)
    else:
        images = proof_images(graph, None if calibration is None else calibration[:PROOF_IMAGES])
    if "int8" in dtypes and calibration is not None:
        calm = without_explosions(graph, values, calibration)
        if left_out := len(calibration) - len(calm):
            say(
                f"{left_out} of {len(calibration)} images are left out of int8 calibration: their "
                f"maps are more than {MOST_TIMES} times as large as the median image's"
            )
        calibration = calm
    if "fp16" in dtypes:
        _check_half(graph, values)
    texts = {ARCH_ID: arch.id, ORIGIN: origin.sentence()}
    if preprocessing is not None:
        texts[PREPROCESSING] = json.dumps(preprocessing.to_json())
    with all_or_none(folder, MANIFEST) as place:
        weights_file = place / f"{name}.safetensors"
        weights.save(values, weights_file, preprocessing)
        end = {dtype: "" if dtype == "fp32" else f"-{dtype}" for dtype in dtypes}
        written = [
            Written(place / f"{name}{end[dtype]}{FORMATS[kind].suffix}", kind, dtype)
            for kind, dtype in pairs
        ]
        names = [each.path.name for each in written]
        kept: list[dict[str, Any]] = []
        if not replace_other:
            kept = _kept(folder, arch, weights_file, names)
            origin = _with_latencies_of(folder, origin, kept)
        for path, kind, dtype in written:
            model = _Model(
                graph=graph,
                values=values,
                dtype=dtype,
                calibration=calibration,
                preprocessing=preprocessing,
                texts={**texts, DTYPE: dtype},
            )
            with as_export_error(f"{kind} {dtype}"):
                write_whole(path, FORMATS[kind].write(model))
        exported, itself = prove(
            written, graph, values, images, model_card.assumed(preprocessing), say
        )
        rows = [*kept, *({**each.to_json(), "file": each.path.name} for each in exported)]
        rows.append(_weights_row(weights_file, itself))
        same = {row["file"] for row in kept}
        timed = [row for row in measurements(folder) if Path(row["file"]).name in same]
        _write_papers(place, arch, graph, rows, preprocessing, origin, timed)
    return [replace(each, path=folder / each.path.name) for each in exported]


def from_manifest(path: Path) -> Origin:
    """What the ``export.json`` of an earlier export says about its network.

    Raises:
        InputError: it is damaged.
    """
    try:
        found = json.loads(read_text(path))["origin"]
        for old in ("accuracy", "pictures"):  # in older exports, of no particular file
            found.pop(old, None)
        latencies = tuple(Latency(**each) for each in found.pop("latencies"))
        training, search = found.pop("training", None), found.pop("search", None)
        return Origin(
            **found,
            latencies=latencies,
            training=records.from_table(Training, training) if training else None,
            search=records.from_table(Search, search) if search else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(f"{path}: is damaged: {short(error)}") from error


def measurements(folder: Path) -> list[dict[str, Any]]:
    """What was timed of the files in an export's folder: a row a file that is still there."""
    try:
        found = json.loads(read_text(folder / LATENCIES))
        return [row for row in found if (folder / Path(row["file"]).name).exists()]
    except (InputError, ValueError, KeyError, TypeError):
        return []


def add_measurements(folder: Path, measured: Sequence[Mapping[str, Any]]) -> None:
    """Keep in an export's folder what was timed of its files, in place of what was timed of them
    before, and say it on the card.
    """
    anew = {Path(row["file"]).name for row in measured}
    earlier = [row for row in measurements(folder) if Path(row["file"]).name not in anew]
    rows = [*earlier, *measured]
    arch, manifest = load(folder / ARCH_FILE), json.loads(read_text(folder / MANIFEST))
    [weights_file] = [row["file"] for row in manifest["files"] if row["format"] == SAFETENSORS]
    known = weights.parse_preprocessing(read_bytes(folder / weights_file), weights_file)
    origin = from_manifest(folder / MANIFEST)
    counts = cost.count(lower(arch))
    text = model_card.card(arch, counts, manifest["files"], known, origin, rows)
    write_whole(folder / LATENCIES, json.dumps(rows, indent=1).encode())
    write_whole(folder / CARD, text.encode())


def _parse(text: str, what: str, known: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(f"{what} {(unknown or [text])[0]!r}: known are {', '.join(known)}")
    return names


def offering(dtypes: Sequence[str]) -> list[str]:
    """The formats that support at least one of these dtypes."""
    return [kind for kind, about in FORMATS.items() if set(dtypes) & set(about.dtypes)]


def _pairs(
    formats: Sequence[str], dtypes: Sequence[str], calibration: Array | None
) -> list[tuple[str, str]]:
    """Each format with each of the dtypes that it supports, which must be at least one."""
    for kind in formats:
        if kind not in offering(dtypes):
            offered = "; ".join(
                f"{each} in {', '.join(about.dtypes)}" for each, about in FORMATS.items()
            )
            raise InputError(f"{kind} is not offered in {', '.join(dtypes)}; offered are {offered}")
    pairs = [(kind, each) for kind in formats for each in dtypes if each in FORMATS[kind].dtypes]
    if "int8" in dtypes and calibration is None:
        raise InputError("int8 takes its ranges from images: provide some with --data")
    return pairs


def _check_fits(
    graph: Graph,
    preprocessing: Preprocessing | None,
    calibration: Array | None,
    evaluation: Evaluation | None,
) -> None:
    [classes] = graph.output_shape
    if preprocessing is not None and preprocessing.classes:
        named = len(preprocessing.classes)
        if named != classes:
            raise InputError(f"the weights file names {named} classes, the network has {classes}")
    if evaluation is not None:
        names = preprocessing.classes if preprocessing is not None else ()
        if wrong := class_mismatch(classes, names, evaluation.classes):
            raise InputError(f"{evaluation.description}: the network {wrong}")
    if calibration is None:
        return
    if calibration.shape[1:] != graph.input_shape or not len(calibration):
        raise InputError(
            f"calibration images have shape {calibration.shape}; the network takes one or more of "
            f"{graph.input_shape}"
        )
    if not np.isfinite(calibration).all():
        raise InputError("calibration images contain numbers that are not finite")


def _check_half(graph: Graph, values: Weights) -> None:
    for key, array in fold(graph, values)[1].items():
        if (largest := float(np.abs(array).max())) > HALF_MAX:
            raise ExportError(
                f"{key} contains {largest:.3g}, but fp16 ends at {HALF_MAX:.0f}: export in fp32"
            )


def _write_torch(model: _Model) -> bytes:
    return torch_export.write(model.graph, model.values, half=model.half, texts=model.texts)


def _write_onnx(model: _Model) -> bytes:
    written = onnx_writer.write(model.graph, model.values, half=model.half)
    if model.dtype == "int8":
        assert model.calibration is not None
        written = quantization.quantize_onnx(written, model.calibration)
    return seal(onnx_writer.annotate(written, {**model.texts, SEAL: SEAL_MARK}))


def _write_tflite(model: _Model) -> bytes:
    written = tflite_writer.write(model.graph, model.values, half=model.half)
    if model.dtype == "int8":
        assert model.calibration is not None
        written = quantization.quantize(written, quantization.nhwc_samples(model.calibration))
    texts = {**model.texts, SEAL: SEAL_MARK}
    return seal(tflite_writer.annotate(written, texts, model.preprocessing))


FORMATS = {
    "torch": Format(".pt2", ("fp32", "fp16"), _write_torch),
    "onnx": Format(".onnx", ("fp32", "fp16", "int8"), _write_onnx),
    "tflite": Format(".tflite", ("fp32", "fp16", "int8"), _write_tflite),
}


def _kept(
    folder: Path, arch: Arch, weights_file: Path, written: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows of an earlier export of this network into `folder`, except rewritten files.

    Raises:
        InputError: `folder` holds an export of other weights, or files that no export wrote.
    """
    manifest = folder / MANIFEST
    if not manifest.exists():
        ours = [*PAPERS, weights_file.name, *written]
        if taken := [file for file in ours if (folder / file).exists()]:
            raise InputError(
                f"{folder / taken[0]} already exists and is not from an export; name another --out"
            )
        return []
    same = (folder / weights_file.name).exists() and (
        read_bytes(folder / weights_file.name) == read_bytes(weights_file)
        and load(folder / ARCH_FILE) == arch
    )
    if not same:
        raise InputError(
            f"{folder}: holds the export of another network or other weights; remove it, or name "
            "another --out"
        )
    try:
        rows: list[dict[str, Any]] = json.loads(read_text(manifest))["files"]
        return [
            row
            for row in rows
            if row["format"] != SAFETENSORS
            and row["file"] not in written
            and (folder / Path(row["file"]).name).exists()
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{manifest}: is damaged: {short(error)}") from error


def _with_latencies_of(folder: Path, origin: Origin, kept: Sequence[Mapping[str, Any]]) -> Origin:
    """`origin` with the earlier latencies of the files that are kept."""
    if not kept:
        return origin
    anew = {each.target for each in origin.latencies}
    earlier = from_manifest(folder / MANIFEST).latencies
    old = tuple(each for each in earlier if each.target not in anew)
    return replace(origin, latencies=old + origin.latencies)


def _weights_row(path: Path, accuracy: Accuracy | None) -> dict[str, Any]:
    return {
        "file": path.name,
        "format": SAFETENSORS,
        "dtype": "fp32",
        "bytes": path.stat().st_size,
        "accuracy": None if accuracy is None else asdict(accuracy),
    }


def _write_papers(
    place: Path,
    arch: Arch,
    graph: Graph,
    rows: Sequence[Mapping[str, Any]],
    preprocessing: Preprocessing | None,
    origin: Origin,
    timed: Sequence[Mapping[str, Any]],
) -> None:
    """Write the documents that accompany the models, for people and programs."""
    text = model_card.card(arch, cost.count(graph), rows, preprocessing, origin, timed)
    write_whole(place / CARD, text.encode())
    papers = {
        ARCH_FILE: to_json(arch),
        model_card.PREPROCESSING_FILE: model_card.assumed(preprocessing).to_json(),
        MANIFEST: {
            "ghostnas": __version__,
            "arch": arch.id,
            "origin": asdict(origin),
            "files": rows,
        },
    }
    for file, document in papers.items():
        write_whole(place / file, json.dumps(document, indent=1).encode())
