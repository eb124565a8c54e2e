"""Trains many small networks at once on one GPU, to learn how accurate each becomes.

A small network's kernels are too short to fill a GPU, and its launches take longer than they do. So
a network's whole step, from the gathering and augmentation of its batch to the optimizer, is
captured as a CUDA graph, and --at-once networks are in flight, each on a stream of its own, where
one thread replays them in turn without ever waiting for the GPU. On a CPU, or with --eager, the
same step runs without graphs.

The images, their order and augmentation, the initial weights and the learning rates are those that
`ghostnas.training.loop.train` draws from the same seed; products on a GPU are of TF32, or with
--bf16 of bfloat16. As in fidelity.py the images that the recipe `proxy` chooses by are held out,
and the results are lines of the same form: a network's accuracy on the test images, its curve over
the epochs, and the seconds it took beside the others. Architectures are read from the file that
fidelity.py writes, and trained from the first seed, then from the second, and so on.

A result is in --out as soon as it is there, and the accuracy after each epoch is in curves.jsonl;
the same command resumes after a kill, where a training that was cut off begins anew. No training is
started that cannot end before --deadline, and one that falls behind it gives way to the others.

    python gpu_trainings.py --data cifar10:DIR --architectures runs/fidelity/architectures.json \\
        --recipe recipe.toml --seeds 1,2 --at-once 8-24 --deadline 330 --out runs/truth
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import math
import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ghostnas.backends.torch_module import Net
from ghostnas.data import augmentation, datasets, loader
from ghostnas.data.images import Pictures
from ghostnas.devices.journal import Journal
from ghostnas.errors import GhostnasError, InputError, TrainingError
from ghostnas.files import locked, read_text
from ghostnas.networks.arch import Arch, from_json, lower
from ghostnas.training import loop, recipe, splits
from ghostnas.training.initialization import fresh
from ghostnas.training.learner import LEAST_STEPS, SMOOTHING
from ghostnas.training.recipe import Recipe

LONG = "long training"  # as fidelity.py calls it
WARM_UP_STEPS = 3  # before a capture; they choose algorithms and allocate workspaces
BURST = 4  # steps that are queued together
BURSTS_AHEAD = 6  # of a network, queued; they last while another network is captured
CHECK_TOLERANCE = 0.02  # between captured and eager losses, which differ by rounding
REPORT_S = 6.0
PACE_S = 10.0  # over which a training's pace is taken
GROWTH = 4  # networks more at once, while that makes the whole faster...
GAIN = 1.04  # ... by this
MARGIN = 1.1  # by which a training may take longer than foreseen
TEST_BATCH = 2000
FAILURES = 3  # networks in a row that cannot be started
UNUSED = {  # fields of a recipe whose values must be these
    "optimizer": "adamw",
    "first_resolution": 0,
    "ema": 0.0,
    "dropout": 0.0,
    "crop_smallest": 0.0,
    "cutout": 0,
    "randaugment": 0,
    "compile": False,
}
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A network to train from a seed; `arch_id` is its own, `arch` fits the data."""

    arch_id: str
    arch: Arch
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How a network's step runs: captured or not, its products' type and its maps' layout."""

    captured: bool
    bf16: bool
    layout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all trainings read, on the device.

    Attributes:
        padded: training images (n, height + 2 padding, width + 2 padding, 3), black around.
        labels: theirs, (n,).
        test: test images (m, height, width, 3), the last batch filled up with black ones...
        test_labels: ... whose labels (m,) are -1.
        tested: how many of them count.
        rates: learning rates (steps,).
        steps_an_epoch: of the recipe's batches.
    """

    recipe: Recipe
    classes: int
    size: int
    padded: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor
    tested: int
    test_batch: int
    rates: Tensor
    steps_an_epoch: int
    normalise: Callable[[Tensor], Tensor]

    @property
    def device(self) -> torch.device:
        return self.padded.device

    @property
    def steps(self) -> int:
        return self.steps_an_epoch * self.recipe.epochs


def check_recipe(how: Recipe) -> None:
    """Raises:
    InputError: the recipe asks for something that is not done here.
    """
    for name, only in UNUSED.items():
        if (value := getattr(how, name)) != only:
            raise InputError(f"the recipe has {name} = {value!r}; here it must be {only!r}")


def share(found: splits.Split, how: Recipe, device: torch.device) -> Shared:
    """Raises:
    InputError: the images are not in memory, fewer than a batch, or to be scaled.
    """
    train, test = found.train, found.test
    if not (isinstance(train, Pictures) and isinstance(test, Pictures)):
        raise InputError("the images are in files; data in memory is needed, such as cifar10:DIR")
    if found.resolution != found.data_resolution:
        raise InputError(
            f"the recipe has resolution = {found.resolution}; here it must be the data's, "
            f"{found.data_resolution}"
        )
    if len(train) < how.batch_size:
        raise InputError(f"{len(train)} training images are fewer than a batch, {how.batch_size}")
    pad, steps_an_epoch = how.crop_padding, len(train) // how.batch_size
    steps = steps_an_epoch * how.epochs
    test_batch = min(TEST_BATCH, len(test))
    filling = -len(test) % test_batch
    rates = [how.learning_rate * loop.schedule(step / steps, how) for step in range(steps)]
    around = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    return Shared(
        recipe=how,
        classes=len(found.preprocessing.classes),
        size=found.resolution,
        padded=torch.from_numpy(np.pad(train.images, around)).to(device),
        labels=torch.from_numpy(train.labels.astype(np.int64)).to(device),
        test=torch.from_numpy(np.pad(test.images, ((0, filling), (0, 0), (0, 0), (0, 0)))).to(
            device
        ),
        test_labels=torch.from_numpy(
            np.pad(test.labels.astype(np.int64), (0, filling), constant_values=-1)
        ).to(device),
        tested=len(test),
        test_batch=test_batch,
        rates=torch.tensor(rates, device=device),
        steps_an_epoch=steps_an_epoch,
        normalise=loader.normaliser(found.preprocessing, device),
    )


def draw(shared: Shared, seed: int) -> Tensor:
    """For each step of a training and image of its batch its index, top, left and whether it is
    mirrored: (steps, 4, batch) int64, on the device, as `loop.train` draws them.
    """
    how, count = shared.recipe, len(shared.labels)
    drawn = np.zeros((shared.steps, 4, how.batch_size), np.int64)
    for step in range(shared.steps):
        epoch, number = divmod(step, shared.steps_an_epoch)
        if not number:
            order = np.random.default_rng([seed, epoch]).permutation(count)
        drawn[step, 0] = order[number * how.batch_size :][: how.batch_size]
        if how.crop_padding:
            moves = np.random.default_rng([loader.STREAM, seed, epoch, number])
            drawn[step, 1:3] = moves.integers(0, 2 * how.crop_padding + 1, (2, how.batch_size))
        if how.flip:
            mirrored = np.random.default_rng([augmentation.STREAM, seed, step])
            drawn[step, 3] = mirrored.random(how.batch_size) < 0.5
    return torch.from_numpy(drawn).to(shared.device)


class Lane:
    """A stream of the device, on which work is queued and runs in order; a CPU's waits at once."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def here(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def mark(self) -> Any:
        """What `passed` takes to say whether all that is queued so far is done."""
        return None if self.stream is None else self.stream.record_event()

    def renew(self) -> None:
        """Another stream, in place of one that a capture has spoiled."""
        if self.stream is not None:
            self.stream = torch.cuda.Stream(self.stream.device)

    def wait(self) -> None:
        if self.stream is not None:
            self.stream.synchronize()


