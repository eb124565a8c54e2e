"""Tables that are really measured, on this machine, of a small space; what a stop leaves behind."""

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from small import SPACE, write_space

from ghostnas.devices import op_models, table_build
from ghostnas.devices.bench import Bench, DeviceBench, Report, Setting
from ghostnas.devices.device import Device, open_device
from ghostnas.devices.journal import Journal
from ghostnas.devices.table_build import Built, MeasuredNetwork
from ghostnas.errors import DeviceLostError, InputError
from ghostnas.latency import calibration
from ghostnas.latency import table as latency_table
from ghostnas.latency.op_signature import OpSignature
from ghostnas.latency.predictor import Predictor
from ghostnas.latency.table import Timing
from ghostnas.networks import arch, space
from ghostnas.networks.space import Space

FEWER, OPS = 170, 190
FEWEST, NETWORKS = calibration.FEWEST_NETWORKS, calibration.FEWEST_NETWORKS + 1
BATCH, NETWORKS_A_BATCH = 100, 5
JOBS = [100, 90, 5, 5, 1]  # models in each: ops, then networks
HARD_SWISH = OpSignature("hard_swish", 4, 4, 16, 16, 0, 0, "none")
WIDE, NARROW = Timing(2.0, 1.0, 3.0, 9), Timing(2.5, 2.4, 2.6, 9)


class Watched(Device):
    """A device that remembers how many models each job has, and is lost after some jobs."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.url, self.folder = device.url, device.folder
        self.jobs: list[int] = []
        self.lost_after = math.inf

    def push(self, source: Path, name: str) -> None:
        if name == "job":
            if len(self.jobs) == self.lost_after:
                raise DeviceLostError("local: lost: it was unplugged")
            self.jobs.append(len(json.loads((source / "job.json").read_text())["models"]))
        self._device.push(source, name)

    def run(self, command: Sequence[str], *, timeout_s: float) -> str:
        return self._device.run(command, timeout_s=timeout_s)

    def pull(self, name: str, target: Path) -> None:
        self._device.pull(name, target)

    def close(self) -> None:
        self._device.close()


@pytest.fixture(autouse=True, scope="module")
def undisturbed() -> Iterator[None]:
    """A small space's own ops, and nothing timed again because the machine was busy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(op_models, "ZOO_WIDTHS", ())
        patch.setattr(op_models, "NETWORKS_WALKED", 200)
        patch.setattr(table_build, "OPS_A_BATCH", BATCH)
        patch.setattr(table_build, "NETWORKS_A_BATCH", NETWORKS_A_BATCH)
        patch.setattr(table_build, "SPREAD", math.inf)
        patch.setattr(table_build, "DRIFTED", math.inf)
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Space:
    return space.load(str(write_space(tmp_path_factory.mktemp("space"))))


@pytest.fixture(scope="module")
def int8() -> Iterator[Bench]:
    with open_device("local") as device:
        yield DeviceBench(device, Setting(rounds=2, dtype="int8", python=sys.executable))


@pytest.fixture(scope="module")
def fp32() -> Iterator[Bench]:
    with Watched(open_device("local")) as device:
        yield DeviceBench(device, Setting(rounds=2, python=sys.executable))


@pytest.fixture
def bench(fp32: Bench) -> Bench:
    fp32.device.jobs.clear()
    fp32.device.lost_after = math.inf
    return fp32


@pytest.fixture(scope="module")
def first(
    fp32: Bench, small: Space, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Built, list[str]]:
    """A table of fewer ops and networks than the space has, and what was said meanwhile."""
    lines: list[str] = []
    out = tmp_path_factory.mktemp("first") / "made" / "here.csv"
    built = table_build.build(fp32, small, out, ops=FEWER, networks=FEWEST, say=lines.append)
    return out, built, lines


@pytest.fixture
def out(first: tuple[Path, Built, list[str]], tmp_path: Path) -> Path:
    """A copy of the first table, and of its networks."""
    shutil.copytree(first[0].parent, tmp_path / "copy")
    return tmp_path / "copy" / "here.csv"


