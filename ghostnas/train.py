"""The training loop: one for proxies and for full training, which differ in their `Recipe` only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ghostnas.data import Pictures
from ghostnas.errors import TrainingError
from ghostnas.graph import Add, Array, BatchNorm, Concat, Graph, Narrow
from ghostnas.torch_net import Net, weights_of

EVALUATION_BATCH = 250
RESIDUAL_SCALE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Attributes:
        train_pictures: how many of the training pictures are used; None for all.
        validation_pictures: how many others of them choose between networks.
        epochs: passes over the pictures used.
        learning_rate: the highest, at the given batch size; it rises for `warmup` of the steps and
            then falls to zero on a cosine.
        crop_padding: pictures move by up to so many pixels.
        flip: whether half of them are mirrored left to right.
        test_pictures: how many of the test pictures a final score is taken on; None for all.
    """

    train_pictures: int | None
    validation_pictures: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.02
    warmup: float = 0.2
    label_smoothing: float = 0.0
    crop_padding: int = 2
    flip: bool = True
    test_pictures: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained network's weights, its accuracy on held-out pictures (0 to 1) and its seconds."""

    weights: dict[str, Array]
    accuracy: float
    seconds: float


RECIPES = {
    # Minutes for a whole search on two cores: for a first look and for `synthetic`.
    "quick": Recipe(
        train_pictures=1280,
        validation_pictures=1000,
        epochs=2,
        batch_size=32,
        learning_rate=4e-3,
        test_pictures=2000,
    ),
    # Hours for a search of 100 networks on two cores: ranks better.
    "proxy": Recipe(
        train_pictures=10_000,
        validation_pictures=5000,
        epochs=4,
        batch_size=64,
        learning_rate=6e-3,
        label_smoothing=0.1,
    ),
}


def train(
    graph: Graph,
    pictures: Pictures,
    held_out: Pictures,
    recipe: Recipe,
    seed: int,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
    report: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Trained:
    """Train `graph` from random weights and say how it does on `held_out`.

    Pictures of another size than the graph takes are scaled to it.
    All randomness flows from `seed`. `report` is called with each step, the number of steps and
    the loss.

    Raises:
        TrainingError: the loss or a weight is no number any more.
    """
    started = time.perf_counter()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = Net(graph)
    _initialise(net)
    net.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    normalise = _normaliser(normalisation, graph)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
    )
    steps_an_epoch = max(1, len(pictures) // recipe.batch_size)
    steps = recipe.epochs * steps_an_epoch
    for step in range(steps):
        if step % steps_an_epoch == 0:
            order = rng.permutation(len(pictures))
        at = step % steps_an_epoch * recipe.batch_size
        batch = pictures.take(order[at : at + recipe.batch_size])
        images = normalise(_augment(batch.images, recipe, rng))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step / steps, recipe.warmup)
        loss = F.cross_entropy(
            net(images), torch.from_numpy(batch.labels), label_smoothing=recipe.label_smoothing
        )
        if not math.isfinite(loss.item()):
            raise TrainingError(f"the loss is {loss.item()} at step {step + 1} of {steps}")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        report(step + 1, steps, loss.item())
    if not all(bool(tensor.isfinite().all()) for tensor in net.state_dict().values()):
        raise TrainingError("the last step left weights that are no numbers")
    accuracy = evaluate(net, held_out, normalisation)
    seconds = time.perf_counter() - started
    return Trained(weights=weights_of(net), accuracy=accuracy, seconds=seconds)


def evaluate(
    net: Net, pictures: Pictures, normalisation: tuple[tuple[float, ...], tuple[float, ...]]
) -> float:
    """The share of pictures whose class the network puts first."""
    net.eval()
    normalise = _normaliser(normalisation, net.graph)
    right = 0
    with torch.inference_mode():
        for at in range(0, len(pictures), EVALUATION_BATCH):
            batch = pictures.take(np.arange(at, min(at + EVALUATION_BATCH, len(pictures))))
            top = net(normalise(batch.images)).argmax(1).numpy()
            right += int((top == batch.labels).sum())
    return right / len(pictures)


def _initialise(net: Net) -> None:
    """He-normal kernels, and residual branches that start small.

    A block's last batch norms start at RESIDUAL_SCALE (Goyal et al., 2017, start them at 0): in a
    hundred steps GhostNet 0.5x then gets to 0.51 +- 0.07 on `synthetic` instead of 0.31 +- 0.06.
    """
    residual = _residual_norms(net)
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif name in residual:
            torch.nn.init.constant_(module.weight, RESIDUAL_SCALE)


def _residual_norms(net: Net) -> set[str]:
    """Names of the batch norms that a sum's first input ends in, through a concatenation or not."""
    nodes = net.graph.nodes
    names: set[str] = set()
    for node in nodes:
        if not isinstance(node.op, Add):
            continue
        reached = [node.inputs[0]]
        while reached:
            producer = nodes[reached.pop()]
            if isinstance(producer.op, BatchNorm):
                names.add(producer.name)
            elif isinstance(producer.op, Concat | Narrow):
                reached.extend(producer.inputs)
    return names


def _schedule(progress: float, warmup: float) -> float:
    """Share of the highest learning rate at a share of the steps."""
    if progress < warmup:
        return (progress + 0.01) / (warmup + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def _augment(images: Array, recipe: Recipe, rng: np.random.Generator) -> Array:
    """Pictures moved by a few pixels, zeros around them, and half of them mirrored."""
    pad, (count, height, width, _) = recipe.crop_padding, images.shape
    if recipe.flip:
        mirrored = rng.random((count, 1, 1, 1)) < 0.5
        images = np.where(mirrored, images[:, :, ::-1], images)
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    top, left = rng.integers(0, 2 * pad + 1, (2, count))
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    moved: Array = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved


def _normaliser(
    normalisation: tuple[tuple[float, ...], tuple[float, ...]], graph: Graph
) -> Callable[[Array], Tensor]:
    """uint8 (n, height, width, 3) to float32 (n, 3, height, width), channels last in memory, at
    the size that the graph takes.
    """
    mean, std = (torch.tensor(values) for values in normalisation)
    size = graph.input_shape[1:]

    def normalise(images: Array) -> Tensor:
        scaled = torch.from_numpy(np.ascontiguousarray(images)).float() / 255
        inputs = ((scaled - mean) / std).permute(0, 3, 1, 2)
        if inputs.shape[2:] == size:
            return inputs
        return F.interpolate(inputs, size, mode="bilinear", antialias=True)

    return normalise
