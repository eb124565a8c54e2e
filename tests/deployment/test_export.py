"""`ghostnas export` from a training's folder to files that are verified, predicted and timed."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ghostnas.backends import tflite_runtime, tflite_writer
from ghostnas.backends.model_file import open_model
from ghostnas.cli.evaluate import to_text
from ghostnas.cli.main import main
from ghostnas.data import synthetic
from ghostnas.deployment import bundle
from ghostnas.deployment.model_card import Origin, Search
from ghostnas.devices import table_build
from ghostnas.devices.bench import DeviceBench, Setting
from ghostnas.devices.device import open_device
from ghostnas.ir import weights
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.ir.random_weights import random_weights
from ghostnas.latency import table as latency_table
from ghostnas.networks.arch import Arch, Head, Stage, Stem, fit_to, load, lower, to_json
from ghostnas.networks.blocks import GhostBlock
from ghostnas.networks.zoo import ghostnet
from ghostnas.training import recipe, settings

SMALL = Arch(
    stem=Stem(channels=16),
    stages=(Stage(blocks=(GhostBlock(hidden_channels=16, out_channels=16),)),),
    head=Head(channels=32, features=32),
    classes=10,
    resolution=32,
)
EXPECTED = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2), classes=synthetic.CLASSES)


def training(folder: Path, network: Arch, expected: Preprocessing = EXPECTED) -> Path:
    """What a training of `network` leaves behind, with random weights."""
    folder.mkdir()
    (folder / "arch.json").write_text(json.dumps(to_json(network)))
    values = random_weights(lower(network), 0)
    weights.save(values, folder / "model.safetensors", preprocessing=expected)
    result = {"data": "synthetic", "recipe": "quick", "epochs": 2, "resolution": 32, "seed": 7}
    result |= {"hardware": "a CPU", "test_accuracy": 0.625, "test_pictures": 1000}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_all_formats_and_dtypes_come_from_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = training(tmp_path / "run", SMALL), tmp_path / "out"
    command = ["export", str(run), "--dtype", "fp32,fp16,int8", "--data", "synthetic"]
    command += ["--calibration", "40", "--test-images", "200"]
    assert main([*command, "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    names = {Path(each["file"]).name for each in result["files"]}
    assert names == {
        *("model.pt2", "model-fp16.pt2", "model.onnx", "model-fp16.onnx", "model-int8.onnx"),
        *("model.tflite", "model-fp16.tflite", "model-int8.tflite"),
    }
    assert {each["proof_images"] for each in result["files"]} == {200}
    for name in names:
        assert open_model(out / name).preprocessing == EXPECTED
    card = (out / "README.md").read_text()
    assert "62.5" not in card  # the training's, and no file's
    assert "recipe quick, 2 epochs at 32 px, seed 7" in card


pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Some of the synthetic images, as files: other processes load them in no time."""
    folder = tmp_path_factory.mktemp("labelled")
    for part, count, seed in (("train", 40, 1), ("test", 300, 2)):
        images, labels = synthetic.draw(count, seed)
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            place = folder / part / synthetic.CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{index}.png")
    return f"folder:{folder}"


