"""The figures of a search's report about its choices: which mattered, and what each trial chose."""

from __future__ import annotations

import math
from typing import Any

from ghostnas.nas.history import DONE, History, Trial
from ghostnas.nas.report_figures import MANY, TEMPLATES, Scores, winner_key
from ghostnas.pages.page import Figure, Key, Table, specification

AXES = 9  # of the parallel coordinates, and the score
JITTER = 0.05  # of an axis, between lines on one value


def importance(found: History) -> Figure | None:
    """What each choice explains of the scores; None where too few trials say."""
    shares = {name: share for name, share in found.importances.items() if share > 0}
    if not shares:
        return None
    shown = list(shares.items())[:AXES]
    rows: list[dict[str, Any]] = [
        {"choice": name, "share": round(100 * share, 2)} for name, share in shown
    ]
    count = sum(each.state == DONE for each in found.trials)
    return Figure(
        name="importance",
        title="Which choices mattered",
        caption=f"The share of the scores' spread that each choice explains, by PED-ANOVA over "
        f"{count} trials. With few trials it is a hint: choices that a sampler moved together "
        "cannot be told apart.",
        alt=f"Bars of importance; the largest is {shown[0][0]} at {100 * shown[0][1]:.0f} %.",
        spec=specification(TEMPLATES, "importance", {"rows": rows}),
        table=Table(
            header=("choice", "share of the spread, %"),
            rows=tuple((each["choice"], f"{each['share']:.1f}") for each in rows),
        ),
    )


def parallel(found: History, best: int | None) -> Figure | None:
    """The trials' choices side by side, the most important first."""
    scores = Scores(found.settings.scorer)
    trials = [each for each in found.trials if each.params and each.score is not None]
    if len(trials) < 2:
        return None
    names = [
        name
        for name in trials[0].params
        if all(name in each.params for each in trials)
        and len({each.params[name] for each in trials}) > 1
    ]
    order = list(found.importances)
    names.sort(key=lambda name: order.index(name) if name in order else len(order))
    names = names[:AXES]
    if not names:
        return None
    ranked = sorted((each.score or 0.0 for each in trials), reverse=True)
    quarter = ranked[max(0, math.ceil(len(ranked) / 4) - 1)]
    rows: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    for at, name in enumerate([*names, scores.name]):
        values = sorted({_choice(each, name) for each in trials}, key=_order)
        numeric = name == scores.name
        spread = (float(values[-1]) - float(values[0]) or 1.0) if numeric else 1.0
        for each in trials:
            value = _choice(each, name)
            place = (
                (float(value) - float(values[0])) / spread
                if numeric
                else values.index(value) / max(1, len(values) - 1)
            )
            jitter = 0.0 if numeric else JITTER * ((each.number * 0.618) % 1 - 0.5)
            rows.append(
                {
                    "trial": each.number,
                    "axis": name,
                    "at": at,
                    "place": round(place + jitter, 4),
                    "value": scores.text(each.score) if numeric else str(value),
                    "group": "winner"
                    if each.number == best
                    else "best quarter"
                    if (each.score or 0.0) >= quarter
                    else "others",
                }
            )
        for place, value in ((0, values[0]), (1, values[-1])):
            text = scores.text(float(value)) if numeric else str(value)
            labels.append({"axis": name, "place": place, "text": text, "at": at})
    groups = ["others", "best quarter", "winner"]
    rows.sort(key=lambda row: groups.index(row["group"]))  # the winner is drawn last, on top
    return Figure(
        name="choices",
        title="What the trials chose",
        caption="A line is a trial, from choice to choice"
        + (", the most important first," if order else "")
        + f" to its {scores.name}; values are spaced evenly, lines on one value drawn side by "
        "side. Drag over an axis to mark the trials that pass there.",
        alt=f"Parallel coordinates of {len(trials)} trials over {', '.join(names)} and the score.",
        spec=specification(
            TEMPLATES,
            "choices",
            {"axes": [*names, scores.name], "labels": labels, "many": len(trials) > MANY},
        ),
        datasets={"choices": rows},
        source="choices",
        link="trial",
        wide=True,
        roomy=True,
        legend=(
            *winner_key("line", found, best),
            Key(mark="line", colour="--trial", text="best quarter"),
            Key(mark="line", colour="--quiet", text="others"),
        ),
        table=Table(
            header=("trial", *names, scores.axis),
            rows=tuple(
                (
                    str(each.number),
                    *(str(each.params[name]) for name in names),
                    scores.text(each.score),
                )
                for each in trials
            ),
        ),
    )


def _choice(trial: Trial, name: str) -> Any:
    return trial.params.get(name, trial.score)


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers by their size, then words."""
    return isinstance(value, str), value
