"""What a search found, for people: a few lines, and an HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ghostnas.stats import Summary, percent

WIDTH, HEIGHT, MARGIN = 640, 320, 48
LEFT = 96  # of the axis, so that the longest number beside it fits
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
    items = [f"<li>{escape(line)}</li>" for line in files(result["exported"]).splitlines()]
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>ghostnas: {escape(budgets)}</title>
<style>{STYLE}</style>
<h1>Search under {escape(budgets)} for {escape(result["target"])}</h1>
<p><strong>{escape(_verdict(result))}</strong></p>
<p>{_trials_text(result)} on {escape(result["data"])} in {result["seconds"] / 60:.1f} minutes.
{escape(_roles(result))}
Accuracies are those of the proxy on test images after the search's short training, as a mean with
its standard deviation over seeds; those of the winner and of plain GhostNet are of seeds that took
no part in any choice. Latency is that of the deployment, predicted, with its range.</p>
{_table(networks)}
<h2>Trials</h2>
{_scatter(trials, result["best"]["id"], result["scorer"])}
<h2>Files</h2>
<ul>{"".join(items)}</ul>
<p>Train the network in full before it is shipped: ghostnas train {escape(result["run"])}.</p>
</html>
"""


def text(result: Mapping[str, Any]) -> str:
    """A run's result in a few lines, for a terminal."""
    lines = [_verdict(result)]
    lines += [_network_text(each) for each in _networks(result)]
    lines += [_roles(result), files(result["exported"])]
    lines.append(
        f"{result['run']}/report.html: {_trials_text(result)}, {result['seconds'] / 60:.1f} minutes"
    )
    return "\n".join(lines)


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
    best, baseline = result["best"], result["baseline"]
    held = [baseline] if baseline and baseline["id"] != best["id"] else []
    return [best, *held, *result["others"]]


def _verdict(result: Mapping[str, Any]) -> str:
    """How the winner stands against plain GhostNet, in a sentence."""
    best, baseline = result["best"], result["baseline"]
    if baseline is None:
        return f"{best['name']} is the best found; no plain GhostNet meets the budgets"
    if best["id"] == baseline["id"]:
        return f"nothing better was found than plain {best['name']}, which meets the budgets"
    compared = result["comparison"]
    points = 100 * compared["difference"]
    faster = -compared["latency_difference_ms"]
    speed = f"{abs(faster):.1f} ms {'faster' if faster >= 0 else 'slower'}"
    against = f"{best['name']} against plain {baseline['name']}"
    if compared["p_value"] is None:
        return f"{against}: {speed}; too few seeds to tell whose accuracy is higher"
    ends = compared["interval"]
    between = f", 95 % interval {100 * ends[0]:+.1f} to {100 * ends[1]:+.1f}" if ends else ""
    said = "" if compared["distinguished"] else ", which the seeds alone may make"
    return (
        f"{against}: {speed}, and {points:+.1f} points of accuracy{between} (Welch's t-test, "
        f"p = {compared['p_value']:g}){said}"
    )


def _roles(result: Mapping[str, Any]) -> str:
    """What the winner is as it is deployed, and as it was trained to judge it."""

    def about(network: Mapping[str, Any]) -> str:
        strides = network["dropped_strides"]
        dropped = f", {strides} stride{'s' * (strides > 1)} dropped" if strides else ""
        return (
            f"{network['resolution']} px{dropped}, {network['classes']} classes, "
            f"{network['macs'] / 1e6:.1f} MFLOPs"
        )

    deployed, proxy = result["deployment"], result["proxy"]
    if deployed["id"] == proxy["id"]:
        return f"The winner is deployed as it was trained: {about(deployed)}."
    return f"The winner is deployed at {about(deployed)}; its proxy was trained at {about(proxy)}."


def _trials_text(result: Mapping[str, Any]) -> str:
    failed = f", {result['failed']} failed" if result["failed"] else ""
    used_up = ", all that the budgets allow" if result["used_up"] else ""
    return f"{result['trials']} trials{failed}{used_up}"


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
        cx = LEFT + (x - left) / (right - left) * (WIDTH - LEFT - MARGIN)
        cy = HEIGHT - MARGIN - (y - low) / (high - low) * (HEIGHT - 2 * MARGIN)
        kind = ' class="best"' if each["id"] == best else ""
        title = f"trial {each['trial']}: {y:.4g}{unit}, {x:.1f} ms, {each['macs'] / 1e6:.0f} MFLOPs"
        points.append(
            f'<circle{kind} cx="{cx:.0f}" cy="{cy:.0f}" r="5"><title>{title}</title></circle>'
        )
    base = HEIGHT - MARGIN
    return f"""<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name} over latency">
<path d="M{LEFT} {MARGIN}V{base}H{WIDTH - MARGIN}" fill="none" stroke="#999"/>
<text x="{LEFT}" y="{base + 18}">{left:.1f} ms</text>
<text x="{WIDTH - MARGIN}" y="{base + 18}" text-anchor="end">{right:.1f} ms</text>
<text x="{LEFT - 6}" y="{base}" text-anchor="end">{low:.4g}{unit}</text>
<text x="{LEFT - 6}" y="{MARGIN + 4}" text-anchor="end">{high:.4g}{unit}</text>
{"".join(points)}</svg>"""
