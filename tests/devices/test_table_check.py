"""Tables compared with networks: by hand, and for real on this machine."""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from small import write_space

from ghostnas.devices import op_models, table_build, table_check
from ghostnas.devices.bench import Bench, DeviceBench, Report, Setting
from ghostnas.devices.device import open_device
from ghostnas.devices.table_build import MeasuredNetwork
from ghostnas.errors import DeviceLostError, InputError
from ghostnas.ir import cost
from ghostnas.latency import calibration
from ghostnas.latency import table as latency_table
from ghostnas.latency.op_costs import OpCosts
from ghostnas.latency.op_signature import signatures
from ghostnas.latency.predictor import CONFIDENCE, Predictor
from ghostnas.latency.table import Table, Timing
from ghostnas.networks import space, zoo
from ghostnas.networks.arch import lower
from ghostnas.networks.space import Space

ARM = latency_table.load("cortex-a76")
ARM = dataclasses.replace(ARM, origin=dataclasses.replace(ARM.origin, op_error=0.1))
ZOO = [  # ten networks
    build(width)
    for build in (zoo.ghostnet, zoo.mobilenetv3_large)
    for width in (0.5, 0.6, 0.75, 0.9, 1.0)
]
KEYS = {"mape", "within_5", "within_10", "spearman", "kendall"}
FEWEST = calibration.FEWEST_NETWORKS
CALIBRATED, CHECKED = FEWEST + 2, FEWEST


def network(arch: object, ms: float) -> MeasuredNetwork:
    return MeasuredNetwork(arch=arch, timing=Timing(ms, ms, ms, 1), use="check")


# By hand


def test_agreement_by_hand() -> None:
    measured = np.array([1.0, 2.0, 4.0, 5.0, 10.0])
    predicted = np.array([1.04, 1.94, 4.32, 4.0, 10.0])  # 4, 3, 8, 20 and 0 % off; two swapped
    found = table_check.agreement(predicted, measured)
    assert set(found) == KEYS
    assert found["mape"] == pytest.approx((0.04 + 0.03 + 0.08 + 0.2 + 0) / 5)
    assert (found["within_5"], found["within_10"]) == (0.6, 0.8)
    assert found["spearman"] == pytest.approx(1 - 6 * 2 / (5 * 24))
    assert found["kendall"] == pytest.approx((9 - 1) / 10)


def test_ranks_do_not_depend_on_the_scale_and_reverse_with_the_order() -> None:
    measured = np.array([3.0, 1.0, 4.0, 1.5, 9.0])
    for predicted, sign in ((100 * measured**3, 1), (1 / measured, -1)):
        found = table_check.agreement(predicted, measured)
        assert (found["spearman"], found["kendall"]) == pytest.approx((sign, sign))


def test_a_table_is_compared_with_networks_by_hand() -> None:
    """The table's own range is 10 %: it holds what lies between 0.9 and 1.1 of the prediction."""
    shares = [1.0, 0.95, 1.09, 1.2, 0.8, 1.03, 0.91, 0.7, 1.3, 0.98]  # measured over predicted
    predictor = Predictor(ARM)
    measured = [
        network(arch, share * predictor.predict(arch).latency_ms)
        for arch, share in zip(ZOO, shares, strict=True)
    ]
    found = table_check.compare(ARM, measured)
    errors = [1 / share - 1 for share in shares]
    assert set(found) == {*KEYS, "networks", "bias", "confidence", "coverage", "flops"}
    assert found["networks"] == 10
    assert found["mape"] == pytest.approx(np.mean(np.abs(errors)))
    assert found["bias"] == pytest.approx(np.mean(errors))
    assert found["coverage"] == pytest.approx(6 / 10)
    assert found["confidence"] == CONFIDENCE
    assert json.loads(json.dumps(found)) == found


def test_flops_predict_networks_on_a_line_without_an_error() -> None:
    measured = [network(arch, 2.0 + 1e-7 * cost.count(lower(arch)).macs) for arch in ZOO]
    found = table_check.compare(ARM, measured)["flops"]
    assert set(found) == KEYS
    assert found["mape"] == pytest.approx(0, abs=1e-9)
    assert (found["within_5"], found["spearman"], found["kendall"]) == pytest.approx((1, 1, 1))


