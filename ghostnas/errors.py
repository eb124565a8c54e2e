"""The errors a user can cause or meet, each told in one line; any other is a defect."""

from collections.abc import Iterable
from difflib import get_close_matches

MOST_SUGGESTED = 3


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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What to add to the line that refuses an unknown name: the known ones that it begins, else
    those that are spelt nearly so; empty if none are.
    """
    names = {each.lower(): each for each in known}
    asked = name.strip().lower()
    begun = [each for each in names if asked and each.startswith(asked)]
    likely = begun or get_close_matches(asked, names, MOST_SUGGESTED)
    meant = [names[each] for each in likely[:MOST_SUGGESTED]]
    return f"; did you mean {' or '.join(meant)}?" if meant else ""


def short(text: object) -> str:
    """A key, a value or a message for an error's one line; in a damaged file it may be anything."""
    line = ascii(str(text))[1:-1]
    return line if len(line) <= 80 else f"{line[:80]}..."
