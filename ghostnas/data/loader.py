"""Batches of images for a network, from memory or from files that other processes decode.

Which images, how they are cut and in which order depends on the seed alone: neither on the number
of processes that decode or train, nor on where a training was resumed.
"""

# ruff: noqa: PT028 (test_batches gives batches of test images, and is no test)

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import tee
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

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
from ghostnas.data.decoding import decoded, jobs_of
from ghostnas.data.images import Pictures, Source
from ghostnas.errors import InputError
from ghostnas.ir.preprocessing import Preprocessing

STREAM = 0x10AD  # keeps these draws apart from others that the same seed makes
TEST_MARGIN = 0.875  # a test image's part of its short side, for images in files
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
        jobs = (jobs_of(source, *batch, crop, size, part=mine, replace=True) for batch in batches)
        resized = decoded(jobs, device, workers, strict, skipped)
        return ((_channels_first(images), labels) for images, labels in resized)
    # Files are decoded ahead of need, without random numbers, and moved in their turn.
    ahead, now = tee(batches)
    jobs = (jobs_of(source, *batch, None, size, part=mine, replace=True) for batch in ahead)
    whole_images = decoded(jobs, device, workers, strict, skipped)
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
    jobs = (jobs_of(source, members, rng, None, size, short_side=short_side) for members in batches)
    decodings = decoded(jobs, device, workers, strict, skipped)
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
