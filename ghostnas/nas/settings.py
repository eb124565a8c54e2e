"""A search's settings, and the search.toml that keeps them in the run folder."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path

from ghostnas import records
from ghostnas.errors import InputError
from ghostnas.files import toml_value
from ghostnas.training.proxy_network import PUBLISHED
from ghostnas.versions import versions_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a search is asked to do; kept in the run folder's search.toml.

    `trials`, `timeout_s`, `workers` and `device` may change when a search resumes; the others may
    not. `deploy` and `resolution` determine the deployment (`ghostnas.training.proxy_network`).
    `scorer` determines how a trial is scored: by a training with the recipe, or without training.
    `seeds` is how many times each of the best `finalists` and the baseline are trained to choose,
    and the winner and the baseline again to report; `confidence` is that of latency budgets, 0 for
    the prediction itself. `fingerprint` is that of the data's images.
    """

    target: str
    budgets: tuple[str, ...]
    confidence: float = 0.0
    space: str = "ghostnet"
    data: str = "synthetic"
    recipe: str = "quick"
    scorer: str = "train"
    sampler: str = "tpe"
    seed: int = 0
    finalists: int = 3
    seeds: int = 3
    deploy: str = PUBLISHED
    resolution: int = 0
    storage: str = ""
    trials: int = 6
    timeout_s: float = 0.0
    workers: int = 2
    device: str = "auto"
    fingerprint: str = ""


CHANGEABLE = {"trials", "timeout_s", "workers", "device"}


def to_text(settings: Settings) -> str:
    """The file's text, including the versions that the search runs with."""
    lines = ["# What this search was asked to do; ghostnas search --resume reads it."]
    for key, value in dataclasses.asdict(settings).items():
        lines.append(f"{key} = {toml_value(value)}")
    return "\n".join([*lines, "", versions_text()]) + "\n"


def read(path: Path) -> Settings:
    """The settings of a run folder's search.toml.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path.parent}: holds no search to resume") from error
    except ValueError as error:
        raise InputError(f"{path}: is damaged: {error}") from error
    found.pop("versions", None)
    try:
        return records.from_table(Settings, found)
    except InputError as error:
        raise InputError(f"{path}: is damaged: {error}; restore it, or start again") from error
