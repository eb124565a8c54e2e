"""What ``ghostnas paper`` does: counts, trains and draws, and writes the results into a folder."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ghostnas.errors import InputError
from ghostnas.files import write_whole
from ghostnas.paper.subjects import Subject
from ghostnas.progress import Say
from ghostnas.training.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How many trainings are made, of what, where and on what; see `ghostnas.paper.trainings`."""

    data: str
    recipe: Recipe
    folder: Path
    seeds: int
    width: float = 1.0
    workers: int = 1
    device: str = "auto"
    threads: int | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictured:
    """Whose maps are looked at: a network, its weights (a file) and an image."""

    image: Path | None = None
    network: str | None = None
    weights: Path | None = None


def seeds(how: Training, network: str, body: str | None, say: Say) -> dict[str, Any]:
    """The study of the seed; see `ghostnas.api.paper_seeds`."""
    from ghostnas.paper import seeds as study
    from ghostnas.paper.trainings import Job

    subject = Subject(network=network, width=how.width)
    jobs = [Job(subject=subject, seed=seed, body=body) for seed in range(how.seeds)]
    records = list(_train(jobs, how, say).values())
    found = study.study(records)
    result = {
        **study.to_json(found),
        "data": records[0].data.partition(":")[0],
        "recipe": records[0].recipe,
        "body": bool(body),
        "hardware": sorted({each.hardware for each in records}),
        "seconds": sum(each.seconds for each in records),
    }
    _write_json(how.folder / "seeds.json", result)
    rows = [
        {"seed": each.seed, "epoch": epoch, "accuracy": f"{accuracy:.4f}"}
        for each in records
        for epoch, accuracy in enumerate(each.accuracies, 1)
    ]
    _write_csv(how.folder / "seeds.csv", rows)
    return {**result, "text": study.text(found), "out": str(how.folder)}


def _train(jobs: Any, how: Training, say: Say) -> Any:
    from ghostnas.paper import trainings

    pool = trainings.Pool(
        workers=how.workers, device=how.device, threads=how.threads, timeout_s=how.timeout_s
    )
    found = trainings.run(jobs, how.data, how.recipe, how.folder, pool, say)
    if not found:
        raise InputError(f"{how.folder}: no training was finished in the given time")
    return found


def _write_json(path: Path, document: Any) -> None:
    write_whole(path, json.dumps(document, indent=1).encode())


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


def table(
    name: str, how: Training | None, pictured: Pictured, out: Path | None, say: Say
) -> dict[str, Any]:
    """One table; see `ghostnas.api.paper_table`."""
    from ghostnas.paper import comparisons

    result: dict[str, Any] = {"table": name}
    if how is not None:
        found = _train(comparisons.jobs(name, how.seeds, how.width), how, say)
        by_row = comparisons.accuracies(name, found, how.width)
        result["trained"] = comparisons.to_json(by_row, list(found.values()))
        result["trained"]["width"] = how.width
        result["text"] = comparisons.text(result["trained"])
    if out is not None:
        _write_json(out / f"{name}.json", result)
    return result
