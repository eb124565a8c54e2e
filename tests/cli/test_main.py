"""The command line: frozen options, and one clear line for each kind of bad input."""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from small import SPACE, write_pictures, write_space
from test_light_imports import HEAVY

from ghostnas import files
from ghostnas.cli.main import _parser, main
from ghostnas.devices import op_models
from ghostnas.ir import weights
from ghostnas.ir.random_weights import random_weights
from ghostnas.latency import op_signature, predictor
from ghostnas.latency import table as latency_table
from ghostnas.networks import arch, space, zoo

ROOT = Path(__file__).parents[2]
ARM = ROOT / "tests" / "golden" / "emulated-a76.csv"
CONVERTED = ROOT / "tests" / "golden" / "converted" / "keras-int8.tflite"
FROZEN = Path(__file__).parents[1] / "golden" / "command_line.txt"
RECIPE = "epochs = 1\nbatch_size = 16\nlearning_rate = 0.01\n"


def options(parser: argparse.ArgumentParser, prefix: str = "ghostnas") -> list[str]:
    """One line per option: its command and its spelling."""
    lines = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                lines += options(command, f"{prefix} {name}")
        elif not isinstance(action, argparse._HelpAction):
            lines.append(f"{prefix} {'/'.join(action.option_strings) or action.metavar}")
    return lines


def test_the_command_line_is_frozen() -> None:
    """Scripts rely on it: change golden/command_line.txt by hand, and note it in the history."""
    assert options(_parser()) == FROZEN.read_text().splitlines()


