"""Accuracies of files, computed in other processes, which may die without killing this one."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ghostnas.backends.torch_module import net_of
from ghostnas.cli import main
from ghostnas.cli.evaluate import to_text
from ghostnas.data import datasets
from ghostnas.data.images import subset
from ghostnas.deployment import bundle, evaluate, samples
from ghostnas.errors import InputError
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import zoo
from ghostnas.networks.arch import fit_to, lower

CLASSES = ("blue", "cyan", "green", "grey", "pink", "red")
ARCH = fit_to(zoo.ghostnet(0.1, 32, len(CLASSES)), resolution=32, classes=len(CLASSES))


pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """Noise images, twenty test images per class."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("pictures")
    for part, count in (("train", 2), ("test", 20)):
        for name in CLASSES:
            place = root / part / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")
    return f"folder:{root}"


@pytest.fixture(scope="module")
def known(spec):
    return datasets.load(spec).preprocessing


@pytest.fixture(scope="module")
def folder(tmp_path_factory, known):
    folder = tmp_path_factory.mktemp("evaluated")
    values = random_weights(lower(ARCH), 0)
    bundle.export(ARCH, values, ["onnx", "tflite"], folder, preprocessing=known)
    return folder


def expected(spec, known, limit):
    """Top-1 and top-5 of the network, in torch and without the code under test."""
    pictures = subset(datasets.load(spec).test, limit, samples.SEED)[0]
    inputs = pictures.images.astype(np.float32) / 255
    inputs = (inputs - np.float32(known.mean)) / np.float32(known.std)
    net = net_of(lower(ARCH), random_weights(lower(ARCH), 0))
    with torch.inference_mode():
        logits = net(torch.from_numpy(inputs.transpose(0, 3, 1, 2)).contiguous())
    best = logits.topk(5).indices.numpy() == pictures.labels[:, None]
    return best[:, 0].mean(), best.any(1).mean()


def test_it_gives_torchs_accuracies_and_reports_progress(folder, spec, known):
    said = []
    result = evaluate.evaluate(
        folder / "model.onnx", spec, workers=2, limit=101, batch_size=7, say=said.append
    )
    assert (result["top1"], result["top5"]) == pytest.approx(expected(spec, known, 101))
    assert (result["format"], result["dtype"], result["pictures"]) == ("onnx", "fp32", 101)
    assert (result["warnings"], result["skipped"], result["first_skipped"]) == ([], 0, None)
    assert result["images_per_second"] > 0
    assert said[-1].startswith("101 of 101 images, ")
    assert 5 <= len(said) <= 10
    json.dumps(result)


@pytest.mark.parametrize("kind", ["folder", pytest.param("imagenet", marks=pytest.mark.slow)])
def test_an_unreadable_image_is_counted_and_named(folder, spec, tmp_path, kind):
    """It is skipped when the data is loaded or, where images stay in files, when it is read."""
    copied = shutil.copytree(spec.removeprefix("folder:"), tmp_path / "pictures")
    if kind == "imagenet":
        (copied / "test").rename(copied / "val")
    damaged = copied / ("val" if kind == "imagenet" else "test") / "grey" / "3.png"
    damaged.write_bytes(b"no picture")
    found = evaluate.evaluate(folder / "model.onnx", f"{kind}:{copied}", workers=1)
    assert (found["pictures"], found["skipped"]) == (119, 1)
    assert found["first_skipped"].startswith(str(damaged))
    with pytest.raises(InputError, match=re.escape(str(damaged))):
        evaluate.evaluate(folder / "model.onnx", f"{kind}:{copied}", workers=1, strict=True)


def test_weights_without_preprocessing_give_a_warning(tmp_path, spec):
    bundle.export(ARCH, random_weights(lower(ARCH), 0), ["onnx"], tmp_path)
    said = []
    result = evaluate.evaluate(tmp_path, spec, workers=1, limit=10, say=said.append)
    assert result["format"] == "safetensors"
    assert "ImageNet's mean and std are assumed" in said[0]
    assert said[0].endswith(result["warnings"][0])


def test_classes_that_do_not_match_the_data_are_rejected(tmp_path, spec, known):
    fewer = fit_to(ARCH, resolution=32, classes=4)
    bundle.export(fewer, random_weights(lower(fewer), 0), ["onnx"], tmp_path / "fewer")
    turned = Preprocessing(mean=known.mean, std=known.std, classes=known.classes[::-1])
    values = random_weights(lower(ARCH), 0)
    bundle.export(ARCH, values, ["onnx"], tmp_path / "turned", preprocessing=turned)
    for name, said in [
        ("fewer", "knows 4 classes, but the data has 6"),
        ("turned", "has the classes of the data in another order"),
    ]:
        with pytest.raises(InputError, match=said):
            evaluate.evaluate(tmp_path / name / "model.onnx", spec, workers=1, limit=10)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        pytest.param(
            tuple("abcdef"),
            "none match: accuracy means nothing unless they correspond in order",
            marks=pytest.mark.slow,
        ),
        (("azure", *CLASSES[1:]), "1 of 6 differ"),
        pytest.param(CLASSES, "", marks=pytest.mark.slow),
        pytest.param((), "", marks=pytest.mark.slow),
    ],
    ids=["all", "one", "none", "unnamed"],
)
def test_other_names_for_as_many_classes_give_a_warning(tmp_path, spec, known, capsys, names, said):
    called = Preprocessing(mean=known.mean, std=known.std, classes=names)
    values = random_weights(lower(ARCH), 0)
    bundle.export(ARCH, values, ["onnx"], tmp_path, preprocessing=called)
    command = ["eval", str(tmp_path / "model.onnx"), "--data", spec, "--limit", "20"]
    assert main.main([*command, "--workers", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    warnings = result["warnings"]
    printed = to_text(result).splitlines()
    assert [f"warning: {line}" for line in warnings] == printed[1:]
    if warnings:  # the command prints that text, which took another evaluation
        assert main.main([*command, "--workers", "1"]) == 0
        assert capsys.readouterr().out.splitlines()[1:] == printed[1:]
    assert [line.partition("; ")[2] for line in warnings] == [said] * bool(said)


def test_bad_input_is_rejected_in_one_line(folder, spec, tmp_path):
    damaged = tmp_path / "model.tflite"
    damaged.write_bytes((folder / "model.tflite").read_bytes()[:-1000])
    for path, pictures, arguments, said in [
        (tmp_path / "none.onnx", spec, {}, "cannot be read"),
        (damaged, spec, {}, "damaged"),
        (folder / "model.onnx", "cifar10:/nowhere", {}, "there is no folder"),
        (folder / "model.onnx", spec, {"limit": 0}, "must be at least 1"),
        (folder / "model.onnx", spec, {"workers": 0}, "must be at least 1"),
    ]:
        with pytest.raises(InputError, match=said) as caught:
            evaluate.evaluate(path, pictures, **arguments)
        assert "\n" not in str(caught.value)


def test_a_worker_that_dies_is_an_input_error(folder, spec):
    def kill(line):
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(InputError, match=r"model\.tflite: the process that ran it died") as caught:
        evaluate.evaluate(folder / "model.tflite", spec, batch_size=2, say=kill)
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(folder, spec, tmp_path):
    """They hold the script's output open until the last of them is gone."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "from ghostnas.deployment.evaluate import evaluate\n"
        "def die(line):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if __name__ == '__main__':\n"
        f"    evaluate(Path({str(folder / 'model.onnx')!r}), {spec!r}, workers=2, say=die)\n"
    )
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL
