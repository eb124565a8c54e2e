"""Batches of images for a network, from memory or from files that other processes decode.

Which images, how they are cut and in which order depends on the seed alone: neither on the number
of processes that decode or train, nor on where a training was resumed.
"""

# ruff: noqa: PT028 (test_batches gives batches of test images, and is no test)

from __future__ import annotations

import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ghostnas.arrays import Array
from ghostnas.data.augmentation import (
    WHOLE,
    Crop,
    PaddedCrop,
    ResizedCrop,
    Shard,
    draw_parts,
    move,
    parts,
    scale,
)
from ghostnas.data.images import Box, PictureFiles, Pictures, Source, decode_crop, decode_square
from ghostnas.errors import InputError, TrainingError
from ghostnas.ir.preprocessing import Preprocessing

STREAM = 0x10AD  # keeps these draws apart from others that the same seed makes
TEST_MARGIN = 0.875  # a test image's part of its short side, for images in files
JOB_PICTURES = 32  # decoded by one process at a time
JOBS_AHEAD = 4  # per process
_on_device: WeakKeyDictionary[Pictures, dict[torch.device, Tensor]] = WeakKeyDictionary()


def train_batches(
    source: Source,
    order: Array,
    *,
    batch_size: int,
    size: int,
    crop: Crop,
    seed: tuple[int, ...],
    shard: Shard = WHOLE,
    device: torch.device | str = "cpu",
    workers: int = 0,
    first: int = 0,
    strict: bool = False,
    skipped: dict[Path, str] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch's batches: uint8 (n, 3, size, size) in channels_last memory, and int64 labels (n,).

    There are ``len(order) // batch_size`` of them, or a single one of all where that is 0.

    Args:
        order: indices into `source`, in the order of the epoch.
        batch_size: images of a step, all processes together.
        crop: how each image is cut; a `PaddedCrop` of 0 takes all of it, or of a file the middle.
        seed: with the number of a batch the origin of all its random numbers.
        shard: this process's rank and how many there are; each gets an equal run of every batch.
        workers: processes that decode files; 0 for this one.
        first: number of the first batch, where an epoch is resumed.
        strict: whether a file that cannot be read is an error; else the next readable one of the
            batch takes its place.
        skipped: is given each such file with the reason.

    Raises:
        InputError: a batch cannot be shared equally, a file cannot be read with `strict`, or none
            of a batch can.
        TrainingError: a decoding process died.
    """
    rank, world = shard
    whole = min(batch_size, len(order))
    if not whole or whole % world:
        raise InputError(f"a batch of {whole} images cannot be shared by {world} processes")
    mine = slice(whole // world * rank, whole // world * (rank + 1))
    device = torch.device(device)
    batches = (  # each one's members and the origin of its random numbers
        (order[number * batch_size :][:whole], np.random.default_rng([STREAM, *seed, number]))
        for number in range(first, max(1, len(order) // batch_size))
    )
    if isinstance(source, Pictures):
        return (_from_memory(source, *batch, crop, size, mine, device) for batch in batches)
    if isinstance(crop, ResizedCrop):
        jobs = (_jobs_of(source, *batch, crop, size, part=mine, replace=True) for batch in batches)
        resized = _decoded(jobs, device, workers, strict, skipped)
        return ((_channels_first(images), labels) for images, labels in resized)
    # Files are decoded ahead of need, without random numbers, and moved in their turn.
    ahead, now = tee(batches)
    jobs = (_jobs_of(source, *batch, None, size, part=mine, replace=True) for batch in ahead)
    whole_images = _decoded(jobs, device, workers, strict, skipped)
    return (
        (_channels_first(move(images, whole, rng, crop, mine)), labels)
        for (images, labels), (_, rng) in zip(whole_images, now, strict=True)
    )


def test_batches(
    source: Source,
    *,
    batch_size: int,
    size: int,
    device: torch.device | str = "cpu",
    workers: int = 0,
    strict: bool = False,
    skipped: dict[Path, str] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """All images in their order, as `train_batches` gives them but for a smaller last batch.

    Images in memory are scaled to `size`; of those in files the middle is taken, the short
    side scaled to ``size / 0.875``. A file that cannot be read is left out.

    Raises:
        InputError: a file cannot be read, with `strict`.
        TrainingError: a decoding process died.
    """
    device, rng = torch.device(device), np.random.default_rng(0)
    batches = (
        np.arange(at, min(at + batch_size, len(source))) for at in range(0, len(source), batch_size)
    )
    everything = slice(0, batch_size)
    if isinstance(source, Pictures):
        return (
            _from_memory(source, members, rng, PaddedCrop(), size, everything, device)
            for members in batches
        )
    short_side = round(size / TEST_MARGIN)
    jobs = (_jobs_of(source, each, rng, None, size, short_side=short_side) for each in batches)
    decodings = _decoded(jobs, device, workers, strict, skipped)
    return ((_channels_first(images), labels) for images, labels in decodings)


def normaliser(preprocessing: Preprocessing, device: torch.device) -> Callable[[Tensor], Tensor]:
    """uint8 (n, 3, height, width) to the float32 that a network takes."""
    mean, std = (
        torch.tensor(values, device=device).view(3, 1, 1) * 255
        for values in (preprocessing.mean, preprocessing.std)
    )
    scale, shift = 1 / std, -mean / std
    return lambda images: torch.addcmul(shift, images.float(), scale)


def _from_memory(
    source: Pictures,
    members: Array,
    rng: np.random.Generator,
    crop: Crop,
    size: int,
    mine: slice,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    indices = torch.from_numpy(members[mine])
    labels = torch.from_numpy(source.labels[members[mine]]).to(device)
    images = _resident(source, device)[indices.to(device)]
    height, width = images.shape[1:3]
    if isinstance(crop, ResizedCrop):
        cut = parts(crop, draw_parts(len(members), rng)[mine], width, height)
        return _channels_first(scale(images, cut, size)), labels
    images = move(images, len(members), rng, crop, mine)
    if (height, width) != (size, size):
        images = scale(images, np.array([[0, 0, width, height]]), size)
    return _channels_first(images), labels


def _resident(source: Pictures, device: torch.device) -> Tensor:
    """All images on the device, moved there once and kept as long as `source` is."""
    kept = _on_device.setdefault(source, {})
    if device not in kept:
        writeable = np.require(source.images, requirements=["C", "W"])
        kept[device] = torch.from_numpy(writeable).to(device)
    return kept[device]


def _channels_first(images: Tensor) -> Tensor:
    """The same memory, which then is called channels_last."""
    return images.permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """Files `start` to `stop` of a batch, to be decoded at `size`.

    Attributes:
        paths, labels: of the whole batch.
        short_side: what the short side is scaled to before the middle is taken...
        crop: ... or what part is taken instead, by `draws`, which begin at `start`.
        replace: whether the next readable file of the batch takes the place of one that is not;
            otherwise that is left out.
    """

    paths: tuple[str, ...]
    labels: Array
    start: int
    stop: int
    size: int
    short_side: int
    crop: ResizedCrop | None
    draws: Array | None
    replace: bool


# Images (n, size, size, 3), labels, and of each failure the path and the reason.
_Decoded: TypeAlias = tuple[Tensor, Array, list[tuple[str, str]]]


def _jobs_of(
    source: PictureFiles,
    members: Array,
    rng: np.random.Generator,
    crop: ResizedCrop | None,
    size: int,
    *,
    short_side: int | None = None,
    part: slice | None = None,
    replace: bool = False,
) -> list[_Job]:
    """A batch, or a `part` of it, as jobs; all random numbers are drawn for the whole batch."""
    paths = tuple(str(source.paths[index]) for index in members.tolist())
    draws = draw_parts(len(members), rng) if crop else None
    start, stop, _ = (part or slice(None)).indices(len(members))
    return [
        _Job(
            paths=paths,
            labels=source.labels[members],
            start=at,
            stop=min(at + JOB_PICTURES, stop),
            size=size,
            short_side=short_side or size,
            crop=crop,
            draws=None if draws is None else draws[at : at + JOB_PICTURES],
            replace=replace,
        )
        for at in range(start, stop, JOB_PICTURES)
    ]


def _decoded(
    batches: Iterator[list[_Job]],
    device: torch.device,
    workers: int,
    strict: bool,
    skipped: dict[Path, str] | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each batch's images (n, size, size, 3) uint8 and labels, on the device, while `workers`
    processes (if none: this one, on demand) decode the next batches.

    Files that cannot be read are put in `skipped`, with the reason.

    Raises:
        InputError: a file cannot be read, with `strict`; or none of a batch where they `replace`
            each other.
        TrainingError: a decoding process died.
    """
    begun: deque[list[_Job]] = deque()

    def jobs() -> Iterator[_Job]:
        for batch in batches:
            begun.append(batch)
            yield from batch

    results = _in_processes(jobs(), workers, device) if workers else map(_decode, jobs())
    for result in results:
        batch = begun.popleft()
        done = [result, *islice(results, len(batch) - 1)]
        failures = dict(failure for _, _, failed in done for failure in failed)
        if strict and failures:
            raise InputError(next(iter(failures.values())))
        if skipped is not None:
            skipped.update((Path(path), reason) for path, reason in failures.items())
        labels = np.concatenate([part for _, part, _ in done])
        if len(labels):
            images = torch.cat([part.to(device, non_blocking=True) for part, _, _ in done])
            yield images, torch.from_numpy(labels).to(device)
        elif batch[0].replace:
            raise InputError(
                f"none of a batch of {len(failures)} images can be read; "
                f"the first: {next(iter(failures.values()))}"
            )


def _in_processes(jobs: Iterator[_Job], workers: int, device: torch.device) -> Iterator[_Decoded]:
    """The jobs' results in order. The processes end with this one, even if it is killed.

    They live for an epoch: starting and ending two of them takes 0.1 s.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about more processes than cores: the user chose how many
        loader: DataLoader[_Decoded] = DataLoader(
            _Decoder(),
            batch_size=None,
            sampler=jobs,
            num_workers=workers,
            prefetch_factor=JOBS_AHEAD,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # torch's own would advance by a number
        )
        # The processes inherit that Ctrl-C is blocked: it is this one's to handle.
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            results = iter(loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, heard)
    try:
        yield from results
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            "a process that decodes images died: allow more memory or /dev/shm, or fewer workers"
        ) from error


class _Decoder(Dataset[_Decoded]):
    """Holds nothing: jobs carry their paths, so the processes do not end up copying all of them."""

    def __getitem__(self, job: Any) -> _Decoded:
        return _decode(job)


def _decode(job: _Job) -> _Decoded:
    images = np.empty((job.stop - job.start, job.size, job.size, 3), np.uint8)
    labels: list[int] = []
    failures: dict[str, str] = {}
    for index in range(job.start, job.stop):
        tries = len(job.paths) if job.replace else 1
        for each in (other % len(job.paths) for other in range(index, index + tries)):
            path = job.paths[each]
            if path in failures:
                continue
            try:
                images[len(labels)] = _picture(job, path, index - job.start)
            except InputError as error:
                failures[path] = str(error)
                continue
            labels.append(int(job.labels[each]))
            break
    found = torch.from_numpy(images[: len(labels)])
    return found, np.array(labels, np.int64), list(failures.items())


def _picture(job: _Job, path: str, drawn: int) -> Array:
    if job.crop is None or job.draws is None:
        return decode_square(path, job.size, job.short_side)
    crop, draws = job.crop, job.draws[drawn : drawn + 1]

    def choose(width: int, height: int) -> Box:
        left, top, wide, high = map(float, parts(crop, draws, width, height)[0])
        return left, top, wide, high

    return decode_crop(path, job.size, choose)
