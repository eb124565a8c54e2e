"""Builds latency tables on devices: times a space's ops and whole networks and combines them.

Everything timed goes to a journal at once; a build that ends early resumes where it stopped.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ghostnas.devices.bench import Bench
from ghostnas.devices.journal import Journal
from ghostnas.devices.op_models import network_model, op_model, ops_of
from ghostnas.errors import InputError
from ghostnas.files import write_whole
from ghostnas.latency import calibration
from ghostnas.latency import table as latency_table
from ghostnas.latency.op_costs import OpCosts
from ghostnas.latency.op_signature import OpSignature
from ghostnas.latency.table import ModelTiming, Origin, Table, Timing
from ghostnas.networks import arch as archs
from ghostnas.networks.arch import Arch
from ghostnas.networks.space import Space
from ghostnas.progress import Say, duration

Key = TypeVar("Key")

OPS_A_BATCH = 128  # about as many as a network has: weights are then as cold as they are there
NETWORKS_A_BATCH = 4
BATCH_BYTES = 64 << 20
BURST = 4  # runs of a network in one turn
SPREAD = 0.3  # of p10 to p90 over the median, above which an op is timed again
DRIFTED = 1.08  # times the usual time of the sentinel
DRIFT_PAUSE_S = 10.0
DRIFT_REPEATS = 2
OP_SEED, NETWORK_SEED, CHECK_SEED = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredNetwork:
    """A whole network that was timed; `use` is ``fit`` or ``check``."""

    arch: Arch
    timing: Timing
    use: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A table that was built, and how that went."""

    table: Table
    measured: int
    refused: Mapping[OpSignature, str]
    networks: int
    seconds: float
    writing_s: float
    thrown_away: int


def build(
    bench: Bench, space: Space, out: Path, *, ops: int, networks: int, say: Say = print
) -> Built:
    """Measure a space's ops and some of its networks, and write the table.

    An earlier table of the same setting at `out` is extended; a build that was stopped resumes.

    Raises:
        InputError: the table at `out`, or its journal, is for another setting.
        DeviceError: the device failed; what was measured until then is kept.
    """
    start = time.monotonic()
    if 0 < networks < calibration.FEWEST_NETWORKS:
        raise InputError(
            f"{networks} networks are too few for a correction: take at least "
            f"{calibration.FEWEST_NETWORKS}, or none"
        )
    origin = origin_of(bench)
    known = latency_table.load(str(out)) if out.exists() else None
    if known and (differs := latency_table.difference(origin, known.origin)):
        raise InputError(f"{out} is for another setting: {differs}; choose another --out")
    wanted = ops_of(space, ops, OP_SEED)
    earlier = known.rows if known else {}
    kept = load_networks(networks_file(out)) if known else []  # otherwise they are another table's
    ids = {each.arch.id for each in kept}
    about = {"space": space.hash, "setting": latency_table.setting(origin)}
    journal = Journal(Path(f"{out}.journal"), about)
    timer = _Timer(bench, journal, say)
    rows, refused = timer.ops([op for op in wanted if op not in earlier])
    drawn = draw(space, networks, NETWORK_SEED)
    timed = timer.networks([arch for arch in drawn if arch.id not in ids], "fit")
    sentinel_ms = float(np.median([*timer.sentinels_ms, bench.first.sentinel_ms]))
    origin = dataclasses.replace(origin, sentinel_ms=round(sentinel_ms, 6))
    table = Table(name=out.stem, origin=origin, rows={**earlier, **rows})
    table = correct(table, [each for each in (*kept, *timed) if each.use == "fit"])
    save_networks(networks_file(out), [*kept, *timed])
    latency_table.save(table, out)
    journal.remove()
    return Built(
        table=table,
        measured=len(rows),
        refused=refused,
        networks=len(timed),
        seconds=time.monotonic() - start,
        writing_s=timer.writing_s,
        thrown_away=timer.thrown_away,
    )


def correct(table: Table, networks: Sequence[MeasuredNetwork]) -> Table:
    """The table with the correction that these networks give; without any, if they are too few."""
    if len(networks) < calibration.FEWEST_NETWORKS:
        return dataclasses.replace(table, correction=None)
    costs = OpCosts(table)
    fitted = calibration.fit(
        [costs.of_arch(each.arch) for each in networks],
        [each.timing.median_ms for each in networks],
        costs.bytes_a_weight,
    )
    return dataclasses.replace(table, correction=fitted)


