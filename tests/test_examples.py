"""The examples run as they stand, on data that are small enough for a test."""

import functools
import runpy
import sys
from pathlib import Path

import pytest
from small import write_pictures, write_space

import ghostnas
from ghostnas import api

pytestmark = pytest.mark.usefixtures("one_core")
ROOT = Path(__file__).parents[1]
RECIPE = "epochs = 1\nbatch_size = 16\nlearning_rate = 0.01\nvalidation_pictures = 16\n"


def run(
    name: str,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_latencies_are_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = run("compare_latencies", ["ghostnet", "mobilenetv3-large"], monkeypatch, capsys)
    assert "arm" in {line.split()[0] for line in lines.splitlines()}
    assert lines.count(" ms") == 2 * (len(lines.splitlines()) - 1)


def test_a_space_is_drawn_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = run("draw_from_a_space", ["--count", "20"], monkeypatch, capsys).splitlines()
    assert "of 20 random networks" in lines[0]
    times = [float(line.split()[1]) for line in lines[1:]]
    assert times == sorted(times)


@pytest.mark.slow
def test_a_network_is_searched_trained_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.toml").write_text(RECIPE)
    arguments = [
        *("--space", str(write_space(tmp_path)), "--data", f"folder:{write_pictures(tmp_path)}"),
        *("--proxy", str(tmp_path / "short.toml"), "--recipe", str(tmp_path / "short.toml")),
        *("--budget", "300KFLOPs", "--trials", "2", "--out", str(tmp_path / "out")),
    ]
    monkeypatch.setattr(ghostnas, "search", functools.partial(api.search, workers=1))
    said = run("search_and_export", arguments, monkeypatch, capsys)
    assert "best: " in said
    assert "model-int8.tflite: " in said
