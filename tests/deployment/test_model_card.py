"""An export's README states what was given, and its programs run as printed."""

import ast
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from ghostnas.cli.main import _parser
from ghostnas.deployment import bundle, model_card
from ghostnas.deployment.model_card import Latency, Origin, Search, Training
from ghostnas.ir import cost
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.ir.random_weights import random_weights
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


def front_matter(card):
    """The card's first part, which a hub reads, as YAML reads it."""
    start, text, _ = card.split("---\n", 2)
    assert start == ""
    return text


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


@pytest.mark.slow
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
    assert "Its accuracy is not known" in text
    assert "Its latency is not known." in text
    assert text.count("accuracy") == text.count("latency") == 1
    assert "## Measured on devices\n\nNothing was" in text
    assert "Not told: no search wrote this folder." in text
    assert "license:" not in front_matter(text)


TRAINING = Training(
    data="folder:/home/me/pets",
    recipe="quick",
    epochs=2,
    resolution=32,
    seed=8,
    seeds=(7, 8, 9),
    images=1280,
    hardware="a CPU",
    teacher="/home/me/teacher.onnx",
)
SEARCH = Search(
    command="ghostnas search --target arm --budget 20ms --data folder:/home/me/pets",
    space="ghostnet",
    target="arm",
    budgets=("20ms", "6MB"),
    trials=12,
    scorer="a training",
    sampler="surrogate",
    data="folder:/home/me/pets",
    seed=3,
)


def card_of(*rows, measured=(), **origin):
    counts = cost.count(lower(ARCH))
    return model_card.card(ARCH, counts, rows, KNOWN, Origin(**origin), measured)


def test_a_hub_reads_the_front_matter():
    rows = (row("model.onnx", 0.5123), row("model.pt2", 0.5), row("model.safetensors"))
    found = yaml.safe_load(front_matter(card_of(*rows, network='My "net": 1', license="mit")))
    assert (found["license"], found["pipeline_tag"]) == ("mit", "image-classification")
    assert found["library_name"] == "ghostnas"
    assert {"ghostnet", "onnx", "torch", "safetensors"} <= set(found["tags"])
    assert found["metrics"] == ["accuracy"]
    [model] = found["model-index"]
    assert model["name"] == 'My "net": 1'
    [result] = model["results"]
    assert result["task"] == {"type": "image-classification"}
    assert result["dataset"] == {"name": "test images of pets", "type": "pets"}
    assert [each["value"] for each in result["metrics"]] == [0.5123, 0.5]
    assert result["metrics"][0]["name"] == "Top-1 of model.onnx"


def test_what_was_not_measured_is_not_in_the_front_matter():
    found = yaml.safe_load(front_matter(card_of(row("model.onnx"))))
    assert not {"license", "metrics", "model-index"} & set(found)


def test_the_training_and_the_search_are_told_without_folders():
    text = card_of(training=TRAINING, search=SEARCH)
    for part in (
        "| data | folder:pets |",
        "| recipe | quick: 2 epochs at 32 px of 1,280 images |",
        "| seed | 8, one of 7, 8, 9 |",
        "| teacher | teacher.onnx |",
        "a search of 12 trials in the space ghostnet, for arm under 20ms, 6MB",
        "ghostnas search --target arm --budget 20ms --data folder:pets\n",
    ):
        assert part in text
    assert "/home" not in text
    [command] = re.findall(r"```sh\nghostnas (.+)\n```", text)
    assert _parser().parse_args(command.split()).target == "arm"


def test_each_file_that_was_timed_has_a_row():
    timed = {"file": "out/model.tflite", "dtype": "fp32", "median_ms": 1.234, "p10_ms": 1.2}
    timed |= {"p90_ms": 1.3, "core": "cortex-a76", "threads": 2, "device": "Pixel 4"}
    timed |= {"runtime": "ai-edge-litert 2.3.0, XNNPACK", "memory_bytes": 9_750_000}
    old = {key: timed[key] for key in ("median_ms", "p10_ms", "p90_ms", "core", "threads")}
    old |= {"file": "old.tflite", "dtype": "int8"}
    refused = {"file": "bad.tflite", "dtype": "int8", "refused": "XNNPACK took parts"}
    text = card_of(measured=[{**timed, "date": "2026-11-28"}, old, refused])
    assert (
        "| `model.tflite` | fp32 | Pixel 4 | cortex-a76 | 2 | ai-edge-litert 2.3.0, XNNPACK | "
        "1.23 (1.20 to 1.30) | 9.8 MB | 2026-11-28 |\n"
    ) in text
    assert "| `old.tflite` | int8 | not told | cortex-a76 | 2 | not told | 1.23 " in text
    assert "| `bad.tflite` | int8 | - | - | - | - | refused: XNNPACK took parts | - | - |" in text
    assert "Its latency was measured on the devices above and on no others." in text
    assert "Its latency is not known." in card_of(measured=[refused])


def test_a_peak_is_computed_for_each_width_of_numbers(folders):
    text = (folders / "others" / "README.md").read_text()
    for names, dtype in (("fp32 and fp16", "fp32"), ("int8", "int8")):
        peak = cost.count(lower(ARCH), dtype).peak_activation_bytes
        assert f"| largest maps at one time, {names} | {peak / 1e6:.2f} MB | computed" in text


def test_what_was_timed_is_added_to_a_card_and_outlives_a_second_export(tmp_path):
    values = random_weights(lower(ARCH), 0)
    origin = Origin(network="mine", training=TRAINING, search=SEARCH, license="mit")
    bundle.export(ARCH, values, ["tflite"], tmp_path, preprocessing=KNOWN, origin=origin)
    before = (tmp_path / "README.md").read_text()
    timed = {"file": str(tmp_path / "model.tflite"), "dtype": "fp32", "median_ms": 1.5}
    timed |= {"p10_ms": 1.4, "p90_ms": 1.6, "core": "cortex-a76", "threads": 1}
    bundle.add_measurements(tmp_path, [timed])
    after = (tmp_path / "README.md").read_text()
    start, end = "## Measured on devices\n", "\n## Files"
    assert before.split(start)[0] == after.split(start)[0]
    assert (
        before.split(end)[1].split("## Intended")[0] == after.split(end)[1].split("## Intended")[0]
    )
    assert "| 1.50 (1.40 to 1.60) |" in after
    assert bundle.from_manifest(tmp_path / "export.json") == origin
    bundle.export(ARCH, values, ["onnx"], tmp_path, preprocessing=KNOWN, origin=origin)
    assert "| 1.50 (1.40 to 1.60) |" in (tmp_path / "README.md").read_text()
    bundle.export(ARCH, values, ["tflite"], tmp_path, preprocessing=KNOWN, origin=origin)
    assert "1.50" not in (tmp_path / "README.md").read_text()  # another file now
