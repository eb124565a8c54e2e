"""How a supernet ranks the networks of NAS-Bench-Macro, against minutes of training.

For each schedule of SCHEDULES a supernet of the space is trained on CIFAR-10, and networks are
scored with its weights: some of a band of MACs, where a search chooses, and some of the whole
space. The table has Kendall's tau between the scores and the published accuracies. Minutes are
those of one core that the training used. OUT keeps everything; the same command goes on.

    OMP_NUM_THREADS=1 python supernet_ranking.py --file nas-bench-macro_cifar10.json \\
        --data cifar10:DIR --out OUT
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from nas_bench_macro import Row, arch_of, load_rows
from scipy.stats import kendalltau

import ghostnas
from ghostnas.nas.supernet import dealt
from ghostnas.networks.arch import lower
from ghostnas.training import recipe, supernet, supernet_run
from ghostnas.training.learner import Learner, NetLearner
from ghostnas.training.loop import HERE, Task
from ghostnas.training.shared_weights import SharedWeights

SPACE = str(Path(__file__).with_name("nas_bench_macro.toml"))
BAND = (50e6, 55e6)  # MACs
NETWORKS = 150  # of the band, and of the whole space
PICKED, DRAWN, REPEATS = (1, 5), (1, 2, 5, 8, 15), 4000
TIMED_STEPS, BATCH, PIXELS = 6, 64, (16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A training: `pictures` of the training images, `epochs` times."""

    pictures: int
    epochs: int

    @property
    def name(self) -> str:
        return f"{self.pictures * self.epochs // 1000}k"


SCHEDULES = (
    Schedule(pictures=5000, epochs=4),
    Schedule(pictures=15000, epochs=4),
    Schedule(pictures=45000, epochs=4),
)


def train(schedule: Schedule, data: str, folder: Path) -> None:
    """Train the schedule's supernet, unless the folder has it; adds cpu_s to its cpu.json."""
    if (folder / "result.json").exists():
        return
    how = folder.with_suffix(".toml")
    changed = replace(
        recipe.load("supernet"), epochs=schedule.epochs, train_pictures=schedule.pictures
    )
    how.write_text(recipe.to_text(changed))
    used = folder.with_suffix(".cpu.json")
    before = json.loads(used.read_text()) if used.exists() else 0.0

    def say(line: str) -> None:
        used.write_text(json.dumps(before + time.process_time() - began))
        print(f"{folder.name}: {line}", flush=True)

    began = time.process_time()
    if (folder / supernet.SETTINGS).exists():
        ghostnas.supernet(out=folder, resume=True, device="cpu", progress=say)
    else:
        ghostnas.supernet(
            SPACE, out=folder, data=data, recipe=str(how), threads=1, device="cpu", progress=say
        )
    used.write_text(json.dumps(before + time.process_time() - began))


def scores(folder: Path, keys: list[str]) -> dict[str, tuple[float, float]]:
    """Those of all keys; a journal beside the folder keeps them."""
    journal = folder.with_suffix(".scores.jsonl")
    lines = journal.read_text().splitlines() if journal.exists() else []
    found = {row["key"]: (row["accuracy"], row["likelihood"]) for row in map(json.loads, lines)}
    missing = [key for key in keys if key not in found]
    if not missing:
        return found
    opened = supernet.read(folder)
    with journal.open("a") as file:
        for key in missing:
            began = time.process_time()
            accuracy, likelihood = found[key] = opened.judge(arch_of(key))
            row = {"key": key, "accuracy": accuracy, "likelihood": likelihood}
            row["cpu_s"] = time.process_time() - began
            file.write(json.dumps(row) + "\n")
            file.flush()
    return found


def chosen(rows: dict[str, Row]) -> dict[str, list[str]]:
    """Keys of the band and of the whole space."""
    rng = random.Random(0)
    band = sorted(key for key, row in rows.items() if BAND[0] <= row.macs <= BAND[1])
    return {"band": rng.sample(band, NETWORKS), "all": rng.sample(sorted(rows), NETWORKS)}


