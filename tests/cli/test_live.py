import io
import os
import sys
from contextlib import suppress
from dataclasses import replace

import pytest
from rich.console import Console

from ghostnas.cli import live
from ghostnas.nas.snapshot import Job, Snapshot, TrialSeen, front, unwatched


def trial(number, score, ms=10.0, stopped=False):
    return TrialSeen(number=number, score=score, macs=12_300_000, latency_ms=ms, stopped=stopped)


TRIALS = (trial(0, 0.5), trial(1, 0.6), trial(2, 0.55, 8.0), trial(3, 0.7, 12.0, stopped=True))
NOW = Snapshot(
    phase="trials",
    folder="runs/one",
    target="arm",
    budgets=("150MFLOPs", "6MB"),
    accuracies=True,
    fitting=2.5e6,
    size=1e7,
    screened=48,
    to_screen=48,
    trials=TRIALS,
    wanted=6,
    best=TRIALS[1],
    expected=(0.58, 0.02),
    finals=0,
    to_finish=0,
    front=front(TRIALS),
    workers=(Job(what="trial", network="abc123", seconds=12.0), None),
    spent_s=75.0,
    left_s=130.0,
)


def drawn(now, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(live.render(now))
    return console.file.getvalue()


def test_the_view_tells_trials_best_front_time_and_workers():
    text = drawn(NOW)
    for part in (
        "ghostnas search · arm · 150MFLOPs, 6MB",
        "trials, about 2 min left",
        "75 s in runs/one",
        "2.5e+06 meet the budgets, 0.25 of all",
        "48/48",
        "4/6",
        "trial 1: 60.0%, expected 58.0 ± 2.0 %, 12.3 MFLOPs, 10.00 ms",
        "front of 2",
        "70.0% cut",
        "trial: abc123, 12 s",
        "idle",
    ):
        assert part in text, part


def test_a_search_that_trains_nothing_has_scores():
    text = drawn(replace(NOW, accuracies=False, trials=(trial(0, 123.4567),), expected=None))
    assert "123.46" in text
    assert "top-1" not in text


@pytest.mark.parametrize("width", [30, 60, 200])
def test_it_fits_any_terminal(width):
    assert all(len(line) <= width for line in drawn(NOW, width).splitlines())


def test_before_the_first_trial_it_says_what_is_known():
    early = replace(NOW, trials=(), best=None, expected=None, front=frozenset(), left_s=None)
    text = drawn(early)
    assert "0/6" in text
    assert "best" not in text


def test_the_front_leaves_out_what_another_trial_beats_and_what_was_stopped():
    assert front(TRIALS) == {1, 2}


def test_without_a_terminal_there_are_only_the_lines():
    said = []
    with live.view(said.append) as view:
        view.say("one")
        assert view.watch is unwatched
    assert said == ["one"]


def test_on_a_terminal_the_lines_stand_above_the_view(monkeypatch):
    outer, inner = os.openpty()
    asked = []

    def now():
        asked.append(1)
        return NOW

    with os.fdopen(inner, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with live.view(lambda line: pytest.fail("a plain line")) as view:
            view.say("[bold] is not markup")
            view.watch(now)
            while not asked:  # drawn by rich's own thread
                pass
        os.set_blocking(outer, False)
        text = ""
        with suppress(BlockingIOError):
            while more := os.read(outer, 1 << 16):
                text += more.decode()
    os.close(outer)
    assert "[bold] is not markup" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is left hidden"
