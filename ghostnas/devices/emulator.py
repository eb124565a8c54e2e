"""Counts what .tflite models execute on an ARM core, emulated: cycles, cache misses, bytes.

QEMU runs TFLite's own ARM kernels and counts how often each block of instructions is executed;
llvm-mca gives the cycles of each block when it runs over and over with its data in the first cache;
a simulated hierarchy of caches tells which lines miss. This is not a timing: see
`ghostnas.devices.emulated` for what the counts are assumed to cost. ``scripts/emulated_arm/setup``
fetches the parts.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sqlite3
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ghostnas.errors import DeviceError, InputError

ITERATIONS = 100  # of a block back to back, so that filling the pipeline weighs little
BLOCKS_A_CALL = 200
WORD_DIGITS = 8
COUNTS = ("l1_misses", "l2_misses", "l3_misses", "bytes_read", "bytes_written")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreModel:
    """How a core is emulated.

    Attributes:
        part: as in /proc/cpuinfo, by which TFLite chooses its kernels.
        qemu: the CPU that QEMU runs, which must have the core's instructions and no others.
        pipeline: llvm-mca's model of the core.
        caches: KiB and ways of the three levels; what a core shares counts as a single thread's.
    """

    part: str
    qemu: str
    pipeline: str
    caches: tuple[tuple[int, int], ...]


CORES = {
    # LLVM 19's own A76 model is the A57's and twice as slow; N1 is the A76 for servers.
    "cortex-a76": CoreModel(
        part="0xd0b",
        qemu="cortex-a76",
        pipeline="neoverse-n1",
        caches=((64, 4), (512, 8), (2048, 16)),
    ),
    "cortex-a72": CoreModel(
        part="0xd08",
        qemu="cortex-a72",
        pipeline="cortex-a72",
        caches=((32, 2), (1024, 16), (1024, 16)),
    ),
    "cortex-a55": CoreModel(
        part="0xd05",
        qemu="cortex-a76",  # QEMU 7.2 has no A55, whose instructions are the A76's
        pipeline="cortex-a55",
        caches=((32, 4), (128, 4), (2048, 16)),
    ),
    "cortex-a53": CoreModel(
        part="0xd03",
        qemu="cortex-a53",
        pipeline="cortex-a53",
        caches=((32, 4), (512, 16), (512, 16)),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Of one run of a model: its inputs and outputs were in the caches, its weights were not.

    Misses are of lines that neither the level nor any before it held.
    """

    cycles: float
    instructions: int
    l1_misses: int
    l2_misses: int
    l3_misses: int
    bytes_read: int
    bytes_written: int