def leaves(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parsers of the commands that do something."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [leaf for a in below for each in a.choices.values() for leaf in leaves(each)] or [parser]


@pytest.mark.parametrize("command", leaves(_parser()), ids=lambda each: each.prog)
def test_each_commands_help_ends_with_an_example_that_parses(command: argparse.ArgumentParser):
    help_text = command.format_help()
    example = shlex.split(help_text.splitlines()[-1].partition(" >")[0])
    assert help_text.splitlines()[-2] == "example:"
    assert " ".join(example).startswith(command.prog)
    assert _parser().parse_args(example[1:]).command is command.get_default("command")


def test_a_command_says_what_to_do_next_but_not_in_json_nor_when_quiet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = {}
    for options in ((), ("--quiet",), ("--json",)):
        assert main(["data", "list", *options]) == 0
        lines[options] = capsys.readouterr().err
    assert lines == {
        (): "next: ghostnas data get cifar10 data\n",
        ("--quiet",): "",
        ("--json",): "",
    }


def test_bash_completes_commands_and_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "ghostnas.bash"
    script.write_text(capsys.readouterr().out)

    def completed(*words: str) -> set[str]:
        asked = (
            f"source {script}; COMP_WORDS=({' '.join(words)} ''); COMP_CWORD={len(words)}; "
            "complete -p ghostnas >/dev/null && _shtab_ghostnas; printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        ran = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
        return set(ran.stdout.split())

    assert {"search", "train", "latency"} <= completed("ghostnas")
    assert {"build", "list"} <= completed("ghostnas", "latency")


@pytest.mark.parametrize(
    "command",
    [["search"], ["train"], ["eval"], ["data"], ["data", "get"], ["data", "check"], ["latency"]],
    ids=" ".join,
)
def test_a_commands_help_imports_nothing_heavy(command: list[str]) -> None:
    script = (
        "import sys\n"
        "from ghostnas.cli.main import main\n"
        "try:\n"
        f"    main({[*command, '--help']!r})\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"print('heavy:', *sorted({HEAVY!r} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith(f"usage: ghostnas {' '.join(command)} ")
    assert ran.stdout.splitlines()[-1] == "heavy:"


def test_only_the_first_of_several_processes_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With processes as torchrun starts them; each still reports its own errors."""
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert main(["data", "list", "--json"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == lines
        assert main(["show", "gostnet"]) == 2
        assert "unknown network" in capsys.readouterr().err


def test_data_is_checked_and_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "synthetic", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["classes"], found["resolution"]) == ("synthetic", 10, 32)
    assert found["train"]["pictures"] == 10 * found["train"]["fewest"]["pictures"] == 5000
    assert found["skipped"] == []

    pictures = write_pictures(tmp_path)
    damaged = pictures / "dark" / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    assert main(["data", "check", f"folder:{pictures}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "folder pictures: 2 classes, 16 px"
    train, test = (re.fullmatch(r"(\w+): (\d+) images, .* per class", each) for each in lines[1:3])
    assert (train[1], test[1]) == ("train", "test")
    assert int(train[2]) + int(test[2]) == 47
    assert lines[-1].startswith(f"skipped {damaged}")


def test_matching_weights_of_another_network_are_taken_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    larger = arch.lower(zoo.ghostnet(0.3))
    weights.save(random_weights(larger, 0), tmp_path / "larger.safetensors")
    more = ["--init", str(tmp_path / "larger.safetensors"), "--json"]
    assert main([*write_training(tmp_path), *more]) == 0
    captured = capsys.readouterr()
    [said] = [line for line in captured.err.splitlines() if "larger.safetensors" in line]
    taken = re.search(r"(\d+) of (\d+) arrays taken whole, (\d+) cut, (\d+) left", said)
    whole, in_all, cut, left = map(int, taken.groups())
    assert whole + cut + left == in_all
    assert cut > 0 < left  # narrower layers, and a classifier for other classes
    assert json.loads(captured.out)["epochs"] == 1


def test_a_training_can_enlarge_a_network_and_its_folder_names_a_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = space.load(str(write_space(tmp_path))).decode({"resolution": 32})
    (tmp_path / "small.json").write_text(json.dumps(arch.to_json(small)))
    train, run = write_training(tmp_path), tmp_path / "run"
    named = ["train", str(tmp_path / "small.json"), *train[4:]]
    assert main([*named, "--resolution", "40"]) == 0
    capsys.readouterr()
    trained = arch.load(run / "arch.json")
    assert trained == arch.fit_to(small, resolution=40, classes=2)
    assert main(["show", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == trained.id
    again = ["train", str(run), *train[4:-1], str(tmp_path / "again"), "--resolution", "48"]
    assert main([*again, "--init", str(run / "model.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resolution"] == 48


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


def test_show_prints_rows_and_of_two_networks_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--svg", str(tmp_path / "both.svg"), "--onnx", str(tmp_path / "one.onnx")]
    asked = ["--target", "arm", "--width", "0.2", "--resolution", "64", "ghostnet"]
    assert main(["show", *asked]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"ghostnet 0\.2x: \w{12} at 64 px", lines[0])
    assert sum(" G-bneck " in line for line in lines) == 16
    assert main(["show", *asked, "ghostnetv2", *files]) == 0
    printed = capsys.readouterr().out
    assert "\n+ ghostnetv2: " in printed
    assert re.search(r"^MFLOPs +\d", printed, re.MULTILINE)
    assert {path.name for path in tmp_path.iterdir()} == {"both.svg", "one.onnx"}
    assert main(["show", *asked, "ghostnetv3", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["compared"]["name"]) == ("ghostnet 0.2x", "ghostnetv3")
    assert main(["show", "ghostnet", "--target", "arm", "ghostnetv3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["compared"]["name"] == "ghostnetv3"


def test_lists_name_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latency", "list", "--json"]) == 0
    targets = {each["target"]: each for each in json.loads(capsys.readouterr().out)["targets"]}
    assert targets["arm"]["method"] == "fitted to 87 published networks"
    assert targets["arm"]["source"] == "fitted"
    assert 0 < targets["arm"]["mape"] < 0.07
    assert targets["rpi5-cpu4-int8"]["source"] == "computed"
    assert main(["latency", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "arm is another name of pixel4-cpu1-fp32" in lines
    assert len({line.find(" fp32 ") for line in lines if line.startswith("s10-cpu1-fp32")}) == 1
    assert main(["data", "list"]) == 0
    assert "cifar10:DIR" in capsys.readouterr().out


def test_predict_names_the_ops_that_it_interpolates(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latency", "predict", "ghostnet", "--width", "1.37", "--target", str(ARM)]) == 0
    assert "interpolated" in capsys.readouterr().out


def test_predict_takes_threads_a_dtype_and_files_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "where.csv"
    options = ["--target", "arm", "--threads", "2", "--dtype", "int8", "--csv", str(out)]
    others = ["--compare", "squeezenet_v1_1"]
    assert main(["latency", "predict", str(CONVERTED), *options, *others, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["id"], found["target"]) == (str(CONVERTED), "pixel4-cpu2-int8")
    assert (found["threads"], found["dtype"], found["resolution"]) == (2, "int8", 32)
    assert found["latency_ms"] < found["compared"]["latency_ms"]
    for each in (found, found["compared"]):
        whole = sum(row["latency_ms"] for row in each["where"])
        assert whole == pytest.approx(each["latency_ms"])
    assert "squeezenet_v1_1,pixel4-cpu2-int8,,conv 3x3," in out.read_text()


def test_timings_of_networks_make_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "mine.tflite"
    model.write_bytes(CONVERTED.read_bytes())
    named = {"ghostnet": 160, "mobilenet_w1": "", "resnet10": 224, "mine.tflite": ""}
    lines = ["network,resolution,ms"]
    for name, resolution in named.items():
        options = ["--resolution", str(resolution)] if resolution else []
        path = str(model) if name == model.name else name
        assert main(["show", path, "--target", "s10-cpu1-fp32", "--json", *options]) == 0
        ms = json.loads(capsys.readouterr().out)["latency_ms"]
        lines.append(f"{name},{resolution},{1.5 * ms:.6f}")
    timings, out = tmp_path / "timings.csv", tmp_path / "phone.csv"
    timings.write_text("\n".join(lines))
    command = ["latency", "calibrate", "--from", str(timings), "--out", str(out)]
    assert main([*command, "--target", "s10-cpu1-fp32"]) == 0
    printed = capsys.readouterr().out
    assert "from 4 timings, starting from s10-cpu1-fp32" in printed
    assert "mine.tflite" in printed
    assert main(["show", "mobilenet_w1", "--target", str(out), "--json"]) == 0
    predicted = json.loads(capsys.readouterr().out)["latency_ms"]
    assert predicted == pytest.approx(float(lines[2].split(",")[2]), rel=0.02)
    assert main([*command, "--target", "s10-cpu1-fp32"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "x.csv"), "--target", str(out)]) == 2
    assert "a table of your own: leave out --target" in capsys.readouterr().err
    assert main([*command[:2], "--out", str(tmp_path / "y.csv")]) == 2
    assert "give --target, the table to transfer, or --from" in capsys.readouterr().err


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small space, the table `here.csv` built from it, and its network."""
    folder = tmp_path_factory.mktemp("built")
    searched = space.load(str(write_space(folder)))
    (folder / "small.json").write_text(json.dumps(arch.to_json(searched.decode({}))))
    more = ["--ops", "200", "--networks", "12", "--out", str(folder / "here.csv"), "--json"]
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        with redirect_stdout(StringIO()) as output:
            assert main(["latency", "build", *of_small(folder), *more]) == 0
    (folder / "built.json").write_text(output.getvalue())
    return folder


def make_quick(patch: pytest.MonkeyPatch) -> None:
    """Measure only a space's own ops, and retime nothing because the machine was busy."""
    patch.setattr("ghostnas.devices.op_models.ZOO_WIDTHS", ())
    patch.setattr("ghostnas.devices.table_build.NETWORKS_A_BATCH", 12)
    patch.setattr("ghostnas.devices.table_build.SPREAD", 99.0)
    patch.setattr("ghostnas.devices.table_build.DRIFTED", 99.0)


def of_small(folder: Path) -> list[str]:
    return ["--space", str(folder / "small.toml"), "--rounds", "2"]


def test_build_measures_a_table_that_predicts(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads((built / "built.json").read_text())
    assert result.pop("seconds") > result.pop("writing_s") > 0
    assert result.pop("thrown_away") >= 0
    table = str(built / "here.csv")
    counts = {"ops": 200, "measured": 200, "refused": {}, "networks": 12}
    assert result == {"table": table, **counts}
    predict = ["latency", "predict", str(built / "small.json"), "--target", table, "--json"]
    assert main(predict) == 0
    predicted = json.loads(capsys.readouterr().out)
    assert 0 < predicted["latency_low_ms"] < predicted["latency_ms"]
    assert predicted["confidence"] == 0.9
    assert main([*predict, "--confidence", "0.6"]) == 0
    surer = json.loads(capsys.readouterr().out)
    assert surer["latency_high_ms"] <= predicted["latency_high_ms"]


def test_check_and_calibrate_report_their_results(
    built: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_quick(monkeypatch)
    check = ["latency", "check", *of_small(built), "--target", str(built / "here.csv")]
    assert main([*check, "--networks", "10", "--json"]) == 0
    captured = capsys.readouterr()
    checked = json.loads(captured.out)
    assert (checked["table"], checked["networks"]) == (str(built / "here.csv"), 10)
    assert {"mape", "spearman", "kendall", "coverage", "flops", "drift"} <= set(checked)
    assert captured.err.splitlines()[-1] == "10 of 10 networks, 0 s left"
    assert main([*check, "--networks", "10", "--seed", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"10 networks that {built / 'here.csv'} has not seen"
    assert [line.split()[0] for line in lines[1:3]] == ["table", "FLOPs"]
    assert all("Spearman" in line for line in lines[1:3])
    assert lines[3].startswith("the 90 % interval covered ")
    assert lines[4].endswith("than it was when the table was built")

    out = tmp_path / "carried.csv"
    calibrate = ["latency", "calibrate", *of_small(built), "--target", str(built / "here.csv")]
    assert main([*calibrate, "--networks", "10", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 200 ops, from 10 networks\n"
    assert latency_table.load(str(out)).origin.method == "carried over from here by 10 networks"


def write_origin(folder: Path, **changed: object) -> Path:
    """What a user knows about a table measured elsewhere."""
    known = {"device": "Pixel 4", "threads": 1, "runtime": "TFLite 2.9", "delegate": "XNNPACK"}
    fields = {**known, "dtype": "fp32", **changed}
    path = folder / "origin.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items()))
    return path


def write_rows(folder: Path, *, us: int = 125) -> Path:
    path = folder / "rows.csv"
    path.write_text(
        "op,height,width,in_channels,out_channels,kernel,stride,activation,us\n"
        f"conv,14,14,64,64,1,1,relu,{us}\nadd,14,14,64,64,0,0,none,{us // 2}\n"
    )
    return path


def test_a_csv_is_imported_and_a_second_one_is_merged_into_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pixel.csv"
    origin = ["--origin", str(write_origin(tmp_path)), "--out", str(out)]
    assert main(["latency", "import", str(write_rows(tmp_path)), *origin]) == 0
    assert capsys.readouterr().out == f"{out}: 2 ops, 2 newly imported\n"
    table = latency_table.load(str(out))
    assert (table.origin.device, table.origin.method) == ("Pixel 4", "imported")
    assert sorted(timing.median_ms for timing in table.rows.values()) == [0.062, 0.125]
    more = tmp_path / "more.csv"
    more.write_text(
        write_rows(tmp_path, us=250).read_text().replace("add,14,14,64,64", "add,7,7,64,64")
    )
    assert main(["latency", "import", str(more), *origin, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"table": str(out), "ops": 3, "imported": 2}
    table = latency_table.load(str(out))
    assert sorted(timing.median_ms for timing in table.rows.values()) == [0.062, 0.125, 0.25]


def test_a_profile_is_imported_by_the_network_that_was_profiled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log of the nodes that LiteRT runs for GhostNet 0.5x, each a microsecond longer."""
    network = zoo.ghostnet(0.5, 64)
    interpreter = Interpreter(
        model_content=op_models.network_model(network),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    nodes = [op["op_name"] for op in interpreter._get_ops_details()]
    rows = "".join(
        f"\t{name}\t0.001\t{index / 1000:.3f}\t1.0%\t1.0%\t0.0\t1\t[{index}]:{index}\n"
        for index, name in enumerate(nodes, 1)
    )
    log = tmp_path / "profile.txt"
    log.write_text(
        f"{'=' * 30} Run Order {'=' * 30}\n{rows}\nNumber of nodes executed: {len(nodes)}\n"
    )
    out = tmp_path / "pixel.csv"
    imported = ["latency", "import", str(log), "--format", "benchmark-model"]
    of = ["--arch", "ghostnet", "--width", "0.5", "--resolution", "64"]
    to = ["--origin", str(write_origin(tmp_path)), "--out", str(out), "--json"]
    assert main([*imported, *of, *to]) == 0
    found = set(op_signature.signatures(arch.lower(network)))
    result = json.loads(capsys.readouterr().out)
    assert result == {"table": str(out), "ops": len(found), "imported": len(found)}
    table = latency_table.load(str(out))
    assert set(table.rows) == found
    assert predictor.Predictor(table).predict(network).interpolated == ()
    assert main([*imported, "--arch", "ghostnet", *to]) == 0  # another size, the same nodes
    capsys.readouterr()
    assert main([*imported, "--arch", "mobilenetv3-large", *to]) == 2
    assert "the network needs" in capsys.readouterr().err


def test_a_table_of_another_setting_is_left_as_it_is(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "here.csv"
    table.write_bytes((built / "here.csv").read_bytes())
    before = set(tmp_path.rglob("*")), table.read_bytes()
    for command, difference in (
        (["build", *of_small(built), "--ops", "200", "--dtype", "int8"], "dtype is 'int8' in one"),
        (["import", str(write_rows(built)), "--origin", str(write_origin(built))], "device is"),
    ):
        assert main(["latency", *command, "--out", str(table)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1
        assert difference in captured.err
        assert (set(tmp_path.rglob("*")), table.read_bytes()) == before


@pytest.mark.parametrize("command", ["build", "check", "calibrate", "import"])
def test_a_table_in_use_by_another_process_is_refused_before_a_device_is_opened(
    command: str,
    built: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_device(url: str) -> None:
        raise AssertionError("a device was opened")

    monkeypatch.setattr("ghostnas.devices.device.open_device", no_device)
    table = tmp_path / "here.csv"
    table.write_bytes((built / "here.csv").read_bytes())
    options = {
        "build": ["--out", str(table)],
        "check": ["--target", str(table)],
        "calibrate": ["--target", "arm", "--out", str(table)],
        "import": [
            *(str(write_rows(tmp_path)), "--origin", str(write_origin(tmp_path))),
            *("--out", str(table)),
        ],
    }[command]
    with files.locked_file(table):
        assert main(["latency", command, *options]) == 2
    line = f"ghostnas: {table}: another process is at work on it; wait for it, or name another file"
    assert capsys.readouterr().err.splitlines() == [line]
    assert table.read_bytes() == (built / "here.csv").read_bytes()
    assert not list(tmp_path.glob(".*"))  # the lock is gone


def write_training(folder: Path) -> list[str]:
    """A training that takes seconds, and what it needs."""
    (folder / "short.toml").write_text(RECIPE)
    return [
        *("train", "ghostnet", "--width", "0.1", "--data", f"folder:{write_pictures(folder)}"),
        *("--recipe", str(folder / "short.toml"), "--device", "cpu", "--threads", "1"),
        *("--out", str(folder / "run")),
    ]


def bad_training(name: str, folder: Path) -> list[str]:
    """A `train` or an `eval` with one thing wrong."""
    train, resume = write_training(folder), ["train", "--resume", "--out", str(folder / "run")]
    changed = {
        "half a recipe": RECIPE[:-8],
        "unknown key in recipe": RECIPE.replace("epochs", "epocs"),
        "recipe without a rate": RECIPE.replace("learning_rate = 0.01", ""),
        "recipe out of range": f"{RECIPE}label_smoothing = 1.5\n",
        "text for a number in recipe": RECIPE.replace("16", '"many"'),
        "recipe for more classes": f"{RECIPE}classes = 10\n",
    }
    if name in changed:
        path = folder / "damaged.toml"
        path.write_text(changed[name])
        return [*train, "--recipe", str(path)]
    if name == "damaged settings of a training":
        (folder / "run").mkdir()
        (folder / "run" / "train.toml").write_text('data = "synthetic"\n')
        return resume
    if name == "training that is there":
        (folder / "run").mkdir()
        (folder / "run" / "train.toml").touch()
        return train
    if name == "initial weights that fit nowhere":
        path = folder / "other.safetensors"
        weights.save({"other.weight": np.zeros((3, 5), np.float32)}, path)
        return [*train, "--init", str(path)]
    if name == "initial weights that are none":
        return [*train, "--init", str(folder / "short.toml")]
    if name == "teacher of other classes":
        teacher = zoo.ghostnet(0.1, 32, classes=5)
        path = folder / "teacher" / "model.safetensors"
        path.parent.mkdir()
        weights.save(random_weights(arch.lower(teacher), 0), path)
        (path.parent / "arch.json").write_text(json.dumps(arch.to_json(teacher)))
        return [*train, "--teacher", str(path.parent)]
    if name == "damaged image in a strict training":
        (folder / "pictures" / "dark" / "1.jpg").write_bytes(b"no picture")
        return [*train, "--strict"]
    if name == "damaged model":
        (folder / "model.onnx").write_bytes(b"no model")
        return ["eval", str(folder / "model.onnx"), "--data", train[5]]
    return {
        "training without ARCH": [train[0], *train[4:]],
        "training without data": [*train[:4], *train[6:]],
        "training without out": train[:-2],
        "training of an unknown network": ["train", "gostnet", *train[4:]],
        "training of a folder without a run": ["train", str(folder), *train[4:]],
        "unknown recipe of a training": [*train, "--recipe", "slow"],
        "missing recipe": [*train, "--recipe", str(folder / "none.toml")],
        "missing data of a training": [*train, "--data", f"folder:{folder / 'none'}"],
        "zero epochs": [*train, "--epochs", "0"],
        "zero images per batch": [*train, "--batch-size", "0"],
        "workers below zero": [*train, "--workers", "-1"],
        "more workers than CPUs": [*train, "--workers", "9999"],
        "more threads than CPUs": [*train, "--threads", "9999"],
        "checkpoints in words": [*train, "--checkpoint-every", "often"],
        "unknown device of a training": [*train, "--device", "tpu"],
        "missing initial weights": [*train, "--init", str(folder / "none.pth")],
        "missing teacher": [*train, "--teacher", str(folder / "none.onnx")],
        "teacher that is not a model": [*train, "--teacher", str(folder / "short.toml")],
        "resume of no training": resume,
        "resume with ARCH": [*resume, "ghostnet"],
        "resume with other data": [*resume, "--data", "synthetic"],
        "resume with a seed": [*resume, "--seed", "0"],
        "resume without out": ["train", "--resume"],
        "training into a file": [*train[:-1], str(folder / "short.toml")],
        "training from half a seed": [*train, "--seed", "0.5"],
        "check from half a seed": ["latency", "check", "--target", str(ARM), "--seed", "0.5"],
        "eval of nothing": ["eval", "--data", "synthetic"],
        "eval without data": ["eval", str(folder / "model.onnx")],
        "eval of no images": ["eval", "x.onnx", "--data", "synthetic", "--limit", "0"],
        "eval of a missing model": ["eval", str(folder / "none.onnx"), "--data", train[5]],
    }[name]


def bad(name: str, folder: Path) -> list[str]:
    """A command with one thing wrong, made in `folder`."""
    search = ["search", "--target", "arm", "--budget", "150MFLOPs", "--out", str(folder / "run")]
    to = ["--out", str(folder / "x.csv")]
    build = ["latency", "build", *to]
    predict = ["latency", "predict", "ghostnet", "--target", "cortex-a76"]
    calibrate = ["latency", "calibrate", "--target", "cortex-a76", "--rounds", "1"]
    damaged = folder / "damaged"
    if name in OF_TRAINING:
        return bad_training(name, folder)
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
        text = ARM.read_text()
        path = damaged.with_suffix(".csv")
        path.write_text({"half a table": text[:5000], "no table": "hello\n"}[name])
        return ["latency", "predict", "ghostnet", "--target", str(path)]
    if name.endswith("import"):
        origin, rows = write_origin(folder), write_rows(folder)
        if name == "unknown key in import":
            origin = write_origin(folder, devcie="Pixel 4")
        elif name == "negative threads in import":
            origin = write_origin(folder, threads=0)
        elif name == "no TOML in import":
            origin.write_text("device: Pixel 4\n")
        elif name == "missing key in import":
            origin.write_text('device = "Pixel 4"\n')
        elif name == "bad row in import":
            rows.write_text(rows.read_text().replace("relu,125", "relu,fast"))
        elif name == "unknown op in import":
            rows.write_text(rows.read_text().replace("add,", "subtract,"))
        elif name == "missing origin of import":
            origin.unlink()
        elif name == "missing file of import":
            rows.unlink()
        elif name == "binary file of import":
            rows.write_bytes(bytes(range(256)))
        out = folder / ("x.txt" if name == "no csv from import" else "x.csv")
        command = ["latency", "import", str(rows), "--origin", str(origin), "--out", str(out)]
        if name.startswith("profile"):
            command += ["--format", "benchmark-model"]
        if name == "profile that is none in import":
            command += ["--arch", "ghostnet"]
        return command
    if name == "cut CIFAR-10":
        for batch in range(1, 6):
            (folder / f"data_batch_{batch}.bin").write_bytes(bytes(3073 * 20 - 5))
        return [*search, "--data", f"cifar10:{folder}"]
    if name == "weights of another network":
        path = folder / "other.safetensors"
        weights.save(random_weights(arch.lower(zoo.ghostnet(0.5)), 0), path)
        return ["export", "ghostnet", "--weights", str(path), "--out", str(folder / "x")]
    if name == "cut weights":
        path = folder / "cut.safetensors"
        path.write_bytes(b"\x10\x00\x00")
        return ["export", "ghostnet", "--weights", str(path), "--out", str(folder / "x")]
    if name == "cut arch":
        path = folder / "cut.json"
        path.write_text(json.dumps(arch.to_json(zoo.ghostnet()))[:300])
        return ["show", str(path)]
    if name == "too few ops":
        return [*build, "--ops", "5", *of_small(write_space(folder).parent)]
    if name == "one class":
        write_pictures(folder)
        for path in (folder / "pictures" / "dark").iterdir():
            path.unlink()
        return [*search, "--data", f"folder:{folder / 'pictures'}"]
    return {
        "unknown target": [*search[:2], "pixle4", *search[3:]],
        "part of a target": [*search[:2], "pixel4", *search[3:]],
        "unknown target of a budget": [*search[:4], "20ms@pixle4-cpu1-fp32", *search[5:]],
        "budget below zero": [*search[:4], "-5ms", *search[5:]],
        "resolution of one": ["show", "ghostnet", "--resolution", "1"],
        "resolution of a search": [*search, "--resolution", "15"],
        "resolution of an export": ["export", "ghostnet", "--resolution", "99999", "--out", "x"],
        "resolution of a training": ["train", "ghostnet", "--resolution", "7", "--out", "x"],
        "confidence of nothing": ["show", "ghostnet", "--confidence", "0.9"],
        "out that is not UTF-8": [*search[:-1], os.fsdecode(b"r\xe9sult")],
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
        "zero finalists": [*search, "--finalists", "0"],
        "zero seeds": [*search, "--seeds", "0"],
        "unknown scorer": [*search, "--scorer", "synfow"],
        "unknown device of a search": [*search, "--device", "tpu"],
        "seed below zero": [*search, "--seed", "-1"],
        "seed above all": [*search, "--seed", "2147483648"],
        "search into a file": [*search[:-1], str(ARM)],
        "search below a file": [*search[:-1], str(ARM / "run")],
        "export into a file": ["export", "ghostnet", "--out", str(ARM)],
        "recipe that holds none out": [*search, "--recipe", "cifar"],
        "bad time": [*search, "--timeout", "soon"],
        "unknown network": ["show", "gostnet"],
        "missing arch file": ["show", str(folder / "none.json")],
        "folder without a run": ["show", str(folder)],
        "bad width": ["show", "ghostnet", "--width", "-1"],
        "width of a file": ["show", str(folder), "--width", "1"],
        "unknown format": ["export", "ghostnet", "--format", "tfl", "--out", str(folder)],
        "no weights": ["export", "ghostnet", "--out", str(folder / "x")],
        "unknown device": [*build, "--device", "toaster"],
        "device without a host": [*build, "--device", "ssh:"],
        "table not csv": ["latency", "build", "--ops", "5", "--out", str(folder / "x.txt")],
        "no out": ["latency", "build"],
        "unknown dtype": [*build, "--dtype", "fp16"],
        "cores that are none": [*build, "--cores", "fast"],
        "core that is missing": [*build, "--cores", "9999"],
        "more threads than cores": [*build, "--threads", "9999"],
        "zero rounds": [*build, "--rounds", "0"],
        "networks below zero": [*build, "--networks", "-1"],
        "too few networks": [*build, "--networks", "3", "--rounds", "1"],
        "space of a build": [*build, "--space", "gostnet", "--rounds", "1"],
        "Python without a runtime": [*build, "--python", "/bin/false"],
        "missing Python": [*build, "--python", "/no/such/python"],
        "missing benchmark_model": [*build, "--benchmark-model", "/no/such/benchmark"],
        "check of nothing": ["latency", "check"],
        "check of a missing file": ["latency", "check", "--target", str(folder / "none.csv")],
        "check of a name": ["latency", "check", "--target", "arm"],
        "check of another device": ["latency", "check", "--target", str(ARM), "--rounds", "1"],
        "check of too few": ["latency", "check", "--target", str(ARM), "--networks", "4"],
        "calibrate what is unknown": ["latency", "calibrate", "--target", "pixle4", *to],
        "calibrate to no csv": [*calibrate, "--networks", "1", "--out", str(folder / "x.txt")],
        "calibrate without out": calibrate,
        "confidence above 1": [*predict, "--confidence", "1.5"],
        "confidence of 0": [*predict, "--confidence", "0"],
        "confidence in words": [*predict, "--confidence", "high"],
        "confidence of no networks": [*predict, "--confidence", "0.95"],
        "get of nothing": ["data", "get"],
        "get of what is not offered": ["data", "get", "imagenet", str(folder)],
        "get into a file": ["data", "get", "cifar10", str(ARM)],
        "data check of nothing": ["data", "check"],
        "data check of an unknown kind": ["data", "check", "mnist:x"],
        "data check of a missing folder": ["data", "check", f"folder:{folder / 'none'}"],
        "data check without a folder": ["data", "check", "cifar10"],
        "no command": [],
        "unknown command": ["serach"],
    }[name]


OF_TRAINING = {
    "half a recipe": "damaged.toml",
    "unknown key in recipe": "epocs",
    "recipe without a rate": "learning_rate",
    "recipe out of range": "label_smoothing",
    "text for a number in recipe": "batch_size",
    "recipe for more classes": "10 classes",
    "damaged settings of a training": "train.toml",
    "training that is there": "--resume",
    "initial weights that fit nowhere": "none of the 1 arrays",
    "initial weights that are none": "short.toml",
    "teacher of other classes": "5 classes",
    "damaged image in a strict training": "1.jpg",
    "damaged model": "model.onnx",
    "training without ARCH": "ARCH",
    "training without data": "--data",
    "training without out": "--out",
    "training of an unknown network": "mobilenetv3-large",
    "training of a folder without a run": "best.json",
    "unknown recipe of a training": "cifar-short",
    "missing recipe": "none.toml",
    "missing data of a training": "none",
    "zero epochs": "positive",
    "zero images per batch": "--batch-size",
    "workers below zero": "--workers",
    "more workers than CPUs": "--workers 9999: ",
    "more threads than CPUs": "usable here; use",
    "checkpoints in words": "90s",
    "unknown device of a training": "'cuda'",
    "missing initial weights": "none.pth",
    "missing teacher": "none.onnx",
    "teacher that is not a model": ".tflite",
    "resume of no training": "no training",
    "resume with ARCH": "leave ARCH out",
    "resume with other data": "leave --data out",
    "resume with a seed": "leave --seed out",
    "resume without out": "--out",
    "training into a file": "short.toml: is a file, not a folder",
    "training from half a seed": "from 0 to 2147483647",
    "check from half a seed": "from 0 to 2147483647",
    "eval of nothing": "MODEL",
    "eval without data": "--data",
    "eval of no images": "positive",
    "eval of a missing model": "none.onnx",
}
# What the line must name, to distinguish this mistake from the others.
EXPECTED = {
    **OF_TRAINING,
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
    "unknown target": "a name that `ghostnas latency list` prints",
    "part of a target": (
        "did you mean pixel4-cpu1-fp32 or pixel4-cpu2-fp32 or pixel4-medium-fp32?"
    ),
    "unknown target of a budget": "did you mean pixel4-cpu1-fp32",
    "budget below zero": "'-5ms': write a positive number",
    "resolution of one": "'1' is not a resolution from 16 to 2048 pixels",
    "resolution of a search": "from 16 to 2048",
    "resolution of an export": "from 16 to 2048",
    "resolution of a training": "from 8 to 2048",
    "confidence of nothing": "add --target",
    "out that is not UTF-8": r"'r\udce9sult' is not UTF-8",
    "unknown unit": "150MFLOPs",
    "no number": "150MFLOPs",
    "budget nothing meets": "times as much",
    "latency nothing meets": "times as much",
    "no budget": "--budget",
    "unknown space name": "known: ghostnet",
    "missing space file": "none.toml",
    "unknown data": "cifar10:DIR",
    "missing data folder": "none",
    "empty data folder": "one folder per class",
    "no CIFAR-10 there": "data_batch_1.bin",
    "unknown recipe": "proxy",
    "resume of nothing": "no search",
    "storage that is not there": "cannot be opened",
    "unknown storage": "cannot be opened",
    "zero trials": "positive",
    "zero finalists": "--finalists",
    "zero seeds": "--seeds",
    "unknown scorer": "synflow",
    "unknown device of a search": "'cuda'",
    "seed below zero": "from 0 to 2147483647",
    "seed above all": "from 0 to 2147483647",
    "search into a file": "emulated-a76.csv: is a file, not a folder",
    "search below a file": "emulated-a76.csv: is a file, not a folder",
    "export into a file": "emulated-a76.csv: is a file, not a folder",
    "recipe that holds none out": "validation_pictures",
    "bad time": "90s",
    "unknown network": "mobilenetv3-large",
    "missing arch file": "none.json",
    "folder without a run": "best.json",
    "bad width": "0.05",
    "width of a file": "ghostnet",
    "unknown format": "tflite",
    "no weights": "--weights",
    "unknown device": "ssh:[user@]host",
    "device without a host": "ssh:[user@]host",
    "table not csv": ".csv",
    "no out": "--out",
    "unknown dtype": "'int8'",
    "cores that are none": "0,2-3",
    "core that is missing": "core 9999",
    "more threads than cores": "9999 threads",
    "zero rounds": "positive",
    "networks below zero": "--networks",
    "too few networks": "3 networks are too few",
    "too few ops": "5 ops are too few",
    "space of a build": "known: ghostnet",
    "Python without a runtime": "/bin/false",
    "missing Python": "/no/such/python",
    "missing benchmark_model": "/no/such/benchmark",
    "check of nothing": "--target",
    "check of a missing file": "none.csv",
    "check of a name": ".csv",
    "check of another device": "another setting than the device: device is",
    "check of too few": "4 networks are too few",
    "calibrate what is unknown": "a name that `ghostnas latency list` prints",
    "calibrate to no csv": ".csv",
    "calibrate without out": "--out",
    "confidence above 1": "0.9",
    "confidence of 0": "0.9",
    "confidence in words": "0.9",
    "confidence of no networks": "calibrated on no networks",
    "unknown key in import": "devcie",
    "negative threads in import": "threads must be at least 1",
    "no TOML in import": "origin.toml",
    "missing key in import": "lacks threads",
    "bad row in import": "rows.csv:2",
    "unknown op in import": "rows.csv:3",
    "missing origin of import": "origin.toml",
    "missing file of import": "rows.csv",
    "binary file of import": "rows.csv",
    "no csv from import": ".csv",
    "profile without a network of import": "--arch",
    "profile that is none in import": "Run Order",
    "get of nothing": "KIND",
    "get of what is not offered": "'cifar100'",
    "get into a file": "cannot be written",
    "data check of nothing": "DATA",
    "data check of an unknown kind": "cifar10:DIR",
    "data check of a missing folder": "no folder",
    "data check without a folder": "cifar10:DIR",
    "no command": "COMMAND",
    "unknown command": "search",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_bad_input_gets_one_line_that_says_how_to_fix_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = bad(name, tmp_path)
    before = set(tmp_path.rglob("*"))
    try:
        code = main(arguments)
    except SystemExit as exited:  # argparse's own way out
        code = exited.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    said = [line for line in captured.err.splitlines() if not line.startswith("search in ")]
    assert len(said) == 1, captured.err
    assert EXPECTED[name] in captured.err
    assert set(tmp_path.rglob("*")) - before <= {tmp_path / "run", tmp_path / "run" / ".lock"}


@pytest.mark.parametrize(
    "wrong",
    [
        ["--target", "pixle4"],
        ["--budget", "12furlongs"],
        ["--budget", "20ms@pixle4"],
        ["--budget", "-5ms"],
        ["--space", "gostnet"],
        ["--recipe", "slow"],
        ["--data", "cifar11:x"],
        ["--data", "cifar10:/no/such/folder"],
    ],
    ids=" ".join,
)
def test_a_search_rejects_a_wrong_name_before_anything_heavy_is_imported(
    wrong: list[str], tmp_path: Path
) -> None:
    asked = ["search", "--target", "arm", "--budget", "150MFLOPs", "--out", str(tmp_path / "run")]
    script = (
        "import sys\nfrom ghostnas.cli.main import main\n"
        f"ended = main({[*asked, *wrong]!r})\n"
        "print(ended, *sorted({'torch', 'optuna', 'onnx', 'pandas'} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (ran.stdout, len(ran.stderr.splitlines())) == ("2\n", 1)


def test_a_reader_that_closes_early_ends_a_command_quietly(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "ghostnas", "latency", "list"]
        ran = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_a_file_whose_name_is_not_text_is_still_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path)
    os.close(os.open(os.fsencode(tmp_path / "pictures" / "dark") + b"/\xe9.png", os.O_CREAT))
    assert main(["data", "check", f"folder:{tmp_path / 'pictures'}"]) == 0
    assert r"/\udce9.png: is empty" in capsys.readouterr().out
