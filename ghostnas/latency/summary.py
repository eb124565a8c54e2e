"""Finds the network that a user names, and describes it: its counts and its predicted latency."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostnas.backends import pretrained
from ghostnas.errors import InputError, did_you_mean
from ghostnas.ir import cost
from ghostnas.ir.graph import Array
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.latency import table
from ghostnas.latency.predictor import CONFIDENCE, Predictor
from ghostnas.networks import zoo
from ghostnas.networks.arch import Arch, fit_to, load, lower


def find(name: str, width: float | None = None, resolution: int | None = None) -> Arch:
    """The network of the zoo, of a .json file, the best one of a search's folder, or a training's.

    Raises:
        InputError: there is none of that name, or `width` is given for one that has its own.
    """
    path = Path(name)
    if name in zoo.ZOO:
        return zoo.named(name, width or 1.0, resolution or 224)
    if width is not None:
        raise InputError(f"--width is for the named networks: {', '.join(sorted(zoo.ZOO))}")
    if path.is_dir():
        held = [path / file for file in ("best.json", "arch.json") if (path / file).exists()]
        if not held:
            raise InputError(
                f"{path}: holds neither a finished search (best.json) nor a training (arch.json)"
            )
        path = held[0]
    elif path.suffix != ".json":
        known = ", ".join(sorted(zoo.ZOO))
        raise InputError(
            f"unknown network {name!r}: {known}, a .json file or a run folder"
            f"{did_you_mean(name, zoo.ZOO)}"
        )
    arch = load(path)
    if resolution is not None:
        arch = fit_to(arch, resolution=resolution, classes=arch.classes)
    return arch


def find_with_weights(
    name: str, width: float | None, resolution: int | None, file: Path | None
) -> tuple[Arch, Mapping[str, Array], Preprocessing | None]:
    """The network, its weights, and what they expect of a picture where their file says so.

    The weights are those of `file`, of a training's folder, or those that a search exported. At
    another `resolution` they run with the strides that they were trained with.

    Raises:
        InputError: as `find`, or there are no weights, or they are another network's, or as many
            strides as they were trained with would not run at this resolution.
    """
    folder = Path(name)
    arch = find(name, width)
    if resolution is not None and resolution != arch.resolution:
        other = find(name, width, resolution)
        if other.dropped_strides != arch.dropped_strides:
            raise InputError(
                f"{name}: its weights are of {arch.resolution} px with {arch.dropped_strides} "
                f"strides dropped, and {other.dropped_strides} would be at {resolution} px, which "
                "is another network; train that one: ghostnas train ... --resolution "
                f"{resolution}"
            )
        arch = other
    if file is None and folder.is_dir() and name not in zoo.ZOO:
        searched = (folder / "best.json").exists()
        file = (folder / "export" if searched else folder) / "model.safetensors"
    if file is None:
        known = ".safetensors or .pth"
        raise InputError(f"{name} has no weights of its own; name a {known} file by --weights")
    return arch, pretrained.read(file, lower(arch)), pretrained.preprocessing_of(file)


def describe(arch: Arch, target: str | None, confidence: float | None = None) -> dict[str, Any]:
    """Counts of a network and, for a target, its latency with the range it may lie in."""
    graph = lower(arch)
    described: dict[str, Any] = {"id": arch.id, **dataclasses.asdict(cost.count(graph))}
    described["resolution"] = arch.resolution
    if target is not None:
        confidence = confidence or CONFIDENCE
        predicted = Predictor(table.load(target), confidence).predict(arch)
        described |= {
            "target": target,
            "latency_ms": predicted.latency_ms,
            "latency_low_ms": predicted.low_ms,
            "latency_high_ms": predicted.high_ms,
            "confidence": confidence if predicted.calibrated else None,
            "missing_ops": [str(signature) for signature in predicted.interpolated],
        }
    return described


def text(described: Mapping[str, Any]) -> str:
    """A description for people."""
    lines = [
        f"{described['id']} at {described['resolution']} px",
        f"{described['macs'] / 1e6:.1f} MFLOPs ({described['macs']:,} multiply-accumulates)",
        f"{described['params']:,} parameters, {described['model_bytes'] / 1e6:.1f} MB as .tflite",
        f"{described['peak_activation_bytes'] / 1e6:.2f} MB of activations at the peak",
    ]
    if "target" in described:
        confidence = described["confidence"]
        lines.append(
            f"{described['latency_ms']:.2f} ms on {described['target']} "
            f"({described['latency_low_ms']:.2f} to {described['latency_high_ms']:.2f}, "
            f"{f'{100 * confidence:g} %' if confidence else 'not calibrated'})"
        )
        if missing := described["missing_ops"]:
            lines.append(f"{len(missing)} ops are not in the table and were interpolated")
    return "\n".join(lines)
