"""The training loop: one for proxies and for full training, which differ in their `Recipe` only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ghostnas.arrays import Array
from ghostnas.backends.torch_module import Net
from ghostnas.data.augmentation import Augmentation, PaddedCrop, ResizedCrop, augment
from ghostnas.data.images import Source
from ghostnas.data.loader import normaliser, test_batches, train_batches
from ghostnas.errors import InputError
from ghostnas.ir.graph import Graph, Weights
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.training import checkpoint
from ghostnas.training.checkpoint import Keeper
from ghostnas.training.distributed import World
from ghostnas.training.learner import Learner, NetLearner, Teacher, memory_errors
from ghostnas.training.recipe import Recipe

EVALUATION_BATCH = 250
EVALUATION_BATCH_ON_CPU = 64  # twice as fast there as 250, whose maps leave a core's caches
GROWTH_EPOCHS = 0.75  # share of the epochs in which images grow from a recipe's first resolution
CHECKED_EVERY = {"cpu": 1, "cuda": 20}  # steps: to look at a loss makes a GPU wait
HERE = World(device=torch.device("cpu"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is trained; with the number of processes, this decides every weight of the result.

    Attributes:
        held_out: images that the accuracy is taken on.
        initial: weights to begin with; those it lacks are drawn.
        teacher: whose answers are learned too.
    """

    graph: Graph
    train: Source
    held_out: Source
    recipe: Recipe
    seed: int
    preprocessing: Preprocessing
    initial: Weights | None = None
    teacher: Teacher | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a task is run.

    Attributes:
        world: the processes that share each batch; all call `train` alike.
        workers: processes that decode images which are not in memory.
        strict: whether an image that cannot be read is an error; else another takes its place...
        skipped: ... and it is put here with the reason.
        keeper: where the state is kept, and read from first.
        evaluate_every: epochs between two accuracies on the held-out images; 0 for the last alone.
        evaluate_after: epochs, counted from 1, after which it is taken in any case.
    """

    world: World = HERE
    workers: int = 0
    strict: bool = False
    skipped: dict[Path, str] | None = None
    keeper: Keeper | None = None
    evaluate_every: int = 0
    evaluate_after: tuple[int, ...] = ()


ALONE = Execution()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained network's weights, its accuracy on held-out images (0 to 1) and its seconds."""

    weights: dict[str, Array]
    accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a training is after a step; `epoch_done` where it was the last of its epoch.

    `loss` is this step's; `mean_loss` and `train_accuracy` are of the epoch so far. `accuracy` is
    that on held-out images, where it was taken.
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
    task: Task,
    report: Callable[[Progress], None] = lambda progress: None,
    execution: Execution = ALONE,
    new_learner: Callable[[Task, World], Learner] | None = None,
) -> Trained:
    """Train the task's network and say how it does on the held-out images.

    All randomness flows from the seed: a step draws from it and its own number, so that a training
    that goes on from a checkpoint gives, on a CPU, the weights of one that was never stopped.

    Args:
        report: called after each step (on CUDA, each 20th and each epoch's last).
        new_learner: what learns, if not the network alone.

    Raises:
        TrainingError: the loss is not a finite number or grows, or there is not enough memory.
        InputError: the images or the recipe do not fit the network or the processes.
    """
    started = time.perf_counter()
    recipe, world, keeper = task.recipe, execution.world, execution.keeper
    plan = _plan(task)
    accuracy: float | None = None
    with memory_errors(recipe.batch_size):
        learner = _learner(task, execution, new_learner or _net_learner)
        clock = _Clock(plan, learner.step)
        while learner.step < plan.steps:
            epoch = learner.step // plan.steps_an_epoch
            for images, labels in _batches(task, execution, plan, first=learner.step):
                rate = recipe.learning_rate * schedule(learner.step / plan.steps, recipe)
                learner.learn(images, labels, rate)
                step, last = learner.step, learner.step == plan.steps
                epoch_done = step % plan.steps_an_epoch == 0
                if step % CHECKED_EVERY[world.device.type] and not epoch_done:
                    continue
                loss = learner.health.check(plan.steps)
                means = learner.health.means(world if epoch_done else HERE)
                accuracy = None
                if last or (epoch_done and _evaluated(epoch + 1, execution)):
                    accuracy = _accuracy(learner, task, execution)
                report(_progress(plan, clock, step, rate, loss, means, accuracy))
                if epoch_done:
                    learner.health.new_epoch()
                if keeper is not None and world.first and (keeper.due() or last):
                    keeper.keep(learner.state())
        learner.check_weights()
        if accuracy is None:  # nothing was left to do
            accuracy = _accuracy(learner, task, execution)
    seconds = time.perf_counter() - started
    return Trained(weights=learner.weights(), accuracy=accuracy, seconds=seconds)


def evaluate(
    net: Net,
    images: Source,
    preprocessing: Preprocessing,
    execution: Execution = ALONE,
    batch_size: int = 0,
) -> float:
    """The share of readable images whose class the network, in evaluation mode then, puts first.

    Args:
        batch_size: 0 for one that suits the device.

    Raises:
        InputError: none can be read, or, where `execution` is strict, one cannot.
    """
    net.eval()
    world = execution.world
    on_cpu = world.device.type == "cpu"
    batch_size = batch_size or (EVALUATION_BATCH_ON_CPU if on_cpu else EVALUATION_BATCH)
    normalise = normaliser(preprocessing, world.device)
    own = images.take(np.arange(world.rank, len(images), world.size))
    right = torch.zeros((), dtype=torch.int64, device=world.device)
    seen = 0
    with torch.inference_mode():
        for batch, labels in test_batches(
            own,
            batch_size=batch_size,
            size=net.graph.input_shape[1],
            device=world.device,
            workers=execution.workers,
            strict=execution.strict,
            skipped=execution.skipped,
        ):
            right += (net(normalise(batch)).argmax(1) == labels).sum()
            seen += len(labels)
    right_in_all, seen_in_all = world.total(float(right), seen)
    if not seen_in_all:
        raise InputError(f"none of the {len(images)} images to evaluate on can be read")
    return right_in_all / seen_in_all