def passed(mark: Any) -> bool:
    return mark is None or mark.query()


class Training:
    """A network in training on a lane.

    Attributes:
        done: steps known to have been completed.
        curve: the accuracy on the test images after each epoch.
        failure: why it is to be given up, if it is.
        mean_loss: of the last epoch.
    """

    def __init__(self, job: Job, shared: Shared, draws: Tensor, lane: Lane, how: How) -> None:
        self.job, self.lane, self.how = job, lane, how
        self.done, self.curve, self.failure, self.mean_loss = 0, [], "", math.nan
        self.began = time.perf_counter()
        self.runs_captured = False
        self._shared, self._draws = shared, draws
        self._queued = 0
        self._marks: deque[tuple[Any, int, int]] = deque()  # with steps done and epoch or -1
        self._passed: deque[tuple[float, int]] = deque()  # when so many steps were done
        device = shared.device
        self._said = torch.zeros(
            (shared.recipe.epochs, 4), dtype=torch.float64, pin_memory=device.type == "cuda"
        )
        if lane.stream is not None:
            lane.stream.wait_stream(torch.cuda.default_stream(device))  # shared data is from there
        with lane.here():
            self.net = self._network()
            self._counter = torch.zeros(1, dtype=torch.int64, device=device)
            self._at = torch.zeros(1, dtype=torch.int64, device=device)
            self._rate = torch.zeros((), device=device)
            self._loss, self._smoothed, self._worst = (
                torch.zeros(1, device=device) for _ in range(3)
            )
            self._eager_loss = torch.zeros(1, device=device)
            self._right = torch.zeros(1, dtype=torch.int64, device=device)
            self._pixels = torch.arange(shared.size, device=device)
            self._mirrored = self._pixels.flip(0)
            self._rows = torch.arange(shared.test_batch, device=device)
            self._optimizer = self._adamw()
            self._step, self._test = self._prepared()

    def _network(self) -> Net:
        net = fresh(lower(self.job.arch), self.job.seed)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.num_batches_tracked = None  # a kernel a step each, for a number unused here
        net.to(self._shared.device, memory_format=FORMATS[self.how.layout])
        return net.train()

    def _adamw(self) -> torch.optim.Optimizer:
        """As `Learner` has it; its learning rate is read on the device."""
        weights = list(self.net.parameters())
        groups = [
            {
                "params": [each for each in weights if each.ndim > 1],
                "weight_decay": self._shared.recipe.weight_decay,
            },
            {"params": [each for each in weights if each.ndim == 1], "weight_decay": 0.0},
        ]
        cuda = self._shared.device.type == "cuda"
        rate = self._shared.recipe.learning_rate
        found = torch.optim.AdamW(groups, lr=rate, fused=True, capturable=cuda)
        for group in found.param_groups:
            group["lr"] = self._rate  # given to the constructor, it would be waited for
        return found

    def _learn(self) -> None:
        """One step; all it needs is on the device."""
        shared = self._shared
        indices, tops, lefts, mirrored = self._draws.index_select(0, self._counter)[0].unbind()
        pixels = self._pixels
        rows = tops[:, None] + pixels
        columns = lefts[:, None] + torch.where(mirrored[:, None] > 0, self._mirrored, pixels)
        images = shared.padded[indices[:, None, None], rows[:, :, None], columns[:, None]]
        labels = shared.labels[indices]
        self._rate.copy_(shared.rates.index_select(0, self._counter)[0])
        self._optimizer.zero_grad()
        with self._precision():
            logits = self.net(self._input(images)).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=shared.recipe.label_smoothing)
        loss.backward()
        if shared.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.net.parameters(), shared.recipe.clip_norm)
        self._optimizer.step()
        with torch.no_grad():
            self._counter += 1
            self._loss += loss
            self._smoothed.lerp_(loss.detach().view(1), 1 - SMOOTHING)
            counted = self._smoothed * (self._counter > LEAST_STEPS)
            self._worst.copy_(torch.maximum(self._worst, counted))

    def _answer(self) -> None:
        """Test the next batch of test images; the network is in evaluation mode."""
        shared = self._shared
        with torch.no_grad():
            rows = self._at + self._rows
            logits = self.net(self._input(shared.test[rows]))
            self._right += (logits.argmax(1) == shared.test_labels[rows]).sum()
            self._at += shared.test_batch

    def _input(self, images: Tensor) -> Tensor:
        normal = self._shared.normalise(images.permute(0, 3, 1, 2))
        return normal.contiguous(memory_format=FORMATS[self.how.layout])

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.how.bf16:
            return nullcontext()
        # A cached cast of a weight would be of one step, and graphs repeat it.
        kind = self._shared.device.type
        return torch.autocast(kind, torch.bfloat16, cache_enabled=False)

    def _prepared(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """A step and the test of a batch, captured where possible; nothing has been learned."""
        if self.how.captured:
            initial = [each.detach().clone() for each in self._state()]
            for alone in (False, True):
                try:
                    return self._captured(initial, alone)
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError as error:
                    say_once(f"a step could not be captured: {first_line(error)}")
                    torch.cuda.synchronize()
                    self.lane.renew()
                    self._optimizer.zero_grad()
                    self.net.train()
            say_once("steps run as they are, without CUDA graphs")
        return self._learn, self._answer_eagerly

    def _captured(
        self, initial: list[Tensor], alone: bool
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        with self.lane.here():
            self._restore(initial)
            for _ in range(min(WARM_UP_STEPS, self._shared.steps)):
                self._learn()
            self._eager_loss.copy_(self._loss)
            self._answer_eagerly()
            self._restore(initial)
            self._optimizer.zero_grad()  # the graph's gradients are in its own memory
            step = capture(self._learn, self.lane, alone)
            self.net.eval()
            test = capture(self._answer, self.lane, alone)
            self.net.train()
        self.runs_captured = True
        return step, test

    def _restore(self, initial: list[Tensor]) -> None:
        """Make the training as new, in place."""
        moments = [
            each
            for state in self._optimizer.state.values()
            for each in state.values()
            if isinstance(each, Tensor)
        ]
        with torch.no_grad():
            torch._foreach_copy_(self._state(), initial)
            for each in (*moments, *self._counters()):
                each.zero_()

    def _answer_eagerly(self) -> None:
        self.net.eval()
        self._answer()
        self.net.train()

    def _state(self) -> list[Tensor]:
        return [*self.net.parameters(), *self.net.buffers()]

    def _counters(self) -> list[Tensor]:
        return [self._counter, self._at, self._loss, self._smoothed, self._worst, self._right]

    @property
    def ended(self) -> bool:
        """Nothing is queued any more, and nothing will be."""
        whole = bool(self.failure) or self._queued == self._shared.steps
        return whole and not self._marks

    @property
    def pace(self) -> float | None:
        """Seconds a step, lately."""
        if len(self._passed) < 2:
            return None
        (first, before), (last, after) = self._passed[0], self._passed[-1]
        return (last - first) / (after - before)

    @property
    def steps_left(self) -> int:
        return self._shared.steps - self.done

    def queue(self) -> bool:
        """Queue more steps if there is room; whether there was."""
        steps, an_epoch = self._shared.steps, self._shared.steps_an_epoch
        if self.failure or self._queued == steps or len(self._marks) >= BURSTS_AHEAD:
            return False
        epoch = self._queued // an_epoch
        count = min(BURST, (epoch + 1) * an_epoch - self._queued)
        with self.lane.here():
            for _ in range(count):
                self._step()
            self._queued += count
            ends = self._queued % an_epoch == 0
            if ends:
                self._say(epoch)
            self._marks.append((self.lane.mark(), self._queued, epoch if ends else -1))
        return True

    def _say(self, epoch: int) -> None:
        """Test, and have the epoch's numbers sent to the host."""
        self._at.zero_()
        self._right.zero_()
        for _ in range(len(self._shared.test) // self._shared.test_batch):
            self._test()
        norm = nn.utils.get_total_norm([each.detach() for each in self._state()])
        found = [self._right, self._loss, self._worst, norm.view(1)]
        self._said[epoch].copy_(torch.cat([each.double() for each in found]), non_blocking=True)
        self._loss.zero_()

    def look(self) -> int:
        """Take note of what has been completed; how many steps since the last look."""
        before = self.done
        while self._marks and passed(self._marks[0][0]):
            _, self.done, epoch = self._marks.popleft()
            if epoch >= 0 and not self.failure:
                self._note(epoch)
        if self.done > before:
            now = time.perf_counter()
            self._passed.append((now, self.done))
            while len(self._passed) > 2 and now - self._passed[0][0] > PACE_S:
                self._passed.popleft()
        return self.done - before

    def _note(self, epoch: int) -> None:
        right, loss, worst, norm = self._said[epoch].tolist()
        self.mean_loss = loss / self._shared.steps_an_epoch
        limit = 2 * math.log(self._shared.classes) + 1
        if not math.isfinite(loss):
            self.failure = f"the loss is {loss} in epoch {epoch + 1}; try a lower learning_rate"
        elif not worst <= limit:
            self.failure = f"the training diverges: the loss is about {worst:.1f}"
        elif not math.isfinite(norm):
            self.failure = f"epoch {epoch + 1} left weights that are not finite"
        else:
            self.curve.append(right / self._shared.tested)

    def losses(self, steps: int) -> tuple[float, float]:
        """The sums of the first steps' losses, eager and replayed, which spoils the training."""
        with self.lane.here():
            for _ in range(steps):
                self._step()
            return self._eager_loss.item(), self._loss.item()

    def release(self) -> None:
        """Free what it holds on the device; it is part of cycles, which Python frees late."""
        vars(self).clear()

    def milliseconds(self, steps: int) -> float:
        """Of a step that has the device to itself; what it learns spoils the training."""
        with self.lane.here():
            self.lane.wait()
            began = time.perf_counter()
            for step in range(steps):
                if step % self._shared.steps == 0:
                    self._counter.zero_()
                self._step()
            self.lane.wait()
        return (time.perf_counter() - began) / steps * 1e3


def capture(function: Callable[[], None], lane: Lane, alone: bool) -> Callable[[], None]:
    """The work of a function, which must have run on the lane, as a CUDA graph.

    It does what `torch.cuda.graph` does but for making all lanes run dry, as that does; with
    `alone` it leaves it to that.
    """
    assert lane.stream is not None
    lane.wait()
    graph = torch.cuda.CUDAGraph()
    with no_collection():
        if alone:
            with torch.cuda.graph(graph, stream=lane.stream, capture_error_mode="thread_local"):
                function()
            return graph.replay
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            function()
        except BaseException:
            with suppress(RuntimeError):  # the first error says more
                graph.capture_end()
            raise
        graph.capture_end()
    return graph.replay


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python from freeing what the device holds in the midst of a capture."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@lru_cache
def say_once(text: str) -> None:
    print(text, flush=True)


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def choose(job: Job, shared: Shared, draws: Tensor, how: How, layouts: Sequence[str]) -> How:
    """How to run, by trying the first network: captured where that gives the same losses, in the
    faster layout.
    """
    found: dict[str, float] = {}
    steps = min(WARM_UP_STEPS, shared.steps)
    for layout in layouts:
        mine = dataclasses.replace(how, layout=layout)
        try:
            training = Training(job, shared, draws, Lane(shared.device), mine)
            if how.captured and not training.runs_captured:
                print(f"{layout}: cannot be captured", flush=True)
                continue
            if how.captured:
                eager, replayed = training.losses(steps)
                print(f"{layout}: losses of {steps} steps {eager:.5f}, replayed {replayed:.5f}")
                if not abs(eager - replayed) <= CHECK_TOLERANCE * abs(eager):
                    print(f"{layout}: the captured step is not the same, so it is not used")
                    continue
            training.milliseconds(5)
            found[layout] = training.milliseconds(30)
            training.release()
            print(f"{layout}: {found[layout]:.2f} ms a step alone", flush=True)
        except RuntimeError as error:
            print(f"{layout}: {first_line(error)}", flush=True)
    if not found:
        return dataclasses.replace(how, captured=False, layout=layouts[0])
    return dataclasses.replace(how, layout=min(found, key=lambda each: found[each]))


class Crew:
    """How many networks to train at once: more, up to a limit, while that makes all faster."""

    def __init__(self, least: int, most: int) -> None:
        self.wanted, self._most = least, most
        self._best, self._growing = 0.0, most > least

    def judge(self, rate: float) -> None:
        """Take note of the images a second with as many as wanted."""
        if not self._growing:
            return
        if rate < GAIN * self._best:
            self._growing = False
            return
        self._best = rate
        self.wanted = min(self._most, self.wanted + GROWTH)

    def shrink(self, to: int) -> None:
        """There is no memory for more."""
        self.wanted, self._growing = max(1, to), False


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What is told of trainings: `ended` with its seconds, and the end of an `epoch`."""

    ended: Callable[[Training, float], None]
    epoch: Callable[[Training], None]


class Floor:
    """The trainings that run, and what they have done together."""

    def __init__(self, shared: Shared, how: How, notes: Notes) -> None:
        self.running: list[Training] = []
        self.images = self.ended = 0
        self.paces: deque[float] = deque(maxlen=8)  # of those that ended
        self._shared, self._how, self._notes = shared, how, notes
        self._free: list[Lane] = []

    def start(self, job: Job, draws: Tensor) -> None:
        lane = self._free.pop() if self._free else Lane(self._shared.device)
        self.running.append(Training(job, self._shared, draws, lane, self._how))

    def attend(self) -> bool:
        """Take note of what was done and queue more; whether there was anything to do."""
        moved = False
        for training in self.running:
            epochs, steps = len(training.curve), training.look()
            self.images += steps * self._shared.recipe.batch_size
            moved = training.queue() or steps > 0 or moved
            if len(training.curve) > epochs:
                self._notes.epoch(training)
        for training in [each for each in self.running if each.ended]:
            seconds = time.perf_counter() - training.began
            self._notes.ended(training, seconds)
            self.paces.append(seconds / self._shared.steps)
            self.ended += 1
            self.remove(training)
        return moved

    def remove(self, training: Training) -> None:
        self.running.remove(training)
        training.lane.wait()
        self._free.append(training.lane)
        training.release()

    def enough_time(self, deadline: float) -> bool:
        """Whether a training begun now would end in time, at the pace of the others."""
        paces = [pace for each in self.running if (pace := each.pace)] or list(self.paces)
        needed = MARGIN * float(np.median(paces)) * self._shared.steps if paces else 0.0
        return time.perf_counter() + needed < deadline

    def too_late(self, deadline: float) -> Training | None:
        """Of several trainings, one of which will not end in time, the one furthest from it."""
        left = deadline - time.perf_counter()
        late = [each for each in self.running if (each.pace or 0.0) * each.steps_left > left]
        if len(self.running) < 2 or not late:
            return None
        return max(late, key=lambda each: each.steps_left)


def train_all(
    jobs: Sequence[Job],
    shared: Shared,
    how: How,
    crew: Crew,
    deadline: float,
    notes: Notes,
    draws_of: Callable[[int], Tensor],
) -> list[tuple[Job, int]]:
    """Train all; those that the deadline cut off are returned with their steps."""
    waiting, cut_off = deque(jobs), []
    floor = Floor(shared, how, notes)
    began = reported = in_time = time.perf_counter()
    images = failures = 0
    steady = False
    while waiting or floor.running:
        while waiting and len(floor.running) < crew.wanted and floor.enough_time(deadline):
            job = waiting.popleft()
            try:
                floor.start(job, draws_of(job.seed))
                failures = 0
            except RuntimeError as error:
                give_memory_back(shared.device, 0.0)
                if isinstance(error, torch.OutOfMemoryError) and floor.running:
                    print(f"no memory for more than {len(floor.running)} at once", flush=True)
                    crew.shrink(len(floor.running))
                    waiting.appendleft(job)
                    break
                print(f"{job.arch_id} cannot be started: {first_line(error)}", flush=True)
                failures += 1
                if failures == FAILURES:
                    text = f"{FAILURES} networks in a row cannot be started"
                    raise TrainingError(text) from error
            floor.attend()  # the others must not run dry meanwhile
        if not floor.running:
            break  # there is no time for more
        moved = floor.attend()
        now = time.perf_counter()
        if now >= deadline:
            cut_off += [(each.job, each.done) for each in floor.running]
            break
        late = floor.too_late(deadline)
        if late is None:
            in_time = now
        elif now - in_time >= REPORT_S:
            cut_off.append((late.job, late.done))
            floor.remove(late)
            in_time = now
        if now - reported >= REPORT_S:
            rate = (floor.images - images) / (now - reported)
            print(
                f"{now - began:.0f} s: {floor.ended} of {len(jobs)} ended, {len(floor.running)} at "
                f"once, {rate:.0f} images/s",
                flush=True,
            )
            full = len(floor.running) == crew.wanted
            if full and steady and waiting:
                crew.judge(rate)
                full = len(floor.running) == crew.wanted
            reported, images, steady = now, floor.images, full
            give_memory_back(shared.device, 0.6)
        if not moved:
            time.sleep(0.0005)
    seconds = time.perf_counter() - began
    print(
        f"{floor.ended} of {len(jobs)} trainings ended in {seconds:.1f} s, "
        f"{floor.images / seconds:.0f} images/s; {len(waiting)} were not begun and "
        f"{len(cut_off)} cut off",
        flush=True,
    )
    return cut_off


def give_memory_back(device: torch.device, share: float) -> None:
    """Free the memory of graphs that ended where more than a share of it is taken: all wait."""
    if device.type != "cuda":
        return
    whole = torch.cuda.get_device_properties(device).total_memory
    if torch.cuda.memory_reserved(device) > share * whole:
        gc.collect()
        torch.cuda.empty_cache()


def read_jobs(path: Path, seeds: Sequence[int], found: splits.Split) -> list[Job]:
    """Raises:
    InputError: the file is none of architectures, or one does not take images of this size.
    """
    try:
        documents = json.loads(read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(documents, dict) or not documents:
        raise InputError(f"{path}: needs an object of architectures by their ids")
    fitted = {key: splits.fit(from_json(each), found) for key, each in documents.items()}
    for key, arch in fitted.items():
        if arch.resolution != found.resolution:
            raise InputError(
                f"{path}: {key} takes images of {arch.resolution} pixels; the data's have "
                f"{found.resolution}"
            )
    return [
        Job(arch_id=key, arch=arch, seed=seed) for seed in seeds for key, arch in fitted.items()
    ]


def prepare(device: str) -> torch.device:
    """Settings of PyTorch, and a line that says where this runs."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no GPU; use --device cpu")
    name = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores"
    print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    torch.set_float32_matmul_precision("high")  # TF32; convolutions have it by default
    if device == "cuda":
        torch.set_num_threads(1)  # the thread that launches has the cores' attention
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(device)


def run(args: argparse.Namespace, began: float) -> None:
    how = recipe.load(args.recipe)
    check_recipe(how)
    # fidelity.py holds out the same images.
    held_out = recipe.load("proxy").validation_pictures
    how = dataclasses.replace(how, validation_pictures=held_out)
    found = splits.split(datasets.load(args.data), how)
    jobs = read_jobs(args.architectures, args.seeds, found)
    device = prepare(args.device)
    shared = share(found, how, device)
    args.out.mkdir(parents=True, exist_ok=True)
    with locked(args.out):
        about = {
            "data": args.data,
            "long": dataclasses.asdict(how),
            "products": "bfloat16" if args.bf16 else "tf32" if device.type == "cuda" else "float32",
        }
        about = json.loads(json.dumps(about))
        journal = Journal(args.out / "results.jsonl", about)
        curves = Journal(args.out / "curves.jsonl", about)
        done = {(each["arch"], each["seed"]) for each in journal.entries}
        todo = [job for job in jobs if (job.arch_id, job.seed) not in done]
        print(
            f"{len(todo)} of {len(jobs)} trainings to do, each of {shared.steps} steps of "
            f"{how.batch_size} images; data ready after {time.perf_counter() - began:.1f} s",
            flush=True,
        )
        if not todo:
            return

        def note(training: Training, seconds: float) -> None:
            job, curve = training.job, training.curve
            entry: dict[str, Any] = {"score": LONG, "arch": job.arch_id, "seed": job.seed}
            if training.failure:
                print(f"{job.arch_id} from seed {job.seed}: {training.failure}", flush=True)
                journal.append([{**entry, "value": None, "seconds": 0.0}])
                return
            entry |= {"value": curve[-1], "seconds": round(seconds, 6), "curve": curve}
            journal.append([entry])
            print(
                f"{len(journal.entries)}/{len(jobs)} {job.arch_id} from seed {job.seed}: "
                f"{curve[-1]:.4f} in {seconds:.1f} s",
                flush=True,
            )

        def note_epoch(training: Training) -> None:
            job, curve = training.job, training.curve
            entry = {"arch": job.arch_id, "seed": job.seed, "epoch": len(curve)}
            curves.append([{**entry, "accuracy": curve[-1], "loss": training.mean_loss}])

        @lru_cache(maxsize=2)  # a seed's networks are consecutive
        def draws_of(seed: int) -> Tensor:
            return draw(shared, seed)

        first = todo[0]
        layouts = list(FORMATS) if args.layout == "auto" else [args.layout]
        mode = How(
            captured=device.type == "cuda" and not args.eager, bf16=args.bf16, layout=layouts[0]
        )
        if device.type == "cuda":
            mode = choose(first, shared, draws_of(first.seed), mode, layouts)
        print(f"steps are {'captured' if mode.captured else 'eager'}, {mode.layout}", flush=True)
        crew = Crew(*args.at_once)
        deadline = began + args.deadline
        notes = Notes(ended=note, epoch=note_epoch)
        cut_off = train_all(todo, shared, mode, crew, deadline, notes, draws_of)
        for job, steps in cut_off:
            print(
                f"cut off: {job.arch_id} from seed {job.seed} after {steps} of {shared.steps} steps"
            )


def whole_numbers(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: write it like 1,2") from error


def span(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= low <= high:
        raise argparse.ArgumentTypeError(f"{text!r}: write it like 8 or 8-24")
    return low, high


def main() -> int:
    began = time.perf_counter()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--architectures", type=Path, required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=whole_numbers, default=[1])
    parser.add_argument(
        "--at-once", type=span, default=(8, 8), help="networks; 8-24: more while that is faster"
    )
    parser.add_argument("--deadline", type=float, default=math.inf, metavar="SECONDS")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--layout", choices=("auto", *FORMATS), default="auto")
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs")
    parser.add_argument(
        "--benchmark", action="store_true", help="cuDNN tries its algorithms on each new shape"
    )
    args = parser.parse_args()
    # More queues to the device than its 8, read when CUDA starts.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    torch.backends.cudnn.benchmark = args.benchmark
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(args, began)
    except (GhostnasError, OSError) as error:
        print(f"gpu_trainings: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gpu_trainings: stopped; resume with the same command", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
