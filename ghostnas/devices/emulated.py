"""Devices that are computed, not measured: what an op costs on an ARM core, from its counts.

An op's time is that of its cycles, llvm-mca's for the blocks that TFLite's kernels execute with all
data in the first cache (`ghostnas.devices.emulator`), at the clock of a known board, and 12 ns for
each cold line of 64 bytes: those that miss the last cache, each counted once. These are its
weights, cold in a network whose other ops ran in between, and maps too large for the cache. A
kernel that streams its weights again for every few rows is helped by the prefetcher: measured
networks show no trace of the repeats.

Nothing here was fitted. The phones among the shipped targets were fitted to networks measured
there, with a model of their own: `ghostnas.latency.cost_model`. No emulated table can vouch for
several threads, GPUs, heat or other releases of TFLite.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ghostnas.backends import tflite_writer
from ghostnas.devices.bench import Bench, Report, Setting
from ghostnas.devices.emulator import Counts, Emulator, count_each
from ghostnas.devices.hardware import Core, Hardware
from ghostnas.errors import InputError
from ghostnas.latency.table import Timing

LINE_BYTES = 64
RUNTIME = "LiteRT 1.4.0"
SCHEME = "emulated:"
COLD_NS = 12.0  # what MobileNetV2 at two widths on a Pixel 4 leaves for each miss


OP_ERROR = 0.1  # of an op, as far as is known


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedDevice:
    """A core at the clock of a board."""

    device: str
    core: str
    clock_mhz: int


DEVICES = {
    each.core: each
    for each in (
        EmulatedDevice(device="Raspberry Pi 5 class", core="cortex-a76", clock_mhz=2400),
        EmulatedDevice(device="Raspberry Pi 4 class", core="cortex-a72", clock_mhz=1800),
        EmulatedDevice(device="little core of a phone", core="cortex-a55", clock_mhz=1800),
        EmulatedDevice(device="Raspberry Pi 3 class", core="cortex-a53", clock_mhz=1400),
    )
}


class EmulatedBench(Bench):
    """An emulated device in place of a real one: its times are computed, and exact.

    Raises:
        InputError: there is no such device, more than one thread, or the parts of the emulator are
            missing.
    """

    method = "emulated, not measured"
    op_error = OP_ERROR

    def __init__(self, name: str, setting: Setting, parts: Path) -> None:
        if name not in DEVICES:
            raise InputError(f"unknown emulated device {name!r}; known: {', '.join(DEVICES)}")
        device = DEVICES[name]
        if setting.threads != 1:
            raise InputError("an emulated device has one thread")
        self.setting = dataclasses.replace(setting, rounds=1)
        self._cycle_ns = 1e3 / device.clock_mhz
        self._emulator = Emulator(device.core, parts)
        core = Core(index=0, name=device.core, speed=0, clock_mhz=device.clock_mhz, governor="none")
        self.hardware = Hardware(
            device=device.device, soc="none", load=0.0, architecture="arm", cores=(core,)
        )
        self.cores = (core,)
        self.notes = (
            f"QEMU block counts, llvm-mca, simulated caches of a {device.core}; "
            f"{self._cycle_ns:.4g} ns a cycle, {COLD_NS:g} a cold line; "
            "says nothing of threads, GPU and heat"
        )
        self.first = Report(timings=(), sentinel_ms=0.0, runtime=RUNTIME)

    def time(self, models: Sequence[bytes], burst: int = 1) -> Report:
        """The time of each model; `burst` changes nothing."""
        counted = count_each(self._emulator, models)
        timings = [
            each if isinstance(each, str) else self._timing(model, each)
            for model, each in zip(models, counted, strict=True)
        ]
        return Report(timings=tuple(timings), sentinel_ms=0.0, runtime=RUNTIME)

    def _timing(self, model: bytes, counts: Counts) -> Timing:
        inside = tflite_writer.inspect(model)
        lines = (inside.constant_bytes + inside.map_bytes) / LINE_BYTES
        cold = min(counts.l3_misses, lines)
        ms = 1e-6 * (self._cycle_ns * counts.cycles + COLD_NS * cold)
        return Timing(ms, ms, ms, 1)
