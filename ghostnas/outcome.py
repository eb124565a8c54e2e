"""What a search leaves: the table of its trials, and the winner chosen, exported and written down;
trains nothing.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ghostnas import export, latency, recipe, report, seeds, weights
from ghostnas.arch import Arch, to_json
from ghostnas.evaluate import Evaluation
from ghostnas.files import write_whole
from ghostnas.judge import Judge, Judged
from ghostnas.model_card import Latency, Origin
from ghostnas.settings import Settings
from ghostnas.splits import Split
from ghostnas.study import ScoredArch

SIGNIFICANT = 0.05  # p-value below which two networks are told apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a search came to: finalists and baseline judged, and a row a trial.

    `infeasible` counts trials over budget, `skipped` pictures that could not be read.
    """

    judged: tuple[Judged, ...]
    trials: tuple[Mapping[str, Any], ...]
    infeasible: int
    skipped: int
    seconds: float


def weights_path(folder: Path, arch: Arch, seed: int) -> Path:
    """Where a run folder keeps the weights of a finalist that was trained from a seed."""
    return folder / "weights" / f"{arch.id}-{seed}.safetensors"


def trial_rows(done: Sequence[ScoredArch], judge: Judge) -> list[dict[str, Any]]:
    """A row a trial: its score and its costs."""
    rows = []
    for each in done:
        counted, predicted = judge.cost_of(each.arch)
        rows.append(
            {
                "trial": each.trial + 1,
                "id": each.arch.id,
                "score": each.score,
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


def write_trials(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """trials.csv, and in pareto.csv those that no other one beats at once in score and cost."""
    import pandas as pd

    pareto = [
        row
        for row in rows
        if not any(
            other["score"] >= row["score"]
            and other["latency_ms"] <= row["latency_ms"]
            and other["macs"] <= row["macs"]
            and other != row
            for other in rows
        )
    ]
    for name, table in (("trials.csv", rows), ("pareto.csv", pareto)):
        write_whole(folder / name, pd.DataFrame(table).to_csv(index=False).encode())


def conclude(settings: Settings, split: Split, folder: Path, found: Outcome) -> dict[str, Any]:
    """Choose the winner on the validation pictures, export it and write the result, which is
    returned as ``result.json`` holds it.
    """
    candidates = [each for each in found.judged if each.name.startswith("trial")]
    baselines = [each for each in found.judged if each not in candidates]
    best = max(candidates, key=lambda each: statistics.fmean(each.validation))
    best_seed = settings.seed + 1 + best.validation.index(max(best.validation))
    exported = export.export(
        best.arch,
        weights.load(weights_path(folder, best.arch, best_seed)),
        list(export.FORMATS),
        folder / "export",
        preprocessing=split.preprocessing,
        evaluation=_evaluation(settings, split),
        origin=_origin(settings, split, best),
        replace_other=True,
    )
    write_whole(folder / "best.json", json.dumps(to_json(best.arch), indent=1).encode())
    result = {
        "run": str(folder),
        "best": best.to_json(),
        "baseline": baselines[0].to_json() if baselines else None,
        "others": [each.to_json() for each in candidates if each is not best],
        "told_apart": _comparisons(best, [each for each in found.judged if each is not best]),
        "trials": len(found.trials),
        "scorer": settings.scorer,
        "infeasible_trained": found.infeasible,
        "skipped": found.skipped,
        "seconds": round(found.seconds, 1),
        "data": settings.data,
        "target": settings.target,
        "budgets": list(settings.budgets),
        "exported": [each.to_json() for each in exported],
    }
    write_whole(folder / "result.json", json.dumps(result, indent=1).encode())
    write_whole(folder / "report.html", report.page(result, found.trials).encode())
    return result


def _evaluation(settings: Settings, split: Split) -> Evaluation:
    """The test images; no command names those of a part of the classes."""
    how = recipe.load(settings.recipe)
    return Evaluation(
        source=split.test,
        classes=split.preprocessing.classes,
        description=f"test images of {settings.data}",
        data=settings.data if how.classes is None else "",
        limit=how.test_pictures,
    )


def _origin(settings: Settings, split: Split, best: Judged) -> Origin:
    """What the exported files say of themselves."""
    return Origin(
        network=f"{best.name} of a search under {', '.join(settings.budgets)}",
        weights=f"a short training on {settings.data} at {split.resolution} px, recipe "
        f"{settings.recipe}: train it in full before it is shipped",
        latencies=(
            Latency(
                target=settings.target,
                latency_ms=best.latency.latency_ms,
                low_ms=best.latency.low_ms,
                high_ms=best.latency.high_ms,
                dtype=latency.load(settings.target).origin.dtype,
            ),
        ),
    )


def _comparisons(best: Judged, others: Sequence[Judged]) -> list[dict[str, Any]]:
    """Whether the seeds tell the winner from each other network, on test pictures."""
    found = []
    for other in others:
        p = seeds.told_apart(best.test, other.test)
        found.append(
            {
                "networks": [best.name, other.name],
                "p_value": None if p is None else float(f"{p:.3g}"),
                "told_apart": None if p is None else p < SIGNIFICANT,
            }
        )
    return found
