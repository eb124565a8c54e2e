"""Which processor this process runs on, how many CPUs it may use, and how its workers start: they
leave Ctrl-C to it and end with it. Knows nothing of their work.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import platform
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path

from ghostnas.errors import InputError

PARENT_LOOKED_AT_S = 1.0
PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# Linux's names for the instructions that sum int8 products without saturating, by machine.
DOT_PRODUCTS = {"x86_64": ("VNNI", ("avx512_vnni", "avx_vnni")), "aarch64": ("SDOT", ("asimddp",))}


def usable_cpus() -> int:
    """CPUs this process may use, at least 1, within its affinity and its container's quota."""
    if sys.version_info >= (3, 13):
        allowed = os.process_cpu_count() or 1
    elif sys.platform == "linux":
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota(PROC, CGROUPS))))


def check_count(option: str, count: int) -> None:
    """Reject more threads or processes than there are CPUs: thousands bring a machine to a halt.

    Args:
        option: the option that the user gave.

    Raises:
        InputError: `count` is too high.
    """
    if count > (usable := usable_cpus()):
        raise InputError(f"{option} {count}: {usable} CPUs are usable here; use at most {usable}")


def processor() -> str:
    """The CPU's name where the system reports it, its architecture, and whether it has int8
    instructions, such as ``AMD EPYC (x86_64, with VNNI)``.
    """
    machine = platform.machine()
    about = _cpu_fields(PROC)
    name = about.get("model name") or platform.processor() or machine
    facts = [machine] * (name != machine)
    if machine in DOT_PRODUCTS and (flags := about.get("flags") or about.get("Features")):
        what, any_of = DOT_PRODUCTS[machine]
        has = not set(any_of).isdisjoint(flags.split())
        facts.append(f"{'with' if has else 'without'} {what}")
    return f"{name} ({', '.join(facts)})" if facts else name


def worker_context() -> BaseContext:
    """How worker processes start: on Linux forked from one that has loaded PyTorch, and nothing
    else, so that only the first of them waits for it; elsewhere as new interpreters.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    resource_tracker.ensure_running()  # on its start it unblocks interrupts
    with deaf_to_interrupts():  # those that are forked later inherit it
        forkserver.ensure_running()
    return context


def start_worker(parent: int) -> None:
    """The first thing a worker process does: ignore Ctrl-C, and exit once the process `parent`,
    which started it, is gone, even after a kill -9.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes started in the block ignore Ctrl-C, even before they reach `start_worker`.

    An executor starts one on submit. A Ctrl-C during the block is delivered here when it ends.
    """
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)


def _end_with(parent: int) -> None:
    try:
        if sys.platform == "linux":
            ended = select.poll()
            ended.register(os.pidfd_open(parent), select.POLLIN)
            ended.poll()
            os._exit(1)
    except OSError:  # it has ended, or the kernel (before 5.3) or the container has no such call
        pass
    while _runs(parent):
        time.sleep(PARENT_LOOKED_AT_S)
    os._exit(1)


def _runs(parent: int) -> bool:
    if sys.platform != "linux":
        return os.getppid() == parent
    try:
        state = (PROC / str(parent) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"  # ended, and not yet waited for


def _cpu_fields(proc: Path) -> dict[str, str]:
    """What Linux reports about the first CPU; empty elsewhere."""
    try:
        first, _, _ = (proc / "cpuinfo").read_text(encoding="utf-8").partition("\n\n")
    except (OSError, UnicodeDecodeError):
        return {}
    lines = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _quota(proc: Path, cgroups: Path) -> float:
    """CPUs that this process's control groups (version 2) allow it; infinity for no limit."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return math.inf
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    place = cgroups / own
    allowed = math.inf
    for folder in (place, *place.parents):
        if not folder.is_relative_to(cgroups):
            break
        try:
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
            allowed = min(allowed, int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):  # missing, or "max"
            continue
    return allowed
