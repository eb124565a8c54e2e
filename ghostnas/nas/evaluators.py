"""Evaluates architectures at a fidelity, in parallel processes: by training-free scores, by
trainings that may be stopped at a rung, or by whole trainings that are also tested.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
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
from ghostnas.nas.rungs import Report, StoppedEarly, go_on
from ghostnas.nas.snapshot import Job
from ghostnas.networks.arch import Arch, lower
from ghostnas.processes import deaf_to_interrupts, start_worker, usable_cpus, worker_context
from ghostnas.records import from_table
from ghostnas.training import splits, supernet
from ghostnas.training.distributed import World, on_cuda
from ghostnas.training.loop import HERE, Execution, Progress, Task, Trained, evaluate, train
from ghostnas.training.proxy_network import proxy_of
from ghostnas.training.recipe import Recipe
from ghostnas.training.splits import Split

TRAIN = "train"  # the scorer that is a training by the recipe
SCORERS = (TRAIN, *zero_cost.SCORERS)  # and `supernet.PREFIX` with a folder
SCORED_PICTURES = 64  # images that a training-free scorer sees
LIVES = 2  # processes that a training may lose before it counts as failed
JOIN_S = 5.0  # to wait for a terminated process
POLL_S = 0.2  # between looks at a worker's reports
T = TypeVar("T")
# A worker's data, recipes (of trials, of finalists), scorer, threads, GPU slot or None, and parent.
Start: TypeAlias = tuple[str, tuple[Recipe, Recipe], str, int, int | None, int]


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
    TRAIN scores without training, with random weights or those of a supernet. The recipes must hold
    out the same validation images.

    Args:
        final: the recipe of `submit_test`; that of the trials by default.

    When a worker process dies, from lack of memory or a kill, only its current job is lost; a new
    process retries it, up to `LIVES` attempts in all.
    """

    def __init__(
        self,
        data: str,
        recipe: Recipe,
        workers: int,
        scorer: str = TRAIN,
        device: str = "cpu",
        final: Recipe | None = None,
    ) -> None:
        threads = max(1, usable_cpus() // workers)
        cuda = on_cuda(device)
        starts: list[Start] = [
            (data, (recipe, final or recipe), scorer, threads, slot if cuda else None, os.getpid())
            for slot in range(workers)
        ]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._workers = [_Worker(start) for start in starts]
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="evaluator")

    def warm_up(self) -> None:
        """Start all workers now, which load PyTorch and the data meanwhile, and not on their first
        jobs. One that fails to is started again by its first job, which tells why.
        """
        for _ in self._workers:
            self._threads.submit(self._start_idle)

    def submit(
        self, arch: Arch, seed: int, rungs: Sequence[int] = (), report: Report = go_on
    ) -> Future[float]:
        """Start scoring a network; the future holds the score, which for a training is the accuracy
        on the validation images.

        Args:
            rungs: epochs after which the accuracy is reported; the training stops if `report`,
                called from a thread of the pool, answers False.

        The future raises StoppedEarly if it was stopped, and TrainingError if the training fails or
        its process dies `LIVES` times.
        """
        return self._threads.submit(
            self._run, "trial", arch, report, _score, arch, seed, tuple(rungs)
        )

    def submit_screening(
        self, arch: Arch, scorers: Mapping[str, str], seed: int
    ) -> Future[dict[str, float]]:
        """Start computing a network's scores without a training of its own, by their names; those
        that it does not have are left out.
        """
        return self._threads.submit(
            self._run, "screening", arch, go_on, _screen, arch, dict(scorers), seed
        )

    def submit_test(self, arch: Arch, seed: int, weights_path: Path) -> Future[Score]:
        """Start a training that is also tested, and save its weights at `weights_path`."""
        what = f"final training, seed {seed}"
        return self._threads.submit(self._run, what, arch, go_on, _test, arch, seed, weights_path)

    def jobs(self) -> tuple[Job | None, ...]:
        """What each worker is doing; None if it is idle."""
        return tuple(worker.job() for worker in self._workers)

    def close(self) -> None:
        """Stop the workers immediately, whatever they are doing."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _start_idle(self) -> None:
        worker = self._idle.get()
        try:
            worker.run(go_on, _ready)
        except BrokenProcessPool:
            worker.end()
        finally:
            self._idle.put(worker)

    def _run(
        self, what: str, arch: Arch, report: Report, job: Callable[..., T], *arguments: object
    ) -> T:
        worker = self._idle.get()  # there are as many workers as threads, so one is idle
        worker.begun = (what, arch.id, time.monotonic())
        try:
            for _ in range(LIVES):
                try:
                    return worker.run(report, job, *arguments)
                except BrokenProcessPool:
                    worker.end()
            raise TrainingError(
                f"the process training {arch.id} died {LIVES} times, perhaps from lack of memory; "
                "try fewer --workers"
            )
        finally:
            worker.begun = None
            self._idle.put(worker)


class _Worker:
    """A process that does one job at a time, and is replaced when it ends."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self.begun: tuple[str, str, float] | None = None  # its job's kind, network and start
        self._executor: ProcessPoolExecutor | None = None
        self._reports: Connection | None = None
        self._starting = threading.Lock()  # no process may start while or after this one is closed
        self._closed = False

    def run(self, report: Report, job: Callable[..., T], *arguments: object) -> T:
        """The job's result; `report` hears of its rungs.

        Raises:
            BrokenProcessPool: the process died.
            CancelledError: it is closed.
        """
        with deaf_to_interrupts(), self._starting:
            if self._closed:
                raise CancelledError
            if self._executor is None:
                context = worker_context()
                self._reports, other_end = context.Pipe()
                self._executor = ProcessPoolExecutor(
                    1,
                    mp_context=context,
                    initializer=_start_worker,
                    initargs=(*self._start, other_end),
                )
            future = self._executor.submit(job, *arguments)
            reports = self._reports
        assert reports is not None
        while not future.done():
            if reports.poll(POLL_S):
                with suppress(EOFError, OSError):  # the process died: the future says so
                    reports.send(report(*reports.recv()))
        return future.result()

    def job(self) -> Job | None:
        if (begun := self.begun) is None:
            return None
        what, network, since = begun
        return Job(what=what, network=network, seconds=time.monotonic() - since)

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


