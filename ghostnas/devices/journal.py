"""What has been measured so far, one line of JSON each, so that a kill loses nothing.

A line is on the disk before the next is measured. One that a crash cut short is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ghostnas.errors import InputError


class Journal:
    """An append-only file whose first line says what it is a journal of.

    Raises:
        InputError: the file is a journal of something else; the difference is named.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        lines = list(_whole_lines(path))
        if lines:
            self._check(lines[0], about)
            self.entries = lines[1:]
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            self._write([about])
        self._cut_torn_line()

    def append(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Add lines; when this returns they are on the disk."""
        self._write(entries)
        self.entries += [dict(entry) for entry in entries]

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _write(self, entries: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        with open(self.path, "r+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            left = memoryview(text.encode())
            try:
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError as error:  # a full disk: what is half written must not stay
                file.truncate(end)
                raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _cut_torn_line(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)

    def _check(self, found: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        for key in (*about, *found):
            if found.get(key) != about.get(key):
                raise InputError(
                    f"{self.path} was begun with {key} {found.get(key)!r}, not "
                    f"{about.get(key)!r}; continue with that, or delete the file to start over"
                )


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for at, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            return
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{at}: is not a line of a journal: {error}") from error
        if not isinstance(entry, dict):
            raise InputError(f"{path}:{at}: is not a line of a journal")
        yield entry
