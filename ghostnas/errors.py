"""The errors a user can cause or meet, each with a one-line message; any other is a bug."""

from collections.abc import Iterable
from difflib import get_close_matches

MOST_SUGGESTED = 3


class GhostnasError(Exception):
    """Base class: one line that says what is wrong and how to fix it."""


class InputError(GhostnasError):
    """A file, a name or a number that the user gave cannot be used."""


class BudgetError(GhostnasError):
    """No architecture of the space meets the budget."""


class MissingOpError(GhostnasError):
    """A latency table has nothing to predict an op from."""


class ExportError(GhostnasError):
    """An exported model does not agree with its network."""


class TrainingError(GhostnasError):
    """A training cannot continue: for example, its loss is not a number."""


class DeviceError(GhostnasError):
    """A device refused, or a command on it failed; retrying would fail the same way."""


class DeviceLostError(DeviceError):
    """A device cannot be reached, and did not come back during the retries."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion to append to an unknown-name error: the known names that start with `name`, else
    those spelt similarly; empty if there are none.
    """
    names = {each.lower(): each for each in known}
    asked = name.strip().lower()
    begun = [each for each in names if asked and each.startswith(asked)]
    likely = begun or get_close_matches(asked, names, MOST_SUGGESTED)
    meant = [names[each] for each in likely[:MOST_SUGGESTED]]
    return f"; did you mean {' or '.join(meant)}?" if meant else ""


def short(text: object) -> str:
    """A key, value or message shortened for a one-line error; a damaged file may hold anything."""
    line = ascii(str(text))[1:-1]
    return line if len(line) <= 80 else f"{line[:80]}..."
