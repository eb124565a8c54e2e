"""The accuracy of a model file on a dataset's test images; the model runs in other processes.

A runtime that crashes on a damaged file takes down only its own process.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ghostnas.arrays import Array
from ghostnas.backends.model_file import ModelFile, check_classes, doubts, open_model
from ghostnas.deployment.samples import BATCH, batches, labelled
from ghostnas.errors import InputError
from ghostnas.processes import deaf_to_interrupts, start_worker, usable_cpus, worker_context
from ghostnas.progress import Say, silent

TOP = 5
SHARES_A_WORKER = 8  # for progress reports, and so that no worker waits long for the last


class _Counted(NamedTuple):
    """Counts of a share of the images; `seconds` is the time to read and run them."""

    top1: int
    top5: int
    pictures: int
    skipped: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """Describes a model and the data it is run on; `skipped` lists images not loaded."""

    format: str
    dtype: str | None
    resolution: int
    classes: int
    warnings: list[str]
    pictures: int
    skipped: tuple[str, ...]


def evaluate(
    path: Path,
    data_spec: str,
    *,
    workers: int = 1,
    limit: int | None = None,
    batch_size: int = BATCH,
    strict: bool = False,
    say: Say = silent,
) -> dict[str, Any]:
    """Top-1 and, with 5 or more classes, top-5 accuracy of a model file, 0 to 1.

    ``images_per_second`` is for all workers together, from files or memory to logits, without the
    time to open the model and the data. ``skipped`` counts the unreadable images, including those
    of a small folder's training part, and ``first_skipped`` names one and the reason.

    Args:
        path: see `ghostnas.backends.model_file.open_model`.
        data_spec: see `ghostnas.data.datasets.load`.
        limit: how many test images to use, drawn so that classes keep their proportions.
        strict: whether an unreadable image is an error; otherwise it is skipped.
        say: receives a line for each tenth of the work, and for each assumption.

    Raises:
        InputError: model or data cannot be read or do not match, or the runtime crashed.
    """
    if workers < 1 or batch_size < 1 or (limit is not None and limit < 1):
        raise InputError("workers, batch_size and limit must be at least 1")
    threads = max(1, usable_cpus() // workers)
    started = (path, data_spec, limit, batch_size, strict, threads, os.getpid())
    with _pool(workers, started) as pool:
        try:
            with deaf_to_interrupts():
                described = pool.submit(_describe)
            found = described.result()
            for warning in found.warnings:
                say(f"{path}: {warning}")
            shares = np.array_split(np.arange(found.pictures), _share_count(found, workers))
            with deaf_to_interrupts():
                futures = [pool.submit(_score, share) for share in shares]
            counted = list(_told(futures, found.pictures, say))
        except BrokenProcessPool as error:
            raise InputError(
                f"{path}: the process that ran it died: the file is damaged, or there is not "
                "enough memory; try fewer --workers"
            ) from error
    return _result(path, data_spec, found, counted, min(workers, len(shares)))


def _result(
    path: Path, data_spec: str, found: _Described, counted: list[_Counted], workers: int
) -> dict[str, Any]:
    pictures = sum(each.pictures for each in counted)
    if not pictures:
        raise InputError(f"data {data_spec!r}: none of its test images can be read")
    seconds = sum(each.seconds for each in counted) / workers
    top5 = sum(each.top5 for each in counted) / pictures
    skipped = sorted([*found.skipped, *(line for each in counted for line in each.skipped)])
    return {
        "model": str(path),
        "format": found.format,
        "dtype": found.dtype,
        "data": data_spec,
        "top1": sum(each.top1 for each in counted) / pictures,
        "top5": top5 if found.classes >= TOP else None,
        "pictures": pictures,
        "skipped": len(skipped),
        "first_skipped": skipped[0] if skipped else None,
        "classes": found.classes,
        "resolution": found.resolution,
        "warnings": found.warnings,
        "images_per_second": pictures / seconds,
    }


def _share_count(found: _Described, workers: int) -> int:
    return max(1, min(found.pictures, workers * SHARES_A_WORKER))


def _told(futures: list[Future[_Counted]], pictures: int, say: Say) -> Iterator[_Counted]:
    """Each share's counts as it finishes, with progress reports."""
    done = right = 0
    told = 0.1
    for future in as_completed(futures):
        counted = future.result()
        done, right = done + counted.pictures + len(counted.skipped), right + counted.top1
        if done >= told * pictures:
            told = (math.floor(10 * done / pictures) + 1) / 10
            say(f"{done} of {pictures} images, {right / max(1, done):.1%} correct so far")
        yield counted


@contextmanager
def _pool(workers: int, arguments: tuple[Any, ...]) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with the block, whatever they are doing."""
    context = worker_context()
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=arguments
    )
    try:
        yield pool
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


class _Job(NamedTuple):
    path: Path
    data_spec: str
    limit: int | None
    batch_size: int
    strict: bool
    threads: int


class _Opened(NamedTuple):
    model: ModelFile
    pictures: Any
    warnings: list[str]
    skipped: tuple[str, ...]


_job: _Job
_opened: _Opened | None = None


def _start_worker(
    path: Path,
    data_spec: str,
    limit: int | None,
    batch_size: int,
    strict: bool,
    threads: int,
    parent: int,
) -> None:
    global _job  # a worker process has one job and keeps its model and data
    start_worker(parent)
    _job = _Job(path, data_spec, limit, batch_size, strict, threads)


def _open() -> _Opened:
    """This worker's model and test images."""
    global _opened
    if _opened is None:
        import torch

        from ghostnas.data.datasets import load

        torch.set_num_threads(_job.threads)
        model = open_model(_job.path, threads=_job.threads)
        dataset = load(_job.data_spec, _job.strict)
        check_classes(model, dataset.classes)
        pictures = labelled(dataset, _job.limit)
        _opened = _Opened(model, pictures, doubts(model, dataset.classes), dataset.skipped)
    return _opened


def _describe() -> _Described:
    model, pictures, warnings, skipped = _open()
    return _Described(
        format=model.format,
        dtype=model.dtype,
        resolution=model.resolution,
        classes=model.classes,
        warnings=warnings,
        pictures=len(pictures),
        skipped=skipped,
    )


def _score(indices: Array) -> _Counted:
    model, pictures, _, _ = _open()
    started = time.perf_counter()
    top1 = top5 = seen = 0
    skipped: dict[Path, str] = {}
    for inputs, labels in batches(
        pictures.take(indices),
        model.preprocessing,
        model.resolution,
        batch_size=_job.batch_size,
        strict=_job.strict,
        skipped=skipped,
    ):
        try:
            logits = model.run(inputs)
        except Exception as error:
            raise InputError(f"{_job.path}: cannot be run: {type(error).__name__}") from error
        order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP] == labels[:, None]
        top1, top5 = top1 + int(order[:, 0].sum()), top5 + int(order.any(axis=1).sum())
        seen += len(labels)
    seconds = time.perf_counter() - started
    return _Counted(top1, top5, seen, tuple(skipped.values()), seconds)
