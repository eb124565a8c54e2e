"""What a .tflite file says about itself: texts by name, and TFLite's own metadata for mobile tools.

The latter is a FlatBuffer of metadata_schema.fbs 1.1.0 (github.com/tensorflow/tflite-support), with
the class names as a file ``labels.txt`` in a zip archive at the end of the model.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from ghostnas.backends.tflite_writer import INPUT, OUTPUT
from ghostnas.ir.preprocessing import Preprocessing

STANDARD = "TFLITE_METADATA"
LABELS = "labels.txt"
# Constants of metadata_schema.fbs.
RGB, AXIS_LABELS, IMAGE_PROPERTIES, FEATURE_PROPERTIES, NORMALIZATION = 1, 2, 2, 1, 1


def annotate(model: bytes, texts: Mapping[str, str], preprocessing: Preprocessing | None) -> bytes:
    """The model with `texts`, and with TFLite's metadata where `preprocessing` is known."""
    parsed = schema.ModelT.InitFromPackedBuf(model)
    entries = {name: text.encode() for name, text in texts.items()}
    if preprocessing is not None:
        entries[STANDARD] = _standard(preprocessing)
    parsed.metadata = list(parsed.metadata or [])
    for name, content in entries.items():
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = list(content)
        entry.name, entry.buffer = name.encode(), len(parsed.buffers)
        parsed.buffers.append(buffer)
        parsed.metadata.append(entry)
    builder = flatbuffers.Builder(len(model) + 4096)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    written = bytes(builder.Output())
    if preprocessing is None or not preprocessing.classes:
        return written
    return _with_file(written, LABELS, "\n".join(preprocessing.classes) + "\n")


def texts_of(model: bytes) -> dict[str, str]:
    """The texts that `annotate` put in; none for a model made elsewhere."""
    parsed = schema.Model.GetRootAs(model)
    texts = {}
    for index in range(parsed.MetadataLength()):
        entry = parsed.Metadata(index)
        name = entry.Name().decode()
        if name.startswith("ghostnas."):
            texts[name] = parsed.Buffers(entry.Buffer()).DataAsNumpy().tobytes().decode()
    return texts


def _with_file(model: bytes, name: str, text: str) -> bytes:
    content = io.BytesIO(model)
    with zipfile.ZipFile(content, "a") as archive:  # after the model, which is read from its start
        archive.writestr(zipfile.ZipInfo(name), text)  # ZipInfo: no write time
    return content.getvalue()


def _standard(preprocessing: Preprocessing) -> bytes:
    b = flatbuffers.Builder(1024)
    mean, std = (
        _floats(b, [255 * value for value in values])
        for values in (preprocessing.mean, preprocessing.std)
    )
    image = _table(b, {0: ("Int8", RGB)})
    content = _table(b, {0: ("Uint8", IMAGE_PROPERTIES), 1: ("UOffsetTRelative", image)})
    options = _table(b, {0: ("UOffsetTRelative", mean), 1: ("UOffsetTRelative", std)})
    unit = _table(b, {0: ("Uint8", NORMALIZATION), 1: ("UOffsetTRelative", options)})
    source = _tensor(b, INPUT, "An RGB picture.", content, {4: _vector(b, [unit])})
    features = _table(b, {0: ("Uint8", FEATURE_PROPERTIES), 1: ("UOffsetTRelative", _table(b, {}))})
    files = {}
    if preprocessing.classes:
        text, about = b.CreateString(LABELS), b.CreateString("Names of the classes.")
        labels = {0: ("UOffsetTRelative", text), 1: ("UOffsetTRelative", about)}
        files[6] = _vector(b, [_table(b, labels | {2: ("Int8", AXIS_LABELS)})])
    target = _tensor(b, OUTPUT, "A number for each class, the largest wins.", features, files)
    inputs, outputs = _vector(b, [source]), _vector(b, [target])
    subgraph = _table(b, {2: ("UOffsetTRelative", inputs), 3: ("UOffsetTRelative", outputs)})
    name, version = b.CreateString("ghostnas"), b.CreateString("1.0.0")
    subgraphs = _vector(b, [subgraph])
    root = {
        0: ("UOffsetTRelative", name),
        3: ("UOffsetTRelative", subgraphs),
        7: ("UOffsetTRelative", version),
    }
    b.Finish(_table(b, root), b"M001")
    return bytes(b.Output())


def _tensor(b: Any, name: str, description: str, content: int, more: Mapping[int, int]) -> int:
    fields = {0: b.CreateString(name), 1: b.CreateString(description), 3: content, **more}
    return _table(b, {slot: ("UOffsetTRelative", at) for slot, at in fields.items()})


def _table(b: Any, fields: Mapping[int, tuple[str, int]]) -> int:
    """A table of values by field number, each with its FlatBuffers type."""
    b.StartObject(8)
    for slot, (kind, value) in fields.items():
        getattr(b, f"Prepend{kind}Slot")(slot, value, 0)
    return int(b.EndObject())


def _vector(b: Any, offsets: list[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())


def _floats(b: Any, values: list[float]) -> int:
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        b.PrependFloat32(value)
    return int(b.EndVector())
