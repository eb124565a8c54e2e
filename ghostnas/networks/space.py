"""Search spaces: a TOML file where a number is fixed and a list is searched.

One walk, `Space.build(pick)`, does everything: with Optuna's ``trial.suggest_categorical`` it
samples, with a lookup it decodes.
"""

from __future__ import annotations

import hashlib
import math
import random
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ghostnas.errors import InputError, did_you_mean
from ghostnas.files import shipped
from ghostnas.networks.arch import Arch, Head, Stage, Stem, fit_to
from ghostnas.networks.blocks import Block, GhostBlock, MBConv, make_divisible

Value: TypeAlias = int | float
Params: TypeAlias = dict[str, Value]
Pick: TypeAlias = Callable[[str, Sequence[Any]], Any]

WHOLE = ("alpha", "resolution", "round_to")  # numbers that hold for the whole network
_GROUP = {
    "ghost": {
        *("stride", "depth", "width", "expansion", "se"),
        *("ghost_ratio", "cheap_kernel", "kernel"),
    },
    "mbconv": {"stride", "depth", "width", "expansion", "se", "kernel"},
}
_STEM = {"channels"}
_HEAD = {"channels", "features"}
SMALLEST_RESOLUTION, LARGEST_RESOLUTION = 16, 2048  # pixels; below, a map of 1x1 is halved
# Key to what its values may be: lowest, highest, whole numbers only, odd only.
_RANGES: dict[str, tuple[float, float, bool, bool]] = {
    "alpha": (0.05, 8, False, False),
    "resolution": (SMALLEST_RESOLUTION, LARGEST_RESOLUTION, True, False),
    "round_to": (1, 64, True, False),
    "channels": (1, 8192, True, False),
    "features": (1, 8192, True, False),
    "stride": (1, 2, True, False),
    "depth": (1, 32, True, False),
    "width": (1, 4096, True, False),
    "expansion": (0.25, 16, False, False),
    "se": (0, 1, False, False),
    "ghost_ratio": (1, 16, True, False),
    "cheap_kernel": (1, 15, True, True),
    "kernel": (1, 15, True, True),
}


