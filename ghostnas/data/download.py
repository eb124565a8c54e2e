"""Fetches the archives of public datasets, checks them and unpacks them; reads no images."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import ssl
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ghostnas.data.cifar import CIFAR10_FOLDER, CIFAR100_FOLDER
from ghostnas.errors import InputError
from ghostnas.files import locked
from ghostnas.progress import Say

TIMEOUT_S = 30
CHUNK_BYTES = 1 << 18
CONNECTIONS = 10  # to one file, while each brings something
LINES = 10  # of progress
MEGABYTE = 1_000_000
BROKEN = (TimeoutError, ConnectionError, ssl.SSLError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A .tar.gz: where it is, what it hashes to, and the folder that it makes."""

    url: str
    md5: str
    makes: str


ARCHIVES = {
    "cifar10": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        makes=CIFAR10_FOLDER,
    ),
    "cifar100": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        makes=CIFAR100_FOLDER,
    ),
}


def get(name: str, folder: Path, say: Say, url: str | None = None) -> Path:
    """Fetch a dataset, and return the folder inside `folder` that holds it, whole or not at all.

    A download that broke off, in a ``.part`` file, resumes. `url` is another place where the same
    archive is.

    Raises:
        InputError: the name is unknown, there is no network, the server refuses, the archive is
            not the right one, or `folder` cannot be written to.
    """
    if name not in ARCHIVES:
        raise InputError(f"unknown data {name!r}; can be fetched: {', '.join(ARCHIVES)}")
    archive = ARCHIVES[name]
    url = url or archive.url
    target = folder / archive.makes
    if target.is_dir():
        say(f"{target} already exists")
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            part = folder / f"{url.rsplit('/', 1)[-1]}.part"
            _fetch(url, part, say)
            _verify(part, archive.md5)
            _unpack(part, target)
            part.unlink()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error}") from error
    say(f"{target} is complete")
    return target


def _fetch(url: str, part: Path, say: Say) -> None:
    """Complete the file, over as many connections as it takes while each brings something."""
    for _ in range(CONNECTIONS):
        before = _bytes_of(part)
        total = _continue(url, part, say)
        now = _bytes_of(part)
        if total is None or now == total:
            return
        if now <= before:
            break
        say(f"the connection ended after {now} of {total} bytes; resuming")
    raise InputError(f"{url}: ended after {now} of {total} bytes; run the command again to resume")


def _continue(url: str, part: Path, say: Say) -> int | None:
    """Append what one connection brings; return the whole file's size, None if unknown."""
    have = _bytes_of(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            begins, total = _extent(answer)
            if begins not in (0, have):
                raise InputError(f"{url}: sent bytes from {begins} on, not from {have}")
            with open(part, "ab" if begins else "wb") as file:
                _copy(answer, file.write, part, begins, total, say)
            return total
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return have  # there is no more; the checksum tells whether it is correct
        raise InputError(f"{url}: the server refused: {error.code} {error.reason}") from error
    except (urllib.error.URLError, *BROKEN) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"{url}: cannot be reached ({reason}); is there a network?") from error
    except (http.client.HTTPException, ValueError) as error:
        raise InputError(f"{url}: invalid response: {error!r}") from error


def _copy(
    answer: http.client.HTTPResponse,
    write: Callable[[bytes], int],
    part: Path,
    have: int,
    total: int | None,
    say: Say,
) -> None:
    """Until the response ends; a broken connection counts as its end."""
    said = LINES * have // total if total else 0
    while True:
        try:
            chunk = answer.read(CHUNK_BYTES)
        except (*BROKEN, http.client.IncompleteRead):
            return
        if not chunk:
            return
        write(chunk)
        have += len(chunk)
        if total and LINES * have // total > said:
            said = LINES * have // total
            say(f"{part.stem}: {have / MEGABYTE:.0f} of {total / MEGABYTE:.0f} MB")


def _extent(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """The position of the first byte sent, and the size of the whole file."""
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
        told = answer.headers.get("Content-Range", "").removeprefix("bytes ")
        place, _, total = told.partition("/")
        return int(place.split("-")[0]), int(total) if total != "*" else None
    length = answer.headers["Content-Length"]
    return 0, int(length) if length else None


def _bytes_of(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _verify(part: Path, expected: str) -> None:
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != expected:
        part.unlink()
        raise InputError(f"{part.stem}: has MD5 {found}, not {expected}; deleted, fetch it again")


def _unpack(part: Path, target: Path) -> None:
    """The folder `target` of the archive; it appears once it is complete."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacking-") as place:
        try:
            with tarfile.open(part, "r:gz") as archive:
                archive.extractall(place, filter="data")
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise InputError(f"{part.stem}: cannot be unpacked: {error}") from error
        made = Path(place, target.name)
        if not made.is_dir():
            raise InputError(f"{part.stem}: holds no folder {target.name}")
        shutil.move(made, target)
