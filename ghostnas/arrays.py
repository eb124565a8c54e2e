"""The common type of an array of numbers; shape and dtype are documented where it is used."""

from typing import Any, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
