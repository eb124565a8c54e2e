"""Worker processes: Ctrl-C is their parent's, and they do not outlive it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

import pytest

from ghostnas.workers import deaf_to_interrupts, start_worker


def test_a_worker_ignores_interrupts_and_one_begun_deaf_never_hears_any() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, start_worker, (os.getpid(),)) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
    with ProcessPoolExecutor(1, context) as pool:
        with deaf_to_interrupts():
            blocked = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ())
        assert signal.SIGINT in blocked.result()


def test_an_interrupt_in_a_deaf_block_is_heard_after_it() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), deaf_to_interrupts():  # noqa: PT012
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        reached.append("end of the block")
    assert reached == ["end of the block"]


def test_a_worker_ends_with_a_parent_that_is_killed() -> None:
    """The workers hold the script's output, which closes when the last of them is gone."""
    script = (
        "import os, signal, subprocess, sys\n"
        "worker = 'import os, time; from ghostnas.workers import start_worker; '"
        "'start_worker(os.getppid()); print(1, flush=True); time.sleep(600)'\n"
        "started = subprocess.Popen([sys.executable, '-c', worker], stdout=subprocess.PIPE)\n"
        "started.stdout.readline()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, stderr=subprocess.PIPE, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL
