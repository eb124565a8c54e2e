"""The command line in processes forked from one that has loaded PyTorch: a test that starts many
need not wait for a new interpreter's imports each time. Linux; elsewhere they are new interpreters.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ghostnas import processes

PAUSE_S = 0.02


class Forked:
    """``ghostnas WORDS`` in a process of its own; like a `subprocess.Popen` whose output is text.

    Args:
        cwd, env: as in `subprocess.Popen`.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.words = list(words)
        folder = tempfile.mkdtemp(prefix="forked")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._out, self._err = (Path(folder) / name for name in ("out", "err"))
        for path in (self._out, self._err):
            path.touch()
        context = processes.worker_context()
        told = (self.words, str(cwd or Path.cwd()), dict(os.environ if env is None else env))
        self._process = context.Process(  # type: ignore[attr-defined]
            target=_main, args=(*told, str(self._out), str(self._err))
        )
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """As it ended, minus the signal's number if by one; None while it runs."""
        return self.poll()

    def poll(self) -> int | None:
        code: int | None = self._process.exitcode
        return code

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.words, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed and what it said on stderr, once it has ended."""
        self.wait(timeout)
        return self._out.read_text(), self._err.read_text()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def said(self) -> str:
        """So far, on stderr."""
        return self._err.read_text()

    def lines(self) -> Iterator[str]:
        """Of stderr, as they come, until it ends."""
        with open(self._err) as file:
            part = ""
            while True:
                ended = self.poll() is not None
                while read := file.readline():
                    part += read
                    if part.endswith("\n"):
                        yield part
                        part = ""
                if ended:
                    return
                time.sleep(PAUSE_S)


def run(
    words: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Like `subprocess.run`."""
    process = Forked(words, cwd=cwd, env=env)
    try:
        out, err = process.communicate(timeout)
    finally:
        process.kill()
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.words, process.returncode, out, err)


def _main(words: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from ghostnas.cli.main import main

    sys.argv = ["ghostnas", *words]
    sys.exit(main())
