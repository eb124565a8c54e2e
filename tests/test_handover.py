"""`ghostnas export` from the folder of a training to files that are proven, predicted and timed."""

import json
from pathlib import Path

import numpy as np
import pytest

from ghostnas import tflite, weights
from ghostnas.arch import Arch, Head, Stage, Stem, lower, to_json
from ghostnas.blocks import GhostBlock
from ghostnas.cli import main
from ghostnas.graph import random_weights
from ghostnas.model_file import open_model
from ghostnas.preprocessing import Preprocessing
from ghostnas.zoo import ghostnet

SMALL = Arch(
    stem=Stem(channels=16),
    stages=(Stage(blocks=(GhostBlock(hidden_channels=16, out_channels=16),)),),
    head=Head(channels=32, features=32),
    classes=10,
    resolution=32,
)
EXPECTED = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2), classes=tuple("abcdefghij"))


def training(folder: Path, network: Arch) -> Path:
    """What a training of `network` leaves, with random weights."""
    folder.mkdir()
    (folder / "arch.json").write_text(json.dumps(to_json(network)))
    values = random_weights(lower(network), 0)
    weights.save(values, folder / "model.safetensors", preprocessing=EXPECTED)
    result = {"data": "synthetic", "recipe": "quick", "epochs": 2, "resolution": 32, "seed": 7}
    result |= {"hardware": "a CPU", "test_accuracy": 0.625, "test_pictures": 1000}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_all_formats_and_dtypes_come_from_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = training(tmp_path / "run", SMALL), tmp_path / "out"
    command = ["export", str(run), "--dtype", "fp32,fp16,int8", "--data", "synthetic"]
    assert main([*command, "--calibration", "40", "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    names = {Path(each["file"]).name for each in result["files"]}
    assert names == {
        *("model.pt2", "model-fp16.pt2", "model.onnx", "model-fp16.onnx", "model-int8.onnx"),
        *("model.tflite", "model-fp16.tflite", "model-int8.tflite"),
    }
    assert {each["proof_pictures"] for each in result["files"]} == {32}
    for name in names:
        assert open_model(out / name).preprocessing == EXPECTED
    card = (out / "README.md").read_text()
    assert "62.5 % (1 seed)" in card
    assert "recipe quick, 2 epochs at 32 px, seed 7" in card


def test_a_tflite_file_is_timed_beside_what_the_table_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = training(tmp_path / "run", ghostnet(0.5, classes=10)), tmp_path / "out"
    command = ["export", str(run), "--format", "tflite", "--target", "arm", "--measure"]
    assert main([*command, "--rounds", "3", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    [measured] = json.loads((out / "latency.json").read_text())
    assert measured["median_ms"] > 0
    assert measured["predicted_ms"] == pytest.approx(9, rel=0.5)  # of a phone's core
    ratio = measured["predicted_ms"] / measured["median_ms"]
    assert measured["predicted_to_measured"] == pytest.approx(ratio)
    assert f"predicted {measured['predicted_ms']:.2f}" in said
    assert "pixel4-cpu1-fp32" in (out / "README.md").read_text()


def test_int8_is_calibrated_on_the_pictures_that_are_given(tmp_path: Path) -> None:
    run = training(tmp_path / "run", SMALL)
    command = ["export", str(run), "--format", "tflite", "--dtype", "int8", "--data", "synthetic"]
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    logits = []
    for pictures in ("1", "40"):
        out = tmp_path / pictures
        assert main([*command, "--calibration", pictures, "--out", str(out)]) == 0
        logits.append(open_model(out / "model-int8.tflite").run(images))
    assert not np.array_equal(*logits)


def test_what_cannot_be_exported_is_told_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = training(tmp_path / "run", SMALL)
    start = ["export", str(run), "--out", str(tmp_path / "out")]
    wrong = {
        "int8 without pictures": (["--dtype", "int8"], "--data"),
        "torch in int8": (["--format", "torch", "--dtype", "int8"], "torch is not offered in int8"),
        "unknown dtype": (["--dtype", "int4"], "'int4'"),
        "unknown data": (["--dtype", "int8", "--data", "cifar11:x"], "unknown data"),
        "unknown target": (["--target", "pixle4"], "pixle4"),
    }
    for name, (more, told) in wrong.items():
        assert main([*start, *more]) == 2, name
        said = capsys.readouterr().err.splitlines()[-1]
        assert told in said, name
    assert not (tmp_path / "out").exists()


def test_the_readers_of_the_file_and_of_the_graph_agree(tmp_path: Path) -> None:
    run = training(tmp_path / "run", SMALL)
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    assert main(["export", str(run), "--format", "tflite", "--out", str(tmp_path / "out")]) == 0
    values = weights.load(run / "model.safetensors")
    expected = open_model(run).run(images)
    found = open_model(tmp_path / "out" / "model.tflite").run(images)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    again = tflite.run(tflite.write(lower(SMALL), values), images)
    np.testing.assert_allclose(again, found, rtol=1e-5, atol=1e-5)
