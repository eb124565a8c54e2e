"""A search's output: the table of its trials, and the winner, chosen, exported and reported. Trains
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ghostnas import stats
from ghostnas.backends.torch_module import weights_of
from ghostnas.deployment import bundle, samples
from ghostnas.deployment.model_card import Latency, Origin, Search, Training
from ghostnas.deployment.samples import Evaluation
from ghostnas.deployment.verify import Exported
from ghostnas.errors import ExportError
from ghostnas.files import write_whole
from ghostnas.ir import weights
from ghostnas.ir.graph import Weights
from ghostnas.nas import pareto
from ghostnas.nas.constraints import Candidate, Constraints
from ghostnas.nas.settings import Settings, command
from ghostnas.nas.study import ScoredArch
from ghostnas.networks.arch import Arch, lower, to_json
from ghostnas.training import proxy_network, recipe
from ghostnas.training.initialization import fresh
from ghostnas.training.splits import Split

LIMIT_ROOM = 1.000001  # the hypervolume's limits are just above the largest costs
SIGNIFICANT = 0.05  # two networks count as different below this p-value


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a search.

    Attributes:
        winner: chosen by `choose`, and trained from fresh seeds.
        candidates: all networks trained to choose from, including the winner.
        trials: one row per trial.
        failed: trials that ended without a score; `repeated` of another process's network, and
            `stopped` early at a rung.
        used_up: whether the space has no other network within the budget.
        front: networks along the front that were trained and exported, if any.
        skipped: images that could not be read.
    """

    winner: Candidate
    candidates: tuple[Candidate, ...]
    trials: tuple[Mapping[str, Any], ...]
    infeasible: int
    failed: int
    repeated: int
    stopped: int
    used_up: bool
    front: tuple[Mapping[str, Any], ...] = ()
    skipped: int
    seconds: float


def weights_path(folder: Path, arch: Arch, seed: int) -> Path:
    """Where a run folder keeps the weights of a candidate trained from a seed."""
    return folder / "weights" / f"{arch.id}-{seed}.safetensors"


def trial_rows(done: Sequence[ScoredArch], constraints: Constraints) -> list[dict[str, Any]]:
    """One row per trial, by its number in the study: its score and its deployment's costs."""
    rows = []
    for each in done:
        counted, predicted = constraints.cost_of(each.arch)
        rows.append(
            {
                "trial": each.trial,
                "id": each.arch.id,
                "score": each.score,
                "stopped": each.stopped,
                "macs": counted.macs,
                "params": counted.params,
                "latency_ms": round(predicted.latency_ms, 4),
                "model_bytes": counted.model_bytes,
                "peak_activation_bytes": counted.peak_activation_bytes,
                "seconds": each.seconds,
                "arch": json.dumps(to_json(each.arch)),
            }
        )
    return rows


def write_trials(folder: Path, rows: Sequence[Mapping[str, Any]], traded: Sequence[str]) -> None:
    """Write trials.csv, and the front of score against what is traded as pareto.csv."""
    import pandas as pd

    for name, table in (("trials.csv", rows), ("pareto.csv", pareto.front(rows, traded))):
        write_whole(folder / name, pd.DataFrame(table).to_csv(index=False).encode())


# Which candidate wins.
Choice: TypeAlias = Callable[[Sequence[Candidate]], Candidate]
# Mean and standard deviation of a candidate's score, as the trials predict it.
Predicted: TypeAlias = Callable[[Candidate], tuple[float, float] | None]


def choose(candidates: Sequence[Candidate], predicted: Predicted = lambda each: None) -> Candidate:
    """The network of the highest expected accuracy on validation images; of equal ones the fastest,
    and of equally fast ones the smallest.

    What is expected is the mean over the seeds, drawn towards what the trials predict (their
    differences, around the mean of all candidates) by as much as the seeds leave uncertain: a
    normal prior with a normal likelihood, whose variance is pooled over the candidates; from one
    seed each, it is that of the candidates, which is more.
    """
    means = [stats.summary(each.choosing.validation).mean for each in candidates]
    guesses = [predicted(each) for each in candidates]
    known = [guess for guess in guesses if guess is not None]
    spread = [
        (accuracy - mean) ** 2
        for each, mean in zip(candidates, means, strict=True)
        for accuracy in each.choosing.validation
    ]
    freedom = len(spread) - len(candidates)
    pooled = sum(spread) / freedom if freedom else float(np.var(means))
    level = sum(means) / len(means)
    centre = sum(mean for mean, _ in known) / len(known) if known else 0.0

    def expected(at: int) -> float:
        guess, error = guesses[at], pooled / len(candidates[at].choosing.validation)
        if guess is None or not error + guess[1] ** 2:
            return means[at]
        trust = error / (error + guess[1] ** 2)
        return (1 - trust) * means[at] + trust * (level + guess[0] - centre)

    best = min(
        range(len(candidates)),
        key=lambda at: (
            -expected(at),
            candidates[at].latency.latency_ms,
            candidates[at].cost.macs,
            candidates[at].cost.params,
        ),
    )
    return candidates[best]


