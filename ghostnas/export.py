"""Writes a network as files that a stranger can use, and proves each before any is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ghostnas import (
    __version__,
    cost,
    model_card,
    onnx_model,
    quantize,
    seal,
    tflite,
    tflite_metadata,
    torch_program,
    weights,
)
from ghostnas.arch import Arch, lower, to_json
from ghostnas.deploy import fold
from ghostnas.errors import ExportError, GhostnasError, InputError, short
from ghostnas.files import read_text, write_whole
from ghostnas.graph import Array, Graph, Weights
from ghostnas.model_card import Latency, Origin
from ghostnas.model_file import ARCH_ID, DTYPE, ORIGIN, PREPROCESSING, SEAL, one_line
from ghostnas.preprocessing import Preprocessing
from ghostnas.proof import TOLERANCES, Exported, proof_images, prove, torch_logits
from ghostnas.seeds import Summary
from ghostnas.whole_folder import all_or_none

HALF_MAX = float(np.finfo(np.float16).max)
MANIFEST = "export.json"


DTYPES = tuple(TOLERANCES)


class Format(NamedTuple):
    """A kind of file: how it ends, in which dtypes it is offered, and how it is written."""

    suffix: str
    dtypes: tuple[str, ...]
    write: Callable[[_Model], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """What the writers of all formats are given."""

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
    """The formats of a list such as ``torch,onnx``.

    Raises:
        InputError: one is unknown, or there is none.
    """
    return _parse(text, "format", tuple(FORMATS))


def parse_dtypes(text: str) -> list[str]:
    """The dtypes of a list such as ``fp32,int8``.

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
    origin: Origin | None = None,
    name: str = "model",
) -> list[Exported]:
    """Write weights, architecture, README and a file for each format and dtype into `folder`.

    Each file is opened and run in its own runtime, on the first of the calibration's pictures or
    else on random ones, and held against torch. All are kept or none.

    Args:
        calibration: pictures as the network takes them, (n, 3, height, width), normalised; int8
            takes its ranges from them.
        origin: what the README says of where the network comes from.

    Raises:
        ExportError: a file cannot be written or run, or its logits are too far from torch's.
        InputError: weights, preprocessing or calibration do not fit the architecture, a dtype is
            not offered in a format, int8 has no calibration, or `folder` cannot be written to.
    """
    pairs = _pairs(formats, dtypes, calibration)
    graph = lower(arch)
    _check_fits(graph, preprocessing, calibration)
    origin = origin or Origin()
    images = proof_images(graph, calibration)
    expected = torch_logits(graph, values, images)
    if "fp16" in dtypes:
        _check_half(graph, values)
    texts = {ARCH_ID: arch.id, ORIGIN: origin.sentence()}
    if preprocessing is not None:
        texts[PREPROCESSING] = json.dumps(preprocessing.to_json())
    exported = []
    with all_or_none(folder, MANIFEST) as place:
        for kind, dtype in pairs:
            model = _Model(
                graph=graph,
                values=values,
                dtype=dtype,
                calibration=calibration,
                preprocessing=preprocessing,
                texts={**texts, DTYPE: dtype},
            )
            end = "" if dtype == "fp32" else f"-{dtype}"
            path = place / f"{name}{end}{FORMATS[kind].suffix}"
            with _as_export_error(f"{kind} {dtype}"):
                write_whole(path, FORMATS[kind].write(model))
                proven = prove(path, kind, dtype, graph, images, expected)
            exported.append(proven)
        weights.save(values, place / f"{name}.safetensors", preprocessing)
        _write_papers(place, arch, graph, exported, preprocessing, origin, name)
    return [replace(each, path=folder / each.path.name) for each in exported]


def from_manifest(path: Path) -> Origin:
    """What the ``export.json`` of an earlier export says of its network.

    Raises:
        InputError: it is damaged.
    """
    try:
        found = json.loads(read_text(path))["origin"]
        accuracy = found.pop("accuracy")
        latencies = tuple(Latency(**each) for each in found.pop("latencies"))
        known = None if accuracy is None else Summary(**accuracy)
        return Origin(**found, accuracy=known, latencies=latencies)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is damaged: {short(error)}") from error


