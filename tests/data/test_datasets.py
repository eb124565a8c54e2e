import json

import numpy as np
import pytest
from PIL import Image

from ghostnas.data import datasets, image_folder
from ghostnas.errors import InputError


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cifra10:x", r"'cifra10:x'.*synthetic.*cifar10:DIR.*folder:DIR"),
        ("", "unknown data ''"),
        ("/some/folder", "unknown data"),
        ("folder", "write folder:DIR"),
        ("cifar10", "write cifar10:DIR"),
        ("cifar100", "write cifar100:DIR"),
        ("imagenet", "write imagenet:DIR"),
        ("cifar10:", "write cifar10:DIR"),
        ("synthetic:x", "write synthetic"),
        ("folder:/nowhere/at/all", "there is no folder /nowhere/at/all"),
    ],
)
def test_a_bad_spec_is_refused(spec, message):
    with pytest.raises(InputError, match=message):
        datasets.load(spec)


def test_synthetic_is_balanced_and_its_test_images_differ():
    dataset = datasets.load("synthetic")
    for pictures, count in ((dataset.train, 5000), (dataset.test, 1000)):
        assert (pictures.images.shape, pictures.images.dtype) == ((count, 32, 32, 3), np.uint8)
        assert np.bincount(pictures.labels).tolist() == [count // 10] * 10
    seen = {image.tobytes() for image in dataset.train.images}
    assert not any(image.tobytes() in seen for image in dataset.test.images)


def write_pictures(folder, counts):
    """Noise, brighter in red, with this many images per class."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers([100, 0, 0], [200, 50, 10], (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def test_mean_and_std_are_those_of_the_training_images(tmp_path):
    write_pictures(tmp_path / "train", {"a": 4, "b": 5})
    write_pictures(tmp_path / "test", {"a": 2, "b": 2})
    dataset = datasets.load(f"folder:{tmp_path}")
    values = dataset.train.images / 255
    assert dataset.preprocessing.mean == pytest.approx(values.mean((0, 1, 2)))
    assert dataset.preprocessing.std == pytest.approx(values.std((0, 1, 2)))
    assert dataset.preprocessing.classes == dataset.classes == ("a", "b")


def test_no_std_is_zero(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGB", (16, 16), (255, 51, 0)).save(tmp_path / name / f"{number}.png")
    found = datasets.load(f"folder:{tmp_path}").preprocessing
    assert found.mean == pytest.approx((1, 0.2, 0))
    assert found.std == pytest.approx((1e-3, 1e-3, 1e-3))


# check


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_check_counts_classes_and_names_what_cannot_be_read(tmp_path, monkeypatch, in_memory):
    write_pictures(tmp_path / "train", {"a": 6, "b": 3, "c": 5})
    write_pictures(tmp_path / "test", {"a": 2, "b": 2})
    broken = tmp_path / "train" / "b" / "1.png"
    broken.write_bytes(broken.read_bytes()[:300])
    (tmp_path / "test" / "a" / "0.png").write_bytes(b"")
    if not in_memory:
        monkeypatch.setattr(image_folder, "BYTES_IN_MEMORY", 0)
        monkeypatch.setattr(datasets, "CHECKED_A_LINE", 10)
    lines = []
    found = datasets.check(f"folder:{tmp_path}", say=lines.append)
    assert (found["classes"], found["resolution"], found["in_memory"]) == (3, 16, in_memory)
    assert found["train"] == {
        "pictures": 13,
        "fewest": {"class": "b", "pictures": 2},
        "most": {"class": "a", "pictures": 6},
    }
    assert found["test"]["pictures"] == 3
    assert found["test"]["fewest"] == {"class": "c", "pictures": 0}
    named = [line.split(": ")[0] for line in found["skipped"]]
    assert named == [str(broken), str(tmp_path / "test" / "a" / "0.png")]
    assert lines == ([] if in_memory else ["10 of 14 images checked, 1 cannot be read"])
    assert json.loads(json.dumps(found))["data"] == f"folder:{tmp_path}"
    with pytest.raises(InputError, match=str(broken)):
        datasets.check(f"folder:{tmp_path}", strict=True)
