"""What .tflite models cost on an ARM Cortex-A76 core, emulated: cycles, instructions, cache misses.

Cycles are those of llvm-mca for every executed block, times its executions: they assume that all
data are in the first cache. Misses are counted with caches that start empty. It is not a timing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CPU = "cortex-a76"
PIPELINE = "neoverse-n1"  # A76's own in LLVM 19 is A57's, and twice too slow; N1 is A76 for servers
ITERATIONS = 100  # of a block back to back, so that filling the pipeline weighs little
BLOCKS_A_CALL = 200
WORD_DIGITS = 8
COUNTS = ("l1_misses", "l2_misses", "l3_misses", "bytes_read", "bytes_written")


class EmulationError(Exception):
    """What the user is told, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One measured invoke: the plugin's counts, and the executions of each block's words."""

    counts: dict[str, int]
    executions: Counter[str]

    @property
    def instructions(self) -> int:
        return sum(n * len(block) // WORD_DIGITS for block, n in self.executions.items())


def run(parts: Path, command: Sequence[str], text: str) -> subprocess.CompletedProcess[str]:
    """Runs a program of the parts folder, in it and with no other environment than its libraries.

    The environment and relative paths lie on the guest's stack, whose addresses decide misses."""
    if not (parts / command[0]).is_file():
        raise EmulationError(f"no {parts / command[0]}: delete {parts} and run setup again")
    environment = {"LD_LIBRARY_PATH": "lib"}
    return subprocess.run(
        command, check=False, input=text, capture_output=True, text=True, cwd=parts, env=environment
    )


def read_regions(lines: Iterable[str]) -> list[Region]:
    """Reads the plugin's output; a block that QEMU translated more than once is added up."""
    regions: list[Region] = []
    for line in lines:
        kind, *fields = line.split()
        if kind == "region":
            counts = dict(zip(COUNTS, map(int, fields[1:]), strict=True))
            regions.append(Region(counts=counts, executions=Counter()))
        elif kind == "block":
            regions[-1].executions[fields[1]] += int(fields[0])
    return regions


def run_models(parts: Path, models: Sequence[Path]) -> list[Region]:
    """Runs the models one after the other in one emulator.

    A reserved address space, a seed and a library path of its own make the guest's addresses the
    same on every run and every machine."""
    with tempfile.NamedTemporaryFile("r", prefix="emulate-") as out:
        qemu = ["bin/qemu-aarch64", "-cpu", CPU, "-L", "root", "-E", "LD_LIBRARY_PATH=/lib"]
        qemu += ["-R", "0x100000000", "-seed", "1", "-plugin", f"./blocks.so,out={out.name}"]
        paths = "".join(f"{model.resolve()}\n" for model in models)
        ran = run(parts, [*qemu, "root/runner"], paths)
        if ran.returncode:
            reasons = [line for line in ran.stderr.splitlines() if not line.startswith("INFO")]
            raise EmulationError(
                reasons[-1] if reasons else f"the emulator ended with {ran.returncode}"
            )
        regions = read_regions(out)
    if len(regions) != len(models):
        raise EmulationError(f"the emulator measured {len(regions)} of {len(models)} models")
    return regions


