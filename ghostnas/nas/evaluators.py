"""Scores architectures by short trainings or training-free scorers, in parallel processes."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias, TypeVar

import torch

from ghostnas.backends.torch_module import net_of
from ghostnas.data.datasets import load
from ghostnas.data.loader import normaliser, test_batches
from ghostnas.errors import InputError, TrainingError
from ghostnas.files import read_text, write_whole
from ghostnas.ir.graph import Graph
from ghostnas.ir.weights import load as load_weights
from ghostnas.ir.weights import save
from ghostnas.nas import zero_cost
from ghostnas.networks.arch import Arch, lower
from ghostnas.processes import deaf_to_interrupts, start_worker, usable_cpus
from ghostnas.records import from_table
from ghostnas.training import splits
from ghostnas.training.distributed import World, on_cuda
from ghostnas.training.loop import HERE, Execution, Task, Trained, evaluate, train
from ghostnas.training.proxy_network import proxy_of
from ghostnas.training.recipe import Recipe
from ghostnas.training.splits import Split

TRAIN = "train"  # the scorer that is a training by the recipe
SCORERS = (TRAIN, *zero_cost.SCORERS)
SCORED_PICTURES = 64  # images that a training-free scorer sees
LIVES = 2  # processes that a training may lose before it counts as failed
JOIN_S = 5.0  # to wait for a terminated process
T = TypeVar("T")
# A worker's data, recipe, scorer, threads, GPU slot or None, and parent.
Start: TypeAlias = tuple[str, Recipe, str, int, int | None, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Accuracies of one training, 0 to 1, on validation images and on test images.

    `skipped` has one line per unreadable image.
    """

    accuracy: float
    test_accuracy: float
    seconds: float
    skipped: tuple[str, ...] = ()


class EvaluatorPool:
    """Evaluates networks on a dataset, each in one of `workers` processes with a share of the
    cores or, depending on `device`, on one of the GPUs, assigned to the workers round-robin.

    What is trained is the network's proxy (`ghostnas.training.proxy_network`). A scorer other than
    TRAIN scores without training. The recipe must hold out validation images.

    When a worker process dies, from lack of memory or a kill, only its current job is lost; a new
    process retries it, up to `LIVES` attempts in all.
    """

    def __init__(
        self, data: str, recipe: Recipe, workers: int, scorer: str = TRAIN, device: str = "cpu"
    ) -> None:
        threads = max(1, usable_cpus() // workers)
        cuda = on_cuda(device)
        starts: list[Start] = [
            (data, recipe, scorer, threads, slot if cuda else None, os.getpid())
            for slot in range(workers)
        ]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._workers = [_Worker(start) for start in starts]
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="evaluator")

    def submit(self, arch: Arch, seed: int) -> Future[float]:
        """Start scoring a network; the future holds the score, which for a training is the accuracy
        on the validation images.

        The future raises TrainingError if the training fails, or its process dies `LIVES` times.
        """
        return self._threads.submit(self._run, arch, _score, arch, seed)

    def submit_test(self, arch: Arch, seed: int, weights_path: Path) -> Future[Score]:
        """Start a training that is also tested, and save its weights at `weights_path`."""
        return self._threads.submit(self._run, arch, _test, arch, seed, weights_path)

    def close(self) -> None:
        """Stop the workers immediately, whatever they are doing."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _run(self, arch: Arch, job: Callable[..., T], *arguments: object) -> T:
        worker = self._idle.get()  # there are as many workers as threads, so one is idle
        try:
            for _ in range(LIVES):
                try:
                    return worker.run(job, *arguments)
                except BrokenProcessPool:
                    worker.end()
            raise TrainingError(
                f"the process training {arch.id} died {LIVES} times, perhaps from lack of memory; "
                "try fewer --workers"
            )
        finally:
            self._idle.put(worker)


class _Worker:
    """A process that does one job at a time, and is replaced when it ends."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._executor: ProcessPoolExecutor | None = None
        self._starting = threading.Lock()  # no process may start while or after this one is closed
        self._closed = False

    def run(self, job: Callable[..., T], *arguments: object) -> T:
        """The job's result.

        Raises:
            BrokenProcessPool: the process died.
            CancelledError: it is closed.
        """
        with deaf_to_interrupts(), self._starting:
            if self._closed:
                raise CancelledError
            if self._executor is None:
                self._executor = ProcessPoolExecutor(
                    1,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=_start_worker,
                    initargs=self._start,
                )
            future = self._executor.submit(job, *arguments)
        return future.result()

    def close(self) -> None:
        """End the process at once; no other one starts."""
        with self._starting:
            self._closed = True
        self.end()

    def end(self) -> None:
        """End the process; the next job has a new one."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        processes = list((executor._processes or {}).values())
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(timeout=JOIN_S)


_split: Split
_recipe: Recipe
_scorer: str
_world = HERE


def _start_worker(
    data: str,
    recipe: Recipe,
    scorer: str,
    threads: int,
    gpu_slot: int | None,
    parent: int,
) -> None:
    global _split, _recipe, _scorer, _world  # a worker process has one job and keeps its data
    start_worker(parent)
    torch.set_num_threads(threads)
    _split, _recipe, _scorer = splits.split(load(data), recipe), recipe, scorer
    if gpu_slot is not None:
        _world = World(device=torch.device("cuda", gpu_slot % torch.cuda.device_count()))
        torch.cuda.set_device(_world.device)


def score_untrained(scorer: str, arch: Arch, pictures: Split, seed: int) -> float:
    """A training-free scorer's score of a network with random weights; higher is better."""
    graph = lower(proxy_of(arch, pictures))
    size = graph.input_shape[1]
    images, labels = next(test_batches(pictures.train, batch_size=SCORED_PICTURES, size=size))
    inputs = normaliser(pictures.preprocessing, images.device)(images)
    return zero_cost.score(scorer, graph, inputs, labels, seed)


