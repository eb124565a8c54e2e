"""What a search found, for people: a few lines, and an HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from itertools import islice
from typing import Any

from ghostnas.seeds import Summary, percent

WIDTH, HEIGHT, MARGIN = 640, 320, 48
NAMED = 5  # of the pictures that could not be read
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; color: #222; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: right; }
th { border-bottom: 1px solid #999; } td:first-child, th:first-child { text-align: left; }
circle { fill: #4a78b5; } circle.best { fill: #c0392b; } text { font-size: 12px; fill: #555; }
"""


def page(result: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> str:
    """The page of a run's result and its trials' rows."""
    networks = _networks(result)
    budgets = ", ".join(result["budgets"])
    items = [
        f"<li>{escape(each['file'])}: {each['bytes'] / 1e6:.1f} MB, logits within "
        f"{each['difference_from_torch']:.0e} of PyTorch's</li>"
        for each in result["exported"]
    ]
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>ghostnas: {escape(budgets)}</title>
<style>{STYLE}</style>
<h1>Search under {escape(budgets)} for {escape(result["target"])}</h1>
<p>{result["trials"]} trials on {escape(result["data"])} in {result["seconds"] / 60:.1f} minutes.
Accuracies are on test pictures, after the search's short training, as a mean with its standard
deviation over seeds that took no part in choosing the finalists. Latency is predicted, with its
range.</p>
{_table(networks)}
<ul>{"".join(f"<li>{escape(line)}</li>" for line in _comparisons(result))}</ul>
<h2>Trials</h2>
{_scatter(trials, result["best"]["id"], result["scorer"])}
<h2>Files</h2>
<ul>{"".join(items)}</ul>
<p>Their weights come from the short training at the data's size. Train the network in full, at the
size it will be used with, before it is shipped.</p>
</html>
"""


def text(result: Mapping[str, Any]) -> str:
    """A run's result in a few lines, for a terminal."""
    lines = [_network_text(each) for each in _networks(result)]
    lines += _comparisons(result)
    lines.append(files(result["exported"]))
    lines.append(
        f"{result['run']}/report.html: {result['trials']} trials, {result['seconds']:.0f} s"
    )
    return "\n".join(lines)


def skipped(reasons: Collection[str]) -> list[str]:
    """Lines on pictures that could not be read: the first ones by name, and how many."""
    lines = [f"skipped {reason}" for reason in islice(reasons, NAMED)]
    if len(reasons) > NAMED:
        lines.append(f"skipped {len(reasons)} pictures in all")
    return lines


def files(exported: Sequence[Mapping[str, Any]]) -> str:
    """A line for each exported file."""
    return "\n".join(
        f"{each['file']}: {each['bytes'] / 1e6:.1f} MB, logits within "
        f"{each['difference_from_torch']:.0e} of PyTorch's{_accuracy_of_file(each)}"
        for each in exported
    )


def _accuracy_of_file(exported: Mapping[str, Any]) -> str:
    if (accuracy := exported.get("accuracy")) is None:
        return ""
    return f", top-1 {accuracy['top1']:.2%} of {accuracy['images']} {accuracy['of']}"


def exported(result: Mapping[str, Any]) -> str:
    """What an export wrote, and what was measured of it."""
    lines = [files(result["files"])]
    for each in result["latency"]:
        if "refused" in each:
            lines.append(f"{each['file']}: could not be timed: {each['refused']}")
            continue
        predicted = f", predicted {each['predicted_ms']:.2f}" if "predicted_ms" in each else ""
        lines.append(
            f"{each['file']}: {each['median_ms']:.2f} ms ({each['p10_ms']:.2f} to "
            f"{each['p90_ms']:.2f}) on {each['core']}, {each['threads']} thread{predicted}"
        )
        if "not_compared" in each:
            lines.append(each["not_compared"])
    return "\n".join(lines)


def _networks(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The winner first, then what it was held against."""
    baseline = [result["baseline"]] if result["baseline"] else []
    return [result["best"], *baseline, *result["others"]]


def _comparisons(result: Mapping[str, Any]) -> list[str]:
    """Whether the winner can be told from each other network."""
    lines = []
    for each in result["told_apart"]:
        best, other = each["networks"]
        p = each["p_value"]
        if p is None:
            said = "one seed cannot tell them apart; give more --seeds"
        elif each["told_apart"]:
            said = f"told apart (Welch's t-test, p = {p:g})"
        else:
            said = f"cannot be told apart by their seeds (Welch's t-test, p = {p:g})"
        lines.append(f"{best} and {other}: {said}")
    return lines


def _accuracy(network: Mapping[str, Any]) -> str:
    return percent(
        Summary(
            mean=network["accuracy"],
            std=network["accuracy_std"],
            min=network["accuracy_min"],
            max=network["accuracy_max"],
            count=network["seeds"],
        )
    )


def _network_text(network: Mapping[str, Any]) -> str:
    return (
        f"{network['name']} ({network['id']}): {_accuracy(network)}, "
        f"{network['macs'] / 1e6:.1f} MFLOPs, "
        f"{network['params'] / 1e6:.2f} M parameters, {network['latency_ms']:.1f} ms "
        f"({network['latency_low_ms']:.1f} to {network['latency_high_ms']:.1f})"
    )


def _table(networks: Sequence[Mapping[str, Any]]) -> str:
    head = ("network", "accuracy", "MFLOPs", "M params", "latency, ms")
    rows = []
    for each in networks:
        cells = (
            f"{escape(each['name'])} ({each['id']})",
            _accuracy(each).replace("+-", "&plusmn;"),
            f"{each['macs'] / 1e6:.1f}",
            f"{each['params'] / 1e6:.2f}",
            f"{each['latency_ms']:.1f} ({each['latency_low_ms']:.1f} to "
            f"{each['latency_high_ms']:.1f})",
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    header = "".join(f"<th>{cell}</th>" for cell in head)
    return f"<table><tr>{header}</tr>{''.join(rows)}</table>"


def _scatter(trials: Sequence[Mapping[str, Any]], best: str, scorer: str) -> str:
    """The score over predicted latency as an SVG, the winner in another colour."""
    trained = scorer == "train"
    name, unit = ("accuracy", " %") if trained else (scorer, "")
    xs = [each["latency_ms"] for each in trials]
    ys = [each["score"] * (100 if trained else 1) for each in trials]
    left, right = min(xs) * 0.95, max(xs) * 1.05
    room = 0.1 * (max(ys) - min(ys)) or 1.0
    low, high = min(ys) - room, max(ys) + room
    points = []
    for each, x, y in zip(trials, xs, ys, strict=True):
        cx = MARGIN + (x - left) / (right - left) * (WIDTH - 2 * MARGIN)
        cy = HEIGHT - MARGIN - (y - low) / (high - low) * (HEIGHT - 2 * MARGIN)
        kind = ' class="best"' if each["id"] == best else ""
        title = f"trial {each['trial']}: {y:.4g}{unit}, {x:.1f} ms, {each['macs'] / 1e6:.0f} MFLOPs"
        points.append(
            f'<circle{kind} cx="{cx:.0f}" cy="{cy:.0f}" r="5"><title>{title}</title></circle>'
        )
    base = HEIGHT - MARGIN
    return f"""<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name} over latency">
<path d="M{MARGIN} {MARGIN}V{base}H{WIDTH - MARGIN}" fill="none" stroke="#999"/>
<text x="{MARGIN}" y="{base + 18}">{left:.1f} ms</text>
<text x="{WIDTH - MARGIN}" y="{base + 18}" text-anchor="end">{right:.1f} ms</text>
<text x="{MARGIN - 6}" y="{base}" text-anchor="end">{low:.4g}{unit}</text>
<text x="{MARGIN - 6}" y="{MARGIN + 4}" text-anchor="end">{high:.4g}{unit}</text>
{"".join(points)}</svg>"""
