"""A search's report.html, the answer first: written at the end of a search, and from its folder at
any time, while it runs or after it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ghostnas import stats
from ghostnas.errors import InputError
from ghostnas.files import read_text, write_whole
from ghostnas.latency import report as latency_report
from ghostnas.latency import table as latency_table
from ghostnas.nas import (
    baseline,
    history,
    report_again,
    report_choices,
    report_figures,
    report_networks,
)
from ghostnas.nas.history import History
from ghostnas.nas.report import roles
from ghostnas.nas.report_figures import TEMPLATES, Scores
from ghostnas.networks.arch import Arch, from_json
from ghostnas.pages.page import Figure, render, shell
from ghostnas.progress import duration

FILE = "report.html"
FEWEST_FOR_INTERVAL = 3  # seeds; of two, Student's interval is 13 standard errors wide


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A row of the answer's table: the winner, plain GhostNet, and the difference, as text."""

    name: str
    best: str
    plain: str
    difference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """What to do next: in words, and the command."""

    what: str
    command: str


def write(folder: Path) -> Path:
    """Write the report of the search in a folder; returns its path.

    Raises:
        InputError: the folder holds no search, or what the report needs is missing or damaged.
    """
    path = folder / FILE
    write_whole(path, page(history.read(folder)).encode())
    return path


def page(found: History) -> str:
    """The report of a search, finished or not."""
    result = found.result
    best = found.best
    number = best.number if best else None
    winner = best.arch if best else None
    plain: Arch | None = None
    if result is not None:
        number = next((e.number for e in found.trials if e.id == result["best"]["id"]), None)
        winner = from_json(json.loads(read_text(found.folder / "best.json")))
        wanted = (result["baseline"] or {}).get("id")
        plain = _plain(winner, wanted) if wanted else None
    elif winner is not None:
        largest = _largest(found, winner)
        plain = largest[1] if largest else None
    names = _names(result)
    figures = _figures(found, number, winner, plain, names)
    target = found.settings.target
    differs = winner is not None and plain is not None and winner.id != plain.id
    values = {
        "title": f"Search for {target} under {', '.join(found.settings.budgets)}",
        "description": f"A ghostnas search: {len(found.trials)} trials on {found.settings.data}.",
        "settings": found.settings,
        "state": _state(found),
        "answer": None if result is None else _answer(found, result),
        "best_so_far": best,
        "scores": Scores(found.settings.scorer),
        "facts": _facts(found, result) if result else (),
        "roles": roles(result) if result and "deployment" in result else "",
        "next": _next(found),
        "duration": duration(found.seconds or (result or {}).get("seconds", 0.0)),
        "counts": _counts(found),
        "stages": report_networks.stages(target, winner, plain if differs else None)
        if winner
        else (),
        "names": (
            _name(found, number, result),
            names.get(plain.id, "plain GhostNet") if plain and differs else "",
        ),
        "trials": report_figures.trial_rows(found, number),
        "seconds": {each.number: each.seconds for each in found.trials},
        "errors": {each.number: each.error for each in found.trials},
        "command": report_again.command(found),
        "reproduce": report_again.settings(found),
        "versions": found.versions,
        "origin": latency_report.origin(latency_table.load(target)),
        "files": report_again.hashes(found),
        "exported": (result or {}).get("exported", ()),
        "measured": _measured(found.folder),
        "known_by": found.known_by,
    }
    return render(TEMPLATES, "report.html.j2", values, figures=figures)


def _figures(
    found: History,
    number: int | None,
    winner: Arch | None,
    plain: Arch | None,
    names: Mapping[str, str],
) -> list[Figure]:
    if not found.scored:
        return []
    figures: list[Figure | None] = [
        report_figures.front(found, number, "latency_ms", plain),
        report_figures.front(found, number, "macs", plain),
        report_figures.progress(found, number),
        report_choices.importance(found),
        report_choices.parallel(found, number),
        report_figures.seeds(found, names),
    ]
    if winner is not None:
        shown = [(_name(found, number, found.result), winner)]
        if plain is not None and plain.id != winner.id:
            shown.append((names.get(plain.id, "plain GhostNet"), plain))
        figures.append(report_figures.where(found.settings.target, shown))
    rows = [_agreement_row(each) for each in _measured(found.folder) if "predicted_ms" in each]
    if rows:
        figures.append(latency_report.agreement(rows, "files"))
    return [each for each in figures if each is not None]


