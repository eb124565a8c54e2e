"""Ops that are really emulated: counts are the same each time, and fit the op."""

from pathlib import Path

import pytest

from ghostnas.devices import op_models
from ghostnas.devices.emulator import CORES, Counts, Emulator
from ghostnas.errors import DeviceError, InputError
from ghostnas.latency.op_signature import OpSignature

PARTS = Path(__file__).resolve().parents[2] / ".emulation"
BUILT = (PARTS / "built.done").is_file()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BUILT, reason="no emulator: scripts/emulated_arm/setup makes it"),
]

POINT = OpSignature("conv", 56, 56, 24, 72, 1, 1, "relu")
WEIGHTS = OpSignature("conv", 1, 1, 512, 512, 1, 1, "none")
SMALL = OpSignature("conv", 14, 14, 32, 32, 1, 1, "relu")
LARGE = OpSignature("conv", 28, 28, 32, 32, 1, 1, "relu")
DEPTHWISE = OpSignature("depthwise", 14, 14, 32, 32, 3, 1, "relu")
REFUSED = OpSignature("hard_swish", 8, 8, 8, 8, 0, 0, "none")


def parts_of_its_own(folder: Path) -> Path:
    """The parts without what was counted with them, which nothing here reads or adds to."""
    folder.mkdir(parents=True)
    for entry in PARTS.iterdir():
        if ".sqlite" not in entry.name and not entry.name.startswith("root-"):
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parts_of_its_own(tmp_path_factory.mktemp("emulation") / "parts")


def models(*ops: OpSignature, dtype: str = "fp32") -> list[bytes]:
    return [op_models.op_model(op, dtype) for op in ops]


def test_counts_are_the_same_each_time_and_whatever_else_is_counted(
    parts: Path, tmp_path: Path
) -> None:
    wanted = [*models(SMALL, DEPTHWISE), *models(SMALL, DEPTHWISE, dtype="int8")]
    counted = Emulator("cortex-a76", parts).count(wanted)
    again = Emulator("cortex-a76", parts_of_its_own(tmp_path / "elsewhere" / "parts"))
    assert again.count(wanted[::-1]) == counted[::-1]
    assert again.count(wanted[:1]) == counted[:1]
    assert len({each.cycles for each in counted}) == 4


def test_what_was_counted_once_is_not_run_again(tmp_path: Path) -> None:
    parts = parts_of_its_own(tmp_path / "parts")
    counted = Emulator("cortex-a76", parts).count(models(SMALL))
    (parts / "bin").unlink()
    emulator = Emulator("cortex-a76", parts)
    assert emulator.count(models(SMALL)) == counted
    assert emulator.count([]) == []
    with pytest.raises(DeviceError, match=r"no .*qemu-aarch64: run scripts/emulated_arm/setup"):
        emulator.count(models(DEPTHWISE))


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_cycles_grow_with_the_work(parts: Path, dtype: str) -> None:
    small, large = Emulator("cortex-a76", parts).count(models(SMALL, LARGE, dtype=dtype))
    assert large.cycles == pytest.approx(4 * small.cycles, rel=0.15)
    assert large.instructions == pytest.approx(4 * small.instructions, rel=0.15)


def test_instructions_are_those_that_the_emulated_board_counts(parts: Path) -> None:
    """The board's clock counts them itself: see ``test_tables_on_devices``."""
    [counted] = Emulator("cortex-a76", parts).count(models(POINT))
    assert counted.instructions == pytest.approx(2.10e6, rel=0.02)
    macs = 56 * 56 * 24 * 72
    assert macs / 8 < counted.cycles < macs / 4  # at most two multiply-adds of four lanes per cycle


def test_weights_are_cold_and_maps_warm(parts: Path) -> None:
    weights, maps = Emulator("cortex-a76", parts).count(models(WEIGHTS, POINT))
    assert weights.l3_misses == pytest.approx(4 * 512 * 512 / 64, rel=0.02)
    map_lines = 4 * 56 * 56 * (24 + 72) / 64
    assert maps.l3_misses < 0.05 * map_lines
    assert maps.l1_misses > 0.5 * map_lines  # they are larger than the first cache
    [small] = Emulator("cortex-a76", parts).count(models(SMALL))
    assert small.l1_misses - small.l3_misses < 0.1 * 4 * 14 * 14 * 64 / 64


def test_maps_that_are_larger_than_the_last_cache_are_cold(parts: Path) -> None:
    """They take 1.2 MB: Cortex-A53 has 512 KiB."""
    [counted] = Emulator("cortex-a53", parts).count(models(POINT))
    assert counted.l3_misses > 0.5 * 4 * 56 * 56 * (24 + 72) / 64


def test_a_model_that_xnnpack_does_not_take_is_an_error_with_its_reason(parts: Path) -> None:
    emulator = Emulator("cortex-a76", parts)
    for wanted in (models(REFUSED, dtype="int8"), models(REFUSED, SMALL, dtype="int8")):
        with pytest.raises(DeviceError, match=r"^emulator: XNNPACK took none of its operators$"):
            emulator.count(wanted)


def test_what_is_not_a_model_is_an_error(parts: Path) -> None:
    with pytest.raises(DeviceError, match="not a readable TensorFlow Lite model"):
        Emulator("cortex-a76", parts).count([b"no model"])


def test_every_core_has_cycles_and_kernels_of_its_own(parts: Path) -> None:
    counted: dict[str, Counts] = {
        core: Emulator(core, parts).count(models(SMALL))[0] for core in CORES
    }
    cycles = {core: each.cycles for core, each in counted.items()}
    assert cycles["cortex-a76"] < cycles["cortex-a72"] < cycles["cortex-a55"]
    assert cycles["cortex-a55"] < cycles["cortex-a53"]


def test_an_unknown_core_or_a_folder_without_parts_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown core 'cortex-m0'; known: cortex-a76, "):
        Emulator("cortex-m0", PARTS)
    with pytest.raises(InputError, match="run scripts/emulated_arm/setup first"):
        Emulator("cortex-a76", tmp_path)
