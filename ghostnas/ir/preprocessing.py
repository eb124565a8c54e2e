"""What a network expects of an image and calls its classes; stored with the weights."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from ghostnas.errors import InputError, short

CHANNELS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """`mean` and `std` of the channels R, G, B on a scale of 0 to 1; a network takes
    ``(image / 255 - mean) / std``.

    `classes` are the names of its outputs, in order; empty if unknown.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


# For the published networks trained on ImageNet; its class names are not known here.
IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def from_json(text: str, where: str) -> Preprocessing:
    """Read what ``json.dumps(preprocessing.to_json())`` wrote; `where` names it in an error.

    Raises:
        InputError: it is not such a text.
    """
    try:
        found = json.loads(text)
        mean, std = (tuple(map(float, found[key])) for key in ("mean", "std"))
        classes = tuple(map(str, found["classes"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{where}: has no mean, std and classes: {short(error)}") from error
    if not all(map(math.isfinite, (*mean, *std))) or min(std, default=0) <= 0:
        raise InputError(f"{where}: mean and std must be finite, std above 0")
    if len(mean) != CHANNELS or len(std) != CHANNELS:
        raise InputError(f"{where}: mean and std need {CHANNELS} numbers each")
    return Preprocessing(mean=mean, std=std, classes=classes)
