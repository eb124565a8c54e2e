"""Files: those that ship with the project, and writing one whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def shipped(folder: str) -> Path:
    """A folder of data files that ships: inside the installed package, or in a checkout's root."""
    inside = Path(__file__).parent / folder
    return inside if inside.is_dir() else Path(__file__).parent.parent / folder


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that at every moment it is the old one, the new one, or not there."""
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
