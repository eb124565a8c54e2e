"""Two searches share a study in a real PostgreSQL: one is killed, the server is restarted."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import postgres
import pytest
from small import write_pictures, write_space

from ghostnas.nas import storage

TRIALS = 24

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgres.PROGRAM is None, reason="no PostgreSQL"),
]


def start(folder: Path, url: str, out: str) -> subprocess.Popen[str]:
    search = [
        *(
            "search",
            "--target",
            "arm",
            "--budget",
            "2MFLOPs",
            "--space",
            str(folder / "small.toml"),
        ),
        *("--data", f"folder:{folder / 'pictures'}", "--storage", url, "--trials", str(TRIALS)),
        *("--screened", "8", "--finalists", "1", "--seeds", "1", "--workers", "1"),
        *("--out", str(folder / out)),
    ]
    with open(folder / f"{out}.txt", "w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "ghostnas", *search, "--json"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


def trials(url: str) -> list[optuna.trial.FrozenTrial]:
    opened = storage.open_storage(url, lambda line: None)
    try:
        return optuna.load_study(study_name="search", storage=opened).get_trials(deepcopy=False)
    finally:
        opened.engine.dispose()


def complete(found: list[optuna.trial.FrozenTrial]) -> dict[int, float]:
    return {each.number: each.value for each in found if each.state.name == "COMPLETE"}


def wait_for(url: str, count: int) -> dict[int, float]:
    for _ in range(600):
        try:
            done = complete(trials(url))
        except KeyError:  # no study yet
            done = {}
        if len(done) >= count:
            return done
        time.sleep(0.2)
    raise AssertionError(f"{count} trials did not come")


def test_a_kill_and_a_server_restart_lose_and_repeat_nothing(
    tmp_path: Path,
) -> None:
    write_space(tmp_path)
    write_pictures(tmp_path, a_class=400)
    with postgres.server() as server:
        first, second = (start(tmp_path, server.url, out) for out in ("first", "second"))
        try:
            before = wait_for(server.url, 8)
            second.kill()
            wait_for(server.url, 12)
            server.stop()
            time.sleep(3)
            server.start()
            output, _ = first.communicate(timeout=900)
        finally:
            for process in (first, second):
                process.kill()
                process.communicate()
        said = (tmp_path / "first.txt").read_text()
        assert first.returncode == 0, said
        found = trials(server.url)
    done = complete(found)
    assert before.items() <= done.items()
    assert len(done) == json.loads(output)["trials"] == TRIALS
    networks = Counter(each.user_attrs["id"] for each in found if each.number in done)
    assert max(networks.values()) == 1
    states = Counter(each.state.name for each in found)
    assert states["RUNNING"] == states["WAITING"] == 0
    assert "Traceback" not in said + (tmp_path / "second.txt").read_text()
    assert "; retrying for " in said
