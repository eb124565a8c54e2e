"""The figures of a search's report: each a Vega-Lite template, its rows, and a table of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ghostnas.errors import GhostnasError
from ghostnas.latency import summary
from ghostnas.nas import history, pareto
from ghostnas.nas.evaluators import TRAIN
from ghostnas.nas.history import DONE, FAILED, RUNNING, STOPPED, History, Training, Trial
from ghostnas.networks import zoo
from ghostnas.networks.arch import Arch, fit_to
from ghostnas.pages.page import Figure, Key, Row, Table, specification
from ghostnas.stats import Summary, mean_interval
from ghostnas.stats import summary as summarise
from ghostnas.training import recipe

TEMPLATES = Path(__file__).parent / "templates"
NORMAL_95 = 1.96
KNOWN_WIDTHS = tuple(width / 20 for width in range(2, 31))
KNOWN = {"ghostnet": "GhostNet", "mobilenetv3-large": "MobileNetV3"}
KNOWN_APART = 0.11  # of an axis: closer labels would run into each other
KINDS = 6  # of op that get a colour of their own
MANY = 120  # trials: their dots and lines are drawn smaller and thinner
# What a quantity is multiplied by to be shown, and in what.
UNITS = {"latency_ms": (1.0, "ms"), "macs": (1e-6, "MFLOPs")}
STATES = {
    DONE: "trained",
    STOPPED: "stopped early",
    FAILED: "failed",
    history.REPEATED: "another process had it",
    RUNNING: "running",
}


class Scores:
    """How a search's scores are written: accuracies in percent, other scorers' as they are."""

    def __init__(self, scorer: str) -> None:
        self.accuracy = scorer == TRAIN
        self.factor = 100.0 if self.accuracy else 1.0
        self.name = "validation accuracy" if self.accuracy else scorer
        self.axis = f"{self.name}, %" if self.accuracy else self.name

    def value(self, score: float) -> float:
        return float(f"{self.factor * score:.7g}")

    def text(self, score: float | None) -> str:
        if score is None:
            return ""
        return f"{100 * score:.1f} %" if self.accuracy else f"{score:.4g}"


def trial_rows(found: History, best: int | None) -> list[dict[str, Any]]:
    """The trials in the order in which they ended, as the figures and the table have them."""
    scores = Scores(found.settings.scorer)
    return [_row(each, n, scores, best) for n, each in enumerate(found.trials, 1)]


def _row(trial: Trial, n: int, scores: Scores, best: int | None) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "n": n,
        "state": STATES[trial.state] + (", over budget" if trial.share > 1 else ""),
        "score": None if trial.score is None else scores.value(trial.score),
        "latency_ms": round(trial.latency.latency_ms, 4),
        "macs": round(trial.cost.macs / 1e6, 4),
        "params": round(trial.cost.params / 1e6, 4),
        "solid": trial.state == DONE and trial.share <= 1,
        "best": trial.number == best,
        "id": trial.id,
    }


def front(found: History, best: int | None, quantity: str, plain: Arch | None) -> Figure:
    """Score against latency or FLOPs, with the budgets and known networks.

    Args:
        quantity: ``latency_ms`` or ``macs``.
        plain: the baseline, drawn at its validation accuracy where that was trained as the trials.
    """
    scores = Scores(found.settings.scorer)
    factor, unit = UNITS[quantity]
    trials = [each for each in found.trials if each.score is not None]
    rows = [
        {
            "trial": each.number,
            "score": each.score or 0.0,
            "latency_ms": each.latency.latency_ms,
            "macs": each.cost.macs,
        }
        for each in trials
        if each.share <= 1 and each.state == DONE
    ]
    cost_name = {column: name for name, column in pareto.COSTS.items()}[quantity]
    along = pareto.front(rows, (cost_name,))
    limits = [b.limit for b in found.constraints.budgets if b.quantity == quantity]
    values = [_amount(each, quantity) for each in found.trials]
    known = _known(found, quantity, [*values, *limits]) if found.trials else []
    held = _baseline_row(found, plain, scores)
    known = [each for each in known if held is None or each["text"] != held["text"]]
    spec = specification(
        TEMPLATES,
        "front",
        {
            "quantity": quantity,
            "axis": f"predicted latency on {found.settings.target}, ms"
            if quantity == "latency_ms"
            else "MFLOPs (multiply-accumulates)",
            "unit": unit,
            "scores": scores,
            "front": [
                {"x": row[quantity] * factor, "score": scores.value(row["score"])} for row in along
            ],
            "budgets": [
                {"limit": b.limit * factor, "text": b.text}
                for b in found.constraints.budgets
                if b.quantity == quantity and b.target in (None, found.settings.target)
            ],
            "known": known,
            "baseline": held,
            "unscored": len(trials) < len(found.trials),
            "many": len(trials) > MANY,
        },
    )
    name = "latency" if quantity == "latency_ms" else "FLOPs"
    budget = ", ".join(b.text for b in found.constraints.budgets if b.quantity == quantity)
    return Figure(
        name=f"front-{quantity.replace('_', '-')}",
        title=f"{scores.name.capitalize()} against {name}",
        caption=(
            "A dot is a trial; the line is the front, the best score within each cost. "
            + (
                "Known networks are ticks, placed by their cost alone: none was trained here. "
                if known
                else ""
            )
            + (held["caption"] if held else "")
            if quantity == "latency_ms"
            else "The same trials. Drag in either figure to mark trials in all; the buttons, or "
            "the wheel with Ctrl, zoom."
        ),
        alt=(
            f"Scatter plot of {len(trials)} trials, {scores.name} against {name}. The front has "
            f"{len(along)} trials"
            + (f", from {_span(along, quantity, factor, unit, scores)}" if along else "")
            + (f"; the budget is {budget}." if budget else ".")
        ),
        spec=spec,
        datasets={"trials": trial_rows(found, best)},
        source="trials",
        link="trial",
        zoom=True,
        legend=(
            Key(mark="dot", colour="--trial", text="trial"),
            Key(mark="ring", colour="--trial", text="stopped, failed or over budget"),
            *winner_key("dot", found, best),
            *((Key(mark="diamond", colour="--baseline", text="plain GhostNet"),) if held else ()),
            *((Key(mark="dash", colour="--muted", text="budget"),) if limits else ()),
            *((Key(mark="tick", colour="--other", text="known network"),) if known else ()),
        ),
        table=Table(
            header=("on the front", unit, scores.axis),
            rows=(
                *(
                    (
                        f"trial {row['trial']}",
                        f"{factor * row[quantity]:.2f}",
                        scores.text(row["score"]),
                    )
                    for row in along
                ),
                *((each["text"], f"{each['x']:.2f}", "not trained") for each in known),
            ),
        ),
    )


def winner_key(mark: str, found: History, best: int | None) -> tuple[Key, ...]:
    """The legend's entry for the winner; none if that is plain GhostNet, which is no trial."""
    if best is None:
        return ()
    return (Key(mark=mark, colour="--winner", text="winner" if found.result else "best so far"),)


