"""Which cheap score ranks architectures as a long training does, and what a score costs.

Architectures of a space, spread evenly from --floor to --budget and including GhostNet at a few
widths, are given long trainings from several seeds and tested. Each is also scored by every
training-free scorer and by short trainings, which are evaluated on validation images: `1280x2` is
1,280 images for 2 epochs, `5000x4@16` is 5,000 for 4 at 16 pixels, with the strides of the data's
size, and `5000x4@16-32` grows them from 16 to 32 pixels. The table has Kendall's tau of each score
against the mean of the long trainings, with its 95 % interval; the partial tau, given the budget's
quantity (what a score knows beyond it; Kendall, 1942); and the median processor seconds per
architecture.

Finished results are kept in --out; the same command resumes after a kill. With --device cuda, the
long trainings share the GPUs, --workers of them at once; their seconds are then those of a clock.
With --repeats 0 only the cheap scores are computed. The accuracy on the test images after each
epoch of a long training is kept as its curve.

    python fidelity.py --data cifar10:DIR --out runs/fidelity --architectures 24 --repeats 2
    python fidelity.py ... --table            # from existing results, without training
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from ghostnas import stats
from ghostnas.arrays import Array
from ghostnas.data import datasets
from ghostnas.devices.journal import Journal
from ghostnas.errors import GhostnasError, InputError, TrainingError
from ghostnas.files import locked, write_whole
from ghostnas.ir import cost
from ghostnas.nas import budget, zero_cost
from ghostnas.nas.evaluators import SCORED_PICTURES, score_untrained
from ghostnas.networks import space
from ghostnas.networks.arch import Arch, lower, to_json
from ghostnas.networks.zoo import ghostnet
from ghostnas.processes import deaf_to_interrupts, start_worker, usable_cpus, worker_context
from ghostnas.stats import kendall, percent, summary
from ghostnas.training import loop, recipe, splits
from ghostnas.training.distributed import World, on_cuda
from ghostnas.training.recipe import Recipe

LONG = "long training"
WIDTHS = (1.0, 0.75, 0.5)  # of GhostNet; at most a quarter of the architectures
DRAWS = 400  # for each architecture
SHORTS = ("1280x2", "2560x4", "5000x4", "5000x4@16-32", "5000x4@24", "5000x4@16")
NONE = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One number to find: an architecture's score from a seed."""

    score: str
    arch: Arch
    seed: int
    recipe: Recipe

    @property
    def key(self) -> tuple[str, str, int]:
        return self.score, self.arch.id, self.seed

    @property
    def work(self) -> float:
        """Roughly proportional to its seconds."""
        macs = cost.count(lower(self.arch)).macs + 1e7
        if self.score in zero_cost.SCORERS:
            return 3 * SCORED_PICTURES * macs
        return float((self.recipe.train_pictures or 50_000) * self.recipe.epochs * macs)


