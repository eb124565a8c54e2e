"""The bench on this machine: with the runner, and with a program that prints real logs."""

import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghostnas.devices import bench, hardware, op_models
from ghostnas.devices.bench import Bench, DeviceBench, Setting
from ghostnas.devices.device import Device, open_device
from ghostnas.errors import DeviceError, InputError
from ghostnas.latency.op_signature import OpSignature
from ghostnas.latency.table import Timing

LOGS = Path(__file__).parents[1] / "golden" / "benchmark_model"
CONVS = [
    op_models.op_model(OpSignature("conv", size, size, 32, 32, 3, 1, "none")) for size in (1, 4, 32)
]
NOT_TAKEN = op_models.op_model(OpSignature("relu", 8, 8, 8, 8, 0, 0, "none"), "int8")
needs_taskset = pytest.mark.skipif(not shutil.which("taskset"), reason="no taskset here")


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    with open_device("local") as opened:
        yield opened


@pytest.fixture(scope="module")
def ready(device: Device) -> Bench:
    return DeviceBench(device, Setting(rounds=3, python=sys.executable))


def write_program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_bench_that_is_ready_has_timed_its_sentinel(ready: Bench) -> None:
    assert ready.runtime.startswith("ai-edge-litert ")
    assert 0 < ready.first.sentinel_ms < 100
    assert ready.first.timings[0].runs == 3
    assert len(ready.cores) == 1
    assert set(ready.cores) <= set(ready.hardware.cores)


def test_models_are_timed_in_their_order(ready: Bench) -> None:
    report = ready.time([CONVS[2], NOT_TAKEN, CONVS[0], b"no model"])
    large, refused, small, damaged = report.timings
    assert refused == "XNNPACK did not take it"
    assert "Flatbuffer" in damaged
    assert large.runs == small.runs == 3
    assert 0 < small.p10_ms <= small.median_ms <= small.p90_ms
    assert large.p10_ms > 5 * small.p10_ms
    assert report.runtime == ready.runtime
    assert 0 < report.sentinel_ms < 100


def test_a_burst_is_several_runs_in_a_turn_and_the_first_does_not_count(ready: Bench) -> None:
    report = ready.time(CONVS[:1], burst=4)
    assert report.timings[0].runs == 3 * 3


def test_models_of_an_earlier_batch_are_not_timed_again(ready: Bench, device: Device) -> None:
    ready.time(CONVS)
    ready.time(CONVS[:1])
    listed = device.run(["ls", "job"], timeout_s=20).split()
    assert listed == ["00000.tflite", "job.json", "sentinel.tflite"]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_the_setting_is_what_the_runner_is_told(device: Device) -> None:
    made = DeviceBench(device, Setting(rounds=2, threads=2, cores="0-1", python=sys.executable))
    made.time(CONVS[:1], burst=3)
    job = json.loads(device.run(["cat", "job/job.json"], timeout_s=20))
    assert (job["threads"], job["cpus"], job["rounds"], job["burst"]) == (2, [0, 1], 2, 3)
    assert job["hottest_celsius"] == bench.HOTTEST_CELSIUS
    assert job["delegated"] is True


def test_int8_is_timed_beside_a_sentinel_of_its_own(device: Device) -> None:
    made = DeviceBench(device, Setting(rounds=2, dtype="int8", python=sys.executable))
    model = op_models.op_model(OpSignature("conv", 8, 8, 8, 8, 1, 1, "relu"), "int8")
    assert made.time([model]).timings[0].runs == 2
    sentinel = Path(device.folder, "job", "sentinel.tflite").read_bytes()
    assert sentinel == op_models.op_model(op_models.SENTINEL, "int8")


def test_a_runtime_may_print_lines_of_its_own(device: Device, tmp_path: Path) -> None:
    python = write_program(
        tmp_path / "python", f'echo INFO: hello\nexec {shlex.quote(sys.executable)} "$@"'
    )
    assert DeviceBench(device, Setting(rounds=1, python=python)).first.timings[0].runs == 1


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo hello", "local: the runner printed no result: 'hello"),
        ("echo 'no numpy' >&2; exit 1", "local: .*: ended with 1: no numpy"),
    ],
)
def test_a_device_on_which_the_runner_does_not_run_is_an_error(
    device: Device, tmp_path: Path, script: str, message: str
) -> None:
    with pytest.raises(DeviceError, match=message):
        DeviceBench(device, Setting(python=write_program(tmp_path / "python", script)))


