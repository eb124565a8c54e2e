"""Scores architectures by short trainings or without any, several at once in processes of their
own.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import TypeVar

import torch

from ghostnas import scorers, splits
from ghostnas.arch import Arch, lower
from ghostnas.data import load
from ghostnas.distributed import World, on_cuda
from ghostnas.files import write_whole
from ghostnas.graph import Graph
from ghostnas.loader import normaliser, test_batches
from ghostnas.processes import deaf_to_interrupts, start_worker, usable_cpus
from ghostnas.recipe import Recipe
from ghostnas.splits import Split
from ghostnas.torch_net import net_of
from ghostnas.train import HERE, Trained, evaluate, train
from ghostnas.weights import save

TRAIN = "train"  # the scorer that is a training by the recipe
SCORERS = (TRAIN, *scorers.SCORERS)
SCORED_PICTURES = 64  # that a scorer without training looks at
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Accuracies of one training, 0 to 1: on the pictures that choose, and on test pictures.

    `skipped` has a line for each picture that could not be read.
    """

    accuracy: float
    test_accuracy: float
    seconds: float
    skipped: tuple[str, ...] = ()


class ProxyPool:
    """Trains networks on a dataset, each in one of `workers` processes with a share of the cores,
    or, where `device` says so, on one of the GPUs, which the workers take in turn.

    A network is trained as it will be deployed, but for the data's classes, and at the data's size
    where that is smaller. With a scorer other than TRAIN none is trained to be scored. The recipe
    must hold out pictures to choose by.
    """

    def __init__(
        self, data: str, recipe: Recipe, workers: int, scorer: str = TRAIN, device: str = "cpu"
    ) -> None:
        threads = max(1, usable_cpus() // workers)
        context = multiprocessing.get_context("spawn")
        begun = context.Value("i", 0)
        self._executor = ProcessPoolExecutor(
            workers,
            mp_context=context,
            initializer=_start_worker,
            initargs=(data, recipe, scorer, threads, on_cuda(device), begun, os.getpid()),
        )

    def submit(self, arch: Arch, seed: int) -> Future[float]:
        """Start to score a network; the future holds the score, of a training the accuracy on the
        validation pictures.
        """
        return self._submit(_score, arch, seed)

    def submit_test(self, arch: Arch, seed: int, weights_path: Path) -> Future[Score]:
        """Start a training that is also tested and whose weights are kept at `weights_path`."""
        return self._submit(_test, arch, seed, weights_path)

    def close(self) -> None:
        """End the workers at once, whatever they are doing."""
        processes = list((self._executor._processes or {}).values())
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()

    def _submit(self, job: Callable[..., T], *arguments: object) -> Future[T]:
        with deaf_to_interrupts():
            return self._executor.submit(job, *arguments)


_split: Split
_recipe: Recipe
_scorer: str
_world = HERE


def _start_worker(
    data: str,
    recipe: Recipe,
    scorer: str,
    threads: int,
    cuda: bool,
    begun: Synchronized[int],
    parent: int,
) -> None:
    global _split, _recipe, _scorer, _world  # a worker process has one job and keeps its data
    start_worker(parent)
    torch.set_num_threads(threads)
    _split, _recipe, _scorer = splits.split(load(data), recipe), recipe, scorer
    if cuda:
        with begun.get_lock():
            number, begun.value = begun.value, begun.value + 1
        _world = World(device=torch.device("cuda", number % torch.cuda.device_count()))
        torch.cuda.set_device(_world.device)


def score_untrained(scorer: str, arch: Arch, pictures: Split, seed: int) -> float:
    """What a scorer without training says of a network with random weights; more is better."""
    graph = lower(splits.fit(arch, pictures))
    size = graph.input_shape[1]
    images, labels = next(test_batches(pictures.train, batch_size=SCORED_PICTURES, size=size))
    inputs = normaliser(pictures.preprocessing, images.device)(images)
    return scorers.score(scorer, graph, inputs, labels, seed)


def recorded(weights_path: Path) -> Score | None:
    """The score of a training that `ProxyPool.submit_test` finished before, if it did."""
    record = weights_path.with_suffix(".json")
    if not record.exists():
        return None
    score = Score(**json.loads(record.read_text()))
    return dataclasses.replace(score, skipped=tuple(score.skipped))


def _score(arch: Arch, seed: int) -> float:
    if _scorer == TRAIN:
        return _train(arch, seed)[1].accuracy
    return score_untrained(_scorer, arch, _split, seed)


def _test(arch: Arch, seed: int, weights_path: Path) -> Score:
    """The score is written last and by the worker: once it is there, all of the training is."""
    graph, trained, skipped = _train(arch, seed)
    net = net_of(graph, trained.weights).to(_world.device)
    score = Score(
        accuracy=trained.accuracy,
        test_accuracy=evaluate(net, _split.test, _split.preprocessing, _world, skipped=skipped),
        seconds=trained.seconds,
        skipped=tuple(skipped.values()),
    )
    save(trained.weights, weights_path, preprocessing=_split.preprocessing)
    record = json.dumps(dataclasses.asdict(score)).encode()
    write_whole(weights_path.with_suffix(".json"), record)
    return score


def _train(arch: Arch, seed: int) -> tuple[Graph, Trained, dict[Path, str]]:
    """The network at the data's size, what came of its training, and the unreadable pictures."""
    graph = lower(splits.fit(arch, _split))
    skipped: dict[Path, str] = {}
    trained = train(
        graph,
        _split.train,
        _split.validation,
        _recipe,
        seed,
        _split.preprocessing,
        world=_world,
        skipped=skipped,
    )
    return graph, trained, skipped
