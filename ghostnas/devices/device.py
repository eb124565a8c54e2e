"""A device that models are run on: push, run, pull. It knows nothing of TFLite."""

from __future__ import annotations

import io
import math
import os
import posixpath
import re
import secrets
import shlex
import signal
import subprocess
import tarfile
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import ClassVar, Self, final

from ghostnas.errors import DeviceError, DeviceLostError, InputError

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # before each retry after a transient fault
ANSWER_S = 30.0  # on top of a command's own time: ssh needs 15 s to notice that nobody is there
TRANSFER_S = 600.0
TIMED_OUT = {124, 137, 143}  # what `timeout` of coreutils, busybox and toybox may end with
END_LEFTOVER = "[ -f ../pid ] && (p=$(cat ../pid); kill -9 -$p || kill $p) 2>/dev/null"

SSH_URL = re.compile(
    r"ssh:(?P<user>[^\s@:/-][^\s@:/]*@)?"
    r"(?:\[(?P<ipv6>[^\s@[\]-][^\s@[\]]*)\]|(?P<host>[^\s@:/[\]-][^\s@:/[\]]*))(?::(?P<port>\d+))?"
)
ADB_URL = re.compile(r"adb(?::(?P<serial>\S+))?")
SSH_OPTIONS = (
    *("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3"),
    *("ClearAllForwardings=yes", "ControlMaster=auto", "ControlPersist=60"),
)
INSTALL = {
    "ssh": "OpenSSH's client (Debian: openssh-client)",
    "adb": "Android's platform tools (Debian: adb)",
}