def conclude(
    settings: Settings, split: Split, dtype: str, folder: Path, found: Outcome
) -> dict[str, Any]:
    """Export the winner, and write and return the result, as in ``result.json``.

    Args:
        dtype: the target's; the winner is exported in it as well as in fp32.
    """
    best = found.winner
    refused: list[str] = []
    exported = _export(settings, split, dtype, folder, best, len(found.trials), refused)
    write_whole(folder / "best.json", json.dumps(to_json(best.arch), indent=1).encode())
    baseline = next((each for each in found.candidates if each.trial is None), None)
    others = [each for each in found.candidates if each not in (best, baseline)]
    result = {
        "run": str(folder),
        "best": best.to_json(),
        "baseline": baseline.to_json() if baseline else None,
        "others": [each.to_json() for each in others],
        "comparison": None if baseline in (None, best) else _comparison(best, baseline),
        "deployment": {
            **proxy_network.to_json(best.arch),
            "deploy": settings.deploy,
            "dtype": dtype,
        },
        "proxy": proxy_network.to_json(proxy_network.proxy_of(best.arch, split)),
        "trials": len(found.trials),
        "failed": found.failed,
        "repeated": found.repeated,
        "stopped": found.stopped,
        "used_up": found.used_up,
        "scorer": settings.scorer,
        "sampler": settings.sampler,
        "effort": settings.effort,
        "infeasible_trained": found.infeasible,
        "skipped": found.skipped,
        "seconds": round(found.seconds, 1),
        "data": settings.data,
        "target": settings.target,
        "budgets": list(settings.budgets),
        "pareto": _front(settings, found.trials),
        "front": [dict(each) for each in found.front],
        "exported": [each.to_json() for each in exported],
        "not_exported": refused,
    }
    write_whole(folder / "result.json", json.dumps(result, indent=1).encode())
    return result


