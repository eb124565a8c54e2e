"""The runner on its own, as a device has it, and how it decides which runs count."""

import ast
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from ghostnas.backends import tflite_writer
from ghostnas.backends.quantization import quantize
from ghostnas.devices import op_models, runner
from ghostnas.ir.graph import Activation, Builder, Conv
from ghostnas.ir.random_weights import random_weights
from ghostnas.latency.op_signature import OpSignature
from ghostnas.networks import zoo

SOURCE = Path(runner.__file__)
CONV = op_models.op_model(OpSignature("conv", 8, 8, 8, 16, 3, 1, "relu"))
ADD = op_models.op_model(OpSignature("add", 8, 8, 16, 16, 0, 0, "none"))
INT8 = op_models.op_model(OpSignature("conv", 8, 8, 8, 16, 1, 1, "none"), "int8")
NOT_TAKEN = op_models.op_model(OpSignature("relu", 8, 8, 8, 8, 0, 0, "none"), "int8")
PARTLY_TAKEN = op_models.network_model(zoo.mobilenetv3_large(0.35, 32, 10), "int8")
JOB = {"threads": 1, "cpus": [], "rounds": 3, "burst": 1, "hottest_celsius": 0, "delegated": True}


def write_job(folder: Path, models: dict[str, bytes], **changes: Any) -> Path:
    """The folder of a job, whose settings are those of JOB except for the changes."""
    place = folder / "job"
    place.mkdir()
    for name, content in {**models, "sentinel.tflite": CONV}.items():
        (place / name).write_bytes(content)
    job = {"models": list(models), "sentinel": "sentinel.tflite", **JOB, **changes}
    (place / "job.json").write_text(json.dumps(job))
    return place


