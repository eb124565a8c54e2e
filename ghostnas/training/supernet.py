"""A trained supernet in its folder: what gives any network of its space weights and a score. Trains
nothing (`ghostnas.training.supernet_run` does).
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from ghostnas import records
from ghostnas.arrays import Array
from ghostnas.backends.torch_module import Net, weights_of
from ghostnas.data import datasets
from ghostnas.data.images import Dataset, Source, subset
from ghostnas.data.loader import normaliser, test_batches
from ghostnas.errors import InputError, short
from ghostnas.files import read_text, toml_value
from ghostnas.ir import weights
from ghostnas.ir.graph import Graph
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.networks import enumeration
from ghostnas.networks import space as spaces
from ghostnas.networks.arch import Arch, lower
from ghostnas.networks.space import Space, Value
from ghostnas.training import proxy_network, recipe, splits
from ghostnas.training.distributed import World
from ghostnas.training.loop import EVALUATION_BATCH_ON_CPU, HERE
from ghostnas.training.proxy_network import PUBLISHED
from ghostnas.training.recipe import Recipe
from ghostnas.training.shared_weights import SharedWeights
from ghostnas.training.splits import Split
from ghostnas.versions import versions_text

PREFIX = "supernet:"  # of a supernet's folder where other things could stand, as in --scorer
SETTINGS, SPACE, WEIGHTS = "supernet.toml", "space.toml", "supernet.safetensors"
CALIBRATED, SCORED = 128, 500  # images for a network's batch statistics, and for its score


class Judged(NamedTuple):
    """A network on labelled images, both 0 to 1: the share that it classifies right, and the
    geometric mean of the probabilities that it gives to the right classes.

    Networks are ranked by the likelihood. Of few images it says more than the accuracy: with 500,
    Kendall's tau inside a band of MACs was 0.51 and 0.45 (docs/supernet.md).
    """

    accuracy: float
    likelihood: float


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
            module.num_batches_tracked = torch.zeros((), dtype=torch.int64, device=world.device)
            module.track_running_stats, module.momentum = True, None
    normalise = normaliser(preprocessing, world.device)
    some = subset(images, min(CALIBRATED, len(images)), splits.SEED)[0]
    net.train()
    with torch.no_grad():
        for batch, _ in test_batches(
            some,
            batch_size=EVALUATION_BATCH_ON_CPU,
            size=net.graph.input_shape[1],
            device=world.device,
        ):
            net(normalise(batch))
    net.eval()


def judge(net: Net, images: Source, preprocessing: Preprocessing, world: World = HERE) -> Judged:
    """How a network in evaluation mode does on images.

    Raises:
        InputError: none of the images can be read.
    """
    normalise = normaliser(preprocessing, world.device)
    right, log_likelihood, seen = 0, 0.0, 0
    with torch.inference_mode():
        for batch, labels in test_batches(
            images,
            batch_size=EVALUATION_BATCH_ON_CPU,
            size=net.graph.input_shape[1],
            device=world.device,
        ):
            logits = net(normalise(batch))
            right += int((logits.argmax(1) == labels).sum())
            log_likelihood -= float(F.cross_entropy(logits, labels, reduction="sum"))
            seen += len(labels)
    if not seen:
        raise InputError(f"none of the {len(images)} images to score networks on can be read")
    return Judged(right / seen, math.exp(log_likelihood / seen))


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
        self.folder, self.settings, self.how, self.searched = folder, settings, how, searched
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

    def graph_of(self, params: Mapping[str, Value]) -> Graph:
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

    def check(self, searched: Space, images: Split) -> None:
        """Whether the supernet can score the networks of a space as they are for these images.

        Raises:
            InputError: it is of another space or classes, or has not finished.
        """
        if searched.hash != self.searched.hash:
            raise InputError(
                f"{self.folder}: its networks are those of space {self.searched.name}, not "
                f"{searched.name}"
            )
        self.check_classes(images)
        _ = self.shared

    def check_classes(self, images: Split) -> None:
        """Raises:
        InputError: the supernet has learned other classes than those of these images.
        """
        if images.preprocessing.classes != self.split.preprocessing.classes:
            raise InputError(f"{self.folder}: has learned other classes than those of the data")

    def network_of(self, params: Mapping[str, Value], world: World = HERE) -> Net:
        """The network of these settings with its part of the weights and batch statistics of its
        own, in evaluation mode, at the data's size.
        """
        shared = self.shared.to(world.device)
        net = shared.cut(shared.member(params, self.graph_of(params)))
        calibrate(net, self.split.train, self.split.preprocessing, world)
        return net

    def network(self, arch: Arch, world: World = HERE) -> Net:
        """`network_of` the settings that `arch` has in the space.

        Raises:
            InputError: it is not a network of the space.
        """
        return self.network_of(enumeration.settings_of(self.space, arch), world)

    def judge_of(self, params: Mapping[str, Value], world: World = HERE) -> Judged:
        """How `network_of` does on the images held out."""
        return judge(self.network_of(params, world), self.held_out, self.split.preprocessing, world)

    def judge(self, arch: Arch, world: World = HERE) -> Judged:
        """How `network` does on the images held out."""
        return self.judge_of(enumeration.settings_of(self.space, arch), world)

    def weights(self, arch: Arch) -> dict[str, Array]:
        """Those of `network`."""
        return weights_of(self.network(arch))


def folder_of(name: str) -> Path | None:
    """The folder in ``supernet:DIR``; None for other names."""
    return Path(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None


def absolute(name: str) -> str:
    """A name with the folder of a supernet, if it is one, made absolute."""
    folder = folder_of(name)
    return name if folder is None else f"{PREFIX}{folder.resolve()}"


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


def _name(space: str) -> str:
    return Path(space).stem if space.endswith(".toml") else space


def to_text(settings: Settings, how: Recipe, pictures: str) -> str:
    lines = ["# What this supernet's training was asked to do; ghostnas reads it."]
    lines += [f"{key} = {toml_value(value)}" for key, value in asdict(settings).items()]
    lines.append(f"pictures = {toml_value(pictures)}")
    return "\n".join([*lines, "", "[recipe]", recipe.to_text(how), "", versions_text()]) + "\n"
