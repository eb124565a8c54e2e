"""The errors a user can cause or meet, each told in one line; any other is a defect."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GhostnasError(Exception):
    """Base of all: one line that says what is wrong and what would be right."""


class InputError(GhostnasError):
    """A file, a name or a number that the user gave cannot be used."""


class BudgetError(GhostnasError):
    """No architecture of the space meets the budget."""


class MissingOpError(GhostnasError):
    """A latency table has nothing that an op could be predicted from."""


class ExportError(GhostnasError):
    """A written model does not agree with the network it was written from."""


class TrainingError(GhostnasError):
    """A training cannot go on: its loss is no number any more."""


class DeviceError(GhostnasError):
    """A device refused, or a command on it failed: the same again would fail the same way."""


class DeviceLostError(DeviceError):
    """A device cannot be reached now, and did not come back while it was tried again."""


def short(text: object) -> str:
    """A key, a value or a message for an error's one line; in a damaged file it may be anything."""
    line = ascii(str(text))[1:-1]
    return line if len(line) <= 80 else f"{line[:80]}..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean X or Y?`` of names that are alike or begin alike; empty if none is."""
    names = list(known)
    begin = [each for each in names if name and each.startswith(name)]
    alike = difflib.get_close_matches(name, names, n=3)
    found = list(dict.fromkeys([*begin, *alike]))[:3]
    return f"; did you mean {' or '.join(found)}?" if found else ""
