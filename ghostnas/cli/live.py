"""A running search in the terminal: what `ghostnas.nas.snapshot` tells, drawn by rich."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ghostnas.nas.snapshot import Job, Snapshot, TrialSeen, Watch, unwatched
from ghostnas.progress import Say, duration

REFRESHES_A_SECOND = 2
LATEST, ALONG_FRONT = 4, 6  # trials shown
MANY_WORKERS = 8


class View(NamedTuple):
    """Where a search's progress lines and its snapshots go."""

    say: Say
    watch: Watch


@contextmanager
def view(say: Say) -> Iterator[View]:
    """A live view on stderr if that is a terminal, and the lines above it; else only the lines."""
    console = Console(stderr=True)
    if not sys.stderr.isatty() or console.is_dumb_terminal:
        yield View(say, unwatched)
        return
    told: list[Callable[[], Snapshot]] = []

    def drawn() -> RenderableType:
        return render(told[-1]()) if told else Text("loading ...", style="dim")

    with Live(
        console=console,
        get_renderable=drawn,
        refresh_per_second=REFRESHES_A_SECOND,
        transient=True,
        vertical_overflow="crop",
    ):
        yield View(
            lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
            told.append,
        )


def render(now: Snapshot) -> RenderableType:
    """The view of a search at one moment."""
    parts: list[RenderableType] = [_head(now)]
    if now.trials:
        tables = Table.grid(padding=(0, 4))
        tables.add_row(_trials("latest", now.trials[-LATEST:][::-1], now), _front(now))
        parts += [Text(), tables]
    parts += [Text(), _workers(now.workers)]
    title = f"ghostnas search · {now.target} · {', '.join(now.budgets)}"
    hint = "Ctrl-C stops; --resume goes on"
    return Panel(Group(*parts), title=title, subtitle=hint, title_align="left", border_style="blue")


def _head(now: Snapshot) -> Table:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column()
    left = "" if now.left_s is None else f", about {duration(now.left_s)} left"
    rows.add_row("now", Text(f"{now.phase}{left}", style="bold"))
    rows.add_row("spent", f"{duration(now.spent_s)} in {now.folder}")
    share = f", {now.fitting / now.size:.2g} of all" if now.size else ""
    rows.add_row("networks", f"{now.fitting:.3g} meet the budgets{share}")
    if now.to_screen:
        rows.add_row("screened", _bar(now.screened, now.to_screen))
    rows.add_row("trials", _bar(len(now.trials), now.wanted))
    if now.to_finish:
        rows.add_row("trainings", _bar(now.finals, now.to_finish))
    if now.best is not None:
        rows.add_row("best", _best(now.best, now))
    return rows


def _bar(done: int, wanted: int) -> Table:
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(total=max(wanted, 1), completed=done, width=30), f"{done}/{wanted}")
    return bar


def _best(best: TrialSeen, now: Snapshot) -> Text:
    text = Text(f"trial {best.number}: ")
    text.append(_score(best, now), style="bold green")
    if now.expected is not None:
        mean, deviation = now.expected
        text.append(f", expected {100 * mean:.1f} ± {100 * deviation:.1f} %")
    return text.append(f", {best.macs / 1e6:.1f} MFLOPs, {best.latency_ms:.2f} ms")


def _front(now: Snapshot) -> Table:
    along = sorted((e for e in now.trials if e.number in now.front), key=lambda e: -e.score)
    return _trials(f"front of {len(along)}", along[:ALONG_FRONT], now)


def _trials(title: str, several: list[TrialSeen] | tuple[TrialSeen, ...], now: Snapshot) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1), title_style="dim")
    for name in ("trial", "top-1" if now.accuracies else "score", "MFLOPs", "ms"):
        table.add_column(name, justify="right", header_style="dim", no_wrap=True)
    for each in several:
        style = "green" if now.best is not None and each.number == now.best.number else ""
        table.add_row(
            str(each.number),
            _score(each, now) + (" cut" if each.stopped else ""),
            f"{each.macs / 1e6:.1f}",
            f"{each.latency_ms:.2f}",
            style="dim" if each.stopped else style,
        )
    return table


def _score(trial: TrialSeen, now: Snapshot) -> str:
    return f"{trial.score:.1%}" if now.accuracies else f"{trial.score:.5g}"


def _workers(workers: tuple[Job | None, ...]) -> Table:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    for at, job in enumerate(workers[:MANY_WORKERS], 1):
        doing = "idle" if job is None else f"{job.what}: {job.network}, {duration(job.seconds)}"
        rows.add_row(f"worker {at}", doing)
    if (more := len(workers) - MANY_WORKERS) > 0:
        rows.add_row(f"{more} more", "")
    return rows
