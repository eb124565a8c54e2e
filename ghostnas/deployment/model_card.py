"""The README of an exported network: what it is, its numbers and their origin, and how to run it.

It writes text only; every number is given to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ghostnas.ir import cost
from ghostnas.ir.cost import Cost
from ghostnas.ir.preprocessing import IMAGENET, Preprocessing
from ghostnas.networks.arch import Arch, lower

PREPROCESSING_FILE = "preprocessing.json"
PACKAGES = {
    "torch": "torch and pillow",
    "onnx": "onnxruntime, numpy and pillow",
    "tflite": "ai-edge-litert, numpy and pillow",
    "safetensors": "safetensors and numpy",
}
HOW_IT_COMPUTES = {
    ("torch", "fp32"): "a program of torch.export",
    ("torch", "fp16"): "weights kept in float16, taken to float32 at each run; computes in float32",
    ("onnx", "fp32"): "opset 18",
    ("onnx", "fp16"): "weights and maps in float16; input and output stay float32",
    (
        "onnx",
        "int8",
    ): "QDQ form, weights of 7 bits with a scale a channel; input and output stay float32",
    ("tflite", "fp32"): "maps are NHWC, one picture at a time",
    ("tflite", "fp16"): "weights kept in float16, taken to float32 once at loading",
    ("tflite", "int8"): "input and output are int8 too, with the scale and zero point in the file",
    ("safetensors", "fp32"): "the weights by their published names, for arch.json",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """A predicted latency of .tflite files and the ends of its range, in ms.

    Attributes:
        target: names the device.
        dtype: of the latency table, ``fp32`` or ``int8``; empty where an older export did not say.
    """

    target: str
    latency_ms: float
    low_ms: float
    high_ms: float
    dtype: str = ""


# By a table's dtype, those of the files that it holds for: float16 weights are taken to float32.
HOLDS_FOR = {"fp32": ("fp32", "fp16"), "int8": ("int8",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How weights were trained; what is empty or 0 is not known.

    Attributes:
        data: as ``--data`` names it.
        recipe: its name; `epochs`, `images` and `resolution` (pixels) say what it came to.
        seed: of these weights; `seeds` are all that the network was trained from, these included.
        initial, teacher: files that it started from, or learned from besides.
    """

    data: str
    recipe: str
    epochs: int
    resolution: int
    seed: int
    seeds: tuple[int, ...] = ()
    images: int = 0
    hardware: str = ""
    initial: str = ""
    teacher: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The search that found a network.

    Attributes:
        command: starts the same search.
        trials: how many there were.
        data: as ``--data`` names it.
    """

    command: str
    space: str
    target: str
    budgets: tuple[str, ...]
    trials: int
    scorer: str
    sampler: str
    data: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a network comes from; what is empty is not known.

    Attributes:
        network: its name, such as "GhostNet 1.0x".
        weights: how they came to be: data, recipe, seed, or the file they were read from.
        latencies: of these the README shows those of dtypes that are there.
        license: of the weights, an identifier such as ``apache-2.0``.
    """

    network: str = ""
    weights: str = ""
    latencies: tuple[Latency, ...] = ()
    license: str = ""
    training: Training | None = None
    search: Search | None = None

    def sentence(self) -> str:
        """The origin as a file's metadata say it."""
        return f"{self.network or 'a network'} of ghostnas; weights: {self.weights or 'not told'}"


def assumed(preprocessing: Preprocessing | None) -> Preprocessing:
    """What the snippets use: ImageNet's where nothing is known."""
    return IMAGENET if preprocessing is None else preprocessing