class Device(ABC):
    """A place to put files and run commands, one at a time.

    `folder` is an absolute path on the device: a scratch folder for this object alone, made on
    opening and removed by `close`. A name is that of a file or folder in it, without a slash.

    A transient fault (a connection refused or dropped, a device offline) is retried after growing
    pauses: whatever is run must tolerate being run twice. A retry first ends what the previous try
    left running on the device.

    All methods raise:
        DeviceError: the device refused, or a command failed. It is not retried.
        DeviceLostError: the device did not come back. `close` does not raise it: the folder stays.
    """

    url: str
    folder: str

    @abstractmethod
    def push(self, source: Path, name: str) -> None:
        """Copy a file or a folder to `folder`/name, replacing what was there."""

    @abstractmethod
    def run(self, command: Sequence[str], *, timeout_s: float) -> str:
        """Run a program with its arguments in `folder`, without input; return what it printed.

        Args:
            timeout_s: seconds, rounded up to whole ones, after which the device ends it.

        Raises:
            DeviceError: it did not exit with 0, or not in time; with the last line of its errors.
        """

    @abstractmethod
    def pull(self, name: str, target: Path) -> None:
        """Copy `folder`/name to target, replacing what was there, whole or not at all."""

    @abstractmethod
    def close(self) -> None:
        """End what still runs and remove `folder`; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_device(url: str, *, pauses_s: Sequence[float] = PAUSES_S) -> Device:
    """The device of a URL: `local`, `ssh:[user@]host[:port]` or `adb[:SERIAL]`.

    An IPv6 address goes in brackets. ssh and adb are this machine's own, with the user's own
    configuration and keys; the environment variable GHOSTNAS_SSH_OPTIONS adds options for ssh.

    Raises:
        InputError: the URL has another form, or a shell could not split the options.
        DeviceError, DeviceLostError: as in `Device`.
    """
    if url == "local":
        return Local(url, pauses_s)
    if found := ADB_URL.fullmatch(url):
        return Adb(url, pauses_s, found["serial"])
    if (found := SSH_URL.fullmatch(url)) and 0 < int(found["port"] or 22) < 65536:
        destination = (found["user"] or "") + (found["ipv6"] or found["host"])
        return Ssh(url, pauses_s, destination, found["port"])
    forms = "local, ssh:[user@]host[:port] or adb[:SERIAL]"
    raise InputError(f"{url!r} is not a device; a device is {forms}")


class ShellDevice(Device):
    """A device that a local program opens a shell on: POSIX, with tar and, if possible, timeout.

    What a script prints comes between two marks, the second with its exit code, so that what a
    command says is never mistaken for what the connection says.
    """

    _may_pass: ClassVar[re.Pattern[str]]  # errors, or none, after which a device may come back

    def __init__(self, url: str, pauses_s: Sequence[float]) -> None:
        self.url = url
        self._pauses_s = pauses_s
        self._mark = secrets.token_hex(16)
        self._open = True
        try:
            self.folder = self._make_folder()
        except BaseException:
            self._disconnect()
            raise

    @abstractmethod
    def _line(self, script: str) -> list[str]:
        """The local command that makes the device's shell run a script."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Release what opening took on this machine."""

    def push(self, source: Path, name: str) -> None:
        item = quote(_checked(name))
        script = (
            f"cd {quote(self.folder)}/.. && rm -rf new && mkdir new && (cd new && tar xof -)"
            f" && rm -rf files/{item} && mv new/item files/{item}"
        )
        self._shell(script, f"push of {name!r}", TRANSFER_S, _packed(source))

    def run(self, command: Sequence[str], *, timeout_s: float) -> str:
        limit = f"timeout -k 2 {max(1, math.ceil(timeout_s))}"
        script = (
            f"cd {quote(self.folder)} || exit\n{END_LEFTOVER}\n"
            "sh -c 'echo $$ >../pid && exec \"$@\"' sh"
            f" $(command -v timeout >/dev/null && echo {limit}) {shlex.join(command)}\n"
            "code=$?; rm -f ../pid; exit $code"
        )
        action = _shortened(shlex.join(command))
        return self._shell(script, action, timeout_s).decode("utf-8", "replace")

    def pull(self, name: str, target: Path) -> None:
        script = f"cd {quote(self.folder)} && tar chf - ./{quote(_checked(name))}"
        packed = self._shell(script, f"pull of {name!r}", TRANSFER_S)
        try:
            _unpack(packed, name, target)
        except tarfile.TarError as error:
            raise DeviceError(f"{self.url}: pull of {name!r}: {error}") from error

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        base = quote(posixpath.dirname(self.folder))
        try:
            with suppress(DeviceLostError):
                self._try(f"cd {base}/files && {END_LEFTOVER}; rm -rf {base}", "close", ANSWER_S)
        finally:
            self._disconnect()

    def _make_folder(self) -> str:
        name = f"ghostnas.{secrets.token_hex(8)}/files"
        script = (
            "place=/data/local/tmp; [ -d $place ] || place=${TMPDIR:-/tmp}; umask 077\n"
            f'mkdir -p "$place/{name}" && cd "$place/{name}" && pwd -P'
        )
        return self._shell(script, "making a folder", ANSWER_S).decode().removesuffix("\n")

    def _shell(self, script: str, action: str, timeout_s: float, data: bytes = b"") -> bytes:
        for pause_s in self._pauses_s:
            with suppress(DeviceLostError):
                return self._try(script, action, timeout_s, data)
            time.sleep(pause_s)
        return self._try(script, action, timeout_s, data)

    def _try(self, script: str, action: str, timeout_s: float, data: bytes = b"") -> bytes:
        line = self._line(f"printf {self._mark}; ({script}\n); printf '{self._mark}%d;' $?")
        start = time.monotonic()
        try:
            stdout, stderr = _communicate(line, data, timeout_s + ANSWER_S)
        except FileNotFoundError as error:
            raise DeviceError(f"{self.url}: install {INSTALL[line[0]]}") from error
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"{self.url}: {action}: not done in {error.timeout:g} s") from error
        noise, started, rest = stdout.partition(self._mark.encode())
        output, ended, tail = rest.rpartition(self._mark.encode())
        code = re.match(rb"(\d+);", tail) if ended else None
        if not code:
            raise self._broken("" if started else _last_line(stderr) or _last_line(noise))
        if int(code[1]) == 0:
            return output
        late = int(code[1]) in TIMED_OUT and time.monotonic() - start >= timeout_s
        what = f"took longer than {timeout_s:g} s" if late else f"ended with {int(code[1])}"
        raise DeviceError(": ".join(filter(None, [self.url, action, what, _last_line(stderr)])))

    def _broken(self, complaint: str) -> DeviceError:
        if self._may_pass.search(complaint):
            return DeviceLostError(f"{self.url}: lost: {complaint or 'the connection broke'}")
        return DeviceError(f"{self.url}: {complaint or 'its shell was ended'}")