def test_a_line_through_flops_has_not_seen_the_network_that_it_predicts() -> None:
    macs = np.array([cost.count(lower(arch)).macs for arch in ZOO], dtype=float)
    ms = np.array([3.0, 5.0, 11.0, 4.0, 20.0, 9.0, 6.0, 7.0, 8.0, 2.0])
    found = table_check.compare(
        ARM, [network(arch, each) for arch, each in zip(ZOO, ms, strict=True)]
    )
    predicted = []
    for index in range(len(ZOO)):
        others = np.arange(len(ZOO)) != index
        line = np.polyfit(macs[others] / 1e8, ms[others], 1, w=1 / ms[others])
        predicted.append(np.polyval(line, macs[index] / 1e8))
    assert found["flops"] == pytest.approx(table_check.agreement(np.array(predicted), ms))
    assert found["flops"]["mape"] > 0.1


def test_too_few_networks_are_not_compared() -> None:
    with pytest.raises(
        InputError, match=f"{FEWEST - 1} networks are too few: it takes at least {FEWEST}"
    ):
        table_check.compare(ARM, [network(arch, 1.0) for arch in ZOO[: FEWEST - 1]])


# On this machine


@pytest.fixture(autouse=True, scope="module")
def undisturbed() -> Iterator[None]:
    """A small space's own ops, and nothing timed again because the machine was busy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(op_models, "ZOO_WIDTHS", ())
        patch.setattr(op_models, "NETWORKS_WALKED", 200)
        patch.setattr(table_build, "SPREAD", math.inf)
        patch.setattr(table_build, "DRIFTED", math.inf)
        patch.setattr(table_build, "NETWORKS_A_BATCH", FEWEST)
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Space:
    return space.load(str(write_space(tmp_path_factory.mktemp("space"))))


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with open_device("local") as device:
        yield DeviceBench(device, Setting(rounds=2, python=sys.executable))


@pytest.fixture(scope="module")
def built(bench: Bench, small: Space, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "here.csv"
    table_build.build(bench, small, out, ops=200, networks=CALIBRATED, say=lambda line: None)
    return out


@pytest.fixture
def table(built: Path, tmp_path: Path) -> Path:
    """A copy of a table of this machine, and of its networks."""
    for path in (built, table_build.networks_file(built)):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / built.name


@pytest.fixture
def asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Count the models that are timed, and lose the device after some batches."""

    def count(lost_after: float = math.inf, refused: str = "", batch: int = FEWEST) -> list[int]:
        sizes: list[int] = []
        monkeypatch.setattr(table_build, "NETWORKS_A_BATCH", batch)

        def time(models: Sequence[bytes], burst: int) -> Report:
            if len(sizes) == lost_after:
                raise DeviceLostError("local: lost: it was unplugged")
            sizes.append(len(models))
            report = DeviceBench.time(bench, models, burst)
            return (
                dataclasses.replace(report, timings=(refused,) * len(models)) if refused else report
            )

        monkeypatch.setattr(bench, "time", time)
        return sizes

    return count


def checked(
    bench: Bench, table: Path, small: Space, networks: int = CHECKED, seed: int = 2
) -> dict:
    return table_check.check(
        bench, table, small, networks=networks, seed=seed, say=lambda line: None
    )


def calibrated(
    bench: Bench, table: Table, small: Space, out: Path, networks: int = FEWEST
) -> Table:
    return table_check.calibrate(bench, table, small, out, networks=networks, say=lambda line: None)


def changed(path: Path, **origin: object) -> Table:
    """Another origin for the table of a file."""
    table = latency_table.load(str(path))
    table = dataclasses.replace(table, origin=dataclasses.replace(table.origin, **origin))
    latency_table.save(table, path)
    return table


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_table_is_checked_on_networks_that_it_has_not_seen(
    bench: Bench, table: Path, small: Space, asked: Callable[..., list[int]]
) -> None:
    before, content = (
        table_build.load_networks(table_build.networks_file(table)),
        table.read_bytes(),
    )
    sizes = asked()
    found = checked(bench, table, small)
    about = ("networks", "bias", "confidence", "coverage", "flops", "drift", "report")
    assert set(found) == {*KEYS, *about}
    assert json.loads(json.dumps(found)) == found
    assert found["networks"] == sum(sizes) == CHECKED
    assert 0 < found["mape"] < 2
    assert -0.9 < found["drift"] < 9
    after = table_build.load_networks(table_build.networks_file(table))
    assert after[:CALIBRATED] == before
    assert [each.use for each in after] == ["fit"] * CALIBRATED + ["check"] * CHECKED
    page = Path(found["report"]).read_text()
    assert f'Off by <span class="em">{100 * found["mape"]:.1f} %</span>' in page
    assert all(each.arch.id in page for each in after[CALIBRATED:])
    assert len({each.arch.id for each in after}) == CALIBRATED + CHECKED
    assert table.read_bytes() == content
    assert names(table.parent) == ["here.check.html", "here.csv", "here.networks.jsonl"]


