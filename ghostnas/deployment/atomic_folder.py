"""A folder whose files appear all together or not at all; knows nothing of their contents."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ghostnas.errors import InputError


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


def _listed(manifest: Path) -> set[str]:
    """The model files that a manifest lists."""
    try:
        rows = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        return {Path(row["file"]).name for row in rows} - {""}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