@pytest.fixture
def scripted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Script the bench's answer to each batch, the last for ever: how slow the sentinel was, in
    units of the first time, and the timing of every model; or None if it is lost. Returns the
    batches' sizes.
    """

    def script(answers: Sequence[tuple[float, Timing] | None]) -> list[int]:
        asked: list[int] = []

        def answer(models: Sequence[bytes], burst: int) -> Report:
            said = answers[min(len(asked), len(answers) - 1)]
            if said is None:
                raise DeviceLostError("local: lost: it was unplugged")
            asked.append(len(models))
            slowness, timing = said
            sentinel_ms = slowness * bench.first.sentinel_ms
            return Report(timings=(timing,) * len(models), sentinel_ms=sentinel_ms, runtime="x")

        monkeypatch.setattr(bench, "time", answer)
        return asked

    return script


def build(bench: Bench, small: Space, out: Path, ops: int = OPS, networks: int = NETWORKS) -> Built:
    return table_build.build(bench, small, out, ops=ops, networks=networks, say=lambda line: None)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_build_leaves_a_table_and_its_networks_and_nothing_else(
    first: tuple[Path, Built, list[str]], small: Space
) -> None:
    path, built, lines = first
    assert names(path.parent) == ["here.csv", "here.networks.jsonl"]
    table = latency_table.load(str(path))
    assert set(table.rows) == set(op_models.ops_of(small, FEWER)) == set(built.table.rows)
    assert {timing.runs for timing in table.rows.values()} == {2}
    networks = table_build.load_networks(table_build.networks_file(path))
    assert [each.arch for each in networks] == table_build.draw(
        small, FEWEST, table_build.NETWORK_SEED
    )
    assert {(each.use, each.timing.runs) for each in networks} == {("fit", 2 * 3)}
    assert table.correction.networks == FEWEST
    assert Predictor(table).predict(networks[0].arch).calibrated
    assert (built.measured, built.networks, built.refused) == (FEWER, FEWEST, {})
    assert 0 < built.writing_s < built.seconds
    progress = [line.partition(",")[0] for line in lines]
    assert progress == [
        *(f"{done} of {FEWER} ops" for done in (BATCH, FEWER)),
        *(f"{done} of {FEWEST} networks" for done in (5, FEWEST)),
    ]


def test_the_origin_says_what_was_measured_and_with_what(
    first: tuple[Path, Built, list[str]], bench: Bench
) -> None:
    origin = first[1].table.origin
    assert (origin.method, origin.threads, origin.delegate) == ("measured", 1, "XNNPACK")
    assert (origin.dtype, origin.op_error) == ("fp32", DeviceBench.op_error)
    assert origin.runtime.startswith("ai-edge-litert ")
    assert (origin.device, origin.soc) == (bench.hardware.device, bench.hardware.soc)
    assert origin.core == bench.cores[0].name
    assert origin.notes == f"pinned to cpu {bench.cores[0].index}"
    assert 0 < origin.sentinel_ms < 100


def test_a_second_build_adds_only_what_is_missing(bench: Bench, small: Space, out: Path) -> None:
    first = latency_table.load(str(out))
    networks = table_build.load_networks(table_build.networks_file(out))
    built = build(bench, small, out)
    assert bench.device.jobs == [OPS - FEWER, NETWORKS - FEWEST]
    assert (built.measured, built.networks) == (OPS - FEWER, NETWORKS - FEWEST)
    table = latency_table.load(str(out))
    assert {op: table.rows[op] for op in first.rows} == first.rows
    assert len(table.rows) == OPS
    assert table_build.load_networks(table_build.networks_file(out))[:FEWEST] == networks
    assert table.correction.networks == NETWORKS
    assert names(out.parent) == ["here.csv", "here.networks.jsonl"]


def test_a_network_that_a_check_has_measured_is_not_fitted_to_nor_measured_again(
    scripted: Callable[..., list[int]], bench: Bench, small: Space, out: Path
) -> None:
    file = table_build.networks_file(out)
    [one, *others] = table_build.load_networks(file)
    table_build.save_networks(file, [dataclasses.replace(one, use="check"), *others])
    asked = scripted([(1, NARROW)])
    build(bench, small, out, ops=FEWER)
    assert asked == [1]
    assert [each.use for each in table_build.load_networks(file)] == ["check"] + ["fit"] * FEWEST
    assert latency_table.load(str(out)).correction.networks == FEWEST


def test_networks_of_a_table_that_was_deleted_are_not_used(
    scripted: Callable[..., list[int]], bench: Bench, small: Space, out: Path
) -> None:
    out.unlink()
    asked = scripted([(1, NARROW)])
    build(bench, small, out)
    assert asked == JOBS
    networks = table_build.load_networks(table_build.networks_file(out))
    assert [each.timing for each in networks] == [NARROW] * NETWORKS


def test_a_table_of_another_setting_is_refused_and_stays(
    int8: Bench, small: Space, out: Path
) -> None:
    before = out.read_bytes()
    said = "here.csv is for another setting: dtype is 'int8' in one and 'fp32' in the other; choose"
    with pytest.raises(InputError, match=said):
        build(int8, small, out)
    assert out.read_bytes() == before
    assert names(out.parent) == ["here.csv", "here.networks.jsonl"]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_a_table_of_other_threads_is_refused(bench: Bench, small: Space, out: Path) -> None:
    two = DeviceBench(
        bench.device, Setting(rounds=2, threads=2, cores="0-1", python=sys.executable)
    )
    with pytest.raises(InputError, match=r"another setting: .*threads is 2 in one and 1 in the"):
        build(two, small, out)


def test_too_few_ops_or_networks_are_refused_and_leave_nothing(
    bench: Bench, small: Space, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="5 ops are too few"):
        build(bench, small, tmp_path / "here.csv", ops=5)
    with pytest.raises(InputError, match=f"{FEWEST - 1} networks are too few for a correction"):
        build(bench, small, tmp_path / "here.csv", networks=FEWEST - 1)
    assert bench.device.jobs == []
    assert names(tmp_path) == []


def test_int8_is_measured_and_ops_that_are_refused_are_named_and_not_in_the_table(
    int8: Bench, small: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops_of = op_models.ops_of
    monkeypatch.setattr(table_build, "ops_of", lambda *given: [HARD_SWISH, *ops_of(*given)])
    out = tmp_path / "int8.csv"
    built = build(int8, small, out)
    assert built.refused == {HARD_SWISH: "XNNPACK did not take it"}
    table = latency_table.load(str(out))
    assert table.origin.dtype == "int8"
    assert set(table.rows) == set(ops_of(small, OPS))
    assert table.correction.networks == NETWORKS
    [fresh] = table_build.draw(small, 1, seed=5)
    assert Predictor(table).predict(fresh).latency_ms > 0


def test_a_build_resumes_where_the_device_was_lost(
    bench: Bench, small: Space, tmp_path: Path
) -> None:
    out = tmp_path / "here.csv"
    bench.device.lost_after = 3
    with pytest.raises(DeviceLostError, match="unplugged"):
        build(bench, small, out)
    assert names(tmp_path) == ["here.csv.journal"]
    lines = [json.loads(line) for line in Path(f"{out}.journal").read_text().splitlines()]
    assert len(lines) == 1 + sum(JOBS[:3])
    bench.device.lost_after = math.inf
    built = build(bench, small, out)
    assert bench.device.jobs == JOBS
    assert names(tmp_path) == ["here.csv", "here.networks.jsonl"]
    assert (built.measured, built.networks) == (OPS, NETWORKS)
    rows = [Timing(*line["row"]) for line in lines[1 : 1 + OPS]]
    assert [built.table.rows[OpSignature(*line["key"])] for line in lines[1 : 1 + OPS]] == rows


@pytest.mark.parametrize("batches", range(len(JOBS)))
def test_what_was_timed_before_the_device_was_lost_is_not_timed_again(
    scripted: Callable[..., list[int]], bench: Bench, small: Space, tmp_path: Path, batches: int
) -> None:
    out = tmp_path / "here.csv"
    before = scripted([(1, NARROW)] * batches + [None])
    with pytest.raises(DeviceLostError):
        build(bench, small, out)
    after = scripted([(1, WIDE)])
    rows = build(bench, small, out).table.rows
    assert before + after == JOBS
    assert list(rows.values()).count(NARROW) == sum(before[:2])
    networks = table_build.load_networks(table_build.networks_file(out))
    assert [each.timing for each in networks].count(NARROW) == sum(before[2:])


def test_what_another_build_left_is_refused_and_named(
    scripted: Callable[..., list[int]], bench: Bench, small: Space, tmp_path: Path
) -> None:
    scripted([(1, NARROW), None])
    with pytest.raises(DeviceLostError):
        build(bench, small, tmp_path / "here.csv")
    (tmp_path / "other.toml").write_text(SPACE.replace("alpha = 1.0", "alpha = 0.5"))
    other = space.load(str(tmp_path / "other.toml"))
    with pytest.raises(InputError, match=r"here.csv.journal was begun with space .* delete the"):
        build(bench, other, tmp_path / "here.csv")


def test_ops_whose_times_spread_are_timed_once_more_but_at_most_a_tenth(
    scripted: Callable[..., list[int]],
    bench: Bench,
    small: Space,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(table_build, "SPREAD", 0.3)
    asked = scripted([(1, WIDE), (1, NARROW)])
    rows = build(bench, small, tmp_path / "here.csv", networks=0).table.rows
    assert asked == [100, 90, OPS // 10]
    assert list(rows.values()).count(NARROW) == 90 + OPS // 10


def test_of_two_timings_the_one_that_spreads_less_is_kept(
    scripted: Callable[..., list[int]],
    bench: Bench,
    small: Space,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(table_build, "SPREAD", 0.05)
    scripted([(1, NARROW), (1, NARROW), (1, WIDE)])
    rows = build(bench, small, tmp_path / "here.csv", networks=0).table.rows
    assert set(rows.values()) == {NARROW}


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (WIDE, NARROW, NARROW),
        (NARROW, WIDE, NARROW),
        (WIDE, "not delegated", WIDE),  # a refusal has no spread
        ("not delegated", WIDE, WIDE),
        ("not delegated", "no memory", "no memory"),
        (WIDE, Timing(2.0, 2.0, 2.0, 1), WIDE),  # nor has a single run
        (WIDE, NARROW._replace(runs=10), NARROW._replace(runs=10)),
    ],
)
def test_a_repeat_that_fails_or_has_fewer_runs_takes_no_timings_place(
    first: Timing | str,
    second: Timing | str,
    kept: Timing | str,
    bench: Bench,
    small: Space,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the first batch, all of which is timed again, and from the journal after a crash."""
    answers = [first, second]

    def time(models: Sequence[bytes], burst: int) -> Report:
        if not answers:
            raise DeviceLostError("local: lost: it was unplugged")
        row = answers.pop(0)
        return Report(
            timings=(row,) * len(models), sentinel_ms=bench.first.sentinel_ms, runtime="x"
        )

    monkeypatch.setattr(bench, "time", time)
    monkeypatch.setattr(table_build, "OPS_A_BATCH", 500)
    wanted = op_models.ops_of(small, FEWER)[:20]
    about = {"space": small.hash}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_build, "SPREAD", -1.0)
        timer = table_build._Timer(bench, Journal(tmp_path / "journal", about), lambda line: None)
        timings, refused = timer.ops(wanted)
    repeated = wanted[: len(wanted) // 10]
    rows = {**timings, **refused}
    assert [rows[op] for op in repeated] == [kept] * len(repeated)
    again = table_build._Timer(bench, Journal(tmp_path / "journal", about), lambda line: None)
    timings, refused = again.ops(wanted)
    assert {**timings, **refused} == rows


@pytest.mark.parametrize(
    ("slowness", "batches", "kept"),
    [
        ([1.0], 1, 1.0),
        ([1.05], 1, 1.05),
        ([1.2, 1.0], 2, 1.0),
        ([1.3, 1.2, 1.01], 3, 1.01),
        ([1.3, 1.2, 1.4], 3, 1.2),
        ([0.5], 1, 0.5),
    ],
)
def test_a_batch_is_timed_again_if_the_device_was_slower_meanwhile(
    scripted: Callable[..., list[int]],
    bench: Bench,
    small: Space,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    slowness: list[float],
    batches: int,
    kept: float,
) -> None:
    monkeypatch.setattr(table_build, "DRIFTED", 1.08)
    pauses: list[float] = []
    monkeypatch.setattr(table_build.time, "sleep", pauses.append)
    asked = scripted([(each, Timing(each, each, each, 1)) for each in slowness])
    lines: list[str] = []
    journal = table_build.Journal(tmp_path / "journal", {})
    wanted = table_build.draw(small, 2, seed=3)
    measured = table_build.measure_networks(bench, wanted, journal, "fit", lines.append)
    assert asked == [2] * batches
    assert [each.timing.median_ms for each in measured] == [kept, kept]
    assert journal.entries[0]["sentinel_ms"] == kept * bench.first.sentinel_ms
    slower = [line for line in lines if "slower than before" in line]
    assert len(slower) == sum(min(slowness[: at + 1]) > 1.08 for at in range(batches))
    assert len(pauses) == batches - 1


def test_a_batch_is_no_larger_than_its_bytes(
    scripted: Callable[..., list[int]],
    bench: Bench,
    small: Space,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = op_models.ops_of(small, OPS)
    sizes = [len(op_models.op_model(op)) for op in wanted]
    limit = max(sizes) + 1000
    monkeypatch.setattr(table_build, "BATCH_BYTES", limit)
    asked = scripted([(1, NARROW)])
    build(bench, small, tmp_path / "here.csv", networks=0)
    assert sum(asked) == OPS
    assert sum(sizes) / limit <= len(asked) <= 2 * sum(sizes) / limit + OPS / BATCH
    monkeypatch.setattr(table_build, "BATCH_BYTES", 0)
    asked = scripted([(1, NARROW)])
    build(bench, small, tmp_path / "one.csv", networks=0)
    assert asked == [1] * OPS


def test_networks_are_drawn_the_same_every_time_and_all_differ(small: Space) -> None:
    drawn = table_build.draw(small, 30, seed=1)
    assert len({each.id for each in drawn}) == 30
    assert table_build.draw(small, 20, seed=1) == drawn[:20]
    assert table_build.draw(small, 30, seed=2) != drawn
    without = frozenset(each.id for each in drawn[:10])
    assert table_build.draw(small, 20, seed=1, without=without) == drawn[10:]


def test_a_space_with_few_networks_gives_as_many_as_it_has(tmp_path: Path) -> None:
    text = re.sub(r"\[(\d[\d.]*), [^]]*\]", r"\1", SPACE).replace(
        "resolution = 32", "resolution = [32, 64]"
    )
    (tmp_path / "tiny.toml").write_text(text)
    assert len(table_build.draw(space.load(str(tmp_path / "tiny.toml")), 10, seed=0)) == 2


def measured_networks(small: Space, count: int) -> list[MeasuredNetwork]:
    drawn = table_build.draw(small, count, seed=9)
    return [
        MeasuredNetwork(arch=each, timing=Timing(1.5 + at, 1.25, 2.0 + at, 30), use="fit")
        for at, each in enumerate(drawn)
    ]


def test_networks_survive_their_file(small: Space, tmp_path: Path) -> None:
    networks = measured_networks(small, 3)
    networks[1] = dataclasses.replace(networks[1], use="check")
    path = table_build.networks_file(tmp_path / "here.csv")
    assert table_build.load_networks(path) == []
    table_build.save_networks(path, networks)
    assert table_build.load_networks(path) == networks
    assert names(tmp_path) == ["here.networks.jsonl"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: "{",
        lambda entry: "[]",
        lambda entry: json.dumps({**entry, "timing": [1.0, 2.0]}),
        lambda entry: json.dumps({key: entry[key] for key in ("timing", "arch")}),
        lambda entry: json.dumps({**entry, "arch": {}}),
    ],
)
def test_a_damaged_network_is_named_by_file_and_line(
    small: Space, tmp_path: Path, damage: Callable[[dict], str]
) -> None:
    path = tmp_path / "here.networks.jsonl"
    table_build.save_networks(path, measured_networks(small, 3))
    lines = path.read_text().splitlines()
    lines[1] = damage(json.loads(lines[1]))
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=f"^{path}:2: is not a measured network"):
        table_build.load_networks(path)


