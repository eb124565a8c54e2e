import numpy as np
import pytest

from ghostnas import files, weights, zoo
from ghostnas.arch import lower
from ghostnas.errors import InputError
from ghostnas.graph import random_weights


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
    with pytest.raises(InputError, match=r"net\.safetensors: is no whole") as caught:
        weights.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"none\.safetensors: cannot be read: No such file"):
        weights.load(tmp_path / "none.safetensors")


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_whole(path, b"old")

    def no_space(_descriptor):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="no space"):
        files.write_whole(path, b"new")
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("file", b"old")]