class SpacePart(NamedTuple):
    """The stem (group 0), the first block of a group or each of its others, or the head (the last).

    `names` are the searched numbers that decide it at its place.
    """

    group: int
    repeated: bool
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A parsed space file.

    Attributes:
        hash: of the numbers and choices; a study remembers it and refuses another.
        block: the block type, a key of `_GROUP`.
        groups: how many [[group]] tables the file has.
        numbers: what is fixed, by name (``alpha``, ``head.channels``, ``group3.depth``).
        choices: what is searched, by name, with its options.
        classes: of the architectures it builds.
        drop_strides: whether their first strides run as 1 where the input is small, as in
            `ghostnas.networks.arch.fit_to`.
    """

    name: str
    block: str
    groups: int
    numbers: Mapping[str, Value]
    choices: Mapping[str, tuple[Value, ...]]
    classes: int = 1000
    drop_strides: bool = False

    @property
    def hash(self) -> str:
        text = repr((self.block, sorted(self.numbers.items()), sorted(self.choices.items())))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def size(self) -> float:
        """How many combinations its options have, whether or not all their numbers matter."""
        return float(math.prod(map(len, self.choices.values())))

    def pin(self, **numbers: Value) -> Space:
        """The same space with some of its searched numbers fixed.

        Raises:
            InputError: the space has no number of that name.
        """
        if unknown := sorted(set(numbers) - set(self.choices) - set(self.numbers)):
            raise InputError(f"space {self.name} has no number {unknown[0]!r}")
        choices = {name: options for name, options in self.choices.items() if name not in numbers}
        return replace(self, numbers={**self.numbers, **numbers}, choices=choices)

    def build(self, pick: Pick) -> Arch:
        """The architecture that `pick(name, options)` chooses.

        Each number is asked for at most once, and only where it changes an op.
        """
        walk = Walk(self, pick)
        stem, width = walk.stem()
        stages: list[list[Block]] = []
        channels = stem.channels
        for index in range(1, self.groups + 1):
            blocks, width = walk.group(f"group{index}", width, channels)
            channels = blocks[-1].out_channels
            if stages and blocks[0].stride == 1:
                stages[-1].extend(blocks)
            else:
                stages.append(blocks)
        head = walk.head()
        resolution = int(walk.get("resolution"))
        arch = Arch(
            stem=stem,
            stages=tuple(Stage(blocks=tuple(blocks)) for blocks in stages),
            head=head,
            classes=self.classes,
            resolution=resolution,
        )
        if self.drop_strides:
            return fit_to(arch, resolution=resolution, classes=self.classes)
        return arch

    def parts(self) -> list[SpacePart]:
        """What the network is put together from, and the searched numbers that decide each part.

        Raises:
            InputError: the space searches strides, on which everything after them depends.
        """
        if strides := [name for name in self.choices if name.endswith(".stride")]:
            raise InputError(f"space {self.name} searches {strides[0]}: its parts are not apart")
        whole = {"alpha", "resolution", "round_to"}
        parts = [SpacePart(0, False, self._searched(whole | {"stem.channels"}))]
        width = "stem.channels"
        for group in range(1, self.groups + 1):
            own = {f"group{group}.{key}" for key in _GROUP[self.block] - {"depth"}}
            parts.append(SpacePart(group, False, self._searched(whole | own | {width})))
            parts.append(SpacePart(group, True, self._searched(whole | own)))
            width = f"group{group}.width"
        head = whole | {width, "head.channels", "head.features"}
        return [*parts, SpacePart(self.groups + 1, False, self._searched(head))]

    def depths(self, group: int) -> tuple[int, ...]:
        """How many blocks a group may have; groups count from 1."""
        name = f"group{group}.depth"
        fixed = self.numbers.get(name)
        return tuple(map(int, self.choices[name] if fixed is None else [fixed]))

    def _searched(self, names: set[str]) -> tuple[str, ...]:
        return tuple(name for name in self.choices if name in names)

    def sample(self, rng: random.Random) -> dict[str, Value]:
        """Parameters of one architecture, every answer drawn evenly."""
        params: dict[str, Value] = {}

        def pick(name: str, options: Sequence[Any]) -> Any:
            params[name] = rng.choice(options)
            return params[name]

        self.build(pick)
        return params

    def decode(self, params: Mapping[str, Value]) -> Arch:
        """The architecture of these parameters; a number that is left out takes its first option.

        With no parameters at all this is the published network that the space is built around.
        """
        return self.build(lambda name, options: params.get(name, options[0]))


class Walk:
    """Builds a network of a space part by part, and asks `pick` for each searched number."""

    def __init__(self, space: Space, pick: Pick) -> None:
        self._space = space
        self._pick = pick
        self._alpha = self.get("alpha")
        self._round_to = int(self.get("round_to"))

    def get(self, name: str) -> Any:
        fixed = self._space.numbers.get(name)
        return self._pick(name, self._space.choices[name]) if fixed is None else fixed

    def scale(self, channels: float) -> int:
        return make_divisible(channels * self._alpha, self._round_to)

    def stem(self) -> tuple[Stem, float]:
        """The stem, and its output width before alpha."""
        width = self.get("stem.channels")
        return Stem(channels=self.scale(width)), width

    def head(self) -> Head:
        return Head(
            channels=self.scale(self.get("head.channels")),
            features=int(self.get("head.features")),
        )

    def group(self, name: str, in_width: float, in_channels: int) -> tuple[list[Block], float]:
        """The blocks of one [[group]] and its output width before alpha."""
        stride = int(self.get(f"{name}.stride"))
        width = self.get(f"{name}.width")
        expansion = self.get(f"{name}.expansion")
        se = self.get(f"{name}.se")
        depth = int(self.get(f"{name}.depth"))
        out = self.scale(width)
        hidden = self.scale(in_width * expansion)
        first: GhostBlock | MBConv
        if self._space.block == "ghost":
            first = self._ghost(name, hidden, out, stride, se, in_channels)
        else:
            first = self._mbconv(name, hidden, out, stride, se)
        if depth == 1:
            return [first], width
        rest = replace(first, hidden_channels=self.scale(width * expansion), stride=1)
        if isinstance(rest, MBConv):
            rest = replace(rest, se_channels=_se_channels(rest.hidden_channels, se))
        return [first, *[rest] * (depth - 1)], width

    def _ghost(
        self, name: str, hidden: int, out: int, stride: int, se: float, in_channels: int
    ) -> GhostBlock:
        ghost_ratio = int(self.get(f"{name}.ghost_ratio"))
        block = GhostBlock(
            hidden_channels=hidden,
            out_channels=out,
            stride=stride,
            se_ratio=float(se),
            ghost_ratio=ghost_ratio,
        )
        if ghost_ratio > 1:
            block = replace(block, cheap_kernel=int(self.get(f"{name}.cheap_kernel")))
        if not block.keeps_shape(in_channels):
            block = replace(block, kernel=int(self.get(f"{name}.kernel")))
        return block

    def _mbconv(self, name: str, hidden: int, out: int, stride: int, se: float) -> MBConv:
        return MBConv(
            hidden_channels=hidden,
            out_channels=out,
            kernel=int(self.get(f"{name}.kernel")),
            stride=stride,
            se_channels=_se_channels(hidden, se),
        )


def _se_channels(hidden: int, se: float) -> int:
    return make_divisible(hidden * se, 8) if se else 0


def load(name: str) -> Space:
    """A space that ships with ghostnas, by name, or one of the user's own, by path.

    Raises:
        InputError: there is no such space, or its file has a missing, unknown or bad value.
    """
    path = Path(name)
    if path.suffix == ".toml":
        return parse(_read(path), path.stem, str(path))
    if name in names():
        path = shipped("search_spaces") / f"{name}.toml"
        return parse(_read(path), name, str(path))
    raise InputError(
        f"unknown space {name!r}; known: {', '.join(names())}, or the path of a .toml file"
        f"{did_you_mean(name, names())}"
    )


def names() -> list[str]:
    """The spaces that ship with ghostnas."""
    return sorted(path.stem for path in shipped("search_spaces").glob("*.toml"))


def parse(text: str, name: str, where: str) -> Space:
    """The space that a TOML text describes; `where` stands before each error.

    Raises:
        InputError: as `load`.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: is not TOML: {error}") from error
    block = document.pop("block", None)
    if not isinstance(block, str) or block not in _GROUP:
        raise InputError(f"{where}: block is {block!r}; known: {', '.join(_GROUP)}")
    title = document.pop("name", name)
    groups = document.pop("group", [])
    if not isinstance(groups, list) or not groups:
        raise InputError(f"{where}: needs at least one [[group]]")
    tables = {
        "": ({k: v for k, v in document.items() if k not in ("stem", "head")}, set(WHOLE)),
        "stem.": (document.get("stem"), _STEM),
        "head.": (document.get("head"), _HEAD),
    }
    for index, group in enumerate(groups, 1):
        tables[f"group{index}."] = (group, _GROUP[block])
    numbers: dict[str, Value] = {}
    choices: dict[str, tuple[Value, ...]] = {}
    for prefix, (table, keys) in tables.items():
        for key, value in _checked(table, keys, f"{where}: {prefix}").items():
            if isinstance(value, tuple):
                choices[prefix + key] = value
            else:
                numbers[prefix + key] = value
    return Space(name=str(title), block=block, groups=len(groups), numbers=numbers, choices=choices)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text") from error


