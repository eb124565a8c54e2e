"""`ghostnas train` in its own processes: what it writes, and that no way of stopping loses any."""

import csv
import json
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import forked
import numpy as np
import pytest
from forked import Forked
from small import write_pictures

from ghostnas.cli.main import main
from ghostnas.ir import weights
from ghostnas.ir.graph import Weights
from ghostnas.networks import arch

EPOCHS = 24  # of what is killed
RECIPE = """
epochs = 6
batch_size = 16
learning_rate = 0.05
optimizer = "sgd"
warmup = 0.1
weight_decay = 1e-4
crop_padding = 2
ema = 0.9
dropout = 0.1
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    write_pictures(folder)
    (folder / "short.toml").write_text(RECIPE)
    return folder


def command(place: Path, out: Path, *more: str) -> list[str]:
    return [
        *("train", "ghostnet", "--width", "0.1", "--recipe", str(place / "short.toml")),
        *("--data", f"folder:{place / 'pictures'}", "--device", "cpu", "--threads", "1"),
        *("--out", str(out), *more),
    ]


@pytest.fixture(scope="module")
def result(place: Path) -> dict:
    ran = forked.run([*command(place, place / "run"), "--json"])
    assert ran.returncode == 0, ran.stderr
    assert "images per second" in ran.stderr
    return json.loads(ran.stdout)


def test_the_folder_holds_the_network_its_weights_and_its_curve(place: Path, result: dict) -> None:
    run = place / "run"
    network = arch.load(run / "arch.json")
    assert network.id == result["id"]
    assert network.classes == 2
    assert network.resolution == result["resolution"]
    kept = weights.preprocessing_of(run / "model.safetensors")
    assert len(kept.classes) == 2
    rows = list(csv.DictReader((run / "curve.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)
    assert float(rows[-1]["seconds"]) <= result["seconds"]
    assert json.loads((run / "result.json").read_text()) == result
    assert 0 <= result["test_accuracy"] <= 1
    assert result["accuracy"] is None  # no images were held out from the training
    assert result["test_pictures"] > 0
    assert float(rows[-1]["accuracy"]) == pytest.approx(result["test_accuracy"], abs=1e-4)


def test_a_finished_training_is_not_started_again(
    place: Path, result: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (place / "run" / "model.safetensors").read_bytes()
    assert main(command(place, place / "run")) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", str(place / "run"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (place / "run" / "model.safetensors").read_bytes() == before
    assert again["test_accuracy"] == result["test_accuracy"]
    assert again["seconds"] == pytest.approx(result["seconds"], abs=2.0)


@pytest.mark.slow
def test_a_network_for_smaller_images_stays_the_same_on_resume(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = command(place, tmp_path / "run", "--resolution", "8", "--epochs", "1", "--json")
    assert main(small) == 0
    begun = json.loads(capsys.readouterr().out)
    weights_before = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--json"]) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert begun["resolution"] == resumed["resolution"] == 8
    assert (begun["id"], begun["macs"]) == (resumed["id"], resumed["macs"])
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights_before


def test_changed_images_and_damaged_files_are_rejected_on_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = write_pictures(tmp_path)
    (tmp_path / "short.toml").write_text(RECIPE)
    run = tmp_path / "run"
    assert main(command(tmp_path, run, "--epochs", "1")) == 0
    resume = ["train", "--resume", "--out", str(run)]
    kept = (run / "curve.csv").read_bytes()
    (run / "curve.csv").write_text("epoch,step\n1,2\n")
    capsys.readouterr()
    assert main(resume) == 2
    assert "is not a training curve" in capsys.readouterr().err
    (run / "curve.csv").write_bytes(kept)
    (pictures / "dark" / "0.png").unlink()
    assert main(resume) == 2
    assert "the images have changed since the training" in capsys.readouterr().err
    text = (run / "train.toml").read_text()
    (run / "train.toml").write_text(text.replace("seed = 0", "seed = 'a'"))
    assert main(resume) == 2
    assert 'is damaged: seed = "a"' in capsys.readouterr().err


def test_errors_are_reported_before_a_folder_is_made(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = command(place, tmp_path / "out")
    wrong = {
        "unknown network": (["train", "gostnet", *good[4:]], "unknown network"),
        "unknown recipe": ([*good, "--recipe", "slow"], "unknown recipe"),
        "missing data": ([*good, "--data", f"folder:{tmp_path / 'none'}"], "no folder"),
        "missing teacher": ([*good, "--teacher", str(tmp_path / "none.onnx")], "none.onnx"),
        "missing weights": ([*good, "--init", str(tmp_path / "none.pth")], "none.pth"),
        "no data": (["train", "ghostnet", "--out", str(tmp_path / "out")], "--data"),
        "no network": (["train", "--data", "synthetic", "--out", str(tmp_path / "out")], "ARCH"),
        "nothing to resume": (["train", "--resume", "--out", str(tmp_path / "out")], "no training"),
    }
    for name, (arguments, told) in wrong.items():
        assert main(arguments) == 2, name
        said = capsys.readouterr().err
        assert told in said, name
        assert said.count("\n") == 1, name
    assert not (tmp_path / "out").exists()


def test_a_training_starts_from_anothers_weights_and_learns_from_it(
    place: Path, result: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(place / "run" / "model.safetensors")
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    shutil.copy(place / "run" / "arch.json", teacher)
    known = weights.preprocessing_of(place / "run" / "model.safetensors")
    renamed = replace(known, classes=("cat", "dog"))
    weights.save(weights.load(Path(model)), teacher / "model.safetensors", preprocessing=renamed)
    more = ["--init", model, "--teacher", str(teacher), "--epochs", "1", "--json"]
    assert main(command(place, tmp_path / "student", *more)) == 0
    output = capsys.readouterr()
    assert model in output.err  # what was taken is said
    assert f"teacher {teacher}: calls its classes cat, dog, but the data says" in output.err
    assert json.loads(output.out)["epochs"] == 1


@pytest.mark.slow
def test_a_teacher_teaches_the_same_in_every_format(
    place: Path, result: dict, tmp_path: Path
) -> None:
    teacher = place / "run"
    assert main(["export", str(teacher), "--dtype", "fp32", "--out", str(tmp_path / "export")]) == 0
    exported = [tmp_path / "export" / f"model.{kind}" for kind in ("pt2", "onnx", "tflite")]

    def taught_by(*model: Path) -> Weights:
        out = tmp_path / f"by{model[0].suffix}" if model else tmp_path / "untaught"
        options = [each for path in model for each in ("--teacher", str(path))]
        assert main(command(place, out, *options, "--epochs", "2")) == 0
        return weights.load(out / "model.safetensors")

    def distance(a: Weights, b: Weights) -> float:
        return float(np.sqrt(sum(np.square(a[key] - b[key]).sum() for key in a)))

    # Rounding differs by format and by CPU, and every step of a training amplifies it.
    by_folder = taught_by(teacher)
    untaught = distance(taught_by(), by_folder)
    for model in exported:
        assert distance(taught_by(model), by_folder) < untaught / 5, model


def wait_for(path: Path, process: Forked) -> None:
    while not path.exists():
        assert process.poll() is None, process.said()
        time.sleep(0.01)


@pytest.mark.slow
def test_ten_kills_at_any_moment_change_no_bit(place: Path, tmp_path: Path) -> None:
    epochs = ["--epochs", str(EPOCHS)]
    process = Forked(command(place, tmp_path / "whole", *epochs))
    wait_for(tmp_path / "whole" / "train.toml", process)
    began = time.monotonic()
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    length = time.monotonic() - began
    expected = weights.load(tmp_path / "whole" / "model.safetensors")
    rng = random.Random(0)
    killed = 0
    while killed < 10:
        out = tmp_path / f"killed{killed}"
        process = Forked(command(place, out, *epochs, "--checkpoint-every", "0s"))
        wait_for(out / "train.toml", process)
        time.sleep(rng.uniform(0, 1.5) * length)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (out / "result.json").exists():  # it had finished: try again, for a shorter time
            shutil.rmtree(out)
            continue
        killed += 1
        resumed = Forked(["train", "--resume", "--out", str(out)])
        _, errors = resumed.communicate()
        assert resumed.returncode == 0, errors
        found = weights.load(out / "model.safetensors")
        for key, array in expected.items():
            np.testing.assert_array_equal(array, found[key], err_msg=f"{killed}: {key}")
        curve = [
            row["epoch"] for row in csv.DictReader((out / "curve.csv").read_text().split("\n"))
        ]
        assert curve == [str(epoch) for epoch in range(1, EPOCHS + 1)]
