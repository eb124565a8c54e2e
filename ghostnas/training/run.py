"""A training in a folder: started, stopped at any moment, resumed, and kept in full."""

from __future__ import annotations

import csv
import io
import json
import time
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
from ghostnas.files import locked, read_text, write_whole
from ghostnas.ir import cost, weights
from ghostnas.networks.arch import Arch, load, lower, to_json
from ghostnas.processes import processor
from ghostnas.progress import Say, duration
from ghostnas.training import proxy_network, report, splits, supernet, weight_transfer
from ghostnas.training.checkpoint import INTERVAL_S, Keeper
from ghostnas.training.distributed import World, join
from ghostnas.training.learner import Teacher
from ghostnas.training.loop import Execution, Progress, Task, Trained, evaluate, train
from ghostnas.training.recipe import Recipe
from ghostnas.training.settings import Settings, read, to_text
from ghostnas.training.splits import Split

CURVE_POINTS = 40  # accuracies on held-out images over a training
SPOKEN_EVERY_S = 10.0
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
            self._initial = self._inherited(settings.init)
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

    def _inherited(self, source: str) -> dict[str, Array]:
        """Weights to start from: those in a file, or the network's part of a supernet."""
        if (folder := supernet.folder_of(source)) is not None:
            opened = supernet.read(folder)
            opened.check_classes(self.pictures)
            self._say(f"{source}: the network's part of the weights of {opened.space.name}")
            return opened.weights(self._arch)
        found = pretrained.read_any(Path(source))
        initial, taken = weight_transfer.fit(self._graph, found, self._settings.seed)
        self._say(f"{source}: {taken}")
        return initial

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
            "hardware": hardware(world),
        }
        for line in images.skipped_lines({**self._skipped, **unread}.values()):
            self._say(line)
        if world.first:
            path = self._folder / "model.safetensors"
            weights.save(trained.weights, path, preprocessing=pictures.preprocessing)
            write_whole(self._folder / "result.json", json.dumps(result, indent=1).encode())
            report.write(self._folder)
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


class Curve:
    """curve.csv, one row per epoch, including those of earlier processes; and progress lines."""

    COLUMNS = (
        *("epoch", "step", "resolution", "learning_rate", "loss", "train_accuracy", "accuracy"),
        *("images_per_second", "seconds"),
    )

    def __init__(self, path: Path, say: Say) -> None:
        self._path = path
        self._say = say
        self._rows: dict[int, dict[str, Any]] = {}
        if path.exists():
            try:
                rows = csv.DictReader(read_text(path).splitlines())
                self._rows = {
                    int(row["epoch"]): {**row, "seconds": float(row["seconds"])} for row in rows
                }
            except (KeyError, ValueError, TypeError) as error:
                raise InputError(
                    f"{path}: is not a training curve; restore it, or move it away"
                ) from error
        self._began = time.monotonic()
        self._before: float | None = None
        self._spoken = 0.0
        self._board = _tensorboard(path.parent)

    @property
    def seconds(self) -> float:
        """Seconds of this training, over all processes that worked on it."""
        if self._before is None:  # nothing was left to do
            return self._seconds_before(len(self._rows) + 1)
        return self._before + time.monotonic() - self._began

    def __call__(self, progress: Progress) -> None:
        if self._before is None:
            self._before = self._seconds_before(progress.epoch)
        now = time.monotonic()
        if progress.epoch_done:
            self._add(progress)
        if progress.epoch_done or now - self._spoken >= SPOKEN_EVERY_S:
            self._spoken = now
            held_out = "" if progress.accuracy is None else f", {progress.accuracy:.1%} held out"
            self._say(
                f"epoch {progress.epoch}, step {progress.step}/{progress.steps}: loss "
                f"{progress.mean_loss:.3f}, {progress.train_accuracy:.1%} in training{held_out}; "
                f"{progress.images_per_second:.0f} images per second, "
                f"{duration(progress.seconds_left)} left"
            )

    def _add(self, progress: Progress) -> None:
        row = {
            "epoch": progress.epoch,
            "step": progress.step,
            "resolution": progress.resolution,
            "learning_rate": round(progress.learning_rate, 8),
            "loss": round(progress.mean_loss, 6),
            "train_accuracy": round(progress.train_accuracy, 6),
            "accuracy": "" if progress.accuracy is None else round(progress.accuracy, 6),
            "images_per_second": round(progress.images_per_second, 1),
            "seconds": round(self.seconds, 1),
        }
        self._rows[progress.epoch] = row
        text = io.StringIO()
        writer = csv.DictWriter(text, self.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows[epoch] for epoch in sorted(self._rows))
        write_whole(self._path, text.getvalue().encode())
        if self._board is not None:
            for key, value in row.items():
                if key != "epoch" and value != "":
                    self._board.add_scalar(key, value, progress.step)
            self._board.flush()

    def _seconds_before(self, epoch: int) -> float:
        """When the last epoch before this one finished; anything after it is repeated."""
        return max(
            (float(row["seconds"]) for done, row in self._rows.items() if done < epoch), default=0.0
        )


def _tensorboard(folder: Path) -> Any:
    """A TensorBoard writer, if TensorBoard is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))


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


def hardware(world: World) -> str:
    if world.device.type == "cuda":
        name = torch.cuda.get_device_name(world.device)
        return f"{world.size} x {name}" if world.size > 1 else name
    return f"{processor()}, {world.size * torch.get_num_threads()} threads"
