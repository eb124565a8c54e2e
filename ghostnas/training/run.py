"""A training in a folder: started, stopped at any moment, resumed, and kept in full."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ghostnas.arrays import Array
from ghostnas.backends import pretrained
from ghostnas.backends.model_file import check_classes, doubts, open_model
from ghostnas.backends.torch_module import net_of
from ghostnas.data import datasets, images
from ghostnas.data.images import PictureFiles
from ghostnas.data.loader import normaliser
from ghostnas.errors import InputError, TrainingError
from ghostnas.files import locked, write_whole
from ghostnas.ir import cost, weights
from ghostnas.networks.arch import Arch, load, lower, to_json
from ghostnas.processes import processor
from ghostnas.progress import Say
from ghostnas.training import proxy_network, splits, weight_transfer
from ghostnas.training.checkpoint import INTERVAL_S, Keeper
from ghostnas.training.distributed import World, join
from ghostnas.training.history import Curve
from ghostnas.training.learner import Teacher
from ghostnas.training.loop import Execution, Task, Trained, evaluate, train
from ghostnas.training.recipe import Recipe
from ghostnas.training.settings import Settings, read, to_text
from ghostnas.training.splits import Split

CURVE_POINTS = 40  # accuracies on held-out images over a training
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a training runs on, which may change when it resumes.

    `device` is ``cpu``, ``cuda`` or ``auto``; `workers` is the number of processes that decode
    images; the state is kept every `interval_s` seconds.
    """

    device: str = "auto"
    workers: int = 2
    interval_s: float = INTERVAL_S


def start(
    arch: Arch, how: Recipe, settings: Settings, machine: Machine, folder: Path, say: Say
) -> dict[str, Any]:
    """Start training `arch` in `folder`; returns the contents of ``result.json``.

    The folder then has ``arch.json``, ``model.safetensors``, ``curve.csv`` and ``result.json``.

    Raises:
        InputError: the folder already holds a training, or a setting is invalid.
        TrainingError: it cannot continue; the last good state is kept.
    """
    with join(machine.device) as world:
        _agree(world, _taken(folder))
        settings = replace(settings, data=datasets.absolute(settings.data))
        training = _Training(arch, how, settings, machine, folder, world, say, new=True)
        if world.first:
            folder.mkdir(parents=True, exist_ok=True)
        with locked(folder) if world.first else nullcontext():
            if world.first:
                training.write_settings()
            return training.run()


def resume(machine: Machine, folder: Path, say: Say) -> dict[str, Any]:
    """Resume the training in `folder` from its last good state.

    Raises:
        InputError: there is none, or its data has changed.
        TrainingError: it cannot continue; the last good state is kept.
    """
    with join(machine.device) as world:
        settings, how, pictures = read(folder / "train.toml")
        arch = load(folder / "arch.json")
        training = _Training(arch, how, settings, machine, folder, world, say, new=False)
        if not splits.has_fingerprint(training.pictures, pictures):
            raise InputError(
                f"data {settings.data!r}: the images have changed since the training in {folder} "
                "began; restore them, or start again in another --out"
            )
        with locked(folder) if world.first else nullcontext():
            return training.run()


