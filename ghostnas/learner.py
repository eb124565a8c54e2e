"""A network that learns: its steps, its optimizer, and whether they still make sense."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ghostnas import checkpoint
from ghostnas.checkpoint import State
from ghostnas.distributed import World, synchronise
from ghostnas.errors import TrainingError
from ghostnas.graph import Dense, Graph, Weights
from ghostnas.initial import fresh
from ghostnas.preprocessing import Preprocessing
from ghostnas.recipe import Recipe
from ghostnas.torch_net import Net, load_weights, weights_of

SMOOTHING = 0.98
LEAST_STEPS = 100  # before a training can be said to diverge

# Gives logits for a batch of uint8 pictures (n, 3, height, width).
Teacher: TypeAlias = Callable[[Tensor], Tensor]


class Learner:
    """What changes from step to step: the network, its optimizer, its average and its health.

    Args:
        world: the processes that share each batch.
        initial: weights to begin with; those it lacks are drawn from `seed`.
        teacher: whose answers are learned too, as the recipe says.
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
        self.step = 0
        self.health = Health(classes=graph.output_shape[0])
        self.net = fresh(graph, seed)
        if initial is not None:
            load_weights(self.net, {**weights_of(self.net), **initial})
        self.net.to(world.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        if world.size > 1:
            synchronise(self.net)
        self._optimizer = _optimizer(self.net, recipe)
        self._average = _average(self.net, recipe)
        self._forward = _forward(self.net, recipe, world)
        self._normalise = normaliser(preprocessing, world.device)
        self._recipe, self._seed, self._world, self._teacher = recipe, seed, world, teacher

    @property
    def result(self) -> Net:
        """The network that the training is judged by and gives."""
        if self._average is None:
            return self.net
        module = self._average.module
        assert isinstance(module, Net)
        return module

    def learn(self, images: Tensor, labels: Tensor, learning_rate: float) -> None:
        """One step: uint8 images (n, 3, height, width) and labels (n,).

        Raises:
            TrainingError: memory does not suffice.
        """
        torch.manual_seed(self._seed + self.step)  # dropout's
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        cuda = self._world.device.type == "cuda"
        with _memory_errors(self._recipe):
            with torch.autocast("cuda", torch.bfloat16, enabled=cuda):
                logits = self._forward(self._normalise(images)).float()
                loss = _loss(logits, images, labels, self._recipe, self._teacher)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if self._recipe.clip_norm:
                nn.utils.clip_grad_norm_(self.net.parameters(), self._recipe.clip_norm)
            self._optimizer.step()
            if self._average is not None:
                self._average.update_parameters(self.net)
        self.health.add(loss.detach(), logits.detach(), labels)
        self.step += 1

    def state(self) -> State:
        """All that is needed to go on.

        Raises:
            TrainingError: a weight is no number.
        """
        self.check_weights()
        tensors = checkpoint.gather(self.net, self._optimizer, self._average)
        return State(step=self.step, tensors=tensors, sums=tuple(self.health.sums))

    def restore(self, state: State) -> None:
        """Go on from `state`.

        Raises:
            InputError: it is another network's.
        """
        checkpoint.restore(state, self.net, self._optimizer, self._average)
        self.step, self.health.sums = state.step, list(state.sums)

    def check_weights(self) -> None:
        """Raises:
        TrainingError: one is no number.
        """
        if not all(bool(tensor.isfinite().all()) for tensor in self.net.state_dict().values()):
            raise TrainingError(f"step {self.step} left weights that are no numbers")


class Health:
    """Sums of the epoch, and whether the training still makes sense."""

    def __init__(self, classes: int) -> None:
        self.sums = [0.0, 0.0, 0.0, 0.0, 0.0]  # loss, right, pictures, steps, smoothed loss
        self._limit = 2 * math.log(classes) + 1
        self._waiting: list[tuple[Tensor, Tensor, int]] = []

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Take in a step; its numbers stay on the device until they are looked at."""
        self._waiting.append((loss, (logits.argmax(1) == labels).sum(), len(labels)))

    def check(self, step: int, steps: int) -> float:
        """The last loss.

        Raises:
            TrainingError: a loss is no number, or they grow.
        """
        last = 0.0
        for loss, right, count in self._waiting:
            last = loss.item()
            if not math.isfinite(last):
                raise TrainingError(
                    f"the loss is {last} at step {step} of {steps}; try a lower learning_rate"
                )
            total, hits, seen, added, smoothed = self.sums
            smoothed = SMOOTHING * smoothed + (1 - SMOOTHING) * last
            self.sums = [total + last, hits + int(right), seen + count, added + 1, smoothed]
            if step > LEAST_STEPS and smoothed > self._limit:
                raise TrainingError(
                    f"the training diverges: the loss is about {smoothed:.1f} at step {step} of "
                    f"{steps}, worse than guessing; try a lower learning_rate"
                )
        self._waiting.clear()
        return last

    @property
    def mean_loss(self) -> float:
        return self.sums[0] / max(1.0, self.sums[3])

    @property
    def accuracy(self) -> float:
        return self.sums[1] / max(1.0, self.sums[2])

    def new_epoch(self) -> None:
        self.sums[:4] = [0.0] * 4


def normaliser(preprocessing: Preprocessing, device: torch.device) -> Callable[[Tensor], Tensor]:
    """uint8 (n, 3, height, width) to the float32 that a network takes."""
    mean, std = (
        torch.tensor(values, device=device).view(3, 1, 1) * 255
        for values in (preprocessing.mean, preprocessing.std)
    )
    scale, shift = 1 / std, -mean / std
    return lambda images: torch.addcmul(shift, images.float(), scale)


def _optimizer(net: Net, recipe: Recipe) -> torch.optim.Optimizer:
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    momentum = recipe.momentum
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=momentum, nesterov=momentum > 0
    )


def _average(net: Net, recipe: Recipe) -> AveragedModel | None:
    if not recipe.ema:
        return None
    decay = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
    return AveragedModel(net, multi_avg_fn=decay, use_buffers=True)


def _forward(net: Net, recipe: Recipe, world: World) -> Callable[[Tensor], Tensor]:
    """The network as a step runs it: with dropout, compiled, over processes, as is asked for."""
    if recipe.dropout:
        last = [node.name for node in net.graph.nodes if isinstance(node.op, Dense)][-1]

        def drop(module: nn.Module, inputs: Any) -> Any:
            return F.dropout(inputs[0], recipe.dropout, module.training)

        net.get_submodule(last).register_forward_pre_hook(drop)
    forward: nn.Module = net
    if world.size > 1:
        ids = [world.device.index] if world.device.type == "cuda" else None
        forward = DistributedDataParallel(net, device_ids=ids, broadcast_buffers=False)
    if recipe.compile and world.device.type == "cuda":
        forward.compile()
    return forward


def _loss(
    logits: Tensor, images: Tensor, labels: Tensor, recipe: Recipe, teacher: Teacher | None
) -> Tensor:
    """Cross-entropy, and where there is a teacher the distance of the softened answers."""
    loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    if teacher is None:
        return loss
    heat = recipe.distill_temperature
    with torch.no_grad():
        answers = F.log_softmax(teacher(images) / heat, 1)
    own = F.log_softmax(logits / heat, 1)
    distance = F.kl_div(own, answers, reduction="batchmean", log_target=True) * heat**2
    return (1 - recipe.distill_weight) * loss + recipe.distill_weight * distance


@contextmanager
def _memory_errors(recipe: Recipe) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        told = str(error).lower()
        full = "out of memory" in told or "not enough memory" in told or "can't allocate" in told
        if not full and not isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        raise TrainingError(
            f"memory does not suffice for batches of {recipe.batch_size}; try --batch-size "
            f"{max(1, recipe.batch_size // 2)}"
        ) from error
