"""Devices that are computed, not measured: what an op costs on an ARM core, from its counts.

An op's time is a sum of three features, each with a cost of its own. In float32 they are

- cycles: llvm-mca's for the blocks that TFLite's kernels execute, all data in the first cache
  (`ghostnas.devices.emulator`);
- cold lines of 64 bytes: those that miss the last cache, each counted once: its weights, cold in a
  network whose other ops ran in between, and maps too large for the cache. A kernel that streams
  its weights again for every few rows is helped by the prefetcher: measured networks show no trace
  of the repeats;
- map lines: those of its inputs and outputs, which lie in some cache, rarely in the first.

In int8 they are the cycles of convolutions and dense layers, and the map lines of depthwise
convolutions and of all other ops: the published int8 networks did not run XNNPACK's kernels for
those, and only the sizes of their maps predict what they took.

A plain core has the clock of a known board and 12 ns per cold line, and was fitted to nothing. A
phone's costs are fitted to whole networks that others measured on it
(github.com/qed-usc/mobile-ml-benchmark at 40ba833a, MIT, TFLite 2.10); ``scripts/
predictor_benchmark.py`` prints them, with their error on families of networks that were left out.
No such table can vouch for several threads, GPUs, heat or other releases of TFLite.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Nanoseconds for what was counted.

    Attributes:
        features: ``fp32`` or ``int8``, see `features`.
        costs_ns: one per feature.
        fitted_to: networks that the costs were fitted to; 0 for none.
        error: mean absolute percentage error (a share) on families of networks left out.
    """

    features: str
    costs_ns: tuple[float, float, float]
    fitted_to: int = 0
    error: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedDevice:
    """A device setting; kernels are counted on the core `counted_on`, `costs` are by dtype."""

    device: str
    soc: str
    core: str
    counted_on: str
    clock_mhz: int
    costs: dict[str, CostModel]


def _at(clock_mhz: int) -> dict[str, CostModel]:
    cost = CostModel(features="fp32", costs_ns=(1e3 / clock_mhz, COLD_NS, 0.0))
    return {"fp32": cost, "int8": cost}


def _board(device: str, core: str, clock_mhz: int) -> EmulatedDevice:
    return EmulatedDevice(
        device=device,
        soc="none",
        core=core,
        counted_on=core,
        clock_mhz=clock_mhz,
        costs=_at(clock_mhz),
    )


def _phone(device: str, soc: str, core: str, clock_mhz: int, **costs: CostModel) -> EmulatedDevice:
    """Its kernels are counted on a Cortex-A76, whatever its core: the costs absorb the rest."""
    return EmulatedDevice(
        device=device,
        soc=soc,
        core=core,
        counted_on="cortex-a76",
        clock_mhz=clock_mhz,
        costs=costs,
    )


def _fitted(features: str, costs_ns: tuple[float, float, float], error: float) -> CostModel:
    networks = {"fp32": 74, "int8": 65}[features]
    return CostModel(features=features, costs_ns=costs_ns, fitted_to=networks, error=error)


SNAPDRAGON, EXYNOS = "Snapdragon 855", "Exynos 9820"
DEVICES = {
    "cortex-a76": _board("Raspberry Pi 5 class", "cortex-a76", 2400),
    "cortex-a72": _board("Raspberry Pi 4 class", "cortex-a72", 1800),
    "cortex-a55": _board("little core of a phone", "cortex-a55", 1800),
    "cortex-a53": _board("Raspberry Pi 3 class", "cortex-a53", 1400),
    "pixel4-cpu1": _phone(
        "Pixel 4, the biggest core",
        SNAPDRAGON,
        "kryo-485-gold",
        2842,
        fp32=_fitted("fp32", (0.4267, 6.127, 3.761), 0.082),
        int8=_fitted("int8", (0.3691, 80.46, 52.43), 0.114),
    ),
    "pixel4-little": _phone(
        "Pixel 4, one little core",
        SNAPDRAGON,
        "kryo-485-silver",
        1785,
        fp32=_fitted("fp32", (1.524, 43.84, 50.07), 0.083),
    ),
    "s10-cpu1": _phone(
        "Galaxy S10, one big core",
        EXYNOS,
        "exynos-m4",
        2730,
        fp32=_fitted("fp32", (0.3154, 8.857, 3.763), 0.077),
        int8=_fitted("int8", (0.3747, 58.81, 41.69), 0.110),
    ),
    "s10-little": _phone(
        "Galaxy S10, one little core",
        EXYNOS,
        "cortex-a55",
        1950,
        fp32=_fitted("fp32", (1.922, 28.79, 66.98), 0.084),
    ),
}


class EmulatedBench(Bench):
    """An emulated device in place of a real one: its times are computed, and exact.

    Raises:
        InputError: there is no such device, or not for that dtype or number of threads, or the
            parts of the emulator are missing.
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
        self._emulator = Emulator(device.counted_on, parts)
        core = Core(index=0, name=device.core, speed=0, clock_mhz=device.clock_mhz, governor="none")
        self.hardware = Hardware(
            device=device.device, soc=device.soc, load=0.0, architecture="arm", cores=(core,)
        )
        self.cores = (core,)
        fitted = self._costs.fitted_to
        self.method = (
            f"emulated, fitted to {fitted} published networks"
            if fitted
            else "emulated, not measured"
        )
        self.op_error = self._costs.error
        costs = ", ".join(f"{cost:.4g}" for cost in self._costs.costs_ns)
        self.notes = (
            f"QEMU block counts, llvm-mca, simulated caches of a {device.counted_on}; "
            f"{self._costs.features} costs of {costs} ns; says nothing of threads, GPU and heat"
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
        lines = (inside.constant_bytes / LINE_BYTES, inside.map_bytes / LINE_BYTES)
        values = features(self._costs.features, _kind(inside.ops), counts, *lines)
        ms = 1e-6 * sum(c * v for c, v in zip(self._costs.costs_ns, values, strict=True))
        return Timing(ms, ms, ms, 1)


def features(
    which: str, kind: str, counts: Counts, weight_lines: float, map_lines: float
) -> tuple[float, float, float]:
    """What an op's time is the weighted sum of.

    Args:
        which: ``fp32`` (cycles, cold lines, map lines) or ``int8`` (cycles of a matrix op, map
            lines of a depthwise one, map lines of another).
        kind: ``matrix``, ``depthwise`` or ``other``.
    """
    if which == "fp32":
        return counts.cycles, min(counts.l3_misses, weight_lines + map_lines), map_lines
    return (
        counts.cycles * (kind == "matrix"),
        map_lines * (kind == "depthwise"),
        map_lines * (kind == "other"),
    )


def _kind(ops: frozenset[str]) -> str:
    if "DEPTHWISE_CONV_2D" in ops:
        return "depthwise"
    return "matrix" if ops & {"CONV_2D", "FULLY_CONNECTED"} else "other"