def _front(settings: Settings, trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The front of the trials and its hypervolume, each cost up to the largest of any trial."""
    costs = pareto.parse(settings.pareto) if settings.pareto else ("latency",)
    limits = {cost: max(float(each[pareto.COSTS[cost]]) for each in trials) for cost in costs}
    limits = {cost: limit * LIMIT_ROOM for cost, limit in limits.items()}
    return {
        "objectives": ["accuracy", *costs],
        "trials": [each["trial"] for each in pareto.front(trials, costs)],
        "hypervolume": round(pareto.hypervolume(trials, costs, limits), 6),
        "limits": limits,
    }


def export_along_front(
    settings: Settings, split: Split, dtype: str, folder: Path, network: Candidate, trials: int
) -> dict[str, Any]:
    """Export a trained network of the front to ``front/ID`` of the run folder; it was found in so
    many trials.
    """
    place = f"front/{network.arch.id}/"
    refused: list[str] = []
    exported = _export(settings, split, dtype, folder, network, trials, refused, place)
    return {
        **network.to_json(),
        "exported": [each.to_json() for each in exported],
        "not_exported": refused,
    }


def _export(
    settings: Settings,
    split: Split,
    dtype: str,
    folder: Path,
    best: Candidate,
    trials: int,
    refused: list[str],
    place_of_all: str = "",
) -> list[Exported]:
    """Write the deployment's files to ``export``. Where it cannot share the trained proxy's
    weights, it gets initial ones, and ``proxy`` holds the files of the trained network.

    Where not all files of the target's dtype agree with torch, those of fp32 are written alone, and
    `refused` gets a line that says why: a search does not fail at its end.
    """
    proxy = proxy_network.proxy_of(best.arch, split)
    reported = best.reporting or best.choosing
    first = settings.seed + 1 + (settings.seeds if best.reporting else 0)
    seed = first + reported.validation.index(max(reported.validation))
    trained = weights.load(weights_path(folder, best.arch, seed))
    how = (
        f"a short training on {settings.data.partition(':')[0]}, recipe "
        f"{Path(settings.final_recipe or settings.recipe).stem}, seed {seed}, at "
        f"{proxy_network.describe(proxy)}"
    )
    name = f"{best.name} of a search under {', '.join(settings.budgets)}"
    predicted = Latency(
        target=settings.target,
        dtype=dtype,
        latency_ms=best.latency.latency_ms,
        low_ms=best.latency.low_ms,
        high_ms=best.latency.high_ms,
    )
    searched = Search(
        command=command(settings),
        space=settings.space,
        target=settings.target,
        budgets=settings.budgets,
        trials=trials,
        scorer="a training" if settings.scorer == "train" else settings.scorer,
        sampler=settings.sampler,
        data=settings.data,
        seed=settings.seed,
    )
    final = recipe.load(settings.final_recipe or settings.recipe)
    training = Training(
        data=settings.data,
        recipe=Path(settings.final_recipe or settings.recipe).stem,
        epochs=final.epochs,
        resolution=proxy.resolution,
        seed=seed,
        seeds=tuple(range(first, first + len(reported.validation))),
        images=len(split.train),
    )
    deployed = Origin(
        network=name,
        weights=f"{how}: train it in full before it is shipped",
        latencies=(predicted,),
        training=training,
        search=searched,
    )
    dtypes = list(dict.fromkeys(["fp32", dtype]))

    def write(
        arch: Arch, values: Weights, place: str, origin: Origin, evaluation: Evaluation | None
    ) -> list[Exported]:
        if len(dtypes) > 1:
            try:
                return write_in(dtypes, arch, values, place, origin, evaluation)
            except ExportError as error:
                refused.append(f"{place_of_all}{place} has no {dtypes[-1]} files: {error}")
        return write_in(dtypes[:1], arch, values, place, origin, evaluation)

    def write_in(
        dtypes: list[str],
        arch: Arch,
        values: Weights,
        place: str,
        origin: Origin,
        evaluation: Evaluation | None,
    ) -> list[Exported]:
        size, expected = arch.resolution, split.preprocessing
        int8 = "int8" in dtypes
        return bundle.export(
            arch,
            values,
            bundle.offering(dtypes),
            folder / f"{place_of_all}{place}",
            dtypes=dtypes,
            preprocessing=expected,
            calibration=samples.draw(split.train, samples.IMAGES, size, expected) if int8 else None,
            evaluation=evaluation,
            origin=origin,
            replace_other=True,
        )

    labelled = _evaluation(settings, split)
    if proxy_network.shares_weights(best.arch, proxy):
        return write(best.arch, trained, "export", deployed, labelled)
    initial = weights_of(fresh(lower(best.arch), settings.seed))
    untrained = replace(
        deployed,
        weights="initial ones, not trained: for timing and for trying the format; train it with "
        "ghostnas train before use",
        training=None,
    )
    judged = Origin(network=f"the proxy of {name}", weights=how, training=training, search=searched)
    return [
        *write(best.arch, initial, "export", untrained, None),
        *write(proxy, trained, "proxy", judged, labelled),
    ]


def _evaluation(settings: Settings, split: Split) -> Evaluation:
    """The test images; no command can name those of only some of the classes."""
    how = recipe.load(settings.final_recipe or settings.recipe)
    return Evaluation(
        source=split.test,
        classes=split.preprocessing.classes,
        description=f"test images of {settings.data}",
        data=settings.data if how.classes is None else "",
        limit=how.test_pictures,
    )


def _comparison(best: Candidate, other: Candidate) -> dict[str, Any]:
    """The winner against another network on test images, over trainings not used to choose."""
    assert best.reporting is not None
    assert other.reporting is not None
    ours, theirs = best.reporting.test, other.reporting.test
    p = stats.welch_p_value(ours, theirs)
    interval = stats.difference_interval(ours, theirs)
    return {
        "networks": [best.name, other.name],
        "difference": round(stats.summary(ours).mean - stats.summary(theirs).mean, 5),
        "interval": None if interval is None else [round(end, 5) for end in interval],
        "p_value": None if p is None else float(f"{p:.3g}"),
        "distinguished": None if p is None else p < SIGNIFICANT,
        "latency_difference_ms": round(best.latency.latency_ms - other.latency.latency_ms, 4),
    }
