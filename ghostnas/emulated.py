"""Devices that are computed and not measured: what an op costs on an ARM core, from its counts.

An op takes  cycle_ns * cycles + cold_ns * cold lines + map_ns * map lines,  where

- cycles are llvm-mca's for the blocks that TFLite's kernels execute, all data in the first cache
  (`ghostnas.emulator`);
- cold lines of 64 bytes are those that miss the last cache, but each only once: its weights, cold
  in a network whose other ops ran in between, and maps too large for the cache. A kernel that
  streams its weights again for every few rows is helped by the prefetcher: measured networks show
  no trace of the repeats;
- map lines are those of its inputs and outputs, which lie in some cache, seldom in the first.

A core by itself takes the clock of a known board and 12 ns for a cold line, and was fitted to
nothing. A phone's three numbers are fitted to whole networks that others measured on it (Qu et al.,
"Mobile ML benchmark", github.com/qed-usc/mobile-ml-benchmark, TFLite 2.10) and are printed, with
their error on families of networks that were left out, by ``scripts/predictor_benchmark.py``.
What no such table can vouch for: several threads, GPUs, heat, other releases of TFLite.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ghostnas import tflite
from ghostnas.bench import Bench, Report, Setting
from ghostnas.emulator import Counts, Emulator
from ghostnas.errors import DeviceError, InputError
from ghostnas.hardware import Core, Hardware
from ghostnas.latency import Timing

LINE_BYTES = 64
RUNTIME = "LiteRT 1.4.0"
SCHEME = "emulated:"


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Nanoseconds of what was counted.

    Attributes:
        fitted_to: networks that the numbers were fitted to; 0 for none.
        error: mean absolute percentage error (a share) on families of networks left out.
    """

    cycle_ns: float
    cold_ns: float
    map_ns: float
    fitted_to: int = 0
    error: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedDevice:
    """A device setting; `costs` are by dtype."""

    device: str
    soc: str
    core: str
    clock_mhz: int
    costs: dict[str, CostModel]


def _at(clock_mhz: int) -> dict[str, CostModel]:
    cost = CostModel(cycle_ns=1e3 / clock_mhz, cold_ns=12.0, map_ns=0.0)
    return {"fp32": cost, "int8": cost}


DEVICES = {
    "cortex-a76": EmulatedDevice(
        device="Raspberry Pi 5 class",
        soc="none",
        core="cortex-a76",
        clock_mhz=2400,
        costs=_at(2400),
    ),
    "cortex-a72": EmulatedDevice(
        device="Raspberry Pi 4 class",
        soc="none",
        core="cortex-a72",
        clock_mhz=1800,
        costs=_at(1800),
    ),
    "cortex-a55": EmulatedDevice(
        device="little core of a phone",
        soc="none",
        core="cortex-a55",
        clock_mhz=1800,
        costs=_at(1800),
    ),
    "cortex-a53": EmulatedDevice(
        device="Raspberry Pi 3 class",
        soc="none",
        core="cortex-a53",
        clock_mhz=1400,
        costs=_at(1400),
    ),
}


class EmulatedBench(Bench):
    """An emulated device in the place of a real one: its times are computed, and exact.

    Raises:
        InputError: there is no such device, not for that dtype or those threads, or the parts of
            the emulator are not there.
    """

    def __init__(self, name: str, setting: Setting, parts: Path) -> None:
        if name not in DEVICES:
            raise InputError(f"unknown emulated device {name!r}; known: {', '.join(DEVICES)}")
        device = DEVICES[name]
        if setting.dtype not in device.costs:
            raise InputError(f"{name} is emulated for {', '.join(device.costs)} only")
        if setting.threads != 1:
            raise InputError("an emulated device has one thread")
        self.setting = dataclasses.replace(setting, rounds=1)
        self._costs = device.costs[setting.dtype]
        self._emulator = Emulator(device.core, parts)
        core = Core(index=0, name=device.core, speed=0, clock_mhz=device.clock_mhz, governor="none")
        self.hardware = Hardware(device=device.device, soc=device.soc, load=0.0, cores=(core,))
        self.cores = (core,)
        fitted = self._costs.fitted_to
        self.method = (
            f"emulated, fitted to {fitted} published networks"
            if fitted
            else "emulated, not measured"
        )
        self.op_error = self._costs.error
        self.notes = (
            "QEMU block counts, llvm-mca, simulated caches; "
            f"{self._costs.cycle_ns:.4g} ns a cycle, {self._costs.cold_ns:.4g} a cold line, "
            f"{self._costs.map_ns:.4g} a line of maps; says nothing of threads, GPU and heat"
        )
        self.first = Report(timings=(), sentinel_ms=0.0, runtime=RUNTIME)

    def time(self, models: Sequence[bytes], burst: int = 1) -> Report:
        """The time of each model; `burst` changes nothing."""
        try:
            counted: list[Counts | str] = list(self._emulator.count(models))
        except DeviceError:  # one that XNNPACK does not take: find it
            counted = [self._count_one(model) for model in models]
        timings = [
            each if isinstance(each, str) else self._timing(model, each)
            for model, each in zip(models, counted, strict=True)
        ]
        return Report(timings=tuple(timings), sentinel_ms=0.0, runtime=RUNTIME)

    def _count_one(self, model: bytes) -> Counts | str:
        try:
            return self._emulator.count([model])[0]
        except DeviceError as error:
            return str(error)

    def _timing(self, model: bytes, counts: Counts) -> Timing:
        ms = milliseconds(self._costs, counts, *tflite.sizes(model))
        return Timing(ms, ms, ms, 1)


def milliseconds(costs: CostModel, counts: Counts, constant_bytes: int, map_bytes: int) -> float:
    """What an op takes, of its counts and the bytes of its weights and of its maps."""
    map_lines = map_bytes / LINE_BYTES
    cold_lines = min(counts.l3_misses, constant_bytes / LINE_BYTES + map_lines)
    nanoseconds = (
        costs.cycle_ns * counts.cycles + costs.cold_ns * cold_lines + costs.map_ns * map_lines
    )
    return 1e-6 * nanoseconds
