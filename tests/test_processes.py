"""Which CPUs are usable, and workers that leave Ctrl-C to their parent and do not outlive it."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from ghostnas import processes
from ghostnas.errors import InputError
from ghostnas.processes import deaf_to_interrupts, start_worker, worker_context


def test_a_worker_ignores_interrupts_and_one_started_deaf_never_sees_any() -> None:
    context = worker_context()
    with ProcessPoolExecutor(1, context, start_worker, (os.getpid(),)) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
    with ProcessPoolExecutor(1, context) as pool:
        with deaf_to_interrupts():
            blocked = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ())
        assert signal.SIGINT in blocked.result()


def test_an_interrupt_in_a_deaf_block_is_delivered_after_it() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), deaf_to_interrupts():  # noqa: PT012
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        reached.append("end of the block")
    assert reached == ["end of the block"]


@pytest.mark.parametrize("before", ["", "os.pidfd_open = os.listdir; "], ids=["", "old kernel"])
def test_a_worker_ends_with_a_parent_that_is_killed(before: str) -> None:
    """The workers hold the script's output, which closes when the last of them is gone."""
    script = (
        "import os, signal, subprocess, sys\n"
        f"worker = 'import os, time; {before}from ghostnas.processes import start_worker; '"
        "'start_worker(os.getppid()); print(1, flush=True); time.sleep(600)'\n"
        "started = subprocess.Popen([sys.executable, '-c', worker], stdout=subprocess.PIPE)\n"
        "started.stdout.readline()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, stderr=subprocess.PIPE, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL


def container(folder: Path, own: str, quotas: dict[str, str]) -> tuple[Path, Path]:
    """/proc of a process in the control group `own`, and the groups with their quotas."""
    proc, groups = folder / "proc", folder / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(f"4:memory:/elsewhere\n0::{own}\n")
    for name, text in quotas.items():
        (groups / name).mkdir(parents=True, exist_ok=True)
        (groups / name / "cpu.max").write_text(text)
    return proc, groups


@pytest.mark.parametrize(
    ("own", "quotas", "usable"),
    [
        ("/", {"": "150000 100000\n"}, 2),
        ("/", {"": "max 100000\n"}, 16),
        ("/a/b", {"a": "300000 100000\n", "a/b": "max 100000\n"}, 3),
        ("/a/b", {"a": "1000 100000\n", "a/b": "200000 100000\n"}, 1),
        ("/a", {"": "100 0\n"}, 16),
        ("/a", {}, 16),
        ("/../..", {}, 16),
    ],
)
def test_a_containers_quota_bounds_the_cpus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: str,
    quotas: dict[str, str],
    usable: int,
) -> None:
    proc, groups = container(tmp_path, own, quotas)
    monkeypatch.setattr(processes, "PROC", proc)
    monkeypatch.setattr(processes, "CGROUPS", groups)
    for name in ("os.cpu_count", "os.process_cpu_count"):
        monkeypatch.setattr(name, lambda: 16, raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda of: set(range(16)), raising=False)
    assert processes.usable_cpus() == usable


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_cpus_outside_the_affinity_are_not_counted() -> None:
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from ghostnas.processes import usable_cpus; print(usable_cpus())"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "1\n"


def test_more_than_the_usable_cpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "usable_cpus", lambda: 4)
    processes.check_count("--threads", 4)
    with pytest.raises(InputError, match=r"^--threads 5: 4 CPUs are usable here; use at most 4$"):
        processes.check_count("--threads", 5)


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "said"),
    [
        ("x86_64", "model name\t: Core i5\nflags\t\t: fpu avx2\n\nflags\t\t: avx_vnni", "without"),
        ("x86_64", "model name\t: Core i5\nflags\t\t: fpu avx512_vnni\n\n", "with"),
    ],
)
def test_the_processor_tells_whether_it_has_int8_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, cpuinfo: str, said: str
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(processes, "PROC", tmp_path)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert processes.processor() == f"Core i5 ({machine}, {said} VNNI)"
    (tmp_path / "cpuinfo").unlink()
    monkeypatch.setattr("platform.processor", lambda: "arm")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert processes.processor() == "arm (arm64)"
