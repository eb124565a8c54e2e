"""A search's settings, and the search.toml that keeps them in the run folder."""

from __future__ import annotations

import dataclasses
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ghostnas import records
from ghostnas.errors import InputError, did_you_mean
from ghostnas.files import toml_value
from ghostnas.training.proxy_network import PUBLISHED
from ghostnas.versions import versions_text

FILE = "search.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a search is asked to do; kept in the run folder's search.toml.

    What is in CHANGEABLE may change when a search resumes; the others may not. The defaults are
    those of a folder that does not say; a new search has those of its `effort`, a key of EFFORTS.

    Attributes:
        confidence: of latency budgets; 0 for the prediction itself.
        recipe, final_recipe: of the trials, and of the trainings that choose and report; the
            latter is that of the trials if it is empty.
        scorer: how a trial is scored: by a training with the recipe, or without training.
        screened: networks that are scored without training before the first trial.
        screened_by: the scores of these (`ghostnas.nas.screening.parse`).
        halving: trials are stopped early unless they are among the best 1/halving at a rung; 0 for
            never (`ghostnas.nas.rungs`).
        finalists, seeds: how many of the best are trained with the baseline to choose, and from how
            many seeds each; the winner and the baseline are trained from as many again to report.
        deploy, resolution: determine the deployment (`ghostnas.training.proxy_network`).
        pareto: what is traded, like ``accuracy,latency``; empty for the best accuracy alone.
        export_front: how many networks along the front are trained and exported at the end.
        warm_start: run folder of an earlier search that this one learns from.
        fingerprint: of the data's images.
        blocks: files of the user's own block types.
    """

    target: str
    budgets: tuple[str, ...]
    confidence: float = 0.0
    space: str = "ghostnet"
    data: str = "synthetic"
    effort: str = "minutes"
    recipe: str = "quick"
    final_recipe: str = ""
    scorer: str = "train"
    screened: int = 0
    screened_by: str = "naswot,jacob_cov"
    halving: int = 0
    sampler: str = "tpe"
    seed: int = 0
    finalists: int = 3
    seeds: int = 3
    deploy: str = PUBLISHED
    resolution: int = 0
    storage: str = ""
    warm_start: str = ""
    pareto: str = ""
    export_front: int = 0
    trials: int = 6
    timeout_s: float = 0.0
    workers: int = 2
    device: str = "auto"
    fingerprint: str = ""
    blocks: tuple[str, ...] = ()


# What a new search does by how long it may take, where it is not told otherwise: on two cores of a
# CPU about the time of its name.
EFFORTS: dict[str, dict[str, Any]] = {
    "minutes": {"recipe": "quick", "screened": 40, "trials": 3, "finalists": 1, "seeds": 2},
    "hour": {
        "recipe": "short",
        "final_recipe": "proxy",
        "screened": 300,
        "trials": 24,
        "halving": 2,
        "finalists": 3,
        "seeds": 2,
    },
    "night": {
        "recipe": "proxy",
        "final_recipe": "cifar-short",
        "screened": 1000,
        "trials": 60,
        "halving": 2,
        "finalists": 3,
        "seeds": 3,
    },
}
# What says nothing of which networks are found.
OF_A_MACHINE = ("timeout_s", "workers", "device", "storage", "fingerprint")
CHANGEABLE = {"trials", "timeout_s", "workers", "device", "export_front"}


def new(given: Mapping[str, Any]) -> Settings:
    """The settings of a new search, which has its effort's where it is not told otherwise.

    Raises:
        InputError: there is no such effort.
    """
    effort = given.get("effort", "minutes")
    if effort not in EFFORTS:
        raise InputError(
            f"--effort {effort!r}: known are {', '.join(EFFORTS)}{did_you_mean(effort, EFFORTS)}"
        )
    preset = {"sampler": "surrogate", **EFFORTS[effort]}
    if given.get("recipe") is not None:
        preset.pop("final_recipe", None)  # one recipe for all, unless another is given
    return Settings(**{**preset, **given})


def command(settings: Settings) -> str:
    """The command that starts this search: options that differ from a new search's."""
    given: dict[str, Any] = {"target": settings.target, "budgets": settings.budgets}
    plain = dataclasses.asdict(new({**given, "effort": settings.effort}))
    words = ["ghostnas", "search", "--target", settings.target]
    for option, values in (("--budget", settings.budgets), ("--blocks", settings.blocks)):
        words += [word for value in values for word in (option, value)]
    if settings.effort != "minutes":
        words += ["--effort", settings.effort]
    told = {*given, "blocks", "effort", *OF_A_MACHINE}
    for key, value in dataclasses.asdict(settings).items():
        if key not in told and value != plain[key]:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            words += [f"--{key.replace('_', '-')}", text]
    return shlex.join(words)


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
