"""The README of an exported network: what it is, its numbers and their origin, and how to run it.

It writes text only; every number is given to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ghostnas.ir.cost import Cost
from ghostnas.ir.preprocessing import IMAGENET, Preprocessing
from ghostnas.networks.arch import Arch

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
class Origin:
    """Where a network comes from; what is empty is not known.

    Attributes:
        network: its name, such as "GhostNet 1.0x".
        weights: how they came to be: data, recipe, seed, or the file they were read from.
        latencies: of these the README shows those of dtypes that are there.
    """

    network: str = ""
    weights: str = ""
    latencies: tuple[Latency, ...] = ()

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
) -> str:
    """The text of README.md.

    Args:
        files: a row a file, as ``export.json`` holds them.
    """
    parts = [
        f"# {origin.network or 'A network'} ({arch.id})",
        f"A classifier of RGB pictures into {arch.classes} classes, at {arch.resolution} x "
        f"{arch.resolution} pixels, written by ghostnas. `arch.json` is its architecture.",
        "## Numbers",
        _numbers(counts, files, origin),
        "## Files",
        _files(files),
        "## Pictures",
        _pictures(preprocessing),
        "## Use",
        "Each of these programs runs in this folder, as it stands here, with the packages that it "
        "names and no others; all but the last read `picture.jpg` and print its class.",
        *(_use(row, arch.resolution) for row in files),
    ]
    return "\n\n".join(parts) + "\n"


def _numbers(counts: Cost, files: Sequence[Mapping[str, Any]], origin: Origin) -> str:
    rows = [
        ("parameters", f"{counts.params:,}", "counted on the architecture"),
        (
            "multiply-accumulates",
            f"{counts.macs:,}",
            "counted: convolutions and dense layers, batch norm folded",
        ),
        (
            "largest maps at one time",
            f"{counts.peak_activation_bytes / 1e6:.2f} MB",
            "counted, in float32",
        ),
    ]
    dtypes = list(dict.fromkeys(row["dtype"] for row in files if row["format"] != "safetensors"))
    rows += [
        (
            f"latency as .tflite in {' or '.join(fitting)} on {each.target}",
            f"{each.latency_ms:.2f} ms ({each.low_ms:.2f} to {each.high_ms:.2f})",
            "predicted from a latency table, not measured",
        )
        for each in origin.latencies
        if (fitting := [name for name in dtypes if name in HOLDS_FOR.get(each.dtype, ())])
    ]
    table = ["| what | number | from |", "| --- | --- | --- |"]
    table += [f"| {what} | {number} | {source} |" for what, number, source in rows]
    weights = origin.weights or "not told when this folder was written"
    return "\n".join([*table, "", f"Origin of the weights: {weights}."])


def _files(files: Sequence[Mapping[str, Any]]) -> str:
    table = [
        "| file | dtype | MB | top-1 | largest difference | mean | same class | how it computes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in files:
        accuracy, apart = row.get("accuracy"), ["-"] * 3
        if "same_class" in row:
            apart = [
                f"{row['difference_from_torch']:.1e}",
                f"{row['mean_difference_from_torch']:.1e}",
                f"{row['same_class']:.1%}",
            ]
        how = HOW_IT_COMPUTES[row["format"], row["dtype"]]
        if (parts := row.get("xnnpack_parts")) is not None:
            how += f"; XNNPACK takes it in {parts} part{'s' * (parts != 1)}"
        size = f"{row['bytes'] / 1e6:.2f}"
        top1 = "-" if accuracy is None else f"{accuracy['top1']:.2%}"
        cells = [f"`{row['file']}`", row["dtype"], size, top1, *apart, how]
        table.append(f"| {' | '.join(cells)} |")
    return "\n\n".join(["\n".join(table), *_accuracies(files), *_proofs(files)])


def _accuracies(files: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of which images the accuracies are, and how to see each again."""
    of: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for row in files:
        if (accuracy := row.get("accuracy")) is not None:
            of.setdefault((accuracy["images"], accuracy["of"]), []).append(row)
    texts = []
    for (images, data), rows in of.items():
        text = (
            f"Top-1 of {_names(rows, files)} was measured on {images:,} {data}, which calibrated "
            "nothing, by running that very file in its own runtime."
        )
        if (command := rows[0]["accuracy"]["command"]) is not None:
            text += f" `{command.replace(rows[0]['file'], 'FILE', 1)}` prints it again."
        texts.append(text)
    unknown = "No top-1 is given: the files were not run on labelled images."
    return texts or [unknown] * bool(files)


