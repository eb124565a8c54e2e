"""A training in a folder: started, stopped at any moment, gone on with, and kept in full."""

from __future__ import annotations

import csv
import io
import json
import platform
import time
import tomllib
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ghostnas import cost, data, inherit, published, recipe, splits, weights
from ghostnas.arch import Arch, load, lower, to_json
from ghostnas.checkpoint import Keeper
from ghostnas.distributed import World, join
from ghostnas.errors import InputError
from ghostnas.files import locked, read_text, toml_value, write_whole
from ghostnas.graph import Array, Graph
from ghostnas.learner import Teacher
from ghostnas.model_file import open_model
from ghostnas.recipe import Recipe
from ghostnas.settings import versions_text
from ghostnas.splits import Split
from ghostnas.torch_net import net_of
from ghostnas.train import Progress, evaluate, train

CURVE_POINTS = 40  # accuracies on held-out pictures along a training
SPOKEN_EVERY_S = 10.0
NAMED = 5  # of the pictures that could not be read
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a training is asked to do, kept in its folder's train.toml with the recipe.

    `init` and `teacher` name files, or are empty.
    """

    data: str
    recipe_name: str
    seed: int = 0
    init: str = ""
    teacher: str = ""
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a training runs on, which may change when it goes on.

    `device` is ``cpu``, ``cuda`` or ``auto``; `workers` are processes that decode pictures;
    `threads` of the CPU, 0 for PyTorch's own choice; the state is kept every `interval_s` seconds.
    """

    device: str = "auto"
    workers: int = 2
    threads: int = 0
    interval_s: float = 60.0


def start(
    arch: Arch, how: Recipe, settings: Settings, machine: Machine, folder: Path, say: Say
) -> dict[str, Any]:
    """Train `arch` anew in `folder`; returns what ``result.json`` holds.

    The folder then has ``arch.json``, ``model.safetensors``, ``curve.csv`` and ``result.json``.

    Raises:
        InputError: the folder holds a training already, or something that is named is wrong.
        TrainingError: it cannot go on; the last good state is kept.
    """
    if (folder / "train.toml").exists():
        raise InputError(f"{folder}: holds a training already; go on with it by --resume")
    with join(machine.device) as world:
        return _run(arch, how, settings, machine, folder, world, say)


def resume(machine: Machine, folder: Path, say: Say) -> dict[str, Any]:
    """Go on with the training in `folder`, from its last good state.

    Raises:
        InputError: there is none.
        TrainingError: it cannot go on; the last good state is kept.
    """
    settings, how = _read(folder / "train.toml")
    with join(machine.device) as world:
        return _run(load(folder / "arch.json"), how, settings, machine, folder, world, say)


