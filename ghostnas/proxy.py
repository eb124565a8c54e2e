"""Scores architectures by short trainings, several at once in processes of their own."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from ghostnas.arch import Arch, fit_to, lower
from ghostnas.data import Dataset, load, subset
from ghostnas.files import write_whole
from ghostnas.graph import Graph
from ghostnas.torch_net import net_of
from ghostnas.train import RECIPES, Recipe, Trained, evaluate, train
from ghostnas.weights import save

SPLIT_SEED = 0  # the same pictures train and judge every network of every search


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Accuracies of one training, 0 to 1: on the pictures that choose, and on test pictures."""

    accuracy: float
    test_accuracy: float
    seconds: float


class ProxyPool:
    """Trains networks on a dataset, each in one of `workers` processes with a share of the cores.

    A network is trained as it will be deployed, but for the data's classes, and at the data's size
    where that is smaller.
    """

    def __init__(self, data: str, recipe: str, workers: int) -> None:
        threads = max(1, (os.cpu_count() or 1) // workers)
        self._executor = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(data, recipe, threads, os.getpid()),
        )
        # Ctrl-C is this process's to handle: workers inherit that it is ignored, from their start.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._executor.submit(int)
        signal.signal(signal.SIGINT, handler)

    def submit(self, arch: Arch, seed: int) -> Future[float]:
        """Start a training; the future holds the accuracy on the validation pictures."""
        return self._executor.submit(_accuracy, arch, seed)

    def submit_test(self, arch: Arch, seed: int, weights_path: Path) -> Future[Score]:
        """Start a training that is also tested and whose weights are kept at `weights_path`."""
        return self._executor.submit(_test, arch, seed, weights_path)

    def close(self) -> None:
        """End the workers at once, whatever they are doing."""
        processes = list((self._executor._processes or {}).values())
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


_dataset: Dataset
_recipe: Recipe


def _start_worker(data: str, recipe: str, threads: int, parent: int) -> None:
    global _dataset, _recipe  # a worker process has one job and keeps its data
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    _dataset, _recipe = load(data), RECIPES[recipe]


def _end_with(parent: int) -> None:
    """End this process when the parent is gone, also after a kill -9."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def recorded(weights_path: Path) -> Score | None:
    """The score of a training that `ProxyPool.submit_test` finished before, if it did."""
    record = weights_path.with_suffix(".json")
    return Score(**json.loads(record.read_text())) if record.exists() else None


def _accuracy(arch: Arch, seed: int) -> float:
    return _train(arch, seed)[1].accuracy


def _test(arch: Arch, seed: int, weights_path: Path) -> Score:
    """The score is written last and by the worker: once it is there, all of the training is."""
    graph, trained = _train(arch, seed)
    test, _ = subset(_dataset.test, _recipe.test_pictures, SPLIT_SEED)
    net = net_of(graph, trained.weights)
    score = Score(
        accuracy=trained.accuracy,
        test_accuracy=evaluate(net, test, _dataset.mean_std()),
        seconds=trained.seconds,
    )
    save(trained.weights, weights_path)
    record = json.dumps(dataclasses.asdict(score)).encode()
    write_whole(weights_path.with_suffix(".json"), record)
    return score


def _train(arch: Arch, seed: int) -> tuple[Graph, Trained]:
    data, recipe = _dataset, _recipe
    resolution = min(arch.resolution, data.resolution)
    graph = lower(fit_to(arch, resolution=resolution, classes=len(data.classes)))
    held_out = min(recipe.validation_pictures, len(data.train) // 4)
    validation, rest = subset(data.train, held_out, SPLIT_SEED)
    pictures, _ = subset(rest, recipe.train_pictures, SPLIT_SEED)
    return graph, train(graph, pictures, validation, recipe, seed, data.mean_std())
