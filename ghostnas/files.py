"""Files and folders: those that ship, whole or not at all, sealed, one process at a time."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ghostnas.errors import InputError

DIGITS = 64
SEAL_NAME = b"ghostnas-sha256:"
SEAL_MARK = (SEAL_NAME + b"0" * DIGITS).decode()  # what a writer puts into a file to be sealed
_MARKS = re.compile(re.escape(SEAL_NAME) + b"([0-9a-f]{%d})" % DIGITS)


def shipped(folder: str) -> Path:
    """A folder of data files that ships: inside the installed package, or in a checkout's root."""
    inside = Path(__file__).parent / folder
    return inside if inside.is_dir() else Path(__file__).parent.parent / folder


def read_bytes(path: Path) -> bytes:
    """The content of a plain file; a pipe or a device, that may never end, is not read.

    Raises:
        InputError: it is no plain file, or cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is no file but a folder, a pipe or a device")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def is_utf8(name: str) -> bool:
    """Whether a name of a file is text; on Linux it may be any bytes, and Python keeps those."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that at every moment it is the old one, the new one, or not there.

    Raises:
        InputError: it cannot be written there: the disk is full, for one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def all_or_none(folder: Path, manifest: str) -> Iterator[Path]:
    """A temporary folder beside `folder`; on exit its files move to `folder`, unless an error is
    raised.

    Files that an older `manifest` in `folder` lists, as each "file" under "files", are removed
    unless the new one lists them too.

    Raises:
        InputError: `folder` cannot be written to.
    """
    folder = Path(os.path.abspath(folder))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: is a file, not a folder to export to")
        place = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to: {error.strerror}") from error
    try:
        yield place
        gone = _listed(folder / manifest) - _listed(place / manifest)
        folder.mkdir(exist_ok=True)
        new = sorted(path.name for path in place.iterdir())
        for file in new:
            os.replace(place / file, folder / file)
        for file in gone - set(new):
            (folder / file).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to: {error.strerror or error}") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def seal(content: bytes) -> bytes:
    """The content with its hash in place of SEAL_MARK, so that damage shows before it is used.

    The mark is anywhere in a file where its format allows text: ``ghostnas-sha256:`` and 64 hex
    digits, the hash of the file with zeros in their place. It is not a signature: anyone who
    changes a file on purpose can seal it again.

    Raises:
        ValueError: SEAL_MARK is missing or occurs more than once. A bug in the caller.
    """
    if (count := content.count(SEAL_MARK.encode())) != 1:
        raise ValueError(f"a file needs the mark once, not {count} times")
    return content.replace(SEAL_MARK.encode(), SEAL_NAME + _digest(content))


def check_seal(content: bytes, where: str) -> None:
    """Accept a sealed file that is unchanged, and one that was never sealed.

    Raises:
        InputError: the content is not what was sealed; `where` names it.
    """
    for found in _MARKS.finditer(content):
        start, end = found.span(1)
        if _digest(content[:start] + b"0" * DIGITS + content[end:]) == found[1]:
            return
        raise InputError(f"{where}: is damaged: not what was written; copy or export it again")


def toml_value(value: object) -> str:
    """A string, number, truth value or list of such as TOML writes it."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, str | bool):
        # TOML's basic strings have JSON's escapes, and allow no DEL as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the lock goes with it, however it ends.

    Raises:
        InputError: another process holds the folder.
    """
    with open(folder / ".lock", "w") as file:
        _lock(file, f"{folder}: another process is at work there")
        yield


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Hold a file, and what is kept beside it, for this process; it need not be there yet.

    The lock is a file beside it, which goes with the process and is removed at the end.

    Raises:
        InputError: another process holds the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    refusal = f"{path}: another process is at work on it; wait for it, or name another file"
    with open(lock, "w") as file:
        _lock(file, refusal)
        # Whoever held it may have removed the file between our opening and locking it.
        if not lock.exists() or not os.path.samestat(lock.stat(), os.fstat(file.fileno())):
            raise InputError(refusal)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _lock(file: IO[str], refusal: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(refusal) from error


def _listed(manifest: Path) -> set[str]:
    """The model files that a manifest lists."""
    try:
        rows = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        return {Path(row["file"]).name for row in rows} - {""}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
