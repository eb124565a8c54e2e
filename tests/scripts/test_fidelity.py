"""The measurement of scorers: its architectures, its table, and that a kill loses nothing."""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from small import write_pictures, write_space

from ghostnas.errors import InputError
from ghostnas.ir import cost
from ghostnas.networks import space
from ghostnas.networks.arch import lower
from ghostnas.networks.zoo import ghostnet
from ghostnas.stats import kendall
from ghostnas.training import recipe

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "experiments" / "fidelity.py"
RECIPE = """
train_pictures = 16
validation_pictures = 8
epochs = 1
batch_size = 8
learning_rate = 0.01
"""


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fidelity", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


fidelity = load_script()


def mflops(arch):
    return cost.count(lower(arch)).macs / 1e6


def asked(**changes):
    found = {"architectures": 8, "seed": 0, "repeats": 2, "scorers": ["macs"], "shorts": ["1x1"]}
    return argparse.Namespace(**{**found, **changes})


def test_architectures_are_spread_evenly_and_ghostnet_is_among_them():
    searched = space.load("ghostnet").pin(resolution=224)
    archs = fidelity.draw(searched, mflops, 40, 150, asked())
    assert archs[:2] == [ghostnet(1.0), ghostnet(0.75)]
    parts = np.floor((np.array([mflops(arch) for arch in archs[2:]]) - 40) / (110 / 6))
    assert parts.tolist() == list(range(6))
    assert len({arch.id for arch in archs}) == 8
    assert fidelity.draw(searched, mflops, 40, 150, asked()) == archs
    assert fidelity.draw(searched, mflops, 40, 150, asked(seed=1)) != archs


def test_a_range_with_nothing_of_the_space_is_rejected():
    searched = space.load("ghostnet").pin(resolution=224, alpha=0.5)
    with pytest.raises(InputError, match=r"almost no architectures from .* to 5 in"):
        fidelity.draw(searched, mflops, 1, 5, asked(architectures=1))


def test_short_trainings_are_the_recipe_with_their_numbers():
    base = recipe.load("proxy")
    short = fidelity.short_recipe("1280x2@16", base)
    assert (short.train_pictures, short.epochs, short.resolution) == (1280, 2, 16)
    assert (short.learning_rate, short.first_resolution) == (base.learning_rate, 0)
    grown = fidelity.short_recipe("1280x2@16-32", base)
    assert (grown.first_resolution, grown.resolution) == (16, 32)
    assert fidelity.short_recipe("5000x4", base).resolution is None


@pytest.mark.parametrize(
    "text", ["1280", "x", "1280x2x3", "1280x2@", "axb", "1280x2@big", "1280x2@16-"]
)
def test_an_invalid_short_training_is_rejected(text):
    with pytest.raises(InputError, match=f"short training {text!r}: write it like"):
        fidelity.short_recipe(text, recipe.load("proxy"))


ARCHS = [ghostnet(width) for width in (0.3, 0.4, 0.5, 0.6, 0.7)]
AMOUNTS = [1.0, 2.0, 3.0, 4.0, 5.0]


def entries(name, values, seed=0):
    return [
        {"score": name, "arch": arch.id, "seed": seed, "value": value, "seconds": 2.0 + at}
        for at, (arch, value) in enumerate(zip(ARCHS, values, strict=True))
    ]


LONGS = [
    *entries(fidelity.LONG, [0.1, 0.3, 0.2, 0.4, 0.5], 1),
    *entries(fidelity.LONG, [0.2, 0.3, 0.2, 0.6, 0.5], 2),
]
MEANS = [0.15, 0.3, 0.2, 0.5, 0.5]


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    return {line.split(" | ")[0][2:]: line.strip("| ").split(" | ")[1:] for line in lines}


def test_the_table_lists_the_best_taus_first():
    short = [1.0, 0.5, 0.7, 2.0, 1.5]
    found = [*entries("macs", AMOUNTS), *entries("1x1", short), *LONGS]
    text = fidelity.table(found, ARCHS, AMOUNTS, asked())
    assert text.startswith(
        "5 of 5 architectures, long trainings of each: 2; the best 50.0 % +- 0.0 (2 seeds, 50.0 to "
        "50.0), the worst 15.0 % +- 7.1 (2 seeds, 10.0 to 20.0)"
    )
    rows = rows_of(text)
    assert list(rows) == ["macs", "one long training, against the others", "1x1"]
    truth = np.array([[0.1, 0.3, 0.2, 0.4, 0.5], [0.2, 0.3, 0.2, 0.6, 0.5]]).T
    for name, values in (("macs", AMOUNTS), ("1x1", short)):
        expected = kendall(values, truth)
        assert rows[name][0] == f"{expected.tau:.2f}"
        assert rows[name][1] == f"{expected.low:.2f} to {expected.high:.2f}"
        assert rows[name][3] == "4.00"  # the median of 2 ... 6
    between, own, true = (
        kendall(*pair).tau for pair in ((short, MEANS), (short, AMOUNTS), (MEANS, AMOUNTS))
    )
    partial = (between - own * true) / np.sqrt((1 - own**2) * (1 - true**2))
    assert rows["1x1"][2] == f"{partial:.2f}"
    assert rows["macs"][2] == "-"


def test_a_failed_score_ranks_last_and_a_missing_one_is_named():
    failed = entries("macs", [None, 2.0, 3.0, 4.0, 5.0])
    text = fidelity.table([*failed, *LONGS], ARCHS, AMOUNTS, asked())
    lowest = kendall([1, 2, 3, 4, 5], MEANS).tau
    assert rows_of(text)["macs"][0] == f"{lowest:.2f}"
    assert text.endswith("not yet available for all of them: 1x1")


