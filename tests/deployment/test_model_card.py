"""An export's README states what was given, and its programs run as printed."""

import ast
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ghostnas.deployment import bundle, model_card
from ghostnas.deployment.model_card import Latency, Origin
from ghostnas.ir import cost
from ghostnas.ir.graph import random_weights
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.networks import zoo
from ghostnas.networks.arch import fit_to, lower

ARCH = fit_to(zoo.ghostnet(0.1, 16, 3), resolution=16, classes=3)
KNOWN = Preprocessing(mean=(0.45, 0.5, 0.55), std=(0.2, 0.25, 0.3), classes=("cat", "dog", "cow"))
ORIGIN = Origin(
    network="GhostNet 0.1x",
    weights="trained on pets, recipe quick",
    latencies=(
        Latency(target="pixel4-int8", latency_ms=12.34, low_ms=11, high_ms=14, dtype="int8"),
        Latency(target="pixel4-fp32", latency_ms=23.45, low_ms=20, high_ms=25, dtype="fp32"),
        Latency(target="pixel1", latency_ms=56.78, low_ms=50, high_ms=60),
    ),
)
IMPORTED = {
    "torch": {"torch", "PIL"},
    "onnx": {"onnxruntime", "numpy", "PIL"},
    "tflite": {"ai_edge_litert", "numpy", "PIL"},
    "safetensors": {"safetensors"},
}
FILES = (
    *("model.pt2", "model-fp16.pt2", "model.onnx", "model-fp16.onnx", "model-int8.onnx"),
    *("model.tflite", "model-fp16.tflite", "model-int8.tflite", "model.safetensors"),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two exports that together hold every kind of file, each with an image of one colour."""
    root = tmp_path_factory.mktemp("cards")
    values = random_weights(lower(ARCH), 0)
    calibration = np.random.default_rng(0).normal(size=(16, 3, 16, 16)).astype(np.float32)
    for name, formats, dtypes in [
        ("torch", ["torch"], ["fp32", "fp16"]),
        ("others", ["onnx", "tflite"], list(bundle.DTYPES)),
    ]:
        bundle.export(
            ARCH,
            values,
            formats,
            root / name,
            dtypes=dtypes,
            preprocessing=KNOWN,
            calibration=calibration,
            origin=ORIGIN,
        )
        Image.new("RGB", (40, 30), (200, 90, 30)).save(root / name / "picture.jpg")
    return root


def programs(readme):
    """Each program in a README, by its file."""
    found = re.findall(r"`([^`]+)`, with [^\n]+:\n\n```python\n(.*?)```", readme, re.DOTALL)
    return dict(found)


def run(folder, file):
    code = programs((folder / "README.md").read_text())[file]
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def folder_of(folders, file):
    return folders / ("torch" if file.endswith(".pt2") else "others")


@pytest.fixture(scope="module")
def said_by_onnx(folders):
    return run(folders / "others", "model.onnx")


def test_every_file_has_its_program(folders):
    found = [
        file
        for name in ("torch", "others")
        for file in programs((folders / name / "README.md").read_text())
    ]
    assert sorted({*found}) == sorted(FILES)


SLOW = ("model.pt2", "model-fp16.pt2", "model-fp16.onnx", "model-fp16.tflite")


@pytest.mark.parametrize(
    "file", [pytest.param(f, marks=pytest.mark.slow if f in SLOW else ()) for f in FILES[:-1]]
)
def test_a_program_runs_as_printed_and_names_the_class(folders, said_by_onnx, file):
    said = run(folder_of(folders, file), file)
    assert said == said_by_onnx
    assert said.strip() in KNOWN.classes


def test_the_program_of_the_weights_lists_them(folders):
    said = run(folders / "others", "model.safetensors")
    assert "classifier.bias (3,)" in said.splitlines()


@pytest.mark.parametrize("file", FILES)
def test_a_program_imports_only_what_it_names(folders, file):
    readme = (folder_of(folders, file) / "README.md").read_text()
    (line,) = re.findall(rf"^`{re.escape(file)}`, with (.+):$", readme, re.MULTILINE)
    imported = set()
    for node in ast.walk(ast.parse(programs(readme)[file])):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    kind = {"pt2": "torch"}.get(file.rpartition(".")[2], file.rpartition(".")[2])
    assert imported - {"json", "pathlib"} == IMPORTED[kind]
    packages = {"PIL": "pillow", "ai_edge_litert": "ai-edge-litert"}
    assert all(packages.get(name, name) in line for name in IMPORTED[kind])


def test_every_number_has_its_origin(folders):
    text = (folders / "others" / "README.md").read_text()
    counts = cost.count(lower(ARCH))
    for part in (
        f"# GhostNet 0.1x ({ARCH.id})",
        f"| parameters | {counts.params:,} | counted",
        f"| multiply-accumulates | {counts.macs:,} | counted",
        "| latency as .tflite in int8 on pixel4-int8 | 12.34 ms (11.00 to 14.00) | predicted",
        "| latency as .tflite in fp32 or fp16 on pixel4-fp32 | 23.45 ms (20.00 to 25.00) | pred",
        "No top-1 is given: the files were not run on labelled images.",
        "Origin of the weights: trained on pets, recipe quick.",
        "mean (0.4500, 0.5000, 0.5500) and std (0.2000, 0.2500, 0.3000)",
        "input and output are int8 too",
    ):
        assert part in text
    size = (folders / "others" / "model-int8.onnx").stat().st_size
    assert f"| `model-int8.onnx` | int8 | {size / 1e6:.2f} |" in text
    assert text.count("\n```python\n") == 7
    assert "pixel1" not in text  # its dtype is not known


def test_a_latency_is_that_of_files_that_exist(folders):
    text = (folders / "torch" / "README.md").read_text()
    assert "pixel4-fp32" in text
    assert "pixel4-int8" not in text


def row(file, top1=None, **accuracy):
    known = {"top1": top1, "torch_top1": 0.5, "images": 1000, "of": "test images of pets"}
    known |= {"command": f"ghostnas eval {file} --data folder:pets"}
    kind = {"pt2": "torch"}.get(file.rpartition(".")[2], file.rpartition(".")[2])
    own = None if top1 is None else {**known, **accuracy}
    return {"file": file, "format": kind, "dtype": "fp32", "bytes": 1, "accuracy": own}


def test_an_accuracy_is_that_of_one_file_with_its_images_and_command():
    def text_of(*rows):
        return model_card.card(ARCH, cost.count(lower(ARCH)), rows, None, Origin())

    both = text_of(row("model.onnx", 0.51234), row("model.pt2", 0.5))
    assert "| `model.onnx` | fp32 | 0.00 | 51.23% | " in both
    assert "| `model.pt2` | fp32 | 0.00 | 50.00% | " in both
    assert "Top-1 of every file was measured on 1,000 test images of pets, which" in both
    assert "`ghostnas eval FILE --data folder:pets` prints it again." in both
    other = text_of(row("model.onnx", 0.5, images=10, command=None), row("model.pt2"))
    assert "| `model.pt2` | fp32 | 0.00 | - | " in other
    assert "Top-1 of `model.onnx` was measured on 10 test images" in other
    assert "prints it again" not in other


def test_unknown_facts_are_stated_as_unknown_not_invented():
    text = model_card.card(ARCH, cost.count(lower(ARCH)), [], None, Origin())
    assert "# A network (" in text
    assert "Origin of the weights: not told" in text
    assert "ImageNet's are assumed, and may be wrong" in text
    assert "the programs print numbers" in text
    assert "accuracy" not in text
    assert "latency" not in text
