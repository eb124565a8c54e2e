"""Another budget or target for a finished search: the best of the networks that it knows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna

from ghostnas.data import datasets
from ghostnas.errors import BudgetError, InputError
from ghostnas.files import write_whole
from ghostnas.nas import samplers, screening, study
from ghostnas.nas.constraints import Constraints
from ghostnas.nas.settings import read
from ghostnas.networks import space
from ghostnas.networks.arch import to_json
from ghostnas.training import proxy_network, recipe, splits


def pick(
    folder: Path, budgets: Sequence[str], target: str | None, out: Path | None
) -> dict[str, Any]:
    """Of the networks that a search trained or scored, the one that is expected to be most accurate
    within other budgets. Nothing is trained.

    Args:
        folder: of the search.
        target: the search's by default.
        out: an architecture's .json file to write, for ``ghostnas train`` and ``ghostnas export``.

    Raises:
        InputError: the folder holds no search, or too little of one.
        BudgetError: it knows no network within the budgets.
    """
    settings = read(folder / "search.toml")
    how = recipe.load(settings.recipe)
    split = splits.split(datasets.load(settings.data), how)
    searched = proxy_network.deployed_space(
        space.load(settings.space), settings.deploy, settings.resolution, split
    )
    constraints = Constraints(target or settings.target, budgets, settings.confidence or None)
    url = settings.storage or f"sqlite:///{folder.resolve()}/study.db"
    try:
        found = optuna.load_study(study_name=study.NAME, storage=url)
    except Exception as error:  # Optuna's storages raise their database drivers' errors
        raise InputError(f"{folder}: its study cannot be read: {error}") from error
    screened = screening.read(folder / "screened.json")
    known = samplers.SurrogateSampler(
        Constraints(settings.target, settings.budgets).feasible(searched),
        settings.seed,
        screened=screened or None,
        screened_prior=screening.prior(screening.parse(settings.screened_by)) if screened else None,
    )
    trials = found.get_trials(deepcopy=False, states=study.EVALUATED)
    if not trials:
        raise InputError(f"{folder}: no trial has finished; resume the search first")
    trained = {samplers.key_of(each.params): each for each in trials}
    within = {
        key: predicted
        for key, predicted in known.predict(found).items()
        if constraints.utilization(searched.decode(dict(key))) <= 1
    }
    if not within:
        raise BudgetError(
            f"{folder}: knows no network within {', '.join(budgets)}; search again with that budget"
            f", and --warm-start {folder}"
        )
    best = max(within, key=lambda key: within[key][0])
    arch = searched.decode(dict(best))
    counted, latency = constraints.cost_of(arch)
    if out is not None:
        write_whole(out, json.dumps(to_json(arch), indent=1).encode())
    trial = trained.get(best)
    return {
        "run": str(folder),
        "network": None if out is None else str(out),
        "id": arch.id,
        "trial": None if trial is None else trial.number,
        "score": round(within[best][0], 5),
        "score_std": round(within[best][1], 5),
        "of": len(within),
        "target": target or settings.target,
        "budgets": list(budgets),
        **dataclasses.asdict(counted),
        "latency_ms": round(latency.latency_ms, 4),
        "latency_low_ms": round(latency.low_ms, 4),
        "latency_high_ms": round(latency.high_ms, 4),
    }
