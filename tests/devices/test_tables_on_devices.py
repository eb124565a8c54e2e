"""Tables built and checked on a real ARM64 board over ssh and over real adb, lost ones too.

The board's clock counts instructions, one per nanosecond, so its times can be asserted.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from real_devices import PARTS, adb_pair, board, wait_for_sshd
from small import write_space

from ghostnas.cli.main import main
from ghostnas.devices import op_models, table_build
from ghostnas.devices.bench import DeviceBench, Setting
from ghostnas.devices.device import open_device
from ghostnas.errors import DeviceError
from ghostnas.latency import table as latency_table
from ghostnas.latency.op_signature import OpSignature
from ghostnas.networks import space

pytestmark = pytest.mark.slow

CONV = OpSignature("conv", 56, 56, 24, 72, 1, 1, "relu")
CONV_MACS = 56 * 56 * 24 * 72
FEW_OPS = ["--ops", "300", "--rounds", "3"]


class Place(NamedTuple):
    """A device that can be lost and brought back, and the Python there that has LiteRT.

    A table predicts within 0.3 % where the clock counts instructions. Over adb the times are those
    of this very machine, which others may share: only a wrong unit or the like can show there.
    """

    url: str
    python: str
    lose: Callable[[], None]
    bring_back: Callable[[], None]
    greatest_mape: float


@pytest.fixture
def on_board(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with board() as it:
        monkeypatch.setenv("GHOSTNAS_SSH_OPTIONS", f"-F {it.ssh_config}")

        def start() -> None:
            it.start()
            wait_for_sshd(it.port)

        start()
        yield Place(it.url, "python3", it.kill, start, greatest_mape=0.01)


@pytest.fixture
def over_adb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with adb_pair() as it:
        path = f"{it.programs}:{Path(sys.executable).parent}:/usr/bin:/bin"
        monkeypatch.setenv("PATH", path)

        def start() -> None:
            it.start()
            it.wait()

        start()
        yield Place(it.url, sys.executable, it.kill, start, greatest_mape=1)


@pytest.fixture(params=["board", "adb"])
def place(request: pytest.FixtureRequest) -> Place:
    return request.getfixturevalue("on_board" if request.param == "board" else "over_adb")


@pytest.fixture(autouse=True)
def few_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op_models, "ZOO_WIDTHS", ())
    monkeypatch.setattr(op_models, "HEAD_FEATURES", (32,))
    monkeypatch.setattr(op_models, "CLASS_COUNTS", (2, 10, 1000))
    monkeypatch.setattr(op_models, "NETWORKS_WALKED", 40)
    monkeypatch.setattr(op_models, "OPS_A_KIND", 5)
    monkeypatch.setattr(table_build, "OPS_A_BATCH", 40)


def where(place: Place, folder: Path) -> list[str]:
    return ["--device", place.url, "--python", place.python, "--space", str(write_space(folder))]


def test_a_table_is_built_on_the_device_and_predicts_its_networks(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "device.csv"
    options = [*where(place, tmp_path), "--rounds", "3", "--json"]
    built = ["build", *options, "--ops", "300", "--networks", "10", "--out", str(table)]
    assert main(["latency", *built]) == 0
    assert json.loads(capsys.readouterr().out)["networks"] == 10
    assert main(["latency", "check", *options, "--target", str(table), "--networks", "10"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["networks"] == 10
    assert checked["mape"] < place.greatest_mape
    origin = latency_table.load(str(table)).origin
    assert origin.method == "measured"
    assert origin.runtime.startswith("ai-edge-litert 2.")


def test_the_board_says_what_it_is_and_its_times_are_instructions(on_board: Place) -> None:
    with open_device(on_board.url) as device:
        bench = DeviceBench(device, Setting(rounds=10))
        assert bench.hardware.device == "linux,dummy-virt"
        assert [core.name for core in bench.cores] == ["cortex-a76"]
        [timing] = bench.time([op_models.op_model(CONV)]).timings
    # A fused multiply-add of four lanes needs CONV_MACS / 4 instructions at least; this kernel
    # is seen to take 2.10 million in all, which the board's clock calls 2.10 ms.
    assert timing.median_ms == pytest.approx(2.10, rel=0.01)
    assert timing.median_ms > CONV_MACS / 4 * 1e-6


def test_a_build_whose_device_is_lost_resumes_where_it_was(place: Place, tmp_path: Path) -> None:
    table, small = tmp_path / "device.csv", space.load(str(write_space(tmp_path)))
    setting = Setting(rounds=2, python=place.python)

    def lose_after_a_batch(line: str) -> None:
        if " ops," in line:
            place.lose()

    def build(say: Callable[[str], None]) -> table_build.Built:
        with open_device(place.url, pauses_s=(0.1, 0.2)) as device:
            bench = DeviceBench(device, setting)
            return table_build.build(bench, small, table, ops=130, networks=0, say=say)

    with pytest.raises(DeviceError, match=place.url.replace(".", r"\.")):
        build(lose_after_a_batch)
    assert not table.exists()
    journal = Path(f"{table}.journal").read_text().splitlines()
    assert len(journal) > 40  # what it is a journal of, and a batch
    place.bring_back()
    said: list[str] = []
    built = build(said.append)
    assert built.measured == 130
    counted = [line for line in said if " ops," in line]  # besides how slow the device is just now
    assert f" of {130 - 40} ops" in counted[0]
    assert not Path(f"{table}.journal").exists()
    assert len(latency_table.load(str(table)).rows) == 130


def test_a_benchmark_model_on_the_device_builds_a_table_too(
    over_adb: Place, tmp_path: Path
) -> None:
    """A stand-in that runs the model for real and prints as benchmark_model does."""
    program = tmp_path / "benchmark_model"
    program.write_text(
        f"#!{over_adb.python}\n"
        "import sys, time, numpy\n"
        "from ai_edge_litert.interpreter import Interpreter\n"
        "options = dict(each[2:].split('=', 1) for each in sys.argv[1:])\n"
        "model = Interpreter(options['graph'], num_threads=int(options['num_threads']))\n"
        "model.allocate_tensors()\n"
        "times = []\n"
        "for _ in range(int(options['warmup_runs']) + int(options['num_runs'])):\n"
        "    start = time.perf_counter()\n"
        "    model.invoke()\n"
        "    times.append(1e6 * (time.perf_counter() - start))\n"
        "print('Running benchmark for at least 2 iterations and at least 0 seconds')\n"
        "print('Running benchmark for at least 3 iterations and at least 0 seconds')\n"
        "times = numpy.array(times[int(options['warmup_runs']):])\n"
        "print('Explicitly applied XNNPACK delegate, and the model graph will be completely '\n"
        "      'executed by the delegate.')\n"
        "print(f'count={len(times)} first={times[0]:.0f} curr={times[-1]:.0f} '\n"
        "      f'min={times.min():.0f} max={times.max():.0f} avg={times.mean():g} '\n"
        "      f'std={times.std():.0f}')\n"
        "print(f'Inference timings in us: Init: 1, First inference: {times[0]:.0f}, '\n"
        "      f'Warmup (avg): {times.mean():g}, Inference (avg): {times.mean():g}')\n"
    )
    with open_device(over_adb.url) as device:
        bench = DeviceBench(device, Setting(rounds=3, benchmark_model=str(program)))
        small, large = bench.time(
            [op_models.op_model(CONV._replace(height=size, width=size)) for size in (7, 112)]
        ).timings
        assert bench.runtime.startswith("benchmark_model ")
    assert small.runs == large.runs == 3
    assert large.median_ms > 10 * small.median_ms
    assert PARTS.exists()