@pytest.mark.slow
@pytest.mark.parametrize("limit", [["--test-images", "150"], []], ids=["some", "all"])
def test_an_accuracy_is_what_its_command_prints(
    labelled: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    limit: list[str],
) -> None:
    known = replace(EXPECTED, classes=tuple(sorted(EXPECTED.classes)))  # as folders are read
    run, out = training(tmp_path / "run", SMALL, known), tmp_path / "out"
    command = ["export", str(run), "--dtype", "int8", "--data", labelled, *limit]
    assert main([*command, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    monkeypatch.chdir(out)
    rows = json.loads((out / "export.json").read_text())["files"]
    assert len(rows) == 3
    for row in rows:
        accuracy = row["accuracy"]
        assert accuracy["images"] == (150 if limit else 300)
        program, *arguments = shlex.split(accuracy["command"])
        assert (program, "--limit" in arguments) == ("ghostnas", bool(limit))
        arguments += ["--workers", "1"]
        assert main([*arguments, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["top1"] == accuracy["top1"]
        printed = to_text(found)
        assert f"{row['file']}: top-1 {accuracy['top1']:.2%}" in printed
        assert f"| `{row['file']}` | {row['dtype']} | " in (out / "README.md").read_text()
        assert f" | {accuracy['top1']:.2%} | " in (out / "README.md").read_text()
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith(printed.partition(" images;")[0])
    assert f"top-1 {rows[0]['accuracy']['top1']:.2%} of {rows[0]['accuracy']['images']}" in told


@pytest.mark.parametrize("data", ["synthetic", "cifar10:/nowhere"])
def test_a_training_is_evaluated_on_its_own_data_if_readable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str
) -> None:
    run, out = training(tmp_path / "run", SMALL), tmp_path / "out"
    asked = settings.Settings(data=data, recipe_name="quick")
    text = settings.to_text(asked, recipe.load("quick"), "0123")
    (run / "train.toml").write_text(text)
    command = ["export", str(run), "--format", "onnx", "--out", str(out)]
    assert main([*command, "--test-images", "50"]) == 0
    said = capsys.readouterr().err
    accuracies = [row["accuracy"] for row in json.loads((out / "export.json").read_text())["files"]]
    if data == "synthetic":
        assert [each["images"] for each in accuracies] == [50, 50]
    else:
        assert accuracies == [None, None]
        assert "no accuracy is claimed: data 'cifar10:/nowhere': there is no folder" in said


@pytest.mark.parametrize(
    ("classes", "said", "claimed"),
    [
        (EXPECTED.classes, "", True),
        ((), "", True),
        (("cat", *EXPECTED.classes[1:]), "1 of 10 differ", True),
        (tuple("abcdefghij"), "no accuracy is claimed on synthetic: the network calls", False),
        (EXPECTED.classes[::-1], "no accuracy is claimed on synthetic: the network has", False),
    ],
    ids=["same", "unnamed", "one other", "all others", "another order"],
)
def test_an_accuracy_needs_the_classes_of_the_data(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    classes: tuple[str, ...],
    said: str,
    claimed: bool,
) -> None:
    run = training(tmp_path / "run", SMALL, replace(EXPECTED, classes=classes))
    out = tmp_path / "out"
    command = ["export", str(run), "--format", "onnx", "--data", "synthetic", "--out", str(out)]
    assert main([*command, "--test-images", "20"]) == 0
    assert said in capsys.readouterr().err
    for row in json.loads((out / "export.json").read_text())["files"]:
        assert (row["accuracy"] is not None) == claimed


def test_the_size_of_trained_weights_changes_only_where_no_stride_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At 16 px some strides of 2 run as 1; at 224 px they would return, making another network."""
    trained = fit_to(ghostnet(0.25, classes=10), resolution=16, classes=10)
    assert trained.dropped_strides == 3
    run = training(tmp_path / "run", trained)
    start = ["export", str(run), "--format", "onnx", "--out"]
    for resolution in (None, 16, 18):
        out = tmp_path / f"out{resolution}"
        more = [] if resolution is None else ["--resolution", str(resolution)]
        assert main([*start, str(out), *more]) == 0
        written = load(out / "arch.json")
        assert written == replace(trained, resolution=resolution or 16)
        assert open_model(out / "model.onnx").resolution == written.resolution
    capsys.readouterr()
    assert main([*start, str(tmp_path / "large"), "--resolution", "224"]) == 2
    said = capsys.readouterr().err
    assert "its weights are for 16 px with 3 strides dropped" in said
    assert said.endswith("ghostnas train ... --resolution 224\n")
    assert not (tmp_path / "large").exists()


def test_an_input_size_that_a_recipe_chose_keeps_the_strides_of_its_data(tmp_path: Path) -> None:
    """Training at 16 px on images that come at 32 px drops the strides that 32 px drops."""
    trained = replace(fit_to(ghostnet(0.25, classes=10), resolution=32, classes=10), resolution=16)
    run, out = training(tmp_path / "run", trained), tmp_path / "out"
    command = ["export", str(run), "--format", "onnx", "--resolution", "16", "--out", str(out)]
    assert main(command) == 0
    assert load(out / "arch.json") == trained


def test_a_tflite_file_is_timed_and_compared_with_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = training(tmp_path / "run", ghostnet(0.5, classes=10)), tmp_path / "out"
    command = ["export", str(run), "--format", "tflite", "--target", "arm", "--measure"]
    assert main([*command, "--rounds", "3", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    [measured] = json.loads((out / "latency.json").read_text())
    assert measured["median_ms"] > 0
    assert measured["predicted_ms"] == pytest.approx(9, rel=0.5)  # of a phone's core
    assert "predicted_to_measured" not in measured
    assert f"predicted {measured['predicted_ms']:.2f}" in said
    card = (out / "README.md").read_text()
    assert f"| {measured['runtime']} | {measured['median_ms']:.2f} (" in card
    assert measured["runtime"].startswith("ai-edge-litert ")
    assert "table pixel4-cpu1-fp32 is for another kind of device: kryo-485-gold, 1 thread" in said
    card = (out / "README.md").read_text()
    assert "latency as .tflite in fp32 on pixel4-cpu1-fp32" in card


def test_a_latency_is_compared_with_a_table_of_the_same_kind_of_core(tmp_path: Path) -> None:
    """Whatever the core is: `of_core` has the name that the bench reads here."""
    arm = latency_table.load("arm")
    with open_device("local") as device:
        bench = DeviceBench(device, Setting(rounds=1, python=sys.executable))
    core = table_build.origin_of(bench).core
    for name, its_core in (("of_core", core), ("of_other", f"not {core}")):
        table = replace(arm, name=name, origin=replace(arm.origin, core=its_core))
        latency_table.save(table, tmp_path / f"{name}.csv")
    run, out = training(tmp_path / "run", ghostnet(0.5, classes=10)), tmp_path / "out"
    command = ["export", str(run), "--format", "tflite", "--dtype", "fp16,fp32", "--measure"]
    command += ["--target", str(tmp_path / "of_other.csv"), "--rounds", "1"]
    assert main([*command, "--target", str(tmp_path / "of_core.csv"), "--out", str(out)]) == 0
    measured = json.loads((out / "latency.json").read_text())
    assert [each["dtype"] for each in measured] == ["fp16", "fp32"]
    for each in measured:
        assert each["target"] == "of_core"
        ratio = each["predicted_ms"] / each["median_ms"]
        assert each["predicted_to_measured"] == pytest.approx(ratio)


def test_int8_is_calibrated_on_the_given_images(tmp_path: Path) -> None:
    run = training(tmp_path / "run", SMALL)
    command = ["export", str(run), "--format", "tflite", "--dtype", "int8", "--data", "synthetic"]
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    logits = []
    for pictures in ("1", "40"):
        out = tmp_path / pictures
        assert main([*command, "--calibration", pictures, "--out", str(out)]) == 0
        logits.append(open_model(out / "model-int8.tflite").run(images))
    assert not np.array_equal(*logits)


def test_a_failed_export_is_explained_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = training(tmp_path / "run", SMALL)
    start = ["export", str(run), "--out", str(tmp_path / "out")]
    wrong = {
        "int8 without images": (["--dtype", "int8"], "--data"),
        "target of int8 for float": (
            ["--target", "pixel4-cpu1-int8"],
            "'pixel4-cpu1-int8' is for files in int8; none is exported: add --dtype int8",
        ),
        "target of float for int8": (
            ["--target", "arm", "--dtype", "int8", "--data", "synthetic"],
            "'arm' is for files in fp32 or fp16; none is exported: add --dtype fp32",
        ),
        "measuring no .tflite": (["--format", "onnx", "--measure"], "add tflite to --format"),
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
    again = tflite_runtime.run_model(tflite_writer.write(lower(SMALL), values), images)
    np.testing.assert_allclose(again, found, rtol=1e-5, atol=1e-5)


def test_a_training_of_a_searched_network_tells_the_search_on_its_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = Search(
        command="ghostnas search --target arm --budget 20ms",
        space="ghostnet",
        target="arm",
        budgets=("20ms",),
        trials=6,
        scorer="a training",
        sampler="surrogate",
        data="synthetic",
        seed=0,
    )
    values = random_weights(lower(SMALL), 0)
    found = tmp_path / "searched" / "export"
    bundle.export(SMALL, values, ["onnx"], found, origin=Origin(network="mine", search=search))
    run = training(tmp_path / "run", SMALL)
    asked = settings.Settings(data="synthetic", recipe_name="quick", network=str(found.parent))
    text = settings.to_text(asked, recipe.load("quick"), "x")
    (run / "train.toml").write_text(text)
    command = ["export", str(run), "--format", "onnx", "--test-images", "0", "--license", "mit"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Found by a search of 6 trials in the space ghostnet, for arm under 20ms;" in card
    assert "| recipe | quick: 2 epochs at 32 px |" in card
    assert card.startswith('---\nlicense: "mit"\n')
