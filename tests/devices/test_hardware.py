import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from ghostnas.devices import hardware
from ghostnas.devices.device import open_device
from ghostnas.devices.hardware import UNKNOWN, Core, Hardware
from ghostnas.errors import InputError


def cpuinfo_of_arm(*parts: str, implementer: str = "0x41") -> str:
    return "\n".join(
        f"processor\t: {index}\nBogoMIPS\t: 38.40\nCPU implementer\t: {implementer}\n"
        f"CPU architecture: 8\nCPU variant\t: 0xd\nCPU part\t: {part}\nCPU revision\t: 14\n"
        for index, part in enumerate(parts)
    )


def core_lines(*cores: tuple[object, ...]) -> str:
    return "\n".join(
        f"core {index} capacity={capacity} khz={khz} governor={governor} online={online}"
        for index, capacity, khz, governor, online in cores
    )


PIXEL_4 = f"""device Pixel 4
soc SM8150
load 3.21 2.80 2.5 2/3456 12345
{
    core_lines(
        *[(index, 261, 1785600, "schedutil", 1) for index in range(4)],
        *[(index, 871, 2419200, "schedutil", 1) for index in range(4, 7)],
        (7, 1024, 2841600, "performance", 1),
    )
}
cpuinfo
Processor\t: AArch64 Processor rev 14 (aarch64)
{cpuinfo_of_arm(*["0x805"] * 4, *["0x804"] * 4, implementer="0x51")}
Hardware\t: Qualcomm Technologies, Inc SM8150
"""
RASPBERRY_PI = f"""device Raspberry Pi 4 Model B Rev 1.4{" "}
soc raspberrypi,4-model-b brcm,bcm2711{" "}
load 0.00 0.01 0.05 1/200 999
{core_lines(*[(index, "", 1800000, "ondemand", 1 if index else "") for index in range(4)])}
cpuinfo
{cpuinfo_of_arm(*["0xd08"] * 4)}
Hardware\t: BCM2835
Revision\t: c03114
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""
VIRTUAL_MACHINE = """device x86_64
soc AMD EPYC
load 0.96 0.76 0.77 2/102 10312
core 0 capacity= khz= governor= online=
core 1 capacity= khz= governor= online=1
cpuinfo
processor\t: 0
model name\t: AMD EPYC
flags\t\t: fpu vme