@final
class Local(ShellDevice):
    """This machine."""

    _may_pass = re.compile("(?!)")

    def _line(self, script: str) -> list[str]:
        return ["sh", "-c", script]

    def _disconnect(self) -> None:
        pass


@final
class Ssh(ShellDevice):
    """A machine with an ssh server; one connection serves all commands while it holds."""

    _may_pass = re.compile(
        r"^$|Connection (refused|reset|closed|to .* closed)|timed out|not responding|Broken pipe"
        r"|No route to host|Network is (down|unreachable)|Host is down|mux_client"
    )

    def __init__(
        self, url: str, pauses_s: Sequence[float], destination: str, port: str | None
    ) -> None:
        users_options = _users_ssh_options()
        self._place = tempfile.TemporaryDirectory(prefix="ghostnas-")
        self._control = Path(self._place.name, "control")
        options = [f"-o{option}" for option in (*SSH_OPTIONS, f"ControlPath={self._control}")]
        port_option = ["-p", port] if port else []
        self._ssh = ["ssh", "-T", *users_options, *options, *port_option]
        self._destination = destination
        super().__init__(url, pauses_s)

    def _line(self, script: str) -> list[str]:
        return [*self._ssh, "--", self._destination, f"exec sh -c {quote(script)}"]

    def _disconnect(self) -> None:
        if self._control.exists():
            with suppress(subprocess.TimeoutExpired):
                _communicate([*self._ssh, "-Oexit", "--", self._destination], b"", ANSWER_S)
        self._place.cleanup()


@final
class Adb(ShellDevice):
    """An Android device, or any with adbd."""

    _may_pass = re.compile(
        r"^$|offline|not found|no devices|closed|still (connecting|authorizing)|protocol fault"
        r"|daemon|Connection re(set|fused)|Broken pipe"
    )

    def __init__(self, url: str, pauses_s: Sequence[float], serial: str | None) -> None:
        self._adb = ["adb", *(["-s", serial] if serial else [])]
        super().__init__(url, pauses_s)

    def _line(self, script: str) -> list[str]:
        return [*self._adb, "shell", script]

    def _disconnect(self) -> None:
        pass


def _users_ssh_options() -> list[str]:
    try:
        return shlex.split(os.environ.get("GHOSTNAS_SSH_OPTIONS", ""))
    except ValueError as error:
        raise InputError(f"GHOSTNAS_SSH_OPTIONS: {error}") from error


def _communicate(line: list[str], data: bytes, timeout_s: float) -> tuple[bytes, bytes]:
    """Both outputs of a local program, which is killed when it is no longer waited for."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        line, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    ) as process:
        try:
            return process.communicate(data, timeout_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def _last_line(output: bytes) -> str:
    """The last informative line; adb puts advice below its error, tar a summary."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line and "due to previous errors" not in line]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]


def _shortened(text: str, limit: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _checked(name: str) -> str:
    if name in ("", ".", "..") or "/" in name:
        raise ValueError(f"{name!r} is not the name of a file in a folder")
    return name


def _packed(source: Path) -> bytes:
    """A tar whose one item is the file or folder, with links followed."""
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    packed = io.BytesIO()
    gnu = tarfile.GNU_FORMAT
    with tarfile.open(fileobj=packed, mode="w", format=gnu, dereference=True) as archive:
        archive.add(source, "item")
    return packed.getvalue()


def _unpack(packed: bytes, name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as place:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(Path(place, "new"))
        received = Path(place, "new", name)
        if target.is_dir() or (target.exists() and received.is_dir()):
            target.rename(Path(place, "old"))
        os.replace(received, target)
