"""Times .tflite models on a device: the runner or benchmark_model there, timings back."""

from __future__ import annotations

import json
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ghostnas.devices import benchmark_model, hardware, op_models, runner
from ghostnas.devices.device import Device
from ghostnas.devices.hardware import Core, Hardware
from ghostnas.errors import DeviceError, DeviceLostError, InputError
from ghostnas.latency.table import Timing

DTYPES = ("fp32", "int8")
HOTTEST_CELSIUS = 75.0
COOLING_S, LONGEST_PAUSE_S = 2.0, 120.0
LEAST_TIMEOUT_S = 120.0
SLOWEST_MODEL_S = 60.0  # to load and time one, on the slowest board
SENTINEL_EVERY = 16  # models, where each is a process of its own
SENTINEL_FILE = "sentinel.tflite"
MEASURED_OP_ERROR = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How models are timed.

    Attributes:
        cores: ``big``, ``little`` or indices, see `ghostnas.devices.hardware.pick_cores`.
        rounds: how often each model is run, undisturbed.
        python: the device's Python, for the runner.
        benchmark_model: TFLite's own program, a file here or a path on the device; used in place of
            the runner.
    """

    dtype: str = "fp32"
    threads: int = 1
    cores: str = "big"
    rounds: int = 30
    python: str = "python3"
    benchmark_model: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"unknown dtype {self.dtype!r}; known: {', '.join(DTYPES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came back for some models, in their order.

    Attributes:
        timings: a timing, or why there is none.
        sentinel_ms: how long the sentinel took meanwhile.
        thrown_away: runs that were disturbed and repeated.
        paused_s: seconds waited because the device was hot.
        memory_bytes: of a single model, by how much the process that loaded and ran it grew at its
            peak: weights, maps and what the runtime itself needs; None where nothing told.
    """

    timings: tuple[Timing | str, ...]
    sentinel_ms: float
    runtime: str
    thrown_away: int = 0
    paused_s: float = 0.0
    memory_bytes: int | None = None


class Bench(ABC):
    """What times models in one setting.

    Attributes:
        cores: those that the models run on.
        first: what came back for the sentinel alone.
        method, op_error, notes: for the `Origin` of what is timed here.
    """

    setting: Setting
    hardware: Hardware
    cores: tuple[Core, ...]
    first: Report
    method: str
    op_error: float
    notes: str

    @property
    def runtime(self) -> str:
        return self.first.runtime

    @abstractmethod
    def time(self, models: Sequence[bytes], burst: int = 1) -> Report:
        """Time the models, in turns.

        Args:
            burst: runs of a model in one turn; if several, the first, which finds its weights cold,
                does not count.

        Raises:
            DeviceError: the device failed; `DeviceLostError` if it no longer answers.
        """


