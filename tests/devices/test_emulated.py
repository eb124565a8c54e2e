"""What counts are assumed to cost; counts are made up here, the emulator has its own tests."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from small import write_space

from ghostnas.cli.main import main
from ghostnas.devices import emulated, op_models, table_build
from ghostnas.devices.bench import Setting
from ghostnas.devices.emulated import DEVICES, EmulatedBench
from ghostnas.devices.emulator import Counts
from ghostnas.errors import DeviceError, InputError
from ghostnas.latency import table as latency_table
from ghostnas.latency.op_signature import OpSignature
from ghostnas.networks import space

CONV = OpSignature("conv", 14, 14, 32, 64, 1, 1, "relu")
DENSE = OpSignature("dense", 1, 1, 64, 10, 0, 0, "none")
DEPTHWISE = OpSignature("depthwise", 14, 14, 32, 32, 3, 1, "relu")
ADD = OpSignature("add", 14, 14, 32, 32, 0, 0, "none")
HARD_SIGMOID = OpSignature("hard_sigmoid", 1, 1, 64, 64, 0, 0, "none")
FEW_OPS = 300


def counts(cycles: float = 1e6, l3_misses: int = 50) -> Counts:
    return Counts(
        cycles=cycles,
        instructions=1,
        l1_misses=1000,
        l2_misses=500,
        l3_misses=l3_misses,
        bytes_read=1,
        bytes_written=1,
    )


class FakeEmulator:
    """Counts by the model's size, or of one kind; it does not take some models."""

    def __init__(self, refused: Sequence[bytes] = (), always: Counts | None = None) -> None:
        self.refused, self.always = refused, always
        self.calls: list[int] = []
        self.core = ""

    def __call__(self, core: str, parts: Path) -> "FakeEmulator":
        self.core = core
        return self

    def count(self, models: Sequence[bytes]) -> list[Counts]:
        self.calls.append(len(models))
        if set(models) & set(self.refused):
            raise DeviceError("emulator: XNNPACK took none of its operators")
        return [self.always or counts(100.0 * len(model)) for model in models]


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeEmulator]:
    def make(**options: object) -> FakeEmulator:
        fake = FakeEmulator(**options)  # type: ignore[arg-type]
        monkeypatch.setattr(emulated, "Emulator", fake)
        return fake

    return make


def bench(name: str, **setting: object) -> EmulatedBench:
    return EmulatedBench(name, Setting(**setting), Path("parts"))  # type: ignore[arg-type]


def ms_of(made: EmulatedBench, *ops: OpSignature) -> list[float]:
    models = [op_models.op_model(op, made.setting.dtype) for op in ops]
    return [each.median_ms for each in made.time(models).timings]  # type: ignore[union-attr]


def test_a_line_is_cold_only_once(inject: Callable[..., FakeEmulator]) -> None:
    """A kernel that streams its weights again misses more lines than there are."""
    inject(always=counts(2.4e6, 1_000_000))
    maps, weights = 4 * 14 * 14 * (32 + 64) / 64, 4 * (32 * 64 + 64) / 64
    [ms] = ms_of(bench("cortex-a76"), CONV)
    assert ms == pytest.approx(1.0 + 12e-6 * (maps + weights), rel=1e-3)


def test_a_board_has_the_clock_of_a_core_and_a_cost_of_cold_lines(
    inject: Callable[..., FakeEmulator],
) -> None:
    fake = inject(always=counts(2.4e6, 50))
    [ms] = ms_of(bench("cortex-a76"), CONV)  # has 128 lines of weights: all 50 misses count
    assert ms == pytest.approx(1.0 + 50 * 12e-6, rel=1e-12)
    [ms] = ms_of(bench("cortex-a53"), CONV)
    assert ms == pytest.approx(2.4 / 1.4 + 50 * 12e-6, rel=1e-12)
    assert fake.core == "cortex-a53"


def test_int8_of_a_board_counts_as_float32_does(inject: Callable[..., FakeEmulator]) -> None:
    inject(always=counts(2.4e6, 0))
    assert ms_of(bench("cortex-a76", dtype="int8"), CONV, DEPTHWISE) == pytest.approx([1.0, 1.0])


