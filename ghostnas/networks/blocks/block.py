"""What every block type is: numbers, the keys of a search space that choose them, and `build`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

from ghostnas.ir.graph import Builder
from ghostnas.networks.blocks.layers import efficient_attention_kernel, make_divisible


class Range(NamedTuple):
    """The numbers that a key of a search space may have."""

    lowest: float
    highest: float
    whole: bool = True
    odd: bool = False


Limits: TypeAlias = Range | tuple[str, ...]  # numbers, or texts

# Of a block's field that earlier versions lacked: JSON has it only where it is not the default.
LATER = {"later": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a search space puts a block, and how it answers for the block's numbers.

    Attributes:
        in_width, width: of the block's input and output before the width multiplier.
        in_channels, out_channels: the same after it, rounded.
        stride: 1 or 2.
        ask: the value of one of the block's keys; asked at most once in a group of blocks.
        answers: what was asked so far, by key: what the group's earlier blocks use.
        scale: channels of a width, by the width multiplier and the rounding of the space.
    """

    in_width: float
    width: float
    in_channels: int
    out_channels: int
    stride: int
    ask: Callable[[str], Any]
    answers: Mapping[str, Any] = field(default_factory=dict)
    scale: Callable[[float], int] = make_divisible

    def attention(self, channels: int) -> tuple[float, int]:
        """The SE ratio and the kernel of ECA that the keys ``attention`` and ``se`` choose for maps
        of so many channels; at most one is not 0.
        """
        chosen = self.ask("attention")
        se_ratio = float(self.ask("se")) if chosen == "se" else 0.0
        return se_ratio, efficient_attention_kernel(channels) if chosen == "eca" else 0

    @property
    def keeps_shape(self) -> bool:
        """Whether output and input have the same shape."""
        return self.stride == 1 and self.in_channels == self.out_channels


class Block(ABC):
    """A block type: a frozen, slotted, keyword-only dataclass with at least `out_channels` and
    `stride`.

    For small images a block of stride 2 keeps its ops and weights but runs with stride 1.

    Attributes:
        type_name: of the block in JSON files and search spaces.
        title: of the block in tables and drawings; its `type_name` where it is empty.
        keys: of a search space's group that choose the block's numbers, beside the group's own
            stride, depth and width.
        defaults: of those of the keys that a group may leave out.
        limits: of those of the keys that only this block has.
        repeats: whether more blocks after the first change anything; if not, depth is not asked.
    """

    __slots__ = ()
    type_name: ClassVar[str]
    title: ClassVar[str] = ""
    keys: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[Mapping[str, Any]] = {}
    limits: ClassVar[Mapping[str, Limits]] = {}
    repeats: ClassVar[bool] = True

    out_channels: int
    stride: int

    @abstractmethod
    def build(self, graph: Builder, x: int, name: str, stride: int | None = None) -> int:
        """Append the block's ops after node `x`, named under `name`; return the output's index.

        It runs with its own stride unless another is given.
        """

    @property
    def numbers(self) -> dict[str, Any]:
        """The block's fields by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]

    @property
    def attentions(self) -> tuple[str, ...]:
        """What gates the block's maps, by the fields' usual names: ``SE``, ``ECA``."""
        numbers = self.numbers
        has_se = numbers.get("se_ratio") or numbers.get("se_channels")
        return (*(("SE",) if has_se else ()), *(("ECA",) if numbers.get("eca_kernel") else ()))

    @classmethod
    def choose(cls, place: Place) -> Self:
        """The block of a search space at this place. It asks for a number only if that changes
        one of its ops there.

        Unless a block type says otherwise, `hidden_channels` is the input's width times
        ``expansion``, a field that is one of the `keys` is asked for, and others have their
        defaults.
        """
        given: dict[str, Any] = {"out_channels": place.out_channels, "stride": place.stride}
        for each in fields(cls):  # type: ignore[arg-type]
            if each.name == "hidden_channels" and "expansion" in cls.keys:
                given[each.name] = place.scale(place.in_width * place.ask("expansion"))
            elif each.name in cls.keys:
                given[each.name] = place.ask(each.name)
        return cls(**given)