def _proofs(files: Sequence[Mapping[str, Any]]) -> list[str]:
    """On what the differences were taken, and where."""
    of: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    run = [row for row in files if "same_class" in row]
    for row in run:
        images = row.get("proof_images", row.get("proof_pictures", 0))  # older exports' word
        of.setdefault((images, row.get("processor", "")), []).append(row)
    texts = []
    for (images, processor), rows in of.items():
        where = f", on {processor}" if processor else ""
        texts.append(
            f"Differences of {_names(rows, run)} are those of the logits from PyTorch's on "
            f"{images:,} images, as shares of the largest logit; each file was run in its own "
            f"runtime when it was written{where}."
        )
    return texts


def _names(rows: Sequence[Mapping[str, Any]], of: Sequence[Mapping[str, Any]]) -> str:
    if len(rows) == len(of):
        return "every file"
    return ", ".join(f"`{row['file']}`" for row in rows)


def _pictures(preprocessing: Preprocessing | None) -> str:
    used = assumed(preprocessing)
    mean, std = (", ".join(f"{each:.4f}" for each in part) for part in (used.mean, used.std))
    origin = (
        "The weights came without a word on this: ImageNet's are assumed, and may be wrong."
        if preprocessing is None
        else "They are those of the training, and stand in the models' metadata too."
    )
    names = (
        f"Class names, in the order of the logits, are in `{PREPROCESSING_FILE}`."
        if used.classes
        else "Names of the classes are not known; the programs print numbers."
    )
    return (
        f"The network takes `(picture / 255 - mean) / std`, channels R, G, B, with mean ({mean}) "
        f"and std ({std}). {origin} {names}"
    )


def _use(row: Mapping[str, Any], resolution: int) -> str:
    kind, file = row["format"], row["file"]
    lines = _SNIPPETS[kind]
    if kind == "tflite" and row["dtype"] == "int8":
        lines = _TFLITE_INT8
    code = lines.strip().replace("FILE", file).replace("SIZE", str(resolution))
    return f"`{file}`, with {PACKAGES[kind]}:\n\n```python\n{code}\n```"


_READ = """
about = json.loads(Path("preprocessing.json").read_text())
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")
picture = ImageOps.fit(picture, (SIZE, SIZE), Image.Resampling.BILINEAR)
"""
_NUMPY = """
image = (np.asarray(picture, np.float32) / 255 - about["mean"]) / about["std"]
image = image.astype(np.float32)[None]
"""
_PRINT = """
best = int(logits[0].argmax())
print(about["classes"][best] if about["classes"] else best)
"""
_TORCH = f"""
import json
from pathlib import Path

import torch
from PIL import Image, ImageOps
{_READ.rstrip()}
pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(SIZE, SIZE, 3)
image = (pixels / 255 - torch.tensor(about["mean"])) / torch.tensor(about["std"])
model = torch.export.load("FILE").module()
with torch.inference_mode():
    logits = model(image.permute(2, 0, 1)[None])
{_PRINT.strip()}
"""
_ONNX = f"""
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
{_READ.rstrip()}
{_NUMPY.strip()}
session = onnxruntime.InferenceSession("FILE", providers=["CPUExecutionProvider"])
[logits] = session.run(["logits"], {{"image": image.transpose(0, 3, 1, 2)}})
{_PRINT.strip()}
"""
_TFLITE = f"""
import json
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps
{_READ.rstrip()}
{_NUMPY.strip()}
run = Interpreter("FILE").get_signature_runner("serving_default")
logits = run(image=image)["logits"]
{_PRINT.strip()}
"""
_TFLITE_INT8 = _TFLITE.replace(
    "logits = run(image=image)",
    'scale, zero = run.get_input_details()["image"]["quantization"]\n'
    "image = np.clip(np.round(image / scale) + zero, -128, 127).astype(np.int8)\n"
    "logits = run(image=image)",
)
_SAFETENSORS = """
from safetensors.numpy import load_file

weights = load_file("FILE")
for name, array in weights.items():
    print(name, array.shape)
"""
_SNIPPETS = {"torch": _TORCH, "onnx": _ONNX, "tflite": _TFLITE, "safetensors": _SAFETENSORS}