processor\t: 1
model name\t: AMD EPYC
flags\t\t: fpu vme
"""


def test_a_phone_with_big_and_little_cores() -> None:
    phone = hardware.parse(PIXEL_4)
    assert (phone.device, phone.soc, phone.load) == ("Pixel 4", "SM8150", 3.21)
    assert [core.index for core in phone.cores] == list(range(8))
    assert {core.name for core in phone.cores[:4]} == {"kryo-485-silver"}
    assert {core.name for core in phone.cores[4:]} == {"kryo-485-gold"}
    assert phone.cores[0] == Core(
        index=0, name="kryo-485-silver", speed=261, clock_mhz=1785, governor="schedutil"
    )
    assert phone.cores[7] == Core(
        index=7, name="kryo-485-gold", speed=1024, clock_mhz=2841, governor="performance"
    )


def test_a_board_without_capacities_goes_by_its_clock() -> None:
    board = hardware.parse(RASPBERRY_PI)
    assert board.device == "Raspberry Pi 4 Model B Rev 1.4"
    assert board.soc == "raspberrypi,4-model-b brcm,bcm2711"
    assert board.load == 0.0
    assert {core.name for core in board.cores} == {"cortex-a72"}
    assert {core.speed for core in board.cores} == {1_800_000}
    assert {(core.clock_mhz, core.governor) for core in board.cores} == {(1800, "ondemand")}
    assert len(board.cores) == 4


def test_a_virtual_machine_that_reports_next_to_nothing() -> None:
    machine = hardware.parse(VIRTUAL_MACHINE)
    core = {"name": "AMD EPYC", "speed": 0, "clock_mhz": 0, "governor": UNKNOWN}
    assert machine == Hardware(
        device="x86_64",
        soc="AMD EPYC",
        load=0.96,
        cores=(Core(index=0, **core), Core(index=1, **core)),
    )


def test_a_core_that_is_offline_is_left_out() -> None:
    cores = core_lines((0, 1024, "", "", ""), (1, 1024, "", "", 0), (2, 1024, "", "", 1))
    found = hardware.parse(f"device x\nsoc y\nload 1.5\n{cores}\ncpuinfo\n")
    assert [core.index for core in found.cores] == [0, 2]


@pytest.mark.parametrize("text", ["", "device \nsoc \nload \ncpuinfo\n", "cpuinfo\n", "noise"])
def test_what_cannot_be_read_is_unknown(text: str) -> None:
    found = hardware.parse(text)
    core = Core(index=0, name=UNKNOWN, speed=0, clock_mhz=0, governor=UNKNOWN)
    assert found == Hardware(device=UNKNOWN, soc=UNKNOWN, load=0.0, cores=(core,))


@pytest.mark.parametrize(
    ("machine", "architecture"),
    [
        *(("aarch64", "arm"), ("armv7l", "arm"), ("arm64", "arm")),
        *(("x86_64", "x86"), ("i686", "x86"), ("riscv64", "riscv64"), ("", "")),
    ],
)
def test_the_architecture_is_what_uname_says(machine: str, architecture: str) -> None:
    found = hardware.parse(f"device x\nsoc y\nmachine {machine}\nload 1.5\ncpuinfo\n")
    assert found.architecture == architecture


def test_cores_of_an_empty_cpuinfo_have_no_names() -> None:
    text = PIXEL_4[: PIXEL_4.index("cpuinfo") + len("cpuinfo\n")]
    found = hardware.parse(text)
    assert [(core.name, core.speed) for core in found.cores][3:5] == [
        (UNKNOWN, 261),
        (UNKNOWN, 871),
    ]


def test_a_part_that_is_not_known_keeps_its_number() -> None:
    cores = core_lines((0, "", "", "", 1))
    text = f"device x\n{cores}\ncpuinfo\n{cpuinfo_of_arm('0xfff', implementer='0x99')}"
    assert hardware.parse(text).cores[0].name == "0x99 0xfff"


def test_cores_that_cpuinfo_lists_once_for_all_have_that_name() -> None:
    """Linux before 3.8 on ARM, and 32-bit kernels, whose "model name" is just the architecture."""
    cores = core_lines((0, "", "", "", 1), (1, "", "", "", 1))
    once = (
        "processor\t: 0\n\nprocessor\t: 1\nmodel name\t: ARMv7 Processor rev 4 (v7l)\n\n"
        "CPU implementer\t: 0x41\nCPU part\t: 0xd03\n"
    )
    found = hardware.parse(f"device x\n{cores}\ncpuinfo\n{once}")
    assert [core.name for core in found.cores] == ["cortex-a53", "cortex-a53"]


@pytest.mark.parametrize(
    ("wanted", "threads", "indices"),
    [
        ("big", 1, (7,)),
        ("big", 2, (6, 7)),
        ("big", 4, (4, 5, 6, 7)),
        ("big", 5, (3, 4, 5, 6, 7)),
        ("little", 1, (3,)),
        ("little", 4, (0, 1, 2, 3)),
        ("4", 1, (4,)),
        ("0,2-3", 3, (0, 2, 3)),
        (" 6 , 1 ", 2, (1, 6)),
        ("2-3,3,2", 2, (2, 3)),
        ("0-7", 1, (0, 1, 2, 3, 4, 5, 6, 7)),
    ],
)
def test_cores_are_picked_by_kind_or_index(
    wanted: str, threads: int, indices: tuple[int, ...]
) -> None:
    picked = hardware.pick_cores(hardware.parse(PIXEL_4), wanted, threads)
    assert tuple(core.index for core in picked) == indices


def test_of_equal_cores_the_last_are_picked_as_the_first_serve_interrupts() -> None:
    machine = hardware.parse(VIRTUAL_MACHINE)
    assert [core.index for core in hardware.pick_cores(machine, "big", 1)] == [1]


@pytest.mark.parametrize(
    ("wanted", "threads", "message"),
    [
        ("8", 1, r"core 8 is not one of the device's: \[0, 1, .*7\]"),
        ("0-9", 1, "core 8 is not"),
        ("big", 9, "9 threads need as many cores, not 8"),
        ("4", 2, "2 threads need as many cores, not 1"),
        ("3-1", 1, "1 threads need as many cores, not 0"),
        ("fast", 1, "cores 'fast': write big, little, or indices like 4 or 0,2-3"),
        ("", 1, "cores '': write"),
        ("1,", 1, "cores '1,': write"),
        ("-1", 1, "cores '-1': write"),
        ("0-99999999999", 1, "cores '0-99999999999': write"),
    ],
)
def test_cores_that_do_not_exist_are_an_error(wanted: str, threads: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hardware.pick_cores(hardware.parse(PIXEL_4), wanted, threads)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="not Linux")
def test_this_machine_is_read() -> None:
    with open_device("local") as device:
        found = hardware.read(device)
    assert found.device != UNKNOWN
    assert {core.index for core in found.cores} >= os.sched_getaffinity(0)
    assert all(core.name != UNKNOWN for core in found.cores)
    assert found.load >= 0
    assert found.architecture


def test_a_machine_without_proc_and_sys_is_read_and_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blind = hardware.SCRIPT.replace("/proc/", "/none/").replace("/sys/", "/none/")
    monkeypatch.setattr(hardware, "SCRIPT", blind)
    with open_device("local") as device:
        found = hardware.read(device)
    assert found.device == os.uname().machine
    assert (found.soc, found.load, len(found.cores)) == (UNKNOWN, 0.0, 1)


def write_board(root: Path) -> None:
    """The files of a board with two kinds of cores, of which one core is offline."""
    files = {
        "proc/device-tree/model": "Radxa Rock 5\0",
        "proc/device-tree/compatible": "radxa,rock-5\0rockchip,rk3588\0",
        "proc/loadavg": "1.25 0.5 0.1 1/100 42\n",
        "proc/cpuinfo": cpuinfo_of_arm("0xd05", "0xd0b", "0xd0b"),
    }
    for index, (capacity, khz, online) in enumerate([(530, 1800000, ""), (1024, 2400000, "1\n")]):
        cpu = f"sys/devices/system/cpu/cpu{index}"
        files[f"{cpu}/cpu_capacity"] = f"{capacity}\n"
        files[f"{cpu}/cpufreq/cpuinfo_max_freq"] = f"{khz}\n"
        files[f"{cpu}/cpufreq/scaling_governor"] = "ondemand\n"
        if online:
            files[f"{cpu}/online"] = online
    files["sys/devices/system/cpu/cpu2/online"] = "0\n"
    files["sys/devices/system/cpu/cpufreq/policy0"] = ""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def test_the_files_of_a_board_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_board(tmp_path)
    script = hardware.SCRIPT.replace("/proc/", f"{tmp_path}/proc/")
    monkeypatch.setattr(hardware, "SCRIPT", script.replace("/sys/", f"{tmp_path}/sys/"))
    with open_device("local") as device:
        found = hardware.read(device)
    fields = {"governor": "ondemand"}
    assert found == Hardware(
        device="Radxa Rock 5",
        soc="radxa,rock-5 rockchip,rk3588",
        load=1.25,
        cores=(
            Core(index=0, name="cortex-a55", speed=530, clock_mhz=1800, **fields),
            Core(index=1, name="cortex-a76", speed=1024, clock_mhz=2400, **fields),
        ),
        architecture=found.architecture,  # this machine's own: uname is not a file
    )


def test_a_phone_is_asked_for_its_properties(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    getprop = tmp_path / "getprop"
    getprop.write_text(
        "#!/bin/sh\ncase $1 in ro.product.model) echo Pixel 4;; ro.board.platform) echo msmnile;;"
        " *) echo;; esac\n"
    )
    getprop.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with open_device("local") as device:
        found = hardware.read(device)
    assert (found.device, found.soc) == ("Pixel 4", "msmnile")


class Thermometer:
    """A device whose thermal zones have these readings."""

    def __init__(self, *readings: str) -> None:
        self._readings = readings

    def run(self, command: Sequence[str], *, timeout_s: float) -> str:
        return "".join(f"{reading}\n" for reading in self._readings)


@pytest.mark.parametrize(
    ("readings", "degrees"),
    [
        ((), 0.0),
        (("41000", "52500", "38000"), 52.5),
        (("41", "39"), 41.0),
        (("61000", "-273000", "999999", "junk", ""), 61.0),
    ],
)
def test_the_hottest_part_counts_in_degrees_or_thousandths(
    readings: tuple[str, ...], degrees: float
) -> None:
    assert hardware.celsius(Thermometer(*readings)) == degrees


def test_this_machine_has_some_temperature_or_none() -> None:
    with open_device("local") as device:
        assert 0 <= hardware.celsius(device) < hardware.HIGHEST_CELSIUS