def _amount(trial: Trial, quantity: str) -> float:
    return trial.latency.latency_ms if quantity == "latency_ms" else float(trial.cost.macs)


def _span(along: Sequence[Row], quantity: str, factor: float, unit: str, scores: Scores) -> str:
    ends = [
        f"{scores.text(row['score'])} at {factor * row[quantity]:.2f} {unit}"
        for row in (along[0], along[-1])
    ]
    return " to ".join(ends)


def _baseline_row(found: History, plain: Arch | None, scores: Scores) -> dict[str, Any] | None:
    """Plain GhostNet's validation accuracy over all its seeds, where it is comparable."""
    settings = found.settings
    if plain is None or settings.final_recipe not in ("", settings.recipe) or not scores.accuracy:
        return None
    trained = [each.validation for each in found.trainings if each.id == plain.id]
    if not trained:
        return None
    counted, predicted = found.constraints.cost_of(plain)
    about = summarise(trained)
    name = (found.result or {}).get("baseline") or {}
    seeds = f"{about.count} seed{'s' * (about.count > 1)}"
    return {
        "text": name.get("name", "plain GhostNet"),
        "latency_ms": predicted.latency_ms,
        "macs": counted.macs / 1e6,
        "score": scores.value(about.mean),
        "low": scores.value(about.min),
        "high": scores.value(about.max),
        "seeds": seeds,
        "caption": f"The diamond is plain GhostNet, trained as a trial is, over {seeds}: its mean "
        "and range.",
    }