def origin_of(bench: Bench) -> Origin:
    """The origin of a table that this bench measures now."""
    hardware, cores, setting = bench.hardware, bench.cores, bench.setting
    return Origin(
        device=hardware.device,
        soc=hardware.soc,
        core="+".join(dict.fromkeys(core.name for core in cores)),
        clock_mhz=max(core.clock_mhz for core in cores),
        governor="+".join(dict.fromkeys(core.governor for core in cores)),
        load=hardware.load,
        threads=setting.threads,
        runtime=bench.runtime,
        delegate="XNNPACK",
        dtype=setting.dtype,
        method=bench.method,
        op_error=bench.op_error,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        notes=bench.notes,
        architecture=hardware.architecture,
    )


def time_model(bench: Bench, model: bytes) -> ModelTiming:
    """A .tflite model's timing, or why it was refused, with the origin of a table of this bench."""
    found = bench.time([model], BURST)
    return ModelTiming(found.timings[0], origin_of(bench), found.memory_bytes)


def measure_networks(
    bench: Bench, wanted: Sequence[Arch], journal: Journal, use: str, say: Say
) -> list[MeasuredNetwork]:
    """Time whole networks; those that the journal has are not timed again."""
    return _Timer(bench, journal, say).networks(wanted, use)


def draw(space: Space, count: int, seed: int, without: frozenset[str] = frozenset()) -> list[Arch]:
    """Distinct random networks of a space, none with those ids."""
    rng = random.Random(f"networks {seed}")
    drawn: dict[str, Arch] = {}
    for _ in range(100 * count):
        if len(drawn) == count:
            break
        arch = space.decode(space.sample(rng))
        if arch.id not in without:
            drawn[arch.id] = arch
    return list(drawn.values())


def networks_file(table: Path) -> Path:
    """Where the networks measured beside a table are kept."""
    return table.with_suffix(".networks.jsonl")


def load_networks(path: Path) -> list[MeasuredNetwork]:
    """The networks of a file, none if there is no file.

    Raises:
        InputError: a line is damaged; it is named.
    """
    if not path.exists():
        return []
    found = []
    for at, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            timing = Timing(*entry["timing"])
            arch = archs.from_json(entry["arch"])
            found.append(MeasuredNetwork(arch=arch, timing=timing, use=entry["use"]))
        except (ValueError, KeyError, TypeError, InputError) as error:
            raise InputError(f"{path}:{at}: is not a measured network: {error}") from error
    return found


def save_networks(path: Path, networks: Sequence[MeasuredNetwork]) -> None:
    """Write the file whole or not at all."""
    lines = [
        json.dumps({"use": each.use, "timing": list(each.timing), "arch": archs.to_json(each.arch)})
        for each in networks
    ]
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())


