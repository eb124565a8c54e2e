import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ghostnas.data import loader
from ghostnas.data.augmentation import PaddedCrop, ResizedCrop
from ghostnas.data.images import PictureFiles, Pictures, decode_square
from ghostnas.data.loader import train_batches
from ghostnas.errors import InputError, TrainingError

COUNT = 50
CROPS = [PaddedCrop(0), PaddedCrop(2), ResizedCrop(0.3)]


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, 12, 12, 3), dtype=np.uint8)
    return Pictures(images=images, labels=np.arange(COUNT))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images of many shapes; each is filled evenly with its number, which is its label."""
    folder = tmp_path_factory.mktemp("files")
    paths = []
    for number in range(COUNT):
        path = folder / f"{number}.png"
        shape = (20 + number % 7, 18 + number % 5, 3)
        noise = np.random.default_rng(number).integers(0, 2, shape)
        Image.fromarray((noise + 2 * number).astype(np.uint8)).save(path)
        paths.append(path)
    return PictureFiles(paths=tuple(paths), labels=np.arange(COUNT))


@pytest.fixture(params=["memory", "files"])
def source(request, pictures, files):
    return pictures if request.param == "memory" else files


def epoch(source, order=None, **changes):
    settings = {"batch_size": 16, "size": 12, "crop": PaddedCrop(2), "seed": (1, 2), **changes}
    order = np.random.default_rng(5).permutation(COUNT) if order is None else order
    return list(train_batches(source, order, **settings))


def same(batches, others):
    return len(batches) == len(others) and all(
        torch.equal(images, other) and torch.equal(labels, other_labels)
        for (images, labels), (other, other_labels) in zip(batches, others, strict=True)
    )


# Every source


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("size", [8, 12, 20])
def test_an_epoch_has_whole_batches_in_the_order_given(source, crop, size):
    order = np.random.default_rng(5).permutation(COUNT)
    batches = epoch(source, order, crop=crop, size=size)
    assert len(batches) == 3
    for number, (images, labels) in enumerate(batches):
        assert (images.shape, images.dtype) == ((16, 3, size, size), torch.uint8)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64
        assert labels.tolist() == order[16 * number : 16 * number + 16].tolist()


@pytest.mark.parametrize("crop", CROPS)
def test_shards_together_are_the_whole(source, crop):
    whole = epoch(source, crop=crop)
    shards = [epoch(source, crop=crop, shard=(rank, 4)) for rank in range(4)]
    together = [
        tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*shards, strict=True)
    ]
    assert same(together, whole)


@pytest.mark.parametrize("crop", CROPS)
def test_a_resumed_epoch_continues_as_it_would_have(source, crop):
    assert same(epoch(source, crop=crop, first=2), epoch(source, crop=crop)[2:])
    assert epoch(source, crop=crop, first=3) == []


@pytest.mark.parametrize("crop", CROPS[1:])
def test_crops_are_drawn_by_seed_and_batch(source, crop):
    order = np.zeros(32, np.int64)
    (first, _), (second, _) = epoch(source, order, crop=crop)
    assert not torch.equal(first, second)
    assert len({image.numpy().tobytes() for image in first}) > 8
    assert same(epoch(source, order, crop=crop), [(first, _), (second, _)])
    assert not torch.equal(epoch(source, order, crop=crop, seed=(1, 3))[0][0], first)


def test_fewer_images_than_a_batch_are_one_batch(source):
    ((images, labels),) = epoch(source, np.array([3, 1, 2]))
    assert (len(images), labels.tolist()) == (3, [3, 1, 2])
    with pytest.raises(InputError, match="a batch of 3 images cannot be shared by 2"):
        epoch(source, np.array([3, 1, 2]), shard=(0, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard": (0, 3)}, "a batch of 16 images cannot be shared by 3 processes"),
        ({"order": np.arange(0)}, "a batch of 0 images"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(source, changes, message):
    with pytest.raises(InputError, match=message):
        epoch(source, **changes)


@pytest.mark.parametrize("size", [8, 12, 20])
def test_test_batches_have_every_image_once_in_order(source, size):
    batches = list(loader.test_batches(source, batch_size=20, size=size))
    assert [len(images) for images, _ in batches] == [20, 20, 10]
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(COUNT))
    for images, _ in batches:
        assert images.shape[1:] == (3, size, size)
        assert images.is_contiguous(memory_format=torch.channels_last)


# In memory


def test_without_padding_the_images_are_as_they_are(pictures):
    order = np.arange(COUNT)[::-1].copy()
    for images, labels in epoch(pictures, order, crop=PaddedCrop(0)):
        np.testing.assert_array_equal(images.permute(0, 2, 3, 1), pictures.images[labels])


def test_padded_images_are_moved_by_up_to_the_padding(pictures):
    padded = np.pad(pictures.images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    seen = set()
    for images, labels in epoch(pictures):
        for image, label in zip(images.permute(0, 2, 3, 1).numpy(), labels, strict=True):
            (place,) = (
                (top, left)
                for top in range(5)
                for left in range(5)
                if np.array_equal(image, padded[label, top : top + 12, left : left + 12])
            )
            seen.add(place)
    assert len(seen) > 15


def test_scaled_images_are_those_that_pillow_scales(pictures):
    for size in (6, 30):
        ((images, _),) = loader.test_batches(pictures, batch_size=COUNT, size=size)
        for image, source in zip(images.permute(0, 2, 3, 1).numpy(), pictures.images, strict=True):
            expected = Image.fromarray(source).resize((size, size), Image.Resampling.BILINEAR)
            difference = np.abs(image.astype(int) - np.asarray(expected).astype(int))
            assert difference.max() <= 1


def test_read_only_and_strided_images_work_too(pictures):
    images = pictures.images[::2]
    images.flags.writeable = False
    part = Pictures(images=images, labels=pictures.labels[::2])
    ((found, labels),) = loader.test_batches(part, batch_size=COUNT, size=12)
    np.testing.assert_array_equal(found.permute(0, 2, 3, 1), images)
    assert labels.tolist() == list(range(0, COUNT, 2))


def test_changing_a_batch_does_not_change_the_images(pictures):
    before = pictures.images.copy()
    for images, labels in epoch(pictures, crop=PaddedCrop(0)):
        images.zero_()
        labels.zero_()
    np.testing.assert_array_equal(pictures.images, before)
    assert pictures.labels.tolist() == list(range(COUNT))


# Files


@pytest.mark.parametrize("crop", CROPS)
def test_the_number_of_processes_changes_nothing(files, crop, monkeypatch):
    monkeypatch.setattr(loader, "JOB_PICTURES", 5)  # a batch is several processes' work
    alone = epoch(files, crop=crop)
    state = torch.get_rng_state()
    for workers in (1, 3):
        assert same(epoch(files, crop=crop, workers=workers), alone)
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.undo()
    assert same(epoch(files, crop=crop), alone)


def test_test_images_are_the_middle_of_a_margin(files):
    ((images, _),) = loader.test_batches(files, batch_size=COUNT, size=14, workers=2)
    for image, path in zip(images.permute(0, 2, 3, 1).numpy(), files.paths, strict=True):
        np.testing.assert_array_equal(image, decode_square(path, 14, short_side=16))


def damaged(files, tmp_path, numbers):
    """The same files, of which some are empty."""
    paths = list(files.paths)
    for number in numbers:
        paths[number] = tmp_path / f"{number}.png"
        paths[number].touch()
    return PictureFiles(paths=tuple(paths), labels=files.labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_is_named_and_replaced_by_the_next_of_the_batch(files, tmp_path, workers):
    broken = damaged(files, tmp_path, [4, 5, 15])
    skipped: dict[Path, str] = {}
    order = np.arange(32)
    batches = epoch(broken, order, crop=PaddedCrop(0), workers=workers, skipped=skipped)
    assert batches[0][1].tolist() == [0, 1, 2, 3, 6, 6, *range(6, 15), 0]
    assert batches[1][1].tolist() == list(range(16, 32))
    images = batches[0][0]
    assert torch.equal(images[4], images[6])
    assert sorted(skipped) == sorted(broken.paths[number] for number in (4, 5, 15))
    assert skipped[broken.paths[4]] == f"{broken.paths[4]}: is empty"


def test_shards_replace_damaged_files_as_the_whole_does(files, tmp_path):
    broken = damaged(files, tmp_path, [7, 8, 15])
    order = np.arange(16)
    ((images, labels),) = epoch(broken, order, crop=ResizedCrop(0.3))
    shards = [epoch(broken, order, crop=ResizedCrop(0.3), shard=(rank, 2))[0] for rank in (0, 1)]
    assert torch.equal(torch.cat([shard for shard, _ in shards]), images)
    assert torch.cat([shard for _, shard in shards]).tolist() == labels.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_with_strict_a_damaged_file_is_an_error_in_one_line(files, tmp_path, workers):
    broken = damaged(files, tmp_path, [20])
    with pytest.raises(InputError, match=rf"^{broken.paths[20]}: is empty$"):
        epoch(broken, np.arange(COUNT), strict=True, workers=workers)
    with pytest.raises(InputError, match=rf"^{broken.paths[20]}: is empty$"):
        list(loader.test_batches(broken, batch_size=8, size=8, strict=True, workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_of_damaged_files_is_an_error_in_one_line(files, tmp_path, workers):
    broken = damaged(files, tmp_path, range(16, 32))
    with pytest.raises(InputError, match=r"^none of a batch of 16 images can be read; the first:"):
        epoch(broken, np.arange(COUNT), workers=workers)


def test_a_damaged_test_image_is_left_out_and_named(files, tmp_path):
    broken = damaged(files, tmp_path, [3, *range(10, 20)])
    skipped: dict[Path, str] = {}
    batches = list(loader.test_batches(broken, batch_size=10, size=8, skipped=skipped))
    assert [len(images) for images, _ in batches] == [9, 10, 10, 10]
    left = [number for number in range(COUNT) if number != 3 and not 10 <= number < 20]
    assert torch.cat([labels for _, labels in batches]).tolist() == left
    assert len(skipped) == 11


# The processes


def children():
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="utf-8").split())


def test_an_epoch_left_early_leaves_no_process(files):
    before = children()
    batches = train_batches(
        files, np.arange(COUNT), batch_size=8, size=8, crop=PaddedCrop(0), seed=(0,), workers=2
    )
    next(batches)
    assert len(children() - before) >= 2
    batches.close()
    del batches
    assert children() == before


def test_a_process_that_is_killed_is_an_error_in_one_line(files, monkeypatch):
    monkeypatch.setattr(loader, "JOBS_AHEAD", 1)
    before = children()
    batches = loader.test_batches(
        files.take(np.arange(COUNT).repeat(40)), batch_size=8, size=64, workers=1
    )
    next(batches)
    for process in children() - before:
        if b"resource_tracker" not in Path(f"/proc/{process}/cmdline").read_bytes():
            os.kill(int(process), signal.SIGKILL)
    with pytest.raises(TrainingError, match=r"^a process that decodes images died") as caught:
        list(batches)
    assert "\n" not in str(caught.value)


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from ghostnas.data.augmentation import PaddedCrop
from ghostnas.data.loader import train_batches
from ghostnas.data.images import PictureFiles
paths = tuple(sorted(Path(sys.argv[1]).glob("*.png")))
files = PictureFiles(paths=paths, labels=np.arange(len(paths)))
batches = train_batches(
    files, np.arange(len(paths)), batch_size=2, size=8, crop=PaddedCrop(0), seed=(0,), workers=2
)
next(batches)
children = Path("/proc/self/task").glob("*/children")
try:
    print(*(child for file in children for child in file.read_text().split()), flush=True)
    sys.stdin.read()
except KeyboardInterrupt:
    print("interrupted, and still", len(list(batches)), "batches", flush=True)
"""


@pytest.fixture
def other(files):
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, files.paths[0].parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()


def alive(process):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return False


@pytest.mark.slow
def test_decoding_processes_end_with_one_that_is_killed(other):
    workers = other.stdout.readline().split()
    assert len(workers) >= 2
    assert all(map(alive, workers))
    other.kill()
    end = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def test_an_interrupt_is_left_to_the_process_that_trains(other):
    other.stdout.readline()
    os.killpg(other.pid, signal.SIGINT)  # as a terminal sends it: to all
    output, errors = other.communicate(timeout=30)
    assert output == "interrupted, and still 24 batches\n"
    assert errors == ""