def _known(found: History, quantity: str, values: Sequence[float]) -> list[dict[str, Any]]:
    """Named networks whose cost lies within the figure, those too close to another left out."""
    factor = UNITS[quantity][0]
    low, high = min(values), max(values)
    room = 0.06 * (high - low or high)
    like = found.trials[0].arch
    placed: list[dict[str, Any]] = []
    for zoo_name, shown in KNOWN.items():
        for width in KNOWN_WIDTHS:
            arch = zoo.named(zoo_name, width, like.resolution, like.classes)
            if like.dropped_strides:
                arch = fit_to(arch, resolution=like.resolution, classes=like.classes)
            counted, predicted = found.constraints.cost_of(arch)
            x = predicted.latency_ms if quantity == "latency_ms" else float(counted.macs)
            if low - room <= x <= high + room:
                placed.append({"x": round(factor * x, 4), "text": f"{shown} {width:g}x"})
    placed.sort(key=lambda each: each["x"])
    apart = KNOWN_APART * factor * (high - low + 2 * room)
    kept: list[dict[str, Any]] = []
    for each in placed:
        if not kept or each["x"] - kept[-1]["x"] >= apart:
            kept.append(each)
    return kept


def progress(found: History, best: int | None) -> Figure:
    """Scores in the order in which the trials ended, the best so far, and random search's curve."""
    scores = Scores(found.settings.scorer)
    done = [
        (n, each)
        for n, each in enumerate(found.trials, 1)
        if each.state == DONE and each.share <= 1
    ]
    noise, noise_from = _noise(found) if scores.accuracy else (None, "")
    so_far: list[dict[str, Any]] = []
    highest = -math.inf
    for n, each in done:
        highest = max(highest, each.score or 0.0)
        row = {"n": n, "best": scores.value(highest), "trial": each.number}
        if noise is not None:
            row |= {
                "low": scores.value(highest - NORMAL_95 * noise),
                "high": scores.value(highest + NORMAL_95 * noise),
            }
        so_far.append(row)
    expected = history.expected_best([each.score or 0.0 for _, each in done])
    for row, value in zip(so_far, expected, strict=True):
        row["random"] = scores.value(value)
    random = found.settings.sampler == "random"
    whose = (
        "The dashed line is the best that random search is expected to have after as many trials: "
        "of all orders of these scores, "
        + (
            "which were drawn evenly."
            if random
            else "which a sampler chose and are better than evenly drawn ones, so random search "
            "itself lies lower."
        )
    )
    band = f" The band is {noise_from}." if noise is not None else ""
    spec = specification(
        TEMPLATES,
        "progress",
        {
            "scores": scores,
            "so_far": so_far,
            "band": noise is not None,
            "many": len(found.trials) > MANY,
        },
    )
    last = so_far[-1] if so_far else None
    return Figure(
        name="progress",
        title="The search over time",
        caption=f"Trials in the order in which they ended, and the best so far.{band} {whose}",
        alt=f"{len(so_far)} finished trials in order"
        + (
            f"; the best so far ends at {last['best']:.4g}, random search's expected best without "
            f"the sampler's order at {last['random']:.4g}."
            if last
            else "."
        ),
        spec=spec,
        datasets={"trials": trial_rows(found, best)},
        source="trials",
        link="trial",
        zoom=True,
        wide=True,
        legend=(
            Key(mark="dot", colour="--trial", text="trial"),
            Key(mark="ring", colour="--trial", text="stopped, failed or over budget"),
            Key(mark="line", colour="--winner", text="best so far"),
            *((Key(mark="band", colour="--winner", text="its 95 % interval"),) if noise else ()),
            Key(mark="dash", colour="--muted", text="random search, expected"),
        ),
        table=Table(
            header=("ended", "trial", "best so far", "random, expected"),
            rows=tuple(
                (str(row["n"]), str(row["trial"]), f"{row['best']:.4g}", f"{row['random']:.4g}")
                for row in so_far
            ),
        ),
    )


