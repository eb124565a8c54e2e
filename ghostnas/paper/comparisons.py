"""Tables 3 to 5 trained: the accuracies of their rows, and whether their order is the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ghostnas.errors import InputError
from ghostnas.paper.subjects import Subject
from ghostnas.paper.trainings import Job, Record
from ghostnas.stats import difference_interval, holm, mean_interval, summary, welch_p_value

DISTINGUISHED = 0.05
VGG, RESNET = "vgg16", "resnet56"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A network of a table, and the top-1 accuracy in percent that the paper prints for it."""

    label: str
    subject: Subject
    printed: float


TRAINED: dict[str, tuple[Row, ...]] = {
    "table3": (
        Row(label="VGG-16", subject=Subject(network=VGG), printed=93.6),
        Row(label="d = 1", subject=Subject(network=VGG, s=2, d=1), printed=93.5),
        Row(label="d = 3", subject=Subject(network=VGG, s=2, d=3), printed=93.7),
        Row(label="d = 5", subject=Subject(network=VGG, s=2, d=5), printed=93.4),
        Row(label="d = 7", subject=Subject(network=VGG, s=2, d=7), printed=93.1),
    ),
    "table4": (
        Row(label="VGG-16", subject=Subject(network=VGG), printed=93.6),
        Row(label="s = 2", subject=Subject(network=VGG, s=2, d=3), printed=93.7),
        Row(label="s = 3", subject=Subject(network=VGG, s=3, d=3), printed=93.4),
        Row(label="s = 4", subject=Subject(network=VGG, s=4, d=3), printed=93.0),
        Row(label="s = 5", subject=Subject(network=VGG, s=5, d=3), printed=92.9),
    ),
    "table5": (
        Row(label="VGG-16", subject=Subject(network=VGG), printed=93.6),
        Row(label="Ghost-VGG-16", subject=Subject(network=VGG, s=2, d=3), printed=93.7),
        Row(label="ResNet-56", subject=Subject(network=RESNET), printed=93.0),
        Row(label="Ghost-ResNet-56", subject=Subject(network=RESNET, s=2, d=3), printed=92.7),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two rows: the difference of their mean accuracies, the paper's, and what ours is worth.

    `interval` is Welch's 95 % one; `p_value` is Holm's, over all pairs of the table; `agrees` is
    None where our difference may be the seeds' alone.
    """

    first: str
    second: str
    difference: float
    interval: tuple[float, float] | None
    p_value: float | None
    printed: float
    agrees: bool | None


def jobs(table: str, seeds: int, width: float) -> list[Job]:
    """The trainings of a table, seed by seed, so that all rows have as many where it is stopped.

    Raises:
        InputError: the table is not one that is trained on CIFAR-10.
    """
    if table not in TRAINED:
        raise InputError(f"{table}: only {', '.join(TRAINED)} are trained on CIFAR-10")
    subjects = [_at(row.subject, width) for row in TRAINED[table]]
    return [Job(subject=subject, seed=seed) for seed in range(seeds) for subject in subjects]


def accuracies(
    table: str, found: Mapping[Job, Record], width: float
) -> dict[str, tuple[Row, list[float]]]:
    """By label, the row and the accuracies (0 to 1) of its finished trainings."""
    by_row = {}
    for row in TRAINED[table]:
        of = _at(row.subject, width)
        by_row[row.label] = row, [each.accuracy for job, each in found.items() if job.subject == of]
    return by_row


def compare(by_row: Mapping[str, tuple[Row, Sequence[float]]]) -> list[Comparison]:
    """Every pair of rows that have trainings."""
    trained = {label: each for label, each in by_row.items() if each[1]}
    pairs = list(combinations(trained.values(), 2))
    p_values = holm([welch_p_value(a[1], b[1]) for a, b in pairs])
    compared = []
    for ((first, ours), (second, theirs)), p in zip(pairs, p_values, strict=True):
        difference = summary(ours).mean - summary(theirs).mean
        printed = first.printed - second.printed
        known = p is not None and p < DISTINGUISHED
        compared.append(
            Comparison(
                first=first.label,
                second=second.label,
                difference=difference,
                interval=difference_interval(ours, theirs),
                p_value=p,
                printed=printed / 100,
                agrees=(difference > 0) == (printed > 0) if known else None,
            )
        )
    return compared


def to_json(
    by_row: Mapping[str, tuple[Row, Sequence[float]]], records: Sequence[Record]
) -> dict[str, Any]:
    """The trained table as JSON types, with what it was trained on."""
    rows = []
    for label, (row, found) in by_row.items():
        about = summary(found) if found else None
        rows.append(
            {
                "network": label,
                "title": row.subject.title,
                "printed_percent": row.printed,
                "seeds": len(found),
                "mean": about.mean if about else None,
                "std": about.std if about else None,
                "interval": mean_interval(about) if about else None,
                "accuracies": list(found),
            }
        )
    pairs = [
        {name: getattr(each, name) for name in each.__dataclass_fields__}
        for each in compare(by_row)
    ]
    return {
        "rows": rows,
        "pairs": pairs,
        "recipe": records[0].recipe if records else None,
        "epochs": records[0].epochs if records else None,
        "data": records[0].data.partition(":")[0] if records else None,
        "hardware": sorted({each.hardware for each in records}),
    }


def text(found: Mapping[str, Any]) -> str:
    """A trained table in lines: each row, then each pair whose order the seeds cannot explain."""
    lines = []
    for row in found["rows"]:
        if row["mean"] is None:
            lines.append(f"{row['network']:16} printed {row['printed_percent']:.1f}, untrained")
            continue
        ends = row["interval"]
        shown = f" ({100 * ends[0]:.2f} to {100 * ends[1]:.2f})" if ends else ""
        lines.append(
            f"{row['network']:16} printed {row['printed_percent']:.1f}, ours "
            f"{100 * row['mean']:.2f}{shown}, {row['seeds']} seeds"
        )
    for pair in found["pairs"]:
        verdict = {True: "as in the paper", False: "unlike the paper", None: "not distinguished"}
        lines.append(
            f"{pair['first']} against {pair['second']}: {100 * pair['difference']:+.2f} points, "
            f"printed {100 * pair['printed']:+.1f}: {verdict[pair['agrees']]}"
        )
    return "\n".join(lines)


def _at(subject: Subject, width: float) -> Subject:
    return Subject(network=subject.network, width=width, s=subject.s, d=subject.d)