def test_networks_of_an_earlier_check_are_kept_and_not_drawn_again(
    bench: Bench, table: Path, small: Space
) -> None:
    checked(bench, table, small)
    before = table_build.load_networks(table_build.networks_file(table))
    checked(bench, table, small)
    after = table_build.load_networks(table_build.networks_file(table))
    assert after[: len(before)] == before
    assert len({each.arch.id for each in after}) == CALIBRATED + 2 * CHECKED


def test_a_check_resumes_where_the_device_was_lost(
    bench: Bench, table: Path, small: Space, asked: Callable[..., list[int]]
) -> None:
    sizes = asked(lost_after=1, batch=6)
    with pytest.raises(DeviceLostError):
        checked(bench, table, small)
    assert names(table.parent) == ["here.csv", "here.csv.check-journal", "here.networks.jsonl"]
    rest = asked()
    assert checked(bench, table, small)["networks"] == CHECKED
    assert (sizes, rest) == ([6], [CHECKED - 6])
    assert names(table.parent) == ["here.check.html", "here.csv", "here.networks.jsonl"]


@pytest.mark.parametrize(
    ("origin", "difference"),
    [
        ({"device": "Pixel 4"}, "device is '.*' in one and 'Pixel 4' in the other"),
        ({"dtype": "int8"}, "dtype is 'fp32' in one and 'int8' in the other"),
        ({"runtime": "ai-edge-litert 0.1"}, "runtime is .* and 'ai-edge-litert 0.1' in"),
    ],
)
def test_a_table_of_another_setting_is_refused_before_anything_is_measured(
    bench: Bench,
    table: Path,
    small: Space,
    asked: Callable[..., list[int]],
    origin: dict[str, object],
    difference: str,
) -> None:
    changed(table, **origin)
    sizes = asked()
    with pytest.raises(InputError, match=f"{table} is for another setting .*: {difference}"):
        checked(bench, table, small)
    assert sizes == []
    assert names(table.parent) == ["here.csv", "here.networks.jsonl"]


def test_too_few_networks_are_refused_before_anything_is_measured(
    bench: Bench, table: Path, small: Space, asked: Callable[..., list[int]]
) -> None:
    sizes = asked()
    with pytest.raises(InputError, match=f"{FEWEST - 1} networks are too few"):
        checked(bench, table, small, networks=FEWEST - 1)
    few = dataclasses.replace(
        latency_table.load(str(table)).correction, networks=5, scores=(0.1, 0.2, 0.3, 0.4, 0.5)
    )
    latency_table.save(dataclasses.replace(latency_table.load(str(table)), correction=few), table)
    with pytest.raises(InputError, match=r"0.9 needs more than the 5 networks"):
        checked(bench, table, small)
    assert sizes == []


def test_a_table_without_a_sentinel_shows_no_drift(bench: Bench, table: Path, small: Space) -> None:
    changed(table, sentinel_ms=0.0, method="imported")
    assert checked(bench, table, small)["drift"] is None


def test_a_device_that_was_quicker_has_drifted(bench: Bench, table: Path, small: Space) -> None:
    changed(table, sentinel_ms=bench.first.sentinel_ms / 1.25)
    assert checked(bench, table, small)["drift"] == pytest.approx(0.25)


def test_a_table_is_carried_to_another_device_by_a_few_networks(
    bench: Bench, table: Path, small: Space, tmp_path: Path
) -> None:
    """The other device is this one, seven times as slow."""
    here = latency_table.load(str(table))
    rows = {
        op: Timing(7 * t.median_ms, 6 * t.p10_ms, 8 * t.p90_ms, t.runs)
        for op, t in here.rows.items()
    }
    origin = dataclasses.replace(here.origin, device="Pixel 4", op_error=0.07)
    slow = Table(name="slow", origin=origin, rows=rows)
    out = tmp_path / "carried" / "carried.csv"
    calibrated(bench, slow, small, out)
    carried = latency_table.load(str(out))
    assert names(out.parent) == ["carried.csv", "carried.networks.jsonl"]
    assert set(carried.rows) == set(rows)
    shares = [
        mine / theirs
        for op, row in carried.rows.items()
        for mine, theirs in zip(row[:3], rows[op][:3], strict=True)
    ]
    assert max(shares) == pytest.approx(min(shares), rel=1e-4)
    measured = table_build.load_networks(table_build.networks_file(out))
    assert {each.use for each in measured} == {"fit"}
    costs = OpCosts(slow)
    slowness = [each.timing.median_ms / costs.of_arch(each.arch).latency_ms for each in measured]
    assert len(slowness) == FEWEST
    assert shares[0] == pytest.approx(np.median(slowness), rel=1e-4)
    assert 1 / 21 < shares[0] < 3 / 7
    assert carried.origin.method == f"carried over from slow by {FEWEST} networks"
    assert (carried.origin.device, carried.origin.op_error) == (here.origin.device, 0.07)
    assert carried.correction.networks == FEWEST


