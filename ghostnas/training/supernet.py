"""A supernet in a folder: one training of weights that all networks of a space share, and what each
network does with its part of them.

Each step draws networks, adds up the gradients that each of them gives its part, and updates all
weights at once. Which networks is decided by a function that is passed in; it draws from a seed and
the step's number, so that the training resumes like any other.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ghostnas import records
from ghostnas.arrays import Array
from ghostnas.backends import torch_convolutions
from ghostnas.backends.torch_module import Net, weights_of
from ghostnas.data import datasets
from ghostnas.data.images import Dataset, Source, subset
from ghostnas.data.loader import normaliser, test_batches
from ghostnas.errors import InputError, TrainingError, short
from ghostnas.files import locked, read_text, shipped, toml_value, write_whole
from ghostnas.ir import weights
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.networks import enumeration
from ghostnas.networks import space as spaces
from ghostnas.networks.arch import Arch, lower
from ghostnas.networks.space import Params, Space, Value
from ghostnas.progress import Say
from ghostnas.training import proxy_network, recipe, splits
from ghostnas.training.checkpoint import Keeper
from ghostnas.training.distributed import World, join
from ghostnas.training.learner import Learner, Losses, drop_out
from ghostnas.training.loop import HERE, Execution, Task, evaluate, train
from ghostnas.training.proxy_network import PUBLISHED
from ghostnas.training.recipe import Recipe
from ghostnas.training.run import CHECKPOINT, CURVE_POINTS, Curve, Machine, hardware
from ghostnas.training.shared_weights import Member, SharedWeights
from ghostnas.training.splits import Split
from ghostnas.versions import versions_text

SETTINGS, SPACE, WEIGHTS = "supernet.toml", "space.toml", "supernet.safetensors"
CALIBRATED, SCORED = 256, 1000  # images for a network's batch statistics, and for its score
CALIBRATION_BATCH = 128
KEPT_MEMBERS = 512  # networks whose indices are remembered


class Drawn(NamedTuple):
    """The networks of a step, by their settings, and whether the first one teaches the others."""

    networks: tuple[Params, ...]
    teaches: bool


Draw: TypeAlias = Callable[[int], Drawn]  # by the number of the step


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a supernet's training is asked to do; kept in its folder's supernet.toml.

    Attributes:
        networks: drawn in each step; 0 for as many as the space suggests.
        target, budgets: of the networks that are drawn; without budgets all of the space are.
        deploy, resolution: what budgets refer to (`ghostnas.training.proxy_network`).
        threads: of the CPU; 0 is PyTorch's own choice.
    """

    space: str
    data: str
    recipe_name: str
    networks: int = 0
    target: str = ""
    budgets: tuple[str, ...] = ()
    deploy: str = PUBLISHED
    resolution: int = 0
    seed: int = 0
    strict: bool = False
    threads: int = 0


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
        graph_of: Callable[[Mapping[str, Value]], Any],
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
        loss, own = (
            torch.stack([losses[at] for losses in found]).mean()  # type: ignore[index]
            for at in range(2)
        )
        return Losses(loss, own, found[0].logits)


