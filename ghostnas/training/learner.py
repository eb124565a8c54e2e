"""A network in training: its steps, its optimizer, and checks that the training is still sound."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ghostnas.arrays import Array
from ghostnas.backends import torch_convolutions
from ghostnas.backends.torch_module import Net, load_weights, weights_of
from ghostnas.data.loader import normaliser
from ghostnas.errors import TrainingError
from ghostnas.ir.graph import Dense, Graph, Weights
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.training import checkpoint
from ghostnas.training.checkpoint import State
from ghostnas.training.distributed import World, synchronise
from ghostnas.training.initialization import fresh
from ghostnas.training.recipe import Recipe

SMOOTHING = 0.98
LEAST_STEPS = 100  # before a training can count as diverging
STREAM = 0xD20  # separates dropout's draws from others of the same seed
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate", "alloc_failed")

# Gives logits for a batch of uint8 images (n, 3, height, width).
Teacher: TypeAlias = Callable[[Tensor], Tensor]


class Losses(NamedTuple):
    """What one forward pass gave: the loss that is learned, the cross-entropy alone, without a
    teacher's part, and the logits.
    """

    loss: Tensor
    own: Tensor
    logits: Tensor


class Learner(ABC):
    """What changes from step to step: weights, their optimizer, their average and their health.

    Args:
        net: what is trained.
        world: the processes that share each batch.
    """

    def __init__(
        self,
        net: nn.Module,
        classes: int,
        recipe: Recipe,
        seed: int,
        preprocessing: Preprocessing,
        world: World,
    ) -> None:
        self.step = 0
        self.health = Health(classes=classes)
        self.net = net
        self.net.to(world.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.bfloat16 = recipe.mixed_precision and torch_convolutions.native_bfloat16()
        if world.size > 1:
            synchronise(self.net)
        self._optimizer = _optimizer(self.net, recipe)
        self._average = _average(self.net, recipe)
        self._normalise = normaliser(preprocessing, world.device)
        self._recipe, self._seed, self._world = recipe, seed, world

    @property
    @abstractmethod
    def result(self) -> Net:
        """The network that the training is evaluated on, now."""

    @abstractmethod
    def weights(self) -> dict[str, Array]:
        """What the training returns."""

    @abstractmethod
    def _gradients(self, images: Tensor, labels: Tensor) -> Losses:
        """Add a step's gradients to those of the weights."""

    @property
    def learned(self) -> nn.Module:
        """What has learned: the average of the weights if the recipe has one."""
        return self.net if self._average is None else self._average.module

    def learn(self, images: Tensor, labels: Tensor, learning_rate: float) -> None:
        """One step: uint8 images (n, 3, height, width) and labels (n,)."""
        if self._recipe.dropout:
            drawn = np.random.SeedSequence([STREAM, self._seed, self.step, self._world.rank])
            torch.manual_seed(int(drawn.generate_state(1)[0]))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad()
        loss, own, logits = self._gradients(images, labels)
        if self._recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.net.parameters(), self._recipe.clip_norm)
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self.net)
        self.step += 1
        self.health.add(self.step, loss.detach(), own.detach(), logits.detach(), labels)

    def _losses(
        self,
        forward: Callable[[Tensor], Tensor],
        images: Tensor,
        labels: Tensor,
        answers: Tensor | None,
    ) -> Losses:
        """Of a forward pass, and if there are a teacher's `answers`, of the distance to them.

        Args:
            images: normalised.
        """
        mixed = self._recipe.mixed_precision and self._world.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16, enabled=mixed):
            logits = forward(images).float()
        smoothing = self._recipe.label_smoothing
        own = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        loss = own if answers is None else self._taught(own, logits, answers)
        return Losses(loss, own, logits)

    def _taught(self, own: Tensor, logits: Tensor, answers: Tensor) -> Tensor:
        """The loss combined with the distance to the teacher's logits, both softened."""
        heat, weight = self._recipe.distill_temperature, self._recipe.distill_weight
        wanted, found = (F.log_softmax(each / heat, 1) for each in (answers, logits))
        distance = F.kl_div(found, wanted, reduction="batchmean", log_target=True) * heat**2
        return (1 - weight) * own + weight * distance

    def state(self) -> State:
        """Everything needed to resume.

        Raises:
            TrainingError: a weight is not finite.
        """
        self.check_weights()
        tensors = checkpoint.gather(self.net, self._optimizer, self._average)
        return State(step=self.step, tensors=tensors, sums=tuple(self.health.sums))

    def restore(self, state: State) -> None:
        """Resume from `state`.

        Raises:
            InputError: it belongs to another network.
        """
        checkpoint.restore(state, self.net, self._optimizer, self._average)
        self.step, self.health.sums = state.step, list(state.sums)

    def check_weights(self) -> None:
        """Raises:
        TrainingError: a weight is not finite.
        """
        if not all(bool(tensor.isfinite().all()) for tensor in self.net.state_dict().values()):
            raise TrainingError(f"step {self.step} left weights that are not finite")