def _parse(text: str, what: str, known: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(f"{what} {(unknown or [text])[0]!r}: known are {', '.join(known)}")
    return names


def offering(dtypes: Sequence[str]) -> list[str]:
    """The formats that offer one of these dtypes."""
    return [kind for kind, about in FORMATS.items() if set(dtypes) & set(about.dtypes)]


def _pairs(
    formats: Sequence[str], dtypes: Sequence[str], calibration: Array | None
) -> list[tuple[str, str]]:
    """Each format in those of the dtypes that it offers, which must be one at least."""
    for kind in formats:
        if kind not in offering(dtypes):
            offered = "; ".join(
                f"{each} in {', '.join(about.dtypes)}" for each, about in FORMATS.items()
            )
            raise InputError(f"{kind} is not offered in {', '.join(dtypes)}; offered are {offered}")
    pairs = [(kind, each) for kind in formats for each in dtypes if each in FORMATS[kind].dtypes]
    if "int8" in dtypes and calibration is None:
        raise InputError("int8 takes its ranges from pictures: name some by --data")
    return pairs


def _check_fits(
    graph: Graph, preprocessing: Preprocessing | None, calibration: Array | None
) -> None:
    [classes] = graph.output_shape
    if preprocessing is not None and preprocessing.classes:
        named = len(preprocessing.classes)
        if named != classes:
            raise InputError(f"the weights' file names {named} classes, the network has {classes}")
    if calibration is None:
        return
    if calibration.shape[1:] != graph.input_shape or not len(calibration):
        raise InputError(
            f"calibration pictures of shape {calibration.shape}; the network takes one or more of "
            f"{graph.input_shape}"
        )
    if not np.isfinite(calibration).all():
        raise InputError("calibration pictures hold numbers that are not finite")


def _check_half(graph: Graph, values: Weights) -> None:
    for key, array in fold(graph, values)[1].items():
        if (largest := float(np.abs(array).max())) > HALF_MAX:
            raise ExportError(
                f"{key} holds {largest:.3g}, fp16 ends at {HALF_MAX:.0f}: export in fp32"
            )


def _write_torch(model: _Model) -> bytes:
    return torch_program.write(model.graph, model.values, half=model.half, texts=model.texts)


def _write_onnx(model: _Model) -> bytes:
    written = onnx_model.write(model.graph, model.values, half=model.half)
    if model.dtype == "int8":
        assert model.calibration is not None
        written = quantize.quantize_onnx(written, model.calibration)
    return seal.seal(onnx_model.annotate(written, {**model.texts, SEAL: seal.MARK}))


def _write_tflite(model: _Model) -> bytes:
    written = tflite.write(model.graph, model.values, half=model.half)
    if model.dtype == "int8":
        assert model.calibration is not None
        written = quantize.quantize(written, quantize.nhwc_samples(model.calibration))
    texts = {**model.texts, SEAL: seal.MARK}
    return seal.seal(tflite_metadata.annotate(written, texts, model.preprocessing))


FORMATS = {
    "torch": Format(".pt2", ("fp32", "fp16"), _write_torch),
    "onnx": Format(".onnx", ("fp32", "fp16", "int8"), _write_onnx),
    "tflite": Format(".tflite", ("fp32", "fp16", "int8"), _write_tflite),
}


def _write_papers(
    place: Path,
    arch: Arch,
    graph: Graph,
    exported: Sequence[Exported],
    preprocessing: Preprocessing | None,
    origin: Origin,
    name: str,
) -> None:
    """What stands beside the models, for people and programs."""
    rows = [{**each.to_json(), "file": each.path.name} for each in exported]
    rows.append(
        {
            "file": f"{name}.safetensors",
            "format": "safetensors",
            "dtype": "fp32",
            "bytes": (place / f"{name}.safetensors").stat().st_size,
        }
    )
    text = model_card.card(arch, cost.count(graph), rows, preprocessing, origin)
    write_whole(place / "README.md", text.encode())
    papers = {
        "arch.json": to_json(arch),
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


@contextmanager
def _as_export_error(what: str) -> Iterator[None]:
    """Whatever a writer, a quantiser or a runtime raises, in one line that says which file."""
    try:
        yield
    except OSError:
        raise
    except GhostnasError as error:
        raise ExportError(f"{what}: {error}") from error
    except Exception as error:
        raise ExportError(f"{what}: {type(error).__name__}: {one_line(error)}") from error