def calibrate(net: Net, images: Source, preprocessing: Preprocessing, world: World = HERE) -> None:
    """Give a network's batch norms the statistics of some of these images, always the same, and put
    it into evaluation mode.

    Args:
        images: what the supernet was trained on.
    """
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.zeros(module.num_features, device=world.device)
            module.running_var = torch.ones(module.num_features, device=world.device)
            module.num_batches_tracked = torch.zeros(
                (), dtype=torch.int64, device=world.device
            )
            module.track_running_stats, module.momentum = True, None
    normalise = normaliser(preprocessing, world.device)
    some = subset(images, min(CALIBRATED, len(images)), splits.SEED)[0]
    net.train()
    with torch.no_grad():
        for batch, _ in test_batches(
            some,
            batch_size=CALIBRATION_BATCH,
            size=net.graph.input_shape[1],
            device=world.device,
        ):
            net(normalise(batch))
    net.eval()


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
        kept = _to_text(settings, how, splits.fingerprint(opened.split))
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
    with join(machine.device) as world:
        execution = Execution(
            world=world,
            workers=machine.workers,
            strict=settings.strict,
            skipped={},
            keeper=Keeper(folder / CHECKPOINT, machine.interval_s),
            evaluate_every=max(1, how.epochs // CURVE_POINTS),
        )
        try:
            trained = train(
                task,
                curve,
                execution,
                lambda task, world: SupernetLearner(
                    shared, opened.graph_of, draw, {}, task, world
                ),
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
    weights.save(trained.weights, folder / WEIGHTS, preprocessing=split.preprocessing)
    write_whole(folder / "result.json", json.dumps(result, indent=1).encode())
    return result


class Opened:
    """A supernet's folder with its data: what gives any network of the space its weights and score.

    Attributes:
        space: whose networks are deployments.
        held_out: images that scores are taken on; the supernet did not learn from them.

    Raises:
        InputError: the data cannot be read, or the recipe holds out no images.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        how: Recipe,
        searched: Space,
        dataset: Dataset | None = None,
    ) -> None:
        self.folder, self.settings, self.how = folder, settings, how
        dataset = dataset or datasets.load(settings.data, settings.strict)
        self.split: Split = splits.split(dataset, how)
        if not len(self.split.validation):
            raise InputError(
                f"recipe {settings.recipe_name} holds out no validation images, which the networks "
                "of a supernet are scored on; add validation_pictures to it"
            )
        self.held_out = subset(
            self.split.validation, min(SCORED, len(self.split.validation)), splits.SEED
        )[0]
        self.space = proxy_network.deployed_space(
            searched, settings.deploy, settings.resolution, self.split
        )
        self._shared: SharedWeights | None = None

    def graph_of(self, params: Mapping[str, Value]) -> Any:
        """The graph of a network at the data's size."""
        return lower(splits.fit(self.space.decode(params), self.split))

    @property
    def shared(self) -> SharedWeights:
        """The trained weights.

        Raises:
            InputError: the training has not finished.
        """
        if self._shared is None:
            path = self.folder / WEIGHTS
            if not path.exists():
                raise InputError(
                    f"{self.folder}: its training has not finished; go on with: ghostnas supernet "
                    f"--resume --out {self.folder}"
                )
            shared = SharedWeights(self.space, self.settings.seed)
            shared.load(weights.load(path), str(path))
            self._shared = shared
        return self._shared

    def network(self, arch: Arch, world: World = HERE) -> Net:
        """A network of the space with its part of the weights and batch statistics of its own, in
        evaluation mode, at the data's size.

        Raises:
            InputError: it is not a network of the space.
        """
        params = enumeration.settings_of(self.space, arch)
        shared = self.shared.to(world.device)
        net = shared.cut(shared.member(params, self.graph_of(params)))
        calibrate(net, self.split.train, self.split.preprocessing, world)
        return net

    def score(self, arch: Arch, world: World = HERE) -> float:
        """The accuracy of `network` on the images held out, 0 to 1."""
        net = self.network(arch, world)
        return evaluate(net, self.held_out, self.split.preprocessing, Execution(world=world))

    def weights(self, arch: Arch) -> dict[str, Array]:
        """Those of `network`."""
        return weights_of(self.network(arch))


def read(folder: Path, dataset: Dataset | None = None) -> Opened:
    """The supernet in a folder.

    Args:
        dataset: its data, if they are loaded already.

    Raises:
        InputError: there is none, it is damaged, or its data has changed.
    """
    path = folder / SETTINGS
    if not path.exists():
        raise InputError(f"{folder}: holds no supernet; train one with: ghostnas supernet")
    try:
        found = tomllib.loads(read_text(path))
        how = recipe.from_table(found.pop("recipe"))
        images = str(found.pop("pictures"))
        found.pop("versions")
        settings = records.from_table(Settings, found)
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(f"{path}: is damaged: {short(error)}") from error
    searched = replace(spaces.load(str(folder / SPACE)), name=_name(settings.space))
    opened = Opened(folder, settings, how, searched, dataset)
    if not splits.has_fingerprint(opened.split, images):
        raise InputError(
            f"data {settings.data!r}: the images have changed since the training in {folder} "
            "began; restore them, or start again in another --out"
        )
    return opened


def _scaled(inputs: Tensor, size: int) -> Tensor:
    """Images at a network's own resolution if that is smaller."""
    if inputs.shape[2] == size:
        return inputs
    return F.interpolate(inputs, (size, size), mode="bilinear", antialias=True)


def _space_text(name: str) -> str:
    spaces.load(name)
    path = Path(name)
    return read_text(path if path.suffix == ".toml" else shipped("search_spaces") / f"{name}.toml")


def _name(space: str) -> str:
    return Path(space).stem if space.endswith(".toml") else space


def _to_text(settings: Settings, how: Recipe, pictures: str) -> str:
    lines = ["# What this supernet's training was asked to do; ghostnas reads it."]
    lines += [f"{key} = {toml_value(value)}" for key, value in asdict(settings).items()]
    lines.append(f"pictures = {toml_value(pictures)}")
    return "\n".join([*lines, "", "[recipe]", recipe.to_text(how), "", versions_text()]) + "\n"