def draw(
    searched: space.Space, amount: Callable[[Arch], float], low: float, high: float, args
) -> list[Arch]:
    """GhostNets, plus a random architecture from each of as many equal parts of low to high."""
    resolution = searched.decode({}).resolution
    named = [ghostnet(width, resolution, searched.classes) for width in WIDTHS]
    fitting = [arch for arch in named if low <= amount(arch) <= high]
    archs = fitting[: args.architectures // 4]
    ends = np.linspace(low, high, args.architectures - len(archs) + 1)
    found: dict[int, Arch] = {}
    taken = {arch.id for arch in archs}
    rng = random.Random(args.seed)
    for _ in range(DRAWS * args.architectures):
        if len(found) == len(ends) - 1:
            break
        arch = searched.decode(searched.sample(rng))
        part = int(np.searchsorted(ends, amount(arch), side="right")) - 1
        if 0 <= part < len(ends) - 1 and part not in found and arch.id not in taken:
            found[part] = arch
            taken.add(arch.id)
    if len(found) < len(ends) - 1:
        missing = min(set(range(len(ends) - 1)) - set(found))
        raise InputError(
            f"space {searched.name} has almost no architectures from {ends[missing]:.4g} to "
            f"{ends[missing + 1]:.4g} in the budget's unit; raise --floor or --budget"
        )
    return [*archs, *(found[part] for part in sorted(found))]


def short_recipe(text: str, base: Recipe) -> Recipe:
    """The recipe of ``IMAGESxEPOCHS``, ``IMAGESxEPOCHS@PIXELS`` or ``IMAGESxEPOCHS@FIRST-LAST``."""
    found = re.fullmatch(r"(\d+)x(\d+)(?:@(?:(\d+)-)?(\d+))?", text)
    if found is None:
        raise InputError(
            f"short training {text!r}: write it like 1280x2, 5000x4@16 or 5000x4@16-32"
        )
    return dataclasses.replace(
        base,
        train_pictures=int(found[1]),
        epochs=int(found[2]),
        first_resolution=int(found[3] or 0),
        resolution=int(found[4]) if found[4] else None,
    )


def tasks(archs: Sequence[Arch], long: Recipe, base: Recipe, args) -> list[Task]:
    """Cheap tasks first, so that a table is available after each seed of the long ones."""
    found = [
        Task(score=name, arch=arch, seed=0, recipe=base) for name in args.scorers for arch in archs
    ]
    for text in args.shorts:
        short = short_recipe(text, base)
        found += [Task(score=text, arch=arch, seed=0, recipe=short) for arch in archs]
    for seed in range(1, args.repeats + 1):
        found += [Task(score=LONG, arch=arch, seed=seed, recipe=long) for arch in archs]
    return found


def measure(todo: Sequence[Task], journal: Journal, spec: str, workers: int, device: str) -> None:
    """Run the tasks in single-threaded processes; each result goes into the journal at once."""
    if not todo:
        return
    executor = ProcessPoolExecutor(
        workers,
        mp_context=worker_context(),
        initializer=begin,
        initargs=(spec, on_cuda(device), os.getpid()),
    )
    whole = sum(task.work for task in todo)
    done, began = 0.0, time.monotonic()
    try:
        with deaf_to_interrupts():
            running = {executor.submit(carry_out, task): task for task in todo}
        for position, future in enumerate(as_completed(running), 1):
            task = running[future]
            try:
                value, seconds, curve = future.result()
            except TrainingError as error:
                print(f"{task.score} of {task.arch.id}: {error}", flush=True)
                value, seconds, curve = None, 0.0, []
            score, arch_id, seed = task.key
            entry = {"score": score, "arch": arch_id, "seed": seed}
            entry |= {"value": value, "seconds": round(seconds, 6)}
            journal.append([{**entry, "curve": curve} if curve else entry])
            done += task.work
            left = (time.monotonic() - began) * (whole / done - 1)
            print(
                f"{position}/{len(todo)} {score} of {arch_id} from seed {seed}: {value} in "
                f"{seconds:.1f} s; about {left / 60:.0f} minutes left",
                flush=True,
            )
    except BrokenProcessPool as error:
        raise TrainingError(
            "a process died, perhaps from lack of memory; finished results are kept, resume with "
            "the same command and --workers 1"
        ) from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


_dataset: datasets.Dataset
_cuda: bool


def begin(spec: str, cuda: bool, parent: int) -> None:
    global _dataset, _cuda  # a worker process has one job and keeps its data
    start_worker(parent)
    torch.set_num_threads(1)
    _dataset, _cuda = datasets.load(spec), cuda


def carry_out(task: Task) -> tuple[float, float, list[float]]:
    """A task's value, its processor seconds, since others may share the cores, and its curve."""
    found = split(task.recipe)
    long = task.score == LONG
    cuda = _cuda and long
    clock = time.perf_counter if cuda else time.process_time
    began, curve = clock(), []
    if task.score in zero_cost.SCORERS:
        value = score_untrained(task.score, task.arch, found, task.seed)
    else:
        graph = lower(splits.fit(task.arch, found))
        held_out = found.test if long else found.validation
        training = loop.Task(
            graph=graph,
            train=found.train,
            held_out=held_out,
            recipe=task.recipe,
            seed=task.seed,
            preprocessing=found.preprocessing,
        )
        execution = loop.Execution(
            world=World(device=torch.device("cuda" if cuda else "cpu")), evaluate_every=int(long)
        )

        def note(progress: loop.Progress) -> None:
            if progress.accuracy is not None and long:
                curve.append(progress.accuracy)

        value = loop.train(training, note, execution).accuracy
    return value, clock() - began, curve


@lru_cache(maxsize=1)  # tasks with one recipe are consecutive
def split(how: Recipe) -> splits.Split:
    return splits.split(_dataset, how)


def table(entries: Sequence[dict], archs: Sequence[Arch], amounts: Sequence[float], args) -> str:
    """A Markdown table, best score first, over the long-training seeds that all architectures have;
    before there is one, over the first seed and the architectures that have it.

    A score that could not be computed ranks below all others: a search would not choose it.
    """
    found = {(each["score"], each["arch"], each["seed"]): each for each in entries}
    trained = {
        arch.id: {seed for seed in range(1, args.repeats + 1) if (LONG, arch.id, seed) in found}
        for arch in archs
    }
    if not any(trained.values()):
        return f"0 of {len(archs)} architectures have a long training; too few to rank"
    begun = set.intersection(*trained.values()) or {min(set.union(*trained.values()), default=1)}
    kept = {
        arch.id: amount
        for arch, amount in zip(archs, amounts, strict=True)
        if all(found.get((LONG, arch.id, seed), {}).get("value") is not None for seed in begun)
    }
    said = f"{len(kept)} of {len(archs)} architectures, long trainings of each: {len(begun)}"
    if len(kept) < stats.FEWEST_RANKED:
        return f"{said}; too few to rank"
    truth = np.array(
        [[found[LONG, each, seed]["value"] for seed in sorted(begun)] for each in kept]
    )
    ranked = truth[np.argsort(truth.mean(1))]
    best, worst = (percent(summary(own)) for own in (ranked[-1], ranked[0]))
    rows, missing = [], []
    for name in (*args.scorers, *args.shorts):
        own = [found.get((name, each, 0)) for each in kept]
        if None in own:
            missing.append(name)
            continue
        known = [each["value"] for each in own if each["value"] is not None]
        values = [min(known, default=0) - 1 if e["value"] is None else e["value"] for e in own]
        seconds = statistics.median(each["seconds"] for each in own)
        rows.append(row(name, values, truth, list(kept.values()), seconds))
    if len(begun) > 1:
        seconds = statistics.median(found[LONG, each, min(begun)]["seconds"] for each in kept)
        name = "one long training, against the others"
        rows.append(row(name, truth[:, 0], truth[:, 1:], list(kept.values()), seconds))
    lines = [
        f"{said}; the best {best}, the worst {worst}",
        "",
        "| score | Kendall's tau | 95 % interval | partial tau | seconds |",
        "|---|---:|---|---:|---:|",
        *(line for _, line in sorted(rows, key=lambda each: -each[0])),
    ]
    if missing:
        lines += ["", f"not yet available for all of them: {', '.join(missing)}"]
    return "\n".join(lines)


def row(
    name: str, values: Sequence[float], truth: Array, amounts: Sequence[float], seconds: float
) -> tuple[float, str]:
    """A score's tau and its table row."""
    try:
        found = kendall(values, truth)
    except InputError as error:
        return -2.0, f"| {name} | {NONE} | {error} | {NONE} | {seconds:.2f} |"
    return found.tau, (
        f"| {name} | {found.tau:.2f} | {found.low:.2f} to {found.high:.2f} | "
        f"{partial_tau(values, truth, amounts)} | {seconds:.2f} |"
    )


def partial_tau(values: Sequence[float], truth: Array, given: Sequence[float]) -> str:
    if np.ptp(given) == 0:
        return NONE
    between, own, true = (
        kendall(*pair).tau for pair in ((values, truth), (values, given), (truth.mean(1), given))
    )
    left = (1 - own**2) * (1 - true**2)
    return NONE if left < 1e-9 else f"{(between - own * true) / left**0.5:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--space", default="ghostnet")
    parser.add_argument("--floor", default="40MFLOPs")
    parser.add_argument("--budget", default="150MFLOPs")
    parser.add_argument("--architectures", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=2, help="seeds of the long training")
    parser.add_argument("--recipe", default="proxy", help="the rest of the short trainings'")
    parser.add_argument("--long-recipe", default="proxy")
    parser.add_argument("--long-pictures", type=int, help="the recipe's")
    parser.add_argument("--long-epochs", type=int, help="the recipe's")
    parser.add_argument("--test-pictures", type=int, help="of the long training; the recipe's")
    parser.add_argument(
        "--shorts", nargs="*", default=SHORTS, metavar="IMAGESxEPOCHS[@[FIRST-]PIXELS]"
    )
    parser.add_argument("--scorers", nargs="*", default=list(zero_cost.SCORERS))
    parser.add_argument("--workers", type=int, default=usable_cpus())
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="of long trainings"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the architectures")
    parser.add_argument(
        "--table", action="store_true", help="from existing results, without training"
    )
    args = parser.parse_args()
    try:
        print(run(args))
    except (GhostnasError, OSError) as error:
        print(f"fidelity: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fidelity: stopped; resume with the same command", file=sys.stderr)
        return 130
    return 0


