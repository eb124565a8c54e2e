"""Opens an exported model, whatever its format, as a function from images to logits.

A runtime may crash on a damaged file made elsewhere; `ghostnas.deployment.evaluate` runs models in
separate processes.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ghostnas.arrays import Array
from ghostnas.errors import InputError
from ghostnas.files import check_seal, read_bytes
from ghostnas.ir import weights
from ghostnas.ir.preprocessing import CHANNELS, IMAGENET, Preprocessing, from_json

# Names of the text entries in an exported file.
PREPROCESSING, DTYPE, ARCH_ID, ORIGIN, SEAL = (
    f"ghostnas.{name}" for name in ("preprocessing", "dtype", "arch_id", "origin", "seal")
)
LONGEST_REASON = 160  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A model that is ready to run.

    Attributes:
        format: ``torch``, ``onnx``, ``tflite`` or ``safetensors``.
        dtype: ``fp32``, ``fp16`` or ``int8``; None where the file does not say.
        resolution: pixels, square.
        classes: how many.
        preprocessing: the file's, or ImageNet's if it has none...
        preprocessing_known: ... and which of the two.
        run: float32 (n, 3, resolution, resolution), normalised, to logits (n, classes) float32.
    """

    path: Path
    format: str
    dtype: str | None
    resolution: int
    classes: int
    preprocessing: Preprocessing
    preprocessing_known: bool
    run: Callable[[Array], Array]


def open_model(path: Path, *, threads: int = 1, device: str = "cpu") -> ModelFile:
    """Open a .pt2, .onnx, .tflite or .safetensors file, or the folder of a training or an export.

    A .safetensors file needs its ``arch.json`` beside it. `threads` are those of onnxruntime
    and TFLite, which run on the CPU; PyTorch has its own setting, and runs .pt2 and .safetensors
    on `device`.

    Raises:
        InputError: there is no such file, it is damaged, or it is not an RGB image classifier.
    """
    path = _file(path)
    content = read_bytes(path)
    check_seal(content, str(path))
    try:
        opened = _READERS[path.suffix](path, content, threads, device)
        logits = opened.run(np.zeros((1, CHANNELS, *[opened.resolution] * 2), np.float32))
    except InputError:
        raise
    except Exception as error:  # whatever a runtime raises on a damaged file
        raise InputError(
            f"{path}: cannot be run as {path.suffix}; it is damaged or of an unknown kind: "
            f"{one_line(error)}"
        ) from error
    if logits.shape != (1, opened.classes) or not np.isfinite(logits).all():
        raise InputError(f"{path}: does not give {opened.classes} finite numbers, one per class")
    names = opened.preprocessing.classes
    if names and len(names) != opened.classes:
        raise InputError(f"{path}: names {len(names)} classes but has {opened.classes}")
    return opened


def check_classes(model: ModelFile, classes: tuple[str, ...]) -> None:
    """Refuse a model with another number of classes, or with these names in another order.

    Raises:
        InputError: the model is refused.
    """
    if wrong := class_mismatch(model.classes, model.preprocessing.classes, classes):
        raise InputError(f"{model.path}: {wrong}")


def class_mismatch(count: int, names: tuple[str, ...], classes: tuple[str, ...]) -> str:
    """Why a model of `count` classes, called `names` if it says so, does not fit data of these
    classes; empty if it may.
    """
    if count != len(classes):
        return f"knows {count} classes, but the data has {len(classes)}"
    if names != classes and set(names) == set(classes):
        return (
            f"has the classes of the data in another order: {_few(names)}, but the data has "
            f"{_few(classes)}"
        )
    return ""


def other_names(names: tuple[str, ...], classes: tuple[str, ...]) -> str:
    """How the names of a model's classes differ from those of the data; empty if they do not, or
    if the model has no names.
    """
    strange = [name for name, here in zip(names, classes, strict=False) if name != here]
    if not strange:
        return ""
    said = f"calls its classes {_few(names)}, but the data says {_few(classes)}"
    if set(names).isdisjoint(classes):
        return f"{said}; none match: accuracy means nothing unless they correspond in order"
    return f"{said}; {len(strange)} of {len(names)} differ"


def doubts(model: ModelFile, classes: tuple[str, ...]) -> list[str]:
    """What is assumed when a model runs on images of these classes, one line each."""
    lines = []
    if not model.preprocessing_known:
        lines.append("does not say what images it expects; ImageNet's mean and std are assumed")
    if differ := other_names(model.preprocessing.classes, classes):
        lines.append(differ)
    return lines


