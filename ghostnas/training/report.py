"""A training's report.html: how accuracy, loss and learning rate went, and all to do it again.
Written at the end of a training, and from its folder at any time.
"""

from __future__ import annotations

import csv
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ghostnas.errors import InputError
from ghostnas.files import read_bytes, read_text, write_whole
from ghostnas.pages.page import Figure, Key, Table, render, shell, specification
from ghostnas.progress import duration
from ghostnas.training import recipe, settings

FILE = "report.html"
TEMPLATES = Path(__file__).parent / "templates"
FILES = ("train.toml", "arch.json", "curve.csv", "result.json", "model.safetensors")


def write(folder: Path) -> Path:
    """Write the report of the training in a folder, finished or not; returns its path.

    Raises:
        InputError: the folder holds no training, or a file of it is damaged.
    """
    path = folder / FILE
    write_whole(path, page(folder).encode())
    return path


def page(folder: Path) -> str:
    """The report of the training in a folder."""
    asked, how, images = settings.read(folder / "train.toml")
    result = _result(folder)
    curve = _curve(folder)
    last = curve[-1] if curve else None
    values = {
        "title": f"Training of {folder.name}",
        "description": f"A ghostnas training on {asked.data}: {len(curve)} epochs.",
        "result": result,
        "last": last,
        "epochs": how.epochs,
        "kind": asked.data.partition(":")[0],
        "took": duration((result or last or {"seconds": 0.0})["seconds"]),
        "next": _next(str(folder), ended=result is not None),
        "asked": [
            ("data", asked.data),
            ("fingerprint of the images", images),
            ("recipe", asked.recipe_name),
            ("seed", str(asked.seed)),
            ("initial weights", asked.init),
            ("teacher", asked.teacher),
            ("hardware", (result or {}).get("hardware", "")),
        ],
        "recipe": recipe.to_text(how),
        "versions": _versions(folder),
        "files": [
            (name, hashlib.sha256(read_bytes(folder / name)).hexdigest())
            for name in FILES
            if (folder / name).is_file()
        ],
    }
    return render(TEMPLATES, "training.html.j2", values, figures=_figures(curve))


def _next(run: str, *, ended: bool) -> list[tuple[str, str]]:
    """What to do next: in words, and the command."""
    if not ended:
        return [
            ("Resume the training", shell(["ghostnas", "train", "--resume", "--out", run])),
            ("Write this report anew", shell(["ghostnas", "report", run])),
        ]
    files = f"{run}/files"
    return [
        (
            "Export its files, checked against PyTorch",
            shell(["ghostnas", "export", run, "--format", "onnx,tflite", "--out", files]),
        ),
        (
            "See where its time goes on a target",
            shell(["ghostnas", "latency", "predict", run, "--target", "arm"]),
        ),
    ]


def _figures(curve: Sequence[Mapping[str, float]]) -> list[Figure]:
    if not curve:
        return []
    held_out = any("accuracy" in row for row in curve)
    return [
        _figure(
            curve,
            name="accuracy",
            title="Accuracy",
            caption="On training images as they were augmented, with the weights of the moment"
            + (", and on held-out images" if held_out else "")
            + ".",
            axis="%",
            series=(
                ("train_accuracy", "training images", "--trial", 100.0),
                *((("accuracy", "held-out images", "--winner", 100.0),) if held_out else ()),
            ),
            wide=True,
        ),
        _figure(
            curve,
            name="loss",
            title="Loss",
            caption="The mean over each epoch, as it was trained, label smoothing and all.",
            axis="loss",
            series=(("loss", "training images", "--trial", 1.0),),
        ),
        _figure(
            curve,
            name="rate",
            title="Learning rate",
            caption="At the end of each epoch.",
            axis="learning rate",
            series=(("learning_rate", "learning rate", "--baseline", 1.0),),
        ),
    ]


def _figure(
    curve: Sequence[Mapping[str, float]],
    *,
    name: str,
    title: str,
    caption: str,
    axis: str,
    series: Sequence[tuple[str, str, str, float]],
    wide: bool = False,
) -> Figure:
    """Columns of the curve over the epochs; each with its text, its colour and a factor."""
    rows = [
        {"epoch": row["epoch"], "series": text, "value": round(factor * row[column], 6)}
        for column, text, _, factor in series
        for row in curve
        if column in row
    ]
    ends = {text: [r["value"] for r in rows if r["series"] == text][-1] for _, text, _, _ in series}
    return Figure(
        name=name,
        title=title,
        caption=caption,
        alt=f"{title} over {len(curve)} epochs; at the end "
        + ", ".join(f"{value:.4g} for {text}" for text, value in ends.items())
        + ".",
        spec=specification(
            TEMPLATES,
            "curve",
            {
                "dataset": name,
                "axis": axis,
                "height": 300 if wide else 200,
                "series": [text for _, text, _, _ in series],
                "colours": [f"var({colour})" for _, _, colour, _ in series],
                "points": len(curve) <= 60,
            },
        ),
        datasets={name: rows},
        source=name,
        zoom=True,
        wide=wide,
        legend=tuple(Key(mark="line", colour=colour, text=text) for _, text, colour, _ in series)
        if len(series) > 1
        else (),
        table=Table(
            header=("epoch", *(text for _, text, _, _ in series)),
            rows=tuple(
                (
                    f"{row['epoch']:.0f}",
                    *(
                        f"{factor * row[column]:.4g}" if column in row else ""
                        for column, _, _, factor in series
                    ),
                )
                for row in curve
            ),
        ),
    )


def _curve(folder: Path) -> list[dict[str, float]]:
    """The rows of curve.csv, without what an epoch did not measure; none before the first epoch."""
    path = folder / "curve.csv"
    if not path.exists():
        return []
    try:
        return [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(read_text(path).splitlines())
        ]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: is not a training curve; restore it, or move it away") from error


def _result(folder: Path) -> Mapping[str, Any] | None:
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        found: Mapping[str, Any] = json.loads(read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: is damaged; resume the training to mend it") from error
    return found


def _versions(folder: Path) -> dict[str, str]:
    told = tomllib.loads(read_text(folder / "train.toml")).get("versions", {})
    return {str(name): str(version) for name, version in told.items()}