class _Training:
    """Everything a training reads, loaded and checked before its folder is made."""

    def __init__(
        self,
        arch: Arch,
        how: Recipe,
        settings: Settings,
        machine: Machine,
        folder: Path,
        world: World,
        say: Say,
        new: bool,
    ) -> None:
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._how, self._settings = how, settings
        self._folder, self._world = folder, world
        self._say: Say = say if world.first else lambda line: None
        dataset = datasets.load(settings.data, settings.strict)
        self._skipped: dict[Path, str] = {}
        self.pictures = splits.split(dataset, how)
        self._arch = splits.fit(arch, self.pictures) if new else arch
        self._graph = lower(self._arch)
        self._keeper = Keeper(folder / CHECKPOINT, machine.interval_s)
        self._initial: dict[str, Array] | None = None
        if settings.init and not self._keeper.path.exists():
            weights_found = pretrained.read_any(Path(settings.init))
            self._initial, taken = weight_transfer.fit(self._graph, weights_found, settings.seed)
            self._say(f"{settings.init}: {taken}")
        self._teacher: Teacher | None = None
        if settings.teacher:
            self._teacher = _teacher(settings.teacher, self.pictures, world.device, self._say)
        self._execution = Execution(
            world=world,
            workers=machine.workers,
            strict=settings.strict,
            skipped=self._skipped,
            keeper=self._keeper,
            evaluate_every=max(1, how.epochs // CURVE_POINTS),
        )
        for line in images.skipped_lines(dataset.skipped):
            self._say(line)
        if new and not proxy_network.shares_weights(
            arch, replace(self._arch, classes=arch.classes)
        ):
            self._say(
                "the images are smaller than the network's input: training its proxy at "
                f"{proxy_network.describe(self._arch)}, not {proxy_network.describe(arch)}, "
                f"whose budgets and latency are not the proxy's; --resolution {arch.resolution} "
                "trains that"
            )

    def write_settings(self) -> None:
        document = json.dumps(to_json(self._arch), indent=1)
        write_whole(self._folder / "arch.json", document.encode())
        text = to_text(self._settings, self._how, splits.fingerprint(self.pictures))
        write_whole(self._folder / "train.toml", text.encode())

    def run(self) -> dict[str, Any]:
        how, settings, world = self._how, self._settings, self._world
        pictures = self.pictures
        if world.first:
            for left in self._folder.glob(f".{CHECKPOINT}.*"):  # by a kill while writing
                left.unlink()
        curve = Curve(self._folder / "curve.csv", self._say) if world.first else None
        task = Task(
            graph=self._graph,
            train=pictures.train,
            held_out=pictures.validation if len(pictures.validation) else pictures.test,
            recipe=how,
            seed=settings.seed,
            preprocessing=pictures.preprocessing,
            initial=self._initial,
            teacher=self._teacher,
        )
        try:
            trained = train(task, curve or (lambda progress: None), self._execution)
        except TrainingError as error:
            raise TrainingError(
                f"{error}, in another --out; the last good state is kept in {self._folder}"
            ) from error
        test_accuracy, unread = self._tested(trained)
        unread_in_all = int(world.total(len(unread))[0])
        counted = cost.count(self._graph)
        result = {
            "run": str(self._folder),
            "id": self._arch.id,
            "params": counted.params,
            "macs": counted.macs,
            "resolution": self._arch.resolution,
            "data": settings.data,
            "recipe": settings.recipe_name,
            "epochs": how.epochs,
            "train_pictures": len(pictures.train),
            "accuracy": trained.accuracy if len(pictures.validation) else None,
            "test_accuracy": test_accuracy,
            "test_pictures": len(pictures.test) - unread_in_all,
            "seed": settings.seed,
            "seconds": round(curve.seconds if curve else trained.seconds, 1),
            "hardware": _hardware(world),
        }
        for line in images.skipped_lines({**self._skipped, **unread}.values()):
            self._say(line)
        if world.first:
            path = self._folder / "model.safetensors"
            weights.save(trained.weights, path, preprocessing=pictures.preprocessing)
            write_whole(self._folder / "result.json", json.dumps(result, indent=1).encode())
        return result

    def _tested(self, trained: Trained) -> tuple[float, dict[Path, str]]:
        """The accuracy on test images, and this process's share of the unreadable ones."""
        pictures, unread = self.pictures, dict[Path, str]()
        if not len(pictures.validation):  # the training was already evaluated on them
            if isinstance(pictures.test, PictureFiles):
                own = set(pictures.test.paths)
                unread = {path: why for path, why in self._skipped.items() if path in own}
            return trained.accuracy, unread
        accuracy = evaluate(
            net_of(self._graph, trained.weights).to(self._world.device),
            pictures.test,
            pictures.preprocessing,
            replace(self._execution, skipped=unread),
        )
        return accuracy, unread


def _taken(folder: Path) -> str:
    """Why no training can start in the folder; empty if one can."""
    if (folder / "train.toml").exists():
        return f"{folder}: already holds a training; resume it with --resume"
    return ""


def _agree(world: World, objection: str) -> None:
    """Stop all processes if the first one objects; the others may look too late."""
    if said := world.from_first(objection.encode()):
        raise InputError(said.decode())


def _teacher(file: str, pictures: Split, device: torch.device, say: Say) -> Teacher:
    """Any model that can be opened, as a function from uint8 images to logits, both on `device`.

    PyTorch models also run there, others on the CPU.
    """
    model = open_model(Path(file), threads=torch.get_num_threads(), device=str(device))
    classes = pictures.preprocessing.classes
    check_classes(model, classes)
    for doubt in doubts(model, classes):
        say(f"teacher {file}: {doubt}")
    normalise = normaliser(model.preprocessing, device)

    def answer(images: Tensor) -> Tensor:
        inputs = normalise(images)
        if inputs.shape[2] != model.resolution:
            size = (model.resolution, model.resolution)
            inputs = F.interpolate(inputs, size, mode="bilinear", antialias=True)
        return torch.from_numpy(model.run(inputs.contiguous().cpu().numpy())).to(device)

    return answer


def _hardware(world: World) -> str:
    if world.device.type == "cuda":
        name = torch.cuda.get_device_name(world.device)
        return f"{world.size} x {name}" if world.size > 1 else name
    return f"{processor()}, {world.size * torch.get_num_threads()} threads"
