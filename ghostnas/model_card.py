"""The README of an exported network: what it is, its numbers and their origin, and how to run it.

It writes text only; every number is given to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ghostnas.arch import Arch
from ghostnas.cost import Cost
from ghostnas.preprocessing import IMAGENET, Preprocessing
from ghostnas.seeds import Summary, percent

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
    ("onnx", "int8"): "QDQ form, weights with a scale a channel; input and output stay float32",
    ("tflite", "fp32"): "maps are NHWC, one picture at a time",
    ("tflite", "fp16"): "weights kept in float16, taken to float32 once at loading",
    ("tflite", "int8"): "input and output are int8 too, with the scale and zero point in the file",
    ("safetensors", "fp32"): "the weights by their published names, for arch.json",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """A predicted latency and the ends of its range, in ms; `target` names device and dtype."""

    target: str
    latency_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a network comes from; what is empty is not known.

    Attributes:
        network: its name, such as "GhostNet 1.0x".
        weights: how they came to be: data, recipe, seed, or the file they were read from.
        accuracy: top-1, 0 to 1, over seeds...
        pictures: ... on these pictures.
    """

    network: str = ""
    weights: str = ""
    accuracy: Summary | None = None
    pictures: str = ""
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
        _numbers(counts, origin),
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


def _numbers(counts: Cost, origin: Origin) -> str:
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
    if origin.accuracy is not None:
        where = f"measured on {origin.pictures}" if origin.pictures else "measured"
        rows.append(("top-1 accuracy", percent(origin.accuracy), where))
    rows += [
        (
            f"latency on {each.target}",
            f"{each.latency_ms:.2f} ms ({each.low_ms:.2f} to {each.high_ms:.2f})",
            "predicted from a latency table, not measured",
        )
        for each in origin.latencies
    ]
    table = ["| what | number | from |", "| --- | --- | --- |"]
    table += [f"| {what} | {number} | {source} |" for what, number, source in rows]
    weights = origin.weights or "not told when this folder was written"
    return "\n".join([*table, "", f"Origin of the weights: {weights}."])


def _files(files: Sequence[Mapping[str, Any]]) -> str:
    table = [
        "| file | dtype | MB | largest difference | mean | same class | how it computes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    pictures = 0
    for row in files:
        apart = ["-"] * 3
        if "same_class" in row:
            pictures = row["proof_pictures"]
            apart = [
                f"{row['difference_from_torch']:.1e}",
                f"{row['mean_difference_from_torch']:.1e}",
                f"{row['same_class']:.0%}",
            ]
        how = HOW_IT_COMPUTES[row["format"], row["dtype"]]
        if (parts := row.get("xnnpack_parts")) is not None:
            how += f"; XNNPACK takes it in {parts} part{'s' * (parts != 1)}"
        size = f"{row['bytes'] / 1e6:.2f}"
        cells = [f"`{row['file']}`", row["dtype"], size, *apart, how]
        table.append(f"| {' | '.join(cells)} |")
    if pictures:
        table += [
            "",
            f"Differences are those of the logits from PyTorch's on {pictures} pictures, as shares "
            "of the largest logit; each file was run in its own runtime when it was written.",
        ]
    return "\n".join(table)


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