def _run(
    arch: Arch,
    how: Recipe,
    settings: Settings,
    machine: Machine,
    folder: Path,
    world: World,
    say: Say,
) -> dict[str, Any]:
    if machine.threads:
        torch.set_num_threads(machine.threads)
    dataset = data.load(settings.data, settings.strict)
    split = splits.split(dataset, how)
    arch = splits.fit(arch, split)
    graph = lower(arch)
    initial = _initial(settings.init, graph, say) if settings.init else None
    teacher = _teacher(settings.teacher, split) if settings.teacher else None
    if world.first:
        _name(dataset.skipped, say)
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) if world.first else nullcontext():
        if world.first:
            write_whole(folder / "arch.json", json.dumps(to_json(arch), indent=1).encode())
            write_whole(folder / "train.toml", _to_text(settings, how).encode())
        curve = _Curve(folder / "curve.csv", say) if world.first else None
        skipped: dict[Path, str] = {}
        trained = train(
            graph,
            split.train,
            split.validation if len(split.validation) else split.test,
            how,
            settings.seed,
            split.preprocessing,
            curve or (lambda progress: None),
            world=world,
            workers=machine.workers,
            strict=settings.strict,
            skipped=skipped,
            initial=initial,
            teacher=teacher,
            keeper=Keeper(folder / "checkpoint.safetensors", machine.interval_s),
            evaluate_every=max(1, how.epochs // CURVE_POINTS),
        )
        net = net_of(graph, trained.weights).to(world.device)
        test_accuracy = evaluate(net, split.test, split.preprocessing, world, machine.workers)
        counted = cost.count(graph)
        result = {
            "run": str(folder),
            "id": arch.id,
            "params": counted.params,
            "macs": counted.macs,
            "resolution": arch.resolution,
            "data": settings.data,
            "recipe": settings.recipe_name,
            "epochs": how.epochs,
            "train_pictures": len(split.train),
            "accuracy": trained.accuracy if len(split.validation) else None,
            "test_accuracy": test_accuracy,
            "test_pictures": len(split.test),
            "seed": settings.seed,
            "seconds": round(curve.seconds if curve else trained.seconds, 1),
            "hardware": _hardware(world),
        }
        _name(skipped.values(), say)
        if world.first:
            path = folder / "model.safetensors"
            weights.save(trained.weights, path, preprocessing=split.preprocessing)
            write_whole(folder / "result.json", json.dumps(result, indent=1).encode())
    return result


def _name(skipped: Iterable[str], say: Say) -> None:
    """Say which pictures were left out: the first ones by name, and how many."""
    lines = list(skipped)
    for line in lines[:NAMED]:
        say(f"skipped {line}")
    if len(lines) > NAMED:
        say(f"skipped {len(lines)} pictures in all")


class _Curve:
    """curve.csv: a row an epoch, with all that earlier processes did; and lines for people."""

    COLUMNS = (
        *("epoch", "step", "resolution", "learning_rate", "loss", "train_accuracy", "accuracy"),
        *("images_per_second", "seconds"),
    )

    def __init__(self, path: Path, say: Say) -> None:
        self._path = path
        self._say = say
        self._rows: dict[int, dict[str, Any]] = {}
        if path.exists():
            with open(path, encoding="utf-8", newline="") as file:
                self._rows = {int(row["epoch"]): dict(row) for row in csv.DictReader(file)}
        self._began = time.monotonic()
        self._before: float | None = None
        self._spoken = 0.0
        self._board = _tensorboard(path.parent)

    @property
    def seconds(self) -> float:
        """Of this training, in all processes that worked at it."""
        return (self._before or 0.0) + time.monotonic() - self._began

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
                f"{progress.images_per_second:.0f} pictures a second, "
                f"{_clock(progress.seconds_left)} left"
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
        """When the last epoch before this one was done; what came after it is done again."""
        return max(
            (float(row["seconds"]) for done, row in self._rows.items() if done < epoch), default=0.0
        )


def _tensorboard(folder: Path) -> Any:
    """A writer of TensorBoard's files where that is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))


def _initial(file: str, graph: Graph, say: Say) -> dict[str, Array]:
    found, fitted = inherit.fit(graph, published.read_any(Path(file)))
    say(f"{file}: {fitted}")
    return found


def _teacher(file: str, pictures: Split) -> Teacher:
    """Any model that can be opened, as a function from uint8 pictures to logits."""
    model = open_model(Path(file))
    if model.classes != len(pictures.preprocessing.classes):
        raise InputError(
            f"teacher {file}: knows {model.classes} classes, the data have "
            f"{len(pictures.preprocessing.classes)}"
        )
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (model.preprocessing.mean, model.preprocessing.std)
    )

    def answer(images: Tensor) -> Tensor:
        inputs = (images.cpu().float() / 255 - mean) / std
        if inputs.shape[2] != model.resolution:
            size = (model.resolution, model.resolution)
            inputs = F.interpolate(inputs, size, mode="bilinear", antialias=True)
        return torch.from_numpy(model.run(inputs.contiguous().numpy())).to(images.device)

    return answer


def _to_text(settings: Settings, how: Recipe) -> str:
    lines = ["# What this training was asked to do; ghostnas train --resume reads it."]
    lines += [f"{key} = {toml_value(value)}" for key, value in asdict(settings).items()]
    return "\n".join([*lines, "", "[recipe]", recipe.to_text(how), "", versions_text()]) + "\n"


def _read(path: Path) -> tuple[Settings, Recipe]:
    if not path.exists():
        raise InputError(f"{path.parent}: holds no training to go on with")
    try:
        found = tomllib.loads(read_text(path))
        how = recipe.from_table(found.pop("recipe"))
        found.pop("versions")
        known = {field.name for field in fields(Settings)}
        if found.keys() != known:
            raise InputError(f"needs {', '.join(sorted(known))}")
        return Settings(**found), how
    except (tomllib.TOMLDecodeError, KeyError, InputError) as error:
        raise InputError(f"{path}: is damaged: {error}") from error


def _hardware(world: World) -> str:
    if world.device.type == "cuda":
        name = torch.cuda.get_device_name(world.device)
        return f"{world.size} x {name}" if world.size > 1 else name
    return f"{_processor()}, {world.size * torch.get_num_threads()} threads"


def _processor() -> str:
    """The CPU's name where the system tells it."""
    try:
        lines = read_text(Path("/proc/cpuinfo")).splitlines()
    except InputError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"
