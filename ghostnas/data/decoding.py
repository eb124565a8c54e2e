"""Batches of image files, decoded here or ahead of time by other processes; the caller sets their
order and crops.
"""

from __future__ import annotations

import signal
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ghostnas.arrays import Array
from ghostnas.data.augmentation import ResizedCrop, draw_parts, parts
from ghostnas.data.images import Box, PictureFiles, decode_crop, decode_square
from ghostnas.errors import InputError, TrainingError

JOB_PICTURES = 32  # decoded by one process at a time
JOBS_AHEAD = 4  # per process


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
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
Decoded: TypeAlias = tuple[Tensor, Array, list[tuple[str, str]]]


def jobs_of(
    source: PictureFiles,
    members: Array,
    rng: np.random.Generator,
    crop: ResizedCrop | None,
    size: int,
    *,
    short_side: int | None = None,
    part: slice | None = None,
    replace: bool = False,
) -> list[Job]:
    """A batch, or a `part` of it, as jobs; all random numbers are drawn for the whole batch."""
    paths = tuple(str(source.paths[index]) for index in members.tolist())
    draws = draw_parts(len(members), rng) if crop else None
    start, stop, _ = (part or slice(None)).indices(len(members))
    return [
        Job(
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


def decoded(
    batches: Iterator[list[Job]],
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
    begun: deque[list[Job]] = deque()

    def jobs() -> Iterator[Job]:
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


def _in_processes(jobs: Iterator[Job], workers: int, device: torch.device) -> Iterator[Decoded]:
    """The jobs' results in order. The processes end with this one, even if it is killed.

    They live for an epoch: starting and ending two of them takes 0.1 s.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about more processes than cores: the user chose how many
        loader: DataLoader[Decoded] = DataLoader(
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


class _Decoder(Dataset[Decoded]):
    """Holds nothing: jobs carry their paths, so the processes do not end up copying all of them."""

    def __getitem__(self, job: Any) -> Decoded:
        return _decode(job)


def _decode(job: Job) -> Decoded:
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


def _picture(job: Job, path: str, drawn: int) -> Array:
    if job.crop is None or job.draws is None:
        return decode_square(path, job.size, job.short_side)
    crop, draws = job.crop, job.draws[drawn : drawn + 1]

    def choose(width: int, height: int) -> Box:
        left, top, wide, high = map(float, parts(crop, draws, width, height)[0])
        return left, top, wide, high

    return decode_crop(path, job.size, choose)