def _noise(found: History) -> tuple[float | None, str]:
    """The standard deviation of a score of one training, and what it is from."""
    settings = found.settings
    if settings.final_recipe in ("", settings.recipe):
        by_id: dict[str, list[float]] = {}
        for each in found.trainings:
            by_id.setdefault(each.id, []).append(each.validation)
        several = [summarise(values) for values in by_id.values() if len(values) > 1]
        freedom = sum(each.count - 1 for each in several)
        if freedom:
            squares = sum((each.count - 1) * (each.std or 0.0) ** 2 for each in several)
            return math.sqrt(squares / freedom), (
                f"its 95 % interval by the spread that seeds alone make ({freedom} degrees of "
                "freedom, of the finalists' trainings)"
            )
    best = found.best
    try:
        images = recipe.load(settings.recipe).validation_pictures
    except GhostnasError:
        return None, ""
    if best is None or not images or best.score is None:
        return None, ""
    return math.sqrt(best.score * (1 - best.score) / images), (
        f"its 95 % interval by the sampling of {images} validation images alone; how much seeds "
        "add is not known"
    )


def seeds(found: History, names: Mapping[str, str]) -> Figure | None:
    """Each training of the finalists as a point; None where none is recorded.

    Args:
        names: of the networks by id, in the order of the rows.
    """
    trained = [each for each in found.trainings if each.id in names]
    if not trained:
        return None
    rows: list[dict[str, Any]] = [
        {
            "network": names[each.id],
            "seed": each.seed,
            "test": round(100 * each.test, 3),
            "validation": round(100 * each.validation, 3),
            "role": "reports" if each.reports else "chose",
        }
        for each in sorted(trained, key=lambda each: list(names).index(each.id))
    ]
    means = [
        _mean_row(name, [e for e in trained if e.id == id])
        for id, name in names.items()
        if any(each.id == id for each in trained)
    ]
    return Figure(
        name="seeds",
        title="Every seed, not only the mean",
        caption="Accuracy on test images of each training of each finalist. The seeds that chose "
        "the winner flatter it; the fresh ones report. The bar is the mean's 95 % interval by "
        "Student's t, over fresh seeds where there are any. From two seeds it is wide, and cut at "
        "the figure's edge.",
        alt="Points of test accuracy by network and seed. Means: "
        + "; ".join(f"{each['network']} {each['mean']:.1f} %" for each in means)
        + ".",
        spec=specification(
            TEMPLATES,
            "seeds",
            {
                "rows": rows,
                "means": means,
                "networks": [each["network"] for each in means],
                "ends": _ends([each["test"] for each in rows]),
            },
        ),
        legend=(
            Key(mark="dot", colour="--trial", text="fresh seed, reports"),
            Key(mark="ring", colour="--trial", text="seed that chose"),
            Key(mark="tick", colour="--ink", text="mean"),
            Key(mark="band", colour="--ink", text="its 95 % interval"),
        ),
        table=Table(
            header=("network", "seed", "role", "validation, %", "test, %"),
            rows=tuple(
                (
                    row["network"],
                    str(row["seed"]),
                    row["role"],
                    f"{row['validation']:.2f}",
                    f"{row['test']:.2f}",
                )
                for row in rows
            ),
            words=frozenset({0, 2}),
        ),
    )


