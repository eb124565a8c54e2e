"""How a long task says how far it is: a function that is given lines for people."""

from collections.abc import Callable
from typing import TypeAlias

Say: TypeAlias = Callable[[str], None]


def silent(line: str) -> None:
    """Says nothing."""
