"""What ``ghostnas paper`` does: counts, trains and draws, and writes the results into a folder."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from ghostnas import records as records_module
from ghostnas.errors import InputError
from ghostnas.files import read_text, write_whole
from ghostnas.paper.subjects import Subject, graph_of
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
    width: float = 1.0
    weights: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """A short training of both detectors: on COCO's format, or on a made set without it."""

    folder: Path
    annotations: Path | None = None
    pictures: Path | None = None
    weights: Path | None = None
    width: float = 1.1
    steps: int = 60
    size: int | None = None
    device: str = "auto"


MADE_IMAGES, MADE_PIXELS, COCO_PIXELS = 32, 128, 320


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
        "records": [asdict(each) for each in records],
    }
    _write_json(how.folder / "seeds.json", result)
    from ghostnas.paper import figures
    from ghostnas.paper.page import render

    figures.save(figures.by_epoch(found), how.folder, "seeds-by-epoch")
    figures.save(figures.histogram(found), how.folder, "seeds-histogram")
    html = render([_seeds_section(found, result)], f"The random seed: {found.network}")
    write_whole(how.folder / "seeds.html", html.encode())
    rows = [
        {"seed": each.seed, "epoch": epoch, "accuracy": f"{accuracy:.4f}"}
        for each in records
        for epoch, accuracy in enumerate(each.accuracies, 1)
    ]
    _write_csv(how.folder / "seeds.csv", rows)
    del result["records"]
    text = f"{study.text(found)}\n{how.folder / 'seeds.html'}"
    return {**result, "text": text, "out": str(how.folder)}


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
    from ghostnas.paper import comparisons, figures, redundancy, tables
    from ghostnas.paper.page import render, table_section

    result: dict[str, Any] = tables.counted(name)
    drawings = []
    if how is not None:
        found = _train(comparisons.jobs(name, how.seeds, how.width), how, say)
        by_row = comparisons.accuracies(name, found, how.width)
        trained = comparisons.to_json(by_row, list(found.values()))
        result["trained"] = {**trained, "width": how.width}
    elif out is not None and (kept := _kept(out / f"{name}.json")):
        result |= {key: kept[key] for key in ("trained", "detection") if key in kept}
    lines = [tables.text(result)]
    if result.get("trained"):
        lines.append(comparisons.text(result["trained"]))
        drawings.append(figures.trained(result["trained"], f"{tables.TITLES[name]}, trained"))
    if name == "table2" and pictured.network is not None:
        seen = _look(pictured)
        redundant = redundancy.of(seen)
        result["redundancy"] = redundancy.to_json(redundant, seen)
        lines.append(redundancy.text(redundant, seen))
        drawings.append(redundancy.figure1(redundant, seen))
    if out is not None:
        _write_json(out / f"{name}.json", result)
        for drawing in drawings:
            figures.save(drawing, out, "figure1" if name == "table2" else name)
        page = render([table_section(result, drawings)], f"GhostNet, table {name[-1]}")
        write_whole(out / f"{name}.html", page.encode())
        lines.append(f"{out / name}.html")
    return {**result, "text": "\n".join(lines)}


def detect(how: Detection, say: Say) -> dict[str, Any]:
    """Table 8 with both detectors trained a few steps on GhostNet; no mAP is taken of that.

    Raises:
        InputError: torchvision is not installed, or the boxes are not in COCO's format.
        TrainingError: a loss is not finite.
    """
    from ghostnas.backends import pretrained
    from ghostnas.paper import detection, maps
    from ghostnas.training.distributed import on_cuda

    if (how.annotations is None) != (how.pictures is None):
        raise InputError("--annotations FILE and --pictures DIR go together")
    if how.annotations is None or how.pictures is None:
        data = detection.make_boxes(how.folder / "made", MADE_IMAGES)
        size, kind = how.size or MADE_PIXELS, "made"
    else:
        data = detection.read_coco(how.annotations, how.pictures)
        size, kind = how.size or COCO_PIXELS, how.annotations.name
    subject = Subject(network="ghostnet", width=how.width)
    graph = graph_of(subject, 224, 1000)
    weights = None
    if how.weights is not None:
        weights = maps.fitted(graph, pretrained.read_any(how.weights), how.weights)
    found = []
    for name in get_args(detection.Detector):
        model = detection.detector(name, graph, len(data.classes) + 1, size, weights)
        device = "cuda" if on_cuda(how.device) else "cpu"
        say(f"{name} on {subject.title}, {len(data.examples)} images ({kind})")
        trained = detection.train(model, data, steps=how.steps, device=device, say=say)
        found.append(
            {
                "detector": name,
                "width": how.width,
                "steps": how.steps,
                "images": len(data.examples),
                "data": kind,
                "first_loss": trained.first,
                "last_loss": trained.last,
                "losses": list(trained.losses),
            }
        )
    _write_json(how.folder / "table8.json", {"detection": found})
    result = table("table8", None, Pictured(), how.folder, say)
    lines = [
        f"{each['detector']}: loss {each['first_loss']:.3f} to {each['last_loss']:.3f} in "
        f"{each['steps']} steps (medians of the first and last fifth)"
        for each in found
    ]
    return {**result, "text": "\n".join([result["text"], *lines])}