def test_a_cost_model_is_carried_over_at_the_devices_speed(
    bench: Bench, small: Space, tmp_path: Path
) -> None:
    arm = latency_table.load("arm")
    origin = dataclasses.replace(arm.origin, architecture=bench.hardware.architecture)
    like_here = dataclasses.replace(arm, origin=origin)
    carried = calibrated(bench, like_here, small, tmp_path / "carried.csv")
    measured = table_build.load_networks(tmp_path / "carried.networks.jsonl")
    ratios = [
        each.timing.median_ms
        / sum(carried.model.latency_ms(op, "fp32") for op in signatures(lower(each.arch)))
        for each in measured
    ]
    assert np.median(ratios) == pytest.approx(1, rel=0.01)  # but for ops that cost nothing
    assert carried.correction is not None


def test_a_table_that_was_carried_over_predicts_and_can_be_checked(
    bench: Bench, table: Path, small: Space, tmp_path: Path
) -> None:
    out = tmp_path / "carried.csv"
    calibrated(bench, latency_table.load(str(table)), small, out)
    [fresh] = table_build.draw(small, 1, seed=5)
    prediction = Predictor(latency_table.load(str(out))).predict(fresh)
    assert prediction.calibrated
    assert 0 < prediction.low_ms < prediction.latency_ms < prediction.high_ms
    assert checked(bench, out, small)["networks"] == CHECKED


@pytest.mark.parametrize(("key", "value"), [("dtype", "int8"), ("threads", 4)])
def test_a_table_of_another_dtype_or_other_threads_is_not_carried_over(
    bench: Bench, table: Path, small: Space, tmp_path: Path, key: str, value: object
) -> None:
    other = changed(table, **{key: value})
    out = tmp_path / "out" / "carried.csv"
    with pytest.raises(InputError, match=f"table here has {key} {value!r}, but the device runs"):
        calibrated(bench, other, small, out)
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ({"architecture": "riscv64"}, None),
        ({"core": "cortex-a76"}, None),
        (
            {"core": "unknown", "soc": "unknown", "device": "a board"},
            "here does not state its",
        ),
    ],
)
def test_a_table_of_another_architecture_is_not_carried_over(
    bench: Bench,
    table: Path,
    small: Space,
    tmp_path: Path,
    asked: Callable[..., list[int]],
    monkeypatch: pytest.MonkeyPatch,
    origin: dict[str, object],
    said: str | None,
) -> None:
    """The device says that it is x86, whatever runs this test."""
    monkeypatch.setattr(bench, "hardware", dataclasses.replace(bench.hardware, architecture="x86"))
    other = changed(table, **{"architecture": "", **origin})
    out = tmp_path / "carried" / "carried.csv"
    sizes, lines = asked(), []

    def carry() -> None:
        table_check.calibrate(bench, other, small, out, networks=FEWEST, say=lines.append)

    if said is None:
        architecture = origin.get("architecture", "arm")
        with pytest.raises(InputError, match=f"here is for {architecture} cores and the device"):
            carry()
        assert (sizes, out.parent.exists()) == ([], False)
    else:
        carry()
        assert said in lines[0]
        assert latency_table.load(str(out)).origin.architecture == "x86"


def test_nothing_is_carried_over_by_networks_that_cannot_be_timed(
    bench: Bench, table: Path, small: Space, tmp_path: Path, asked: Callable[..., list[int]]
) -> None:
    asked(refused="XNNPACK took only parts of it")
    out = tmp_path / "carried.csv"
    with pytest.raises(InputError, match=f"XNNPACK takes none of the {FEWEST} networks"):
        calibrated(bench, latency_table.load(str(table)), small, out)
    assert not out.exists()


def test_a_calibration_resumes_where_the_device_was_lost(
    bench: Bench, table: Path, small: Space, tmp_path: Path, asked: Callable[..., list[int]]
) -> None:
    out = tmp_path / "carried" / "carried.csv"
    sizes = asked(lost_after=1, batch=6)
    with pytest.raises(DeviceLostError):
        calibrated(bench, latency_table.load(str(table)), small, out)
    assert names(out.parent) == ["carried.csv.journal"]
    rest = asked()
    calibrated(bench, latency_table.load(str(table)), small, out)
    assert (sizes, rest) == ([6], [FEWEST - 6])
    assert names(out.parent) == ["carried.csv", "carried.networks.jsonl"]