_splits: dict[Recipe, Split]
_recipes: tuple[Recipe, Recipe]
_scorer: str
_reports: Connection
_world = HERE


def _start_worker(
    data: str,
    recipes: tuple[Recipe, Recipe],
    scorer: str,
    threads: int,
    gpu_slot: int | None,
    parent: int,
    reports: Connection,
) -> None:
    # A worker process has one job and keeps its data.
    global _splits, _recipes, _scorer, _reports, _world
    start_worker(parent)
    torch.set_num_threads(threads)
    dataset = load(data)
    _splits = {recipe: splits.split(dataset, recipe) for recipe in recipes}
    _recipes, _scorer = recipes, scorer
    _reports = reports
    if gpu_slot is not None:
        _world = World(device=torch.device("cuda", gpu_slot % torch.cuda.device_count()))
        torch.cuda.set_device(_world.device)


def score_untrained(
    scorer: str, arch: Arch, pictures: Split, seed: int, resolution: int = 0
) -> float:
    """A training-free scorer's score of a network with random weights; higher is better.

    Args:
        resolution: that it is scored at, in pixels, if its trainings end with more; 0 for theirs.
    """
    proxy = proxy_of(arch, pictures)
    size = min(resolution or proxy.resolution, proxy.resolution)
    graph = lower(dataclasses.replace(proxy, resolution=size))
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


def _ready() -> bool:
    return True


def _score(arch: Arch, seed: int, rungs: tuple[int, ...]) -> float:
    if _scorer != TRAIN:
        return _without_training(_scorer, arch, seed)

    def at_rung(progress: Progress) -> None:
        rung = progress.epoch_done and progress.epoch in rungs and progress.step < progress.steps
        if rung and progress.accuracy is not None:
            _reports.send((progress.epoch, progress.accuracy))
            if not _reports.recv():
                raise StoppedEarly

    return _train(arch, seed, _recipes[0], at_rung, rungs)[1].accuracy


def _screen(arch: Arch, scorers: dict[str, str], seed: int) -> dict[str, float]:
    found = {}
    for name, scorer in scorers.items():
        with suppress(TrainingError):
            found[name] = _without_training(scorer, arch, seed)
    return found


def _without_training(scorer: str, arch: Arch, seed: int) -> float:
    folder = supernet.folder_of(scorer)
    if folder is not None:
        return _opened(folder).judge(arch, _world).likelihood
    how = _recipes[0]
    return score_untrained(scorer, arch, _splits[how], seed, how.first_resolution)


@lru_cache(1)
def _opened(folder: Path) -> supernet.Opened:
    return supernet.read(folder)


def _test(arch: Arch, seed: int, weights_path: Path) -> Score:
    """The worker writes the score last: once it exists, the whole training does."""
    graph, trained, skipped = _train(arch, seed, _recipes[1])
    split = _splits[_recipes[1]]
    net = net_of(graph, trained.weights).to(_world.device)
    execution = Execution(world=_world, skipped=skipped)
    score = Score(
        accuracy=trained.accuracy,
        test_accuracy=evaluate(net, split.test, split.preprocessing, execution),
        seconds=trained.seconds,
        skipped=tuple(skipped.values()),
    )
    save(trained.weights, weights_path, preprocessing=split.preprocessing)
    record = json.dumps(dataclasses.asdict(score)).encode()
    write_whole(weights_path.with_suffix(".json"), record)
    return score


def _train(
    arch: Arch,
    seed: int,
    recipe: Recipe,
    report: Callable[[Progress], None] = lambda progress: None,
    rungs: tuple[int, ...] = (),
) -> tuple[Graph, Trained, dict[Path, str]]:
    """The network at the data's size, its trained result, and the unreadable images."""
    found = _splits[recipe]
    graph = lower(proxy_of(arch, found))
    skipped: dict[Path, str] = {}
    task = Task(
        graph=graph,
        train=found.train,
        held_out=found.validation,
        recipe=recipe,
        seed=seed,
        preprocessing=found.preprocessing,
    )
    execution = Execution(world=_world, skipped=skipped, evaluate_after=rungs)
    return graph, train(task, report, execution), skipped
