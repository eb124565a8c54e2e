"""The command line: frozen options, and one clear line for each kind of bad input."""

import argparse
import json
import re
import shlex
from pathlib import Path

import pytest
from small import SPACE, write_pictures, write_space

from ghostnas import arch, graph, weights, zoo
from ghostnas.cli import _parser, main

ROOT = Path(__file__).parent.parent
FROZEN = Path(__file__).parent / "golden" / "command_line.txt"


def options(parser: argparse.ArgumentParser, prefix: str = "ghostnas") -> list[str]:
    """A line an option: its command and how it is written."""
    lines = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                lines += options(command, f"{prefix} {name}")
        elif not isinstance(action, argparse._HelpAction):
            lines.append(f"{prefix} {'/'.join(action.option_strings) or action.metavar}")
    return lines


def test_the_command_line_is_frozen() -> None:
    """Scripts rely on it: change golden/command_line.txt by hand, and say so in the history."""
    assert options(_parser()) == FROZEN.read_text().splitlines()


def test_show_prints_the_published_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "ghostnet", "--target", "arm", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["params"] == 5_182_508
    assert shown["macs"] == 141_150_512
    assert shown["resolution"] == 224
    assert shown["missing_ops"] == []
    assert shown["latency_low_ms"] < shown["latency_ms"] < shown["latency_high_ms"]