def one_line(error: BaseException) -> str:
    """A runtime's error message, short and printable."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.encode("ascii", "replace").decode()
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."


def _file(path: Path) -> Path:
    if path.is_dir():
        places = (path / "model.safetensors", path / "export" / "model.safetensors")
        found = next((place for place in places if place.exists()), None)
        if found is None:
            raise InputError(f"{path}: holds no model.safetensors of a training or an export")
        return found
    if path.suffix not in _READERS:
        raise InputError(f"{path}: is not a model; known: {', '.join(_READERS)} and their folders")
    return path


def _read_torch(path: Path, content: bytes, threads: int, device: str) -> ModelFile:
    from ghostnas.backends import torch_export

    damaged = zipfile.ZipFile(io.BytesIO(content)).testzip()
    if damaged is not None:
        raise InputError(f"{path}: is damaged at {damaged!a}; copy or export it again")
    texts = torch_export.texts_of(content)
    program = torch_export.load(content, device)
    shape, out = torch_export.shapes(program)
    run = _in_torch(program.module(), device)
    batched = run if shape[0] is None else _in_batches(run, shape[0])
    return _model(path, "torch", texts, shape[1:], out, batched)


def _read_onnx(path: Path, content: bytes, threads: int, device: str) -> ModelFile:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised as exceptions too
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    [source], [target] = session.get_inputs(), session.get_outputs()
    texts = dict(session.get_modelmeta().custom_metadata_map)

    def run(images: Array) -> Array:
        logits: Array = session.run([target.name], {source.name: images})[0]
        return logits

    batch = source.shape[0]
    batched = _in_batches(run, batch) if isinstance(batch, int) else run
    return _model(path, "onnx", texts, source.shape[1:], target.shape[-1], batched)


def _read_tflite(path: Path, content: bytes, threads: int, device: str) -> ModelFile:
    from ghostnas.backends import tflite_runtime, tflite_writer

    interpreter = tflite_runtime.load(content, threads=threads)
    [source], [target] = interpreter.get_input_details(), interpreter.get_output_details()
    height, width, channels = map(int, source["shape"][1:])
    texts = tflite_writer.texts_of(content)
    return _model(
        path,
        "tflite",
        texts,
        (channels, height, width),
        int(target["shape"][-1]),
        lambda images: tflite_runtime.run(interpreter, images),
    )


def _read_safetensors(path: Path, content: bytes, threads: int, device: str) -> ModelFile:
    from ghostnas.backends.torch_module import net_of
    from ghostnas.networks.arch import load, lower

    arch = load(path.parent / "arch.json")
    values = weights.parse(content, str(path))
    try:
        net = net_of(lower(arch), values)
    except InputError as error:
        raise InputError(f"{path}: does not fit the arch.json beside it: {error}") from error

    run = _in_torch(net.to(device), device)
    shape = (CHANNELS, arch.resolution, arch.resolution)
    found = _model(path, "safetensors", {DTYPE: "fp32"}, shape, arch.classes, run)
    known = weights.parse_preprocessing(content, str(path))
    return found if known is None else replace(found, preprocessing=known, preprocessing_known=True)


def _model(
    path: Path, kind: str, texts: Any, shape: Any, classes: Any, run: Callable[[Array], Array]
) -> ModelFile:
    if len(shape) != 3 or shape[0] != CHANNELS or shape[1] != shape[2]:
        raise InputError(f"{path}: takes {tuple(shape)}, needs ({CHANNELS}, pixels, pixels)")
    if not all(isinstance(number, int) and number > 0 for number in (shape[1], classes)):
        raise InputError(f"{path}: does not state its resolution and number of classes")
    text = texts.get(PREPROCESSING)
    return ModelFile(
        path=path,
        format=kind,
        dtype=texts.get(DTYPE),
        resolution=shape[1],
        classes=classes,
        preprocessing=IMAGENET if text is None else from_json(text, str(path)),
        preprocessing_known=text is not None,
        run=run,
    )


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _in_torch(module: Callable[..., Any], device: str) -> Callable[[Array], Array]:
    """The module, on this device, as a function of arrays."""
    import torch

    def run(images: Array) -> Array:
        with torch.inference_mode():
            inputs = torch.from_numpy(np.ascontiguousarray(images)).to(device)
            logits: Array = module(inputs).float().cpu().numpy()
        return logits

    return run


def _in_batches(run: Callable[[Array], Array], size: int) -> Callable[[Array], Array]:
    """For a model that takes exactly `size` images at a time."""

    def run_all(images: Array) -> Array:
        lacking = math.ceil(len(images) / size) * size - len(images)
        padded = np.concatenate([images, np.zeros((lacking, *images.shape[1:]), images.dtype)])
        logits = [run(padded[at : at + size]) for at in range(0, len(padded), size)]
        return np.concatenate(logits)[: len(images)]

    return run_all


_READERS = {
    ".pt2": _read_torch,
    ".onnx": _read_onnx,
    ".tflite": _read_tflite,
    ".safetensors": _read_safetensors,
}
