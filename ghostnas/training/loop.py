"""The training loop: one for proxies and for full training, which differ in their `Recipe` only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ghostnas.arrays import Array
from ghostnas.backends.torch_module import Net, weights_of
from ghostnas.data.augmentation import Augmentation, PaddedCrop, ResizedCrop, augment
from ghostnas.data.images import Source
from ghostnas.data.loader import normaliser, test_batches, train_batches
from ghostnas.errors import InputError
from ghostnas.ir.graph import Graph, Weights
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.training import checkpoint
from ghostnas.training.checkpoint import Keeper
from ghostnas.training.distributed import World
from ghostnas.training.learner import Learner, Teacher, memory_errors
from ghostnas.training.recipe import Recipe

EVALUATION_BATCH = 250
GROWTH_EPOCHS = 0.75  # share of the epochs in which pictures grow from a recipe's first resolution
CHECKED_EVERY = {"cpu": 1, "cuda": 20}  # steps: to look at a loss makes a GPU wait
HERE = World(device=torch.device("cpu"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained network's weights, its accuracy on held-out pictures (0 to 1) and its seconds."""

    weights: dict[str, Array]
    accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a training is after a step; `epoch_done` where it was the last of its epoch.

    `loss` is this step's; `mean_loss` and `train_accuracy` are of the epoch so far. `accuracy` is
    that on held-out pictures, where it was taken.
    """

    step: int
    steps: int
    epoch: int
    epoch_done: bool
    resolution: int
    learning_rate: float
    loss: float
    mean_loss: float
    train_accuracy: float
    accuracy: float | None
    images_per_second: float
    seconds_left: float


def train(
    graph: Graph,
    pictures: Source,
    held_out: Source,
    recipe: Recipe,
    seed: int,
    preprocessing: Preprocessing,
    report: Callable[[Progress], None] = lambda progress: None,
    *,
    world: World = HERE,
    workers: int = 0,
    strict: bool = False,
    skipped: dict[Path, str] | None = None,
    initial: Weights | None = None,
    teacher: Teacher | None = None,
    keeper: Keeper | None = None,
    evaluate_every: int = 0,
) -> Trained:
    """Train `graph` and say how it does on `held_out`.

    All randomness flows from `seed`: a step draws from it and its own number, so that a training
    that goes on from a checkpoint gives, on a CPU, the weights of one that was never stopped.

    Args:
        report: called after each step (on CUDA, each 20th and each epoch's last).
        world: the processes that share each batch; all call this function alike.
        workers: processes that decode pictures which are not in memory.
        strict: whether one that cannot be read is an error; else another takes its place...
        skipped: ... and it is put here with the reason.
        initial: weights to begin with; those it lacks are drawn.
        teacher: whose answers are learned too.
        keeper: where the state is kept, and read from first.
        evaluate_every: epochs between two accuracies on `held_out`; 0 for the last alone.

    Raises:
        TrainingError: the loss is no number any more or grows, or memory does not suffice.
        InputError: the pictures or the recipe do not fit the network or the processes.
    """

    def judge(net: Net) -> float:
        return evaluate(net, held_out, preprocessing, world, workers, strict, skipped)

    started = time.perf_counter()
    steps_an_epoch = max(1, len(pictures) // recipe.batch_size)
    steps = recipe.epochs * steps_an_epoch
    shard = (world.rank, world.size)
    crop, augmentation = _crop(recipe), _augmentation(recipe)
    accuracy: float | None = None
    with memory_errors(recipe.batch_size):
        learner = Learner(graph, recipe, seed, preprocessing, world, initial, teacher)
        if kept := world.from_first(keeper.read() if keeper and world.first else None):
            learner.restore(checkpoint.from_bytes(kept, "the checkpoint"))
        sizes = [resolution_at(recipe, graph, epoch) for epoch in range(recipe.epochs)]
        pace = _Pace(sizes, steps_an_epoch, learner.step)
        while learner.step < steps:
            epoch, first = divmod(learner.step, steps_an_epoch)
            size = sizes[epoch]
            batches = train_batches(
                pictures,
                np.random.default_rng([seed, epoch]).permutation(len(pictures)),
                batch_size=recipe.batch_size,
                size=size,
                crop=crop,
                seed=(seed, epoch),
                shard=shard,
                device=world.device,
                workers=workers,
                first=first,
                strict=strict,
                skipped=skipped,
            )
            for images, labels in batches:
                images = augment(images, augmentation, (seed, learner.step), shard)
                rate = recipe.learning_rate * _schedule(learner.step / steps, recipe)
                learner.learn(images, labels, rate)
                step = learner.step
                epoch_done = step % steps_an_epoch == 0
                if step % CHECKED_EVERY[world.device.type] and not epoch_done:
                    continue
                loss = learner.health.check(steps)
                mean_loss, train_accuracy = learner.health.means(world if epoch_done else HERE)
                accuracy = None
                if step == steps or (epoch_done and due(epoch + 1, evaluate_every)):
                    accuracy = judge(learner.result)
                    learner.net.train()
                report(
                    Progress(
                        step=step,
                        steps=steps,
                        epoch=epoch + 1,
                        epoch_done=epoch_done,
                        resolution=size,
                        learning_rate=rate,
                        loss=loss,
                        mean_loss=mean_loss,
                        train_accuracy=train_accuracy,
                        accuracy=accuracy,
                        images_per_second=min(recipe.batch_size, len(pictures))
                        / pace.seconds_a_step(step),
                        seconds_left=pace.seconds_left(step),
                    )
                )
                if epoch_done:
                    learner.health.new_epoch()
                if keeper is not None and world.first and (keeper.due() or step == steps):
                    keeper.keep(learner.state())
        learner.check_weights()
        if accuracy is None:  # nothing was left to do
            accuracy = judge(learner.result)
    seconds = time.perf_counter() - started
    return Trained(weights=weights_of(learner.result), accuracy=accuracy, seconds=seconds)


def evaluate(
    net: Net,
    pictures: Source,
    preprocessing: Preprocessing,
    world: World = HERE,
    workers: int = 0,
    strict: bool = False,
    skipped: dict[Path, str] | None = None,
) -> float:
    """The share of readable pictures whose class the network, in evaluation mode then, puts first.

    Raises:
        InputError: none can be read, or, with `strict`, one cannot.
    """
    net.eval()
    normalise = normaliser(preprocessing, world.device)
    own = pictures.take(np.arange(world.rank, len(pictures), world.size))
    right = torch.zeros((), dtype=torch.int64, device=world.device)
    seen = 0
    with torch.inference_mode():
        for images, labels in test_batches(
            own,
            batch_size=EVALUATION_BATCH,
            size=net.graph.input_shape[1],
            device=world.device,
            workers=workers,
            strict=strict,
            skipped=skipped,
        ):
            right += (net(normalise(images)).argmax(1) == labels).sum()
            seen += len(labels)
    right_in_all, seen_in_all = world.total(float(right), seen)
    if not seen_in_all:
        raise InputError(f"none of the {len(pictures)} pictures to judge by can be read")
    return right_in_all / seen_in_all


def due(epoch: int, every: int) -> bool:
    """Whether an epoch, counted from 1, is one of those that are looked at."""
    return bool(every) and epoch % every == 0


def resolution_at(recipe: Recipe, graph: Graph, epoch: int) -> int:
    """Pixels of the pictures in an epoch, counted from 0; between the ends, multiples of 8."""
    last = graph.input_shape[1]
    first = min(recipe.first_resolution, last)
    growing = math.floor(recipe.epochs * GROWTH_EPOCHS)
    if not first or epoch >= growing:
        return last
    grown = round((first + (last - first) * epoch / growing) / 8) * 8
    return min(last, max(first, grown)) if epoch else first


class _Pace:
    """How quick this process is, where a step's time goes with the pixels of its pictures.

    `sizes` are those of each epoch's pictures, `first` the step that this process began with.
    """

    def __init__(self, sizes: Sequence[int], steps_an_epoch: int, first: int) -> None:
        self._sizes, self._steps_an_epoch, self._first = sizes, steps_an_epoch, first
        self._began = time.perf_counter()

    def seconds_a_step(self, step: int) -> float:
        return (time.perf_counter() - self._began) / (step - self._first)

    def seconds_left(self, step: int) -> float:
        done = self._pixels(step)
        left = self._pixels(len(self._sizes) * self._steps_an_epoch) - done
        return (time.perf_counter() - self._began) * left / (done - self._pixels(self._first))

    def _pixels(self, step: int) -> float:
        """Those of all steps before `step`, a picture of each."""
        epoch, rest = divmod(step, self._steps_an_epoch)
        whole = self._steps_an_epoch * sum(size**2 for size in self._sizes[:epoch])
        return whole + rest * self._sizes[epoch] ** 2 if rest else whole


def _schedule(progress: float, recipe: Recipe) -> float:
    """Share of the highest learning rate at a share of the steps."""
    warmup = recipe.warmup
    if progress < warmup:
        return (progress + 0.01) / (warmup + 0.01)
    rest = (progress - warmup) / (1 - warmup)
    match recipe.schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * rest))
        case "linear":
            return 1 - rest
        case "steps":
            passed = sum(progress >= milestone for milestone in recipe.milestones)
            return float(0.1**passed)


def _crop(recipe: Recipe) -> PaddedCrop | ResizedCrop:
    if recipe.crop_smallest:
        return ResizedCrop(smallest=recipe.crop_smallest)
    return PaddedCrop(padding=recipe.crop_padding)


def _augmentation(recipe: Recipe) -> Augmentation:
    return Augmentation(
        flip=recipe.flip,
        cutout=recipe.cutout,
        randaugment=recipe.randaugment,
        magnitude=recipe.randaugment_magnitude,
    )