def due(epoch: int, every: int) -> bool:
    """Whether an epoch, counted from 1, is one of those that are looked at."""
    return bool(every) and epoch % every == 0


def _evaluated(epoch: int, execution: Execution) -> bool:
    return epoch in execution.evaluate_after or due(epoch, execution.evaluate_every)


def resolution_at(recipe: Recipe, graph: Graph, epoch: int) -> int:
    """Pixels of the images in an epoch, counted from 0; between the ends, multiples of 8."""
    last = graph.input_shape[1]
    first = min(recipe.first_resolution, last)
    growing = math.floor(recipe.epochs * GROWTH_EPOCHS)
    if not first or epoch >= growing:
        return last
    grown = round((first + (last - first) * epoch / growing) / 8) * 8
    return min(last, max(first, grown)) if epoch else first


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The steps of a training: `batch` images each, and of each epoch the `sizes` of its images."""

    steps_an_epoch: int
    batch: int
    sizes: tuple[int, ...]

    @property
    def steps(self) -> int:
        return len(self.sizes) * self.steps_an_epoch

    def pixels(self, step: int) -> float:
        """Those of all steps before `step`, one image of each."""
        epoch, rest = divmod(step, self.steps_an_epoch)
        whole = self.steps_an_epoch * sum(size**2 for size in self.sizes[:epoch])
        return whole + rest * self.sizes[epoch] ** 2 if rest else whole


def _plan(task: Task) -> _Plan:
    recipe, images = task.recipe, len(task.train)
    return _Plan(
        steps_an_epoch=max(1, images // recipe.batch_size),
        batch=min(recipe.batch_size, images),
        sizes=tuple(resolution_at(recipe, task.graph, epoch) for epoch in range(recipe.epochs)),
    )


class _Clock:
    """How fast this process is, where a step takes time in proportion to its images' pixels.

    `first` is the step that this process began with.
    """

    def __init__(self, plan: _Plan, first: int) -> None:
        self._plan, self._first = plan, first
        self._began = time.perf_counter()

    def seconds_a_step(self, step: int) -> float:
        return (time.perf_counter() - self._began) / (step - self._first)

    def seconds_left(self, step: int) -> float:
        done = self._plan.pixels(step)
        left = self._plan.pixels(self._plan.steps) - done
        return (time.perf_counter() - self._began) * left / (done - self._plan.pixels(self._first))


def _progress(
    plan: _Plan,
    clock: _Clock,
    step: int,
    learning_rate: float,
    loss: float,
    means: tuple[float, float],
    accuracy: float | None,
) -> Progress:
    """What is reported after `step`; `means` are loss and training accuracy of the epoch so far."""
    epoch = (step - 1) // plan.steps_an_epoch
    return Progress(
        step=step,
        steps=plan.steps,
        epoch=epoch + 1,
        epoch_done=step % plan.steps_an_epoch == 0,
        resolution=plan.sizes[epoch],
        learning_rate=learning_rate,
        loss=loss,
        mean_loss=means[0],
        train_accuracy=means[1],
        accuracy=accuracy,
        images_per_second=plan.batch / clock.seconds_a_step(step),
        seconds_left=clock.seconds_left(step),
    )


def _net_learner(task: Task, world: World) -> Learner:
    return NetLearner(
        task.graph, task.recipe, task.seed, task.preprocessing, world, task.initial, task.teacher
    )


def _learner(task: Task, execution: Execution, new: Callable[[Task, World], Learner]) -> Learner:
    """What learns, as it begins: as the keeper has it, in all processes, or new."""
    world, keeper = execution.world, execution.keeper
    learner = new(task, world)
    if kept := world.from_first(keeper.read() if keeper and world.first else None):
        learner.restore(checkpoint.from_bytes(kept, "the checkpoint"))
    return learner


def _batches(
    task: Task, execution: Execution, plan: _Plan, *, first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches of this process from step `first` to the end of its epoch."""
    recipe, world = task.recipe, execution.world
    epoch, done = divmod(first, plan.steps_an_epoch)
    shard = (world.rank, world.size)
    batches = train_batches(
        task.train,
        np.random.default_rng([task.seed, epoch]).permutation(len(task.train)),
        batch_size=recipe.batch_size,
        size=plan.sizes[epoch],
        crop=_crop(recipe),
        seed=(task.seed, epoch),
        shard=shard,
        device=world.device,
        workers=execution.workers,
        first=done,
        strict=execution.strict,
        skipped=execution.skipped,
    )
    augmentation = _augmentation(recipe)
    for step, (images, labels) in enumerate(batches, first):
        yield augment(images, augmentation, (task.seed, step), shard), labels


def _accuracy(learner: Learner, task: Task, execution: Execution) -> float:
    """That of the weights so far, on the held-out images; the network then learns on."""
    accuracy = evaluate(learner.result, task.held_out, task.preprocessing, execution)
    learner.net.train()
    return accuracy


def schedule(progress: float, recipe: Recipe) -> float:
    """Share of the highest learning rate at a share of the steps, `progress`, from 0 to 1."""
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