def run_alone(folder: Path, *arguments: str) -> str:
    """Run a copy of the file in isolation from everything but the installed packages."""
    shutil.copy(SOURCE, folder / "runner.py")
    return subprocess.run(
        [sys.executable, "-I", *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture
def run_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run a job in this process; return what the runner printed."""

    def run(models: dict[str, bytes], **changes: Any) -> dict[str, Any]:
        runner.main(str(write_job(tmp_path, models, **changes)))
        return json.loads(capsys.readouterr().out)

    return run


def test_it_imports_nothing_but_the_standard_library_and_numpy() -> None:
    found = set()
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level
            found.add(node.module.partition(".")[0])
    assert "numpy" in found
    assert found - {"numpy"} <= sys.stdlib_module_names


def test_it_is_written_in_the_python_of_old_boards() -> None:
    ast.parse(SOURCE.read_text(), feature_version=(3, 8))
    with pytest.raises(SyntaxError):  # the parser does look
        ast.parse("match x:\n    case _: pass", feature_version=(3, 8))


def test_a_copy_of_it_alone_times_models_and_prints_one_line(tmp_path: Path) -> None:
    models = {"a": CONV, "b": ADD, "c": NOT_TAKEN, "d": CONV[:100], "e": b"", "f": INT8}
    write_job(tmp_path, models, rounds=4)
    [line] = run_alone(tmp_path, "runner.py", "job").splitlines()
    result = json.loads(line)
    assert list(result["times_us"]) == ["a", "b", "f"]
    assert {len(times) for times in result["times_us"].values()} == {4}
    assert all(0 < us < 1e6 for times in result["times_us"].values() for us in times)
    assert list(result["refused"]) == ["c", "d", "e"]
    assert result["refused"]["c"] == "XNNPACK did not take it"
    assert "Flatbuffer" in result["refused"]["d"]
    assert 0 < result["sentinel_us"] < 1e6
    assert result["runtime"].startswith("ai-edge-litert ")
    assert result["python"].startswith("3.")
    assert result["thrown_away"] >= 0
    assert result["paused_s"] == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_it_runs_on_the_cores_that_it_is_told(tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    write_job(tmp_path, {"a": CONV}, cpus=[core])
    script = (
        "import os, sys; sys.path.insert(0, '.'); import runner; runner.main('job');"
        " print(os.sched_getaffinity(0))"
    )
    assert run_alone(tmp_path, "-c", script).splitlines()[-1] == f"{{{core}}}"


def test_a_job_without_a_model_that_can_be_timed_ends_well(run_job: Callable[..., Any]) -> None:
    result = run_job({"a": b"no model", "b": NOT_TAKEN})
    assert result["times_us"] == {}
    assert list(result["refused"]) == ["a", "b"]


def test_a_network_that_xnnpack_takes_in_parts_is_refused(run_job: Callable[..., Any]) -> None:
    """In int8 it takes no hard swish, whether the first op, the last, or one in between."""
    swish, conv = Activation(kind="hard_swish"), Conv(in_channels=8, out_channels=8, bias=True)
    models = {"between": PARTLY_TAKEN}
    for name, ops in (("first", [swish, conv]), ("last", [conv, swish])):
        builder = Builder((8, 8, 8))
        for at, op in enumerate(ops):
            builder.add(f"op{at}", op, at)
        graph = builder.build()
        model = tflite_writer.write(graph, random_weights(graph, seed=0))
        image = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32)
        models[name] = quantize(model, [[image]])
    assert run_job(models)["refused"] == dict.fromkeys(models, "XNNPACK took only parts of it")


def test_what_xnnpack_does_not_take_is_timed_if_that_is_wanted(
    run_job: Callable[..., Any],
) -> None:
    result = run_job({"a": NOT_TAKEN, "b": PARTLY_TAKEN}, delegated=False)
    assert result["refused"] == {}
    assert [len(times) for times in result["times_us"].values()] == [3, 3]


def test_of_a_burst_the_first_run_does_not_count(run_job: Callable[..., Any]) -> None:
    result = run_job({"a": CONV, "b": ADD}, burst=4, rounds=2)
    assert [len(times) for times in result["times_us"].values()] == [6, 6]


def test_the_first_run_of_a_burst_is_the_one_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = runner.Model("a", Interpreter, CONV, 1)
    times = itertools.count(1.0)
    monkeypatch.setattr(model, "time", lambda: next(times))
    assert model.run(4) == [2.0, 3.0, 4.0]
    assert model.run(1) == [5.0]


@pytest.mark.parametrize("content", [CONV, ADD, INT8], ids=["one input", "two inputs", "int8"])
def test_a_run_computes_again_from_the_same_inputs(content: bytes) -> None:
    model = runner.Model("a", Interpreter, content, 1)
    before = [view().copy() for view in model.inputs]
    assert all(np.std(values) > 0.5 for values in before)
    model.run(1)
    first = model.outputs[0]().copy()
    model.run(1)
    assert first.any()
    np.testing.assert_array_equal(model.outputs[0](), first)
    for view, values in zip(model.inputs, before, strict=True):
        np.testing.assert_array_equal(view(), values)


def test_a_device_without_a_runtime_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, run_job: Callable[..., Any]
) -> None:
    for package in ("ai_edge_litert", "tflite_runtime"):
        monkeypatch.setitem(sys.modules, f"{package}.interpreter", None)
    with pytest.raises(SystemExit, match=r"neither .* works here .*: python3 -m pip install"):
        run_job({"a": CONV})


def test_a_runtime_that_imports_but_does_not_work_gives_way_to_the_other(
    monkeypatch: pytest.MonkeyPatch, run_job: Callable[..., Any]
) -> None:
    """Wheels of tflite-runtime do so with numpy 2, those of ai-edge-litert with an old libc."""

    def broken(**_: Any) -> None:
        raise RuntimeError("built for another numpy")

    works = SimpleNamespace(Interpreter=Interpreter)
    monkeypatch.setitem(sys.modules, "tflite_runtime", SimpleNamespace(interpreter=works))
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", works)
    name = "ai_edge_litert.interpreter"
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(Interpreter=broken))
    result = run_job({"a": CONV})
    assert result["runtime"] == "tflite-runtime of an unknown version"
    assert len(result["times_us"]["a"]) == 3


class Clockwork:
    """Stands in for a `Model` or `Sentinel` with given times; `log` has who ran, in order."""

    def __init__(self, name: str, times: Iterator[Any], log: list[str]) -> None:
        self.name = name
        self.times_us: list[float] = []
        self._times = times
        self._log = log

    def run(self, burst: int) -> list[float]:
        self._log.append(self.name)
        return [next(self._times)]

    def is_slow(self) -> bool:
        self._log.append(self.name)
        return next(self._times)


def measure(
    slow: list[bool], models: int, rounds: int, *, then: bool = False
) -> tuple[list[Clockwork], list[str], int]:
    """Models of which each run takes a microsecond more than the one before it.

    Args:
        slow: what the sentinel says after the warm-up, and `then` from there on.
    """
    log: list[str] = []
    warm_up = [True] * runner.WARM_UP_ROUNDS
    sentinel = Clockwork("S", itertools.chain(warm_up, slow, itertools.repeat(then)), log)
    made = [Clockwork(name, itertools.count(), log) for name in "abcdefgh"[:models]]
    job = {**JOB, "rounds": rounds}
    thrown_away, _ = runner.measure(made, sentinel, job)
    return made, log, thrown_away


def test_models_take_turns_after_a_warm_up_with_the_sentinel_around_them() -> None:
    models, log, thrown_away = measure([], models=3, rounds=2)
    assert "".join(log) == "abcSabcS" + "SabcS" * 2
    assert [model.times_us for model in models] == [[2, 3]] * 3
    assert thrown_away == 0


@pytest.mark.parametrize("slow", [[True, False], [False, True], [True, True]])
def test_runs_while_the_sentinel_was_slow_are_thrown_away_and_repeated(
    slow: list[bool],
) -> None:
    models, _, thrown_away = measure([False, False, *slow], models=2, rounds=3)
    assert thrown_away == 2
    assert [model.times_us for model in models] == [[2, 4, 5]] * 2


def test_only_the_models_between_two_slow_sentinels_run_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "SENTINEL_EVERY", 2)
    models, log, thrown_away = measure([False, False, True], models=4, rounds=2)
    assert "".join(log[10:]) == "SabS" + "ScdS" + "SabS" + "ScdS" + "ScdS"
    assert [model.times_us for model in models] == [[2, 3], [2, 3], [3, 4], [3, 4]]
    assert thrown_away == 2


def test_a_machine_that_never_settles_is_accepted_as_it_is() -> None:
    models, _, thrown_away = measure([], models=2, rounds=3, then=True)
    assert thrown_away == 2 * 3 * runner.PATIENCE
    assert [len(model.times_us) for model in models] == [3, 3]


def sentinel_of(times: list[float]) -> runner.Sentinel:
    """A sentinel of a model that takes 100 us, 20 times while it is set up, and then these."""
    log = iter([100.0] * 20 + times)
    return runner.Sentinel(SimpleNamespace(time=lambda: next(log)))


@pytest.mark.parametrize(
    ("times", "slow"),
    [([109, 109], False), ([111, 130], True), ([300, 100], False), ([90, 90], False)],
)
def test_the_sentinel_is_slow_if_the_better_of_two_runs_is(times: list[float], slow: bool) -> None:
    assert sentinel_of(times).is_slow() == slow


def test_what_is_usual_is_not_misled_by_some_slow_runs() -> None:
    sentinel = sentinel_of([200.0] * 40)
    assert all(sentinel.is_slow() for _ in range(20))
    assert sentinel.usual_us() == 100


class Heat:
    """Stands in for `time` and `celsius`: each second's sleep is a reading, the last one stays."""

    def __init__(self, readings: list[float]) -> None:
        self._readings = readings
        self.now_s = 0.0
        self.perf_counter = time.perf_counter

    def time(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def celsius(self) -> float:
        return self._readings[min(int(self.now_s), len(self._readings) - 1)]


@pytest.fixture
def heat(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], Heat]:
    def make(readings: list[float]) -> Heat:
        made = Heat(readings)
        monkeypatch.setattr(runner, "time", made)
        monkeypatch.setattr(runner, "celsius", made.celsius)
        return made

    return make


@pytest.mark.parametrize(
    ("readings", "limit", "paused_s"),
    [
        ([75], 75, 0),
        ([90, 80, 74, 71, 70], 75, 4),
        ([76], 75, runner.LONGEST_PAUSE_S),
        ([99], 0, 0),
        ([0], 75, 0),
    ],
    ids=["at the limit", "cools down", "stays hot", "no limit", "unknown"],
)
def test_it_waits_until_a_hot_device_is_clearly_below_the_limit(
    heat: Callable[[list[float]], Heat], readings: list[float], limit: float, paused_s: float
) -> None:
    made = heat(readings)
    assert runner.wait_until_cool(limit) == paused_s
    assert made.now_s == paused_s


def test_pauses_are_added_up(heat: Callable[[list[float]], Heat]) -> None:
    made = heat([80, 80, 60])
    model = Clockwork("a", itertools.count(), [])
    sentinel = Clockwork("S", itertools.repeat(False), [])
    _, paused_s = runner.measure([model], sentinel, {**JOB, "hottest_celsius": 75})
    assert paused_s == made.now_s == 2
    assert len(model.times_us) == 3


def test_the_hottest_part_counts_in_degrees_or_thousandths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = ["41000\n", "52.5\n", "-1\n", "999999\n", "junk\n"]
    paths = [tmp_path / str(index) for index in range(len(readings))]
    for path, reading in zip(paths, readings, strict=True):
        path.write_text(reading)
    found = [*map(str, paths), str(tmp_path / "missing")]
    monkeypatch.setattr(runner.glob, "glob", lambda pattern: found)
    assert runner.celsius() == 52.5
    found[:] = []
    assert runner.celsius() == 0


def test_the_memory_is_that_of_a_single_model(tmp_path: Path) -> None:
    """Of a larger network it is more, and at least its weights; of several models nobody's."""
    found = {}
    for name, width in (("narrow", 0.35), ("wide", 1.3)):
        model = op_models.network_model(zoo.ghostnet(width, 64), "fp32")
        place = tmp_path / name
        place.mkdir()
        write_job(place, {"a": model}, rounds=1)
        result = json.loads(run_alone(place, "runner.py", "job").splitlines()[-1])
        found[name] = (result["memory_bytes"], len(model))
    if found["wide"][0] is None:
        pytest.skip("this system does not tell a process's peak")
    assert found["wide"][0] > found["wide"][1]
    assert found["wide"][0] > found["narrow"][0]


def test_the_memory_of_several_models_is_nobodys(run_job: Callable[..., Any]) -> None:
    assert run_job({"a": CONV, "b": ADD})["memory_bytes"] is None


def test_a_system_that_tells_no_peak_tells_no_memory(
    run_job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "start_peak", lambda: None)
    assert run_job({"a": CONV})["memory_bytes"] is None
