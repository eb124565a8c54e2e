"""A real PostgreSQL server on loopback, for tests that start, stop and lose it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
PROGRAM = shutil.which("pg_ctl") or next((str(place / "pg_ctl") for place in PLACES), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server in `folder`; `user` runs it, since PostgreSQL refuses root."""

    folder: Path
    port: int
    user: str

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://{self.user}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off"
        self._run("start", "-w", "-o", options, "-l", str(self.folder / "log"))

    def stop(self) -> None:
        self._run("stop", "-m", "immediate")

    def _run(self, *arguments: str) -> None:
        assert PROGRAM is not None
        _as(self.user, PROGRAM, *arguments, "-D", str(self.folder / "data"))


@contextmanager
def server() -> Iterator[Server]:
    """A running server; its folder is removed with it."""
    assert PROGRAM is not None
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has a limit
    if os.geteuid() == 0:
        shutil.chown(folder, user)
    made = Server(folder=folder, port=port, user=user)
    try:
        made._run("initdb", "-s", "-o", f"--auth=trust --username={user} --no-sync")
        made.start()
        yield made
        made.stop()
    finally:
        shutil.rmtree(folder)


def _as(user: str, *command: str) -> None:
    prefix = ("runuser", "-u", user, "--") if os.geteuid() == 0 else ()
    subprocess.run([*prefix, *command], check=True, stdout=subprocess.DEVNULL, timeout=60)