def draw(out: Path, target: str, pictured: Pictured, runs: tuple[Path, ...]) -> dict[str, Any]:
    """Figures 4 to 7 in a folder; see `ghostnas.api.paper_figures`."""
    from ghostnas.paper import figures
    from ghostnas.paper.page import render

    networks = figures.placed(target)
    drawings = _figures(networks, target, pictured, runs)
    files = [
        str(path) for name, drawing in drawings.items() for path in figures.save(drawing, out, name)
    ]
    page = render([_figures_section(networks, target, drawings)], "GhostNet's figures")
    write_whole(out / "figures.html", page.encode())
    _write_json(out / "figures.json", [asdict(each) for each in networks])
    lines = [
        f"{each.label:25} top-1 published {each.top1:.1f}, {each.macs / 1e6:6.1f} MFLOPs, "
        + (
            f"{each.latency_ms:.1f} ms ({each.low_ms:.1f} to {each.high_ms:.1f})"
            if each.latency_ms is not None
            else f"not predicted: {each.reason}"
        )
        for each in networks
    ]
    return {
        "target": target,
        "networks": [asdict(each) for each in networks],
        "files": [*files, str(out / "figures.html")],
        "text": "\n".join([*lines, *files, str(out / "figures.html")]),
    }


def page(
    out: Path, target: str, pictured: Pictured, runs: tuple[Path, ...], say: Say
) -> dict[str, Any]:
    """Everything on one page, with what earlier calls trained into the same folder."""
    from ghostnas.paper import figures, redundancy, tables
    from ghostnas.paper import seeds as study
    from ghostnas.paper.page import render, table_section
    from ghostnas.paper.trainings import Record

    sections = []
    for name in tables.TITLES:
        result = tables.counted(name)
        drawings = []
        if kept := _kept(out / f"{name}.json"):
            result |= {key: kept[key] for key in ("trained", "detection") if key in kept}
        if name == "table2" and pictured.network is not None:
            seen = _look(pictured)
            redundant = redundancy.of(seen)
            result["redundancy"] = redundancy.to_json(redundant, seen)
            drawings.append(redundancy.figure1(redundant, seen))
        if result.get("trained"):
            drawings.append(figures.trained(result["trained"], f"{tables.TITLES[name]}, trained"))
        sections.append(table_section(result, drawings))
        say(f"table {name[-1]}")
    networks = figures.placed(target)
    sections.append(_figures_section(networks, target, _figures(networks, target, pictured, runs)))
    if kept := _kept(out / "seeds.json"):
        records = [records_module.from_table(Record, each) for each in kept["records"]]
        sections.append(_seeds_section(study.study(records), kept))
    html = render(sections, "The GhostNet paper, reproduced")
    write_whole(out / "paper.html", html.encode())
    return {"page": str(out / "paper.html"), "text": str(out / "paper.html")}


def _look(pictured: Pictured) -> Any:
    from ghostnas.networks import cifar_networks
    from ghostnas.paper import maps

    network = pictured.network or "ghost-vgg16"
    small = network in cifar_networks.NETWORKS
    resolution, classes = (32, 10) if small else (224, 1000)
    subject = Subject(network=network, width=pictured.width)
    return maps.look(subject, pictured.image, pictured.weights, resolution, classes)