def test_a_timing_is_exact_and_a_single_run(inject: Callable[..., FakeEmulator]) -> None:
    inject()
    made = bench("cortex-a76", rounds=30)
    [timing] = made.time([op_models.op_model(CONV)], burst=4).timings
    assert timing.p10_ms == timing.median_ms == timing.p90_ms > 0
    assert timing.runs == made.setting.rounds == 1
    assert made.time([]).timings == ()


@pytest.mark.parametrize(("name", "dtype"), [("cortex-a76", "fp32"), ("cortex-a55", "int8")])
def test_the_origin_says_what_the_numbers_are(
    inject: Callable[..., FakeEmulator], name: str, dtype: str
) -> None:
    inject()
    origin = table_build.origin_of(bench(name, dtype=dtype))
    device = DEVICES[name]
    assert origin.method == "emulated, not measured"
    assert origin.op_error > 0.05
    assert (origin.device, origin.soc, origin.core) == (device.device, "none", device.core)
    assert (origin.clock_mhz, origin.threads, origin.dtype) == (device.clock_mhz, 1, dtype)
    assert origin.runtime == "LiteRT 1.4.0"
    assert f"{1e3 / device.clock_mhz:.4g} ns a cycle, " in origin.notes
    assert origin.notes.endswith("says nothing of threads, GPU and heat")


def test_the_models_that_are_refused_are_named_and_the_others_timed(
    inject: Callable[..., FakeEmulator],
) -> None:
    models = [op_models.op_model(op) for op in (CONV, ADD, DEPTHWISE)]
    fake = inject(refused=models[1:2])
    first, refused, last = bench("cortex-a76").time(models).timings
    assert refused == "emulator: XNNPACK took none of its operators"
    assert fake.calls == [3, 1, 1, 1]
    assert [first, last] == list(bench("cortex-a76").time([models[0], models[2]]).timings)


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("cortex-m0", {}, "unknown emulated device 'cortex-m0'; known: cortex-a76, .*cortex-a53"),
        ("cortex-a76", {"threads": 2}, "an emulated device has one thread"),
        ("cortex-a76", {}, "no parts in .*: run scripts/emulated_arm/setup first"),
    ],
)
def test_what_cannot_be_emulated_is_refused(
    tmp_path: Path, name: str, setting: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        EmulatedBench(name, Setting(**setting), tmp_path)  # type: ignore[arg-type]


def test_a_build_without_the_parts_ends_with_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.csv"
    options = ["--device", "emulated:cortex-a76", "--emulator", str(tmp_path), "--out", str(out)]
    assert main(["latency", "build", *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.endswith(f"no parts in {tmp_path}: run scripts/emulated_arm/setup first")
    assert not out.exists()


def test_two_builds_are_the_same_bytes(
    inject: Callable[..., FakeEmulator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(op_models, "ZOO_WIDTHS", ())
    monkeypatch.setattr(op_models, "HEAD_FEATURES", (32,))
    monkeypatch.setattr(op_models, "CLASS_COUNTS", (2, 10))
    monkeypatch.setattr(op_models, "NETWORKS_WALKED", 20)
    monkeypatch.setattr(op_models, "OPS_A_KIND", 2)
    searched = space.load(str(write_space(tmp_path)))
    refused_op = op_models.ops_of(searched, FEW_OPS)[0]
    inject(refused=[op_models.op_model(refused_op)])
    texts = []
    for name in ("first", "second"):
        out = tmp_path / name / "table.csv"
        built = table_build.build(
            bench("cortex-a76"), searched, out, ops=FEW_OPS, networks=0, say=lambda _: None
        )
        assert list(built.refused) == [refused_op]
        texts.append(re.sub(r"\d{4}-\d\d-\d\d", "DATE", out.read_text()))
    assert texts[0] == texts[1]
    table = latency_table.load(str(tmp_path / "first" / "table.csv"))
    assert len(table.rows) == built.measured > 50
    assert {row.runs for row in table.rows.values()} == {1}
    assert refused_op not in table.rows
    for op in list(table.rows)[:10]:
        cycles = 100.0 * len(op_models.op_model(op))
        expected = cycles / 2.4e6
        assert expected <= table.rows[op].median_ms <= expected + 50 * 12e-6 + 1e-6
    assert table.origin == dataclasses.replace(
        table_build.origin_of(bench("cortex-a76")), date=table.origin.date
    )