def recorded(weights_path: Path) -> Score | None:
    """The score of a training that `EvaluatorPool.submit_test` finished earlier; None if there is
    none, or its record or weights are damaged, so that it must be trained again.
    """
    record = weights_path.with_suffix(".json")
    try:
        if not record.exists():
            return None
        score = from_table(Score, json.loads(read_text(record)))
        load_weights(weights_path)
    except (InputError, ValueError, AttributeError):
        return None
    return score


def _score(arch: Arch, seed: int) -> float:
    if _scorer == TRAIN:
        return _train(arch, seed)[1].accuracy
    return score_untrained(_scorer, arch, _split, seed)


def _test(arch: Arch, seed: int, weights_path: Path) -> Score:
    """The worker writes the score last: once it exists, the whole training does."""
    graph, trained, skipped = _train(arch, seed)
    net = net_of(graph, trained.weights).to(_world.device)
    execution = Execution(world=_world, skipped=skipped)
    score = Score(
        accuracy=trained.accuracy,
        test_accuracy=evaluate(net, _split.test, _split.preprocessing, execution),
        seconds=trained.seconds,
        skipped=tuple(skipped.values()),
    )
    save(trained.weights, weights_path, preprocessing=_split.preprocessing)
    record = json.dumps(dataclasses.asdict(score)).encode()
    write_whole(weights_path.with_suffix(".json"), record)
    return score


def _train(arch: Arch, seed: int) -> tuple[Graph, Trained, dict[Path, str]]:
    """The network at the data's size, its trained result, and the unreadable images."""
    graph = lower(proxy_of(arch, _split))
    skipped: dict[Path, str] = {}
    task = Task(
        graph=graph,
        train=_split.train,
        held_out=_split.validation,
        recipe=_recipe,
        seed=seed,
        preprocessing=_split.preprocessing,
    )
    trained = train(task, execution=Execution(world=_world, skipped=skipped))
    return graph, trained, skipped