class NetLearner(Learner):
    """One network that learns.

    Args:
        initial: weights to start from; missing ones are drawn from `seed`.
        teacher: a network to distill from, as the recipe says.
    """

    def __init__(
        self,
        graph: Graph,
        recipe: Recipe,
        seed: int,
        preprocessing: Preprocessing,
        world: World,
        initial: Weights | None,
        teacher: Teacher | None,
    ) -> None:
        net = fresh(graph, seed)
        if initial is not None:
            load_weights(net, {**weights_of(net), **initial})
        super().__init__(net, graph.output_shape[0], recipe, seed, preprocessing, world)
        if self.bfloat16:
            torch_convolutions.use_bfloat16(net)
        self._forward = _forward(net, recipe, world)
        self._teacher = teacher

    @property
    def result(self) -> Net:
        """As `Learner.result`."""
        assert isinstance(self.learned, Net)
        return self.learned

    def weights(self) -> dict[str, Array]:
        """As `Learner.weights`."""
        return weights_of(self.result)

    def _gradients(self, images: Tensor, labels: Tensor) -> Losses:
        answers = None if self._teacher is None else self._teacher(images)
        losses = self._losses(self._forward, self._normalise(images), labels, answers)
        losses.loss.backward()  # type: ignore[no-untyped-call]
        return losses


class Health:
    """The epoch's sums, and checks that the training is still sound."""

    def __init__(self, classes: int) -> None:
        self.sums = [0.0, 0.0, 0.0, 0.0, 0.0]  # loss, right, images, steps, smoothed loss
        self._limit = 2 * math.log(classes) + 1
        self._waiting: list[tuple[int, Tensor, Tensor, Tensor, int]] = []

    def add(self, step: int, loss: Tensor, own: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Record a step; its numbers stay on the device until they are checked.

        `loss` is the training loss, `own` the cross-entropy alone, without a teacher's part.
        """
        right = (logits.argmax(1) == labels).sum()
        self._waiting.append((step, loss, own, right, len(labels)))

    def check(self, steps: int) -> float:
        """The last loss.

        Raises:
            TrainingError: a loss is not finite, or the losses grow.
        """
        last = 0.0
        for step, loss, own, right, count in self._waiting:
            last, plain = loss.item(), own.item()
            if not math.isfinite(last):
                raise TrainingError(
                    f"the loss is {last} at step {step} of {steps}; try a lower learning_rate"
                )
            total, hits, seen, added, smoothed = self.sums
            smoothed = SMOOTHING * smoothed + (1 - SMOOTHING) * plain
            self.sums = [total + last, hits + int(right), seen + count, added + 1, smoothed]
            if step > LEAST_STEPS and smoothed > self._limit:
                raise TrainingError(
                    f"the training diverges: the loss is about {smoothed:.1f} at step {step} of "
                    f"{steps}, worse than guessing; try a lower learning_rate"
                )
        self._waiting.clear()
        return last

    def means(self, world: World) -> tuple[float, float]:
        """Loss and share of correct images in the epoch so far, over all processes of `world`."""
        loss, right, pictures, steps = world.total(*self.sums[:4])
        return loss / max(1.0, steps), right / max(1.0, pictures)

    def new_epoch(self) -> None:
        self.sums[:4] = [0.0] * 4


def _optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
    momentum = recipe.momentum
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=momentum, nesterov=momentum > 0, fused=True
    )


def _average(net: nn.Module, recipe: Recipe) -> AveragedModel | None:
    """A moving average of weights and statistics that forgets its first steps: without that, a
    training of three epochs returned weights close to its initial ones.
    """
    if not recipe.ema:
        return None

    def update(averages: Any, currents: Any, count: Any) -> None:
        decay = min(recipe.ema, (1 + float(count)) / (10 + float(count)))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, 1 - decay)
            else:
                average.copy_(current)

    return AveragedModel(net, multi_avg_fn=torch.no_grad()(update), use_buffers=True)


def _forward(net: Net, recipe: Recipe, world: World) -> Callable[[Tensor], Tensor]:
    """The network as a step runs it: with dropout, compiled, over processes, as requested."""
    drop_out(net, recipe)
    forward: nn.Module = net
    if world.size > 1:
        ids = [world.device.index] if world.device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a future default for buffers, which are equal
            forward = DistributedDataParallel(net, device_ids=ids, broadcast_buffers=False)
    if recipe.compile and world.device.type == "cuda":
        forward.compile()
    return forward


def drop_out(net: Net, recipe: Recipe) -> None:
    """Have a network drop features before its classifier while it trains, as the recipe says."""
    if not recipe.dropout:
        return
    last = [node.name for node in net.graph.nodes if isinstance(node.op, Dense)][-1]

    def drop(module: nn.Module, inputs: Any) -> Any:
        return F.dropout(inputs[0], recipe.dropout, module.training)

    net.get_submodule(last).register_forward_pre_hook(drop)


@contextmanager
def memory_errors(batch_size: int) -> Iterator[None]:
    """Report out-of-memory errors from PyTorch and its libraries in one line.

    Raises:
        TrainingError: there is not enough memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        told = str(error).lower()
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(text in told for text in OUT_OF_MEMORY):
            raise
        raise TrainingError(
            f"not enough memory for batches of {batch_size}; try --batch-size "
            f"{max(1, batch_size // 2)}"
        ) from error