def test_scores_that_are_all_equal_rank_nothing_and_come_last():
    found = [*entries("macs", AMOUNTS), *entries("1x1", [3.0] * 5), *LONGS]
    rows = rows_of(fidelity.table(found, ARCHS, AMOUNTS, asked()))
    assert list(rows)[-1] == "1x1"
    assert rows["1x1"][:2] == ["-", "all scores are 3: they rank nothing"]


def test_the_table_uses_the_seeds_that_all_architectures_have():
    whole = [*entries("macs", AMOUNTS), *LONGS]
    one = fidelity.table(whole[:-1], ARCHS, AMOUNTS, asked())
    assert one.startswith(
        "5 of 5 architectures, long trainings of each: 1; the best 50.0 % (1 seed)"
    )
    assert "one long training" not in one
    few = fidelity.table(whole[:9], ARCHS, AMOUNTS, asked())
    assert few.startswith(
        "4 of 5 architectures, long trainings of each: 1; the best 40.0 % (1 seed)"
    )


def test_an_architecture_whose_long_training_failed_is_left_out():
    failed = [*LONGS[:-1], {**LONGS[-1], "value": None}]
    text = fidelity.table([*entries("macs", AMOUNTS), *failed], ARCHS, AMOUNTS, asked())
    assert text.startswith("4 of 5 architectures, long trainings of each: 2; the best 50.0 %")


@pytest.mark.parametrize(
    ("count", "said"), [(0, "have a long training"), (2, "long trainings of each: 1")]
)
def test_too_few_architectures_make_no_table(count, said):
    text = fidelity.table(LONGS[:count], ARCHS, AMOUNTS, asked())
    assert text.replace("architectures,", "architectures") == (
        f"{count} of 5 architectures {said}; too few to rank"
    )


@pytest.fixture
def command(tmp_path):
    how = tmp_path / "small-recipe.toml"
    how.write_text(RECIPE)
    return [
        *(f"--data=folder:{write_pictures(tmp_path)}", f"--out={tmp_path / 'out'}"),
        *(f"--space={write_space(tmp_path)}", "--floor=0.14MFLOPs", "--budget=0.3MFLOPs"),
        *(f"--recipe={how}", f"--long-recipe={how}", "--long-epochs=2", "--architectures=4"),
        *("--workers=1", "--shorts", "8x1", "16x1@8", "--scorers", "macs", "synflow", "zico"),
    ]


def children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()]


@pytest.mark.slow
def test_a_killed_measurement_resumes_and_ends_with_a_table(tmp_path, command):
    results = tmp_path / "out" / "results.jsonl"
    whole = [sys.executable, str(SCRIPT), *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(whole, text=True, **pipes) as first:
        for _ in range(5):
            assert first.stdout.readline()
        workers = children(first.pid)
        first.kill()
        first.stdout.read()
    assert workers
    before = results.read_text()
    assert 6 <= before.count("\n") < 1 + 4 * (5 + 2)
    finished = subprocess.run(whole, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    after = results.read_text()
    assert after.startswith(before[: before.rindex("\n") + 1])
    lines = [json.loads(line) for line in after.splitlines()][1:]
    assert len({(line["score"], line["arch"], line["seed"]) for line in lines}) == len(lines)
    assert len(lines) == 4 * (5 + 2)  # 3 scorers, 2 short trainings and 2 long ones of each
    assert all(0 < line["seconds"] < 60 for line in lines)
    archs = json.loads((tmp_path / "out" / "architectures.json").read_text())
    assert set(archs) == {line["arch"] for line in lines}
    macs = {line["arch"]: line["value"] for line in lines if line["score"] == "macs"}
    assert len(set(macs.values())) == 4
    report = (tmp_path / "out" / "fidelity.md").read_text()
    assert finished.stdout.endswith(report)
    assert report.startswith("4 of 4 architectures, long trainings of each: 2; the best ")
    assert len(rows_of(report)) == 6
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def run_here(monkeypatch, command):
    monkeypatch.setattr(sys, "argv", ["fidelity", *command])
    return fidelity.main()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data=nowhere:x"], "unknown data 'nowhere:x'"),
        (["--scorers", "zenn"], "unknown scorer 'zenn'; known: synflow"),
        (["--shorts", "8"], "short training '8': write it like"),
        (["--shorts", "8x0"], "epochs = 0 is out of range"),
        (["--floor=1ms"], "--floor and --budget need the same unit"),
        (["--repeats=-1"], "--architectures and --workers need 1 or more, --repeats 0 or more"),
        (["--recipe=none"], "unknown recipe 'none'"),
        (["--floor=400MFLOPs", "--budget=500MFLOPs"], "space small has almost no architectures"),
    ],
)
def test_bad_input_gives_one_line(monkeypatch, capsys, command, change, message):
    assert run_here(monkeypatch, [*command, *change]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fidelity: {message}")
    assert error.count("\n") == 1


def test_the_table_alone_trains_nothing_and_other_settings_are_rejected(
    monkeypatch, capsys, command
):
    assert run_here(monkeypatch, [*command, "--table"]) == 0
    assert "0 of 4 architectures" in capsys.readouterr().out
    assert run_here(monkeypatch, [*command, "--table", "--long-epochs=3"]) == 2
    assert "results.jsonl was begun with long {" in capsys.readouterr().err
