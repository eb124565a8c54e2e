"""What a training is asked to do, and the train.toml that keeps it in the training's folder."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

from ghostnas import records
from ghostnas.errors import InputError, short
from ghostnas.files import read_text, toml_value
from ghostnas.training import recipe
from ghostnas.training.recipe import Recipe
from ghostnas.versions import versions_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a training is asked to do, kept in its folder's train.toml with the recipe.

    `init` and `teacher` name files, or are empty; `init` may be a supernet, ``supernet:DIR``;
    `network` is the name or the path that was given.
    `threads` of the CPU belong to it since other sums round otherwise; 0 is PyTorch's own choice.
    """

    data: str
    recipe_name: str
    seed: int = 0
    init: str = ""
    teacher: str = ""
    strict: bool = False
    threads: int = 0
    network: str = ""


def to_text(settings: Settings, how: Recipe, pictures: str) -> str:
    lines = ["# What this training was asked to do; ghostnas train --resume reads it."]
    lines += [f"{key} = {toml_value(value)}" for key, value in asdict(settings).items()]
    lines.append(f"pictures = {toml_value(pictures)}")
    return "\n".join([*lines, "", "[recipe]", recipe.to_text(how), "", versions_text()]) + "\n"


def read(path: Path) -> tuple[Settings, Recipe, str]:
    """The settings, the recipe and the fingerprint of the images that `to_text` wrote.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    if not path.exists():
        raise InputError(f"{path.parent}: holds no training to go on with")
    try:
        found = tomllib.loads(read_text(path))
        how = recipe.from_table(found.pop("recipe"))
        images = str(found.pop("pictures"))
        found.pop("versions")
        return records.from_table(Settings, found), how, images
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(f"{path}: is damaged: {short(error)}") from error
