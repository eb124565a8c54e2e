"""Trains a supernet in a folder: one training of weights that all networks of a space share.

Each step draws networks, adds up the gradients that each of them gives its part, and updates all
weights at once. Which networks is decided by a function that is passed in; it draws from a seed and
the step's number, so that the training resumes like any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ghostnas.arrays import Array
from ghostnas.backends import torch_convolutions
from ghostnas.backends.torch_module import Net
from ghostnas.data import datasets, images
from ghostnas.errors import InputError, TrainingError
from ghostnas.files import locked, read_text, shipped, write_whole
from ghostnas.ir import weights
from ghostnas.ir.graph import Graph
from ghostnas.networks import space as spaces
from ghostnas.networks.space import Params, Space, Value
from ghostnas.progress import Say
from ghostnas.training import splits
from ghostnas.training.checkpoint import Keeper
from ghostnas.training.distributed import World, join
from ghostnas.training.learner import Learner, Losses, drop_out
from ghostnas.training.loop import Execution, Task, train
from ghostnas.training.recipe import Recipe
from ghostnas.training.run import CHECKPOINT, CURVE_POINTS, Curve, Machine, hardware
from ghostnas.training.shared_weights import Member, SharedWeights
from ghostnas.training.supernet import (
    SETTINGS,
    SPACE,
    WEIGHTS,
    Opened,
    Settings,
    calibrate,
    read,
    to_text,
)

KEPT_MEMBERS = 512  # networks whose indices are remembered


class Drawn(NamedTuple):
    """The networks of a step, by their settings, and whether the first one teaches the others."""

    networks: tuple[Params, ...]
    teaches: bool


Draw: TypeAlias = Callable[[int], Drawn]  # by the number of the step


class SupernetLearner(Learner):
    """Shared weights that learn.

    Args:
        shared: the weights.
        graph_of: a network's graph by its settings.
        draw: the networks of each step.
        reference: settings of the network that the training is evaluated on.
    """

    def __init__(
        self,
        shared: SharedWeights,
        graph_of: Callable[[Mapping[str, Value]], Graph],
        draw: Draw,
        reference: Params,
        task: Task,
        world: World,
    ) -> None:
        if world.size > 1:
            raise InputError("a supernet trains in one process: start it without torchrun")
        classes = len(task.preprocessing.classes)
        super().__init__(shared, classes, task.recipe, task.seed, task.preprocessing, world)
        self._shared, self._draw, self._reference, self._task = shared, draw, reference, task

        @lru_cache(KEPT_MEMBERS)
        def member(settings: tuple[tuple[str, Value], ...]) -> Member:
            params = dict(settings)
            return shared.member(params, graph_of(params))

        self._member = member

    @property
    def result(self) -> Net:
        """As `Learner.result`: the reference network, with batch statistics of its own."""
        learned = self.learned
        assert isinstance(learned, SharedWeights)
        net = learned.cut(self._member(tuple(self._reference.items())))
        calibrate(net, self._task.train, self._task.preprocessing, self._world)
        return net

    def weights(self) -> dict[str, Array]:
        """As `Learner.weights`: all shared arrays."""
        learned = self.learned
        assert isinstance(learned, SharedWeights)
        return learned.arrays()

    def _gradients(self, images: Tensor, labels: Tensor) -> Losses:
        drawn = self._draw(self.step)
        inputs = self._normalise(images)
        answers: Tensor | None = None
        found: list[Losses] = []
        for params in drawn.networks:
            member = self._member(tuple(params.items()))
            net = self._shared.cut(member)
            drop_out(net, self._recipe)
            if self.bfloat16:
                torch_convolutions.use_bfloat16(net)
            size = min(inputs.shape[2], member.graph.input_shape[1])
            losses = self._losses(net, _scaled(inputs, size), labels, answers)
            losses.loss.backward()  # type: ignore[no-untyped-call]
            self._shared.give_back(member, net)
            found.append(Losses(*(each.detach() for each in losses)))
            if drawn.teaches and answers is None:
                answers = found[0].logits
        loss = torch.stack([losses.loss for losses in found]).mean()
        own = torch.stack([losses.own for losses in found]).mean()
        return Losses(loss, own, found[0].logits)


def start(
    settings: Settings,
    how: Recipe,
    draw_of: Callable[[Space], Draw],
    machine: Machine,
    folder: Path,
    say: Say,
) -> dict[str, Any]:
    """Start training a supernet in `folder`; returns the contents of ``result.json``.

    The folder then has ``supernet.toml``, ``space.toml``, ``supernet.safetensors``, ``curve.csv``
    and ``result.json``.

    Args:
        draw_of: what draws the networks of the space that is trained.

    Raises:
        InputError: the folder already holds a supernet, or a setting is invalid.
        TrainingError: it cannot continue; the last good state is kept.
    """
    if (folder / SETTINGS).exists():
        raise InputError(f"{folder}: already holds a supernet; resume it with --resume")
    settings = replace(settings, data=datasets.absolute(settings.data))
    text = _space_text(settings.space)
    opened = Opened(folder, settings, how, spaces.load(settings.space))
    draw = draw_of(opened.space)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        write_whole(folder / SPACE, text.encode())
        kept = to_text(settings, how, splits.fingerprint(opened.split))
        write_whole(folder / SETTINGS, kept.encode())
        return _run(opened, draw, machine, say)


def resume(
    draw_of: Callable[[Settings, Space], Draw], machine: Machine, folder: Path, say: Say
) -> dict[str, Any]:
    """Resume the training of the supernet in `folder` from its last good state.

    Raises:
        InputError: there is none, or its data has changed.
        TrainingError: it cannot continue; the last good state is kept.
    """
    opened = read(folder)
    with locked(folder):
        return _run(opened, draw_of(opened.settings, opened.space), machine, say)


def _run(opened: Opened, draw: Draw, machine: Machine, say: Say) -> dict[str, Any]:
    folder, settings, how, split = opened.folder, opened.settings, opened.how, opened.split
    if settings.threads:
        torch.set_num_threads(settings.threads)
    for left in folder.glob(f".{CHECKPOINT}.*"):  # by a kill while writing
        left.unlink()
    shared = SharedWeights(opened.space, settings.seed)
    count = sum(array.numel() for array in shared.parameters())
    say(
        f"space {opened.space.name}: {opened.space.size:.2g} networks share {count / 1e6:.1f} M "
        f"weights; each step trains {len(draw(0).networks)} of them"
    )
    task = Task(
        graph=opened.graph_of({}),
        train=split.train,
        held_out=opened.held_out,
        recipe=how,
        seed=settings.seed,
        preprocessing=split.preprocessing,
    )
    curve = Curve(folder / "curve.csv", say)
    skipped = dict[Path, str]()
    with join(machine.device) as world:
        execution = Execution(
            world=world,
            workers=machine.workers,
            strict=settings.strict,
            skipped=skipped,
            keeper=Keeper(folder / CHECKPOINT, machine.interval_s),
            evaluate_every=max(1, how.epochs // CURVE_POINTS),
        )
        try:
            trained = train(
                task,
                curve,
                execution,
                lambda task, world: SupernetLearner(shared, opened.graph_of, draw, {}, task, world),
            )
        except TrainingError as error:
            raise TrainingError(
                f"{error}, in another --out; the last good state is kept in {folder}"
            ) from error
        result = {
            "run": str(folder),
            "space": opened.space.name,
            "networks": opened.space.size,
            "params": count,
            "networks_per_step": len(draw(0).networks),
            "target": settings.target or None,
            "budgets": list(settings.budgets),
            "data": settings.data,
            "recipe": settings.recipe_name,
            "epochs": how.epochs,
            "train_pictures": len(split.train),
            "accuracy": trained.accuracy,
            "held_out_pictures": len(opened.held_out),
            "seed": settings.seed,
            "seconds": round(curve.seconds, 1),
            "hardware": hardware(world),
        }
    for line in images.skipped_lines(skipped.values()):
        say(line)
    weights.save(trained.weights, folder / WEIGHTS, preprocessing=split.preprocessing)
    write_whole(folder / "result.json", json.dumps(result, indent=1).encode())
    return result


def _scaled(inputs: Tensor, size: int) -> Tensor:
    """Images at a network's own resolution if that is smaller."""
    if inputs.shape[2] == size:
        return inputs
    return F.interpolate(inputs, (size, size), mode="bilinear", antialias=True)


def _space_text(name: str) -> str:
    spaces.load(name)
    path = Path(name)
    return read_text(path if path.suffix == ".toml" else shipped("search_spaces") / f"{name}.toml")