def taus(
    keys: list[str], rows: dict[str, Row], found: dict[str, tuple[float, float]]
) -> Iterator[float]:
    """Kendall's tau with the published accuracies, of accuracies and of likelihoods."""
    told = [statistics.mean(rows[key].accuracies) for key in keys]
    for kind in range(2):
        yield float(kendalltau([found[key][kind] for key in keys], told).statistic)


def worth(
    keys: list[str], rows: dict[str, Row], found: dict[str, tuple[float, float]]
) -> Iterator[str]:
    """Published accuracies (%): the best of those that rank first by likelihood, and the best of
    some that are drawn at random.
    """
    told = {key: statistics.mean(rows[key].accuracies) for key in keys}
    order = sorted(keys, key=lambda key: -found[key][1])
    for count in PICKED:
        first = max(told[key] for key in order[:count])
        yield f"the best of the first {count}: {first:.2f} %"
    rng = random.Random(0)
    for count in DRAWN:
        best = [max(rng.sample(sorted(told.values()), count)) for _ in range(REPEATS)]
        yield f"the best of {count} at random: {statistics.mean(best):.2f} %"


def speeds(folder: Path) -> Iterator[tuple[int, float, float]]:
    """For each size of images: images a second of one network of the band, and of the supernet,
    whose steps train several; of the time that this process used on its core.
    """
    opened = supernet.read(folder)
    split = opened.split
    task = Task(
        graph=lower(arch_of("12101011")),
        train=split.train,
        held_out=opened.held_out,
        recipe=opened.how,
        seed=0,
        preprocessing=split.preprocessing,
    )
    one = NetLearner(task.graph, task.recipe, 0, split.preprocessing, HERE, None, None)
    shared = SharedWeights(opened.space, 0)
    many = supernet_run.SupernetLearner(
        shared, opened.graph_of, dealt(opened.space, 0, 0), {}, task, HERE
    )
    for size in PIXELS:
        seconds = [0.0, 0.0]
        for step in range(TIMED_STEPS + 1):
            for at, learner in enumerate((one, many)):
                taken = _timed(_step(learner, size))
                seconds[at] += taken if step else 0.0
        yield size, TIMED_STEPS * BATCH / seconds[0], TIMED_STEPS * BATCH / seconds[1]


def _step(learner: Learner, size: int) -> Callable[[], None]:
    images = torch.randint(0, 256, (BATCH, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    labels = torch.randint(0, 10, (BATCH,))
    return lambda: learner.learn(images, labels, 1e-3)


def _timed(do: Callable[[], None]) -> float:
    began = time.process_time()
    do()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, required=True, help="nas-bench-macro_cifar10.json")
    parser.add_argument("--data", required=True, help="cifar10:DIR")
    parser.add_argument("--out", type=Path, required=True, help="keeps what is done")
    parser.add_argument("--schedules", type=int, default=len(SCHEDULES), help="how many of them")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rows = load_rows(asked.file)
    keys = chosen(rows)
    lines = [
        "| images | minutes | tau, band | tau, all | by likelihood, band | all | s a score |",
        "|---|---|---|---|---|---|---|",
    ]
    for schedule in SCHEDULES[: asked.schedules]:
        folder = asked.out / schedule.name
        train(schedule, asked.data, folder)
        minutes = json.loads(folder.with_suffix(".cpu.json").read_text()) / 60
        found = scores(folder, [*keys["band"], *keys["all"]])
        band, everything = (list(taus(keys[part], rows, found)) for part in ("band", "all"))
        journal = folder.with_suffix(".scores.jsonl").read_text().splitlines()
        seconds = statistics.median(json.loads(line)["cpu_s"] for line in journal)
        values = (band[0], everything[0], band[1], everything[1])
        shown = " | ".join(f"{value:.2f}" for value in values)
        lines.append(f"| {schedule.name} | {minutes:.1f} | {shown} | {seconds:.1f} |")
        print(lines[-1], flush=True)
        for line in worth(keys["band"], rows, found):
            print(f"{schedule.name}, in the band: {line}")
    print("\n".join(lines))
    for size, one, many in speeds(asked.out / SCHEDULES[0].name):
        print(
            f"{size} px: one network {one:.0f} images/s, a supernet {many:.0f}, {one / many:.1f} x"
        )


if __name__ == "__main__":
    main()
