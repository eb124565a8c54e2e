"""What a search found, for people, in a few lines; `ghostnas.nas.report_page` is for browsers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ghostnas.stats import Summary, percent


def text(result: Mapping[str, Any]) -> str:
    """A run's result in a few lines, for a terminal."""
    if "concluded_by" in result:
        return (
            f"{result['trials']} trials are done in the shared study; {result['concluded_by']} "
            "concludes it: its result.json will hold the result"
        )
    lines = [_verdict(result)]
    lines += [_network_text(each) for each in _networks(result)]
    lines += [roles(result), files(result["exported"]), *result.get("not_exported", ())]
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
    worse = faster < 0 > points
    against = (
        f"{best['name']} {'is slower and less accurate than' if worse else 'against'} plain "
        f"{baseline['name']}"
    )
    if compared["p_value"] is None:
        return f"{against}: {speed}; too few seeds to tell whose accuracy is higher"
    ends = compared["interval"]
    between = f", 95 % interval {100 * ends[0]:+.1f} to {100 * ends[1]:+.1f}" if ends else ""
    said = "" if compared["distinguished"] else ", which the seeds alone may make"
    return (
        f"{against}: {speed}, and {points:+.1f} points of accuracy{between} (Welch's t-test, "
        f"p = {compared['p_value']:g}){said}"
    )


def roles(result: Mapping[str, Any]) -> str:
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
