"""Many trainings of a few networks from many seeds, at once in several processes, each recorded in
a file of its own, so that the same call goes on where it was stopped. Draws no conclusions.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ghostnas import records
from ghostnas.backends import pretrained
from ghostnas.data import datasets
from ghostnas.errors import GhostnasError, InputError, TrainingError
from ghostnas.files import locked, read_text, write_whole
from ghostnas.ir.graph import Dense, Graph, Weights, weight_shapes
from ghostnas.ir.weights import save
from ghostnas.paper.subjects import Subject, graph_of
from ghostnas.processes import (
    deaf_to_interrupts,
    processor,
    start_worker,
    usable_cpus,
    worker_context,
)
from ghostnas.progress import Say
from ghostnas.training import splits
from ghostnas.training.checkpoint import Keeper
from ghostnas.training.distributed import World, on_cuda
from ghostnas.training.loop import Execution, Progress, Task, train
from ghostnas.training.recipe import Recipe
from ghostnas.training.recipe import to_text as recipe_text

FAILURES = 3  # after which nothing more is tried
JOIN_S = 5.0  # to wait for a process that was told to end


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training; with `body`, all weights but the classifier's are read from that file."""

    subject: Subject
    seed: int
    body: str | None = None

    @property
    def slug(self) -> str:
        return f"{self.subject.slug}-seed{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a training left: `accuracies` are those on the test images (0 to 1) after each epoch.

    No epoch is chosen by them: the last one is the result. `recipe` is the text of the recipe's
    file, `hardware` what it ran on, `seconds` how long (of the last process, if it was resumed).
    """

    network: str
    seed: int
    data: str
    recipe: str
    body: str
    accuracies: tuple[float, ...]
    epochs: int
    seconds: float
    hardware: str

    @property
    def accuracy(self) -> float:
        return self.accuracies[-1]

    @property
    def done(self) -> bool:
        return len(self.accuracies) == self.epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """How trainings run: `workers` processes on `device` (``cpu``, ``cuda`` or ``auto``), each with
    `threads` of the CPU; none starts, and those that run are stopped, after `timeout_s` seconds.
    """

    workers: int = 1
    device: str = "auto"
    threads: int | None = None
    timeout_s: float | None = None


def run(
    jobs: Sequence[Job], data: str, recipe: Recipe, folder: Path, pool: Pool, say: Say
) -> dict[Job, Record]:
    """Train all that `folder` has no record of yet; returns the records of what is finished.

    Raises:
        InputError: a record there is of another recipe or other data.
        TrainingError: several trainings failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = datasets.absolute(data)
    with locked(folder):
        finished = {job: found for job in jobs if (found := _finished(job, data, recipe, folder))}
        left = [job for job in jobs if job not in finished]
        say(f"{folder}: {len(finished)} of {len(jobs)} trainings are finished")
        for job, record in _trained(left, data, recipe, folder, pool, say) if left else ():
            finished[job] = record
            say(
                f"{len(finished)}/{len(jobs)}: {job.subject.title}, seed {job.seed}: "
                f"{record.accuracy:.2%} in {record.seconds:.0f} s"
            )
    return {job: finished[job] for job in jobs if job in finished}


