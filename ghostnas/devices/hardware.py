"""What a device is made of, read over its shell: model, SoC, cores, clock, governor, load.

The same lines of POSIX shell serve Linux and Android; what cannot be read is reported as unknown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ghostnas.errors import InputError

TIMEOUT_S = 30.0
HIGHEST_CELSIUS = 150.0  # anything above is not a temperature
UNKNOWN = "unknown"
SCRIPT = r"""
first() { for value; do if [ -n "$value" ]; then echo "$value"; return; fi; done; }
read_file() { cat "$1" 2>/dev/null | tr '\000' ' '; }
property() { command -v getprop >/dev/null && getprop "$1"; }
echo "device $(first "$(property ro.product.model)" "$(read_file /proc/device-tree/model)" \
    "$(read_file /sys/class/dmi/id/product_name)" "$(uname -m)")"
echo "soc $(first "$(property ro.soc.model)" "$(property ro.board.platform)" \
    "$(read_file /proc/device-tree/compatible)" \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sed 1q)")"
echo "machine $(uname -m)"
echo "load $(read_file /proc/loadavg)"
echo "allowed $(sed -n 's/^Cpus_allowed_list:[^0-9]*//p' /proc/self/status)"
for path in /sys/devices/system/cpu/cpu[0-9]*; do
    [ -d "$path" ] || continue
    echo "core ${path##*cpu} capacity=$(read_file $path/cpu_capacity)" \
        "khz=$(read_file $path/cpufreq/cpuinfo_max_freq)" \
        "governor=$(read_file $path/cpufreq/scaling_governor)" "online=$(read_file $path/online)"
done
echo cpuinfo
read_file /proc/cpuinfo
"""
# CPU part numbers of implementer 0x41 (ARM) and 0x51 (Qualcomm), from the Technical Reference
# Manuals' MIDR_EL1.
ARM_PARTS = {
    "0x41 0xd03": "cortex-a53",
    "0x41 0xd04": "cortex-a35",
    "0x41 0xd05": "cortex-a55",
    "0x41 0xd07": "cortex-a57",
    "0x41 0xd08": "cortex-a72",
    "0x41 0xd09": "cortex-a73",
    "0x41 0xd0a": "cortex-a75",
    "0x41 0xd0b": "cortex-a76",
    "0x41 0xd0c": "neoverse-n1",
    "0x41 0xd0d": "cortex-a77",
    "0x41 0xd40": "neoverse-v1",
    "0x41 0xd41": "cortex-a78",
    "0x41 0xd44": "cortex-x1",
    "0x41 0xd46": "cortex-a510",
    "0x41 0xd47": "cortex-a710",
    "0x41 0xd48": "cortex-x2",
    "0x41 0xd49": "neoverse-n2",
    "0x41 0xd4d": "cortex-a715",
    "0x41 0xd4e": "cortex-x3",
    "0x51 0x802": "kryo-385-gold",
    "0x51 0x803": "kryo-385-silver",
    "0x51 0x804": "kryo-485-gold",
    "0x51 0x805": "kryo-485-silver",
}


class Shell(Protocol):
    """What runs a command where the hardware is; a `ghostnas.devices.device.Device` does."""

    def run(self, command: Sequence[str], *, timeout_s: float) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """One CPU core; `speed` orders the cores of a device: capacity, or kHz, or 0 if unknown."""

    index: int
    name: str
    speed: int
    clock_mhz: int
    governor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A device as read; `load` is the load average of the last minute, `architecture` is ``arm``,
    ``x86`` or another machine's name, empty if unknown.
    """

    device: str
    soc: str
    load: float
    cores: tuple[Core, ...]
    architecture: str = ""


def read(shell: Shell) -> Hardware:
    """Ask the device.

    Raises:
        DeviceError: it cannot be asked.
    """
    return parse(shell.run(["sh", "-c", SCRIPT], timeout_s=TIMEOUT_S))


