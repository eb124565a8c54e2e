"""A hash that a file carries of itself, so that damage shows before a runtime reads the file.

The mark is anywhere in the file where its format allows text: ``ghostnas-sha256:`` and 64 hex
digits, the hash of the file with zeros in their place. It is not a signature: anyone who changes a
file on purpose can seal it again.
"""

from __future__ import annotations

import hashlib
import re

from ghostnas.errors import InputError

DIGITS = 64
NAME = b"ghostnas-sha256:"
MARK = (NAME + b"0" * DIGITS).decode()  # what a writer puts into a file to be sealed
_MARKS = re.compile(re.escape(NAME) + b"([0-9a-f]{%d})" % DIGITS)


def seal(content: bytes) -> bytes:
    """The content with its hash in place of MARK.

    Raises:
        ValueError: MARK is missing or occurs more than once. A bug in the caller.
    """
    if content.count(MARK.encode()) != 1:
        raise ValueError(f"a file needs the mark once, not {content.count(MARK.encode())} times")
    return content.replace(MARK.encode(), NAME + _digest(content))


def check(content: bytes, where: str) -> None:
    """Accept a sealed file that is unchanged, and one that was never sealed.

    Raises:
        InputError: the content is not what was sealed; `where` names it.
    """
    for found in _MARKS.finditer(content):
        start, end = found.span(1)
        if _digest(content[:start] + b"0" * DIGITS + content[end:]) == found[1]:
            return
        raise InputError(f"{where}: is damaged: not what was written; copy or export it again")


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