def run(args: argparse.Namespace) -> str:
    """The table, once everything missing has been measured."""
    if unknown := sorted(set(args.scorers) - set(zero_cost.SCORERS)):
        raise InputError(f"unknown scorer {unknown[0]!r}; known: {', '.join(zero_cost.SCORERS)}")
    if min(args.architectures, args.repeats + 1, args.workers) < 1:
        raise InputError("--architectures and --workers need 1 or more, --repeats 0 or more")
    floor, limit = budget.parse(args.floor), budget.parse(args.budget)
    if floor.quantity != limit.quantity or limit.quantity == "latency_ms":
        raise InputError("--floor and --budget need the same unit, other than ms")
    base, long = recipe.load(args.recipe), recipe.load(args.long_recipe)
    if args.long_pictures is not None:
        long = dataclasses.replace(long, train_pictures=args.long_pictures)
    if args.long_epochs is not None:
        long = dataclasses.replace(long, epochs=args.long_epochs)
    if args.test_pictures is not None:
        long = dataclasses.replace(long, test_pictures=args.test_pictures)
    # Both hold out the same images.
    long = dataclasses.replace(long, validation_pictures=base.validation_pictures)
    dataset = datasets.load(args.data)
    searched = dataclasses.replace(space.load(args.space), classes=len(dataset.classes))
    options = searched.choices.get("resolution", ())
    if options and dataset.resolution < max(options):
        searched = searched.pin(resolution=options[0])

    def amount(arch: Arch) -> float:
        return float(getattr(cost.count(lower(arch)), limit.quantity))

    archs = draw(searched, amount, floor.limit, limit.limit, args)
    wanted = tasks(archs, long, base, args)
    args.out.mkdir(parents=True, exist_ok=True)
    with locked(args.out):
        documents = {arch.id: to_json(arch) for arch in archs}
        write_whole(args.out / "architectures.json", json.dumps(documents, indent=1).encode())
        about = {
            "data": args.data,
            "long": dataclasses.asdict(long),
            "short": dataclasses.asdict(base),
        }
        journal = Journal(args.out / "results.jsonl", json.loads(json.dumps(about)))
        done = {(each["score"], each["arch"], each["seed"]) for each in journal.entries}
        if not args.table:
            todo = [task for task in wanted if task.key not in done]
            measure(todo, journal, args.data, args.workers, args.device)
        text = table(journal.entries, archs, [amount(arch) for arch in archs], args)
        write_whole(args.out / "fidelity.md", f"{text}\n".encode())
    return text


if __name__ == "__main__":
    sys.exit(main())