def _checked(table: object, keys: set[str], where: str) -> dict[str, Value | tuple[Value, ...]]:
    """The values of one table: each key known and there, each number in its range."""
    if not isinstance(table, dict):
        raise InputError(f"{where.rstrip('.')}: the table is missing")
    unknown = set(table) - keys
    if unknown:
        known = ", ".join(sorted(keys))
        raise InputError(f"{where}{min(unknown)}: unknown key; known here: {known}")
    missing = keys - set(table)
    if missing:
        raise InputError(f"{where}{min(missing)}: is missing")
    checked: dict[str, Value | tuple[Value, ...]] = {}
    for key, value in table.items():
        if not isinstance(value, list):
            checked[key] = _number(key, value, where)
            continue
        options = tuple(_number(key, option, where) for option in value)
        if not options or len(set(options)) < len(options):
            raise InputError(f"{where}{key}: needs a list of different numbers, not {value}")
        checked[key] = options if len(options) > 1 else options[0]
    return checked


def _number(key: str, value: object, where: str) -> Value:
    lowest, highest, whole, odd = _RANGES[key]
    kind = "an odd whole number" if odd else "a whole number" if whole else "a number"
    right_type = isinstance(value, int) if whole else isinstance(value, int | float)
    if isinstance(value, bool) or not right_type or not lowest <= value <= highest:  # type: ignore[operator]
        raise InputError(f"{where}{key}: {value!r} is not {kind} from {lowest} to {highest}")
    if odd and value % 2 == 0:  # type: ignore[operator]
        raise InputError(f"{where}{key}: {value!r} is not {kind}")
    return value  # type: ignore[return-value]
