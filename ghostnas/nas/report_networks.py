"""Two networks drawn beside each other, layer by layer: rows of text and shares for a template."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from ghostnas.latency import table
from ghostnas.latency.predictor import Predictor
from ghostnas.networks.arch import Arch, Part, Stem, parts
from ghostnas.networks.blocks import Block

TIMES = "\N{MULTIPLICATION SIGN}"
SHOWN = {"hidden_channels", "out_channels", "kernel", "stride", "se_ratio", "se_channels"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A stem, block or head.

    Attributes:
        kernel: as text, ``5x5``, with a real sign; empty for a head.
        channels: into, within and out of it: ``24 → 72 → 40``.
        notes: attention, stride and what else is not a block's default.
        out: its output's height and width.
    """

    kind: str
    kernel: str
    channels: str
    notes: tuple[str, ...]
    out: int
    latency_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The layers of one feature-map size of both networks; None where one has fewer."""

    name: str
    sizes: tuple[int | None, int | None]
    totals_ms: tuple[float, float]
    rows: tuple[tuple[Layer | None, Layer | None], ...]


def stages(target: str, ours: Arch, theirs: Arch | None) -> list[Stage]:
    """Both networks by stage; the columns of `theirs` are None if it is."""
    predictor = Predictor(table.load(target))
    left, right = _layers(predictor, ours), _layers(predictor, theirs) if theirs else {}
    found = []
    for name in sorted({**left, **right}, key=lambda name: (name == "head", name != "stem", name)):
        mine, other = left.get(name, []), right.get(name, [])
        found.append(
            Stage(
                name=name,
                sizes=(_size(mine), _size(other)),
                totals_ms=(_sum(mine), _sum(other)),
                rows=tuple(zip_longest(mine, other)),
            )
        )
    return found


def _size(layers: list[Layer]) -> int | None:
    return layers[-1].out if layers else None


def _sum(layers: list[Layer]) -> float:
    return sum(each.latency_ms for each in layers)


def _layers(predictor: Predictor, arch: Arch) -> dict[str, list[Layer]]:
    costs = predictor.costs
    whole = predictor.predict(arch).latency_ms
    share = whole / costs.of_arch(arch).latency_ms  # a table's correction is of the whole
    numbers = [f"stage {at}" for at, stage in enumerate(arch.stages, 1) for _ in stage.blocks]
    found: dict[str, list[Layer]] = {}
    for at, (name, part) in enumerate(zip(["stem", *numbers, "head"], parts(arch), strict=True)):
        layer = _layer(part, share * costs.of_part(arch, at).latency_ms)
        found.setdefault(name, []).append(layer)
    return found


def _layer(part: Part, latency_ms: float) -> Layer:
    channels, size, _ = part.in_shape
    out = -(-size // part.stride)
    match part.numbers:
        case Stem() as stem:
            return Layer(
                kind="conv",
                kernel=f"3{TIMES}3",
                channels=f"{channels} → {stem.channels}",
                notes=_stride(part),
                out=out,
                latency_ms=latency_ms,
            )
        case Block() as block:
            return _of_block(block, part, out, latency_ms)
        case head:
            within = [head.channels, *([head.features] if head.features else []), part.classes]
            return Layer(
                kind="conv, pool, classifier",
                kernel="",
                channels=" → ".join(map(str, [channels, *within])),
                notes=(),
                out=1,
                latency_ms=latency_ms,
            )


def _of_block(block: Block, part: Part, out: int, latency_ms: float) -> Layer:
    numbers: dict[str, Any] = {
        each.name: getattr(block, each.name)
        for each in dataclasses.fields(block)  # type: ignore[arg-type]
    }
    hidden = numbers.get("hidden_channels")
    chain = [part.in_shape[0], *([hidden] if hidden else []), block.out_channels]
    kernel = numbers.get("kernel")
    return Layer(
        kind=block.type_name,
        kernel=f"{kernel}{TIMES}{kernel}" if kernel else "",
        channels=" → ".join(map(str, chain)),
        notes=(*_attention(numbers), *_stride(part), *_others(block, numbers)),
        out=out,
        latency_ms=latency_ms,
    )


def _stride(part: Part) -> tuple[str, ...]:
    return (f"stride {part.stride}",) if part.stride > 1 else ()


def _attention(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    if numbers.get("se_ratio") or numbers.get("se_channels"):
        return ("SE",)
    return ("ECA",) if numbers.get("eca_kernel") else ()


def _others(block: Block, numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """The numbers that are not the block's defaults, in words."""
    defaults = {
        each.name: each.default
        for each in dataclasses.fields(block)  # type: ignore[arg-type]
        if each.default is not dataclasses.MISSING
    }
    return tuple(
        f"{name.replace('_', ' ')} {value}" if not isinstance(value, bool) else name
        for name, value in numbers.items()
        if name not in SHOWN | {"eca_kernel"} and value not in (defaults.get(name), False)
    )
