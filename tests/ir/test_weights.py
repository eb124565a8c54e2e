import errno
import os

import numpy as np
import pytest
from safetensors.numpy import save as serialize

from ghostnas import files
from ghostnas.errors import InputError
from ghostnas.ir import weights
from ghostnas.ir.preprocessing import IMAGENET, Preprocessing
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import zoo
from ghostnas.networks.arch import lower


def test_weights_come_back_as_they_went_in(tmp_path):
    path = tmp_path / "new" / "net.safetensors"
    arrays = random_weights(lower(zoo.ghostnet(0.25, 32, 10)), 0)
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
    weights.save({**arrays, "transposed": transposed}, path)
    again = weights.load(path)
    assert again.keys() == arrays.keys() | {"transposed"}
    np.testing.assert_array_equal(again["transposed"], transposed)
    for key, array in arrays.items():
        assert again[key].dtype == array.dtype
        np.testing.assert_array_equal(again[key], array)


@pytest.mark.parametrize("kept", [0, 5, 100, -1], ids=["empty", "5", "100", "all-but-1"])
def test_a_damaged_file_is_refused_by_name(tmp_path, kept):
    path = tmp_path / "net.safetensors"
    weights.save({"a": np.ones(50, np.float32)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"net\.safetensors: is (not|damaged)") as caught:
        weights.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"none\.safetensors: cannot be read: No such file"):
        weights.load(tmp_path / "none.safetensors")


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_whole(path, b"old")

    def no_space(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", no_space)
    line = f"^{path}: cannot be written: No space left on device$"
    with pytest.raises(InputError, match=line):
        files.write_whole(path, b"new")
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("file", b"old")]


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_are_read_as_float32(tmp_path, kind):
    values = np.array([[0.0, -1.5], [3.1415926, 1e-3]]).astype(kind)
    (tmp_path / "net.safetensors").write_bytes(serialize({"a": values}))
    found = weights.load(tmp_path / "net.safetensors")["a"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))


def test_step_counters_are_not_weights(tmp_path):
    content = serialize({"a": np.ones(1, np.float32), "bn1.num_batches_tracked": np.array(5)})
    (tmp_path / "net.safetensors").write_bytes(content)
    assert weights.load(tmp_path / "net.safetensors").keys() == {"a"}


BAD = {
    "whole numbers": (np.ones(2, np.int32), "a is of type I32, not a float"),
    "not a number": (np.array([1, np.nan], np.float32), "a holds numbers that are not finite"),
    "infinite": (np.array([1, -np.inf], np.float16), "a holds numbers that are not finite"),
    "beyond float32": (np.array([1, 1e39]), "a holds numbers that are not finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_a_finite_float_is_refused(tmp_path, case):
    values, message = BAD[case]
    (tmp_path / "net.safetensors").write_bytes(serialize({"a": values}))
    with pytest.raises(InputError, match=message):
        weights.load(tmp_path / "net.safetensors")


def test_a_variance_below_0_is_refused(tmp_path):
    values = {"bn1.running_var": np.array([1, -1], np.float32)}
    weights.save(values, tmp_path / "net.safetensors")
    with pytest.raises(InputError, match="a variance below 0"):
        weights.load(tmp_path / "net.safetensors")


def test_the_preprocessing_travels_with_the_weights(tmp_path):
    named = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), classes=("Katze", "犬\n"))
    values = {"a": np.ones(3, np.float32)}
    for number, told in enumerate((named, IMAGENET, None)):
        path = tmp_path / f"{number}.safetensors"
        weights.save(values, path, preprocessing=told)
        assert weights.preprocessing_of(path) == told
        np.testing.assert_array_equal(weights.load(path)["a"], 1)


OTHER_PREPROCESSING = {
    "empty": "",
    "no object": "[1]",
    "no keys": "{}",
    "one channel": '{"mean": [1], "std": [1], "classes": []}',
    "no numbers": '{"mean": [NaN, 0, 0], "std": [1, 1, 1], "classes": []}',
    "no deviation": '{"mean": [0, 0, 0], "std": [1, 1, 0], "classes": []}',
    "huge": '{"mean": [1' + "0" * 400 + ', 0, 0], "std": [1, 1, 1], "classes": []}',
    "long": '{"mean": ["' + "x" * 10_000 + '", 0, 0], "std": [1, 1, 1], "classes": []}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", OTHER_PREPROCESSING.values(), ids=OTHER_PREPROCESSING)
def test_an_invalid_preprocessing_is_refused(tmp_path, text):
    content = serialize({"a": np.ones(1, np.float32)}, {weights.PREPROCESSING: text})
    (tmp_path / "net.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"net\.safetensors") as caught:
        weights.preprocessing_of(tmp_path / "net.safetensors")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).removeprefix(str(tmp_path))) < 200


def test_the_same_weights_give_the_same_bytes(tmp_path):
    values = random_weights(lower(zoo.ghostnet(0.25, 32, 10)), 0)
    for name in ("a", "b"):
        weights.save(values, tmp_path / name, preprocessing=IMAGENET)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
