"""What all modules call an array of numbers; its shape and dtype stand where it is used."""

from typing import Any, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
