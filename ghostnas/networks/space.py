"""Search spaces: a TOML file where a number is fixed and a list is searched.

One walk, `Space.build(pick)`, does everything: with Optuna's ``trial.suggest_categorical`` it
samples, with a lookup it decodes.
"""

from __future__ import annotations

import hashlib
import math
import random
import tomllib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args

from ghostnas.errors import InputError, did_you_mean
from ghostnas.files import shipped
from ghostnas.ir.graph import Nonlinearity
from ghostnas.networks.arch import Arch, Head, Stage, Stem, fit_to
from ghostnas.networks.blocks import BLOCK_TYPES, Block, Limits, Place, Range, make_divisible

Value: TypeAlias = int | float | str
Params: TypeAlias = dict[str, Value]
Pick: TypeAlias = Callable[[str, Sequence[Any]], Any]

WHOLE = ("alpha", "resolution", "round_to")  # numbers that hold for the whole network
SCALES = ("alpha", "round_to")  # those of them that decide the blocks
_GROUP = {"stride", "depth", "width"}  # of every group; the others are those of its blocks
_STEM = {"channels"}
_HEAD = {"channels", "features"}
# What may be left out, and what it then is.
_STEM_DEFAULTS: dict[str, Value] = {"stride": 2, "activation": "relu"}
_HEAD_DEFAULTS: dict[str, Value] = {"activation": "relu"}
SMALLEST_RESOLUTION, LARGEST_RESOLUTION = 16, 2048  # pixels; below, a map of 1x1 is halved
# Key to what its values may be; those of a single block are in its `limits`.
_LIMITS: dict[str, Limits] = {
    "alpha": Range(0.05, 8, whole=False),
    "resolution": Range(SMALLEST_RESOLUTION, LARGEST_RESOLUTION),
    "round_to": Range(1, 64),
    "channels": Range(1, 8192),
    "features": Range(0, 8192),
    "stride": Range(1, 2),
    "depth": Range(1, 32),
    "width": Range(1, 4096),
    "expansion": Range(0.25, 16, whole=False),
    "se": Range(0, 1, whole=False),
    "cheap_kernel": Range(1, 15, odd=True),
    "kernel": Range(1, 15, odd=True),
    "activation": get_args(Nonlinearity),
    "attention": ("none", "se", "eca"),
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
        block: the type of the blocks of every group that does not name its own.
        groups: how many [[group]] tables the file has.
        numbers: what is fixed, by name (``alpha``, ``head.channels``, ``group3.depth``). A group's
            block is a text like ``mbconv kernel=3``: its type and the numbers that come with it.
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
        stem, groups = walk.stem_and_groups()
        stages: list[list[Block]] = []
        for blocks in groups:
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
        stem = {*WHOLE, "stem.channels", "stem.activation"}
        parts = [SpacePart(0, False, self._searched(stem))]
        width = "stem.channels"
        for group in range(1, self.groups + 1):
            keys = {"block", "stride", "width"}.union(
                *(_option_keys(option) for option in self.blocks(group))
            )
            own = {f"group{group}.{key}" for key in keys}
            parts.append(SpacePart(group, False, self._searched({*WHOLE, *own, width})))
            parts.append(SpacePart(group, True, self._searched({*WHOLE, *own})))
            width = f"group{group}.width"
        head = {*WHOLE, width, "head.channels", "head.features", "head.activation"}
        return [*parts, SpacePart(self.groups + 1, False, self._searched(head))]

    def place(self, part: SpacePart, params: Mapping[str, Value]) -> int | None:
        """Where an architecture has the part first: an index of `ghostnas.networks.arch.parts`.

        None if it is a repeated block and the group has only one.

        Args:
            params: of the architecture, as for `decode`.
        """
        walk = Walk(self, lambda name, options: params.get(name, options[0]))
        depths = [len(blocks) for blocks in walk.stem_and_groups()[1]]
        if part.repeated and depths[part.group - 1] == 1:
            return None
        return sum([1, *depths][: part.group]) + part.repeated

    def depths(self, group: int) -> tuple[int, ...]:
        """How many blocks a group may have, unless its block is skipped; groups count from 1."""
        return tuple(map(int, self._options(f"group{group}.depth", 1)))

    def blocks(self, group: int) -> tuple[str, ...]:
        """What a group's blocks may be, as in `numbers`; groups count from 1."""
        return tuple(map(str, self._options(f"group{group}.block", self.block)))

    def _options(self, name: str, default: Value) -> tuple[Value, ...]:
        return self.choices.get(name) or (self.numbers.get(name, default),)

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

    def get(self, name: str, default: Value | None = None) -> Any:
        """The number of this name; `default` where the file has none."""
        fixed = self._space.numbers.get(name)
        if fixed is None and name in self._space.choices:
            return self._pick(name, self._space.choices[name])
        return default if fixed is None else fixed

    def scale(self, channels: float) -> int:
        return make_divisible(channels * self._alpha, self._round_to)

    def stem(self) -> tuple[Stem, float]:
        """The stem, and its output width before alpha."""
        width = self.get("stem.channels")
        stem = Stem(
            channels=self.scale(width),
            stride=int(self.get("stem.stride", _STEM_DEFAULTS["stride"])),
            activation=self.get("stem.activation", _STEM_DEFAULTS["activation"]),
        )
        return stem, width

    def stem_and_groups(self) -> tuple[Stem, list[list[Block]]]:
        """The stem, and the blocks of all groups."""
        stem, width = self.stem()
        channels, groups = stem.channels, []
        for index in range(1, self._space.groups + 1):
            blocks, width = self.group(f"group{index}", width, channels)
            channels = blocks[-1].out_channels
            groups.append(blocks)
        return stem, groups

    def head(self) -> Head:
        return Head(
            channels=self.scale(self.get("head.channels")),
            features=int(self.get("head.features")),
            activation=self.get("head.activation", _HEAD_DEFAULTS["activation"]),
        )

    def group(self, name: str, in_width: float, in_channels: int) -> tuple[list[Block], float]:
        """The blocks of one [[group]] and its output width before alpha."""
        block_type, answers = _parse_option(self.get(f"{name}.block", self._space.block))

        def ask(key: str) -> Any:
            if key not in answers:
                answers[key] = self.get(f"{name}.{key}", block_type.defaults.get(key))
            return answers[key]

        # In the order of earlier versions, whose seeds draw the same networks.
        stride, width = int(ask("stride")), ask("width")
        if "expansion" in block_type.keys:
            ask("expansion")
        if "se" in block_type.keys and (
            "attention" not in block_type.keys or ask("attention") == "se"
        ):
            ask("se")
        depth = int(ask("depth")) if block_type.repeats else 1
        out_channels = self.scale(width)
        place = Place(
            in_width=in_width,
            width=width,
            in_channels=in_channels,
            out_channels=out_channels,
            stride=stride,
            ask=ask,
            answers=answers,
            scale=self.scale,
        )
        blocks = [block_type.choose(place)]
        if depth > 1:
            place = replace(place, in_width=width, in_channels=out_channels, stride=1)
            blocks += [block_type.choose(place)] * (depth - 1)
        return blocks, width


def _parse_option(option: str) -> tuple[type[Block], dict[str, Value]]:
    """The block type of an option like ``mbconv kernel=3`` and the numbers that come with it."""
    type_name, *given = option.split()
    values: dict[str, Value] = {}
    for each in given:
        key, _, value = each.partition("=")
        values[key] = _plain(value) if isinstance(_limits(key), Range) else value
    return BLOCK_TYPES[type_name], values


def _option_keys(option: str) -> set[str]:
    """The keys of a group that an option's block takes from it."""
    block_type, given = _parse_option(option)
    return set(block_type.keys) - set(given)


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
    title = document.pop("name", name)
    groups = document.pop("group", [])
    grouped = isinstance(groups, list) and groups
    named = grouped and all(isinstance(group, dict) and "block" in group for group in groups)
    shared = () if block is None and named else _options_of(block, f"{where}: block")
    if not grouped:
        raise InputError(f"{where}: needs at least one [[group]]")
    numbers: dict[str, Value] = {}
    choices: dict[str, tuple[Value, ...]] = {}

    def take(prefix: str, table: object, keys: Set[str], optional: Set[str] = frozenset()) -> None:
        for key, value in _checked(table, keys, optional, f"{where}: {prefix}").items():
            if isinstance(value, tuple):
                choices[prefix + key] = value
            else:
                numbers[prefix + key] = value

    take("", {k: v for k, v in document.items() if k not in ("stem", "head")}, set(WHOLE))
    take("stem.", document.get("stem"), _STEM, set(_STEM_DEFAULTS))
    take("head.", document.get("head"), _HEAD, set(_HEAD_DEFAULTS))
    plain = len(shared) == 1 and shared[0] in BLOCK_TYPES
    for index, group in enumerate(groups, 1):
        prefix, options = f"group{index}.", shared
        if isinstance(group, dict) and "block" in group:
            group = dict(group)
            options = _options_of(group.pop("block"), f"{where}: {prefix}block")
        if options is not shared or not plain:
            if len(options) > 1:
                choices[f"{prefix}block"] = options
            else:
                numbers[f"{prefix}block"] = options[0]
        keys = set().union(*(_option_keys(option) for option in options))
        optional = {
            key
            for key in keys
            if all(
                key in _parse_option(option)[0].defaults
                for option in options
                if key in _option_keys(option)
            )
        }
        take(prefix, group, _GROUP | (keys - optional), optional)
    return Space(
        name=str(title),
        block=shared[0] if plain else "",
        groups=len(groups),
        numbers=numbers,
        choices=choices,
    )


def _options_of(block: object, where: str) -> tuple[str, ...]:
    """The options of a key `block`: a name, an inline table, or a list of such."""
    known = ", ".join(BLOCK_TYPES)
    found = []
    for option in block if isinstance(block, list) else [block]:
        given = dict(option) if isinstance(option, dict) else {"type": option}
        type_name = given.pop("type", None)
        if not isinstance(type_name, str) or type_name not in BLOCK_TYPES:
            raise InputError(
                f"{where} is {type_name!r}; known: {known}, and those of a file with --blocks"
            )
        block_type = BLOCK_TYPES[type_name]
        if unknown := sorted(set(given) - set(block_type.keys)):
            keys = ", ".join(block_type.keys) or "nothing"
            raise InputError(
                f"{where}: {unknown[0]} is not a number of the block {type_name}; it has {keys}"
            )
        texts = [f"{key}={_value(key, value, f'{where}: ')}" for key, value in given.items()]
        found.append(" ".join([type_name, *texts]))
    if not found or len(set(found)) < len(found):
        raise InputError(f"{where}: needs a list of different blocks, not {block}")
    return tuple(found)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text") from error


def _checked(
    table: object, keys: Set[str], optional: Set[str], where: str
) -> dict[str, Value | tuple[Value, ...]]:
    """The values of one table: each key known and, unless optional, there, each value allowed."""
    if not isinstance(table, dict):
        raise InputError(f"{where.rstrip('.')}: the table is missing")
    unknown = set(table) - keys - optional
    if unknown:
        known = ", ".join(sorted(keys | optional))
        raise InputError(f"{where}{min(unknown)}: unknown key; known here: {known}")
    missing = keys - set(table)
    if missing:
        raise InputError(f"{where}{min(missing)}: is missing")
    checked: dict[str, Value | tuple[Value, ...]] = {}
    for key, value in table.items():
        if not isinstance(value, list):
            checked[key] = _value(key, value, where)
            continue
        options = tuple(_value(key, option, where) for option in value)
        if not options or len(set(options)) < len(options):
            kind = "numbers" if isinstance(_limits(key), Range) else "texts"
            raise InputError(f"{where}{key}: needs a list of different {kind}, not {value}")
        checked[key] = options if len(options) > 1 else options[0]
    return checked


def _limits(key: str) -> Limits:
    """What a key's values may be; a block of the user's own may leave a key without limits."""
    own = (
        block_type.limits[key] for block_type in BLOCK_TYPES.values() if key in block_type.limits
    )
    return _LIMITS.get(key) or next(own, Range(0, 8192, whole=False))


def _plain(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


def _value(key: str, value: object, where: str) -> Value:
    """A value within the limits of its key."""
    limits = _limits(key)
    if isinstance(limits, Range):
        return _number(key, value, limits, where)
    if not isinstance(value, str) or value not in limits:
        raise InputError(f"{where}{key}: {value!r} is not one of {', '.join(limits)}")
    return value


def _number(key: str, value: object, limits: Range, where: str) -> Value:
    lowest, highest, whole, odd = limits
    kind = "an odd whole number" if odd else "a whole number" if whole else "a number"
    right_type = isinstance(value, int) if whole else isinstance(value, int | float)
    if isinstance(value, bool) or not right_type or not lowest <= value <= highest:  # type: ignore[operator]
        raise InputError(f"{where}{key}: {value!r} is not {kind} from {lowest} to {highest}")
    if odd and value % 2 == 0:  # type: ignore[operator]
        raise InputError(f"{where}{key}: {value!r} is not {kind}")
    return value  # type: ignore[return-value]