class DeviceBench(Bench):
    """A device that is ready to time models.

    Raises:
        DeviceError: it cannot be reached, or has nothing to run models with.
        InputError: it has no such cores.
    """

    method = "measured"
    op_error = MEASURED_OP_ERROR

    def __init__(self, device: Device, setting: Setting) -> None:
        self.device = device
        self.setting = setting
        self.hardware: Hardware = hardware.read(device)
        self.cores: tuple[Core, ...] = hardware.pick_cores(
            self.hardware, setting.cores, setting.threads
        )
        self.notes = f"pinned to cpu {', '.join(str(core.index) for core in self.cores)}"
        self._sentinel = op_models.op_model(op_models.SENTINEL, setting.dtype)
        if setting.benchmark_model is None:
            device.push(Path(runner.__file__), "runner.py")
        else:
            self._program = self._push_program(setting.benchmark_model)
            self._program_version = self._read_program_version()
        self.first = self.time([self._sentinel])
        if isinstance(refusal := self.first.timings[0], str):
            raise DeviceError(f"{device.url}: cannot time a model: {refusal}")

    def time(self, models: Sequence[bytes], burst: int = 1) -> Report:
        """As `Bench.time`."""
        with tempfile.TemporaryDirectory(prefix="ghostnas-") as name:
            folder = Path(name)
            names = [f"{index:05}.tflite" for index in range(len(models))]
            for file, model in zip(names, models, strict=True):
                (folder / file).write_bytes(model)
            (folder / SENTINEL_FILE).write_bytes(self._sentinel)
            if self.setting.benchmark_model is None:
                return self._time_by_runner(folder, names, burst)
            return self._time_by_program(folder, names)

    def _time_by_runner(self, folder: Path, names: Sequence[str], burst: int) -> Report:
        job = {
            "models": names,
            "sentinel": SENTINEL_FILE,
            "threads": self.setting.threads,
            "cpus": [core.index for core in self.cores],
            "rounds": self.setting.rounds,
            "burst": burst,
            "hottest_celsius": HOTTEST_CELSIUS,
            "delegated": True,
        }
        (folder / "job.json").write_text(json.dumps(job))
        self.device.push(folder, "job")
        printed = self.device.run(
            [self.setting.python, "runner.py", "job"], timeout_s=self._timeout_s(len(names))
        )
        result = _last_json(printed, self.device.url)
        times, refused = result["times_us"], result["refused"]
        return Report(
            timings=tuple(
                refused[name] if name in refused else timing_of(times[name]) for name in names
            ),
            sentinel_ms=1e-3 * result["sentinel_us"],
            runtime=result["runtime"],
            thrown_away=result["thrown_away"],
            paused_s=result["paused_s"],
            memory_bytes=result["memory_bytes"],
        )

    def _time_by_program(self, folder: Path, names: Sequence[str]) -> Report:
        self.device.push(folder, "job")
        timings: list[Timing | str] = []
        sentinels = []
        paused_s = 0.0
        memory_bytes: int | None = None
        for index, name in enumerate(names):
            if index % SENTINEL_EVERY == 0:
                paused_s += self._cool_down()
                sentinels.append(self._run_program(SENTINEL_FILE)[0])
            timing, memory_bytes = self._run_program(name)
            timings.append(timing)
        medians = [each.median_ms for each in sentinels if isinstance(each, Timing)]
        if not medians:
            raise DeviceError(f"{self.device.url}: cannot time a model: {sentinels[0]}")
        return Report(
            timings=tuple(timings),
            sentinel_ms=float(np.median(medians)),
            runtime=self._program_version,
            paused_s=paused_s,
            memory_bytes=memory_bytes if len(names) == 1 else None,
        )

    def _cool_down(self) -> float:
        """Seconds waited until the device was cool enough."""
        start = time.monotonic()
        while hardware.celsius(self.device) > HOTTEST_CELSIUS:
            if time.monotonic() - start > LONGEST_PAUSE_S:
                break
            time.sleep(COOLING_S)
        return time.monotonic() - start

    def _run_program(self, name: str) -> tuple[Timing | str, int | None]:
        """A model's timing, or why there is none, and the program's growth in bytes."""
        mask = sum(1 << core.index for core in self.cores)
        command = benchmark_model.command(
            self._program,
            f"job/{name}",
            threads=self.setting.threads,
            runs=self.setting.rounds,
            warm_up_runs=2,
            seconds=0.0,
        )
        try:
            printed = self.device.run(
                ["taskset", f"{mask:x}", *command], timeout_s=self._timeout_s(1)
            )
            timings = benchmark_model.parse(printed)
        except DeviceLostError:
            raise
        except DeviceError as error:  # for this one model
            return str(error), None
        if timings.delegated is False:
            return "XNNPACK did not take it, or only parts of it", None
        timing = Timing(timings.median_ms, timings.p10_ms, timings.p90_ms, timings.runs)
        return timing, timings.memory_bytes

    def _push_program(self, path: str) -> str:
        if not Path(path).is_file():
            return path
        self.device.push(Path(path), "benchmark_model")
        self.device.run(["chmod", "+x", "benchmark_model"], timeout_s=LEAST_TIMEOUT_S)
        return "./benchmark_model"

    def _read_program_version(self) -> str:
        """It prints no version: a hash of its contents serves as one."""
        printed = self.device.run(["sha256sum", self._program], timeout_s=LEAST_TIMEOUT_S)
        return f"benchmark_model {printed[:12]}"

    def _timeout_s(self, models: int) -> float:
        return LEAST_TIMEOUT_S + SLOWEST_MODEL_S * models


def timing_of(times_us: Sequence[float]) -> Timing:
    p10, median, p90 = 1e-3 * np.percentile(times_us, [10, 50, 90])
    return Timing(float(median), float(p10), float(p90), len(times_us))


def _last_json(printed: str, url: str) -> dict[str, Any]:
    """The runner's line; the runtime prints its own lines before it."""
    lines = [line for line in printed.splitlines() if line.startswith("{")]
    if not lines:
        raise DeviceError(f"{url}: the runner printed no result: {printed[-200:]!r}")
    result: dict[str, Any] = json.loads(lines[-1])
    return result