class _Timer:
    """Times what the journal lacks, in batches, and enters it there."""

    def __init__(self, bench: Bench, journal: Journal, say: Say) -> None:
        self._bench = bench
        self._journal = journal
        self._say = say
        self.writing_s = 0.0
        self.thrown_away = 0
        self.sentinels_ms = [entry["sentinel_ms"] for entry in journal.entries]

    def ops(
        self, wanted: Sequence[OpSignature]
    ) -> tuple[dict[OpSignature, Timing], dict[OpSignature, str]]:
        """Timings of the ops, and why any were refused."""
        rows = self._entered("op", lambda key: OpSignature(*key))
        dtype = self._bench.setting.dtype
        missing = [op for op in wanted if op not in rows]
        random.Random(OP_SEED).shuffle(missing)  # neighbours in size are measured minutes apart
        self._time(missing, lambda op: op_model(op, dtype), "op", list, OPS_A_BATCH, 1, rows)
        spread = [op for op in wanted if _spread(rows[op]) > SPREAD]
        spread = spread[: len(wanted) // 10]
        self._time(spread, lambda op: op_model(op, dtype), "op", list, OPS_A_BATCH, 1, rows)
        timings = {op: row for op in wanted if isinstance(row := rows[op], Timing)}
        refused = {op: row for op in wanted if isinstance(row := rows[op], str)}
        return timings, refused

    def networks(self, wanted: Sequence[Arch], use: str) -> list[MeasuredNetwork]:
        known = self._entered(use, lambda key: archs.from_json(key))
        dtype = self._bench.setting.dtype
        missing = [arch for arch in wanted if arch not in known]
        self._time(
            missing,
            lambda arch: network_model(arch, dtype),
            use,
            archs.to_json,
            NETWORKS_A_BATCH,
            BURST,
            known,
        )
        return [
            MeasuredNetwork(arch=arch, timing=timing, use=use)
            for arch in wanted
            if isinstance(timing := known[arch], Timing)
        ]

    def _entered(self, kind: str, key_of: Callable[[Any], Key]) -> dict[Key, Timing | str]:
        rows: dict[Key, Timing | str] = {}
        for entry in self._journal.entries:
            if entry["kind"] == kind:
                _keep_better(rows, key_of(entry["key"]), _row(entry["row"]))
        return rows

    def _time(
        self,
        keys: Sequence[Key],
        model_of: Callable[[Key], bytes],
        kind: str,
        to_json: Callable[[Key], Any],
        batch: int,
        burst: int,
        rows: dict[Key, Timing | str],
    ) -> None:
        """Time the keys' models and add them to `rows` and to the journal, a batch at a time."""
        start, done = time.monotonic(), 0
        while done < len(keys):
            chosen, models = self._write_batch(keys[done : done + batch], model_of)
            timings, sentinel_ms = self._time_steadily(models, burst)
            self.sentinels_ms.append(sentinel_ms)
            entries = []
            for key, row in zip(chosen, timings, strict=True):
                _keep_better(rows, key, row)
                entry = {"kind": kind, "key": to_json(key), "row": row, "sentinel_ms": sentinel_ms}
                entries.append(entry)
            self._journal.append(entries)
            done += len(chosen)
            left_s = (time.monotonic() - start) / done * (len(keys) - done)
            name = "ops" if kind == "op" else "networks"
            self._say(f"{done} of {len(keys)} {name}, {duration(left_s)} left")

    def _write_batch(
        self, keys: Sequence[Key], model_of: Callable[[Key], bytes]
    ) -> tuple[list[Key], list[bytes]]:
        """Models of the first keys, as many as fit into a batch's bytes."""
        start = time.monotonic()
        models: list[bytes] = []
        total = 0
        for key in keys:
            model = model_of(key)
            total += len(model)
            if models and total > BATCH_BYTES:
                break
            models.append(model)
        self.writing_s += time.monotonic() - start
        return list(keys[: len(models)]), models

    def _time_steadily(
        self, models: Sequence[bytes], burst: int
    ) -> tuple[Sequence[Timing | str], float]:
        """Time a batch, and again if the device was slower meanwhile than before."""
        best = None
        for attempt in range(1 + DRIFT_REPEATS):
            report = self._bench.time(models, burst)
            self.thrown_away += report.thrown_away
            if best is None or report.sentinel_ms < best.sentinel_ms:
                best = report
            usual_ms = float(np.percentile([*self.sentinels_ms, self._bench.first.sentinel_ms], 20))
            if best.sentinel_ms <= DRIFTED * usual_ms:
                break
            slower = best.sentinel_ms / usual_ms - 1
            self._say(f"the device is {100 * slower:.0f} % slower than before")
            if attempt < DRIFT_REPEATS:
                time.sleep(DRIFT_PAUSE_S)
        assert best is not None
        return best.timings, best.sentinel_ms


def _keep_better(rows: dict[Key, Timing | str], key: Key, row: Timing | str) -> None:
    """Enter a timing unless a better one is there: any is better than none, and the tighter of two
    is better, unless from fewer runs, which may be tight by chance.
    """
    known = rows.get(key, "")
    if isinstance(row, Timing) and isinstance(known, Timing):
        better = row.runs >= known.runs and _spread(row) <= _spread(known)
    else:
        better = isinstance(known, str)
    if better:
        rows[key] = row


def _spread(row: Timing | str) -> float:
    return (row.p90_ms - row.p10_ms) / row.median_ms if isinstance(row, Timing) else 0.0


def _row(value: Any) -> Timing | str:
    return value if isinstance(value, str) else Timing(*value)