def test_a_device_whose_runtime_does_not_delegate_is_an_error(
    device: Device, tmp_path: Path
) -> None:
    """The sentinel would be timed with other kernels than XNNPACK's, as would all models."""
    script = (
        "import json; print(json.dumps({'times_us': {}, 'refused': {'00000.tflite': 'not taken'},"
        " 'sentinel_us': 1, 'runtime': 'x', 'thrown_away': 0, 'paused_s': 0,"
        " 'memory_bytes': None}))"
    )
    python = write_program(tmp_path / "python", shlex.join([sys.executable, "-c", script]))
    with pytest.raises(DeviceError, match="local: cannot time a model: not taken"):
        DeviceBench(device, Setting(python=python))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "fp16"}, "unknown dtype 'fp16'; known: fp32, int8"),
        ({"cores": "999"}, "core 999 is not one"),
        ({"threads": 999}, "999 threads"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(
    device: Device, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        DeviceBench(device, Setting(python=sys.executable, **fields))


def test_percentiles_by_hand() -> None:
    timing = bench.timing_of([1000.0 * ms for ms in (5, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11)])
    assert timing == pytest.approx(Timing(6.0, 2.0, 10.0, 11))
    assert isinstance(timing, Timing)


# benchmark_model


@pytest.fixture
def program(tmp_path: Path) -> str:
    """Prints a real log of benchmark_model, that of a partly delegated network for 00001."""
    logs = shlex.quote(str(LOGS))
    return write_program(
        tmp_path / "benchmark_model",
        f'echo "$@" $(taskset -p $$) >>{shlex.quote(str(tmp_path / "calls"))}\n'
        f"case $1 in *00001*) cat {logs}/partial.txt;; *) cat {logs}/xnnpack.txt;; esac",
    )


@needs_taskset
def test_benchmark_model_is_pushed_pinned_and_read(
    device: Device, program: str, tmp_path: Path
) -> None:
    core = max(os.sched_getaffinity(0))
    made = DeviceBench(device, Setting(rounds=7, cores=str(core), benchmark_model=program))
    report = made.time([CONVS[0], NOT_TAKEN])
    assert report.timings == (
        Timing(10.729, 10.688, 10.985, 93),
        "XNNPACK did not take it, or only parts of it",
    )
    assert report.sentinel_ms == 10.729
    assert made.runtime.split() == [
        "benchmark_model",
        hashlib.sha256(Path(program).read_bytes()).hexdigest()[:12],
    ]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert ["job/sentinel.tflite" in call for call in calls] == [True, False, True, False, False]
    assert all("--num_runs=7" in call and "--num_threads=1" in call for call in calls)
    assert all(call.endswith(f"mask: {1 << core:x}") for call in calls)


@needs_taskset
def test_a_program_that_is_not_here_is_one_on_the_device(device: Device, program: str) -> None:
    device.push(Path(program), "theirs")
    made = DeviceBench(device, Setting(benchmark_model="./theirs"))
    assert made.first.timings == (Timing(10.729, 10.688, 10.985, 93),)


@needs_taskset
def test_benchmark_model_times_the_sentinel_again_after_every_few_models(
    device: Device, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "SENTINEL_EVERY", 2)
    made = DeviceBench(device, Setting(benchmark_model=program))
    (tmp_path / "calls").unlink()
    made.time([CONVS[0]] * 5)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "".join("S" if "sentinel" in call else "m" for call in calls) == "SmmSmmSm"


@needs_taskset
def test_benchmark_model_too_waits_for_a_hot_device(
    device: Device, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = DeviceBench(device, Setting(benchmark_model=program))
    readings = iter([90.0, 80.0, 60.0])
    monkeypatch.setattr(hardware, "celsius", lambda shell: next(readings))
    monkeypatch.setattr(bench, "COOLING_S", 0.01)
    assert 0.02 <= made.time(CONVS[:1]).paused_s < 5
    assert list(readings) == []
    monkeypatch.setattr(hardware, "celsius", lambda shell: 90.0)
    monkeypatch.setattr(bench, "LONGEST_PAUSE_S", 0.1)
    assert 0.1 <= made.time(CONVS[:1]).paused_s < 5


@needs_taskset
def test_a_benchmark_model_that_fails_is_an_error(device: Device, tmp_path: Path) -> None:
    log = shlex.quote(str(LOGS / "failing.txt"))
    with pytest.raises(DeviceError, match="benchmark_model: the benchmark failed; it says"):
        DeviceBench(
            device, Setting(benchmark_model=write_program(tmp_path / "program", f"cat {log}"))
        )