def card(
    arch: Arch,
    counts: Cost,
    files: Sequence[Mapping[str, Any]],
    preprocessing: Preprocessing | None,
    origin: Origin,
    measured: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The text of README.md, as ``templates/card.md.j2`` has it.

    Args:
        files: a row a file, as ``export.json`` holds them.
        measured: a row a file that was timed on a device, as ``latency.json`` holds them.
    """
    template = _templates().get_template("card.md.j2")
    formats = dict.fromkeys(row["format"] for row in files)
    return template.render(
        title=origin.network or "A network",
        tags=["ghostnet", "neural-architecture-search", *formats],
        peaks=_peaks(arch, files),
        measured=[{**row, "name": Path(row["file"]).name} for row in measured],
        arch=arch,
        counts=counts,
        files=files,
        origin=origin,
        latencies=_latencies(files, origin),
        how_it_computes=_how_it_computes,
        accuracies=_accuracies(files),
        proofs=_proofs(files),
        known=preprocessing is not None,
        used=assumed(preprocessing),
        preprocessing_file=PREPROCESSING_FILE,
        packages=PACKAGES,
    )


def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["four_digits"] = "{:.4f}".format
    found.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    found.filters["names_only"] = _names_only
    found.globals["data_kind"] = _data_kind
    return found


def _names_only(text: str) -> str:
    """A text whose absolute paths are only the last part: a card may leave this machine."""
    return re.sub(r"(?<![\w.])/(?:[^\s:'@]+/)*(?=[^\s/])", "", text)


def _data_kind(described: str) -> str:
    """The kind of data in ``test images of cifar10:DIR``."""
    return described.rpartition(" of ")[2].partition(":")[0]


def _peaks(arch: Arch, files: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """The computed peak of activations in bytes, after the dtypes that have it."""
    dtypes = dict.fromkeys(row["dtype"] for row in files) or {"fp32": None}
    graph = lower(arch)
    by_bytes: dict[int, list[str]] = {}
    for dtype in dtypes:
        peak = cost.count(graph, dtype).peak_activation_bytes
        by_bytes.setdefault(peak, []).append(dtype)
    return [(" and ".join(names), peak) for peak, names in by_bytes.items()]


def _latencies(
    files: Sequence[Mapping[str, Any]], origin: Origin
) -> list[tuple[list[str], Latency]]:
    """Each latency that holds for files which are there, after the dtypes of these."""
    dtypes = list(dict.fromkeys(row["dtype"] for row in files if row["format"] != "safetensors"))
    fitting = (
        ([name for name in dtypes if name in HOLDS_FOR.get(each.dtype, ())], each)
        for each in origin.latencies
    )
    return [(names, each) for names, each in fitting if names]


def _how_it_computes(row: Mapping[str, Any]) -> str:
    how = HOW_IT_COMPUTES[row["format"], row["dtype"]]
    if (parts := row.get("xnnpack_parts")) is not None:
        how += f"; XNNPACK takes it in {parts} part{'s' * (parts != 1)}"
    return how


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """Files of which the same is said: on so many images of some data, or on some processor.

    `command` measures again; None where there is none.
    """

    names: str
    images: int
    of: str
    command: str | None = None


def _accuracies(files: Sequence[Mapping[str, Any]]) -> list[_Measured]:
    """Of which images the accuracies are, and how to see each again."""
    of: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for row in files:
        if (accuracy := row.get("accuracy")) is not None:
            of.setdefault((accuracy["images"], accuracy["of"]), []).append(row)
    found = []
    for (images, data), rows in of.items():
        if (command := rows[0]["accuracy"]["command"]) is not None:
            command = command.replace(rows[0]["file"], "FILE", 1)
        found.append(_Measured(names=_names(rows, files), images=images, of=data, command=command))
    return found


def _proofs(files: Sequence[Mapping[str, Any]]) -> list[_Measured]:
    """On what the differences were taken, and where."""
    of: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    run = [row for row in files if "same_class" in row]
    for row in run:
        images = row.get("proof_images", row.get("proof_pictures", 0))  # older exports' word
        of.setdefault((images, row.get("processor", "")), []).append(row)
    return [
        _Measured(names=_names(rows, run), images=images, of=processor)
        for (images, processor), rows in of.items()
    ]


def _names(rows: Sequence[Mapping[str, Any]], of: Sequence[Mapping[str, Any]]) -> str:
    if len(rows) == len(of):
        return "every file"
    return ", ".join(f"`{row['file']}`" for row in rows)