def test_show_takes_a_width_and_a_resolution(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "ghostnet", "--width", "0.5", "--resolution", "160", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["id"] == zoo.ghostnet(0.5, 160).id


def test_lists_name_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latency", "list", "--json"]) == 0
    targets = {each["target"]: each for each in json.loads(capsys.readouterr().out)["targets"]}
    assert targets["arm"]["method"] == "emulated, not measured"
    assert main(["data", "list"]) == 0
    assert "cifar10:DIR" in capsys.readouterr().out


def test_predict_names_the_ops_that_it_interpolates(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latency", "predict", "ghostnet", "--width", "1.37", "--target", "arm"]) == 0
    assert "interpolated" in capsys.readouterr().out


def test_build_measures_a_table_that_predicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ghostnas.measure.ZOO_WIDTHS", ())
    write_space(tmp_path)
    table = tmp_path / "here.csv"
    space = ["--space", str(tmp_path / "small.toml"), "--runs", "2", "--networks", "8"]
    assert main(["latency", "build", *space, "--out", str(table)]) == 0
    capsys.readouterr()
    path = tmp_path / "small.json"
    searched = __import__("ghostnas.space", fromlist=["load"]).load(str(tmp_path / "small.toml"))
    path.write_text(json.dumps(arch.to_json(searched.decode({}))))
    assert main(["latency", "predict", str(path), "--target", str(table), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["latency_ms"] > 0


def bad(name: str, folder: Path) -> list[str]:
    """A command with one thing wrong, made in `folder`."""
    search = ["search", "--target", "arm", "--budget", "150MFLOPs", "--out", str(folder / "run")]
    damaged = folder / "damaged"
    if name.endswith("space"):
        text = {
            "unknown key in space": SPACE.replace("alpha", "aplha"),
            "unknown group key in space": SPACE.replace("se =", "see ="),
            "text for a number in space": SPACE.replace("stride = 2", 'stride = "two"'),
            "even kernel in space": SPACE.replace("\nkernel = [3, 5]", "\nkernel = [3, 4]"),
            "half a space": SPACE[: len(SPACE) // 2],
        }[name]
        path = damaged.with_suffix(".toml")
        path.write_text(text)
        return [*search, "--space", str(path)]
    if name.endswith("table"):
        text = (ROOT / "latency_tables" / "cortex-a76.csv").read_text()
        path = damaged.with_suffix(".csv")
        path.write_text({"half a table": text[:5000], "no table": "hello\n"}[name])
        return ["latency", "predict", "ghostnet", "--target", str(path)]
    if name == "cut CIFAR-10":
        for batch in range(1, 6):
            (folder / f"data_batch_{batch}.bin").write_bytes(bytes(3073 * 20 - 5))
        return [*search, "--data", f"cifar10:{folder}"]
    if name == "weights of another network":
        path = folder / "other.safetensors"
        weights.save(graph.random_weights(arch.lower(zoo.ghostnet(0.5)), 0), path)
        return ["export", "ghostnet", "--weights", str(path), "--out", str(folder / "x")]
    if name == "cut weights":
        path = folder / "cut.safetensors"
        path.write_bytes(b"\x10\x00\x00")
        return ["export", "ghostnet", "--weights", str(path), "--out", str(folder / "x")]
    if name == "cut arch":
        path = folder / "cut.json"
        path.write_text(json.dumps(arch.to_json(zoo.ghostnet()))[:300])
        return ["show", str(path)]
    if name == "one class":
        write_pictures(folder)
        for path in (folder / "pictures" / "dark").iterdir():
            path.unlink()
        return [*search, "--data", f"folder:{folder / 'pictures'}"]
    return {
        "unknown target": [*search[:2], "pixle4", *search[3:]],
        "unknown unit": [*search[:4], "150MFLOP5", *search[5:]],
        "no number": [*search[:4], "MFLOPs", *search[5:]],
        "budget nothing meets": [*search[:4], "1MFLOPs", *search[5:]],
        "latency nothing meets": [*search[:4], "0.1ms", *search[5:]],
        "no budget": ["search", "--target", "arm", "--out", str(folder / "run")],
        "unknown space name": [*search, "--space", "gostnet"],
        "missing space file": [*search, "--space", str(folder / "none.toml")],
        "unknown data": [*search, "--data", "cifar11:x"],
        "missing data folder": [*search, "--data", f"cifar10:{folder / 'none'}"],
        "empty data folder": [*search, "--data", f"folder:{folder}"],
        "no CIFAR-10 there": [*search, "--data", f"cifar10:{folder}"],
        "unknown recipe": [*search, "--recipe", "slow"],
        "resume of nothing": ["search", "--resume", "--out", str(folder / "run")],
        "storage that is not there": [*search, "--storage", "sqlite:////no/such/place/study.db"],
        "unknown storage": [*search, "--storage", "nosql://study"],
        "zero trials": [*search, "--trials", "0"],
        "bad time": [*search, "--timeout", "soon"],
        "unknown network": ["show", "gostnet"],
        "missing arch file": ["show", str(folder / "none.json")],
        "folder without a run": ["show", str(folder)],
        "bad width": ["show", "ghostnet", "--width", "-1"],
        "width of a file": ["show", str(folder), "--width", "1"],
        "unknown format": ["export", "ghostnet", "--format", "tfl", "--out", str(folder)],
        "no weights": ["export", "ghostnet", "--out", str(folder / "x")],
        "unknown device": ["latency", "build", "--device", "toaster", "--out", "x.csv"],
        "table not csv": ["latency", "build", "--out", str(folder / "x.txt")],
        "no command": [],
        "unknown command": ["serach"],
    }[name]


# What the line must name, so that it tells this mistake from the others.
EXPECTED = {
    "unknown key in space": "aplha",
    "unknown group key in space": "see",
    "text for a number in space": "stride",
    "even kernel in space": "odd",
    "half a space": "damaged.toml",
    "half a table": "damaged.csv",
    "no table": "damaged.csv",
    "cut CIFAR-10": "data_batch_1.bin",
    "weights of another network": "shape",
    "cut weights": "cut.safetensors",
    "cut arch": "cut.json",
    "one class": "at least 2",
    "unknown target": "cortex-a76",
    "unknown unit": "150MFLOPs",
    "no number": "150MFLOPs",
    "budget nothing meets": "times as much",
    "latency nothing meets": "times as much",
    "no budget": "--budget",
    "unknown space name": "known: ghostnet",
    "missing space file": "none.toml",
    "unknown data": "cifar10:DIR",
    "missing data folder": "none",
    "empty data folder": "a folder a class",
    "no CIFAR-10 there": "data_batch_1.bin",
    "unknown recipe": "proxy",
    "resume of nothing": "no search",
    "storage that is not there": "cannot be opened",
    "unknown storage": "cannot be opened",
    "zero trials": "positive",
    "bad time": "90s",
    "unknown network": "mobilenetv3-large",
    "missing arch file": "none.json",
    "folder without a run": "best.json",
    "bad width": "0.05",
    "width of a file": "ghostnet",
    "unknown format": "tflite",
    "no weights": "--weights",
    "unknown device": "local",
    "table not csv": ".csv",
    "no command": "COMMAND",
    "unknown command": "search",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_bad_input_gets_one_line_that_says_what_is_right(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = bad(name, tmp_path)
    try:
        code = main(arguments)
    except SystemExit as exited:  # argparse's own way out
        code = exited.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1, captured.err
    assert EXPECTED[name] in captured.err
    assert not (tmp_path / "run" / "search.toml").exists()


def readme_commands() -> list[str]:
    """The ghostnas commands of README.md's shell blocks, continued lines joined."""
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.strip().startswith("ghostnas ")]


def test_the_readme_has_commands() -> None:
    assert len(readme_commands()) >= 5


@pytest.mark.parametrize("line", readme_commands())
def test_the_readmes_commands_parse_and_the_quick_ones_run(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line)[1:]
    parsed = _parser().parse_args(words)
    needs_minutes_or_data = words[0] == "search" or "build" in words or "runs/" in line
    if needs_minutes_or_data:
        assert callable(parsed.command)
    else:
        assert main(words) == 0
        assert capsys.readouterr().out