def _figures(
    networks: Any, target: str, pictured: Pictured, runs: tuple[Path, ...]
) -> dict[str, Any]:
    from ghostnas.paper import figures
    from ghostnas.paper.maps import second_layer

    own = [_own(run, target) for run in runs]
    seen = _look(pictured)
    drawn = {"figure6": figures.figure6(networks, own)}
    drawn["figure7"] = figures.figure7(networks, target, own)
    plain = (pictured.network or "ghost-vgg16").removeprefix("ghost-")
    if pictured.weights is None and pictured.network is None:
        vanilla = Pictured(image=pictured.image, network=plain, width=pictured.width)
        return {"figure4": figures.figure4(seen), "figure5": figures.figure4(_look(vanilla)),
                **drawn}  # fmt: skip
    name = "figure5" if second_layer(seen.graph)[1] is None else "figure4"
    return {name: figures.figure4(seen), **drawn}


def _own(run: Path, target: str) -> Any:
    """A training's accuracy, to be marked in figures 6 and 7.

    Raises:
        InputError: the folder holds no finished training.
    """
    from ghostnas.latency import table as latency_tables
    from ghostnas.latency.predictor import Predictor
    from ghostnas.networks import arch as archs
    from ghostnas.paper.figures import Own

    result = _kept(run / "result.json")
    if not result:
        raise InputError(f"{run}: holds no finished training (result.json)")
    network = archs.load(run / "arch.json")
    predicted = Predictor(latency_tables.load(target)).predict(network)
    return Own(
        label=f"{run.name}, {result['data'].partition(':')[0]}",
        top1=100 * result["test_accuracy"],
        macs=result["macs"],
        latency_ms=predicted.latency_ms,
    )


def _figures_section(networks: Any, target: str, drawings: Any) -> Any:
    from ghostnas.paper.page import Cell, Section

    rows = tuple(
        (
            Cell(text=each.label),
            Cell(text=f"{each.top1:.1f}"),
            Cell(text=f"{each.macs / 1e6:.1f}"),
            Cell(text=f"{each.latency_ms:.2f}" if each.latency_ms is not None else "-"),
            Cell(text=f"{each.low_ms:.2f} to {each.high_ms:.2f}" if each.low_ms else each.reason),
        )
        for each in networks
    )
    return Section(
        heading="Figures 4 to 7",
        notes=(
            "Accuracies on ImageNet are as published, by the GhostNet paper's table 7 and for "
            "FBNet-C by its own; latencies are predicted from one table for all networks.",
        ),
        header=("network", "top-1 published", "M FLOPs", f"ms on {target}", "interval"),
        rows=rows,
        drawings=tuple(drawings.values()),
    )


def _seeds_section(found: Any, kept: Any) -> Any:
    from ghostnas.paper import figures
    from ghostnas.paper.page import Cell, Section

    rows = tuple(
        (Cell(text=f"best of {best_of}"), Cell(text=f"{100 * gain:.2f} points"))
        for best_of, gain in found.luck.items()
    )
    final = found.final
    start = "from a pretrained body with a fresh head" if kept["body"] else "from random weights"
    return Section(
        heading=f"The random seed: {found.network}, {final.count} seeds",
        notes=(
            f"Trained {start} on {kept['data']}, {len(found.by_epoch)} epochs, on "
            f"{', '.join(kept['hardware'])}: {final.mean:.2%} on average, standard deviation "
            f"{100 * (final.std or 0):.2f} points, {final.min:.2%} to {final.max:.2%}; "
            f"Shapiro-Wilk p = {found.shapiro_p:.2g}.",
            f"Recipe: {', '.join(kept['recipe'].splitlines())}.",
            "What the best of M seeds is expected to gain by luck alone, above the mean:",
        ),
        header=("seeds tried", "gain"),
        rows=rows,
        drawings=(figures.by_epoch(found), figures.histogram(found)),
    )


def _kept(path: Path) -> Any:
    """A document that an earlier call left; None if there is none.

    Raises:
        InputError: it is damaged.
    """
    if not path.exists():
        return None
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: is not JSON: {error}") from error