def _ends(values: Sequence[float]) -> list[float]:
    room = 0.5 * (max(values) - min(values)) or 1.0
    return [round(max(0.0, min(values) - room), 2), round(min(100.0, max(values) + room), 2)]


def _mean_row(name: str, trained: Sequence[Training]) -> dict[str, Any]:
    counted = [each.test for each in trained if each.reports] or [each.test for each in trained]
    about: Summary = summarise(counted)
    row: dict[str, Any] = {"network": name, "mean": round(100 * about.mean, 3)}
    if ends := mean_interval(about):
        row |= {"low": 100 * ends[0], "high": 100 * ends[1]}
    return row


def where(target: str, networks: Sequence[tuple[str, Arch]]) -> Figure:
    """Where the milliseconds go, by stage and kind of op, of networks beside each other."""
    rows: list[dict[str, Any]] = []
    for name, arch in networks:
        rows += [{"network": name, **row} for row in summary.where(arch, target)]
    totals: dict[str, float] = {}
    for row in rows:
        totals[row["kind"]] = totals.get(row["kind"], 0.0) + row["latency_ms"]
    kinds = sorted(totals, key=lambda kind: -totals[kind])
    named = kinds[:KINDS]
    drawn: dict[tuple[str, str, str], dict[str, Any]] = {}
    ranges: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        kind = row["kind"] if row["kind"] in named else "other"
        part = drawn.setdefault(
            (row["network"], row["stage"], kind),
            {
                "network": row["network"],
                "stage": row["stage"],
                "kind": kind,
                "ms": 0.0,
                "ops": 0,
                "order": [*named, "other"].index(kind),
            },
        )
        part["ms"] += row["latency_ms"]
        part["ops"] += row["ops"]
        whole = ranges.setdefault(
            (row["network"], row["stage"]),
            {"network": row["network"], "stage": row["stage"], "ms": 0.0, "low": 0.0, "high": 0.0},
        )
        whole["ms"] += row["latency_ms"]
        whole["low"] += row["low_ms"]
        whole["high"] += row["high_ms"]
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    stages.sort(key=lambda stage: (stage == "head", stage != "stem", stage))
    legend = [*named, *(["other"] if len(kinds) > len(named) else [])]
    slowest = max(
        (each for each in ranges.values() if each["network"] == networks[0][0]),
        key=lambda each: float(each["ms"]),
    )
    return Figure(
        name="where",
        title="Where the milliseconds go",
        caption=f"Predicted for {target}, by stage and kind of op"
        + (
            f"; the upper bar of each pair is {networks[0][0]}, the lower {networks[1][0]}"
            if len(networks) > 1
            else ""
        )
        + ". A whisker is the range of its stage if the table errs on all its ops to one side; "
        "ops of different kinds rarely do.",
        alt=f"Stacked bars by stage. {networks[0][0]} spends most in {slowest['stage']}: "
        f"{slowest['ms']:.2f} ms.",
        spec=specification(
            TEMPLATES,
            "where",
            {
                "rows": [{**each, "ms": round(each["ms"], 5)} for each in drawn.values()],
                "ranges": list(ranges.values()),
                "stages": stages,
                "networks": [name for name, _ in networks],
                "kinds": legend,
                "colours": [f"var(--k{at})" for at in range(1, len(named) + 1)]
                + ["var(--k7)"] * (len(legend) - len(named)),
            },
        ),
        wide=True,
        legend=tuple(
            Key(mark="bar", colour=f"--k{7 if kind == 'other' else at}", text=kind)
            for at, kind in enumerate(legend, 1)
        ),
        table=Table(
            header=("network", "stage", "kind of op", "ops", "ms", "low", "high"),
            rows=tuple(
                (
                    row["network"],
                    row["stage"],
                    row["kind"],
                    str(row["ops"]),
                    f"{row['latency_ms']:.3f}",
                    f"{row['low_ms']:.3f}",
                    f"{row['high_ms']:.3f}",
                )
                for row in rows
            ),
            words=frozenset({0, 1, 2}),
        ),
    )