def read(path: Path) -> Record:
    """A record as a training wrote it.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return records.from_table(Record, json.loads(read_text(path)), whole="converted")
    except (ValueError, AttributeError, InputError) as error:
        raise InputError(f"{path}: is no record of a training: {error}") from error


def _finished(job: Job, data: str, recipe: Recipe, folder: Path) -> Record | None:
    path = _path(job, folder)
    if not path.exists():
        return None
    record = read(path)
    for name, found, wanted in (
        ("recipe", record.recipe, recipe_text(recipe)),
        ("data", record.data, data),
        ("body", record.body, job.body or ""),
    ):
        if found != wanted:
            raise InputError(
                f"{path}: was trained with another {name}; name another --out, or repeat the "
                "command that began it"
            )
    return record if record.done else None


def weights_path(job: Job, folder: Path) -> Path:
    """Where the weights are kept that a training from seed 0 leaves."""
    return folder / f"{job.slug}.weights.safetensors"


def _path(job: Job, folder: Path) -> Path:
    return folder / f"{job.slug}.json"


def _trained(
    jobs: Sequence[Job], data: str, recipe: Recipe, folder: Path, pool: Pool, say: Say
) -> Iterator[tuple[Job, Record]]:
    """The trainings as they end. A failed one is reported, and tried again by the next call."""
    workers = min(pool.workers, len(jobs))
    threads = pool.threads or max(1, usable_cpus() // workers)
    started, failures = time.monotonic(), 0
    with deaf_to_interrupts():
        executor = ProcessPoolExecutor(
            workers,
            mp_context=worker_context(),
            initializer=_start,
            initargs=(data, recipe, threads, on_cuda(pool.device), os.getpid()),
        )
        running: dict[Future[Record], Job] = {
            executor.submit(_train, job, str(folder)): job for job in jobs
        }
    try:
        while running:
            left_s = None
            if pool.timeout_s is not None:
                left_s = max(0.0, pool.timeout_s - (time.monotonic() - started))
            ended, _ = wait(running, left_s, FIRST_COMPLETED)
            if not ended:
                say(f"the time is up: {len(running)} trainings are left; the same command goes on")
                return
            for future in ended:
                job = running.pop(future)
                try:
                    yield job, future.result()
                except BrokenProcessPool as error:
                    raise TrainingError(
                        "a training's process died, perhaps from lack of memory; try fewer "
                        "--workers; the same command goes on"
                    ) from error
                except GhostnasError as error:
                    failures += 1
                    say(f"{job.subject.title}, seed {job.seed}: {error}")
                    if failures == FAILURES:
                        raise TrainingError(
                            f"{failures} trainings failed, the last one so: {error}"
                        ) from error
    finally:
        _end(executor)


def _end(executor: ProcessPoolExecutor) -> None:
    """Stop the processes now, whatever they are doing; what they kept stays."""
    processes = list((executor._processes or {}).values())
    executor.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(timeout=JOIN_S)


_data: str
_split: splits.Split
_recipe: Recipe
_world: World


def _start(data: str, recipe: Recipe, threads: int, cuda: bool, parent: int) -> None:
    global _data, _split, _recipe, _world  # a worker process keeps its data
    start_worker(parent)
    torch.set_num_threads(threads)
    _data, _recipe, _split = data, recipe, splits.split(datasets.load(data), recipe)
    _world = World(device=torch.device("cpu"))
    if cuda:
        slot = (multiprocessing.current_process()._identity[-1] - 1) % torch.cuda.device_count()
        _world = World(device=torch.device("cuda", slot))
        torch.cuda.set_device(_world.device)
        torch.backends.cudnn.benchmark = True


def _train(job: Job, folder: str) -> Record:
    """One training in a worker; its record is kept after each epoch, its state now and then."""
    path = _path(job, Path(folder))
    keeper = Keeper(path.with_suffix(".safetensors"))
    classes = len(_split.preprocessing.classes)
    graph = graph_of(job.subject, _split.resolution, classes)
    accuracies = _earlier(path, keeper)
    record = Record(
        network=job.subject.title,
        seed=job.seed,
        data=_data,
        recipe=recipe_text(_recipe),
        body=job.body or "",
        accuracies=(),
        epochs=_recipe.epochs,
        seconds=0.0,
        hardware=_hardware(),
    )
    began = time.perf_counter()

    def report(progress: Progress) -> None:
        if progress.accuracy is None:
            return
        del accuracies[progress.epoch - 1 :]
        accuracies.append(progress.accuracy)
        seconds = round(time.perf_counter() - began, 1)
        kept = replace(record, accuracies=tuple(accuracies), seconds=seconds)
        if not kept.done:
            write_whole(path, json.dumps(asdict(kept), indent=1).encode())

    task = Task(
        graph=graph,
        train=_split.train,
        held_out=_split.test,
        recipe=_recipe,
        seed=job.seed,
        preprocessing=_split.preprocessing,
        initial=body_of(job.body, graph) if job.body else None,
    )
    trained = train(task, report, Execution(world=_world, keeper=keeper, evaluate_every=1))
    if len(accuracies) < _recipe.epochs:
        accuracies.append(trained.accuracy)
    seconds = round(time.perf_counter() - began, 1)
    record = replace(record, accuracies=tuple(accuracies), seconds=seconds)
    if job.seed == 0:  # for the pictures of its maps
        save(trained.weights, weights_path(job, Path(folder)), preprocessing=_split.preprocessing)
    write_whole(path, json.dumps(asdict(record), indent=1).encode())
    keeper.path.unlink(missing_ok=True)
    return record


def _earlier(path: Path, keeper: Keeper) -> list[float]:
    """The accuracies of a training that was stopped; none where it begins anew."""
    return list(read(path).accuracies) if keeper.path.exists() and path.exists() else []


def body_of(file: str, graph: Graph) -> Weights:
    """The weights of a file but for the last dense layer's, whose classes may be others.

    Raises:
        InputError: it lacks weights of the body, or they have other shapes.
    """
    head = next(node.name for node in reversed(graph.nodes) if isinstance(node.op, Dense))
    found = pretrained.read_any(Path(file))
    body = {}
    for node in graph.nodes:
        for key, shape in weight_shapes(node).items():
            if node.name == head:
                continue
            if key not in found or found[key].shape != shape:
                raise InputError(f"{file}: has no {key} of shape {shape}: it is another network's")
            body[key] = found[key]
    return body


def _hardware() -> str:
    if _world.device.type == "cuda":
        return torch.cuda.get_device_name(_world.device)
    return f"{processor()}, {torch.get_num_threads()} threads"
