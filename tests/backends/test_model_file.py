"""Opened files give torch's logits; damaged ones are refused in one line."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from ghostnas.backends import tflite_writer
from ghostnas.backends.model_file import open_model
from ghostnas.backends.torch_module import net_of
from ghostnas.deployment import bundle
from ghostnas.errors import InputError
from ghostnas.files import SEAL_MARK, SEAL_NAME
from ghostnas.ir import weights
from ghostnas.ir.preprocessing import IMAGENET, Preprocessing
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import zoo
from ghostnas.networks.arch import fit_to, lower, to_json

ARCH = fit_to(zoo.ghostnet(0.1, 16, 4), resolution=16, classes=4)
KNOWN = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), classes=("a", "b", "c", "d"))
SUFFIXES = (".pt2", ".onnx", ".tflite", ".safetensors")


@pytest.fixture(scope="module")
def values():
    return random_weights(lower(ARCH), 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("exported")
    bundle.export(ARCH, values, list(bundle.FORMATS), folder, preprocessing=KNOWN)
    return folder


def refused(path):
    """The one line with which a file is refused."""
    with pytest.raises(InputError) as caught:
        open_model(path)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 400 + len(str(path))
    assert str(path) in said or str(path.parent) in said
    return said


@pytest.mark.parametrize("name", ["", *(f"model{suffix}" for suffix in SUFFIXES)])
def test_every_kind_of_file_and_their_folder_give_torchs_logits(folder, values, name):
    model = open_model(folder / name)
    assert (model.resolution, model.classes, model.dtype) == (16, 4, "fp32")
    assert (model.preprocessing, model.preprocessing_known) == (KNOWN, True)
    images = np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype(np.float32)
    with torch.inference_mode():
        expected = net_of(lower(ARCH), values)(torch.from_numpy(images)).numpy()
    logits = model.run(images)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_a_search_folder_gives_what_it_exported(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run" / "export")
    assert open_model(tmp_path / "run").path == tmp_path / "run" / "export" / "model.safetensors"


def test_imagenets_numbers_are_used_where_a_file_says_nothing(tmp_path, values):
    bundle.export(ARCH, values, ["onnx"], tmp_path)
    for name in ("model.onnx", "model.safetensors"):
        model = open_model(tmp_path / name)
        assert (model.preprocessing, model.preprocessing_known) == (IMAGENET, False)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0, 3, 100, 0.5, 0.9, -1])
def test_a_truncated_file_is_refused(folder, tmp_path, suffix, kept):
    shutil.copy(folder / "arch.json", tmp_path)
    content = (folder / f"model{suffix}").read_bytes()
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    refused(path)


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_a_flipped_bit_is_refused(folder, tmp_path, suffix):
    content = (folder / f"model{suffix}").read_bytes()
    mark = content.index(SEAL_NAME)
    rng = np.random.default_rng(0)
    path = tmp_path / f"model{suffix}"
    for at in rng.integers(0, len(content), 100):
        if mark <= at < mark + len(SEAL_MARK):
            continue
        flipped = bytearray(content)
        flipped[at] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        assert "is damaged" in refused(path)


@pytest.mark.slow
def test_a_flipped_bit_of_a_program_is_refused_or_changes_nothing(folder, tmp_path):
    """A .pt2 is a zip archive: everything in its files has a checksum, the padding has none."""
    content = (folder / "model.pt2").read_bytes()
    images = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    expected = open_model(folder / "model.pt2").run(images)
    rng = np.random.default_rng(0)
    path = tmp_path / "model.pt2"
    refusals = 0
    for at in rng.integers(0, len(content), 12):
        flipped = bytearray(content)
        flipped[at] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            logits = open_model(path).run(images)
        except InputError:
            refusals += 1
        else:
            np.testing.assert_array_equal(logits, expected)
    assert refusals >= 6


def test_files_that_are_not_models_are_refused(folder, tmp_path, values):
    for name, said in [
        ("none.onnx", "cannot be read: No such file"),
        ("model.h5", "is not a model; known: .pt2, .onnx, .tflite, .safetensors"),
        ("", "holds no model.safetensors"),
    ]:
        assert said in refused(tmp_path / name)
    for suffix in SUFFIXES[:3]:
        path = tmp_path / f"text{suffix}"
        path.write_text("no model")
        assert "damaged or of an unknown kind" in refused(path)
    weights.save(values, tmp_path / "model.safetensors")
    assert "arch.json: cannot be read" in refused(tmp_path)
    other = fit_to(zoo.ghostnet(0.2, 16, 4), resolution=16, classes=4)
    (tmp_path / "arch.json").write_text(json.dumps(to_json(other)))
    assert "does not fit the arch.json beside it" in refused(tmp_path)


def onnx_file(path, shape, out, kind=TensorProto.FLOAT):
    """A classifier made elsewhere: the mean over the image, repeated."""
    nodes = [
        helper.make_node("ReduceMean", ["in", "axes"], ["means"], keepdims=0),
        helper.make_node("Concat", ["means"] * (out // 3), ["out"], axis=1),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])
    graph = helper.make_graph(
        nodes,
        "other",
        [helper.make_tensor_value_info("in", kind, shape)],
        [helper.make_tensor_value_info("out", kind, [shape[0], out])],
        [axes],
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)


def test_an_onnx_file_made_elsewhere_runs_in_fixed_batches_too(tmp_path):
    images = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    for batch in ("N", 1, 2):
        onnx_file(tmp_path / "other.onnx", [batch, 3, 8, 8], 6)
        model = open_model(tmp_path / "other.onnx")
        assert (model.dtype, model.resolution, model.classes) == (None, 8, 6)
        np.testing.assert_allclose(
            model.run(images), np.tile(images.mean((2, 3)), (1, 2)), atol=1e-6
        )


def test_a_model_that_does_not_take_square_rgb_images_is_refused(tmp_path):
    for shape in ([1, 3, 8, 9], [1, 4, 8, 8], ["N", 3, "H", "W"]):
        onnx_file(tmp_path / "other.onnx", shape, 6)
        assert "other.onnx: " in refused(tmp_path / "other.onnx")


def test_a_file_whose_logits_are_not_numbers_is_refused(tmp_path):
    graph = lower(ARCH)
    broken = random_weights(graph, 0)
    broken["classifier.bias"][1] = np.nan
    (tmp_path / "nan.tflite").write_bytes(tflite_writer.write(graph, broken))
    assert "does not give 4 finite numbers" in refused(tmp_path / "nan.tflite")