def run_in_parallel(parts: Path, models: Sequence[Path], jobs: int) -> list[Region]:
    shares = [models[job::jobs] for job in range(min(jobs, len(models)))]
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda share: run_models(parts, share), shares))
    return [results[i % len(shares)][i // len(shares)] for i in range(len(models))]


def disassemble(parts: Path, words: Sequence[str]) -> dict[str, str]:
    """Assembly text of every instruction word."""
    octets = "\n".join(" ".join(f"0x{word[i : i + 2]}" for i in (6, 4, 2, 0)) for word in words)
    command = ["bin/llvm-mc", "--disassemble", "-triple=aarch64", "-mattr=+all", "-show-encoding"]
    listing = run(parts, command, octets).stdout
    found = re.findall(r"^\t(\S.*?)\s*// encoding: \[(.*)\]$", listing, re.MULTILINE)
    assembly = {"".join(o[2:] for o in reversed(code.split(","))): text for text, code in found}
    unknown = [word for word in words if word not in assembly]
    if unknown:
        raise EmulationError(f"llvm-mc does not know the instruction {unknown[0]}")
    return assembly


def simulate(parts: Path, blocks: Sequence[str]) -> dict[str, float]:
    """Cycles of one execution of each block, when it is executed over and over."""
    split = {b: [b[i : i + WORD_DIGITS] for i in range(0, len(b), WORD_DIGITS)] for b in blocks}
    assembly = disassemble(parts, sorted({word for words in split.values() for word in words}))
    lines: list[str] = []
    for number, block in enumerate(blocks):
        lines += [f"# LLVM-MCA-BEGIN {number}", *(assembly[word] for word in split[block])]
        lines += [f"# LLVM-MCA-END {number}\n"]
    command = ["bin/llvm-mca", "-mtriple=aarch64", f"-mcpu={PIPELINE}", f"-iterations={ITERATIONS}"]
    ran = run(
        parts, [*command, "-resource-pressure=0", "-instruction-info=0", "--json"], "\n".join(lines)
    )
    if ran.returncode:
        errors = [line for line in ran.stderr.splitlines() if "error:" in line]
        raise EmulationError(f"llvm-mca: {errors[0] if errors else ran.returncode}")
    regions = json.loads(ran.stdout)["CodeRegions"]
    cycles = {int(r["Name"]): r["SummaryView"]["TotalCycles"] / ITERATIONS for r in regions}
    return {block: cycles[number] for number, block in enumerate(blocks)}


def block_cycles(parts: Path, blocks: set[str], jobs: int) -> dict[str, float]:
    """Cycles of every block; what was simulated once is kept in the parts folder."""
    with sqlite3.connect(parts / f"cycles-{PIPELINE}-{ITERATIONS}.sqlite", timeout=60) as store:
        store.execute("CREATE TABLE IF NOT EXISTS cycles (block TEXT PRIMARY KEY, cycles REAL)")
        known = dict(store.execute("SELECT block, cycles FROM cycles"))
    missing = sorted(blocks - known.keys())
    calls = [missing[i : i + BLOCKS_A_CALL] for i in range(0, len(missing), BLOCKS_A_CALL)]
    with ThreadPoolExecutor(jobs) as pool:
        for simulated in pool.map(lambda call: simulate(parts, call), calls):
            known |= simulated
            with store:
                store.executemany("INSERT OR IGNORE INTO cycles VALUES (?, ?)", simulated.items())
    store.close()
    return known


def describe(region: Region, cycles: dict[str, float]) -> dict[str, float]:
    terms = (cycles[block] * count for block, count in region.executions.items())
    return {"cycles": math.fsum(terms), "instructions": region.instructions, **region.counts}


def find_models(paths: Iterable[Path]) -> list[Path]:
    models: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.tflite")) if path.is_dir() else [path]
        if not found or not found[0].is_file():
            raise EmulationError(f"no model at {path}")
        models += found
    return models


def emulate(parts: Path, paths: Iterable[Path]) -> dict[str, dict[str, float]]:
    if not (parts / "built.done").is_file():
        raise EmulationError(
            f"no parts in {parts}: run {Path(__file__).with_name('setup')} {parts}"
        )
    models = find_models(paths)
    jobs = len(os.sched_getaffinity(0))
    regions = run_in_parallel(parts, models, jobs)
    cycles = block_cycles(parts, set().union(*(r.executions for r in regions)), jobs)
    return {str(m): describe(r, cycles) for m, r in zip(models, regions, strict=True)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=Path, required=True, help="the folder that setup made")
    parser.add_argument("models", type=Path, nargs="+", help=".tflite files, or folders of them")
    arguments = parser.parse_args()
    try:
        costs = emulate(arguments.parts, arguments.models)
    except (EmulationError, OSError, sqlite3.Error) as failure:
        print(f"emulate: {failure}", file=sys.stderr)
        return 2
    json.dump(costs, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