def _agreement_row(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": f"{measured['file']} on {measured['core']}",
        "predicted": measured["predicted_ms"],
        "measured": measured["median_ms"],
        "low": measured["p10_ms"],
        "high": measured["p90_ms"],
    }


def _name(found: History, number: int | None, result: Mapping[str, Any] | None) -> str:
    return result["best"]["name"] if result else f"trial {number}"


def _names(result: Mapping[str, Any] | None) -> dict[str, str]:
    """The finalists' names by id, the winner first."""
    if result is None:
        return {}
    held = [result["best"], *([result["baseline"]] if result["baseline"] else [])]
    return {each["id"]: each["name"] for each in [*held, *result["others"]]}


def _plain(like: Arch, id: str) -> Arch | None:
    """The baseline that a result names: GhostNet at the width that has this id."""
    for width in baseline.WIDTHS:
        for dropped in (bool(like.dropped_strides), not like.dropped_strides):
            arch = baseline.plain(width, like.resolution, like.classes, drop_strides=dropped)
            if arch.id == id:
                return arch
    return None


def _largest(found: History, like: Arch) -> tuple[str, Arch] | None:
    dropped = bool(like.dropped_strides)
    return baseline.largest(found.constraints, like.resolution, like.classes, drop_strides=dropped)


def _state(found: History) -> str:
    """What a reader must know of a search that has not ended; empty for one that has."""
    if found.result is not None:
        return ""
    done = len(found.scored)
    return (
        f"This search has not ended: {done} of {found.settings.trials} trials have a score, and "
        "no finalist was chosen yet. What is best so far is flattered by being the best of many."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The report's first lines: headline with its error bar, and how the winner compares."""

    name: str
    accuracy: str
    error: str
    latency: str
    rest: str
    compared: str
    doubts: str


def _answer(found: History, result: Mapping[str, Any]) -> Answer:
    best, plain = result["best"], result["baseline"]
    error, words = _error(found, best)
    return Answer(
        name=best["name"][:1].upper() + best["name"][1:],
        accuracy=f"{100 * best['accuracy']:.1f} %",
        error=error,
        latency=f"{best['latency_ms']:.2f} ms",
        rest=f"on {result['target']} ({best['latency_low_ms']:.2f} to "
        f"{best['latency_high_ms']:.2f} ms)",
        compared=_compared(result, best, plain),
        doubts=f"Accuracy is that of the proxy on test images after the search's short training: "
        f"{words}. Latency is predicted for the deployment, with its range.",
    )


def _error(found: History, network: Mapping[str, Any]) -> tuple[str, str]:
    """The error bar of a network's accuracy in points, and what it is."""
    count, std = network["seeds"], network["accuracy_std"]
    if std is None:
        return "", "one seed, whose error is not known"
    if count >= FEWEST_FOR_INTERVAL:
        ends = stats.mean_interval(stats.Summary(mean=0.0, std=std, min=0.0, max=0.0, count=count))
        assert ends is not None
        return f"± {100 * ends[1]:.1f}", (
            f"the mean of {count} seeds that chose nothing, with its 95 % interval"
        )
    return f"± {100 * std:.1f}", (
        f"the mean of {count} seeds that chose nothing, with the standard deviation of one"
    )


def _compared(
    result: Mapping[str, Any], best: Mapping[str, Any], plain: Mapping[str, Any] | None
) -> str:
    if plain is None:
        return "No plain GhostNet meets the budgets, so there is nothing to hold it against."
    if best["id"] == plain["id"]:
        return "Nothing better was found than plain GhostNet at these budgets, so it is the winner."
    compared = result.get("comparison")
    faster = plain["latency_ms"] - best["latency_ms"]
    speed = f"{abs(faster):.2f} ms {'faster' if faster >= 0 else 'slower'}"
    against = f"Against plain {plain['name']}, the largest within the same budgets, it is {speed}"
    if compared is None or compared["p_value"] is None:
        return f"{against}; there are too few seeds to tell whose accuracy is higher."
    points = 100 * compared["difference"]
    ends = compared.get("interval")
    between = f" (95 % interval {_signed(ends[0])} to {_signed(ends[1])})" if ends else ""
    more = "more" if points >= 0 else "less"
    warning = "It is slower and less accurate than plain GhostNet. " if faster < 0 > points else ""
    told = (
        f"which seeds alone rarely make (Welch's t-test, p = {compared['p_value']:.2g})."
        if compared["distinguished"]
        else f"which the seeds alone may make (Welch's t-test, p = {compared['p_value']:.2g})."
    )
    return f"{warning}{against} and {abs(points):.1f} points {more} accurate{between}, {told}"


def _signed(share: float, digits: int = 1) -> str:
    """A share in percent with its sign, a minus as typeset."""
    return f"{100 * share:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _facts(found: History, result: Mapping[str, Any]) -> list[Fact]:
    best, plain = result["best"], result["baseline"]
    if plain is not None and plain["id"] == best["id"]:
        plain = None

    def accuracy(network: Mapping[str, Any]) -> str:
        return f"{100 * network['accuracy']:.1f} {_error(found, network)[0]}".strip()

    rows = [
        Fact(
            name="test accuracy, %",
            best=accuracy(best),
            plain=accuracy(plain) if plain else "",
            difference=_signed(best["accuracy"] - plain["accuracy"]) if plain else "",
        )
    ]
    for name, key, factor, digits in (
        ("predicted latency, ms", "latency_ms", 1.0, 2),
        ("MFLOPs", "macs", 1e-6, 1),
        ("parameters, M", "params", 1e-6, 2),
        ("model file, MB", "model_bytes", 1e-6, 2),
        ("peak of the maps, MB", "peak_activation_bytes", 1e-6, 2),
    ):
        if key not in best:
            continue
        ours, theirs = factor * best[key], factor * plain[key] if plain else None
        rows.append(
            Fact(
                name=name,
                best=f"{ours:.{digits}f}",
                plain="" if theirs is None else f"{theirs:.{digits}f}",
                difference="" if theirs is None else f"{_signed(ours / theirs - 1, 0)} %",
            )
        )
    ids = (best["id"], plain["id"] if plain else "")
    return [*rows, Fact(name="id", best=ids[0], plain=ids[1], difference="")]


def _counts(found: History) -> str:
    by_state: dict[str, int] = {}
    for each in found.trials:
        by_state[each.state] = by_state.get(each.state, 0) + 1
    words = {
        history.DONE: "finished",
        history.STOPPED: "stopped early",
        history.FAILED: "failed",
        history.REPEATED: "repeated another process's",
        history.RUNNING: "running",
    }
    return ", ".join(
        f"{by_state[state]} {said}" for state, said in words.items() if state in by_state
    )


def _next(found: History) -> list[Next]:
    """Commands to copy, those that make sense of this search."""
    run, settings = str(found.folder), found.settings
    resume = ["ghostnas", "search", "--resume", "--out", run]
    if found.result is None:
        return [
            Next(what="Resume the search", command=shell(resume)),
            Next(what="Write this report anew", command=shell(["ghostnas", "report", run])),
        ]
    full = f"{run}/full"
    return [
        Next(
            what="Train the winner in full, before it is shipped",
            command=shell(["ghostnas", "train", run, "--data", settings.data, "--out", full]),
        ),
        Next(
            what="Export what was trained, checked against PyTorch",
            command=shell(
                ["ghostnas", "export", full, "--format", "onnx,tflite", "--out", f"{run}/files"]
            ),
        ),
        Next(
            what="Another budget or target, without training",
            command=shell(
                [
                    "ghostnas",
                    "pick",
                    run,
                    "--budget",
                    settings.budgets[0],
                    "--out",
                    f"{run}/pick.json",
                ]
            ),
        ),
        Next(
            what="Search on, with more trials",
            command=shell([*resume, "--trials", str(2 * settings.trials)]),
        ),
    ]


def _measured(folder: Path) -> list[dict[str, Any]]:
    """What ``ghostnas export --measure`` timed of files below the run folder."""
    found = []
    for path in sorted(folder.glob("*/latency.json")):
        try:
            rows = json.loads(read_text(path))
            found += [dict(each) for each in rows if "median_ms" in each]
        except (InputError, ValueError, TypeError):
            continue
    return found
