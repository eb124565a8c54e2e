"""The command that a card prints starts the same search."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from ghostnas.cli.main import main
from ghostnas.errors import InputError
from ghostnas.nas import run, settings
from ghostnas.nas.settings import Settings


def started_by(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of the search that a command starts, which is not run."""
    found = []

    def start(given: Settings, *others: object) -> None:
        found.append(given)
        raise InputError("not run")

    monkeypatch.setattr(run, "start", start)
    program, *words = shlex.split(command)
    assert program == "ghostnas"
    assert main([*words, "--out", str(folder / "run")]) == 2
    return found[0]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"effort": "night"},
        {"effort": "hour", "recipe": "quick", "trials": 7, "halving": 0},
        {"confidence": 0.9, "seed": 5, "resolution": 160, "pareto": "accuracy,macs"},
        {"scorer": "synflow", "sampler": "tpe", "final_recipe": "proxy", "export_front": 2},
        {"budgets": ("20ms", "6MB", "15ms@s10-cpu1-fp32"), "deploy": "data", "screened": 0},
    ],
    ids=str,
)
def test_the_command_starts_the_same_search(
    given: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = settings.new({"target": "arm", "budgets": ("150MFLOPs",), **given})
    command = settings.command(first)
    assert started_by(command, tmp_path, monkeypatch) == first
    own = replace(first, blocks=("a.py", "b.py"))
    assert " --blocks a.py --blocks b.py" in settings.command(own)
    elsewhere = replace(first, workers=7, device="cuda", timeout_s=9.0, fingerprint="x")
    assert settings.command(elsewhere) == command