def celsius(shell: Shell) -> float:
    """Of the hottest part that reports a temperature; 0 if none does."""
    script = "cat /sys/class/thermal/thermal_zone*/temp 2>/dev/null; true"
    readings = re.findall(r"^\d+$", shell.run(["sh", "-c", script], timeout_s=TIMEOUT_S), re.M)
    degrees = [value / 1000 if value > 1000 else value for value in map(float, readings)]
    return max((value for value in degrees if value < HIGHEST_CELSIUS), default=0.0)


def parse(text: str) -> Hardware:
    """The hardware that the shell's lines describe."""
    facts, _, cpuinfo = text.partition("\ncpuinfo")
    fields: dict[str, str] = {}
    lines = []
    for line in facts.splitlines():
        key, _, value = line.strip().partition(" ")
        if key == "core":
            lines.append(value)
        elif key:
            fields[key] = " ".join(value.split())
    names = _core_names(cpuinfo)
    cores = [_core(line, names) for line in lines if not line.rstrip().endswith("online=0")]
    if allowed := fields.get("allowed"):  # a container may be limited to some
        indices = _parse_indices(allowed)
        cores = [core for core in cores if core.index in indices]
    return Hardware(
        device=fields.get("device") or UNKNOWN,
        soc=fields.get("soc") or UNKNOWN,
        load=float(match[0]) if (match := re.match(r"[\d.]+", fields.get("load", ""))) else 0.0,
        architecture=_architecture(fields.get("machine", "")),
        cores=tuple(cores) or (_core("0", names),),
    )


def pick_cores(hardware: Hardware, wanted: str, threads: int) -> tuple[Core, ...]:
    """The cores to pin this many threads to.

    Args:
        wanted: ``big`` (the fastest, the last of equals: the first ones serve interrupts),
            ``little`` (the slowest), or indices such as ``4`` or ``0,2-3``.

    Raises:
        InputError: there are no such cores, or too few for the threads.
    """
    known = {core.index: core for core in hardware.cores}
    if wanted in ("big", "little"):
        sign = -1 if wanted == "big" else 1
        order = sorted(hardware.cores, key=lambda core: (sign * core.speed, -core.index))
        chosen = order[:threads]
    else:
        indices = _parse_indices(wanted)
        if missing := [index for index in indices if index not in known]:
            raise InputError(f"core {missing[0]} is not one of the device's: {sorted(known)}")
        chosen = [known[index] for index in indices]
    if len(chosen) < threads:
        raise InputError(f"{threads} threads need as many cores, not {len(chosen)}")
    return tuple(sorted(chosen, key=lambda core: core.index))


def _architecture(machine: str) -> str:
    """From ``uname -m``; it covers 32-bit code too, though that has kernels of its own."""
    if re.match(r"aarch64|arm", machine):
        return "arm"
    return "x86" if re.fullmatch(r"x86_64|amd64|i[3-6]86", machine) else machine


def _core(line: str, names: dict[int, str]) -> Core:
    index = int(line.split()[0])
    values = dict(re.findall(r"(\w+)=(\S+)", line))
    khz = int(values.get("khz", 0))
    return Core(
        index=index,
        name=names.get(index, names.get(-1, UNKNOWN)),
        speed=int(values.get("capacity", khz)),
        clock_mhz=khz // 1000,
        governor=values.get("governor", UNKNOWN),
    )


def _core_names(cpuinfo: str) -> dict[int, str]:
    """Names of the cores that /proc/cpuinfo lists; -1 stands for those it does not."""
    names: dict[int, str] = {}
    index = -1
    implementer = ""
    for line in cpuinfo.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "processor" and value.isdigit():
            index = int(value)
        elif key == "CPU implementer":
            implementer = value
        elif key == "CPU part":
            part = f"{implementer} {value}"
            names[index] = ARM_PARTS.get(part, part)
        elif key == "model name":
            names.setdefault(index, " ".join(value.split()))
    if names:
        names.setdefault(-1, next(iter(names.values())))
    return names


def _parse_indices(text: str) -> list[int]:
    indices: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part.strip())
        if match is None:
            raise InputError(f"cores {text!r}: write big, little, or indices like 4 or 0,2-3")
        indices += range(int(match[1]), int(match[2] or match[1]) + 1)
    return sorted(set(indices))
