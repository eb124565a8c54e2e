"""Shared by device tests: a real board, a real adb and a real sshd, to start and to break."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts" / "arm_board"
PARTS = Path(__file__).parent.parent / ".arm_board"
SSHD = Path("/usr/sbin/sshd")
ADBD_PORT = 5555


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for_sshd(port: int, limit_s: float = 60) -> None:
    """Wait until sshd itself answers: QEMU's port is open long before the board is up."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=1) as connection,
        ):
            connection.settimeout(1)
            if connection.recv(4) == b"SSH-":
                return
        time.sleep(0.2)
    raise AssertionError(f"no sshd on port {port} after {limit_s:g} s")


class Board:
    """An ARM64 Linux board on its own port, with nothing kept between starts."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"ssh:127.0.0.1:{self.port}"
        self.ssh_config = PARTS / "ssh_config"
        self._log = folder / "board.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [SCRIPTS / "start", str(self.port), PARTS],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """As if the cable were pulled: nothing is refused, and nothing answers."""
        self._process.send_signal(signal.SIGSTOP)


class AdbPair:
    """adbd and adb in their own network: adbd authenticates nobody, so nobody may reach it.

    `programs` is a folder to put on PATH. The user's own adb server is never touched.
    """

    def __init__(self, folder: Path) -> None:
        self.url = f"adb:emulator-{ADBD_PORT - 1}"
        self.programs = folder / "programs"
        self._log = folder / "adbd.log"
        self._daemon: subprocess.Popen[bytes] | None = None
        bring_up = f"{shlex.quote(str(PARTS))}/bin/busybox ip link set lo up && echo up && exec cat"
        self._network = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", bring_up],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._network.stdout.readline() == b"up\n"
        self._write_program(folder)

    def _write_program(self, folder: Path) -> None:
        self.programs.mkdir()
        program = self.programs / "adb"
        quoted = shlex.quote(str(folder))
        program.write_text(
            f"#!/bin/sh\nexport HOME={quoted} TMPDIR={quoted}\n"
            f"export LD_LIBRARY_PATH={shlex.quote(str(PARTS / 'lib'))}\n"
            f'exec {shlex.join([*self._entered(), str(PARTS / "bin" / "adb")])} "$@"\n'
        )
        program.chmod(0o755)

    def _entered(self) -> list[str]:
        return ["nsenter", "--net", f"--target={self._network.pid}"]

    def start(self) -> None:
        guard = occupied_vsock()
        with open(self._log, "ab") as log:
            self._daemon = subprocess.Popen(
                [*self._entered(), "ld.so", "--library-path", PARTS / "lib", PARTS / "bin/adbd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[guard.fileno()] if guard else [],
            )
        if guard:
            guard.close()

    def kill(self) -> None:
        if self._daemon:
            self._daemon.kill()
            self._daemon.wait()

    def adb(self, *arguments: str) -> str:
        ran = subprocess.run([self.programs / "adb", *arguments], capture_output=True, text=True)
        return ran.stdout

    def wait(self, limit_s: float = 20) -> None:
        """Wait until adb sees it; a new server looks for it only once, when it starts."""
        deadline = time.monotonic() + limit_s
        while b"adbd started" not in self._log.read_bytes() or "\tdevice" not in self.adb(
            "devices"
        ):
            assert time.monotonic() < deadline, f"no adbd after {limit_s:g} s"
            time.sleep(0.1)

    def close(self) -> None:
        self.kill()
        self.adb("kill-server")
        self._network.communicate()


def occupied_vsock() -> socket.socket | None:
    """A socket that keeps adbd off virtual machines' sockets, which ignore namespaces."""
    with suppress(OSError, AttributeError):
        guard = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        try:
            guard.bind((socket.VMADDR_CID_ANY, ADBD_PORT))
        except OSError:
            guard.close()
            raise
        return guard
    return None


@contextmanager
def board() -> Iterator[Board]:
    """A board that is not yet started; it ends with the context."""
    if not (PARTS / "done").exists():
        pytest.skip("no board here; scripts/arm_board/setup makes one")
    with tempfile.TemporaryDirectory() as folder:
        board = Board(Path(folder))
        try:
            yield board
        finally:
            board.kill()


@contextmanager
def adb_pair() -> Iterator[AdbPair]:
    """An adb whose adbd is not yet started; both end with the context."""
    if not (PARTS / "done").exists():
        pytest.skip("no adb here; scripts/arm_board/setup fetches one")
    if os.geteuid() != 0:
        pytest.skip("a separate network for adbd needs root")
    with tempfile.TemporaryDirectory() as folder:
        pair = AdbPair(Path(folder))
        try:
            yield pair
        finally:
            pair.close()


@contextmanager
def sshd() -> Iterator[tuple[str, Path]]:
    """This machine's own sshd on a loopback port: a device's URL and an ssh configuration."""
    if not SSHD.exists() or not shutil.which("ssh-keygen"):
        pytest.skip(f"no {SSHD} here")
    if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
        pytest.skip("sshd was never started here: it lacks /run/sshd")
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for key in ("host", "user"):
            make_key(folder / key)
        config = write_ssh_config(folder, folder / "user", (folder / "host.pub").read_text())
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\n"
        )
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=subprocess.DEVNULL
        )
        try:
            wait_for_sshd(port)
            yield f"ssh:127.0.0.1:{port}", config
        finally:
            process.terminate()
            process.wait()


def make_key(path: Path) -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True
    )
    return path


def write_ssh_config(folder: Path, key: Path, host_key: str) -> Path:
    """An ssh configuration that trusts one host key and offers one key."""
    (folder / "known_hosts").write_text(f"test-host {host_key}")
    path = folder / "ssh_config"
    path.write_text(
        f"HostKeyAlias test-host\nUserKnownHostsFile {folder}/known_hosts\n"
        f"StrictHostKeyChecking yes\nIdentityFile {key}\nIdentitiesOnly yes\n"
    )
    return path