class Emulator:
    """A core, emulated with the parts in a folder.

    Raises:
        InputError: the core is unknown, or the parts are missing.
    """

    def __init__(self, core: str, parts: Path) -> None:
        if core not in CORES:
            raise InputError(f"unknown core {core!r}; known: {', '.join(CORES)}")
        if not (parts / "built.done").is_file():
            raise InputError(f"no parts in {parts}: run scripts/emulated_arm/setup first")
        self.model = CORES[core]
        self._parts = parts
        self._jobs = len(os.sched_getaffinity(0))
        built = (parts / "built.done").read_text()
        self._version = f"{built} {self.model} ".encode()
        self._write_identity(core)

    def count(self, models: Sequence[bytes]) -> list[Counts]:
        """The counts of each model; a model that was counted once is not run again.

        Raises:
            DeviceError: the emulator failed, or XNNPACK did not take a model.
        """
        keys = [hashlib.sha256(self._version + model).hexdigest() for model in models]
        with self._store("counts.sqlite", "counts (model TEXT PRIMARY KEY, counts TEXT)") as store:
            known = {
                key: row[0]
                for key in keys
                for row in store.execute("SELECT counts FROM counts WHERE model = ?", (key,))
            }
            missing = [at for at, key in enumerate(keys) if key not in known]
            for at, counts in zip(
                missing, self._count([models[at] for at in missing]), strict=True
            ):
                known[keys[at]] = json.dumps(asdict(counts))
                store.execute(
                    "INSERT OR REPLACE INTO counts VALUES (?, ?)", (keys[at], known[keys[at]])
                )
            store.commit()
        return [Counts(**json.loads(known[key])) for key in keys]

    def _count(self, models: Sequence[bytes]) -> list[Counts]:
        if not models:
            return []
        with tempfile.TemporaryDirectory(prefix="emulate-") as folder:
            paths = [Path(folder) / f"{at:06}.tflite" for at in range(len(models))]
            for path, model in zip(paths, models, strict=True):
                path.write_bytes(model)
            shares = [paths[job :: self._jobs] for job in range(min(self._jobs, len(paths)))]
            with ThreadPoolExecutor(self._jobs) as pool:
                results = list(pool.map(self._run, shares))
        regions = [results[i % len(shares)][i // len(shares)] for i in range(len(models))]
        cycles = self._block_cycles(set().union(*(region.executions for region in regions)))
        return [region.counts(cycles) for region in regions]

    @contextmanager
    def _store(self, name: str, table: str) -> Iterator[sqlite3.Connection]:
        store = sqlite3.connect(self._parts / name, timeout=60)
        try:
            store.execute(f"CREATE TABLE IF NOT EXISTS {table}")
            yield store
        finally:
            store.close()

    def _write_identity(self, core: str) -> None:
        """The root folder that programs see: what they read of the cores, and all else unchanged.

        QEMU shows the host's /proc/cpuinfo where the folder has none.
        """
        root = self._parts / f"root-{core}"
        self._root = root.name
        if (root / "done").exists():
            return
        (root / "proc").mkdir(parents=True, exist_ok=True)
        for name in ("etc", "lib", "sys", "runner"):
            with suppress(FileExistsError):
                (root / name).symlink_to(Path("..") / "root" / name)
        text = (self._parts / "root" / "proc" / "cpuinfo").read_text()
        text = re.sub(r"(CPU part\s*: )0x\w+", rf"\g<1>{self.model.part}", text)
        if self.model.qemu != "cortex-a76":  # Armv8.0: without these
            text = re.sub(r" (atomics|fphp|asimdhp|asimdrdm|lrcpc|dcpop|asimddp)\b", "", text)
        (root / "proc" / "cpuinfo").write_text(text)
        (root / "done").touch()

    def _program(self, command: Sequence[str], text: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the parts folder, in it, with no environment but its libraries.

        The environment and relative paths lie on the guest's stack, whose addresses affect misses.
        """
        if not (self._parts / command[0]).is_file():
            raise DeviceError(
                f"no {self._parts / command[0]}: run scripts/emulated_arm/setup again"
            )
        return subprocess.run(
            command,
            check=False,
            input=text,
            capture_output=True,
            text=True,
            cwd=self._parts,
            env={"LD_LIBRARY_PATH": "lib"},
        )

    def _run(self, models: Sequence[Path]) -> list[_Region]:
        """Run models one after the other in one emulator.

        A reserved address space, a seed and a library path of its own make the guest's addresses
        the same on every run and every machine.
        """
        sizes = ",".join(f"l{at}={k}:{w}" for at, (k, w) in enumerate(self.model.caches, 1))
        with tempfile.NamedTemporaryFile("r", prefix="emulate-") as out:
            command = ["bin/qemu-aarch64", "-cpu", self.model.qemu, "-L", self._root]
            command += ["-E", "LD_LIBRARY_PATH=/lib", "-R", "0x100000000", "-seed", "1"]
            command += ["-plugin", f"./blocks.so,out={out.name},{sizes}", "root/runner"]
            ran = self._program(command, "".join(f"{model.resolve()}\n" for model in models))
            if ran.returncode:
                reasons = [line for line in ran.stderr.splitlines() if not line.startswith("INFO")]
                reasons = [re.sub(r"^runner: .*?\.tflite: ", "", line) for line in reasons]
                raise DeviceError(f"emulator: {[ran.returncode, *reasons][-1]}")
            regions = _read_regions(out)
        if len(regions) != len(models):
            raise DeviceError(f"emulator: counted {len(regions)} of {len(models)} models")
        return regions

    def _block_cycles(self, blocks: set[str]) -> dict[str, float]:
        """Cycles of every block; what was simulated once is kept in the parts folder."""
        name = f"cycles-{self.model.pipeline}-{ITERATIONS}.sqlite"
        with self._store(name, "cycles (block TEXT PRIMARY KEY, cycles REAL)") as store:
            known: dict[str, float] = dict(store.execute("SELECT block, cycles FROM cycles"))
            missing = sorted(blocks - known.keys())
            calls = [
                missing[at : at + BLOCKS_A_CALL] for at in range(0, len(missing), BLOCKS_A_CALL)
            ]
            with ThreadPoolExecutor(self._jobs) as pool:
                for simulated in pool.map(self._simulate, calls):
                    known |= simulated
                    store.executemany(
                        "INSERT OR IGNORE INTO cycles VALUES (?, ?)", simulated.items()
                    )
                    store.commit()
        return known

    def _simulate(self, blocks: Sequence[str]) -> dict[str, float]:
        """Cycles of one execution of each block, when it is executed over and over."""
        split = {b: [b[i : i + WORD_DIGITS] for i in range(0, len(b), WORD_DIGITS)] for b in blocks}
        assembly = self._disassemble(sorted({word for words in split.values() for word in words}))
        lines: list[str] = []
        for number, block in enumerate(blocks):
            lines += [f"# LLVM-MCA-BEGIN {number}", *(assembly[word] for word in split[block])]
            lines += [f"# LLVM-MCA-END {number}\n"]
        command = ["bin/llvm-mca", "-mtriple=aarch64", f"-mcpu={self.model.pipeline}"]
        command += [f"-iterations={ITERATIONS}", "-resource-pressure=0", "-instruction-info=0"]
        ran = self._program([*command, "-mattr=+all", "--json"], "\n".join(lines))
        if ran.returncode:
            errors = [line for line in ran.stderr.splitlines() if "error:" in line]
            raise DeviceError(f"llvm-mca: {errors[0] if errors else ran.returncode}")
        regions = json.loads(ran.stdout)["CodeRegions"]
        cycles = {int(r["Name"]): r["SummaryView"]["TotalCycles"] / ITERATIONS for r in regions}
        return {block: cycles[number] for number, block in enumerate(blocks)}

    def _disassemble(self, words: Sequence[str]) -> dict[str, str]:
        """Assembly text of every instruction word."""
        octets = "\n".join(" ".join(f"0x{word[i : i + 2]}" for i in (6, 4, 2, 0)) for word in words)
        command = ["bin/llvm-mc", "--disassemble", "-triple=aarch64", "-mattr=+all"]
        listing = self._program([*command, "-show-encoding"], octets).stdout
        found = re.findall(r"^\t(\S.*?)\s*// encoding: \[(.*)\]$", listing, re.MULTILINE)
        assembly = {"".join(o[2:] for o in reversed(code.split(","))): text for text, code in found}
        unknown = [word for word in words if word not in assembly]
        if unknown:
            raise DeviceError(f"llvm-mc does not know the instruction {unknown[0]}")
        return assembly


def count_each(emulator: Emulator, models: Sequence[bytes]) -> list[Counts | str]:
    """The counts of each model, or why there are none."""
    try:
        return [*emulator.count(models)]
    except DeviceError as error:  # from one of them, so each is tried by itself
        if len(models) == 1:
            return [str(error)]
        return [each for model in models for each in count_each(emulator, [model])]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Region:
    """One counted run: the plugin's numbers, and the executions of each block's words."""

    numbers: dict[str, int]
    executions: Counter[str]

    def counts(self, cycles: dict[str, float]) -> Counts:
        terms = [(block, count) for block, count in self.executions.items()]
        return Counts(
            cycles=math.fsum(cycles[block] * count for block, count in terms),
            instructions=sum(count * len(block) // WORD_DIGITS for block, count in terms),
            **self.numbers,
        )


def _read_regions(lines: Iterable[str]) -> list[_Region]:
    """Read the plugin's output; counts of a block that QEMU translated more than once are added."""
    regions: list[_Region] = []
    for line in lines:
        kind, *fields = line.split()
        if kind == "region":
            numbers = dict(zip(COUNTS, map(int, fields[1:]), strict=True))
            regions.append(_Region(numbers=numbers, executions=Counter()))
        elif kind == "block":
            regions[-1].executions[fields[1]] += int(fields[0])
    return regions