def test_a_correction_takes_enough_networks(
    scripted: Callable[..., list[int]], bench: Bench, small: Space, tmp_path: Path
) -> None:
    scripted([(1, NARROW)])
    table = build(bench, small, tmp_path / "here.csv", ops=1000, networks=0).table
    assert table.correction is None
    networks = measured_networks(small, NETWORKS)
    assert table_build.correct(table, networks[: FEWEST - 1]).correction is None
    corrected = table_build.correct(table, networks)
    assert corrected.correction.networks == NETWORKS
    assert table_build.correct(corrected, networks[: FEWEST - 1]).correction is None


# In separate processes


def command(folder: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "ghostnas", "latency", "build", "--json"),
        *("--space", str(folder / "small.toml"), "--ops", "300", "--networks", "12"),
        *("--rounds", "8", "--out", str(folder / "here.csv")),
    ]


def wait_for(process: subprocess.Popen[str], pattern: str) -> str:
    for line in process.stderr:
        if re.match(pattern, line):
            return line
    raise AssertionError(f"the build ended before it said {pattern}")


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("moment", [r"128 of 300 ops", r"4 of 12 networks"])
def test_a_build_that_is_killed_resumes_where_it_was(
    tmp_path: Path, ending: signal.Signals, moment: str
) -> None:
    write_space(tmp_path)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command(tmp_path), **pipes) as process:
        wait_for(process, moment)
        process.send_signal(ending)
        _, errors = process.communicate(timeout=60)
    if ending == signal.SIGINT:
        assert process.returncode == 130
        assert errors.splitlines()[-1] == (
            "ghostnas: stopped; measurements are kept, resume with the same command"
        )
        assert "Traceback" not in errors
    # What a killed process leaves of its lock is a file that nobody holds.
    lock = [".here.csv.lock"] if ending == signal.SIGKILL else []
    assert names(tmp_path) == [*lock, "here.csv.journal", "small.toml"]
    journal = (tmp_path / "here.csv.journal").read_text().splitlines()[1:]
    kept = [json.loads(line) for line in journal]
    ops = {OpSignature(*each["key"]): each["row"] for each in kept if each["kind"] == "op"}
    networks = {
        arch.from_json(each["key"]).id: each["row"] for each in kept if each["kind"] == "fit"
    }
    resumed = subprocess.run(
        command(tmp_path), capture_output=True, text=True, check=True, timeout=300
    )
    missing = {"ops": 0, "networks": 0}
    for total, name in re.findall(r"of (\d+) (ops|networks),", resumed.stderr):
        missing[name] = max(missing[name], int(total))
    assert missing["networks"] == 12 - len(networks)
    assert 300 - len(ops) <= missing["ops"] <= max(300 - len(ops), 30)  # 30 that spread
    assert json.loads(resumed.stdout)["ops"] == 300
    table = latency_table.load(str(tmp_path / "here.csv"))
    for op, (median_ms, p10_ms, p90_ms, _) in ops.items():
        row = table.rows[op]
        kept_spread, spread = (
            (p90_ms - p10_ms) / median_ms,
            (row.p90_ms - row.p10_ms) / row.median_ms,
        )
        assert row.median_ms == pytest.approx(median_ms, rel=1e-5) or spread <= kept_spread + 1e-4
    found = table_build.load_networks(tmp_path / "here.networks.jsonl")
    assert len(found) == 12
    for each in found:
        if each.arch.id in networks:
            assert list(each.timing) == networks[each.arch.id]
    assert names(tmp_path) == ["here.csv", "here.networks.jsonl", "small.toml"]
