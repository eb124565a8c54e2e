"""TFLite's benchmark_model: its command line and its text output. Runs nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ghostnas.errors import DeviceError

LONGEST_S = 150.0  # benchmark_model's own limit, which ends the runs even if too few are done
NORMAL_P90 = 1.2816  # standard deviations above the mean

_LOGCAT = re.compile(r"^.*?\b([VDIWEF])[/ ]tflite\s*(?:\(\s*\d+\))?\s*: ?")
_STATISTIC = re.compile(r"\b(\w+)=(\d+(?:\.\d+)?(?:e[+-]\d+)?)(?![\d.])")
_REPLACED = re.compile(r"Replacing (\d+) out of (\d+) node.* delegate \(TfLiteXNNPackDelegate\)")
_MEMORY = re.compile(r"Memory footprint delta .*\(MB\): init=\S+ overall=(\d+(?:\.\d+)?)")
_EXECUTED = re.compile(r"Number of nodes executed: (\d+)")
# Older versions have one more column of milliseconds, [start], before [first] and [avg ms].
_ROW = re.compile(
    r"\s*(?P<kind>\S.*?)\s+(?:\d+\.\d+\s+){1,2}(?P<avg_ms>\d+\.\d+)\s+\S+%\s+\S+%\s+"
    r"\S+\s+(?P<times_called>\d+)\s+(?P<name>\S.*)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Milliseconds of one inference: median, 10th and 90th percentile, over `runs` runs.

    `delegated` says whether XNNPACK took the whole network, `memory_bytes` by how much the program
    had grown at its peak; None where the log does not say.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    delegated: bool | None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledOp:
    """One node of an op profile.

    Attributes:
        kind: ``CONV_2D`` for TFLite's own kernels, ``Convolution (NHWC, F32) IGEMM`` for XNNPACK's.
        avg_ms: the mean of its calls, each truncated to whole microseconds.
        times_called: in one inference; more than 1 where several nodes share the name.
        name: its output tensors and its index.
    """

    kind: str
    avg_ms: float
    times_called: int
    name: str


def command(
    program: str, model: str, *, threads: int, runs: int, warm_up_runs: int, seconds: float
) -> list[str]:
    """The command that times a model with XNNPACK, for at least `runs` runs and `seconds`."""
    return [
        program,
        f"--graph={model}",
        "--use_xnnpack=true",
        f"--num_threads={threads}",
        f"--num_runs={runs}",
        f"--warmup_runs={warm_up_runs}",
        f"--min_secs={seconds:g}",
        f"--max_secs={max(seconds, LONGEST_S):g}",
        "--enable_op_profiling=false",
    ]


def parse(output: str) -> Timings:
    """The regular runs' timings; of several benchmarks in one log, the last one's.

    Where the log has percentiles, p10 and p90 are its 5th and 95th, which lie further out. Older
    logs have none: the median is their mean, p10 and p90 are those of a normal distribution.

    Raises:
        DeviceError: the benchmark failed, or the log is truncated or of something else.
    """
    lines = _last_benchmark(output)
    parts = [at for at, line in enumerate(lines) if "Running benchmark for" in line]
    if len(parts) != 2:
        raise _error(
            f"looked for 2 lines 'Running benchmark for' (warm-up, runs), found {len(parts)}", lines
        )
    regular = lines[parts[1] + 1 :]
    end = next((at for at, line in enumerate(regular) if "nference timings in us" in line), 0)
    found = [dict(_STATISTIC.findall(line)) for line in regular[:end] if "count=" in line]
    statistics = {key: float(value) for key, value in found[0].items()} if found else {}
    percentiles_us = _percentiles_us(statistics)
    runs = int(statistics.get("count", 0))
    if percentiles_us is None or percentiles_us[1] <= 0 or runs < 1:
        raise _error(
            "looked for 'count= ... curr= ...' of the runs and then 'Inference timings in us', "
            "found none",
            lines,
        )
    median_ms, p10_ms, p90_ms = (microseconds / 1e3 for microseconds in percentiles_us)
    return Timings(
        median_ms=median_ms,
        p10_ms=p10_ms,
        p90_ms=p90_ms,
        runs=runs,
        delegated=_delegated(lines),
        memory_bytes=_memory_bytes(lines),
    )


def parse_profile(output: str) -> tuple[ProfiledOp, ...]:
    """The nodes of the regular runs in the order in which they ran.

    Raises:
        DeviceError: as `parse`, or the log has no such profile.
    """
    lines = _last_benchmark(output)
    regular = [at for at, line in enumerate(lines) if "Profiling Info for Regular" in line]
    if not regular and any("Profiling Info for Benchmark Init" in line for line in lines):
        raise _error("the log ends before the op profile of the regular runs", lines)
    lines = lines[regular[0] :] if regular else lines
    title = next((at for at, line in enumerate(lines) if "= Run Order =" in line), None)
    if title is None:
        raise _error(
            "looked for a table 'Run Order', found none; --enable_op_profiling=true writes it",
            lines,
        )
    table = lines[title + 1 :]
    ends = (at for at, line in enumerate(table) if "=====" in line or _EXECUTED.search(line))
    end = next(ends, len(table))
    rows = (_ROW.fullmatch(line.rstrip()) for line in table[:end])
    ops = tuple(_profiled_op(row) for row in rows if row)
    counted = (_EXECUTED.search(line) for line in table[end:])
    declared = next((int(match[1]) for match in counted if match), "missing")
    if not ops or declared != len(ops):
        raise _error(
            f"the table 'Run Order' has {len(ops)} nodes, 'Number of nodes executed' is {declared}",
            lines,
        )
    return ops


def _last_benchmark(output: str) -> list[str]:
    """The lines from the last start on, without what adb and logcat put around them."""
    lines = [
        _LOGCAT.sub(lambda prefix: "ERROR: " if prefix[1] in "EF" else "", line)
        for line in output.splitlines()
    ]
    starts = [at for at, line in enumerate(lines) if line.strip().endswith("STARTING!")]
    lines = lines[starts[-1] :] if starts else lines
    if any("Benchmarking failed" in line for line in lines):
        raise _error("the benchmark failed", lines)
    return lines


def _profiled_op(row: re.Match[str]) -> ProfiledOp:
    kind, avg_ms, times_called, name = row.groups()
    return ProfiledOp(kind=kind, avg_ms=float(avg_ms), times_called=int(times_called), name=name)


def _percentiles_us(statistics: Mapping[str, float]) -> tuple[float, float, float] | None:
    """Median, p10 and p90. A mean is clipped too, as it is printed with only six digits."""
    if {"p5", "median", "p95"} <= statistics.keys():
        return statistics["median"], statistics["p5"], statistics["p95"]
    if {"avg", "min", "max", "std"} <= statistics.keys():
        least, greatest = statistics["min"], statistics["max"]
        spread = NORMAL_P90 * statistics["std"]
        mean = min(max(statistics["avg"], least), greatest)
        return mean, max(mean - spread, least), min(mean + spread, greatest)
    if "curr" in statistics and "min" not in statistics:  # all runs took the same time
        return statistics["curr"], statistics["curr"], statistics["curr"]
    return None


def _delegated(lines: list[str]) -> bool | None:
    said = [
        "completely executed" in line
        for line in lines
        if "XNNPACK delegate" in line and "executed by the delegate" in line
    ]
    replaced = [match for line in lines if (match := _REPLACED.search(line))]
    verdicts = said or [match[1] == match[2] for match in replaced]
    return all(verdicts) if verdicts else None


def _memory_bytes(lines: list[str]) -> int | None:
    found = [float(match[1]) for line in lines if (match := _MEMORY.search(line))]
    return round(found[-1] * 2**20) if found else None


def _error(message: str, lines: list[str]) -> DeviceError:
    """The message and the first of the log's own errors, which is the one nearest to the cause."""
    said = [line[line.index("ERROR: ") :].strip() for line in lines if "ERROR: " in line]
    return DeviceError(f"benchmark_model: {message}" + (f"; it says {said[0]}" if said else ""))
